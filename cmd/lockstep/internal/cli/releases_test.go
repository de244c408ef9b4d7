package cli_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect/v2"
	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-fleet/lockstep/cmd/lockstep/internal/cli"
	catalogv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/catalog/v1"
)

func someReleases() []*catalogv1.Entry {
	return []*catalogv1.Entry{
		{
			Release: &catalogv1.Release{
				Id: "1.2.0", Chart: "akeyless-gateway", ChartVersion: "1.2.0", AppVersion: "4.53.0_3.0.2", ReleasedAt: at(40 * 24 * time.Hour),
				Versions: map[string]string{"gateway": "4.53.0", "sra": "3.0.2", "ztwa": "1.0.0"}, Images: map[string]string{"gateway": "akeyless/base:4.53.0"}, Source: "https://example.org/<charts>",
			},
			Status: "blocked", Reasons: []string{"SRA went back to 3.0.2 in it", "RDP sessions freeze \x1b[31m(ann)"}, PackagingRisks: []string{"the annotation says gateway 4.52.0"},
			Block: &catalogv1.Block{Release: "1.2.0", Owner: "ann", Reason: "RDP sessions freeze", At: at(time.Hour), ExpiresAt: at(-30 * 24 * time.Hour)},
		},
		{
			Release: &catalogv1.Release{Id: "1.3.0", Chart: "akeyless-gateway", ChartVersion: "1.3.0", ReleasedAt: at(20 * 24 * time.Hour), Versions: map[string]string{"gateway": "4.53.0", "sra": "3.0.3"}},
			Status:  "available",
		},
		{Release: &catalogv1.Release{Id: "stage", Versions: map[string]string{"gateway": "4.54.0"}}, Status: "withdrawn", Reasons: []string{"the vendor went back from gateway 4.54.0"}},
	}
}

func TestReleaseList(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{
		"releases-list.txt": nil, "releases-list-wide.txt": {"-o", "wide"}, "releases-list-name.txt": {"-o", "name"}, "releases-list.json": {"-o", "json"}, "releases-list.yaml": {"-o", "yaml"},
	} {
		f := serve(t, &fake{releases: someReleases()})
		got := f.run(t, append([]string{"releases", "list"}, args...)...)
		got.wants(t, 0, "")
		golden(t, name, got.out)
	}
	f := serve(t, &fake{})
	f.run(t, "release", "ls", "--status", "blocked,withdrawn", "--chart", "akeyless-gateway", "--version", "sra=3.0.3").wants(t, 0, "No release matches.\n")
	askedFor(t, f, &catalogv1.ListReleasesRequest{PageSize: 1000, Statuses: []string{"blocked", "withdrawn"}, Chart: "akeyless-gateway", Versions: []string{"sra=3.0.3"}})
	f.run(t, "releases", "list").wants(t, 0, "There are no releases; `lockstep releases import LOCATION`")
	if got := f.run(t, "releases", "list", "-o", "json").out; got != "[]\n" {
		t.Errorf("none are %q", got)
	}
	f.run(t, "releases", "list", "--status", "block").wants(t, 2, "use some of available, withdrawn, blocked; did you mean blocked?")
}

// TestReleaseListIsReadByScripts holds the names that scripts go by.
func TestReleaseListIsReadByScripts(t *testing.T) {
	t.Parallel()
	var list []map[string]any
	out := serve(t, &fake{releases: someReleases()}).run(t, "releases", "list", "-o", "json").out
	if err := json.Unmarshal([]byte(out), &list); err != nil || len(list) != 3 {
		t.Fatalf("%v in %s", err, out)
	}
	for key, want := range map[string]string{
		"id": "1.2.0", "chart": "akeyless-gateway", "chart_version": "1.2.0", "app_version": "4.53.0_3.0.2", "gateway_version": "4.53.0", "sra_version": "3.0.2", "ztwa_version": "1.0.0",
		"released_on": "2026-01-20", "status": "blocked", "reason": "SRA went back to 3.0.2 in it; RDP sessions freeze \x1b[31m(ann)", "source": "https://example.org/<charts>",
	} {
		if list[0][key] != want {
			t.Errorf("%s is %v, want %s", key, list[0][key], want)
		}
		if _, there := list[2][key].(string); !there {
			t.Errorf("a set of images has no %s", key)
		}
	}
	if list[1]["reason"] != "" || list[2]["released_on"] != "" || list[1]["block"] != nil {
		t.Errorf("what is not known is %v", list[1:])
	}
}

// importing runs an import whose reader hands over what it is told to.
func importing(t *testing.T, f *fake, read func(cli.ReleaseSource) ([]*catalogv1.Release, error), args ...string) result {
	t.Helper()
	return execute(t.Context(), cli.Options{
		In: strings.NewReader("the file"), Env: env(),
		ReadReleases: func(_ context.Context, from cli.ReleaseSource) ([]*catalogv1.Release, []string, error) {
			list, err := read(from)
			return list, []string{"chart akeyless-sra 0.9.0: it tells no version"}, err
		},
	}, append([]string{"releases", "import", "--server", f.url, "--token-file", f.token}, args...)...)
}

func read(n int) func(cli.ReleaseSource) ([]*catalogv1.Release, error) {
	return func(cli.ReleaseSource) ([]*catalogv1.Release, error) {
		list := make([]*catalogv1.Release, n)
		for i := range list {
			list[i] = &catalogv1.Release{Id: "x"}
		}
		return list, nil
	}
}

func TestReleaseImport(t *testing.T) {
	t.Parallel()
	news := func(*catalogv1.ImportReleasesRequest) (*catalogv1.ImportReleasesResponse, error) {
		return &catalogv1.ImportReleasesResponse{Added: []string{"1.3.0", "1.4.0"}, Updated: []string{"1.2.0"}, Unchanged: 7, Withdrawn: []string{"1.1.0"}, Contradictions: []string{"1.2.0 was known with sra 3.0.2\x1b[2J, index.yaml says 3.0.3"}}, nil
	}
	for name, args := range map[string][]string{"releases-import.txt": nil, "releases-import.json": {"-o", "json"}} {
		f := serve(t, &fake{imported: news})
		got := importing(t, f, read(10), append([]string{"index.yaml"}, args...)...)
		got.wants(t, 0, "Read 10 releases.\n")
		golden(t, name, got.out)
		if asks[*catalogv1.ImportReleasesRequest](t, f).GetDryRun() || args == nil && !strings.Contains(got.err, "2 added, 1 updated, 7 unchanged; 1 withdrawn now.\n") {
			t.Errorf("said %s", got.err)
		}
	}
	f := serve(t, &fake{imported: news})
	importing(t, f, read(1), "index.yaml", "--dry-run").wants(t, 0, "Nothing was changed; without --dry-run this is what happens.\n")
	if !asks[*catalogv1.ImportReleasesRequest](t, f).GetDryRun() {
		t.Error("it was no dry run")
	}
	f = serve(t, &fake{imported: func(*catalogv1.ImportReleasesRequest) (*catalogv1.ImportReleasesResponse, error) {
		return &catalogv1.ImportReleasesResponse{Unchanged: 1}, nil
	}})
	got := importing(t, f, read(1), "index.yaml")
	got.wants(t, 0, "Read 1 release.\n0 added, 0 updated, 1 unchanged; 0 withdrawn now.\n")
	if got.out != "" {
		t.Errorf("nothing new prints %s", got.out)
	}
}

func TestReleaseImportTellsTheReaderWhereFrom(t *testing.T) {
	t.Parallel()
	f := serve(t, &fake{})
	var from cli.ReleaseSource
	var text []byte
	take := func(s cli.ReleaseSource) ([]*catalogv1.Release, error) {
		from = s
		text, _ = io.ReadAll(s.In)
		return nil, nil
	}
	importing(t, f, take, "https://ann:secret@example.org/charts", "--chart", "a,b", "--chart", "c", "--ca-file", "ca.pem", "--username", "ann", "--password-file", "pw").
		wants(t, 1, "import releases: there are none at https://example.org/charts\n")
	from.In = nil
	if want := (cli.ReleaseSource{Location: "https://ann:secret@example.org/charts", Charts: []string{"a", "b", "c"}, CAFile: "ca.pem", Username: "ann", PasswordFile: "pw"}); !cmp.Equal(want, from) || string(text) != "the file" {
		t.Errorf("told %+v and %q", from, text)
	}
	fails := func(cli.ReleaseSource) ([]*catalogv1.Release, error) {
		return nil, errors.New("read releases: line 3 has no chart")
	}
	importing(t, f, fails, "-").wants(t, 1, "lockstep: read releases: line 3 has no chart\n")
	importing(t, f, take, "x", "--username", "ann").wants(t, 2, "--username and --password-file go together")
	importing(t, f, take, " ").wants(t, 2, "LOCATION is empty")
	importing(t, f, take).wants(t, 2, "lockstep releases import takes LOCATION, got 0 arguments")
	f.run(t, "releases", "import", "x").wants(t, 1, "import releases: this program has nothing that reads releases")
}

func TestALargeImportGoesInPortions(t *testing.T) {
	t.Parallel()
	f := serve(t, &fake{imported: func(r *catalogv1.ImportReleasesRequest) (*catalogv1.ImportReleasesResponse, error) {
		if len(r.GetReleases()) < 5000 {
			return nil, connect.NewError(connect.CodeUnavailable, "the server is stopping")
		}
		return &catalogv1.ImportReleasesResponse{Added: []string{"1.3.0"}, Unchanged: 4999}, nil
	}})
	got := importing(t, f, read(10001), "index.yaml")
	got.wants(t, 1, "2 added, 0 updated, 9998 unchanged; 0 withdrawn now.\nlockstep: import releases: the server is stopping\n")
	if len(f.asked) != 3 {
		t.Errorf("%d requests", len(f.asked))
	}
	got = importing(t, f, read(3), "index.yaml")
	got.wants(t, 1, "Read 3 releases.\nlockstep: import releases: the server is stopping\n")
	if got.out != "" {
		t.Errorf("after a failure it printed %s", got.out)
	}
}

func TestReleaseBlockAndUnblock(t *testing.T) {
	t.Parallel()
	f := serve(t, &fake{releases: someReleases()})
	got := f.run(t, "releases", "block", "release/1.2.0", "--reason", "RDP sessions freeze", "--owner", "ann", "--for", "30d")
	got.wants(t, 0, "")
	golden(t, "releases-block.txt", got.out)
	askedFor(t, f, &catalogv1.BlockReleaseRequest{Release: "1.2.0", Reason: "RDP sessions freeze", Owner: "ann", ExpiresAt: at(-30 * 24 * time.Hour)})
	golden(t, "releases-block.json", f.run(t, "releases", "block", "1.2.0", "--reason", "x", "-o", "json").out)
	if got := f.run(t, "releases", "unblock", "1.2.0", "--reason", "settled", "-o", "name").out; got != "release/1.2.0\n" {
		t.Errorf("printed %s", got)
	}
	askedFor(t, f, &catalogv1.UnblockReleaseRequest{Release: "1.2.0", Reason: "settled"})
	f.run(t, "releases", "block", "1.2.0").wants(t, 2, "say why, for the record: --reason TEXT")
	f.run(t, "releases", "unblock", "1.2.0", "--reason", " ").wants(t, 2, "say why, for the record: --reason TEXT")
	f.run(t, "releases", "block", "1.2.0", "--reason", "x", "--until", "2026-02-01").wants(t, 2, `--until "2026-02-01" is over already`)
	f.run(t, "releases", "block", "1.2.0", "--reason", "x", "--for", "1d", "--until", "2026-04-01").wants(t, 2, "--for and --until both say when it ends")
	serve(t, &fake{releases: someReleases(), fail: connect.NewError(connect.CodeNotFound, "there is no release 9")}).run(t, "releases", "block", "9\x1b[2J", "--reason", "x").
		wants(t, 1, "lockstep: block release 9[2J: there is no release 9\n")
}

func TestReleaseGraph(t *testing.T) {
	t.Parallel()
	graph := &catalogv1.GetGraphResponse{
		Nodes: []*catalogv1.VersionSetNode{
			{Versions: map[string]string{"sra": "3.0.3", "gateway": "4.52.0"}, Releases: []string{"1.1.0", "1.1.1"}, Status: "available"},
			{Versions: map[string]string{"sra": "3.0.2", "gateway": "4.53.0"}, Releases: []string{"1.2.0"}, Status: "withdrawn"},
			{Versions: map[string]string{"sra": "3.0.3", "gateway": `4.53.0"\`}, Releases: []string{"1.3.0"}, Status: "available"},
		},
		Edges: []*catalogv1.VersionSetEdge{
			{From: 0, To: 1, Release: "1.2.0", Moves: []*catalogv1.LineMove{{Line: "gateway", From: "4.52.0", To: "4.53.0", Direction: "up"}, {Line: "sra", From: "3.0.3", To: "3.0.2", Direction: "down"}}},
			{From: 1, To: 2, Release: "1.3.0", Moves: []*catalogv1.LineMove{{Line: "sra", From: "3.0.2", To: "3.0.3", Direction: "up"}, {Line: "ztwa", To: "1.0.0", Direction: "other"}}},
		},
	}
	for name, args := range map[string][]string{"releases-graph.txt": nil, "releases-graph.json": {"-o", "json"}, "releases-graph.dot": {"-o", "dot"}} {
		f := serve(t, &fake{graph: graph})
		got := f.run(t, append([]string{"releases", "graph", "--chart", "akeyless-gateway"}, args...)...)
		got.wants(t, 0, "")
		golden(t, name, got.out)
		askedFor(t, f, &catalogv1.GetGraphRequest{Chart: "akeyless-gateway"})
	}
	serve(t, &fake{graph: &catalogv1.GetGraphResponse{}}).run(t, "releases", "graph").wants(t, 0, "There are no releases of this chart.\n")
}

func someAcks() *catalogv1.GetAcknowledgementsResponse {
	return &catalogv1.GetAcknowledgementsResponse{
		Risks: []*catalogv1.NamedRisk{
			{Id: "legacy-issuer-users", Title: "older gateways need session_* users", Remedy: "allow them on the issuer"},
			{Id: "legacy-ssh-algorithms", Title: "old OpenSSH targets need old algorithms", Remedy: "set them on the bastion"},
		},
		Acknowledgements: []*catalogv1.Acknowledgement{
			{Risk: "legacy-ssh-algorithms", Cluster: "berlin", Owner: "ann", Reason: "no old targets there", At: at(time.Hour)},
			{Risk: "legacy-ssh-algorithms", Release: "1.2.0", Owner: "bob", Reason: "tried in stage", At: at(2 * time.Hour), ExpiresAt: at(-30 * 24 * time.Hour)},
		},
	}
}

func TestRisks(t *testing.T) {
	t.Parallel()
	list := []*catalogv1.Assessment{
		{Risk: "legacy-issuer-users", Title: "older gateways need session_* users", Condition: "no_match", Detail: "the gateway is new enough", Remedy: "allow them on the issuer"},
		{Risk: "legacy-ssh-algorithms", Title: "old OpenSSH targets need old algorithms", Condition: "match", Detail: "3 targets are old", Remedy: "set them on the bastion", Closed: true},
		{Risk: "recording-format", Condition: "unknown", Detail: "nobody told", Acknowledgement: someAcks().GetAcknowledgements()[1]},
	}
	for name, args := range map[string][]string{"releases-risks.txt": nil, "releases-risks-wide.txt": {"-o", "wide"}, "releases-risks.json": {"-o", "json"}} {
		f := serve(t, &fake{assessed: list})
		got := f.run(t, append([]string{"releases", "risks", "-r", "release/1.2.0", "-c", "cluster/berlin"}, args...)...)
		got.wants(t, 0, "")
		golden(t, name, got.out)
		askedFor(t, f, &catalogv1.AssessMoveRequest{Cluster: "berlin", Release: "1.2.0"})
	}
	f := serve(t, &fake{})
	f.run(t, "releases", "risks", "-r", "1.2.0", "-c", "berlin").wants(t, 0, "No risk has a name.\n")
	f.run(t, "releases", "risks", "-r", "1.2.0").wants(t, 2, "say which move: --release RELEASE --cluster CLUSTER")
}

func TestAcknowledgements(t *testing.T) {
	t.Parallel()
	f := serve(t, &fake{acked: someAcks()})
	for name, args := range map[string][]string{
		"releases-acks.txt": {"acks"}, "releases-acks.json": {"acks", "-o", "json"},
		"releases-ack.txt":  {"ack", "legacy-ssh-algorithms", "--cluster", "cluster/berlin", "--release", "1.2.0", "--owner", "ann", "--until", "2026-04-01", "--reason", "no old targets there"},
		"releases-ack.yaml": {"ack", "legacy-ssh-algorithms", "--reason", "x", "-o", "yaml"},
	} {
		got := f.run(t, append([]string{"releases"}, args...)...)
		got.wants(t, 0, "")
		golden(t, name, got.out)
	}
	f = serve(t, &fake{acked: someAcks()})
	f.run(t, "releases", "ack", "legacy-ssh-algorithms", "-c", "cluster/berlin", "-r", "1.2.0", "--owner", "ann", "--for", "1d", "--reason", "no old targets").wants(t, 0, "")
	askedFor(t, f, &catalogv1.AcknowledgeRiskRequest{Risk: "legacy-ssh-algorithms", Release: "1.2.0", Cluster: "berlin", Owner: "ann", Reason: "no old targets", ExpiresAt: at(-24 * time.Hour)})
	f.run(t, "releases", "unack", "legacy-ssh-algorithms", "-c", "berlin", "-r", "1.2.0", "--reason", "an old switch came").
		wants(t, 0, "The acknowledgement of legacy-ssh-algorithms for release 1.2.0 on cluster berlin is taken back.\n")
	askedFor(t, f, &catalogv1.RevokeAcknowledgementRequest{Risk: "legacy-ssh-algorithms", Release: "1.2.0", Cluster: "berlin", Reason: "an old switch came"})
	f.run(t, "releases", "ack", "x").wants(t, 2, "say why, for the record: --reason TEXT")
	f.run(t, "releases", "unack", "x").wants(t, 2, "say why, for the record: --reason TEXT")
	none := serve(t, &fake{acked: &catalogv1.GetAcknowledgementsResponse{}}).run(t, "releases", "acks")
	none.wants(t, 0, "None is acknowledged.\n")
	if none.out != "" {
		t.Errorf("printed %q", none.out)
	}
}
