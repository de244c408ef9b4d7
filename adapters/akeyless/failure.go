package akeyless

import (
	"strings"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// signature is what the words of a failed session look like when it failed for a
// known reason. All its parts must be there, in lower case.
type signature struct {
	failure fleet.Failure
	parts   []string
}

// signatures are tried in order, and the first that fits counts: what is special
// comes before what is general, since words of layers pile up in one text ("ssh:
// handshake failed: ssh: unable to authenticate").
func signatures() []signature {
	var all []signature
	either := func(failure fleet.Failure, words ...string) {
		for _, w := range words {
			all = append(all, signature{failure, strings.Split(w, "…")})
		}
	}
	// Known by name. An old target and a new signature, or the reverse.
	either(fleet.FailureLegacySSH,
		"no mutual signature", "ssh-rsa-cert-v01@openssh.com",
		"key type ssh-rsa not in", "signature algorithm ssh-rsa",
		"no matching host key type found…ssh-rsa", "no matching host key type found…ssh-dss",
		"no common algorithm for host key…ssh-rsa]", "no common algorithm for host key…ssh-dss")
	either(fleet.FailureIssuerUsers, "session_…not part of allowed user", "session_…not in allowed user", "session_…not allowed by the issuer")
	either(fleet.FailureTooManyOpen, "maxstartups", "max_startups", "not allowed at this time",
		"too many connections", "too many clients", "too many open", "too many sessions", "too many concurrent",
		"connection limit exceeded", "remaining connection slots are reserved", "maximum number of sessions", "maxsessions",
		"ssh_exchange_identification: connection closed by remote host", "kex_exchange_identification: connection closed by remote host",
		"kex_exchange_identification: read: connection reset")

	// The host behind the name is another one, or shows it by nothing trusted.
	either(fleet.FailureHostKey, "host key verification failed", "host key mismatch", "knownhosts: key", "remote host identification has changed",
		"host key is unknown", "no hostkey alg", "key is not trusted for host")
	either(fleet.FailureCertificate, "x509:", "certificate has expired", "certificate is not yet valid", "certificate verify failed",
		"certificate signed by unknown", "self-signed certificate", "self signed certificate", "unknown certificate authority", "unknown ca",
		"certificate is not valid for", "bad certificate", "expired certificate")

	// The network between bastion and target.
	either(fleet.FailureDNS, "no such host", "name or service not known", "could not resolve", "temporary failure in name resolution",
		"nxdomain", "server misbehaving", "nodename nor servname", "enotfound", "getaddrinfo")
	either(fleet.FailureRefused, "connection refused", "econnrefused", "actively refused")

	// Who logs in. Before the handshake and the time, which such texts also mention.
	either(fleet.FailureAuth, "unable to authenticate", "authentication failed", "authentication failure", "auth failed", "too many authentication failures",
		"permission denied (publickey", "permission denied (password", "permission denied (keyboard", "permission denied (gssapi", "permission denied, please try again",
		"access denied for user", "login failed", "logon failure", "logon_failure", "invalid credentials", "invalid username", "invalid user",
		"wrong password", "incorrect password", "password authentication", "sasl authentication", "unauthorized", "code 401", "status 401", "http 401", "error 401", "bad credentials", "no supported methods remain",
		"account is locked", "account locked", "account is disabled", "password has expired", "password expired", "token has expired", "token is expired", "invalid token")
	either(fleet.FailurePermission, "not authorized", "not allowed", "forbidden", "access denied", "access is denied", "permission denied", "insufficient permission",
		"insufficient privileg", "code 403", "status 403", "http 403", "error 403", "not entitled", "not permitted", "no permission", "missing permission", "denied by policy",
		"not part of allowed user", "access id is not")

	// Before the handshake, which may have failed for want of an answer alone.
	either(fleet.FailureTimeout, "i/o timeout", "timed out", "timeout", "deadline exceeded", "etimedout", "no answer within")
	either(fleet.FailureLost, "connection reset", "econnreset")

	either(fleet.FailureHandshake, "no matching key exchange", "no matching cipher", "no matching mac", "no matching host key", "no common algorithm",
		"handshake failed: ssh", "ssh: handshake failed", "ssh handshake", "key exchange failed", "kex_exchange_identification", "ssh_exchange_identification",
		"unable to negotiate", "protocol version mismatch", "bad protocol version", "overflow reading version string", "banner exchange", "unable to read protocol version")
	either(fleet.FailureTLS, "tls:", "ssl routines", "ssl error", "ssl_error", "tls handshake", "ssl handshake", "handshake_failure", "sslv3 alert", "tlsv1 alert")
	either(fleet.FailureUnreachable, "no route to host", "network is unreachable", "host is unreachable", "host unreachable", "host is down",
		"ehostunreach", "enetunreach", "network unreachable")

	// It ran, and broke.
	either(fleet.FailureLost, "broken pipe", "connection lost", "lost connection", "closed by remote host", "closed unexpectedly",
		"connection closed", "unexpected eof", "use of closed network connection", "connection aborted", "forcibly closed", "disconnected unexpectedly",
		"session was interrupted", "keepalive", "keep-alive", "websocket: close", "going away", ": eof", "server closed the connection", "terminating connection")

	// The target is there and does not do what is asked.
	either(fleet.FailureTarget, "unknown database", "database…does not exist", "role…does not exist", "no such container", "pod…not found", "target not found",
		"target is not", "target host", "failed to connect to target", "failed connecting to", "could not connect to", "failed to connect", "failed to dial", "unable to connect",
		"cannot connect", "can't connect", "connect failed", "dial tcp", "bad gateway", "service unavailable", "subsystem request failed", "could not start shell")
	return all
}

var classes = signatures()

// classify tells from the vendor's words why a session failed. They are free
// text that anything on the way may have written: a class is a guess that helps
// people look, and unclassified is an answer.
func classify(said string) fleet.Failure {
	said = strings.ToLower(said)
	if strings.TrimSpace(said) == "eof" {
		return fleet.FailureLost
	}
	for _, c := range classes {
		if c.fits(said) {
			return c.failure
		}
	}
	return fleet.FailureUnclassified
}

func (s signature) fits(said string) bool {
	for _, part := range s.parts {
		at := strings.Index(said, part)
		if at < 0 {
			return false
		}
		said = said[at+len(part):]
	}
	return true
}
