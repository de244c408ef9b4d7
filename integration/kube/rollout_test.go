//go:build integration

package kube_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"helm.sh/helm/v4/pkg/release/common"

	"github.com/lockstep-fleet/lockstep/adapters/akeyless/akeylesstest"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	rolloutv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/rollout/v1"
)

const (
	// badBastion is a version whose bastions run well and break sessions.
	badBastion = "3.2.9"
	// patience is how long a rollout may take that takes a minute where nothing else runs.
	patience = 5 * time.Minute
)

func vendorCluster(id string) string { return "acc-lab/p-lab/" + id }

// people open sessions through a cluster's bastions and tell the vendor of them, until
// the test ends. What its bastions run decides how many fail.
type people struct {
	opened atomic.Int64
}

func (d *driven) people(vendor *akeylesstest.Server, id string) *people {
	d.t.Helper()
	p := new(people)
	ctx, cancel := context.WithCancel(d.t.Context())
	ended := make(chan struct{})
	chance := rand.New(rand.NewPCG(uint64(len(id)), uint64(id[0]))) //nolint:gosec // sessions, not secrets
	go func() {
		defer close(ended)
		tick := time.NewTicker(25 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			rate := 0.01
			inventory, err := d.source.Inventory(ctx)
			bad := func(i fleet.Instance) bool { return i.Tag == badBastion && i.Health == fleet.HealthHealthy }
			if err == nil && slices.ContainsFunc(inventory.Instances, bad) {
				rate = 0.5
			}
			n := p.opened.Add(1)
			session := akeylesstest.Session{
				ID: fmt.Sprintf("%s-%d", id, n), Status: "completed", StartTime: time.Now().Add(-300 * time.Millisecond), EndTime: time.Now(),
				ConnectionType: "ssh", ClientType: "cli", InstanceID: id + "-ssh", Gateway: akeylesstest.GatewayInfo{ClusterName: vendorCluster(id), ClusterDisplayName: id},
				UserIdentifier: fmt.Sprintf("user-%d", chance.IntN(100)), TargetHost: "db", TargetName: fmt.Sprintf("db-%d", chance.IntN(20)), TargetType: "ssh",
			}
			if chance.Float64() < rate {
				session.Status, session.ErrorMsg = "failed", "connection lost"
			}
			if err := vendor.Report(session); err != nil {
				d.t.Errorf("the vendor refused a session: %v", err)
				return
			}
		}
	}()
	d.t.Cleanup(func() { cancel(); <-ended })
	return p
}

// rests waits until a rollout rests.
func (s *server) rests(id string) *rolloutv1.Rollout {
	s.t.Helper()
	begun := time.Now()
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		out, _ := s.run(0, "rollout", "get", id, "-o", "json", "--config", s.file())
		var r rolloutv1.Rollout
		s.decode([]byte(out), &r)
		if slices.Contains([]string{"held", "succeeded", "rolled_back", "aborted", "failed"}, r.GetPhase()) {
			return &r
		}
		if time.Since(begun) > patience {
			s.t.Fatalf("rollout %s does not end: %v", id, &r)
		}
		<-tick.C
	}
}

func (s *server) rollout(release string) string {
	s.t.Helper()
	out, _ := s.run(0, "rollout", "start", "--yes", "--release", release, "-o", "json", "--config", s.file())
	var r rolloutv1.Rollout
	s.decode([]byte(out), &r)
	if r.GetId() == "" {
		s.t.Fatalf("rollout start printed %s", out)
	}
	return r.GetId()
}

// The main job on Kubernetes, as a person does it: a good release of the chart goes to
// two clusters step by step, while the server is killed in the middle of an upgrade;
// a bad one is stopped by the sessions of the first cluster and taken back to the byte.
func TestRolloutOnKubernetes(t *testing.T) {
	t.Parallel()
	clusters := map[string]*driven{"east": newDriven(t), "west": newDriven(t)}
	vendor, err := akeylesstest.NewServer(akeylesstest.Options{Dialect: akeylesstest.DialectInstances})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := vendor.Close(); err != nil {
			t.Error(err)
		}
	})
	var text strings.Builder
	fmt.Fprintf(&text, `vendor: {url: %q, access_id: %s, access_key_file: vendor.key, poll_interval: 1s, source_lag: 500ms}
inventory: {poll_interval: 1s}
drift: {mixed_window: 5m, dark_after: 1m}
rollout: {window: 20m, lookback: 1h}
gate: {margin: 3, acceptable_rate: 0.05, floor_rate: 0.05, planned_trials: 100, maturation: 2s, burst_window: 1s, deadline: 2m}
clusters:
`, vendor.URL(), akeylesstest.AccessID)
	traffic := make(map[string]*people)
	for _, id := range []string{"east", "west"} {
		d := clusters[id]
		d.publish("zero-trust-bastion:" + badBastion)
		vendor.SetCluster(akeylesstest.Cluster{Name: vendorCluster(id), DisplayName: id, LastReport: time.Now(), Instances: []akeylesstest.Instance{{ID: id + "-ssh", Version: current.sra, LastReport: time.Now()}}})
		traffic[id] = d.people(vendor, id)
		fmt.Fprintf(&text, "  - id: %s\n    vendor_cluster: %s\n    kubernetes: {kubeconfig: %q, namespace: %s, helm: [{release: gw, ready: 30s}]}\n", id, vendorCluster(id), d.kubeconfig, d.namespace)
	}
	p := lockstep(t, text.String())
	if err := os.WriteFile(filepath.Join(p.dir, "vendor.key"), []byte(akeylesstest.AccessKey), 0o600); err != nil {
		t.Fatal(err)
	}
	s := p.serve()
	bad := release{chart: "3.5.0", app: "5.1.0_3.5.0", gateway: "5.1.0", sra: badBastion}
	for _, r := range []release{current, next, bad} {
		s.run(0, "releases", "import", clusters["east"].chart(r, nil), "--config", s.file())
	}
	eventually(t, func() error {
		for id, of := range traffic {
			if n := of.opened.Load(); n < 600 {
				return fmt.Errorf("%d sessions were opened in %s", n, id)
			}
		}
		return nil
	})

	out, _ := s.run(0, "rollout", "plan", "--release", next.chart, "--config", s.file())
	for _, line := range []string{"chart of gw: akeyless-gateway 3.3.0 → 3.4.0", "Deployment unified-gw-akeyless-gateway: spec.template.spec.containers[0].image", clusters["west"].pinned("zero-trust-bastion:3.2.0")} {
		if !strings.Contains(out, line) {
			t.Errorf("the plan does not say %q:\n%s", line, out)
		}
	}
	good := s.rollout(next.chart)
	eventually(t, func() error {
		if r := clusters["east"].last(); r.Version != 2 {
			return fmt.Errorf("the first upgrade has not begun: revision %d", r.Version)
		}
		return nil
	})
	s.kill()
	s.start()
	if r := s.rests(good); r.GetPhase() != "succeeded" {
		t.Fatalf("the good rollout is %s: %s", r.GetPhase(), r.GetReason())
	}
	for id, d := range clusters {
		d.runs(d.pinned("gateway:5.1.0"), d.pinned("zero-trust-bastion:3.2.0"))
		r := d.last()
		// One revision for each step, and at most one more for the one that was cut off.
		if most := map[string]int{"east": 4, "west": 3}[id]; r.Version > most || r.Info.Status != common.StatusDeployed || r.Chart.Metadata.Version != next.chart {
			t.Errorf("%s is at revision %d of chart %s, %s", id, r.Version, r.Chart.Metadata.Version, r.Info.Status)
		}
	}

	before, west := clusters["east"].last(), clusters["west"].last()
	r := s.rests(s.rollout(bad.chart))
	if r.GetPhase() != "held" || r.GetClusters()[0].GetPhase() != "rolled_back" || r.GetClusters()[1].GetPhase() != "waiting" {
		t.Errorf("the bad rollout is %s: %s; %v", r.GetPhase(), r.GetReason(), r.GetClusters())
	}
	d := clusters["east"]
	d.runs(d.pinned("gateway:5.1.0"), d.pinned("zero-trust-bastion:3.2.0"))
	back := d.last()
	if back.Manifest != before.Manifest || fmt.Sprint(back.Config) != fmt.Sprint(before.Config) || back.Chart.Metadata.Version != next.chart || back.Info.RollbackRevision != before.Version {
		t.Errorf("east came back as revision %d of chart %s, by going back to %d", back.Version, back.Chart.Metadata.Version, back.Info.RollbackRevision)
	}
	if now := clusters["west"].last(); now.Version != west.Version {
		t.Errorf("west is at revision %d and was at %d", now.Version, west.Version)
	}
	s.stop()
}
