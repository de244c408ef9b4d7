package cli_test

import (
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	fleetv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/fleet/v1"
)

// mixedCluster is a cluster of which everything is known.
func mixedCluster() *fleetv1.Cluster {
	return &fleetv1.Cluster{
		Id: "paris", State: "overdue", Since: at(2 * time.Hour), AssignedRelease: "5.0.1", Rollout: "r1", TargetRelease: "5.1.0",
		Labels: map[string]string{"tier": "edge", "env": "prod"}, LastSeen: at(3 * time.Second), LastReport: at(40 * time.Second),
		Reasons: []string{"gateway runs 5.0.1 and 5.1.0 for longer than its window", "the image \x1b[31mcannot be pulled"}, Notes: []string{"sra-ssh has restarted 4 times"},
		MixedSince: at(150 * time.Minute), Window: durationpb.New(30 * time.Minute), WindowBasis: "windows.mixed of the cluster",
		Lines: []*fleetv1.Line{
			{Line: "gateway", Running: []string{"5.0.1", "5.1.0"}, Assigned: "5.0.1"},
			{Line: "sra", Running: []string{"3.1.0"}, Assigned: "3.1.0"},
			{Line: "ztwa"},
		},
		Instances: []*fleetv1.Instance{
			{Id: strings.Repeat("0a", 32), Component: "gateway", Service: "gw", Image: "docker.io/akeyless/base:5.0.1", Digest: "sha256:ab", Version: "5.0.1", Health: "healthy", StartedAt: at(70 * time.Hour)},
			{Id: "akeyless-sra-web-0", Component: "sra-web", Version: "3.1.0", Health: "unhealthy"},
		},
		Bastions: []*fleetv1.Bastion{{Id: "bastion-1", Version: "3.1.0"}, {Id: "bastion-2"}},
		Declared: &fleetv1.Declared{
			ObservedAt: at(time.Minute),
			Helm:       []*fleetv1.HelmRelease{{Name: "gw", Namespace: "akeyless", Chart: "akeyless-gateway", ChartVersion: "1.2.0", Revision: 4, Status: "deployed", Versions: map[string]string{"sra": "3.1.0", "gateway": "5.0.1"}}},
			Compose:    []*fleetv1.ComposeService{{Service: "akeyless-web", Image: "sra:4", State: "changed", Differences: []string{"image: the file asks for sra:4, sra:3 runs"}}},
		},
	}
}

func TestClusters(t *testing.T) {
	t.Parallel()
	list := someFleet()
	list[1] = mixedCluster()
	for name, args := range map[string][]string{
		"clusters.txt":        nil,
		"clusters-wide.txt":   {"-o", "wide"},
		"clusters-name.txt":   {"-o", "name"},
		"clusters-two.txt":    {"rome", "paris"},
		"cluster.txt":         {"paris"},
		"cluster-wide.txt":    {"cluster/paris", "-o", "wide"},
		"cluster-unknown.txt": {"rome"},
		"cluster-then.txt":    {"paris", "--as-of", "2026-03-01T11:00:00Z"},
		"cluster.json":        {"paris", "-o", "json"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := serve(t, &fake{fleet: list})
			got := f.run(t, append([]string{"clusters"}, args...)...)
			got.wants(t, 0, "")
			golden(t, name, got.out)
		})
	}
	f := serve(t, &fake{fleet: list})
	f.run(t, "cluster", "oslo").wants(t, 1, "find clusters: there is none named oslo")
	f.run(t, "clusters", "paris", "--state", "dark").wants(t, 0, "No cluster matches.\n")
	serve(t, &fake{}).run(t, "clusters").wants(t, 0, "There are no clusters")
	if got := serve(t, &fake{}).run(t, "clusters", "-o", "json").out; got != "[]\n" {
		t.Errorf("no clusters give %q", got)
	}
}

func TestClustersAsksForWhatWasChosen(t *testing.T) {
	t.Parallel()
	f := serve(t, &fake{})
	f.run(t, "clusters", "-l", "env=prod", "--state", "split", "--version", "3.0.3", "-r", "5.0.1", "--as-of", "7d").wants(t, 0, "No cluster matches.")
	askedFor(t, f, &fleetv1.ListClustersRequest{
		PageSize: 250, LabelSelector: "env=prod", States: []string{"split"}, Versions: []string{"3.0.3"}, Release: "5.0.1", AsOf: at(7 * 24 * time.Hour),
	})
}
