// Package notice owns which facts people are told of, and in which words. It
// does not know where a notice goes.
package notice

import (
	"fmt"
	"strings"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/drift"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/gate"
	"github.com/lockstep-fleet/lockstep/domain/rollout"
)

// Severity says how much a notice wants attention.
type Severity string

// Every value Severity takes.
const (
	Info    Severity = "info"
	Warning Severity = "warning"
	Alert   Severity = "alert"
)

// Kind is what happened, a stable lower_snake word for machines.
type Kind string

// Notice is one thing people are told.
type Notice struct {
	// ID is the same whenever the same fact is told again.
	ID       string
	Kind     Kind
	Severity Severity
	At       time.Time
	Cluster  fleet.ClusterID
	Rollout  rollout.ID
	// Title is one line; Text says why and what follows.
	Title string
	Text  string
}

// ID names the notice of one fact by where it is recorded: the event's subject,
// its sequence in the stream and the fact's place in it.
func ID(subject string, sequence uint64, index int) string {
	return fmt.Sprintf("%s/%d/%d", subject, sequence, index)
}

// OfRollout returns what to say of a rollout's fact; false when it is nobody's
// business.
func OfRollout(id rollout.ID, f rollout.Fact) (Notice, bool) {
	n := Notice{At: f.At, Cluster: f.Cluster, Rollout: id, Severity: Info}
	switch k := f.Kind.(type) {
	case rollout.RolloutStarted:
		n.Kind = "rollout_started"
		clusters := "1 cluster"
		if len(k.Plan.Clusters) != 1 {
			clusters = fmt.Sprintf("%d clusters", len(k.Plan.Clusters))
		}
		n.Title = fmt.Sprintf("Rollout %s of %s started on %s", id, k.Plan.Release, clusters)
		names := make([]string, len(k.Plan.Clusters))
		for i, c := range k.Plan.Clusters {
			names[i] = string(c.Cluster)
		}
		n.Text = "In order: " + strings.Join(names, ", ")
	case rollout.StepPassed:
		n.Kind, n.Title = "step_passed", fmt.Sprintf("%s: step %s passed its gate", f.Cluster, k.Step)
	case rollout.ClusterHeldBack:
		n.Kind, n.Severity, n.Title, n.Text = "cluster_held", Warning, fmt.Sprintf("%s is held", f.Cluster), k.Reason
	case rollout.RollbackStarted:
		n.Kind, n.Severity, n.Title, n.Text = "rollback_started", Alert, fmt.Sprintf("%s is being rolled back", f.Cluster), k.Reason
	case rollout.ClusterDone:
		n.Kind, n.Title = "cluster_succeeded", fmt.Sprintf("%s runs %s", f.Cluster, k.Release)
	case rollout.ClusterRestored:
		n.Kind, n.Severity, n.Title = "cluster_rolled_back", Warning, fmt.Sprintf("%s runs what it ran before the rollout", f.Cluster)
	case rollout.ClusterLost:
		n.Kind, n.Severity, n.Title, n.Text = "cluster_failed", Alert, fmt.Sprintf("%s needs a person", f.Cluster), k.Reason
	case rollout.ClusterSkipped:
		n.Kind, n.Title, n.Text = "cluster_skipped", fmt.Sprintf("%s is left out", f.Cluster), k.Reason
	case rollout.WaveSoaking:
		n.Kind, n.Title = "wave_soaking", fmt.Sprintf("Wave %d of rollout %s is through and is watched until %s", k.Wave+1, id, k.Ends.UTC().Format(time.RFC3339))
	case rollout.WaveGated:
		n.Kind, n.Title = "wave_gated", fmt.Sprintf("Wave %d of rollout %s is through and is judged", k.Wave+1, id)
	case rollout.WaveFailed:
		n.Kind, n.Severity, n.Title, n.Text = "wave_failed", Alert, fmt.Sprintf("Wave %d of rollout %s failed", k.Wave+1, id), k.Reason
	case rollout.RolloutPaused:
		n.Kind, n.Severity, n.Title, n.Text = "rollout_paused", Warning, fmt.Sprintf("Rollout %s is paused", id), k.Reason
	case rollout.RolloutResumed:
		n.Kind, n.Title, n.Text = "rollout_resumed", fmt.Sprintf("Rollout %s goes on", id), k.Reason
	case rollout.RolloutHolding:
		n.Kind, n.Severity, n.Title, n.Text = "rollout_holding", Alert, fmt.Sprintf("No further cluster of rollout %s starts", id), k.Reason
	case rollout.RolloutAborted:
		n.Kind, n.Severity, n.Title = "rollout_aborted", Warning, fmt.Sprintf("Rollout %s is aborted", id)
	case rollout.RolloutHeld:
		n.Kind, n.Severity, n.Title, n.Text = "rollout_held", Alert, fmt.Sprintf("Rollout %s is held", id), k.Reason
	case rollout.RolloutSucceeded:
		n.Kind, n.Title = "rollout_succeeded", fmt.Sprintf("Rollout %s succeeded", id)
	case rollout.RolloutRolledBack:
		n.Kind, n.Severity, n.Title = "rollout_rolled_back", Warning, fmt.Sprintf("Rollout %s is rolled back", id)
	case rollout.RolloutFailed:
		n.Kind, n.Severity, n.Title, n.Text = "rollout_failed", Alert, fmt.Sprintf("Rollout %s failed", id), k.Reason
	default:
		return Notice{}, false
	}
	return n, true
}

// OfGate returns what to say of a gate's verdict. That of a wave has no cluster.
func OfGate(id rollout.ID, cluster fleet.ClusterID, step string, verdict gate.Verdict, summary string, at time.Time) Notice {
	severity := Warning
	switch verdict {
	case gate.Pass:
		severity = Info
	case gate.Fail:
		severity = Alert
	}
	title := fmt.Sprintf("%s: the gate of step %s says %s", cluster, step, verdict)
	if cluster == "" {
		title = fmt.Sprintf("The gate of a wave of rollout %s says %s", id, verdict)
	}
	return Notice{Kind: "gate_decided", Severity: severity, At: at, Cluster: cluster, Rollout: id, Title: title, Text: summary}
}

// OfState returns what to say of a cluster's change of state; false when neither
// state calls for attention.
func OfState(cluster fleet.ClusterID, from, to drift.State, reasons []string, at time.Time) (Notice, bool) {
	n := Notice{At: at, Cluster: cluster, Text: strings.Join(reasons, "; ")}
	switch drift.EpisodeOf(from, to) {
	case drift.Opened:
		n.Kind, n.Severity, n.Title = "drift_opened", Warning, fmt.Sprintf("%s is %s", cluster, to)
	case drift.Changed:
		n.Kind, n.Severity, n.Title = "drift_changed", Warning, fmt.Sprintf("%s is %s and was %s", cluster, to, from)
	case drift.Closed:
		n.Kind, n.Severity, n.Title = "drift_closed", Info, fmt.Sprintf("%s is %s and no longer %s", cluster, to, from)
	default:
		return Notice{}, false
	}
	return n, true
}
