package docker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/moby/moby/api/types/events"
	"github.com/moby/moby/client"

	"github.com/lockstep-fleet/lockstep/kit/rtime"
)

// Pauses between two tries to follow an engine that went away. A stream that
// lasted for longestPause ends the series: the next loss is a new one.
const (
	firstPause   = 250 * time.Millisecond
	longestPause = 10 * time.Second
)

// opening is how long a stream of events is given to fail at once. The engine
// answers before it subscribes, and the client returns before it tells that it was
// refused: after a moment both are settled.
const opening = 100 * time.Millisecond

// telling are the events after which an inventory can read otherwise. What health
// checks do (exec_create, exec_start, exec_die, many a second) is not among them;
// what they find is. The engine compares health_status by its beginning.
func telling() []string {
	return []string{
		string(events.ActionCreate), string(events.ActionStart), string(events.ActionRestart), string(events.ActionStop), string(events.ActionDie),
		string(events.ActionOOM), string(events.ActionPause), string(events.ActionUnPause), string(events.ActionRename), string(events.ActionUpdate),
		string(events.ActionDestroy), string(events.ActionHealthStatus),
	}
}

// Watch calls changed whenever something happens to a container of one Compose
// project, and whenever it begins to follow the engine's events, at first and after
// each loss, because what happened before was missed. It survives an engine that
// goes away: it tries again, more and more rarely, and returns nil when ctx ends.
// Nothing else ends it. Changed is called from one goroutine and must not wait.
func (e *Engine) Watch(ctx context.Context, project string, changed func()) error {
	pause := rtime.Backoff{First: firstPause, Max: longestPause}
	var lost time.Time // when the loss that was told last began, zero while following
	for {
		var begun time.Time
		err := e.follow(ctx, project, func() {
			if begun.IsZero() {
				begun = time.Now()
				if !lost.IsZero() {
					e.log.Info("docker events are followed again", "engine", e.host, "project", project, "missed", begun.Sub(lost).Round(time.Millisecond))
					lost = time.Time{}
				}
			}
			changed()
		})
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the end of ctx is how a watch ends
		}
		if lost.IsZero() {
			e.log.Warn("docker events are lost; changes are seen at the next poll until they are back", "engine", e.host, "project", project, "error", err)
			lost = time.Now()
		}
		if !begun.IsZero() && time.Since(begun) >= longestPause {
			pause.Reset()
		}
		if rtime.Wait(ctx, pause.Next()) != nil {
			return nil //nolint:nilerr // the end of ctx is how a watch ends
		}
	}
}

// follow reads one stream of events until it breaks. It calls changed when the
// stream is open and at each event.
func (e *Engine) follow(ctx context.Context, project string, changed func()) error {
	doing := fmt.Sprintf("following the events of compose project %q", project)
	if err := e.Connect(ctx); err != nil {
		return e.Explain(doing, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	stream := e.api.Events(ctx, client.EventsListOptions{
		Filters: make(client.Filters).Add("type", string(events.ContainerEventType)).Add("label", labelProject+"="+project).Add("event", telling()...),
	})
	// The client's goroutine closes Err when it has ended.
	defer func() {
		cancel()
		for range stream.Err {
		}
	}()
	open := time.NewTimer(opening)
	defer open.Stop()
	select {
	case <-open.C:
		changed()
	case err := <-stream.Err:
		return e.Explain(doing, err)
	}
	for {
		select {
		case <-stream.Messages:
			changed()
		case err := <-stream.Err:
			if errors.Is(err, io.EOF) {
				err = errors.New("the engine ended them")
			}
			return e.Explain(doing, err)
		}
	}
}
