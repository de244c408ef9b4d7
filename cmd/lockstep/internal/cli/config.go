package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/lockstep-fleet/lockstep/fleetfile"
	"github.com/lockstep-fleet/lockstep/kit/config"
)

// places is where the configuration is looked for.
const places = "--config, LOCKSTEP_CONFIG, ./fleet.yaml, $XDG_CONFIG_HOME/lockstep/fleet.yaml, /etc/lockstep/fleet.yaml"

func (s *shell) configCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:   "config",
		Short: "Write, check and see the configuration",
		Long: `Write, check and see the configuration, without a server. How it is found and what
goes before what: 'lockstep help configuration'.`,
	}, s.printDefaultsCommand(), s.validateCommand(), s.viewCommand(), s.pathCommand(), s.schemaCommand())
}

func (s *shell) printDefaultsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "print-defaults",
		Short: "Print a configuration with every key, explained, at its default",
		Long: `Print a configuration with every key, explained, at its default: a file to begin
with. What may be left out, such as clusters, is there as an example, commented out.`,
		Example: `  lockstep config print-defaults > fleet.yaml
  lockstep config print-defaults | grep -A1 odds`,
		Args: exactly(),
		RunE: func(*cobra.Command, []string) error { return s.print(fleetfile.Defaults()) },
	}
}

func (s *shell) validateCommand() *cobra.Command {
	var v settings
	c := &cobra.Command{
		Use:     "validate [FILE]",
		Aliases: []string{"check"},
		Short:   "Say whether the server would accept the configuration",
		Long: `Read the configuration as the server does, with the environment and the flags over
the file, and say that it is acceptable or everything that is wrong with it, with
lines and the nearest known keys. A configuration with problems exits with 1.

Use it before a restart and in the pipeline that ships the file. It opens nothing
that the configuration names but store.dsn_file; 'lockstep doctor' looks at the rest.`,
		Example: `  lockstep config validate
  lockstep config validate fleet.yaml && systemctl restart lockstep`,
		Args: func(c *cobra.Command, args []string) error {
			switch {
			case len(args) > 1:
				return usage("%s takes at most one FILE, got %s\nRun '%s --help' for usage.", c.CommandPath(), count(int64(len(args)), "argument"), c.CommandPath())
			case len(args) == 1 && s.conn.config != "":
				return usage("the file is named twice, by --config and as %s; name it once", args[0])
			case len(args) == 1:
				s.conn.config = args[0]
			}
			return nil
		},
		RunE: func(*cobra.Command, []string) error {
			opts, err := s.accepted(&v)
			if err != nil {
				return err
			}
			file := opts.Config
			holds := fmt.Sprintf("%s, %s, %s, %s", count(int64(len(file.Clusters)), "cluster"), count(int64(len(file.Releases)), "release"),
				count(int64(len(file.Notify.Webhooks)), "webhook"), count(int64(len(file.Access.Tokens)), "token"))
			if opts.ConfigPath == "" {
				return s.print("no file: the defaults and the environment are ok (" + holds + "); looked for " + places + "\n")
			}
			return s.print(opts.ConfigPath + ": ok (" + holds + ")\n")
		},
	}
	s.configFlag(c)
	v.flags(c)
	return c
}

func (s *shell) viewCommand() *cobra.Command {
	var v settings
	var out string
	c := &cobra.Command{
		Use:   "view",
		Short: "Show what every key is set to, and by what",
		Long: `Show what every key is set to once the environment and the flags are over the
file and the file over the defaults. With -o wide each value names its origin:
default, file, env or flag. With -o yaml it is a file that says the same.

Addresses are shown without what may be secret in them, files of secrets by name only.`,
		Example: `  lockstep config view -o wide
  lockstep config view -o wide | grep -v default
  LOCKSTEP_LOG_LEVEL=debug lockstep config view -o json | jq .log`,
		Args: exactly(),
		RunE: func(*cobra.Command, []string) error {
			path, err := fleetfile.Find(s.conn.config, s.Env)
			if err != nil {
				return err
			}
			file, err := fleetfile.Read(path, s.Env, v.given()...)
			if err != nil {
				return err
			}
			if err := s.printConfig(file.Redacted(), fleetfile.Origins(path, s.Env, v.given()...), out); err != nil {
				return err
			}
			if _, err := fleetfile.Load(path, s.Env, v.given()...); err != nil {
				s.talk("The server would not accept this; 'lockstep config validate' says why.")
			}
			return nil
		},
	}
	s.configFlag(c)
	v.flags(c)
	outputFlag(c, &out, "table", "wide", "json", "yaml")
	return c
}

func (s *shell) printConfig(file fleetfile.File, origins func(string) fleetfile.Origin, out string) error {
	t := &table{header: []string{"KEY", "VALUE"}}
	switch out {
	case "json", "yaml":
		return s.document(config.Marshal(file), out)
	case "wide":
		t.header = append(t.header, "ORIGIN", "SET BY")
	}
	for _, v := range file.Values() {
		row := []string{v.Key, v.Text}
		if out == "wide" {
			origin := origins(v.Key)
			row = append(row, origin.Kind, origin.Name)
		}
		t.add(row...)
	}
	return s.print(t.render(s.colour))
}

// document prints a configuration file as YAML without its comments, or as JSON.
func (s *shell) document(text, out string) error {
	var doc yaml.Node
	if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
		return fmt.Errorf("turn the configuration into %s: %w", out, err)
	}
	if out == "yaml" {
		uncommented(&doc)
		var b strings.Builder
		enc := yaml.NewEncoder(&b)
		enc.SetIndent(2)
		if err := enc.Encode(&doc); err != nil {
			return fmt.Errorf("turn the configuration into YAML: %w", err)
		}
		return s.print(b.String())
	}
	var tree map[string]any
	if err := doc.Decode(&tree); err != nil {
		return fmt.Errorf("turn the configuration into JSON: %w", err)
	}
	raw, err := json.Marshal(tree)
	if err != nil {
		return fmt.Errorf("turn the configuration into JSON: %w", err)
	}
	return s.encoded(raw, out)
}

func uncommented(n *yaml.Node) {
	n.HeadComment = ""
	for _, child := range n.Content {
		uncommented(child)
	}
}

func (s *shell) pathCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "path",
		Short: "Print the path of the configuration file that is used",
		Long: `Print the path of the configuration file that the server and the commands use on
this machine as this user. Where there is none it exits with 1.`,
		Example: `  lockstep config path
  $EDITOR "$(lockstep config path)"`,
		Args: exactly(),
		RunE: func(*cobra.Command, []string) error {
			path, err := fleetfile.Find(s.conn.config, s.Env)
			if err != nil {
				return err
			}
			if path == "" {
				return errors.New("there is no configuration file; looked for " + places)
			}
			return s.print(path + "\n")
		},
	}
	s.configFlag(c)
	return c
}

func (s *shell) schemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of the configuration, for editors",
		Long: `Print the JSON Schema of fleet.yaml, for editors that complete keys and mark slips.
What it accepts may still be refused: 'lockstep config validate' knows more.

With the YAML language server, write in the first line of fleet.yaml:

  # yaml-language-server: $schema=fleet.schema.json`,
		Example: `  lockstep config schema > fleet.schema.json
  lockstep config schema | jq '.properties.clusters'`,
		Args: exactly(),
		RunE: func(*cobra.Command, []string) error {
			text, err := fleetfile.Schema()
			if err != nil {
				return err
			}
			return s.print(string(text))
		},
	}
}
