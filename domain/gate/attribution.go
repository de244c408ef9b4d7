package gate

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// Factor is one way in which sessions differ. The words are API.
type Factor string

// Every factor. A move is of version lines, one or several; the others are
// places, each with its values.
const (
	FactorMove         Factor = "move"
	FactorProtocol     Factor = "protocol"
	FactorTargetType   Factor = "target_type"
	FactorTargetFamily Factor = "target_family"
	FactorInstance     Factor = "instance"
	FactorFailure      Factor = "failure"
)

// Factors lists every factor, the move first.
func Factors() []Factor {
	return []Factor{FactorMove, FactorProtocol, FactorTargetType, FactorTargetFamily, FactorInstance, FactorFailure}
}

// Cell counts the trials that agree in all that attribution looks at. An empty
// field is not known.
type Cell struct {
	Cluster fleet.ClusterID
	// Versions is what ran when the trials started; a line that ran several
	// versions, or none that is known, is left out.
	Versions     fleet.VersionSet
	Protocol     string
	TargetType   string
	TargetFamily string // what the path of the target has in common with its neighbours'
	Instance     fleet.InstanceID
	Failure      fleet.Failure // of the trials that failed
	// Baseline started before the first move, Between from then until the last
	// move was over, New from then on.
	Baseline, Between, New Trials
	Last                   time.Time // when the newest of them started
}

// Attribution says where the failures sit that a step brought.
type Attribution struct {
	Baseline, Between, New Trials
	Odds                   OddsRatio // New against Baseline, each cluster against its own
	Excess                 float64   // failures in New beyond what the baseline's rate gives
	Shown                  bool      // new trials fail more than Tol allows, and not by luck
	Compared               int       // how many moves and places were looked at
	Findings               []Finding // the first says most
	Summary                string    // a few sentences for people
}

// Finding is one value of one factor and the failures that sit there. Odds
// holds for one look; the promise for all findings together is Named's.
type Finding struct {
	Factor Factor
	// Value is the factor's value; of a move, its lines joined by "+", or NoMove.
	Value string
	// New and Baseline are what is compared. Of a value first seen after the step,
	// Baseline is of the sessions most like its own.
	New, Baseline Trials
	Odds          OddsRatio
	LogE          float64 // natural logarithm of the e-value against "no worse than before, or than elsewhere"
	Named         bool    // the evidence says that it is here; else it is only where most of it is
	Share         float64 // of the excess failures, from 0 to 1
	Text          string  // one sentence
}

// NoMove is the value of a move that no line made.
const NoMove = "none"

const (
	// attributionRate bounds the share of named findings that are none (e-BH).
	attributionRate = 0.05
	// mostOfIt is what share of the excess makes a value worth a word that the
	// evidence does not name, and nearlyAll what share is as good as the whole.
	mostOfIt, nearlyAll = 0.5, 0.9
	// outstanding is how much larger its share of the excess is than its share of all
	// sessions then.
	outstanding = 1.25
	// mostValues of one factor are looked at, those with the most new trials.
	mostValues = 50
	// borrowed is how many trials at the whole's failure rate are added to the
	// baseline of one value before its share is computed, so that a value seldom
	// seen before does not own failures by the luck of two trials.
	borrowed = 10
)

// Attribute compares the new trials of every value of every factor with the
// baseline, each cluster within itself, by the exact conditional law of the
// counts.
//
// A value is named only when two things stand against their nulls at once: its
// odds of failing rose more than Tol times (Fisher's law of new against
// baseline), and they rose more than Tol times as much as everything else's
// (Zelen's law of the ratio of the two odds ratios, in which the value's and
// the rest's own rates both cancel). Its e-value is the smaller of the two. A
// value first seen after the step, as most instances are, is compared with the
// sessions of its protocol and target type, before the step and after it.
// Classes of failure are compared as shares of all trials and of all failures.
// All these and the moves enter one e-BH: of the findings that are named 5 % at
// most are named in vain, and where nothing has changed nothing is named in 95 %
// of looks at least.
//
// That holds for a look whose moment the places of the failures did not choose.
// A gate looks at outcomes alone, so the moment of its decision is as good as
// any for telling places apart. That there is an excess at all was the gate's to
// say, at any time; here it is said as of one look.
//
// What one value does shows in all that goes with it: where rdp breaks, targets
// of type windows do. The first of the places is the one whose evidence is
// strongest; the rest may be its shadows, and the summary says of which nobody
// can tell.
func Attribute(cells []Cell, p Policy) Attribution {
	var out Attribution
	wholes := groups{}
	for _, c := range cells {
		out.Baseline, out.Between, out.New = sumTrials(out.Baseline, c.Baseline), sumTrials(out.Between, c.Between), sumTrials(out.New, c.New)
		wholes.add(stratum{cluster: c.Cluster}, c.Baseline, c.New)
	}
	out.Excess = wholes.excess()
	m := movesOf(cells, wholes)
	candidates := append([]candidate{m.together(out)}, m.apart()...)
	for _, f := range Factors()[1:] {
		candidates = append(candidates, placesOf(f, cells, wholes, out.Excess)...)
	}
	e := make([]float64, len(candidates))
	for i := range candidates {
		c := &candidates[i]
		c.LogE = logRise(c.rose, p.Tol)
		for _, laws := range c.beside {
			c.LogE = min(c.LogE, logRise(laws, p.Tol))
		}
		e[i] = math.Exp(c.LogE)
	}
	for _, i := range EBH(e, attributionRate) {
		candidates[i].Named = true
	}
	out.Compared, out.Shown, out.Odds = len(candidates), candidates[0].Named, oddsOf(candidates[0].rose, p)
	for _, c := range ranked(candidates) {
		c.Odds = oddsOf(c.rose, p)
		c.Text = m.sentence(c)
		out.Findings = append(out.Findings, c.Finding)
	}
	out.Summary = out.summarise(m, p)
	return out
}

// candidate is a finding that may be told, with the laws that judge it.
type candidate struct {
	Finding
	rose   []marginLaw   // of new against baseline
	beside [][]marginLaw // of that against how others rose
	fresh  bool          // its baseline is of others
	upon   fleet.Line    // of a move: the line that had moved before
}

// ranked returns what is told, what says most first: what is named, places before
// moves because they are narrower; then, if there is an excess at all, the value
// of each factor that holds most of it.
func ranked(candidates []candidate) []candidate {
	var places, moves, most []candidate
	told := make(map[Factor]bool)
	shown := candidates[0].Named
	for _, c := range candidates[1:] {
		switch {
		case c.Named && c.Factor == FactorMove:
			moves = append(moves, c)
		case c.Named:
			places = append(places, c)
			told[c.Factor] = true
		case shown && c.holdsMost(candidates[0].New):
			most = append(most, c)
		}
	}
	if shown && len(moves) == 0 { // else one of the moves says more than all together
		moves = append(moves, candidates[0])
	}
	evidence := func(a, b candidate) int { return cmp.Compare(b.LogE, a.LogE) }
	slices.SortStableFunc(places, evidence)
	slices.SortStableFunc(moves, evidence)
	slices.SortStableFunc(most, func(a, b candidate) int { return cmp.Compare(b.Share, a.Share) })
	out := slices.Concat(places, moves)
	for _, c := range most {
		if !told[c.Factor] {
			out = append(out, c)
			told[c.Factor] = true
		}
	}
	return out
}

// holdsMost says whether a place without evidence of its own is worth a word: it
// holds most of the excess, and more than its share of all sessions. Any session
// can fail in any class, and a class that is none says nothing.
func (c candidate) holdsMost(whole Trials) bool {
	switch fair := portion(float64(c.New.Total()), float64(whole.Total())); c.Factor {
	case FactorMove:
		return false
	case FactorFailure:
		return c.Share >= mostOfIt && c.Value != string(fleet.FailureUnclassified)
	default:
		return c.Share >= mostOfIt && c.Share > outstanding*fair
	}
}

// stratum is what trials are compared within; protocol and target type are empty
// where they do not matter.
type stratum struct {
	cluster              fleet.ClusterID
	protocol, targetType string
}

// group is trials before and after.
type group struct{ baseline, new Trials }

// groups are trials by stratum.
type groups map[stratum]group

func (g groups) add(s stratum, baseline, fresh Trials) {
	g[s] = group{sumTrials(g[s].baseline, baseline), sumTrials(g[s].new, fresh)}
}

func (g groups) sum() (out group) {
	for _, one := range g {
		out.baseline, out.new = sumTrials(out.baseline, one.baseline), sumTrials(out.new, one.new)
	}
	return out
}

// sorted returns the strata in order, so that sums of floats repeat.
func (g groups) sorted() []stratum {
	return slices.SortedFunc(maps.Keys(g), func(a, b stratum) int {
		return cmp.Or(cmp.Compare(a.cluster, b.cluster), cmp.Compare(a.protocol, b.protocol), cmp.Compare(a.targetType, b.targetType))
	})
}

// excess is how many more new trials failed than at the baseline's rate; a
// stratum without a baseline has no excess.
func (g groups) excess() float64 {
	out := 0.0
	for _, s := range g.sorted() {
		if one := g[s]; one.baseline.Total() > 0 {
			out += float64(one.new.Failed) - float64(float64(one.new.Total())*one.baseline.Rate())
		}
	}
	return out
}

// rose are the laws of new against baseline.
func (g groups) rose() []marginLaw {
	var out []marginLaw
	for _, s := range g.sorted() {
		out = appendLaw(out, fisherLaw(g[s].new, g[s].baseline))
	}
	return out
}

func sumTrials(a, b Trials) Trials {
	return Trials{Failed: a.Failed + b.Failed, Succeeded: a.Succeeded + b.Succeeded}
}

func lessTrials(a, b Trials) Trials {
	return Trials{Failed: a.Failed - b.Failed, Succeeded: a.Succeeded - b.Succeeded}
}

// portion is part of whole, within 0 and 1; 0 when there is no whole.
func portion(part, whole float64) float64 {
	if !(whole > 0) {
		return 0
	}
	return min(1, max(0, part/whole))
}

// value of a cell's place, empty when it is not known.
func (f Factor) value(c Cell) string {
	switch f {
	case FactorProtocol:
		return c.Protocol
	case FactorTargetType:
		return c.TargetType
	case FactorTargetFamily:
		return c.TargetFamily
	case FactorInstance:
		return string(c.Instance)
	case FactorFailure:
		return string(c.Failure)
	case FactorMove: // is no place
	}
	return ""
}

// placesOf returns the values of one factor, compared.
func placesOf(f Factor, cells []Cell, wholes groups, excess float64) []candidate {
	values, alike := make(map[string]groups), groups{}
	for _, c := range cells {
		s := stratum{cluster: c.Cluster}
		if f == FactorTargetFamily || f == FactorInstance {
			s.protocol, s.targetType = c.Protocol, c.TargetType
		}
		alike.add(s, c.Baseline, c.New)
		if v := f.value(c); v != "" {
			if values[v] == nil {
				values[v] = groups{}
			}
			values[v].add(s, c.Baseline, c.New)
		}
	}
	// Which values are looked at is said by margins, never by which trials failed.
	margin := func(v string) int {
		sum := values[v].sum()
		if f == FactorFailure {
			return sum.new.Failed + sum.baseline.Failed
		}
		return sum.new.Total()
	}
	order := slices.SortedFunc(maps.Keys(values), func(a, b string) int { return cmp.Or(cmp.Compare(margin(b), margin(a)), cmp.Compare(a, b)) })
	all := wholes.sum().new.Total()
	var out []candidate
	for _, v := range order[:min(len(order), mostValues)] {
		c := candidate{Finding: Finding{Factor: f, Value: v}}
		sum := values[v].sum()
		var expected float64
		switch {
		case f == FactorFailure:
			expected = c.compareClass(values[v], wholes)
		case sum.new.Total() == all:
			continue // it is no part of anything
		case sum.baseline.Total() == 0:
			expected = c.compareFresh(values[v], alike)
		default:
			expected = c.compareKnown(values[v], wholes)
		}
		if len(c.rose) > 0 { // else no counts could speak
			c.Share = portion(float64(c.New.Failed)-expected, excess)
			out = append(out, c)
		}
	}
	return out
}

// compareKnown sets a value beside the rest of its cluster, each against its own
// baseline, and returns how many new failures its own leads to expect.
func (c *candidate) compareKnown(value, wholes groups) (expected float64) {
	merged := groups{}
	for s, g := range value {
		merged.add(stratum{cluster: s.cluster}, g.baseline, g.new)
	}
	sum := merged.sum()
	c.Baseline, c.New, c.rose = sum.baseline, sum.new, merged.rose()
	var beside []marginLaw
	for _, s := range merged.sorted() {
		mine, whole := merged[s], wholes[s]
		beside = appendLaw(beside, zelenLaw(mine, group{lessTrials(whole.baseline, mine.baseline), lessTrials(whole.new, mine.new)}))
		expected += expectedFailures(mine, whole.baseline.Rate())
	}
	c.beside = [][]marginLaw{beside}
	return expected
}

// compareFresh sets a value without a baseline of its own beside the sessions
// like its own, before the step and after it.
func (c *candidate) compareFresh(value, alike groups) (expected float64) {
	c.fresh = true
	var beside []marginLaw
	for _, s := range value.sorted() {
		mine, like := value[s].new, alike[s]
		c.New, c.Baseline = sumTrials(c.New, mine), sumTrials(c.Baseline, like.baseline)
		c.rose = appendLaw(c.rose, fisherLaw(mine, like.baseline))
		beside = appendLaw(beside, fisherLaw(mine, lessTrials(like.new, mine)))
		expected += expectedFailures(group{new: mine}, like.baseline.Rate())
	}
	c.beside = [][]marginLaw{beside}
	return expected
}

// compareClass sets one class of failure beside the others: how many failed so
// of all trials, and of all that failed.
func (c *candidate) compareClass(value, wholes groups) (expected float64) {
	var beside []marginLaw
	for _, s := range wholes.sorted() {
		so, whole := value[s], wholes[s]
		mine := group{Trials{so.baseline.Failed, whole.baseline.Total() - so.baseline.Failed}, Trials{so.new.Failed, whole.new.Total() - so.new.Failed}}
		c.New, c.Baseline = sumTrials(c.New, mine.new), sumTrials(c.Baseline, mine.baseline)
		c.rose = appendLaw(c.rose, fisherLaw(mine.new, mine.baseline))
		beside = appendLaw(beside, fisherLaw(
			Trials{so.new.Failed, whole.new.Failed - so.new.Failed}, Trials{so.baseline.Failed, whole.baseline.Failed - so.baseline.Failed}))
		expected += expectedFailures(mine, mine.baseline.Rate())
	}
	c.beside = [][]marginLaw{beside}
	return expected
}

// expectedFailures is how many of a group's new trials would have failed before,
// where the whole that it is part of failed at rate.
func expectedFailures(g group, rate float64) float64 {
	return float64(g.new.Total()) * (float64(g.baseline.Failed) + float64(borrowed*rate)) / float64(g.baseline.Total()+borrowed)
}

// moves are what version lines did at a step.
type moves struct {
	known    bool         // what ran is known of some line
	lines    []fleet.Line // that moved in some cluster, in order
	from, to map[fleet.Line][]string
	wholes   groups
	// alone holds the trials that started while of all the lines that move in their
	// cluster one alone had moved, as new trials beside the cluster's baseline.
	alone map[fleet.Line]groups
}

// movesOf reads which lines moved: those whose version in most new trials of a
// cluster is another than in its newest baseline trial.
func movesOf(cells []Cell, wholes groups) moves {
	m := moves{from: make(map[fleet.Line][]string), to: make(map[fleet.Line][]string), wholes: wholes, alone: make(map[fleet.Line]groups)}
	by := make(map[fleet.ClusterID][]Cell)
	for _, c := range cells {
		by[c.Cluster] = append(by[c.Cluster], c)
	}
	for _, cluster := range slices.Sorted(maps.Keys(by)) {
		m.read(stratum{cluster: cluster}, by[cluster])
	}
	m.lines = slices.Sorted(maps.Keys(m.to))
	return m
}

// read takes in the cells of one cluster.
func (m *moves) read(cluster stratum, cells []Cell) {
	was, seen, is := make(fleet.VersionSet), make(map[fleet.Line]time.Time), make(map[fleet.Line]map[string]int)
	for _, c := range cells {
		for line, version := range c.Versions {
			if c.Baseline.Total() > 0 && !c.Last.Before(seen[line]) {
				was[line], seen[line] = version, c.Last
			}
			if is[line] == nil {
				is[line] = make(map[string]int)
			}
			is[line][version] += c.New.Total()
		}
	}
	to := make(fleet.VersionSet)
	for _, line := range slices.Sorted(maps.Keys(was)) {
		now := slices.MaxFunc(slices.Sorted(maps.Keys(is[line])), func(a, b string) int { return cmp.Compare(is[line][a], is[line][b]) })
		if is[line][now] == 0 {
			continue
		}
		m.known = true
		if now != was[line] {
			to[line] = now
			m.from[line], m.to[line] = withOne(m.from[line], was[line]), withOne(m.to[line], now)
		}
	}
	for _, c := range cells {
		line, alone := movedAlone(c.Versions, to)
		if !alone || c.Between.Total() == 0 {
			continue
		}
		if m.alone[line] == nil {
			m.alone[line] = groups{}
		}
		if _, counted := m.alone[line][cluster]; !counted {
			m.alone[line].add(cluster, m.wholes[cluster].baseline, Trials{})
		}
		m.alone[line].add(cluster, Trials{}, c.Between)
	}
}

func withOne(list []string, s string) []string {
	if slices.Contains(list, s) {
		return list
	}
	return append(list, s)
}

// movedAlone returns the one line of several that move which runs its new
// version; false when it is none or more, or when it is not known of one.
func movedAlone(versions, to fleet.VersionSet) (line fleet.Line, alone bool) {
	n := 0
	for l, version := range to {
		switch versions[l] {
		case "":
			return "", false
		case version:
			line = l
			n++
		}
	}
	return line, n == 1 && len(to) > 1
}

// together is all that moved against the baseline: the whole excess.
func (m *moves) together(a Attribution) candidate {
	c := candidate{Finding: Finding{Factor: FactorMove, Value: NoMove, New: a.New, Baseline: a.Baseline}, rose: m.wholes.rose()}
	if len(m.lines) > 0 {
		c.Value = joined(m.lines, "+")
	}
	c.Share = portion(a.Excess, a.Excess)
	return c
}

func joined(lines []fleet.Line, by string) string {
	words := make([]string, len(lines))
	for i, line := range lines {
		words[i] = string(line)
	}
	return strings.Join(words, by)
}

// apart tells moves apart by the trials that started between them: each line
// that had moved alone against the baseline, and all against it. Where several
// had moved alone, what all bring must stand against each of them.
func (m *moves) apart() []candidate {
	var alone, upon []candidate
	for _, line := range slices.Sorted(maps.Keys(m.alone)) {
		first, then, whole := m.alone[line], groups{}, groups{}
		for s, g := range first {
			then.add(s, g.new, m.wholes[s].new)
			whole[s] = m.wholes[s]
		}
		before, one, all := whole.sum().baseline, first.sum().new, whole.sum().new
		rise := all.Rate() - before.Rate()
		alone = append(alone, candidate{
			Finding: Finding{Factor: FactorMove, Value: string(line), Baseline: before, New: one, Share: portion(one.Rate()-before.Rate(), rise)}, rose: first.rose(),
		})
		others := slices.DeleteFunc(slices.Clone(m.lines), func(l fleet.Line) bool { return l == line })
		upon = append(upon, candidate{
			Finding: Finding{Factor: FactorMove, Value: joined(others, "+"), Baseline: one, New: all, Share: portion(all.Rate()-one.Rate(), rise)}, rose: then.rose(), upon: line,
		})
	}
	if len(upon) > 1 {
		pair := upon[0]
		pair.Value, pair.upon = joined(m.lines, "+"), ""
		for _, other := range upon[1:] {
			pair.beside, pair.Share = append(pair.beside, other.rose), min(pair.Share, other.Share)
		}
		upon = []candidate{pair}
	}
	return append(alone, upon...)
}

// sentence tells of one finding.
func (m *moves) sentence(c candidate) string {
	if c.Factor == FactorMove {
		return m.moveSentence(c)
	}
	where, counts := c.place(), c.counts("after the step", "before")
	switch {
	case c.Factor == FactorFailure:
		counts = fmt.Sprintf("%d of %d failed so after the step, %d of %d before", c.New.Failed, c.New.Total(), c.Baseline.Failed, c.Baseline.Total())
	case c.fresh:
		where += ", first seen after the step"
		counts = c.counts("there", "of its kind before")
	}
	if !c.Named {
		return fmt.Sprintf("Most of the excess, %s, is in %s: %s. It is not shown to have risen more than the rest.", wholePercent(c.Share), where, counts)
	}
	what := "Failures rose"
	if c.Share > 0 {
		what = wholePercent(c.Share) + " of the excess sits"
	}
	return fmt.Sprintf("%s in %s: %s, %s, and the rest did not rise so.", what, where, counts, oddsPhrase(c.Odds))
}

func (m *moves) moveSentence(c candidate) string {
	counts := c.counts("since", "before") + ", " + oddsPhrase(c.Odds)
	switch {
	case c.Value == NoMove && m.known:
		return "Failures rose, and no version line moved: " + counts + "."
	case c.Value == NoMove:
		return "Failures rose, and what ran is not known: " + counts + "."
	case c.upon != "":
		return fmt.Sprintf("%s of the excess came with the move of %s, made upon the moved %s: %s. It may be of the pair: no session ran it without the other.",
			wholePercent(c.Share), m.phrase(c.Value), c.upon, c.counts("since", "in between")+", "+oddsPhrase(c.Odds))
	case len(m.lines) == 1:
		return fmt.Sprintf("Failures rose with the move of %s: %s.", m.phrase(c.Value), counts)
	case c.Value != joined(m.lines, "+") && c.Share == 0:
		return fmt.Sprintf("Failures rose with the move of %s alone, no longer with both: %s.", m.phrase(c.Value), counts)
	case c.Value != joined(m.lines, "+"):
		return fmt.Sprintf("%s of the excess came with the move of %s alone: %s.", wholePercent(c.Share), m.phrase(c.Value), counts)
	case len(c.beside) > 0:
		return fmt.Sprintf("%s of the excess came only once %s had both moved: %s.", wholePercent(c.Share), m.phrase(c.Value), c.counts("since", "with one of them"))
	}
	between := 0
	for _, g := range m.alone {
		between += g.sum().new.Total()
	}
	if between == 0 {
		return fmt.Sprintf("Failures rose with the moves of %s, which cannot be told apart: no session started between them. %s.", m.phrase(c.Value), capitalised(counts))
	}
	return fmt.Sprintf("Failures rose with the moves of %s, which cannot be told apart: the sessions between them, %d, say too little. %s.", m.phrase(c.Value), between, capitalised(counts))
}

// phrase says lines with their versions.
func (m *moves) phrase(value string) string {
	var words []string
	for line := range strings.SplitSeq(value, "+") {
		word := line
		if from, to := m.from[fleet.Line(line)], m.to[fleet.Line(line)]; len(from) == 1 && len(to) == 1 {
			word = fmt.Sprintf("%s (%s to %s)", line, from[0], to[0])
		}
		words = append(words, word)
	}
	return strings.Join(words, " and ")
}

func capitalised(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// place is the value in words.
func (f Finding) place() string {
	switch f.Factor {
	case FactorTargetType:
		return "targets of type " + f.Value
	case FactorTargetFamily:
		return "targets under " + f.Value
	case FactorFailure:
		return "failures of class " + f.Value
	case FactorProtocol, FactorInstance, FactorMove: // say themselves
	}
	return string(f.Factor) + " " + f.Value
}

func (f Finding) counts(after, before string) string {
	return fmt.Sprintf("%d of %d failed %s, %d of %d %s", f.New.Failed, f.New.Total(), after, f.Baseline.Failed, f.Baseline.Total(), before)
}

// oddsPhrase words an odds ratio that holds for one look.
func oddsPhrase(o OddsRatio) string {
	figure := func(v float64) string { return fmt.Sprintf("%.3g", v) }
	switch {
	case o.Blocks == 0:
		return "odds ratio not known"
	case math.IsInf(o.Estimate, 1) && o.Low == 0:
		return "odds ratio beyond measure"
	case math.IsInf(o.Estimate, 1) || math.IsInf(o.High, 1):
		return "odds ratio " + figure(o.Low) + " or more"
	}
	return fmt.Sprintf("odds ratio %s (%s to %s)", figure(o.Estimate), figure(o.Low), figure(o.High))
}

func wholePercent(share float64) string { return fmt.Sprintf("%.0f %%", 100*share) }

// summarise says it all in a few sentences.
func (a Attribution) summarise(m moves, p Policy) string {
	counts := Evidence{New: a.New, Baseline: a.Baseline}.counts()
	switch {
	case a.New.Total() == 0:
		return "No session that started after the step has an outcome, so there is nothing to attribute."
	case a.Baseline.Total() == 0:
		return "There is no baseline to compare with: " + counts + "."
	case len(a.Findings) == 0:
		return fmt.Sprintf("No excess is shown: %s. None of the %d comparisons shows failures to have risen more than %g times.", counts, a.Compared, p.Tol)
	}
	if !a.Shown {
		return fmt.Sprintf("Over all sessions no excess is shown: %s. %s", counts, a.Findings[0].Text)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "New sessions fail more than before: %s; about %.0f more than expected.", counts, a.Excess)
	var places []string // that hold nearly all of it
	class, named := "", false
	for _, f := range a.Findings {
		named = named || f.Named && f.Factor != FactorMove
		switch {
		case !f.Named || f.Factor == FactorMove || f.Share < nearlyAll:
		case f.Factor == FactorFailure:
			class = f.place()
		default:
			places = append(places, f.place())
		}
	}
	switch {
	case len(places) > 1:
		fmt.Fprintf(&b, " Nearly all of it sits in %s; these are mostly the same sessions, so that they cannot be told apart.", strings.Join(places, ", and in "))
	case len(places) == 1:
		fmt.Fprintf(&b, " Nearly all of it sits in %s.", places[0])
	case !named:
		b.WriteString(" No protocol, target, instance or class of failure is shown to hold it.")
	}
	if class != "" {
		fmt.Fprintf(&b, " Nearly all of it are %s.", class)
	}
	if len(m.lines) > 1 {
		for _, f := range a.Findings {
			if f.Factor == FactorMove && f.Value == joined(m.lines, "+") {
				b.WriteString(" " + f.Text)
			}
		}
	}
	return b.String()
}

// marginLaw is the law of how many new trials of a group failed once every
// margin is known: of x it is in proportion to a product of binomial coefficients
// C(n, at + x) for what rises with x and C(n, at − x) for what falls, times w to
// the x. It is log-concave, so that it can be summed outwards from its mode and
// costs the same for a million trials as for a thousand, nearly.
type marginLaw struct {
	rising, falling []coefficient
	lo, hi, seen    int
}

type coefficient struct{ n, at int }

// fisherLaw is the law of LogE for one block of all trials: w is the odds ratio
// of new against baseline.
func fisherLaw(fresh, before Trials) marginLaw {
	return marginLaw{
		rising: []coefficient{{fresh.Total(), 0}}, falling: []coefficient{{before.Total(), fresh.Failed + before.Failed}}, seen: fresh.Failed,
	}.bounded()
}

// zelenLaw is the law of two groups, each new and before: w is the ratio of their
// odds ratios, which the two groups' own rates and what both share leave alone.
//
// Source: Zelen, Biometrika 58 (1971).
func zelenLaw(mine, rest group) marginLaw {
	y, z, s := mine.new.Failed+mine.baseline.Failed, rest.new.Failed+rest.baseline.Failed, mine.new.Failed+rest.new.Failed
	return marginLaw{
		rising:  []coefficient{{mine.new.Total(), 0}, {rest.baseline.Total(), z - s}},
		falling: []coefficient{{mine.baseline.Total(), y}, {rest.new.Total(), s}},
		seen:    mine.new.Failed,
	}.bounded()
}

// bounded sets which x are possible.
func (l marginLaw) bounded() marginLaw {
	l.lo, l.hi = math.MinInt, math.MaxInt
	for _, c := range l.rising {
		l.lo, l.hi = max(l.lo, -c.at), min(l.hi, c.n-c.at)
	}
	for _, c := range l.falling {
		l.lo, l.hi = max(l.lo, c.at-c.n), min(l.hi, c.at)
	}
	return l
}

// appendLaw leaves out a law whose margins settle everything.
func appendLaw(list []marginLaw, l marginLaw) []marginLaw {
	if l.lo == l.hi {
		return list
	}
	return append(list, l)
}

// step is how much likelier x + 1 is than x at w = 1; it falls with x.
func (l *marginLaw) step(x int) float64 {
	ratio := 1.0
	for _, c := range l.rising {
		ratio *= float64(c.n-c.at-x) / float64(c.at+x+1)
	}
	for _, c := range l.falling {
		ratio *= float64(c.at-x) / float64(c.n-c.at+x+1)
	}
	return ratio
}

// negligible is below what a sum of floats near 1 can tell.
const negligible = 1e-18

// norm returns the logarithm of the sum of all weights at w, and the mean of x.
func (l *marginLaw) norm(w float64) (logSum, mean float64) {
	lo, hi := l.lo, l.hi // the mode is the first x whose next is not likelier
	for lo < hi {
		if mid := lo + (hi-lo)/2; l.step(mid)*w >= 1 {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	mode, sum, moment := lo, 1.0, 0.0
	for x, t := mode, 1.0; x < l.hi; x++ {
		if t *= l.step(x) * w; t < negligible {
			break
		}
		sum += t
		moment += float64(t * float64(x+1-mode))
	}
	for x, t := mode, 1.0; x > l.lo; x-- {
		if t /= l.step(x-1) * w; t < negligible {
			break
		}
		sum += t
		moment -= float64(t * float64(mode-x+1))
	}
	logSum = float64(float64(mode)*math.Log(w)) + math.Log(sum)
	for _, c := range l.rising {
		logSum += logChoose(c.n, c.at+mode)
	}
	for _, c := range l.falling {
		logSum += logChoose(c.n, c.at-mode)
	}
	return logSum, float64(mode) + moment/sum
}

// logRise is the logarithm of the e-value against "the odds ratio is at most
// w0", with the bets of a rollback; 0 when no law says anything.
func logRise(laws []marginLaw, w0 float64) float64 {
	return logBets(laws, w0, func(g float64) float64 { return g * w0 })
}

// logFall is the same against "at least w0".
func logFall(laws []marginLaw, w0 float64) float64 {
	return logBets(laws, w0, func(g float64) float64 { return w0 / g })
}

func logBets(laws []marginLaw, w0 float64, bet func(float64) float64) float64 {
	var sums [5]float64
	for i := range laws {
		l := &laws[i]
		null, _ := l.norm(w0)
		for k, g := range rollbackGrid() {
			w1 := bet(g)
			z, _ := l.norm(w1)
			sums[k] += float64(float64(l.seen)*math.Log(w1/w0)) - (z - null)
		}
	}
	return logMeanExp(sums[:])
}

// oddsOf estimates the odds ratio as Evidence.OddsRatio does from blocks.
func oddsOf(laws []marginLaw, p Policy) OddsRatio {
	or := OddsRatio{Estimate: 1, Low: 0, High: math.Inf(1), Blocks: len(laws)}
	if len(laws) == 0 {
		return or
	}
	seen, least, most := 0, 0, 0
	for _, l := range laws {
		seen, least, most = seen+l.seen, least+l.lo, most+l.hi
	}
	switch seen {
	case least:
		or.Estimate = 0
	case most:
		or.Estimate = math.Inf(1)
	default:
		or.Estimate = math.Exp(bisect(func(x float64) bool {
			expected := 0.0
			for i := range laws {
				_, mean := laws[i].norm(math.Exp(x))
				expected += mean
			}
			return expected < float64(seen)
		}))
	}
	above := func(x float64) bool { return logRise(laws, math.Exp(x)) >= p.LogRollbackAt() }
	below := func(x float64) bool { return logFall(laws, math.Exp(-x)) >= p.LogRollbackAt() }
	if above(-oddsRange) {
		or.Low = math.Exp(bisect(above))
	}
	if below(-oddsRange) {
		or.High = math.Exp(-bisect(below))
	}
	return or
}
