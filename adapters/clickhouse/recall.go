package clickhouse

import (
	"context"
	"fmt"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

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
       declared, labelled, node, restarts, recorded_at
FROM inventory_instances FINAL
WHERE tenant = {tenant:String} AND %s`

// Two conditions in one statement would have it look at everything.
const selectRecalled = `
SELECT *
FROM (%s UNION ALL %s)
ORDER BY cluster, least(observed_at, recorded_at), observed_at, source, service, instance_id`

// RecallInventories calls fn with every inventory observed since an instant and, of
// each cluster, with the one that held then: cluster after cluster, the oldest
// first, by arrival where a source's clock was ahead.
func (s *Store) RecallInventories(ctx context.Context, tenant fleet.TenantID, since time.Time, fn func(fleet.Inventory)) error {
	stood := fmt.Sprintf(selectInstances, "(cluster, observed_at, source) IN ("+newestAt("inventory_instances", "")+")")
	later := fmt.Sprintf(selectInstances, "observed_at > {at:DateTime64(3, 'UTC')} AND recorded_at > {at:DateTime64(3, 'UTC')}")
	return s.readInventories(ctx, fmt.Sprintf(selectRecalled, stood, later), []any{ch.Named("tenant", string(tenant)), at("at", since)}, fn)
}

// InventoriesAt returns the inventory that held at an instant of each cluster, of
// all when none is named, however long before it was observed; none for a cluster
// that had not been seen.
func (s *Store) InventoriesAt(ctx context.Context, tenant fleet.TenantID, instant time.Time, clusters []fleet.ClusterID) ([]fleet.Inventory, error) {
	var out []fleet.Inventory
	among, args := only(clusters)
	stood := fmt.Sprintf(selectInstances, "(cluster, observed_at, source) IN ("+newestAt("inventory_instances", among)+")")
	err := s.readInventories(ctx, stood+"\nORDER BY cluster, service, instance_id", append(args, ch.Named("tenant", string(tenant)), at("at", instant)),
		func(inventory fleet.Inventory) { out = append(out, inventory) })
	return out, err
}

// readInventories puts the rows of one inventory after another together.
func (s *Store) readInventories(ctx context.Context, query string, args []any, fn func(fleet.Inventory)) error {
	var (
		last   *fleet.Inventory
		source string
	)
	err := s.read(ctx, "inventories", query, args, func(rows driver.Rows) error {
		var (
			observed, recorded                   time.Time
			in                                   fleet.Instance
			cluster, from, id, component, health string
		)
		if err := rows.Scan(&cluster, &observed, &from, &id, &component, &in.Service, &in.Image, &in.Tag, &in.Digest, &in.ImageID, &in.Version, &health,
			&in.StartedAt, &in.Declared, &in.Labelled, &in.Node, &in.Restarts, &recorded); err != nil {
			return err
		}
		if last == nil || last.Cluster != fleet.ClusterID(cluster) || !last.ObservedAt.Equal(observed) || source != from {
			if last != nil {
				fn(*last)
			}
			last, source = &fleet.Inventory{Cluster: fleet.ClusterID(cluster), ObservedAt: observed.UTC()}, from
		}
		if id != "" {
			in.ID, in.Component, in.Health, in.StartedAt = fleet.InstanceID(id), fleet.Component(component), fleet.Health(health), unstamp(in.StartedAt)
			last.Instances = append(last.Instances, in)
		}
		return nil
	})
	if err == nil && last != nil {
		fn(*last)
	}
	return err
}

const selectRegistrations = `
SELECT cluster, observed_at, last_report, bastion_ids, bastion_versions, gateway_names, gateway_statuses
FROM registrations FINAL
WHERE tenant = {tenant:String} AND (cluster, observed_at, source) IN (%s)
ORDER BY cluster`

// Registrations returns the newest registration of each cluster.
func (s *Store) Registrations(ctx context.Context, tenant fleet.TenantID) ([]fleet.Registration, error) {
	var out []fleet.Registration
	err := s.read(ctx, "the registrations", fmt.Sprintf(selectRegistrations, newest("registrations")), []any{ch.Named("tenant", string(tenant))}, func(rows driver.Rows) error {
		var (
			r                              fleet.Registration
			cluster                        string
			ids, versions, names, statuses []string
		)
		if err := rows.Scan(&cluster, &r.ObservedAt, &r.LastReport, &ids, &versions, &names, &statuses); err != nil {
			return err
		}
		r.Cluster, r.ObservedAt, r.LastReport = fleet.ClusterID(cluster), r.ObservedAt.UTC(), unstamp(r.LastReport)
		for i, id := range ids {
			r.Bastions = append(r.Bastions, fleet.Bastion{ID: fleet.InstanceID(id), Version: versions[i]})
		}
		for i, name := range names {
			r.Gateways = append(r.Gateways, fleet.RegisteredGateway{Name: name, Status: statuses[i]})
		}
		out = append(out, r)
		return nil
	})
	return out, err
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
