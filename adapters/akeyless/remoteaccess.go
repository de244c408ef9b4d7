package akeyless

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"regexp"
	"strings"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// RemoteAccess reads a gateway's remote-access configuration; the client's base
// URL must be that gateway's. The answer holds credentials of storage, log
// receivers and session termination: they end in the hash and nowhere else, and
// no error repeats a word of it.
func (c *Client) RemoteAccess(ctx context.Context) (fleet.RemoteAccess, error) {
	var found fleet.RemoteAccess
	_, err := c.ask(ctx, query{call: "gateway-get-remote-access", confidential: true}, func(r io.Reader) error {
		body, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		found, err = decodeRemoteAccess(body)
		return err
	})
	return found, err
}

var (
	// plainWord is a kind of storage or of log receiver: anything else in such a
	// place is not repeated, whatever it is.
	plainWord = regexp.MustCompile(`^[a-z][a-z0-9_-]{0,31}$`)
	// algorithms is a list of key exchanges as OpenSSH takes it.
	algorithms = regexp.MustCompile(`^[+^-]?(?:(?:diffie-hellman|ecdh|curve25519|sntrup|mlkem|gss)[a-z0-9-]{0,48}(?:@[a-z0-9.]{1,24})?(?:,|$))+$`)
)

// unfamiliar stands for a setting in words that are not the vendor's.
const unfamiliar = "unfamiliar"

func decodeRemoteAccess(body []byte) (fleet.RemoteAccess, error) {
	var wire struct {
		Global struct {
			LegacySigning json.RawMessage `json:"legacy_signing_alg"`
			SessionTTL    text            `json:"default_session_ttl_minutes"`
		} `json:"global"`
		SSH struct {
			KexAlgorithms text `json:"kexalgs"`
			Forwarding    struct {
				Target text `json:"target_log_type"`
			} `json:"log_forwarding"`
		} `json:"ssh_bastion"`
		Web struct {
			Recording struct {
				Storage text `json:"storage_type"`
			} `json:"rdp_record"`
		} `json:"web_bastion"`
	}
	if err := parse(body, &wire); err != nil {
		return fleet.RemoteAccess{}, err
	}
	hash, err := hashJSON(body)
	if err != nil {
		return fleet.RemoteAccess{}, err
	}
	return fleet.RemoteAccess{
		Hash:             hash,
		LegacySigning:    truth(wire.Global.LegacySigning),
		KexAlgorithms:    familiar(strings.ReplaceAll(string(wire.SSH.KexAlgorithms), " ", ""), algorithms),
		SessionTTL:       60 * wire.Global.SessionTTL.seconds(),
		RecordingStorage: familiar(string(wire.Web.Recording.Storage), plainWord),
		LogForwarding:    familiar(string(wire.SSH.Forwarding.Target), plainWord),
	}, nil
}

func familiar(said string, form *regexp.Regexp) string {
	if said != "" && !form.MatchString(said) {
		return unfamiliar
	}
	return said
}

// hashJSON hashes what a JSON text says, so that neither the order of keys nor
// space counts.
func hashJSON(body []byte) (string, error) {
	decoder := json.NewDecoder(strings.NewReader(string(body)))
	decoder.UseNumber()
	var value any
	if err := decoder.Decode(&value); err != nil {
		return "", err
	}
	canonical, err := json.Marshal(value) // keys of maps in order
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(canonical)
	return "sha256:" + hex.EncodeToString(sum[:]), nil
}
