package codec

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lockstep-fleet/lockstep/domain/catalog"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	catalogv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/catalog/v1"
)

// ReleaseToProto encodes a release.
func ReleaseToProto(r catalog.Release) *catalogv1.Release {
	m := &catalogv1.Release{
		Id: string(r.ID), Chart: r.Chart, ChartVersion: r.ChartVersion, AppVersion: r.AppVersion, ReleasedAt: timestamp(r.ReleasedAt),
		Versions: VersionsToProto(r.Versions), Digest: r.Digest, Notes: r.Notes, Source: r.Source,
	}
	if len(r.Images) > 0 {
		m.Images = make(map[string]string, len(r.Images))
	}
	for line, image := range r.Images {
		m.Images[string(line)] = image
	}
	return m
}

// ReleaseFromProto decodes a release.
func ReleaseFromProto(m *catalogv1.Release) catalog.Release {
	r := catalog.Release{
		ID: fleet.ReleaseID(m.GetId()), Chart: m.GetChart(), ChartVersion: m.GetChartVersion(), AppVersion: m.GetAppVersion(), ReleasedAt: instant(m.GetReleasedAt()),
		Versions: VersionsFromProto(m.GetVersions()), Digest: m.GetDigest(), Notes: m.GetNotes(), Source: m.GetSource(),
	}
	if len(m.GetImages()) > 0 {
		r.Images = make(map[fleet.Line]string, len(m.GetImages()))
	}
	for line, image := range m.GetImages() {
		r.Images[fleet.Line(line)] = image
	}
	return r
}

// EntryToProto encodes a release with what is thought of it.
func EntryToProto(e catalog.Entry) *catalogv1.Entry {
	m := &catalogv1.Entry{Release: ReleaseToProto(e.Release), Status: string(e.Status), Reasons: e.Reasons, PackagingRisks: e.PackagingRisks}
	if e.Block != nil {
		m.Block = blockToProto(*e.Block)
	}
	return m
}

func blockToProto(b catalog.Block) *catalogv1.Block {
	return &catalogv1.Block{Release: string(b.Release), Owner: b.Owner, Reason: b.Reason, At: timestamp(b.At), ExpiresAt: timestamp(b.Expires)}
}

func blockFromProto(m *catalogv1.Block) catalog.Block {
	return catalog.Block{
		Release: fleet.ReleaseID(m.GetRelease()), Owner: m.GetOwner(), Reason: m.GetReason(), At: instant(m.GetAt()), Expires: instant(m.GetExpiresAt()),
	}
}

// AcknowledgementToProto encodes an acknowledgement.
func AcknowledgementToProto(a catalog.Acknowledgement) *catalogv1.Acknowledgement {
	return &catalogv1.Acknowledgement{
		Risk: string(a.Risk), Release: string(a.Release), Cluster: string(a.Cluster), Owner: a.Owner, Reason: a.Reason,
		At: timestamp(a.At), ExpiresAt: timestamp(a.Expires),
	}
}

func acknowledgementFromProto(m *catalogv1.Acknowledgement) catalog.Acknowledgement {
	return catalog.Acknowledgement{
		Risk: catalog.RiskID(m.GetRisk()), Release: fleet.ReleaseID(m.GetRelease()), Cluster: fleet.ClusterID(m.GetCluster()),
		Owner: m.GetOwner(), Reason: m.GetReason(), At: instant(m.GetAt()), Expires: instant(m.GetExpiresAt()),
	}
}

// AssessmentToProto encodes what a move meets of one risk.
func AssessmentToProto(a catalog.Assessment) *catalogv1.Assessment {
	m := &catalogv1.Assessment{
		Risk: string(a.Risk), Title: a.Title, Condition: string(a.Condition), Detail: a.Detail, Remedy: a.Remedy, Closed: a.Closed,
	}
	if a.Acknowledged != nil {
		m.Acknowledgement = AcknowledgementToProto(*a.Acknowledged)
	}
	return m
}

// GraphToProto encodes the version sets and the moves between them.
func GraphToProto(g catalog.Graph) *catalogv1.GetGraphResponse {
	m := &catalogv1.GetGraphResponse{}
	for _, n := range g.Nodes {
		node := &catalogv1.VersionSetNode{Versions: VersionsToProto(n.Versions), Status: string(n.Status)}
		for _, id := range n.Releases {
			node.Releases = append(node.Releases, string(id))
		}
		m.Nodes = append(m.Nodes, node)
	}
	for _, e := range g.Edges {
		edge := &catalogv1.VersionSetEdge{From: int32(e.From), To: int32(e.To), Release: string(e.Release), Chart: e.Chart}
		for _, move := range e.Moves {
			edge.Moves = append(edge.Moves, &catalogv1.LineMove{Line: string(move.Line), From: move.From, To: move.To, Direction: string(move.Direction)})
		}
		m.Edges = append(m.Edges, edge)
	}
	return m
}

// CatalogFactToProto encodes one fact of the catalogue.
func CatalogFactToProto(f catalog.Fact) *catalogv1.Fact {
	m := &catalogv1.Fact{At: timestamppb.New(f.At), By: f.By}
	switch k := f.Kind.(type) {
	case catalog.ReleasesImported:
		imported := &catalogv1.ReleasesImported{Source: k.Source}
		for _, r := range k.Releases {
			imported.Releases = append(imported.Releases, ReleaseToProto(r))
		}
		m.Kind = &catalogv1.Fact_ReleasesImported{ReleasesImported: imported}
	case catalog.ReleaseBlocked:
		m.Kind = &catalogv1.Fact_ReleaseBlocked{ReleaseBlocked: &catalogv1.ReleaseBlocked{Block: blockToProto(k.Block)}}
	case catalog.ReleaseUnblocked:
		m.Kind = &catalogv1.Fact_ReleaseUnblocked{ReleaseUnblocked: &catalogv1.ReleaseUnblocked{Release: string(k.Release), Reason: k.Reason}}
	case catalog.RiskAcknowledged:
		m.Kind = &catalogv1.Fact_RiskAcknowledged{RiskAcknowledged: &catalogv1.RiskAcknowledged{Acknowledgement: AcknowledgementToProto(k.Acknowledgement)}}
	case catalog.AcknowledgementRevoked:
		m.Kind = &catalogv1.Fact_AcknowledgementRevoked{AcknowledgementRevoked: &catalogv1.AcknowledgementRevoked{
			Risk: string(k.Risk), Release: string(k.Release), Cluster: string(k.Cluster), Reason: k.Reason,
		}}
	}
	return m
}

// CatalogFactFromProto decodes one fact of the catalogue; one of a kind that a
// newer version wrote is an error.
func CatalogFactFromProto(m *catalogv1.Fact) (catalog.Fact, error) {
	f := catalog.Fact{At: instant(m.GetAt()), By: m.GetBy()}
	switch k := m.GetKind().(type) {
	case *catalogv1.Fact_ReleasesImported:
		imported := catalog.ReleasesImported{Source: k.ReleasesImported.GetSource()}
		for _, r := range k.ReleasesImported.GetReleases() {
			imported.Releases = append(imported.Releases, ReleaseFromProto(r))
		}
		f.Kind = imported
	case *catalogv1.Fact_ReleaseBlocked:
		f.Kind = catalog.ReleaseBlocked{Block: blockFromProto(k.ReleaseBlocked.GetBlock())}
	case *catalogv1.Fact_ReleaseUnblocked:
		f.Kind = catalog.ReleaseUnblocked{Release: fleet.ReleaseID(k.ReleaseUnblocked.GetRelease()), Reason: k.ReleaseUnblocked.GetReason()}
	case *catalogv1.Fact_RiskAcknowledged:
		f.Kind = catalog.RiskAcknowledged{Acknowledgement: acknowledgementFromProto(k.RiskAcknowledged.GetAcknowledgement())}
	case *catalogv1.Fact_AcknowledgementRevoked:
		f.Kind = catalog.AcknowledgementRevoked{
			Risk: catalog.RiskID(k.AcknowledgementRevoked.GetRisk()), Release: fleet.ReleaseID(k.AcknowledgementRevoked.GetRelease()),
			Cluster: fleet.ClusterID(k.AcknowledgementRevoked.GetCluster()), Reason: k.AcknowledgementRevoked.GetReason(),
		}
	default:
		return catalog.Fact{}, fmt.Errorf("a fact of the catalogue is of the unknown kind %T", k)
	}
	return f, nil
}

// Instant reads a time of a request; an absent one is the zero time.
func Instant(t *timestamppb.Timestamp) time.Time { return instant(t) }
