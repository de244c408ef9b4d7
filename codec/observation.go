// Package codec translates between domain values and the messages of proto/, and
// cuts lists into the pages that requests ask for. Every direction is total: what
// a message cannot mean is an error that names the field.
package codec

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"strconv"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
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
	Package      *fleet.Package
	Check        *fleet.Check
}

// Kind returns what sort of observation it is; a mark is of the kind it promises.
func (o Observation) Kind() fleet.Kind {
	switch {
	case o.Inventory != nil:
		return fleet.KindInventory
	case o.Session != nil:
		return fleet.KindSession
	case o.Mark != nil:
		return o.Mark.About
	case o.Registration != nil:
		return fleet.KindRegistration
	case o.Package != nil:
		return fleet.KindPackage
	case o.Check != nil:
		return o.Check.Kind.Kind()
	}
	return ""
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
	case o.Package != nil:
		return o.Package.Cluster
	case o.Check != nil:
		return o.Check.Cluster
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

// times turns timestamps and durations into Go's and keeps the first that is none.
type times struct{ err error }

// span reads a duration, the zero duration when absent.
func (t *times) span(field string, m *durationpb.Duration) time.Duration {
	if m == nil {
		return 0
	}
	if err := m.CheckValid(); err != nil && t.err == nil {
		t.err = fmt.Errorf("%s is no duration: %w", field, err)
	}
	return m.AsDuration()
}

func (t *times) read(field string, m *timestamppb.Timestamp) time.Time {
	if m == nil {
		return time.Time{}
	}
	if err := m.CheckValid(); err != nil && t.err == nil {
		t.err = fmt.Errorf("%s is no time: %w", field, err)
	}
	return m.AsTime()
}

// duration keeps the zero duration absent.
func duration(d time.Duration) *durationpb.Duration {
	if d == 0 {
		return nil
	}
	return durationpb.New(d)
}

// ObservationID returns the id of what a source saw: the same however often it is
// sent. Of a session it is that it came into a state, of a check the look at one
// thing, of all else what was seen at an instant.
func ObservationID(source fleet.SourceID, o Observation, observedAt time.Time) string {
	parts := []string{string(source), string(o.Kind()), string(o.Cluster())}
	switch {
	case o.Session != nil:
		parts = append(parts, string(o.Session.ID), string(o.Session.Status))
	case o.Check != nil:
		parts = append(parts, o.Check.Name, string(o.Check.Kind), o.Check.Target, string(o.Check.Session), o.Check.At.UTC().Format(time.RFC3339Nano))
	case o.Mark != nil:
		parts = append(parts, "mark", strconv.FormatBool(o.Mark.Blind), strconv.FormatBool(o.Mark.Lost), observedAt.UTC().Format(time.RFC3339Nano))
	default:
		parts = append(parts, observedAt.UTC().Format(time.RFC3339Nano))
	}
	var room [256]byte
	text := room[:0]
	for _, part := range parts {
		// Lengths first: no two lists of parts read the same.
		text = strconv.AppendInt(text, int64(len(part)), 10)
		text = append(append(text, ':'), part...)
	}
	hash := sha256.Sum256(text)
	return hex.EncodeToString(hash[:16])
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
				Declared: i.Declared, Labelled: i.Labelled, Node: i.Node, Restarts: i.Restarts,
			})
		}
		m.Kind = &observationv1.Observation_Inventory{Inventory: inventory}
	case o.Session != nil:
		s := o.Session
		m.Kind = &observationv1.Observation_Session{Session: &observationv1.Session{
			Id: string(s.ID), Status: string(s.Status), User: s.User, Target: s.Target, InstanceId: string(s.InstanceID),
			Start: timestamp(s.Start), End: timestamp(s.End), Error: s.Error, Probe: s.Probe,
			Failure: string(s.Failure), Protocol: s.Protocol, TargetType: s.TargetType,
		}}
	case o.Mark != nil:
		m.Kind = &observationv1.Observation_Mark{Mark: &observationv1.Mark{
			CompleteUntil: timestamp(o.Mark.CompleteUntil), Blind: o.Mark.Blind, BlindReason: o.Mark.BlindReason, Lost: o.Mark.Lost,
			About: string(o.Mark.About), ClockSkew: duration(o.Mark.Skew),
		}}
	case o.Registration != nil:
		registration := &observationv1.Registration{LastReport: timestamp(o.Registration.LastReport)}
		for _, b := range o.Registration.Bastions {
			registration.Bastions = append(registration.Bastions, &observationv1.Bastion{Id: string(b.ID), Version: b.Version})
		}
		for _, g := range o.Registration.Gateways {
			registration.Gateways = append(registration.Gateways, &observationv1.RegisteredGateway{Name: g.Name, Status: g.Status})
		}
		m.Kind = &observationv1.Observation_Registration{Registration: registration}
	case o.Package != nil:
		m.Kind = &observationv1.Observation_Package{Package: packageToProto(o.Package)}
	case o.Check != nil:
		m.Kind = &observationv1.Observation_Check{Check: checkToProto(o.Check)}
	}
	return m
}

func packageToProto(p *fleet.Package) *observationv1.Package {
	m := &observationv1.Package{}
	for _, r := range p.Helm {
		release := &observationv1.HelmRelease{
			Name: r.Name, Namespace: r.Namespace, Chart: r.Chart, ChartVersion: r.ChartVersion, AppVersion: r.AppVersion,
			Revision: r.Revision, Status: r.Status, ValuesHash: r.ValuesHash, UpdatedAt: timestamp(r.UpdatedAt),
		}
		for line, version := range r.Versions {
			if release.Versions == nil {
				release.Versions = make(map[string]string, len(r.Versions))
			}
			release.Versions[string(line)] = version
		}
		m.Helm = append(m.Helm, release)
	}
	for _, s := range p.Compose {
		m.Compose = append(m.Compose, &observationv1.ComposeService{
			Project: s.Project, Service: s.Service, Image: s.Image, ConfigHash: s.ConfigHash, State: string(s.State), Differences: s.Differences,
		})
	}
	if r := p.RemoteAccess; r != nil {
		m.RemoteAccess = &observationv1.RemoteAccess{
			Hash: r.Hash, LegacySigning: r.LegacySigning, KexAlgorithms: r.KexAlgorithms, SessionTtl: duration(r.SessionTTL),
			RecordingStorage: r.RecordingStorage, LogForwarding: r.LogForwarding,
		}
	}
	return m
}

func checkToProto(c *fleet.Check) *observationv1.Check {
	return &observationv1.Check{
		Name: c.Name, Kind: string(c.Kind), Component: string(c.Component), Target: c.Target, Session: string(c.Session),
		At: timestamp(c.At), Took: duration(c.Took), Ok: c.OK, Failure: string(c.Failure), Detail: c.Detail,
		CertificateExpiresAt: timestamp(c.CertificateExpires), Readings: c.Readings,
	}
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
				Declared: i.GetDeclared(), Labelled: i.GetLabelled(), Node: i.GetNode(), Restarts: i.GetRestarts(),
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
			Failure: fleet.Failure(s.GetFailure()), Protocol: s.GetProtocol(), TargetType: s.GetTargetType(),
		}}, nil
	case *observationv1.Observation_Mark:
		until := t.read("mark.complete_until", kind.Mark.GetCompleteUntil())
		if until.IsZero() && !kind.Mark.GetBlind() {
			return Observation{}, errors.New("mark.complete_until is missing, and the mark is not blind")
		}
		return Observation{Mark: &fleet.Mark{
			Cluster: cluster, CompleteUntil: until, Blind: kind.Mark.GetBlind(), BlindReason: kind.Mark.GetBlindReason(), Lost: kind.Mark.GetLost(),
			About: fleet.Kind(cmp.Or(kind.Mark.GetAbout(), string(fleet.KindSession))), Skew: t.span("mark.clock_skew", kind.Mark.GetClockSkew()),
		}}, nil
	case *observationv1.Observation_Registration:
		registration := fleet.Registration{
			Cluster: cluster, ObservedAt: at, LastReport: t.read("registration.last_report", kind.Registration.GetLastReport()),
		}
		for _, b := range kind.Registration.GetBastions() {
			registration.Bastions = append(registration.Bastions, fleet.Bastion{ID: fleet.InstanceID(b.GetId()), Version: b.GetVersion()})
		}
		for _, g := range kind.Registration.GetGateways() {
			registration.Gateways = append(registration.Gateways, fleet.RegisteredGateway{Name: g.GetName(), Status: g.GetStatus()})
		}
		return Observation{Registration: &registration}, nil
	case *observationv1.Observation_Package:
		return Observation{Package: packageFromProto(kind.Package, cluster, at, t)}, nil
	case *observationv1.Observation_Check:
		return checkFromProto(kind.Check, cluster, t)
	}
	return Observation{}, errors.New("kind is missing or one that this build does not know")
}

func packageFromProto(m *observationv1.Package, cluster fleet.ClusterID, at time.Time, t *times) *fleet.Package {
	p := &fleet.Package{Cluster: cluster, ObservedAt: at}
	for n, r := range m.GetHelm() {
		release := fleet.HelmRelease{
			Name: r.GetName(), Namespace: r.GetNamespace(), Chart: r.GetChart(), ChartVersion: r.GetChartVersion(), AppVersion: r.GetAppVersion(),
			Revision: r.GetRevision(), Status: r.GetStatus(), ValuesHash: r.GetValuesHash(),
			UpdatedAt: t.read(fmt.Sprintf("package.helm[%d].updated_at", n), r.GetUpdatedAt()),
		}
		for line, version := range r.GetVersions() {
			if release.Versions == nil {
				release.Versions = make(fleet.VersionSet, len(r.GetVersions()))
			}
			release.Versions[fleet.Line(line)] = version
		}
		p.Helm = append(p.Helm, release)
	}
	for _, s := range m.GetCompose() {
		p.Compose = append(p.Compose, fleet.ComposeService{
			Project: s.GetProject(), Service: s.GetService(), Image: s.GetImage(), ConfigHash: s.GetConfigHash(),
			State: fleet.ComposeState(s.GetState()), Differences: s.GetDifferences(),
		})
	}
	if r := m.GetRemoteAccess(); r != nil {
		p.RemoteAccess = &fleet.RemoteAccess{
			Hash: r.GetHash(), LegacySigning: r.LegacySigning, KexAlgorithms: r.GetKexAlgorithms(),
			SessionTTL:       t.span("package.remote_access.session_ttl", r.GetSessionTtl()),
			RecordingStorage: r.GetRecordingStorage(), LogForwarding: r.GetLogForwarding(),
		}
	}
	return p
}

func checkFromProto(m *observationv1.Check, cluster fleet.ClusterID, t *times) (Observation, error) {
	switch {
	case m.GetName() == "" || m.GetKind() == "":
		return Observation{}, errors.New("check.name or check.kind is empty")
	case m.GetAt() == nil:
		return Observation{}, fmt.Errorf("check.at of check %s is missing", m.GetName())
	}
	for name, value := range m.GetReadings() {
		if math.IsNaN(value) || math.IsInf(value, 0) {
			return Observation{}, fmt.Errorf("check.readings[%s] of check %s is no number", name, m.GetName())
		}
	}
	return Observation{Check: &fleet.Check{
		Cluster: cluster, Name: m.GetName(), Kind: fleet.CheckKind(m.GetKind()), Component: fleet.Component(m.GetComponent()),
		Target: m.GetTarget(), Session: fleet.SessionID(m.GetSession()), At: t.read("check.at", m.GetAt()), Took: t.span("check.took", m.GetTook()),
		OK: m.GetOk(), Failure: fleet.Failure(m.GetFailure()), Detail: m.GetDetail(),
		CertificateExpires: t.read("check.certificate_expires_at", m.GetCertificateExpiresAt()), Readings: m.GetReadings(),
	}}, nil
}
