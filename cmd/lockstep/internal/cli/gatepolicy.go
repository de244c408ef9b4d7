package cli

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/lockstep-fleet/lockstep/domain/gate"
	"github.com/lockstep-fleet/lockstep/gatefile"
	"github.com/lockstep-fleet/lockstep/kit/config"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

func (s *shell) gatePolicyCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:     "policy",
		Aliases: []string{"policies"},
		Short:   "Check, compare and see gate policies",
		Long: `Check, compare and see gate policies: what is asked of a cluster after each step and
at the end of a wave. Three are built in, careful, standard and fast; a document
holds others, each of which extends one. No server is asked.`,
	}, s.lintPolicyCommand(), s.diffPolicyCommand(), s.showPolicyCommand(), s.policySchemaCommand())
}

func (s *shell) lintPolicyCommand() *cobra.Command {
	var out string
	var perHour float64
	c := &cobra.Command{
		Use:     "lint FILE...",
		Aliases: []string{"check", "validate"},
		Short:   "Say everything that is wrong with documents of gate policies",
		Long: `Say everything that is wrong with documents of gate policies, with file, line and
column, and what to do about it: slips in keys and rules, numbers out of bounds,
stages that could never pass or never fail. Errors exit with 1, warnings do not.

With --sessions-per-hour it also warns of deadlines within which a stage would not
see enough sessions: give those that people start in one cluster for a step that
demands sessions, and those of all its clusters for a wave.

Use it in the editor and in the pipeline that ships the document.`,
		Example: `  lockstep gate policy lint policies.yaml
  lockstep gate policy lint policies.yaml --sessions-per-hour 200
  lockstep gate policy lint policies.yaml -o json | jq -r '.[] | select(.severity == "error").text'`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage("%s takes at least one FILE, or - for standard input\nRun '%s --help' for usage.", c.CommandPath(), c.CommandPath())
			}
			if !(perHour >= 0) {
				return usage("--sessions-per-hour %g is negative; give how many sessions people start in an hour", perHour)
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			var all gatefile.Problems
			for _, path := range args {
				text, err := s.readPolicies(path)
				if err != nil {
					return err
				}
				problems, err := gatefile.Lint(text, path, perHour)
				if err != nil {
					return err
				}
				all = append(all, problems...)
				if out == "table" {
					if err := s.printProblems(path, problems); err != nil {
						return err
					}
				}
			}
			if out != "table" {
				if err := rows(s, all, out); err != nil {
					return err
				}
			}
			if n := len(all.Errors()); n > 0 {
				return errs.New(errs.Invalid, "LS-GAT-010", "the policies are not acceptable: %s", count(int64(n), "error"))
			}
			return nil
		},
	}
	c.Flags().Float64Var(&perHour, "sessions-per-hour", 0, "warn where this `number` of people's sessions an hour is too small for a deadline")
	outputFlag(c, &out, "table", "json", "yaml")
	return c
}

func (s *shell) printProblems(path string, problems gatefile.Problems) error {
	var b strings.Builder
	for _, p := range problems {
		b.WriteString(clean(p.String()) + "\n")
	}
	wrong := len(problems.Errors())
	switch warnings := len(problems) - wrong; {
	case wrong > 0:
	case warnings > 0:
		fmt.Fprintf(&b, "%s: ok, with %s\n", clean(path), count(int64(warnings), "warning"))
	default:
		fmt.Fprintf(&b, "%s: ok\n", clean(path))
	}
	return s.print(b.String())
}

// readPolicies reads a document, or standard input.
func (s *shell) readPolicies(path string) ([]byte, error) {
	var text []byte
	var err error
	if path == "-" {
		text, err = io.ReadAll(s.In)
	} else {
		text, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, errs.New(errs.Invalid, "LS-GAT-011", "read gate policies: %w", err)
	}
	return text, nil
}

// policies gives the policies of a document.
func (s *shell) policies(path string) ([]gate.Plan, error) {
	text, err := s.readPolicies(path)
	if err != nil {
		return nil, err
	}
	return gatefile.Read(text, path)
}

// policyNamed finds a policy among those of a place.
func policyNamed(list []gate.Plan, name, place string) (gate.Plan, error) {
	names := make([]string, 0, len(list))
	for _, p := range list {
		if p.Name == name {
			return p, nil
		}
		names = append(names, p.Name)
	}
	hint := "; there are " + strings.Join(names, ", ")
	if near := config.Nearest(name, names); len(near) > 0 {
		hint = "; did you mean " + near[0] + "?"
	}
	return gate.Plan{}, errs.New(errs.NotFound, "LS-GAT-012", "there is no gate policy %q %s%s", name, place, hint)
}

// compared is one policy of a comparison.
type compared struct {
	Policy  string            `json:"policy"`
	With    string            `json:"with,omitempty"` // what it is compared with, where that has another name
	State   string            `json:"state"`          // changed, added, removed
	Changes []gatefile.Change `json:"changes"`        // of one that changed
}

func (s *shell) diffPolicyCommand() *cobra.Command {
	var out, only string
	var exitCode bool
	c := &cobra.Command{
		Use:     "diff BEFORE AFTER",
		Aliases: []string{"compare"},
		Short:   "Tell what is different between gate policies",
		Long: `Tell what is different between two documents, policy by policy, or between a policy
and a built-in one. BEFORE and AFTER are files, - for standard input, or careful,
standard or fast. What a policy takes over from others is compared, too: a document
that says the same in other words is no different.

With --exit-code it leaves with 3 when something is different, else with 0.

Use it in review: what would this change of the document demand that the old one did
not?`,
		Example: `  lockstep gate policy diff old.yaml policies.yaml
  lockstep gate policy diff standard policies.yaml --policy house
  lockstep gate policy diff careful fast -o json | jq -r '.[0].changes[].key'`,
		Args: exactly("BEFORE", "AFTER"),
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if len(args) > 1 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return builtIn(), cobra.ShellCompDirectiveDefault
		},
		RunE: func(_ *cobra.Command, args []string) error {
			list, err := s.comparePolicies(args[0], args[1], only)
			if err == nil {
				err = s.printCompared(list, out)
			}
			if err == nil && exitCode && len(list) > 0 {
				return &exit{codeHeld, different(list)}
			}
			return err
		},
	}
	c.Flags().BoolVar(&exitCode, "exit-code", false, "leave with exit code 3 when something is different")
	c.Flags().StringVar(&only, "policy", "", "compare only the policy of this `name`")
	outputFlag(c, &out, "table", "json", "yaml")
	return c
}

// different words what a comparison came to.
func different(list []compared) string {
	if len(list) > 1 {
		return fmt.Sprintf("%d policies are different", len(list))
	}
	one := list[0]
	if one.With != "" {
		return fmt.Sprintf("policy %s is different from %s", one.Policy, one.With)
	}
	return fmt.Sprintf("policy %s is %s", one.Policy, strings.Replace(one.State, "changed", "different", 1))
}

func builtIn() []string {
	var names []string
	for _, p := range gatefile.Presets() {
		names = append(names, p.Name)
	}
	return names
}

// comparePolicies compares what two operands name.
func (s *shell) comparePolicies(before, after, only string) ([]compared, error) {
	if before == "-" && after == "-" {
		return nil, usage("standard input can be read once; name a file for one of the two")
	}
	old, oldOne, err := s.operand(before, only)
	if err != nil {
		return nil, err
	}
	recent, recentOne, err := s.operand(after, only)
	if err != nil {
		return nil, err
	}
	if oldOne || recentOne {
		for i, list := range [][]gate.Plan{old, recent} {
			if len(list) != 1 {
				return nil, usage("%s has %d policies; say which to compare: --policy NAME", []string{before, after}[i], len(list))
			}
		}
		return compareOne(old[0], recent[0]), nil
	}
	var out []compared
	for _, was := range old {
		if i := indexOf(recent, was.Name); i >= 0 {
			out = append(out, compareOne(was, recent[i])...)
		} else {
			out = append(out, compared{Policy: was.Name, State: "removed", Changes: []gatefile.Change{}})
		}
	}
	for _, is := range recent {
		if indexOf(old, is.Name) < 0 {
			out = append(out, compared{Policy: is.Name, State: "added", Changes: []gatefile.Change{}})
		}
	}
	return out, nil
}

// operand reads what an operand of a comparison names; one says that it names a
// single policy, which is compared whatever the other's name is.
func (s *shell) operand(name, only string) (list []gate.Plan, one bool, err error) {
	if presets := gatefile.Presets(); indexOf(presets, name) >= 0 {
		return presets[indexOf(presets, name):][:1], true, nil
	}
	list, err = s.policies(name)
	if err != nil || only == "" {
		return list, false, err
	}
	p, err := policyNamed(list, only, "in "+name)
	return []gate.Plan{p}, true, err
}

func indexOf(list []gate.Plan, name string) int {
	return slices.IndexFunc(list, func(p gate.Plan) bool { return p.Name == name })
}

func compareOne(before, after gate.Plan) []compared {
	changes := gatefile.Diff(before, after)
	if len(changes) == 0 {
		return nil
	}
	one := compared{Policy: after.Name, State: "changed", Changes: changes}
	if before.Name != after.Name {
		one.With = before.Name
	}
	return []compared{one}
}

func (s *shell) printCompared(list []compared, out string) error {
	if out != "table" {
		return rows(s, list, out)
	}
	if len(list) == 0 {
		s.talk("Nothing is different.")
		return nil
	}
	var b strings.Builder
	for i, one := range list {
		if i > 0 {
			b.WriteByte('\n')
		}
		switch {
		case one.With != "":
			fmt.Fprintf(&b, "policy %s, compared with %s\n", one.Policy, one.With)
		case one.State == "changed":
			fmt.Fprintf(&b, "policy %s\n", one.Policy)
		default:
			fmt.Fprintf(&b, "policy %s was %s\n", one.Policy, one.State)
		}
		for _, change := range one.Changes {
			if change.Before != "" {
				b.WriteString(tint("  - "+clean(change.Key+": "+change.Before), red, s.colour) + "\n")
			}
			if change.After != "" {
				b.WriteString(tint("  + "+clean(change.Key+": "+change.After), green, s.colour) + "\n")
			}
		}
	}
	return s.print(b.String())
}

func (s *shell) showPolicyCommand() *cobra.Command {
	var out, path string
	c := &cobra.Command{
		Use:     "show [NAME]",
		Aliases: []string{"get"},
		Short:   "Show gate policies with all that they take over",
		Long: `Show a gate policy, or all of them, with all that it takes over: the built-in ones,
or with --file those of a document. The hash is what decisions carry; two policies
that demand the same have the same.

Use it to see what a policy comes to, and to begin one of your own: what is printed
can be read again, once a built-in policy has another name.`,
		Example: `  lockstep gate policy show careful
  lockstep gate policy show house -f policies.yaml
  lockstep gate policy show -o json | jq -r '.[] | .name + " " + .hash'`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usage("%s takes one NAME or none, got %s\nRun '%s --help' for usage.", c.CommandPath(), count(int64(len(args)), "argument"), c.CommandPath())
			}
			return nil
		},
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			names := builtIn()
			if list, err := s.policies(path); path != "" && path != "-" && err == nil {
				for _, p := range list {
					names = append(names, p.Name)
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(_ *cobra.Command, args []string) error {
			list, place := gatefile.Presets(), "among the built-in ones; --file names the document of others"
			if path != "" {
				own, err := s.policies(path)
				if err != nil {
					return err
				}
				list, place = own, "in "+path
				if len(args) > 0 {
					list = slices.Concat(own, gatefile.Presets())
				}
			}
			if len(args) > 0 {
				one, err := policyNamed(list, args[0], place)
				if err != nil {
					return err
				}
				list = []gate.Plan{one}
			}
			return s.printPolicies(list, out)
		},
	}
	c.Flags().StringVarP(&path, "file", "f", "", "`file` that holds the policies, or - for standard input")
	outputFlag(c, &out, "yaml", "json")
	return c
}

func (s *shell) printPolicies(list []gate.Plan, out string) error {
	text := gatefile.Marshal(list...)
	if out == "yaml" {
		var head strings.Builder
		for _, p := range list {
			fmt.Fprintf(&head, "# %s: hash %s\n", p.Name, gatefile.Hash(p))
		}
		return s.print(head.String() + text)
	}
	var doc struct {
		Policies []map[string]any `yaml:"policies"`
	}
	if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
		return fmt.Errorf("turn the policies into JSON: %w", err)
	}
	for i, p := range list {
		doc.Policies[i]["hash"] = gatefile.Hash(p)
	}
	return rows(s, doc.Policies, out)
}

func (s *shell) policySchemaCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "schema",
		Short: "Print the JSON Schema of gate policies, for editors",
		Long: `Print the JSON Schema of documents of gate policies, for editors that complete keys
and mark slips. What it accepts may still be refused: 'lockstep gate policy lint'
knows more.

With the YAML language server, write in the first line of the document:

  # yaml-language-server: $schema=gatepolicy.schema.json`,
		Example: `  lockstep gate policy schema > gatepolicy.schema.json
  lockstep gate policy schema | jq '.properties.policies.items.properties.step'`,
		Args: exactly(),
		RunE: func(*cobra.Command, []string) error {
			text, err := gatefile.Schema()
			if err != nil {
				return err
			}
			return s.print(string(text))
		},
	}
}
