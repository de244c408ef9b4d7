package fleet

import "time"

// Package is what is declared to run in one cluster: what was asked for, beside
// the inventory, which is what runs.
type Package struct {
	Cluster    ClusterID
	ObservedAt time.Time
	Helm       []HelmRelease
	Compose    []ComposeService
	// RemoteAccess is the gateway's own configuration, nil when it was not read.
	RemoteAccess *RemoteAccess
}

// HelmRelease is the newest revision of one release in Helm's own storage.
type HelmRelease struct {
	Name         string
	Namespace    string
	Chart        string
	ChartVersion string
	AppVersion   string
	Revision     uint32
	Status       string // Helm's: deployed, failed, pending-upgrade, …
	// ValuesHash is the SHA-256 of the values people gave, "sha256:…".
	ValuesHash string
	UpdatedAt  time.Time
	// Versions are what chart and values together declare, by line; empty for a
	// chart that is none of the vendor's.
	Versions VersionSet
}

// ComposeState is how a service of a Compose file stands to what runs of it.
type ComposeState string

// Every value ComposeState takes.
const (
	ComposeSame    ComposeState = "same"    // runs as declared
	ComposeChanged ComposeState = "changed" // runs, from an older declaration
	ComposeMissing ComposeState = "missing" // declared and not there
	ComposeExtra   ComposeState = "extra"   // there and not declared
)

// ComposeService is one service of a Compose project.
type ComposeService struct {
	Project string
	Service string
	// Image is what the file asks for after interpolation, empty when the service
	// is not declared.
	Image string
	// ConfigHash is Compose's own hash of the service as declared.
	ConfigHash string
	State      ComposeState
	// Differences say for people what is not as declared, empty when same.
	Differences []string
}

// RemoteAccess is what the gateway was told about remote access, without secrets.
type RemoteAccess struct {
	// Hash changes with anything in the configuration, secrets included.
	Hash string
	// LegacySigning says whether legacy signing algorithms are allowed, which old
	// OpenSSH targets need; nil when the gateway does not say.
	LegacySigning    *bool
	KexAlgorithms    string
	SessionTTL       time.Duration // zero when not said
	RecordingStorage string        // the type of storage recordings go to, empty when none
	LogForwarding    string        // where logs are forwarded to, by kind; empty when nowhere
}
