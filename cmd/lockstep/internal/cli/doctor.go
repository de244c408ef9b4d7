package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lockstep-fleet/lockstep/fleetfile"
)

// DoctorOptions is what the doctor command hands over.
type DoctorOptions struct {
	// ServerOptions are what the server would get. Config is not accepted where
	// Problem says so, and holds nothing where Unread does.
	ServerOptions
	Problem error
	Unread  bool
	// Environ is the environment as os.Environ gives it.
	Environ []string
}

// What comes out of a check.
const (
	CheckOK   = "ok"
	CheckWarn = "warn" // works, and will surprise someone
	CheckFail = "fail" // does not work
	CheckSkip = "skip" // there is nothing to look at
)

// Check is one thing looked at.
type Check struct {
	Name   string `json:"check"`
	Status string `json:"status"`
	Detail string `json:"detail"` // what was found
	Todo   string `json:"todo"`   // what to do; empty when nothing
	ID     string `json:"id"`     // in the catalogue; empty when the error has none
}

func (s *shell) doctorCommand() *cobra.Command {
	var v settings
	var out string
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Say what is missing, and how to get it",
		Long: `Look at everything a server needs on this machine and say what is missing and how
to get it: the configuration, the data folder, the engine, the addresses, NATS and
ClickHouse servers, Docker Engines with their Compose files, the vendor's API, the
webhooks. Nothing is changed and nothing is sent to anyone; each check takes at most
five seconds. A check that fails exits with 1; a warning does not.

Use it before the first start, after a move, and first of all when something does
not work. Run it as the server's user, with its environment and flags.`,
		Example: `  lockstep doctor
  sudo -u lockstep lockstep doctor --config /etc/lockstep/fleet.yaml
  lockstep doctor -o json | jq '.[] | select(.status != "ok")'`,
		Args: exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			checks := s.Doctor(c.Context(), s.patient(&v))
			if err := s.printChecks(checks, out); err != nil {
				return err
			}
			if n := failing(checks); n > 0 {
				return fmt.Errorf("%d of %s failed", n, count(int64(len(checks)), "check"))
			}
			return nil
		},
	}
	s.configFlag(c)
	v.flags(c)
	outputFlag(c, &out, "table", "wide", "json", "yaml")
	return c
}

func failing(checks []Check) int {
	n := 0
	for _, c := range checks {
		if c.Status == CheckFail {
			n++
		}
	}
	return n
}

// patient reads the configuration as far as it can be read.
func (s *shell) patient(v *settings) DoctorOptions {
	o := DoctorOptions{Environ: s.Environ()}
	var file fleetfile.File
	path, err := fleetfile.Find(s.conn.config, s.Env)
	if err == nil {
		file, err = fleetfile.Read(path, s.Env, v.given()...)
	}
	o.ConfigPath, o.Config = path, file
	if err != nil {
		o.Problem, o.Unread = err, true
		return o
	}
	if _, err := fleetfile.Load(path, s.Env, v.given()...); err != nil {
		o.Problem = err
		return o
	}
	o.ClickHouse, o.Problem = s.dsn(v, file)
	return o
}

func (s *shell) printChecks(checks []Check, out string) error {
	switch out {
	case "json", "yaml":
		return rows(s, checks, out)
	case "wide":
		t := &table{header: []string{"CHECK", "STATUS", "DETAIL", "WHAT TO DO", "ID"}}
		for _, c := range checks {
			t.add(c.Name, c.Status, c.Detail, c.Todo, c.ID)
		}
		return s.print(t.render(s.colour))
	}
	t := &table{header: []string{"CHECK", "STATUS", "DETAIL"}}
	for _, c := range checks {
		t.add(c.Name, c.Status, c.Detail)
	}
	var b strings.Builder
	b.WriteString(t.render(s.colour))
	todo := slices.DeleteFunc(slices.Clone(checks), func(c Check) bool { return c.Todo == "" })
	if len(todo) > 0 {
		b.WriteString("\nWhat to do:\n")
	}
	for _, c := range todo {
		fmt.Fprintf(&b, "  %s: %s", clean(c.Name), clean(c.Todo))
		if c.ID != "" {
			fmt.Fprintf(&b, " (lockstep explain %s)", clean(c.ID))
		}
		b.WriteByte('\n')
	}
	return s.print(b.String())
}
