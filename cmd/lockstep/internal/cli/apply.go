package cli

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lockstep-fleet/lockstep/kit/rpc"
	fleetv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/fleet/v1"
)

func (s *shell) applyCommand() *cobra.Command {
	var out, path, reason string
	var dryRun, exitCode, prune bool
	var ask consent
	c := &cobra.Command{
		Use:   "apply -f FILE",
		Short: "Make the fleet as a document declares it",
		Long: `Make the fleet as a document in the shape of fleet.yaml declares it: clusters with
labels, targets, assigned releases and windows, sets of images, and drift limits.
What the document does not mention stays, unless --prune is given; its other
sections are the server's own and are passed over.

What would change is shown first, and it asks. With --dry-run that is all, and
--exit-code then leaves with 3 when something would change.

Use it with the file that you keep in Git; 'lockstep export' writes one to begin with.`,
		Example: `  lockstep apply -f fleet.yaml --dry-run
  lockstep apply -f fleet.yaml --reason "paris is new" --yes
  lockstep export | sed s/4.52.0/4.53.0/ | lockstep apply -f - --yes`,
		Args: exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			switch {
			case path == "":
				return usage("say which document: -f FILE, or -f - for standard input")
			case exitCode && !dryRun:
				return usage("--exit-code tells what --dry-run finds; give both")
			case !dryRun && path == "-" && !ask.yes:
				return usage("standard input holds the document, so nothing can be asked there; give --yes to go on, or --dry-run")
			}
			if !dryRun {
				if err := ask.check(); err != nil {
					return err
				}
			}
			document, err := s.readDocument(path)
			if err != nil {
				return err
			}
			cl, err := s.dial()
			if err != nil {
				return err
			}
			defer cl.close()
			req := &fleetv1.ApplyFleetRequest{Document: document, DryRun: true, Prune: prune, Reason: reason}
			would, err := cl.fleet.ApplyFleet(c.Context(), req)
			if err != nil {
				return cl.failed("apply "+path, err)
			}
			if len(would.GetPassedOver()) > 0 {
				s.talk("Passed over, as they are the server's own: %s.", clean(strings.Join(would.GetPassedOver(), ", ")))
			}
			n := len(changing(would))
			if dryRun {
				err := s.printApplied(would, out, func() error { return s.print(changesText(would, s.colour)) })
				if err == nil && exitCode && n > 0 {
					return &exit{codeHeld, fmt.Sprintf("%s would be made", count(int64(n), "change"))}
				}
				return err
			}
			s.talk("%s", strings.TrimSuffix(changesText(would, colourful(s.Err, s.Env)), "\n"))
			if n == 0 {
				return s.printApplied(would, out, func() error { return nil })
			}
			if err := s.confirm(ask, fmt.Sprintf("Make %s?", cmp.Or(map[int]string{1: "this change"}[n], fmt.Sprintf("these %d changes", n)))); err != nil {
				return err
			}
			req.DryRun = false
			done, err := cl.fleet.ApplyFleet(c.Context(), req)
			if err != nil {
				return cl.failed("apply "+path, err)
			}
			return s.printApplied(done, out, func() error {
				var b strings.Builder
				for _, change := range changing(done) {
					fmt.Fprintf(&b, "%s %s\n", changeName(change), clean(change.GetAction()))
				}
				return s.print(b.String())
			})
		},
	}
	s.connectionFlags(c)
	c.Flags().StringVarP(&path, "file", "f", "", "`file` that holds the document, or - for standard input (required)")
	c.Flags().BoolVar(&dryRun, "dry-run", false, "say what would change and change nothing")
	c.Flags().BoolVar(&exitCode, "exit-code", false, "with --dry-run: leave with exit code 3 when something would change")
	c.Flags().BoolVar(&prune, "prune", false, "remove clusters that were applied before and that the document lacks")
	c.Flags().StringVar(&reason, "reason", "", "why, in a `sentence`")
	ask.flags(c)
	outputFlag(c, &out, "table", "json", "yaml", "name")
	return c
}

// readDocument reads a file, or standard input. It reads no more than one message
// to the server can hold.
func (s *shell) readDocument(path string) (string, error) {
	from := s.In
	if path != "-" {
		file, err := os.Open(path)
		if err != nil {
			return "", &callError{clean("read the document: " + err.Error()), err}
		}
		defer func() {
			_ = file.Close() // it was only read
		}()
		from = file
	}
	text, err := io.ReadAll(io.LimitReader(from, mostSent+1))
	switch {
	case err != nil:
		return "", fmt.Errorf("read the document: %w", err)
	case len(text) > mostSent:
		return "", fmt.Errorf("read the document: %s is larger than one request may be, about %d MiB; cut it in several, and apply them without --prune", clean(path), rpc.MaxMessage>>20)
	case strings.TrimSpace(string(text)) == "":
		return "", fmt.Errorf("read the document: %s is empty; `lockstep export` writes one to begin with", clean(path))
	}
	return string(text), nil
}

// changing lists what does not stay as it is.
func changing(res *fleetv1.ApplyFleetResponse) []*fleetv1.FleetChange {
	var list []*fleetv1.FleetChange
	for _, c := range res.GetChanges() {
		if c.GetAction() != "unchanged" {
			list = append(list, c)
		}
	}
	return list
}

// changeName is what a change is of: cluster/berlin, release/4.52.0 or drift.
func changeName(c *fleetv1.FleetChange) string {
	return strings.TrimSuffix(clean(c.GetKind())+"/"+clean(c.GetId()), "/")
}

// changesText is what would change, line by line.
func changesText(res *fleetv1.ApplyFleetResponse, colour bool) string {
	var b strings.Builder
	list := changing(res)
	for _, c := range list {
		action := clean(c.GetAction())
		fmt.Fprintf(&b, "%s %s\n", changeName(c), tint(action, map[string]string{"created": green, "updated": yellow, "removed": red}[action], colour))
		for _, line := range c.GetLines() {
			code := ""
			switch {
			case strings.HasPrefix(line, "+"):
				code = green
			case strings.HasPrefix(line, "-"):
				code = red
			}
			b.WriteString("  " + tint(clean(line), code, colour) + "\n")
		}
	}
	if same := len(res.GetChanges()) - len(list); same > 0 || len(list) == 0 {
		fmt.Fprintf(&b, "%d unchanged\n", same)
	}
	return b.String()
}

// printApplied prints what changed, or would; people is how it is shown to them.
func (s *shell) printApplied(res *fleetv1.ApplyFleetResponse, out string, people func() error) error {
	switch out {
	case "json", "yaml":
		return s.object(res, out)
	case "name":
		var b strings.Builder
		for _, c := range changing(res) {
			b.WriteString(changeName(c) + "\n")
		}
		return s.print(b.String())
	}
	return people()
}

func (s *shell) exportCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "export",
		Short: "Print a document that declares the fleet as it is now",
		Long: `Print a document that declares the fleet as it is now, in the shape of fleet.yaml:
releases that are sets of images, clusters and drift limits. Applying it changes
nothing.

Use it to begin to keep the fleet in Git, and to see what the server goes by.`,
		Example: `  lockstep export > fleet.yaml
  lockstep export | diff - fleet.yaml`,
		Args: exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			cl, err := s.dial()
			if err != nil {
				return err
			}
			defer cl.close()
			res, err := cl.fleet.ExportFleet(c.Context(), &fleetv1.ExportFleetRequest{})
			if err != nil {
				return cl.failed("export the fleet", err)
			}
			if res.GetDocument() == "" {
				return errors.New("export the fleet: the server sent an empty document; its log may say why")
			}
			return s.print(res.GetDocument())
		},
	}
	s.connectionFlags(c)
	return c
}
