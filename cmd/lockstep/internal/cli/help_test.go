package cli_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"github.com/lockstep-fleet/lockstep/cmd/lockstep/internal/cli"
	"github.com/lockstep-fleet/lockstep/fleetfile"
)

func TestHelpTopics(t *testing.T) {
	t.Parallel()
	for topic, want := range map[string][]string{
		"configuration": {"LOCKSTEP_CONFIG", "/etc/lockstep/fleet.yaml", "lockstep config validate"},
		"environment":   {"LOCKSTEP_TOKEN_FILE", "LOCKSTEP_GATE_ALPHA", "gate.alpha", "NATS_URL", "NO_COLOR"},
		"exit-codes":    {"3  the rollout is held", "with --exit-code, it differs", "5  the time given"},
	} {
		for _, args := range [][]string{{"help", topic}, {topic, "--help"}} {
			got := runWith(t, t.Context(), "", args...)
			got.wants(t, 0, "")
			for _, word := range want {
				if !strings.Contains(got.out, word) {
					t.Errorf("%v lacks %q:\n%s", args, word, got.out)
				}
			}
			if strings.Contains(got.out, "Usage:") {
				t.Errorf("%v has a usage, and is no command:\n%s", args, got.out)
			}
		}
	}
	for _, v := range fleetfile.Special() {
		if got := runWith(t, t.Context(), "", "help", "environment").out; !strings.Contains(got, v.Name+" ") {
			t.Errorf("the topic lacks %s", v.Name)
		}
	}
	runWith(t, t.Context(), "", "help", "enviroment").wants(t, 2, `there is no command and no topic "enviroment"; did you mean environment?`)
	runWith(t, t.Context(), "", "help", "rollout", "strat").wants(t, 2, `there is no command and no topic "rollout strat"; did you mean start?`)
	if got := runWith(t, t.Context(), "", "help", "rollout", "start").out; !strings.Contains(got, "lockstep rollout start --release RELEASE") {
		t.Errorf("help of a command printed %s", got)
	}
	if got := runWith(t, t.Context(), "", "help").out; !strings.Contains(got, "Additional help topics:") {
		t.Errorf("help alone printed %s", got)
	}
}

// everyCommand visits the commands and topics that people see.
func everyCommand(c *cobra.Command, visit func(*cobra.Command)) {
	visit(c)
	for _, child := range c.Commands() {
		if !child.Hidden && child.Name() != "help" {
			everyCommand(child, visit)
		}
	}
}

func tree() *cobra.Command {
	root := cli.New(cli.Options{Env: env(), Out: io.Discard, Err: io.Discard})
	root.InitDefaultCompletionCmd()
	return root
}

// TestEveryCommandTeaches asks of each command when to use it and an example.
func TestEveryCommandTeaches(t *testing.T) {
	t.Parallel()
	everyCommand(tree(), func(c *cobra.Command) {
		if strings.HasPrefix(c.CommandPath(), "lockstep completion") {
			return // the library's own
		}
		if c.Short == "" || c.Long == "" {
			t.Errorf("%s has no long help", c.CommandPath())
		}
		runs := c.Runnable() && !c.HasSubCommands()
		if runs && c.Example == "" {
			t.Errorf("%s has no example", c.CommandPath())
		}
		for line := range strings.Lines(c.Long) {
			if n := len([]rune(strings.TrimSuffix(line, "\n"))); n > 88 {
				t.Errorf("%s: a line of its help has %d letters, and a narrow terminal breaks it: %s", c.CommandPath(), n, line)
			}
		}
		for line := range strings.Lines(c.Example) {
			if !strings.HasPrefix(line, "  ") {
				t.Errorf("%s: an example is not indented: %s", c.CommandPath(), line)
			}
		}
	})
}

// TestExamplesUseWhatThereIs looks for every command and flag of the examples.
func TestExamplesUseWhatThereIs(t *testing.T) {
	t.Parallel()
	everyCommand(tree(), func(c *cobra.Command) {
		for line := range strings.Lines(c.Example) {
			_, rest, found := strings.Cut(line, "lockstep ")
			if !found || strings.HasPrefix(c.CommandPath(), "lockstep completion") {
				continue
			}
			// Before the program's name stand other programs and users, such as sudo -u lockstep.
			for strings.HasPrefix(rest, "lockstep ") {
				rest = strings.TrimPrefix(rest, "lockstep ")
			}
			for _, cut := range []string{" |", " >", " &&", ")"} {
				rest, _, _ = strings.Cut(rest, cut)
			}
			words := strings.Fields(rest)
			of, args, err := tree().Find(words)
			if err != nil || of.HasSubCommands() {
				t.Errorf("%s: no such command: %s", c.CommandPath(), line)
				continue
			}
			for _, word := range args {
				name, long := strings.CutPrefix(word, "--")
				if name, _, _ = strings.Cut(name, "="); long && of.Flags().Lookup(name) == nil {
					t.Errorf("%s: no flag %s: %s", c.CommandPath(), word, line)
				}
			}
		}
	})
}

// TestTheReferenceIsCurrent compares docs/reference/cli.md with the commands.
func TestTheReferenceIsCurrent(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString("# The command line\n\nWritten from the program's own help by `go test ./cmd/lockstep/internal/cli -update`. `lockstep help COMMAND` says the same.\n\n")
	var commands, pages strings.Builder
	everyCommand(tree(), func(c *cobra.Command) {
		switch {
		case strings.HasPrefix(c.CommandPath(), "lockstep completion "):
			// Four shells, each with a page of how to install it.
		case !c.Runnable() && !c.HasSubCommands():
			fmt.Fprintf(&pages, "\n## %s\n\n```\n%s\n```\n", c.Short, c.Long)
		default:
			fmt.Fprintf(&b, "- [%s](#%s): %s\n", c.CommandPath(), strings.ReplaceAll(c.CommandPath(), " ", "-"), c.Short)
			commands.WriteString(section(c))
		}
	})
	b.WriteString(pages.String() + commands.String())
	path := filepath.Join("..", "..", "..", "..", "docs", "reference", "cli.md")
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	written, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(b.String(), string(written)); diff != "" {
		t.Errorf("%s is not what the commands say, -update writes it anew (-wanted +written):\n%s", path, diff)
	}
}

// section is what the reference says of one command.
func section(c *cobra.Command) string {
	var b strings.Builder
	block := func(title, text string) {
		if text = strings.TrimRight(text, "\n"); text != "" {
			fmt.Fprintf(&b, "\n%s\n\n```\n%s\n```\n", title, text)
		}
	}
	block("## "+c.CommandPath()+"\n\n"+c.Short+".", c.Long)
	if c.HasSubCommands() {
		return b.String()
	}
	block("Usage:", c.UseLine())
	if len(c.Aliases) > 0 {
		fmt.Fprintf(&b, "\nAlso called %s.\n", strings.Join(c.Aliases, ", "))
	}
	block("Examples:", c.Example)
	block("Flags:", c.NonInheritedFlags().FlagUsages())
	return b.String()
}
