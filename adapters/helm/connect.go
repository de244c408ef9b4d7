package helm

import (
	"context"
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

// helm prepares Helm for one operation: once ctx has ended, no request that changes
// anything is begun any more, whoever in Helm still runs.
func (d *Deployment) helm(ctx context.Context) (*action.Configuration, error) {
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
	c.config.Wrap(func(next http.RoundTripper) http.RoundTripper { return guarded{next, ctx, d.opts.Guard} })
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

// guarded refuses requests that change something once an operation is over. Helm goes on
// in the background where it is cut off.
type guarded struct {
	next  http.RoundTripper
	over  context.Context //nolint:containedctx // it is the operation's, not the request's
	guard func(context.Context) error
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
	if g.guard != nil {
		if err := g.guard(req.Context()); err != nil {
			return refuse(err)
		}
	}
	return g.next.RoundTrip(req)
}

// WrappedRoundTripper lets the library find what is below.
func (g guarded) WrappedRoundTripper() http.RoundTripper { return g.next }
