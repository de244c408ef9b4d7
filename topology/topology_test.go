package topology_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/topology"
)

var update = flag.Bool("update", false, "write the golden files anew")

func TestListing(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	for _, e := range topology.Entries() {
		fmt.Fprintf(&b, "%-9s %-23s %-22s %-26s %s\n", e.Kind, e.Name, e.Owner, e.Retention, e.Detail)
	}
	path, got := filepath.Join("testdata", "topology.txt"), b.String()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got), -update writes it anew:\n%s", path, diff)
	}
}

// The part of a cluster is in the subjects of messages that are stored already,
// so these numbers never change. The first three follow from the hashes that the
// authors of FNV publish: 0x811c9dc5, 0xe40c292c and 0xbf9cf968.
func TestPartIsFixed(t *testing.T) {
	t.Parallel()
	for cluster, want := range map[fleet.ClusterID]uint32{
		"": 0xc5 % 64, "a": 0x2c % 64, "foobar": 0x68 % 64, "oslo": 10, "paris": 32, "eu-west-1_prod": 41,
	} {
		if got := topology.Part(cluster); got != want {
			t.Errorf("part of %q is %d, want %d", cluster, got, want)
		}
	}
}

func TestPartsAreAllUsed(t *testing.T) {
	t.Parallel()
	count := make(map[uint32]int)
	for n := range 40 * topology.Parts {
		count[topology.Part(fleet.ClusterID(fmt.Sprintf("eu-west-%d", n)))]++
	}
	for part, clusters := range count {
		if part >= topology.Parts || clusters > 2*40 {
			t.Errorf("part %d of %d has %d clusters, where 40 are its share", part, topology.Parts, clusters)
		}
	}
	if len(count) != topology.Parts {
		t.Errorf("%d parts of %d are used", len(count), topology.Parts)
	}
}

// token draws what a subject's token may hold.
func token() *rapid.Generator[string] { return rapid.StringMatching(`[a-z0-9_-]{1,12}`) }

func TestEventNounReadsWhatEventSubjectWrites(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		noun, ids := token().Draw(t, "noun"), rapid.SliceOfN(token(), 1, 3).Draw(t, "id")
		subject := topology.EventSubject(fleet.TenantID(token().Draw(t, "tenant")), noun, ids...)
		gotNoun, gotID, ok := topology.EventNoun(subject)
		if !ok || gotNoun != noun || gotID != strings.Join(ids, ".") {
			t.Fatalf("%s reads as %q of %q, %t", subject, gotID, gotNoun, ok)
		}
		if !matches(topology.EventFilter(noun), subject) {
			t.Fatalf("%s does not match %s", subject, topology.EventFilter(noun))
		}
		if other := noun + "x"; matches(topology.EventFilter(other), subject) {
			t.Fatalf("%s matches %s", subject, topology.EventFilter(other))
		}
	})
}

func TestEventNounRefusesOtherSubjects(t *testing.T) {
	t.Parallel()
	for _, subject := range []string{
		"", "lockstep", "lockstep.evt.v1.default.drift", "lockstep.evt.v1.default.drift.", "lockstep.evt.v1.default..oslo",
		"lockstep.evt.v2.default.drift.oslo", "other.evt.v1.default.drift.oslo", "lockstep.evt.v1..drift.oslo",
		topology.CommandSubject("default", "oslo") + ".more.and.more", topology.ObservationSubject("default", "hub", 7, "session"),
	} {
		if noun, id, ok := topology.EventNoun(subject); ok || noun != "" || id != "" {
			t.Errorf("%q reads as %q of %q, %t", subject, id, noun, ok)
		}
	}
}

// matches reports whether a subject matches a pattern of the bus: * stands for
// one token, a > at the end for one or more.
func matches(pattern, subject string) bool {
	p, s := strings.Split(pattern, "."), strings.Split(subject, ".")
	for i, token := range p {
		switch {
		case token == ">":
			return i == len(p)-1 && len(s) > i
		case i >= len(s) || token != "*" && token != s[i]:
			return false
		}
	}
	return len(p) == len(s)
}

// streamsOf returns the streams that take a subject, or all that a filter selects.
func streamsOf(subject string) []string {
	var out []string
	for _, s := range topology.Streams() {
		if slices.ContainsFunc(s.Subjects, func(pattern string) bool { return matches(pattern, subject) }) {
			out = append(out, s.Name)
		}
	}
	return out
}

func TestEverySubjectHasOneStream(t *testing.T) {
	t.Parallel()
	for subject, want := range map[string]string{
		topology.ObservationSubject("default", "hub", topology.Part("oslo"), "session"): topology.StreamObservations,
		topology.EventSubject("default", topology.NounStep, "r1", "oslo"):               topology.StreamEvents,
		topology.CommandSubject("default", "oslo"):                                      topology.StreamCommands,
		topology.EvaluatorRollouts().DeadLetter:                                         topology.StreamDeadLetters,
	} {
		if got := streamsOf(subject); !slices.Equal(got, []string{want}) {
			t.Errorf("%s is in %v, want %s alone", subject, got, want)
		}
	}
}

func TestObservationFilters(t *testing.T) {
	t.Parallel()
	var many []fleet.ClusterID
	for i := range 200 {
		many = append(many, fleet.ClusterID(fmt.Sprintf("c%d", i)))
	}
	for name, c := range map[string]struct {
		sources  []fleet.SourceID
		clusters []fleet.ClusterID
		kinds    []fleet.Kind
		want     int
	}{
		"all":               {nil, nil, nil, 1},
		"one of each":       {[]fleet.SourceID{"hub-session"}, []fleet.ClusterID{"oslo"}, []fleet.Kind{fleet.KindSession}, 1},
		"two kinds":         {nil, nil, []fleet.Kind{fleet.KindSession, fleet.KindProbe}, 2},
		"clusters of parts": {nil, []fleet.ClusterID{"oslo", "rome"}, []fleet.Kind{fleet.KindSession, fleet.KindProbe}, 4},
		"most parts":        {nil, many, nil, 1},
	} {
		filters := topology.ObservationFilters("default", c.sources, c.clusters, c.kinds)
		if len(filters) != c.want {
			t.Errorf("%s: %v, want %d", name, filters, c.want)
		}
		for i, filter := range filters {
			for _, other := range filters[:i] {
				if matches(other, filter) || matches(filter, other) {
					t.Errorf("%s: %s and %s overlap", name, other, filter)
				}
			}
		}
		if c.clusters != nil {
			subject := topology.ObservationSubject("default", "hub-session", topology.Part(c.clusters[0]), fleet.KindSession)
			if !slices.ContainsFunc(filters, func(f string) bool { return matches(f, subject) }) {
				t.Errorf("%s: %s is not asked for", name, subject)
			}
		}
	}
}

func TestConsumersFitTheirStreams(t *testing.T) {
	t.Parallel()
	durables := make(map[string]bool)
	for _, c := range topology.Consumers() {
		key := c.Stream + "/" + c.Durable
		if durables[key] {
			t.Errorf("%s is there twice", key)
		}
		durables[key] = true
		if c.AckWait <= 0 || c.Owner == "" {
			t.Errorf("%s waits %s for an answer and is owned by %q", key, c.AckWait, c.Owner)
		}
		if got := streamsOf(c.DeadLetter); !slices.Equal(got, []string{topology.StreamDeadLetters}) {
			t.Errorf("%s gives up to %s, which is in %v", key, c.DeadLetter, got)
		}
		for i, filter := range c.Filters {
			if got := streamsOf(filter); !slices.Equal(got, []string{c.Stream}) {
				t.Errorf("%s asks for %s, which is in %v", key, filter, got)
			}
			// The bus refuses a consumer whose filters overlap.
			for _, other := range c.Filters[:i] {
				if matches(other, filter) || matches(filter, other) {
					t.Errorf("%s asks for %s and %s, which overlap", key, other, filter)
				}
			}
			noun := strings.Split(filter, ".")[4]
			if c.Stream == topology.StreamEvents && topology.NounOwners()[noun] == "" {
				t.Errorf("%s asks for %s, whose noun %q nobody writes", key, filter, noun)
			}
		}
	}
	// Every part is in the partition of its clusters, and in no other.
	for part := range uint32(topology.Parts) {
		subject := topology.ObservationSubject(fleet.DefaultTenant, "hub-session", part, fleet.KindSession)
		for partition := range topology.Partitions {
			in := slices.ContainsFunc(topology.EvaluatorObservations(partition).Filters, func(filter string) bool { return matches(filter, subject) })
			if in != (int(part%topology.Partitions) == partition) {
				t.Errorf("part %d in partition %d: %t", part, partition, in)
			}
		}
	}
	if a, b := topology.NotifierEvents("slack"), topology.NotifierEvents("pager"); a.Durable == b.Durable || a.DeadLetter == b.DeadLetter {
		t.Errorf("two sinks share %s and %s", a.Durable, a.DeadLetter)
	}
}

// Every name that the bus knows has an owner, and no two streams share a name.
func TestEverythingHasAnOwner(t *testing.T) {
	t.Parallel()
	services := []string{topology.Collector, topology.Evaluator, topology.Executor, topology.Notifier}
	for _, owners := range []map[string]string{topology.NounOwners(), topology.TableOwners()} {
		for name, owner := range owners {
			if !slices.Contains(services, owner) {
				t.Errorf("%s is owned by %q, which is no service", name, owner)
			}
		}
	}
	names := make(map[string]bool)
	for _, s := range topology.Streams() {
		if names[s.Name] || s.Owner == "" {
			t.Errorf("stream %s is there twice or has no owner", s.Name)
		}
		names[s.Name] = true
	}
	for _, b := range slices.Concat(topology.KeyValues(), topology.Blobs()) {
		if names[b.Name] || !slices.Contains(services, b.Owner) {
			t.Errorf("bucket %s is there twice or owned by %q", b.Name, b.Owner)
		}
		names[b.Name] = true
	}
}
