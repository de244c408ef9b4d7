// Package topology names every stream, subject, consumer, bucket and table with
// its owner. Two services never write the same one; a service that needs another
// name adds it here.
package topology

import (
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/bus"
)

// The services that own things.
const (
	Collector = "collector"
	Evaluator = "evaluator"
	Executor  = "executor"
	Notifier  = "notifier"
)

// Stream names.
const (
	StreamObservations = "OBS"
	StreamEvents       = "EVT"
	StreamCommands     = "CMD"
	StreamDeadLetters  = "DLQ"
)

// Bucket names.
const (
	// BucketControl says abort per rollout and cluster; a driver looks there before
	// it applies a step and every second while it does, because stopping is not
	// queued.
	BucketControl = "control"
	// BucketBlobs holds packages by content hash.
	BucketBlobs = "blobs"
)

// Nouns of the event stream, each written by one service.
const (
	NounDrift   = "drift"
	NounGate    = "gate"
	NounCatalog = "catalog"
	NounFleet   = "fleet"
	NounPolicy  = "policy"
	NounRollout = "rollout"
	NounStep    = "step"
)

// The aggregates of nouns that have one alone.
const (
	CatalogReleases = "releases"
	FleetDeclared   = "declared"
)

// NounOwners maps each noun to the one service that appends its facts.
func NounOwners() map[string]string {
	return map[string]string{
		NounDrift: Evaluator, NounGate: Evaluator, NounCatalog: Evaluator, NounFleet: Evaluator, NounPolicy: Evaluator, NounRollout: Executor, NounStep: Executor,
	}
}

// TableOwners maps each table to the one service that writes it.
func TableOwners() map[string]string {
	return map[string]string{
		"inventory_instances": Evaluator,
		"session_events":      Evaluator,
		"progress_marks":      Evaluator,
		"packages":            Evaluator,
		"checks":              Evaluator,
		"registrations":       Evaluator,
		"facts":               Evaluator,
		"drift_periods":       Evaluator,
		"session_hours":       Evaluator,
		"baselines":           Evaluator,
	}
}

// Streams lists every stream.
func Streams() []bus.Stream {
	return []bus.Stream{
		{Name: StreamObservations, Subjects: []string{"lockstep.obs.v1.>"}, MaxAge: 7 * 24 * time.Hour, MaxBytes: 8 << 30, Owner: Collector},
		{Name: StreamEvents, Subjects: []string{"lockstep.evt.v1.>"}, Owner: "the noun's owner"},
		{Name: StreamCommands, Subjects: []string{"lockstep.cmd.v1.>"}, MaxAge: 30 * 24 * time.Hour, Owner: Executor},
		{Name: StreamDeadLetters, Subjects: []string{"lockstep.dlq.v1.>"}, MaxAge: 30 * 24 * time.Hour, Owner: "the consumer's service"},
	}
}

// KeyValues lists every key-value bucket.
func KeyValues() []bus.Bucket {
	return []bus.Bucket{{Name: BucketControl, Owner: Executor}, {Name: bus.Positions, Owner: Evaluator}}
}

// Blobs lists every blob bucket.
func Blobs() []bus.Bucket { return []bus.Bucket{{Name: BucketBlobs, Owner: Executor}} }

// Consumers lists every durable consumer of a tenant's messages.
func Consumers() []bus.Consumer {
	var out []bus.Consumer
	for i := range Partitions {
		out = append(out, EvaluatorObservations(i))
	}
	return append(out, EvaluatorArchive(), EvaluatorRollouts(), ConductorEvents(), DriverCommands(), NotifierEvents("<sink>"))
}

// Partitions is among how many consumers the parts of observations are dealt out,
// so that as many evaluators can work side by side; fixed at install.
const Partitions = 4

// Partition is the partition of a cluster's observations.
func Partition(cluster fleet.ClusterID) int { return int(Part(cluster) % Partitions) }

// EvaluatorObservations feeds the evaluator what collectors saw of the clusters of
// one partition.
func EvaluatorObservations(partition int) bus.Consumer {
	var filters []string
	for part := partition; part < Parts; part += Partitions {
		filters = append(filters, fmt.Sprintf("lockstep.obs.v1.*.*.%d.*", part))
	}
	return consumer(StreamObservations, fmt.Sprintf("evaluator-observations-%d", partition), Evaluator, filters...)
}

// EvaluatorArchive lets the evaluator keep all facts in the store.
func EvaluatorArchive() bus.Consumer {
	return consumer(StreamEvents, "evaluator-archive", Evaluator)
}

// EvaluatorRollouts tells the evaluator of rollouts.
func EvaluatorRollouts() bus.Consumer {
	return consumer(StreamEvents, "evaluator-rollouts", Evaluator, EventFilter(NounRollout))
}

// ConductorEvents brings gate decisions and driver results to the conductor.
func ConductorEvents() bus.Consumer {
	return consumer(StreamEvents, "conductor-events", Executor,
		EventFilter(NounGate), EventFilter(NounStep))
}

// DriverCommands is the driver pool's queue.
func DriverCommands() bus.Consumer {
	return consumer(StreamCommands, "driver-commands", Executor)
}

// NotifierEvents is one sink's position; sinks do not wait for one another.
func NotifierEvents(sink string) bus.Consumer {
	return consumer(StreamEvents, "notifier-"+sink, Notifier,
		EventFilter(NounDrift), EventFilter(NounGate), EventFilter(NounRollout))
}

// ackWait is how long the message in the hands of a process that died waits for
// the next one. A handler that lives may take as long as it needs.
const ackWait = 5 * time.Second

func consumer(stream, durable, owner string, filters ...string) bus.Consumer {
	return bus.Consumer{
		Stream: stream, Durable: durable, Filters: filters, AckWait: ackWait,
		DeadLetter: "lockstep.dlq.v1." + string(fleet.DefaultTenant) + "." + durable,
		Owner:      owner,
	}
}

// Parts is into how many parts observations are split; fixed at install.
const Parts = 64

// Part returns the part of a cluster: fnv32a(cluster) mod Parts.
func Part(cluster fleet.ClusterID) uint32 {
	h := fnv.New32a()
	h.Write([]byte(cluster))
	return h.Sum32() % Parts
}

// ObservationSubject is where a source publishes a batch of one part.
func ObservationSubject(tenant fleet.TenantID, source fleet.SourceID, part uint32, kind fleet.Kind) string {
	return fmt.Sprintf("lockstep.obs.v1.%s.%s.%d.%s", tenant, source, part, kind)
}

// ObservationFilters match the batches of a tenant that come from some sources, of
// some kinds and may speak of some clusters; none means all of them. None of the
// filters matches what another does.
func ObservationFilters(tenant fleet.TenantID, sources []fleet.SourceID, clusters []fleet.ClusterID, kinds []fleet.Kind) []string {
	parts := make(map[string]bool)
	for _, cluster := range clusters {
		parts[strconv.Itoa(int(Part(cluster)))] = true
	}
	// Asked for most parts, a server is faster asked for all.
	if len(parts) == 0 || len(parts) > Parts/4 {
		parts = map[string]bool{"*": true}
	}
	if len(sources) == 0 {
		sources = []fleet.SourceID{"*"}
	}
	if len(kinds) == 0 {
		kinds = []fleet.Kind{"*"}
	}
	var out []string
	for _, source := range sources {
		for _, part := range slices.Sorted(maps.Keys(parts)) {
			for _, kind := range kinds {
				out = append(out, fmt.Sprintf("lockstep.obs.v1.%s.%s.%s.%s", tenant, source, part, kind))
			}
		}
	}
	return out
}

// EventSubject is the literal subject of one aggregate's facts.
func EventSubject(tenant fleet.TenantID, noun string, id ...string) string {
	return fmt.Sprintf("lockstep.evt.v1.%s.%s.%s", tenant, noun, strings.Join(id, "."))
}

// EventFilter matches every aggregate of a noun, of every tenant.
func EventFilter(noun string) string { return "lockstep.evt.v1.*." + noun + ".>" }

// EventNoun returns the noun and the id of an event subject, ids of several
// tokens joined by dots.
func EventNoun(subject string) (noun, id string, ok bool) {
	rest, found := strings.CutPrefix(subject, "lockstep.evt.v1.")
	parts := strings.SplitN(rest, ".", 3)
	if !found || len(parts) != 3 || slices.Contains(parts, "") {
		return "", "", false
	}
	return parts[1], parts[2], true
}

// CommandSubject is where commands to one cluster's driver go.
func CommandSubject(tenant fleet.TenantID, cluster fleet.ClusterID) string {
	return fmt.Sprintf("lockstep.cmd.v1.%s.%s", tenant, cluster)
}

// Entry is one thing that the topology names.
type Entry struct {
	// Kind is stream, noun, consumer, bucket or table.
	Kind string
	Name string
	// Detail says what it holds or where it listens.
	Detail string
	// Owner is the one service that writes it.
	Owner string
	// Retention says how long what it holds is kept.
	Retention string
}

// Entries lists everything, sorted by kind.
func Entries() []Entry {
	var all []Entry
	for _, s := range Streams() {
		all = append(all, Entry{"stream", s.Name, strings.Join(s.Subjects, " "), s.Owner, retention(s)})
	}
	owners := NounOwners()
	for _, noun := range slices.Sorted(maps.Keys(owners)) {
		all = append(all, Entry{"noun", noun, "lockstep.evt.v1.<tenant>." + noun + ".>", owners[noun], "as stream " + StreamEvents})
	}
	for _, c := range Consumers() {
		all = append(all, Entry{"consumer", c.Durable, strings.TrimSpace(c.Stream + " " + listed(c.Filters)), c.Owner, "its position, for ever"})
	}
	for _, b := range KeyValues() {
		all = append(all, Entry{"bucket", b.Name, "key-value", b.Owner, "the newest value of a key"})
	}
	for _, b := range Blobs() {
		all = append(all, Entry{"bucket", b.Name, "blobs by SHA-256", b.Owner, "for ever"})
	}
	owners = TableOwners()
	for _, table := range slices.Sorted(maps.Keys(owners)) {
		all = append(all, Entry{"table", table, "ClickHouse", owners[table], tableRetention(table)})
	}
	return all
}

func retention(s bus.Stream) string {
	if s.MaxAge == 0 && s.MaxBytes == 0 {
		return "for ever"
	}
	var limits []string
	if s.MaxAge > 0 {
		limits = append(limits, fmt.Sprintf("%d days", s.MaxAge/(24*time.Hour)))
	}
	if s.MaxBytes > 0 {
		limits = append(limits, fmt.Sprintf("%d GiB", s.MaxBytes>>30))
	}
	return strings.Join(limits, " or ")
}

// tableRetention is how long the rows of a table are kept, as the store's
// migrations say.
func tableRetention(table string) string {
	switch table {
	case "inventory_instances", "packages", "registrations", "progress_marks":
		return "400 days"
	case "checks":
		return "100 days"
	case "session_events":
		return "1100 days"
	}
	return "for ever"
}

// listed names the filters of a consumer; of many, the first.
func listed(filters []string) string {
	const most = 4
	if len(filters) > most {
		return fmt.Sprintf("%s and %d more parts", filters[0], len(filters)-1)
	}
	return strings.Join(filters, " ")
}
