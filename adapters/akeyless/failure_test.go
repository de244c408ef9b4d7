package akeyless

import (
	"strings"
	"testing"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

func TestClassify(t *testing.T) {
	t.Parallel()
	for said, want := range map[string]fleet.Failure{
		"":                                    fleet.FailureUnclassified,
		"something nobody has seen before":    fleet.FailureUnclassified,
		"\x00\xff\xfe":                        fleet.FailureUnclassified,
		"session 401403 of user x401 is gone": fleet.FailureUnclassified,

		"sign_and_send_pubkey: no mutual signature supported":                                                        fleet.FailureLegacySSH,
		"send_pubkey_test: no mutual signature algorithm":                                                            fleet.FailureLegacySSH,
		"userauth_pubkey: certificate signature algorithm ssh-rsa: signature algorithm not supported":                fleet.FailureLegacySSH,
		"userauth_pubkey: key type ssh-rsa-cert-v01@openssh.com not in PubkeyAcceptedAlgorithms [preauth]":           fleet.FailureLegacySSH,
		"Unable to negotiate with 10.0.0.7 port 22: no matching host key type found. Their offer: ssh-rsa":           fleet.FailureLegacySSH,
		"ssh: handshake failed: ssh: no common algorithm for host key; client offered: [x], peer offered: [ssh-rsa]": fleet.FailureLegacySSH,

		"username session_ab12cd not part of allowed user list":                                  fleet.FailureIssuerUsers,
		"failed to issue certificate: username SESSION_1 Not Part Of Allowed User List (ubuntu)": fleet.FailureIssuerUsers,
		"username root not part of allowed user list":                                            fleet.FailurePermission,

		"kex_exchange_identification: banner line contains: Exceeded MaxStartups":  fleet.FailureTooManyOpen,
		"ssh_exchange_identification: Connection closed by remote host":            fleet.FailureTooManyOpen,
		"kex_exchange_identification: read: Connection reset by peer":              fleet.FailureTooManyOpen,
		"CONFIG_MAX_STARTUPS threshold reached":                                    fleet.FailureTooManyOpen,
		"FATAL: sorry, too many clients already":                                   fleet.FailureTooManyOpen,
		"Error 1040: Too many connections":                                         fleet.FailureTooManyOpen,
		"FATAL: remaining connection slots are reserved for superuser connections": fleet.FailureTooManyOpen,

		"dial tcp: lookup db.internal on 10.96.0.10:53: no such host":                                         fleet.FailureDNS,
		"ssh: Could not resolve hostname web-7: Name or service not known":                                    fleet.FailureDNS,
		"dial tcp 10.0.0.7:22: connect: connection refused":                                                   fleet.FailureRefused,
		"No connection could be made because the target machine actively refused it.":                         fleet.FailureRefused,
		"dial tcp 10.0.0.7:3306: i/o timeout":                                                                 fleet.FailureTimeout,
		"ssh: connect to host web-7 port 22: Connection timed out":                                            fleet.FailureTimeout,
		"context deadline exceeded":                                                                           fleet.FailureTimeout,
		"dial tcp 10.0.0.7:22: connect: no route to host":                                                     fleet.FailureUnreachable,
		"connect: network is unreachable":                                                                     fleet.FailureUnreachable,
		"remote error: tls: handshake failure":                                                                fleet.FailureTLS,
		"SSL routines:ssl3_get_record:wrong version number":                                                   fleet.FailureTLS,
		"tls: failed to verify certificate: x509: certificate signed by unknown authority":                    fleet.FailureCertificate,
		"SSL: CERTIFICATE_VERIFY_FAILED certificate verify failed: certificate has expired":                   fleet.FailureCertificate,
		"Host key verification failed.":                                                                       fleet.FailureHostKey,
		"ssh: handshake failed: knownhosts: key mismatch":                                                     fleet.FailureHostKey,
		"ssh: handshake failed: read tcp 10.0.0.2:4312->10.0.0.7:22: i/o timeout":                             fleet.FailureTimeout,
		"ssh: handshake failed: read tcp 10.0.0.2:4312->10.0.0.7:22: read: connection reset by peer":          fleet.FailureLost,
		"net/http: TLS handshake timeout":                                                                     fleet.FailureTimeout,
		" EOF\n":                                                                                              fleet.FailureLost,
		"the geofence says no":                                                                                fleet.FailureUnclassified,
		"ssh: handshake failed: EOF":                                                                          fleet.FailureHandshake,
		"Unable to negotiate: no matching key exchange method found. Their offer: diffie-hellman-group1-sha1": fleet.FailureHandshake,

		"ssh: handshake failed: ssh: unable to authenticate, attempted methods [none publickey], no supported methods remain": fleet.FailureAuth,
		"ubuntu@10.0.0.7: Permission denied (publickey,gssapi-with-mic).":                                                     fleet.FailureAuth,
		"ACCESS DENIED FOR USER 'tmp.p-abc'@'10.0.0.9' (using password: YES)":                                                 fleet.FailureAuth,
		"FATAL: password authentication failed for user \"tmp\"":                                                              fleet.FailureAuth,
		"mssql: Login failed for user 'sa'.":                                                                                  fleet.FailureAuth,
		"RDP: ERRCONNECT_LOGON_FAILURE":                                                                                       fleet.FailureAuth,
		"unexpected status code 401 from the API server":                                                                      fleet.FailureAuth,

		"access id p-123 is not authorized to use item /prod/db":      fleet.FailurePermission,
		"pods is forbidden: User \"x\" cannot list resource \"pods\"": fleet.FailurePermission,
		"user is not entitled to this target":                         fleet.FailurePermission,
		"failed to open /var/log/x: permission denied":                fleet.FailurePermission,

		"failed connecting to target: unknown database 'orders'":              fleet.FailureTarget,
		"FATAL: database \"orders\" does not exist":                           fleet.FailureTarget,
		"dial tcp 10.0.0.7:22: connect: invalid argument":                     fleet.FailureTarget,
		"read tcp 10.0.0.2:4312->10.0.0.7:22: read: connection reset by peer": fleet.FailureLost,
		"client_loop: send disconnect: Broken pipe":                           fleet.FailureLost,
		"websocket: close 1006 (abnormal closure): unexpected EOF":            fleet.FailureLost,
		"ssh: session: remote side closed unexpectedly":                       fleet.FailureLost,
	} {
		if got := classify(said); got != want {
			t.Errorf("%q is classified as %s, want %s", said, got, want)
		}
		if got := classify(strings.ToUpper(said)); got != want {
			t.Errorf("%q in capitals is classified as %s, want %s", said, got, want)
		}
	}
}

func TestClassifyALongText(t *testing.T) {
	t.Parallel()
	noise := strings.Repeat("session_ handshake of wörds. ", 40_000) // more than 1 MB
	if got := classify(noise); got != fleet.FailureUnclassified {
		t.Errorf("noise is classified as %s", got)
	}
	if got := classify(noise + "Connection refused"); got != fleet.FailureRefused {
		t.Errorf("a reason at the end is classified as %s", got)
	}
}

// TestSignaturesAreReachable sees that no signature is hidden behind an earlier
// one of another class, and that all are in lower case.
func TestSignaturesAreReachable(t *testing.T) {
	t.Parallel()
	for _, s := range classes {
		said := strings.Join(s.parts, " of x ")
		if said != strings.ToLower(said) {
			t.Errorf("%q is not in lower case, so it never fits", said)
		}
		if got := classify(said); got != s.failure {
			t.Errorf("%q is meant to be %s and is classified as %s", said, s.failure, got)
		}
	}
}

func BenchmarkClassify(b *testing.B) {
	for b.Loop() {
		classify("dial tcp 10.0.0.7:22: connect: a reason that no signature has a word for")
	}
}
