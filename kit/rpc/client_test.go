package rpc_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connecthttp"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/lockstep-fleet/lockstep/kit/errs"
	"github.com/lockstep-fleet/lockstep/kit/rpc"
)

func newClient(t *testing.T, opts rpc.ClientOptions) *rpc.Client {
	t.Helper()
	if opts.Token == "" {
		opts.Token = viewer
	}
	client, err := rpc.NewClient(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

func TestTheClientShowsItsToken(t *testing.T) {
	t.Parallel()
	url, _ := serve(t, rpc.Options{}, unary(say(), func(ctx context.Context, text string) (string, error) {
		who, _ := rpc.PrincipalFrom(ctx)
		return text + ", " + who.Name, nil
	}))
	for _, base := range []string{url, url + "/"} {
		if got, err := ask(t, newClient(t, rpc.ClientOptions{URL: base, Token: operator}).Client, say(), "hello"); err != nil || got != "hello, the operator" {
			t.Errorf("%s: %q, %v", base, got, err)
		}
	}
	_, err := ask(t, newClient(t, rpc.ClientOptions{URL: url, Token: "lst_wrong"}).Client, say(), "hello")
	refused(t, "a wrong token", err, connect.CodeUnauthenticated, "LS-API-004", "")
}

// asking notes what a client accepts.
type asking struct{ accepts chan string }

func (a asking) RoundTrip(r *http.Request) (*http.Response, error) {
	a.accepts <- r.Header.Get("Accept-Encoding")
	return nil, errors.New("not on the way")
}

// What stays on this machine is not packed.
func TestOnlyWhatTravelsIsPacked(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]string{
		"http://127.0.0.1:1": "identity", "http://[::1]:1": "identity", "https://localhost": "identity",
		"https://lockstep.example.org": "gzip", "http://192.0.2.1:1": "gzip", "http://localhost.example.org": "gzip",
	} {
		transport := asking{make(chan string, 1)}
		client := newClient(t, rpc.ClientOptions{URL: url, Transport: transport})
		_, _ = ask(t, client.Client, say(), "hello")
		if got := <-transport.accepts; got != want {
			t.Errorf("at %s the client accepts %q, want %q", url, got, want)
		}
	}
}

func TestReadsGoAsGET(t *testing.T) {
	t.Parallel()
	methods := make(chan string, 1)
	fn := func(ctx context.Context, text string) (string, error) {
		info, _ := connecthttp.ServerInfoForContext(ctx)
		methods <- info.HTTPMethod()
		return text, nil
	}
	url, _ := serve(t, rpc.Options{}, unary(say(), fn), unary(look(), fn))
	client := newClient(t, rpc.ClientOptions{URL: url})
	for _, c := range []struct {
		name, text, want string
		spec             connect.Spec
	}{
		{"a read", "hello", http.MethodGet, look()},
		{"a read of nothing", "", http.MethodGet, look()},
		{"a read that makes a long address", strings.Repeat("x", 8<<10), http.MethodPost, look()},
		{"a change", "hello", http.MethodPost, say()},
	} {
		ctx, info := connect.NewClientContext(t.Context())
		var res wrapperspb.StringValue
		if err := client.CallUnary(ctx, c.spec, wrapperspb.String(c.text), &res); err != nil || res.GetValue() != c.text {
			t.Errorf("%s: %.10q, %v", c.name, res.GetValue(), err)
			continue
		}
		if got := <-methods; got != c.want {
			t.Errorf("%s went as %s, want %s", c.name, got, c.want)
		}
		if got := info.ResponseHeader().Get("Cache-Control"); got != "no-store" {
			t.Errorf("%s may be kept: %q", c.name, got)
		}
	}
	stranger := newClient(t, rpc.ClientOptions{URL: url, Token: "lst_wrong"})
	_, err := ask(t, stranger.Client, look(), "hello")
	refused(t, "a stranger's read", err, connect.CodeUnauthenticated, "LS-API-004", "")
	if len(methods) != 0 {
		t.Error("it arrived")
	}
}

func TestARedirectIsNotFollowed(t *testing.T) {
	t.Parallel()
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("elsewhere %s arrived with %q", r.URL, r.Header.Get("Authorization"))
	}))
	t.Cleanup(elsewhere.Close)
	s := httptest.NewServer(http.RedirectHandler(elsewhere.URL, http.StatusTemporaryRedirect))
	t.Cleanup(s.Close)
	client := newClient(t, rpc.ClientOptions{URL: s.URL})
	for _, spec := range []connect.Spec{say(), look()} {
		if _, err := ask(t, client.Client, spec, "hello"); err == nil {
			t.Error("a redirect is an answer")
		}
	}
}

func TestTheClientTakesNoHugeMessage(t *testing.T) {
	t.Parallel()
	url, _ := serve(t, rpc.Options{}, unary(say(), answering(strings.Repeat("x", rpc.MaxMessage), nil)))
	client := newClient(t, rpc.ClientOptions{URL: url})
	if _, err := ask(t, client.Client, say(), "hello"); connect.CodeOf(err) != connect.CodeResourceExhausted {
		t.Errorf("an answer: %v", err)
	}
	if _, err := ask(t, client.Client, say(), strings.Repeat("x", rpc.MaxMessage)); connect.CodeOf(err) != connect.CodeResourceExhausted {
		t.Errorf("a request: %v", err)
	}
}

func TestAWrongAddressIsRefused(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"", "localhost:8470", "ftp://localhost", "http://", "//localhost", "http://local host", ":"} {
		if _, err := rpc.NewClient(rpc.ClientOptions{URL: url}); errs.KindOf(err) != errs.Invalid || errs.IDOf(err) != "LS-API-016" {
			t.Errorf("%q: %v", url, err)
		}
	}
}

func TestAMissingServerIsToldAsSuch(t *testing.T) {
	t.Parallel()
	listener := listen(t)
	listener.Close()
	_, err := ask(t, newClient(t, rpc.ClientOptions{URL: "http://" + listener.Addr().String()}).Client, say(), "")
	var e *connect.Error
	if !errors.Is(err, syscall.ECONNREFUSED) || !errors.As(err, &e) || e.IsRemote() || e.Code() != connect.CodeUnavailable {
		t.Errorf("got %v", err)
	}
}

func TestAServerThatHangsDoesNotHangTheClient(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPipes()
		defer p.Close()
		held := make(chan struct{})
		go func() {
			// It accepts, reads, and never answers.
			conn, err := p.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
			go func() { <-held; conn.Close() }()
			for {
				if _, err := conn.Read(make([]byte, 1<<10)); err != nil {
					return
				}
			}
		}()
		transport := p.transport(false)
		client := newClient(t, rpc.ClientOptions{URL: "http://pipe", Transport: transport})
		began := time.Now()
		err := client.CallUnary(t.Context(), say(), wrapperspb.String(""), &wrapperspb.StringValue{})
		if connect.CodeOf(err) != connect.CodeDeadlineExceeded || time.Since(began) != 45*time.Second {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
		close(held)
		transport.CloseIdleConnections()
	})
}
