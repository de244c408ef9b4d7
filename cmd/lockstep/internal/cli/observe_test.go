package cli_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/lockstep-fleet/lockstep/cmd/lockstep/internal/cli"
	"github.com/lockstep-fleet/lockstep/fleetfile"
	observationv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/observation/v1"
)

// someObservations are one of each kind, a second apart.
func someObservations() []*observationv1.Record {
	session := func(s *observationv1.Session) *observationv1.Observation {
		return &observationv1.Observation{Kind: &observationv1.Observation_Session{Session: s}}
	}
	mark := func(m *observationv1.Mark) *observationv1.Observation {
		return &observationv1.Observation{Kind: &observationv1.Observation_Mark{Mark: m}}
	}
	check := func(c *observationv1.Check) *observationv1.Observation {
		return &observationv1.Observation{Kind: &observationv1.Observation_Check{Check: c}}
	}
	declared := func(p *observationv1.Package) *observationv1.Observation {
		return &observationv1.Observation{Kind: &observationv1.Observation_Package{Package: p}}
	}
	all := []*observationv1.Observation{
		{Kind: &observationv1.Observation_Inventory{Inventory: &observationv1.Inventory{Instances: []*observationv1.Instance{
			{Component: "gateway", Version: "5.0.1", Health: "healthy"}, {Component: "sra-web", Tag: "3.1.0", Health: "none"},
			{Component: "sra-web", Tag: "3.1.0", Health: "none"}, {Component: "sra-ssh", Digest: "sha256:ab", Health: "unhealthy", Restarts: 4},
		}}}},
		{Kind: &observationv1.Observation_Inventory{Inventory: &observationv1.Inventory{}}},
		session(&observationv1.Session{Id: "s1", Status: "connecting", User: "ann", Target: "db-1", Protocol: "ssh"}),
		session(&observationv1.Session{Id: "s2", Status: "failed", User: "bob", Target: "db-1", Failure: "timeout", Error: "i/o timeout\x1b[31m"}),
		session(&observationv1.Session{Id: "s3", Status: "vanished"}),
		mark(&observationv1.Mark{CompleteUntil: at(time.Minute)}),
		mark(&observationv1.Mark{About: "inventory", Blind: true, BlindReason: "the engine does not answer"}),
		mark(&observationv1.Mark{Blind: true, Lost: true, BlindReason: "the spool was full"}),
		{Kind: &observationv1.Observation_Registration{Registration: &observationv1.Registration{
			LastReport: at(time.Minute), Bastions: []*observationv1.Bastion{{Id: "a", Version: "3.1.0"}, {Id: "b"}},
			Gateways: []*observationv1.RegisteredGateway{{Name: "acc/p/berlin", Status: "Running"}},
		}}},
		declared(&observationv1.Package{Helm: []*observationv1.HelmRelease{{Name: "gw", Chart: "akeyless-gateway", ChartVersion: "3.3.0", Revision: 4, Status: "deployed", Versions: map[string]string{"sra": "3.2.0", "gateway": "5.1.0"}}}}),
		declared(&observationv1.Package{Compose: []*observationv1.ComposeService{
			{Service: "akeyless-web", State: "changed", Differences: []string{"image: the file asks for sra:4, sra:3 runs"}}, {Service: "akeyless-ssh", State: "same"},
		}}),
		declared(&observationv1.Package{Compose: []*observationv1.ComposeService{{Service: "akeyless-ssh", State: "same"}}}),
		declared(&observationv1.Package{RemoteAccess: &observationv1.RemoteAccess{RecordingStorage: "aws"}}),
		check(&observationv1.Check{Name: "login", Kind: "ssh", Target: "bastion:22", Ok: true, Took: durationpb.New(81234 * time.Microsecond), CertificateExpiresAt: at(-24 * time.Hour)}),
		check(&observationv1.Check{Name: "recording", Kind: "recording", Session: "s9", Failure: "missing", Detail: "nothing below s9 within 5m"}),
		check(&observationv1.Check{Name: "health/gateway", Kind: "endpoint", Target: "http://gw:8080/health", Ok: true}),
		{},
	}
	out := make([]*observationv1.Record, len(all))
	for i, o := range all {
		when := at(time.Minute - time.Duration(i)*time.Second)
		o.Cluster, o.ObservedAt, o.Id = "berlin", when, "0123456789abcdef0123456789abcdef"
		out[i] = &observationv1.Record{Observation: o, Source: "hub-session", Incarnation: "i", StreamSequence: 7, Index: uint32(i), ReceivedAt: when}
	}
	return out
}

func TestObserveText(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{
		"observe.txt":      {"--since", "10m"},
		"observe-wide.txt": {"--since", "2026-03-01T11:00:00Z", "-o", "wide", "-n", "3"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := serve(t, &fake{records: [][]*observationv1.Record{someObservations()}})
			got := f.run(t, append([]string{"observe", "--follow=false"}, args...)...)
			got.wants(t, 0, "")
			golden(t, name, got.out)
			if since := f.observed[0].GetSince().AsTime(); !since.Before(noon()) {
				t.Errorf("asked since %s", since)
			}
		})
	}
}

func TestObserveJSONIsAnObjectALine(t *testing.T) {
	t.Parallel()
	f := serve(t, &fake{records: [][]*observationv1.Record{someObservations()}})
	got := f.run(t, "observe", "berlin", "berlin", "--kind", "sessions,probe", "--source", "hub-session", "--failures", "--marks", "--follow=false", "-o", "json")
	got.wants(t, 0, "")
	lines := strings.Split(strings.TrimSpace(got.out), "\n")
	if len(lines) != len(someObservations()) {
		t.Fatalf("%d lines", len(lines))
	}
	var record struct {
		Source      string `json:"source"`
		Observation struct {
			Cluster string `json:"cluster"`
			Session struct {
				Failure string `json:"failure"`
			} `json:"session"`
		} `json:"observation"`
	}
	if err := json.Unmarshal([]byte(lines[3]), &record); err != nil || record.Source != "hub-session" || record.Observation.Session.Failure != "timeout" {
		t.Errorf("%v in %s", err, lines[3])
	}
	asked := f.observed[0]
	if strings.Join(asked.GetClusters(), " ") != "berlin" || strings.Join(asked.GetKinds(), " ") != "session probe" ||
		strings.Join(asked.GetSources(), " ") != "hub-session" || !asked.GetFailures() || !asked.GetMarks() || asked.GetFollow() || asked.GetSince() != nil {
		t.Errorf("asked for %v", asked)
	}
}

// A connection that is lost is taken up again, and what was shown is not shown
// again.
func TestObserveGoesOnAfterALostConnection(t *testing.T) {
	t.Parallel()
	all := someObservations()
	f := serve(t, &fake{records: [][]*observationv1.Record{all[:5], all[3:8]}})
	got := f.run(t, "observe", "-n", "8", "-o", "json")
	got.wants(t, 0, "The server answers again.")
	if lines := strings.Count(got.out, "\n"); lines != 8 {
		t.Errorf("%d lines", lines)
	}
	if again := f.observed[1].GetSince().AsTime(); !again.Equal(all[4].GetReceivedAt().AsTime().Add(-time.Second)) {
		t.Errorf("taken up since %s", again)
	}
}

func TestObserveRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		args []string
		says string
	}{
		"no moment":      {[]string{"--since", "yesterday"}, "write for example 90s"},
		"a moment ahead": {[]string{"--since", "-5m"}, "neither a length of time nor a time"},
		"no kind":        {[]string{"--kind", "logs"}, "none of inventory, session"},
		"a limit below":  {[]string{"-n", "-1"}, "not a number of observations"},
		"a format":       {[]string{"-o", "yaml"}, "table"},
	} {
		f := serve(t, &fake{})
		got := f.run(t, append([]string{"observe"}, c.args...)...)
		got.wants(t, 2, c.says)
		if len(f.observed) > 0 {
			t.Errorf("%s: the server was asked", name)
		}
	}
}

// checkCollector runs a dry run whose sources say what they are told to.
func checkCollector(t *testing.T, look func() ([]cli.SourceReport, error), args ...string) result {
	t.Helper()
	path := file(t, "fleet.yaml", "server: {data_dir: /d}\nclusters: [{id: berlin, compose: {dir: /d}}]\n")
	return execute(t.Context(), cli.Options{
		Env: env(),
		Look: func(_ context.Context, f fleetfile.File, clusters []string) ([]cli.SourceReport, error) {
			if len(f.Clusters) != 1 || len(clusters) > 1 {
				t.Errorf("asked for %v of %v", clusters, f.Clusters)
			}
			return look()
		},
	}, append([]string{"collector", "check", "-f", path}, args...)...)
}

func someReports() ([]cli.SourceReport, error) {
	var all []*observationv1.Observation
	for _, r := range someObservations() {
		all = append(all, r.GetObservation())
	}
	return []cli.SourceReport{
		{Cluster: "berlin", Kind: "inventory", Name: "the inventory of berlin", Status: "ok", Observations: all[:1]},
		{Kind: "session", Name: "sessions", Status: "warn", Problem: "not all sessions of acc/p/berlin are seen", Todo: "give the role sra-reports-access=all", Observations: all[2:7]},
		{Kind: "registration", Name: "registrations", Status: "ok", Observations: all[8:9]},
		{Cluster: "berlin", Kind: "package", Name: "the package of berlin", Status: "fail", Problem: "may not list secrets", Todo: "apply the roles", ID: "LS-KUB-004"},
		{Cluster: "berlin", Kind: "pipeline", Name: "the recording storage of berlin", Status: "skip", Problem: "it would write there"},
	}, nil
}

func TestCollectorCheck(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{
		"collector-check.txt":      nil,
		"collector-check-wide.txt": {"-o", "wide"},
		"collector-check.json":     {"-o", "json", "berlin"},
	} {
		got := checkCollector(t, someReports, args...)
		got.wants(t, 1, "1 of 5 sources cannot be read")
		golden(t, name, got.out)
	}
	fine := checkCollector(t, func() ([]cli.SourceReport, error) { all, err := someReports(); return all[:3], err })
	fine.wants(t, 0, "")
	quiet := checkCollector(t, func() ([]cli.SourceReport, error) {
		return []cli.SourceReport{{Kind: "session", Name: "sessions", Status: "ok", Observations: []*observationv1.Observation{someObservations()[5].GetObservation()}}}, nil
	})
	quiet.wants(t, 0, "")
	if !strings.Contains(quiet.out, "0 sessions") {
		t.Errorf("of a source without sessions it says\n%s", quiet.out)
	}
	checkCollector(t, func() ([]cli.SourceReport, error) { return nil, nil }).wants(t, 0, "There is nothing to look at")
	checkCollector(t, someReports, "rome").wants(t, 2, "there is no cluster rome")
	checkCollector(t, func() ([]cli.SourceReport, error) { return nil, errors.New("the key file is empty") }).wants(t, 1, "the key file is empty")
}
