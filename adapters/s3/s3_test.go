package s3_test

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/johannesboyne/gofakes3"
	"github.com/johannesboyne/gofakes3/backend/s3mem"
	"go.uber.org/goleak"

	"github.com/lockstep-fleet/lockstep/adapters/s3"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	bucket    = "recordings"
	accessKey = "AKIATESTACCESS"
	secretKey = "a-secret-that-nobody-may-read"
)

// storage is a server that speaks S3, with faults in front of it.
type storage struct {
	backend *s3mem.Backend
	server  *httptest.Server

	mu sync.Mutex
	// fault answers in the server's place when it returns true.
	fault func(http.ResponseWriter, *http.Request) bool
	calls []string // method and path, with ?list of a list
}

func (s *storage) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	call := r.Method + " " + r.URL.Path
	if r.URL.Query().Has("list-type") {
		call += "?list"
	}
	s.mu.Lock()
	s.calls = append(s.calls, call)
	fault := s.fault
	s.mu.Unlock()
	if fault != nil && fault(w, r) {
		return
	}
	gofakes3.New(s.backend).Server().ServeHTTP(w, r)
}

func (s *storage) breaks(fault func(http.ResponseWriter, *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = fault
}

// count is how many calls begin so.
func (s *storage) count(call string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(slices.DeleteFunc(slices.Clone(s.calls), func(c string) bool { return !strings.HasPrefix(c, call) }))
}

func (s *storage) put(t *testing.T, key, content string) {
	t.Helper()
	if _, err := s.backend.PutObject(bucket, key, nil, strings.NewReader(content), int64(len(content)), nil); err != nil {
		t.Fatal(err)
	}
}

// keys lists everything in the bucket.
func (s *storage) keys(t *testing.T) []string {
	t.Helper()
	list, err := s.backend.ListBucket(bucket, nil, gofakes3.ListBucketPage{})
	if err != nil {
		t.Fatal(err)
	}
	var keys []string
	for _, o := range list.Contents {
		keys = append(keys, o.Key)
	}
	return keys
}

// clock is a time source of the storage.
type clock struct{ at time.Time }

func (c *clock) Now() time.Time                  { return c.at }
func (c *clock) Since(t time.Time) time.Duration { return c.at.Sub(t) }

// encrypted serves with a certificate of its own and is silent about clients that
// do not trust it.
func encrypted(h http.Handler) *httptest.Server {
	server := httptest.NewUnstartedServer(h)
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	return server
}

func serve(t *testing.T, listen func(http.Handler) *httptest.Server, opts ...s3mem.Option) *storage {
	t.Helper()
	s := &storage{backend: s3mem.New(opts...)}
	if err := s.backend.CreateBucket(bucket); err != nil {
		t.Fatal(err)
	}
	s.server = listen(s)
	t.Cleanup(s.server.Close)
	return s
}

func file(t *testing.T, content string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func options(t *testing.T, endpoint string) s3.Options {
	t.Helper()
	return s3.Options{
		Endpoint: endpoint, Region: "us-east-1", Bucket: bucket, Prefix: "sra", PathStyle: true,
		AccessKeyFile: file(t, accessKey+"\n"), SecretKeyFile: file(t, secretKey+"\n"),
		Timeout: 20 * time.Second, Now: time.Now,
	}
}

func open(t *testing.T, opts s3.Options) *s3.Storage {
	t.Helper()
	s, err := s3.New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func classOf(t *testing.T, err error) fleet.Failure {
	t.Helper()
	var classified interface{ Failure() fleet.Failure }
	if !errors.As(err, &classified) {
		t.Fatalf("%v has no class", err)
	}
	return classified.Failure()
}

func TestFindListsWhatBeginsWithThePrefix(t *testing.T) {
	t.Parallel()
	at := time.Now().Truncate(time.Second).UTC()
	server := serve(t, httptest.NewServer, s3mem.WithTimeSource(&clock{at}))
	for key, content := range map[string]string{
		"sra/recordings/s-1/video.mp4": "moving pictures", "sra/recordings/s-1/a b+ü.txt": "", "sra/recordings/s-2": "x",
		"recordings/s-1": "outside the prefix", "sra-2/recordings/s-1": "of another prefix",
	} {
		server.put(t, key, content)
	}
	got, err := open(t, options(t, server.server.URL)).Find(t.Context(), "recordings/s-1")
	if err != nil {
		t.Fatal(err)
	}
	want := []s3.Object{
		{Key: "recordings/s-1/a b+ü.txt", ModifiedAt: at},
		{Key: "recordings/s-1/video.mp4", Size: 15, ModifiedAt: at},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got, err = open(t, options(t, server.server.URL)).Find(t.Context(), "recordings/s-3"); err != nil || len(got) != 0 {
		t.Errorf("found %v, %v where nothing is", got, err)
	}
	if n := server.count("GET /recordings?location") + server.count("HEAD"); n != 0 {
		t.Errorf("%d calls that need permissions nobody gave", n)
	}
}

func TestALongerListIsAnErrorAndNotCutShort(t *testing.T) {
	t.Parallel()
	server := serve(t, httptest.NewServer)
	for i := range 1000 {
		server.put(t, fmt.Sprintf("sra/many/%04d", i), "x")
	}
	s := open(t, options(t, server.server.URL))
	got, err := s.Find(t.Context(), "many/")
	if err != nil || len(got) != 1000 {
		t.Fatalf("%d objects, %v", len(got), err)
	}
	server.put(t, "sra/many/more", "x")
	if _, err := s.Find(t.Context(), "many/"); errs.IDOf(err) != "LS-PIP-005" {
		t.Errorf("1,001 objects: %v", err)
	}
	if got, err := s.Find(t.Context(), "many/000"); err != nil || len(got) != 10 {
		t.Errorf("%d objects below a longer prefix, %v", len(got), err)
	}
}

func TestACanaryIsWrittenReadAndRemoved(t *testing.T) {
	t.Parallel()
	server := serve(t, httptest.NewServer)
	letters := make(chan string, 1)
	server.breaks(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPut {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			letters <- string(body)
			r.Body = io.NopCloser(bytes.NewReader(body))
		}
		return false
	})
	opts := options(t, server.server.URL)
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	opts.NewID = func() string { return "one" }
	opts.Now = func() time.Time { now = now.Add(time.Second); return now }
	got := open(t, opts).Canary(t.Context(), "berlin", "storage")
	want := fleet.Check{
		Cluster: "berlin", Name: "storage", Kind: fleet.CheckStorage, Target: server.server.URL + "/recordings/sra/",
		At: now.Add(-time.Second), Took: time.Second, OK: true, Detail: "a small object was written, read and removed",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if left := server.keys(t); len(left) != 0 {
		t.Errorf("%v stayed behind", left)
	}
	if n := server.count("PUT /recordings/sra/.lockstep-canary/one"); n != 1 {
		t.Errorf("written %d times", n)
	}
	letter := <-letters
	for _, part := range []string{"Lockstep", "may be deleted", "berlin", "storage", "2026-03-01T12:00:01Z"} {
		if !strings.Contains(letter, part) {
			t.Errorf("the canary %q does not say %q", letter, part)
		}
	}
}

func TestCanariesOfACrashAreRemovedOnceTheyAreOld(t *testing.T) {
	t.Parallel()
	storageTime := &clock{time.Now().Truncate(time.Second)} // headers hold no less
	server := serve(t, httptest.NewServer, s3mem.WithTimeSource(storageTime))
	storageTime.at = storageTime.at.Add(-59 * time.Minute)
	server.put(t, "sra/.lockstep-canary/young", "of another process, perhaps")
	storageTime.at = storageTime.at.Add(-time.Minute)
	server.put(t, "sra/.lockstep-canary/old", "of a crash")
	server.put(t, "sra/recordings/old", "not ours")
	storageTime.at = storageTime.at.Add(time.Hour)
	opts := options(t, server.server.URL)
	// The clock of this machine is wrong by days, and it is not asked.
	opts.Now = func() time.Time { return time.Now().Add(72 * time.Hour) }
	got := open(t, opts).Canary(t.Context(), "berlin", "storage")
	if !got.OK || !strings.Contains(got.Detail, "1 that were left behind were removed") {
		t.Errorf("%+v", got)
	}
	if diff := cmp.Diff([]string{"sra/.lockstep-canary/young", "sra/recordings/old"}, server.keys(t)); diff != "" {
		t.Error(diff)
	}
}

func status(code int, s3Code string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(code)
		// An unfriendly storage repeats what it was sent.
		fmt.Fprintf(w, "<Error><Code>%s</Code><Message>no, %s with %s\n!</Message></Error>", s3Code, accessKey, secretKey)
		return true
	}
}

// hangUp ends the connection after as much of the answer.
func hangUp(t *testing.T, answer string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, _ *http.Request) bool {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return true
		}
		if _, err := io.WriteString(conn, answer); err != nil {
			t.Error(err)
		}
		if tcp, ok := conn.(*net.TCPConn); ok && answer == "" {
			_ = tcp.SetLinger(0) // a reset where it can be had
		}
		_ = conn.Close()
		return true
	}
}

func page(text string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, _ *http.Request) bool {
		_, _ = io.WriteString(w, text)
		return true
	}
}

// on limits a fault to some requests.
func on(wanted func(*http.Request) bool, fault func(http.ResponseWriter, *http.Request) bool) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool { return wanted(r) && fault(w, r) }
}

func method(name string) func(*http.Request) bool {
	return func(r *http.Request) bool { return r.Method == name && !r.URL.Query().Has("list-type") }
}

func TestFailuresHaveTheirClass(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fault func(http.ResponseWriter, *http.Request) bool
		class fleet.Failure
		id    string
	}{
		"forbidden":          {status(403, "AccessDenied"), fleet.FailureForbidden, "LS-PIP-003"},
		"a wrong signature":  {status(403, "SignatureDoesNotMatch"), fleet.FailureForbidden, "LS-PIP-003"},
		"an expired token":   {status(400, "InvalidToken"), fleet.FailureForbidden, "LS-PIP-003"},
		"no such bucket":     {status(404, "NoSuchBucket"), fleet.FailureMissing, "LS-PIP-004"},
		"an error inside":    {status(500, "InternalError"), fleet.FailureHTTPStatus, "LS-PIP-002"},
		"slow down":          {status(503, "SlowDown"), fleet.FailureTooManyOpen, "LS-PIP-002"},
		"another region":     {status(301, "PermanentRedirect"), fleet.FailureHTTPStatus, "LS-PIP-002"},
		"a reset":            {hangUp(t, ""), fleet.FailureUnreachable, "LS-PIP-002"},
		"half an answer":     {hangUp(t, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n<?xml version=\"1.0\"?><ListBucketResult><Name>recordings</Name>"), fleet.FailureUnreachable, "LS-PIP-002"},
		"a broken list":      {page("<ListBucketResult><Name>recordings</Name>"), fleet.FailureContent, "LS-PIP-002"},
		"a page for a list":  {page("<html><body>Please log in to the network.</body></html>"), fleet.FailureContent, "LS-PIP-002"},
		"nothing for a list": {page(""), fleet.FailureContent, "LS-PIP-002"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := serve(t, httptest.NewServer)
			server.breaks(c.fault)
			s := open(t, options(t, server.server.URL))
			objects, err := s.Find(t.Context(), "recordings/s-1")
			if err == nil {
				t.Fatalf("found %v", objects)
			}
			if class, id := classOf(t, err), errs.IDOf(err); class != c.class || id != c.id {
				t.Errorf("class %s, id %s, want %s, %s: %v", class, id, c.class, c.id, err)
			}
			quiet(t, err.Error())
		})
	}
}

// quiet looks for keys and for what would move a cursor.
func quiet(t *testing.T, text string) {
	t.Helper()
	if strings.Contains(text, secretKey) || strings.Contains(text, accessKey) || strings.ContainsAny(text, "\n\r\x1b") {
		t.Errorf("%q shows what it must not", text)
	}
}

func TestACanaryTellsWhereItFailedAndIsRemovedAllTheSame(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		fault func(http.ResponseWriter, *http.Request) bool
		class fleet.Failure
		say   string
		left  int
	}{
		"not written":     {on(method("PUT"), status(403, "AccessDenied")), fleet.FailureForbidden, "writing ", 0},
		"not read":        {on(method("GET"), status(403, "AccessDenied")), fleet.FailureForbidden, "reading ", 0},
		"not there":       {on(method("GET"), status(404, "NoSuchKey")), fleet.FailureMissing, "reading ", 0},
		"another content": {on(method("GET"), hangUp(t, "HTTP/1.1 200 OK\r\nLast-Modified: Sun, 01 Mar 2026 12:00:00 GMT\r\n\r\nsomething else")), fleet.FailureContent, "14 came back", 0},
		"no object":       {on(method("GET"), page("<html></html>")), fleet.FailureContent, "reading ", 0},
		"a reset":         {on(method("GET"), hangUp(t, "")), fleet.FailureUnreachable, "reading ", 0},
		"cut short":       {on(method("GET"), hangUp(t, "HTTP/1.1 200 OK\r\nLast-Modified: Sun, 01 Mar 2026 12:00:00 GMT\r\nContent-Length: 1000\r\n\r\nLockstep")), fleet.FailureUnreachable, "reading ", 0},
		"not removed":     {on(method("DELETE"), status(403, "AccessDenied")), fleet.FailureForbidden, "stays behind", 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := serve(t, httptest.NewServer)
			server.breaks(c.fault)
			got := open(t, options(t, server.server.URL)).Canary(t.Context(), "berlin", "storage")
			if got.OK || got.Failure != c.class || !strings.Contains(got.Detail, c.say) {
				t.Errorf("%+v", got)
			}
			if left := server.keys(t); len(left) != c.left {
				t.Errorf("%v stayed behind", left)
			}
			quiet(t, got.Detail)
		})
	}
}

func TestAListThatFailsDoesNotFailTheCanary(t *testing.T) {
	t.Parallel()
	server := serve(t, httptest.NewServer)
	server.breaks(on(func(r *http.Request) bool { return r.URL.Query().Has("list-type") }, status(403, "AccessDenied")))
	got := open(t, options(t, server.server.URL)).Canary(t.Context(), "berlin", "storage")
	if !got.OK || !strings.Contains(got.Detail, "looking for older ones failed") {
		t.Errorf("%+v", got)
	}
}

func TestACancelledCanaryIsRemoved(t *testing.T) {
	t.Parallel()
	server := serve(t, httptest.NewServer)
	ctx, cancel := context.WithCancel(t.Context())
	server.breaks(on(method("GET"), func(_ http.ResponseWriter, r *http.Request) bool {
		cancel()
		<-r.Context().Done()
		return true
	}))
	got := open(t, options(t, server.server.URL)).Canary(ctx, "berlin", "storage")
	if got.OK || got.Failure != fleet.FailureUnclassified || !strings.Contains(got.Detail, "canceled") {
		t.Errorf("%+v", got)
	}
	if left := server.keys(t); len(left) != 0 {
		t.Errorf("%v stayed behind", left)
	}
}

func TestASlowStorageIsATimeoutAndACancelledFindIsNone(t *testing.T) {
	t.Parallel()
	server := serve(t, httptest.NewServer)
	asked := make(chan struct{}, 10)
	server.breaks(func(_ http.ResponseWriter, r *http.Request) bool {
		asked <- struct{}{}
		<-r.Context().Done()
		return true
	})
	opts := options(t, server.server.URL)
	opts.Timeout = 50 * time.Millisecond
	_, err := open(t, opts).Find(t.Context(), "recordings/s-1")
	if classOf(t, err) != fleet.FailureTimeout || !strings.Contains(err.Error(), "no answer within 50ms") {
		t.Error(err)
	}
	<-asked
	opts.Timeout = time.Minute
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-asked; cancel() }()
	if _, err = open(t, opts).Find(ctx, "recordings/s-1"); !errors.Is(err, context.Canceled) || errs.IDOf(err) != "" {
		t.Errorf("cancelled: %v", err)
	}
}

func TestAContextThatHasEndedIsNoEmptyList(t *testing.T) {
	t.Parallel()
	server := serve(t, httptest.NewServer)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if objects, err := open(t, options(t, server.server.URL)).Find(ctx, "recordings/s-1"); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, %v", objects, err)
	}
}

func TestAFaultThatPassesIsNotTold(t *testing.T) {
	t.Parallel()
	server := serve(t, httptest.NewServer)
	server.put(t, "sra/recordings/s-1", "x")
	var asked atomic.Int32
	server.breaks(func(w http.ResponseWriter, r *http.Request) bool {
		return asked.Add(1) == 1 && status(503, "SlowDown")(w, r)
	})
	if got, err := open(t, options(t, server.server.URL)).Find(t.Context(), "recordings/s-1"); err != nil || len(got) != 1 {
		t.Errorf("%v, %v", got, err)
	}
}

func TestWhereNobodyListens(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.NotFoundHandler())
	server.Close()
	_, err := open(t, options(t, server.URL)).Find(t.Context(), "recordings/s-1")
	if classOf(t, err) != fleet.FailureRefused || errs.IDOf(err) != "LS-PIP-002" {
		t.Error(err)
	}
	opts := options(t, "https://storage.invalid")
	if _, err = open(t, opts).Find(t.Context(), "recordings/s-1"); classOf(t, err) != fleet.FailureDNS {
		t.Error(err)
	}
}

func TestKeysAreReadAnewWhenTheyAreRefused(t *testing.T) {
	t.Parallel()
	server := serve(t, httptest.NewServer)
	valid := accessKey
	server.breaks(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.Header.Get("Authorization"), "Credential="+valid+"/") {
			return false
		}
		return status(403, "InvalidAccessKeyId")(w, r)
	})
	opts := options(t, server.server.URL)
	s := open(t, opts)
	if _, err := s.Find(t.Context(), "x"); err != nil {
		t.Fatal(err)
	}
	server.mu.Lock()
	valid = "AKIAOTHER"
	server.mu.Unlock()
	before := server.count("GET")
	if _, err := s.Find(t.Context(), "x"); classOf(t, err) != fleet.FailureForbidden {
		t.Fatal(err)
	}
	if n := server.count("GET") - before; n != 1 {
		t.Errorf("asked %d times with the same refused key, want once", n)
	}
	if err := os.WriteFile(opts.AccessKeyFile, []byte("AKIAOTHER"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Find(t.Context(), "x"); err != nil {
		t.Errorf("with the new key: %v", err)
	}
	if err := os.Remove(opts.AccessKeyFile); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Find(t.Context(), "x"); err != nil {
		t.Errorf("the file is gone and the key is still good: %v", err)
	}
	server.mu.Lock()
	valid = "AKIATHIRD"
	server.mu.Unlock()
	if _, err := s.Find(t.Context(), "x"); classOf(t, err) != fleet.FailureForbidden {
		t.Errorf("refused, and there is no other key: %v", err)
	}
	if _, err := s.Find(t.Context(), "x"); classOf(t, err) != "setup" || errs.IDOf(err) != "LS-PIP-001" {
		t.Errorf("after that: %v", err)
	}
}

func TestTLSWithAnAuthorityOfOnesOwn(t *testing.T) {
	t.Parallel()
	server := serve(t, encrypted)
	ends := server.server.Certificate().NotAfter
	opts := options(t, server.server.URL)
	got := open(t, opts).Canary(t.Context(), "berlin", "storage")
	if got.Failure != fleet.FailureCertificate || !got.CertificateExpires.Equal(ends) {
		t.Errorf("not trusted: %+v", got)
	}
	opts.CAFile = file(t, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.server.Certificate().Raw})))
	if got = open(t, opts).Canary(t.Context(), "berlin", "storage"); !got.OK || !got.CertificateExpires.Equal(ends) {
		t.Errorf("trusted: %+v", got)
	}
	opts.Endpoint = strings.Replace(serve(t, httptest.NewServer).server.URL, "http:", "https:", 1)
	if got = open(t, opts).Canary(t.Context(), "berlin", "storage"); got.Failure != fleet.FailureTLS {
		t.Errorf("a server without TLS: %+v", got)
	}
}

func TestOptionsThatAreRefused(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*s3.Options){
		"no endpoint":           func(o *s3.Options) { o.Endpoint = "" },
		"another scheme":        func(o *s3.Options) { o.Endpoint = "ftp://storage.example" },
		"a path":                func(o *s3.Options) { o.Endpoint = "https://storage.example/recordings" },
		"a password":            func(o *s3.Options) { o.Endpoint = "https://me:" + secretKey + "@storage.example" },
		"http elsewhere":        func(o *s3.Options) { o.Endpoint = "http://storage.example" },
		"no bucket":             func(o *s3.Options) { o.Bucket = "" },
		"one key alone":         func(o *s3.Options) { o.SecretKeyFile = "" },
		"an empty key":          func(o *s3.Options) { o.SecretKeyFile = file(t, " \n") },
		"a key that is absent":  func(o *s3.Options) { o.SecretKeyFile = "/nowhere/key" },
		"authorities elsewhere": func(o *s3.Options) { o.CAFile = "/nowhere/ca.pem" },
		"no authorities":        func(o *s3.Options) { o.CAFile = file(t, "none") },
	} {
		opts := options(t, "https://storage.example")
		change(&opts)
		s, err := s3.New(opts)
		if err == nil {
			t.Errorf("%s: %+v", name, s)
			continue
		}
		if errs.IDOf(err) != "LS-PIP-001" || errs.KindOf(err) != errs.Invalid {
			t.Errorf("%s: %v", name, err)
		}
		quiet(t, err.Error())
	}
	opts := options(t, "http://storage.example")
	opts.AllowHTTP = true
	if _, err := s3.New(opts); err != nil {
		t.Errorf("http that is allowed: %v", err)
	}
}
