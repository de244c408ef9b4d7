package natsbus_test

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"

	"github.com/lockstep-fleet/lockstep/kit/bus"
	"github.com/lockstep-fleet/lockstep/kit/bus/natsbus"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// told checks an error's kind and that its text has some words.
func told(t *testing.T, what string, err error, kind errs.Kind, words ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("%s went well", what)
		return
	}
	if got := errs.KindOf(err); got != kind {
		t.Errorf("%s: kind %s, want %s (%v)", what, got, kind, err)
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%s: %v does not say %q", what, err, word)
		}
	}
}

// TestAPatientBusWaitsForItsServer connects before there is anything to connect to.
func TestAPatientBusWaitsForItsServer(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := startServer(t, dir, natsserver.RANDOM_PORT)
	port, address := s.Addr().(*net.TCPAddr).Port, s.ClientURL()
	stopServer(s)
	b, err := natsbus.Open(natsbus.Options{URL: address, Patient: true, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	expect(t, "connected to nobody", b.Connected(), false)
	short, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := b.Publish(short, text("log.a", "1")); err == nil {
		t.Error("a message was stored by nobody")
	}
	startServer(t, dir, port)
	eventually(t, "the connection", b.Connected)
}

func TestOpenTellsWhereAndNeverTheSecret(t *testing.T) {
	t.Parallel()
	locked := startServerWith(t, &natsserver.Options{StoreDir: t.TempDir(), Port: natsserver.RANDOM_PORT, Username: "lockstep", Password: "right"})
	host := locked.Addr().String()
	for name, c := range map[string]struct {
		opts  natsbus.Options
		kind  errs.Kind
		words []string
	}{
		"nobody listens": {
			natsbus.Options{URL: "nats://127.0.0.1:1"}, errs.Unavailable, []string{"LS-BUS-001", "nats://127.0.0.1:1"},
		},
		"nobody listens at any": {
			natsbus.Options{URL: "nats://user:hush@127.0.0.1:1, hush@127.0.0.1:2,tls://u:hu@sh@127.0.0.1:3"},
			errs.Unavailable, []string{"LS-BUS-001", "nats://127.0.0.1:1,nats://127.0.0.1:2,tls://127.0.0.1:3"},
		},
		"no address": {natsbus.Options{URL: "nats://user:hush@127.0.0.1:port"}, errs.Unavailable, []string{"LS-BUS-001"}},
		"a wrong password": {
			natsbus.Options{URL: "nats://lockstep:hush@" + host}, errs.Unauthenticated, []string{"LS-BUS-002", "nats://" + host},
		},
		"no password":       {natsbus.Options{URL: "nats://" + host}, errs.Unauthenticated, []string{"LS-BUS-002"}},
		"no such file":      {natsbus.Options{URL: "nats://" + host, CredentialsFile: "/nowhere/agent.creds"}, errs.Unauthenticated, []string{"LS-BUS-002", "/nowhere/agent.creds"}},
		"TLS where is none": {natsbus.Options{URL: "tls://lockstep:right@" + host}, errs.Unavailable, []string{"LS-BUS-001", "tls://" + host}},
	} {
		c.opts.Log = slog.New(slog.DiscardHandler)
		_, err := natsbus.Open(c.opts)
		told(t, name, err, c.kind, c.words...)
		if err != nil && strings.Contains(err.Error(), "hu") {
			t.Errorf("%s: %v tells the password", name, err)
		}
	}
	b, err := natsbus.Open(natsbus.Options{URL: "nats://127.0.0.1:1,nats://lockstep:right@" + host, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	b.Close()
}

// TestAUserWithCredentialsAndAnInboxOfItsOwn opens the bus as a user that is known
// by a file and may hear only its own answers.
func TestAUserWithCredentialsAndAnInboxOfItsOwn(t *testing.T) {
	t.Parallel()
	operator, account, user := keyPair(t, nkeys.CreateOperator), keyPair(t, nkeys.CreateAccount), keyPair(t, nkeys.CreateUser)
	system := keyPair(t, nkeys.CreateAccount)
	operatorClaims := jwt.NewOperatorClaims(public(t, operator))
	trusted, err := jwt.DecodeOperatorClaims(encode(t, operatorClaims, operator))
	if err != nil {
		t.Fatal(err)
	}
	accountClaims := jwt.NewAccountClaims(public(t, account))
	accountClaims.Limits.JetStreamLimits = jwt.JetStreamLimits{DiskStorage: -1, MemoryStorage: -1, Streams: -1, Consumer: -1}
	known := &natsserver.MemAccResolver{}
	for _, claims := range []*jwt.AccountClaims{accountClaims, jwt.NewAccountClaims(public(t, system))} {
		if err := known.Store(claims.Subject, encode(t, claims, operator)); err != nil {
			t.Fatal(err)
		}
	}
	userClaims := jwt.NewUserClaims(public(t, user))
	userClaims.Sub.Allow.Add("_INBOX_agent.>")
	seed, err := user.Seed()
	if err != nil {
		t.Fatal(err)
	}
	creds, err := jwt.FormatUserConfig(encode(t, userClaims, account), seed)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "agent.creds")
	if err := os.WriteFile(file, creds, 0o600); err != nil {
		t.Fatal(err)
	}
	s := startServerWith(t, &natsserver.Options{
		StoreDir: t.TempDir(), Port: natsserver.RANDOM_PORT, TrustedOperators: []*jwt.OperatorClaims{trusted},
		AccountResolver: known, SystemAccount: public(t, system),
	})
	open := func(prefix string) *natsbus.Bus {
		t.Helper()
		b, err := natsbus.Open(natsbus.Options{URL: s.ClientURL(), CredentialsFile: file, InboxPrefix: prefix, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(b.Close)
		return b
	}
	b := open("_INBOX_agent")
	streams, keyValues := (&world{}).wanted()
	if err := b.Ensure(limited(t), streams, keyValues, nil); err != nil {
		t.Fatal(err)
	}
	publish(t, b, "log.a", "1", "2")
	expect(t, "stream", load(t, b, stream, "log.>"), "1 2")
	seen := make(chan string, 10)
	stop := consumeBatch(t, b, worker(time.Minute), func(_ context.Context, batch []bus.Delivery) (int, error) {
		seen <- string(batch[0].Data)
		return len(batch), nil
	})
	expect(t, "delivered", next(t, "a message", seen), "1")
	expect(t, "end", stop(), nil)

	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := open("").Publish(ctx, text("log.a", "3")); err == nil {
		t.Error("a user heard an answer outside its inbox")
	}
}

func keyPair(t *testing.T, create func() (nkeys.KeyPair, error)) nkeys.KeyPair {
	t.Helper()
	k, err := create()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func public(t *testing.T, k nkeys.KeyPair) string {
	t.Helper()
	key, err := k.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func encode(t *testing.T, claims interface {
	Encode(nkeys.KeyPair) (string, error)
}, by nkeys.KeyPair) string {
	t.Helper()
	token, err := claims.Encode(by)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func TestAnErrorSaysWhatToDo(t *testing.T) {
	t.Parallel()
	s := startServer(t, t.TempDir(), natsserver.RANDOM_PORT)
	w := newWorld(t, natsbus.Options{URL: s.ClientURL()}, 0)
	ignore := func(bus.Message) error { return nil }

	_, noBlob := w.GetBlob(limited(t), "nowhere", "x")
	for what, err := range map[string]error{
		"loading a stream that is missing":      w.Load(limited(t), "NOWHERE", ">", ignore),
		"storing in a bucket that is missing":   w.PutKey(limited(t), "nowhere", "a", nil),
		"reading a blob bucket that is missing": noBlob,
	} {
		told(t, what, err, errs.Unavailable, "LS-BUS-003", "lockstep migrate")
		if errors.Is(err, bus.ErrNotFound) {
			t.Errorf("%s looks as if only the key were missing: %v", what, err)
		}
	}
	_, err := w.Publish(limited(t), bus.Message{Subject: "log.a", Type: "test.Text", Data: make([]byte, 2<<20)})
	told(t, "publishing too much at once", err, errs.Exhausted, "LS-BUS-005", "test.Text on log.a")
	_, err = w.Publish(limited(t), text("elsewhere.a", "1"))
	told(t, "publishing where no stream listens", err, errs.Unavailable, "LS-BUS-006", "elsewhere.a")

	// It is the caller's limit that ends this, not a fault of the bus.
	stopServer(s)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = w.Publish(ctx, text("log.a", "1"))
	if err == nil || strings.Contains(err.Error(), "LS-BUS") || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("publishing for a short while: %v", err)
	}
	w.Close()
	_, err = w.Publish(limited(t), text("log.a", "1"))
	told(t, "publishing after the end", err, errs.Unavailable, "LS-BUS-006")
	told(t, "loading after the end", w.Load(limited(t), stream, ">", ignore), errs.Unavailable, "LS-BUS-006")
}

// TestAFullStoreRefusesAndWorksAgainWhenThereIsRoom fills a server that may store
// little.
func TestAFullStoreRefusesAndWorksAgainWhenThereIsRoom(t *testing.T) {
	t.Parallel()
	w := newWorld(t, natsbus.Options{InProcess: startServerWith(t, &natsserver.Options{
		StoreDir: t.TempDir(), DontListen: true, JetStreamMaxStore: 1 << 20,
	})}, 0)
	stored := 0
	var err error
	for ; err == nil && stored < 1000; stored++ {
		_, err = w.Publish(limited(t), text("log.a", strings.Repeat("x", 10_000)))
	}
	stored--
	told(t, "publishing into a full store", err, errs.Exhausted, "LS-BUS-004", "test.Text on log.a", "nothing was stored")
	if stored < 50 {
		t.Fatalf("%d messages filled it", stored)
	}
	_, err = w.Append(limited(t), text("log.b", "1"), 0)
	told(t, "appending", err, errs.Exhausted, "LS-BUS-004")
	_, err = w.PublishBatch(limited(t), numbered("log.b", 3))
	told(t, "publishing a batch", err, errs.Exhausted, "LS-BUS-004")
	told(t, "storing a key", w.PutKey(limited(t), bucket, "a", nil), errs.Exhausted, "LS-BUS-004")
	expect(t, "messages that were acknowledged", len(strings.Fields(load(t, w.Bus, stream, ">"))), stored)

	s, err := w.js.Stream(limited(t), stream)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Purge(limited(t)); err != nil {
		t.Fatal(err)
	}
	publish(t, w.Bus, "log.a", "room")
	if _, err := w.PublishBatch(limited(t), numbered("log.b", 3)); err != nil {
		t.Errorf("publishing a batch when there is room: %v", err)
	}
	expect(t, "stream", load(t, w.Bus, stream, ">"), "room 0 1 2")
}
