//go:build linux && amd64

package clickhouse

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/drift"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// stored is a baseline as the first version of the table has it. Names in it are
// read for ever: whoever renames a field reads it under the old name as well.
const stored = `{"ID":"b/berlin","Name":"b","Cluster":"berlin","At":"2026-03-02T10:00:00Z","By":"ann","Rollout":"r1","State":"stepping","Assigned":"1.9.0",` +
	`"Inventory":{"Cluster":"berlin","ObservedAt":"2026-03-02T09:59:00Z","Instances":[{"ID":"i1","Component":"gateway","Service":"gw","Image":"g:5","Tag":"5","Digest":"sha256:d",` +
	`"ImageID":"sha256:i","Version":"5.0.1","Health":"healthy","StartedAt":"2026-03-01T00:00:00Z","Declared":"g:6","Labelled":"5","Node":"n1","Restarts":3}]},` +
	`"Registration":{"Cluster":"berlin","ObservedAt":"2026-03-02T09:58:00Z","LastReport":"2026-03-02T09:57:00Z","Bastions":[{"ID":"b1","Version":"3.1.0"}],` +
	`"Gateways":[{"Name":"acc/p/berlin","Status":"Running"}]},` +
	`"Package":{"Cluster":"berlin","ObservedAt":"2026-03-02T09:56:00Z","Helm":[{"Name":"gw","Namespace":"ns","Chart":"c","ChartVersion":"1","AppVersion":"5","Revision":7,` +
	`"Status":"deployed","ValuesHash":"sha256:v","UpdatedAt":"2026-03-01T00:00:00Z","Versions":{"gateway":"5.0.1"}}],` +
	`"Compose":[{"Project":"p","Service":"s","Image":"i","ConfigHash":"h","State":"changed","Differences":["image"]}],` +
	`"RemoteAccess":{"Hash":"sha256:r","LegacySigning":true,"KexAlgorithms":"k","SessionTTL":3600000000000,"RecordingStorage":"aws","LogForwarding":"syslog"}},` +
	`"Sessions":{"From":"2026-03-01T10:00:00Z","To":"2026-03-02T10:00:00Z","Succeeded":10,"Failed":1,"Open":2,"Probes":5,"ProbesFailed":1}}`

func whole() drift.Baseline {
	at, yes := time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC), true
	day := at.Truncate(24*time.Hour).AddDate(0, 0, -1)
	return drift.Baseline{
		ID: "b/berlin", Name: "b", Cluster: "berlin", At: at, By: "ann", Rollout: "r1", State: drift.Stepping, Assigned: "1.9.0",
		Inventory: fleet.Inventory{Cluster: "berlin", ObservedAt: at.Add(-time.Minute), Instances: []fleet.Instance{{
			ID: "i1", Component: fleet.Gateway, Service: "gw", Image: "g:5", Tag: "5", Digest: "sha256:d", ImageID: "sha256:i", Version: "5.0.1",
			Health: fleet.HealthHealthy, StartedAt: day, Declared: "g:6", Labelled: "5", Node: "n1", Restarts: 3,
		}}},
		Registration: fleet.Registration{
			Cluster: "berlin", ObservedAt: at.Add(-2 * time.Minute), LastReport: at.Add(-3 * time.Minute),
			Bastions: []fleet.Bastion{{ID: "b1", Version: "3.1.0"}}, Gateways: []fleet.RegisteredGateway{{Name: "acc/p/berlin", Status: "Running"}},
		},
		Package: fleet.Package{
			Cluster: "berlin", ObservedAt: at.Add(-4 * time.Minute),
			Helm: []fleet.HelmRelease{{
				Name: "gw", Namespace: "ns", Chart: "c", ChartVersion: "1", AppVersion: "5", Revision: 7, Status: "deployed", ValuesHash: "sha256:v", UpdatedAt: day,
				Versions: fleet.VersionSet{fleet.LineGateway: "5.0.1"},
			}},
			Compose:      []fleet.ComposeService{{Project: "p", Service: "s", Image: "i", ConfigHash: "h", State: fleet.ComposeChanged, Differences: []string{"image"}}},
			RemoteAccess: &fleet.RemoteAccess{Hash: "sha256:r", LegacySigning: &yes, KexAlgorithms: "k", SessionTTL: time.Hour, RecordingStorage: "aws", LogForwarding: "syslog"},
		},
		Sessions: drift.Sessions{From: at.AddDate(0, 0, -1), To: at, Succeeded: 10, Failed: 1, Open: 2, Probes: 5, ProbesFailed: 1},
	}
}

func TestBaselines(t *testing.T) {
	t.Parallel()
	s := openHistory(t, embedded(shared))
	ctx := limited(t, time.Minute)
	b := whole()
	again := b
	again.At, again.By = b.At.Add(time.Hour), "bob" // of one id the first stands
	oslo := drift.Baseline{ID: "b/oslo", Name: "b", Cluster: "oslo", At: b.At}
	later := drift.Baseline{ID: "c/oslo", Name: "c", Cluster: "oslo", At: b.At.Add(time.Minute), Rollout: "r1"}
	for _, b := range []drift.Baseline{again, b, oslo, later, again} {
		if err := s.InsertBaselines(ctx, fleet.DefaultTenant, []drift.Baseline{b}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.InsertBaselines(ctx, "another", []drift.Baseline{{ID: "b/rome", Cluster: "rome"}}); err != nil {
		t.Fatal(err)
	}
	got, err := s.Baseline(ctx, fleet.DefaultTenant, "b/berlin")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(b, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, err := s.Baseline(ctx, fleet.DefaultTenant, "b/rome"); errs.KindOf(err) != errs.NotFound {
		t.Errorf("a baseline of another tenant gives %v", err)
	}
	var text string
	if err := s.Conn().QueryRow(ctx, "SELECT json FROM v1_baselines WHERE id = 'b/berlin'").Scan(&text); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(stored, text); diff != "" {
		t.Errorf("as it is stored (-want +got):\n%s", diff)
	}
	for name, c := range map[string]struct {
		filter codec.BaselineFilter
		limit  int
		want   []drift.Baseline
	}{
		"all":          {codec.BaselineFilter{}, 10, []drift.Baseline{later, b, oslo}},
		"the newest":   {codec.BaselineFilter{}, 2, []drift.Baseline{later, b}},
		"of a cluster": {codec.BaselineFilter{Cluster: "oslo"}, 10, []drift.Baseline{later, oslo}},
		"of a name":    {codec.BaselineFilter{Name: "b"}, 10, []drift.Baseline{b, oslo}},
		"of a rollout": {codec.BaselineFilter{Rollout: "r1"}, 10, []drift.Baseline{later, b}},
		"of all three": {codec.BaselineFilter{Cluster: "oslo", Name: "c", Rollout: "r1"}, 10, []drift.Baseline{later}},
		"none":         {codec.BaselineFilter{Cluster: "it's none"}, 10, nil},
	} {
		got, err := s.Baselines(ctx, fleet.DefaultTenant, c.filter, c.limit)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}
