package cli_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect/v2"

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
			f := serve(t, &fake{fleets: [][]*fleetv1.Cluster{someFleet()}})
			got := f.run(t, append([]string{"status"}, args...)...)
			got.wants(t, 0, "")
			golden(t, name, got.out)
		})
	}
}

func TestStatusJSONIsAList(t *testing.T) {
	t.Parallel()
	f := serve(t, &fake{fleets: [][]*fleetv1.Cluster{someFleet()}})
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
	f := serve(t, &fake{fleets: [][]*fleetv1.Cluster{someFleet()}})
	got := f.run(t, "status", "berlin", "oslo")
	got.wants(t, 1, "lockstep: find clusters: there is none named oslo")
	if got.out != "" {
		t.Errorf("data besides the error: %s", got.out)
	}
	serve(t, &fake{}).run(t, "status").wants(t, 0, "There are no clusters")
}

func TestStatusWatchPrintsChangesOnly(t *testing.T) {
	t.Parallel()
	moved := someFleet()
	moved[0].LastSeen = at(0) // an age is no change
	moved[1].State, moved[1].Reasons = "locked", nil
	for name, args := range map[string][]string{"status-watch.txt": nil, "status-watch.json": {"-o", "json"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancel(t.Context())
			calls := 0
			f := serve(t, &fake{fleets: [][]*fleetv1.Cluster{someFleet(), someFleet(), moved}})
			f.listed = func() {
				if calls++; calls == 2 { // the first answer with the change was printed by now
					cancel()
				}
			}
			got := runWith(t, ctx, "", append([]string{"status", "--watch", "--interval", "1ms", "--server", f.url, "--token-file", f.token}, args...)...)
			got.wants(t, 0, "")
			golden(t, name, got.out)
		})
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
