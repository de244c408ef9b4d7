package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lockstep-fleet/lockstep/fleetfile"
)

// exitCodes words the codes of the command line, each in a line.
const exitCodes = `  0  done
  1  an error; standard error says what and where
  2  the command was not written right
  3  the rollout is held, or its gate is inconclusive; with --exit-code, it differs
  4  a gate failed, or something was rolled back
  5  the time given with --timeout is over; what was watched goes on`

// helpCommand is the library's, but for a word that names nothing: that is an
// error with the nearest word, not the page of the whole program.
func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND | TOPIC]",
		Short: "Help about any command or topic",
		Long:  "Help about any command or topic; without one, about the program.",
		ValidArgsFunction: func(c *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
			of, rest, err := c.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			var list []cobra.Completion
			for _, child := range of.Commands() {
				if !child.Hidden && strings.HasPrefix(child.Name(), typed) {
					list = append(list, cobra.CompletionWithDesc(child.Name(), child.Short))
				}
			}
			return list, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(c *cobra.Command, args []string) error {
			of, rest, err := c.Root().Find(args)
			if err != nil || len(rest) > 0 {
				visible := func(child *cobra.Command) bool { return !child.Hidden }
				hint := ""
				if len(rest) > 0 {
					hint = meant(of, rest[0], visible)
				}
				return usage("there is no command and no topic %q%s\nRun '%s help' for a list.", strings.Join(args, " "), hint, c.Root().Name())
			}
			of.InitDefaultHelpFlag()
			return of.Help()
		},
	}
}

// topics are pages of help that belong to no command.
func topics() []*cobra.Command {
	return []*cobra.Command{
		{
			Use:   "configuration",
			Short: "Where the configuration comes from and what goes before what",
			Long: `Lockstep reads one file, fleet.yaml, the first of:

  --config FILE
  LOCKSTEP_CONFIG
  ./fleet.yaml
  $XDG_CONFIG_HOME/lockstep/fleet.yaml ($HOME/.config without XDG_CONFIG_HOME)
  /etc/lockstep/fleet.yaml

A file named by the first two must exist. Without any, the server runs with
defaults and no clusters. Flags go before the environment, the environment before
the file, the file before the defaults.

The server uses all of it. Other commands take from it where the server is
(server.listen) and where its token lies (admin.token in server.data_dir); with
--server and --token-file they read no file.

  lockstep config print-defaults   every key, explained, at its default
  lockstep config validate         whether the server would accept it
  lockstep config view -o wide     what counts, and where it comes from
  lockstep config path             which file it is
  lockstep doctor                  whether what it names is there

Secrets are in files of their own, which the configuration names by *_file keys.`,
		},
		{
			Use:   "environment",
			Short: "The environment variables that count",
			Long: `A variable goes before the configuration file and after a flag. An empty one counts
as not set; a relative path starts at the folder where the command runs.

Variables that set no key of the file:

` + specialVariables() + `
Variables that set a key, each meaning what the key means in the file:

` + keyVariables() + `
Variables of others that count: NATS_URL (where LOCKSTEP_BUS_URL is not set),
DOCKER_HOST and Docker's other ones (for clusters that name no engine),
HTTPS_PROXY and NO_PROXY (the vendor's API, webhooks), XDG_CONFIG_HOME,
XDG_DATA_HOME, XDG_CACHE_HOME, HOME, NO_COLOR and TERM=dumb (no colours).

Other variables that begin with LOCKSTEP_ do nothing; 'lockstep doctor' points at
those that look like a slip.`,
		},
		{
			Use:   "exit-codes",
			Short: "What the exit codes mean",
			Long: `Every command leaves with one of:

` + exitCodes + `

A rollout's outcome decides the code of 'rollout watch' and of --wait: 3 and 4 mean
that the command worked and the rollout did not go through. With 'rollout rollback
--wait', a rollout that is rolled back is 0, as that is what was asked for.

'baseline diff', 'gate policy diff' and 'apply --dry-run' leave with 0 whatever they
find; with --exit-code they leave with 3 when they find a difference.

Interrupting 'status --watch', which has no end of its own, is 0. Interrupting any
other command is 1; a rollout that was watched goes on.`,
		},
	}
}

func specialVariables() string {
	var b strings.Builder
	for _, v := range fleetfile.Special() {
		fmt.Fprintf(&b, "  %-27s %s\n", v.Name, v.Meaning)
	}
	return b.String()
}

func keyVariables() string {
	var b strings.Builder
	for _, key := range fleetfile.Keys() {
		if key.Variable != "" {
			fmt.Fprintf(&b, "  %-34s %s\n", key.Variable, key.Name)
		}
	}
	return b.String()
}
