//go:build integration

package compose_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/client"

	"github.com/lockstep-fleet/lockstep/adapters/compose"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/integration/lab/engine"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

const limit = 30 * time.Second

// watch follows a deployment's project until the test ends.
func watch(t *testing.T, d *compose.Deployment) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- d.Watch(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("Watch returned %v", err)
		}
	})
}

// until reads the inventory at each signal, and only then, until it is as wanted.
// It returns how often it read.
func until(t *testing.T, d *compose.Deployment, what string, wanted func(map[string]fleet.Instance) bool) int {
	t.Helper()
	timeout := time.After(limit)
	var seen map[string]fleet.Instance
	for reads := 1; ; reads++ {
		select {
		case <-d.Changed():
		case <-timeout:
			t.Fatalf("no signal led to: %s; last seen were %+v", what, seen)
		}
		inventory, err := d.Inventory(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		seen = make(map[string]fleet.Instance)
		for _, instance := range inventory.Instances {
			seen[instance.Service] = instance
		}
		if wanted(seen) {
			return reads
		}
	}
}

func healthy(services ...string) func(map[string]fleet.Instance) bool {
	return func(seen map[string]fleet.Instance) bool {
		for _, service := range services {
			if seen[service].Health != fleet.HealthHealthy {
				return false
			}
		}
		return true
	}
}

func TestWatchTellsWhatHappens(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	target := f.standard()
	d := compose.NewDeployment(f.engine(nil), "east", target, time.Now)
	watch(t, d)
	until(t, d, "following, with nothing there", func(seen map[string]fleet.Instance) bool { return len(seen) == 0 })

	up := make(chan error, 1)
	go func() { up <- f.up(target, true) }()
	reads := until(t, d, "the project is up", healthy(gateway, "akeyless-web", "akeyless-ssh"))
	if err := <-up; err != nil {
		t.Fatal(err)
	}
	// It takes a dozen events to get there, beside hundreds of health checks.
	if t.Logf("a project that came up was read %d times", reads); reads > 14 {
		t.Errorf("a project that came up was read %d times", reads)
	}
	before := f.state()

	// Health checks run several times a second by now and change nothing.
	select {
	case <-d.Changed():
		// One more sign may follow the last that was needed.
	case <-time.After(time.Second):
	}
	select {
	case <-d.Changed():
		t.Error("a signal while nothing but health checks happens")
	case <-time.After(1500 * time.Millisecond):
	}

	if _, err := f.api.ContainerKill(t.Context(), before["akeyless-ssh"].ID, client.ContainerKillOptions{Signal: "KILL"}); err != nil {
		t.Fatal(err)
	}
	until(t, d, "the bastion is gone", func(seen map[string]fleet.Instance) bool {
		return seen["akeyless-ssh"].Health == fleet.HealthStopped && seen[gateway].Health == fleet.HealthHealthy
	})

	f.image("zero-trust-bastion", "2.0", "sick", "amd64")
	f.edit("compose.yaml", "zero-trust-bastion:1.0\n    profiles", "zero-trust-bastion:2.0\n    profiles")
	old := f.state()["akeyless-ssh"].ID
	if err := f.up(target, false); err != nil {
		t.Fatal(err)
	}
	until(t, d, "another bastion is there and unhealthy", func(seen map[string]fleet.Instance) bool {
		now := seen["akeyless-ssh"]
		return string(now.ID) != old && now.Tag == "2.0" && now.Health == fleet.HealthUnhealthy
	})
}

func declared(t *testing.T, d *compose.Deployment) fleet.Package {
	t.Helper()
	p, err := d.Package(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// wants compares what a package says of each service: its state, then its
// differences.
func wants(t *testing.T, when string, p fleet.Package, want map[string][]string) {
	t.Helper()
	got := make(map[string][]string)
	for _, s := range p.Compose {
		got[s.Service] = append([]string{string(s.State)}, s.Differences...)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", when, diff)
	}
}

func TestPackageTellsEditsThatWereNeverApplied(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	target := f.standard()
	same := map[string][]string{"akeyless-cache": {"same"}, gateway: {"same"}, "akeyless-ssh": {"same"}, "akeyless-web": {"same"}}
	e := f.engine(nil)
	d := compose.NewDeployment(e, "east", target, time.Now)
	wants(t, "before it was ever up", declared(t, d), map[string][]string{
		"akeyless-cache": {"missing", "containers: the files ask for 1, 0 are there"}, gateway: {"missing", "containers: the files ask for 1, 0 are there"},
		"akeyless-ssh": {"missing", "containers: the files ask for 1, 0 are there"}, "akeyless-web": {"missing", "containers: the files ask for 1, 0 are there"},
	})
	f.userUp(target)
	first := declared(t, d)
	wants(t, "as docker compose brought it up", first, same)
	running := f.containers()
	for _, s := range first.Compose {
		if label := running[s.Service].Config.Labels["com.docker.compose.config-hash"]; s.ConfigHash != label || s.Project != f.project {
			t.Errorf("service %s of project %s has the hash %s, docker compose made it %s", s.Service, s.Project, s.ConfigHash, label)
		}
	}

	next := f.image("akeyless/base", "2.0", "good", "amd64")
	f.edit("compose.yaml", "akeyless/base:1.0", "akeyless/base:2.0", "    stop_grace_period: 2s", "    stop_grace_period: 3s")
	f.write("gateway.env", "VERSION=2.0\nSECRET=other-secret\nADDED=new-secret\n")
	edited := declared(t, d)
	wants(t, "after edits", edited, map[string][]string{
		"akeyless-cache": {"same"}, "akeyless-web": {"same"}, "akeyless-ssh": {"changed", "other configuration differs"},
		gateway: {
			"changed", "image: the files ask for " + f.repo("akeyless/base") + ":2.0, " + f.repo("akeyless/base") + ":1.0 runs",
			"environment ADDED: what runs does not have it", "environment SECRET: another value runs", `environment VERSION: the files say "2.0", "1.0" runs`,
		},
	})
	if text := fmt.Sprintf("%+v", edited); strings.Contains(text, "secret") || strings.Contains(text, "a$b c") {
		t.Errorf("the package tells secrets: %s", text)
	}
	inventory, err := d.Inventory(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, instance := range inventory.Instances {
		want := instance.Image
		if instance.Service == gateway {
			want = f.repo("akeyless/base") + ":2.0"
		}
		if instance.Declared != want {
			t.Errorf("service %s: %s is declared, want %s", instance.Service, instance.Declared, want)
		}
	}

	// Lockstep brings images up by digest; that is what the files ask for, too.
	apply(t, e, retarget(t, capture(t, e, target), map[string]string{gateway: next}, map[string]map[string]string{gateway: {"VERSION": "2.0"}}))
	wants(t, "after the edits were applied", declared(t, d), same)

	// Someone pulls a tag that was pushed again: docker compose would recreate.
	f.image("cache", "1.0", "slow", "amd64")
	pull, err := f.api.ImagePull(t.Context(), f.repo("cache")+":1.0", client.ImagePullOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := pull.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.edit("compose.yaml", "  akeyless-web:", "  akeyless-front:", "container_name: "+f.project+"-sra-web", "scale: 2")
	wants(t, "after a pull and a renamed service", declared(t, d), map[string][]string{
		"akeyless-cache": {"changed", "image: " + f.repo("cache") + ":1.0 was pulled or built anew, an older one runs"},
		gateway:          {"same"}, "akeyless-ssh": {"same"},
		"akeyless-web":   {"extra", "container " + f.project + "-sra-web (" + f.repo("zero-trust-bastion") + ":1.0) is of a service that the files do not have"},
		"akeyless-front": {"missing", "containers: the files ask for 2, 0 are there"},
	})

	target.Profiles = []string{"gateway"}
	wants(t, "with one profile", declared(t, compose.NewDeployment(e, "east", target, time.Now)), map[string][]string{
		"akeyless-cache": {"changed", "image: " + f.repo("cache") + ":1.0 was pulled or built anew, an older one runs"}, gateway: {"same"},
		"akeyless-web": {"extra", "container " + f.project + "-sra-web (" + f.repo("zero-trust-bastion") + ":1.0) is of a service that the files do not have"},
	})

	if err := os.Remove(filepath.Join(f.dir, "compose.yaml")); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Package(t.Context()); errs.IDOf(err) != "LS-CMP-003" {
		t.Errorf("a package without files: %v", err)
	}
	inventory, err = d.Inventory(t.Context())
	if err != nil || len(inventory.Instances) != 3 || inventory.Instances[0].Declared != "" {
		t.Errorf("an inventory without files: %+v, %v", inventory, err)
	}
}

// Compose hashes what shares a namespace or volumes with the other's container id.
func TestPackageOfServicesThatShare(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	f.image("thing", "1.0", "good", "amd64")
	f.write("compose.yaml", fmt.Sprintf(`
services:
  one: {image: %[1]s, network_mode: none, volumes: [/data]}
  two: {image: %[1]s, network_mode: "service:one", pid: "service:one", volumes_from: ["one:ro"], environment: {NOTHING: , MODE: good}}
`, f.repo("thing")+":1.0"))
	target := compose.Target{Project: f.project, Dir: f.dir, Files: []string{"compose.yaml"}}
	// The second finds its port taken and ends: it need not run to be compared.
	if err := f.up(target, false); err != nil {
		t.Fatal(err)
	}
	d := compose.NewDeployment(f.engine(nil), "east", target, time.Now)
	wants(t, "as it was brought up", declared(t, d), map[string][]string{"one": {"same"}, "two": {"same"}})
	f.edit("compose.yaml", "MODE: good", "MODE: other")
	wants(t, "after an edit", declared(t, d), map[string][]string{"one": {"same"}, "two": {"changed", "environment MODE: another value runs"}})
}

func TestARestartOfTheEngineIsSurvived(t *testing.T) {
	t.Parallel()
	// Its own engine: the others are in use.
	own, err := engine.Start(t.Context(), engine.Options{Getenv: func(string) string { return "" }, DataRoot: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := own.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	f := newFixtureOn(t, own.Host())
	f.image("akeyless/base", "1.0", "good", "amd64")
	f.write("compose.yaml", "services: {akeyless-gateway: {image: '"+f.repo("akeyless/base")+":1.0', network_mode: none, restart: always}}")
	target := compose.Target{Project: f.project, Dir: f.dir, Files: []string{"compose.yaml"}}
	f.userUp(target)

	var said journal
	e, err := compose.New(compose.Options{Host: f.host, Logger: slog.New(slog.NewTextHandler(&said, nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	d := compose.NewDeployment(e, "east", target, time.Now)
	watch(t, d)
	until(t, d, "the gateway is healthy", healthy(gateway))

	var started time.Time
	err = own.Restart(t.Context(), func() {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if _, err := d.Inventory(ctx); errs.IDOf(err) != "LS-CMP-001" {
			t.Errorf("an inventory of an engine that is down: %v", err)
		}
		if _, err := d.Package(ctx); errs.IDOf(err) != "LS-CMP-001" {
			t.Errorf("a package on an engine that is down: %v", err)
		}
		// What the engine's end told is read while it is down.
		select {
		case <-d.Changed():
		case <-time.After(3 * time.Second):
		}
		started = time.Now()
	})
	if err != nil {
		t.Fatal(err)
	}
	until(t, d, "the gateway runs again", func(seen map[string]fleet.Instance) bool {
		return seen[gateway].Health == fleet.HealthHealthy && seen[gateway].StartedAt.After(started)
	})
	wants(t, "after the restart", declared(t, d), map[string][]string{gateway: {"same"}})
	if text := said.String(); strings.Count(text, "docker events are lost") != 1 || strings.Count(text, "followed again") != 1 {
		t.Errorf("a loss is told otherwise than once, or its end is:\n%s", text)
	}
}

// journal is a log that is read while it is written.
type journal struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.text.String()
}
