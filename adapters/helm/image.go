package helm

import (
	"cmp"
	"context"
	"net"
	"strings"

	imageref "github.com/distribution/reference"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// parted splits an image into its repository, as written, and what follows it.
func parted(image string) (repository, rest string) {
	name, sum, pinned := strings.Cut(image, "@")
	repository = name
	if at := strings.LastIndexByte(name, ':'); at > strings.LastIndexByte(name, '/') {
		repository, rest = name[:at], name[at+1:]
	}
	if pinned {
		rest += "@" + sum
	}
	return repository, rest
}

// resolve pins an image by the digest that its tag has at the registry now.
func (d *Deployment) resolve(ctx context.Context, image string) (string, error) {
	named, err := imageref.ParseNormalizedNamed(image)
	if err != nil {
		return "", errs.New(errs.Invalid, "LS-HLM-015", "image %q: %w", image, err)
	}
	if _, pinned := named.(imageref.Digested); pinned {
		return image, nil
	}
	tagged, ok := named.(imageref.Tagged)
	if !ok {
		return "", errs.New(errs.Invalid, "LS-HLM-015", "image %q has no tag, so it can change at any restart; give its version", image)
	}
	src := &source{opts: Options{RegistryConfig: d.opts.RegistryConfig}, name: image, purpose: "resolve image "}
	if src.client, err = newClient(image, ""); err != nil {
		return "", err
	}
	defer src.client.CloseIdleConnections()
	repository, err := remote.NewRepository(named.Name())
	if err != nil {
		return "", errs.New(errs.Invalid, "LS-HLM-015", "image %q: %w", image, err)
	}
	if repository.Client, err = src.registryClient(repository.Reference.Host()); err != nil {
		return "", err
	}
	repository.PlainHTTP = onLoopback(imageref.Domain(named))
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(d.opts.Timeout, defaultTimeout))
	defer cancel()
	found, err := repository.Resolve(ctx, tagged.Tag())
	if err != nil {
		if kind := errs.KindOf(src.ofRegistry(ctx, err)); kind == errs.NotFound {
			return "", errs.New(errs.NotFound, "LS-HLM-008", "image %s is not published at its registry; check the tag, or wait until the vendor publishes it", image)
		}
		return "", errs.New(errs.Unavailable, "LS-HLM-016", "image %s cannot be resolved to its digest: %w", image, src.ofRegistry(ctx, err))
	}
	return image + "@" + found.Digest.String(), nil
}

// onLoopback says whether a registry is on this machine, where container engines speak
// without TLS, too.
func onLoopback(host string) bool {
	name := host
	if only, _, err := net.SplitHostPort(host); err == nil {
		name = only
	}
	ip := net.ParseIP(name)
	return name == "localhost" || ip != nil && ip.IsLoopback()
}
