package akeyless

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// ListedGateway is one entry of list-gateways.
type ListedGateway struct {
	ClusterName string // the same name that sessions and bastions carry
	DisplayName string // for people
	Status      string // in the vendor's words, such as "Running"
	Allowed     bool   // whether these credentials may administer it
}

// ListGateways returns every gateway of the account, in the server's order. An
// object that names no cluster is an error, as with ListBastions.
func (c *Client) ListGateways(ctx context.Context) ([]ListedGateway, error) {
	var gateways []ListedGateway
	_, err := c.ask(ctx, query{call: "list-gateways"}, func(r io.Reader) error {
		body, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		gateways, err = decodeGateways(body)
		return err
	})
	return gateways, err
}

func decodeGateways(body []byte) ([]ListedGateway, error) {
	var reply struct {
		Clusters list `json:"clusters"`
	}
	if err := parse(body, &reply); err != nil {
		return nil, err
	}
	gateways := make([]ListedGateway, 0, len(reply.Clusters))
	for i, raw := range reply.Clusters {
		var wire struct {
			Name        text            `json:"cluster_name"`
			DisplayName text            `json:"display_name"`
			Status      text            `json:"status"`
			Allowed     json.RawMessage `json:"allowed"`
		}
		if err := json.Unmarshal(raw, &wire); err != nil {
			return nil, fmt.Errorf("clusters[%d]: %w", i, err)
		}
		if wire.Name.id() == "" {
			return nil, fmt.Errorf("clusters[%d] has no usable cluster_name", i)
		}
		allowed := truth(wire.Allowed)
		gateways = append(gateways, ListedGateway{
			ClusterName: wire.Name.id(), DisplayName: wire.DisplayName.name(),
			Status: wire.Status.name(), Allowed: allowed != nil && *allowed,
		})
	}
	return gateways, nil
}

// Registrations returns what the control plane reports of the given clusters,
// vendor names with ours: bastions and gateways together, in the server's order,
// and then, with no bastions, the clusters that it does not list: that they are
// gone is an observation too. Where the role may not list gateways, there are
// none: bastions are worth having without.
func (c *Client) Registrations(ctx context.Context, clusters map[string]fleet.ClusterID) ([]fleet.Registration, error) {
	bastions, err := c.ListBastions(ctx)
	if err != nil {
		return nil, err
	}
	observedAt := c.now()
	gateways, err := c.ListGateways(ctx)
	if err != nil && !refused(err) {
		return nil, err
	}
	byCluster := make(map[string][]fleet.RegisteredGateway)
	for _, g := range gateways {
		byCluster[g.ClusterName] = append(byCluster[g.ClusterName], fleet.RegisteredGateway{Name: g.ClusterName, Status: g.Status})
	}
	var registrations []fleet.Registration
	listed := make(map[fleet.ClusterID]bool)
	for _, b := range bastions {
		if id, ours := clusters[b.Name]; ours {
			r := b.Registration(id, observedAt)
			r.Gateways = byCluster[b.Name]
			registrations = append(registrations, r)
			listed[id] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(clusters)) {
		if id := clusters[name]; !listed[id] {
			registrations = append(registrations, fleet.Registration{Cluster: id, ObservedAt: observedAt, Gateways: byCluster[name]})
			listed[id] = true
		}
	}
	return registrations, nil
}

// refused says whether the vendor understood the call and may not answer it. A
// command tells so by its words alone.
func refused(err error) bool {
	var failure *Error
	if !errors.As(err, &failure) {
		return false
	}
	said := strings.ToLower(failure.Detail)
	return failure.Kind == KindAPI && failure.Status >= 400 && failure.Status < 500 ||
		failure.Kind == KindCommand && (strings.Contains(said, "permission") || strings.Contains(said, "403"))
}

// Permissions is what an account's credentials can do, for people to look at
// before anything depends on it.
type Permissions struct {
	// Calls holds every call that is needed, in the order in which they were tried;
	// after a failed authentication nothing else was.
	Calls []CallPermission
	// Unseen lists vendor clusters whose sessions these credentials do not see in
	// full: their role lacks sra-reports-access=all. Empty when the sessions could
	// not be listed at all.
	Unseen []string
	// Unknown lists vendor clusters that neither the list of bastions nor the list
	// of gateways knows; empty when one of these could not be read.
	Unknown []string
	// Skew is how far the vendor's clock is ahead of ours, as Mark.Skew.
	Skew time.Duration
}

// CallPermission is what came of one call; Err is nil when it works.
type CallPermission struct {
	Call string
	Err  error
}

// Lacks names what the role of the credentials must be given, "" when nothing is
// known to be missing.
func (p Permissions) Lacks() string {
	if len(p.Unseen) > 0 {
		return reportsAccess
	}
	for _, call := range p.Calls {
		if call.Call == "list-sra-sessions" && refused(call.Err) {
			return reportsAccess
		}
	}
	return ""
}

// reportsAccess is the rule that shows a role everybody's sessions.
const reportsAccess = "sra-reports-access=all"

// Permissions makes each call once, one page of the longest list, and says which
// of the given vendor clusters these credentials see and know.
func (c *Client) Permissions(ctx context.Context, clusters []string) Permissions {
	var p Permissions
	tried := func(call string, err error) bool {
		p.Calls = append(p.Calls, CallPermission{Call: call, Err: err})
		return err == nil
	}
	if len(c.command) == 0 {
		if _, err := c.tokenOtherThan(ctx, ""); !tried(authCall, err) {
			return p
		}
	}
	known := make(map[string]bool)
	bastions, err := c.ListBastions(ctx)
	complete := tried("list-sra-bastions", err)
	for _, b := range bastions {
		known[b.Name] = true
	}
	gateways, err := c.ListGateways(ctx)
	complete = tried("list-gateways", err) && complete
	for _, g := range gateways {
		known[g.ClusterName] = true
	}
	page, err := c.sessionPage(ctx, SessionQuery{}, "")
	sessions := tried("list-sra-sessions", err)
	seen := make(map[string]bool)
	for _, g := range page.Gateways {
		seen[g.ClusterName] = true
	}
	for _, name := range clusters {
		if sessions && !seen[name] {
			p.Unseen = append(p.Unseen, name)
		}
		if complete && !known[name] {
			p.Unknown = append(p.Unknown, name)
		}
	}
	p.Skew = c.skew()
	return p
}
