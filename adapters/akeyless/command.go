package akeyless

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	largestComplaint = 16 << 10 // of stderr, which is cut
	// commandGrace is how long output is waited for after a command has ended or
	// was stopped: what it started may hold the pipes open.
	commandGrace = time.Second
)

// run has the vendor's command line make a call: COMMAND CALL FLAGS --json, which
// prints what the API answers. It is run once: whether another try helps, the
// command itself knows best.
func (c *Client) run(caller context.Context, q query, decode func(io.Reader) error) error {
	name := c.command[0] + " " + q.call // no argument of the command: one may be a secret
	fail := func(kind Kind, status int, detail string, cause error) *Error {
		if q.confidential {
			detail = withheld
		}
		return &Error{Kind: kind, Call: q.call, Address: name, Status: status, Detail: c.clean(detail, ""), cause: cause}
	}
	ctx, cancel := context.WithTimeout(caller, c.timeout)
	defer cancel()
	args := slices.Concat(c.command[1:], []string{q.call}, q.flags, []string{"--json"})
	command := exec.CommandContext(ctx, c.command[0], args...)
	complaint := &head{left: largestComplaint}
	command.Stderr = complaint
	// A command may be a script: what it started ends with it.
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	command.Cancel = func() error { return syscall.Kill(-command.Process.Pid, syscall.SIGKILL) }
	command.WaitDelay = commandGrace
	stdout, err := command.StdoutPipe()
	if err != nil {
		return fmt.Errorf("run %s: %w", name, err)
	}
	if err := command.Start(); err != nil {
		return fail(KindNoCommand, 0, err.Error(), err)
	}
	// The pipe is closed at the end of the time even when something else that the
	// command started keeps it open.
	stop := context.AfterFunc(ctx, func() { _ = stdout.Close() })
	defer stop()
	limit := c.maxResponse
	if q.streamed {
		limit *= streamFactor
	}
	output := &bounded{from: stdout, left: limit}
	unread := decode(output)
	if !errors.Is(unread, errTooLarge) {
		// What follows an answer that cannot be read is let go, so that the command
		// can end by itself and say what was wrong.
		if _, err := io.Copy(io.Discard, output); errors.Is(err, errTooLarge) {
			unread = err
		}
	}
	if errors.Is(unread, errTooLarge) {
		cancel() // it would wait for a reader for ever
	}
	ended := command.Wait()
	var exit *exec.ExitError
	switch {
	case caller.Err() != nil:
		return fmt.Errorf("run %s: %w", name, context.Cause(caller))
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fail(KindCommand, -1, fmt.Sprintf("no result within %s", c.timeout), context.DeadlineExceeded)
	case errors.Is(unread, errTooLarge):
		return fail(KindTooLarge, 0, fmt.Sprintf("more than %d bytes, or one piece of it more than %d", limit, largestPiece), nil)
	case errors.As(ended, &exit):
		said := complaint.String()
		if exit.ExitCode() < 0 {
			said = exit.String() + ": " + said // which signal ended it
		}
		return fail(KindCommand, exit.ExitCode(), said, nil)
	case unread != nil:
		return fail(KindMalformed, 0, unread.Error(), nil)
	case ended != nil:
		return fail(KindCommand, -1, ended.Error(), nil)
	}
	return nil
}

// secretArguments are those arguments of a command, and values of its flags, that
// are long enough to be secrets: what it complains of must not repeat them.
func secretArguments(arguments []string) []Secret {
	const shortest = 9
	var secrets []Secret
	for _, argument := range arguments {
		_, value, _ := strings.Cut(argument, "=")
		for _, word := range []string{argument, value} {
			if len(word) >= shortest {
				secrets = append(secrets, Secret(word))
			}
		}
	}
	return secrets
}

// head keeps the first bytes written to it and lets the rest go.
type head struct {
	bytes.Buffer
	left int
}

func (h *head) Write(p []byte) (int, error) {
	kept := p[:min(len(p), h.left)]
	h.left -= len(kept)
	_, _ = h.Buffer.Write(kept) // a buffer takes everything
	return len(p), nil
}
