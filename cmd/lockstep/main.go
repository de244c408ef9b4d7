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

	"github.com/spf13/cobra"

	"github.com/lockstep-fleet/lockstep/adapters/chdb"
	"github.com/lockstep-fleet/lockstep/cmd/lockstep/internal/cli"
)

// version is set by the linker.
var version = "dev"

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// Once the first signal has arrived, the next one kills.
	context.AfterFunc(ctx, cancel)
	command := cli.New(cli.Options{
		Server:  serve,
		Extra:   []*cobra.Command{engineCommand()},
		Version: buildVersion(),
	})
	err := command.ExecuteContext(ctx)
	cancel()
	os.Exit(cli.ExitCode(err))
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
	v := cli.Version{Version: version}
	if info, ok := debug.ReadBuildInfo(); ok {
		v.Go = info.GoVersion
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				v.Commit = s.Value
			}
		}
	}
	return v
}

// serve runs the server and says where it is.
func serve(ctx context.Context, opts cli.ServerOptions) error {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	server, err := wire(ctx, opts, log)
	if err != nil {
		return fmt.Errorf("starting the server: %w", err)
	}
	return server.Run(ctx)
}
