package rpc_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"connectrpc.com/grpcreflect/v2"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/lockstep-fleet/lockstep/kit/rpc"
)

// pipes is a listener whose connections are pipes, so that time may be a
// bubble's.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), closed: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.conns:
		return conn, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.closed) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

func (p *pipes) dial(context.Context, string, string) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case p.conns <- there:
		return here, nil
	case <-p.closed:
		return nil, errors.New("nobody listens")
	}
}

// transport speaks through the pipes.
func (p *pipes) transport(http2 bool) *http.Transport {
	transport := &http.Transport{Protocols: new(http.Protocols), DialContext: p.dial}
	transport.Protocols.SetHTTP1(!http2)
	transport.Protocols.SetUnencryptedHTTP2(http2)
	return transport
}

// bubble serves the procedures in a bubble of time, and gives a client of it.
func bubble(t *testing.T, http2 bool, opts rpc.Options, methods ...connect.Method) (p *pipes, client *connect.Client, log *record) {
	t.Helper()
	p = newPipes()
	handler, log := newServer(t, opts, methods...)
	start(t, p, handler)
	transport := p.transport(http2)
	t.Cleanup(transport.CloseIdleConnections)
	return p, connect.NewClient(connecthttp.NewTransport(&http.Client{Transport: authorized{"Bearer " + viewer, transport}}, "http://pipe")), log
}

func TestACallThatTakesTooLongIsEnded(t *testing.T) {
	t.Parallel()
	for _, http2 := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			_, client, log := bubble(t, http2, rpc.Options{}, unary(say(), func(ctx context.Context, _ string) (string, error) {
				<-ctx.Done()
				return "", errors.New("asking 10.0.0.7: it was slow")
			}))
			began := time.Now()
			err := client.CallUnary(t.Context(), say(), wrapperspb.String(""), &wrapperspb.StringValue{})
			refused(t, "a call without a limit", err, connect.CodeDeadlineExceeded, "LS-API-011", "longer than the 30s")
			if took := time.Since(began); took != rpc.DefaultTimeout {
				t.Errorf("it took %s", took)
			}
			if strings.Contains(err.Error(), "10.0.0.7") || !strings.Contains(log.String(), "10.0.0.7") || !strings.Contains(log.String(), "level=WARN") {
				t.Errorf("told %v, logged %s", err, log)
			}
		})
	}
}

func TestACallersShorterLimitWins(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		left := make(chan time.Duration, 1)
		_, client, log := bubble(t, false, rpc.Options{Timeout: time.Minute}, unary(say(), func(ctx context.Context, _ string) (string, error) {
			deadline, _ := ctx.Deadline()
			left <- time.Until(deadline)
			<-ctx.Done()
			return "", ctx.Err()
		}))
		for limit, want := range map[time.Duration]time.Duration{5 * time.Second: 5 * time.Second, time.Hour: time.Minute} {
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			err := client.CallUnary(ctx, say(), wrapperspb.String(""), &wrapperspb.StringValue{})
			cancel()
			if connect.CodeOf(err) != connect.CodeDeadlineExceeded {
				t.Errorf("%s: %v", limit, err)
			}
			if got := <-left; got != want {
				t.Errorf("%s: the handler has %s, want %s", limit, got, want)
			}
		}
		if n := strings.Count(log.String(), "\n"); n != 1 {
			t.Errorf("the log has %d lines, want one, on the server's own limit: %s", n, log)
		}
	})
}

func TestAStreamLasts(t *testing.T) {
	t.Parallel()
	for _, http2 := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			_, client, _ := bubble(t, http2, rpc.Options{}, streamed(count(), func(ctx context.Context, send func(string) error) error {
				for range 3 {
					select {
					case <-ctx.Done():
						return ctx.Err()
					case <-time.After(time.Hour):
					}
					if err := send("tick"); err != nil {
						return err
					}
				}
				return nil
			}))
			stream, err := client.CallServerStream(t.Context(), count(), wrapperspb.String(""))
			if err != nil {
				t.Fatal(err)
			}
			for range 3 {
				if err := stream.Receive(&wrapperspb.StringValue{}); err != nil {
					t.Fatalf("HTTP/2 %t: %v", http2, err)
				}
			}
			if err := stream.Receive(&wrapperspb.StringValue{}); !errors.Is(err, io.EOF) {
				t.Errorf("HTTP/2 %t: at the end: %v", http2, err)
			}
			if err := stream.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestACallMayTakeAsLongAsIsSaid(t *testing.T) {
	t.Parallel()
	for _, http2 := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			_, client, _ := bubble(t, http2, rpc.Options{Timeout: 10 * time.Minute}, unary(say(), func(ctx context.Context, text string) (string, error) {
				select {
				case <-ctx.Done():
					return "", ctx.Err()
				case <-time.After(9 * time.Minute):
					return text, nil
				}
			}))
			var res wrapperspb.StringValue
			if err := client.CallUnary(t.Context(), say(), wrapperspb.String("hello"), &res); err != nil || res.GetValue() != "hello" {
				t.Errorf("HTTP/2 %t: %q, %v", http2, res.GetValue(), err)
			}
		})
	}
}

// A stream to someone who does not read ends, or handlers would pile up.
func TestAStreamThatNobodyReadsEnds(t *testing.T) {
	t.Parallel()
	for _, http2 := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			ended := make(chan error, 1)
			_, client, _ := bubble(t, http2, rpc.Options{}, streamed(count(), func(_ context.Context, send func(string) error) error {
				// Noise, or compression makes nothing of it.
				noise := make([]byte, 32<<10)
				if _, err := rand.Read(noise); err != nil {
					return err
				}
				for text := hex.EncodeToString(noise); ; {
					if err := send(text); err != nil {
						ended <- err
						return err
					}
				}
			}))
			ctx, cancel := context.WithCancel(t.Context())
			stream, err := client.CallServerStream(ctx, count(), wrapperspb.String(""))
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			<-ended
			if took := time.Since(began); took < 30*time.Second || took > 2*time.Minute {
				t.Errorf("HTTP/2 %t: it took %s", http2, took)
			}
			cancel()
			_ = stream.Close()
		})
	}
}

func TestASlowRequestIsEnded(t *testing.T) {
	t.Parallel()
	for _, http2 := range []bool{false, true} {
		for _, spec := range []connect.Spec{say(), count()} {
			synctest.Test(t, func(t *testing.T) {
				p, _, log := bubble(t, http2, rpc.Options{}, unary(say(), echo), streamed(count(), func(context.Context, func(string) error) error { return nil }))
				body, hold := io.Pipe()
				req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://pipe"+spec.Procedure, body)
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("Authorization", "Bearer "+viewer)
				req.Header.Set("Content-Type", "application/proto")
				if spec.StreamType != connect.StreamTypeUnary {
					req.Header.Set("Content-Type", "application/connect+proto")
				}
				transport := p.transport(http2)
				began := time.Now()
				res, err := transport.RoundTrip(req)
				if err != nil {
					t.Fatal(err)
				}
				if answer := answerOf(t, res); !strings.Contains(answer, "LS-API-014") {
					t.Errorf("HTTP/2 %t, %s: %s %s", http2, spec.Procedure, res.Status, answer)
				}
				if took := time.Since(began); took != 20*time.Second {
					t.Errorf("HTTP/2 %t, %s: it took %s", http2, spec.Procedure, took)
				}
				if !strings.Contains(log.String(), "catalogue_id=LS-API-014") {
					t.Errorf("the log says %s", log)
				}
				hold.Close()
				transport.CloseIdleConnections()
			})
		}
	}
}

func TestSlowHeadersAreNotWaitedForLong(t *testing.T) {
	t.Parallel()
	for name, sent := range map[string]string{
		"nothing":           "",
		"half a line":       "POST /test.v1.Ech",
		"half the headers":  "POST /test.v1.EchoService/Say HTTP/1.1\r\nHost: a\r\n",
		"half a preface":    "PRI * HTTP/2.0\r\n",
		"an HTTP/2 preface": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
	} {
		synctest.Test(t, func(t *testing.T) {
			p, _, _ := bubble(t, false, rpc.Options{}, unary(say(), echo))
			conn, err := p.dial(t.Context(), "", "")
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			began := time.Now()
			if _, err := io.WriteString(conn, sent); err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, conn); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(began); took > 15*time.Second {
				t.Errorf("%s: the connection was held for %s", name, took)
			}
		})
	}
}

// Whatever a stranger sends, the server ends the connection and serves the next.
func TestGarbageDoesNotHurt(t *testing.T) {
	t.Parallel()
	handler, _ := newServer(t, rpc.Options{}, unary(say(), echo))
	listener := listen(t)
	start(t, listener, handler)
	noise := make([]byte, 64<<10)
	if _, err := rand.Read(noise); err != nil {
		t.Fatal(err)
	}
	preface := "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	for name, sent := range map[string][]byte{
		"noise":                            noise,
		"zeros":                            make([]byte, 64<<10),
		"a preface and noise":              append([]byte(preface), noise...),
		"a preface and a huge frame":       append([]byte(preface), 0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0),
		"a preface and data for no stream": append([]byte(preface), 0, 0, 1, 0, 0, 0, 0, 0, 7, 'x'),
		"another protocol":                 []byte("SSH-2.0-OpenSSH_9.9\r\n"),
		"no version":                       []byte("GET /\r\n\r\n"),
		"a version of the future":          []byte("GET / HTTP/9.9\r\nHost: a\r\n\r\n"),
		"two lengths":                      []byte("POST /test.v1.EchoService/Say HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx"),
		"a negative length":                []byte("POST /test.v1.EchoService/Say HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n"),
		"a length and chunks, and a request in it": []byte("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n" +
			"0\r\n\r\nGET /test.v1.EchoService/Say HTTP/1.1\r\nHost: a\r\n\r\n"),
		"a header without end": append([]byte("GET / HTTP/1.1\r\nHost: a\r\nX: "), bytes.Repeat([]byte("x"), 256<<10)...),
	} {
		conn, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(20 * time.Second))
		// The server may hang up before all is sent.
		_, _ = conn.Write(sent)
		_ = conn.(*net.TCPConn).CloseWrite()
		answer, err := io.ReadAll(conn)
		conn.Close()
		var late net.Error
		if errors.As(err, &late) && late.Timeout() {
			t.Errorf("%s: the connection stays open", name)
		}
		if strings.HasPrefix(string(answer), "HTTP/1.1 2") || strings.HasPrefix(string(answer), "HTTP/1.1 5") && name != "a version of the future" {
			t.Errorf("%s: answered with %.100s", name, answer)
		}
	}
	if _, err := tls.Dial("tcp", listener.Addr().String(), &tls.Config{InsecureSkipVerify: true}); err == nil {
		t.Error("TLS was spoken")
	}
	for _, d := range dialects() {
		if got, err := ask(t, d.client(t, "http://"+listener.Addr().String(), "Bearer "+viewer), say(), "still here"); err != nil || got != "still here" {
			t.Errorf("after it: %s: %q, %v", d.name, got, err)
		}
	}
}

func TestStreamsEndWithTheServerAndCallsAreLeftTime(t *testing.T) {
	t.Parallel()
	for _, d := range dialects() {
		handler, log := newServer(t, rpc.Options{}, streamed(count(), func(ctx context.Context, send func(string) error) error {
			if err := send("one"); err != nil {
				return err
			}
			<-ctx.Done()
			return ctx.Err()
		}))
		listener := listen(t)
		stop := start(t, listener, handler)
		client := d.client(t, "http://"+listener.Addr().String(), "Bearer "+viewer)
		stream, err := client.CallServerStream(t.Context(), count(), wrapperspb.String(""))
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Receive(&wrapperspb.StringValue{}); err != nil {
			t.Fatal(err)
		}
		stopped := make(chan struct{})
		go func() { defer close(stopped); stop() }()
		refused(t, d.name, stream.Receive(&wrapperspb.StringValue{}), connect.CodeUnavailable, "LS-API-013", "the server is stopping")
		if err := stream.Close(); err != nil {
			t.Error(err)
		}
		<-stopped
		if !strings.Contains(log.String(), "level=INFO") {
			t.Errorf("the log says %s", log)
		}
	}
}

func TestACallUnderWayEndsInPeace(t *testing.T) {
	t.Parallel()
	for _, d := range dialects() {
		began, goOn := make(chan struct{}), make(chan struct{})
		handler, _ := newServer(t, rpc.Options{}, unary(say(), func(ctx context.Context, text string) (string, error) {
			close(began)
			<-goOn
			return text, ctx.Err()
		}))
		listener := listen(t)
		stop := start(t, listener, handler)
		client := d.client(t, "http://"+listener.Addr().String(), "Bearer "+viewer)
		var res wrapperspb.StringValue
		done := make(chan error, 1)
		go func() { done <- client.CallUnary(t.Context(), say(), wrapperspb.String("hello"), &res) }()
		<-began
		stopped := make(chan struct{})
		go func() { defer close(stopped); stop() }()
		// The listener closes first.
		for {
			conn, err := net.Dial("tcp", listener.Addr().String())
			if err != nil {
				break
			}
			conn.Close()
		}
		close(goOn)
		if err := <-done; err != nil || res.GetValue() != "hello" {
			t.Errorf("%s: %q, %v", d.name, res.GetValue(), err)
		}
		<-stopped
	}
}

func TestAStreamMayWaitForItsCaller(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		_, client, _ := bubble(t, true, rpc.Options{})
		stream := grpcreflect.NewClient(client).NewStream(t.Context())
		for range 3 {
			if _, err := stream.ListServices(); err != nil {
				t.Fatal(err)
			}
			<-time.After(time.Hour)
		}
		if err := stream.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestAStreamThatWaitsForItsCallerEndsWithTheServer(t *testing.T) {
	t.Parallel()
	handler, _ := newServer(t, rpc.Options{})
	listener := listen(t)
	stop := start(t, listener, handler)
	client := grpcreflect.NewClient(dialects()[1].client(t, "http://"+listener.Addr().String(), "Bearer "+viewer))
	stream := client.NewStream(t.Context())
	if _, err := stream.ListServices(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	stop()
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
	_, err := stream.ListServices()
	refused(t, "a word more", err, connect.CodeUnavailable, "LS-API-013", "the server is stopping")
	_ = stream.Close()
}

func TestWhatDoesNotEndIsCutOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p, began := newPipes(), make(chan struct{})
		handler, _ := newServer(t, rpc.Options{}, unary(say(), func(ctx context.Context, _ string) (string, error) {
			close(began)
			<-ctx.Done()
			return "", ctx.Err()
		}))
		log := &record{}
		ctx, cancel := context.WithCancel(t.Context())
		served := make(chan error, 1)
		go func() {
			served <- rpc.Serve(ctx, p, handler, 5*time.Second, slog.New(slog.NewTextHandler(log, nil)))
		}()
		transport := p.transport(false)
		client := connect.NewClient(connecthttp.NewTransport(&http.Client{Transport: authorized{"Bearer " + viewer, transport}}, "http://pipe"))
		done := make(chan error, 1)
		go func() { done <- client.CallUnary(t.Context(), say(), wrapperspb.String(""), &wrapperspb.StringValue{}) }()
		<-began
		stopping := time.Now()
		cancel()
		if err := <-served; err != nil {
			t.Errorf("serving ended with %v", err)
		}
		if took := time.Since(stopping); took < 5*time.Second || took > 6*time.Second {
			t.Errorf("it took %s", took)
		}
		if err := <-done; err == nil {
			t.Error("the call went well")
		}
		if !strings.Contains(log.String(), "requests were cut off") {
			t.Errorf("the log says %s", log)
		}
		transport.CloseIdleConnections()
	})
}

func TestAListenerThatBreaksIsToldOf(t *testing.T) {
	t.Parallel()
	listener := listen(t)
	listener.Close()
	if err := rpc.Serve(t.Context(), listener, http.NotFoundHandler(), time.Second, slog.New(slog.DiscardHandler)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
}
