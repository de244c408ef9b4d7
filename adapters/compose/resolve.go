package compose

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/moby/moby/api/pkg/authconfig"
	"github.com/moby/moby/api/types/registry"
	"github.com/moby/moby/client"

	"github.com/lockstep-fleet/lockstep/adapters/docker"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// platform is an operating system and an architecture as Go names them.
type platform struct{ os, arch string }

func (p platform) String() string { return p.os + "/" + p.arch }

// Resolve returns an image reference with the digest its tag has at the
// registry now, asked through the engine, which has the network path and the
// trust that a later pull will use. An image not published, or not for the
// engine's architecture, is an error. A reference that already has a digest is
// checked the same way.
func (e *Engine) Resolve(ctx context.Context, image string) (string, error) {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return "", fmt.Errorf("resolving image %q: %w", image, err)
	}
	named = reference.TagNameOnly(named)
	want, err := e.platform(ctx)
	if err != nil {
		return "", err
	}
	auth, err := e.auth(named)
	if err != nil {
		return "", err
	}
	// The engine looks a reference with both parts up by its tag: ask by digest.
	ask := named
	if digested, ok := named.(reference.Digested); ok {
		if ask, err = reference.WithDigest(reference.TrimNamed(named), digested.Digest()); err != nil {
			return "", fmt.Errorf("resolving image %q: %w", image, err)
		}
	}
	answer, err := e.docker.API().DistributionInspect(ctx, ask.String(), client.DistributionInspectOptions{EncodedRegistryAuth: auth})
	if err != nil {
		return "", e.published("resolving", image, err)
	}
	full, err := pin(image, answer.Descriptor.Digest.String())
	if err != nil {
		return "", err
	}
	if len(answer.Platforms) == 0 {
		// Older engines do not say for every kind of manifest: look at the image.
		return full, e.ensure(ctx, full, want)
	}
	offered := make([]string, 0, len(answer.Platforms))
	for _, p := range answer.Platforms {
		if p.OS == want.os && p.Architecture == want.arch {
			return full, nil
		}
		offered = append(offered, p.OS+"/"+p.Architecture)
	}
	return "", errs.New(errs.NotFound, "LS-CMP-007", "resolving image %q: it is published for %s, but docker engine %s is %s; choose a tag built for it", image, strings.Join(offered, ", "), e.Host(), want)
}

// ensure has an image that is pinned by digest present on the engine and checks
// that it can run there.
func (e *Engine) ensure(ctx context.Context, image string, want platform) error {
	found, err := e.docker.API().ImageInspect(ctx, image)
	if errdefs.IsNotFound(err) {
		if err := e.pull(ctx, image); err != nil {
			return err
		}
		found, err = e.docker.API().ImageInspect(ctx, image)
	}
	if err != nil {
		return e.docker.Explain("reading image "+image, err)
	}
	if got := (platform{found.Os, found.Architecture}); got != want {
		return errs.New(errs.NotFound, "LS-CMP-007", "image %s is for %s, but %s is needed on docker engine %s; choose a tag built for it", image, got, want, e.Host())
	}
	return nil
}

func (e *Engine) pull(ctx context.Context, image string) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("pulling image %s: %w", image, err)
	}
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return fmt.Errorf("pulling image %q: %w", image, err)
	}
	auth, err := e.auth(named)
	if err != nil {
		return err
	}
	stream, err := e.docker.API().ImagePull(ctx, image, client.ImagePullOptions{RegistryAuth: auth})
	if err != nil {
		return e.published("pulling", image, err)
	}
	defer func() { _ = stream.Close() }()
	if err := stream.Wait(ctx); err != nil {
		return e.published("pulling", image, err)
	}
	return nil
}

// published words a registry's refusal so that people know what to do.
func (e *Engine) published(doing, image string, err error) error {
	text := err.Error()
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), client.IsErrConnectionFailed(err):
		return e.docker.Explain(doing+" image "+image, err)
	case strings.Contains(text, "no matching manifest"):
		return errs.New(errs.NotFound, "LS-CMP-007", "%s image %s: it is not built for docker engine %s: %w; choose a tag built for it", doing, image, e.Host(), err)
	case errdefs.IsNotFound(err), strings.Contains(text, "manifest unknown"), strings.Contains(text, "not found"):
		return errs.New(errs.NotFound, "LS-CMP-007", "%s image %s: it is not published at its registry: %w; check the tag or digest, or wait until the vendor publishes it", doing, image, err)
	case errdefs.IsUnauthorized(err), errdefs.IsPermissionDenied(err), strings.Contains(text, "unauthorized"), strings.Contains(text, "denied"):
		return errs.New(errs.PermissionDenied, "LS-CMP-008", "%s image %s: the registry refuses access: %w; log in with docker login as the user Lockstep runs as, and check the name", doing, image, err)
	}
	return errs.New(errs.Unavailable, "LS-CMP-009", "%s image %s through docker engine %s: %w; check that the engine reaches the registry", doing, image, e.Host(), err)
}

// platform asks what the engine runs on.
func (e *Engine) platform(ctx context.Context) (platform, error) {
	if err := e.docker.Connect(ctx); err != nil {
		return platform{}, e.docker.Explain("asking for the architecture", err)
	}
	answer, err := e.docker.API().ServerVersion(ctx, client.ServerVersionOptions{})
	if err != nil {
		return platform{}, e.docker.Explain("asking for the architecture", err)
	}
	return platform{answer.Os, answer.Arch}, nil
}

// auth finds the user's credentials for an image's registry, as docker login
// left them.
func (e *Engine) auth(named reference.Named) (string, error) {
	domain := reference.Domain(named)
	found, err := e.cli.ConfigFile().GetAuthConfig(domain)
	if err != nil {
		return "", errs.New(errs.PermissionDenied, "LS-CMP-008", "reading the credentials for registry %s: %w; log in again with docker login", domain, err)
	}
	encoded, err := authconfig.Encode(registry.AuthConfig{
		Username:      found.Username,
		Password:      found.Password,
		Auth:          found.Auth,
		ServerAddress: found.ServerAddress,
		IdentityToken: found.IdentityToken,
		RegistryToken: found.RegistryToken,
	})
	if err != nil {
		return "", fmt.Errorf("reading the credentials for registry %s: %w", domain, err)
	}
	return encoded, nil
}

// parsePlatform reads Compose's "os/arch[/variant]"; empty means the engine's.
func parsePlatform(text string, engine platform) platform {
	if text == "" {
		return engine
	}
	system, rest, ok := strings.Cut(text, "/")
	if !ok {
		return platform{engine.os, system}
	}
	arch, _, _ := strings.Cut(rest, "/")
	return platform{system, arch}
}

// runs tells whether an image inspected by the engine is the one pinned.
func runs(pinnedRef string, repoDigests []string) bool {
	return docker.RepoDigest(pinnedRef, repoDigests) == docker.Digest(pinnedRef)
}
