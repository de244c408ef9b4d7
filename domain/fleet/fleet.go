// Package fleet owns the vocabulary of what runs where: tenants, clusters,
// components, lines, instances, version sets, and what a source observes of
// them. It holds no rule about whether what runs is right; that is drift's.
package fleet

import (
	"maps"
	"slices"
	"strings"
	"time"
)

// Ids are types so that one kind cannot stand in for another.
type (
	TenantID   string
	ClusterID  string
	InstanceID string
	SourceID   string
	SessionID  string
	ReleaseID  string
)

// DefaultTenant is the tenant of an installation that has only one.
const DefaultTenant TenantID = "default"

// Component is a role inside a cluster. The set is open.
type Component string

// The components the vendor ships today.
const (
	Gateway    Component = "gateway"
	SRAWeb     Component = "sra-web"
	SRASSH     Component = "sra-ssh"
	Dispatcher Component = "dispatcher"
	Worker     Component = "worker"
)

// Line is the version line a component follows. Versions are comparable only
// within one line.
type Line string

// The version lines the vendor ships today.
const (
	LineGateway Line = "gateway"
	LineSRA     Line = "sra"
	LineZTWA    Line = "ztwa"
)

// LineOf returns the line a component follows; the second result is false for
// a component this build does not know.
func LineOf(c Component) (Line, bool) {
	switch c {
	case Gateway:
		return LineGateway, true
	case SRAWeb, SRASSH:
		return LineSRA, true
	case Dispatcher, Worker:
		return LineZTWA, true
	}
	return "", false
}

// VersionSet holds one version per line: what a release carries or what a
// cluster runs when it is not mixed.
type VersionSet map[Line]string

// String lists the set as "gateway=5.0.1 sra=3.1.0", lines in order.
func (v VersionSet) String() string {
	parts := make([]string, 0, len(v))
	for _, line := range slices.Sorted(maps.Keys(v)) {
		parts = append(parts, string(line)+"="+v[line])
	}
	return strings.Join(parts, " ")
}

// Health is what the engine that runs an instance says of it.
type Health string

// Every value Health takes; HealthNone means no health check is defined.
const (
	HealthNone      Health = "none"
	HealthStarting  Health = "starting"
	HealthHealthy   Health = "healthy"
	HealthUnhealthy Health = "unhealthy"
	HealthStopped   Health = "stopped"
)

// Instance is one running pod or container of a component, as one source saw it.
type Instance struct {
	ID        InstanceID
	Component Component
	Service   string // the Compose service or the Kubernetes workload
	Image     string // as declared: repository with tag and/or digest
	Tag       string // the tag part of Image, empty when pinned by digest alone
	Digest    string // the repository digest of the running image, "sha256:…", empty when unknown
	ImageID   string // the engine's own id of the running image
	Version   string // the application version the process was given (env VERSION), empty when none
	Health    Health
	StartedAt time.Time
	// Declared is the image that the workload or the Compose file asks for now,
	// empty when it cannot be read; Image is what this instance was made from.
	Declared string
	Labelled string // the version that the instance's labels claim, empty when none
	Node     string // the machine it runs on, empty when the engine is the machine
	Restarts uint32 // how often it was started again since it was created
}

// RunningVersion is the version the instance runs, as far as it can be told: what
// the process was given, else the image's tag, else its digest.
func (i Instance) RunningVersion() string {
	switch {
	case i.Version != "":
		return i.Version
	case i.Tag != "":
		return i.Tag
	}
	return i.Digest
}

// Inventory is everything one source sees of one cluster at one instant.
type Inventory struct {
	Cluster    ClusterID
	ObservedAt time.Time
	Instances  []Instance
}

// Registration is what the vendor's control plane reports of one cluster's
// bastions.
type Registration struct {
	Cluster    ClusterID
	ObservedAt time.Time
	LastReport time.Time // the zero time when never reported
	Bastions   []Bastion
	Gateways   []RegisteredGateway
}

// Bastion is one registered bastion instance. Version is empty when the server
// does not say it, which is neither drift nor fine.
type Bastion struct {
	ID      InstanceID
	Version string
}

// RegisteredGateway is one gateway as the control plane lists it. Status is in
// the vendor's words, such as "Running".
type RegisteredGateway struct {
	Name   string
	Status string
}

// SessionStatus is the lifecycle status of a session.
type SessionStatus string

// Every value SessionStatus takes. All but vanished are the vendor's.
const (
	SessionConnecting SessionStatus = "connecting"
	SessionConnected  SessionStatus = "connected"
	SessionFailed     SessionStatus = "failed"
	SessionCompleted  SessionStatus = "completed"
	SessionTerminated SessionStatus = "terminated"
	// SessionVanished: it was open and is listed no more, without an end.
	SessionVanished SessionStatus = "vanished"
)

// Event names what happened to a session when it came into a status: opened for
// connecting, else the status itself.
func (s SessionStatus) Event() string {
	if s == SessionConnecting {
		return "opened"
	}
	return string(s)
}

// Session is one person's or probe's session in the state a source last saw.
type Session struct {
	ID         SessionID
	Cluster    ClusterID
	Status     SessionStatus
	User       string
	Target     string
	InstanceID InstanceID
	Start      time.Time
	End        time.Time // the zero time while active
	Error      string    // the vendor's free text, empty unless failed
	Failure    Failure   // what kind of failure Error tells of, empty unless failed
	Protocol   string    // ssh, rdp, mysql, …, as the vendor names it; empty when unknown
	TargetType string    // as the vendor names it, empty when unknown
	Probe      bool      // synthetic; never mixed with people's sessions
}

// Kind is what sort of observation something is; it is also the last token of
// the subject it travels on.
type Kind string

// Every kind of observation.
const (
	KindInventory    Kind = "inventory"
	KindSession      Kind = "session"
	KindRegistration Kind = "registration"
	KindPackage      Kind = "package"
	KindProbe        Kind = "probe"
	KindHealth       Kind = "health"
	KindPipeline     Kind = "pipeline"
)

// Kinds lists every kind in a fixed order.
func Kinds() []Kind {
	return []Kind{KindInventory, KindSession, KindRegistration, KindPackage, KindProbe, KindHealth, KindPipeline}
}

// Mark is a source's promise about its own completeness: everything of the kind
// About that it saw of Cluster before CompleteUntil has been sent. For sessions:
// every session that started before, in its current or a later state. For an
// inventory, registration or package: the one sent last still held then.
type Mark struct {
	Cluster       ClusterID
	About         Kind
	CompleteUntil time.Time
	Blind         bool   // the source knows it cannot see all
	BlindReason   string // why, for people
	// Lost says that something sent before this mark never arrived and never
	// will; BlindReason says what.
	Lost bool
	// Skew is how far the clock of what the source reads is ahead of the source's
	// own, as last measured; zero when they agree or it is unknown.
	Skew time.Duration
}
