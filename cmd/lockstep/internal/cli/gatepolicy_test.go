package cli_test

import (
	"context"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect/v2"

	"github.com/lockstep-fleet/lockstep/cmd/lockstep/internal/cli"
	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/gatefile"
	gatev1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1"
)

const somePolicies = `policies:
  - name: house
    extends: careful
    mode: hold
    step:
      rules:
        - name: missing
          when: inventory.missing>1
          verdict: hold
          reason: Somebody has to look.
`

func TestGatePolicyLint(t *testing.T) {
	t.Parallel()
	good := file(t, "good.yaml", somePolicies)
	warned := file(t, "warned.yaml", strings.Replace(somePolicies, "    mode: hold\n", "    mode: hold\n    statistics: {alpha: 0.1}\n", 1))
	bad := file(t, "bad.yaml", "policies:\n  - name: house\n    mod: act\n    statistics: {alpha: 2}\n")
	for name, tc := range map[string]struct {
		in   string
		args []string
		code int
		out  string
		talk string
	}{
		"fine":      {"", []string{good}, 0, good + ": ok\n", ""},
		"warned of": {"", []string{warned}, 0, warned + ":5:25: warning: policies[0].statistics.alpha: 0.1 rolls back one of 10 harmless releases at each gate; 0.01 is usual, 0.05 the most that is\n" + warned + ": ok, with 1 warning\n", ""},
		"wrong": {"", []string{good, bad}, 1, good + ": ok\n" +
			bad + ":3:5: error: policies[0].mod: unknown key; did you mean mode?\n" +
			bad + ":4:25: error: policies[0].statistics.alpha: 2 is out of range; it must be above 0 and at most 0.5\n",
			"lockstep: LS-GAT-010: the policies are not acceptable: 2 errors\n(lockstep explain LS-GAT-010)\n"},
		"standard input": {somePolicies, []string{"-"}, 0, "-: ok\n", ""},
		"few sessions": {somePolicies, []string{"-", "--sessions-per-hour", "10"}, 0,
			"-:2:5: warning: policies[0].wave.deadline: it takes about 1122 sessions with 2 % of them failing, and 10 an hour make 113h of that, longer than 72h; put more clusters into a wave, raise statistics.margin or acceptable_rate, or the deadline\n-: ok, with 1 warning\n", ""},
		"absent":            {"", []string{filepath.Join(t.TempDir(), "none.yaml")}, 1, "", "lockstep: LS-GAT-011: read gate policies: open "},
		"nothing":           {"", nil, 2, "", "lockstep gate policy lint takes at least one FILE, or - for standard input\nRun"},
		"negative sessions": {"", []string{good, "--sessions-per-hour", "-1"}, 2, "", "--sessions-per-hour -1 is negative"},
		"no sessions":       {"", []string{good, "--sessions-per-hour", "NaN"}, 2, "", "--sessions-per-hour NaN is negative"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := runWith(t, t.Context(), tc.in, append([]string{"gate", "policy", "lint"}, tc.args...)...)
			got.wants(t, tc.code, tc.talk)
			if got.out != tc.out {
				t.Errorf("printed %s\nwant %s", got.out, tc.out)
			}
		})
	}
	got := runWith(t, t.Context(), "", "gate", "policy", "lint", bad, warned, "-o", "json")
	got.wants(t, 1, "LS-GAT-010")
	golden(t, "gate-policy-lint.json", strings.NewReplacer(bad, "bad.yaml", warned, "warned.yaml").Replace(got.out))
	if got := runWith(t, t.Context(), "", "gate", "policy", "lint", good, "-o", "json"); got.code != 0 || got.out != "[]\n" {
		t.Errorf("of a fine one %+v", got)
	}
}

func TestGatePolicyDiffIsNoFailure(t *testing.T) {
	t.Parallel()
	runWith(t, t.Context(), "", "gate", "policy", "diff", "standard", "fast").wants(t, 0, "")
}

func TestGatePolicyDiff(t *testing.T) {
	t.Parallel()
	before := file(t, "before.yaml", somePolicies+"  - name: gone\n")
	after := file(t, "after.yaml", strings.NewReplacer("careful", "fast", "missing>1", "missing > 2").Replace(somePolicies)+"  - name: come\n")
	same := file(t, "same.yaml", strings.Replace(somePolicies, "inventory.missing>1", "(inventory.missing) > (1)", 1)+"  - {name: gone, extends: standard}\n")
	for name, tc := range map[string]struct {
		args   []string
		code   int
		golden string
		talk   string
	}{
		"documents":         {[]string{before, after}, 3, "gate-policy-diff.txt", "lockstep: 3 policies are different\n"},
		"as JSON":           {[]string{before, after, "-o", "json"}, 3, "gate-policy-diff.json", "lockstep: 3 policies are different\n"},
		"one of them":       {[]string{before, after, "--policy", "house"}, 3, "gate-policy-diff-one.txt", "lockstep: policy house is different\n"},
		"with a preset":     {[]string{"careful", before, "--policy", "house"}, 3, "gate-policy-diff-preset.txt", "lockstep: policy house is different from careful\n"},
		"presets":           {[]string{"standard", "fast"}, 3, "gate-policy-diff-presets.txt", "lockstep: policy fast is different from standard\n"},
		"none":              {[]string{before, same}, 0, "", "Nothing is different.\n"},
		"none as JSON":      {[]string{before, same, "-o", "json"}, 0, "[]\n", ""},
		"with which":        {[]string{"careful", before}, 2, "", "lockstep: " + before + " has 2 policies; say which to compare: --policy NAME\n"},
		"no such":           {[]string{before, after, "--policy", "hose"}, 1, "", `lockstep: LS-GAT-012: there is no gate policy "hose" in ` + before + "; did you mean house?\n(lockstep explain LS-GAT-012)\n"},
		"only in one":       {[]string{before, after, "--policy", "come"}, 1, "", `there is no gate policy "come" in ` + before},
		"absent":            {[]string{"carefull", before}, 1, "", "lockstep: LS-GAT-011: read gate policies: open carefull: no such file or directory\n(lockstep explain LS-GAT-011)\n"},
		"not acceptable":    {[]string{file(t, "bad.yaml", "policies: [{name: a, mod: act}]"), before}, 1, "", "LS-GAT-010: the policies are not acceptable: "},
		"standard input":    {[]string{"-", "-"}, 2, "", "standard input can be read once; name a file for one of the two"},
		"one operand":       {[]string{before}, 2, "", "lockstep gate policy diff takes BEFORE AFTER, got 1 argument"},
		"added and nothing": {[]string{file(t, "one.yaml", somePolicies), same}, 3, "gate-policy-diff-added.txt", "lockstep: policy gone is added\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := runWith(t, t.Context(), "", append([]string{"gate", "policy", "diff", "--exit-code"}, tc.args...)...)
			got.wants(t, tc.code, tc.talk)
			if strings.HasPrefix(tc.golden, "gate-") {
				golden(t, tc.golden, got.out)
			} else if got.out != tc.golden {
				t.Errorf("printed %s", got.out)
			}
		})
	}
}

func TestGatePolicyShow(t *testing.T) {
	t.Parallel()
	path := file(t, "policies.yaml", somePolicies+"  - name: plain\n")
	got := runWith(t, t.Context(), "", "gate", "policy", "show", "house", "-f", path)
	got.wants(t, 0, "")
	golden(t, "gate-policy-show.yaml", got.out)

	// What is printed says the same when it is read again.
	again := runWith(t, t.Context(), got.out, "gate", "policy", "diff", path, "-", "--policy", "house")
	again.wants(t, 0, "Nothing is different.")

	for name, args := range map[string][]string{"the built-in ones": nil, "one": {"fast"}, "one, with a document": {"fast", "-f", path}} {
		got := runWith(t, t.Context(), "", append([]string{"gate", "policy", "show"}, args...)...)
		plans := gatefile.Presets()
		if len(args) > 0 {
			plans = plans[2:]
		}
		if got.code != 0 || !strings.HasSuffix(got.out, "\n"+gatefile.Marshal(plans...)) || !strings.HasPrefix(got.out, "# "+plans[0].Name+": hash "+plans[0].Hash()+"\n") {
			t.Errorf("%s: %s", name, got.out)
		}
	}
	if got := runWith(t, t.Context(), "", "gate", "policy", "show", "-f", path); strings.Count(got.out, "  - name: ") != 3 || !strings.Contains(got.out, "\n# plain: hash ") {
		t.Errorf("of the document %s", got.out)
	}
	var list []struct {
		Name, Hash, Mode string
		Statistics       struct{ Margin float64 }
	}
	got = runWith(t, t.Context(), "", "gate", "policy", "show", "fast", "-o", "json")
	if err := json.Unmarshal([]byte(got.out), &list); err != nil || len(list) != 1 || list[0].Name != "fast" || list[0].Hash != gatefile.Presets()[2].Hash() || list[0].Statistics.Margin != 4 {
		t.Errorf("%v in %s", err, got.out)
	}
	runWith(t, t.Context(), "", "gate", "policy", "show", "fst", "--server", "http://127.0.0.1:1", "--token-file", filepath.Join(t.TempDir(), "x")).
		wants(t, 1, `lockstep: gate policy "fst" is not built in (did you mean fast?), so the server was asked: LS-CFG-005: read the access token: there is no file `)
	runWith(t, t.Context(), "", "gate", "policy", "show", "wide", "-f", path).wants(t, 1, `there is no gate policy "wide" in `+path+"; there are house, plain, careful, standard, fast")
	runWith(t, t.Context(), "", "gate", "policy", "show", "a", "b").wants(t, 2, "takes one NAME or none, got 2 arguments")
	runWith(t, t.Context(), "", "gate", "policy", "show", "-f", filepath.Join(t.TempDir(), "x")).wants(t, 1, "LS-GAT-011: read gate policies: open ")
}

func TestGatePolicySchema(t *testing.T) {
	t.Parallel()
	want, err := gatefile.Schema()
	if err != nil {
		t.Fatal(err)
	}
	if got := runWith(t, t.Context(), "", "gate", "policy", "schema"); got.code != 0 || got.out != string(want) {
		t.Errorf("printed %s", got.out)
	}
}

func TestGatePolicyCompletion(t *testing.T) {
	t.Parallel()
	path := file(t, "policies.yaml", somePolicies)
	for want, args := range map[string][]string{
		"careful|standard|fast":       {"show", ""},
		"careful|standard|fast|house": {"show", "-f", path, ""},
		"table|json|yaml":             {"lint", "-o", ""},
	} {
		if got := runWith(t, t.Context(), "", append([]string{"__complete", "gate", "policy"}, args...)...); offered(got) != want {
			t.Errorf("%v offers %s", args, got.out)
		}
	}
	if got := runWith(t, t.Context(), "", "__complete", "gate", "policy", "diff", ""); !strings.HasPrefix(got.out, "careful\nstandard\nfast\n:0\n") {
		t.Errorf("an operand is offered %s", got.out)
	}
	f := serve(t, &fake{policies: namedPolicies(t)[2:]})
	o := cli.Options{Env: env("LOCKSTEP_SERVER_URL", f.url, "LOCKSTEP_TOKEN_FILE", f.token)}
	got := execute(t.Context(), o, "__complete", "gate", "policy", "show", "")
	if want := "fast\tact, built in|house\thold"; offered(got) != want {
		t.Errorf("a server offers %s", got.out)
	}
}

func (f *fake) ListPolicies(_ context.Context, r *gatev1.ListPoliciesRequest) (*gatev1.ListPoliciesResponse, error) {
	list, next := page(f.policies, r.GetPageToken())
	return &gatev1.ListPoliciesResponse{Policies: list, NextPageToken: next}, f.ask(r)
}

func (f *fake) ApplyPolicies(_ context.Context, r *gatev1.ApplyPoliciesRequest) (*gatev1.ApplyPoliciesResponse, error) {
	return f.applied, f.ask(r)
}

// namedPolicies are what a server lists: those of somePolicies behind the built-in
// ones.
func namedPolicies(t *testing.T) []*gatev1.NamedPolicy {
	t.Helper()
	own, err := gatefile.Read([]byte(somePolicies), "policies.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var list []*gatev1.NamedPolicy
	for _, p := range gatefile.Presets() {
		list = append(list, &gatev1.NamedPolicy{Plan: codec.GatePlanToProto(p), Hash: p.Hash(), BuiltIn: true})
	}
	for _, p := range own {
		list = append(list, &gatev1.NamedPolicy{Plan: codec.GatePlanToProto(p), Hash: p.Hash(), AppliedAt: at(26 * time.Hour), AppliedBy: "ada\x1b[2J"})
	}
	return list
}

func TestGatePolicyList(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{
		"gate-policy-list.txt":      nil,
		"gate-policy-list.json":     {"-o", "json"},
		"gate-policy-list.yaml":     {"-o", "yaml"},
		"gate-policy-list-name.txt": {"-o", "name"},
	} {
		f := serve(t, &fake{policies: namedPolicies(t)})
		got := f.run(t, append([]string{"gate", "policy", "list"}, args...)...)
		got.wants(t, 0, "")
		golden(t, name, got.out)
		if len(f.asked) != 2 {
			t.Errorf("%s: %d requests for two pages", name, len(f.asked))
		}
	}
	serve(t, &fake{fail: connect.NewError(connect.CodeUnavailable, "it starts")}).run(t, "gate", "policy", "list").wants(t, 1, "list gate policies: it starts")
}

func TestGatePolicyShowAsksTheServer(t *testing.T) {
	t.Parallel()
	path := file(t, "policies.yaml", somePolicies)
	fromFile := runWith(t, t.Context(), "", "gate", "policy", "show", "house", "-f", path)
	f := serve(t, &fake{policies: namedPolicies(t)})
	for _, name := range []string{"house", "policy/house"} {
		got := f.run(t, "gate", "policy", "show", name)
		got.wants(t, 0, "")
		if got.out != fromFile.out {
			t.Errorf("%s of the server is\n%s\nand of the document\n%s", name, got.out, fromFile.out)
		}
	}
	f.run(t, "gate", "policy", "show", "hose").wants(t, 1, `lockstep: LS-GAT-012: there is no gate policy "hose" on the server; --file names the document of others; did you mean house?`)

	// What is known without it is not asked for.
	f = serve(t, &fake{policies: namedPolicies(t)})
	for _, args := range [][]string{{"fast"}, {"house", "-f", path}, {}, {"-f", path}} {
		f.run(t, append([]string{"gate", "policy", "show"}, args...)...).wants(t, 0, "")
	}
	if len(f.asked) > 0 {
		t.Errorf("asked the server for %v", f.asked)
	}
}

func someChangedPolicies() *gatev1.ApplyPoliciesResponse {
	return &gatev1.ApplyPoliciesResponse{Changes: []*gatev1.PolicyChange{
		{Name: "careful-eu", Change: "created", After: strings.Repeat("ab", 32)},
		{Name: "house", Change: "changed", Before: strings.Repeat("cd", 32), After: strings.Repeat("ef", 32)},
		{Name: "night", Change: "unchanged", Before: strings.Repeat("01", 32), After: strings.Repeat("01", 32)},
	}}
}

func TestGatePolicyApply(t *testing.T) {
	t.Parallel()
	path := file(t, "policies.yaml", somePolicies)
	for name, tc := range map[string]struct {
		args []string
		dry  bool
	}{
		"gate-policy-apply.txt":      {nil, false},
		"gate-policy-apply-dry.txt":  {[]string{"--dry-run"}, true},
		"gate-policy-apply.json":     {[]string{"-o", "json"}, false},
		"gate-policy-apply-name.txt": {[]string{"-o", "name", "--dry-run"}, true},
	} {
		f := serve(t, &fake{applied: someChangedPolicies()})
		got := f.run(t, append([]string{"gate", "policy", "apply", "-f", path}, tc.args...)...)
		got.wants(t, 0, "")
		golden(t, name, got.out)
		askedFor(t, f, &gatev1.ApplyPoliciesRequest{Document: somePolicies, Name: path, DryRun: tc.dry})
	}
	f := serve(t, &fake{applied: someChangedPolicies()})
	f.answer(t, somePolicies, "gate", "policy", "apply", "-f", "-").wants(t, 0, "")
	askedFor(t, f, &gatev1.ApplyPoliciesRequest{Document: somePolicies, Name: "-"})
}

func TestGatePolicyApplyRefuses(t *testing.T) {
	t.Parallel()
	path := file(t, "policies.yaml", somePolicies)
	for name, tc := range map[string]struct {
		in   string
		args []string
		code int
		talk string
	}{
		"no document":      {"", nil, 2, "say which document: -f FILE, or -f - for standard input"},
		"an argument":      {"", []string{path}, 2, "lockstep gate policy apply takes no argument"},
		"no such file":     {"", []string{"-f", filepath.Join(filepath.Dir(path), "x")}, 1, "LS-GAT-011: read gate policies: open "},
		"a large document": {strings.Repeat("#", 1<<20+1), []string{"-f", "-"}, 1, "read gate policies: - is larger than 1 MiB, which a document may be; part it into several"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := serve(t, &fake{applied: someChangedPolicies()})
			got := f.answer(t, tc.in, append([]string{"gate", "policy", "apply"}, tc.args...)...)
			got.wants(t, tc.code, tc.talk)
			if len(f.asked) > 0 || got.out != "" {
				t.Errorf("asked for %v and printed %s", f.asked, got.out)
			}
		})
	}
	f := serve(t, &fake{fail: catalogued(connect.CodeInvalidArgument, "no policy is applied, as the document is not acceptable: policies.yaml:1:1: error: policies: there is none", "LS-GAT-040")})
	f.run(t, "gate", "policy", "apply", "-f", path).wants(t, 1, "policies.yaml: no policy is applied, as the document is not acceptable: policies.yaml:1:1: error: policies: there is none (LS-GAT-040)")
}
