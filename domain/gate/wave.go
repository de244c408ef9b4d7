package gate

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// Codes of a wave. Its clusters use those of a cluster, too.
const (
	PassedAsWave   Code = "passed_as_wave"   // PROMOTE on the evidence of all clusters together
	WaveRegression Code = "wave_regression"  // ROLLBACK evidence of all clusters together reached its threshold
	ManyBad        Code = "many_bad"         // more clusters are named bad than may fail
	CheckFailed    Code = "check_failed"     // a check that knows no chance failed
	ClusterFailed  Code = "cluster_failed"   // a cluster's own evidence rolls it back
	CommonCause    Code = "common_cause"     // sessions fail more, and those of the controls do so too
	NotToldApart   Code = "not_told_apart"   // sessions fail more, and the controls do not tell yet whether theirs do
	NoControls     Code = "no_controls"      // every cluster was stepped: before and after is all there is
	StepsNotPassed Code = "steps_not_passed" // a step gate has not passed
	InDoubt        Code = "in_doubt"         // a cluster's own evidence points at a regression, so that others must not outvote it
)

// ClusterEvidence is what a wave knows of one of its clusters.
type ClusterEvidence struct {
	Cluster fleet.ClusterID
	// Evidence is its people's sessions, before and after.
	Evidence Evidence
	// Control is the same beside its controls, empty when the wave has none.
	Control ControlTable
	// StepsPassed says that every step gate of the cluster passed.
	StepsPassed bool
	// Failed are the checks that failed without chance having a part in it:
	// inventory, recording, forwarding, probes that all fail.
	Failed []CheckName
	// RolledBack says that the cluster went back. It still counts against the
	// release, and no longer in what is promoted.
	RolledBack bool
}

// ControlEvidence is one control, judged as if it had been stepped, too.
type ControlEvidence struct {
	Cluster   fleet.ClusterID
	Evidence  Evidence
	Watermark Watermark // how much of it was read
}

// Wave is all that the verdict on a wave rests on. The order of clusters means
// nothing; each is there once.
type Wave struct {
	Clusters []ClusterEvidence
	// Controls are the clusters that are not stepped yet. The last wave has none.
	Controls []ControlEvidence
	// Control is all clusters together beside the controls: Pair on the intervals
	// of all of them. The tables of the clusters share their controls, so that their
	// e-values must not be multiplied.
	Control ControlTable
}

// WaveLimits is what a rollout allows a wave.
type WaveLimits struct {
	Alpha       float64 // chance that a release within Tol ever stops the rollout by the evidence of a wave as a whole
	Named       float64 // share of clusters named bad that may be named in vain, the q of e-BH
	MaxFailures int     // clusters that may fail before nothing starts any more
}

// DefaultWaveLimits returns the limits of a rollout that says nothing else: a
// person decides at the first failure.
func DefaultWaveLimits() WaveLimits { return WaveLimits{Alpha: 0.01, Named: 0.05} }

// Validate returns nil, or one error that names every limit out of bounds.
func (l WaveLimits) Validate() error {
	var bad []string
	if !(l.Alpha > 0 && l.Alpha <= 0.5) {
		bad = append(bad, fmt.Sprintf("alpha is %v but must be above 0 and at most 0.5", l.Alpha))
	}
	if !(l.Named > 0 && l.Named <= 0.5) {
		bad = append(bad, fmt.Sprintf("named is %v but must be above 0 and at most 0.5", l.Named))
	}
	if l.MaxFailures < 0 {
		bad = append(bad, fmt.Sprintf("max_failures is %d but must be 0 or more", l.MaxFailures))
	}
	if len(bad) == 0 {
		return nil
	}
	return errors.New("limits of a wave: " + strings.Join(bad, "; "))
}

// ClusterVerdict is what a wave says of one cluster.
type ClusterVerdict struct {
	Cluster fleet.ClusterID
	Verdict Verdict // fail: its own evidence rolls it back
	Code    Code
	Named   bool // among the bad by e-BH

	// Derived from the evidence; natural logarithms, never hashed.
	LogE       float64 // the e-value against the cluster that counts, one of the next two
	LogBefore  float64 // before and after alone
	LogControl float64 // beside the controls; 0 without any
}

// WaveDecision is a verdict on a wave with all that it rests on. Pass lets the
// next wave start, Fail stops the rollout everywhere, Hold lets nothing start
// until a person decides. Hash covers the evidence's integers, the policies and
// the verdict.
type WaveDecision struct {
	Verdict    Verdict
	Reasons    []Reason // the deciding one first
	Summary    string   // one paragraph for people
	Named      []fleet.ClusterID
	Clusters   []ClusterVerdict // by cluster
	Evidence   Evidence         // of the clusters that are promoted together
	PolicyHash string
	Hash       string

	// Derived from the evidence; natural logarithms, never hashed.
	LogE        float64 // against the wave
	LogControls float64 // against the controls, as if they had been stepped
	LogRelative float64 // for promotion
	LogAbsolute float64 // for promotion
	Odds        OddsRatio
	Needed      int // estimate of new trials still to come before a promotion; −1 when no number is enough
}

// Judge returns the verdict on a wave as things stand. The e-values of its
// clusters make one against the wave,
//
//	E_wave = ½ · mean_k Π_clusters E_cluster,k  +  ½ · mean_clusters E_cluster
//
// where k runs over the bets of a rollback: the product finds a release that is
// somewhat bad everywhere, the mean one that is very bad somewhere. The rollout
// stops everywhere when E_wave reaches 1/limits.Alpha, when e-BH names more
// clusters than may fail, or when a check failed outright. A cluster's own alarm
// rolls that cluster back and holds what would start next. deadlinePassed is the
// caller's clock speaking: past it, Pending becomes Inconclusive.
//
// With controls, what rose as much for them is not the release's: until they are
// seen to work, a cluster's e-value is the one beside its controls, and instead of
// the product that of all clusters together beside them. They are seen to work
// when their own trials would be promoted as a wave and point at no regression;
// then before and after count in full, which also finds a bad release where
// controls never fail. A cluster that alarms by before and after alone is held
// meanwhile.
//
// Sessions pass as a wave on the blocks and the trials of all clusters together,
// on the assumption that the release has one odds ratio everywhere; so that a
// good cluster cannot outvote a bad one, only when every step gate passed and no
// cluster's own ROLLBACK e-value exceeds 1: by before and after, where it does not pass
// by itself, or beside the controls.
//
// Sources: the means and products of e-values are those of Ville's inequality in
// ter Schure, Pérez-Ortiz, Ly and Grünwald, arXiv 2011.06931; e-BH is Wang and
// Ramdas, arXiv 2009.02824.
func (w Wave) Judge(p Policy, limits WaveLimits, deadlinePassed bool) WaveDecision {
	w = w.sorted()
	policyHash := p.Hash()
	d := WaveDecision{PolicyHash: policyHash, Needed: -1}
	controls := w.controlArms(p)
	d.LogControls = controls.logE
	for _, c := range w.Clusters {
		d.Clusters = append(d.Clusters, c.judge(p, controls))
		if !c.RolledBack {
			d.Evidence = d.Evidence.with(c.Evidence)
		}
	}
	d.LogE = w.logE(p, controls, d.Clusters)
	d.name(limits)
	d.LogRelative, d.LogAbsolute = d.Evidence.LogPromoteRelative(p), d.Evidence.LogPromoteAbsolute(p)
	d.Odds = d.Evidence.OddsRatio(p)
	if n, ok := d.Evidence.SessionsNeeded(p); ok {
		d.Needed = n
	}
	d.decide(w, p, limits)
	if d.Verdict == Pending && deadlinePassed {
		d.pastDeadline()
	}
	texts := make([]string, len(d.Reasons))
	for i, r := range d.Reasons {
		texts[i] = r.Text
	}
	d.Summary = strings.Join(texts, " ")
	d.Hash = w.hash(policyHash, limits, d.Verdict)
	return d
}

// sorted returns the wave in the order of its clusters.
func (w Wave) sorted() Wave {
	w.Clusters, w.Controls = slices.Clone(w.Clusters), slices.Clone(w.Controls)
	slices.SortStableFunc(w.Clusters, func(a, b ClusterEvidence) int { return cmp.Compare(a.Cluster, b.Cluster) })
	slices.SortStableFunc(w.Controls, func(a, b ControlEvidence) int { return cmp.Compare(a.Cluster, b.Cluster) })
	return w
}

// with adds the evidence of another cluster. Blocks keep their shapes, so each
// trial stays compared with its own cluster's baseline.
func (e Evidence) with(other Evidence) Evidence {
	sum := func(a, b Arms) Arms { return Arms{Baseline: a.Baseline + b.Baseline, New: a.New + b.New} }
	return Evidence{
		Blocks: e.Blocks.Merge(other.Blocks),
		// The fewest that any had: estimates of what is needed err towards more.
		Partners: fewest(e.Partners, other.Partners),
		New:      sumTrials(e.New, other.New), Baseline: sumTrials(e.Baseline, other.Baseline),
		Cut: e.Cut + other.Cut, Unresolved: sum(e.Unresolved, other.Unresolved), Late: sum(e.Late, other.Late),
	}
}

// fewest is the smaller of two numbers of partners, where 0 is none known yet.
func fewest(a, b int) int {
	if a == 0 || b == 0 {
		return max(a, b)
	}
	return min(a, b)
}

// controlArms is what a wave's controls say.
type controlArms struct {
	there bool
	logE  float64 // against them, as if they had been stepped
	alarm bool    // their sessions fail more than before
	work  bool    // their sessions are seen not to
}

func (w Wave) controlArms(p Policy) controlArms {
	if len(w.Controls) == 0 {
		return controlArms{}
	}
	var all Evidence
	logs := make([]float64, 0, len(w.Controls))
	for _, c := range w.Controls {
		all = all.with(c.Evidence)
		logs = append(logs, c.Evidence.LogRollback(p))
	}
	// Their blocks multiply across clusters as those of a wave.
	out := controlArms{there: true, logE: logMeanExp([]float64{all.LogRollback(p), logMeanExp(logs)})}
	out.alarm = out.logE >= p.LogRollbackAt()
	v, _ := all.Judge(p)
	out.work = v == Pass && out.logE <= 0
	return out
}

// judge says what a cluster's evidence says by itself, beside its controls.
func (c ClusterEvidence) judge(p Policy, controls controlArms) ClusterVerdict {
	v := ClusterVerdict{Cluster: c.Cluster, LogBefore: c.Evidence.LogRollback(p), LogControl: c.Control.LogRollback(p)}
	v.LogE = v.LogBefore
	if controls.there && !controls.work {
		v.LogE = v.LogControl
	}
	e := c.Evidence
	v.Verdict, v.Code = e.judge(p, v.LogE, e.LogPromoteRelative(p), e.LogPromoteAbsolute(p))
	if v.LogBefore < p.LogRollbackAt() || v.LogE >= p.LogRollbackAt() || v.Verdict == Inconclusive {
		return v
	}
	v.Verdict, v.Code = Hold, NotToldApart
	if controls.alarm {
		v.Code = CommonCause
	}
	return v
}

// logE is the logarithm of E_wave.
func (w Wave) logE(p Policy, controls controlArms, clusters []ClusterVerdict) float64 {
	if len(clusters) == 0 {
		return 0
	}
	logs := make([]float64, len(clusters))
	for i, c := range clusters {
		logs[i] = c.LogE
	}
	if controls.there && !controls.work {
		return logMeanExp([]float64{w.Control.LogRollback(p), logMeanExp(logs)})
	}
	var sums [5]float64
	for _, c := range w.Clusters {
		for k, sum := range c.Evidence.rollbackSums(p.Tol) {
			sums[k] += sum
		}
	}
	return logMeanExp([]float64{logMeanExp(sums[:]), logMeanExp(logs)})
}

// name names the bad clusters.
func (d *WaveDecision) name(limits WaveLimits) {
	e := make([]float64, len(d.Clusters))
	for i, c := range d.Clusters {
		e[i] = math.Exp(c.LogE)
	}
	for _, i := range EBH(e, limits.Named) {
		d.Clusters[i].Named = true
		d.Named = append(d.Named, d.Clusters[i].Cluster)
	}
}

// decide finds the verdict and its reasons, what stops most first.
func (d *WaveDecision) decide(w Wave, p Policy, limits WaveLimits) {
	d.failed(w, p, limits)
	if d.Verdict != Fail {
		d.held(w, limits)
	}
	if d.Verdict == "" || d.Verdict == Pending {
		d.promoted(w, p)
	}
	if len(w.Controls) == 0 {
		d.say(Pending, NoControls, "No cluster is left that was not stepped, so what is common to all cannot be told from the release.")
	}
}

// say adds a reason; the first decides.
func (d *WaveDecision) say(v Verdict, c Code, format string, args ...any) {
	if d.Verdict == "" {
		d.Verdict = v
	}
	d.Reasons = append(d.Reasons, Reason{Code: c, Text: fmt.Sprintf(format, args...)})
}

// turn changes the verdict and puts its reason first.
func (d *WaveDecision) turn(v Verdict, c Code, format string, args ...any) {
	d.Verdict = v
	d.Reasons = slices.Insert(d.Reasons, 0, Reason{Code: c, Text: fmt.Sprintf(format, args...)})
}

// failed looks for what stops the rollout everywhere.
func (d *WaveDecision) failed(w Wave, p Policy, limits WaveLimits) {
	for _, c := range w.Clusters {
		if len(c.Failed) > 0 {
			d.say(Fail, CheckFailed, "In cluster %s failed outright: %s. The rollout stops everywhere.", c.Cluster, list(c.Failed))
		}
	}
	var all Evidence
	var bad []fleet.ClusterID
	for i, c := range w.Clusters {
		all = all.with(c.Evidence)
		if d.Clusters[i].Named && c.Evidence.New.Rate() >= p.FloorRate {
			bad = append(bad, c.Cluster)
		}
	}
	tooMany := len(bad) > limits.MaxFailures
	if d.LogE >= -math.Log(limits.Alpha) {
		chance := luck(fmt.Sprintf("within %g times the baseline's odds", p.Tol), "bad", math.Exp(d.LogE))
		// Many good clusters do not bring a bad one below the floor.
		if tooMany || all.New.Rate() >= p.FloorRate {
			d.say(Fail, WaveRegression, "New sessions of the wave fail more than their clusters' baseline: %s. %s. The rollout stops everywhere.",
				all.counts(), chance)
		} else {
			d.say(Hold, BelowFloor, "New sessions of the wave fail more than their clusters' baseline, but at %s, below the floor of %s: %s. %s.",
				percent(all.New.Rate()), percent(p.FloorRate), all.counts(), chance)
		}
	}
	if tooMany {
		d.say(Fail, ManyBad, "%d of %d clusters are named bad (%s), more than the %d that may fail; at most %s of those named are so by luck. The rollout stops everywhere.",
			len(bad), len(w.Clusters), list(bad), limits.MaxFailures, percent(limits.Named))
	}
}

// held looks for what a person has to decide.
func (d *WaveDecision) held(w Wave, limits WaveLimits) {
	var own, common, apart, floor []fleet.ClusterID
	gone := 0
	for i, c := range w.Clusters {
		if c.RolledBack {
			gone++
			continue
		}
		switch v := d.Clusters[i]; {
		case v.Verdict == Fail:
			own = append(own, c.Cluster)
		case v.Code == CommonCause:
			common = append(common, c.Cluster)
		case v.Code == NotToldApart:
			apart = append(apart, c.Cluster)
		case v.Verdict == Hold:
			floor = append(floor, c.Cluster)
		}
	}
	switch {
	case len(own) > 0 && gone+len(own) <= limits.MaxFailures:
		// The rollout goes on; until they have gone back, not with the next wave.
		d.say(Pending, ClusterFailed, "New sessions fail more than the baseline in %s, which goes back; %d of %d clusters that may fail have failed.",
			list(own), gone+len(own), limits.MaxFailures)
	case len(own) > 0:
		d.say(Hold, ClusterFailed, "New sessions fail more than the baseline in %s, which goes back. %d clusters have failed and %d may, so nothing starts until a person decides.",
			list(own), gone+len(own), limits.MaxFailures)
	case gone > limits.MaxFailures:
		d.say(Hold, ClusterFailed, "%d clusters have gone back and %d may, so nothing starts until a person decides.", gone, limits.MaxFailures)
	}
	if len(common) > 0 {
		d.say(Hold, CommonCause, "New sessions fail more than before in %s, and so do those of clusters that were not stepped: the cause may be common to all. Nothing starts until a person decides.",
			list(common))
	}
	if len(apart) > 0 {
		d.say(Hold, NotToldApart, "New sessions fail more than before in %s, but not yet more than those of clusters that were not stepped. Nothing starts until the two are told apart.",
			list(apart))
	}
	if len(floor) > 0 {
		d.say(Hold, BelowFloor, "New sessions fail more than the baseline in %s, but at a rate below the floor. A person decides.", list(floor))
	}
}

// promoted looks at whether the wave passes, and what is missing.
func (d *WaveDecision) promoted(w Wave, p Policy) {
	e := d.Evidence
	var late, steps, doubted []fleet.ClusterID
	for i, c := range w.Clusters {
		if c.RolledBack {
			continue
		}
		if c.Evidence.tooManyLate(p) {
			late = append(late, c.Cluster)
		}
		if !c.StepsPassed {
			steps = append(steps, c.Cluster)
		}
		// Either of the two may see what the other does not. A cluster that passes by
		// itself is not outvoted; what its controls say is no part of that.
		if v := d.Clusters[i]; v.LogControl > 0 || v.LogBefore > 0 && v.Verdict != Pass {
			doubted = append(doubted, c.Cluster)
		}
	}
	if len(late) > 0 {
		d.turn(Inconclusive, TooManyLate, "More than the allowed %s of sessions were first heard of after their turn in %s.", percent(p.MaxLate), list(late))
		return
	}
	if e.New.Total() == 0 {
		d.say(Pending, NoData, "No new session of the wave has an outcome yet, and no data never promotes.%s", needs(d.Needed))
		return
	}
	if len(steps) > 0 {
		d.say(Pending, StepsNotPassed, "The step gates of %s have not all passed.", list(steps))
	}
	if len(doubted) > 0 {
		d.say(Pending, InDoubt, "The evidence of %s points at more failures than allowed, though far from surely; the others must not outvote it.", list(doubted))
	}
	if e.manyUnresolved(p) {
		d.say(Pending, ManyUnresolved, "%d new sessions had no outcome within %s (%d before the step), too many to promote.",
			e.Unresolved.New, p.Maturation, e.Unresolved.Baseline)
	}
	relative, absolute := d.LogRelative >= p.LogPromoteAt(), d.LogAbsolute >= p.LogPromoteAt()
	switch {
	case !relative && !absolute:
		d.say(Pending, Collecting, "Collecting evidence: %s. %s.%s", e.counts(), d.Odds, needs(d.Needed))
	case d.Verdict != "":
		// Something else is missing.
	case relative:
		d.say(Pass, PassedAsWave, "Promoted as a wave: new sessions of its clusters, taken together, do not fail more than their baselines: %s. %s. %s.", e.counts(), d.Odds,
			luck(fmt.Sprintf("at %g times the baseline's odds or more everywhere", p.Margin), "good", math.Exp(d.LogRelative)))
	default:
		d.say(Pass, PassedAsWave, "Promoted as a wave: new sessions of its clusters, taken together, fail less often than the acceptable %s: %s. %s.",
			percent(p.AcceptableRate), e.counts(), luck("that fails so often", "good", math.Exp(d.LogAbsolute)))
	}
}

// pastDeadline turns what is undecided into an answer.
func (d *WaveDecision) pastDeadline() {
	if d.Reasons[0].Code == NoData {
		d.Verdict = Inconclusive
		return
	}
	d.turn(Inconclusive, DeadlinePassed, "Undecided by the deadline: %s.", d.Evidence.counts())
}

// hash is the SHA-256, in hex, over the wave's integers, the policies and the
// verdict.
func (w Wave) hash(policyHash string, limits WaveLimits, v Verdict) string {
	b := fmt.Appendf(nil, "lockstep gate wave 1\npolicy %s\nalpha %s\nnamed %s\nmax_failures %d\nverdict %s\n", policyHash,
		strconv.FormatFloat(limits.Alpha, 'g', -1, 64), strconv.FormatFloat(limits.Named, 'g', -1, 64), limits.MaxFailures, v)
	for _, c := range w.Clusters {
		b = fmt.Appendf(b, "cluster %q steps_passed %t rolled_back %t evidence %s\n", c.Cluster, c.StepsPassed, c.RolledBack, c.Evidence.Hash(policyHash, ""))
		for _, check := range slices.Sorted(slices.Values(c.Failed)) {
			b = fmt.Appendf(b, "failed %q\n", check)
		}
		b = c.Control.Append(b)
	}
	for _, c := range w.Controls {
		b = fmt.Appendf(b, "control %q evidence %s\n", c.Cluster, c.Evidence.Hash(policyHash, ""))
	}
	b = append(b, "together\n"...)
	b = w.Control.Append(b)
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// list names things in a sentence.
func list[T ~string](names []T) string {
	words := make([]string, len(names))
	for i, name := range names {
		words[i] = string(name)
	}
	return strings.Join(words, ", ")
}
