package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/gate"
	"github.com/lockstep-fleet/lockstep/gatefile"
	"github.com/lockstep-fleet/lockstep/kit/config"
	"github.com/lockstep-fleet/lockstep/kit/errs"
	gatev1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1"
)

func (s *shell) gatePolicyCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:     "policy",
		Aliases: []string{"policies"},
		Short:   "Check, compare, apply and see gate policies",
		Long: `Check, compare, apply and see gate policies: what is asked of a cluster after each
step and at the end of a wave. Three are built in, careful, standard and fast; a
document holds others, each of which extends one. Rollouts may name those that are
built in and those that were applied to the server.`,
	}, s.applyPolicyCommand(), s.listPolicyCommand(), s.lintPolicyCommand(), s.diffPolicyCommand(), s.showPolicyCommand(), s.policySchemaCommand())
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
		Long: `Show a gate policy with all that it takes over: a built-in one, one that was applied
to the server, or with --file one of a document. Without a name it shows the built-in
ones, or all of the document. The hash is what decisions carry; two policies that
demand the same have the same.

Use it to see what a policy comes to, and to begin one of your own: what is printed
can be read again, once a built-in policy has another name.`,
		Example: `  lockstep gate policy show careful
  lockstep gate policy show house -f policies.yaml
  lockstep gate policy show house > policies.yaml
  lockstep gate policy show -o json | jq -r '.[] | .name + " " + .hash'`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 1 {
				return usage("%s takes one NAME or none, got %s\nRun '%s --help' for usage.", c.CommandPath(), count(int64(len(args)), "argument"), c.CommandPath())
			}
			return nil
		},
		ValidArgsFunction: func(c *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			if path == "" {
				if list, how := s.every(policyNames)(c, args, typed); len(list) > 0 {
					return list, how
				}
			}
			names := builtIn()
			if list, err := s.policies(path); path != "" && path != "-" && err == nil {
				for _, p := range list {
					names = append(names, p.Name)
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(c *cobra.Command, args []string) error {
			var list []gate.Plan
			var err error
			switch {
			case len(args) > 0:
				list = make([]gate.Plan, 1)
				list[0], err = s.findPolicy(c.Context(), named(args[0], "policy"), path)
			case path != "":
				list, err = s.policies(path)
			default:
				list = gatefile.Presets()
			}
			if err != nil {
				return err
			}
			return s.printPolicies(list, out)
		},
	}
	s.connectionFlags(c)
	c.Flags().StringVarP(&path, "file", "f", "", "`file` that holds the policies, or - for standard input")
	outputFlag(c, &out, "yaml", "json")
	return c
}

// findPolicy finds a policy by its name: in a document and among the built-in ones,
// and without a document on the server.
func (s *shell) findPolicy(ctx context.Context, name, path string) (gate.Plan, error) {
	presets := gatefile.Presets()
	if path != "" {
		own, err := s.policies(path)
		if err != nil {
			return gate.Plan{}, err
		}
		return policyNamed(slices.Concat(own, presets), name, "in "+path)
	}
	if i := indexOf(presets, name); i >= 0 {
		return presets[i], nil
	}
	list, err := s.serverPolicies(ctx)
	if err != nil {
		hint := ""
		if near := config.Nearest(name, builtIn()); len(near) > 0 {
			hint = " (did you mean " + near[0] + "?)"
		}
		return gate.Plan{}, fmt.Errorf("gate policy %q is not built in%s, so the server was asked: %w", name, hint, err)
	}
	plans := make([]gate.Plan, 0, len(list))
	for _, p := range list {
		plans = append(plans, codec.GatePlanFromProto(p.GetPlan()))
	}
	return policyNamed(plans, name, "on the server; --file names the document of others")
}

func (s *shell) printPolicies(list []gate.Plan, out string) error {
	text := gatefile.Marshal(list...)
	if out == "yaml" {
		var head strings.Builder
		for _, p := range list {
			fmt.Fprintf(&head, "# %s: hash %s\n", p.Name, p.Hash())
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
		doc.Policies[i]["hash"] = p.Hash()
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

// mostPolicies is how large a document may be that the server takes, in bytes.
const mostPolicies = 1 << 20

func (s *shell) applyPolicyCommand() *cobra.Command {
	var out, path string
	var dryRun bool
	c := &cobra.Command{
		Use:   "apply -f FILE",
		Short: "Have the server keep the policies of a document",
		Long: `Have the server keep the policies of a document, so that rollouts may name them.
Each replaces the one of its name; those that the document does not mention stay. A
rollout that has begun keeps the policy that it began with.

With --dry-run it says what would change and changes nothing. 'lockstep gate policy
lint' says without a server what is wrong with a document.

Use it with the file that you keep in Git.`,
		Example: `  lockstep gate policy apply -f policies.yaml --dry-run
  lockstep gate policy apply -f policies.yaml
  lockstep gate policy show careful | sed s/careful/house/ | lockstep gate policy apply -f -`,
		Args: exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			if path == "" {
				return usage("say which document: -f FILE, or -f - for standard input")
			}
			text, err := s.readPolicies(path)
			switch {
			case err != nil:
				return err
			case len(text) > mostPolicies:
				return fmt.Errorf("read gate policies: %s is larger than %d MiB, which a document may be; part it into several", clean(path), mostPolicies>>20)
			}
			cl, err := s.dial()
			if err != nil {
				return err
			}
			defer cl.close()
			res, err := cl.gates.ApplyPolicies(c.Context(), &gatev1.ApplyPoliciesRequest{Document: string(text), Name: documentName(path), DryRun: dryRun})
			if err != nil {
				return cl.failed("apply "+path, err)
			}
			return s.printPolicyChanges(res, dryRun, out)
		},
	}
	s.connectionFlags(c)
	c.Flags().StringVarP(&path, "file", "f", "", "`file` that holds the policies, or - for standard input (required)")
	c.Flags().BoolVar(&dryRun, "dry-run", false, "say what would change and change nothing")
	outputFlag(c, &out, "table", "json", "yaml", "name")
	return c
}

// documentName is what problems call a document: its path, unless that is longer than
// a name may be.
func documentName(path string) string {
	if len(path) > 255 {
		return filepath.Base(path)
	}
	return path
}

// printPolicyChanges prints what changed, or would.
func (s *shell) printPolicyChanges(res *gatev1.ApplyPoliciesResponse, dryRun bool, out string) error {
	switch out {
	case "json", "yaml":
		return s.object(res, out)
	case "name":
		var names []string
		for _, c := range res.GetChanges() {
			if c.GetChange() != "unchanged" {
				names = append(names, c.GetName())
			}
		}
		return s.names("policy", names)
	}
	would := ""
	if dryRun {
		would = " (dry run)"
	}
	var b strings.Builder
	for _, c := range res.GetChanges() {
		change := clean(c.GetChange())
		fmt.Fprintf(&b, "policy %s %s%s\n", clean(c.GetName()), tint(change, map[string]string{"created": green, "changed": yellow}[change], s.colour), would)
	}
	return s.print(b.String())
}

func (s *shell) listPolicyCommand() *cobra.Command {
	var out string
	c := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the policies that a rollout may name",
		Long: `List the policies that a rollout may name, in order of their names: the built-in ones
and those that were applied to the server, with the mode and the hash of each, and
who applied it when.

Use it to choose the policy of a rollout, and to see whether the document that you
keep is the one that the server goes by.`,
		Example: `  lockstep gate policy list
  lockstep gate policy list -o json | jq -r '.[] | select(.built_in | not) | .plan.name + " " + .hash'`,
		Args: exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			list, err := s.serverPolicies(c.Context())
			if err != nil {
				return err
			}
			return s.printNamedPolicies(list, out)
		},
	}
	s.connectionFlags(c)
	outputFlag(c, &out, "table", "json", "yaml", "name")
	return c
}

// serverPolicies fetches every policy that the server knows.
func (s *shell) serverPolicies(ctx context.Context) ([]*gatev1.NamedPolicy, error) {
	cl, err := s.dial()
	if err != nil {
		return nil, err
	}
	defer cl.close()
	var all []*gatev1.NamedPolicy
	for ask := new(gatev1.ListPoliciesRequest); ; {
		res, err := cl.gates.ListPolicies(ctx, ask)
		if err != nil {
			return nil, cl.failed("list gate policies", err)
		}
		all = append(all, res.GetPolicies()...)
		if ask.PageToken = res.GetNextPageToken(); ask.GetPageToken() == "" {
			return all, nil
		}
	}
}

func (s *shell) printNamedPolicies(list []*gatev1.NamedPolicy, out string) error {
	switch out {
	case "json", "yaml":
		return objects(s, list, out)
	case "name":
		names := make([]string, len(list))
		for i, p := range list {
			names[i] = p.GetPlan().GetName()
		}
		return s.names("policy", names)
	}
	t := &table{header: []string{"NAME", "MODE", "HASH", "APPLIED", "BY"}}
	for _, p := range list {
		applied := s.instant(p.GetAppliedAt())
		if p.GetBuiltIn() {
			applied = "built in"
		}
		t.add(p.GetPlan().GetName(), p.GetPlan().GetMode(), brief(p.GetHash(), false), applied, p.GetAppliedBy())
	}
	return s.print(t.render(s.colour))
}

// policyNames offers the policies that a rollout may name.
func policyNames(ctx context.Context, cl *client) ([]cobra.Completion, error) {
	res, err := cl.gates.ListPolicies(ctx, &gatev1.ListPoliciesRequest{PageSize: completionPage})
	if err != nil {
		return nil, cl.failed("list gate policies", err)
	}
	var list []cobra.Completion
	for _, p := range res.GetPolicies() {
		origin := ""
		if p.GetBuiltIn() {
			origin = "built in"
		}
		list = append(list, described(p.GetPlan().GetName(), p.GetPlan().GetMode(), origin))
	}
	return list, nil
}
