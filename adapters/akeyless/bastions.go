package akeyless

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// Cluster is what the control plane reports of one vendor cluster.
type Cluster struct {
	Name        string          // cluster_name, the key sessions refer to
	DisplayName string          // for people
	LastReport  time.Time       // UTC; the zero time when never reported or not said
	Bastions    []fleet.Bastion // in id order; Version is empty where the server does not say it
}

// Registration puts c into fleet vocabulary, as seen at the given instant.
func (c Cluster) Registration(id fleet.ClusterID, observedAt time.Time) fleet.Registration {
	return fleet.Registration{Cluster: id, ObservedAt: observedAt, LastReport: c.LastReport, Bastions: slices.Clone(c.Bastions)}
}

// ListBastions returns every cluster the credentials may see, in the server's
// order. Both dialects are read: instance ids as keys of
// allowed_urls_per_instance, and objects under instances or bastions, which
// may carry versions. An object that names no cluster is an error: leaving
// it out would look like a cluster gone dark.
func (c *Client) ListBastions(ctx context.Context) ([]Cluster, error) {
	var clusters []Cluster
	q := query{call: "list-sra-bastions", body: map[string]any{"allowed-urls-only": false}}
	_, err := c.ask(ctx, q, func(r io.Reader) error {
		body, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		clusters, err = decodeBastions(body)
		return err
	})
	return clusters, err
}

func decodeBastions(body []byte) ([]Cluster, error) {
	var reply struct {
		Clusters list `json:"clusters"`
	}
	if err := parse(body, &reply); err != nil {
		return nil, err
	}
	clusters := make([]Cluster, 0, len(reply.Clusters))
	for i, raw := range reply.Clusters {
		var wire struct {
			Name        text            `json:"cluster_name"`
			DisplayName text            `json:"display_name"`
			LastReport  text            `json:"last_report"`
			PerInstance json.RawMessage `json:"allowed_urls_per_instance"`
			Instances   json.RawMessage `json:"instances"`
			Bastions    json.RawMessage `json:"bastions"`
		}
		if err := json.Unmarshal(raw, &wire); err != nil {
			return nil, fmt.Errorf("clusters[%d]: %w", i, err)
		}
		if wire.Name.id() == "" {
			return nil, fmt.Errorf("clusters[%d] has no usable cluster_name", i)
		}
		found := make(map[string]bastion)
		gather(found, wire.PerInstance, false)
		gather(found, wire.Instances, true)
		gather(found, wire.Bastions, true)
		cluster := Cluster{
			Name:        wire.Name.id(),
			DisplayName: clip(string(wire.DisplayName), longestID),
			LastReport:  wire.LastReport.instant(),
		}
		for _, id := range slices.Sorted(maps.Keys(found)) {
			cluster.Bastions = append(cluster.Bastions, fleet.Bastion{ID: fleet.InstanceID(id), Version: found[id].version})
		}
		if cluster.LastReport.IsZero() {
			for _, b := range found {
				if b.lastReport.After(cluster.LastReport) {
					cluster.LastReport = b.lastReport
				}
			}
		}
		clusters = append(clusters, cluster)
	}
	return clusters, nil
}

// bastion is what one object says of one instance.
type bastion struct {
	version    string
	lastReport time.Time
}

// gather adds the instances that raw names: an object by its keys, an array by
// the ids of its objects or by its strings. With objects set, what the
// instances say of themselves is read too. Shapes it does not know add
// nothing, since the schema promises none of them.
func gather(found map[string]bastion, raw json.RawMessage, objects bool) {
	add := func(key string, value json.RawMessage) {
		var wire struct {
			ID             text `json:"id"`
			InstanceID     text `json:"instance_id"`
			Name           text `json:"name"`
			Version        text `json:"version"`
			BastionVersion text `json:"bastion_version"`
			LastReport     text `json:"last_report"`
		}
		id := text(key)
		if objects && json.Unmarshal(value, &wire) == nil {
			id = orDefault(id, orDefault(wire.ID, orDefault(wire.InstanceID, wire.Name)))
		} else if id == "" {
			_ = json.Unmarshal(value, &id) // a bare id; anything else leaves it empty
		}
		if id.id() == "" {
			return
		}
		b := found[id.id()]
		b.version = orDefault(orDefault(wire.Version, wire.BastionVersion).id(), b.version)
		b.lastReport = orDefault(wire.LastReport.instant(), b.lastReport)
		found[id.id()] = b
	}
	var keyed map[string]json.RawMessage
	if json.Unmarshal(raw, &keyed) == nil {
		for key, value := range keyed {
			if key != "" {
				add(key, value)
			}
		}
		return
	}
	var elements list
	if json.Unmarshal(raw, &elements) == nil {
		for _, value := range elements {
			add("", value)
		}
	}
}
