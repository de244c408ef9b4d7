package gate

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Policy is what a gate demands. The zero Policy is invalid; begin with
// DefaultPolicy and change what differs. Rates are shares of trials in [0, 1].
type Policy struct {
	Alpha          float64       // chance that a release whose odds ratio is at most Tol is ever failed
	Beta           float64       // chance that a release past both Margin and AcceptableRate is ever passed
	Tol            float64       // odds ratio, new against baseline, still taken as "no worse"
	Margin         float64       // odds ratio that must not pass by the relative route
	AcceptableRate float64       // failure rate that must not pass by the absolute route
	FloorRate      float64       // a regression whose failure rate stays below this holds instead of failing
	Partners       int           // baseline trials compared with one new trial, at most
	PlannedTrials  int           // new trials that the baseline should last for
	Maturation     time.Duration // from a session's start until "no outcome" is final
	BurstWindow    time.Duration // attempts of one user at one target this close to the first are one trial; 0 counts each
	Bucket         time.Duration // width of the start buckets in which trials are ordered
	Deadline       time.Duration // from the step's end until "not decided" is the answer; the caller keeps the time
	MaxLate        float64       // share of an arm's trials that may arrive after their bucket closed
}

// DefaultPolicy returns the policy for a cluster with some hundred sessions a
// day.
func DefaultPolicy() Policy {
	return Policy{
		Alpha:          0.01,
		Beta:           0.05,
		Tol:            1.25,
		Margin:         2,
		AcceptableRate: 0.02,
		FloorRate:      0.02,
		Partners:       10,
		PlannedTrials:  500,
		Maturation:     120 * time.Second,
		BurstWindow:    60 * time.Second,
		Bucket:         5 * time.Second,
		Deadline:       4 * time.Hour,
		MaxLate:        0.01,
	}
}

// Validate returns nil, or one error that names every field out of bounds
// with its bounds, by the key it has in the configuration file.
func (p Policy) Validate() error {
	var bad []string
	check := func(ok bool, key string, got any, bounds string) {
		if !ok {
			bad = append(bad, fmt.Sprintf("%s is %v but must be %s", key, got, bounds))
		}
	}
	// Each condition is written so that NaN fails it.
	check(p.Alpha > 0 && p.Alpha <= 0.5, "alpha", p.Alpha, "above 0 and at most 0.5")
	check(p.Beta > 0 && p.Beta <= 0.5, "beta", p.Beta, "above 0 and at most 0.5")
	check(p.Tol >= 1 && p.Tol <= 10, "tol", p.Tol, "from 1 to 10")
	// The promote grid bets on odds ratios up to 1.25; a margin at or below
	// that would let a bet point at what it must exclude.
	check(p.Margin > 1.25 && p.Margin <= 20, "margin", p.Margin, "above 1.25 and at most 20")
	check(!(p.Margin <= p.Tol), "margin", p.Margin, fmt.Sprintf("above tol (%v)", p.Tol))
	check(p.AcceptableRate > 0 && p.AcceptableRate <= 0.5, "acceptable_rate", p.AcceptableRate, "above 0 and at most 0.5")
	check(p.FloorRate >= 0 && p.FloorRate <= 0.5, "floor_rate", p.FloorRate, "from 0 to 0.5")
	check(p.Partners >= 2 && p.Partners <= 100, "partners", p.Partners, "from 2 to 100")
	check(p.PlannedTrials >= 1 && p.PlannedTrials <= 1_000_000, "planned_trials", p.PlannedTrials, "from 1 to 1000000")
	check(p.Maturation > 0 && p.Maturation <= time.Hour, "maturation", p.Maturation, "above 0s and at most 1h")
	check(p.BurstWindow >= 0 && p.BurstWindow <= time.Hour, "burst_window", p.BurstWindow, "from 0s to 1h")
	check(p.Bucket >= 100*time.Millisecond && p.Bucket <= time.Hour, "bucket", p.Bucket, "from 100ms to 1h")
	check(p.Deadline > 0 && p.Deadline <= 30*24*time.Hour, "deadline", p.Deadline, "above 0s and at most 720h")
	check(p.MaxLate >= 0 && p.MaxLate <= 0.5, "max_late", p.MaxLate, "from 0 to 0.5")
	if len(bad) == 0 {
		return nil
	}
	return errors.New("gate policy: " + strings.Join(bad, "; "))
}

// Hash returns the SHA-256 of the policy's canonical text, in hex. Two
// policies share it exactly when they demand the same.
func (p Policy) Hash() string {
	var b strings.Builder
	b.WriteString("lockstep gate policy 1\n")
	num := func(key string, v float64) {
		fmt.Fprintf(&b, "%s %s\n", key, strconv.FormatFloat(v, 'g', -1, 64))
	}
	whole := func(key string, v int64) { fmt.Fprintf(&b, "%s %d\n", key, v) }
	num("alpha", p.Alpha)
	num("beta", p.Beta)
	num("tol", p.Tol)
	num("margin", p.Margin)
	num("acceptable_rate", p.AcceptableRate)
	num("floor_rate", p.FloorRate)
	whole("partners", int64(p.Partners))
	whole("planned_trials", int64(p.PlannedTrials))
	whole("maturation_ns", p.Maturation.Nanoseconds())
	whole("burst_window_ns", p.BurstWindow.Nanoseconds())
	whole("bucket_ns", p.Bucket.Nanoseconds())
	whole("deadline_ns", p.Deadline.Nanoseconds())
	num("max_late", p.MaxLate)
	sum := sha256.Sum256([]byte(b.String()))
	return hex.EncodeToString(sum[:])
}
