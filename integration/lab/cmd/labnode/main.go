// Command labnode is the one program inside the lab's images. It plays a
// Gateway, an SSH bastion or a web bastion (package node):
//
//	labnode [ROLE]          serve as ROLE until SIGTERM
//	labnode health [ROLE]   exit 0 when the node of that role here is up
//
// Without ROLE it takes LAB_ROLE.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/lockstep-fleet/lockstep/integration/lab/node"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "labnode:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	health := len(args) > 0 && args[0] == "health"
	if health {
		args = args[1:]
	}
	var role node.Role
	if len(args) > 0 {
		role = node.Role(args[0])
	}
	config, err := node.FromEnv(role, os.Getenv, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err != nil {
		return err
	}
	if health {
		return node.CheckHealth(ctx, config.Role)
	}
	n, err := node.Listen(config)
	if err != nil {
		return err
	}
	return n.Serve(ctx)
}
