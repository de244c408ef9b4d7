package kube

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/go-logr/logr"
	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// kind is one kind of object that is watched, and how its watch stands.
type kind struct {
	s       *Source
	asked   ask
	example runtime.Object
	store   cache.ReflectorStore
	list    func(context.Context, metav1.ListOptions) (runtime.Object, error)
	open    func(context.Context, metav1.ListOptions) (watch.Interface, error)

	// Guarded by s.mu.
	stream int   // the number of the last watch
	live   bool  // it is open
	synced bool  // the store has all that there was when it opened
	failed error // why the last attempt failed, nil since one succeeded
	broken bool  // a watch has ended since all was listed
}

// watchAll prepares what is watched. ReplicaSets are not: a pod tells which
// Deployment it is of by the names of its ReplicaSet and its template.
func (s *Source) watchAll() {
	s.pods = watched(s, "", "pods", s.core.Pods(s.namespace), readPod)
	s.declared = map[string]*store[workload]{
		kindDeployment: watched(s, "apps", "deployments", s.apps.Deployments(s.namespace), func(o *appsv1.Deployment) workload {
			return readWorkload(&o.ObjectMeta, &o.Spec.Template)
		}),
		kindStatefulSet: watched(s, "apps", "statefulsets", s.apps.StatefulSets(s.namespace), func(o *appsv1.StatefulSet) workload {
			return readWorkload(&o.ObjectMeta, &o.Spec.Template)
		}),
		kindDaemonSet: watched(s, "apps", "daemonsets", s.apps.DaemonSets(s.namespace), func(o *appsv1.DaemonSet) workload {
			return readWorkload(&o.ObjectMeta, &o.Spec.Template)
		}),
	}
}

// object is a pointer to a Kubernetes object O.
type object[O any] interface {
	*O
	runtime.Object
	metav1.Object
}

// watched adds a kind of object to the source and returns where it is kept.
func watched[O any, P object[O], L runtime.Object, T item[T]](s *Source, group, resource string, client interface {
	List(context.Context, metav1.ListOptions) (L, error)
	Watch(context.Context, metav1.ListOptions) (watch.Interface, error)
}, read func(P) T) *store[T] {
	k := &kind{
		s: s, asked: ask{"list and watch", group, resource}, example: P(new(O)),
		list: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return client.List(ctx, o) },
		open: client.Watch,
	}
	kept := &store[T]{kind: k, items: make(map[string]T), read: func(obj any) (string, T, error) {
		o, ok := obj.(P)
		if !ok {
			var none T
			return "", none, fmt.Errorf("a watch of %s brought a %T", resource, obj)
		}
		return o.GetName(), read(o), nil
	}}
	k.store = kept
	s.kinds = append(s.kinds, k)
	return kept
}

// item is what is kept of an object. Same says whether two show the same.
type item[T any] interface{ same(T) bool }

// store keeps of each object of a kind the little that an inventory needs: of a pod
// some hundred bytes instead of some ten thousand. The source's lock guards it.
type store[T item[T]] struct {
	kind  *kind
	items map[string]T
	read  func(obj any) (string, T, error)
}

func (t *store[T]) Add(obj any) error { return t.Update(obj) }

func (t *store[T]) Update(obj any) error {
	name, now, err := t.read(obj)
	if err != nil {
		return err
	}
	s := t.kind.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if before, had := t.items[name]; !had || !before.same(now) {
		s.touch()
	}
	t.items[name] = now
	return nil
}

func (t *store[T]) Delete(obj any) error {
	name, _, err := t.read(obj)
	if err != nil {
		return err
	}
	t.kind.s.mu.Lock()
	defer t.kind.s.mu.Unlock()
	delete(t.items, name)
	t.kind.s.touch()
	return nil
}

// Replace takes a whole list.
func (t *store[T]) Replace(list []any, _ string) error {
	items := make(map[string]T, len(list))
	for _, obj := range list {
		name, now, err := t.read(obj)
		if err != nil {
			return err
		}
		items[name] = now
	}
	s := t.kind.s
	s.mu.Lock()
	defer s.mu.Unlock()
	moved := !t.kind.synced || len(items) != len(t.items)
	for name, now := range items {
		before, had := t.items[name]
		moved = moved || !had || !before.same(now)
	}
	if moved {
		s.touch()
	}
	t.items = items
	t.kind.synced, t.kind.broken = true, false
	s.wake()
	return nil
}

func (t *store[T]) Resync() error { return nil }

// touch says that something changed.
func (s *Source) touch() {
	select {
	case s.dirty <- struct{}{}:
	default:
	}
}

// stand notes how a kind's watch fares, with s.mu held.
func (s *Source) stand(k *kind, failed error) {
	switch {
	case failed != nil && k.failed == nil:
		s.log.Debug("a watch of the Kubernetes API failed", slog.String("cluster", string(s.cluster)), slog.String("resource", k.asked.resource), slog.Any("error", failed))
	case failed == nil && k.failed != nil:
		s.log.Debug("a watch of the Kubernetes API works again", slog.String("cluster", string(s.cluster)), slog.String("resource", k.asked.resource))
	}
	k.failed = failed
	s.wake()
}

// wake lets those who wait for watches look again, with s.mu held.
func (s *Source) wake() {
	close(s.turn)
	s.turn = make(chan struct{})
}

// follow keeps the store until ctx ends. The reflector lists, watches, lists again
// after 410 Gone and pauses between attempts.
func (k *kind) follow(ctx context.Context) {
	silent := logr.Discard()
	lw := &cache.ListWatch{ListWithContextFunc: k.listAll, WatchFuncWithContext: k.watch}
	cache.NewReflectorWithOptions(lw, k.example, k.store, cache.ReflectorOptions{
		Logger:  &silent,
		Name:    k.asked.resource,
		Backoff: &wait.Backoff{Duration: 200 * time.Millisecond, Factor: 2, Jitter: 0.5, Steps: 10, Cap: 10 * time.Second},
	}).RunWithContext(ctx)
}

func (k *kind) listAll(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
	ctx, cancel := context.WithTimeout(ctx, k.s.timeout)
	defer cancel()
	list, err := k.list(ctx, o)
	if err != nil {
		k.fail(err)
		return nil, err
	}
	return list, nil
}

// watch opens a watch that ends when it is silent for too long.
func (k *kind) watch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	whole := o.SendInitialEvents != nil && *o.SendInitialEvents
	if !whole && k.ended() {
		// A watch that goes on where another ended counts as open before it has brought
		// what happened in between, or the word that it cannot: so all is listed anew.
		return nil, apierrors.NewResourceExpired("a watch has ended; all is listed anew")
	}
	inner, cancel, err := k.start(ctx, o)
	if err != nil {
		// Neither 410 Gone nor a server too old to list by watching is a failure: the
		// reflector lists.
		if !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) && !(whole && apierrors.IsInvalid(err)) {
			k.fail(err)
		}
		if status := apierrors.APIStatus(nil); !errors.As(err, &status) || apierrors.IsTooManyRequests(err) {
			// On some of these the reflector would sleep, deaf to the end of ctx, and go
			// on where it was: what happened meanwhile would be missing from inventories
			// until the watch has brought it up. On an error it does not know it lists.
			err = errors.New(err.Error())
		}
		return nil, err
	}
	k.s.mu.Lock()
	// The list that precedes an ordinary watch has come; that of a whole one follows.
	k.live, k.synced = true, k.synced && !whole
	k.stream++
	stream := k.stream
	k.s.stand(k, nil)
	k.s.mu.Unlock()

	out := make(chan watch.Event)
	proxy := watch.NewProxyWatcher(out)
	k.s.pumps.Go(func() {
		defer cancel()
		defer close(out)
		defer inner.Stop()
		k.pump(inner, out, proxy.StopChan())
		k.s.mu.Lock()
		defer k.s.mu.Unlock()
		if k.stream == stream { // else the reflector has let go of it and opened the next
			k.live, k.broken = false, true
			k.s.wake()
		}
	})
	return proxy, nil
}

// ended says whether a watch has ended since all was listed.
func (k *kind) ended() bool {
	k.s.mu.Lock()
	defer k.s.mu.Unlock()
	return k.broken
}

// start opens a watch; the limit is on its beginning alone.
func (k *kind) start(ctx context.Context, o metav1.ListOptions) (watch.Interface, context.CancelFunc, error) {
	bounded, cancel := context.WithCancel(ctx)
	late := time.AfterFunc(k.s.timeout, cancel)
	inner, err := k.open(bounded, o)
	if late.Stop() && err == nil {
		return inner, cancel, nil
	}
	if err == nil {
		inner.Stop()
	}
	if bounded.Err() != nil && ctx.Err() == nil {
		err = fmt.Errorf("opening a watch took longer than %s", k.s.timeout)
	}
	cancel()
	return nil, nil, err
}

// pump hands events on until the watch ends or is silent for too long. What an
// error among them means, 410 Gone mostly, the reflector knows.
func (k *kind) pump(inner watch.Interface, out chan<- watch.Event, stop <-chan struct{}) {
	silence := time.NewTimer(k.s.silence)
	defer silence.Stop()
	for {
		select {
		case <-stop:
			return
		case <-silence.C:
			return
		case event, ok := <-inner.ResultChan():
			if !ok {
				return
			}
			silence.Reset(k.s.silence)
			select {
			case out <- event:
			case <-stop:
				return
			}
		}
	}
}

func (k *kind) fail(err error) {
	k.s.mu.Lock()
	defer k.s.mu.Unlock()
	k.s.stand(k, err)
}

// current waits until every watch is open and its store holds what there was then.
func (s *Source) current(ctx context.Context) error {
	doing := fmt.Sprintf("reading namespace %q", s.namespace)
	for {
		s.mu.Lock()
		turn := s.turn
		var behind, denied []ask
		var failed, denial error
		untried := false
		for _, k := range s.kinds {
			switch {
			case apierrors.IsForbidden(k.failed):
				denied = append(denied, k.asked)
				denial = cmp.Or(denial, k.failed)
			case !k.live || !k.synced:
				behind = append(behind, k.asked)
				failed = cmp.Or(failed, k.failed)
				untried = untried || k.failed == nil
			}
		}
		s.mu.Unlock()
		switch {
		case behind == nil && denied == nil:
			return nil
		case denied != nil && (!untried || ctx.Err() != nil):
			return s.forbidden(doing, denied, denial)
		case ctx.Err() != nil:
			return s.behind(doing, behind, failed)
		}
		select {
		case <-turn:
		case <-ctx.Done():
		}
	}
}

func (s *Source) behind(doing string, asked []ask, failed error) error {
	names := make([]string, 0, len(asked))
	for _, a := range asked {
		names = append(names, qualified(a.group, a.resource))
	}
	if failed == nil {
		failed = errors.New("no list has come yet")
	}
	return errs.New(errs.Unavailable, "LS-KUB-006", "%s: the API server at %s answers, but what is known of %s is not up to date after %s: %w; it is tried again", doing, s.host, strings.Join(names, ", "), s.timeout, failed)
}
