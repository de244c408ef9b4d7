//go:build integration

package compose_test

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lockstep-fleet/lockstep/adapters/compose"
	"github.com/lockstep-fleet/lockstep/adapters/docker"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

const gateway = "akeyless-gateway"

func capture(t *testing.T, e *compose.Engine, target compose.Target) compose.Package {
	t.Helper()
	p, err := e.Capture(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func retarget(t *testing.T, p compose.Package, images map[string]string, env map[string]map[string]string) compose.Package {
	t.Helper()
	out, err := compose.Retarget(p, images, env)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func apply(t *testing.T, e *compose.Engine, p compose.Package) {
	t.Helper()
	begin := time.Now()
	if err := e.Apply(t.Context(), p, func(v compose.Event) { t.Log(v.Phase, v.Subject, v.Text) }); err != nil {
		t.Fatal(err)
	}
	t.Logf("applied in %s", time.Since(begin).Round(time.Millisecond))
	if err := e.Verify(t.Context(), p); err != nil {
		t.Fatal(err)
	}
}

// changed lists the services whose container is another or was restarted.
func changed(before, after map[string]seen) []string {
	var out []string
	for _, service := range slices.Sorted(maps.Keys(after)) {
		if before[service].ID != after[service].ID || before[service].Started != after[service].Started {
			out = append(out, service)
		}
	}
	return out
}

func TestOnlyTheChangedServiceIsRecreated(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	target := f.standard()
	f.userUp(target)
	e := f.engine(nil)
	if err := e.Check(t.Context(), target); err != nil {
		t.Fatal(err)
	}
	first := f.state()

	old := capture(t, e, target)
	apply(t, e, old)
	if got := changed(first, f.state()); got != nil {
		t.Fatalf("applying what was captured changed %q", got)
	}

	next := retarget(t, old, map[string]string{gateway: f.image("akeyless/base", "2.0", "good", "amd64")}, map[string]map[string]string{gateway: {"VERSION": "2.0"}})
	if err := e.Verify(t.Context(), next); err == nil {
		t.Fatal("the old project verifies as the new package")
	}
	apply(t, e, next)
	second := f.state()
	if got := changed(first, second); !slices.Equal(got, []string{gateway}) {
		t.Fatalf("retargeting the gateway changed %q", got)
	}
	if second[gateway].Name != first[gateway].Name {
		t.Errorf("the gateway's container is now named %s, was %s", second[gateway].Name, first[gateway].Name)
	}
	labels := f.containers()[gateway].Config.Labels
	for key, want := range map[string]string{
		"com.docker.compose.project.working_dir":  f.dir,
		"com.docker.compose.project.config_files": filepath.Join(f.dir, "compose.yaml"),
		"com.docker.compose.oneoff":               "False",
	} {
		if labels[key] != want {
			t.Errorf("label %s is %q, want %q: docker compose ps would not know the container", key, labels[key], want)
		}
	}

	apply(t, e, next)
	if got := changed(second, f.state()); got != nil {
		t.Fatalf("applying the same package again changed %q", got)
	}

	// What follows someone's edits must come from the package, not from disk.
	f.write("compose.yaml", "services: {}\n")
	if err := os.Remove(filepath.Join(f.dir, "gateway.env")); err != nil {
		t.Fatal(err)
	}
	stored, err := compose.Decode(old.Encode())
	if err != nil {
		t.Fatal(err)
	}
	apply(t, e, stored)
	third := f.state()
	if got := changed(second, third); !slices.Equal(got, []string{gateway}) {
		t.Fatalf("going back changed %q", got)
	}
	restored := f.containers()[gateway]
	for _, line := range []string{"VERSION=1.0", "SECRET=a$b c"} {
		if !slices.Contains(restored.Config.Env, line) {
			t.Errorf("the restored gateway's environment %q lacks %q", restored.Config.Env, line)
		}
	}
}

func TestCaptureTellsWhatRunsFromWhatIsWritten(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	target := f.standard()
	f.userUp(target)
	e := f.engine(nil)
	before := capture(t, e, target)
	f.write("gateway.env", "VERSION=9.9\n")
	edited := strings.ReplaceAll(string(before.Files[0].Content), "akeyless/base:1.0", "akeyless/base:9.9")
	f.write("compose.yaml", edited)
	after := capture(t, e, target)
	if after.Image(gateway) != before.Image(gateway) {
		t.Errorf("the package has %s, but %s runs", after.Image(gateway), before.Image(gateway))
	}
	if err := e.Verify(t.Context(), after); err != nil {
		t.Errorf("a captured package does not describe what runs: %v", err)
	}
}

func TestSickImageIsToldWithItsLogAndUndone(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	target := f.standard()
	f.userUp(target)
	e := f.engine(nil)
	old := capture(t, e, target)
	for _, mode := range []string{"sick", "crash"} {
		bad := retarget(t, old, map[string]string{gateway: f.image("akeyless/base", mode, mode, "amd64")}, nil)
		err := e.Apply(t.Context(), bad, nil)
		var failure *compose.ServiceError
		if !errors.As(err, &failure) {
			t.Fatalf("applying a %s image: %v, want a service error", mode, err)
		}
		line := map[string]string{"sick": "no route to the vault", "crash": "cannot read its licence"}[mode]
		if failure.Service != gateway || !strings.Contains(strings.Join(failure.Log, "\n"), line) || !strings.Contains(err.Error(), line) {
			t.Errorf("%s: the error does not show why: %v", mode, err)
		}
		t.Log(err)
		apply(t, e, old)
	}
}

func TestNothingStopsBeforeEveryImageIsThere(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	target := f.standard()
	f.userUp(target)
	e := f.engine(nil)
	old := capture(t, e, target)
	before := f.state()
	good := f.image("akeyless/base", "2.0", "good", "amd64")
	for name, c := range map[string]struct{ image, says string }{
		"unpublished":        {f.repo("zero-trust-bastion") + ":2.0@sha256:" + strings.Repeat("0", 64), "not published"},
		"other architecture": {f.image("zero-trust-bastion", "arm", "good", "arm64"), "linux/arm64"},
	} {
		p := retarget(t, old, map[string]string{gateway: good, "akeyless-web": c.image}, nil)
		err := e.Apply(t.Context(), p, nil)
		if err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "akeyless-web") {
			t.Errorf("%s: %v, want an error that says %q and names the service", name, err, c.says)
		}
		t.Log(err)
		if got := changed(before, f.state()); got != nil {
			t.Errorf("%s: %q changed", name, got)
		}
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := e.Apply(cancelled, retarget(t, old, map[string]string{gateway: good}, nil), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled apply: %v", err)
	}
	if got := changed(before, f.state()); got != nil {
		t.Errorf("a cancelled apply changed %q", got)
	}
}

// TestStoppedAtAnyCallIsRepaired refuses every change from the n-th on, for n =
// 1, 2, …, as a kill or a lost lease would, and then goes back to the old package
// or on to the new one.
func TestStoppedAtAnyCallIsRepaired(t *testing.T) {
	t.Parallel()
	for name, onward := range map[string]bool{"back": false, "onward": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFixture(t)
			target := f.standard()
			f.userUp(target)
			steady := f.engine(nil)
			old := capture(t, steady, target)
			names := f.state()
			next := retarget(t, old, map[string]string{
				gateway:        f.image("akeyless/base", "2.0", "good", "amd64"),
				"akeyless-web": f.image("zero-trust-bastion", "2.0", "good", "amd64"),
			}, nil)
			stop := errors.New("stopped for the test")
			const enough = 40 // two services take about a dozen calls
			for n := int64(1); ; n++ {
				if n > enough {
					t.Fatalf("still stopped after %d calls", n)
				}
				var calls atomic.Int64
				fragile := f.engine(func(context.Context) error {
					if calls.Add(1) > n {
						return stop
					}
					return nil
				})
				err := fragile.Apply(t.Context(), next, nil)
				if err == nil {
					t.Logf("a whole apply takes %d changing calls", calls.Load())
					return
				}
				if !errors.Is(err, stop) {
					t.Fatalf("stopped after %d calls: %v", n, err)
				}
				repair := []compose.Package{old}
				if onward {
					repair = []compose.Package{next, old}
				}
				for _, p := range repair {
					apply(t, steady, p)
					for service, c := range f.state() {
						if c.Name != names[service].Name {
							t.Fatalf("stopped after %d calls: the container of %s is left with the name %s, was %s", n, service, c.Name, names[service].Name)
						}
					}
				}
			}
		})
	}
}

func TestResolve(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	e := f.engine(nil)
	want := f.image("thing", "1.0", "good", "amd64")
	for _, image := range []string{f.repo("thing") + ":1.0", want} {
		if got, err := e.Resolve(t.Context(), image); got != want || err != nil {
			t.Errorf("Resolve(%s) = %s, %v; want %s", image, got, err, want)
		}
	}
	f.image("thing", "arm", "good", "arm64")
	for tag, says := range map[string]string{"arm": "linux/arm64", "7.7": "not published"} {
		if _, err := e.Resolve(t.Context(), f.repo("thing")+":"+tag); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("Resolve of tag %s: %v, want an error that says %q", tag, err, says)
		}
	}
}

func TestCaptureOfAStoppedProject(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	target := f.standard()
	e := f.engine(nil)
	p := capture(t, e, target)
	apply(t, e, p)
	if got := capture(t, e, target); got.Image(gateway) != p.Image(gateway) {
		t.Errorf("running %s, captured before as %s", got.Image(gateway), p.Image(gateway))
	}
	f.write("compose.yaml", strings.ReplaceAll(string(p.Files[0].Content), "cache:1.0", "cache:8.8"))
	f.cleanupContainers()
	if _, err := e.Capture(t.Context(), target); err == nil || !strings.Contains(err.Error(), "akeyless-cache") || !strings.Contains(err.Error(), "not published") {
		t.Errorf("capturing a service without any digest: %v", err)
	}
}

func TestInventory(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	target := f.standard()
	f.userUp(target)
	reader, err := docker.New(docker.Options{Host: shared.host})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = reader.Close() })
	p := capture(t, f.engine(nil), target)
	got, err := reader.Inventory(t.Context(), "east", f.project, nil, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	components := make(map[fleet.Component]fleet.Instance)
	for _, instance := range got.Instances {
		components[instance.Component] = instance
		if instance.Health != fleet.HealthHealthy || instance.StartedAt.IsZero() || instance.Tag != "1.0" {
			t.Errorf("instance %+v is not what runs", instance)
		}
		if want := docker.Digest(p.Image(instance.Service)); instance.Digest != want {
			t.Errorf("service %s: digest %s, want %s", instance.Service, instance.Digest, want)
		}
	}
	if len(got.Instances) != 3 || len(components) != 3 {
		t.Errorf("%d instances of %d components, want one each of gateway, web and ssh", len(got.Instances), len(components))
	}
	if version := components[fleet.Gateway].Version; version != "1.0" {
		t.Errorf("the gateway's version is %q", version)
	}
}
