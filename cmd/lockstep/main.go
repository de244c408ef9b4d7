// Command lockstep is the one binary people install: the server, the command
// line and the engine child. main parses, wires and returns the error; wire.go
// is the only file that knows which parts run together.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"go.opentelemetry.io/otel"

	"github.com/lockstep-fleet/lockstep/adapters/chdb"
	"github.com/lockstep-fleet/lockstep/cmd/lockstep/internal/cli"
	"github.com/lockstep-fleet/lockstep/kit/obs"
	"github.com/lockstep-fleet/lockstep/topology"
)

// version and commit are set by the linker.
var (
	version = "dev"
	commit  string
)

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// Once the first signal has arrived, the next one kills.
	context.AfterFunc(ctx, cancel)
	command := cli.New(cli.Options{
		Server:       serve,
		Migrate:      migrate,
		Topology:     listTopology,
		Doctor:       diagnose,
		Look:         lookOnce,
		ReadReleases: readReleases,
		Extra:        []*cobra.Command{engineCommand()},
		Version:      buildVersion(),
	})
	err := command.ExecuteContext(ctx)
	cancel()
	os.Exit(cli.ExitCode(err))
}

func listTopology() []cli.TopologyEntry {
	var out []cli.TopologyEntry
	for _, e := range topology.Entries() {
		out = append(out, cli.TopologyEntry{Kind: e.Kind, Name: e.Name, Detail: e.Detail, Owner: e.Owner, Retention: e.Retention})
	}
	return out
}

// engineCommand runs the embedded ClickHouse engine in a child of the server.
func engineCommand() *cobra.Command {
	return &cobra.Command{
		Use: engineCommandName, Hidden: true, DisableFlagParsing: true, SilenceUsage: true,
		Short: "Run the embedded engine for a parent process",
		RunE: func(cmd *cobra.Command, args []string) error {
			return chdb.Child(cmd.Context(), args, slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{ReplaceAttr: withoutTime})))
		},
	}
}

// withoutTime leaves the time to the parent, which logs what the child says.
func withoutTime(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}

const engineCommandName = "engine"

func buildVersion() cli.Version {
	v := cli.Version{Version: version, Commit: commit}
	if info, ok := debug.ReadBuildInfo(); ok {
		v.Go = info.GoVersion
	}
	return v
}

// serve runs the server until ctx ends.
func serve(ctx context.Context, opts cli.ServerOptions) error {
	began := time.Now()
	tel, err := obs.Start(ctx, obs.Options{
		Service: "lockstep", Version: version, Level: opts.Config.Log.Level, Format: opts.Config.Log.Format, Out: os.Stderr,
		Globals: func(h otel.ErrorHandler, l logr.Logger) { otel.SetErrorHandler(h); otel.SetLogger(l) },
	})
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushLimit)
		defer cancel()
		if err := tel.Shutdown(ctx); err != nil {
			tel.Log.Warn("what was traced or counted last is lost", "error", err)
		}
	}()
	server, err := wire(ctx, opts, tel, began)
	if err != nil && ctx.Err() != nil {
		tel.Log.Info("asked to stop while starting", "id", "LS-SRV-007", "error", err)
		return nil
	}
	if err != nil {
		return fmt.Errorf("starting the server: %w", err)
	}
	return server.Run(ctx)
}

// flushLimit bounds how long the end of a server waits for a collector of
// telemetry.
const flushLimit = 5 * time.Second
