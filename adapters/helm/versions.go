package helm

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/lockstep-fleet/lockstep/domain/catalog"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// The vendor's charts.
const (
	chartGateway    = catalog.GatewayChart
	chartWebAccess  = "akeyless-zero-trust-web-access"
	chartSRA        = "akeyless-sra"
	chartAPIGateway = "akeyless-api-gateway"
)

// claim is a version and what in a chart says it.
type claim struct{ by, version string }

// part is what a chart runs of one line. A line may have several.
type part struct {
	name   string // for people
	line   fleet.Line
	claims []claim // the first counts; none of them is empty
	image  string  // with its tag, empty when the values name none
}

// carry fills in what the chart carries, and notes where it contradicts itself.
func (p *published) carry(r *catalog.Release) {
	type seen struct{ part, version, image string }
	first := make(map[fleet.Line]seen)
	apart := make(map[fleet.Line]bool)
	for _, part := range p.parts() {
		if len(part.claims) == 0 {
			continue
		}
		counts := part.claims[0]
		r.Notes = append(r.Notes, part.disagreements()...)
		before, again := first[part.line]
		switch {
		case !again:
			first[part.line] = seen{part.name, counts.version, part.image}
			r.Versions[part.line] = counts.version
			r.Images[part.line] = part.image
		case before.version != counts.version:
			apart[part.line] = true
			r.Notes = append(r.Notes, fmt.Sprintf("The chart runs %s %s beside %s %s: it has no one version of line %s.",
				before.part, clip(before.version), part.name, clip(counts.version), part.line))
		case before.image != part.image:
			r.Images[part.line] = "" // a line with two images has no one image
		}
	}
	for line := range first {
		if apart[line] {
			delete(r.Versions, line)
		}
		if apart[line] || r.Images[line] == "" {
			delete(r.Images, line)
		}
	}
}

// disagreements say which claims contradict the one that counts.
func (p *part) disagreements() []string {
	var notes []string
	for _, other := range p.claims[1:] {
		if other.version != p.claims[0].version {
			notes = append(notes, fmt.Sprintf("The chart contradicts itself on %s: %s says %s, %s says %s; the first counts.",
				p.name, p.claims[0].by, clip(p.claims[0].version), other.by, clip(other.version)))
		}
	}
	return notes
}

// parts reads what the vendor's charts run, with every place that tells a version
// in the order in which the charts' templates ask them. Whether a part is switched
// on is not asked: the gateway chart carries its bastions and leaves them off.
//
// adapters/kube reads the same places of what is installed.
func (p *published) parts() []part {
	switch p.meta.Name {
	case chartGateway:
		gateway, bastions := p.pair()
		return []part{
			p.part("gateway", fleet.LineGateway, "gateway.deployment.image", p.value("version"), p.value("gateway.deployment.image.tag"), p.note("gatewayVersion"), gateway),
			p.part("sra", fleet.LineSRA, "sra.image", p.value("sra.image.tag"), p.note("sraVersion"), bastions),
		}
	case chartAPIGateway:
		// The image fetches the application when it starts, so its tag says nothing.
		one := p.part("gateway", fleet.LineGateway, "", p.value("version"), p.app())
		one.image = reference(p.value("image.repository").version, p.value("image.tag").version)
		return []part{one}
	case chartWebAccess:
		return []part{
			p.part("dispatcher", fleet.LineZTWA, "dispatcher.image", p.value("dispatcher.image.tag"), p.app()),
			p.part("worker", fleet.LineZTWA, "webWorker.image", p.value("webWorker.image.tag"), p.app()),
		}
	case chartSRA:
		ssh := p.note("sshVersion")
		if ssh.version == "" { // both run one image since the chart has no annotation for SSH
			ssh = p.note("ztbVersion")
		}
		return []part{
			p.part("sra-web", fleet.LineSRA, "ztbConfig.image", p.value("ztbConfig.image.tag"), p.note("ztbVersion")),
			p.part("sra-ssh", fleet.LineSRA, "sshConfig.image", p.value("sshConfig.image.tag"), ssh),
		}
	}
	// Another's chart around the vendor's can say with the same annotations what it
	// carries.
	return []part{
		p.part("gateway", fleet.LineGateway, "", p.note("gatewayVersion")),
		p.part("sra", fleet.LineSRA, "", p.note("sraVersion")),
	}
}

func (p *published) part(name string, line fleet.Line, image string, claims ...claim) part {
	out := part{name: name, line: line}
	for _, c := range claims {
		if c.version != "" {
			out.claims = append(out.claims, c)
		}
	}
	if image != "" && len(out.claims) > 0 {
		out.image = reference(p.value(image+".repository").version, out.claims[0].version)
	}
	return out
}

// pair reads the application version of the gateway chart, <gateway>_<sra>. What
// follows the gateway's was not always the bastions' version: some releases repeat
// the chart's own there, which is taken for theirs only when nothing else tells it.
func (p *published) pair() (gateway, bastions claim) {
	first, second, _ := strings.Cut(p.meta.AppVersion, "_")
	gateway = claim{"the application version", strings.TrimSpace(first)}
	bastions = claim{"the application version", strings.TrimSpace(second)}
	told := p.value("sra.image.tag").version != "" || p.note("sraVersion").version != ""
	if told && bastions.version == p.meta.Version {
		bastions.version = ""
	}
	return gateway, bastions
}

func (p *published) app() claim {
	return claim{"the application version", strings.TrimSpace(p.meta.AppVersion)}
}

func (p *published) note(name string) claim {
	return claim{"the annotation " + name, strings.TrimSpace(p.meta.Annotations[name])}
}

// value looks a path like "sra.image.tag" up in the chart's own values.
func (p *published) value(path string) claim {
	var at any = p.values
	for key := range strings.SplitSeq(path, ".") {
		below, _ := at.(map[string]any)
		at = below[key]
	}
	c := claim{by: "the value " + path}
	switch v := at.(type) {
	case string:
		c.version = strings.TrimSpace(v)
	case json.Number:
		c.version = v.String()
	case float64: // 3.10 without quotation marks: Helm, too, makes 3.1 of it
		c.version = strconv.FormatFloat(v, 'f', -1, 64)
	}
	return c
}

// reference is an image as the charts put it together, empty where no repository is
// named.
func reference(repository, tag string) string {
	switch {
	case repository == "":
		return ""
	case tag == "":
		return repository
	case strings.HasPrefix(tag, "sha256:"):
		return repository + "@" + tag
	}
	return repository + ":" + tag
}

// clip keeps what a note quotes short.
func clip(text string) string {
	const most = 80
	if len(text) <= most {
		return text
	}
	end := most
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + "…"
}
