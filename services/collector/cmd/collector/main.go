// Command collector looks at the clusters of a configuration and hands in what it
// sees to NATS servers elsewhere, and does nothing else: no store, no API, no
// rollouts. It runs beside clusters that the server cannot reach, and opens no
// port but the one for health and metrics.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/lockstep-fleet/lockstep/adapters/compose"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/fleetfile"
	"github.com/lockstep-fleet/lockstep/kit/app"
	"github.com/lockstep-fleet/lockstep/kit/bus/natsbus"
	"github.com/lockstep-fleet/lockstep/kit/errs"
	"github.com/lockstep-fleet/lockstep/kit/obs"
	"github.com/lockstep-fleet/lockstep/kit/rpc"
	"github.com/lockstep-fleet/lockstep/services/collector"
	"github.com/lockstep-fleet/lockstep/sources"
)

// version is set by the build.
var version = "dev"

const (
	// drain bounds how long all has to stop.
	drain = 15 * time.Second
	// flush bounds the wait for whoever takes telemetry.
	flush = 5 * time.Second
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal kills
	err := run(ctx, os.Args[1:], os.Getenv, os.Stderr)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errUsage):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "collector:", err)
		os.Exit(1)
	}
}

// errUsage says that the command line was not understood, which has been told.
var errUsage = errors.New("usage")

// run collects until ctx ends.
func run(ctx context.Context, args []string, env func(string) string, out io.Writer) (err error) {
	flags := flag.NewFlagSet("collector", flag.ContinueOnError)
	flags.SetOutput(out)
	named := flags.String("config", "", "configuration `file` (default LOCKSTEP_CONFIG, ./fleet.yaml, $XDG_CONFIG_HOME/lockstep/fleet.yaml, /etc/lockstep/fleet.yaml)")
	show := flags.Bool("version", false, "print the version")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return errUsage
	}
	if *show {
		_, err := fmt.Fprintln(out, "collector", version)
		return err
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(out, "collector takes no argument, got %s\n", flags.Arg(0))
		return errUsage
	}
	path, err := fleetfile.Find(*named, env)
	if err != nil {
		return err
	}
	file, err := fleetfile.Load(path, env)
	if err != nil {
		return err
	}
	if file.Bus.URL == "" {
		return errs.New(errs.Invalid, "LS-COL-020", "a collector by itself hands in to NATS servers elsewhere, and bus.url is empty; set it to the server's, or run `lockstep server`, which collects by itself")
	}
	tel, err := obs.Start(ctx, obs.Options{Service: "lockstep-collector", Version: version, Level: file.Log.Level, Format: file.Log.Format, Out: out})
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flush)
		defer cancel()
		err = errors.Join(err, tel.Shutdown(ctx))
	}()
	return collect(ctx, file, tel)
}

// collect wires the one service and runs it.
func collect(ctx context.Context, file fleetfile.File, tel *obs.Telemetry) (err error) {
	compose.RedirectLogs(tel.Log.With("part", "compose"))
	looks, err := sources.Open(file, tel.Log, time.Now)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, looks.Close()) }()
	spool, err := collector.OpenSpool(file.Spool(), int64(file.Collector.SpoolMB)<<20)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, spool.Close()) }()
	events, err := natsbus.Open(natsbus.Options{
		URL: file.Bus.URL, CredentialsFile: string(file.Bus.CredentialsFile), Name: "lockstep-collector-" + file.Collector.ID, Patient: true,
		Log: tel.Log, Tracers: tel.Traces, Meters: tel.Meters,
	})
	if err != nil {
		return err
	}
	defer events.Close()
	counts, err := collector.NewMeter(tel.Meters)
	if err != nil {
		return err
	}
	service := collector.New(
		collector.Config{Tenant: fleet.DefaultTenant, ID: file.Collector.ID, FullEvery: file.Collector.FullEvery}, looks.Schedules(),
		collector.Deps{Bus: events, Spool: spool, Log: tel.Log, Meter: counts, Now: time.Now, Chance: rand.Float64})
	roles := []app.Role{{Name: "collector", Run: service.Run}, {Name: "bus", Run: wait, Check: func() error {
		if !events.Connected() {
			return errors.New("the connection to the bus is down; what is seen waits in the spool")
		}
		return nil
	}}}
	var all *app.App // made of the roles, one of which serves what it knows
	if address := file.Server.AdminListen; address != fleetfile.Off {
		listener, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
		if err != nil {
			return errs.New(errs.Conflict, "LS-SRV-003", "listening on %s: %w; choose another address as server.admin_listen, or off", address, err)
		}
		mux := http.NewServeMux()
		mux.Handle("GET /metrics", tel.MetricsHandler())
		health(mux, func() ([]app.State, bool) { return all.Readiness() })
		roles = append(roles, app.Role{Name: "admin", Run: func(ctx context.Context) error {
			return rpc.Serve(ctx, listener, mux, flush, tel.Log)
		}})
	}
	tel.Log.Info("collecting", "version", version, "collector", file.Collector.ID, "clusters", len(file.Clusters), "spool", file.Spool())
	all = app.New(tel.Log, drain, roles...)
	return all.Run(ctx)
}

// health serves what machines ask of a process.
func health(mux *http.ServeMux, readiness func() ([]app.State, bool)) {
	ok := func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") }
	mux.HandleFunc("GET /livez", ok)
	mux.HandleFunc("GET /healthz", ok)
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) {
		states, ready := readiness()
		if !ready {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		for _, state := range states {
			switch {
			case !state.Ready:
				fmt.Fprintf(w, "[-]%s: %s\n", state.Name, cmp.Or(state.Reason, "not ready"))
			case r.URL.Query().Has("verbose"):
				fmt.Fprintf(w, "[+]%s\n", state.Name)
			}
		}
		if ready {
			fmt.Fprintln(w, "ok")
		}
	})
}

// wait is the life of what needs nothing done.
func wait(ctx context.Context) error { <-ctx.Done(); return nil }
