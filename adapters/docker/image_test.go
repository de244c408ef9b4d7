package docker_test

import (
	"testing"

	"github.com/lockstep-fleet/lockstep/adapters/docker"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

const (
	digestA = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	digestB = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

func TestInfer(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		service, image string
		want           fleet.Component
		known          bool
	}{
		{"akeyless-gateway", "akeyless/base:latest-akeyless", fleet.Gateway, true},
		{"gw", "mirror.example:5000/vendor/akeyless/base:5.0.1", fleet.Gateway, true},
		{"gw", "akeyless/gateway@" + digestA, fleet.Gateway, true},
		{"akeyless-web", "akeyless/zero-trust-bastion:latest", fleet.SRAWeb, true},
		{"Akeyless-SSH", "anything", fleet.SRASSH, true},
		{"bastion-ssh", "mirror/zero-trust-bastion:3.1.0", fleet.SRASSH, true},
		{"bastion", "akeyless/zero-trust-bastion:3.1.0", "", false},
		{"dispatcher", "x", fleet.Dispatcher, true},
		{"worker", "x", fleet.Worker, true},
		{"akeyless-cache", "redis:8", "", false},
		{"base", "someone/base:1", "", false},
		{"web", "not a reference", "", false},
	} {
		got, known := docker.Infer(c.service, c.image)
		if got != c.want || known != c.known {
			t.Errorf("Infer(%q, %q) = %q, %v; want %q, %v", c.service, c.image, got, known, c.want, c.known)
		}
	}
}

func TestRepoDigestMatchesTheDeclaredRepository(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		image string
		known []string
		want  string
	}{
		"same repository":           {"akeyless/base:5", []string{"mirror:5000/akeyless/base@" + digestB, "akeyless/base@" + digestA}, digestA},
		"short and long names":      {"docker.io/library/redis:8", []string{"redis@" + digestA}, digestA},
		"declared digest wins":      {"redis:8@" + digestB, []string{"redis@" + digestA, "redis@" + digestB}, digestB},
		"order does not matter":     {"redis:8", []string{"redis@" + digestB, "redis@" + digestA}, digestA},
		"only another repository":   {"redis:8", []string{"mirror:5000/redis@" + digestA}, ""},
		"built here":                {"mine:1", nil, ""},
		"the engine's none entry":   {"mine:1", []string{"<none>@<none>"}, ""},
		"started by the image's id": {digestA, []string{"redis@" + digestA}, ""},
	} {
		if got := docker.RepoDigest(c.image, c.known); got != c.want {
			t.Errorf("%s: RepoDigest(%q, %q) = %q, want %q", name, c.image, c.known, got, c.want)
		}
	}
}

func TestTagIsOnlyWhatWasDeclared(t *testing.T) {
	t.Parallel()
	for image, want := range map[string]string{
		"redis":                          "",
		"redis:8":                        "8",
		"host:5000/redis":                "",
		"host:5000/a/redis:8@" + digestA: "8",
		"redis@" + digestA:               "",
	} {
		if got := docker.Tag(image); got != want {
			t.Errorf("Tag(%q) = %q, want %q", image, got, want)
		}
	}
}

func TestEnvTakesTheLastLine(t *testing.T) {
	t.Parallel()
	lines := []string{"VERSION=1", "VERSIONS=9", "VERSION=2=b", "EMPTY="}
	if got, ok := docker.Env(lines, "VERSION"); got != "2=b" || !ok {
		t.Errorf("VERSION = %q, %v", got, ok)
	}
	if got, ok := docker.Env(lines, "EMPTY"); got != "" || !ok {
		t.Errorf("EMPTY = %q, %v", got, ok)
	}
	if _, ok := docker.Env(lines, "ABSENT"); ok {
		t.Error("ABSENT was found")
	}
}
