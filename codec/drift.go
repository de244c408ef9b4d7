package codec

import (
	"maps"
	"slices"

	"github.com/lockstep-fleet/lockstep/domain/drift"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	driftv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/drift/v1"
)

// PeriodToProto encodes a period with the cluster's id.
func PeriodToProto(p drift.Period) *driftv1.Period {
	m := &driftv1.Period{
		Cluster: string(p.Cluster), BeganAt: timestamp(p.Began), EndedAt: timestamp(p.Ended), State: string(p.State), Reasons: p.Reasons,
		AssignedRelease: string(p.Assigned), Rollout: p.Rollout, TargetRelease: string(p.Target),
		EdgeFrom: VersionsToProto(p.Edge.From), EdgeTo: VersionsToProto(p.Edge.To),
	}
	for _, line := range slices.Sorted(maps.Keys(p.Running)) {
		m.Lines = append(m.Lines, &driftv1.RunningLine{Line: string(line), Versions: p.Running[line]})
	}
	return m
}

// PeriodFromProto decodes a period.
func PeriodFromProto(m *driftv1.Period) drift.Period {
	p := drift.Period{
		Cluster: fleet.ClusterID(m.GetCluster()), Began: instant(m.GetBeganAt()), Ended: instant(m.GetEndedAt()), State: drift.State(m.GetState()),
		Reasons: m.GetReasons(), Assigned: fleet.ReleaseID(m.GetAssignedRelease()), Rollout: m.GetRollout(), Target: fleet.ReleaseID(m.GetTargetRelease()),
		Edge: drift.Edge{From: VersionsFromProto(m.GetEdgeFrom()), To: VersionsFromProto(m.GetEdgeTo())},
	}
	if len(m.GetLines()) > 0 {
		p.Running = make(map[fleet.Line][]string, len(m.GetLines()))
	}
	for _, l := range m.GetLines() {
		p.Running[fleet.Line(l.GetLine())] = l.GetVersions()
	}
	return p
}

// VersionsToProto encodes a version set; an empty one is absent.
func VersionsToProto(set fleet.VersionSet) map[string]string {
	if len(set) == 0 {
		return nil
	}
	out := make(map[string]string, len(set))
	for line, version := range set {
		out[string(line)] = version
	}
	return out
}

// VersionsFromProto decodes a version set; an absent one is nil.
func VersionsFromProto(m map[string]string) fleet.VersionSet {
	if len(m) == 0 {
		return nil
	}
	out := make(fleet.VersionSet, len(m))
	for line, version := range m {
		out[fleet.Line(line)] = version
	}
	return out
}
