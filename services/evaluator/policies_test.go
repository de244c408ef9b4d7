//go:build linux && amd64

package evaluator_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/gatefile"
	"github.com/lockstep-fleet/lockstep/kit/bus"
	"github.com/lockstep-fleet/lockstep/kit/errs"
	"github.com/lockstep-fleet/lockstep/kit/rpc"
	gatev1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1"
	"github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1/gatev1connect"
	"github.com/lockstep-fleet/lockstep/topology"
)

// twoPolicies is a document whose second policy extends the first.
const twoPolicies = `policies:
  - name: night
    extends: house
    mode: advise
  - name: house
    extends: careful
    step:
      rules: [{name: missing, when: inventory.missing > 1, verdict: hold, reason: Somebody has to look.}]
`

func (l *life) applyPolicies(document string, dry bool) (*gatev1.ApplyPoliciesResponse, error) {
	return l.gates.ApplyPolicies(l.w.t.Context(), &gatev1.ApplyPoliciesRequest{Document: document, Name: "house.yaml", DryRun: dry})
}

// mustApplyPolicies applies a document and words the answer.
func (l *life) mustApplyPolicies(document string, dry bool) []string {
	l.w.t.Helper()
	resp, err := l.applyPolicies(document, dry)
	if err != nil {
		l.w.t.Fatal(err)
	}
	return worded(resp)
}

func worded(resp *gatev1.ApplyPoliciesResponse) []string {
	var out []string
	for _, c := range resp.GetChanges() {
		out = append(out, c.GetName()+" "+c.GetChange())
	}
	return out
}

// policies lists the policies of the filters, each with its mode and whether it is
// built in.
func (l *life) policies(names ...string) []string {
	l.w.t.Helper()
	resp, err := l.gates.ListPolicies(l.w.t.Context(), &gatev1.ListPoliciesRequest{Names: names})
	if err != nil {
		l.w.t.Fatal(err)
	}
	var out []string
	for _, p := range resp.GetPolicies() {
		text := p.GetPlan().GetName() + " " + p.GetPlan().GetMode()
		if p.GetBuiltIn() {
			text += " built in"
		}
		out = append(out, text)
	}
	return out
}

// policyEvents are the events of a policy, oldest first.
func (w *world) policyEvents(name string) []*gatev1.PolicyEvent {
	w.t.Helper()
	var out []*gatev1.PolicyEvent
	if err := w.bus.Load(w.t.Context(), topology.StreamEvents, topology.EventSubject(fleet.DefaultTenant, topology.NounPolicy, name), func(m bus.Message) error {
		event := new(gatev1.PolicyEvent)
		out = append(out, event)
		return proto.Unmarshal(m.Data, event)
	}); err != nil {
		w.t.Fatal(err)
	}
	return out
}

func TestApplyPolicies(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := w.start()
	builtIn := []string{"careful act built in", "fast act built in", "standard act built in"}
	same(t, "policies at first", builtIn, l.policies())

	same(t, "a dry run", []string{"night created", "house created"}, l.mustApplyPolicies(twoPolicies, true))
	same(t, "policies after a dry run", builtIn, l.policies())
	same(t, "events after a dry run", 0, len(w.policyEvents("house")))

	resp, err := l.applyPolicies(twoPolicies, false)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "the first time", []string{"night created", "house created"}, worded(resp))
	house := resp.GetChanges()[1]
	if house.GetBefore() != "" || len(house.GetAfter()) != 64 {
		t.Errorf("a new policy has the hashes %q and %q", house.GetBefore(), house.GetAfter())
	}
	all := []string{"careful act built in", "fast act built in", "house act", "night advise", "standard act built in"}
	same(t, "policies", all, l.policies())
	same(t, "of some names", []string{"fast act built in", "night advise"}, l.policies("night", "fast", "none"))

	w.advance(1)
	same(t, "again", []string{"night unchanged", "house unchanged"}, l.mustApplyPolicies(twoPolicies, false))
	same(t, "alone and in other words", []string{"night unchanged"}, l.mustApplyPolicies(`{"policies": [{"name": "night", "extends": "careful", "mode": "advise",
		"step": {"rules": [{"name": "missing", "when": "(inventory.missing) > (1)", "verdict": "hold", "reason": "Somebody has to look."}]}}]}`, false))
	same(t, "events of three documents", []int{1, 1}, []int{len(w.policyEvents("house")), len(w.policyEvents("night"))})

	changed := strings.Replace(twoPolicies, "mode: advise", "mode: shadow", 1)
	same(t, "a dry run of a change", []string{"night changed", "house unchanged"}, l.mustApplyPolicies(changed, true))
	resp, err = l.applyPolicies(changed, false)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "a change", []string{"night changed", "house unchanged"}, worded(resp))
	if c := resp.GetChanges(); c[0].GetBefore() == c[0].GetAfter() || c[1].GetBefore() != house.GetAfter() || c[1].GetAfter() != house.GetAfter() {
		t.Errorf("the hashes of the changes are %v", c)
	}
	same(t, "the changed one", []string{"night shadow"}, l.policies("night"))
	events := w.policyEvents("night")
	if len(events) != 2 || events[1].GetPlan().GetMode() != "shadow" || !events[1].GetAt().AsTime().Equal(w.now()) {
		t.Errorf("the change is recorded as %v", events)
	}

	// A policy that others extend changes them, too.
	same(t, "what two policies say", []string{"night changed", "house changed"}, l.mustApplyPolicies(strings.Replace(changed, "> 1", "> 2", 1), false))
}

// A policy is listed as it was read, with its hash and when it was applied.
func TestAppliedPoliciesAreListedWhole(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := w.start()
	l.mustApplyPolicies(twoPolicies, false)
	plans, err := gatefile.Read([]byte(twoPolicies), "house.yaml")
	if err != nil {
		t.Fatal(err)
	}
	want := plans[1]
	for what, life := range map[string]func() *life{"at once": func() *life { return l }, "after a restart": func() *life { l.stop(); return w.start() }} {
		resp, err := life().gates.ListPolicies(t.Context(), &gatev1.ListPoliciesRequest{Names: []string{"house"}})
		if err != nil || len(resp.GetPolicies()) != 1 {
			t.Fatalf("%s: %v, %v", what, resp, err)
		}
		p := resp.GetPolicies()[0]
		got := codec.GatePlanFromProto(p.GetPlan())
		same(t, what, want, got)
		if p.GetHash() != want.Hash() || got.Hash() != want.Hash() || !p.GetAppliedAt().AsTime().Equal(w.now()) || p.GetBuiltIn() {
			t.Errorf("%s: house is %v", what, p)
		}
	}
}

func TestListPoliciesPages(t *testing.T) {
	t.Parallel()
	l := newWorld(t).start()
	l.mustApplyPolicies(twoPolicies, false)
	var names []string
	for req := (&gatev1.ListPoliciesRequest{PageSize: 2}); ; {
		resp, err := l.gates.ListPolicies(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		if n := len(resp.GetPolicies()); n == 0 || n > 2 {
			t.Fatalf("a page of two has %d policies", n)
		}
		for _, p := range resp.GetPolicies() {
			names = append(names, p.GetPlan().GetName())
		}
		if req.PageToken = resp.GetNextPageToken(); req.GetPageToken() == "" {
			break
		}
	}
	same(t, "all pages", []string{"careful", "fast", "house", "night", "standard"}, names)
}

func TestApplyPoliciesRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := w.start()
	many := "policies:\n"
	for i := range 150 {
		many += fmt.Sprintf("  - {name: p%d, mod: act}\n", i)
	}
	for name, tc := range map[string]struct {
		document string
		told     []string
	}{
		"all problems at once": {twoPolicies + "  - name: bad\n    mod: act\n    statistics: {alpha: 2}\n", []string{
			"house.yaml:10:5: error: policies[2].mod: unknown key; did you mean mode?; house.yaml:11:25: error: policies[2].statistics.alpha: 2 is out of range",
		}},
		"a built-in name": {twoPolicies + "  - name: careful\n", []string{"house.yaml:9:11: error: policies[2].name: careful is built in"}},
		"a rule":          {strings.Replace(twoPolicies, "inventory.missing", "inventory.mising", 1), []string{"house.yaml:8:", "did you mean missing?"}},
		"no policy":       {"policies: []\n", []string{"house.yaml:1:", "there is none"}},
		"a long list":     {many, []string{"house.yaml:2:", "policies[99].mod", "; and 50 more"}},
	} {
		for _, dry := range []bool{true, false} {
			_, err := l.applyPolicies(tc.document, dry)
			refused(t, err, "LS-GAT-040", append(tc.told, "no policy is applied")...)
			if errs.KindOf(err) != errs.Invalid {
				t.Errorf("%s is refused as %s", name, errs.KindOf(err))
			}
		}
	}
	_, err := l.gates.ApplyPolicies(t.Context(), &gatev1.ApplyPoliciesRequest{Document: "policies: []"})
	refused(t, err, "LS-GAT-040", ": document:1:")
	if n := len(events(t, w)); n > 0 {
		t.Errorf("%d events of documents that were refused", n)
	}
}

func TestAppliedPoliciesOutliveARestart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := w.start()
	l.mustApplyPolicies(twoPolicies, false)
	before := l.policies()
	l.stop()
	l = w.start()
	same(t, "policies after a restart", before, l.policies())
	same(t, "the document again", []string{"night unchanged", "house unchanged"}, l.mustApplyPolicies(twoPolicies, false))
	changed := strings.Replace(twoPolicies, "mode: advise", "mode: hold", 1)
	same(t, "a change", []string{"night changed", "house unchanged"}, l.mustApplyPolicies(changed, false))
}

func TestAnotherEvaluatorHearsOfPolicies(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first, second := w.start(), w.start()
	first.mustApplyPolicies(twoPolicies, false)
	await(t, "the other's hearing of two policies", func() bool { return len(second.policies("house", "night")) == 2 })
	changed := strings.Replace(twoPolicies, "mode: advise", "mode: hold", 1)
	same(t, "a change through the other", []string{"night changed", "house unchanged"}, second.mustApplyPolicies(changed, false))
	await(t, "the change where it was created", func() bool { return first.policies("night")[0] == "night hold" })
	same(t, "the same through the first", []string{"night unchanged", "house unchanged"}, first.mustApplyPolicies(changed, false))
	same(t, "events", []int{2, 1}, []int{len(w.policyEvents("night")), len(w.policyEvents("house"))})
}

// Of two who change a policy at the same time one is refused, and nothing is lost.
func TestPoliciesChangedAtTheSameTime(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	changed := strings.Replace(twoPolicies, "mode: advise", "mode: hold", 1)
	other := w.start()
	// What the other records comes between this one's look and its own record.
	var once sync.Once
	w.appends = func(m bus.Message) {
		if strings.HasSuffix(m.Subject, ".house") {
			once.Do(func() { other.mustApplyPolicies(changed, false) })
		}
	}
	late := w.start()
	w.appends = nil
	_, err := late.applyPolicies("policies:\n  - {name: early}\n  - {name: house}\n  - {name: never}\n", false)
	refused(t, err, "LS-GAT-041", "policy house was changed at the same time", "lockstep gate policy show house")
	if errs.KindOf(err) != errs.Conflict {
		t.Errorf("the late one is refused as %s", errs.KindOf(err))
	}
	same(t, "what came first", []string{"early act", "house act"}, late.policies("early", "house", "never"))
	same(t, "events of house", 1, len(w.policyEvents("house")))
	same(t, "the same once more", []string{"house changed"}, late.mustApplyPolicies("policies: [{name: house}]", false))
	same(t, "events of house", 2, len(w.policyEvents("house")))
}

// A name that became that of a built-in policy is the built-in one's.
func TestABuiltInPolicyHidesAnAppliedOne(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	l := w.start()
	l.mustApplyPolicies(twoPolicies, false)
	event := w.policyEvents("night")[0]
	event.Plan.Name = "fast"
	w.event(topology.NounPolicy, "fast", event)
	l.stop()
	same(t, "the built-in one", []string{"fast act built in"}, w.start().policies("fast"))
}

// Who applied a policy is who called.
func TestWhoAppliedAPolicy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	gates := w.start().called("ada")
	if _, err := gates.ApplyPolicies(t.Context(), &gatev1.ApplyPoliciesRequest{Document: twoPolicies}); err != nil {
		t.Fatal(err)
	}
	resp, err := gates.ListPolicies(t.Context(), &gatev1.ListPoliciesRequest{Names: []string{"house"}})
	if err != nil || len(resp.GetPolicies()) != 1 || resp.GetPolicies()[0].GetAppliedBy() != "ada" {
		t.Errorf("house is %v, %v", resp, err)
	}
	same(t, "recorded", "ada", w.policyEvents("house")[0].GetBy())
}

// called is the evaluator's API as somebody reaches it.
func (l *life) called(name string) gatev1connect.GateServiceClient {
	l.w.t.Helper()
	const token = "lst_test"
	tokens, err := rpc.NewTokens(rpc.Token{Hash: rpc.HashToken(token), Principal: rpc.Principal{Name: name, Role: rpc.Admin}})
	if err != nil {
		l.w.t.Fatal(err)
	}
	api, err := rpc.NewServer(rpc.Options{
		Log: slog.New(slog.DiscardHandler), Auth: tokens, Needs: func(string) (rpc.Role, bool) { return rpc.Admin, true },
	})
	if err != nil {
		l.w.t.Fatal(err)
	}
	gatev1connect.RegisterGateServiceHandler(api.Server, l.gates)
	mux := http.NewServeMux()
	api.Mount(mux)
	server := httptest.NewServer(mux)
	l.w.t.Cleanup(server.Close)
	client, err := rpc.NewClient(rpc.ClientOptions{URL: server.URL, Token: token})
	if err != nil {
		l.w.t.Fatal(err)
	}
	l.w.t.Cleanup(client.Close)
	return gatev1connect.NewGateServiceClient(client.Client)
}
