package fleet

import "time"

// CheckKind is what a check looks at.
type CheckKind string

// Every kind of check.
const (
	// Probes: synthetic sessions and connections, as a person would open them.
	CheckSSH   CheckKind = "ssh"   // handshake, login and one command
	CheckHTTPS CheckKind = "https" // TLS and one request
	CheckTLS   CheckKind = "tls"   // handshake only
	CheckTCP   CheckKind = "tcp"   // connection only
	// Health: what components say of themselves. It does not prove that sessions
	// work.
	CheckEndpoint CheckKind = "endpoint" // a health or status endpoint
	CheckMetrics  CheckKind = "metrics"  // a metrics endpoint, with its readings
	// Pipeline: whether what sessions leave behind arrives.
	CheckRecording  CheckKind = "recording"  // the recording of one finished session
	CheckStorage    CheckKind = "storage"    // the storage takes and gives back an object
	CheckForwarding CheckKind = "forwarding" // the log receiver accepts
)

// Kind is the kind of observation that a check is.
func (k CheckKind) Kind() Kind {
	switch k {
	case CheckEndpoint, CheckMetrics:
		return KindHealth
	case CheckRecording, CheckStorage, CheckForwarding:
		return KindPipeline
	}
	return KindProbe
}

// Failure classifies why a session, probe or check failed. The set is open:
// unclassified stands for all that no class fits.
type Failure string

// Every class of failure this build tells apart.
const (
	FailureUnclassified Failure = "unclassified"

	// Of a connection.
	FailureDNS         Failure = "dns"           // the name has no address
	FailureRefused     Failure = "refused"       // nothing listens
	FailureTimeout     Failure = "timeout"       // no answer in time
	FailureUnreachable Failure = "unreachable"   // no route, or broken off
	FailureTLS         Failure = "tls"           // the handshake failed
	FailureCertificate Failure = "certificate"   // expired, of another name or signer
	FailureHandshake   Failure = "handshake"     // the SSH handshake failed
	FailureHostKey     Failure = "host_key"      // another host key than expected
	FailureAuth        Failure = "auth"          // logged in as nobody
	FailureCommand     Failure = "command"       // logged in, and the command failed
	FailureHTTPStatus  Failure = "http_status"   // another status than expected
	FailureContent     Failure = "content"       // an answer that says something else
	FailureTooManyOpen Failure = "too_many_open" // the server takes no more just now

	// Of the look itself: it could not begin, for a file on this machine is missing
	// or cannot be read. It says nothing of what was to be looked at.
	FailureSetup Failure = "setup"

	// Of a session, from the vendor's words.
	FailureLegacySSH   Failure = "legacy_ssh_algorithms" // no mutual signature algorithm with an old target
	FailureIssuerUsers Failure = "issuer_session_users"  // the SSH issuer does not allow session_* users
	FailureTarget      Failure = "target"                // the target did not take the connection
	FailurePermission  Failure = "permission"            // this user may not
	FailureLost        Failure = "lost"                  // the connection broke under way

	// Of the recording and forwarding pipeline.
	FailureMissing   Failure = "missing"   // the object did not appear in time
	FailureEmpty     Failure = "empty"     // the object holds nothing
	FailureForbidden Failure = "forbidden" // the storage or receiver refuses these credentials
)

// Check is the outcome of one look at one thing: a probe, a health endpoint or a
// piece of the pipeline.
type Check struct {
	Cluster ClusterID
	// Name is what the configuration calls the check.
	Name      string
	Kind      CheckKind
	Component Component // what it speaks of, empty for none
	Target    string    // the address looked at, without secrets
	Session   SessionID // the session a recording belongs to, else empty
	At        time.Time // when the look began
	Took      time.Duration
	OK        bool
	Failure   Failure // empty when OK
	Detail    string  // for people: what was seen, without secrets
	// CertificateExpires is when the first certificate of the chain that was shown
	// ends, the zero time when none was.
	CertificateExpires time.Time
	// Readings are numbers the thing told, by name, such as restarts or sizes.
	Readings map[string]float64
}
