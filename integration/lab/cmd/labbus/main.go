// Command labbus is a NATS server with JetStream as an installation would run one
// beside Lockstep: in a process of its own that can be killed and started again on
// its folder and port. Every message is on disk before it is acknowledged.
//
//	labbus -dir DIR -listen 127.0.0.1:PORT
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
)

// patience is how long the server may take to read what is on its disk.
const patience = 30 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "labbus:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("labbus", flag.ContinueOnError)
	dir := flags.String("dir", "", "where messages are kept")
	listen := flags.String("listen", "", "the loopback address to listen on")
	if err := flags.Parse(args); err != nil {
		return err
	}
	host, text, err := net.SplitHostPort(*listen)
	if err != nil {
		return fmt.Errorf("-listen %q: %w", *listen, err)
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return fmt.Errorf("-listen %q is not a loopback address; anyone who reaches it could write to the bus", *listen)
	}
	port, err := strconv.Atoi(text)
	if err != nil || port < 1 || *dir == "" {
		return errors.New("-dir and a port in -listen are needed: who comes back has to be found again")
	}
	server, err := natsserver.NewServer(&natsserver.Options{
		ServerName: "labbus", Host: host, Port: port, NoSigs: true,
		JetStream: true, StoreDir: *dir, SyncAlways: true, MaxPayload: 4 << 20,
		JetStreamMaxStore: 64 << 30, JetStreamMaxMemory: 256 << 20,
	})
	if err != nil {
		return fmt.Errorf("prepare a bus in %s: %w", *dir, err)
	}
	server.ConfigureLogger()
	server.Start()
	if !server.ReadyForConnections(patience) {
		return fmt.Errorf("the bus in %s was not ready within %s", *dir, patience)
	}
	<-ctx.Done()
	server.Shutdown()
	server.WaitForShutdown()
	return nil
}
