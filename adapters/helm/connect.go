package helm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

	"helm.sh/helm/v4/pkg/action"
	helmkube "helm.sh/helm/v4/pkg/kube"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// asHelm sees to it that fields are set in the name of Helm's command: the API server
// keeps who set which, and neither side is to meet a conflict with the other. The
// library has one name for the whole program.
var asHelm = sync.OnceFunc(func() { helmkube.ManagedFieldsManager = "helm" })

// connection is how Helm reaches the cluster for one operation. It keeps what the API
// server offers in memory, and leaves nothing on disk.
type connection struct {
	loaded    clientcmd.ClientConfig
	config    *rest.Config
	discovery discovery.CachedDiscoveryInterface
}

// connect reads how the cluster is reached. It makes no call.
func (d *Deployment) connect() (*connection, error) {
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = d.opts.Kubeconfig
	overrides := &clientcmd.ConfigOverrides{CurrentContext: d.opts.Context}
	overrides.Context.Namespace = d.opts.Namespace
	c := &connection{loaded: clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, overrides)}
	var err error
	if c.config, err = c.loaded.ClientConfig(); err != nil {
		return nil, errs.New(errs.Invalid, "LS-HLM-001", "preparing Helm for %s: %w; compare with `kubectl config get-contexts`", d.where(), err)
	}
	c.config.UserAgent = "lockstep"
	c.config.QPS = -1
	c.config.WarningHandlerWithContext = rest.NoWarnings{}
	if c.config.ExecProvider != nil {
		c.config.ExecProvider.StdinUnavailable = true // nobody sits at a server
	}
	return c, nil
}

// helm prepares Helm for one operation: once ctx has ended, or the hand that it was begun
// with is lost, no request that changes anything is begun any more, whoever in Helm still
// runs. Without a hand it changes nothing.
func (d *Deployment) helm(ctx context.Context, h *hand) (*action.Configuration, error) {
	c, err := d.connect()
	if err != nil {
		return nil, err
	}
	c.config.Wrap(func(next http.RoundTripper) http.RoundTripper { return guarded{next, ctx, h} })
	client, err := discovery.NewDiscoveryClientForConfig(c.config)
	if err != nil {
		return nil, errs.New(errs.Invalid, "LS-HLM-001", "preparing Helm for %s: %w", d.where(), err)
	}
	c.discovery = memory.NewMemCacheClient(client)
	out := action.NewConfiguration(action.ConfigurationSetLogger(d.log.Handler()))
	if err := out.Init(c, d.opts.Namespace, d.opts.Storage); err != nil {
		return nil, errs.New(errs.Invalid, "LS-HLM-001", "preparing Helm for %s: %w", d.where(), err)
	}
	out.HookOutputFunc = func(_, _, _ string) io.Writer { return io.Discard }
	return out, nil
}

func (c *connection) ToRESTConfig() (*rest.Config, error) { return rest.CopyConfig(c.config), nil }

func (c *connection) ToDiscoveryClient() (discovery.CachedDiscoveryInterface, error) {
	return c.discovery, nil
}

func (c *connection) ToRESTMapper() (meta.RESTMapper, error) {
	return restmapper.NewShortcutExpander(restmapper.NewDeferredDiscoveryRESTMapper(c.discovery), c.discovery, func(string) {}), nil
}

func (c *connection) ToRawKubeConfigLoader() clientcmd.ClientConfig { return c.loaded }

// guarded refuses requests that change something once an operation is over, Helm goes on
// in the background where it is cut off, and bounds those that it lets through, so that
// none outlasts the right to it.
type guarded struct {
	next http.RoundTripper
	over context.Context //nolint:containedctx // it is the operation's, not the request's
	hand *hand
}

func (g guarded) RoundTrip(req *http.Request) (*http.Response, error) {
	switch req.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		return g.next.RoundTrip(req)
	}
	refuse := func(err error) (*http.Response, error) {
		if req.Body != nil {
			_ = req.Body.Close()
		}
		return nil, fmt.Errorf("%s %s is not begun: %w", req.Method, req.URL.Path, err)
	}
	if g.over.Err() != nil {
		return refuse(context.Cause(g.over))
	}
	if g.hand == nil {
		return refuse(errors.New("this is to change nothing"))
	}
	limit := g.hand.lease / 3
	if err := g.hand.allow(limit); err != nil {
		return refuse(err)
	}
	ctx, cancel := context.WithTimeout(req.Context(), limit)
	resp, err := g.next.RoundTrip(req.WithContext(ctx))
	if err != nil {
		cancel()
		return nil, err
	}
	resp.Body = ending{resp.Body, cancel}
	return resp, nil
}

// ending is an answer whose time is over once it was read.
type ending struct {
	io.ReadCloser

	cancel context.CancelFunc
}

func (e ending) Close() error {
	defer e.cancel()
	return e.ReadCloser.Close()
}

// WrappedRoundTripper lets the library find what is below.
func (g guarded) WrappedRoundTripper() http.RoundTripper { return g.next }
