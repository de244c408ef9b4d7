package cli_test

import (
	"bytes"
	"context"
	"flag"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"connectrpc.com/connect/v2/connectproto"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lockstep-fleet/lockstep/cmd/lockstep/internal/cli"
	catalogv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/catalog/v1"
	"github.com/lockstep-fleet/lockstep/proto/gen/lockstep/catalog/v1/catalogv1connect"
	driftv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/drift/v1"
	"github.com/lockstep-fleet/lockstep/proto/gen/lockstep/drift/v1/driftv1connect"
	fleetv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/fleet/v1"
	"github.com/lockstep-fleet/lockstep/proto/gen/lockstep/fleet/v1/fleetv1connect"
	gatev1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1"
	"github.com/lockstep-fleet/lockstep/proto/gen/lockstep/gate/v1/gatev1connect"
	observationv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/observation/v1"
	"github.com/lockstep-fleet/lockstep/proto/gen/lockstep/observation/v1/observationv1connect"
	rolloutv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/rollout/v1"
	"github.com/lockstep-fleet/lockstep/proto/gen/lockstep/rollout/v1/rolloutv1connect"
)

var update = flag.Bool("update", false, "write the golden files anew")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (-want +got), -update writes it anew:\n%s", path, diff)
	}
}

// noon is when every test takes place.
func noon() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

// at is a time so long before noon.
func at(before time.Duration) *timestamppb.Timestamp { return timestamppb.New(noon().Add(-before)) }

// fake is a server with scripted answers; it serves pages of two.
type fake struct {
	fleetv1connect.UnimplementedFleetServiceHandler
	driftv1connect.UnimplementedDriftServiceHandler
	catalogv1connect.UnimplementedCatalogServiceHandler
	rolloutv1connect.UnimplementedRolloutServiceHandler
	gatev1connect.UnimplementedGateServiceHandler
	observationv1connect.UnimplementedObservationServiceHandler

	url   string
	token string // the path of the file

	mu          sync.Mutex
	fleet       []*fleetv1.Cluster
	looks       [][]*fleetv1.WatchClustersResponse // one a stream, which then ends; the last hangs
	shown       func()                             // called when the last of looks is sent
	drifts      []*driftv1.Drift
	periods     []*driftv1.Period
	story       *driftv1.ExplainDriftResponse
	mixed       *driftv1.SumMixedTimeResponse
	adopted     []*driftv1.Adoption
	came        []*driftv1.Convergence
	impact      *driftv1.SumImpactResponse
	baseline    []*driftv1.Baseline
	compared    *driftv1.CompareBaselineResponse
	releases    []*catalogv1.Entry
	graph       *catalogv1.GetGraphResponse
	assessed    []*catalogv1.Assessment
	acked       *catalogv1.GetAcknowledgementsResponse
	imported    func(*catalogv1.ImportReleasesRequest) (*catalogv1.ImportReleasesResponse, error)
	assigned    []*fleetv1.AssignedCluster
	changes     *fleetv1.ApplyFleetResponse
	document    string
	frozen      *rolloutv1.Freeze
	planChanges []*rolloutv1.ClusterChanges
	problems    []*rolloutv1.Problem
	idle        bool // the plan moves no cluster
	rollouts    []*rolloutv1.Rollout
	watches     [][]*rolloutv1.Rollout // one a stream; what follows is an error or hangs
	after       []string               // what ends each stream: "", "drop", "unknown" or "hang"
	gates       []*gatev1.Gate
	replay      *gatev1.ReplayGateResponse
	policies    []*gatev1.NamedPolicy
	applied     *gatev1.ApplyPoliciesResponse
	records     [][]*observationv1.Record // one a stream, which then ends; the last hangs if it is followed
	fail        error

	asked    []proto.Message // of the services of fleet, drift and catalogue
	started  []*rolloutv1.StartRolloutRequest
	planned  []*rolloutv1.PlanRolloutRequest
	backed   []*rolloutv1.RollbackRolloutRequest
	steered  []proto.Message
	gateAsks []*gatev1.ListGatesRequest
	observed []*observationv1.WatchObservationsRequest
}

func serve(t *testing.T, f *fake) *fake {
	t.Helper()
	server := connect.NewServer()
	fleetv1connect.RegisterFleetServiceHandler(server, f)
	driftv1connect.RegisterDriftServiceHandler(server, f)
	catalogv1connect.RegisterCatalogServiceHandler(server, f)
	rolloutv1connect.RegisterRolloutServiceHandler(server, f)
	gatev1connect.RegisterGateServiceHandler(server, f)
	observationv1connect.RegisterObservationServiceHandler(server, f)
	mux := http.NewServeMux()
	connecthttp.Mount(mux, server)
	refuse := connecthttp.NewErrorWriter()
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer right" {
			_ = refuse.Write(w, r, connect.NewError(connect.CodeUnauthenticated, "no"))
			return
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(web.Close)
	f.url = web.URL
	f.token = file(t, "admin.token", "right\n")
	return f
}

func file(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// result is what a command left behind, with the server's address and folders
// of the test replaced.
type result struct {
	out, err string
	code     int
}

func (f *fake) run(t *testing.T, args ...string) result {
	t.Helper()
	return runWith(t, t.Context(), "", append(args, "--server", f.url, "--token-file", f.token)...)
}

func (f *fake) answer(t *testing.T, in string, args ...string) result {
	t.Helper()
	return runWith(t, t.Context(), in, append(args, "--server", f.url, "--token-file", f.token)...)
}

func runWith(t *testing.T, ctx context.Context, in string, args ...string) result {
	t.Helper()
	return execute(ctx, cli.Options{In: strings.NewReader(in), Env: env()}, args...)
}

func execute(ctx context.Context, o cli.Options, args ...string) result {
	var out, talk bytes.Buffer
	o.Out, o.Err, o.Now = &out, &talk, noon
	o.ID = func() string { return "fresh" }
	if o.Environ == nil {
		o.Environ = func() []string { return nil }
	}
	o.Version = cli.Version{Version: "1.2.3", Commit: "abc", Go: "go1.26"}
	root := cli.New(o)
	root.SetArgs(append([]string{}, args...)) // cobra takes the test's own arguments when given nil
	err := root.ExecuteContext(ctx)
	return result{out.String(), talk.String(), cli.ExitCode(err)}
}

func env(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

func (r result) wants(t *testing.T, code int, talk string) {
	t.Helper()
	if r.code != code || !strings.Contains(r.err, talk) {
		t.Errorf("exit code %d, want %d, and %q in:\n%s%s", r.code, code, talk, r.out, r.err)
	}
}

// page cuts a list into pages of two.
func page[T any](list []T, token string) ([]T, string) {
	from, _ := strconv.Atoi(token)
	if rest := list[from:]; len(rest) <= 2 {
		return rest, ""
	}
	return list[from : from+2], strconv.Itoa(from + 2)
}

// ask records a request and returns the error to answer it with.
func (f *fake) ask(r proto.Message) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked = append(f.asked, r)
	return f.fail
}

// asks is the one request of its type, but for the pages behind the first.
func asks[M proto.Message](t *testing.T, f *fake) M {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	var zero M
	for _, r := range f.asked {
		if m, ok := r.(M); ok {
			return m
		}
	}
	t.Fatalf("no %T among the requests %v", zero, f.asked)
	return zero
}

// askedFor compares the request of its type with the one wanted.
func askedFor[M proto.Message](t *testing.T, f *fake, want M) {
	t.Helper()
	if diff := cmp.Diff(want, asks[M](t, f), protocmp.Transform()); diff != "" {
		t.Errorf("the request (-want +got):\n%s", diff)
	}
}

func (f *fake) ListClusters(_ context.Context, r *fleetv1.ListClustersRequest) (*fleetv1.ListClustersResponse, error) {
	if err := f.ask(r); err != nil {
		return nil, err
	}
	// Of the filters it knows the ids and the states.
	var matching []*fleetv1.Cluster
	for _, c := range f.fleet {
		if (len(r.GetIds()) == 0 || slices.Contains(r.GetIds(), c.GetId())) && (len(r.GetStates()) == 0 || slices.Contains(r.GetStates(), c.GetState())) {
			matching = append(matching, c)
		}
	}
	list, next := page(matching, r.GetPageToken())
	return &fleetv1.ListClustersResponse{Clusters: list, NextPageToken: next}, nil
}

func (f *fake) WatchClusters(ctx context.Context, r *fleetv1.WatchClustersRequest, stream fleetv1connect.FleetServiceWatchClustersServerStream) error {
	if err := f.ask(r); err != nil {
		return err
	}
	f.mu.Lock()
	var send []*fleetv1.WatchClustersResponse
	if len(f.looks) > 0 {
		send, f.looks = f.looks[0], f.looks[1:]
	}
	last := len(f.looks) == 0
	f.mu.Unlock()
	for _, m := range send {
		if err := stream.Send(m); err != nil {
			return err
		}
	}
	if last {
		if f.shown != nil {
			f.shown()
		}
		<-ctx.Done()
	}
	return nil
}

func (f *fake) AssignRelease(_ context.Context, r *fleetv1.AssignReleaseRequest) (*fleetv1.AssignReleaseResponse, error) {
	return &fleetv1.AssignReleaseResponse{Clusters: f.assigned}, f.ask(r)
}

func (f *fake) ApplyFleet(_ context.Context, r *fleetv1.ApplyFleetRequest) (*fleetv1.ApplyFleetResponse, error) {
	return f.changes, f.ask(r)
}

func (f *fake) ExportFleet(_ context.Context, r *fleetv1.ExportFleetRequest) (*fleetv1.ExportFleetResponse, error) {
	return &fleetv1.ExportFleetResponse{Document: f.document}, f.ask(r)
}

func (f *fake) ListDrifts(_ context.Context, r *driftv1.ListDriftsRequest) (*driftv1.ListDriftsResponse, error) {
	list, next := page(f.drifts, r.GetPageToken())
	return &driftv1.ListDriftsResponse{Drifts: list, NextPageToken: next}, f.ask(r)
}

func (f *fake) ListPeriods(_ context.Context, r *driftv1.ListPeriodsRequest) (*driftv1.ListPeriodsResponse, error) {
	return &driftv1.ListPeriodsResponse{Periods: f.periods}, f.ask(r)
}

func (f *fake) ExplainDrift(_ context.Context, r *driftv1.ExplainDriftRequest) (*driftv1.ExplainDriftResponse, error) {
	return f.story, f.ask(r)
}

func (f *fake) SumMixedTime(_ context.Context, r *driftv1.SumMixedTimeRequest) (*driftv1.SumMixedTimeResponse, error) {
	return f.mixed, f.ask(r)
}

func (f *fake) SumAdoption(_ context.Context, r *driftv1.SumAdoptionRequest) (*driftv1.SumAdoptionResponse, error) {
	return &driftv1.SumAdoptionResponse{Rows: f.adopted}, f.ask(r)
}

func (f *fake) SumConvergence(_ context.Context, r *driftv1.SumConvergenceRequest) (*driftv1.SumConvergenceResponse, error) {
	return &driftv1.SumConvergenceResponse{Rows: f.came}, f.ask(r)
}

func (f *fake) SumImpact(_ context.Context, r *driftv1.SumImpactRequest) (*driftv1.SumImpactResponse, error) {
	return f.impact, f.ask(r)
}

func (f *fake) CaptureBaseline(_ context.Context, r *driftv1.CaptureBaselineRequest) (*driftv1.CaptureBaselineResponse, error) {
	return &driftv1.CaptureBaselineResponse{Baselines: f.baseline}, f.ask(r)
}

func (f *fake) ListBaselines(_ context.Context, r *driftv1.ListBaselinesRequest) (*driftv1.ListBaselinesResponse, error) {
	return &driftv1.ListBaselinesResponse{Baselines: f.baseline}, f.ask(r)
}

func (f *fake) GetBaseline(_ context.Context, r *driftv1.GetBaselineRequest) (*driftv1.GetBaselineResponse, error) {
	if err := f.ask(r); err != nil {
		return nil, err
	}
	for _, b := range f.baseline {
		if b.GetId() == r.GetId() {
			return &driftv1.GetBaselineResponse{Baseline: b}, nil
		}
	}
	return nil, connect.NewError(connect.CodeNotFound, "there is no baseline "+r.GetId())
}

func (f *fake) CompareBaseline(_ context.Context, r *driftv1.CompareBaselineRequest) (*driftv1.CompareBaselineResponse, error) {
	return f.compared, f.ask(r)
}

func (f *fake) ListReleases(_ context.Context, r *catalogv1.ListReleasesRequest) (*catalogv1.ListReleasesResponse, error) {
	list, next := page(f.releases, r.GetPageToken())
	return &catalogv1.ListReleasesResponse{Releases: list, NextPageToken: next}, f.ask(r)
}

func (f *fake) GetGraph(_ context.Context, r *catalogv1.GetGraphRequest) (*catalogv1.GetGraphResponse, error) {
	return f.graph, f.ask(r)
}

func (f *fake) AssessMove(_ context.Context, r *catalogv1.AssessMoveRequest) (*catalogv1.AssessMoveResponse, error) {
	return &catalogv1.AssessMoveResponse{Assessments: f.assessed}, f.ask(r)
}

func (f *fake) ImportReleases(_ context.Context, r *catalogv1.ImportReleasesRequest) (*catalogv1.ImportReleasesResponse, error) {
	if err := f.ask(r); err != nil {
		return nil, err
	}
	return f.imported(r)
}

func (f *fake) BlockRelease(_ context.Context, r *catalogv1.BlockReleaseRequest) (*catalogv1.BlockReleaseResponse, error) {
	return &catalogv1.BlockReleaseResponse{Release: f.releases[0]}, f.ask(r)
}

func (f *fake) UnblockRelease(_ context.Context, r *catalogv1.UnblockReleaseRequest) (*catalogv1.UnblockReleaseResponse, error) {
	return &catalogv1.UnblockReleaseResponse{Release: f.releases[0]}, f.ask(r)
}

func (f *fake) AcknowledgeRisk(_ context.Context, r *catalogv1.AcknowledgeRiskRequest) (*catalogv1.AcknowledgeRiskResponse, error) {
	return &catalogv1.AcknowledgeRiskResponse{Acknowledgement: f.acked.GetAcknowledgements()[0]}, f.ask(r)
}

func (f *fake) RevokeAcknowledgement(_ context.Context, r *catalogv1.RevokeAcknowledgementRequest) (*catalogv1.RevokeAcknowledgementResponse, error) {
	return &catalogv1.RevokeAcknowledgementResponse{}, f.ask(r)
}

func (f *fake) GetAcknowledgements(_ context.Context, r *catalogv1.GetAcknowledgementsRequest) (*catalogv1.GetAcknowledgementsResponse, error) {
	return f.acked, f.ask(r)
}

func (f *fake) PlanRollout(_ context.Context, r *rolloutv1.PlanRolloutRequest) (*rolloutv1.PlanRolloutResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.planned = append(f.planned, r)
	if f.fail != nil {
		return nil, f.fail
	}
	p := plan()
	if f.idle {
		p.Clusters = nil
	}
	if r.GetPolicy() != "" {
		p.Policy = judge(r.GetPolicy(), "act")
	}
	return &rolloutv1.PlanRolloutResponse{Plan: p, Problems: f.problems, Changes: f.planChanges, PlanHash: "sha256:" + strings.Repeat("5", 64)}, nil
}

func (f *fake) FreezeRollouts(_ context.Context, r *rolloutv1.FreezeRolloutsRequest) (*rolloutv1.FreezeRolloutsResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.frozen == nil {
		f.frozen = &rolloutv1.Freeze{Id: r.GetRequestId(), Reason: r.GetReason(), By: "ada", At: at(0)}
	}
	return &rolloutv1.FreezeRolloutsResponse{Freeze: f.frozen, Rollouts: []string{"r1", "r2"}}, nil
}

func (f *fake) UnfreezeRollouts(_ context.Context, r *rolloutv1.UnfreezeRolloutsRequest) (*rolloutv1.UnfreezeRolloutsResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	was := f.frozen
	if was == nil {
		return &rolloutv1.UnfreezeRolloutsResponse{}, nil
	}
	was.LiftedReason, was.LiftedAt = r.GetReason(), at(0)
	f.frozen = nil
	return &rolloutv1.UnfreezeRolloutsResponse{Freeze: was, Rollouts: []string{"r1"}}, nil
}

func (f *fake) StartRollout(_ context.Context, r *rolloutv1.StartRolloutRequest) (*rolloutv1.StartRolloutResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.started = append(f.started, r)
	return &rolloutv1.StartRolloutResponse{Rollout: rollout("running", "", "waiting")}, nil
}

func (f *fake) GetRollout(_ context.Context, r *rolloutv1.GetRolloutRequest) (*rolloutv1.GetRolloutResponse, error) {
	for _, one := range f.rollouts {
		if one.GetId() == r.GetId() {
			return &rolloutv1.GetRolloutResponse{Rollout: one}, nil
		}
	}
	return nil, catalogued(connect.CodeNotFound, "there is no rollout "+r.GetId(), "LS-ROL-001")
}

func (f *fake) ListRollouts(_ context.Context, r *rolloutv1.ListRolloutsRequest) (*rolloutv1.ListRolloutsResponse, error) {
	list, next := page(f.rollouts, r.GetPageToken())
	return &rolloutv1.ListRolloutsResponse{Rollouts: list, NextPageToken: next, Freeze: f.frozen}, nil
}

func (f *fake) WatchRollout(ctx context.Context, r *rolloutv1.WatchRolloutRequest, stream rolloutv1connect.RolloutServiceWatchRolloutServerStream) error {
	f.mu.Lock()
	if len(f.watches) == 0 {
		f.mu.Unlock()
		return catalogued(connect.CodeNotFound, "there is no rollout "+r.GetId(), "LS-ROL-001")
	}
	send, end := f.watches[0], ""
	f.watches = f.watches[1:]
	if len(f.after) > 0 {
		end, f.after = f.after[0], f.after[1:]
	}
	f.mu.Unlock()
	for _, one := range send {
		if err := stream.Send(&rolloutv1.WatchRolloutResponse{Rollout: one}); err != nil {
			return err
		}
	}
	switch end {
	case "drop":
		panic(http.ErrAbortHandler)
	case "unknown":
		return catalogued(connect.CodeNotFound, "there is no rollout "+r.GetId(), "LS-ROL-001")
	case "hang":
		<-ctx.Done()
	}
	return nil
}

func (f *fake) RollbackRollout(_ context.Context, r *rolloutv1.RollbackRolloutRequest) (*rolloutv1.RollbackRolloutResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.backed = append(f.backed, r)
	return &rolloutv1.RollbackRolloutResponse{Rollout: rollout("rolling_back", "asked for", "rolling_back")}, nil
}

// steer notes a request and answers with a rollout that went along.
func (f *fake) steer(r proto.Message, phase string) *rolloutv1.Rollout {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.steered = append(f.steered, r)
	return rollout(phase, "asked for", "gating", "waiting")
}

func (f *fake) PauseRollout(_ context.Context, r *rolloutv1.PauseRolloutRequest) (*rolloutv1.PauseRolloutResponse, error) {
	return &rolloutv1.PauseRolloutResponse{Rollout: f.steer(r, "paused")}, nil
}

func (f *fake) ResumeRollout(_ context.Context, r *rolloutv1.ResumeRolloutRequest) (*rolloutv1.ResumeRolloutResponse, error) {
	return &rolloutv1.ResumeRolloutResponse{Rollout: f.steer(r, "running")}, nil
}

func (f *fake) AbortRollout(_ context.Context, r *rolloutv1.AbortRolloutRequest) (*rolloutv1.AbortRolloutResponse, error) {
	return &rolloutv1.AbortRolloutResponse{Rollout: f.steer(r, "aborted")}, nil
}

func (f *fake) SkipCluster(_ context.Context, r *rolloutv1.SkipClusterRequest) (*rolloutv1.SkipClusterResponse, error) {
	return &rolloutv1.SkipClusterResponse{Rollout: f.steer(r, "running")}, nil
}

func (f *fake) ListGates(_ context.Context, r *gatev1.ListGatesRequest) (*gatev1.ListGatesResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.gateAsks = append(f.gateAsks, r)
	list, next := page(f.gates, r.GetPageToken())
	return &gatev1.ListGatesResponse{Gates: list, NextPageToken: next}, nil
}

func (f *fake) GetGate(_ context.Context, r *gatev1.GetGateRequest) (*gatev1.GetGateResponse, error) {
	for _, g := range f.gates {
		if g.GetId() == r.GetId() {
			return &gatev1.GetGateResponse{Gate: g}, nil
		}
	}
	return nil, catalogued(connect.CodeNotFound, "there is no gate "+r.GetId(), "LS-GAT-001")
}

func (f *fake) ReplayGate(context.Context, *gatev1.ReplayGateRequest) (*gatev1.ReplayGateResponse, error) {
	return f.replay, nil
}

func (f *fake) WatchObservations(ctx context.Context, r *observationv1.WatchObservationsRequest, stream observationv1connect.ObservationServiceWatchObservationsServerStream) error {
	f.mu.Lock()
	f.observed = append(f.observed, r)
	fail := f.fail
	var records []*observationv1.Record
	last := len(f.observed) >= len(f.records)
	if len(f.observed) <= len(f.records) {
		records = f.records[len(f.observed)-1]
	}
	f.mu.Unlock()
	if fail != nil {
		return fail
	}
	if err := stream.Send(&observationv1.WatchObservationsResponse{}); err != nil {
		return err
	}
	if err := stream.Send(&observationv1.WatchObservationsResponse{Records: records}); err != nil {
		return err
	}
	if r.GetFollow() && !last {
		return catalogued(connect.CodeUnavailable, "the server is stopping", "LS-API-005")
	}
	if r.GetFollow() {
		<-ctx.Done()
	}
	return nil
}

func catalogued(code connect.Code, text, id string) error {
	detail, err := connectproto.NewErrorDetail(&errdetails.ErrorInfo{Reason: id, Domain: "lockstep"})
	if err != nil {
		return err
	}
	return connect.NewError(code, text).WithDetail(detail)
}

func policy() *gatev1.Policy {
	return &gatev1.Policy{
		Alpha: 0.01, Beta: 0.05, Tolerance: 1.25, Margin: 2, AcceptableRate: 0.02, FloorRate: 0.02, Partners: 10, PlannedTrials: 200,
		Maturation: durationpb.New(2 * time.Minute), BurstWindow: durationpb.New(time.Minute), Bucket: durationpb.New(time.Second),
		Deadline: durationpb.New(10 * time.Minute), MaxLate: 0.01,
	}
}

func plan() *rolloutv1.Plan {
	step := func(name, from, to string, components ...string) *rolloutv1.StepPlan {
		return &rolloutv1.StepPlan{
			Name: name, Line: name, FromVersion: from, ToVersion: to, Components: components,
			Image: "docker.io/akeyless/" + name + ":" + to + "@sha256:" + strings.Repeat("ab", 32),
		}
	}
	steps := func() []*rolloutv1.StepPlan {
		return []*rolloutv1.StepPlan{step("gateway", "5.0.1", "5.1.0", "gateway"), step("sra", "3.1.0", "3.2.0", "sra-web", "sra-ssh")}
	}
	return &rolloutv1.Plan{
		Release:  "5.1.0",
		Clusters: []*rolloutv1.ClusterPlan{{Cluster: "berlin", Steps: steps()}, {Cluster: "paris", Steps: steps()}, {Cluster: "rome"}},
		Gate:     policy(), Window: durationpb.New(30 * time.Minute), Lookback: durationpb.New(24 * time.Hour),
	}
}

// rollout is rollout r1, its clusters berlin and paris in the phases given.
func rollout(phase, reason string, phases ...string) *rolloutv1.Rollout {
	r := &rolloutv1.Rollout{Id: "r1", Release: "5.1.0", Phase: phase, Reason: reason, Plan: plan(), StartedAt: at(75 * time.Minute)}
	for i, p := range phases {
		run := &rolloutv1.ClusterRun{Cluster: []string{"berlin", "paris"}[i], Phase: p}
		if p == "applying" || p == "gating" || p == "rolled_back" {
			run.Step, run.WindowEnds = "gateway", at(-15*time.Minute)
		}
		if p == "gating" || p == "rolled_back" {
			run.Gate = "r1-berlin-gateway"
		}
		if p == "rolled_back" {
			run.Reason = "gate r1-berlin-gateway failed"
		}
		r.Clusters = append(r.Clusters, run)
	}
	if phase == "succeeded" || phase == "held" {
		r.EndedAt = at(10 * time.Minute)
	}
	return r
}
