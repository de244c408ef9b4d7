package gate

import (
	"math"
	"slices"
	"strconv"
	"time"
)

// ControlShape is all that an e-value needs to know of one block that has
// controls, which are clusters that were not stepped: NA treated trials before
// the step and NB after it, CA trials of controls before and CB after, Y failures
// among all treated, Z among all controls, S among all trials after the step, and
// YB among the treated after it. The other three counts follow.
type ControlShape struct {
	NA, NB, CA, CB, Y, Z, S, YB int
}

// Valid reports whether the eight counts can belong to one block.
func (s ControlShape) Valid() bool {
	within := func(k, n int) bool { return k >= 0 && k <= n }
	if s.Y < 0 || s.Z < 0 || s.S < 0 || !within(s.YB, s.NB) {
		return false
	}
	zB := s.S - s.YB
	return within(s.Y-s.YB, s.NA) && within(zB, s.CB) && within(s.Z-zB, s.CA)
}

// law is the law of YB given the other seven counts.
func (s ControlShape) law() marginLaw {
	cell := func(failed, n int) Trials { return Trials{Failed: failed, Succeeded: n - failed} }
	zB := s.S - s.YB
	return zelenLaw(
		group{baseline: cell(s.Y-s.YB, s.NA), new: cell(s.YB, s.NB)},
		group{baseline: cell(s.Z-zB, s.CA), new: cell(zB, s.CB)},
	)
}

// LogE returns the natural logarithm of a controlled block's e-value for ratio w1
// of the two odds ratios, of treated and of controls, against w0. With x new
// failures among the treated, their law given all other counts is
//
//	P_ψ(x) ∝ C(NB, x) · C(NA, Y−x) · C(CB, S−x) · C(CA, Z−S+x) · ψ^x
//
// in which the treated's own rate, the controls' own rate and whatever multiplied
// the odds of both after the step cancel. Where the controls never fail, or
// always, S settles x and the block says nothing: e is 1. Controls that are many
// and fail often enough, but no more after than before, leave Fisher's law of the
// treated alone.
//
// It is NaN for an invalid shape; w1 and w0 must be positive.
//
// Source: Zelen, Biometrika 58 (1971); as an e-value ter Schure, Pérez-Ortiz, Ly
// and Grünwald, arXiv 2011.06931.
func (s ControlShape) LogE(w1, w0 float64) float64 {
	if !s.Valid() {
		return math.NaN()
	}
	l := s.law()
	if l.lo == l.hi {
		return 0
	}
	return l.logE(w1, w0, l.logSum(w0))
}

// logSum is the logarithm of the sum of all weights at w.
func (l *marginLaw) logSum(w float64) float64 {
	sum, _ := l.norm(w)
	return sum
}

// logE is LogE with the sum of all weights at w0.
func (l *marginLaw) logE(w1, w0, sum0 float64) float64 {
	return float64(float64(l.seen)*(math.Log(w1)-math.Log(w0))) - (l.logSum(w1) - sum0)
}

// ControlRow is how many controlled blocks of one shape were seen.
type ControlRow struct {
	ControlShape
	Count int
}

// ControlTable is controlled evidence as counts of block shapes. In canonical
// form its rows are in order of shape, each shape once and no count zero; Add and
// Merge keep that form.
type ControlTable []ControlRow

// Add counts n more blocks of one shape in a canonical table.
func (t *ControlTable) Add(s ControlShape, n int) {
	if n == 0 {
		return
	}
	i, found := slices.BinarySearchFunc(*t, s, func(r ControlRow, s ControlShape) int { return compareControlShape(r.ControlShape, s) })
	if !found {
		*t = slices.Insert(*t, i, ControlRow{ControlShape: s, Count: n})
		return
	}
	(*t)[i].Count += n
	if (*t)[i].Count == 0 {
		*t = slices.Delete(*t, i, i+1)
	}
}

// Merge returns the canonical table of both, leaving both as they are.
func (t ControlTable) Merge(other ControlTable) ControlTable {
	var out ControlTable
	for _, r := range slices.Concat(t, other) {
		out.Add(r.ControlShape, r.Count)
	}
	return out
}

// Append appends the table's canonical text, one "na nb ca cb y z s yb count"
// line for each shape, whatever the order of its rows.
func (t ControlTable) Append(b []byte) []byte {
	for _, r := range t.Merge(nil) {
		for _, n := range r.counts() {
			b = strconv.AppendInt(b, int64(n), 10)
			b = append(b, ' ')
		}
		b = strconv.AppendInt(b, int64(r.Count), 10)
		b = append(b, '\n')
	}
	return b
}

// LogRollback returns the natural logarithm of the e-value against "the treated's
// odds rose at most Tol times as much as the controls'".
func (t ControlTable) LogRollback(p Policy) float64 {
	grid := rollbackGrid()
	return t.logBets(grid[:], p.Tol, p.Tol)
}

// LogPromote returns the natural logarithm of the e-value against "the treated's
// odds rose at least Margin times as much as the controls'".
func (t ControlTable) LogPromote(p Policy) float64 {
	grid := promoteGrid()
	return t.logBets(grid[:], 1, p.Margin)
}

// logBets is the logarithm of the mean of the bets on grid·unit against w0.
func (t ControlTable) logBets(grid []float64, unit, w0 float64) float64 {
	sums := make([]float64, len(grid))
	for _, r := range t {
		l := r.law()
		if l.lo == l.hi {
			continue
		}
		sum0 := l.logSum(w0)
		for k, g := range grid {
			sums[k] += float64(float64(r.Count) * l.logE(g*unit, w0, sum0))
		}
	}
	return logMeanExp(sums)
}

func (s ControlShape) counts() [8]int {
	return [...]int{s.NA, s.NB, s.CA, s.CB, s.Y, s.Z, s.S, s.YB}
}

func compareControlShape(a, b ControlShape) int {
	x, y := a.counts(), b.counts()
	return slices.Compare(x[:], y[:])
}

// Interval is what stepped clusters and their controls did in one span of
// wall-clock time. Several intervals with one Start are taken as one, so that the
// clusters of either side need not be added up before.
type Interval struct {
	Start            time.Time
	Treated, Control Trials
}

// Pair forms controlled blocks. The trials of an interval after the step are put
// beside those of enough whole intervals before it, oldest first and each used
// once, to have m treated trials for each treated one after the step, and at least
// one of a control. All four counts of a block come from the same intervals for
// both sides, so that what the time of day or an outage did to either side it did
// to both. m is the policy's Partners, less where the baseline is too short for
// PlannedTrials, as for blocks without controls. It looks at how many trials there
// were and never at how many failed.
//
// Intervals after the step without trials of both sides form no block. When those
// before it run out, no more blocks are formed; more intervals after the step
// never change the blocks of earlier ones. An interval that is both before and
// after, because clusters of one wave step one after the other, belongs to
// neither: what begins no earlier than the first interval after the step is no
// baseline.
//
// How wide intervals are is the caller's: wide enough that controls fail in most,
// for those in which none fails say nothing, and no wider than a shared cause
// takes to come or go.
//
// Controls of several clusters are pooled. Their common change is exact where they
// fail alike or rarely; where they fail often and unlike each other, who of them
// is how busy should not change with the step.
func Pair(p Policy, before, after []Interval) ControlTable {
	before, after = byStart(before), byStart(after)
	if len(after) == 0 {
		return nil
	}
	first := after[0].Start
	before = slices.DeleteFunc(before, func(i Interval) bool { return !i.Start.Before(first) })
	treated := 0
	for _, i := range before {
		treated += i.Treated.Total()
	}
	m := p.partnersFor(treated)
	if m == 0 {
		return nil
	}
	var t ControlTable
	for _, now := range after {
		if now.Treated.Total() == 0 || now.Control.Total() == 0 {
			continue
		}
		var then Interval
		for then.Treated.Total() < m*now.Treated.Total() || then.Control.Total() == 0 {
			if len(before) == 0 {
				return t
			}
			then = then.with(before[0])
			before = before[1:]
		}
		t.Add(ControlShape{
			NA: then.Treated.Total(), NB: now.Treated.Total(), CA: then.Control.Total(), CB: now.Control.Total(),
			Y: then.Treated.Failed + now.Treated.Failed, Z: then.Control.Failed + now.Control.Failed,
			S: now.Treated.Failed + now.Control.Failed, YB: now.Treated.Failed,
		}, 1)
	}
	return t
}

// byStart returns intervals in order of time, each Start once.
func byStart(in []Interval) []Interval {
	in = slices.Clone(in)
	slices.SortStableFunc(in, func(a, b Interval) int { return a.Start.Compare(b.Start) })
	var out []Interval
	for _, i := range in {
		if last := len(out) - 1; last >= 0 && out[last].Start.Equal(i.Start) {
			out[last] = out[last].with(i)
		} else {
			out = append(out, i)
		}
	}
	return out
}

func (i Interval) with(other Interval) Interval {
	i.Treated, i.Control = sumTrials(i.Treated, other.Treated), sumTrials(i.Control, other.Control)
	return i
}
