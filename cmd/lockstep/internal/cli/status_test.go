package cli_test

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"buf.build/gen/go/bufbuild/protovalidate/protocolbuffers/go/buf/validate"
	"connectrpc.com/connect/v2"
	"google.golang.org/protobuf/proto"

	driftv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/drift/v1"
	fleetv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/fleet/v1"
)

func someFleet() []*fleetv1.Cluster {
	return []*fleetv1.Cluster{
		{
			Id: "berlin", State: "locked", Since: at(26 * time.Hour), AssignedRelease: "5.0.1", LastSeen: at(3 * time.Second), LastReport: at(40 * time.Second),
			Lines: []*fleetv1.Line{
				{Line: "gateway", Running: []string{"5.0.1"}, Assigned: "5.0.1"},
				{Line: "sra", Running: []string{"3.1.0"}, Assigned: "3.1.0"},
			},
			Instances: []*fleetv1.Instance{{Id: "1", Health: "healthy"}, {Id: "2", Health: "none"}, {Id: "3", Health: "starting"}},
			Bastions:  []*fleetv1.Bastion{{Id: "a", Version: "3.1.0"}, {Id: "b"}, {Id: "c", Version: "3.1.0"}},
		},
		{
			Id: "paris", State: "stepping", Since: at(95 * time.Second), AssignedRelease: "5.0.1", Rollout: "r1",
			Lines: []*fleetv1.Line{
				{Line: "gateway", Running: []string{"5.0.1", "5.1.0"}, Assigned: "5.1.0"},
				{Line: "sra", Running: []string{"3.1.0"}, Assigned: "3.1.0"},
			},
			Reasons: []string{"gateway runs 5.0.1 and 5.1.0", "rollout r1 is in its window until 12:30"},
		},
		{Id: "rome", State: "dark", Since: at(70 * time.Minute), Reasons: []string{"the engine says \x1b[31m\"gone\"\n"}},
	}
}

func TestStatusText(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{
		"status.txt":      nil,
		"status-wide.txt": {"-o", "wide"},
		"status-name.txt": {"-o", "name"},
		"status.yaml":     {"-o", "yaml", "berlin"},
		"status-two.txt":  {"rome", "paris"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := serve(t, &fake{fleet: someFleet()})
			got := f.run(t, append([]string{"status"}, args...)...)
			got.wants(t, 0, "")
			golden(t, name, got.out)
			if totals := got.err; strings.HasSuffix(name, "name.txt") || strings.HasSuffix(name, "yaml") {
				if totals != "" {
					t.Errorf("besides data it says %s", totals)
				}
			} else if !strings.Contains(totals, "clusters: 1 dark, 1 stepping") {
				t.Errorf("of the states it says %s", totals)
			}
		})
	}
}

func TestStatusJSONIsAList(t *testing.T) {
	t.Parallel()
	f := serve(t, &fake{fleet: someFleet()})
	got := f.run(t, "status", "-o", "json")
	var list []map[string]any
	if err := json.Unmarshal([]byte(got.out), &list); err != nil {
		t.Fatalf("%v in %s", err, got.out)
	}
	if len(list) != 3 || list[1]["assigned_release"] != "5.0.1" || list[2]["rollout"] != "" {
		t.Errorf("list %v", list)
	}
	empty := serve(t, &fake{}).run(t, "status", "-o", "json")
	if strings.TrimSpace(empty.out) != "[]" {
		t.Errorf("no clusters give %q", empty.out)
	}
}

func TestStatusNamesWhatIsMissing(t *testing.T) {
	t.Parallel()
	f := serve(t, &fake{fleet: someFleet()})
	got := f.run(t, "status", "berlin", "oslo")
	got.wants(t, 1, "lockstep: find clusters: there is none named oslo")
	if got.out != "" {
		t.Errorf("data besides the error: %s", got.out)
	}
	serve(t, &fake{}).run(t, "status").wants(t, 0, "There are no clusters")
	f.run(t, "status", "--state", "split").wants(t, 0, "No cluster matches.\n")
}

// whole is the first look of a watch in two messages.
func whole(clusters []*fleetv1.Cluster) []*fleetv1.WatchClustersResponse {
	return []*fleetv1.WatchClustersResponse{{Clusters: clusters[:1]}, {Clusters: clusters[1:], Complete: true}}
}

// watchFleet watches until the last of the looks was sent and something was
// printed since.
func watchFleet(t *testing.T, f *fake, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	serve(t, f)
	f.shown = cancel
	return runWith(t, ctx, "", append([]string{"status", "--watch", "--server", f.url, "--token-file", f.token}, args...)...)
}

func TestStatusWatchPrintsChangesOnly(t *testing.T) {
	t.Parallel()
	moved := someFleet()
	moved[0].LastSeen, moved[0].Instances = at(0), nil // no change
	moved[1].State, moved[1].Reasons = "locked", nil
	for name, args := range map[string][]string{"status-watch.txt": nil, "status-watch.json": {"-o", "json"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// The second stream begins with all there is, as after a lost connection; rome
			// went meanwhile. The third sends nothing new and stays.
			f := &fake{looks: [][]*fleetv1.WatchClustersResponse{
				append(whole(someFleet()), &fleetv1.WatchClustersResponse{Clusters: moved[1:2], Complete: true}),
				append(whole(moved[:2]), &fleetv1.WatchClustersResponse{Gone: []string{"paris"}, Complete: true}),
				{{Clusters: moved[:1], Complete: true}},
			}}
			got := watchFleet(t, f, args...)
			got.wants(t, 0, "The server does not answer; trying again.\nThe server answers again.\n")
			golden(t, name, got.out)
		})
	}
}

func TestStatusWatchAsksForWhatWasChosen(t *testing.T) {
	t.Parallel()
	f := &fake{looks: [][]*fleetv1.WatchClustersResponse{nil}}
	got := watchFleet(t, f, "cluster/berlin", "-l", "env=prod", "--state", "dark,split", "--state", "dark", "--version", "sra=3.1.0", "--release", "5.0.1")
	got.wants(t, 0, "")
	askedFor(t, f, &fleetv1.WatchClustersRequest{
		Ids: []string{"berlin"}, LabelSelector: "env=prod", States: []string{"dark", "split"}, Versions: []string{"sra=3.1.0"}, Release: "5.0.1",
	})
}

func TestStatusWatchEndsWithARefusal(t *testing.T) {
	t.Parallel()
	f := serve(t, &fake{fail: connect.NewError(connect.CodeInvalidArgument, "the selector ends too early")})
	f.run(t, "status", "--watch", "-l", "env in (").wants(t, 1, "lockstep: watch clusters: the selector ends too early\n")
}

// What tells of instances asks for them, a smaller page at a time.
func TestStatusAsksForAllThatItTells(t *testing.T) {
	t.Parallel()
	f := serve(t, &fake{fleet: someFleet()})
	f.run(t, "status", "-o", "json").wants(t, 0, "")
	askedFor(t, f, &fleetv1.ListClustersRequest{PageSize: 250})
}

func TestStatusAsksForWhatWasChosen(t *testing.T) {
	t.Parallel()
	f := serve(t, &fake{fleet: someFleet()})
	f.run(t, "status", "paris", "cluster/paris", "rome", "--selector", "env=prod", "--state", "dark", "--version", "3.0.3", "--version", "sra=3.1.0", "-r", "release/5.0.1", "--as-of", "36h").wants(t, 0, "1 cluster: 1 dark\n")
	askedFor(t, f, &fleetv1.ListClustersRequest{
		PageSize: 1000, View: fleetv1.ClusterView_CLUSTER_VIEW_BASIC, Ids: []string{"paris", "rome"}, LabelSelector: "env=prod", States: []string{"dark"}, Versions: []string{"3.0.3", "sra=3.1.0"}, Release: "5.0.1",
		AsOf: at(36 * time.Hour),
	})
}

// TestStatusOfThePast counts lengths of time up to when it was.
func TestStatusOfThePast(t *testing.T) {
	t.Parallel()
	f := serve(t, &fake{fleet: someFleet()[:1]})
	got := f.run(t, "status", "--as-of", "2026-03-01 10:00")
	got.wants(t, 0, "")
	if !strings.Contains(got.out, "locked   1d   ") {
		t.Errorf("printed\n%s", got.out)
	}
	f.run(t, "status", "oslo", "--as-of", "1h").wants(t, 1, "nothing was known of oslo at that time")
	f.run(t, "status", "--as-of", "2026-03-02").wants(t, 2, `--as-of "2026-03-02" lies ahead; it is 2026-03-01 12:00:00 UTC now`)
	f.run(t, "status", "--as-of", "yesterday").wants(t, 2, `--as-of "yesterday" is neither a length of time nor a time`)
}

func TestStatusSorts(t *testing.T) {
	t.Parallel()
	list := append(someFleet(), &fleetv1.Cluster{Id: "seoul", State: "withdrawn"}, &fleetv1.Cluster{Id: "tokyo", State: "new", Since: at(time.Hour)})
	f := serve(t, &fake{fleet: list})
	for order, want := range map[string]string{
		"id": "berlin paris rome seoul tokyo", "state": "tokyo seoul rome paris berlin", "since": "paris tokyo rome berlin seoul",
	} {
		got := f.run(t, "status", "--sort", order, "-o", "name")
		got.wants(t, 0, "")
		if names := strings.ReplaceAll(strings.Join(strings.Fields(got.out), " "), "cluster/", ""); names != want {
			t.Errorf("by %s: %s, want %s", order, names, want)
		}
	}
	f.run(t, "status").wants(t, 0, "5 clusters: 1 new, 1 withdrawn, 1 dark, 1 stepping, 1 locked\n")
}

// TestEveryStateIsOffered compares the words of the command line with those that
// the contract takes.
func TestEveryStateIsOffered(t *testing.T) {
	t.Parallel()
	for message, command := range map[proto.Message]string{&fleetv1.ListClustersRequest{}: "status", &driftv1.ListDriftsRequest{}: "drift list"} {
		rules, ok := proto.GetExtension(message.ProtoReflect().Descriptor().Fields().ByName("states").Options(), validate.E_Field).(*validate.FieldRules)
		if !ok {
			t.Fatalf("states of %T have no rule", message)
		}
		want := slices.Sorted(slices.Values(rules.GetRepeated().GetItems().GetString().GetIn()))
		got := runWith(t, t.Context(), "", append(append([]string{"__complete"}, strings.Fields(command)...), "--state", "")...)
		if words := slices.Sorted(slices.Values(strings.Split(offered(got), "|"))); !slices.Equal(words, want) || len(want) < 5 {
			t.Errorf("%s offers %v, the contract takes %v", command, words, want)
		}
	}
	help := runWith(t, t.Context(), "", "status", "--help").out
	text, _, _ := strings.Cut(help, "Usage:")
	for _, state := range []string{"locked", "stepping", "overdue", "drifted", "split", "withdrawn", "dark", "unknown"} {
		if !strings.Contains(text, state) {
			t.Errorf("the help does not say what %s is", state)
		}
	}
}

func TestErrorsOfACall(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		err  error
		want string
	}{
		"with an id":    {catalogued(connect.CodeFailedPrecondition, "the store is behind", "LS-EVA-002"), "lockstep: list clusters: the store is behind (LS-EVA-002)\n"},
		"id in text":    {catalogued(connect.CodeInternal, "LS-EVA-002: it is behind", "LS-EVA-002"), "lockstep: list clusters: LS-EVA-002: it is behind\n"},
		"no words":      {context.DeadlineExceeded, "the server gave no reason (deadline_exceeded)"},
		"not allowed":   {connect.NewError(connect.CodePermissionDenied, "readers only"), "does not allow it: readers only"},
		"not offered":   {connect.NewError(connect.CodeUnimplemented, "no such method"), "is it a Lockstep server"},
		"hostile words": {connect.NewError(connect.CodeInternal, "a\x1b[2Jb"), "list clusters: a[2Jb\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			serve(t, &fake{fail: tc.err}).run(t, "status").wants(t, 1, tc.want)
		})
	}
}
