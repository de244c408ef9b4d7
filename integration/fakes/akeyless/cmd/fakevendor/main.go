// Command fakevendor plays the vendor for a lockstep server beside it: a few
// clusters with sessions that come and go, on loopback, until it is stopped.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"text/template"
	"time"

	"github.com/lockstep-fleet/lockstep/adapters/akeyless/akeylesstest"
	"github.com/lockstep-fleet/lockstep/integration/fakes/akeyless"
)

// section is what a fleet file needs of this vendor.
var section = template.Must(template.New("section").Parse(`vendor:
  url: {{.URL}}
  access_id: {{.AccessID}}
  access_key_file: {{.KeyFile}}
  poll_interval: 2s
  source_lag: 2s
# Give clusters these names, one each:
{{- range .Clusters}}
#   vendor_cluster: {{.Name}}
{{- end}}
#
# What goes wrong is switched by hand, as in
#   curl -X PUT {{.URL}}/lab/switches -d '{"down": true}'
`))

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "fakevendor:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) (err error) {
	flags := flag.NewFlagSet("fakevendor", flag.ContinueOnError)
	listen := flags.String("listen", "127.0.0.1:0", "the loopback address to answer on")
	clusters := flags.Int("clusters", 3, "how many clusters there are")
	bastions := flags.Int("bastions", 2, "how many bastions each has")
	rate := flags.Float64("rate", 2, "sessions started per second in each cluster")
	fail := flags.Float64("fail", 0.02, "share of sessions that fail, from 0 to 1")
	gateway := flags.String("gateway", "4.52.0", "the gateways' version")
	sra := flags.String("sra", "3.0.3", "the bastions' version")
	dialect := flags.String("dialect", string(akeylesstest.DialectSchema), "how bastions are worded: schema (as published, without versions) or instances (with)")
	seed := flags.Uint64("seed", 0, "makes the same sessions again; 0 takes one from the clock")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if d := akeylesstest.Dialect(*dialect); d != akeylesstest.DialectSchema && d != akeylesstest.DialectInstances {
		return fmt.Errorf("-dialect %q is neither %q nor %q", *dialect, akeylesstest.DialectSchema, akeylesstest.DialectInstances)
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", *listen)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", *listen, err)
	}
	server, err := akeylesstest.NewServer(akeylesstest.Options{Listener: listener, Dialect: akeylesstest.Dialect(*dialect)})
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	dir, err := os.MkdirTemp("", "fakevendor-")
	if err != nil {
		return fmt.Errorf("make a folder for the key: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	key := filepath.Join(dir, "vendor.key")
	if err := os.WriteFile(key, []byte(akeylesstest.AccessKey+"\n"), 0o600); err != nil {
		return fmt.Errorf("write the key: %w", err)
	}
	begin := time.Now()
	script := akeyless.Script{
		Seed: cmp.Or(*seed, uint64(begin.UnixNano())), Begin: begin,
		Clusters: akeyless.Uniform(*clusters, *bastions, akeyless.Pair{Gateway: *gateway, SRA: *sra}),
		Traffic:  akeyless.Traffic{Rate: *rate, Duration: time.Minute, Terminated: 0.05},
		Ordinary: akeyless.Failing{Rate: *fail},
	}
	fleet, err := akeyless.New(server, script)
	if err != nil {
		return err
	}
	if err := section.Execute(out, map[string]any{
		"URL": server.URL(), "AccessID": akeylesstest.AccessID, "KeyFile": key, "Clusters": script.Clusters,
	}); err != nil {
		return fmt.Errorf("print the section of the fleet file: %w", err)
	}
	return fleet.Run(ctx, 200*time.Millisecond, time.Now)
}
