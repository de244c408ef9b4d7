package kube

import (
	"slices"
	"strings"

	"github.com/distribution/reference"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// portal is the legacy chart's entrance page. It follows no version line.
const portal fleet.Component = "sra-portal"

// The vendor's charts.
const (
	chartGateway    = "akeyless-gateway"
	chartWebAccess  = "akeyless-zero-trust-web-access"
	chartSRA        = "akeyless-sra"
	chartAPIGateway = "akeyless-api-gateway"
)

// chartOf returns the vendor's chart that labels name, empty when they name none.
func chartOf(labels map[string]string) string {
	for _, chart := range []string{chartGateway, chartWebAccess, chartSRA, chartAPIGateway} {
		// The label is the chart's name and version in one.
		if version, ok := strings.CutPrefix(labels["helm.sh/chart"], chart+"-"); ok && version != "" && version[0] >= '0' && version[0] <= '9' {
			return chart
		}
		if labels["app.kubernetes.io/name"] == chart {
			return chart
		}
	}
	return ""
}

// components tells for each container of a pod which component it is, empty for
// none. Chosen says that Options.Workloads told so.
func (s *Source) components(p pod, chart string) (out []fleet.Component, chosen bool) {
	out = make([]fleet.Component, len(p.containers))
	key := p.kind + "/" + p.workload
	for i, c := range p.containers {
		if component, ok := s.workloads[key+"/"+c.name]; ok {
			out[i], chosen = component, true
		}
	}
	if chosen || len(out) == 0 {
		return out, chosen
	}
	found := make([]fleet.Component, len(out))
	for i, c := range p.containers {
		// A helper may run the same image beside the main container.
		if component := infer(p, c, chart); !slices.Contains(found, component) {
			found[i] = component
		}
	}
	component, ok := s.workloads[key]
	if !ok {
		return found, false
	}
	main := slices.IndexFunc(found, func(c fleet.Component) bool { return c != "" })
	out[max(0, main)] = component
	return out, true
}

// infer names the component of a container by what the vendor ships, empty when
// it is none: by a container's name that only the vendor uses, by its image, also
// behind a mirror's prefix, and by the names in the vendor's charts.
func infer(p pod, c container, chart string) fleet.Component {
	switch c.name {
	case "akeyless-gateway":
		return fleet.Gateway
	case "gateway-sra-web":
		return fleet.SRAWeb
	case "gateway-sra-ssh":
		return fleet.SRASSH
	}
	repository, vendors := repositoryOf(c.image)
	switch repository {
	case "base", "gateway":
		if vendors {
			return fleet.Gateway
		}
	case "ssh-proxy":
		if vendors {
			return fleet.SRASSH
		}
	case "zero-trust-bastion":
		return side(p.workload, c.name)
	case "zero-trust-portal":
		return portal
	case "zero-trust-web-dispatcher":
		return fleet.Dispatcher
	case "zero-trust-web-worker":
		return fleet.Worker
	}
	return inferInChart(p, c, chart)
}

// inferInChart goes by names that say something only inside a chart of the
// vendor's. Those of workloads stand for a container that is alone: beside others
// it may be a helper that was put there.
func inferInChart(p pod, c container, chart string) fleet.Component {
	alone := len(p.containers) == 1
	is := func(container, workload string) bool {
		return c.name == container || alone && workload != "" && strings.HasPrefix(p.workload, workload)
	}
	switch {
	case chart == chartAPIGateway && is("api-gateway", ""):
		return fleet.Gateway
	case chart == chartWebAccess && is("web-dispatcher", "web-dispatcher"):
		return fleet.Dispatcher
	case chart == chartWebAccess && is("web-worker", "web-worker"):
		return fleet.Worker
	case chart == chartSRA && is("zero-trust-bastion", "web-"):
		return fleet.SRAWeb
	case chart == chartSRA && is("ssh-bastion", "ssh-"):
		return fleet.SRASSH
	case chart == chartSRA && is("zero-trust-portal", "ztp-"):
		return portal
	}
	return ""
}

// side tells the web from the SSH bastion, which share one image. The charts begin
// their workloads' names with it; the rest may be a release's name.
func side(workload, container string) fleet.Component {
	for _, name := range []string{workload, container} {
		switch {
		case strings.HasPrefix(name, "ssh-"):
			return fleet.SRASSH
		case strings.HasPrefix(name, "web-"), name == "zero-trust-bastion":
			return fleet.SRAWeb
		}
	}
	for _, name := range []string{container, workload} {
		switch {
		case strings.Contains(name, "ssh"):
			return fleet.SRASSH
		case strings.Contains(name, "web"):
			return fleet.SRAWeb
		}
	}
	return ""
}

// repositoryOf returns the last part of an image's repository, and whether what is
// before it speaks of the vendor.
func repositoryOf(image string) (last string, vendors bool) {
	parsed, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return "", false
	}
	name := parsed.Name()
	cut := strings.LastIndexByte(name, '/') // a normalised name has a domain
	return name[cut+1:], strings.Contains(name[:cut], "akeyless")
}

// tagOf returns the tag of an image reference, empty when it has none. The implied
// "latest" is not a tag: nobody declared it.
func tagOf(image string) string {
	parsed, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return ""
	}
	if tagged, ok := parsed.(reference.Tagged); ok {
		return tagged.Tag()
	}
	return ""
}

// pinOf returns the digest that an image reference is pinned by, empty when it is
// not pinned.
func pinOf(image string) string {
	parsed, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return ""
	}
	if pinned, ok := parsed.(reference.Digested); ok {
		return pinned.Digest().String()
	}
	return ""
}
