package gate

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// Hash returns the SHA-256 of what the plan asks, in hex, without its name. Two
// plans share it exactly when they ask the same.
func (p Plan) Hash() string {
	b := fmt.Appendf(nil, "lockstep gate plan 1\nmode %q\nstatistics %s\n", p.Mode, p.Statistics.Hash())
	b = p.Step.appendAsked(append(b, "step\n"...))
	b = p.Wave.appendAsked(append(b, "wave\n"...))
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// Demands says whether the stage asks for anything at all; what it says is waited for
// where it does.
func (s Stage) Demands() bool {
	for _, check := range s.checks() {
		if _, listed := s.Checks[check]; listed && (s.demand(check) == DemandPass || s.demand(check) == DemandNoFail) {
			return true
		}
	}
	return len(s.Rules) > 0 || s.Soak > 0
}

// Asks is what the stage demands of a check; off for one that it leaves out.
func (s Stage) Asks(check CheckName) Demand { return s.demand(check) }

// appendAsked appends the canonical text of what a stage asks. A check that is off
// and one that is left out read the same.
func (s Stage) appendAsked(b []byte) []byte {
	b = fmt.Appendf(b, "deadline %d\nsoak %d\n", s.Deadline.Nanoseconds(), s.Soak.Nanoseconds())
	for _, check := range s.checks() {
		if demand := s.demand(check); demand != DemandOff {
			sustain := s.Checks[check].Sustain
			b = fmt.Appendf(b, "check %q %q %d %d\n", check, demand, sustain.For.Nanoseconds(), sustain.Looks)
		}
	}
	for _, rule := range s.Rules {
		b = fmt.Appendf(b, "rule %q %q %q %q\n", rule.Name, rule.When, rule.Verdict, rule.Reason)
	}
	return b
}
