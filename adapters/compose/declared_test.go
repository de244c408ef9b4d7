package compose

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/compose-spec/compose-go/v2/types"
	library "github.com/docker/compose/v5/pkg/compose"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"
	"go.uber.org/goleak"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestCompareEnvironment(t *testing.T) {
	t.Parallel()
	text := func(s string) *string { return &s }
	for name, c := range map[string]struct {
		declared   types.MappingWithEquals
		ran, built []string
		asRan      types.MappingWithEquals
		says       []string
	}{
		"same": {
			declared: types.MappingWithEquals{"A": text("1"), "EMPTY": text(""), "UNDEFINED": nil},
			ran:      []string{"A=1", "EMPTY=", "PATH=/bin"}, built: []string{"PATH=/bin"},
			asRan: types.MappingWithEquals{"A": text("1"), "EMPTY": text(""), "UNDEFINED": nil},
		},
		"another value": {
			declared: types.MappingWithEquals{"TOKEN": text("new-secret"), "VERSION": text("2.0")}, ran: []string{"TOKEN=old-secret", "VERSION=1.0"},
			asRan: types.MappingWithEquals{"TOKEN": text("old-secret"), "VERSION": text("1.0")},
			says:  []string{"environment TOKEN: another value runs", `environment VERSION: the files say "2.0", "1.0" runs`},
		},
		"added": {
			declared: types.MappingWithEquals{"TOKEN": text("new-secret"), "VERSION": text("2.0")}, asRan: types.MappingWithEquals{},
			says: []string{"environment TOKEN: what runs does not have it", `environment VERSION: the files say "2.0", what runs does not have it`},
		},
		"taken away": {
			ran: []string{"TOKEN=old-secret", "VERSION=1.0"}, asRan: types.MappingWithEquals{"TOKEN": text("old-secret"), "VERSION": text("1.0")},
			says: []string{"environment TOKEN: the files do not set it", `environment VERSION: the files do not set it, "1.0" runs`},
		},
		"not defined any more": {
			declared: types.MappingWithEquals{"TOKEN": nil}, ran: []string{"TOKEN=old-secret"},
			asRan: types.MappingWithEquals{"TOKEN": text("old-secret")}, says: []string{"environment TOKEN: the files do not set it"},
		},
		"the image's own, changed": {
			ran: []string{"VERSION=2.0"}, built: []string{"VERSION=1.0"}, asRan: types.MappingWithEquals{"VERSION": text("2.0")},
			says: []string{`environment VERSION: the files do not set it, "2.0" runs`},
		},
		"the image's own version": {ran: []string{"VERSION=1.0"}, built: []string{"VERSION=1.0"}, asRan: types.MappingWithEquals{}},
		"a proxy of the docker configuration": {
			ran: []string{"HTTP_PROXY=http://user:secret@proxy", "no_proxy=x"}, asRan: types.MappingWithEquals{},
		},
		"a declared proxy": {
			declared: types.MappingWithEquals{"HTTP_PROXY": text("a")}, ran: []string{"HTTP_PROXY=b"},
			asRan: types.MappingWithEquals{"HTTP_PROXY": text("b")}, says: []string{"environment HTTP_PROXY: another value runs"},
		},
	} {
		asRan, says := compareEnvironment(c.declared, c.ran, c.built)
		if diff := cmp.Diff(c.asRan, asRan); diff != "" {
			t.Errorf("%s: as it ran (-want +got):\n%s", name, diff)
		}
		if diff := cmp.Diff(c.says, says); diff != "" {
			t.Errorf("%s: it says (-want +got):\n%s", name, diff)
		}
		if strings.Contains(strings.Join(says, "\n"), "secret") {
			t.Errorf("%s: a secret is told: %q", name, says)
		}
	}
}

func TestAnImageWithItsDigestIsTheSameImage(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		declared, ran string
		want          bool
	}{
		"the same text":          {"akeyless/base:5", "akeyless/base:5", true},
		"with a digest":          {"akeyless/base:5", "akeyless/base:5@" + digestA, true},
		"another spelling":       {"docker.io/akeyless/base:5", "akeyless/base:5@" + digestA, true},
		"no tag":                 {"akeyless/base", "akeyless/base@" + digestA, true},
		"another tag":            {"akeyless/base:6", "akeyless/base:5@" + digestA, false},
		"another repository":     {"mirror/base:5", "akeyless/base:5@" + digestA, false},
		"another digest":         {"akeyless/base:5@" + digestB, "akeyless/base:5@" + digestA, false},
		"pinned since":           {"akeyless/base:5@" + digestA, "akeyless/base:5", false},
		"started by the id":      {"akeyless/base:5", digestA, false},
		"not a reference at all": {"Not A Reference", "akeyless/base:5", false},
	} {
		if got := sameImage(c.declared, c.ran); got != c.want {
			t.Errorf("%s: sameImage(%q, %q) = %v", name, c.declared, c.ran, got)
		}
	}
}

func TestHashNamesContainersOfOtherServices(t *testing.T) {
	t.Parallel()
	c := comparison{running: map[string][]container.Summary{"one": {{ID: "id-1"}, {ID: "id-2"}}}}
	sharing := func(network string, volumes ...string) (out types.ServiceConfig) {
		out.Image, out.NetworkMode, out.Pid, out.VolumesFrom = "x", network, "host", volumes
		return out
	}
	plain, err := library.ServiceHash(sharing("container:id-1", "id-1", "other", "none:ro"))
	if err != nil {
		t.Fatal(err)
	}
	service := sharing("service:one", "one:ro", "container:other:rw", "none:ro")
	got, err := c.hash(service)
	if err != nil || got != plain {
		t.Errorf("hash %s, %v; want %s", got, err, plain)
	}
	if service.VolumesFrom[0] != "one:ro" {
		t.Error("the service that was given is changed")
	}
}

func TestSignsAreGathered(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		signs  []time.Duration // after the one before
		within []time.Duration // since the first sign, when one signal must come
	}{
		"one":                 {[]time.Duration{0}, []time.Duration{quiet}},
		"a burst":             {[]time.Duration{0, 0, quiet / 2, quiet / 3, 0}, []time.Duration{quiet/2 + quiet/3 + quiet}},
		"two, far apart":      {[]time.Duration{0, time.Minute}, []time.Duration{quiet, time.Minute + quiet}},
		"one after the other": {repeat(quiet*9/10, 11), []time.Duration{longest, 10*(quiet*9/10) + quiet}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				in, out := make(chan struct{}, 1), make(chan struct{}, 1)
				var ended sync.WaitGroup
				ended.Go(func() { gather(in, out) })
				began := time.Now()
				var got []time.Duration
				ended.Go(func() {
					for range out {
						got = append(got, time.Since(began))
					}
				})
				for _, pause := range c.signs {
					<-time.After(pause)
					tell(in)
					synctest.Wait()
				}
				<-time.After(time.Hour)
				close(in)
				synctest.Wait()
				close(out)
				ended.Wait()
				if diff := cmp.Diff(c.within, got); diff != "" {
					t.Errorf("signals (-want +got):\n%s", diff)
				}
			})
		})
	}
}

// repeat is n signs with a pause between any two.
func repeat(pause time.Duration, n int) []time.Duration {
	out := make([]time.Duration, n)
	for i := range out[1:] {
		out[i+1] = pause
	}
	return out
}

func TestASignalThatNobodyTakesHoldsNothingUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		in, out := make(chan struct{}, 1), make(chan struct{}, 1)
		ended := make(chan struct{})
		go func() { gather(in, out); close(ended) }()
		for range 5 {
			tell(in)
			<-time.After(time.Minute)
		}
		tell(in)
		synctest.Wait()
		close(in) // in the middle of gathering
		<-ended
		if len(out) != 1 {
			t.Errorf("%d signals wait, want one for all", len(out))
		}
	})
}

// one is an engine with a project of one container, and whatever it is asked.
func one(t *testing.T, hash string) string {
	t.Helper()
	replies := map[string]string{
		"/containers/json": `[{"Id":"c1","ImageID":"sha256:01","Names":["/vault-akeyless-gateway-1"],
			"Labels":{"com.docker.compose.service":"akeyless-gateway","com.docker.compose.config-hash":"` + hash + `","com.docker.compose.version":"2.20.0"}}]`,
		"/containers/c1/json":    `{"Id":"c1","Image":"sha256:01","Config":{"Image":"akeyless/base:5.0.0","Env":["VERSION=5.0.0","PATH=/bin"]},"State":{"Running":true}}`,
		"/images/sha256:01/json": `{"Id":"sha256:01","Config":{"Env":["PATH=/bin"]}}`,
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Api-Version", "1.41")
		path := strings.TrimPrefix(r.URL.Path, "/v1.41")
		reply, ok := replies[path]
		switch {
		case path == "/_ping":
		case path == "/events":
			_, _ = w.Write([]byte(`{"Type":"container","Action":"die"}`))
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		case !ok:
			http.Error(w, `{"message":"no such thing"}`, http.StatusNotFound)
		default:
			w.Header().Set("Content-Type", "application/json")
			_, _ = w.Write([]byte(reply))
		}
	}))
	t.Cleanup(server.Close)
	return "tcp://" + server.Listener.Addr().String()
}

func deployment(t *testing.T, host, file string) *Deployment {
	t.Helper()
	e, err := New(Options{Host: host})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = e.Close() })
	contents := map[string]string{}
	if file != "" {
		contents["compose.yaml"] = file
	}
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	return NewDeployment(e, "east", Target{Project: "vault", Dir: files(t, contents), Files: []string{"compose.yaml"}}, func() time.Time { return at })
}

const gatewayFile = `services:
  akeyless-gateway:
    image: akeyless/base:${TAG:-5.0.1}
    environment: {VERSION: 5.0.1}
  behind: {image: 'x:1', profiles: [other]}
`

func TestPackageBesideInventoryAndWatch(t *testing.T) {
	t.Parallel()
	d := deployment(t, one(t, "of another configuration"), gatewayFile)
	ctx, stop := context.WithCancel(t.Context())
	var working sync.WaitGroup
	working.Go(func() {
		if err := d.Watch(ctx); err != nil {
			t.Errorf("Watch returned %v", err)
		}
	})
	var reading sync.WaitGroup
	for range 4 {
		reading.Go(func() {
			inventory, err := d.Inventory(t.Context())
			if err != nil || len(inventory.Instances) != 1 || inventory.Instances[0].Declared != "akeyless/base:5.0.1" {
				t.Errorf("the inventory is %+v, %v", inventory, err)
			}
		})
		reading.Go(func() {
			got, err := d.Package(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			if len(got.Compose) != 1 || len(got.Compose[0].ConfigHash) != 64 {
				t.Errorf("the package is %+v", got)
				return
			}
			got.Compose[0].ConfigHash = ""
			want := fleet.Package{Cluster: "east", ObservedAt: d.now(), Compose: []fleet.ComposeService{{
				Project: "vault", Service: "akeyless-gateway", Image: "akeyless/base:5.0.1", State: fleet.ComposeChanged, Differences: []string{
					"image: the files ask for akeyless/base:5.0.1, akeyless/base:5.0.0 runs", `environment VERSION: the files say "5.0.1", "5.0.0" runs`,
					"other configuration differs, as Compose 2.20.0 brought it up",
				},
			}}}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("package (-want +got):\n%s", diff)
			}
		})
	}
	reading.Wait()
	select {
	case <-d.Changed():
	case <-time.After(10 * time.Second):
		t.Error("the watch tells nothing")
	}
	stop()
	working.Wait()
}

func TestFilesThatCannotBeReadAreThePackagesError(t *testing.T) {
	t.Parallel()
	for file, id := range map[string]string{"": "LS-CMP-003", "services: {a: [}": "LS-CMP-004", "services: {a: {imag: x}}": "LS-CMP-004"} {
		d := deployment(t, one(t, ""), file)
		if _, err := d.Package(t.Context()); errs.IDOf(err) != id {
			t.Errorf("a package of %q: %v, want %s", file, err, id)
		}
		inventory, err := d.Inventory(t.Context())
		if err != nil || len(inventory.Instances) != 1 || inventory.Instances[0].Declared != "" || inventory.Instances[0].Version != "5.0.0" {
			t.Errorf("an inventory beside %q: %+v, %v", file, inventory, err)
		}
	}
}
