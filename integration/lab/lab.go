// Package lab is a small fleet on one machine: a Docker Engine, a registry of
// images, one Compose project per cluster, and a webhook receiver. The
// integration suite and the demo share it.
//
// It owns starting these parts in order and taking them away again. It does
// not own the vendor's API, the product under test, or what the story is:
// its user makes traffic (package traffic), says whom to report it to, and
// publishes releases.
package lab

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/lockstep-fleet/lockstep/adapters/compose"
	"github.com/lockstep-fleet/lockstep/integration/lab/engine"
	"github.com/lockstep-fleet/lockstep/integration/lab/images"
	"github.com/lockstep-fleet/lockstep/integration/lab/project"
	"github.com/lockstep-fleet/lockstep/integration/lab/sink"
	"github.com/lockstep-fleet/lockstep/integration/lab/traffic"
)

// closeLimit bounds the taking away of everything.
const closeLimit = time.Minute

// Options says what fleet to start.
type Options struct {
	// Clusters names the clusters; empty means berlin, tokyo and austin.
	Clusters []string
	// Name begins the Compose projects' names ("lockstep-berlin"), so that
	// labs on one engine keep apart; empty means "lockstep". Projects of
	// that name which an earlier run left are removed.
	Name string
	// Dir is where projects are rendered; required.
	Dir string
	// Initial is what every cluster runs at first; the zero value means
	// gateway 4.52.0 with SRA 3.0.3, both good.
	Initial Release
	Log     *slog.Logger
}

// Release is a pair of versions and how well each side works.
type Release struct {
	Gateway            string // version
	SRA                string // version
	GatewayFailPercent int    // share of sessions the gateway refuses, 0 to 100
	SRAFailPercent     int    // share of sessions the bastions break, 0 to 100
}

// Images are a release's images in the lab's registry.
type Images struct {
	Gateway images.Ref
	SRA     images.Ref
}

// Cluster is one running Compose project.
type Cluster struct {
	Name    string // as in Options.Clusters
	Project project.Project
	Traffic traffic.Cluster // where its bastions listen
	Gateway string          // where its gateway listens, as host:port
}

// Lab is the running fleet.
type Lab struct {
	Engine   *engine.Engine
	Registry *images.Registry
	Compose  *compose.Engine // the product's adapter, on the lab's engine
	Sink     *sink.Sink
	Clusters []Cluster
	Initial  Images

	close    sync.Once
	closeErr error
}

// Start starts every part and returns when all clusters are healthy. On an
// error, what was started is taken away again.
func Start(ctx context.Context, o Options) (_ *Lab, err error) {
	if o.Dir == "" {
		return nil, errors.New("start the lab: it needs a folder to render projects in")
	}
	if len(o.Clusters) == 0 {
		o.Clusters = []string{"berlin", "tokyo", "austin"}
	}
	if o.Name == "" {
		o.Name = "lockstep"
	}
	if o.Initial == (Release{}) {
		o.Initial = Release{Gateway: "4.52.0", SRA: "3.0.3"}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	l := &Lab{}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("start the lab: %w", err), l.Close())
		}
	}()
	if l.Engine, err = engine.Start(ctx, engine.Options{Log: o.Log}); err != nil {
		return nil, err
	}
	if l.Registry, err = images.Start(ctx, images.Options{Log: o.Log}); err != nil {
		return nil, err
	}
	if l.Initial, err = l.Publish(ctx, o.Initial); err != nil {
		return nil, err
	}
	if l.Compose, err = compose.New(compose.Options{Host: l.Engine.Host(), Logger: o.Log}); err != nil {
		return nil, err
	}
	if l.Sink, err = sink.Start(); err != nil {
		return nil, err
	}
	begun := time.Now()
	if err := l.render(ctx, o); err != nil {
		return nil, err
	}
	if err := l.bringUp(ctx); err != nil {
		return nil, err
	}
	o.Log.Info("lab started", "clusters", len(l.Clusters), "engine", l.Engine.Host(), "bring_up_took", time.Since(begun).Round(time.Millisecond))
	return l, nil
}

func (l *Lab) render(ctx context.Context, o Options) error {
	const each = 4
	ports, err := project.FreePorts(each*len(o.Clusters), os.Getpid()*each*8)
	if err != nil {
		return err
	}
	for i, name := range o.Clusters {
		spec := project.Spec{
			Name:    o.Name + "-" + name,
			Gateway: l.Initial.Gateway.Pinned(),
			SRA:     l.Initial.SRA.Pinned(),
			Ports:   project.Ports{Gateway: ports[i*each], SSH: ports[i*each+1], SSHStatus: ports[i*each+2], Web: ports[i*each+3]},
		}
		if err := l.Engine.RemoveProject(ctx, spec.Name); err != nil {
			return err
		}
		p, err := project.Render(o.Dir, spec)
		if err != nil {
			return err
		}
		l.Clusters = append(l.Clusters, Cluster{
			Name:    name,
			Project: p,
			Traffic: traffic.Cluster{Name: name, SSH: loopback(p.Ports.SSH), Web: loopback(p.Ports.Web)},
			Gateway: loopback(p.Ports.Gateway),
		})
	}
	return nil
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

func (l *Lab) bringUp(ctx context.Context) error {
	var (
		wg   sync.WaitGroup
		errs = make([]error, len(l.Clusters))
	)
	for i, c := range l.Clusters {
		wg.Go(func() { errs[i] = project.BringUp(ctx, l.Compose, c.Project) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Publish makes a release's images and puts them into the registry. Publishing
// a version again moves its tag.
func (l *Lab) Publish(ctx context.Context, r Release) (Images, error) {
	gateway, err := l.Registry.Gateway(ctx, r.Gateway, r.GatewayFailPercent)
	if err != nil {
		return Images{}, err
	}
	sra, err := l.Registry.SRA(ctx, r.SRA, r.SRAFailPercent)
	if err != nil {
		return Images{}, err
	}
	return Images{Gateway: gateway, SRA: sra}, nil
}

// Traffic returns a generator over all clusters; o.Clusters is filled in.
func (l *Lab) Traffic(o traffic.Options) (*traffic.Generator, error) {
	o.Clusters = nil
	for _, c := range l.Clusters {
		o.Clusters = append(o.Clusters, c.Traffic)
	}
	return traffic.New(o)
}

// Close removes the projects, stops a private engine, the registry and the
// webhook receiver. It does not depend on the context that Start was given,
// which has often ended by now. The folder with the projects stays. A second
// Close does nothing and returns what the first did.
func (l *Lab) Close() error {
	l.close.Do(func() { l.closeErr = l.takeAway() })
	return l.closeErr
}

func (l *Lab) takeAway() error {
	ctx, cancel := context.WithTimeout(context.Background(), closeLimit)
	defer cancel()
	var errs []error
	if l.Engine != nil && !l.Engine.Private() {
		for _, c := range l.Clusters {
			errs = append(errs, l.Engine.RemoveProject(ctx, c.Project.Name))
		}
	}
	if l.Compose != nil {
		errs = append(errs, l.Compose.Close())
	}
	if l.Engine != nil {
		errs = append(errs, l.Engine.Close(ctx))
	}
	if l.Registry != nil {
		errs = append(errs, l.Registry.Close())
	}
	if l.Sink != nil {
		errs = append(errs, l.Sink.Close())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("take the lab away: %w", err)
	}
	return nil
}
