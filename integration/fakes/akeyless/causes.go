package akeyless

import (
	"fmt"
	"slices"
	"strings"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// cause is what the vendor writes into error_msg for one class of failure.
// HOST, ADDRESS, USER, ITEM and SESSION stand for the session's own.
type cause struct {
	texts []string
	ssh   bool // only SSH sessions fail of it
	late  bool // the session was connected before
}

var causes = map[fleet.Failure]cause{
	fleet.FailureLegacySSH: {ssh: true, texts: []string{
		"ssh: handshake failed: userauth_pubkey: signature algorithm ssh-rsa-cert-v01@openssh.com not in PubkeyAcceptedAlgorithms",
		"failed to connect to HOST: send_pubkey_test: no mutual signature algorithm",
	}},
	fleet.FailureIssuerUsers: {ssh: true, texts: []string{
		"failed to get ssh certificate: username session_SESSION not part of allowed user list",
	}},
	fleet.FailureTooManyOpen: {ssh: true, texts: []string{
		"kex_exchange_identification: Connection closed by remote host: exceeded MaxStartups",
	}},
	fleet.FailureHandshake: {ssh: true, texts: []string{
		"ssh: handshake failed: ssh: no common algorithm for key exchange; client offered: [curve25519-sha256], server offered: [diffie-hellman-group1-sha1]",
	}},
	fleet.FailureHostKey: {ssh: true, texts: []string{
		"ssh: handshake failed: knownhosts: key mismatch",
	}},
	fleet.FailureAuth: {ssh: true, texts: []string{
		"ssh: handshake failed: ssh: unable to authenticate, attempted methods [none publickey], no supported methods remain",
	}},
	fleet.FailureDNS: {texts: []string{
		"dial tcp: lookup HOST on 10.96.0.10:53: no such host",
	}},
	fleet.FailureRefused: {texts: []string{
		"dial tcp ADDRESS: connect: connection refused",
	}},
	fleet.FailureTimeout: {texts: []string{
		"dial tcp ADDRESS: i/o timeout",
		"failed to connect to HOST: context deadline exceeded",
	}},
	fleet.FailureUnreachable: {texts: []string{
		"dial tcp ADDRESS: connect: no route to host",
	}},
	fleet.FailureCertificate: {texts: []string{
		"tls: failed to verify certificate: x509: certificate has expired or is not yet valid",
	}},
	fleet.FailurePermission: {texts: []string{
		"access denied: USER is not allowed to access ITEM",
	}},
	fleet.FailureTarget: {texts: []string{
		"target HOST closed the connection: too many clients already",
	}},
	fleet.FailureLost: {late: true, texts: []string{
		"session aborted: write tcp 10.4.0.17:41522->ADDRESS: write: broken pipe",
		"websocket: close 1006 (abnormal closure): unexpected EOF",
	}},
	fleet.FailureUnclassified: {texts: []string{
		"internal error: rpc error: code = Unknown desc = session manager returned 17",
	}},
}

// goodDay is what goes wrong for people whatever the release.
var goodDay = []fleet.Failure{
	fleet.FailureAuth, fleet.FailureTimeout, fleet.FailureTarget, fleet.FailurePermission, fleet.FailureLost,
}

func known(list []fleet.Failure) error {
	for _, f := range list {
		if _, found := causes[f]; !found {
			return fmt.Errorf("there are no words for a failure of class %q", f)
		}
	}
	return nil
}

// pick takes a cause that fits the protocol, by two numbers from 0 to 1.
func pick(list []fleet.Failure, protocol string, which, wording float64) (late bool, text string) {
	if len(list) == 0 {
		list = goodDay
	}
	fitting := slices.DeleteFunc(slices.Clone(list), func(f fleet.Failure) bool { return causes[f].ssh && protocol != "ssh" })
	if len(fitting) == 0 {
		fitting = []fleet.Failure{fleet.FailureTarget}
	}
	c := causes[fitting[int(which*float64(len(fitting)))]]
	return c.late, c.texts[int(wording*float64(len(c.texts)))]
}

// worded puts a session's own words into an error.
func worded(text, host, address, user, item, session string) string {
	return strings.NewReplacer("HOST", host, "ADDRESS", address, "USER", user, "ITEM", item, "SESSION", session).Replace(text)
}
