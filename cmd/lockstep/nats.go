package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
)

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
		return nil, fmt.Errorf("preparing the embedded bus in %s: %w", dir, err)
	}
	s.SetLoggerV2(natsLog{log.With("part", "bus")}, false, false, false)
	s.Start()
	if !s.ReadyForConnections(20 * time.Second) {
		s.Shutdown()
		return nil, fmt.Errorf("the embedded bus in %s was not ready within 20 s; the log says why", dir)
	}
	if !s.JetStreamEnabled() {
		s.Shutdown()
		return nil, errors.New("the embedded bus runs without its file store; the log says why")
	}
	return s, nil
}

// watchNATS returns when the bus has lost its file store, as it does when the disk
// is full or broken: nothing works without it, and only a restart mends it.
func watchNATS(ctx context.Context, s *natsserver.Server, dir string) error {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			if !s.JetStreamEnabled() {
				return fmt.Errorf("the embedded bus gave up its file store in %s; check that the disk has room and works, then start again", dir)
			}
		}
	}
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
