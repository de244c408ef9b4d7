package evaluator

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/catalog"
	"github.com/lockstep-fleet/lockstep/domain/drift"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	driftv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/drift/v1"
)

func (a driftAPI) ExplainDrift(ctx context.Context, req *driftv1.ExplainDriftRequest) (*driftv1.ExplainDriftResponse, error) {
	w := a.watch
	w.mu.Lock()
	clusters, err := w.known([]string{req.GetCluster()})
	if err != nil {
		w.mu.Unlock()
		return nil, err
	}
	c, now := clusters[0], w.deps.Now()
	t := tale{
		cluster: c.drift, judgement: w.judged(c, now), since: c.since, expects: c.expects(), assigned: c.assigned,
		index: w.catalog.index, now: now, labels: c.labels,
	}
	resp := &driftv1.ExplainDriftResponse{Cluster: w.describe(c, now)}
	w.mu.Unlock()
	counted, err := w.deps.Store.SessionsOf(ctx, w.config.Tenant, []fleet.ClusterID{t.cluster.ID}, codec.Span{From: now.Add(-day), To: now})
	if err != nil {
		return nil, err
	}
	t.sessions = counted[t.cluster.ID]
	month := codec.Span{From: now.Add(-30 * day), To: now}
	mixed, err := w.deps.Store.MixedTime(ctx, w.config.Tenant, month, codec.ByCluster, now)
	if err != nil {
		return nil, err
	}
	for _, m := range mixed {
		if m.Key == req.GetCluster() {
			t.mixed = m
		}
	}
	if t.before, err = w.deps.Store.Periods(ctx, w.config.Tenant, []fleet.ClusterID{t.cluster.ID}, month, 20); err != nil {
		return nil, err
	}
	resp.Lines = t.story()
	return resp, nil
}

// tale is all that a cluster's story is made from.
type tale struct {
	cluster   drift.Cluster
	labels    map[string]string
	judgement drift.Judgement
	since     time.Time
	expects   fleet.ReleaseID
	assigned  *assignment
	index     *catalog.Index
	sessions  drift.Sessions
	mixed     codec.MixedTime
	before    []codec.Period
	now       time.Time
}

// story tells it in at most ten lines: what it is, since when and why, what runs
// against what was asked for, what it costs, and what to do.
func (t tale) story() []*driftv1.StoryLine {
	var out []*driftv1.StoryLine
	say := func(about, text string) {
		if text != "" {
			out = append(out, &driftv1.StoryLine{About: about, Text: text})
		}
	}
	state := fmt.Sprintf("%s is %s", t.cluster.ID, t.judgement.State)
	if !t.since.IsZero() {
		state += fmt.Sprintf(" since %s (%s)", t.since.UTC().Format(time.RFC3339), lasted(t.now.Sub(t.since)))
	}
	say("state", state)
	say("why", strings.Join(t.judgement.Reasons, "; "))
	say("running", t.running())
	say("assigned", t.intended())
	say("declared", t.asked())
	say("reported", t.reported())
	say("window", t.window())
	say("sessions", t.fared())
	say("history", t.history())
	say("next", t.next())
	return out
}

func (t tale) running() string {
	if len(t.judgement.Running) == 0 {
		return "nothing of a known line runs"
	}
	text := drift.Describe(t.judgement.Running)
	if set, whole := drift.Whole(t.judgement.Running); whole {
		if releases := t.index.Carrying(set); len(releases) > 0 {
			text += ", which is " + named(releases)
		}
	}
	return fmt.Sprintf("%s; %d instances, seen %s ago", text, len(t.cluster.Inventory.Instances), lasted(t.now.Sub(t.cluster.Seen())))
}

// named lists a few releases, the newest first.
func named(releases []fleet.ReleaseID) string {
	const most = 3
	list := texts(releases)
	slices.Reverse(list)
	switch {
	case len(list) == 1:
		return "release " + list[0]
	case len(list) > most:
		return fmt.Sprintf("what releases %s and %d more carry", strings.Join(list[:most], ", "), len(list)-most)
	}
	return "what releases " + strings.Join(list, ", ") + " carry"
}

func (t tale) intended() string {
	if t.expects == "" {
		return "no release is assigned"
	}
	text := "release " + string(t.expects)
	if entry, known := t.index.Release(t.expects); known {
		text += fmt.Sprintf(" (%s, %s)", entry.Release.Versions, entry.Status)
	} else {
		text += ", which is not in the catalogue"
	}
	switch a := t.assigned; {
	case a == nil:
		return text + ", by the configuration"
	case a.Rollout != "":
		return text + ", by rollout " + a.Rollout
	case a.By != "":
		text += ", by " + a.By
		fallthrough
	default:
		text += " at " + a.At.UTC().Format(time.RFC3339)
		if a.Reason != "" {
			text += ": " + a.Reason
		}
		return text
	}
}

func (t tale) asked() string {
	p := t.cluster.Package
	var parts []string
	for _, h := range p.Helm {
		text := fmt.Sprintf("%s is %s-%s revision %d (%s)", h.Name, h.Chart, h.ChartVersion, h.Revision, h.Status)
		if len(h.Versions) > 0 {
			text += " for " + h.Versions.String()
		}
		parts = append(parts, text)
	}
	states := make(map[fleet.ComposeState][]string)
	for _, s := range p.Compose {
		states[s.State] = append(states[s.State], s.Service)
	}
	for _, state := range slices.Sorted(maps.Keys(states)) {
		parts = append(parts, fmt.Sprintf("%s: %s", state, strings.Join(states[state], ", ")))
	}
	if len(parts) == 0 {
		return "nobody told what is declared"
	}
	return strings.Join(parts, "; ")
}

func (t tale) reported() string {
	r := t.cluster.Registration
	if r.ObservedAt.IsZero() {
		return "the vendor's control plane was not asked"
	}
	versions := make(map[string]int)
	for _, b := range r.Bastions {
		version := b.Version
		if version == "" {
			version = "no version"
		}
		versions[version]++
	}
	var parts []string
	for _, version := range slices.Sorted(maps.Keys(versions)) {
		parts = append(parts, fmt.Sprintf("%d × %s", versions[version], version))
	}
	text := "no bastion is registered"
	if len(parts) > 0 {
		text = "bastions report " + strings.Join(parts, ", ")
	}
	if !r.LastReport.IsZero() {
		text += ", last " + lasted(t.now.Sub(r.LastReport)) + " ago"
	}
	return text
}

func (t tale) window() string {
	if t.judgement.MixedSince.IsZero() {
		return ""
	}
	mixed := t.now.Sub(t.judgement.MixedSince)
	text := fmt.Sprintf("mixed for %s of %s", lasted(mixed), lasted(t.judgement.Window))
	if t.judgement.WindowBasis != "" {
		text += " (" + t.judgement.WindowBasis + ")"
	}
	return text
}

func (t tale) fared() string {
	s := t.sessions
	ended := s.Succeeded + s.Failed
	if ended+s.Open == 0 {
		return "no session of a person began in the last 24h"
	}
	text := fmt.Sprintf("of %d sessions that ended in the last 24h, %d failed", ended, s.Failed)
	if ended > 0 {
		text += fmt.Sprintf(" (%.1f %%)", 100*float64(s.Failed)/float64(ended))
	}
	return fmt.Sprintf("%s; %d are open", text, s.Open)
}

func (t tale) history() string {
	m := t.mixed
	text := "not mixed in the last 30 days"
	if m.Mixes > 0 {
		times := "once"
		if m.Mixes > 1 {
			times = fmt.Sprintf("%d times", m.Mixes)
		}
		text = fmt.Sprintf("in the last 30 days mixed %s: %s inside windows, %s past them", times, lasted(m.Inside), lasted(m.Outside))
	}
	for _, p := range slices.Backward(t.before) {
		if !p.Ended.IsZero() && p.State != t.judgement.State {
			return fmt.Sprintf("%s; before this it was %s for %s", text, p.State, lasted(p.Ended.Sub(p.Began)))
		}
	}
	return text
}

// next is what a person would do now.
func (t tale) next() string {
	id := t.cluster.ID
	switch t.judgement.State {
	case drift.Locked:
		return "nothing to do"
	case drift.Stepping:
		if t.cluster.Move != nil {
			return fmt.Sprintf("rollout %s is at work: `lockstep rollout watch %s`", t.cluster.Move.Rollout, t.cluster.Move.Rollout)
		}
		return "wait until the update is done; past the window it is overdue"
	case drift.Overdue:
		return fmt.Sprintf("finish or undo the update; `lockstep clusters %s` shows which instances are behind", id)
	case drift.Drifted:
		back := "bring it back as it was updated"
		if t.plannable() {
			back = fmt.Sprintf("bring it back with `lockstep rollout plan --release %s %s`", t.expects, id)
		}
		return fmt.Sprintf("%s, or accept what runs with `lockstep assign %s --release …`", back, id)
	case drift.Split:
		return fmt.Sprintf("compare what is declared with what runs: `lockstep clusters %s -o yaml`", id)
	case drift.Withdrawn:
		return "move it to a release that is available: `lockstep releases list --status available`"
	case drift.Dark:
		return "see whether its collector can look: `lockstep collector check " + string(id) + "`"
	}
	if t.expects == "" && !t.cluster.Seen().IsZero() {
		return fmt.Sprintf("say what it is to run: `lockstep assign %s --release …`", id)
	}
	return "see whether its collector can look: `lockstep collector check " + string(id) + "`"
}

// plannable says whether a rollout could bring the cluster to what it is to run.
func (t tale) plannable() bool {
	entry, known := t.index.Release(t.expects)
	return known && entry.Status == catalog.Available && len(entry.Release.Images) > 0 && len(t.cluster.Package.Compose) > 0
}

// lasted is a length of time to the second, as people write it.
func lasted(d time.Duration) string {
	d = max(d, 0).Round(time.Second)
	if d >= 48*time.Hour {
		return fmt.Sprintf("%dd%dh", d/day, d%day/time.Hour)
	}
	return d.String()
}
