package gate

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The statistical suite plays sessions of which the truth is known and counts how
// often the gate is wrong and how soon it is right. It prints its tables; go test
// -v -run Suite shows them. Seeds are fixed, so a limit is met or it is not: where
// a limit is a promise and the sampling error of the runs, the error is stated.
//
// LOCKSTEP_GATE_RUNS is how many runs each table is made of where 4,000 are not
// enough; smaller tables grow in proportion.
const (
	suiteRuns  = 4000
	suiteLooks = 2000 // new sessions in a run, with a look after each
)

// suiteCount returns how many runs a table of usually that many is made of.
func suiteCount(t *testing.T, usually int) int {
	t.Helper()
	text := os.Getenv("LOCKSTEP_GATE_RUNS")
	if text == "" {
		return usually
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < suiteRuns {
		t.Fatalf("LOCKSTEP_GATE_RUNS is %q: give a number of runs, at least %d", text, suiteRuns)
	}
	return usually * n / suiteRuns
}

// sampling returns the standard error of a share that was counted in n runs.
func sampling(share float64, n int) float64 { return math.Sqrt(share * (1 - share) / float64(n)) }

// suiteTruth is how sessions really fail, before the step and now.
type suiteTruth struct{ before, now float64 }

// suiteStream draws the new sessions of one run, each with its partners.
type suiteStream struct {
	rng   *rand.Rand
	truth suiteTruth
	law   []float64 // chance that at most so many partners fail
}

// stream returns run number i of a seed: the same whichever runs are played beside it.
func (w suiteTruth) stream(seed uint64, i, partners int) *suiteStream {
	s := &suiteStream{rng: rand.New(rand.NewPCG(seed, uint64(i))), truth: w}
	sum := 0.0
	for k := range partners + 1 {
		sum += math.Exp(logChoose(partners, k)) * math.Pow(w.before, float64(k)) * math.Pow(1-w.before, float64(partners-k))
		s.law = append(s.law, sum)
	}
	return s
}

// suiteTrial is one new session with its partners.
type suiteTrial struct {
	failed   bool
	partners int  // how many of them failed
	first    bool // whether the first of them did
}

func (s *suiteStream) next() suiteTrial {
	var t suiteTrial
	for u := s.rng.Float64(); t.partners < len(s.law)-1 && u >= s.law[t.partners]; {
		t.partners++
	}
	t.failed = s.rng.Float64() < s.truth.now
	t.first = s.rng.IntN(len(s.law)-1) < t.partners
	return t
}

// follower keeps one policy's evidence along a run.
type follower struct {
	policy             Policy
	scorer             scorer
	evidence           Evidence
	rollback, relative float64 // logarithms of the e-values
}

func follow(p Policy) *follower { return &follower{policy: p, scorer: scorer{policy: p}} }

func (f *follower) add(t suiteTrial) {
	s := Shape{NA: f.policy.Partners, NB: 1, Y: t.partners}
	if t.failed {
		s.Y, s.YB = t.partners+1, 1
		f.evidence.New.Failed++
	} else {
		f.evidence.New.Succeeded++
	}
	f.evidence.Blocks.Add(s, 1)
	if s.Y > 0 { // a block without a failure says nothing, so the e-values are what they were
		f.rollback, f.relative = f.scorer.score(f.evidence.Blocks)
	}
}

// suiteRule looks after every new session, and says whether it rolls the release
// back now.
type suiteRule interface {
	look(t suiteTrial) bool
}

// oddsRule is the gate's own rollback.
type oddsRule struct {
	*follower
	at float64
}

func (r oddsRule) look(t suiteTrial) bool {
	r.add(t)
	return r.rollback >= r.at
}

// ours returns the gate's rollback at an odds ratio of tol.
func ours(tol float64) func(alpha, rate float64) suiteRule {
	return func(alpha, _ float64) suiteRule {
		p := DefaultPolicy()
		p.Alpha, p.Tol = alpha, tol
		return oddsRule{follow(p), p.LogRollbackAt()}
	}
}

// contender is one way to decide when to roll back.
type contender struct {
	name string
	// rule returns it for one run; rate is the baseline's, which only rules that
	// would have to guess it are told.
	rule   func(alpha, rate float64) suiteRule
	levels bool // whether alpha means anything to it
}

// caught is in which share of runs a contender rolled back, and how soon.
type caught struct {
	share       float64
	median, p90 int
}

func (c caught) String() string {
	return fmt.Sprintf("%5.1f %% %4d /%4d", 100*c.share, c.median, c.p90)
}

// tally sums up after how many sessions the runs that rolled back did.
func tally(took []int, count int) caught {
	if len(took) == 0 {
		return caught{}
	}
	slices.Sort(took)
	return caught{share: float64(len(took)) / float64(count), median: took[len(took)/2], p90: took[len(took)*9/10]}
}

// compete plays the same runs to every contender at one alpha.
func compete(all []contender, seed uint64, count, looks int, truth suiteTruth, alpha float64) map[string]caught {
	took := make([][]int, len(all))
	for i := range count {
		s := truth.stream(seed, i, DefaultPolicy().Partners)
		rules := make([]suiteRule, len(all))
		for k, c := range all {
			rules[k] = c.rule(alpha, truth.before)
		}
		undecided := len(all)
		for n := 1; n <= looks && undecided > 0; n++ {
			trial := s.next()
			for k, r := range rules {
				if r != nil && r.look(trial) {
					took[k] = append(took[k], n)
					rules[k] = nil
					undecided--
				}
			}
		}
	}
	found := map[string]caught{}
	for k, c := range all {
		found[c.name] = tally(took[k], count)
	}
	return found
}

const (
	oursName   = "this gate, Tol 1"
	oursUsual  = "this gate, Tol 1.25"
	windowName = "last 100 sessions above 2x baseline"
	limitName  = "the same every 20 sessions, third time"
	zName      = "z-test after each session"
	pocockName = "Pocock, 10 looks"
	msprtName  = "mSPRT"
	ranksName  = "Mann-Whitney, 50 buckets, at 2,000"
	ranksEarly = "Mann-Whitney, 50 buckets, at 1,000"
)

// heeding returns those whose answer an alpha below 0.05 changes, or all at 0.05.
func heeding(all []contender, alpha float64) []contender {
	return slices.DeleteFunc(slices.Clone(all), func(c contender) bool { return !c.levels && alpha != 0.05 })
}

// Harmless releases and harmful ones, looked at after every session by this gate
// and by what is in use elsewhere, on the same sessions.
func TestSuiteRollback(t *testing.T) {
	t.Parallel()
	all := []contender{
		{windowName, func(_, rate float64) suiteRule { return &windowRule{rate: rate} }, false},
		{limitName, func(_, rate float64) suiteRule { return &limitRule{window: windowRule{rate: rate}} }, false},
		{zName, func(alpha, _ float64) suiteRule { return &zRule{at: quantile(alpha)} }, true},
		{pocockName, func(alpha, _ float64) suiteRule { return &pocockRule{at: pocockAt[alpha]} }, true},
		{msprtName, func(alpha, _ float64) suiteRule { return &msprtRule{at: math.Log(1 / alpha)} }, true},
		{ranksEarly, func(float64, float64) suiteRule { return newRanksRule(1000) }, false},
		{ranksName, func(float64, float64) suiteRule { return newRanksRule(2000) }, false},
		{oursName, ours(1), true},
		{oursUsual, ours(1.25), true},
	}
	count := suiteCount(t, suiteRuns)
	plays := []struct {
		title string
		truth suiteTruth
		alpha float64
	}{
		{"2 % stays 2 %, alpha 0.05", suiteTruth{0.02, 0.02}, 0.05},
		{"2 % stays 2 %, alpha 0.01", suiteTruth{0.02, 0.02}, 0.01},
		{"2 % becomes 6 %, alpha 0.05", suiteTruth{0.02, 0.06}, 0.05},
		{"2 % becomes 6 %, alpha 0.01", suiteTruth{0.02, 0.06}, 0.01},
		{"2 % becomes 20 %, alpha 0.05", suiteTruth{0.02, 0.20}, 0.05},
		{"2 % becomes 20 %, alpha 0.01", suiteTruth{0.02, 0.20}, 0.01},
	}
	found := make([]map[string]caught, len(plays))
	t.Run("plays", func(t *testing.T) {
		for i, p := range plays {
			t.Run(p.title, func(t *testing.T) {
				t.Parallel()
				found[i] = compete(heeding(all, p.alpha), uint64(11+i/2), count, suiteLooks, p.truth, p.alpha)
			})
		}
	})
	var b strings.Builder
	fmt.Fprintf(&b, "rolled back, median / 90th percentile of the sessions until then; %d runs of up to %d sessions\n", count, suiteLooks)
	for i, p := range plays {
		fmt.Fprintf(&b, "\n%s\n", p.title)
		for _, c := range heeding(all, p.alpha) {
			fmt.Fprintf(&b, "  %-40s %v\n", c.name, found[i][c.name])
		}
	}
	t.Log(b.String())

	share := func(play int, name string) float64 { return found[play][name].share }
	// The reference implementation counted 3.0 % in 4,000 runs; both counts err.
	if got, off := share(0, oursName), 3*math.Hypot(sampling(0.03, suiteRuns), sampling(0.03, count)); math.Abs(got-0.03) > off {
		t.Errorf("alpha 0.05, Tol 1: %.2f %% of harmless releases rolled back, want 3.0 ± %.2f %%", 100*got, 100*off)
	}
	for play, alpha := range map[int]float64{0: 0.05, 1: 0.01} {
		for _, name := range []string{oursName, oursUsual} {
			if got, limit := share(play, name), alpha+3*sampling(alpha, count); got > limit {
				t.Errorf("alpha %g, %s: %.2f %% of harmless releases rolled back, want at most %.2f %%", alpha, name, 100*got, 100*limit)
			}
		}
		if share(play, oursName) == 0 {
			t.Errorf("alpha %g: no harmless release was ever rolled back, so nothing was tried", alpha)
		}
		if got, usual := share(play, oursName), share(play, oursUsual); usual > got {
			t.Errorf("alpha %g: Tol 1.25 rolls back %.2f %% of harmless releases, more than Tol 1 with %.2f %%", alpha, 100*usual, 100*got)
		}
	}
	for _, c := range []struct {
		play        int
		name        string
		median, p90 int
	}{
		{3, oursName, 230, 500}, {5, oursName, 30, 60},
		{3, oursUsual, 400, 900}, {5, oursUsual, 35, 70},
	} {
		got := found[c.play][c.name]
		if got.share < 0.999 || got.median > c.median || got.p90 > c.p90 {
			t.Errorf("%s, %s: caught %v; want all, at most %d / %d", plays[c.play].title, c.name, got, c.median, c.p90)
		}
	}
	// What the others do is told as a reason for this gate, so it has to be so.
	for _, c := range []struct {
		play     int
		name     string
		low, top float64
	}{
		{0, windowName, 0.85, 1}, {0, limitName, 0.6, 1}, {0, zName, 0.3, 1}, {1, zName, 0.1, 1},
		{0, pocockName, 0.03, 0.08}, {1, pocockName, 0.005, 0.03}, {0, msprtName, 0, 0.05}, {1, msprtName, 0, 0.01},
		{0, ranksName, 0, 0.02}, {2, ranksEarly, 0, 0.5},
	} {
		if got := share(c.play, c.name); got < c.low || got > c.top {
			t.Errorf("%s, %s: %.2f %% rolled back, want %.1f to %.1f %%", plays[c.play].title, c.name, 100*got, 100*c.low, 100*c.top)
		}
	}
}

// The promise holds whatever a cluster's own rate is, without its being known.
func TestSuiteAnyRate(t *testing.T) {
	t.Parallel()
	const alpha, looks = 0.01, 500
	count := suiteCount(t, 1000)
	all := []contender{{oursName, ours(1), true}, {oursUsual, ours(1.25), true}}
	var b strings.Builder
	fmt.Fprintf(&b, "harmless releases rolled back at alpha %g; %d runs of %d sessions\n", alpha, count, looks)
	for _, rate := range []float64{0.005, 0.05, 0.2, 0.5} {
		found := compete(all, 21, count, looks, suiteTruth{rate, rate}, alpha)
		fmt.Fprintf(&b, "  %4.1f %% fail: Tol 1 %.2f %%, Tol 1.25 %.2f %%\n", 100*rate, 100*found[oursName].share, 100*found[oursUsual].share)
		for name, got := range found {
			if limit := alpha + 3*sampling(alpha, count); got.share > limit {
				t.Errorf("rate %g, %s: %.2f %% rolled back, want at most %.2f %%", rate, name, 100*got.share, 100*limit)
			}
		}
	}
	t.Log(b.String())
}

// routes is by which route, and after how many sessions, runs were promoted.
type routes struct{ relative, absolute, either caught }

// promote plays runs until both routes have promoted or the run is over, and does
// not stop at a rollback: the promise holds without that help.
func promote(p Policy, seed uint64, count int, truth suiteTruth) routes {
	var relative, absolute, either []int
	at := p.LogPromoteAt()
	// The absolute route rests on two counts, which come again in every run.
	var known [suiteLooks + 1][]float64
	logAbsolute := func(t Trials) float64 {
		row := &known[t.Total()]
		for f := len(*row); f <= t.Failed; f++ {
			e := Evidence{New: Trials{Failed: f, Succeeded: t.Total() - f}}
			*row = append(*row, e.LogPromoteAbsolute(p))
		}
		return (*row)[t.Failed]
	}
	for i := range count {
		s, f := truth.stream(seed, i, p.Partners), follow(p)
		viaOdds, viaRate := 0, 0
		for n := 1; n <= suiteLooks && (viaOdds == 0 || viaRate == 0); n++ {
			f.add(s.next())
			if viaOdds == 0 && f.relative >= at {
				viaOdds = n
			}
			if viaRate == 0 && logAbsolute(f.evidence.New) >= at {
				viaRate = n
			}
		}
		if viaOdds > 0 {
			relative = append(relative, viaOdds)
		}
		if viaRate > 0 {
			absolute = append(absolute, viaRate)
		}
		switch {
		case viaOdds > 0 && viaRate > 0:
			either = append(either, min(viaOdds, viaRate))
		case viaOdds+viaRate > 0:
			either = append(either, viaOdds+viaRate)
		}
	}
	return routes{tally(relative, count), tally(absolute, count), tally(either, count)}
}

func TestSuitePromotion(t *testing.T) {
	t.Parallel()
	busy := DefaultPolicy()
	quiet := DefaultPolicy()
	quiet.AcceptableRate, quiet.Margin = 0.05, 3
	alone := DefaultPolicy()
	alone.Beta = 0.1 // a threshold of 1/0.05: the relative route with all of beta to itself
	cases := []struct {
		name  string
		p     Policy
		truth suiteTruth
		least float64 // share of runs to promote; 0 where beta is all that may be
	}{
		{"margin 2 reached, 3.9 % above 2 %", busy, suiteTruth{0.02, shifted(0.02, 2)}, 0},
		{"2 % reached, odds ratio 3 above 2", busy, suiteTruth{shifted(0.02, 1./3), 0.02}, 0},
		{"both reached exactly, 2 % at odds 2", busy, suiteTruth{shifted(0.02, 1./2), 0.02}, 0},
		{"both reached exactly, 5 % at odds 3", quiet, suiteTruth{shifted(0.05, 1./3), 0.05}, 0},
		{"unchanged, 2 % beside 2 %", busy, suiteTruth{0.02, 0.02}, 0.95},
		{"unchanged, threshold 1/0.05", alone, suiteTruth{0.02, 0.02}, 0.97},
		{"unchanged, 1 % beside 2 %", busy, suiteTruth{0.01, 0.01}, 0.75},
		{"unchanged, 1 % beside 5 %", quiet, suiteTruth{0.01, 0.01}, 0.99},
	}
	found := make([]routes, len(cases))
	count := suiteCount(t, suiteRuns)
	t.Run("plays", func(t *testing.T) {
		for i, c := range cases {
			n := count
			if c.least > 0 {
				n /= 4
			}
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				found[i] = promote(c.p, uint64(31+i), n, c.truth)
			})
		}
	})
	var b strings.Builder
	fmt.Fprintf(&b, "promoted, median / 90th percentile of the sessions until then; %d runs of up to %d sessions (unchanged: %d)\n",
		count, suiteLooks, count/4)
	fmt.Fprintf(&b, "  %-38s %-20s %-20s %s\n", "", "relative route", "absolute route", "either")
	for i, c := range cases {
		r := found[i]
		fmt.Fprintf(&b, "  %-38s %-20v %-20v %v\n", c.name, r.relative, r.absolute, r.either)
		limit := c.p.Beta + 3.5*sampling(c.p.Beta, count)
		switch {
		case c.least == 0 && r.either.share > limit:
			t.Errorf("%s: promoted in %.2f %% of runs, want at most %.1f %%", c.name, 100*r.either.share, 100*limit)
		case r.either.share < c.least:
			t.Errorf("%s: promoted in %.1f %% of runs, want at least %.0f %%", c.name, 100*r.either.share, 100*c.least)
		}
	}
	t.Log(b.String())
	for i, want := range map[int][2]int{5: {420, 540}, 7: {130, 165}} { // the reference has 479 and 148
		got := found[i].relative.median
		if i == 7 {
			got = found[i].absolute.median
		}
		if got < want[0] || got > want[1] {
			t.Errorf("%s: a median of %d sessions, want %d to %d", cases[i].name, got, want[0], want[1])
		}
	}
	if found[2].either.share == 0 || found[0].relative.share == 0 {
		t.Error("no release at the border was ever promoted, so nothing was tried")
	}
}

// What planning estimates, beside what the runs took.
func TestSuitePlan(t *testing.T) {
	t.Parallel()
	p := DefaultPolicy()
	count := suiteCount(t, 200)
	var b strings.Builder
	fmt.Fprintf(&b, "new sessions until a rollback, estimated and the median of %d runs (90th percentile); alpha %g, Tol %g, %d partners\n",
		count, p.Alpha, p.Tol, p.Partners)
	for _, rate := range []float64{0.005, 0.01, 0.02, 0.05} {
		fmt.Fprintf(&b, "  %3.1f %% before:", 100*rate)
		for _, odds := range []float64{3, 5, 10, 20} {
			plan := p.SessionsToRollback(rate, odds)
			var took []int
			for i := range count {
				s := suiteTruth{rate, shifted(rate, odds)}.stream(71, i, p.Partners)
				r := ours(p.Tol)(p.Alpha, rate)
				n := 1
				for !r.look(s.next()) {
					n++
				}
				took = append(took, n)
			}
			got := tally(took, count)
			fmt.Fprintf(&b, "  %gx %5.0f, %4d (%d)", odds, plan, got.median, got.p90)
			if ratio := float64(got.median) / plan; ratio < 0.6 || ratio > 1.6 {
				t.Errorf("rate %g, odds ratio %g: estimated %.0f sessions, the median is %d", rate, odds, plan, got.median)
			}
		}
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, "new sessions until an unchanged release is promoted by its odds ratio, estimated; beta %g\n", p.Beta)
	for _, rate := range []float64{0.005, 0.01, 0.02, 0.05} {
		fmt.Fprintf(&b, "  %3.1f %% before:", 100*rate)
		for _, margin := range []float64{1.5, 2, 3, 5} {
			p.Margin = margin
			fmt.Fprintf(&b, "  margin %g %5.0f", margin, p.SessionsToPromote(rate))
		}
		b.WriteString("\n")
	}
	t.Log(b.String())
}
