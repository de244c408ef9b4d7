package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/lockstep-fleet/lockstep/cmd/lockstep/internal/cli"
	"github.com/lockstep-fleet/lockstep/domain/gate"
	"github.com/lockstep-fleet/lockstep/gatefile"
	gatev1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1"
	"github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1/gatev1connect"
)

// past is a server that has scripted history.
type past struct {
	gatev1connect.UnimplementedGateServiceHandler
	tells []*gatev1.BacktestPolicyResponse
	end   func(ctx context.Context) error // what the call ends with
	asked []*gatev1.BacktestPolicyRequest
}

func (p *past) BacktestPolicy(ctx context.Context, r *gatev1.BacktestPolicyRequest, stream gatev1connect.GateServiceBacktestPolicyServerStream) error {
	p.asked = append(p.asked, r)
	for _, m := range p.tells {
		if err := stream.Send(m); err != nil {
			return err
		}
	}
	if p.end != nil {
		return p.end(ctx)
	}
	return nil
}

func (p *past) serve(t *testing.T) *fake {
	t.Helper()
	server := connect.NewServer()
	gatev1connect.RegisterGateServiceHandler(server, p)
	mux := http.NewServeMux()
	connecthttp.Mount(mux, server)
	web := httptest.NewServer(mux)
	t.Cleanup(web.Close)
	return &fake{url: web.URL, token: file(t, "admin.token", "right\n")}
}

func hours(n float64) *durationpb.Duration {
	return durationpb.New(time.Duration(n * float64(time.Hour)))
}

func backtested(complete bool) *gatev1.BacktestReport {
	sum := func(pass, fail, hold, inconclusive int64) *gatev1.BacktestSum {
		n := pass + fail + hold + inconclusive
		m := &gatev1.BacktestSum{Pass: pass, Fail: fail, Hold: hold, Inconclusive: inconclusive, FailedHigh: 1}
		if n > 0 {
			m.FailedShare, m.DecidedShare = float64(fail)/float64(n), float64(pass+fail)/float64(n)
			m.FailedLow, m.FailedHigh = m.GetFailedShare()/2, min(1, m.GetFailedShare()+0.02)
			m.Held = &gatev1.BacktestTimes{Total: hours(3 * float64(n)), Median: hours(3), P90: hours(4)}
			m.Exposed = &gatev1.BacktestCounts{Total: 1200 * n, Median: 1200, P90: 1600}
		}
		if fail > 0 {
			m.ToFail = &gatev1.BacktestTimes{Total: hours(float64(fail)), Median: hours(0.5), P90: hours(2)}
			m.ToFailExposed = &gatev1.BacktestCounts{Total: 90 * fail, Median: 90, P90: 400}
		}
		return m
	}
	innocent := sum(190, 1, 2, 47)
	innocent.Empty, innocent.Unfinished = 3, 1
	none := sum(0, 0, 0, 0)
	return &gatev1.BacktestReport{
		Complete: complete, From: at(180 * 24 * time.Hour), To: at(0), Clusters: 12, Seed: 1, Lookback: hours(24),
		Skipped: []*gatev1.BacktestSkip{{Cluster: "rome", Reason: "no session of it is known from that time"}},
		Cases: []*gatev1.BacktestCase{
			{Name: "policy", Tolerance: 1.25, Fake: innocent, Stayed: sum(9, 1, 0, 2), RolledBack: sum(0, 2, 0, 1), Unsettled: none},
			{Name: "policy", Tolerance: 1.25, Injected: 0.02, Fake: sum(12, 60, 0, 168)},
			{Name: "policy", Tolerance: 1.25, Injected: 0.1, Fake: sum(0, 238, 0, 2)},
			{Name: "against", Tolerance: 1, Fake: sum(150, 9, 0, 81), Stayed: sum(8, 3, 0, 1), RolledBack: sum(0, 3, 0, 0), Unsettled: none},
			{Name: "tolerance", Tolerance: 1.5, Fake: sum(190, 0, 0, 50), Stayed: sum(12, 0, 0, 0), RolledBack: none, Unsettled: none},
		},
		Steps: []*gatev1.BacktestStep{
			{Cluster: "berlin", Gate: "r1-berlin-sra", At: at(40 * 24 * time.Hour), Outcome: "rolled_back",
				Policy: &gatev1.BacktestVerdict{Verdict: "inconclusive", Held: hours(4)}, Against: &gatev1.BacktestVerdict{Verdict: "fail", Held: hours(2)}},
			{Cluster: "berlin", Gate: "r2-berlin-sra", At: at(30 * 24 * time.Hour), Outcome: "stayed",
				Policy: &gatev1.BacktestVerdict{Verdict: "pass", Held: hours(4)}, Against: &gatev1.BacktestVerdict{Verdict: "pass", Held: hours(2)}},
		},
		MoreSteps:   5,
		Calibration: &gatev1.BacktestCalibration{Alpha: 0.01, Tolerance: 1.25, Untried: []float64{2}},
	}
}

func TestGateBacktest(t *testing.T) {
	t.Parallel()
	progress := func(done int64) *gatev1.BacktestPolicyResponse {
		return &gatev1.BacktestPolicyResponse{Progress: &gatev1.BacktestProgress{Clusters: 30, ClustersDone: done, Rows: done * 100_000}}
	}
	p := &past{}
	for done := range int64(31) {
		p.tells = append(p.tells, progress(done))
	}
	p.tells[30].Report = backtested(true)
	f := p.serve(t)
	got := f.run(t, "gate", "backtest", "-f", "fast", "--against", "careful", "--inject", "2,10", "--calibrate", "--since", "90d", "--cluster", "cluster/berlin", "-l", "env=prod",
		"--steps", "40", "--lookback", "7d", "--seed", "9")
	got.wants(t, 0, "30 of 30 clusters replayed, 3,000,000 rows")
	golden(t, "gate-backtest.txt", got.out)
	if lines := strings.Count(got.err, "\n"); lines != 10 {
		t.Errorf("%d lines of progress:\n%s", lines, got.err)
	}
	if r := p.asked[0]; r.GetPolicy().GetDeadline() == nil || r.GetAgainst().GetAlpha() == 0 || len(r.GetInject()) != 2 || r.GetInject()[0] != 0.02 || !r.GetCalibrate() ||
		r.GetFrom().AsTime() != noon().AddDate(0, 0, -90) || r.GetClusters()[0] != "berlin" || r.GetLabelSelector() != "env=prod" || r.GetSteps() != 40 || r.GetSeed() != 9 ||
		r.GetLookback().AsDuration() != 7*24*time.Hour {
		t.Errorf("asked for %v", r)
	}
	got = f.run(t, "gate", "backtest", "-f", "fast", "-o", "json")
	got.wants(t, 0, "")
	var doc struct {
		Complete bool `json:"complete"`
		Cases    []struct {
			Fake struct {
				Fail string `json:"fail"`
			} `json:"fake"`
		} `json:"cases"`
	}
	if err := json.Unmarshal([]byte(got.out), &doc); err != nil || !doc.Complete || doc.Cases[0].Fake.Fail != "1" {
		t.Errorf("%v: %+v", err, doc)
	}
	// A policy of one's own.
	own := file(t, "policies.yaml", gatefile.Marshal(func() (all []gate.Plan) {
		for i, p := range gatefile.Presets()[:2] {
			p.Name = []string{"house", "barn"}[i]
			all = append(all, p)
		}
		return all
	}()...))
	f.run(t, "gate", "backtest", "-f", own, "--policy", "barn").wants(t, 0, "")
	f.run(t, "gate", "backtest", "-f", own).wants(t, 2, "has 2 policies; say which to try: --policy NAME")
	f.run(t, "gate", "backtest", "-f", own, "--policy", "shed").wants(t, 1, "LS-GAT-012")
}

func TestGateBacktestAsks(t *testing.T) {
	t.Parallel()
	p := &past{}
	f := p.serve(t)
	for talk, args := range map[string][]string{
		"say which policy":                          {},
		"standard input can be read once":           {"-f", "-", "--against", "-"},
		`--lookback "soon" is not a length of time`: {"-f", "fast", "--lookback", "soon"},
		`--lookback "10m" is not a length of time`:  {"-f", "fast", "--lookback", "10m"},
		"--steps 0 is not from 1 to 500":            {"-f", "fast", "--steps", "0"},
		"--seed -1 is below 0":                      {"-f", "fast", "--seed", "-1"},
		"--inject 0 is not a percentage":            {"-f", "fast", "--inject", "0"},
		"--inject 101 is not a percentage":          {"-f", "fast", "--inject", "1,101"},
		`--since "then" is neither`:                 {"-f", "fast", "--since", "then"},
		`"Berlin!" is not the id of a cluster`:      {"-f", "fast", "--cluster", "Berlin!"},
	} {
		f.run(t, append([]string{"gate", "backtest"}, args...)...).wants(t, 2, talk)
	}
	if len(p.asked) > 0 {
		t.Errorf("the server was asked for %v", p.asked)
	}
}

// trigger is a writer that does something once it has been given a word.
type trigger struct {
	bytes.Buffer
	word string
	then func()
}

func (w *trigger) Write(text []byte) (int, error) {
	if strings.Contains(string(text), w.word) {
		w.then()
	}
	return w.Buffer.Write(text)
}

// What is known is printed even if the rest never comes.
func TestGateBacktestThatIsCutShort(t *testing.T) {
	t.Parallel()
	some := &gatev1.BacktestPolicyResponse{Progress: &gatev1.BacktestProgress{Clusters: 30, ClustersDone: 12}, Report: backtested(false)}
	p := &past{tells: []*gatev1.BacktestPolicyResponse{some}}
	f := p.serve(t)
	const incomplete = "INCOMPLETE: not every cluster was replayed."
	got := f.run(t, "gate", "backtest", "-f", "fast")
	if got.wants(t, 1, "the server ended before all was replayed"); !strings.HasPrefix(got.out, incomplete) {
		t.Errorf("printed %s", got.out)
	}
	f = (&past{tells: p.tells, end: func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	}}).serve(t)
	// Interrupted once progress is told.
	ctx, interrupt := context.WithCancel(t.Context())
	talk := &trigger{word: "12 of 30", then: interrupt}
	var out bytes.Buffer
	root := cli.New(cli.Options{In: strings.NewReader(""), Env: env(), Environ: func() []string { return nil }, Now: noon, Out: &out, Err: talk})
	root.SetArgs([]string{"gate", "backtest", "-f", "fast", "--server", f.url, "--token-file", f.token})
	code := cli.ExitCode(root.ExecuteContext(ctx))
	got = result{out.String(), talk.String(), code}
	if got.wants(t, 1, "try the policy on history: interrupted"); !strings.HasPrefix(got.out, incomplete) {
		t.Errorf("interrupted, it printed %s", got.out)
	}
	f = (&past{end: func(context.Context) error {
		return catalogued(connect.CodeNotFound, "no cluster matches", "LS-GAT-031")
	}}).serve(t)
	got = f.run(t, "gate", "backtest", "-f", "fast")
	if got.wants(t, 1, "try the policy on history: no cluster matches (LS-GAT-031)"); got.out != "" {
		t.Errorf("refused, it printed %s", got.out)
	}
}
