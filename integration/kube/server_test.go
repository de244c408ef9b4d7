//go:build integration

package kube_test

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/lockstep-fleet/lockstep/adapters/kube"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	lab "github.com/lockstep-fleet/lockstep/integration/lab/kube"
	observationv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/observation/v1"
	rolloutv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/rollout/v1"
	"github.com/lockstep-fleet/lockstep/topology"
)

// Times that are short enough to be waited for.
const (
	poll        = time.Second
	mixedWindow = 3 * time.Second
	darkAfter   = 5 * time.Second
)

// configuration is a fleet.yaml with the chart's versions as releases; clusters are
// declarations.
func configuration(clusters ...string) string {
	text := fmt.Sprintf("inventory: {poll_interval: %s}\ndrift: {mixed_window: %s, dark_after: %s}\nreleases:\n", poll, mixedWindow, darkAfter)
	for _, r := range []release{current, next} {
		text += fmt.Sprintf("  - id: %q\n    gateway: {version: %q, image: %q}\n    sra: {version: %q, image: %q}\n",
			r.gateway, r.gateway, gatewayImage+":"+r.gateway, r.sra, bastionImage+":"+r.sra)
	}
	return text + "clusters:\n" + strings.Join(clusters, "")
}

// declaration is a cluster that is to run the current release.
func (f *fixture) declaration(id, kubeconfig string) string {
	return fmt.Sprintf("  - id: %s\n    release: %q\n    kubernetes: {kubeconfig: %q, namespace: %s}\n", id, current.gateway, kubeconfig, f.namespace)
}

// looks are a probe and a health endpoint of a cluster's declaration. Both are there:
// the port is the API server's.
func looks(t *testing.T) string {
	t.Helper()
	server, err := url.Parse(cluster.URL())
	if err != nil {
		t.Fatal(err)
	}
	gateway := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/health" && r.URL.Path != "/status" {
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(gateway.Close)
	return fmt.Sprintf("    probes: [{name: port, type: tcp, address: %q, every: 1s}]\n    health: {gateway: %q, every: 1s}\n", server.Host, gateway.URL)
}

// report is a row of `collector check`.
type report struct{ Cluster, Kind, Status, Seen, Problem, Todo, ID string }

// check is what `collector check` prints, by cluster and kind.
func (p *product) check(code int) map[string]report {
	p.t.Helper()
	var list []report
	p.read(code, &list, "collector", "check", "-f", p.file())
	out := make(map[string]report)
	for _, r := range list {
		out[r.Cluster+" "+r.Kind] = r
	}
	if len(out) != len(list) {
		p.t.Errorf("two rows are of one kind: %+v", list)
	}
	return out
}

// fine complains of a row that is not fine, or that has not seen these words.
func (p *product) fine(r report, words ...string) {
	p.t.Helper()
	if r.Status != "ok" || r.Problem+r.Todo+r.ID != "" || slices.ContainsFunc(words, func(word string) bool { return !strings.Contains(r.Seen, word) }) {
		p.t.Errorf("want a row that is ok and has seen %q, got %+v", words, r)
	}
}

// A rule of the roles is missing: `collector check` says which, and what to do.
func TestCheckNamesWhatIsMissing(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		take    func(*rbacv1.Role)
		missing []string
		rows    map[string]report // without what is seen; problem and todo are parts
		failed  string
	}{
		{
			name: "deployments",
			take: func(r *rbacv1.Role) {
				for i, rule := range r.Rules {
					r.Rules[i].Resources = slices.DeleteFunc(rule.Resources, func(name string) bool { return name == "deployments" })
				}
			},
			missing: []string{"list deployments.apps", "watch deployments.apps"},
			rows: map[string]report{
				"east inventory": {Status: "fail", Problem: "list and watch deployments.apps in namespace", Todo: "deploy/k8s/collector", ID: "LS-KUB-004"},
				"east package":   {Status: "ok"},
			},
			failed: "1 of 4 sources cannot be read",
		},
		{
			name: "Helm's records",
			take: func(r *rbacv1.Role) {
				if r.Name != collector {
					r.Rules = nil
				}
			},
			missing: []string{"get secrets", "list secrets", "get configmaps", "list configmaps"},
			rows: map[string]report{
				"east inventory": {Status: "warn", Problem: "may not list secrets in", Todo: "deploy/k8s/collector"},
				"east package":   {Status: "fail", Problem: "list secrets", Todo: "lockstep-collector-helm", ID: "LS-KUB-008"},
			},
			failed: "1 of 4 sources cannot be read",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			f.helm().install("gw", current, nil)
			objects := f.manifests()
			for _, o := range objects {
				if role, ok := o.(*rbacv1.Role); ok {
					c.take(role)
				}
			}
			f.apply(objects)
			kubeconfig := f.kubeconfig(collector, nil)
			f.missing(f.source(kube.Options{Kubeconfig: kubeconfig}), c.missing...)
			p := lockstep(t, configuration(f.declaration("east", kubeconfig)+looks(t)))

			got := p.check(1)
			p.fine(got["east probe"], "port (tcp ")
			p.fine(got["east health"], "/gateway/health", "/gateway/status")
			for row, want := range c.rows {
				r := got[row]
				if r.Status != want.Status || r.ID != want.ID || !strings.Contains(r.Problem, want.Problem) || !strings.Contains(r.Todo, want.Todo) {
					t.Errorf("%s: got %+v, want %+v", row, r, want)
				}
				if want.Status != "ok" && !strings.Contains(r.Problem, f.namespace) {
					t.Errorf("%s does not name the namespace: %+v", row, r)
				}
			}
			text, talk := p.run(1, "collector", "check", "-f", p.file())
			if !strings.Contains(talk, c.failed) {
				t.Errorf("the command says %q, want %q", talk, c.failed)
			}
			for _, want := range c.rows {
				if want.ID != "" && (!strings.Contains(text, want.Problem) || !strings.Contains(text, "lockstep explain "+want.ID)) {
					t.Errorf("for people there is no %q or no way to %s:\n%s", want.Problem, want.ID, text)
				}
			}
		})
	}
}

// Two clusters, each a release of the chart, from the first look to a power cut
// during an outage. It stops the API server, so it is not parallel.
func TestFleet(t *testing.T) {
	east, west := newFixture(t), newFixture(t)
	for _, f := range []*fixture{east, west} {
		f.helm().install("gw", current, nil)
	}
	east.apply(east.manifests())
	kubeconfig := east.kubeconfig(collector, nil)
	east.missing(east.source(kube.Options{Kubeconfig: kubeconfig}))
	p := lockstep(t, configuration(east.declaration("east", kubeconfig)+looks(t), west.declaration("west", cluster.Kubeconfig(lab.Admin))))
	both := []string{"east", "west"}

	rows := p.check(0)
	for _, id := range both {
		p.fine(rows[id+" inventory"], "2 gateway 5.0.1, 1 sra-ssh 3.1.0, 1 sra-web 3.1.0")
		p.fine(rows[id+" package"], "gw: akeyless-gateway 3.3.0, revision 1, deployed")
	}
	p.fine(rows["east probe"])
	p.fine(rows["east health"])

	began := time.Now()
	s := p.serve()
	w := s.watch()
	for _, id := range both {
		w.becomes(id, "locked", began, "runs release 5.0.1")
	}
	for id, c := range s.status() {
		if c.GetState() != "locked" || c.GetAssignedRelease() != current.gateway || len(c.GetInstances()) != 4 {
			t.Errorf("%s is %v", id, c)
		}
	}
	s.onlyWatched(both)

	// One cluster moves as a whole, the other gets stuck half way.
	began = time.Now()
	if err := east.helm().upgrade(t.Context(), "gw", next, map[string]any{"gateway": map[string]any{"deployment": map[string]any{"replicaCount": 3}}}); err != nil {
		t.Fatal(err)
	}
	c := w.becomes("east", "drifted", began, "gateway should run 5.0.1 but runs 5.1.0", "sra should run 3.1.0 but runs 3.2.0")
	if took := c.GetSince().AsTime().Sub(began); took > 10*time.Second {
		t.Errorf("east is drifted %s after the upgrade began", took)
	}
	const gateway, crash = "unified-gw-akeyless-gateway", "5.1.0-crash"
	began = time.Now()
	west.setImage(gateway, gatewayImage+":"+crash)
	w.becomes("west", "stepping", began, "no rollout drives it", "gateway should run 5.0.1 but runs 5.0.1 and "+crash)
	w.becomes("west", "overdue", began.Add(mixedWindow), "longer than 3s", "gateway should run 5.0.1 but runs 5.0.1 and "+crash)
	began = time.Now()
	west.setImage(gateway, gatewayImage+":5.0.1")
	w.becomes("west", "locked", began)

	toldOf := func(id string) int { return len(s.lines("a source cannot be read", "the inventory of "+id)) }
	toldBefore := map[string]int{"east": toldOf("east"), "west": toldOf("west")}
	began = time.Now()
	if err := cluster.StopAPIServer(); err != nil {
		t.Fatal(err)
	}
	away := true
	t.Cleanup(func() {
		if away { // those who come next need it
			if err := cluster.StartAPIServer(context.WithoutCancel(t.Context())); err != nil {
				t.Error(err)
			}
		}
	})
	outage := []string{"no report since", "LS-KUB-002", cluster.URL() + " does not answer"}
	for _, id := range both {
		// The last look with sight was up to a poll before.
		w.becomes(id, "dark", began.Add(darkAfter-2*poll), outage...)
		if told := toldOf(id) - toldBefore[id]; told != 1 {
			t.Errorf("an outage that goes on is told %d times: %q", told, s.lines("a source cannot be read"))
		}
	}
	before := s.observed("--marks")
	s.kill()
	restarted := time.Now()
	s.start()
	s.staysDark(both, restarted, outage)
	began = time.Now()
	if err := cluster.StartAPIServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	away = false
	w.becomes("east", "drifted", began)
	w.becomes("west", "locked", began)
	w.end()
	if got, want := w.talk.String(), "The server does not answer; trying again.\nThe server answers again.\n"; got != want {
		t.Errorf("status --watch says %q, want %q", got, want)
	}
	for id, want := range map[string][]string{
		"east": {"locked", "drifted", "dark", "drifted"},
		"west": {"locked", "overdue", "locked", "dark", "locked"},
	} {
		// Nothing need have been unknown when the first state was asked for, and a mix
		// may come and go between two looks.
		passing := func(state string) bool { return state == "unknown" || state == "stepping" }
		if got := w.all[id]; !slices.Equal(slices.DeleteFunc(slices.Clone(got), passing), want) {
			t.Errorf("%s was %v, want %v", id, got, want)
		}
	}

	// What is declared is read at the start and then twice a minute.
	s.stop()
	s.start()
	s.seen("east", east, 2, next, map[string]int{"5.1.0": 3, "3.2.0": 2}, "5.0.1", "3.1.0")
	s.seen("west", west, 1, current, map[string]int{"5.0.1": 2, "3.1.0": 2}, crash)
	s.whole(before)
	s.stop()
	for _, word := range []string{"panic:", "fatal error:"} {
		if got := s.lines(word); len(got) > 0 {
			t.Errorf("the server's log has %q", got)
		}
	}
}

// onlyWatched expects that a rollout is refused because nothing drives the clusters.
// That none sees their sessions is the one other thing that is true.
func (s *server) onlyWatched(clusters []string) {
	s.t.Helper()
	out, _ := s.run(1, "rollout", "plan", "--release", next.gateway, "-o", "json", "--config", s.file())
	var plan rolloutv1.PlanRolloutResponse
	s.decode([]byte(out), &plan)
	told := make(map[string]int)
	for _, problem := range plan.GetProblems() {
		switch problem.GetId() {
		case "LS-ROL-023":
			told[problem.GetCluster()]++
		case "LS-ROL-008":
		default:
			s.t.Errorf("the plan has a strange problem: %v", problem)
		}
	}
	for _, id := range clusters {
		if told[id] != 1 {
			s.t.Errorf("LS-ROL-023 is told %d times of %s", told[id], id)
		}
	}
	if len(plan.GetPlan().GetClusters()) != 0 {
		s.t.Errorf("the plan moves %v", plan.GetPlan().GetClusters())
	}
}

// staysDark waits until the sources of a server that was started in an outage have
// said that they cannot see, and expects the clusters still to be dark for it.
func (s *server) staysDark(clusters []string, since time.Time, words []string) {
	s.t.Helper()
	eventually(s.t, func() error {
		blind := make(map[string]bool)
		for _, r := range s.observed("--failures", "--kind", "inventory") {
			if o := r.GetObservation(); o.GetMark().GetBlind() && o.GetObservedAt().AsTime().After(since) {
				blind[o.GetCluster()] = true
			}
		}
		now := s.status()
		for _, id := range clusters {
			c := now[id]
			if c.GetState() != "dark" || c.GetSince().AsTime().After(since) {
				s.t.Fatalf("since the server was started again, %s is %s, and nothing was seen: %v", id, c.GetState(), c)
			}
			if !blind[id] || !reasons(c, words...) {
				return fmt.Errorf("%s is dark for %q", id, c.GetReasons())
			}
		}
		return nil
	})
}

// whole holds what was handed in to its promises: message after message of every
// source, each observation once, and all of what was there before still is.
func (s *server) whole(before []*observationv1.Record) {
	s.t.Helper()
	type origin struct {
		source string
		part   uint32
	}
	newest, incarnations := make(map[origin]uint64), make(map[string]string)
	ids := make(map[string]*observationv1.Record)
	for _, r := range s.observed("--marks") {
		o := r.GetObservation()
		if first := ids[o.GetId()]; first != nil || o.GetId() == "" {
			s.t.Errorf("%q is the id of two: %v and %v", o.GetId(), first, r)
		}
		ids[o.GetId()] = r
		if i := incarnations[r.GetSource()]; i != "" && i != r.GetIncarnation() {
			s.t.Errorf("%s speaks as %s and as %s, and nothing of it was lost", r.GetSource(), i, r.GetIncarnation())
		}
		incarnations[r.GetSource()] = r.GetIncarnation()
		from := origin{r.GetSource(), topology.Part(fleet.ClusterID(o.GetCluster()))}
		if last := newest[from]; r.GetSequence() != last && r.GetSequence() != last+1 {
			s.t.Errorf("behind message %d of %v comes message %d", last, from, r.GetSequence())
		}
		newest[from] = r.GetSequence()
		if o.GetMark().GetLost() {
			s.t.Errorf("told to be lost: %v", o)
		}
	}
	for _, r := range before {
		if ids[r.GetObservation().GetId()] == nil {
			s.t.Errorf("gone since the server was killed: %v", r)
		}
	}
	if got := slices.Sorted(maps.Keys(incarnations)); !slices.Equal(got, []string{"hub-health", "hub-inventory", "hub-package", "hub-probe"}) {
		s.t.Errorf("observations are from %v", got)
	}
}

// seen waits until a revision of the chart is told and so many instances run of each
// tag, and expects all that an operator asks for. Other tags ran before.
func (s *server) seen(id string, f *fixture, revision uint32, r release, runs map[string]int, before ...string) {
	s.t.Helper()
	var records []*observationv1.Record
	var helm *observationv1.HelmRelease
	eventually(s.t, func() error {
		records = s.observed(id, "--kind", "inventory,package")
		newest := make(map[string]int)
		for _, r := range records {
			if p := r.GetObservation().GetPackage(); p != nil {
				if len(p.GetHelm()) != 1 {
					s.t.Fatalf("the package of %s is %v", id, p)
				}
				helm = p.GetHelm()[0]
			}
			if i := r.GetObservation().GetInventory(); i != nil {
				clear(newest)
				for _, one := range i.GetInstances() {
					newest[one.GetTag()]++
				}
			}
		}
		if helm.GetRevision() != revision || helm.GetStatus() != "deployed" || !maps.Equal(newest, runs) {
			return fmt.Errorf("of %s revision %d, %s, and %v are told, want %d and %v", id, helm.GetRevision(), helm.GetStatus(), newest, revision, runs)
		}
		return nil
	})
	if helm.GetName() != "gw" || helm.GetNamespace() != f.namespace || helm.GetChart() != "akeyless-gateway" || helm.GetChartVersion() != r.chart ||
		!strings.HasPrefix(helm.GetValuesHash(), "sha256:") || helm.GetUpdatedAt() == nil || helm.GetVersions()[string(fleet.LineSRA)] != r.sra {
		s.t.Errorf("the release of %s is told as %v", id, helm)
	}
	ever := make(map[string]bool)
	for _, r := range records {
		for _, i := range r.GetObservation().GetInventory().GetInstances() {
			ever[i.GetTag()] = true
			// A pod has a node and an image from when it starts to run, and a time when
			// its container does: one that crashes again and again has none.
			starting, well := i.GetHealth() == string(fleet.HealthStarting), i.GetHealth() == string(fleet.HealthHealthy)
			placed := i.GetDigest() == digest(i.GetImage()) && i.GetImageId() == lab.ImageID(i.GetImage()) && slices.Contains(lab.Nodes, i.GetNode())
			if i.GetDeclared() == "" || !placed && !starting || well && i.GetStartedAt() == nil {
				s.t.Errorf("an instance of %s is told as %v", id, i)
			}
		}
	}
	for _, tag := range before {
		if !ever[tag] {
			s.t.Errorf("%s was never told to run %s", id, tag)
		}
	}
}
