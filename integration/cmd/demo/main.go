// Command demo tells the product's main job on this machine for a person to
// watch: real containers, real sessions, a good release and a bad one.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/lockstep-fleet/lockstep/integration/story"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	binary := flag.String("binary", filepath.Join("bin", "lockstep"), "the lockstep binary to show")
	clusters := flag.String("clusters", "berlin,tokyo,austin", "names of the clusters, with commas")
	verbose := flag.Bool("v", false, "also show what the parts log")
	flag.Parse()
	dir, err := os.MkdirTemp("", "lockstep-demo-")
	if err != nil {
		return fmt.Errorf("make a folder for the demo: %w", err)
	}
	log := slog.New(slog.DiscardHandler)
	if *verbose {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	fmt.Printf("Everything of this demo is kept in %s; the server's own log is server.log there.\n\n", dir)
	figures, err := story.Tell(ctx, story.Options{
		Binary: *binary, Dir: dir, Clusters: strings.Split(*clusters, ","), Say: func(s string) { fmt.Println(s) }, Log: log,
	})
	if ctx.Err() != nil {
		return errors.Join(errors.New("stopped; what it had started is gone"), os.RemoveAll(dir))
	}
	if err != nil {
		return fmt.Errorf("%w\nwhat happened is in %s", err, dir)
	}
	fmt.Println()
	figures.Print(os.Stdout)
	return os.RemoveAll(dir)
}
