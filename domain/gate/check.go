package gate

import "time"

// CheckName names one question that a gate asks. The names are API.
type CheckName string

// Every check, in the order in which they are told.
const (
	CheckTelemetry  CheckName = "telemetry"  // every source that the others rest on sees, and is up to date
	CheckInventory  CheckName = "inventory"  // what should run is registered and runs, by digest, and the mix is within its window
	CheckProbes     CheckName = "probes"     // synthetic sessions can be created
	CheckSessions   CheckName = "sessions"   // people's new sessions work no worse than before
	CheckOpen       CheckName = "open"       // sessions that were open across the step end no more abnormally than before
	CheckLifecycle  CheckName = "lifecycle"  // sessions begin, go on and end as sessions do
	CheckRecording  CheckName = "recording"  // recordings arrive and the storage takes them
	CheckForwarding CheckName = "forwarding" // forwarded logs are taken
	CheckRisks      CheckName = "risks"      // no named compatibility risk applies
)

// CheckNames lists every check in the order in which they are told.
func CheckNames() []CheckName {
	return []CheckName{
		CheckTelemetry, CheckInventory, CheckProbes, CheckSessions, CheckOpen, CheckLifecycle, CheckRecording, CheckForwarding, CheckRisks,
	}
}

// Demand is what a gate asks of one check.
type Demand string

// Every demand, the strictest first.
const (
	DemandPass     Demand = "pass"     // the gate passes only when it has passed
	DemandNoFail   Demand = "no_fail"  // the gate passes as long as it does not fail
	DemandAdvisory Demand = "advisory" // it is told and decides nothing
	DemandOff      Demand = "off"      // it is not looked at
)

// Demands lists every demand, the strictest first.
func Demands() []Demand { return []Demand{DemandPass, DemandNoFail, DemandAdvisory, DemandOff} }

// Sustain is for how long, and in how many looks one after another, a check has to
// fail before the gate takes it for a failure: a look is a message that tells
// something of it, so that time alone, in which nobody looked, proves nothing.
type Sustain struct {
	For   time.Duration
	Looks int
}

// CheckPolicy is what is demanded of one check.
type CheckPolicy struct {
	Demand  Demand
	Sustain Sustain
}

// Result is what one check says at an instant.
type Result struct {
	Check   CheckName
	Verdict Verdict
	Reasons []Reason // the deciding one first
	Text    string   // one sentence for people
	// At is when what it rests on was seen last, the zero time when nothing was.
	At time.Time
	// Figures are the typed evidence: named whole numbers, which house rules may ask
	// for. The same facts give the same figures on any machine.
	Figures map[string]int64
}

// Mode is how far a policy is trusted: each does what the one before does, and
// more.
type Mode string

// Every mode, from the one that does least.
const (
	Shadow Mode = "shadow" // verdicts are recorded and nobody is told
	Advise Mode = "advise" // people are told
	Holds  Mode = "hold"   // what does not pass holds the rollout; no verdict rolls anything back
	Act    Mode = "act"    // what fails is rolled back
)

// Modes lists every mode, from the one that does least.
func Modes() []Mode { return []Mode{Shadow, Advise, Holds, Act} }

// Rule is a house rule: a condition over the figures of checks in the Common
// Expression Language, and what follows where it holds.
type Rule struct {
	Name    string
	When    string  // such as sessions.new_failed > 3 && probes.failed > 0
	Verdict Verdict // fail or hold
	Reason  string  // for people
}

// Stage is one place at which a rollout is judged.
type Stage struct {
	Checks map[CheckName]CheckPolicy // what is left out is off
	Rules  []Rule
	// Deadline is when "not decided" is the answer, from the stage's beginning; Soak
	// how long it lasts at least. Zero is none.
	Deadline, Soak time.Duration
}

// Plan is a gate policy by name: the numbers of the statistics, and what is asked
// after a step and at the end of a wave.
type Plan struct {
	Name       string
	Mode       Mode
	Statistics Policy
	Step, Wave Stage
}
