package gate

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// through is the gate of a wave of some clusters, each of which moved at noon.
func through(t interface {
	Helper()
	Fatal(...any)
}, stage Stage, members ...fleet.ClusterID) (*WaveStage, WaveTerms) {
	t.Helper()
	w := WaveTerms{Number: 2, Begun: noon.Add(time.Minute), Limits: DefaultWaveLimits()}
	for _, c := range members {
		w.Members = append(w.Members, WaveMember{Cluster: c, Boundary: around(noon), StepsPassed: true, Expected: Expectation{Silence: time.Hour}})
	}
	s, err := NewWaveStage(quickPolicy(), Terms{Policy: "named", Mode: Act, Stage: stage}, w, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s, w
}

// peopleDecide asks for people's sessions.
func peopleDecide() Stage {
	return Stage{Deadline: time.Hour, Checks: map[CheckName]CheckPolicy{CheckSessions: {Demand: DemandPass}}}
}

// rowsOf are sessions of one cluster a second apart from an instant on, the first so
// many of which fail, and the mark that makes them known.
func rowsOf(c fleet.ClusterID, name string, from time.Time, n, failed int) []Seen {
	var out []Seen
	for i := range n {
		s := fleet.Session{ID: fleet.SessionID(fmt.Sprintf("%s-%s-%d", c, name, i)), Cluster: c, Status: fleet.SessionConnected, User: fmt.Sprint(name, i), Target: "db", Start: from.Add(time.Duration(i) * time.Second)}
		if i < failed {
			s.Status = fleet.SessionFailed
		}
		out = append(out, Seen{Source: "vendor", Session: &s})
	}
	until := from.Add(time.Duration(n)*time.Second + quickPolicy().Maturation)
	return append(out, Seen{Source: "vendor", Arrived: until, Mark: &fleet.Mark{Cluster: c, About: fleet.KindSession, CompleteUntil: until}})
}

// history has one cluster do as it did, and then so.
func history(s *WaveStage, c fleet.ClusterID, n, failed int) {
	before := around(noon)
	rows := slices.Concat(rowsOf(c, "old", before.BaselineFrom.Add(time.Second), 1500, 50), rowsOf(c, "new", before.End.Add(time.Second), n, failed))
	for i, r := range rows {
		r.Seq = uint64(i + 1)
		s.Take(r)
	}
}

func TestWaveStageVerdicts(t *testing.T) {
	t.Parallel()
	many := []fleet.ClusterID{"bern", "oslo", "rome"}
	for name, test := range map[string]struct {
		failed  []int // of 60 new sessions of each cluster
		change  func(*WaveTerms)
		past    bool
		verdict Verdict
		back    []fleet.ClusterID
		says    string
	}{
		"all work":                          {failed: []int{1, 1, 1}, verdict: Pass, says: "Everything that is demanded"},
		"one is broken":                     {failed: []int{1, 50, 1}, verdict: Fail, back: []fleet.ClusterID{"oslo"}, says: "oslo"},
		"one is broken, and one may fail":   {failed: []int{1, 50, 1}, change: func(w *WaveTerms) { w.Limits.MaxFailures = 1 }, verdict: Fail, back: []fleet.ClusterID{"oslo"}, says: "stops everywhere"},
		"all are broken":                    {failed: []int{40, 40, 40}, verdict: Fail, back: many, says: "stops everywhere"},
		"a step gate did not pass":          {failed: []int{1, 1, 1}, change: func(w *WaveTerms) { w.Members[2].StepsPassed = false }, verdict: Pending, says: "rome"},
		"nor by the deadline":               {failed: []int{1, 1, 1}, change: func(w *WaveTerms) { w.Members[2].StepsPassed = false }, past: true, verdict: Inconclusive, says: "rome"},
		"what went back counts against all": {failed: []int{1, 60, 1}, change: func(w *WaveTerms) { w.Members[1].RolledBack = true }, verdict: Fail, back: []fleet.ClusterID{"bern", "rome"}, says: "stops everywhere"},
		"no sessions":                       {failed: []int{-1, -1, -1}, past: true, verdict: Inconclusive, says: "no data never promotes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, w := through(t, peopleDecide(), many...)
			if test.change != nil {
				test.change(&w)
				s.wave = w
			}
			for i, c := range many {
				if test.failed[i] >= 0 {
					history(s, c, 60, test.failed[i])
				}
			}
			d := s.Decide(noon.Add(10*time.Minute), test.past)
			var back []fleet.ClusterID
			for _, m := range d.Members {
				if m.Back {
					back = append(back, m.Cluster)
				}
			}
			if d.Verdict != test.verdict || !slices.Equal(back, test.back) || !strings.Contains(d.Summary(), test.says) {
				t.Errorf("%s, back %v: %s", d.Verdict, back, d.Summary())
			}
		})
	}
}

// Of a check but sessions a wave says what the worst of its clusters says, and that
// cluster is at fault.
func TestTheWorstClusterSpeaksForAWave(t *testing.T) {
	t.Parallel()
	stage := peopleDecide()
	stage.Checks[CheckInventory] = CheckPolicy{Demand: DemandPass, Sustain: Sustain{Looks: 1}}
	s, _ := through(t, stage, "bern", "oslo")
	for i := range s.members {
		history(s, s.wave.Members[i].Cluster, 60, 1)
	}
	lines := []memberResult{
		{"oslo", Result{Check: CheckInventory, Verdict: Fail, Text: "gateway runs 1", Reasons: []Reason{{"mismatch", "gateway runs 1"}}, At: noon.Add(time.Second), Figures: map[string]int64{"mixed_seconds": 30, "wrong": 2}}},
		{"bern", Result{Check: CheckInventory, Verdict: Pass, At: noon, Figures: map[string]int64{"mixed_seconds": 90, "wrong": 1}}},
	}
	r := worst(CheckInventory, lines)
	if r.Verdict != Fail || r.Text != "In cluster oslo: gateway runs 1" || !r.At.Equal(noon) || r.Figures["mixed_seconds"] != 90 || r.Figures["wrong"] != 3 {
		t.Errorf("%+v", r)
	}
	lines[0].Verdict = Pass
	if r := worst(CheckInventory, lines); r.Verdict != Pass || r.Text != "Passed in 2 clusters." {
		t.Errorf("%+v", r)
	}
	// What nobody saw keeps a wave from passing, whatever sessions say.
	if d := s.Decide(noon.Add(10*time.Minute), false); d.Verdict != Pending || !strings.Contains(d.Summary(), "inventory") {
		t.Errorf("%s: %s", d.Verdict, d.Summary())
	}
}

// Clusters that were not stepped and fail as much keep a wave from being blamed; those
// that work do not.
func TestAWaveBesideControls(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		controls int // failed of 60
		verdict  Verdict
		code     Code
	}{
		"they fail, too": {40, Hold, CommonCause},
		"they work":      {1, Fail, WaveRegression},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, w := through(t, peopleDecide(), "bern", "oslo")
			history(s, "bern", 60, 40)
			history(s, "oslo", 60, 40)
			var folds []*Fold
			for _, c := range []fleet.ClusterID{"rome", "turin", "wien"} {
				fold, err := NewControlFold(quickPolicy(), Control{Cluster: c}, w.Boundary())
				if err != nil {
					t.Fatal(err)
				}
				rows := slices.Concat(rowsOf(c, "old", w.Boundary().BaselineFrom.Add(time.Second), 1500, 50), rowsOf(c, "new", w.Boundary().End.Add(time.Second), 60, test.controls))
				for i, r := range rows {
					if r.Session != nil {
						fold.Session(*r.Session, uint64(i+1))
					} else {
						fold.Mark(*r.Mark, uint64(i+1))
					}
				}
				folds = append(folds, fold)
			}
			s.Beside(folds)
			d := s.Decide(noon.Add(10*time.Minute), false)
			if d.Verdict != test.verdict || d.Reasons[0].Code != test.code || len(d.Controls) != 3 || d.ControlsHash == "" {
				t.Errorf("%s, %v", d.Verdict, d.Reasons)
			}
		})
	}
}

// In which order the rows of clusters come beside each other, and whether one looked in
// between, changes nothing.
func TestOrderOfMembersRowsChangesNothing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		names := []fleet.ClusterID{"bern", "oslo", "rome"}
		each := make([][]Seen, len(names))
		for i, c := range names {
			n, failed := rapid.IntRange(0, 40).Draw(t, "new"), rapid.IntRange(0, 20).Draw(t, "failed")
			each[i] = slices.Concat(rowsOf(c, "old", noon.Add(-80*time.Second), 60, 2), rowsOf(c, "new", around(noon).End, n, failed))
			for k := range each[i] {
				each[i][k].Seq = uint64(k + 1)
			}
		}
		one, _ := through(t, peopleDecide(), names...)
		for _, rows := range each {
			for _, r := range rows {
				one.Take(r)
			}
		}
		other, _ := through(t, peopleDecide(), names...)
		for left := each; len(left) > 0; {
			i := rapid.IntRange(0, len(left)-1).Draw(t, "whose")
			if len(left[i]) == 0 {
				left = slices.Delete(slices.Clone(left), i, i+1)
				continue
			}
			n := rapid.IntRange(1, len(left[i])).Draw(t, "how many")
			for _, r := range left[i][:n] {
				other.Take(r)
			}
			left = slices.Clone(left)
			left[i] = left[i][n:]
			other.Decide(noon.Add(time.Minute), false)
		}
		now := noon.Add(time.Hour)
		if diff := cmp.Diff(one.Decide(now, false), other.Decide(now, false)); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestWavesThatCannotBeJudged(t *testing.T) {
	t.Parallel()
	if _, err := NewWaveStage(quickPolicy(), Terms{Stage: Stage{Rules: []Rule{{}}}}, WaveTerms{Limits: DefaultWaveLimits()}, nil); err == nil {
		t.Error("house rules without anybody who asks them")
	}
	if _, err := NewWaveStage(quickPolicy(), Terms{}, WaveTerms{}, nil); err == nil {
		t.Error("no limits")
	}
	if _, err := NewWaveStage(quickPolicy(), Terms{}, WaveTerms{Limits: DefaultWaveLimits(), Members: []WaveMember{{Cluster: "oslo"}}}, nil); err == nil {
		t.Error("no boundary")
	}
}
