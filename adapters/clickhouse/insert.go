package clickhouse

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// table is where rows of one kind go, its columns in the order of the insert. An
// insert names its columns, so a table may have more of them: newer code added
// those, with a default.
type table[R any] struct {
	name    string
	columns []column[R]
}

// column is one column of an insert: its name, the ClickHouse type its values are
// sent as, and how they are taken from the rows.
//
// The server casts what arrives to the table's own type. A LowCardinality(String)
// is sent as a String, because its dictionary is cheaper to make there.
type column[R any] struct {
	name string
	kind string
	// encode appends the values in the Native format.
	encode func(block []byte, rows []R) []byte
	// values are the values as a slice, for the native protocol.
	values func(rows []R) any
}

func text[R any](name string, of func(R) string) column[R] {
	return plain(name, "String", of, appendString)
}

func flag[R any](name string, of func(R) bool) column[R] {
	return plain(name, "Bool", of, func(block []byte, v bool) []byte {
		if v {
			return append(block, 1)
		}
		return append(block, 0)
	})
}

func tiny[R any](name string, of func(R) uint8) column[R] {
	return plain(name, "UInt8", of, func(block []byte, v uint8) []byte { return append(block, v) })
}

func short[R any](name string, of func(R) uint32) column[R] {
	return plain(name, "UInt32", of, binary.LittleEndian.AppendUint32)
}

func signed[R any](name string, of func(R) int64) column[R] {
	return plain(name, "Int64", of, func(block []byte, v int64) []byte { return binary.LittleEndian.AppendUint64(block, uint64(v)) })
}

func trit[R any](name string, of func(R) int8) column[R] {
	return plain(name, "Int8", of, func(block []byte, v int8) []byte { return append(block, byte(v)) })
}

func long[R any](name string, of func(R) uint64) column[R] {
	return plain(name, "UInt64", of, binary.LittleEndian.AppendUint64)
}

// millis are times cut to whole milliseconds; the zero time becomes the epoch.
func millis[R any](name string, of func(R) time.Time) column[R] {
	return plain(name, "DateTime64(3, 'UTC')", func(r R) time.Time { return stamp(of(r)) }, func(block []byte, v time.Time) []byte {
		return binary.LittleEndian.AppendUint64(block, uint64(v.UnixMilli()))
	})
}

// nanos are times to the nanosecond; the zero time becomes the epoch.
func nanos[R any](name string, of func(R) time.Time) column[R] {
	return plain(name, "DateTime64(9, 'UTC')", func(r R) time.Time { return stamp(of(r)) }, func(block []byte, v time.Time) []byte {
		return binary.LittleEndian.AppendUint64(block, uint64(v.UnixNano()))
	})
}

func texts[R any](name string, of func(R) []string) column[R] {
	return list(name, "Array(String)", of, appendString)
}

func floats[R any](name string, of func(R) []float64) column[R] {
	return list(name, "Array(Float64)", of, func(block []byte, v float64) []byte {
		return binary.LittleEndian.AppendUint64(block, math.Float64bits(v))
	})
}

// list is a column of lists: the Native format has where each ends before what
// they hold.
func list[R, T any](name, kind string, of func(R) []T, put func([]byte, T) []byte) column[R] {
	c := plain(name, kind, of, func(block []byte, v []T) []byte {
		for _, item := range v {
			block = put(block, item)
		}
		return block
	})
	items := c.encode
	c.encode = func(block []byte, rows []R) []byte {
		end := uint64(0)
		for _, r := range rows {
			end += uint64(len(of(r)))
			block = binary.LittleEndian.AppendUint64(block, end)
		}
		return items(block, rows)
	}
	return c
}

// plain is a column whose values follow one another.
func plain[R, T any](name, kind string, of func(R) T, put func([]byte, T) []byte) column[R] {
	return column[R]{
		name: name, kind: kind,
		encode: func(block []byte, rows []R) []byte {
			for _, r := range rows {
				block = put(block, of(r))
			}
			return block
		},
		values: func(rows []R) any {
			out := make([]T, len(rows))
			for i, r := range rows {
				out[i] = of(r)
			}
			return out
		},
	}
}

func appendString(block []byte, s string) []byte {
	return append(binary.AppendUvarint(block, uint64(len(s))), s...)
}

// statement is the insert without its rows.
func (t table[R]) statement() string {
	names := make([]string, len(t.columns))
	for i, c := range t.columns {
		names[i] = c.name
	}
	return "INSERT INTO " + t.name + " (" + strings.Join(names, ", ") + ")"
}

// together is how many rows are encoded at a time. What is known of so many stays
// near the processor while column after column is taken from it.
const together = 8192

// native is the rows in the Native format: blocks, each the counts of its columns
// and rows, and for each column its name, its type and its values.
func (t table[R]) native(rows []R) []byte {
	// More than most rows take; what is too little grows.
	out := make([]byte, 0, 1<<10+256*len(rows))
	for part := range slices.Chunk(rows, together) {
		out = binary.AppendUvarint(out, uint64(len(t.columns)))
		out = binary.AppendUvarint(out, uint64(len(part)))
		for _, c := range t.columns {
			out = c.encode(appendString(appendString(out, c.name), c.kind), part)
		}
	}
	return out
}

// insert stores rows at once and returns once they are on disk.
func insert[R any](ctx context.Context, s *Store, t table[R], rows []R) error {
	if len(rows) == 0 {
		return nil
	}
	// Over HTTP the rows are encoded here, column after column: the client's own
	// way is three times the work, and asks for the columns' types before.
	if s.http {
		err := s.conn.InsertFormat(ctx, "Native", t.statement(), bytes.NewReader(t.native(rows)))
		return s.fault(ctx, "insert into "+t.name, err)
	}
	// No server of the native protocol is among the tests, so this branch is tried
	// over HTTP, where it must do the same.
	batch, err := s.conn.PrepareBatch(ctx, t.statement())
	if err != nil {
		return s.fault(ctx, "prepare an insert into "+t.name, err)
	}
	for i, c := range t.columns {
		if err := batch.Column(i).Append(c.values(rows)); err != nil {
			return errors.Join(fmt.Errorf("encode the column %s of %s: %w", c.name, t.name, err), batch.Abort())
		}
	}
	return s.fault(ctx, "insert into "+t.name, batch.Send())
}

// InsertRecords stores observations, one insert a table, and returns once they
// are on disk.
//
// It tries once. After an error any part of the records may be stored, or none:
// the caller tries again with the same records until they are acknowledged, as a
// message that is delivered again does. What is stored twice collapses on reading,
// so every acknowledged record is read once and none twice.
func (s *Store) InsertRecords(ctx context.Context, records []codec.Record) error {
	var (
		instances                             []instance
		units                                 []unit
		registered, sessions, marked, checked []*codec.Record
	)
	for i := range records {
		r := &records[i]
		switch {
		case r.Inventory != nil:
			instances = append(instances, instancesOf(r)...)
		case r.Registration != nil:
			registered = append(registered, r)
		case r.Session != nil:
			sessions = append(sessions, r)
		case r.Mark != nil:
			marked = append(marked, r)
		case r.Package != nil:
			units = append(units, unitsOf(r)...)
		case r.Check != nil:
			checked = append(checked, r)
		}
	}
	failed := make([]error, 6)
	var inserts sync.WaitGroup
	inserts.Go(func() { failed[0] = insert(ctx, s, inventoryInstances(), instances) })
	inserts.Go(func() { failed[1] = insert(ctx, s, registrations(), registered) })
	inserts.Go(func() { failed[2] = insert(ctx, s, sessionEvents(), sessions) })
	inserts.Go(func() { failed[3] = insert(ctx, s, packages(), units) })
	inserts.Go(func() { failed[4] = insert(ctx, s, checks(), checked) })
	if len(sessions) == 0 {
		inserts.Go(func() { failed[5] = insert(ctx, s, progressMarks(), marked) })
	}
	inserts.Wait()
	if err := errors.Join(failed...); err != nil || len(sessions) == 0 {
		return err
	}
	// Marks last: a mark on disk promises the sessions before it.
	return insert(ctx, s, progressMarks(), marked)
}

// instance is one row of an inventory.
type instance struct {
	*codec.Record
	fleet.Instance
}

// instancesOf are the rows of an inventory; an empty one has one row that says so.
func instancesOf(r *codec.Record) []instance {
	if len(r.Inventory.Instances) == 0 {
		return []instance{{Record: r}}
	}
	out := make([]instance, len(r.Inventory.Instances))
	for i, in := range r.Inventory.Instances {
		out[i] = instance{r, in}
	}
	return out
}

func inventoryInstances() table[instance] {
	return table[instance]{"inventory_instances", append([]column[instance]{
		text("tenant", func(r instance) string { return string(r.Tenant) }),
		text("cluster", func(r instance) string { return string(r.Inventory.Cluster) }),
		millis("observed_at", func(r instance) time.Time { return r.Inventory.ObservedAt }),
		text("instance_id", func(r instance) string { return string(r.ID) }),
		text("component", func(r instance) string { return string(r.Component) }),
		text("service", func(r instance) string { return r.Service }),
		text("image", func(r instance) string { return r.Image }),
		text("tag", func(r instance) string { return r.Tag }),
		text("digest", func(r instance) string { return r.Digest }),
		text("image_id", func(r instance) string { return r.ImageID }),
		text("running_version", func(r instance) string { return r.Version }),
		text("health", func(r instance) string { return string(r.Health) }),
		millis("started_at", func(r instance) time.Time { return r.StartedAt }),
		text("declared", func(r instance) string { return r.Declared }),
		text("labelled", func(r instance) string { return r.Labelled }),
		text("node", func(r instance) string { return r.Node }),
		short("restarts", func(r instance) uint32 { return r.Restarts }),
	}, origin(func(r instance) *codec.Record { return r.Record })...)}
}

func registrations() table[*codec.Record] {
	return table[*codec.Record]{"registrations", append([]column[*codec.Record]{
		text("tenant", func(r *codec.Record) string { return string(r.Tenant) }),
		text("cluster", func(r *codec.Record) string { return string(r.Registration.Cluster) }),
		millis("observed_at", func(r *codec.Record) time.Time { return r.Registration.ObservedAt }),
		millis("last_report", func(r *codec.Record) time.Time { return r.Registration.LastReport }),
		texts("bastion_ids", func(r *codec.Record) []string {
			return each(r.Registration.Bastions, func(b fleet.Bastion) string { return string(b.ID) })
		}),
		texts("bastion_versions", func(r *codec.Record) []string {
			return each(r.Registration.Bastions, func(b fleet.Bastion) string { return b.Version })
		}),
		texts("gateway_names", func(r *codec.Record) []string {
			return each(r.Registration.Gateways, func(g fleet.RegisteredGateway) string { return g.Name })
		}),
		texts("gateway_statuses", func(r *codec.Record) []string {
			return each(r.Registration.Gateways, func(g fleet.RegisteredGateway) string { return g.Status })
		}),
	}, origin(func(r *codec.Record) *codec.Record { return r })...)}
}

func sessionEvents() table[*codec.Record] {
	return table[*codec.Record]{"session_events", append([]column[*codec.Record]{
		text("tenant", func(r *codec.Record) string { return string(r.Tenant) }),
		text("cluster", func(r *codec.Record) string { return string(r.Session.Cluster) }),
		nanos("start_time", func(r *codec.Record) time.Time { return r.Session.Start }),
		text("session_id", func(r *codec.Record) string { return string(r.Session.ID) }),
		text("status", func(r *codec.Record) string { return string(r.Session.Status) }),
		text("user_name", func(r *codec.Record) string { return r.Session.User }),
		text("target", func(r *codec.Record) string { return r.Session.Target }),
		text("instance_id", func(r *codec.Record) string { return string(r.Session.InstanceID) }),
		nanos("end_time", func(r *codec.Record) time.Time { return r.Session.End }),
		text("error", func(r *codec.Record) string { return r.Session.Error }),
		text("failure", func(r *codec.Record) string { return string(r.Session.Failure) }),
		text("protocol", func(r *codec.Record) string { return r.Session.Protocol }),
		text("target_type", func(r *codec.Record) string { return r.Session.TargetType }),
		flag("probe", func(r *codec.Record) bool { return r.Session.Probe }),
		millis("observed_at", func(r *codec.Record) time.Time { return r.ObservedAt }),
	}, origin(func(r *codec.Record) *codec.Record { return r })...)}
}

func progressMarks() table[*codec.Record] {
	return table[*codec.Record]{"progress_marks", append([]column[*codec.Record]{
		text("tenant", func(r *codec.Record) string { return string(r.Tenant) }),
		text("cluster", func(r *codec.Record) string { return string(r.Mark.Cluster) }),
		millis("observed_at", func(r *codec.Record) time.Time { return r.ObservedAt }),
		nanos("complete_until", func(r *codec.Record) time.Time { return r.Mark.CompleteUntil }),
		flag("blind", func(r *codec.Record) bool { return r.Mark.Blind }),
		text("blind_reason", func(r *codec.Record) string { return r.Mark.BlindReason }),
		flag("lost", func(r *codec.Record) bool { return r.Mark.Lost }),
		text("about", func(r *codec.Record) string { return string(cmp.Or(r.Mark.About, fleet.KindSession)) }),
		signed("clock_skew_ms", func(r *codec.Record) int64 { return r.Mark.Skew.Milliseconds() }),
		short("place", func(r *codec.Record) uint32 { return r.Index }),
	}, origin(func(r *codec.Record) *codec.Record { return r })...)}
}

// unit is one row of a package: a Helm release, a Compose service or the gateway's
// configuration. What the other kinds of units have is empty in it; all is empty
// in the row that stands for an empty package.
type unit struct {
	*codec.Record
	kind, name, namespace, status, hash string
	helm                                fleet.HelmRelease
	compose                             fleet.ComposeService
	access                              fleet.RemoteAccess
	legacy                              int8 // -1 is not said
}

// The kinds of units.
const (
	unitHelm    = "helm"
	unitCompose = "compose"
	unitAccess  = "remote_access"
)

func unitsOf(r *codec.Record) []unit {
	var out []unit
	for _, h := range r.Package.Helm {
		out = append(out, unit{Record: r, kind: unitHelm, name: h.Name, namespace: h.Namespace, status: h.Status, hash: h.ValuesHash, helm: h, legacy: -1})
	}
	for _, c := range r.Package.Compose {
		out = append(out, unit{
			Record: r, kind: unitCompose, name: c.Service, namespace: c.Project, status: string(c.State), hash: c.ConfigHash, compose: c, legacy: -1,
		})
	}
	if a := r.Package.RemoteAccess; a != nil {
		u := unit{Record: r, kind: unitAccess, hash: a.Hash, access: *a, legacy: -1}
		if a.LegacySigning != nil {
			u.legacy = 0
			if *a.LegacySigning {
				u.legacy = 1
			}
		}
		out = append(out, u)
	}
	if len(out) == 0 {
		out = []unit{{Record: r, legacy: -1}}
	}
	return out
}

func packages() table[unit] {
	return table[unit]{"packages", append([]column[unit]{
		text("tenant", func(r unit) string { return string(r.Tenant) }),
		text("cluster", func(r unit) string { return string(r.Package.Cluster) }),
		millis("observed_at", func(r unit) time.Time { return r.Package.ObservedAt }),
		text("unit", func(r unit) string { return r.kind }),
		text("name", func(r unit) string { return r.name }),
		text("namespace", func(r unit) string { return r.namespace }),
		text("chart", func(r unit) string { return r.helm.Chart }),
		text("chart_version", func(r unit) string { return r.helm.ChartVersion }),
		text("app_version", func(r unit) string { return r.helm.AppVersion }),
		short("revision", func(r unit) uint32 { return r.helm.Revision }),
		text("status", func(r unit) string { return r.status }),
		text("hash", func(r unit) string { return r.hash }),
		millis("updated_at", func(r unit) time.Time { return r.helm.UpdatedAt }),
		text("image", func(r unit) string { return r.compose.Image }),
		texts("lines", func(r unit) []string {
			return each(slices.Sorted(maps.Keys(r.helm.Versions)), func(l fleet.Line) string { return string(l) })
		}),
		texts("versions", func(r unit) []string {
			versions := r.helm.Versions
			return each(slices.Sorted(maps.Keys(versions)), func(l fleet.Line) string { return versions[l] })
		}),
		texts("differences", func(r unit) []string { return r.compose.Differences }),
		trit("legacy_signing", func(r unit) int8 { return r.legacy }),
		text("kex_algorithms", func(r unit) string { return r.access.KexAlgorithms }),
		short("session_ttl_seconds", func(r unit) uint32 { return uint32(max(0, r.access.SessionTTL/time.Second)) }),
		text("recording_storage", func(r unit) string { return r.access.RecordingStorage }),
		text("log_forwarding", func(r unit) string { return r.access.LogForwarding }),
	}, origin(func(r unit) *codec.Record { return r.Record })...)}
}

// latest is the last time that ClickHouse's times hold; a certificate may be
// meant to last for ever.
var latest = time.Date(2299, 12, 31, 0, 0, 0, 0, time.UTC)

func checks() table[*codec.Record] {
	return table[*codec.Record]{"checks", append([]column[*codec.Record]{
		text("tenant", func(r *codec.Record) string { return string(r.Tenant) }),
		text("cluster", func(r *codec.Record) string { return string(r.Check.Cluster) }),
		millis("at", func(r *codec.Record) time.Time { return r.Check.At }),
		text("name", func(r *codec.Record) string { return r.Check.Name }),
		text("kind", func(r *codec.Record) string { return string(r.Check.Kind) }),
		text("component", func(r *codec.Record) string { return string(r.Check.Component) }),
		text("target", func(r *codec.Record) string { return r.Check.Target }),
		text("session_id", func(r *codec.Record) string { return string(r.Check.Session) }),
		long("took_us", func(r *codec.Record) uint64 { return uint64(max(0, r.Check.Took.Microseconds())) }),
		flag("ok", func(r *codec.Record) bool { return r.Check.OK }),
		text("failure", func(r *codec.Record) string { return string(r.Check.Failure) }),
		text("detail", func(r *codec.Record) string { return r.Check.Detail }),
		millis("certificate_expires_at", func(r *codec.Record) time.Time {
			if r.Check.CertificateExpires.After(latest) {
				return latest
			}
			return r.Check.CertificateExpires
		}),
		texts("reading_names", func(r *codec.Record) []string { return slices.Sorted(maps.Keys(r.Check.Readings)) }),
		floats("reading_values", func(r *codec.Record) []float64 {
			names := slices.Sorted(maps.Keys(r.Check.Readings))
			out := make([]float64, len(names))
			for i, name := range names {
				out[i] = r.Check.Readings[name]
			}
			return out
		}),
	}, origin(func(r *codec.Record) *codec.Record { return r })...)}
}

// origin is the tail of columns that every observation table shares.
func origin[R any](of func(R) *codec.Record) []column[R] {
	return []column[R]{
		text("source", func(r R) string { return string(of(r).Source) }),
		text("incarnation", func(r R) string { return of(r).Incarnation }),
		tiny("part", func(r R) uint8 { return uint8(of(r).Part) }),
		long("source_sequence", func(r R) uint64 { return of(r).SourceSequence }),
		long("stream_sequence", func(r R) uint64 { return of(r).StreamSequence }),
		short("stream_index", func(r R) uint32 { return of(r).Index }),
		millis("recorded_at", func(r R) time.Time { return of(r).RecordedAt }),
		long("version", func(r R) uint64 { return firstWins(of(r).StreamSequence) }),
	}
}

func each[T any](in []T, of func(T) string) []string {
	out := make([]string, len(in))
	for i, v := range in {
		out[i] = of(v)
	}
	return out
}

// InsertFacts archives event messages. A repeat is as harmless as in
// InsertRecords.
func (s *Store) InsertFacts(ctx context.Context, list []codec.Fact) error {
	return insert(ctx, s, facts(), list)
}

func facts() table[codec.Fact] {
	return table[codec.Fact]{"facts", []column[codec.Fact]{
		text("tenant", func(f codec.Fact) string { return string(f.Tenant) }),
		text("noun", func(f codec.Fact) string { return f.Noun }),
		text("id", func(f codec.Fact) string { return f.ID }),
		long("stream_sequence", func(f codec.Fact) uint64 { return f.StreamSequence }),
		text("type", func(f codec.Fact) string { return f.Type }),
		millis("recorded_at", func(f codec.Fact) time.Time { return f.RecordedAt }),
		text("json", func(f codec.Fact) string { return f.JSON }),
		long("version", func(f codec.Fact) uint64 { return firstWins(f.StreamSequence) }),
	}}
}
