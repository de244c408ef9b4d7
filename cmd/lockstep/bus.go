package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"

	"github.com/lockstep-fleet/lockstep/fleetfile"
	"github.com/lockstep-fleet/lockstep/kit/app"
	"github.com/lockstep-fleet/lockstep/kit/bus/natsbus"
	"github.com/lockstep-fleet/lockstep/kit/errs"
	"github.com/lockstep-fleet/lockstep/kit/obs"
	"github.com/lockstep-fleet/lockstep/kit/rtime"
)

// openBus opens the NATS servers that were named or starts the embedded one.
func (s *server) openBus(settings fleetfile.Bus, dir string, tel *obs.Telemetry) (*natsbus.Bus, app.Role, error) {
	role := app.Role{Name: "bus", Run: func(ctx context.Context) error { <-ctx.Done(); return nil }}
	options := natsbus.Options{
		URL: settings.URL, CredentialsFile: string(settings.CredentialsFile), Name: "lockstep", Log: s.log, Tracers: tel.Traces, Meters: tel.Meters,
	}
	if settings.URL == "" {
		nats, err := startNATS(dir, s.log)
		if err != nil {
			return nil, role, err
		}
		s.onClose(func() error { nats.Shutdown(); nats.WaitForShutdown(); return nil })
		options.InProcess = nats
		role.Run = func(ctx context.Context) error { return watchNATS(ctx, nats, dir) }
	}
	events, err := natsbus.Open(options)
	if err != nil {
		return nil, role, err
	}
	s.onClose(func() error { events.Close(); return nil })
	role.Check = func() error {
		if !events.Connected() {
			return errors.New("the connection to the bus is down")
		}
		return nil
	}
	return events, role, nil
}

// startNATS runs the message bus inside this process, with no listener. Every
// acknowledged message is on disk.
func startNATS(dir string, log *slog.Logger) (*natsserver.Server, error) {
	s, err := natsserver.NewServer(&natsserver.Options{
		ServerName: "lockstep",
		DontListen: true,
		JetStream:  true,
		StoreDir:   dir,
		SyncAlways: true,
		NoSigs:     true,
		// The reservation is not taken at once; it bounds what streams may ask for.
		JetStreamMaxStore:  64 << 30,
		JetStreamMaxMemory: 256 << 20,
		MaxPayload:         4 << 20,
	})
	if err != nil {
		return nil, errs.New(errs.Unavailable, "LS-BUS-020", "preparing the embedded bus in %s: %w", dir, err)
	}
	s.SetLoggerV2(natsLog{log.With("part", "bus")}, false, false, false)
	s.Start()
	if !s.ReadyForConnections(20 * time.Second) {
		s.Shutdown()
		return nil, errs.New(errs.Unavailable, "LS-BUS-020", "the embedded bus in %s was not ready within 20 s; the log says why", dir)
	}
	if !s.JetStreamEnabled() {
		s.Shutdown()
		return nil, errs.New(errs.Unavailable, "LS-BUS-020", "the embedded bus in %s runs without its file store; the log says why", dir)
	}
	return s, nil
}

// watchNATS returns when the bus has lost its file store, as it does when the disk
// is full or broken: nothing works without it, and only a restart mends it.
func watchNATS(ctx context.Context, s *natsserver.Server, dir string) error {
	for range rtime.Every(ctx, time.Second) {
		if !s.JetStreamEnabled() {
			return errs.New(errs.Exhausted, "LS-BUS-021", "the embedded bus gave up its file store in %s; check that the disk has room and works, then start again", dir)
		}
	}
	return nil
}

// natsLog passes on what calls for attention; the rest is for debugging.
type natsLog struct{ log *slog.Logger }

func say(log func(string, ...any), format string, args []any) {
	log("bus", "says", strings.TrimSpace(fmt.Sprintf(format, args...)))
}

func (l natsLog) Noticef(format string, args ...any) { say(l.log.Debug, format, args) }
func (l natsLog) Warnf(format string, args ...any)   { say(l.log.Warn, format, args) }
func (l natsLog) Fatalf(format string, args ...any)  { say(l.log.Error, format, args) }
func (l natsLog) Errorf(format string, args ...any)  { say(l.log.Error, format, args) }
func (l natsLog) Debugf(format string, args ...any)  { say(l.log.Debug, format, args) }
func (l natsLog) Tracef(format string, args ...any)  { say(l.log.Debug, format, args) }
