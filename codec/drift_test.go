package codec_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/catalog"
	"github.com/lockstep-fleet/lockstep/domain/drift"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	catalogv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/catalog/v1"
	driftv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/drift/v1"
)

func anyText(t *rapid.T, label string) string {
	return rapid.SampledFrom([]string{"", "a", "5.0.1_3.3.0", "läuft\nnicht"}).Draw(t, label)
}

func anyInstant(t *rapid.T, label string) time.Time {
	if rapid.Bool().Draw(t, label+" is known") {
		return time.Unix(rapid.Int64Range(1, 1<<33).Draw(t, label), rapid.Int64Range(0, 999_999_999).Draw(t, label+" nanoseconds")).UTC()
	}
	return time.Time{}
}

func anySet(t *rapid.T, label string) fleet.VersionSet {
	set := fleet.VersionSet(rapid.MapOf(rapid.SampledFrom([]fleet.Line{fleet.LineGateway, fleet.LineSRA, fleet.LineZTWA}), rapid.SampledFrom([]string{"1", "2.3.2_1.8.0", "latest"})).Draw(t, label))
	if len(set) == 0 {
		return nil
	}
	return set
}

func texts(t *rapid.T, label string) []string {
	list := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b c"}), 0, 3).Draw(t, label)
	if len(list) == 0 {
		return nil
	}
	return list
}

func TestPeriodsComeBack(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		p := drift.Period{
			Cluster: fleet.ClusterID(anyText(t, "cluster")), Began: anyInstant(t, "began"), Ended: anyInstant(t, "ended"),
			State: rapid.SampledFrom(drift.States()).Draw(t, "state"), Reasons: texts(t, "reasons"),
			Assigned: fleet.ReleaseID(anyText(t, "assigned")), Rollout: anyText(t, "rollout"), Target: fleet.ReleaseID(anyText(t, "target")),
			Edge: drift.Edge{From: anySet(t, "from"), To: anySet(t, "to")},
		}
		for line := range anySet(t, "lines") {
			if p.Running == nil {
				p.Running = make(map[fleet.Line][]string)
			}
			p.Running[line] = append([]string{"1"}, texts(t, "versions")...)
		}
		m := &driftv1.Period{}
		sent(t, codec.PeriodToProto(p), m)
		if diff := cmp.Diff(p, codec.PeriodFromProto(m)); diff != "" {
			t.Fatalf("(-sent +received):\n%s", diff)
		}
	})
}

func sent(t *rapid.T, from, to proto.Message) {
	data, err := proto.Marshal(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := proto.Unmarshal(data, to); err != nil {
		t.Fatal(err)
	}
}

func anyRelease(t *rapid.T) catalog.Release {
	r := catalog.Release{
		ID: fleet.ReleaseID(anyText(t, "id")), Chart: anyText(t, "chart"), ChartVersion: anyText(t, "chart version"), AppVersion: anyText(t, "app version"),
		ReleasedAt: anyInstant(t, "released"), Versions: anySet(t, "versions"), Digest: anyText(t, "digest"), Notes: texts(t, "notes"), Source: anyText(t, "source"),
	}
	for line, image := range anySet(t, "images") {
		if r.Images == nil {
			r.Images = make(map[fleet.Line]string)
		}
		r.Images[line] = image
	}
	return r
}

// Every kind of fact there is comes back as it was, so one that is added and not
// encoded fails here.
func TestFactsOfTheCatalogueComeBack(t *testing.T) {
	t.Parallel()
	kinds := catalog.FactKinds()
	rapid.Check(t, func(t *rapid.T) {
		f := catalog.Fact{At: time.Unix(rapid.Int64Range(0, 1<<33).Draw(t, "at"), 0).UTC(), By: anyText(t, "by")}
		switch rapid.SampledFrom(kinds).Draw(t, "kind").(type) {
		case catalog.ReleasesImported:
			imported := catalog.ReleasesImported{Source: anyText(t, "source")}
			for range rapid.IntRange(0, 3).Draw(t, "releases") {
				imported.Releases = append(imported.Releases, anyRelease(t))
			}
			f.Kind = imported
		case catalog.ReleaseBlocked:
			f.Kind = catalog.ReleaseBlocked{Block: catalog.Block{
				Release: fleet.ReleaseID(anyText(t, "release")), Owner: anyText(t, "owner"), Reason: anyText(t, "reason"), At: anyInstant(t, "since"), Expires: anyInstant(t, "expires"),
			}}
		case catalog.ReleaseUnblocked:
			f.Kind = catalog.ReleaseUnblocked{Release: fleet.ReleaseID(anyText(t, "release")), Reason: anyText(t, "reason")}
		case catalog.RiskAcknowledged:
			f.Kind = catalog.RiskAcknowledged{Acknowledgement: catalog.Acknowledgement{
				Risk: catalog.RiskID(anyText(t, "risk")), Release: fleet.ReleaseID(anyText(t, "release")), Cluster: fleet.ClusterID(anyText(t, "cluster")),
				Owner: anyText(t, "owner"), Reason: anyText(t, "reason"), At: anyInstant(t, "since"), Expires: anyInstant(t, "expires"),
			}}
		case catalog.AcknowledgementRevoked:
			f.Kind = catalog.AcknowledgementRevoked{
				Risk: catalog.RiskID(anyText(t, "risk")), Release: fleet.ReleaseID(anyText(t, "release")), Cluster: fleet.ClusterID(anyText(t, "cluster")), Reason: anyText(t, "reason"),
			}
		default:
			t.Fatalf("a kind of fact that nobody encodes: %T", f.Kind)
		}
		m := &catalogv1.Fact{}
		sent(t, codec.CatalogFactToProto(f), m)
		got, err := codec.CatalogFactFromProto(m)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(f, got); diff != "" {
			t.Fatalf("(-sent +received):\n%s", diff)
		}
	})
	if _, err := codec.CatalogFactFromProto(&catalogv1.Fact{}); err == nil {
		t.Error("a fact of no kind was taken for one")
	}
}
