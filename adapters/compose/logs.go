package compose

import (
	"io"
	"log/slog"

	"github.com/sirupsen/logrus"
)

// RedirectLogs sends what the Compose library and the docker command's library
// log through their process-wide logger (logrus) to logger, and nowhere else.
// It changes state of the process, so it belongs into main and is called once,
// before anything else of this package.
func RedirectLogs(logger *slog.Logger) {
	logrus.SetOutput(io.Discard)
	logrus.SetFormatter(&logrus.TextFormatter{DisableColors: true})
	logrus.AddHook(hook{logger})
}

type hook struct{ log *slog.Logger }

func (hook) Levels() []logrus.Level { return logrus.AllLevels }

func (h hook) Fire(entry *logrus.Entry) error {
	level := slog.LevelDebug
	switch {
	case entry.Level <= logrus.ErrorLevel:
		level = slog.LevelError
	case entry.Level == logrus.WarnLevel:
		level = slog.LevelWarn
	case entry.Level == logrus.InfoLevel:
		level = slog.LevelInfo
	}
	h.log.Log(entry.Context, level, "compose", "says", entry.Message)
	return nil
}
