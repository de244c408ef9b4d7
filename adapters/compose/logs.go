package compose

import (
	"io"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
)

// RedirectLogs sends what the Compose library and the docker command's library
// log through their process-wide logger (logrus) to logger, and nowhere else.
// It changes state of the process, so it belongs into main and is called once,
// before anything else of this package.
func RedirectLogs(logger *slog.Logger) {
	logrus.SetOutput(io.Discard)
	logrus.SetFormatter(&logrus.TextFormatter{DisableColors: true})
	logrus.AddHook(&hook{log: logger, said: make(map[string]time.Time)})
}

// again is how long a message that was logged is not worth saying again: Compose
// has the same to say of a project's files each time they are read.
const again = time.Hour

// hook passes on what is logged. Repeats go to the debug level.
type hook struct {
	log  *slog.Logger
	mu   sync.Mutex
	said map[string]time.Time
}

func (*hook) Levels() []logrus.Level { return logrus.AllLevels }

// repeats tells whether a message was logged a short while ago, and notes it.
func (h *hook) repeats(message string, at time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	last, said := h.said[message]
	if said && at.Sub(last) < again {
		return true
	}
	maps.DeleteFunc(h.said, func(_ string, last time.Time) bool { return at.Sub(last) >= again })
	h.said[message] = at
	return false
}

func (h *hook) Fire(entry *logrus.Entry) error {
	level := slog.LevelDebug
	switch {
	case entry.Level <= logrus.ErrorLevel:
		level = slog.LevelError
	case entry.Level == logrus.WarnLevel:
		level = slog.LevelWarn
	case entry.Level == logrus.InfoLevel:
		level = slog.LevelInfo
	}
	if level > slog.LevelDebug && h.repeats(entry.Message, entry.Time) {
		level = slog.LevelDebug
	}
	h.log.Log(entry.Context, level, "compose", "says", entry.Message)
	return nil
}
