package obs

import (
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/go-logr/logr"
)

// complainEvery is how often a complaint of OpenTelemetry is worth a line: a
// collector that is down fails every few seconds, and the work does not depend on
// it.
const complainEvery = time.Minute

// complaints takes OpenTelemetry's errors, which come again and again.
type complaints struct {
	log *slog.Logger

	mu   sync.Mutex
	last time.Time
	held int
}

// Handle logs an error, or only counts it when another was logged just before.
func (c *complaints) Handle(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if !c.last.IsZero() && now.Sub(c.last) < complainEvery {
		c.held++
		c.log.Debug("telemetry is in trouble again", "error", err)
		return
	}
	c.log.Warn("telemetry is in trouble; the work goes on, and this is told once a minute at most", "error", err, "untold", c.held)
	c.last, c.held = now, 0
}

// warnings takes OpenTelemetry's own log, which speaks when something is set up
// wrong; its chatter is left out.
type warnings struct{ log *slog.Logger }

func (warnings) Init(logr.RuntimeInfo) {}

// Enabled lets through what OpenTelemetry calls a warning.
func (warnings) Enabled(level int) bool { return level <= 1 }

func (w warnings) Info(_ int, text string, about ...any) {
	w.log.Warn("OpenTelemetry warns", "says", text, "about", fmt.Sprint(about...))
}

// Error leaves out what it is about: that may be a header with a password in it.
func (w warnings) Error(err error, text string, _ ...any) {
	w.log.Error("OpenTelemetry cannot follow a setting; it goes on without it", "error", fmt.Errorf("%s: %w", text, err))
}

func (w warnings) WithValues(...any) logr.LogSink { return w }
func (w warnings) WithName(string) logr.LogSink   { return w }
