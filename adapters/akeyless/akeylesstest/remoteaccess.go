package akeylesstest

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// Secrets planted in answers. None of them may be stored, logged or shown.
const (
	plantedAuth       = "planted-auth-credentials-5d0f"
	plantedUAM        = "planted-uam-credentials-8a41"
	plantedKFM        = "planted-kfm-credentials-c2e7"
	plantedStorage    = "planted-storage-secret-91b3"
	plantedEncryption = "planted-recording-key-f6d8"
	plantedForwarding = "planted-forwarding-token-27ac"
	plantedPassword   = "planted-termination-password-e05b"
)

// PlantedSecrets lists what a reader of answers must keep nowhere: every secret
// the server sends that is no token.
func PlantedSecrets() []string {
	return []string{plantedAuth, plantedUAM, plantedKFM, plantedStorage, plantedEncryption, plantedForwarding, plantedPassword}
}

// RemoteAccess is a gateway's configuration of remote access.
type RemoteAccess struct {
	// LegacySigning is legacy_signing_alg; nil leaves it out, as gateways do that
	// do not know it.
	LegacySigning *bool  `json:"legacy_signing_alg,omitempty"`
	KexAlgorithms string `json:"kexalgs,omitempty"`
	TTLMinutes    int64  `json:"default_session_ttl_minutes,omitempty"`
	// Storage takes recordings: aws, azure or local; empty records nothing.
	Storage string `json:"storage_type,omitempty"`
	// Forwarding takes logs: splunk or syslog; empty forwards nothing.
	Forwarding string `json:"target_log_type,omitempty"`
	// StorageSecret is the credential of the storage; empty means a planted one.
	StorageSecret string `json:"storage_secret,omitempty"`
}

// everything is the configuration of a gateway that nobody has given one.
func everything() *RemoteAccess {
	legacy := false
	return &RemoteAccess{
		LegacySigning: &legacy, KexAlgorithms: "curve25519-sha256,ecdh-sha2-nistp256",
		TTLMinutes: 480, Storage: "aws", Forwarding: "splunk",
	}
}

// gatewayAddress is the root of a gateway by its place.
func (s *Server) gatewayAddress(i int) string { return fmt.Sprintf("%s/gateway/%d", s.url, i+1) }

func (s *Server) getRemoteAccess(req request) (any, error) {
	if _, err := s.admit(req); err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	// Without a gateway's own address the server is the gateway of the first.
	i := max(req.gateway, 0)
	if i >= len(s.clusters) {
		return nil, refuse(http.StatusNotFound, "the gateway is unknown")
	}
	return s.clusters[i].remoteAccess(int64(i + 1)), nil
}

func (c Cluster) remoteAccess(id int64) map[string]any {
	r := cmp.Or(c.RemoteAccess, everything())
	secret := cmp.Or(r.StorageSecret, plantedStorage)
	global := map[string]any{
		"allowed_bastion_urls": []string{}, "allowed_ssh_url": "", "default_session_ttl_minutes": r.TTLMinutes,
		"rdp_username_sub_claim": "", "ssh_username_sub_claim": "",
	}
	if r.LegacySigning != nil {
		global["legacy_signing_alg"] = *r.LegacySigning
	}
	record := map[string]any{"compress": true, "recording_quality": "medium", "storage_type": r.Storage, "encryption_key": plantedEncryption}
	switch r.Storage {
	case "aws":
		record["aws"] = map[string]any{
			"auth_type": "access_key", "region": "eu-central-1", "bucket": "recordings", "prefix": short(c.Name),
			"access_key_id": "AKIALAB0000000000000", "access_key_secret": secret,
		}
	case "azure":
		record["azure"] = map[string]any{
			"auth_type": "service_principal", "storage_account": "recordings", "storage_container_name": short(c.Name),
			"tenant_id": "tenant-lab", "client_id": "client-lab", "client_secret": secret,
		}
	}
	forwarding := map[string]any{"json_output": true, "pull_interval_sec": "10", "target_log_type": r.Forwarding}
	switch r.Forwarding {
	case "splunk":
		forwarding["splunk_config"] = map[string]any{
			"splunk_url": "https://splunk.example.test:8088", "splunk_index": "sra", "splunk_source": short(c.Name),
			"splunk_enable_tls": true, "splunk_token": plantedForwarding,
		}
	case "syslog":
		forwarding["syslog_config"] = map[string]any{
			"syslog_host": "syslog.example.test:514", "syslog_network": "tcp", "syslog_formatter": "cef", "syslog_enable_tls": false,
		}
	}
	return map[string]any{
		"cluster_id": c.Name, "gator_cluster_id": id, "global": global,
		"desktop_app": map[string]any{"secure_web_access_url": "", "secure_web_proxy_url": ""},
		"ssh_bastion": map[string]any{
			"hide_session_recording": false, "kexalgs": r.KexAlgorithms, "log_forwarding": forwarding,
			"session_termination": map[string]any{
				"enabled": true, "api_url": "https://terminate.example.test", "api_username": "lockstep",
				"api_password": plantedPassword, "api_token": "",
			},
		},
		"web_bastion": map[string]any{"guacamole": map[string]any{"keyboard_layout": ""}, "rdp_record": record},
	}
}

// short is the last part of a name like acc-1/p-1/berlin.
func short(clusterName string) string {
	parts := strings.Split(clusterName, "/")
	slices.Reverse(parts)
	return parts[0]
}
