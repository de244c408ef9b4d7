package catalog_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-fleet/lockstep/domain/catalog"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

var update = flag.Bool("update", false, "write the answers of the scenarios anew")

// Every file in testdata/scenarios tells one story of a catalogue: what was asked
// of it, on which day, and what it answered. Words:
//
//	DAY import SOURCE             with its releases on the lines that follow, as in
//	  1.0.3 2024-12-17 gateway=4.24.0 sra=2.3.1
//	DAY block RELEASE OWNER [until=DAY] : REASON
//	DAY unblock RELEASE : REASON
//	DAY acknowledge RISK OWNER [release=RELEASE] [cluster=CLUSTER] [until=DAY] : REASON
//	DAY revoke RISK [release=RELEASE] [cluster=CLUSTER] : REASON
//	DAY look                      nothing but the day has changed
//	DAY plan CLUSTER FROM RELEASE what stands in the way of this move; of the risks,
//	                              only what the two version sets tell is known
//	> …                           the answer: + a fact, ~ what an import changed, ! a
//	                              problem, = a release that is not what it was before
//
// -update writes the answers anew.
func TestScenarios(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(filepath.Join("testdata", "scenarios", "*.txt"))
	if err != nil || len(files) == 0 {
		t.Fatalf("scenarios: %v, %d found", err, len(files))
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			p := &play{t: t, told: make(map[fleet.ReleaseID]string)}
			got := p.all(string(text))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if diff := cmp.Diff(string(text), got); diff != "" {
				t.Errorf("%s (-file +rules), -update writes it anew:\n%s", file, diff)
			}
		})
	}
}

// play is a scenario under way.
type play struct {
	t     *testing.T
	state catalog.State
	told  map[fleet.ReleaseID]string // what each release was when last told
	out   strings.Builder
}

// all returns the text with the answers filled in.
func (p *play) all(text string) string {
	var asked string
	var releases []catalog.Release
	flush := func() {
		if asked != "" {
			p.answer(asked, releases)
		}
		asked, releases = "", nil
	}
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case strings.HasPrefix(line, "> "):
			continue
		case strings.HasPrefix(line, "  "):
			releases = append(releases, pair(p.t, line))
		default:
			flush()
			if line != "" && !strings.HasPrefix(line, "#") {
				asked = line
			}
		}
		p.out.WriteString(line + "\n")
	}
	flush()
	return p.out.String()
}

func (p *play) say(format string, args ...any) { fmt.Fprintf(&p.out, "> "+format+"\n", args...) }

func (p *play) answer(asked string, releases []catalog.Release) {
	p.t.Helper()
	asked, reason, _ := strings.Cut(asked, " : ")
	words := strings.Fields(asked)
	now := p.day(words[0])
	var places []string // words without a name
	named := make(map[string]string)
	for _, word := range words[2:] {
		if name, value, ok := strings.Cut(word, "="); ok && words[1] != "plan" {
			named[name] = value
		} else {
			places = append(places, word)
		}
	}
	var expires time.Time
	if named["until"] != "" {
		expires = p.day(named["until"])
	}
	release, cluster := fleet.ReleaseID(named["release"]), fleet.ClusterID(named["cluster"])
	var facts []catalog.Fact
	var err error
	switch words[1] {
	case "import":
		var report catalog.ImportReport
		facts, report, err = catalog.Import(p.state, places[0], releases, "anna", now)
		for _, change := range report.Changes {
			p.say("~ %s", change)
		}
		if err == nil {
			p.say("~ %d added, %d updated, %d unchanged", len(report.Added), len(report.Updated), len(report.Unchanged))
		}
	case "block":
		facts, err = catalog.BlockRelease(p.state, nil, catalog.Block{Release: fleet.ReleaseID(places[0]), Owner: places[1], Reason: reason, Expires: expires}, "anna", now)
	case "unblock":
		facts, err = catalog.UnblockRelease(p.state, fleet.ReleaseID(places[0]), reason, "anna", now)
	case "acknowledge":
		facts, err = catalog.AcknowledgeRisk(p.state, nil, catalog.Acknowledgement{
			Risk: catalog.RiskID(places[0]), Owner: places[1], Release: release, Cluster: cluster, Reason: reason, Expires: expires}, "anna", now)
	case "revoke":
		facts, err = catalog.RevokeAcknowledgement(p.state, catalog.RiskID(places[0]), release, cluster, reason, "anna", now)
	case "plan":
		p.plan(fleet.ClusterID(places[0]), fleet.ReleaseID(places[1]), fleet.ReleaseID(places[2]), now)
	case "look":
	default:
		p.t.Fatalf("%q is no word of a scenario", words[1])
	}
	if err != nil {
		p.say("! %v", err)
	}
	for _, f := range facts {
		p.say("+ %s", strings.TrimPrefix(fmt.Sprintf("%T", f.Kind), "catalog."))
	}
	p.state = applied(p.state, facts)
	for _, e := range p.state.Entries(nil, now) {
		text := strings.Join(append([]string{string(e.Status)}, e.Reasons...), "; ")
		if before, known := p.told[e.Release.ID]; !known && text == string(catalog.Available) || known && before == text {
			p.told[e.Release.ID] = text
			continue
		}
		p.told[e.Release.ID] = text
		p.say("= %s %s", e.Release.ID, text)
	}
}

func (p *play) plan(cluster fleet.ClusterID, from, to fleet.ReleaseID, now time.Time) {
	p.t.Helper()
	entries := p.state.Entries(nil, now)
	target := entry(p.t, entries, to)
	for _, reason := range target.Reasons {
		p.say("! %s", reason)
	}
	move := catalog.Move{Cluster: cluster, Release: to, Engine: catalog.EngineKubernetes, Chart: target.Release.Chart, ChartVersion: target.Release.ChartVersion,
		From: entry(p.t, entries, from).Release.Versions, To: target.Release.Versions}
	for _, a := range catalog.Assess(move, p.state.Acknowledgements, now) {
		switch {
		case a.Closed:
			p.say("! %s %s: %s", a.Condition, a.Risk, a.Detail)
		case a.Condition != catalog.ConditionNoMatch:
			p.say("  %s %s, and %s answers for it: %s", a.Condition, a.Risk, a.Acknowledged.Owner, a.Acknowledged.Reason)
		}
	}
}

func (p *play) day(text string) time.Time {
	p.t.Helper()
	t, err := time.Parse(time.DateOnly, text)
	if err != nil {
		p.t.Fatal(err)
	}
	return t
}
