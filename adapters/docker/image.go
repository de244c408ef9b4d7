package docker

import (
	"slices"
	"strings"

	"github.com/distribution/reference"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// Infer names the component of a service by the names and images the vendor
// ships; the second result is false for a service it cannot place. Images are
// recognised behind a mirror's prefix too.
func Infer(service, image string) (fleet.Component, bool) {
	service = strings.ToLower(service)
	switch service {
	case "akeyless-gateway", "akeyless-gw":
		return fleet.Gateway, true
	case "akeyless-web", "akeyless-sra-web", "gateway-sra-web":
		return fleet.SRAWeb, true
	case "akeyless-ssh", "akeyless-sra-ssh", "gateway-sra-ssh":
		return fleet.SRASSH, true
	case "dispatcher", "web-dispatcher":
		return fleet.Dispatcher, true
	case "worker", "web-worker":
		return fleet.Worker, true
	}
	family := Family(image)
	if family == fleet.LineGateway {
		return fleet.Gateway, true
	}
	if family == fleet.LineSRA {
		// Web and SSH share one image: only the service's name tells them apart.
		switch {
		case strings.Contains(service, "ssh"):
			return fleet.SRASSH, true
		case strings.Contains(service, "web"):
			return fleet.SRAWeb, true
		}
	}
	return "", false
}

// Family returns the version line an image of the vendor belongs to, empty for
// any other image.
func Family(image string) fleet.Line {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return ""
	}
	parts := strings.Split(reference.Path(named), "/")
	last := parts[len(parts)-1]
	if last == "zero-trust-bastion" {
		return fleet.LineSRA
	}
	if len(parts) > 1 && parts[len(parts)-2] == "akeyless" && (last == "base" || last == "gateway") {
		return fleet.LineGateway
	}
	return ""
}

// Tag returns the tag of an image reference, empty when it has none. The
// implied "latest" is not a tag: nobody declared it.
func Tag(image string) string {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return ""
	}
	if tagged, ok := named.(reference.Tagged); ok {
		return tagged.Tag()
	}
	return ""
}

// Digest returns the digest an image reference is pinned by, empty when it is
// not pinned.
func Digest(image string) string {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return ""
	}
	if digested, ok := named.(reference.Digested); ok {
		return digested.Digest().String()
	}
	return ""
}

// RepoDigest picks from an image's repository digests ("repo@sha256:…") the one
// under which the repository of the declared reference knows it; empty when the
// image never came from there. One image can have several digests in one
// repository (an index and its manifest): the declared one wins, else the first
// in order, so that the answer does not depend on the engine's order.
func RepoDigest(image string, repoDigests []string) string {
	declared, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return ""
	}
	var found []string
	for _, text := range repoDigests {
		candidate, err := reference.ParseNormalizedNamed(text)
		if err != nil || candidate.Name() != declared.Name() {
			continue
		}
		if digested, ok := candidate.(reference.Digested); ok {
			found = append(found, digested.Digest().String())
		}
	}
	if len(found) == 0 {
		return ""
	}
	if pinned := Digest(image); slices.Contains(found, pinned) {
		return pinned
	}
	return slices.Min(found)
}

// Env looks a variable up in an environment of "KEY=value" lines. The last
// line of a key counts, as it does for a process.
func Env(lines []string, key string) (string, bool) {
	for _, line := range slices.Backward(lines) {
		if name, value, ok := strings.Cut(line, "="); ok && name == key {
			return value, true
		}
	}
	return "", false
}
