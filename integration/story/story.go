// Package story tells the product's main job from end to end on real parts: a
// good release is promoted cluster by cluster, a bad one is stopped by the
// session gate and rolled back, the server is killed in the middle of both, and
// every decision can be taken again from stored rows. The integration suite and
// the demo tell the same story.
package story

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lockstep-fleet/lockstep/adapters/akeyless/akeylesstest"
	"github.com/lockstep-fleet/lockstep/integration/lab"
	"github.com/lockstep-fleet/lockstep/integration/lab/traffic"
)

// Options say how the story is told.
type Options struct {
	// Binary is the built lockstep.
	Binary string
	// Dir is where everything is kept; required.
	Dir string
	// Clusters names the clusters; empty means berlin, tokyo and austin.
	Clusters []string
	// Say hears each sentence of the story.
	Say func(string)
	Log *slog.Logger
}

// Figures are what the story measured.
type Figures struct {
	LabStart, ServerStart, Restart time.Duration
	GoodRollout, BadRollout        time.Duration
	// BadToStop is from the moment the bad step was applied to the gate's verdict.
	BadToStop time.Duration
	// NewFailed and NewTotal are the sessions that the failing verdict rested on.
	NewFailed, NewTotal        int64
	Sessions, Pairs            int
	IdleServer, IdleEngine     int64
	BusyServer, BusyEngine     int64
	LatencyMedian, LatencyP99  time.Duration
	Notices, RepeatedNotices   int
	Gates                      int
	Total                      time.Duration
	SessionsFailedAfterRestore float64
}

// teller holds the parts while the story runs.
type teller struct {
	opts     Options
	lab      *lab.Lab
	vendor   *akeylesstest.Server
	bastions *heartbeats
	traffic  *traffic.Generator
	server   *server
	figures  Figures
	begun    time.Time
}

// sessionRate is how many sessions start per second and cluster: enough for a
// gate to decide in well under a minute, little enough for two cores.
const sessionRate = 12

// baselineSessions is how many sessions per cluster are waited for before the
// first rollout.
const baselineSessions = 240

// Tell tells the story and returns its figures. What does not go as it should is
// an error that says which sentence failed.
func Tell(ctx context.Context, opts Options) (f Figures, err error) {
	t := &teller{opts: opts, begun: time.Now()}
	if len(opts.Clusters) == 0 {
		t.opts.Clusters = []string{"berlin", "tokyo", "austin"}
	}
	stopTraffic := func() {}
	defer func() {
		stopTraffic()
		err = errors.Join(err, t.close())
	}()
	if err := t.setUp(ctx); err != nil {
		return t.figures, err
	}
	stopTraffic = t.startTraffic(ctx)
	chapters := []struct {
		name string
		tell func(context.Context) error
	}{
		{"observe", t.observe},
		{"promote the good release", t.promote},
		{"stop the bad release", t.stopBad},
		{"hear every notice", t.hear},
		{"take every decision again", t.replay},
	}
	for _, chapter := range chapters {
		if err := chapter.tell(ctx); err != nil {
			return t.figures, fmt.Errorf("%s: %w", chapter.name, err)
		}
	}
	t.figures.Total = time.Since(t.begun)
	return t.figures, nil
}

func (t *teller) say(format string, args ...any) {
	t.opts.Say(fmt.Sprintf("%6.1fs  %s", time.Since(t.begun).Seconds(), fmt.Sprintf(format, args...)))
}

func (t *teller) setUp(ctx context.Context) error {
	begun := time.Now()
	t.say("Starting %d Compose clusters on a real Docker Engine …", len(t.opts.Clusters))
	var err error
	t.lab, err = lab.Start(ctx, lab.Options{
		Clusters: t.opts.Clusters, Name: "lockstep-story", Dir: filepath.Join(t.opts.Dir, "projects"), Log: t.opts.Log,
		Initial: lab.Release{Gateway: "4.52.0", SRA: "3.0.3"},
	})
	if err != nil {
		return err
	}
	good, err := t.lab.Publish(ctx, lab.Release{Gateway: "4.53.0", SRA: "3.1.0"})
	if err != nil {
		return err
	}
	bad, err := t.lab.Publish(ctx, lab.Release{Gateway: "4.54.0", SRA: "3.2.0", SRAFailPercent: badPercent})
	if err != nil {
		return err
	}
	if t.vendor, err = akeylesstest.NewServer(akeylesstest.Options{Dialect: akeylesstest.DialectInstances}); err != nil {
		return err
	}
	if t.bastions, err = newHeartbeats(t.vendor, t.lab); err != nil {
		return err
	}
	if err := t.bastions.beat(ctx); err != nil {
		return err
	}
	t.figures.LabStart = time.Since(begun)
	listen, err := freeAddress()
	if err != nil {
		return err
	}
	admin, err := freeAddress()
	if err != nil {
		return err
	}
	config, err := writeFleetFile(t.opts.Dir, listen, admin, t.lab, t.vendor, []release{{releaseOld, t.lab.Initial}, {releaseGood, good}, {releaseBad, bad}})
	if err != nil {
		return err
	}
	if t.server, err = newServer(t.opts.Binary, config, listen, admin, filepath.Join(t.opts.Dir, "server.log")); err != nil {
		return err
	}
	if t.figures.ServerStart, err = t.server.start(ctx); err != nil {
		return err
	}
	t.say("The clusters run gateway 4.52.0 with SRA 3.0.3; lockstep server was ready after %s.", round(t.figures.ServerStart))
	t.figures.IdleServer, t.figures.IdleEngine, err = t.server.memory()
	return err
}

func (t *teller) startTraffic(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	g, err := t.lab.Traffic(traffic.Options{
		Recorder: reporter{t.vendor, func(err error) { t.opts.Log.Error("the vendor refused a session", "error", err) }},
		Run:      fmt.Sprintf("s%d", time.Now().Unix()), Seed: 1, Rate: sessionRate, Pairs: 200, FailPercent: 1, Log: t.opts.Log,
	})
	if err != nil {
		// Options are constants; a mistake in them shows at the first run.
		panic(err)
	}
	t.traffic = g
	var running sync.WaitGroup
	running.Go(func() { g.Run(ctx) })
	running.Go(func() {
		t.bastions.run(ctx, func(err error) { t.opts.Log.Warn("bastions do not report", "error", err) })
	})
	return func() { cancel(); running.Wait() }
}

func (t *teller) close() error {
	var errs []error
	if t.server != nil {
		errs = append(errs, t.server.stop(), t.server.log.Close())
	}
	if t.bastions != nil {
		errs = append(errs, t.bastions.engine.Close())
	}
	if t.vendor != nil {
		errs = append(errs, t.vendor.Close())
	}
	if t.lab != nil {
		errs = append(errs, t.lab.Close())
	}
	return errors.Join(errs...)
}

// clusterRow is what `lockstep status -o json` says of a cluster.
type clusterRow struct {
	ID              string   `json:"id"`
	State           string   `json:"state"`
	Reasons         []string `json:"reasons"`
	AssignedRelease string   `json:"assigned_release"`
	Instances       []struct {
		Component string `json:"component"`
		Digest    string `json:"digest"`
		Version   string `json:"version"`
	} `json:"instances"`
}

// running lists component=version@digest in order, to compare before and after.
func (c clusterRow) running() []string {
	var out []string
	for _, i := range c.Instances {
		out = append(out, fmt.Sprintf("%s=%s@%s", i.Component, i.Version, i.Digest))
	}
	slices.Sort(out)
	return out
}

func (t *teller) status(ctx context.Context) (map[string]clusterRow, error) {
	var rows []clusterRow
	if err := t.server.read(ctx, &rows, "status"); err != nil {
		return nil, err
	}
	out := make(map[string]clusterRow, len(rows))
	for _, r := range rows {
		out[r.ID] = r
	}
	return out, nil
}

// until asks again and again; the last reason it was not true is in the error.
func until(outer context.Context, limit time.Duration, what string, ok func() (bool, string, error)) error {
	ctx, cancel := context.WithTimeout(outer, limit)
	defer cancel()
	for {
		done, why, err := ok()
		if err != nil {
			return err
		}
		if done {
			return nil
		}
		select {
		case <-ctx.Done():
			if outer.Err() != nil {
				return fmt.Errorf("wait for %s: %w", what, outer.Err())
			}
			return fmt.Errorf("waited %s for %s: %s", limit, what, why)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// allOn waits until every named cluster is locked on a release.
func (t *teller) allOn(ctx context.Context, release string, clusters []string) error {
	return until(ctx, time.Minute, "clusters locked on "+release, func() (bool, string, error) {
		rows, err := t.status(ctx)
		if err != nil {
			return false, "", err
		}
		for _, c := range clusters {
			if r := rows[c]; r.State != "locked" || r.AssignedRelease != release {
				return false, fmt.Sprintf("%s is %s on %s: %s", c, r.State, r.AssignedRelease, strings.Join(r.Reasons, "; ")), nil
			}
		}
		return true, "", nil
	})
}

func (t *teller) observe(ctx context.Context) error {
	if err := t.allOn(ctx, releaseOld, t.opts.Clusters); err != nil {
		return err
	}
	t.say("All clusters are seen and locked on release %s.", releaseOld)
	if err := t.applyPolicy(ctx); err != nil {
		return err
	}
	err := until(ctx, 2*time.Minute, "a baseline", func() (bool, string, error) {
		for _, c := range t.opts.Clusters {
			tally := t.traffic.Count(c, time.Time{}, time.Now())
			if n := tally.Completed + tally.Failed; n < baselineSessions {
				return false, fmt.Sprintf("%s has %d of %d sessions", c, n, baselineSessions), nil
			}
		}
		return true, "", nil
	})
	if err != nil {
		return err
	}
	if t.traffic.Pairs() < 200 {
		return fmt.Errorf("only %d distinct user and target pairs, wanted 200", t.traffic.Pairs())
	}
	tally := t.traffic.Count("", time.Time{}, time.Now())
	t.say("People's sessions: %d so far, %.1f %% failed; that is the baseline.", tally.Completed+tally.Failed, 100*tally.FailRate())
	return nil
}

// rolloutRow is what `lockstep rollout get -o json` says.
type rolloutRow struct {
	ID       string `json:"id"`
	Phase    string `json:"phase"`
	Reason   string `json:"reason"`
	Clusters []struct {
		Cluster string `json:"cluster"`
		Phase   string `json:"phase"`
		Step    string `json:"step"`
		Gate    string `json:"gate"`
	} `json:"clusters"`
}

// start plans a rollout by the story's policy and starts it.
func (t *teller) start(ctx context.Context, release string, flags ...string) (id string, err error) {
	flags = append([]string{"--release", release, "--policy", policyName}, flags...)
	if _, _, err := t.server.run(ctx, []int{0}, append([]string{"rollout", "plan"}, flags...)...); err != nil {
		return "", err
	}
	out, _, err := t.server.run(ctx, []int{0}, append([]string{"rollout", "start", "--yes"}, flags...)...)
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(out)), nil
}

// at waits until some cluster of a rollout is in a phase of a step. Where that does not
// come, what the gate in the way says is part of the error.
func (t *teller) at(ctx context.Context, id, cluster, step, phase string) error {
	var gate string
	err := until(ctx, 4*time.Minute, fmt.Sprintf("%s to be %s in step %s", cluster, phase, step), func() (bool, string, error) {
		var r rolloutRow
		if err := t.server.read(ctx, &r, "rollout", "get", id); err != nil {
			return false, "", err
		}
		for _, c := range r.Clusters {
			if c.Cluster == cluster && c.Step == step && c.Phase == phase {
				return true, "", nil
			}
			if c.Phase == "gating" {
				gate = c.Gate
			}
		}
		if r.Phase == "held" || r.Phase == "failed" || r.Phase == "rolled_back" {
			return false, "", fmt.Errorf("rollout %s is %s: %s", id, r.Phase, r.Reason)
		}
		return false, fmt.Sprintf("rollout is %s: %+v", r.Phase, r.Clusters), nil
	})
	if err != nil && gate != "" {
		said, _, _ := t.server.run(ctx, []int{0}, "gate", "explain", gate)
		err = fmt.Errorf("%w\n%s", err, said)
	}
	return err
}

// killed ends the server with SIGKILL and starts it again.
func (t *teller) killed(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	if err := t.server.kill(limited); err != nil {
		return err
	}
	took, err := t.server.start(ctx)
	t.figures.Restart = max(t.figures.Restart, took)
	return err
}

func (t *teller) promote(ctx context.Context) error {
	begun := time.Now()
	id, err := t.start(ctx, releaseGood, "--wave", "1", "--wave", "100%", "--soak", "3s", "--max-concurrent", "2")
	if err != nil {
		return err
	}
	t.say("Rollout %s of the good release %s starts: %s first, and the others together.", id, releaseGood, t.opts.Clusters[0])
	middle := t.opts.Clusters[len(t.opts.Clusters)/2]
	if err := t.at(ctx, id, middle, "gateway", "gating"); err != nil {
		return err
	}
	if err := t.killed(ctx); err != nil {
		return err
	}
	t.say("The server was killed with SIGKILL while %s was in its gate; its engine child died with it. It is back after %s.", middle, round(t.figures.Restart))
	if _, _, err := t.server.run(ctx, []int{0}, "rollout", "watch", id, "--timeout", "8m"); err != nil {
		return err
	}
	if err := t.allOn(ctx, releaseGood, t.opts.Clusters); err != nil {
		return err
	}
	t.figures.GoodRollout = time.Since(begun)
	if err := t.passedAllChecks(ctx); err != nil {
		return err
	}
	t.say("Every cluster runs %s, promoted step by step and wave by wave on people's sessions and on what runs and reports, in %s.", releaseGood, round(t.figures.GoodRollout))
	return nil
}

// applyPolicy has the server keep the policy that both rollouts are judged by.
func (t *teller) applyPolicy(ctx context.Context) error {
	path := filepath.Join(t.opts.Dir, "policies.yaml")
	if err := os.WriteFile(path, []byte(policies), 0o600); err != nil {
		return fmt.Errorf("write the gate policy: %w", err)
	}
	if _, _, err := t.server.run(ctx, []int{0}, "gate", "policy", "apply", "-f", path); err != nil {
		return err
	}
	t.say("Gate policy %s is applied: what should run has to run and report, and people's sessions have to pass.", policyName)
	return nil
}

// passedAllChecks looks at what the gates of the good release said besides sessions.
func (t *teller) passedAllChecks(ctx context.Context) error {
	gates, err := t.gates(ctx)
	if err != nil {
		return err
	}
	for _, g := range gates {
		said := make(map[string]string)
		for _, c := range g.Decision.Checks {
			said[c.Check] = c.Verdict
		}
		for _, check := range []string{"telemetry", "inventory", "sessions"} {
			if said[check] != "pass" {
				return fmt.Errorf("gate %s passed while %s says %q: %s", g.ID, check, said[check], g.Decision.Summary)
			}
		}
	}
	return nil
}

func (t *teller) stopBad(ctx context.Context) error {
	before, err := t.status(ctx)
	if err != nil {
		return err
	}
	begun := time.Now()
	id, err := t.start(ctx, releaseBad)
	if err != nil {
		return err
	}
	first := t.opts.Clusters[0]
	t.say("Rollout %s of the bad release %s starts: its bastions break %d %% of sessions.", id, releaseBad, badPercent)
	if err := t.at(ctx, id, first, "sra", "applying"); err != nil {
		return err
	}
	if err := t.killed(ctx); err != nil {
		return err
	}
	t.say("The server was killed again, this time while it replaced the bastions of %s.", first)
	if _, _, err := t.server.run(ctx, []int{4}, "rollout", "watch", id, "--timeout", "8m"); err != nil {
		return err
	}
	t.figures.BadRollout = time.Since(begun)
	var r rolloutRow
	if err := t.server.read(ctx, &r, "rollout", "get", id); err != nil {
		return err
	}
	if r.Phase != "held" || r.Clusters[0].Phase != "rolled_back" {
		return fmt.Errorf("the bad rollout rests in %s with %+v, wanted held with %s rolled back", r.Phase, r.Clusters, first)
	}
	for _, c := range r.Clusters[1:] {
		if c.Phase != "waiting" {
			return fmt.Errorf("%s is %s; no cluster after the first may have been touched", c.Cluster, c.Phase)
		}
	}
	var g gateRow
	if err := t.server.read(ctx, &g, "gate", "explain", r.Clusters[0].Gate); err != nil {
		return err
	}
	if d := g.Decision; d.Verdict != "fail" || d.Consequence != "rollback" || g.Step != "sra" || g.Terms.Policy != policyName {
		return fmt.Errorf("gate %s of step %s by policy %q says %s and %s, wanted fail and rollback in step sra by %s", g.ID, g.Step, g.Terms.Policy, d.Verdict, d.Consequence, policyName)
	}
	if len(g.Decision.Controls.Clusters) == 0 {
		return fmt.Errorf("gate %s was set beside no other cluster: %s", g.ID, g.Decision.Summary)
	}
	t.figures.NewFailed, t.figures.NewTotal = int64(g.Decision.Evidence.NewFailed), int64(g.Decision.Evidence.NewFailed+g.Decision.Evidence.NewSucceeded)
	t.figures.BadToStop = g.Decision.DecidedAt.Sub(g.Boundary.End)
	t.say("The session gate stopped it after %d new sessions (%d failed), %s after the step: %s", t.figures.NewTotal, t.figures.NewFailed,
		round(t.figures.BadToStop), firstSentence(g.Decision.Summary))
	if err := t.allOn(ctx, releaseGood, t.opts.Clusters); err != nil {
		return err
	}
	after, err := t.status(ctx)
	if err != nil {
		return err
	}
	for _, c := range t.opts.Clusters {
		if !slices.Equal(before[c].running(), after[c].running()) {
			return fmt.Errorf("%s ran %v before and %v after the rollback", c, before[c].running(), after[c].running())
		}
	}
	restored := time.Now()
	limited, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if err := t.traffic.WaitHealthy(limited, 20); err != nil {
		return fmt.Errorf("sessions after the rollback: %w", err)
	}
	if err := until(ctx, time.Minute, "sessions after the rollback", func() (bool, string, error) {
		tally := t.traffic.Count(first, restored, time.Now())
		return tally.Completed+tally.Failed >= 100, fmt.Sprint(tally), nil
	}); err != nil {
		return err
	}
	t.figures.SessionsFailedAfterRestore = t.traffic.Count(first, restored, time.Now()).FailRate()
	if t.figures.SessionsFailedAfterRestore > 0.06 {
		return fmt.Errorf("%.1f %% of sessions on %s fail after the rollback", 100*t.figures.SessionsFailedAfterRestore, first)
	}
	t.say("%s was rolled back whole, digest for digest; the others were never touched. Sessions work again (%.1f %% failed since).",
		first, 100*t.figures.SessionsFailedAfterRestore)
	t.figures.BusyServer, t.figures.BusyEngine, err = t.server.memory()
	return err
}

func firstSentence(s string) string {
	if i := strings.Index(s, ". "); i > 0 {
		return s[:i+1]
	}
	return s
}

func round(d time.Duration) time.Duration {
	if d < time.Second {
		return d.Round(time.Millisecond)
	}
	return d.Round(100 * time.Millisecond)
}

// Print writes the figures as a short table.
func (f Figures) Print(w *os.File) {
	mib := func(n int64) string { return fmt.Sprintf("%d MiB", n>>20) }
	rows := [][2]string{
		{"clusters up from nothing", round(f.LabStart).String()},
		{"server ready", round(f.ServerStart).String()},
		{"server ready after SIGKILL, at most", round(f.Restart).String()},
		{"good rollout, whole fleet", round(f.GoodRollout).String()},
		{"bad rollout, start to rolled back", round(f.BadRollout).String()},
		{"bad step applied until the verdict", round(f.BadToStop).String()},
		{"sessions behind that verdict", fmt.Sprintf("%d failed of %d", f.NewFailed, f.NewTotal)},
		{"sessions opened, distinct pairs", fmt.Sprintf("%d, %d", f.Sessions, f.Pairs)},
		{"batch in the stream until decided, p50 / p99 below", fmt.Sprintf("%s / %s", f.LatencyMedian, f.LatencyP99)},
		{"memory idle, server + engine", mib(f.IdleServer) + " + " + mib(f.IdleEngine)},
		{"memory at work, server + engine", mib(f.BusyServer) + " + " + mib(f.BusyEngine)},
		{"notices heard, repeated", fmt.Sprintf("%d, %d", f.Notices, f.RepeatedNotices)},
		{"gates decided and taken again alike", fmt.Sprint(f.Gates)},
		{"the whole story", round(f.Total).String()},
	}
	for _, r := range rows {
		fmt.Fprintf(w, "  %-52s %s\n", r[0], r[1])
	}
}
