package akeyless

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

func TestDecodeBastionShapes(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 64<<10)
	for name, tc := range map[string]struct {
		body string
		want []fleet.Bastion
	}{
		"keys only":          {`{"allowed_urls_per_instance":{"b":["u"],"a":null}}`, []fleet.Bastion{{ID: "a"}, {ID: "b"}}},
		"instances, id":      {`{"instances":[{"id":"a","version":"3.1.0","new":{}}]}`, []fleet.Bastion{{ID: "a", Version: "3.1.0"}}},
		"bastions, other":    {`{"bastions":[{"instance_id":"a","bastion_version":"3.1.0"},{"name":"b"}]}`, []fleet.Bastion{{ID: "a", Version: "3.1.0"}, {ID: "b"}}},
		"keyed objects":      {`{"instances":{"a":{"id":"ignored","version":"3"}}}`, []fleet.Bastion{{ID: "a", Version: "3"}}},
		"both, joined":       {`{"allowed_urls_per_instance":{"a":[],"b":[]},"instances":[{"id":"b","version":"3"}]}`, []fleet.Bastion{{ID: "a"}, {ID: "b", Version: "3"}}},
		"strings":            {`{"instances":["a"]}`, []fleet.Bastion{{ID: "a"}}},
		"numbers":            {`{"instances":[{"id":7,"version":3.10}]}`, []fleet.Bastion{{ID: "7", Version: "3.10"}}},
		"odd shapes":         {`{"instances":true,"bastions":[null,[],{"id":null},{"id":{}}],"allowed_urls_per_instance":"x"}`, nil},
		"odd version":        {`{"instances":[{"id":"a","version":{"v":1}}]}`, []fleet.Bastion{{ID: "a"}}},
		"endless version":    {`{"instances":[{"id":"a","version":"` + long + `"}]}`, []fleet.Bastion{{ID: "a"}}},
		"endless id":         {`{"instances":[{"id":"` + long + `"}]}`, nil},
		"null everywhere":    {`{"instances":null,"bastions":null,"allowed_urls_per_instance":null,"last_report":null,"display_name":null}`, nil},
		"huge number for id": {`{"instances":[{"id":1e999}]}`, []fleet.Bastion{{ID: "1e999"}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			body := strings.Replace(tc.body, "{", `{"cluster_name":"c",`, 1)
			clusters, err := decodeBastions([]byte(`{"clusters":[` + body + `]}`))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, clusters[0].Bastions); diff != "" {
				t.Errorf("bastions (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDecodeBastionsRefusesNamelessClusters(t *testing.T) {
	t.Parallel()
	for _, body := range []string{`{"clusters":[{}]}`, `{"clusters":[null]}`, `{"clusters":[7]}`, `{"clusters":7}`, `{"clusters":[{"cluster_name":"` + strings.Repeat("x", 9999) + `"}]}`} {
		if clusters, err := decodeBastions([]byte(body)); err == nil {
			t.Errorf("%.40s: accepted as %+v", body, clusters)
		}
	}
	for _, body := range []string{`{}`, `{"clusters":null}`, `{"clusters":[]}`} {
		if clusters, err := decodeBastions([]byte(body)); err != nil || len(clusters) != 0 {
			t.Errorf("%s: got %v, %v, want none", body, clusters, err)
		}
	}
}

func TestDecodeLastReport(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for body, want := range map[string]time.Time{
		`"last_report":"2026-03-01T14:00:00+02:00"`:                       at,
		`"last_report":"0001-01-01T00:00:00Z"`:                            {},
		`"last_report":"yesterday"`:                                       {},
		`"last_report":1772366400`:                                        {},
		`"instances":[{"id":"a","last_report":"2026-03-01T12:00:00Z"}]`:   at,
		`"instances":[{"id":"a","last_report":"292277026596-01-01T00Z"}]`: {},
	} {
		clusters, err := decodeBastions([]byte(`{"clusters":[{"cluster_name":"c",` + body + `}]}`))
		if err != nil {
			t.Fatal(err)
		}
		if got := clusters[0].LastReport; !got.Equal(want) {
			t.Errorf("%s: got %s, want %s", body, got, want)
		}
	}
}

func TestDecodeSession(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	base := `"session_id":"s","start_time":"2026-03-01T12:00:00Z","gateway_info":{"cluster_name":"c"}`
	for name, tc := range map[string]struct {
		body string
		want fleet.Session
	}{
		"active has no end": {base + `,"status":"connected","end_time":"2026-03-01T12:00:00Z","error_msg":"x"`,
			fleet.Session{ID: "s", Status: "connected", Start: at}},
		"failed": {base + `,"status":"failed","end_time":"2026-03-01T12:00:00Z","error_msg":"no mutual signature algorithm","instance_id":"i","user_identifier":"ann","access_id":"p","target_name":"db","target_host":"h"`,
			fleet.Session{ID: "s", Status: "failed", Start: at, End: at, Error: "no mutual signature algorithm", Failure: fleet.FailureLegacySSH, InstanceID: "i", User: "ann", Target: "db"}},
		"fallbacks": {base + `,"status":"completed","access_id":"p","target_host":"h","error_msg":"x","end_time":"0001-01-01T00:00:00Z"`,
			fleet.Session{ID: "s", Status: "completed", Start: at, User: "p", Target: "h"}},
		"unknown status and keys": {base + `,"status":"paused","cluster_unique_id":1e400,"extra":[{}]`,
			fleet.Session{ID: "s", Status: "paused", Start: at}},
	} {
		got, reason := decodeSession([]byte("{" + tc.body + "}"))
		if reason != "" {
			t.Errorf("%s: %s", name, reason)
		}
		if diff := cmp.Diff(Session{Session: tc.want, ClusterName: "c"}, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	for _, body := range []string{
		`null`, `7`, `[]`, `{}`, `{"session_id":"s"}`, `{"start_time":"2026-03-01T12:00:00Z"}`,
		`{"session_id":"s","start_time":null}`, `{"session_id":"s","start_time":1e18}`,
		`{"session_id":"` + strings.Repeat("s", 64<<10) + `","start_time":"2026-03-01T12:00:00Z"}`,
		`{"session_id":"s","start_time":"2026-03-01T12:00:00Z","gateway_info":"c"}`,
	} {
		if s, reason := decodeSession([]byte(body)); reason == "" {
			t.Errorf("%.60s: accepted as %+v", body, s)
		}
	}
}

func TestClip(t *testing.T) {
	t.Parallel()
	for limit := 3; limit < 12; limit++ {
		if got := clip(strings.Repeat("é", 20), limit); len(got) > limit || !strings.HasSuffix(got, "…") || strings.Contains(got, "\uFFFD") || strings.ToValidUTF8(got, "?") != got {
			t.Errorf("clip to %d gave %q", limit, got)
		}
	}
}

// seeds are answers no server should give and some will.
func seeds(f *testing.F) {
	long := strings.Repeat("A", 64<<10)
	for _, s := range []string{
		``, `{`, `{}`, `null`, `[]`, `0`, `"`, "\x00", `{"sessions":`, `{"clusters":`,
		`{"sessions":null,"next_page":null,"allowed_gateways":null}`,
		`{"sessions":[null,1,"x",[],{}],"allowed_gateways":[null,1,{}]}`,
		`{"sessions":[{"session_id":null,"status":null,"start_time":null,"end_time":null,"gateway_info":null,"error_msg":null}]}`,
		`{"sessions":[{"session_id":1e999,"start_time":99999999999999999999999999999999}]}`,
		`{"sessions":[{"session_id":NaN}]}`, `{"sessions":[{"session_id":"NaN","start_time":"NaN","cluster_unique_id":"NaN"}]}`,
		`{"sessions":[{"session_id":"s","start_time":"9999-12-31T23:59:59Z","status":"` + long + `","gateway_info":{"cluster_name":"` + long + `"}}]}`,
		`{"sessions":[{"session_id":"s","status":"failed","start_time":"2026-03-01T12:00:00Z","error_msg":"` + long + `"}],"next_page":"` + long + `"}`,
		`{"sessions":[{"session_id":"s","start_time":"2026-03-01T12:00:00Z","user_identifier":"` + "\xff\xfe" + `\ud800"}]}`,
		`{"sessions":{"a":1}}`, `{"sessions":"x"}`, `{"allowed_gateways":{}}`,
		`{"clusters":[{"cluster_name":"c","instances":[{"id":-1e400,"version":"` + long + `","last_report":"-292277022399-01-01T00:00:00Z"}]}]}`,
		`{"clusters":[{"cluster_name":"c","instances":{"":{},"a":null},"bastions":[[[[]]]],"allowed_urls_per_instance":{"":null}}]}`,
		`{"clusters":[{"cluster_name":"c","instances":[{"id":"a"`,
		strings.Repeat(`{"sessions":[`, 20000),
		`{"sessions":[],"sessions":[{}],"next_page":7,"next_page":null}{}`, `{"sessions":[{}],}`, `{"sessions" [}`, `{"a":1]`,
		`{"clusters":[{"cluster_name":"c","status":7,"allowed":"true","cluster_url":{}}]}`,
		`{"global":{"legacy_signing_alg":"yes","default_session_ttl_minutes":99999999999999999999},"ssh_bastion":{"kexalgs":"curve25519-sha256"}}`,
		`{"global":{"default_session_ttl_minutes":-1},"web_bastion":{"rdp_record":{"storage_type":"aws"}},"ssh_bastion":{"log_forwarding":{"target_log_type":"` + long + `"}}}`,
	} {
		f.Add([]byte(s))
	}
}

func FuzzDecodeSessions(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, body []byte) {
		page, err := decodeSessions(bytes.NewReader(body))
		if err != nil {
			if err.Error() == "" {
				t.Error("the error says nothing")
			}
			return
		}
		for _, s := range page.Sessions {
			if s.ID == "" || len(s.ID) > longestID || s.Start.IsZero() || len(s.Error) > longestText || len(s.Status) > longestID ||
				len(s.User) > longestID || len(s.Target) > longestID || len(s.ClusterName) > longestID || rank(s.Status) != rankEnded && !s.End.IsZero() {
				t.Errorf("unfit session let through: %+v", s)
			}
		}
	})
}

func FuzzDecodeGateways(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, body []byte) {
		gateways, err := decodeGateways(body)
		if err != nil && err.Error() == "" {
			t.Error("the error says nothing")
		}
		for _, g := range gateways {
			if g.ClusterName == "" || len(g.Status) > longestID || len(g.DisplayName) > longestID {
				t.Errorf("unfit gateway let through: %+v", g)
			}
		}
	})
}

func FuzzDecodeRemoteAccess(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := decodeRemoteAccess(body)
		if err != nil {
			return
		}
		for _, said := range []string{got.RecordingStorage, got.LogForwarding} {
			if strings.ContainsAny(said, "/+=ABCDEFGHIJKLMNOPQRSTUVWXYZ ") || len(said) > 32 {
				t.Errorf("a setting that is no plain word let through: %q", said)
			}
		}
		if got.SessionTTL < 0 || !strings.HasPrefix(got.Hash, "sha256:") {
			t.Errorf("got %+v", got)
		}
	})
}

func FuzzInstantOfAnyForm(f *testing.F) {
	for _, s := range []string{
		"", "2026-03-01T13:00:00Z", "2026-03-01 13:00:00.123 +0000 UTC m=+3600.5", "1772370000", "1772370000000", "1e300", "-1", "NaN", "Inf",
		"0x1p40", "Sun, 01 Mar 2026 13:00:00 GMT", "Sun Mar  1 13:00:00 UTC 2026", "292277026596-12-04T15:30:08Z", strings.Repeat("9", 90),
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if at := text(s).instantOfAnyForm(); !at.IsZero() && (at.Year() < 2 || at.Year() > 9999 || at.Location() != time.UTC) {
			t.Errorf("%q reads as %s", s, at)
		}
		if d := text(s).seconds(); d < 0 {
			t.Errorf("%q reads as %s", s, d)
		}
	})
}

func FuzzClassify(f *testing.F) {
	for _, s := range classes {
		f.Add(strings.Join(s.parts, " "))
	}
	f.Fuzz(func(t *testing.T, said string) {
		if classify(said) == "" {
			t.Error("no class, not even unclassified")
		}
	})
}

func FuzzDecodeBastions(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, body []byte) {
		clusters, err := decodeBastions(body)
		if err != nil {
			if err.Error() == "" {
				t.Error("the error says nothing")
			}
			return
		}
		for _, c := range clusters {
			if c.Name == "" {
				t.Error("a cluster without a name was let through")
			}
			for _, b := range c.Bastions {
				if b.ID == "" || len(b.ID) > longestID || len(b.Version) > longestID {
					t.Errorf("unfit bastion let through: %+v", b)
				}
			}
		}
	})
}

func TestRemoteAccessHash(t *testing.T) {
	t.Parallel()
	hash := func(body string) string {
		got, err := decodeRemoteAccess([]byte(body))
		if err != nil {
			t.Fatal(err)
		}
		return got.Hash
	}
	if hash(`{"a":1,"b":{"c":[1,2]}}`) != hash("{ \"b\" : {\"c\":[1, 2]},\n\"a\":1}") {
		t.Error("the hash changes with space and order")
	}
	for _, other := range []string{`{"a":9007199254740993}`, `{"a":"9007199254740992"}`, `{"a":[9007199254740992]}`, `{}`} {
		if hash(other) == hash(`{"a":9007199254740992}`) {
			t.Errorf("%s has the same hash", other)
		}
	}
}

func TestHeadKeepsTheBeginning(t *testing.T) {
	t.Parallel()
	h := &head{left: 5}
	for _, s := range []string{"abc", "", "defgh", "ijk"} {
		if n, err := h.Write([]byte(s)); n != len(s) || err != nil {
			t.Fatalf("took %d of %q: %v", n, s, err)
		}
	}
	if h.String() != "abcde" {
		t.Errorf("kept %q", h)
	}
}
