package catalog_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/catalog"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

var noon = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// pair is a release of the vendor's gateway chart, as written in testdata:
//
//	1.0.3 2024-12-17 gateway=4.24.0 sra=2.3.2_1.8.0
//
// The day "-" is unknown.
func pair(t testing.TB, line string) catalog.Release {
	t.Helper()
	fields := strings.Fields(line)
	if len(fields) < 3 {
		t.Fatalf("%q is no release", line)
	}
	r := catalog.Release{
		ID: catalog.ReleaseIDOf(catalog.GatewayChart, fields[0]), Chart: catalog.GatewayChart, ChartVersion: fields[0],
		Versions: make(fleet.VersionSet),
	}
	if fields[1] != "-" {
		released, err := time.Parse(time.DateOnly, fields[1])
		if err != nil {
			t.Fatal(err)
		}
		r.ReleasedAt = released
	}
	for _, field := range fields[2:] {
		name, version, ok := strings.Cut(field, "=")
		if !ok {
			t.Fatalf("%q: %q is not LINE=VERSION", line, field)
		}
		r.Versions[fleet.Line(name)] = version
	}
	if gateway, sra := r.Versions[fleet.LineGateway], r.Versions[fleet.LineSRA]; gateway != "" && sra != "" {
		r.AppVersion = gateway + "_" + sra
	}
	return r
}

// vendor is the vendor's history.
func vendor(t testing.TB) []catalog.Release {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", "gateway_chart.txt"))
	if err != nil {
		t.Fatal(err)
	}
	var out []catalog.Release
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "#") {
			out = append(out, pair(t, line))
		}
	}
	return out
}

// imported is the state after one import that must be taken.
func imported(t testing.TB, s catalog.State, releases ...catalog.Release) catalog.State {
	t.Helper()
	facts, _, err := catalog.Import(s, "vendor", releases, "anna", noon)
	if err != nil {
		t.Fatal(err)
	}
	return applied(s, facts)
}

func applied(s catalog.State, facts []catalog.Fact) catalog.State {
	for _, f := range facts {
		s = s.Apply(f)
	}
	return s
}

// ids are those of entries of a status, in order.
func ids(entries []catalog.Entry, status catalog.Status) []fleet.ReleaseID {
	var out []fleet.ReleaseID
	for _, e := range entries {
		if e.Status == status {
			out = append(out, e.Release.ID)
		}
	}
	return out
}

func entry(t testing.TB, entries []catalog.Entry, id fleet.ReleaseID) catalog.Entry {
	t.Helper()
	e, ok := catalog.NewIndex(entries).Release(id)
	if !ok {
		t.Fatalf("there is no release %s", id)
	}
	return e
}
