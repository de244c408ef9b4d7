package compose

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/compose-spec/compose-go/v2/types"
	"github.com/moby/moby/api/pkg/stdcopy"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"

	"github.com/lockstep-fleet/lockstep/adapters/docker"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// poll is how often container states are read while waiting. The engine has
// events, but a missed one would hang a rollout; three reads a second do not.
const poll = 300 * time.Millisecond

// lineLimit and logLimit keep an error readable when a container logs wildly.
const (
	lineLimit = 400
	logLimit  = 64 << 10
)

// ServiceError says that a service of an applied package does not work.
type ServiceError struct {
	Service   string
	Container string   // empty when there is none
	Reason    string   // what is wrong, for people
	Log       []string // the last lines the container wrote, oldest first
}

func (e *ServiceError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "service %s: ", e.Service)
	if e.Container != "" {
		fmt.Fprintf(&b, "container %s ", e.Container)
	}
	b.WriteString(e.Reason)
	if len(e.Log) > 0 {
		b.WriteString("; its last log lines:\n\t" + strings.Join(e.Log, "\n\t"))
	} else if e.Container != "" {
		b.WriteString("; it logged nothing")
	}
	return b.String()
}

// condition is what one look at a container says.
type condition int

const (
	working condition = iota
	pending           // may still become either
	failed
)

// judge reads one container's state. Settled tells whether a container without
// a health check has run long enough; oneShot whether ending well is its job.
func judge(c container.InspectResponse, settled, oneShot bool) (condition, string) {
	s := c.State
	switch s.Status {
	case container.StateExited, container.StateDead:
		if oneShot && s.ExitCode == 0 && s.Health == nil {
			return working, ""
		}
		return failed, fmt.Sprintf("exited with code %d %s", s.ExitCode, s.Error)
	case container.StateRestarting:
		return pending, fmt.Sprintf("keeps restarting, last exit code %d, %d restarts", s.ExitCode, c.RestartCount)
	case container.StateRunning:
	default:
		return pending, fmt.Sprintf("is %s", s.Status)
	}
	if s.Health == nil || s.Health.Status == container.NoHealthcheck {
		if settled {
			return working, ""
		}
		return pending, "has only just started"
	}
	switch s.Health.Status {
	case container.Healthy:
		return working, ""
	case container.Unhealthy:
		return failed, "is unhealthy" + lastProbe(s.Health)
	}
	return pending, "is not healthy yet" + lastProbe(s.Health)
}

func lastProbe(h *container.Health) string {
	if len(h.Log) == 0 {
		return ""
	}
	last := h.Log[len(h.Log)-1]
	if last == nil || last.ExitCode == 0 {
		return ""
	}
	return fmt.Sprintf(" (health check exit code %d: %s)", last.ExitCode, clip(strings.TrimSpace(last.Output)))
}

// waitHealthy returns when every service of the project works, or with a
// *ServiceError for each that failed or did not get there in time. Before holds
// the containers of the project before the change.
func (e *Engine) waitHealthy(ctx context.Context, project *types.Project, before map[string][]container.InspectResponse, tell func(Event)) error {
	wait, cancel := context.WithTimeout(ctx, e.opts.HealthTimeout)
	defer cancel()
	started := make(map[string]time.Time) // container id and start → since when we know it
	for _, list := range before {
		for _, c := range list {
			if c.State.Running && !c.State.Restarting {
				started[c.ID+c.State.StartedAt] = time.Time{} // ran before: settled
			}
		}
	}
	tick := time.NewTicker(poll)
	defer tick.Stop()
	told := make(map[string]string)
	for {
		found, err := e.containers(wait, project.Name, true)
		if err != nil {
			if ctx.Err() == nil && wait.Err() != nil {
				return e.failures(ctx, project)
			}
			return err
		}
		waiting, broken := false, false
		for _, name := range project.ServiceNames() {
			state, why := e.judgeService(project, name, found[name], started)
			if why != told[name] {
				told[name] = why
				if why == "" {
					why = "works"
				}
				tell(Event{Phase: PhaseWait, Subject: name, Text: why})
			}
			waiting = waiting || state == pending
			broken = broken || state == failed
		}
		if broken {
			return e.failures(ctx, project)
		}
		if !waiting {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		case <-wait.Done():
			if err := e.failures(ctx, project); err != nil {
				return fmt.Errorf("not working %s after the start: %w", e.opts.HealthTimeout, err)
			}
			return nil // it got there at the last moment
		}
	}
}

// judgeService combines a service's containers: the worst one counts.
func (e *Engine) judgeService(project *types.Project, name string, list []container.InspectResponse, started map[string]time.Time) (condition, string) {
	service := project.Services[name]
	if len(list) < service.GetScale() {
		return pending, fmt.Sprintf("has %d of %d containers", len(list), service.GetScale())
	}
	worst, reason := working, ""
	for _, c := range list {
		key := c.ID + c.State.StartedAt
		since, known := started[key]
		if !known && c.State.Status == container.StateRunning {
			since = time.Now()
			started[key] = since
		}
		state, why := judge(c, time.Since(since) >= e.opts.Settle, oneShot(project, name))
		if state > worst {
			worst, reason = state, bare(c.Name)+" "+why
		}
	}
	return worst, reason
}

// oneShot tells whether a service is meant to end: others wait for its
// completion, or nothing would ever restart it and it has no health check. The
// vendor's components are never meant to end.
func oneShot(project *types.Project, name string) bool {
	for _, other := range project.Services {
		if dep, ok := other.DependsOn[name]; ok && dep.Condition == types.ServiceConditionCompletedSuccessfully {
			return true
		}
	}
	service := project.Services[name]
	if _, component := docker.Infer(name, service.Image); component {
		return false
	}
	return service.HealthCheck == nil && (service.Restart == "" || service.Restart == types.RestartPolicyNo)
}

// failures describes, with logs, the services that failed; when none did, those
// that are not working yet; nil when all work. A service that waits for a failed
// one is not the news.
func (e *Engine) failures(ctx context.Context, project *types.Project) error {
	found, err := e.containers(ctx, project.Name, true)
	if err != nil {
		return err
	}
	problems := make(map[condition][]error)
	for _, name := range project.ServiceNames() {
		service := project.Services[name]
		if len(found[name]) == 0 && service.GetScale() > 0 {
			problems[pending] = append(problems[pending], &ServiceError{Service: name, Reason: "has no container"})
		}
		for _, c := range found[name] {
			if state, why := judge(c, true, oneShot(project, name)); state != working {
				problems[state] = append(problems[state], &ServiceError{Service: name, Container: bare(c.Name), Reason: strings.TrimSpace(why), Log: e.tail(ctx, c)})
			}
		}
	}
	told := problems[failed]
	if len(told) == 0 {
		told = problems[pending]
	}
	if len(told) == 0 {
		return nil
	}
	return errs.New(errs.Unavailable, "LS-CMP-012", "%w", errors.Join(told...))
}

// tail reads the last lines of a container's log. A log that cannot be read is
// told as such: the failure it would explain matters more.
func (e *Engine) tail(ctx context.Context, c container.InspectResponse) []string {
	stream, err := e.docker.API().ContainerLogs(ctx, c.ID, client.ContainerLogsOptions{
		ShowStdout: true, ShowStderr: true, Tail: fmt.Sprint(e.opts.LogLines),
	})
	if err != nil {
		return []string{"(its log cannot be read: " + err.Error() + ")"}
	}
	defer func() { _ = stream.Close() }()
	var b bytes.Buffer
	limited := io.LimitReader(stream, logLimit)
	if c.Config.Tty {
		_, err = io.Copy(&b, limited)
	} else {
		_, err = stdcopy.StdCopy(&b, &b, limited)
	}
	var lines []string
	for line := range strings.Lines(b.String()) {
		if line = strings.TrimRight(line, "\r\n"); line != "" {
			lines = append(lines, clip(line))
		}
	}
	if err != nil && len(lines) == 0 {
		lines = append(lines, "(its log cannot be read: "+err.Error()+")")
	}
	return lines
}

func clip(line string) string {
	if len(line) <= lineLimit {
		return line
	}
	return strings.ToValidUTF8(line[:lineLimit], "") + "…"
}
