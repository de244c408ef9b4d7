package akeyless

import (
	"errors"
	"fmt"
	"time"

	"github.com/lockstep-fleet/lockstep/adapters/akeyless/akeylesstest"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// Pair is the versions that carry a session.
type Pair struct {
	Gateway string
	SRA     string
}

// Script says what a fleet is and what happens in it. Only Begin and Clusters
// are needed.
type Script struct {
	// Seed decides all that is left to chance: the same seed, the same sessions,
	// however the time is cut into steps.
	Seed uint64
	// Begin is the time of the fleet's clock before the first step.
	Begin    time.Time
	Clusters []Cluster
	Traffic  Traffic
	// Failures are how sessions go wrong on a pair of versions; on others they go
	// wrong as Ordinary says.
	Failures map[Pair]Failing
	Ordinary Failing
	// Outages are when the vendor's API does not answer. Sessions go on.
	Outages []Window
	// Slow is when it answers late.
	Slow []Slow
	// ClockSkew is how far the vendor's clock, which stamps sessions and reports,
	// is ahead of the fleet's.
	ClockSkew time.Duration
	// ReportEvery is how often each cluster's bastions report; 0 means a minute.
	ReportEvery time.Duration
	// Observe, when set, is told of each session at each change as the vendor
	// holds it from then on: what is true, to compare with what was seen. Status is
	// "vanished", with no end, when the vendor lost it. It must not call the fleet.
	Observe func(akeylesstest.Session)
}

// Cluster is one gateway with its bastions.
type Cluster struct {
	Name        string // the vendor's cluster_name, such as acc-1/p-1/berlin
	DisplayName string // empty means the last part of Name
	Bastions    int    // 0 means 1
	Versions    Pair
	Rate        float64 // sessions started per second; 0 means Traffic.Rate
}

// Traffic is what people do in each cluster.
type Traffic struct {
	Rate       float64       // sessions started per second, at random moments; 0 means one a minute
	Connect    time.Duration // mean time until a session is connected or fails to; 0 means 2 s
	Duration   time.Duration // mean time it is then open; 0 means 5 min
	Users      int           // 0 means 40
	Targets    int           // 0 means 20
	Protocols  []string      // equally likely, so repeat the common ones; nil means mostly ssh
	Terminated float64       // share of the good sessions that somebody cuts short, 0 to 1
	Vanishing  float64       // share of all sessions that the vendor loses instead of their end, 0 to 1
}

// Failing is how often sessions fail and of what.
type Failing struct {
	Rate   float64         // share that fails, 0 to 1
	Causes []fleet.Failure // equally likely; nil means what goes wrong on a good day
}

// Window is a stretch of time since Script.Begin.
type Window struct {
	After time.Duration
	For   time.Duration
}

func (w Window) holds(since time.Duration) bool { return since >= w.After && since < w.After+w.For }

// Slow is a window in which answers take longer.
type Slow struct {
	Window
	Delay time.Duration
}

// Uniform is n equal clusters, acc-lab/p-lab/c0001 and on.
func Uniform(n, bastions int, versions Pair) []Cluster {
	clusters := make([]Cluster, n)
	for i := range clusters {
		clusters[i] = Cluster{Name: fmt.Sprintf("acc-lab/p-lab/c%04d", i+1), Bastions: bastions, Versions: versions}
	}
	return clusters
}

// completed is the script with its defaults, or what is wrong with it.
func (s Script) completed() (Script, error) {
	t := &s.Traffic
	switch {
	case s.Begin.IsZero():
		return s, errors.New("script a fleet: it has no Begin")
	case len(s.Clusters) == 0:
		return s, errors.New("script a fleet: it has no clusters")
	case t.Rate < 0 || t.Connect < 0 || t.Duration < 0 || t.Users < 0 || t.Targets < 0 || s.ReportEvery < 0:
		return s, errors.New("script a fleet: rates, times and numbers must not be negative")
	}
	shares := []float64{t.Terminated, t.Vanishing, s.Ordinary.Rate}
	for pair, f := range s.Failures {
		shares = append(shares, f.Rate)
		if err := known(f.Causes); err != nil {
			return s, fmt.Errorf("script a fleet: failures of %v: %w", pair, err)
		}
	}
	if err := known(s.Ordinary.Causes); err != nil {
		return s, fmt.Errorf("script a fleet: ordinary failures: %w", err)
	}
	for _, share := range shares {
		if !(share >= 0 && share <= 1) {
			return s, fmt.Errorf("script a fleet: %v is no share from 0 to 1", share)
		}
	}
	orDefault(&t.Rate, 1.0/60)
	orDefault(&t.Connect, 2*time.Second)
	orDefault(&t.Duration, 5*time.Minute)
	orDefault(&t.Users, 40)
	orDefault(&t.Targets, 20)
	orDefault(&s.ReportEvery, time.Minute)
	if len(t.Protocols) == 0 {
		t.Protocols = []string{"ssh", "ssh", "ssh", "ssh", "rdp", "rdp", "mysql", "postgres", "k8s"}
	}
	return s, nil
}

func orDefault[T comparable](value *T, fallback T) {
	var zero T
	if *value == zero {
		*value = fallback
	}
}
