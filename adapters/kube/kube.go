// Package kube reads what runs in one namespace of a Kubernetes cluster, as
// fleet's inventory, and what Helm has on record there, as fleet's package.
//
// It changes nothing in a cluster (a driver does), does not judge what it sees
// (domain/drift does) and does not decide when to look: Changed says when
// something moved.
package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"mime"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	apps "k8s.io/client-go/kubernetes/typed/apps/v1"
	authorization "k8s.io/client-go/kubernetes/typed/authorization/v1"
	core "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/errs"
	"github.com/lockstep-fleet/lockstep/kit/rtime"
)

const (
	defaultTimeout = 10 * time.Second
	defaultSilence = 3 * time.Minute
	// settle is how long changes are gathered before they are told: a rollout
	// moves many objects at once.
	settle = 200 * time.Millisecond
)

// Options say which namespace is meant and how it is reached.
type Options struct {
	Cluster fleet.ClusterID

	// Kubeconfig is a file, and Context a context in it. Empty means what kubectl
	// would use: KUBECONFIG, then the file in the home folder, then the service
	// account of the pod this process runs in; and the current context.
	Kubeconfig, Context string
	// Namespace is the one that is read; empty means the context's.
	Namespace string

	// Releases are the Helm releases that make up this cluster; empty means all
	// that is in the namespace.
	Releases []string
	// Workloads name the component of what the vendor's names do not tell, by
	// "deployment/NAME", "statefulset/NAME" or "daemonset/NAME", with
	// "/CONTAINER" behind it where a pod has several.
	Workloads map[string]fleet.Component

	// Log hears of watches lost and found. Nil means silence.
	Log *slog.Logger
	// Now dates what is observed; nil means time.Now.
	Now func() time.Time
	// Timeout bounds one request, and the wait for watches that are being opened
	// anew; 0 means 10 s.
	Timeout time.Duration
	// Silence is how long a watch may bring nothing before it is opened anew: a
	// server sends a sign of life each minute. 0 means 3 min.
	Silence time.Duration
}

// Source is one namespace of one cluster. It is safe for concurrent use.
type Source struct {
	cluster   fleet.ClusterID
	host      string
	namespace string
	releases  []string
	workloads map[string]fleet.Component

	log     *slog.Logger
	now     func() time.Time
	timeout time.Duration
	silence time.Duration

	transport *bounded
	core      core.CoreV1Interface
	apps      apps.AppsV1Interface
	access    authorization.AuthorizationV1Interface
	metadata  metadata.Interface

	kinds   []*kind
	pumps   sync.WaitGroup
	dirty   chan struct{} // something changed
	changed chan struct{} // and is told

	mu       sync.Mutex
	turn     chan struct{} // closed when a watch fares otherwise than before
	pods     *store[pod]
	declared map[string]*store[workload] // by kind
	read     map[string]record           // what Package read last, by kind and name
}

// New prepares a source. It reads the kubeconfig and makes no call.
func New(o Options) (*Source, error) {
	if err := checkWorkloads(o.Workloads); err != nil {
		return nil, err
	}
	rules := clientcmd.NewDefaultClientConfigLoadingRules()
	rules.ExplicitPath = o.Kubeconfig
	overrides := &clientcmd.ConfigOverrides{CurrentContext: o.Context}
	overrides.Context.Namespace = o.Namespace
	loaded := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, overrides)
	config, err := loaded.ClientConfig()
	if err != nil {
		return nil, unusable(o, err)
	}
	namespace, _, err := loaded.Namespace()
	if err != nil {
		return nil, unusable(o, err)
	}
	s := &Source{
		cluster: o.Cluster, host: config.Host, namespace: namespace,
		releases: slices.Clone(o.Releases), workloads: maps.Clone(o.Workloads),
		log: o.Log, now: o.Now,
		timeout: orDefault(o.Timeout, defaultTimeout),
		silence: orDefault(o.Silence, defaultSilence),
		dirty:   make(chan struct{}, 1), changed: make(chan struct{}, 1), turn: make(chan struct{}),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.now == nil {
		s.now = time.Now
	}
	if err := s.connect(config); err != nil {
		return nil, unusable(o, err)
	}
	s.watchAll()
	return s, nil
}

// connect makes the clients, which share one transport.
func (s *Source) connect(config *rest.Config) error {
	config.UserAgent = "lockstep"
	config.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	// What is asked is little and bounded by the caller; the client's own limit
	// would only delay the first answer.
	config.QPS = -1
	// A time limit here would end watches, too; each request has its own.
	config.Timeout = 0
	config.WarningHandlerWithContext = rest.NoWarnings{}
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { return answers{next} })
	if config.ExecProvider != nil {
		config.ExecProvider.StdinUnavailable = true // nobody sits at a server
	}
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return err
	}
	// Around all the others: the library runs the kubeconfig's command outside of
	// what config.Wrap adds.
	s.transport = newBounded(client.Transport, config.ExecProvider)
	client.Transport = s.transport
	var problems [4]error
	s.core, problems[0] = core.NewForConfigAndClient(config, client)
	s.apps, problems[1] = apps.NewForConfigAndClient(config, client)
	s.access, problems[2] = authorization.NewForConfigAndClient(config, client)
	s.metadata, problems[3] = metadata.NewForConfigAndClient(config, client)
	return errors.Join(problems[:]...)
}

func unusable(o Options, err error) error {
	where := "the kubeconfig of the environment"
	if o.Kubeconfig != "" {
		where = "kubeconfig " + o.Kubeconfig
	}
	if o.Context != "" {
		where += fmt.Sprintf(", context %q", o.Context)
	}
	return errs.New(errs.Invalid, "LS-KUB-001", "preparing the connection to the Kubernetes cluster of %s: %s: %w; compare with `kubectl config get-contexts`", o.Cluster, where, err)
}

// Run keeps the caches until ctx ends, then returns nil: over restarts of the API
// server, expired credentials and watches that lag too far behind. What goes wrong
// is told by Inventory. A command of the kubeconfig that does not end is waited for
// as long as a request may take.
func (s *Source) Run(ctx context.Context) error {
	// The library logs every failed attempt; a source's caller hears of them in
	// the errors of its own calls.
	ctx = logr.NewContext(ctx, logr.Discard())
	var reflectors sync.WaitGroup
	for _, k := range s.kinds {
		reflectors.Go(func() { k.follow(ctx) })
	}
	for s.gather(ctx) {
		select {
		case s.changed <- struct{}{}:
		default: // the last signal has not been taken yet; it stands for this one, too
		}
	}
	reflectors.Wait()
	s.pumps.Wait()
	s.transport.drain(s.timeout)
	utilnet.CloseIdleConnectionsFor(s.transport)
	return nil
}

// gather waits for a change and a little longer, and reports false at the end.
func (s *Source) gather(ctx context.Context) bool {
	select {
	case <-ctx.Done():
		return false
	case <-s.dirty:
	}
	if rtime.Wait(ctx, settle) != nil {
		return false
	}
	select {
	case <-s.dirty: // what came meanwhile is told with it
	default:
	}
	return true
}

// Namespace is the one that is read.
func (s *Source) Namespace() string { return s.namespace }

// Changed gives a signal after something that an inventory shows has changed, and
// when there is a first one. Several changes may be one signal.
func (s *Source) Changed() <-chan struct{} { return s.changed }

// Inventory lists the instances of the namespace by service and id, stopped ones
// included. It is answered from the caches, after the API server has shown that it
// is there and every watch is open: what was true before an outage is not told as
// true now. A namespace without any instance gives none and no error.
func (s *Source) Inventory(ctx context.Context) (fleet.Inventory, error) {
	doing := fmt.Sprintf("reading namespace %q", s.namespace)
	bounded, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	if _, err := s.core.Namespaces().Get(bounded, s.namespace, metav1.GetOptions{}); err != nil {
		if ctx.Err() != nil {
			return fleet.Inventory{}, fmt.Errorf("%s at %s: %w", doing, s.host, ctx.Err())
		}
		return fleet.Inventory{}, s.explain(doing, ask{"get", "", "namespaces"}, err)
	}
	if err := s.current(bounded); err != nil {
		if ctx.Err() != nil {
			return fleet.Inventory{}, fmt.Errorf("%s at %s: %w", doing, s.host, ctx.Err())
		}
		return fleet.Inventory{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return fleet.Inventory{Cluster: s.cluster, ObservedAt: s.now(), Instances: s.instances()}, nil
}

// answers refuses pages meant for people: a proxy or a login page that stands
// where the API server should, whose refusal is not the API server's.
type answers struct{ next http.RoundTripper }

func (a answers) RoundTrip(req *http.Request) (*http.Response, error) {
	defer sent(req)()
	resp, err := a.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); kind == "text/html" {
		_ = resp.Body.Close()
		return nil, &notKubernetes{url: req.URL.Redacted(), status: resp.Status}
	}
	return resp, nil
}

// WrappedRoundTripper lets the library find what is below.
func (a answers) WrappedRoundTripper() http.RoundTripper { return a.next }

type notKubernetes struct{ url, status string }

func (n *notKubernetes) Error() string {
	return fmt.Sprintf("%s answers %s with a web page", n.url, n.status)
}

// checkWorkloads says what is wrong with the names of Options.Workloads.
func checkWorkloads(named map[string]fleet.Component) error {
	for _, key := range slices.Sorted(maps.Keys(named)) {
		parts := strings.Split(key, "/")
		known := slices.Contains([]string{kindDeployment, kindStatefulSet, kindDaemonSet}, parts[0])
		if !known || len(parts) < 2 || len(parts) > 3 || slices.Contains(parts, "") || named[key] == "" {
			return errs.New(errs.Invalid, "LS-KUB-010", "workload %q with component %q cannot be understood; write it like deployment/NAME or deployment/NAME/CONTAINER, with %s, %s or %s, and give it a component", key, named[key], kindDeployment, kindStatefulSet, kindDaemonSet)
		}
	}
	return nil
}

func orDefault[T comparable](value, otherwise T) T {
	var zero T
	if value == zero {
		return otherwise
	}
	return value
}
