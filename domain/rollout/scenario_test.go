package rollout_test

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/gate"
	"github.com/lockstep-fleet/lockstep/domain/rollout"
)

var update = flag.Bool("update", false, "write the answers of the scenarios anew")

var noon = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

// Every file in testdata tells one story of a rollout named r1: what happened,
// when, and what was decided. Times are of one day, UTC. Words:
//
//	plan clusters=A,B steps=gateway,sra window=DURATION [mode=MODE] [waves=1,2]
//	     [soak=DURATION] [concurrent=N] [failures=N]
//	                              what TIME start begins; one hour of lookback. With a
//	                              mode it is judged by a policy named house
//	TIME start                    begins the plan
//	TIME done CLUSTER COMMAND PACKAGE [began=TIME]
//	                              a driver did what COMMAND, the end of its key, asked;
//	                              the package "-" is none
//	TIME failed CLUSTER COMMAND : WHY
//	TIME gate CLUSTER STEP VERDICT [CONSEQUENCE] : SUMMARY
//	                              what follows is left out by gates of before modes
//	TIME rollback REQUEST : WHY   a person wants everything back
//	TIME pause REQUEST : WHY      … wants nothing to begin
//	TIME resume REQUEST : WHY     … wants it to go on
//	TIME skip CLUSTER : WHY       … leaves a cluster out
//	TIME abort : WHY              … ends it
//	TIME tick                     time has passed
//	TIME again                    the last input arrives once more
//	> …                           the answer: + a fact, ! a command that is now
//	                              asked for, = where the rollout stands; "nothing"
//	                              where no fact followed
//
// -update writes the answers anew.
func TestScenarios(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(filepath.Join("testdata", "*.txt"))
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
			got := play(t, string(text))
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

// play runs a scenario and returns its text with the answers filled in.
func play(t *testing.T, text string) string {
	t.Helper()
	var out strings.Builder
	state := rollout.State{ID: "r1"}
	var plan rollout.Plan
	var last rollout.Input
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "> ") {
			continue
		}
		out.WriteString(line)
		line, free, _ := strings.Cut(strings.TrimSpace(line), " : ")
		words := strings.Fields(line)
		if len(words) == 0 || words[0] == "#" {
			continue
		}
		if words[0] == "plan" {
			plan = readPlan(t, words[1:])
			continue
		}
		if len(words) < 2 {
			t.Fatalf("%q is no input; see TestScenarios for the words", line)
		}
		now := clock(t, words[0])
		if words[1] != "again" {
			last = readInput(t, words[1:], free, plan, now)
		}
		before := state.Commands()
		d := rollout.Decide(state, last, now)
		for _, f := range d.Facts {
			fmt.Fprintf(&out, "> + %s\n", strings.TrimSpace(fmt.Sprintf("%-5s %s", f.Cluster, describeFact(f.Kind))))
		}
		for _, c := range d.Next.Commands() {
			if !slices.ContainsFunc(before, func(b rollout.Command) bool { return b.Key == c.Key }) {
				fmt.Fprintf(&out, "> ! %s\n", strings.TrimSpace(c.Key+" "+describeAction(c.Action)))
			}
		}
		if len(d.Facts) == 0 {
			out.WriteString("> nothing\n")
		} else {
			fmt.Fprintf(&out, "> = %s\n", describeState(d.Next))
		}
		state = d.Next
	}
	return out.String()
}

func clock(t *testing.T, word string) time.Time {
	t.Helper()
	at, err := time.Parse(time.TimeOnly, word)
	if err != nil {
		t.Fatalf("%q is no time of day: %v", word, err)
	}
	return time.Date(noon.Year(), noon.Month(), noon.Day(), at.Hour(), at.Minute(), at.Second(), 0, time.UTC)
}

func readPlan(t *testing.T, words []string) rollout.Plan {
	t.Helper()
	p := rollout.Plan{Release: "v2", Gate: gate.DefaultPolicy(), Lookback: time.Hour}
	var clusters, steps []string
	for _, w := range words {
		key, value, _ := strings.Cut(w, "=")
		switch key {
		case "clusters":
			clusters = strings.Split(value, ",")
		case "steps":
			steps = strings.Split(value, ",")
		case "window":
			window, err := time.ParseDuration(value)
			if err != nil {
				t.Fatal(err)
			}
			p.Window = window
		case "mode":
			p.Policy = judgedBy(gate.Mode(value))
		case "judged":
			p.Policy.Wave = gate.Stage{Checks: map[gate.CheckName]gate.CheckPolicy{gate.CheckSessions: {Demand: gate.DemandPass}}}
		case "waves":
			for i, n := range strings.Split(value, ",") {
				p.Waves = append(p.Waves, rollout.Wave{Name: fmt.Sprint("wave ", i+1), Clusters: number(t, n)})
			}
		case "soak":
			soak, err := time.ParseDuration(value)
			if err != nil {
				t.Fatal(err)
			}
			for i := range p.Waves {
				p.Waves[i].Soak = soak
			}
		case "concurrent":
			p.MaxConcurrent = number(t, value)
		case "failures":
			p.MaxFailures = number(t, value)
		default:
			t.Fatalf("%q is nothing that a plan has", w)
		}
	}
	p.Clusters = clusterPlans(clusters, steps)
	return p
}

func number(t *testing.T, text string) int {
	t.Helper()
	n, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// judgedBy is a policy that is trusted so far.
func judgedBy(mode gate.Mode) *gate.Plan {
	return &gate.Plan{Name: "house", Mode: mode, Statistics: gate.DefaultPolicy(), Step: gate.Stage{Deadline: 30 * time.Minute}}
}

// clusterPlans lets every cluster take every step.
func clusterPlans(clusters, steps []string) []rollout.ClusterPlan {
	components := map[string][]fleet.Component{
		"gateway": {fleet.Gateway}, "sra": {fleet.SRASSH, fleet.SRAWeb}, "ztwa": {fleet.Dispatcher, fleet.Worker},
	}
	var out []rollout.ClusterPlan
	for _, c := range clusters {
		cluster := rollout.ClusterPlan{Cluster: fleet.ClusterID(c)}
		for _, s := range steps {
			cluster.Steps = append(cluster.Steps, rollout.StepPlan{
				Name: s, Line: fleet.Line(s), FromVersion: "v1", ToVersion: "v2", Image: s + ":v2", Components: components[s],
			})
		}
		out = append(out, cluster)
	}
	return out
}

func readInput(t *testing.T, words []string, free string, plan rollout.Plan, now time.Time) rollout.Input {
	t.Helper()
	key := func() string { return fmt.Sprintf("rollout/r1/%s/%s", words[1], words[2]) }
	began := now.Add(-10 * time.Second)
	switch {
	case words[0] == "start":
		return rollout.Start{Plan: plan, RequestID: "first"}
	case words[0] == "tick":
		return rollout.Tick{}
	case words[0] == "pause" && len(words) == 2:
		return rollout.Pause{RequestID: words[1], Reason: free}
	case words[0] == "resume" && len(words) == 2:
		return rollout.Resume{RequestID: words[1], Reason: free}
	case words[0] == "skip" && len(words) == 2:
		return rollout.LeaveOut{Cluster: fleet.ClusterID(words[1]), Reason: free}
	case words[0] == "abort":
		return rollout.Abort{Reason: free}
	case words[0] == "rollback" && len(words) == 2:
		return rollout.Rollback{RequestID: words[1], Reason: free}
	case words[0] == "done" && len(words) >= 4:
		if len(words) == 5 {
			began = clock(t, strings.TrimPrefix(words[4], "began="))
		}
		return rollout.CommandFinished{Key: key(), Package: strings.TrimPrefix(words[3], "-"), BeganAt: began, FinishedAt: now}
	case words[0] == "failed" && len(words) == 3:
		return rollout.CommandFinished{Key: key(), Error: free, BeganAt: began, FinishedAt: now}
	case words[0] == "wave" && len(words) >= 4:
		n := number(t, words[1])
		in := rollout.GateDecided{Gate: rollout.WaveGateID("r1", n-1), Verdict: gate.Verdict(words[2]), Consequence: gate.Consequence(words[3]), Summary: free}
		for _, cluster := range words[4:] {
			in.Back = append(in.Back, fleet.ClusterID(cluster))
		}
		return in
	case words[0] == "gate" && (len(words) == 4 || len(words) == 5):
		in := rollout.GateDecided{
			Gate: rollout.GateID("r1", fleet.ClusterID(words[1]), words[2]), Verdict: gate.Verdict(words[3]), Summary: free,
		}
		if len(words) == 5 {
			in.Consequence = gate.Consequence(words[4])
		}
		return in
	}
	t.Fatalf("%v is no input; see TestScenarios for the words", words)
	return nil
}

// describeFact lists a fact's fields, all but those that repeat the plan.
func describeFact(k rollout.Kind) string {
	parts := []string{kindName(k)}
	v := reflect.ValueOf(k)
	for i := range v.NumField() {
		name := v.Type().Field(i).Name
		switch value := v.Field(i).Interface().(type) {
		case rollout.Plan, gate.Policy:
		case time.Time:
			parts = append(parts, name+"="+value.Format(time.TimeOnly))
		case gate.Boundary:
			parts = append(parts, fmt.Sprintf("Baseline=%s Start=%s End=%s", value.BaselineFrom.Format(time.TimeOnly),
				value.Start.Format(time.TimeOnly), value.End.Format(time.TimeOnly)))
		default:
			if s := fmt.Sprint(value); strings.ContainsRune(s, ' ') {
				parts = append(parts, fmt.Sprintf("%s=%q", name, s))
			} else {
				parts = append(parts, name+"="+s)
			}
		}
	}
	return strings.Join(parts, " ")
}

func describeAction(a rollout.Action) string {
	switch a := a.(type) {
	case rollout.Apply:
		var images []string
		for _, c := range slices.Sorted(maps.Keys(a.Images)) {
			images = append(images, fmt.Sprintf("%s=%s", c, a.Images[c].Ref))
		}
		return fmt.Sprintf("on %s: %s", a.BasePackage, strings.Join(images, " "))
	case rollout.Restore:
		return a.Package
	}
	return ""
}

func describeState(s rollout.State) string {
	var clusters []string
	for _, c := range s.Clusters {
		where := fmt.Sprintf("%s %s", c.Plan.Cluster, c.Phase)
		if step := c.StepName(); step != "" && c.Phase != rollout.ClusterSucceeded {
			where += " (" + step + ")"
		}
		clusters = append(clusters, where)
	}
	out := fmt.Sprintf("%s; %s", s.Phase, strings.Join(clusters, ", "))
	if len(s.Plan.Waves) > 0 {
		out = fmt.Sprintf("%s in wave %d; %s", s.Phase, s.Wave+1, strings.Join(clusters, ", "))
	}
	if at := s.WakeAt(); !at.IsZero() {
		out += "; wakes " + at.Format(time.TimeOnly)
	}
	return out
}
