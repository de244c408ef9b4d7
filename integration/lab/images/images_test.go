package images_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/lockstep-fleet/lockstep/integration/lab/images"
)

func start(t *testing.T, cache string) *images.Registry {
	t.Helper()
	r, err := images.Start(t.Context(), images.Options{Cache: cache})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func TestPublishedImages(t *testing.T) {
	t.Parallel()
	cache := t.TempDir()
	r := start(t, cache)
	gateway, err := r.Gateway(t.Context(), "4.52.0", 0)
	if err != nil {
		t.Fatal(err)
	}
	bad, err := r.SRA(t.Context(), "3.1.0", 30)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(gateway.Repository, "/akeyless/base") || !strings.HasSuffix(bad.Tagged(), "/akeyless/zero-trust-bastion:3.1.0") {
		t.Errorf("published as %s and %s", gateway.Tagged(), bad.Tagged())
	}
	// Both the tag and the digest lead to the image whose settings were baked.
	tag, err := name.NewTag(bad.Tagged())
	if err != nil {
		t.Fatal(err)
	}
	pinned, err := name.NewDigest(bad.Repository + "@" + bad.Digest)
	if err != nil {
		t.Fatal(err)
	}
	for _, ref := range []name.Reference{tag, pinned} {
		image, err := remote.Image(ref)
		if err != nil {
			t.Fatal(err)
		}
		config, err := image.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"VERSION=3.1.0", "LAB_FAIL_PERCENT=30"} {
			if !slices.Contains(config.Config.Env, want) {
				t.Errorf("%s has environment %v, without %s", ref, config.Config.Env, want)
			}
		}
		if config.Config.Healthcheck == nil || config.Config.User == "" {
			t.Errorf("%s has no health check or runs as root: %+v", ref, config.Config)
		}
	}

	// The same source and version give the same digest in another run.
	again, err := start(t, cache).SRA(t.Context(), "3.1.0", 30)
	if err != nil {
		t.Fatal(err)
	}
	if again.Digest != bad.Digest {
		t.Errorf("the digest changed between runs: %s, then %s", bad.Digest, again.Digest)
	}
	if _, err := r.SRA(t.Context(), "3.1.1", 101); err == nil {
		t.Error("a fail percent of 101 was accepted")
	}
}
