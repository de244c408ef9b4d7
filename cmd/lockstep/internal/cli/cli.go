// Package cli owns the lockstep command line: its commands, what they print,
// and its exit codes. It reaches a server over Connect only and holds no rule
// about rollouts or gates; what runs a server is handed in.
package cli

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/lockstep-fleet/lockstep/fleetfile"
	"github.com/lockstep-fleet/lockstep/kit/config"
	catalogv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/catalog/v1"
)

// Options is what the command line is built from. The functions are what the
// commands of their name need of the rest of the program.
type Options struct {
	// Server runs the server until the context ends.
	Server func(context.Context, ServerOptions) error
	// Migrate brings the bus and the store up to date, or says what that would
	// change. It returns what it came to, with an error as well.
	Migrate func(ctx context.Context, opts ServerOptions, dryRun bool) ([]Change, error)
	// Topology lists what is on the bus and in the store.
	Topology func() []TopologyEntry
	// Doctor looks at what a server needs and changes nothing.
	Doctor func(context.Context, DoctorOptions) []Check
	// Look asks every source of some clusters, or of all, once; nothing is handed in.
	Look func(ctx context.Context, file fleetfile.File, clusters []string) ([]SourceReport, error)
	// ReadReleases reads the releases of a place for an import, in the order in which
	// they were published, and says what it left out and why. Without it nothing is
	// imported.
	ReadReleases func(ctx context.Context, from ReleaseSource) (list []*catalogv1.Release, skipped []string, err error)
	// Extra commands are added as they are, such as hidden ones.
	Extra   []*cobra.Command
	Version Version

	In  io.Reader // os.Stdin when nil
	Out io.Writer // data; os.Stdout when nil
	Err io.Writer // talk; os.Stderr when nil

	Env     func(string) string // os.Getenv when nil
	Environ func() []string     // os.Environ when nil
	Now     func() time.Time    // time.Now when nil; its location is the one times are shown in
	ID      func() string       // a new request id; random when nil
}

// ServerOptions is what a server, or who looks after its data, is started with.
type ServerOptions struct {
	Config     fleetfile.File // accepted, environment and flags applied
	ConfigPath string         // empty when no file was found
	ClickHouse string         // DSN of a ClickHouse server, which may hold a password; empty means the embedded engine
}

// Version says which build this is.
type Version struct {
	Version string `json:"version"`
	Commit  string `json:"commit"`
	Go      string `json:"go"`
}

// String is the version on one line. A build may not know all of it.
func (v Version) String() string {
	var details []string
	if v.Commit != "" {
		details = append(details, "commit "+v.Commit)
	}
	if v.Go != "" {
		details = append(details, v.Go)
	}
	return fmt.Sprintf("lockstep %s (%s)", v.Version, strings.Join(details, ", "))
}

// The exit codes of the command line.
const (
	codeDone     = 0
	codeError    = 1
	codeUsage    = 2
	codeHeld     = 3 // a gate holds or is inconclusive
	codeFailed   = 4 // a gate failed, or a cluster was rolled back
	codeTimedOut = 5
)

// exit is an error that asks for an exit code of its own.
type exit struct {
	code int
	text string
}

func (e *exit) Error() string { return e.text }

func usage(format string, args ...any) error {
	return &exit{codeUsage, fmt.Sprintf(format, args...)}
}

// ExitCode returns the code to leave with after an error of the command: 0 when
// nil, 1 for an ordinary error, 2 usage, 3 held or inconclusive, 4 gate failed
// or rolled back, 5 timed out.
func ExitCode(err error) int {
	var e *exit
	switch {
	case err == nil:
		return codeDone
	case errors.As(err, &e):
		return e.code
	}
	return codeError
}

// shell is what every command works with.
type shell struct {
	Options
	conn   connection
	colour bool
}

// New returns the root command. Its ExecuteContext prints the error it returns
// on Err; ExitCode turns it into the code to leave with.
func New(o Options) *cobra.Command {
	s := &shell{Options: o.filled()}
	s.colour = colourful(s.Out, s.Env)
	root := &cobra.Command{
		Use:   "lockstep",
		Short: "Keep gateways and secure remote access components on versions that belong together",
		Long: `Lockstep keeps the gateways and secure remote access (SRA) components of a fleet
on versions that belong together: it sees drift, drives upgrades cluster by
cluster, and judges each step by whether people's sessions work.

To begin: 'lockstep doctor' says what is missing on this machine, 'lockstep config
print-defaults' prints a configuration to fill in, 'lockstep server' runs the
server, and 'lockstep status' shows what runs where. Data goes to standard output,
talk to standard error; 'lockstep help exit-codes' says what the exit codes mean.`,
		Example: `  lockstep status -o wide
  lockstep drift explain berlin
  lockstep rollout plan --release 5.1.0
  lockstep rollout start --release 5.1.0 --wait
  lockstep gate explain r33b518cc90-berlin-sra`,
		SilenceUsage: true,
	}
	root.SetErrPrefix("lockstep:")
	root.SetIn(s.In)
	root.SetOut(s.Out)
	root.SetErr(s.Err)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usage("%s\nRun '%s --help' for usage.", flagTrouble(c, err), c.CommandPath())
	})
	// The same line as the command's: people type both.
	root.Version = s.Version.String()
	root.SetVersionTemplate("{{.Version}}\n")
	group(root, s.serverCommand(), s.statusCommand(), s.clustersCommand(), s.driftCommand(), s.historyCommand(), s.baselineCommand(),
		s.releasesCommand(), s.assignCommand(), s.applyCommand(), s.exportCommand(), s.observeCommand(), s.rolloutCommand(), s.gateCommand(),
		s.collectorCommand(), s.configCommand(), s.doctorCommand(), s.migrateCommand(), s.topologyCommand(), s.tokenCommand(), s.explainErrorCommand(), s.versionCommand())
	hinted(root)
	root.AddCommand(topics()...)
	root.SetHelpCommand(helpCommand())
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		if c.Name() == "completion" {
			group(c)
		}
	}
	root.AddCommand(s.Extra...)
	return root
}

// flagTrouble words what is wrong with a flag for people.
func flagTrouble(c *cobra.Command, err error) string {
	if unknown, ok := errors.AsType[*pflag.NotExistError](err); ok && len(unknown.GetSpecifiedName()) > 1 {
		var names []string
		c.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
		if near := config.Nearest(unknown.GetSpecifiedName(), names); len(near) > 0 {
			return fmt.Sprintf("%v; did you mean --%s?", err, near[0])
		}
	}
	if invalid, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		switch invalid.GetFlag().Value.Type() {
		case "bool":
			return fmt.Sprintf("--%s %q: use true or false", invalid.GetFlag().Name, invalid.GetValue())
		case "duration":
			return fmt.Sprintf("--%s %q is not a length of time; write for example 90s or 30m", invalid.GetFlag().Name, invalid.GetValue())
		}
	}
	return err.Error()
}

func (o Options) filled() Options {
	if o.In == nil {
		o.In = os.Stdin
	}
	if o.Out == nil {
		o.Out = os.Stdout
	}
	if o.Err == nil {
		o.Err = os.Stderr
	}
	if o.Env == nil {
		o.Env = os.Getenv
	}
	if o.Environ == nil {
		o.Environ = os.Environ
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.ID == nil {
		o.ID = rand.Text
	}
	return o
}

// group makes parent a command that only holds others.
func group(parent *cobra.Command, children ...*cobra.Command) *cobra.Command {
	parent.AddCommand(children...)
	parent.Args = func(c *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		return usage("unknown command %q for %q%s\nRun '%s --help' for usage.", args[0], c.CommandPath(), meant(c, args[0], (*cobra.Command).IsAvailableCommand), c.CommandPath())
	}
	parent.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	return parent
}

// meant names the commands below c that were probably meant, of those that are
// offered.
func meant(c *cobra.Command, typed string, offered func(*cobra.Command) bool) string {
	var near, names []string
	for _, child := range c.Commands() {
		switch name := child.Name(); {
		case !offered(child):
		case typed != "" && strings.HasPrefix(name, typed):
			near = append(near, name)
		default:
			names = append(names, name)
		}
	}
	if len(near) == 0 {
		near = config.Nearest(typed, names)
	}
	if len(near) == 0 {
		return ""
	}
	return fmt.Sprintf("; did you mean %s?", strings.Join(near[:min(2, len(near))], " or "))
}

// exactly checks the arguments of a command that takes those named.
func exactly(names ...string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) == len(names) {
			return nil
		}
		wanted := "no argument"
		if len(names) > 0 {
			wanted = strings.Join(names, " ")
		}
		return usage("%s takes %s, got %s\nRun '%s --help' for usage.", c.CommandPath(), wanted, count(int64(len(args)), "argument"), c.CommandPath())
	}
}

// talk prints a line for people.
func (s *shell) talk(format string, args ...any) {
	// Nothing can be done about talk that cannot be said.
	_, _ = fmt.Fprintf(s.Err, format+"\n", args...)
}

// print writes data; unlike talk, data that is lost is an error.
func (s *shell) print(text string) error {
	if _, err := io.WriteString(s.Out, text); err != nil {
		return fmt.Errorf("write the output: %w", err)
	}
	return nil
}

// colourful says whether w is a terminal whose owner has not asked for plain text.
func colourful(w io.Writer, env func(string) string) bool {
	return env("NO_COLOR") == "" && env("TERM") != "dumb" && terminal(w)
}

func terminal(w any) bool {
	f, ok := w.(interface{ Fd() uintptr })
	return ok && term.IsTerminal(int(f.Fd()))
}
