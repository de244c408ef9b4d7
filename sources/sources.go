// Package sources turns the configuration into what a collector looks at: which
// adapter stands behind each source, and how often it is asked. A server and a
// collector that runs by itself build theirs from the same file.
//
// It owns no rule about what is seen, but how much looking may ask of others: how
// many probes look at once, and when a refused login is tried again. It sends
// nothing.
package sources

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/lockstep-fleet/lockstep/adapters/akeyless"
	"github.com/lockstep-fleet/lockstep/adapters/compose"
	"github.com/lockstep-fleet/lockstep/adapters/forward"
	"github.com/lockstep-fleet/lockstep/adapters/helm"
	"github.com/lockstep-fleet/lockstep/adapters/kube"
	"github.com/lockstep-fleet/lockstep/adapters/probe/health"
	"github.com/lockstep-fleet/lockstep/adapters/s3"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/fleetfile"
	"github.com/lockstep-fleet/lockstep/services/collector"
	"github.com/lockstep-fleet/lockstep/services/collector/recordings"
)

// packageEvery is how often what is declared is read: files and Helm's records,
// which change by people's hands.
const packageEvery = 30 * time.Second

// spare is how much longer than the look itself its schedule waits.
const spare = 5 * time.Second

// Set is all that a configuration says to look at.
type Set struct {
	// Projects are the Compose projects and Releases the Helm releases of clusters that a
	// rollout changes, too.
	Projects map[fleet.ClusterID]*compose.Deployment
	Releases map[fleet.ClusterID]*helm.Deployment

	sources []source
	vendor  *vendor
	now     func() time.Time
	log     *slog.Logger
	closers []func() error
}

// source is a schedule with what a dry run has to know of it.
type source struct {
	collector.Schedule
	// writes says that a look leaves something behind elsewhere.
	writes bool
	// once is what a dry run asks in place of the schedule's source; nil is that.
	once collector.Source
	// permissions says what is missing, nil where nothing can be asked.
	permissions func(ctx context.Context) ([]Missing, error)
}

// Open prepares everything the configuration names. Nothing is connected to yet,
// but files that are named are read.
func Open(file fleetfile.File, log *slog.Logger, now func() time.Time) (_ *Set, err error) {
	s := &Set{Projects: make(map[fleet.ClusterID]*compose.Deployment), Releases: make(map[fleet.ClusterID]*helm.Deployment), now: now, log: log}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if err := s.composeProjects(file); err != nil {
		return nil, err
	}
	if err := s.openVendor(file); err != nil {
		return nil, err
	}
	var takers []taker
	for _, c := range file.Clusters {
		for _, open := range []func(fleetfile.File, fleetfile.Cluster) error{s.kubernetes, s.probes, s.health, s.forwarding} {
			if err := open(file, c); err != nil {
				return nil, fmt.Errorf("cluster %s: %w", c.ID, err)
			}
		}
		taker, err := s.recording(file, c)
		if err != nil {
			return nil, fmt.Errorf("cluster %s: %w", c.ID, err)
		}
		if taker.checker != nil {
			takers = append(takers, taker)
		}
	}
	return s, s.sessions(file, takers)
}

// Close lets go of everything.
func (s *Set) Close() error {
	var errs []error
	for _, closeOne := range slices.Backward(s.closers) {
		errs = append(errs, closeOne())
	}
	return errors.Join(errs...)
}

// Schedules is what a collector works off.
func (s *Set) Schedules() []collector.Schedule {
	out := make([]collector.Schedule, len(s.sources))
	for i, one := range s.sources {
		out[i] = one.Schedule
	}
	return out
}

func (s *Set) add(one source) { s.sources = append(s.sources, one) }

func (s *Set) composeProjects(file fleetfile.File) error {
	log := s.log.With("part", "compose")
	engines := make(map[string]*compose.Engine)
	for _, c := range file.Clusters {
		if c.Compose == nil {
			continue
		}
		engine := engines[c.Compose.Engine]
		if engine == nil {
			var err error
			if engine, err = compose.New(compose.Options{Host: c.Compose.Engine, Logger: log}); err != nil {
				return fmt.Errorf("cluster %s: %w", c.ID, err)
			}
			s.closers = append(s.closers, engine.Close)
			engines[c.Compose.Engine] = engine
		}
		d := compose.NewDeployment(engine, c.ID, Target(c), s.now)
		s.Projects[c.ID] = d
		inventory := collector.Inventory(c.ID, file.Inventory.PollInterval, d.Inventory)
		inventory.Wake, inventory.Run = d.Changed(), d.Watch
		s.add(source{Schedule: inventory})
		if err := s.declared(file, c, d.Package); err != nil {
			return fmt.Errorf("cluster %s: %w", c.ID, err)
		}
	}
	return nil
}

// Target is a cluster's Compose project as its adapter takes it.
func Target(c fleetfile.Cluster) compose.Target {
	return compose.Target{
		Project: c.Compose.Project, Files: c.Compose.Files, EnvFiles: c.Compose.EnvFiles, Profiles: c.Compose.Profiles,
		Dir: string(c.Compose.Dir), Host: c.Compose.Engine, Components: c.Compose.Services,
	}
}

func (s *Set) kubernetes(file fleetfile.File, c fleetfile.Cluster) error {
	if c.Kubernetes == nil {
		return nil
	}
	k := *c.Kubernetes
	namespace, err := kube.New(kube.Options{
		Cluster: c.ID, Kubeconfig: string(k.Kubeconfig), Context: k.Context, Namespace: k.Namespace, Releases: k.Releases, Workloads: k.Workloads,
		Log: s.log.With("part", "kubernetes"), Now: s.now,
	})
	if err != nil {
		return err
	}
	if len(k.Helm) > 0 {
		opts := helm.DeploymentOptions{
			Cluster: c.ID, Kubeconfig: string(k.Kubeconfig), Context: k.Context, Namespace: namespace.Namespace(), Holder: holder(file), Log: s.log.With("part", "helm", "cluster", c.ID),
		}
		for _, h := range k.Helm {
			opts.Ready = max(opts.Ready, h.Ready)
			opts.Releases = append(opts.Releases, helm.DrivenRelease{Name: h.Release, Values: string(h.Values), Repository: h.Repository})
		}
		s.Releases[c.ID] = helm.NewDeployment(opts, namespace)
	}
	inventory := collector.Inventory(c.ID, file.Inventory.PollInterval, namespace.Inventory)
	inventory.Wake, inventory.Run = namespace.Changed(), namespace.Run
	s.add(source{Schedule: inventory, permissions: func(ctx context.Context) ([]Missing, error) { return forbidden(ctx, namespace) }})
	return s.declared(file, c, namespace.Package)
}

// holder names this server as the one that changes clusters: by its machine and its
// data folder, which one process has at a time.
func holder(file fleetfile.File) string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	sum := sha256.Sum256([]byte(file.Server.DataDir))
	return fmt.Sprintf("lockstep on %s, %x", host, sum[:4])
}

// vendor is the account and the clusters it is asked about.
type vendor struct {
	client   *akeyless.Client
	clusters map[string]fleet.ClusterID // by the vendor's name
	names    []string                   // in the configuration's order
	ids      []fleet.ClusterID
}

func (s *Set) openVendor(file fleetfile.File) error {
	if file.Vendor == nil {
		return nil
	}
	v := &vendor{clusters: make(map[string]fleet.ClusterID)}
	for _, c := range file.Clusters {
		if c.VendorCluster != "" {
			v.clusters[c.VendorCluster] = c.ID
			v.names, v.ids = append(v.names, c.VendorCluster), append(v.ids, c.ID)
		}
	}
	client, err := s.client(*file.Vendor, file.Vendor.URL)
	if err != nil {
		return err
	}
	v.client, s.vendor = client, v
	return nil
}

// client speaks to the vendor at an address: its API or one gateway's.
func (s *Set) client(v fleetfile.Vendor, address string) (*akeyless.Client, error) {
	client, err := akeyless.New(VendorOptions(v, address, s.log.With("part", "vendor"), s.now))
	if err != nil {
		return nil, err
	}
	s.closers = append(s.closers, func() error { client.Close(); return nil })
	return client, nil
}

// VendorOptions is how the vendor is asked at an address.
func VendorOptions(v fleetfile.Vendor, address string, log *slog.Logger, now func() time.Time) akeyless.Options {
	if len(v.Command) > 0 {
		return akeyless.Options{Command: v.Command, Timeout: v.Timeout, Log: log, Now: now}
	}
	return akeyless.Options{
		BaseURL: address, CAFile: string(v.CAFile), Timeout: v.Timeout, Log: log, Now: now,
		Auth: akeyless.Auth{
			Type: akeyless.AccessType(v.AccessType), AccessID: v.AccessID, KeyFile: string(v.AccessKeyFile), JWTFile: string(v.JWTFile),
			UIDTokenFile: string(v.UIDTokenFile), K8sAuthConfig: v.K8sAuthConfig, K8sTokenFile: string(v.K8sTokenFile), GatewayURL: v.GatewayURL,
		},
	}
}

// sessions reads sessions and registrations of all clusters that the vendor knows.
func (s *Set) sessions(file fleetfile.File, takers []taker) error {
	if s.vendor == nil || len(s.vendor.clusters) == 0 {
		return nil
	}
	v := s.vendor
	o := akeyless.ReaderOptions{
		Client: v.client, Clusters: v.clusters, SourceLag: file.Vendor.SourceLag, Lookback: file.Rollout.Lookback, MaxTime: longestRead,
		OpenFile: filepath.Join(file.Spool(), "open-sessions"), Now: s.now,
	}
	reader, err := akeyless.NewSessionReader(o)
	if err != nil {
		return err
	}
	s.closers = append(s.closers, reader.Save)
	// A dry run shows what is seen now and is over before a large account's lookback
	// is read; what it met is not for the next run to know.
	o.Lookback, o.OpenFile = min(o.Lookback, lookedBack), ""
	brief, err := akeyless.NewSessionReader(o)
	if err != nil {
		return err
	}
	schedule := collector.Sessions(v.ids, file.Vendor.PollInterval, reading(reader), func(sessions []fleet.Session) {
		for _, session := range sessions {
			for _, t := range takers {
				if t.cluster == session.Cluster {
					t.checker.Take(session)
				}
			}
		}
	})
	// The reader ends by itself; a page that is under way then is read to its end.
	schedule.Timeout = longestRead + time.Minute
	s.add(source{
		Schedule: schedule, once: collector.Sessions(v.ids, file.Vendor.PollInterval, reading(brief), nil).Source, permissions: v.missing,
	})
	s.add(source{Schedule: collector.Registrations(v.ids, file.Vendor.PollInterval, func(ctx context.Context) ([]fleet.Registration, error) {
		return v.client.Registrations(ctx, v.clusters)
	})})
	return nil
}

const (
	// longestRead is how long one poll goes on reading sessions.
	longestRead = 5 * time.Minute
	// lookedBack is how far back a dry run reads sessions.
	lookedBack = 5 * time.Minute
)

func reading(reader *akeyless.SessionReader) func(context.Context) ([]fleet.Session, []fleet.Mark, error) {
	return func(ctx context.Context) ([]fleet.Session, []fleet.Mark, error) {
		page, err := reader.Poll(ctx)
		return page.Sessions, page.Marks, err
	}
}

// checks adds a source whose look always has an outcome, unless it was cut short.
func (s *Set) checks(cluster fleet.ClusterID, kind fleet.Kind, name string, every, timeout time.Duration, look func(context.Context) []fleet.Check) *source {
	schedule := collector.Checks(kind, name, []fleet.ClusterID{cluster}, every, func(ctx context.Context) ([]fleet.Check, error) {
		checks := look(ctx)
		if ctx.Err() != nil {
			return nil, ctx.Err() // what was cut short says nothing
		}
		return checks, nil
	})
	// The look ends by itself at its own limit.
	schedule.Timeout = timeout + spare
	s.add(source{Schedule: schedule})
	return &s.sources[len(s.sources)-1]
}

func (s *Set) health(_ fleetfile.File, c fleetfile.Cluster) error {
	if c.Health == nil {
		return nil
	}
	h := *c.Health
	o := health.Options{Cluster: c.ID, Name: "health", Metrics: h.Metrics, Timeout: h.Timeout, TLS: health.TLS{CAFile: string(h.CAFile)}, Now: s.now}
	for _, e := range []health.Endpoint{
		{Component: fleet.Gateway, Address: h.Gateway}, {Component: fleet.SRASSH, Address: h.SSH},
		{Component: fleet.SRAWeb, Address: h.Web}, {Component: fleet.Worker, Address: h.Worker},
	} {
		if e.Address != "" {
			o.Endpoints = append(o.Endpoints, e)
		}
	}
	looker, err := health.New(o)
	if err != nil {
		return fmt.Errorf("health: %w", err)
	}
	s.checks(c.ID, fleet.KindHealth, "the health of "+string(c.ID), h.Every, h.Timeout, looker.Check)
	return nil
}

func (s *Set) forwarding(_ fleetfile.File, c fleetfile.Cluster) error {
	if c.Forwarding == nil {
		return nil
	}
	f := *c.Forwarding
	endpoint, err := forward.New(forward.Options{
		Cluster: c.ID, Name: forwardingName, Kind: forward.Kind(f.Type), Address: f.Address, TLS: f.TLS, CAFile: string(f.CAFile), Send: f.Send,
		TokenFile: string(f.TokenFile), Header: f.Header, Timeout: f.Timeout, Now: s.now,
	})
	if err != nil {
		return fmt.Errorf("forwarding: %w", err)
	}
	s.checks(c.ID, fleet.KindPipeline, "the log forwarding of "+string(c.ID), f.Every, f.Timeout, func(ctx context.Context) []fleet.Check {
		return []fleet.Check{endpoint.Check(ctx)}
	}).writes = f.Send
	return nil
}

// taker looks for the recordings of a cluster's sessions.
type taker struct {
	cluster fleet.ClusterID
	checker *recordings.Checker
}

func (s *Set) recording(file fleetfile.File, c fleetfile.Cluster) (taker, error) {
	if c.Recording == nil {
		return taker{}, nil
	}
	r := *c.Recording
	storage, err := s3.New(s3.Options{
		Endpoint: r.Endpoint, AllowHTTP: r.AllowHTTP, Region: r.Region, Bucket: r.Bucket, Prefix: r.Prefix,
		AccessKeyFile: string(r.AccessKeyFile), SecretKeyFile: string(r.SecretKeyFile), PathStyle: r.PathStyle, CAFile: string(r.CAFile), Now: s.now,
	})
	if err != nil {
		return taker{}, fmt.Errorf("recording: %w", err)
	}
	s.closers = append(s.closers, func() error { storage.Close(); return nil })
	checker, err := recordings.New(recordings.Config{
		Cluster: c.ID, Name: recordingName, Protocols: r.Protocols, Pattern: r.Pattern, Within: r.Within, MinDuration: r.MinDuration, Lookback: file.Rollout.Lookback,
	}, objects{storage}, s.now)
	if err != nil {
		return taker{}, fmt.Errorf("recording: %w", err)
	}
	cluster := []fleet.ClusterID{c.ID}
	schedule := collector.Checks(fleet.KindPipeline, "the recordings of "+string(c.ID), cluster, r.Every, checker.Poll)
	schedule.Timeout = 2 * time.Minute
	s.add(source{Schedule: schedule, permissions: func(ctx context.Context) ([]Missing, error) {
		// Its own folder: a bucket may hold more recordings than one list.
		_, err := storage.Find(ctx, ".lockstep-canary/")
		return nil, err
	}})
	if !r.NoCanary {
		s.checks(c.ID, fleet.KindPipeline, "the recording storage of "+string(c.ID), r.CanaryEvery, time.Minute, func(ctx context.Context) []fleet.Check {
			return []fleet.Check{storage.Canary(ctx, c.ID, storageName)}
		}).writes = true
	}
	return taker{cluster: c.ID, checker: checker}, nil
}

// objects is a storage in the words of recordings.
type objects struct{ storage *s3.Storage }

func (o objects) Find(ctx context.Context, prefix string) ([]recordings.Object, error) {
	found, err := o.storage.Find(ctx, prefix)
	out := make([]recordings.Object, len(found))
	for i, one := range found {
		out[i] = recordings.Object(one)
	}
	return out, err
}
