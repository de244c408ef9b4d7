package webhook_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-fleet/lockstep/adapters/webhook"
	"github.com/lockstep-fleet/lockstep/domain/notice"
	"github.com/lockstep-fleet/lockstep/kit/bus"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// secret is the one of the specification's own example.
const secret = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

func noon() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

func sample() notice.Notice {
	return notice.Notice{
		ID: "lockstep.evt.v1.default.gate.r1-paris-sra/17/0", Kind: "gate_decided", Severity: notice.Alert, At: noon(),
		Cluster: "paris", Rollout: "r1", Title: "paris: the gate of step sra says fail", Text: `13 of 40 <failed> & "more"`,
	}
}

// received is one request as the endpoint saw it.
type received struct {
	method string
	header http.Header
	body   []byte
}

// endpoint records requests and answers with a status and headers.
func endpoint(t *testing.T, answer http.HandlerFunc) (url string, requests <-chan received) {
	t.Helper()
	seen := make(chan received, 8)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		seen <- received{method: r.Method, header: r.Header, body: body}
		answer(w, r)
	}))
	t.Cleanup(server.Close)
	return server.URL, seen
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

func open(t *testing.T, opts webhook.Options) *webhook.Sink {
	t.Helper()
	if opts.Now == nil {
		opts.Now = noon
	}
	sink, err := webhook.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	return sink
}

func TestWhatIsPosted(t *testing.T) {
	t.Parallel()
	url, requests := endpoint(t, status(http.StatusAccepted))
	if err := open(t, webhook.Options{URL: url, Secret: "whsec_" + secret}).Send(t.Context(), sample()); err != nil {
		t.Fatal(err)
	}
	got := <-requests
	if got.method != http.MethodPost || got.header.Get("Content-Type") != "application/json" {
		t.Errorf("%s with %s", got.method, got.header.Get("Content-Type"))
	}
	var body any
	if err := json.Unmarshal(got.body, &body); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"type": "lockstep.gate_decided", "timestamp": "2026-03-01T12:00:00Z",
		"data": map[string]any{
			"id": "lockstep.evt.v1.default.gate.r1-paris-sra/17/0", "kind": "gate_decided", "severity": "alert", "cluster": "paris", "rollout": "r1",
			"title": "paris: the gate of step sra says fail", "text": `13 of 40 <failed> & "more"`,
		},
	}
	if diff := cmp.Diff(want, body); diff != "" {
		t.Error(diff)
	}
	id, stamp := got.header.Get("webhook-id"), got.header.Get("webhook-timestamp")
	if id == "" || strings.Contains(id, ".") {
		t.Errorf("webhook-id %q: it must have no full stop, which parts the signed content", id)
	}
	if stamp != "1772366400" {
		t.Errorf("webhook-timestamp %q, want the time of sending in Unix seconds", stamp)
	}
	if want := "v1," + sign(id+"."+stamp+"."+string(got.body)); got.header.Get("webhook-signature") != want {
		t.Errorf("webhook-signature %q, want %q", got.header.Get("webhook-signature"), want)
	}
}

// key is the secret, decoded.
func key() []byte {
	return []byte{
		0x31, 0xf2, 0x90, 0xf6, 0xbf, 0x06, 0x29, 0x8a, 0xab, 0x4f, 0x08, 0xd4,
		0x3c, 0x3f, 0x08, 0x2c, 0xf6, 0x48, 0xa3, 0x62, 0xda, 0x2d, 0xa4, 0xb0,
	}
}

// sign is HMAC-SHA256 as RFC 2104 defines it, for a key shorter than a block.
func sign(content string) string {
	var inner, outer [64]byte
	copy(inner[:], key())
	copy(outer[:], key())
	for i := range inner {
		inner[i] ^= 0x36
		outer[i] ^= 0x5c
	}
	sum := sha256.Sum256(append(inner[:], content...))
	sum = sha256.Sum256(append(outer[:], sum[:]...))
	return base64.StdEncoding.EncodeToString(sum[:])
}

func TestSignMatchesTheSpecification(t *testing.T) {
	t.Parallel()
	got := webhook.Sign(key(), "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", []byte(`{"test": 2432232314}`))
	if want := "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestEveryTryHasTheSameIDAndItsOwnTime(t *testing.T) {
	t.Parallel()
	url, requests := endpoint(t, status(http.StatusInternalServerError))
	now := noon()
	sink := open(t, webhook.Options{URL: url, Secret: secret, Now: func() time.Time { now = now.Add(time.Minute); return now }})
	var tries []received
	for range 2 {
		if err := sink.Send(t.Context(), sample()); err == nil {
			t.Fatal("an answer of 500 is no success")
		}
		tries = append(tries, <-requests)
	}
	a, b := tries[0].header, tries[1].header
	if a.Get("webhook-id") != b.Get("webhook-id") {
		t.Errorf("ids %q and %q differ", a.Get("webhook-id"), b.Get("webhook-id"))
	}
	if a.Get("webhook-timestamp") == b.Get("webhook-timestamp") || a.Get("webhook-signature") == b.Get("webhook-signature") {
		t.Error("the second try bears the time of the first: a receiver refuses what is old")
	}
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	for code, want := range map[int]string{
		200: "told", 202: "told", 204: "told",
		301: "again", 304: "again", 308: "again", 400: "again", 401: "again", 404: "again", 429: "again", 500: "again", 503: "again",
		410: "given up",
	} {
		t.Run(http.StatusText(code), func(t *testing.T) {
			t.Parallel()
			url, _ := endpoint(t, status(code))
			err := open(t, webhook.Options{URL: url}).Send(t.Context(), sample())
			got := "told"
			switch {
			case bus.IsPermanent(err):
				got = "given up"
			case err != nil:
				got = "again"
			}
			if got != want {
				t.Errorf("after %d the notice is %s, want %s (%v)", code, got, want, err)
			}
			if id := errs.IDOf(err); err != nil && id != "LS-NOT-002" {
				t.Errorf("after %d the error has the id %q: %v", code, id, err)
			}
		})
	}
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	t.Parallel()
	elsewhere, strayed := endpoint(t, status(http.StatusOK))
	for _, code := range []int{http.StatusFound, http.StatusTemporaryRedirect, http.StatusPermanentRedirect} {
		url, _ := endpoint(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, elsewhere, code) })
		if err := open(t, webhook.Options{URL: url, Secret: secret, Client: &http.Client{}}).Send(t.Context(), sample()); err == nil || bus.IsPermanent(err) {
			t.Errorf("a redirect with %d gave %v, want an error that is tried again", code, err)
		}
	}
	select {
	case r := <-strayed:
		t.Errorf("the notice went to where the endpoint pointed, as %s with %d bytes", r.method, len(r.body))
	default:
	}
}

func TestUnsignedWithoutASecret(t *testing.T) {
	t.Parallel()
	url, requests := endpoint(t, status(http.StatusOK))
	if err := open(t, webhook.Options{URL: url}).Send(t.Context(), sample()); err != nil {
		t.Fatal(err)
	}
	if got := (<-requests).header.Values("webhook-signature"); got != nil {
		t.Errorf("signed with %q without a secret", got)
	}
}

func TestSilenceEndsATry(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	url, _ := endpoint(t, func(http.ResponseWriter, *http.Request) { <-release })
	defer close(release)
	err := open(t, webhook.Options{URL: url, Timeout: 50 * time.Millisecond}).Send(t.Context(), sample())
	if err == nil || bus.IsPermanent(err) {
		t.Errorf("a silent endpoint gave %v, want an error that is tried again", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := open(t, webhook.Options{URL: url}).Send(ctx, sample()); err == nil {
		t.Error("a stopped try succeeded")
	}
}

// An answer that breaks off after its status was still an answer.
func TestABrokenAnswerCountsByItsStatus(t *testing.T) {
	t.Parallel()
	url, _ := endpoint(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		w.WriteHeader(http.StatusOK)
		if _, err := io.WriteString(w, "short"); err != nil {
			t.Error(err)
		}
	})
	if err := open(t, webhook.Options{URL: url}).Send(t.Context(), sample()); err != nil {
		t.Error(err)
	}
}

func TestForms(t *testing.T) {
	t.Parallel()
	for _, good := range []string{secret, "whsec_" + secret, " whsec_" + secret + "\n", ""} {
		if _, err := webhook.New(webhook.Options{URL: "https://host.example/hook", Secret: good}); err != nil {
			t.Errorf("secret %q: %v", good, err)
		}
	}
	for _, bad := range []string{"whsec_ ", "not base64!", "whsec_whsec_" + secret + "%"} {
		_, err := webhook.New(webhook.Options{URL: "https://host.example/hook", Secret: bad})
		if errs.IDOf(err) != "LS-NOT-001" {
			t.Errorf("secret %q gives %v", bad, err)
		} else if strings.Contains(err.Error(), bad) {
			t.Errorf("the error shows the secret: %v", err)
		}
	}
	for _, bad := range []string{"", "host.example/hook", "ftp://host.example/token", "https://", "https://host.example/%zz-token"} {
		_, err := webhook.New(webhook.Options{URL: bad})
		if errs.IDOf(err) != "LS-NOT-001" {
			t.Errorf("URL %q gives %v", bad, err)
		} else if strings.Contains(err.Error(), "token") {
			t.Errorf("the error shows the URL: %v", err)
		}
	}
}

func TestErrorsDoNotShowTheURL(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(status(http.StatusOK))
	server.Close()
	err := open(t, webhook.Options{URL: server.URL + "/services/token-1"}).Send(t.Context(), sample())
	if errs.IDOf(err) != "LS-NOT-002" || strings.Contains(err.Error(), "token-1") {
		t.Errorf("want an error without the path, which may be a secret: %v", err)
	}
}
