// Package codec translates between domain values and the messages of proto/, and
// cuts lists into the pages that requests ask for. Every direction is total: what
// a message cannot mean is an error that names the field.
package codec

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
	observationv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/observation/v1"
)

// Observation is one thing a source saw; exactly one of the pointers is set.
type Observation struct {
	Inventory    *fleet.Inventory
	Session      *fleet.Session
	Mark         *fleet.Mark
	Registration *fleet.Registration
}

// Cluster returns the cluster the observation is about.
func (o Observation) Cluster() fleet.ClusterID {
	switch {
	case o.Inventory != nil:
		return o.Inventory.Cluster
	case o.Session != nil:
		return o.Session.Cluster
	case o.Mark != nil:
		return o.Mark.Cluster
	case o.Registration != nil:
		return o.Registration.Cluster
	}
	return ""
}

// Record is an observation with where it came from. (StreamSequence, Index) is
// its identity; the order of records is that of their identities.
type Record struct {
	Observation
	Tenant         fleet.TenantID
	ObservedAt     time.Time
	RecordedAt     time.Time
	Source         fleet.SourceID
	Incarnation    string
	Part           uint32
	SourceSequence uint64
	StreamSequence uint64
	Index          uint32
}

// Position names one sequence of messages: a source counts per incarnation and
// part.
type Position struct {
	Source      fleet.SourceID
	Incarnation string
	Part        uint32
}

// Fact is an event message on its way to the archive.
type Fact struct {
	Tenant         fleet.TenantID
	Noun           string
	ID             string
	StreamSequence uint64
	// Type is the full proto name of the event.
	Type       string
	RecordedAt time.Time
	// JSON is the event in proto's JSON form.
	JSON string
}

// timestamp keeps the zero time absent.
func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// instant turns an absent timestamp into the zero time.
func instant(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}

// times turns timestamps into times and keeps the first that is none.
type times struct{ err error }

func (t *times) read(field string, m *timestamppb.Timestamp) time.Time {
	if m == nil {
		return time.Time{}
	}
	if err := m.CheckValid(); err != nil && t.err == nil {
		t.err = fmt.Errorf("%s is no time: %w", field, err)
	}
	return m.AsTime()
}

// ObservationToProto encodes an observation made at the given time.
func ObservationToProto(o Observation, observedAt time.Time) *observationv1.Observation {
	m := &observationv1.Observation{Cluster: string(o.Cluster()), ObservedAt: timestamp(observedAt)}
	switch {
	case o.Inventory != nil:
		inventory := &observationv1.Inventory{}
		for _, i := range o.Inventory.Instances {
			inventory.Instances = append(inventory.Instances, &observationv1.Instance{
				Id: string(i.ID), Component: string(i.Component), Service: i.Service, Image: i.Image, Tag: i.Tag, Digest: i.Digest,
				ImageId: i.ImageID, Version: i.Version, Health: string(i.Health), StartedAt: timestamp(i.StartedAt),
			})
		}
		m.Kind = &observationv1.Observation_Inventory{Inventory: inventory}
	case o.Session != nil:
		s := o.Session
		m.Kind = &observationv1.Observation_Session{Session: &observationv1.Session{
			Id: string(s.ID), Status: string(s.Status), User: s.User, Target: s.Target, InstanceId: string(s.InstanceID),
			Start: timestamp(s.Start), End: timestamp(s.End), Error: s.Error, Probe: s.Probe,
		}}
	case o.Mark != nil:
		m.Kind = &observationv1.Observation_Mark{Mark: &observationv1.Mark{
			CompleteUntil: timestamp(o.Mark.CompleteUntil), Blind: o.Mark.Blind, BlindReason: o.Mark.BlindReason, Lost: o.Mark.Lost,
		}}
	case o.Registration != nil:
		registration := &observationv1.Registration{LastReport: timestamp(o.Registration.LastReport)}
		for _, b := range o.Registration.Bastions {
			registration.Bastions = append(registration.Bastions, &observationv1.Bastion{Id: string(b.ID), Version: b.Version})
		}
		m.Kind = &observationv1.Observation_Registration{Registration: registration}
	}
	return m
}

// ObservationFromProto decodes an observation. A message without a kind, a
// cluster or the times its kind needs is an error, as is a time that is none.
func ObservationFromProto(m *observationv1.Observation) (Observation, error) {
	cluster := fleet.ClusterID(m.GetCluster())
	if cluster == "" {
		return Observation{}, errors.New("decoding an observation: cluster is empty")
	}
	var t times
	o, err := observation(m, cluster, &t)
	if err == nil {
		err = t.err
	}
	if err != nil {
		return Observation{}, fmt.Errorf("decoding an observation of %s: %w", cluster, err)
	}
	return o, nil
}

func observation(m *observationv1.Observation, cluster fleet.ClusterID, t *times) (Observation, error) {
	at := t.read("observed_at", m.GetObservedAt())
	if at.IsZero() {
		return Observation{}, errors.New("observed_at is missing")
	}
	switch kind := m.GetKind().(type) {
	case *observationv1.Observation_Inventory:
		inventory := fleet.Inventory{Cluster: cluster, ObservedAt: at}
		for n, i := range kind.Inventory.GetInstances() {
			inventory.Instances = append(inventory.Instances, fleet.Instance{
				ID: fleet.InstanceID(i.GetId()), Component: fleet.Component(i.GetComponent()), Service: i.GetService(), Image: i.GetImage(),
				Tag: i.GetTag(), Digest: i.GetDigest(), ImageID: i.GetImageId(), Version: i.GetVersion(),
				Health: fleet.Health(i.GetHealth()), StartedAt: t.read(fmt.Sprintf("inventory.instances[%d].started_at", n), i.GetStartedAt()),
			})
		}
		return Observation{Inventory: &inventory}, nil
	case *observationv1.Observation_Session:
		s := kind.Session
		if s.GetId() == "" {
			return Observation{}, errors.New("session.id is empty")
		}
		start := t.read("session.start", s.GetStart())
		if start.IsZero() {
			return Observation{}, fmt.Errorf("session.start of session %s is missing", s.GetId())
		}
		return Observation{Session: &fleet.Session{
			ID: fleet.SessionID(s.GetId()), Cluster: cluster, Status: fleet.SessionStatus(s.GetStatus()), User: s.GetUser(),
			Target: s.GetTarget(), InstanceID: fleet.InstanceID(s.GetInstanceId()), Start: start,
			End: t.read("session.end", s.GetEnd()), Error: s.GetError(), Probe: s.GetProbe(),
		}}, nil
	case *observationv1.Observation_Mark:
		until := t.read("mark.complete_until", kind.Mark.GetCompleteUntil())
		if until.IsZero() && !kind.Mark.GetBlind() {
			return Observation{}, errors.New("mark.complete_until is missing, and the mark is not blind")
		}
		return Observation{Mark: &fleet.Mark{
			Cluster: cluster, CompleteUntil: until, Blind: kind.Mark.GetBlind(), BlindReason: kind.Mark.GetBlindReason(), Lost: kind.Mark.GetLost(),
		}}, nil
	case *observationv1.Observation_Registration:
		registration := fleet.Registration{
			Cluster: cluster, ObservedAt: at, LastReport: t.read("registration.last_report", kind.Registration.GetLastReport()),
		}
		for _, b := range kind.Registration.GetBastions() {
			registration.Bastions = append(registration.Bastions, fleet.Bastion{ID: fleet.InstanceID(b.GetId()), Version: b.GetVersion()})
		}
		return Observation{Registration: &registration}, nil
	}
	return Observation{}, errors.New("kind is missing or one that this build does not know")
}
