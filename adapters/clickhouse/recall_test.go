//go:build linux && amd64

package clickhouse

import (
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// seen is an inventory as one record: observed and recorded at minutes of the
// tests, with one instance of a version, or none of an empty one.
func seen(cluster, source string, observed, recorded int, version string) codec.Record {
	inventory := fleet.Inventory{Cluster: fleet.ClusterID(cluster), ObservedAt: minute(observed)}
	if version != "" {
		inventory.Instances = []fleet.Instance{
			{ID: "i2", Component: fleet.SRAWeb, Service: "web", Version: version, Health: fleet.HealthHealthy, StartedAt: minute(-5), Node: "n1", Restarts: 2},
			{ID: "i1", Component: fleet.SRAWeb, Service: "web", Version: version, Health: fleet.HealthNone},
		}
	}
	return codec.Record{
		Observation: codec.Observation{Inventory: &inventory}, Tenant: fleet.DefaultTenant, ObservedAt: minute(observed), RecordedAt: minute(recorded),
		Source: fleet.SourceID(source), StreamSequence: uint64(recorded + 100_000),
	}
}

// told is an inventory in a word: its cluster, minute and version.
func told(in fleet.Inventory) string {
	version := "nothing"
	if len(in.Instances) > 0 {
		version = in.Instances[0].Version
	}
	return string(in.Cluster) + " " + strconv.Itoa(int(in.ObservedAt.Sub(day0)/time.Minute)) + " " + version
}

func TestInventoriesOfAll(t *testing.T) {
	t.Parallel()
	s := openHistory(t, embedded(shared))
	ctx := limited(t, time.Minute)
	const month = 31 * 24 * 60
	records := []codec.Record{
		seen("berlin", "hub", -month, -month, "1"), seen("berlin", "hub", 0, 1, "2"), seen("berlin", "hub", 10, 11, "3"), seen("berlin", "agent", 10, 11, "4"),
		seen("oslo", "hub", -2*month, -2*month, "1"), // and silent since
		seen("rome", "hub", 5, 5, "1"), seen("rome", "hub", 12, 12, ""),
		seen("ahead", "fast", 600, 3, "1"), seen("ahead", "hub", 8, 8, "2"), seen("ahead", "fast", 620, 20, "3"), // by a clock ten hours ahead
		seen("right", "fast", 600, 3, "1"), seen("right", "hub", 8, 8, "2"), // and then by one that is right
	}
	for range 2 {
		if err := s.InsertRecords(ctx, records); err != nil {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		at       time.Time
		clusters []fleet.ClusterID
		want     []string
	}{
		"of all":                         {minute(11), nil, []string{"ahead 8 2", "berlin 10 3", "oslo " + strconv.Itoa(-2*month) + " 1", "right 8 2", "rome 5 1"}},
		"of some":                        {minute(11), []fleet.ClusterID{"rome", "oslo", "it's none"}, []string{"oslo " + strconv.Itoa(-2*month) + " 1", "rome 5 1"}},
		"to the instant":                 {minute(10), []fleet.ClusterID{"berlin"}, []string{"berlin 10 3"}},
		"just before":                    {minute(10).Add(-time.Millisecond), []fleet.ClusterID{"berlin"}, []string{"berlin 0 2"}},
		"an empty one":                   {minute(13), []fleet.ClusterID{"rome"}, []string{"rome 12 nothing"}},
		"a clock ahead, by its arrival":  {minute(3), []fleet.ClusterID{"ahead"}, []string{"ahead 600 1"}},
		"a clock ahead that spoke again": {minute(100), []fleet.ClusterID{"ahead"}, []string{"ahead 620 3"}},
		"when it seems to speak":         {minute(610), []fleet.ClusterID{"right"}, []string{"right 8 2"}},
		"weeks after the last one":       {minute(2 * month), []fleet.ClusterID{"ahead", "berlin"}, []string{"ahead 620 3", "berlin 10 3"}},
		"before them all":                {minute(-3 * month), nil, nil},
	} {
		inventories, err := s.InventoriesAt(ctx, fleet.DefaultTenant, c.at, c.clusters)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, in := range inventories {
			got = append(got, told(in))
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	whole, err := s.InventoriesAt(ctx, fleet.DefaultTenant, minute(6), []fleet.ClusterID{"rome"})
	if err != nil {
		t.Fatal(err)
	}
	want := *records[5].Inventory
	want.Instances = []fleet.Instance{want.Instances[1], want.Instances[0]}
	if diff := cmp.Diff([]fleet.Inventory{want}, whole); diff != "" {
		t.Errorf("an inventory (-want +got):\n%s", diff)
	}

	var recalled []string
	if err := s.RecallInventories(ctx, fleet.DefaultTenant, minute(9), func(in fleet.Inventory) { recalled = append(recalled, told(in)) }); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{
		"ahead 8 2", "ahead 620 3", "berlin 0 2", "berlin 10 4", "berlin 10 3", "oslo " + strconv.Itoa(-2*month) + " 1", "right 8 2", "rome 5 1", "rome 12 nothing",
	}, recalled); diff != "" {
		t.Errorf("since the ninth minute, with what held then (-want +got):\n%s", diff)
	}
}

func TestRegistrationsAndPackagesOfAll(t *testing.T) {
	t.Parallel()
	s := openHistory(t, embedded(shared))
	ctx := limited(t, time.Minute)
	now := time.Now().UTC().Truncate(time.Millisecond)
	yes, no := true, false
	long := now.AddDate(0, -3, 0)
	older := fleet.Package{Cluster: "berlin", ObservedAt: now.Add(-time.Minute), Helm: []fleet.HelmRelease{{Name: "gw", Namespace: "akeyless"}}}
	newer := fleet.Package{
		Cluster: "berlin", ObservedAt: now,
		Helm: []fleet.HelmRelease{
			{
				Name: "gw", Namespace: "akeyless", Chart: "akeyless-gateway", ChartVersion: "3.3.0", AppVersion: "5.0.1_3.3.0", Revision: 7, Status: "deployed",
				ValuesHash: "sha256:a", UpdatedAt: now.Add(-time.Hour), Versions: fleet.VersionSet{fleet.LineSRA: "3.1.0", fleet.LineGateway: "5.0.1"},
			},
			{Name: "other", Namespace: "akeyless", Status: "failed"},
		},
		Compose: []fleet.ComposeService{
			{Project: "p", Service: "a", Image: "sra:3", ConfigHash: "h", State: fleet.ComposeChanged, Differences: []string{"image", "it's one"}},
			{Project: "p", Service: "b", State: fleet.ComposeExtra},
		},
		RemoteAccess: &fleet.RemoteAccess{Hash: "sha256:b", LegacySigning: &yes, KexAlgorithms: "curve25519-sha256", SessionTTL: time.Hour, RecordingStorage: "aws", LogForwarding: "syslog"},
	}
	silent := fleet.Package{Cluster: "oslo", ObservedAt: long, RemoteAccess: &fleet.RemoteAccess{LegacySigning: &no}}
	empty := fleet.Package{Cluster: "rome", ObservedAt: now}
	unsaid := fleet.Package{Cluster: "siena", ObservedAt: now, RemoteAccess: &fleet.RemoteAccess{Hash: "x"}}
	registered := fleet.Registration{Cluster: "berlin", ObservedAt: now, LastReport: now.Add(-time.Second), Bastions: []fleet.Bastion{{ID: "b1", Version: "3.1.0"}, {ID: "b2"}},
		Gateways: []fleet.RegisteredGateway{{Name: "acc/p/berlin", Status: "Running"}}}
	unregistered := fleet.Registration{Cluster: "oslo", ObservedAt: long}
	var records []codec.Record
	add := func(at time.Time, o codec.Observation) {
		records = append(records, codec.Record{Observation: o, Tenant: fleet.DefaultTenant, ObservedAt: at, RecordedAt: at, Source: "hub", StreamSequence: uint64(len(records))})
	}
	for _, p := range []*fleet.Package{&older, &newer, &silent, &empty, &unsaid} {
		add(p.ObservedAt, codec.Observation{Package: p})
	}
	before := registered
	before.ObservedAt = now.Add(-time.Hour)
	for _, r := range []*fleet.Registration{&before, &registered, &unregistered} {
		add(r.ObservedAt, codec.Observation{Registration: r})
	}
	for range 2 {
		if err := s.InsertRecords(ctx, records); err != nil {
			t.Fatal(err)
		}
	}
	packages, err := s.Packages(ctx, fleet.DefaultTenant)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]fleet.Package{newer, silent, empty, unsaid}, packages); diff != "" {
		t.Errorf("packages (-want +got):\n%s", diff)
	}
	registrations, err := s.Registrations(ctx, fleet.DefaultTenant)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]fleet.Registration{registered, unregistered}, registrations); diff != "" {
		t.Errorf("registrations (-want +got):\n%s", diff)
	}
}
