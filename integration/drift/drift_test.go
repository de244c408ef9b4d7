//go:build integration

// Package drift_test shows end to end how the product sees drift: the built program
// on a Docker Engine and a Kubernetes API server that are real, driven by its command
// line while people change what runs behind its back.
package drift_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/lockstep-fleet/lockstep/adapters/akeyless/akeylesstest"
	"github.com/lockstep-fleet/lockstep/integration/lab"
	"github.com/lockstep-fleet/lockstep/integration/lab/project"
	catalogv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/catalog/v1"
	driftv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/drift/v1"
	fleetv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/fleet/v1"
	rolloutv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/rollout/v1"
)

// What counts as too long here. A mix lasts where nothing else is said.
const (
	mixedWindow = 10 * time.Minute
	shortWindow = 5 * time.Second
	splitAfter  = 3 * time.Second
	darkAfter   = 15 * time.Second
)

var (
	current = release{chart: "3.3.0", gateway: "5.0.1", sra: "3.2.0"}
	highest = release{chart: "9.0.0", gateway: "9.9.0", sra: "3.9.0"}
)

// clusters are those that the server's own file declares, in order.
var clusters = []string{"berlin", "east", "north", "nowhere", "south", "tokyo", "west"}

// fleet is the installation with the places that it looks at.
type fleet struct {
	*installation
	*watcher
	began time.Time

	vendor                           *akeylesstest.Server
	berlin, tokyo, paris             *compose
	east, north, south, west         *namespace
	cut                              *wire // tokyo's way to its engine
	initial, better, latest, highest lab.Images
}

// raise brings everything up and starts the server, which knows no release.
func raise(t *testing.T) *fleet {
	t.Helper()
	dir := t.TempDir()
	f := &fleet{installation: &installation{dir: dir, listen: freeAddress(t)}, initial: docker.Initial}
	var err error
	if f.vendor, err = akeylesstest.NewServer(akeylesstest.Options{Dialect: akeylesstest.DialectInstances}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.vendor.Close(); err != nil {
			t.Error(err)
		}
	})
	if f.better, err = docker.Publish(t.Context(), lab.Release{Gateway: "4.53.0", SRA: "3.1.0"}); err != nil {
		t.Fatal(err)
	}
	if f.highest, err = docker.Publish(t.Context(), lab.Release{Gateway: highest.gateway, SRA: highest.sra}); err != nil {
		t.Fatal(err)
	}
	if f.latest, err = docker.Publish(t.Context(), lab.Release{Gateway: "4.54.0", SRA: "3.1.1"}); err != nil {
		t.Fatal(err)
	}
	host := docker.Engine.Host()
	socket := filepath.Join(dir, "engine.sock")
	f.cut = wireTo(t, host, socket)
	f.berlin, f.tokyo, f.paris = composeAt(t, "berlin", host), composeAt(t, "tokyo", "unix://"+socket), composeAt(t, "paris", host)
	f.east, f.north, f.west = install(t, "east", current), install(t, "north", current), install(t, "west", current)
	f.south = install(t, "south", highest)
	registered(f.vendor, "berlin", "3.0.3")
	for _, id := range []string{"east", "north"} {
		registered(f.vendor, id, current.sra)
	}
	declarations := f.berlin.declaration("berlin", atVendor("berlin")) + f.tokyo.declaration("tokyo", atVendor("tokyo")) +
		f.east.declaration("east", atVendor("east"), "window: "+shortWindow.String()) + f.north.declaration("north", atVendor("north")) +
		f.south.declaration("south") + f.west.declaration("west") +
		fmt.Sprintf("  - id: nowhere\n    compose: {engine: %q, dir: %q}\n", "unix://"+filepath.Join(dir, "none.sock"), dir)
	text := fmt.Sprintf(`server: {listen: %q, admin_listen: "off", data_dir: data}
vendor: {url: %q, access_id: %s, access_key_file: vendor.key, poll_interval: 1s, source_lag: 500ms}
inventory: {poll_interval: 1s}
drift: {mixed_window: %s, dark_after: %s, split_after: %s}
rollout: {window: 20m, lookback: 1h}
gate: {deadline: 4m}
notify: {webhooks: [{name: lab, url: %q}]}
clusters:
%s`, f.listen, f.vendor.URL(), akeylesstest.AccessID, mixedWindow, darkAfter, splitAfter, docker.Sink.URL(), declarations)
	for name, content := range map[string]string{"fleet.yaml": text, "vendor.key": akeylesstest.AccessKey, "releases.csv": f.releases()} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f.began = time.Now()
	f.start(t)
	f.watcher = f.watch(t)
	t.Cleanup(func() {
		f.end(t)
		f.kill(t)
		if t.Failed() {
			t.Logf("the server's log:\n%s", f.said(t))
		}
	})
	return f
}

// releases are the vendor's, as a person keeps them in a table.
func (f *fleet) releases() string {
	var out strings.Builder
	out.WriteString("chart_version,released_on,gateway_version,sra_version,gateway_image,sra_image\n")
	row := func(chart, day string, images lab.Images) {
		fmt.Fprintf(&out, "%s,%s,%s,%s,%s,%s\n", chart, day, images.Gateway.Version, images.SRA.Version, images.Gateway.Tagged(), images.SRA.Tagged())
	}
	row("1.0.0", "2026-01-01", f.initial)
	row("1.1.0", "2026-02-01", f.better)
	row("1.2.0", "2026-03-01", f.latest)
	fmt.Fprintf(&out, "%s,2026-04-01,%s,%s,,\n", current.chart, current.gateway, current.sra)
	row(highest.chart, "2026-05-01", f.highest)
	return out.String()
}

func (f *fleet) config(args ...string) []string { return append(args, "--config", f.file()) }

func (f *fleet) status(t *testing.T, args ...string) map[string]*fleetv1.Cluster {
	t.Helper()
	out := make(map[string]*fleetv1.Cluster)
	for _, c := range list[fleetv1.Cluster](t, f.installation, f.config(append([]string{"status"}, args...)...)...) {
		out[c.GetId()] = c
	}
	return out
}

func (f *fleet) history(t *testing.T, cluster string) []*driftv1.Period {
	t.Helper()
	return list[driftv1.Period](t, f.installation, f.config("drift", "history", cluster, "-n", "1000")...)
}

// episodes are all of a cluster, the newest first.
func (f *fleet) episodes(t *testing.T, cluster string) []*driftv1.Drift {
	t.Helper()
	return list[driftv1.Drift](t, f.installation, f.config("drift", "list", cluster, "--since", f.began.UTC().Format(time.RFC3339))...)
}

// has waits until a cluster's episodes are as check wants them: history follows what
// is recorded within moments.
func (f *fleet) has(t *testing.T, cluster string, check func([]*driftv1.Drift) bool) {
	t.Helper()
	eventually(t, func() error {
		if got := f.episodes(t, cluster); !check(got) {
			return fmt.Errorf("the episodes of %s are %v", cluster, got)
		}
		return nil
	})
}

// settled waits until history has all that was recorded of every cluster that reports.
func (f *fleet) settled(t *testing.T) map[string][]*driftv1.Period {
	t.Helper()
	all := make(map[string][]*driftv1.Period)
	eventually(t, func() error {
		for id, c := range f.status(t) {
			all[id] = f.history(t, id)
			if c.GetLastSeen() == nil {
				continue
			}
			if len(all[id]) == 0 || all[id][0].GetState() != c.GetState() || all[id][0].GetAssignedRelease() != c.GetAssignedRelease() {
				return fmt.Errorf("%s is %v, and its history is %v", id, c, all[id])
			}
		}
		return nil
	})
	return all
}

// notices counts what the webhook was told of a cluster, each notice once.
func notices(t *testing.T, cluster string) map[string]int {
	t.Helper()
	heard := make(map[string]int)
	for _, d := range docker.Sink.Deliveries() {
		var body struct {
			Data struct{ Kind, Cluster string }
		}
		if err := json.Unmarshal(d.Body, &body); err != nil {
			t.Fatalf("notice %s: %v", d.ID, err)
		}
		if d.Changed {
			t.Errorf("notice %s came again with another body", d.ID)
		}
		if body.Data.Cluster == cluster {
			heard[body.Data.Kind]++
		}
	}
	return heard
}

// hears waits until the webhook was told of so many episodes that opened and closed,
// and fails when it was told of more.
func hears(t *testing.T, cluster string, opened, closed int) {
	t.Helper()
	eventually(t, func() error {
		got := notices(t, cluster)
		if got["drift_opened"] > opened || got["drift_closed"] > closed {
			t.Fatalf("of %s the webhook heard %v, want %d opened and %d closed", cluster, got, opened, closed)
		}
		if got["drift_opened"] < opened || got["drift_closed"] < closed {
			return fmt.Errorf("of %s the webhook heard %v, want %d opened and %d closed", cluster, got, opened, closed)
		}
		return nil
	})
}

// The whole of it on one server: clusters are adopted, changed by hand side by side,
// then cut off, and in the end the server is killed.
func TestFleet(t *testing.T) {
	f := raise(t)
	f.adopt(t)
	t.Run("changes", func(t *testing.T) {
		for name, change := range map[string]func(*testing.T){
			"by hand": f.stepsByHand, "overdue": f.getsStuck, "compose file": f.editsFile, "behind helm": f.goesBehindHelm,
			"bastion": f.bastionReports, "withdrawn": f.takesBack, "apply": f.declares,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				change(t)
			})
		}
	})
	if t.Failed() {
		return
	}
	t.Run("killed", f.survives)
	t.Run("outage", f.goesDark)
	t.Run("history", f.remembers)
	f.end(t)
	f.stop(t)
	for _, word := range []string{"panic:", "fatal error:"} {
		if strings.Contains(f.said(t), word) {
			t.Errorf("the server's log has %q", word)
		}
	}
}

// adopt takes clusters that run already under care: nobody knows what they should run
// until releases are imported and assigned.
func (f *fleet) adopt(t *testing.T) {
	t.Helper()
	for _, id := range clusters {
		words := []string{"no release is assigned", "lockstep assign"}
		if id == "nowhere" {
			words = []string{"no source has reported this cluster yet", "LS-CMP-"}
		}
		f.becomes(t, id, "unknown", time.Time{}, words...)
	}
	if got := slices.Sorted(maps.Keys(f.status(t))); !slices.Equal(got, clusters) {
		t.Fatalf("status shows %v, want %v", got, clusters)
	}
	from := filepath.Join(f.dir, "releases.csv")
	if got := read(t, f.installation, 0, &catalogv1.ImportReleasesResponse{}, f.config("releases", "import", from, "--dry-run")...); len(got.GetAdded()) != 5 {
		t.Errorf("a trial would add %v", got)
	}
	if got, _ := f.run(t, 0, f.config("releases", "list", "-o", "name")...); got != "" {
		t.Errorf("after a trial there are releases: %s", got)
	}
	got := read(t, f.installation, 0, &catalogv1.ImportReleasesResponse{}, f.config("releases", "import", from)...)
	if want := []string{"1.0.0", "1.1.0", "1.2.0", "3.3.0", "9.0.0"}; !slices.Equal(got.GetAdded(), want) || len(got.GetWithdrawn()) > 0 {
		t.Errorf("the import added %v, want %v", got, want)
	}
	if got := read(t, f.installation, 0, &catalogv1.ImportReleasesResponse{}, f.config("releases", "import", from)...); got.GetUnchanged() != 5 || len(got.GetAdded())+len(got.GetUpdated()) > 0 {
		t.Errorf("the import again did %v, want nothing", got)
	}
	eventually(t, func() error {
		if c := f.status(t)["berlin"]; !told(c.GetReasons(), "which is release 1.0.0") {
			return fmt.Errorf("what runs is not recognized: %v", c)
		}
		return nil
	})

	assigned := time.Now()
	f.run(t, 1, f.config("assign", "berlin", "--release", "1.7.0")...)
	f.run(t, 0, f.config("assign", "-l", "place=compose", "--release", "1.0.0", "--reason", "as found", "--yes")...)
	f.run(t, 0, f.config("assign", "east", "north", "west", "--release", current.chart, "--yes")...)
	f.run(t, 0, f.config("assign", "south", "--release", highest.chart)...)
	for id, chart := range map[string]string{
		"berlin": "1.0.0", "tokyo": "1.0.0", "east": current.chart, "north": current.chart, "west": current.chart, "south": highest.chart,
	} {
		if c := f.becomes(t, id, "locked", assigned, "runs release "+chart); c.GetAssignedRelease() != chart {
			t.Errorf("%s is to run %s", id, c.GetAssignedRelease())
		}
	}
	for _, id := range clusters {
		if got := f.episodes(t, id); len(got) != 0 {
			t.Errorf("%s had an episode of drift when it was adopted: %v", id, got)
		}
	}
}

// known waits until all is known of a Compose cluster: what its file declares is read
// twice a minute, and so many bastions register with the vendor.
func (f *fleet) known(t *testing.T, cluster string, bastions int) {
	t.Helper()
	eventually(t, func() error {
		if c := f.status(t)[cluster]; len(c.GetDeclared().GetCompose()) != 3 || len(c.GetBastions()) != bastions {
			return fmt.Errorf("of %s is known: %v", cluster, c)
		}
		return nil
	})
}

// stepsByHand moves berlin line by line with docker compose, inside its window, and
// then begins a rollout that it takes back. None of it is drift.
func (f *fleet) stepsByHand(t *testing.T) {
	f.known(t, "berlin", 1)
	if got := list[driftv1.Baseline](t, f.installation, f.config("baseline", "capture", "berlin", "--name", "before")...); len(got) != 1 || got[0].GetId() != "before/berlin" {
		t.Fatalf("captured %v, want before/berlin", got)
	}
	f.run(t, 0, f.config("baseline", "diff", "before/berlin", "--exit-code")...)

	moved := time.Now()
	f.berlin.up(t, f.better.Gateway.Pinned(), project.GatewayService)
	c := f.becomes(t, "berlin", "stepping", moved, "which may last 10m0s", "the default window", "no rollout drives it", "gateway 4.53.0, sra 3.0.3")
	if c.GetMixedSince().AsTime().Before(moved) || c.GetWindow().AsDuration() != mixedWindow {
		t.Errorf("berlin is mixed since %s for at most %s", c.GetMixedSince().AsTime(), c.GetWindow().AsDuration())
	}
	f.run(t, 0, f.config("assign", "berlin", "--release", "1.1.0")...)
	finished := time.Now()
	// One bastion after the other, so that there is always one.
	f.berlin.up(t, f.better.SRA.Pinned(), project.WebService)
	f.berlin.up(t, f.better.SRA.Pinned(), project.SSHService)
	registered(f.vendor, "berlin", "3.1.0")
	f.becomes(t, "berlin", "locked", finished, "runs release 1.1.0")

	// What is declared is read twice a minute.
	var diff *driftv1.CompareBaselineResponse
	eventually(t, func() error {
		diff = read(t, f.installation, 3, &driftv1.CompareBaselineResponse{}, f.config("baseline", "diff", "before/berlin", "--exit-code")...)
		about := make(map[string]bool)
		for _, d := range diff.GetDifferences() {
			about[d.GetAbout()] = true
		}
		for _, wanted := range []string{"version", "digest", "instance", "registration", "report", "package"} {
			if !about[wanted] {
				return fmt.Errorf("nothing is told about %s: %v", wanted, diff)
			}
		}
		return nil
	})
	for _, want := range []*driftv1.Difference{
		{About: "version", Subject: "gateway", Before: "4.52.0", After: "4.53.0", Text: "gateway ran 4.52.0 and runs 4.53.0"},
		{About: "version", Subject: "sra", Before: "3.0.3", After: "3.1.0", Text: "sra ran 3.0.3 and runs 3.1.0"},
		{About: "registration", Subject: "berlin-ssh", Before: "3.0.3", After: "3.1.0", Text: "bastion berlin-ssh reported 3.0.3 and reports 3.1.0"},
	} {
		if !slices.ContainsFunc(diff.GetDifferences(), func(d *driftv1.Difference) bool { return proto.Equal(d, want) }) {
			t.Errorf("the difference %v is not told: %v", want, diff.GetDifferences())
		}
	}
	for _, d := range diff.GetDifferences() {
		if d.GetAbout() == "digest" && d.GetSubject() == "gateway" && (d.GetBefore() != f.initial.Gateway.Digest || d.GetAfter() != f.better.Gateway.Digest) {
			t.Errorf("the gateway's images are told as %v", d)
		}
	}
	f.run(t, 0, f.config("baseline", "capture", "berlin", "--name", "after")...)
	f.run(t, 0, f.config("baseline", "diff", "after/berlin", "--exit-code")...)
	f.run(t, 3, f.config("baseline", "diff", "before/berlin", "after/berlin", "--exit-code")...)

	f.rollsOut(t)
	if got := f.episodes(t, "berlin"); len(got) != 0 {
		t.Errorf("berlin had episodes of drift: %v", got)
	}
	if got := notices(t, "berlin"); got["drift_opened"]+got["drift_closed"] != 0 {
		t.Errorf("of berlin the webhook heard %v", got)
	}
}

// rollsOut has a rollout move berlin's gateway, and takes it back.
func (f *fleet) rollsOut(t *testing.T) {
	f.run(t, 0, f.config("releases", "block", "1.2.0", "--reason", "not before Monday")...)
	f.refused(t, "1.2.0", "berlin", "LS-ROL-024", "blocked")
	f.run(t, 0, f.config("releases", "unblock", "1.2.0", "--reason", "it is Monday")...)

	begun := time.Now()
	out, _ := f.run(t, 0, f.config("rollout", "start", "--release", "1.2.0", "--cluster", "berlin", "--yes")...)
	id := strings.TrimSpace(out)
	c := f.becomes(t, "berlin", "stepping", begun, "rollout "+id+" moves it to 1.2.0")
	if c.GetRollout() != id || c.GetTargetRelease() != "1.2.0" || !strings.Contains(c.GetWindowBasis(), id) {
		t.Errorf("berlin steps as %v", c)
	}
	var captured []*driftv1.Baseline
	eventually(t, func() error {
		if captured = list[driftv1.Baseline](t, f.installation, f.config("baseline", "list", "--rollout", id)...); len(captured) == 0 {
			return fmt.Errorf("rollout %s has captured nothing", id)
		}
		return nil
	})
	if len(captured) != 1 || captured[0].GetClusterId() != "berlin" || captured[0].GetCluster().GetState() != "locked" || captured[0].GetCluster().GetAssignedRelease() != "1.1.0" ||
		captured[0].GetAt().AsTime().Before(begun) || captured[0].GetAt().AsTime().After(c.GetSince().AsTime()) {
		t.Fatalf("rollout %s captured %v", id, captured)
	}
	f.run(t, 3, f.config("baseline", "diff", captured[0].GetId(), "--exit-code")...)
	back := time.Now()
	f.run(t, 0, f.config("rollout", "rollback", id, "--reason", "enough seen", "--yes", "--wait", "--timeout", "2m")...)
	f.becomes(t, "berlin", "locked", back)
	eventually(t, func() error {
		c := f.status(t)["berlin"]
		if c.GetState() != "locked" || c.GetAssignedRelease() != "1.1.0" || c.GetRollout() != "" || !told(c.GetReasons(), "runs release 1.1.0") {
			return fmt.Errorf("after the rollback berlin is %v", c)
		}
		return nil
	})
}

// refused expects that a rollout of a release to a cluster cannot be planned, for a
// problem with these words.
func (f *fleet) refused(t *testing.T, chart, cluster, id string, words ...string) {
	t.Helper()
	plan := read(t, f.installation, 1, &rolloutv1.PlanRolloutResponse{}, f.config("rollout", "plan", "--release", chart, "--cluster", cluster)...)
	for _, p := range plan.GetProblems() {
		if p.GetId() == id && told([]string{p.GetText()}, words...) {
			return
		}
	}
	t.Errorf("that %s is refused for %s with %q is not told: %v", chart, id, words, plan.GetProblems())
}

// since is when a cluster came into its state, as history has it.
func since(c *fleetv1.Cluster) time.Time { return c.GetSince().AsTime().Truncate(time.Millisecond) }

// getsStuck has an upgrade of east's gateway get stuck half way until its window is
// over, and mends it. Sessions fail meanwhile.
func (f *fleet) getsStuck(t *testing.T) {
	stuck := time.Now()
	f.east.setImage(t, gatewayWorkload, gatewayImage+":5.1.0-crash")
	stepping := f.becomes(t, "east", "stepping", stuck, "the window configured for this cluster")
	overdue := f.becomes(t, "east", "overdue", stuck.Add(shortWindow), "longer than "+shortWindow.String(), "gateway should run 5.0.1 but runs 5.0.1 and 5.1.0-crash")
	if lasted := overdue.GetSince().AsTime().Sub(overdue.GetMixedSince().AsTime()); lasted < shortWindow {
		t.Errorf("east is overdue after a mix of %s", lasted)
	}
	f.has(t, "east", func(list []*driftv1.Drift) bool {
		return len(list) == 1 && list[0].GetClosedAt() == nil && slices.Equal(list[0].GetStates(), []string{"overdue"}) &&
			list[0].GetOpenedAt().AsTime().Truncate(time.Millisecond).Equal(since(overdue))
	})
	hears(t, "east", 1, 0)
	now := time.Now()
	for i, status := range []string{"failed", "completed"} {
		err := f.vendor.Report(akeylesstest.Session{
			ID: fmt.Sprintf("east-%d", i), Status: status, StartTime: now, EndTime: now.Add(time.Second), ConnectionType: "ssh", ClientType: "cli", InstanceID: "east-ssh",
			Gateway: akeylesstest.GatewayInfo{ClusterName: vendorCluster("east"), ClusterDisplayName: "east"}, UserIdentifier: "ada", TargetHost: "db", TargetName: "db", TargetType: "ssh",
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	f.explained(t, "east", "overdue")
	mended := time.Now()
	f.east.setImage(t, gatewayWorkload, gatewayImage+":"+current.gateway)
	locked := f.becomes(t, "east", "locked", mended)
	f.has(t, "east", func(list []*driftv1.Drift) bool {
		return len(list) == 1 && list[0].GetClosedAt().AsTime().Equal(since(locked)) && list[0].GetOpenedAt().AsTime().Equal(since(overdue))
	})
	hears(t, "east", 1, 1)

	// The accounts go by the periods to the millisecond.
	inside, outside := since(overdue).Sub(since(stepping)), since(locked).Sub(since(overdue))
	eventually(t, func() error {
		rows := list[driftv1.MixedTime](t, f.installation, f.config("history", "mixed", "--by", "cluster")...)
		for _, r := range rows {
			if r.GetKey() == "east" && r.GetInside().AsDuration() == inside && r.GetOutside().AsDuration() == outside && r.GetMixes() == 1 {
				return nil
			}
		}
		return fmt.Errorf("east was mixed for %s inside its window and for %s past it, and %v are told", inside, outside, rows)
	})
	if worst := list[driftv1.MixedTime](t, f.installation, f.config("history", "offenders")...); len(worst) == 0 || worst[0].GetKey() != "east" {
		t.Errorf("the offenders are %v, want east first", worst)
	}
	// Counts of sessions follow within a minute or two.
	eventually(t, func() error {
		for _, r := range list[driftv1.Impact](t, f.installation, f.config("history", "sessions", "--by", "cluster")...) {
			if r.GetKey() == "east" && r.GetOutside().GetSessions() == 2 && r.GetOutside().GetFailed() == 1 && r.GetInside().GetSessions()+r.GetWhole().GetSessions() == 0 {
				return nil
			}
		}
		return fmt.Errorf("of east's two sessions past its window one failed, and that is not told")
	})
}

// editsFile has tokyo's Compose file ask for another image than runs.
func (f *fleet) editsFile(t *testing.T) {
	f.known(t, "tokyo", 0)
	edited := time.Now()
	f.tokyo.edit(t, f.better.Gateway.Pinned(), project.GatewayService)
	c := f.becomes(t, "tokyo", "split", edited.Add(splitAfter), "Compose service "+project.GatewayService+" of project "+f.tokyo.project.Name+" does not run as its file says")
	if c.GetLines()[0].GetRunning()[0] != f.initial.Gateway.Version {
		t.Errorf("tokyo runs %v", c.GetLines())
	}
	f.explained(t, "tokyo", "split")
	f.tokyo.edit(t, f.initial.Gateway.Pinned(), project.GatewayService)
	f.becomes(t, "tokyo", "locked", c.GetSince().AsTime())
	f.once(t, "tokyo", "split")
}

// once expects that a cluster had one episode of drift that is over, in these states.
func (f *fleet) once(t *testing.T, cluster string, states ...string) {
	t.Helper()
	f.has(t, cluster, func(list []*driftv1.Drift) bool {
		return len(list) == 1 && list[0].GetClosedAt() != nil && slices.Equal(list[0].GetStates(), states)
	})
}

// goesBehindHelm moves west's gateway with kubectl, which Helm does not know of.
func (f *fleet) goesBehindHelm(t *testing.T) {
	patched := time.Now()
	f.west.setImage(t, gatewayWorkload, gatewayImage+":5.0.2")
	f.becomes(t, "west", "drifted", patched, "gateway should run 5.0.1 but runs 5.0.2")
	c := f.becomes(t, "west", "split", patched.Add(splitAfter), "Helm release gw declares gateway 5.0.1 but 5.0.2 runs")
	f.west.setImage(t, gatewayWorkload, gatewayImage+":"+current.gateway)
	f.becomes(t, "west", "locked", c.GetSince().AsTime())
	f.once(t, "west", "drifted", "split")
}

// bastionReports has north's bastion tell the vendor of another version than runs.
func (f *fleet) bastionReports(t *testing.T) {
	told := time.Now()
	registered(f.vendor, "north", "3.0.3")
	c := f.becomes(t, "north", "split", told.Add(splitAfter), "bastion north-ssh reports 3.0.3 but sra runs "+current.sra)
	if b := c.GetBastions(); len(b) != 1 || b[0].GetVersion() != "3.0.3" {
		t.Errorf("north's bastions are %v", b)
	}
	registered(f.vendor, "north", current.sra)
	f.becomes(t, "north", "locked", c.GetSince().AsTime())
	f.once(t, "north", "split")
}

// takesBack has the vendor go back from the version that south runs.
func (f *fleet) takesBack(t *testing.T) {
	taken := time.Now()
	text := "chart_version,released_on,gateway_version,sra_version\n9.1.0,2026-06-01,9.8.0,3.9.0\n"
	out, _ := f.feed(t, text, 0, f.config("releases", "import", "-")...)
	if !strings.Contains(out, highest.chart) {
		t.Errorf("that %s is withdrawn by it the import does not tell:\n%s", highest.chart, out)
	}
	const evidence = "chart akeyless-gateway 9.1.0 went back from gateway 9.9.0 to 9.8.0 on 2026-06-01, and no later one carries 9.9.0 again"
	f.becomes(t, "south", "withdrawn", taken, "runs gateway 9.9.0, which is withdrawn: "+evidence)
	var entries []struct{ ID, Status, Reason string }
	out, _ = f.run(t, 0, f.config("releases", "list", "--status", "withdrawn", "-o", "json")...)
	if err := json.Unmarshal([]byte(out), &entries); err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1 || entries[0].ID != highest.chart || entries[0].Reason != evidence {
		t.Errorf("withdrawn are %v", entries)
	}
	f.refused(t, highest.chart, "tokyo", "LS-ROL-024", evidence)
	f.explained(t, "south", "withdrawn")
}

// explained expects a cluster's story, which says its state first, in ten lines at
// most.
func (f *fleet) explained(t *testing.T, cluster, state string) {
	t.Helper()
	story := read(t, f.installation, 0, &driftv1.ExplainDriftResponse{}, f.config("drift", "explain", cluster)...)
	if n := len(story.GetLines()); n == 0 || n > 10 || !strings.Contains(story.GetLines()[0].GetText(), state) {
		t.Errorf("the story of %s is %v", cluster, story.GetLines())
	}
	for _, line := range story.GetLines() {
		if line.GetAbout() == "" || strings.TrimSpace(line.GetText()) == "" || strings.Contains(line.GetText(), "\n") {
			t.Errorf("a line of %s's story is %v", cluster, line)
		}
	}
	out, _ := f.run(t, 0, f.config("drift", "explain", cluster)...)
	if n := strings.Count(out, "\n"); n == 0 || n > 10 {
		t.Errorf("the story of %s has %d lines:\n%s", cluster, n, out)
	}
}

// declares adds paris to the server that runs.
func (f *fleet) declares(t *testing.T) {
	path := filepath.Join(f.dir, "paris.yaml")
	if err := os.WriteFile(path, []byte("clusters:\n"+f.paris.declaration("paris", `release: "1.0.0"`)), 0o600); err != nil {
		t.Fatal(err)
	}
	before, _ := f.run(t, 0, f.config("export")...)
	trial := read(t, f.installation, 3, &fleetv1.ApplyFleetResponse{}, f.config("apply", "-f", path, "--dry-run", "--exit-code")...)
	if c := trial.GetChanges(); len(c) != 1 || c[0].GetId() != "paris" || c[0].GetAction() != "created" {
		t.Errorf("a trial would change %v", c)
	}
	if after, _ := f.run(t, 0, f.config("export")...); after != before {
		t.Errorf("a trial changed the fleet from\n%s\nto\n%s", before, after)
	}
	applied := time.Now()
	f.run(t, 0, f.config("apply", "-f", path, "--reason", "paris is new", "--yes")...)
	c := f.becomes(t, "paris", "locked", applied, "runs release 1.0.0")
	if len(c.GetInstances()) != 3 || c.GetLabels()["place"] != "compose" {
		t.Errorf("paris is %v", c)
	}
	whole, _ := f.run(t, 0, f.config("export")...)
	out, _ := f.feed(t, whole, 0, f.config("apply", "-f", "-", "--dry-run", "--exit-code", "-o", "json")...)
	if strings.Contains(out, `"created"`) || strings.Contains(out, `"updated"`) || strings.Contains(out, `"removed"`) {
		t.Errorf("what is exported would change the fleet:\n%s", out)
	}
	f.feed(t, whole, 0, f.config("apply", "-f", "-", "--yes")...)
	if again, _ := f.run(t, 0, f.config("export")...); again != whole {
		t.Errorf("what is exported changed the fleet from\n%s\nto\n%s", whole, again)
	}
}

// survives kills the server while drift is open, and mends it while it is away.
func (f *fleet) survives(t *testing.T) {
	stuck := time.Now()
	f.east.setImage(t, gatewayWorkload, gatewayImage+":5.1.0-crash")
	f.becomes(t, "east", "overdue", stuck.Add(shortWindow))
	hears(t, "east", 2, 1)
	before := f.snapshot(t)
	for id, want := range map[string][2]string{
		"berlin": {"locked", "1.1.0"}, "east": {"overdue", current.chart}, "nowhere": {"unknown", ""}, "paris": {"locked", "1.0.0"}, "south": {"withdrawn", highest.chart},
	} {
		if c := before.states[id]; c.GetState() != want[0] || c.GetAssignedRelease() != want[1] {
			t.Errorf("before the server is killed %s is %v, want %v", id, c, want)
		}
	}
	f.kill(t)
	f.start(t)
	before.same(t, f.snapshot(t))

	f.kill(t)
	mended := time.Now()
	f.east.setImage(t, gatewayWorkload, gatewayImage+":"+current.gateway)
	f.start(t)
	f.becomes(t, "east", "locked", mended)
	hears(t, "east", 2, 2)
	f.has(t, "east", func(list []*driftv1.Drift) bool {
		return len(list) == 2 && list[0].GetClosedAt() != nil && list[1].GetClosedAt() != nil
	})

	path := filepath.Join(f.dir, "berlin.yaml")
	if err := os.WriteFile(path, []byte("clusters:\n"+f.berlin.declaration("berlin", atVendor("berlin"))), 0o600); err != nil {
		t.Fatal(err)
	}
	f.run(t, 0, f.config("apply", "-f", path, "--dry-run", "--exit-code")...)
	got := read(t, f.installation, 0, &fleetv1.ApplyFleetResponse{}, f.config("apply", "-f", path, "--prune", "--yes")...)
	for _, c := range got.GetChanges() {
		if removed := c.GetId() == "paris" && c.GetAction() == "removed"; !removed && c.GetAction() != "unchanged" {
			t.Errorf("pruning did %v", c)
		}
	}
	if ids := slices.Sorted(maps.Keys(f.status(t))); !slices.Equal(ids, clusters) {
		t.Errorf("after paris was removed status shows %v, want %v", ids, clusters)
	}
	eventually(t, func() error {
		if c, _ := f.look("paris"); c != nil {
			return fmt.Errorf("who watches is not told that paris is gone")
		}
		return nil
	})
}

// standing is all that a server remembers of a fleet that does not change.
type standing struct {
	states   map[string]*fleetv1.Cluster
	episodes map[string][]*driftv1.Drift
	periods  map[string][]*driftv1.Period
}

func (f *fleet) snapshot(t *testing.T) standing {
	t.Helper()
	s := standing{periods: f.settled(t), states: f.status(t), episodes: make(map[string][]*driftv1.Drift)}
	for id := range s.states {
		s.episodes[id] = f.episodes(t, id)
	}
	return s
}

// same expects that nothing that was there is gone or doubled.
func (s standing) same(t *testing.T, after standing) {
	t.Helper()
	if got, want := slices.Sorted(maps.Keys(after.states)), slices.Sorted(maps.Keys(s.states)); !slices.Equal(got, want) {
		t.Fatalf("status shows %v, showed %v", got, want)
	}
	for id, was := range s.states {
		is := after.states[id]
		if is.GetState() != was.GetState() || !proto.Equal(is.GetSince(), was.GetSince()) || is.GetAssignedRelease() != was.GetAssignedRelease() {
			t.Errorf("%s was %s since %s on %q and is %s since %s on %q", id, was.GetState(), was.GetSince().AsTime(), was.GetAssignedRelease(),
				is.GetState(), is.GetSince().AsTime(), is.GetAssignedRelease())
		}
		equal(t, "an episode of "+id, s.episodes[id], after.episodes[id])
		equal(t, "a period of "+id, s.periods[id], after.periods[id])
	}
}

func equal[M proto.Message](t *testing.T, what string, before, after []M) {
	t.Helper()
	if !slices.EqualFunc(before, after, func(a, b M) bool { return proto.Equal(a, b) }) {
		t.Errorf("%s is another one: there were\n%v\nand are\n%v", what, before, after)
	}
}

// goesDark takes away the engine of tokyo and the API server of four clusters.
func (f *fleet) goesDark(t *testing.T) {
	away := time.Now()
	f.cut.cut()
	if err := cluster.StopAPIServer(); err != nil {
		t.Fatal(err)
	}
	f.becomes(t, "tokyo", "dark", away, "no report since", "LS-CMP-")
	for _, id := range []string{"east", "north", "south", "west"} {
		f.becomes(t, id, "dark", away, "no report since", "LS-KUB-002")
	}
	f.explained(t, "tokyo", "dark")
	if c := f.status(t)["berlin"]; c.GetState() != "locked" {
		t.Errorf("berlin, which can be seen, is %v", c)
	}
	back := time.Now()
	f.cut.mend(t)
	if err := cluster.StartAPIServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"tokyo", "east", "north", "west"} {
		f.becomes(t, id, "locked", back)
	}
	f.becomes(t, "south", "withdrawn", back)
	// For south it is one episode that goes on.
	f.has(t, "south", func(list []*driftv1.Drift) bool {
		return len(list) == 1 && list[0].GetClosedAt() == nil && slices.Equal(list[0].GetStates(), []string{"withdrawn", "dark", "withdrawn"})
	})
}

// remembers asks for what was: the periods of every cluster are the whole of its time,
// and the fleet of an instant is what those periods say.
func (f *fleet) remembers(t *testing.T) {
	all, now := f.settled(t), f.status(t)
	for _, id := range clusters {
		periods(t, id, all[id])
	}
	// In the middle of every period of east, and what the others were then.
	for _, of := range all["east"] {
		if of.GetEndedAt() == nil {
			continue
		}
		began, ended := of.GetBeganAt().AsTime(), of.GetEndedAt().AsTime()
		at := began.Add(ended.Sub(began) / 2)
		then := f.status(t, "--as-of", at.UTC().Format(time.RFC3339Nano))
		for id, periods := range all {
			i := slices.IndexFunc(periods, func(p *driftv1.Period) bool { return !p.GetBeganAt().AsTime().After(at) })
			if i < 0 {
				continue
			}
			if c := then[id]; c.GetState() != periods[i].GetState() || c.GetAssignedRelease() != periods[i].GetAssignedRelease() {
				t.Errorf("%s at %s was %v, and its period then is %v", id, at, c, periods[i])
			}
		}
	}
	for _, id := range clusters {
		f.explained(t, id, now[id].GetState())
	}
	for _, row := range list[driftv1.MixedTime](t, f.installation, f.config("history", "mixed")...) {
		spent := make(map[string]time.Duration)
		for _, p := range all[row.GetKey()] {
			spent[p.GetState()] += p.GetEndedAt().AsTime().Sub(p.GetBeganAt().AsTime())
		}
		if row.GetInside().AsDuration() != spent["stepping"] || row.GetOutside().AsDuration() != spent["overdue"] {
			t.Errorf("%v is summed up, and the periods say %v", row, spent)
		}
	}
	f.heard(t)
	converged := list[driftv1.Convergence](t, f.installation, f.config("history", "convergence")...)
	if !slices.ContainsFunc(converged, func(c *driftv1.Convergence) bool {
		return c.GetRelease() == current.chart && c.GetClusters() == 3 && c.GetConverged() == 3
	}) {
		t.Errorf("that three clusters came to run %s is not told: %v", current.chart, converged)
	}
	adopted := list[driftv1.Adoption](t, f.installation, f.config("history", "adoption", "--line", "sra", "--last", "1h", "--step", "1m")...)
	if !slices.ContainsFunc(adopted, func(a *driftv1.Adoption) bool { return a.GetVersion() == current.sra && a.GetClusters() == 3 }) {
		t.Errorf("that three clusters ran sra %s is not told: %v", current.sra, adopted)
	}
}

// heard expects that the webhook was told once of all that happened to every episode.
func (f *fleet) heard(t *testing.T) {
	t.Helper()
	// Of those of east an upgrade got stuck in two, and the outage was one for every
	// cluster that it hid and that was fine.
	for id, episodes := range map[string]int{"berlin": 0, "east": 3, "north": 2, "nowhere": 0, "south": 1, "tokyo": 2, "west": 2} {
		if got := f.episodes(t, id); len(got) != episodes {
			t.Errorf("%s had %d episodes of drift, want %d: %v", id, len(got), episodes, got)
		}
		want := make(map[string]int)
		for _, e := range f.episodes(t, id) {
			want["drift_opened"]++
			want["drift_changed"] += len(e.GetStates()) - 1
			if e.GetClosedAt() != nil {
				want["drift_closed"]++
			}
		}
		eventually(t, func() error {
			got := notices(t, id)
			for _, kind := range []string{"drift_opened", "drift_changed", "drift_closed"} {
				if got[kind] != want[kind] {
					return fmt.Errorf("of %s the webhook heard %v, want %v", id, got, want)
				}
			}
			return nil
		})
	}
}

// periods expects that a cluster's periods, the newest first, follow one another
// without a gap and differ.
func periods(t *testing.T, id string, list []*driftv1.Period) {
	t.Helper()
	if len(list) == 0 && id != "nowhere" {
		t.Errorf("%s has no history", id)
	}
	for i, p := range list {
		if p.GetCluster() != id {
			t.Errorf("among the periods of %s is %v", id, p)
		}
		switch {
		case i == 0:
			if p.GetEndedAt() != nil {
				t.Errorf("the last period of %s has ended: %v", id, p)
			}
		case !proto.Equal(p.GetEndedAt(), list[i-1].GetBeganAt()) || !p.GetEndedAt().AsTime().After(p.GetBeganAt().AsTime()):
			t.Errorf("%s: a period %v is followed by %v", id, p, list[i-1])
		}
	}
}
