package backtest_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/lockstep-fleet/lockstep/domain/backtest"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/gate"
	"github.com/lockstep-fleet/lockstep/domain/rollout"
)

func TestWhatBecameOfRealSteps(t *testing.T) {
	t.Parallel()
	at := func(minutes int) time.Time { return monday().Add(time.Duration(minutes) * time.Minute) }
	fact := func(minutes int, cluster fleet.ClusterID, k rollout.Kind) rollout.Fact {
		return rollout.Fact{At: at(minutes), Cluster: cluster, Kind: k}
	}
	applied := func(minutes int, cluster fleet.ClusterID, step string) rollout.Fact {
		return fact(minutes, cluster, rollout.StepApplied{Step: step, Gate: string(cluster) + "-" + step, Boundary: gate.Boundary{
			BaselineFrom: at(-60), Start: at(1), End: at(minutes),
		}})
	}
	steps := []rollout.StepPlan{{Name: "gateway"}, {Name: "sra"}}
	plan := rollout.Plan{}
	for _, c := range []fleet.ClusterID{"paris", "rome", "oslo", "lima", "bern"} {
		plan.Clusters = append(plan.Clusters, rollout.ClusterPlan{Cluster: c, Steps: steps})
	}
	facts := []rollout.Fact{fact(0, "", rollout.RolloutStarted{Plan: plan})}
	for _, c := range []fleet.ClusterID{"paris", "rome", "oslo", "lima"} {
		facts = append(facts, fact(0, c, rollout.ClusterStarted{}), fact(1, c, rollout.StepStarted{Step: "gateway"}), applied(2, c, "gateway"))
	}
	facts = append(facts,
		// Goes through.
		fact(10, "paris", rollout.StepPassed{Step: "gateway"}), fact(10, "paris", rollout.StepStarted{Step: "sra"}), applied(12, "paris", "sra"),
		fact(20, "paris", rollout.ClusterDone{}),
		// The second step's gate fails.
		fact(10, "rome", rollout.StepStarted{Step: "sra"}), applied(12, "rome", "sra"), fact(15, "rome", rollout.RollbackStarted{}), fact(17, "rome", rollout.ClusterRestored{}),
		// The second step cannot be applied.
		fact(10, "oslo", rollout.StepStarted{Step: "sra"}), fact(15, "oslo", rollout.RollbackStarted{}), fact(17, "oslo", rollout.ClusterRestored{}),
		// Held. Bern was never touched.
		fact(30, "lima", rollout.ClusterHeldBack{}),
	)
	step := func(gateID string, cluster fleet.ClusterID, end int, o backtest.Outcome, until time.Time) backtest.Step {
		return backtest.Step{Gate: gateID, Cluster: cluster, Outcome: o, Until: until, Boundary: gate.Boundary{BaselineFrom: at(-60), Start: at(1), End: at(end)}}
	}
	got := backtest.RecordOf("r", facts, at(60))
	if diff := cmp.Diff([]backtest.Step{
		step("paris-gateway", "paris", 2, backtest.Stayed, at(10)),
		step("rome-gateway", "rome", 2, backtest.Stayed, at(10)),
		step("oslo-gateway", "oslo", 2, backtest.Stayed, at(10)),
		step("lima-gateway", "lima", 2, backtest.Unsettled, time.Time{}),
		step("paris-sra", "paris", 12, backtest.Stayed, time.Time{}),
		step("rome-sra", "rome", 12, backtest.RolledBack, at(15)),
	}, got.Steps); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(map[fleet.ClusterID][]gate.Span{
		"paris": {{From: at(1), To: at(20)}}, "rome": {{From: at(1), To: at(17)}}, "oslo": {{From: at(1), To: at(17)}}, "lima": {{From: at(1), To: at(60)}},
	}, got.Moves); diff != "" {
		t.Errorf("moves (-want +got):\n%s", diff)
	}

	// People take a cluster back that was done.
	facts = append(facts, fact(90, "paris", rollout.RollbackStarted{}))
	for _, s := range backtest.RecordOf("r", facts, at(99)).Steps {
		if s.Gate == "paris-sra" && (s.Outcome != backtest.RolledBack || !s.Until.Equal(at(90))) {
			t.Errorf("%+v", s)
		}
	}
}

func TestStretches(t *testing.T) {
	t.Parallel()
	hour := func(n int) time.Time { return monday().Add(time.Duration(n) * time.Hour) }
	step := func(at int) backtest.Step {
		return backtest.Step{Cluster: paris, Boundary: gate.Boundary{BaselineFrom: hour(at - 24), Start: hour(at), End: hour(at)}}
	}
	short := step(60)
	short.Until = hour(61)
	got := backtest.Stretches([]backtest.Step{step(200), short, step(40)}, 4*time.Hour, 9)
	want := []backtest.Stretch{
		{Span: gate.Span{From: hour(16), To: hour(62)}, Steps: []backtest.Step{step(40), short}, Near: []gate.Span{{From: hour(40), To: hour(45)}, {From: hour(60), To: hour(62)}}},
		{Span: gate.Span{From: hour(176), To: hour(205)}, Steps: []backtest.Step{step(200)}, Near: []gate.Span{{From: hour(200), To: hour(205)}}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if got := backtest.Stretches([]backtest.Step{step(41), step(40), step(42)}, time.Hour, 2); len(got) != 2 || len(got[0].Steps) != 2 || !cmp.Equal(got[1].Steps[0], step(42)) {
		t.Errorf("at most two at once: %+v", got)
	}
}

// Fake steps are the same for the same choice, stay away from moves and from each
// other, and lie where there is history on either side.
func TestFakes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		c := backtest.Choice{
			Cluster: paris, Seed: rapid.Uint64().Draw(t, "seed"), Steps: rapid.IntRange(0, 60).Draw(t, "steps"),
			Lookback: time.Duration(rapid.IntRange(1, 28*24).Draw(t, "lookback")) * time.Hour, Deadline: time.Duration(rapid.IntRange(1, 48).Draw(t, "deadline")) * time.Hour,
		}
		c.Within.From = monday().Add(time.Duration(rapid.IntRange(0, 1000).Draw(t, "from")) * time.Minute)
		c.Within.To = c.Within.From.Add(time.Duration(rapid.IntRange(0, 90*24).Draw(t, "days")) * time.Hour)
		for range rapid.IntRange(0, 5).Draw(t, "moves") {
			from := c.Within.From.Add(time.Duration(rapid.IntRange(0, 90*24).Draw(t, "move")) * time.Hour)
			c.Moves = append(c.Moves, gate.Span{From: from, To: from.Add(time.Duration(rapid.IntRange(0, 10).Draw(t, "long")) * time.Hour)})
		}
		steps := backtest.Fakes(c)
		if diff := cmp.Diff(steps, backtest.Fakes(c)); diff != "" {
			t.Fatal(diff)
		}
		if len(steps) > c.Steps {
			t.Fatalf("%d steps", len(steps))
		}
		for i, s := range steps {
			b := s.Boundary
			end := b.End.Add(c.Deadline)
			if b.BaselineFrom.Before(c.Within.From) || end.After(c.Within.To) || b.End.Sub(b.BaselineFrom) != c.Lookback || s.Outcome != backtest.Fake {
				t.Errorf("%+v is not within %v", s, c.Within)
			}
			for _, m := range c.Moves {
				if m.From.Before(end) && b.End.Before(m.To.Add(backtest.Far)) {
					t.Errorf("%s is near the move %v", b.End, m)
				}
				if m.From.Before(b.Start) && b.BaselineFrom.Before(m.To) && len(b.Aside) == 0 {
					t.Errorf("the baseline of %s holds the move %v", b.End, m)
				}
			}
			for _, other := range steps[:i] {
				if other.Boundary.End.Sub(b.End).Abs() < c.Deadline {
					t.Errorf("%s and %s share new sessions", other.Boundary.End, b.End)
				}
			}
		}
	})
}

func TestFakesAreSpread(t *testing.T) {
	t.Parallel()
	c := backtest.Choice{Cluster: paris, Seed: 1, Steps: 48, Lookback: 24 * time.Hour, Deadline: 4 * time.Hour, Within: gate.Span{From: monday(), To: monday().AddDate(0, 0, 180)}}
	hours, days, months := make(map[int]int), make(map[time.Weekday]int), make(map[time.Month]int)
	steps := backtest.Fakes(c)
	for _, s := range steps {
		hours[s.Boundary.End.Hour()]++
		days[s.Boundary.End.Weekday()]++
		months[s.Boundary.End.Month()]++
	}
	if len(steps) != 48 || len(hours) != 24 || len(days) != 7 || len(months) < 6 {
		t.Errorf("%d steps at hours %v of days %v in months %v", len(steps), hours, days, months)
	}
	for _, n := range hours {
		if n > 3 {
			t.Errorf("hours %v", hours)
		}
	}
	for _, n := range days {
		if n < 5 || n > 9 {
			t.Errorf("days %v", days)
		}
	}
	c.Seed = 2
	if other := backtest.Fakes(c); other[0].Boundary.End.Equal(steps[0].Boundary.End) {
		t.Error("another seed begins with the same step")
	}
	// A short history gives what it can.
	c.Within.To = monday().Add(29 * time.Hour)
	if few := backtest.Fakes(c); len(few) != 1 {
		t.Errorf("%d steps in an hour", len(few))
	}
	c.Within.To = monday().Add(27 * time.Hour)
	if none := backtest.Fakes(c); len(none) != 0 {
		t.Errorf("%d steps in no time", len(none))
	}
}
