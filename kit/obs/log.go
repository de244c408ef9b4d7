package obs

import (
	"context"
	"log/slog"

	"go.opentelemetry.io/otel/trace"
)

func newLogger(opts Options) (*slog.Logger, error) {
	level, known := map[string]slog.Level{
		"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError,
	}[opts.Level]
	if !known {
		return nil, wrong("the log level is %q; choose debug, info, warn or error", opts.Level)
	}
	switch handler := (&slog.HandlerOptions{Level: level}); opts.Format {
	case "text":
		return slog.New(traced{slog.NewTextHandler(opts.Out, handler)}), nil
	case "json":
		return slog.New(traced{slog.NewJSONHandler(opts.Out, handler)}), nil
	default:
		return nil, wrong("the log format is %q; choose text or json", opts.Format)
	}
}

// traced adds to a record which span it was written in.
type traced struct{ slog.Handler }

func (h traced) Handle(ctx context.Context, r slog.Record) error {
	if span := trace.SpanContextFromContext(ctx); span.IsValid() {
		r.AddAttrs(slog.String("trace_id", span.TraceID().String()), slog.String("span_id", span.SpanID().String()))
	}
	return h.Handler.Handle(ctx, r)
}

func (h traced) WithAttrs(attrs []slog.Attr) slog.Handler { return traced{h.Handler.WithAttrs(attrs)} }
func (h traced) WithGroup(name string) slog.Handler       { return traced{h.Handler.WithGroup(name)} }
