package gatefile

import (
	"time"

	"github.com/lockstep-fleet/lockstep/domain/gate"
)

// Presets returns the built-in policies: careful, standard and fast.
func Presets() []gate.Plan {
	var out []gate.Plan
	for _, p := range presets() {
		out = append(out, p.plan())
	}
	return out
}

// standardName is the policy that those extend which name none.
const standardName = "standard"

func presets() []policy { return []policy{careful(), standard(), fast()} }

// standard is for a cluster with some hundred sessions a day.
//
// After a step it asks what a mixed cluster can answer in time. Inventory and probes
// have to pass, and nothing else may fail. People's sessions only must not be worse:
// at 20 an hour a proof that they are no worse takes a day, and the cluster would
// stay mixed for it. With a failure rate of 2 % to rule out, probes need 218 sessions
// without a failure; at 720 an hour, which is what a cluster's probes may make, that
// is 18 minutes, so the step has 30.
//
// That proof is asked for at the end of the wave, pooled over its clusters, which are
// no longer mixed. With a margin of 2 and 2 % failing it takes some 800 sessions, so
// the wave has a day. Its clusters soak for an hour of that: what fails
// slowly, such as recordings that are uploaded in the end, shows within it.
//
// The error promises: of harmless releases one in a hundred is ever rolled back by
// an alarm (alpha), of harmful ones one in twenty passes (beta). Alpha is the
// smaller because a policy is asked at every step of every cluster, beta the larger
// because more checks stand beside this one.
func standard() policy {
	step := checks{
		Telemetry:  check{gate.DemandPass, sustain{For: 2 * time.Minute, Looks: 3}},
		Inventory:  check{gate.DemandPass, sustain{For: 2 * time.Minute, Looks: 3}},
		Probes:     check{gate.DemandPass, sustain{For: time.Minute, Looks: 3}},
		Sessions:   check{gate.DemandNoFail, atOnce()},
		Open:       check{gate.DemandNoFail, atOnce()},
		Lifecycle:  check{gate.DemandNoFail, sustain{For: 5 * time.Minute, Looks: 3}},
		Recording:  check{gate.DemandNoFail, repairGrace()},
		Forwarding: check{gate.DemandNoFail, repairGrace()},
		Risks:      check{gate.DemandNoFail, atOnce()},
	}
	wave := step
	wave.Sessions.Demand = gate.DemandPass
	return policy{
		Name: standardName,
		Mode: gate.Act,
		Statistics: Statistics{
			Alpha: 0.01, Beta: 0.05, Tolerance: 1.25, Margin: 2, AcceptableRate: 0.02, FloorRate: 0.02,
			Partners: 10, PlannedTrials: 500,
			Maturation: 2 * time.Minute, BurstWindow: time.Minute, Bucket: 5 * time.Second,
			Deadline: 24 * time.Hour, MaxLate: 0.01,
		},
		Step: stage{Checks: step, Deadline: 30 * time.Minute, Rules: []rule{}},
		Wave: stage{Checks: wave, Deadline: 24 * time.Hour, Soak: time.Hour, Rules: []rule{}},
	}
}

// atOnce is for what cannot fail by chance alone: the statistics keep their promise
// however often they are looked at, and a risk is a fact.
func atOnce() sustain { return sustain{Looks: 1} }

// repairGrace is how long a broken pipeline may take to be repaired in place.
func repairGrace() sustain { return sustain{For: 10 * time.Minute, Looks: 3} }

// careful is for busy clusters whose people cannot work around a bad release.
//
// Of harmful releases one in a hundred passes instead of one in twenty. That takes
// half as many sessions again, and clusters that have them lose little: the wave has
// three days and soaks for one, so that every hour of the day is seen. A regression
// rolls back from a failure rate of 1 % on. What standard only wants not to fail has
// to be seen working by the end of the wave: sessions' lifecycle, recordings and
// forwarded logs, so clusters without these cannot use it. Risks have to be absent or
// acknowledged before the first step is left.
//
// Alpha stays: a false alarm, which sends people back to an old release, is no more
// careful than a late one.
func careful() policy {
	p := standard()
	p.Name = "careful"
	p.Statistics.Beta, p.Statistics.FloorRate, p.Statistics.PlannedTrials = 0.01, 0.01, 1000
	p.Statistics.Deadline = 72 * time.Hour
	p.Step.Deadline = time.Hour
	p.Step.Checks.Risks.Demand = gate.DemandPass
	p.Wave.Deadline, p.Wave.Soak = 72*time.Hour, 24*time.Hour
	for _, c := range []*check{&p.Wave.Checks.Lifecycle, &p.Wave.Checks.Recording, &p.Wave.Checks.Forwarding, &p.Wave.Checks.Risks} {
		c.Demand = gate.DemandPass
	}
	return p
}

// fast is for quiet clusters, and for those that may fail, such as a test
// environment.
//
// It rules out less, and so needs less to do it: an odds ratio of 4 and a failure
// rate of 5 %, for which 86 sessions without a failure are enough. Probes have them
// in 8 minutes, so a step has 10, and two steps fit into the window that rollouts
// have by default. Risks are told and decide nothing.
func fast() policy {
	p := standard()
	p.Name = "fast"
	p.Statistics.Margin, p.Statistics.AcceptableRate, p.Statistics.PlannedTrials = 4, 0.05, 200
	p.Statistics.Deadline = 4 * time.Hour
	p.Step.Deadline = 10 * time.Minute
	p.Wave.Deadline, p.Wave.Soak = 4*time.Hour, 15*time.Minute
	for _, s := range []*stage{&p.Step, &p.Wave} {
		s.Checks.Risks.Demand = gate.DemandAdvisory
		s.Checks.Recording.Sustain.For, s.Checks.Forwarding.Sustain.For = 5*time.Minute, 5*time.Minute
	}
	return p
}
