package helm

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coordination "k8s.io/client-go/kubernetes/typed/coordination/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"github.com/lockstep-fleet/lockstep/kit/errs"
)

const (
	// leasePrefix and the name of the first Helm release make the name of the Lease that
	// says whose hand is on a cluster.
	leasePrefix = "lockstep-"
	// DefaultLease is how long a hand that is not heard of any more keeps others out.
	DefaultLease = 30 * time.Second
)

// hand is the right to change a cluster's Helm releases, as long as it is renewed at the API server.
// Whoever lost it begins no request that changes anything: the transport asks.
type hand struct {
	lease time.Duration
	stop  context.CancelFunc
	ended chan struct{}

	lost context.CancelCauseFunc
	mu   sync.Mutex
	// renewed is when the last renewal that went through was begun; zero when it was not
	// had yet, or not any more.
	renewed time.Time
	had     bool
	other   string // who has it, for people
	denied  error  // why it cannot be had
}

func (d *Deployment) leaseName() string { return leasePrefix + d.opts.Releases[0].Name }

// errLost is why an operation ends whose hand was lost.
var errLost = errors.New("the lease of the namespace was lost: the API server was not reached in time, or another Lockstep took it")

// take waits for the right to change the cluster, and returns a context that ends when
// it is lost. Another's that is not renewed any more passes over after its own time.
func (d *Deployment) take(ctx context.Context) (context.Context, *hand, error) {
	c, err := d.connect()
	if err != nil {
		return nil, nil, err
	}
	config := rest.CopyConfig(c.config)
	config.Timeout = d.opts.Lease / 3
	client, err := coordination.NewForConfig(config)
	if err != nil {
		return nil, nil, errs.New(errs.Invalid, "LS-HLM-001", "preparing Helm for %s: %w", d.where(), err)
	}
	// It is held until it is given back, also while what was cut off is put right.
	// What the library has to say of it is in the errors here.
	holding, stop := context.WithCancel(logr.NewContext(context.WithoutCancel(ctx), logr.Discard()))
	op, lost := context.WithCancelCause(ctx)
	h := &hand{lease: d.opts.Lease, stop: stop, lost: lost, ended: make(chan struct{})}
	lock := &watched{Interface: &resourcelock.LeaseLock{
		LeaseMeta: metav1.ObjectMeta{Name: d.leaseName(), Namespace: d.opts.Namespace}, Client: client,
		LockConfig: resourcelock.ResourceLockConfig{Identity: d.opts.Holder},
	}, hand: h}
	taken := make(chan struct{})
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock: lock, LeaseDuration: h.lease, RenewDeadline: 2 * h.lease / 3, RetryPeriod: h.lease / 6, ReleaseOnCancel: true, Name: d.leaseName(),
		Callbacks: leaderelection.LeaderCallbacks{OnStartedLeading: func(context.Context) { close(taken) }, OnStoppedLeading: func() {}},
	})
	if err != nil {
		stop()
		lost(nil)
		return nil, nil, fmt.Errorf("preparing the lease of %s: %w", d.where(), err)
	}
	go func() {
		defer close(h.ended)
		elector.Run(holding)
		lost(errLost)
	}()
	patience := time.NewTimer(2 * h.lease)
	defer patience.Stop()
	select {
	case <-taken:
		return op, h, nil
	case <-patience.C:
	case <-op.Done():
	}
	h.release()
	if ctx.Err() != nil {
		return nil, nil, fmt.Errorf("waiting for the lease of %s: %w", d.where(), context.Cause(ctx))
	}
	return nil, nil, d.taken(h)
}

// taken says why the lease could not be had.
func (d *Deployment) taken(h *hand) error {
	h.mu.Lock()
	other, denied := h.other, h.denied
	h.mu.Unlock()
	if denied != nil {
		return errs.New(errs.Unavailable, "LS-HLM-014", "the lease %s of %s cannot be had: %w; deploy/k8s/driver grants what is needed", d.leaseName(), d.where(), denied)
	}
	if other != "" {
		return errs.New(errs.Conflict, "LS-HLM-017", "%s changes %s and goes on doing so; leave one of both to it, `kubectl get lease %s -n %s` shows the lease", other, d.where(), d.leaseName(), d.opts.Namespace)
	}
	return errs.New(errs.Unavailable, "LS-HLM-014", "the lease %s of %s could not be had within %s: the API server does not answer; check it with `kubectl get --raw /readyz`", d.leaseName(), d.where(), 2*h.lease)
}

// release gives the right back and waits until that is done.
func (h *hand) release() {
	h.stop()
	<-h.ended
	h.mu.Lock()
	h.renewed = time.Time{}
	h.mu.Unlock()
}

// rest is how long the right lasts if it is not renewed, by this machine's own clock.
func (h *hand) rest() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.lease - time.Since(h.renewed)
}

// allow refuses a request that could still be on its way when the right has ended.
func (h *hand) allow(limit time.Duration) error {
	if rest := h.rest(); rest < limit {
		return errs.New(errs.Conflict, "LS-HLM-017", "the lease of the namespace lasts %s more and a request may take %s, so another Lockstep could meet it", max(rest, 0).Round(time.Millisecond), limit)
	}
	return nil
}

// refused ends the wait for a lease that is not allowed: it would not be later, either.
func (h *hand) refused(err error) error {
	if apierrors.IsForbidden(err) || apierrors.IsUnauthorized(err) {
		h.mu.Lock()
		defer h.mu.Unlock()
		if !h.had {
			h.denied = err
			h.lost(err)
		}
	}
	return err
}

// watched notes when a lease is renewed and who else has it.
type watched struct {
	resourcelock.Interface

	hand *hand
}

func (w *watched) Get(ctx context.Context) (*resourcelock.LeaderElectionRecord, []byte, error) {
	record, raw, err := w.Interface.Get(ctx)
	if err == nil {
		w.hand.seen(record.HolderIdentity, w.Identity())
	}
	return record, raw, w.hand.refused(err)
}

// seen notes who has the lease. One that another had in between is lost for good, also
// when it is free again: what was begun under it is not what is there any more.
func (h *hand) seen(holder, self string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.other = ""
	if holder == self {
		return
	}
	h.other = holder
	if h.had {
		h.renewed = time.Time{}
		h.lost(errLost)
	}
}

func (w *watched) Create(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	return w.note(func() error { return w.Interface.Create(ctx, record) })
}

func (w *watched) Update(ctx context.Context, record resourcelock.LeaderElectionRecord) error {
	return w.note(func() error { return w.Interface.Update(ctx, record) })
}

func (w *watched) note(write func() error) error {
	h := w.hand
	h.mu.Lock()
	gone := h.had && h.renewed.IsZero()
	h.mu.Unlock()
	if gone {
		return errLost
	}
	begun := time.Now()
	err := write()
	if err == nil {
		h.mu.Lock()
		h.renewed, h.had, h.other = begun, true, ""
		h.mu.Unlock()
	}
	return h.refused(err)
}
