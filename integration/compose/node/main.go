// Command node is the program inside the images these tests deploy: it answers
// /health on port 8080 as MODE says (good, sick, or crash: end at once), and
// with the argument "health" asks that endpoint, for use as a health check.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	if err := run(os.Args[1:], os.Getenv("MODE"), os.Getenv("LABEL")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string, mode, label string) error {
	if len(args) == 1 && args[0] == "health" {
		return ask()
	}
	fmt.Printf("node %s starts in mode %s\n", label, mode)
	if mode == "crash" {
		return errors.New("node " + label + " cannot read its licence")
	}
	// A process with id 1 has no default signal handlers: without this, every
	// stop would take the engine's ten seconds.
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	mux := http.NewServeMux()
	mux.HandleFunc("/health", func(w http.ResponseWriter, _ *http.Request) {
		if mode == "sick" {
			fmt.Printf("node %s: no route to the vault\n", label)
			http.Error(w, "sick", http.StatusServiceUnavailable)
		}
	})
	server := &http.Server{Addr: ":8080", Handler: mux, ReadHeaderTimeout: time.Second}
	ended := make(chan error, 1)
	go func() { ended <- server.ListenAndServe() }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return server.Close()
	}
}

func ask() error {
	client := http.Client{Timeout: time.Second}
	answer, err := client.Get("http://127.0.0.1:8080/health")
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("health answers %s", answer.Status)
	}
	return nil
}
