package gate

import (
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

func someTrials(most int) *rapid.Generator[Trials] {
	return rapid.Custom(func(t *rapid.T) Trials {
		return Trials{rapid.IntRange(0, most).Draw(t, "failed"), rapid.IntRange(0, most).Draw(t, "succeeded")}
	})
}

// One block of all trials is what the gate's own mathematics makes of it.
func TestFishersLawIsThatOfABlock(t *testing.T) {
	t.Parallel()
	p := DefaultPolicy()
	rapid.Check(t, func(t *rapid.T) {
		fresh, before := someTrials(60).Draw(t, "new"), someTrials(60).Draw(t, "baseline")
		s := Shape{NA: before.Total(), NB: fresh.Total(), Y: before.Failed + fresh.Failed, YB: fresh.Failed}
		w := rapid.Float64Range(0.01, 100).Draw(t, "w")
		laws := appendLaw(nil, fisherLaw(fresh, before))
		e := Evidence{Blocks: TableOf(Row{s, 1})}
		if len(laws) == 0 {
			if s.informative() {
				t.Fatalf("%+v says something", s)
			}
			return
		}
		lo, probabilities := Fisher(s.NA, s.NB, s.Y, w)
		mean := 0.0
		for i, pr := range probabilities {
			mean += pr * float64(lo+i)
		}
		if _, got := laws[0].norm(w); math.Abs(got-mean) > 1e-9*(1+mean) {
			t.Fatalf("the mean at %g is %g, want %g", w, got, mean)
		}
		if got, want := logRise(laws, p.Tol), e.LogRollback(p); math.Abs(got-want) > 1e-9*(1+math.Abs(want)) {
			t.Fatalf("the evidence is %g, want %g", got, want)
		}
		got, want := oddsOf(laws, p), e.OddsRatio(p)
		for _, pair := range [][2]float64{{got.Estimate, want.Estimate}, {got.Low, want.Low}, {got.High, want.High}} {
			if pair[0] != pair[1] && math.Abs(pair[0]-pair[1]) > 1e-6*pair[1] {
				t.Fatalf("the odds ratio is %+v, want %+v", got, want)
			}
		}
	})
}

// choose is a binomial coefficient, 0 where there is nothing to choose.
func choose(n, k int) *big.Rat {
	if k < 0 || k > n {
		return new(big.Rat)
	}
	return new(big.Rat).SetInt(new(big.Int).Binomial(int64(n), int64(k)))
}

// Zelen's law is that of four binomial samples once every margin is known, and at
// its null no bet gains.
func TestZelensLawByEnumeration(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		mine := group{someTrials(12).Draw(t, "my baseline"), someTrials(12).Draw(t, "my new")}
		rest := group{someTrials(12).Draw(t, "their baseline"), someTrials(12).Draw(t, "their new")}
		l := zelenLaw(mine, rest)
		w0, w1 := rapid.Float64Range(0.1, 5).Draw(t, "w0"), rapid.Float64Range(0.1, 50).Draw(t, "w1")
		y, z, s := mine.new.Failed+mine.baseline.Failed, rest.new.Failed+rest.baseline.Failed, mine.new.Failed+rest.new.Failed
		sums, mean, gain := [2]float64{}, 0.0, 0.0
		weigh := func(x int, w float64) float64 {
			product := choose(mine.new.Total(), x)
			for _, c := range [][2]int{{mine.baseline.Total(), y - x}, {rest.new.Total(), s - x}, {rest.baseline.Total(), z - s + x}} {
				product.Mul(product, choose(c[0], c[1]))
			}
			f, _ := product.Float64()
			return f * math.Pow(w, float64(x))
		}
		possible := 0
		for x := range mine.new.Total() + 1 {
			if weigh(x, 1) > 0 {
				possible++
			}
			sums[0], sums[1] = sums[0]+weigh(x, w0), sums[1]+weigh(x, w1)
			mean += float64(x) * weigh(x, w1)
		}
		if possible != l.hi-l.lo+1 {
			t.Fatalf("%d outcomes from %d to %d, want %d", l.hi-l.lo+1, l.lo, l.hi, possible)
		}
		logSum, got := l.norm(w1)
		if want := math.Log(sums[1]); math.Abs(logSum-want) > 1e-9*(1+math.Abs(want)) || math.Abs(got-mean/sums[1]) > 1e-9*(1+got) {
			t.Fatalf("the sum at %g is %g with mean %g, want %g and %g", w1, logSum, got, want, mean/sums[1])
		}
		for x := l.lo; x <= l.hi; x++ {
			l.seen = x
			gain += weigh(x, w0) / sums[0] * math.Exp(logRise([]marginLaw{l}, w0))
		}
		if math.Abs(gain-1) > 1e-9 {
			t.Fatalf("at its null a bet gains %g", gain)
		}
	})
}

// A law of a million trials costs what one of a thousand does, nearly.
func TestALawOfMillionsIsSummed(t *testing.T) {
	t.Parallel()
	o := oddsOf([]marginLaw{fisherLaw(Trials{80_000, 920_000}, Trials{400_000, 19_600_000})}, DefaultPolicy())
	near(t, "estimate", o.Estimate, 80_000.0/920_000*19_600_000/400_000, 1e-3)
	if o.Low < 3.4 || o.High > 5.3 {
		t.Errorf("odds ratio %+v", o)
	}
}

// profile is how sessions are, and how the step changes that.
type profile struct {
	values [3]int // of protocol, target type and target family
	shares [3][]float64
	rate   func(at [3]int) float64 // before the step
	hit    func(at [3]int) float64 // by what the odds are multiplied after it
}

func (p profile) cell(at [3]int) Cell {
	return Cell{
		Cluster: paris, Versions: fleet.VersionSet{fleet.LineGateway: "1"}, Protocol: fmt.Sprintf("p%d", at[0]), TargetType: fmt.Sprintf("t%d", at[1]), TargetFamily: fmt.Sprintf("f%d", at[2]),
		Last: noon.Add(-time.Hour),
	}
}

// each visits every combination with its share of all sessions.
func (p profile) each(visit func(at [3]int, share float64)) {
	for a := range p.values[0] {
		for b := range p.values[1] {
			for c := range p.values[2] {
				visit([3]int{a, b, c}, p.shares[0][a]*p.shares[1][b]*p.shares[2][c])
			}
		}
	}
}

// expected are the cells when everything comes as often as it is expected to.
func (p profile) expected(before, after int) []Cell {
	split := func(n float64, rate float64) Trials {
		failed := math.Round(n * rate)
		return Trials{Failed: int(failed), Succeeded: int(math.Round(n) - failed)}
	}
	var out []Cell
	p.each(func(at [3]int, share float64) {
		c := p.cell(at)
		c.Baseline = split(float64(before)*share, p.rate(at))
		out = append(out, c)
		c.Versions, c.Baseline, c.Last = fleet.VersionSet{fleet.LineGateway: "2"}, Trials{}, noon.Add(time.Hour)
		c.New = split(float64(after)*share, shifted(p.rate(at), p.hit(at)))
		out = append(out, c)
	})
	return out
}

func evenly(n int) []float64 { return slices.Repeat([]float64{1 / float64(n)}, n) }

// What is multiplied in one value of one factor is found there before anywhere.
func TestTheOneValueThatIsHitComesFirst(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var p profile
		for i := range p.values {
			p.values[i] = rapid.IntRange(2, 5).Draw(t, "values")
			p.shares[i] = evenly(p.values[i])
		}
		base, times := rapid.Float64Range(0.01, 0.1).Draw(t, "rate"), rapid.Float64Range(4, 20).Draw(t, "times")
		factor := rapid.IntRange(0, 2).Draw(t, "factor")
		value := rapid.IntRange(0, p.values[factor]-1).Draw(t, "value")
		// Each protocol fails as often as it does.
		p.rate = func(at [3]int) float64 { return base * float64(1+at[0]) / 2 }
		p.hit = func(at [3]int) float64 {
			if at[factor] == value {
				return times
			}
			return 1
		}
		a := Attribute(p.expected(100_000, 20_000), DefaultPolicy())
		want := []string{"protocol p", "target_type t", "target_family f"}[factor] + fmt.Sprint(value)
		if len(a.Findings) == 0 {
			t.Fatalf("nothing is found, want %s", want)
		}
		first := a.Findings[0]
		if got := string(first.Factor) + " " + first.Value; got != want || !first.Named || first.Share < 0.9 {
			t.Fatalf("first comes %s (%+v), want %s", got, first, want)
		}
		says := "Nearly all of it sits in " + first.place() + "."
		if !a.Shown { // too little among all that fares as before
			says = first.Text
		}
		if !strings.Contains(a.Summary, says) {
			t.Fatalf("the summary is %q", a.Summary)
		}
	})
}

// Where everything rises alike, no place is named, and the move is.
func TestARiseEverywhereIsNoPlaces(t *testing.T) {
	t.Parallel()
	p := profile{values: [3]int{3, 2, 4}}
	for i := range p.values {
		p.shares[i] = evenly(p.values[i])
	}
	p.rate = func(at [3]int) float64 { return 0.01 * float64(1+at[0]) }
	p.hit = func([3]int) float64 { return 5 }
	a := Attribute(p.expected(100_000, 20_000), DefaultPolicy())
	if len(a.Findings) != 1 || a.Findings[0].Factor != FactorMove || a.Findings[0].Value != "gateway" {
		t.Fatalf("found %+v", a.Findings)
	}
	if !strings.HasSuffix(a.Summary, "No protocol, target, instance or class of failure is shown to hold it.") {
		t.Errorf("the summary is %q", a.Summary)
	}
}

// drawn are the cells of sessions that come by chance; every instance after the
// step is a new one.
func (p profile) drawn(chance *rand.Rand, before, after int) []Cell {
	pick := func(shares []float64) int {
		at, x := 0, chance.Float64()
		for at < len(shares)-1 && x >= shares[at] {
			x -= shares[at]
			at++
		}
		return at
	}
	failures := []fleet.Failure{fleet.FailureTimeout, fleet.FailureTarget, fleet.FailurePermission}
	type key struct {
		at       [3]int
		instance fleet.InstanceID
		failure  fleet.Failure
	}
	places := make(map[key]int)
	var out []Cell
	for n := range before + after {
		at := [3]int{pick(p.shares[0]), pick(p.shares[1]), pick(p.shares[2])}
		k, rate := key{at: at, instance: "old-" + fleet.InstanceID("0123"[2*(at[0]%2)+chance.IntN(2)])}, p.rate(at)
		if n >= before {
			rate, k.instance = shifted(rate, p.hit(at)), "new"+k.instance[3:]
		}
		one := Trials{Succeeded: 1}
		if chance.Float64() < rate {
			one, k.failure = Trials{Failed: 1}, failures[(at[0]+chance.IntN(2))%3]
		}
		i, known := places[k]
		if !known {
			c := p.cell(at)
			c.Instance, c.Failure = k.instance, k.failure
			if n >= before {
				c.Versions = fleet.VersionSet{fleet.LineGateway: "2"}
			}
			i, places[k] = len(out), len(out)
			out = append(out, c)
		}
		if n >= before {
			out[i].New = sumTrials(out[i].New, one)
		} else {
			out[i].Baseline = sumTrials(out[i].Baseline, one)
		}
	}
	return out
}

// simulate returns of how many looks each had findings, and which came first.
func simulate(runs int, times float64, after int) (found int, first map[string]int) {
	first = make(map[string]int)
	for run := range runs {
		chance := rand.New(rand.NewPCG(7, uint64(run)))
		p := profile{values: [3]int{1 + chance.IntN(4), 1 + chance.IntN(3), 1 + chance.IntN(12)}}
		for i, n := range p.values {
			sum := 0.0
			for range n {
				share := chance.ExpFloat64() + 0.2
				p.shares[i] = append(p.shares[i], share)
				sum += share
			}
			for k := range p.shares[i] {
				p.shares[i][k] /= sum
			}
		}
		p.rate = func(at [3]int) float64 { return 0.01 + 0.03*float64(at[0]) + 0.01*float64(at[2]%3) }
		p.hit = func(at [3]int) float64 {
			if at[0] == 0 {
				return times
			}
			return 1
		}
		if a := Attribute(p.drawn(chance, 3000, after), DefaultPolicy()); len(a.Findings) > 0 {
			found++
			first[string(a.Findings[0].Factor)+" "+a.Findings[0].Value]++
		}
	}
	return found, first
}

// The odds are at their tolerance and no more, so that this is the worst of no
// excess.
func TestNoExcessIsNoFinding(t *testing.T) {
	t.Parallel()
	for _, times := range []float64{1, 1.25} {
		const runs = 300
		if found, first := simulate(runs, times, 400); found > runs/20 {
			t.Errorf("odds %g times as high: %d of %d looks found something: %v", times, found, runs, first)
		}
	}
}

// What a release breaks is found, mostly where it is.
func TestAnExcessIsFound(t *testing.T) {
	t.Parallel()
	const runs = 100
	found, first := simulate(runs, 8, 2000)
	if there := first["protocol p0"] + first["move gateway"]; found < runs*8/10 || there < found*8/10 {
		t.Errorf("%d of %d looks found something: %v", found, runs, first)
	}
}

// cellOf is one of a story; versions as "gateway=1 sra=1".
func cellOf(versions string, change func(*Cell)) Cell {
	c := Cell{Cluster: paris, Protocol: "ssh", TargetType: "linux", TargetFamily: "/prod", Instance: "sra-1", Last: noon}
	for part := range strings.FieldsSeq(versions) {
		line, version, _ := strings.Cut(part, "=")
		if c.Versions == nil {
			c.Versions = make(fleet.VersionSet)
		}
		c.Versions[fleet.Line(line)] = version
	}
	change(&c)
	return c
}

func baselineOf(failed, succeeded int) func(*Cell) {
	return func(c *Cell) { c.Baseline, c.Last = Trials{failed, succeeded}, noon.Add(-time.Hour) }
}
func betweenOf(failed, succeeded int) func(*Cell) {
	return func(c *Cell) { c.Between = Trials{failed, succeeded} }
}
func newOf(failed, succeeded int) func(*Cell) {
	return func(c *Cell) { c.New, c.Last = Trials{failed, succeeded}, noon.Add(time.Hour) }
}

// with makes further changes.
func with(one func(*Cell), more ...func(*Cell)) func(*Cell) {
	return func(c *Cell) {
		one(c)
		for _, change := range more {
			change(c)
		}
	}
}

func TestAttributionStories(t *testing.T) {
	t.Parallel()
	in := func(cluster fleet.ClusterID) func(*Cell) { return func(c *Cell) { c.Cluster = cluster } }
	on := func(instance fleet.InstanceID) func(*Cell) { return func(c *Cell) { c.Instance = instance } }
	of := func(failure fleet.Failure) func(*Cell) { return func(c *Cell) { c.Failure = failure } }
	over := func(protocol, targetType string) func(*Cell) {
		return func(c *Cell) { c.Protocol, c.TargetType = protocol, targetType }
	}
	const old, moved = "gateway=1 sra=1", "gateway=2 sra=2"
	for name, c := range map[string]struct {
		cells []Cell
		want  []string // the first findings, "!" before what is not named
		says  []string
	}{
		"nothing": {nil, nil, []string{"nothing to attribute"}},
		"nothing before": {
			[]Cell{cellOf(old, newOf(9, 9))}, nil, []string{"There is no baseline to compare with: 9 of 18 failed after the step (50 %), no outcome before."},
		},
		"nothing wrong": {
			[]Cell{cellOf(old, baselineOf(20, 980)), cellOf(moved, newOf(4, 196))}, nil, []string{"No excess is shown: 4 of 200 failed after the step (2 %)", "more than 1.25 times"},
		},
		"one line": {
			[]Cell{cellOf(old, baselineOf(20, 980)), cellOf("gateway=2 sra=1", newOf(40, 160))}, []string{"move gateway"},
			[]string{"Failures rose with the move of gateway (1 to 2): 40 of 200 failed since, 20 of 1000 before, odds ratio 12."},
		},
		"both at once": {
			[]Cell{cellOf(old, baselineOf(20, 980)), cellOf(moved, newOf(40, 160))}, []string{"move gateway+sra"},
			[]string{"moves of gateway (1 to 2) and sra (1 to 2), which cannot be told apart: no session started between them."},
		},
		"both, and too few between": {
			[]Cell{cellOf(old, baselineOf(20, 980)), cellOf("gateway=2 sra=1", betweenOf(1, 5)), cellOf(moved, newOf(40, 160))}, []string{"move gateway+sra"},
			[]string{"cannot be told apart: the sessions between them, 6, say too little."},
		},
		"the first of two": {
			[]Cell{cellOf(old, baselineOf(20, 980)), cellOf("gateway=2 sra=1", betweenOf(40, 160)), cellOf(moved, newOf(40, 160))}, []string{"move gateway"},
			[]string{"100 % of the excess came with the move of gateway (1 to 2) alone: 40 of 200 failed since"},
		},
		"the second of two": {
			[]Cell{cellOf(old, baselineOf(20, 980)), cellOf("gateway=2 sra=1", betweenOf(4, 196)), cellOf(moved, newOf(60, 140))}, []string{"move sra"},
			[]string{"came with the move of sra (1 to 2), made upon the moved gateway: 60 of 200 failed since, 4 of 200 in between", "no session ran it without the other"},
		},
		"a mix is none of both": {
			[]Cell{cellOf(old, baselineOf(20, 980)), cellOf("gateway=2", betweenOf(40, 160)), cellOf(moved, newOf(40, 160))}, []string{"move gateway+sra"},
			[]string{"no session started between them"},
		},
		"the pair": {
			[]Cell{
				cellOf(old, baselineOf(20, 980)), cellOf("gateway=2 sra=1", betweenOf(4, 196)), cellOf(moved, newOf(60, 140)),
				cellOf(old, with(baselineOf(20, 980), in("rome"))), cellOf("gateway=1 sra=2", with(betweenOf(4, 196), in("rome"))), cellOf(moved, with(newOf(60, 140), in("rome"))),
			}, []string{"move gateway+sra"},
			[]string{"came only once gateway (1 to 2) and sra (1 to 2) had both moved: 60 of 200 failed since, 4 of 200 with one of them"},
		},
		"the newest of several baselines": {
			[]Cell{
				cellOf("gateway=1 sra=2", baselineOf(2, 98)), cellOf("gateway=1 sra=1", with(baselineOf(20, 980), func(c *Cell) { c.Last = noon.Add(-100 * time.Hour) })),
				cellOf(moved, newOf(40, 160)),
			}, []string{"move gateway"}, nil,
		},
		"nothing moved": {
			[]Cell{cellOf(old, baselineOf(20, 980)), cellOf(old, newOf(40, 160))}, []string{"move none"}, []string{"Failures rose, and no version line moved: 40 of 200"},
		},
		"what ran is not known": {
			[]Cell{cellOf("", baselineOf(20, 980)), cellOf(moved, newOf(40, 160))}, []string{"move none"}, []string{"and what ran is not known"},
		},
		"one of the new instances": {
			[]Cell{
				cellOf(old, baselineOf(20, 980)), cellOf(moved, with(newOf(30, 70), on("sra-8"))), cellOf(moved, with(newOf(2, 98), on("sra-9"))),
			}, []string{"instance sra-8", "move gateway+sra"},
			[]string{"sits in instance sra-8, first seen after the step: 30 of 100 failed there, 20 of 1000 of its kind before"},
		},
		"an instance that takes what fails always": {
			[]Cell{
				cellOf(old, baselineOf(20, 980)), cellOf(old, with(baselineOf(200, 300), over("rdp", "windows"))),
				cellOf(moved, with(newOf(2, 98), on("sra-8"))), cellOf(moved, with(newOf(40, 60), on("sra-9"), over("rdp", "windows"))),
			}, nil, []string{"No excess is shown"},
		},
		"a class of failure": {
			[]Cell{
				cellOf(old, baselineOf(0, 980)), cellOf(old, with(baselineOf(20, 0), of("target"))), cellOf(old, with(baselineOf(4, 0), of("timeout"))),
				cellOf(moved, newOf(0, 160)), cellOf(moved, with(newOf(4, 0), of("target"))), cellOf(moved, with(newOf(36, 0), of("timeout"))),
			}, []string{"failure timeout", "move gateway+sra"}, []string{"Nearly all of it are failures of class timeout.", "of the excess sits in failures of class timeout: 36 of 200 failed so after the step, 4 of 1004 before"},
		},
		"a place in the midst of sessions that fare well": {
			[]Cell{
				cellOf(old, baselineOf(200, 9800)), cellOf(old, with(baselineOf(3, 147), over("rdp", "windows"))),
				cellOf(moved, newOf(40, 1960)), cellOf(moved, with(newOf(15, 35), over("rdp", "windows"))),
			}, []string{"protocol rdp", "target_type windows"},
			[]string{"Over all sessions no excess is shown: 55 of 2050 failed", " of the excess sits in protocol rdp: 15 of 50"},
		},
		"a first move that the second made good": {
			[]Cell{cellOf(old, baselineOf(20, 980)), cellOf("gateway=2 sra=1", betweenOf(40, 160)), cellOf(moved, newOf(4, 196))}, []string{"move gateway"},
			[]string{"Over all sessions no excess is shown", "Failures rose with the move of gateway (1 to 2) alone, no longer with both: 40 of 200"},
		},
		"two names of one thing": {
			[]Cell{
				cellOf(old, baselineOf(20, 980)), cellOf(old, with(baselineOf(10, 490), over("rdp", "windows"))),
				cellOf(moved, newOf(4, 196)), cellOf(moved, with(newOf(50, 50), over("rdp", "windows"))),
			}, []string{"protocol rdp", "target_type windows", "move gateway+sra"},
			[]string{"Nearly all of it sits in protocol rdp, and in targets of type windows; these are mostly the same sessions"},
		},
		"most of it, by luck perhaps": {
			[]Cell{
				cellOf(old, baselineOf(20, 980)), cellOf(old, with(baselineOf(3, 147), over("rdp", "windows"))),
				cellOf(moved, newOf(30, 270)), cellOf(moved, with(newOf(40, 160), over("rdp", "windows"))),
			}, []string{"move gateway+sra", "!protocol rdp", "!target_type windows"},
			[]string{"Most of the excess, ", "is in protocol rdp: 40 of 200 failed after the step, 3 of 150 before. It is not shown to have risen more than the rest."},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := Attribute(c.cells, DefaultPolicy())
			var got []string
			told := a.Summary
			for _, f := range a.Findings {
				word := string(f.Factor) + " " + f.Value
				if !f.Named {
					word = "!" + word
				}
				got = append(got, word)
				told += "\n" + f.Text
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("found %q, want %q", got, c.want)
			}
			for _, words := range c.says {
				if !strings.Contains(told, words) {
					t.Errorf("%q is not said in:\n%s", words, told)
				}
			}
		})
	}
}

// Cells may come in any order and in any portions.
func TestAttributionCountsAndNothingElse(t *testing.T) {
	t.Parallel()
	chance := rand.New(rand.NewPCG(1, 2))
	p := profile{values: [3]int{3, 2, 4}}
	for i := range p.values {
		p.shares[i] = evenly(p.values[i])
	}
	p.rate = func([3]int) float64 { return 0.03 }
	p.hit = func(at [3]int) float64 { return float64(1 + 10*at[0]) }
	cells := p.drawn(chance, 2000, 500)
	want := Attribute(cells, DefaultPolicy())
	if len(want.Findings) == 0 {
		t.Fatal("nothing is found")
	}
	for range 5 {
		chance.Shuffle(len(cells), func(i, k int) { cells[i], cells[k] = cells[k], cells[i] })
		if diff := cmp.Diff(want, Attribute(cells, DefaultPolicy())); diff != "" {
			t.Fatalf("in another order (-want +got):\n%s", diff)
		}
	}
}
