package cli_test

import (
	"testing"

	"connectrpc.com/connect/v2"

	fleetv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/fleet/v1"
)

func someAssigned() []*fleetv1.AssignedCluster {
	return []*fleetv1.AssignedCluster{{Id: "berlin", Before: "5.0.1", Release: "5.1.0"}, {Id: "paris", Before: "5.1.0", Release: "5.1.0"}, {Id: "rome", Release: "5.1.0"}}
}

func TestAssign(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{"assign.txt": nil, "assign.json": {"-o", "json"}, "assign-name.txt": {"-o", "name"}} {
		f := serve(t, &fake{fleet: someFleet(), assigned: someAssigned()})
		got := f.run(t, append([]string{"assign", "--all", "--release", "release/5.1.0", "--reason", "as agreed", "--yes"}, args...)...)
		got.wants(t, 0, "")
		golden(t, name, got.out)
		askedFor(t, f, &fleetv1.AssignReleaseRequest{Clusters: []string{"berlin", "paris", "rome"}, Release: "5.1.0", Reason: "as agreed"})
	}
	f := serve(t, &fake{fleet: someFleet(), assigned: []*fleetv1.AssignedCluster{{Id: "berlin"}}})
	f.run(t, "assign", "cluster/berlin", "--none").wants(t, 0, "Nothing changed; it was assigned already.\n")
	askedFor(t, f, &fleetv1.AssignReleaseRequest{Clusters: []string{"berlin"}})
}

func TestAssignAsksBeforeMoreThanOne(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		in   string
		args []string
		code int
		talk string
		done bool
	}{
		"one":       {"", []string{"berlin"}, 0, "", true},
		"yes":       {"y\n", []string{"berlin", "paris"}, 0, "Assign 5.1.0 to these 2 clusters? [y/N]", true},
		"no":        {"n\n", []string{"berlin", "paris"}, 1, "not confirmed, so nothing was done", false},
		"silence":   {"", []string{"-l", "env=prod"}, 1, "there was no answer, so nothing was done; --yes", false},
		"not asked": {"", []string{"-l", "env=prod", "-y"}, 0, "paris     stepping   5.0.1      5.1.0", true},
		"no input":  {"y\n", []string{"--all", "--no-input"}, 2, "--no-input forbids asking", false},
		"not there": {"y\n", []string{"berlin", "oslo"}, 1, "there is none named oslo", false},
		"two ways":  {"", []string{"berlin", "--all"}, 2, "say which clusters: CLUSTER..., --selector LABELS or --all, one of the three", false},
		"no way":    {"", nil, 2, "say which clusters", false},
		"both":      {"", []string{"berlin", "--none"}, 2, "say which release: --release RELEASE, or --none, one of the two", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := serve(t, &fake{fleet: someFleet(), assigned: someAssigned()})
			f.answer(t, tc.in, append([]string{"assign", "--release", "5.1.0"}, tc.args...)...).wants(t, tc.code, tc.talk)
			done := false
			for _, r := range f.asked {
				if _, ok := r.(*fleetv1.AssignReleaseRequest); ok {
					done = true
				}
			}
			if done != tc.done {
				t.Errorf("assigned: %v", done)
			}
		})
	}
	serve(t, &fake{fleet: someFleet()[:1], assigned: someAssigned()[:1]}).run(t, "assign", "-l", "env=prod", "-r", "5.1.0").wants(t, 0, "berlin    locked   5.0.1      5.1.0\n")
	serve(t, &fake{}).run(t, "assign", "-l", "env=prod", "--none").wants(t, 1, "assign a release: no cluster matches\n")
	serve(t, &fake{}).run(t, "assign", "berlin").wants(t, 2, "say which release: --release RELEASE, or --none")
	serve(t, &fake{fail: catalogued(connect.CodeFailedPrecondition, "rollout r1 moves paris", "LS-ROL-003")}).run(t, "assign", "paris", "-r", "5.1.0").
		wants(t, 1, "assign 5.1.0: rollout r1 moves paris (LS-ROL-003)")
}
