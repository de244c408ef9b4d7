package sources

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/lockstep-fleet/lockstep/adapters/probe"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/gate"
	"github.com/lockstep-fleet/lockstep/fleetfile"
	"github.com/lockstep-fleet/lockstep/services/collector"
)

func (s *Set) probes(_ fleetfile.File, c fleetfile.Cluster) error {
	turns := turns{cluster: c.ID, slots: make(chan struct{}, c.ProbeBudget.AtOnce)}
	for _, p := range c.Probes {
		o := probe.Options{
			Cluster: c.ID, Name: p.Name, Kind: fleet.CheckKind(p.Type), Component: p.Component, Address: p.Address, Timeout: p.Timeout, Now: s.now,
			TLS: probe.TLS{CAFile: string(p.CAFile), ServerName: p.ServerName}, HTTP: probe.HTTP{Statuses: p.Statuses, Contains: p.Contains},
		}
		if o.Kind == fleet.CheckSSH {
			o.SSH = &probe.SSH{
				User: p.User, KeyFile: string(p.KeyFile), CertificateFile: string(p.CertificateFile), HostKey: p.HostKey,
				KnownHostsFile: string(p.KnownHostsFile), InsecureHostKey: p.InsecureHostKey, Command: p.Command,
			}
		}
		looker, err := probe.New(o)
		if err != nil {
			return fmt.Errorf("probe %s: %w", p.Name, err)
		}
		one := &prober{probe: looker, options: o, every: p.Every, turns: turns}
		schedule := collector.Checks(fleet.KindProbe, "probe "+p.Name+" of "+string(c.ID), []fleet.ClusterID{c.ID}, p.Every, one.check)
		// A probe ends by itself at its own limit, which begins with its turn.
		schedule.Timeout = one.wait() + p.Timeout + spare
		s.add(source{Schedule: schedule})
	}
	return nil
}

// Checks names what is looked at in a cluster, as its findings name it: its probes,
// the recordings of its sessions and their storage, and its log forwarding.
func Checks(c fleetfile.Cluster) []gate.ConfiguredCheck {
	var out []gate.ConfiguredCheck
	for _, p := range c.Probes {
		out = append(out, gate.ConfiguredCheck{Name: p.Name, Kind: fleet.CheckKind(p.Type)})
	}
	if c.Recording != nil {
		out = append(out, gate.ConfiguredCheck{Name: recordingName, Kind: fleet.CheckRecording})
		if !c.Recording.NoCanary {
			out = append(out, gate.ConfiguredCheck{Name: storageName, Kind: fleet.CheckStorage})
		}
	}
	if c.Forwarding != nil {
		out = append(out, gate.ConfiguredCheck{Name: forwardingName, Kind: fleet.CheckForwarding})
	}
	return out
}

// What findings call what a cluster has one of.
const (
	recordingName  = "recording"
	storageName    = "storage"
	forwardingName = "forwarding"
)

// turns lets so many probes of one cluster look at the same time as it has slots.
type turns struct {
	cluster fleet.ClusterID
	slots   chan struct{}
}

// take waits for a turn, which ends when done is called.
func (t turns) take(ctx context.Context, wait time.Duration) (done func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	select {
	case t.slots <- struct{}{}:
		return func() { <-t.slots }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("the probe budget of %s is used up: %d at once; look more seldom, or raise probe_budget.at_once", t.cluster, cap(t.slots))
	}
}

// prober keeps one probe within its budget. It is asked by one at a time.
type prober struct {
	probe    *probe.Probe
	options  probe.Options
	every    time.Duration
	turns    turns
	refusals refusals
}

// wait is how long a turn is waited for: no longer than until the next look is due.
func (p *prober) wait() time.Duration { return min(p.every, time.Minute) }

func (p *prober) check(ctx context.Context) ([]fleet.Check, error) {
	with := p.credentials()
	now := p.options.Now()
	if again := p.refusals.until(now, p.every, with); !again.IsZero() {
		return []fleet.Check{{
			Cluster: p.options.Cluster, Name: p.options.Name, Kind: p.options.Kind, Component: p.options.Component, Target: p.options.Address, At: now,
			Failure: fleet.FailureAuth, Detail: fmt.Sprintf("the login was refused %d times in a row; so that the account is not locked it is tried again at %s, or when its key or certificate is another",
				p.refusals.count, again.UTC().Format(time.RFC3339)),
		}}, nil
	}
	done, err := p.turns.take(ctx, p.wait())
	if err != nil {
		return nil, err
	}
	defer done()
	check := p.probe.Check(ctx)
	if ctx.Err() != nil {
		return nil, ctx.Err() // what was cut short says nothing
	}
	p.refusals = p.refusals.after(check, with)
	return []fleet.Check{check}, nil
}

// credentials tells what the probe logs in with.
func (p *prober) credentials() credentials {
	if p.options.SSH == nil {
		return credentials{}
	}
	return credentials{changed(p.options.SSH.KeyFile), changed(p.options.SSH.CertificateFile)}
}

// credentials tell one key and certificate from others by when their files changed.
type credentials struct{ key, certificate time.Time }

// changed is when a file was changed last, the zero time where there is none.
func changed(file string) time.Time {
	about, err := os.Stat(file)
	if err != nil {
		return time.Time{}
	}
	return about.ModTime()
}

const (
	// patience is how many logins are refused in a row before they become seldom.
	patience = 3
	// seldom is how many intervals are then between two logins.
	seldom = 10
	// longestPause bounds the time between two logins, unless the interval is longer.
	longestPause = 15 * time.Minute
)

// refusals are the logins that one pair of key and certificate was refused since it
// last logged in. Each may count towards the locking of the account.
type refusals struct {
	count int
	tried time.Time
	with  credentials
}

// until is before when no login is to be tried, the zero time when one may be.
func (r refusals) until(now time.Time, every time.Duration, with credentials) time.Time {
	pause := min(seldom*every, longestPause)
	// A clock that was put back does not make the pause longer.
	if since := now.Sub(r.tried); r.count < patience || r.with != with || since < 0 || since >= pause {
		return time.Time{}
	}
	return r.tried.Add(pause)
}

// after is what is known after one more look. One that did not come as far as the
// login says nothing of the account, but is not made again before its time either.
func (r refusals) after(check fleet.Check, with credentials) refusals {
	if _, in := check.Readings["login_seconds"]; in || r.with != with {
		r = refusals{with: with}
	}
	r.tried = check.At
	if check.Failure == fleet.FailureAuth {
		r.count++
	}
	return r
}
