// Package gatefile owns gate policies as documents: the keys of a policy, the
// built-in ones, what a policy takes over from another, what is wrong with a
// document and where, and house rules in the Common Expression Language.
//
// It does not own what policies mean (domain/gate), opens no file, and does not
// know which policy a rollout is judged by.
package gatefile

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/lockstep-fleet/lockstep/domain/gate"
	"github.com/lockstep-fleet/lockstep/kit/config"
)

// document is what a document of policies holds. Each field is worded for people
// by its "comment" tag; the schema and the reference are made from these.
type document struct {
	Policies []policy `yaml:"policies" comment:"gate policies, each known by its name"`
}

// policy is a gate policy as a document says it.
type policy struct {
	Name       string     `yaml:"name" comment:"what rollouts call it; letters a to z, digits, - and _; those of built-in policies are taken"`
	Extends    string     `yaml:"extends" comment:"the policy that says what this one leaves out: careful, standard, fast, or another of this document; without it standard"`
	Mode       gate.Mode  `yaml:"mode" comment:"how far it is trusted: shadow records verdicts, advise tells people, hold also holds the rollout, act also rolls back"`
	Statistics Statistics `yaml:"statistics" comment:"the numbers of the session evidence; rates are fractions of 1"`
	Step       stage      `yaml:"step" comment:"what is asked after each step of a cluster, which stays mixed meanwhile"`
	Wave       stage      `yaml:"wave" comment:"what is asked at the end of a wave, whose clusters are no longer mixed"`
}

// Statistics are the numbers of the session evidence, as a policy says them and as
// the section gate of fleet.yaml does. Rates are fractions of 1.
type Statistics struct {
	Alpha          float64       `yaml:"alpha" comment:"chance that a harmless release is ever rolled back by a gate"`
	Beta           float64       `yaml:"beta" comment:"chance that a harmful one ever passes"`
	Tolerance      float64       `yaml:"tolerance" comment:"odds ratio, new against baseline, still taken as no worse"`
	Margin         float64       `yaml:"margin" comment:"odds ratio that a pass rules out"`
	AcceptableRate float64       `yaml:"acceptable_rate" comment:"failure rate that a pass rules out, where there is too little to compare"`
	FloorRate      float64       `yaml:"floor_rate" comment:"a regression whose failure rate stays below this holds instead of rolling back"`
	Partners       int           `yaml:"partners" comment:"baseline sessions set against each new one, at most"`
	PlannedTrials  int           `yaml:"planned_trials" comment:"new sessions the baseline should last for"`
	Maturation     time.Duration `yaml:"maturation" comment:"after this a session without an outcome counts as unresolved"`
	BurstWindow    time.Duration `yaml:"burst_window" comment:"retries of one user at one target within this count once"`
	Bucket         time.Duration `yaml:"bucket" comment:"width in which sessions are ordered by start"`
	Deadline       time.Duration `yaml:"deadline" comment:"after this an undecided gate is inconclusive and the rollout holds"`
	MaxLate        float64       `yaml:"max_late" comment:"share of sessions first heard of too late above which a gate is inconclusive"`
}

// stage is one place at which a rollout is judged.
type stage struct {
	Checks   checks        `yaml:"checks" comment:"what is demanded of each check"`
	Deadline time.Duration `yaml:"deadline" comment:"from its beginning; what is not decided by then is inconclusive and the rollout holds; 0s for none"`
	Soak     time.Duration `yaml:"soak" comment:"how long it lasts at least"`
	Rules    []rule        `yaml:"rules" comment:"house rules, each known by its name; those of the policy that this one extends stay"`
}

// checks has a key for each check, in the order of gate.CheckNames.
type checks struct {
	Telemetry  check `yaml:"telemetry" comment:"every source that the others rest on sees, and is up to date"`
	Inventory  check `yaml:"inventory" comment:"what should run is registered and runs, and the mix is within its window"`
	Probes     check `yaml:"probes" comment:"synthetic sessions can be created"`
	Sessions   check `yaml:"sessions" comment:"people's new sessions work no worse than before"`
	Open       check `yaml:"open" comment:"sessions that were open across the step end no more abnormally than before"`
	Lifecycle  check `yaml:"lifecycle" comment:"sessions begin, go on and end as sessions do"`
	Recording  check `yaml:"recording" comment:"recordings arrive and the storage takes them"`
	Forwarding check `yaml:"forwarding" comment:"forwarded logs are taken"`
	Risks      check `yaml:"risks" comment:"no named compatibility risk applies"`
}

// each lists the checks with their names.
func (c *checks) each() []named {
	return []named{
		{gate.CheckTelemetry, &c.Telemetry}, {gate.CheckInventory, &c.Inventory}, {gate.CheckProbes, &c.Probes},
		{gate.CheckSessions, &c.Sessions}, {gate.CheckOpen, &c.Open}, {gate.CheckLifecycle, &c.Lifecycle},
		{gate.CheckRecording, &c.Recording}, {gate.CheckForwarding, &c.Forwarding}, {gate.CheckRisks, &c.Risks},
	}
}

type named struct {
	name  gate.CheckName
	check *check
}

// check is what is demanded of one check.
type check struct {
	Demand  gate.Demand `yaml:"demand" comment:"pass: it has to pass; no_fail: it must not fail; advisory: it is told and decides nothing; off: it is not looked at"`
	Sustain sustain     `yaml:"sustain" comment:"how lasting a failure has to be before it counts"`
}

type sustain struct {
	For   time.Duration `yaml:"for" comment:"it fails for at least this long"`
	Looks int           `yaml:"looks" comment:"and in at least this many looks one after another"`
}

// rule is a house rule.
type rule struct {
	Name    string       `yaml:"name" comment:"what decisions and policies that extend this one call it"`
	When    string       `yaml:"when" comment:"a condition over the figures and verdicts of checks"`
	Verdict gate.Verdict `yaml:"verdict" comment:"what follows where it holds: fail or hold"`
	Reason  string       `yaml:"reason" comment:"what people are told"`
	Off     bool         `yaml:"off" comment:"true removes the rule that this policy would take over"`
}

// plan is the policy in the words of the domain.
func (p policy) plan() gate.Plan {
	return gate.Plan{Name: p.Name, Mode: p.Mode, Statistics: p.Statistics.Policy(), Step: p.Step.stage(), Wave: p.Wave.stage()}
}

// Policy is what the numbers demand of a gate.
func (s Statistics) Policy() gate.Policy {
	return gate.Policy{
		Alpha: s.Alpha, Beta: s.Beta, Tol: s.Tolerance, Margin: s.Margin, AcceptableRate: s.AcceptableRate, FloorRate: s.FloorRate,
		Partners: s.Partners, PlannedTrials: s.PlannedTrials, Maturation: s.Maturation, BurstWindow: s.BurstWindow, Bucket: s.Bucket,
		Deadline: s.Deadline, MaxLate: s.MaxLate,
	}
}

func (s stage) stage() gate.Stage {
	out := gate.Stage{Checks: make(map[gate.CheckName]gate.CheckPolicy), Deadline: s.Deadline, Soak: s.Soak}
	for _, c := range s.Checks.each() {
		if c.check.Demand != gate.DemandOff {
			out.Checks[c.name] = gate.CheckPolicy{Demand: c.check.Demand, Sustain: gate.Sustain{For: c.check.Sustain.For, Looks: c.check.Sustain.Looks}}
		}
	}
	for _, r := range s.Rules {
		out.Rules = append(out.Rules, gate.Rule{Name: r.Name, When: r.When, Verdict: r.Verdict, Reason: r.Reason})
	}
	return out
}

// policyOf says a plan in the keys of a document.
func policyOf(p gate.Plan) policy {
	s := p.Statistics
	return policy{
		Name: p.Name, Mode: p.Mode, Step: stageOf(p.Step), Wave: stageOf(p.Wave),
		Statistics: Statistics{
			Alpha: s.Alpha, Beta: s.Beta, Tolerance: s.Tol, Margin: s.Margin, AcceptableRate: s.AcceptableRate, FloorRate: s.FloorRate,
			Partners: s.Partners, PlannedTrials: s.PlannedTrials, Maturation: s.Maturation, BurstWindow: s.BurstWindow, Bucket: s.Bucket,
			Deadline: s.Deadline, MaxLate: s.MaxLate,
		},
	}
}

func stageOf(s gate.Stage) stage {
	out := stage{Deadline: s.Deadline, Soak: s.Soak, Rules: []rule{}}
	for _, c := range out.Checks.each() {
		given := s.Checks[c.name]
		*c.check = check{Demand: cmp.Or(given.Demand, gate.DemandOff), Sustain: sustain(given.Sustain)}
	}
	for _, r := range s.Rules {
		out.Rules = append(out.Rules, rule{Name: r.Name, When: r.When, Verdict: r.Verdict, Reason: r.Reason})
	}
	return out
}

// Marshal writes plans as a document in which nothing is left to what they
// extend.
func Marshal(plans ...gate.Plan) string {
	doc := document{Policies: []policy{}}
	for _, p := range plans {
		doc.Policies = append(doc.Policies, policyOf(p))
	}
	var root yaml.Node
	// It reads what it wrote, so neither can go wrong but by a mistake made here.
	if err := yaml.Unmarshal([]byte(config.Marshal(doc)), &root); err != nil {
		panic(fmt.Sprintf("gatefile: policies cannot be written: %v", err))
	}
	without(&root, "extends", "off")
	var b strings.Builder
	enc := yaml.NewEncoder(&b)
	enc.SetIndent(2)
	if err := enc.Encode(&root); err != nil {
		panic(fmt.Sprintf("gatefile: policies cannot be written: %v", err))
	}
	return b.String()
}

// without takes keys that a resolved policy has no use for, and comments, out of
// a document.
func without(n *yaml.Node, keys ...string) {
	n.HeadComment = ""
	if n.Kind == yaml.MappingNode {
		for i := 0; i < len(n.Content); {
			if slices.Contains(keys, n.Content[i].Value) {
				n.Content = slices.Delete(n.Content, i, i+2)
			} else {
				i += 2
			}
		}
	}
	for _, child := range n.Content {
		without(child, keys...)
	}
}
