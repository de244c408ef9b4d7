package clickhouse

import (
	"context"
	"fmt"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// What stands for a cluster is what it sent last, by arrival where a source's clock
// was ahead. Sources send again what holds every quarter of an hour at most, so it
// is looked for in a recent stretch, and who has sent nothing there is looked for
// everywhere. %[1]s is the table, %[2]s narrows it, %[3]s is where recent begins.
const standing = `
SELECT cluster, newest.2, newest.3
FROM
(
    SELECT cluster, max((least(observed_at, recorded_at), observed_at, source)) AS newest
    FROM %[1]s
    WHERE tenant = {tenant:String}%[2]s AND observed_at >= %[3]s AND recorded_at >= %[3]s
    GROUP BY cluster
    UNION ALL
    SELECT cluster, max((least(observed_at, recorded_at), observed_at, source)) AS newest
    FROM %[1]s
    WHERE tenant = {tenant:String}%[2]s
      AND cluster NOT IN (SELECT cluster FROM %[1]s WHERE tenant = {tenant:String}%[2]s AND observed_at >= %[3]s AND recorded_at >= %[3]s)
    GROUP BY cluster
)`

// newest stands for each cluster. The server's clock says no more than where to
// look first.
func newest(table string) string {
	return fmt.Sprintf(standing, table, "", "now64(3, 'UTC') - INTERVAL 30 MINUTE")
}

// newestAt stood for each cluster at an instant, {at:…}. A source's clock is ahead
// by a day at most.
func newestAt(table, among string) string {
	return fmt.Sprintf(standing, table, among+" AND observed_at <= {at:DateTime64(3, 'UTC')} + INTERVAL 1 DAY AND least(observed_at, recorded_at) <= {at:DateTime64(3, 'UTC')}",
		"{at:DateTime64(3, 'UTC')} - INTERVAL 30 MINUTE")
}

const selectInstances = `
SELECT cluster, observed_at, source, instance_id, component, service, image, tag, digest, image_id, running_version, health, started_at,
       declared, labelled, node, restarts, recorded_at, stream_sequence, stream_index
FROM inventory_instances FINAL
WHERE tenant = {tenant:String} AND %s`

// Two conditions in one statement would have it look at everything.
const selectRecalled = `
SELECT *
FROM (%s UNION ALL %s)
ORDER BY cluster, least(observed_at, recorded_at), observed_at, source`

// byInstance ends an order in which the rows of one inventory follow one another.
const byInstance = ", service, instance_id"

// RecallInventories calls fn with every inventory observed since an instant and, of
// each cluster, with the one that held then: cluster after cluster, the oldest
// first, by arrival where a source's clock was ahead.
func (s *Store) RecallInventories(ctx context.Context, tenant fleet.TenantID, since time.Time, fn func(fleet.Inventory)) error {
	stood := fmt.Sprintf(selectInstances, "(cluster, observed_at, source) IN ("+newestAt("inventory_instances", "")+")")
	later := fmt.Sprintf(selectInstances, "observed_at > {at:DateTime64(3, 'UTC')} AND recorded_at > {at:DateTime64(3, 'UTC')}")
	return s.readInventories(ctx, fmt.Sprintf(selectRecalled, stood, later)+byInstance, []any{ch.Named("tenant", string(tenant)), at("at", since)},
		func(r codec.Record) { fn(*r.Inventory) })
}

// InventoriesAt returns the inventory that held at an instant of each cluster, of
// all when none is named, however long before it was observed; none for a cluster
// that had not been seen.
func (s *Store) InventoriesAt(ctx context.Context, tenant fleet.TenantID, instant time.Time, clusters []fleet.ClusterID) ([]fleet.Inventory, error) {
	var out []fleet.Inventory
	among, args := only(clusters)
	stood := fmt.Sprintf(selectInstances, "(cluster, observed_at, source) IN ("+newestAt("inventory_instances", among)+")")
	err := s.readInventories(ctx, stood+"\nORDER BY cluster, service, instance_id", append(args, ch.Named("tenant", string(tenant)), at("at", instant)),
		func(r codec.Record) { out = append(out, *r.Inventory) })
	return out, err
}

// readInventories puts the rows of one inventory after another together. Its place in
// the stream is that of its first arrival.
func (s *Store) readInventories(ctx context.Context, query string, args []any, fn func(codec.Record)) error {
	var last *codec.Record
	err := s.read(ctx, "inventories", query, args, func(rows driver.Rows) error {
		var (
			r                                      codec.Record
			in                                     fleet.Instance
			cluster, source, id, component, health string
		)
		if err := rows.Scan(&cluster, &r.ObservedAt, &source, &id, &component, &in.Service, &in.Image, &in.Tag, &in.Digest, &in.ImageID, &in.Version, &health,
			&in.StartedAt, &in.Declared, &in.Labelled, &in.Node, &in.Restarts, &r.RecordedAt, &r.StreamSequence, &r.Index); err != nil {
			return err
		}
		r.Source, r.ObservedAt, r.RecordedAt = fleet.SourceID(source), r.ObservedAt.UTC(), r.RecordedAt.UTC()
		switch {
		case last == nil || last.Inventory.Cluster != fleet.ClusterID(cluster) || !last.ObservedAt.Equal(r.ObservedAt) || last.Source != r.Source:
			if last != nil {
				fn(*last)
			}
			r.Inventory = &fleet.Inventory{Cluster: fleet.ClusterID(cluster), ObservedAt: r.ObservedAt}
			last = &r
		case inStream(r, *last) < 0:
			r.Inventory = last.Inventory
			last = &r
		}
		if id != "" {
			in.ID, in.Component, in.Health, in.StartedAt = fleet.InstanceID(id), fleet.Component(component), fleet.Health(health), unstamp(in.StartedAt)
			last.Inventory.Instances = append(last.Inventory.Instances, in)
		}
		return nil
	})
	if err == nil && last != nil {
		fn(*last)
	}
	return err
}

const selectRegistrations = `
SELECT cluster, observed_at, last_report, bastion_ids, bastion_versions, gateway_names, gateway_statuses, source, recorded_at, stream_sequence, stream_index
FROM registrations FINAL
WHERE tenant = {tenant:String} AND %s`

// Registrations returns the newest registration of each cluster.
func (s *Store) Registrations(ctx context.Context, tenant fleet.TenantID) ([]fleet.Registration, error) {
	var out []fleet.Registration
	query := fmt.Sprintf(selectRegistrations, "(cluster, observed_at, source) IN ("+newest("registrations")+")")
	err := s.readRegistrations(ctx, query+"\nORDER BY cluster", []any{ch.Named("tenant", string(tenant))},
		func(r codec.Record) { out = append(out, *r.Registration) })
	return out, err
}

func (s *Store) readRegistrations(ctx context.Context, query string, args []any, fn func(codec.Record)) error {
	return s.read(ctx, "registrations", query, args, func(rows driver.Rows) error {
		var (
			record                         codec.Record
			r                              fleet.Registration
			cluster, source                string
			ids, versions, names, statuses []string
		)
		if err := rows.Scan(&cluster, &r.ObservedAt, &r.LastReport, &ids, &versions, &names, &statuses, &source, &record.RecordedAt, &record.StreamSequence, &record.Index); err != nil {
			return err
		}
		r.Cluster, r.ObservedAt, r.LastReport = fleet.ClusterID(cluster), r.ObservedAt.UTC(), unstamp(r.LastReport)
		for i, id := range ids {
			r.Bastions = append(r.Bastions, fleet.Bastion{ID: fleet.InstanceID(id), Version: versions[i]})
		}
		for i, name := range names {
			r.Gateways = append(r.Gateways, fleet.RegisteredGateway{Name: name, Status: statuses[i]})
		}
		record.Source, record.ObservedAt, record.RecordedAt = fleet.SourceID(source), r.ObservedAt, record.RecordedAt.UTC()
		record.Registration = &r
		fn(record)
		return nil
	})
}

const selectPackages = `
SELECT cluster, observed_at, unit, name, namespace, chart, chart_version, app_version, revision, status, hash, updated_at, image, lines, versions, differences,
       legacy_signing, kex_algorithms, session_ttl_seconds, recording_storage, log_forwarding
FROM packages FINAL
WHERE tenant = {tenant:String} AND (cluster, observed_at, source) IN (%s)
ORDER BY cluster, unit, namespace, name`

// Packages returns the newest package of each cluster, what is in it in order of
// namespace or project and name.
func (s *Store) Packages(ctx context.Context, tenant fleet.TenantID) ([]fleet.Package, error) {
	var out []fleet.Package
	err := s.read(ctx, "the packages", fmt.Sprintf(selectPackages, newest("packages")), []any{ch.Named("tenant", string(tenant))}, func(rows driver.Rows) error {
		var (
			observed                       time.Time
			cluster, kind, name, namespace string
			status, hash, image            string
			h                              fleet.HelmRelease
			lines, versions, differences   []string
			legacy                         int8
			ttl                            uint32
			access                         fleet.RemoteAccess
		)
		if err := rows.Scan(&cluster, &observed, &kind, &name, &namespace, &h.Chart, &h.ChartVersion, &h.AppVersion, &h.Revision, &status, &hash, &h.UpdatedAt, &image,
			&lines, &versions, &differences, &legacy, &access.KexAlgorithms, &ttl, &access.RecordingStorage, &access.LogForwarding); err != nil {
			return err
		}
		if len(out) == 0 || out[len(out)-1].Cluster != fleet.ClusterID(cluster) {
			out = append(out, fleet.Package{Cluster: fleet.ClusterID(cluster), ObservedAt: observed.UTC()})
		}
		p := &out[len(out)-1]
		switch kind {
		case unitHelm:
			h.Name, h.Namespace, h.Status, h.ValuesHash, h.UpdatedAt = name, namespace, status, hash, unstamp(h.UpdatedAt)
			for i, line := range lines {
				if h.Versions == nil {
					h.Versions = make(fleet.VersionSet)
				}
				h.Versions[fleet.Line(line)] = versions[i]
			}
			p.Helm = append(p.Helm, h)
		case unitCompose:
			c := fleet.ComposeService{Project: namespace, Service: name, Image: image, ConfigHash: hash, State: fleet.ComposeState(status)}
			if len(differences) > 0 {
				c.Differences = differences
			}
			p.Compose = append(p.Compose, c)
		case unitAccess:
			access.Hash, access.SessionTTL = hash, time.Duration(ttl)*time.Second
			if legacy >= 0 {
				allowed := legacy == 1
				access.LegacySigning = &allowed
			}
			p.RemoteAccess = &access
		}
		return nil
	})
	return out, err
}
