package evaluator

import (
	"context"
	"fmt"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/bus"
	observationv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/observation/v1"
	"github.com/lockstep-fleet/lockstep/proto/gen/lockstep/observation/v1/observationv1connect"
	"github.com/lockstep-fleet/lockstep/topology"
)

// observationAPI shows the observation stream as it is. It reads beside the
// evaluator's own position and knows nothing of what is judged.
type observationAPI struct {
	config Config
	bus    Bus
}

func (a observationAPI) WatchObservations(ctx context.Context, req *observationv1.WatchObservationsRequest, stream observationv1connect.ObservationServiceWatchObservationsServerStream) error {
	tail := bus.Tail{
		Stream: topology.StreamObservations, Follow: req.GetFollow(),
		Filters: topology.ObservationFilters(a.config.Tenant, ids[fleet.SourceID](req.GetSources()), ids[fleet.ClusterID](req.GetClusters()), ids[fleet.Kind](req.GetKinds())),
	}
	if req.GetSince() != nil {
		tail.Since = req.GetSince().AsTime()
	}
	tail.New = tail.Since.IsZero()
	// Without a first message the caller does not learn that the call stands before
	// something is seen.
	if err := stream.Send(&observationv1.WatchObservationsResponse{}); err != nil {
		return err
	}
	err := a.bus.Tail(ctx, tail, func(m bus.Message) error {
		var batch observationv1.Batch
		if err := proto.Unmarshal(m.Data, &batch); err != nil {
			return nil //nolint:nilerr // the evaluator puts it to the dead letters; a reader has no use for it
		}
		out := &observationv1.WatchObservationsResponse{}
		for i, o := range batch.GetObservations() {
			if !shown(o, req) {
				continue
			}
			record := &observationv1.Record{
				Observation: o, Source: batch.GetSource(), Incarnation: batch.GetIncarnation(), Sequence: batch.GetSequence(), Index: uint32(i),
				StreamSequence: m.Sequence, ReceivedAt: timestamppb.New(m.Time),
			}
			if !m.SentAt.IsZero() {
				record.SentAt = timestamppb.New(m.SentAt)
			}
			out.Records = append(out.Records, record)
		}
		if len(out.GetRecords()) == 0 {
			return nil
		}
		return stream.Send(out)
	})
	if err != nil {
		return fmt.Errorf("reading the observation stream: %w", err)
	}
	return ctx.Err()
}

func ids[T ~string](in []string) []T {
	out := make([]T, len(in))
	for i, id := range in {
		out[i] = T(id)
	}
	return out
}

// shown reports whether an observation is among those asked for. Kinds and
// sources are told apart by the subject already.
func shown(o *observationv1.Observation, req *observationv1.WatchObservationsRequest) bool {
	if clusters := req.GetClusters(); len(clusters) > 0 && !slices.Contains(clusters, o.GetCluster()) {
		return false
	}
	mark := o.GetMark()
	if mark != nil && !mark.GetBlind() && (!req.GetMarks() || req.GetFailures()) {
		return false
	}
	return !req.GetFailures() || failed(o)
}

// failed reports whether an observation tells of something that does not work.
func failed(o *observationv1.Observation) bool {
	switch kind := o.GetKind().(type) {
	case *observationv1.Observation_Session:
		status := fleet.SessionStatus(kind.Session.GetStatus())
		return status == fleet.SessionFailed || status == fleet.SessionVanished
	case *observationv1.Observation_Check:
		return !kind.Check.GetOk()
	case *observationv1.Observation_Mark:
		return kind.Mark.GetBlind()
	}
	return false
}
