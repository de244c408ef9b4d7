// Package health owns what components say of themselves: their health and status
// endpoints, and the metrics of the gateway, in the forms of the vendor's 4.x and
// 5.x.
//
// A health endpoint does not prove that sessions work: it answers well on bastions
// that nobody can log in to. Sessions are judged by people's sessions and by
// probes. When to look, and what an answer means for a gate, is decided elsewhere.
package health

import (
	"bytes"
	"context"
	"fmt"
	"mime"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lockstep-fleet/lockstep/adapters/probe/internal/reach"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

const (
	defaultTimeout = 10 * time.Second
	maxStatus      = 64 << 10 // of an endpoint's answer, in bytes
)

// Options describe what to look at in one cluster.
type Options struct {
	Cluster fleet.ClusterID
	// Name begins the name of each check, as in <name>/gateway/health, <name>/sra-web
	// and <name>/metrics.
	Name      string
	Endpoints []Endpoint
	// Metrics is where the gateway tells its metrics: a host, on which the forms of
	// both generations are tried, or the URL. Empty reads none.
	Metrics string
	// Timeout bounds one Check with all its parts; 0 means 10 s.
	Timeout time.Duration
	// TLS is for addresses that begin with https.
	TLS TLS
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Dial opens connections and must return when its context ends; nil means the
	// machine's own network.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// TLS says whom to trust and under which name.
type TLS = reach.TLS

// Endpoint is one component's place.
type Endpoint struct {
	Component fleet.Component
	// Address is a host or host:port, which gets what is usual for the component;
	// http://host:port or https://host:port, which gets the usual paths; a URL with
	// a path, which is asked alone; or tcp://host:port, which is connected to.
	Address string
}

// usual is where the vendor's components answer. None without a path speaks HTTP.
type usual struct {
	port  string
	paths []string
}

var usually = map[fleet.Component]usual{
	fleet.Gateway: {"8080", []string{"/health", "/status"}},
	fleet.SRASSH:  {"9900", []string{"/status"}},
	fleet.SRAWeb:  {"8888", nil},
	fleet.Worker:  {"9090", []string{"/healthy"}},
}

// look is one thing to look at.
type look struct {
	name      string
	component fleet.Component
	url       string // empty for a connection only
	address   string // host:port for a connection only
}

// Health looks at the endpoints of one cluster. It is safe for concurrent use.
type Health struct {
	options Options
	looks   []look
	forms   []form
	// answers is the form of the metrics that worked last, as an index from 1; 0 for
	// none.
	answers atomic.Int64
}

// New checks the options and connects to nothing.
func New(o Options) (*Health, error) {
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	h := &Health{options: o}
	if err := h.check(); err != nil {
		return nil, fmt.Errorf("health checks %s of cluster %s: %w", o.Name, o.Cluster, err)
	}
	return h, nil
}

func (h *Health) check() error {
	o := &h.options
	switch {
	case o.Name == "" || o.Cluster == "":
		return errs.New(errs.Invalid, "LS-PRB-007", "health checks need a name and a cluster")
	case o.Timeout < 0:
		return errs.New(errs.Invalid, "LS-PRB-007", "the timeout is %s; it must be positive", o.Timeout)
	case len(o.Endpoints) == 0 && o.Metrics == "":
		return errs.New(errs.Invalid, "LS-PRB-008", "neither an endpoint nor the place of the metrics is given, so there is nothing to look at")
	}
	names := make(map[string]bool)
	for _, e := range o.Endpoints {
		looks, err := o.find(e)
		if err != nil {
			return err
		}
		for _, l := range looks {
			if names[l.name] {
				return errs.New(errs.Invalid, "LS-PRB-008", "%s would be the name of two checks; give the second address of the component to health checks of another name", l.name)
			}
			names[l.name] = true
		}
		h.looks = append(h.looks, looks...)
	}
	if o.Metrics != "" {
		if h.forms = forms(o.Metrics); h.forms == nil {
			return errs.New(errs.Invalid, "LS-PRB-008", "the place of the metrics is not one; give a host such as gateway.internal, or a URL such as http://gateway.internal:8889/metrics")
		}
	}
	_, err := o.TLS.Config()
	return err
}

// find says what to look at for one endpoint. An address may hold a password, so
// no error repeats it.
func (o *Options) find(e Endpoint) ([]look, error) {
	bad := func() ([]look, error) {
		return nil, errs.New(errs.Invalid, "LS-PRB-008", "the address of %s is not one; it looks like host, host:port, http://host:port/path or tcp://host:port, without user, query and fragment", e.Component)
	}
	if e.Component == "" {
		return nil, errs.New(errs.Invalid, "LS-PRB-008", "an endpoint names no component; say which one it speaks of, such as gateway or sra-ssh")
	}
	known, isKnown := usually[e.Component]
	name := o.Name + "/" + string(e.Component)
	scheme, rest, explicit := strings.Cut(e.Address, "://")
	if !explicit {
		scheme, rest = "http", e.Address
		if known.paths == nil {
			scheme = "tcp"
		}
		if _, _, err := net.SplitHostPort(rest); err != nil {
			rest = net.JoinHostPort(strings.Trim(rest, "[]"), known.port)
		}
	}
	u, err := url.Parse(scheme + "://" + rest)
	if err != nil || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || !explicit && u.Path != "" {
		return bad()
	}
	if !isKnown && (!explicit || scheme != "tcp" && strings.Trim(u.Path, "/") == "") {
		return nil, errs.New(errs.Invalid, "LS-PRB-008", "no usual health endpoint is known of component %q; give a URL with its path, or tcp://host:port", e.Component)
	}
	switch {
	case scheme == "tcp":
		if number, err := strconv.ParseUint(u.Port(), 10, 16); err != nil || number == 0 || u.Path != "" {
			return bad()
		}
		return []look{{name: name, component: e.Component, address: u.Host}}, nil
	case scheme != "http" && scheme != "https":
		return bad()
	case strings.Trim(u.Path, "/") != "":
		return []look{{name: name + u.Path, component: e.Component, url: u.String()}}, nil
	case known.paths == nil:
		return bad() // speaks no HTTP that is known
	}
	var looks []look
	for _, path := range known.paths {
		u.Path = path
		looks = append(looks, look{name: name + path, component: e.Component, url: u.String()})
	}
	return looks, nil
}

// Check looks once at everything, side by side. The checks come in the order of
// the endpoints, the metrics last. It returns within the timeout, or when ctx
// ends; checks that ctx cut short say so and mean nothing.
func (h *Health) Check(ctx context.Context) []fleet.Check {
	ctx, cancel := context.WithTimeout(ctx, h.options.Timeout)
	defer cancel()
	count := len(h.looks)
	if h.forms != nil {
		count++
	}
	checks := make([]fleet.Check, count)
	var wg sync.WaitGroup
	for i, l := range h.looks {
		wg.Go(func() { checks[i] = h.endpoint(ctx, l) })
	}
	if h.forms != nil {
		wg.Go(func() { checks[count-1] = h.metrics(ctx) })
	}
	wg.Wait()
	return checks
}

func (h *Health) endpoint(ctx context.Context, l look) fleet.Check {
	o := &h.options
	check := fleet.Check{
		Cluster: o.Cluster, Name: l.name, Kind: fleet.CheckEndpoint, Component: l.component, Target: l.url + l.address, At: o.Now(),
	}
	trail := reach.NewTrail(o.Now)
	detail, err := h.ask(ctx, l, trail)
	trail.Tell(ctx, &check, detail, err)
	check.Took = max(o.Now().Sub(check.At), 0)
	return check
}

// ask says what was seen when all is well.
func (h *Health) ask(ctx context.Context, l look, trail *reach.Trail) (string, error) {
	if l.url == "" {
		_, err := reach.Open(ctx, h.options.Dial, l.address, trail)
		return "connected", err
	}
	answer, err := h.get(ctx, reach.Request{URL: l.url, Limit: maxStatus}, trail)
	return fmt.Sprintf("HTTP %d", answer.Status), err
}

// get makes one request and judges what every answer must be: a 2xx that is no
// page for people.
func (h *Health) get(ctx context.Context, r reach.Request, trail *reach.Trail) (reach.Answer, error) {
	config, err := h.options.TLS.Config()
	if err != nil {
		return reach.Answer{}, reach.Found(fleet.FailureSetup, "%w", err)
	}
	config.Time = h.options.Now
	r.TLS, r.Dial = config, h.options.Dial
	r.Final = func(int) bool { return true } // a redirect leads to a page for people
	answer, err := reach.Get(ctx, r, trail)
	switch {
	case err != nil:
		return answer, err
	case answer.Status < 200 || answer.Status > 299:
		said := ""
		if !isHTML(answer) && len(answer.Body) > 0 {
			said = ": " + string(answer.Body[:min(len(answer.Body), 1024)])
		}
		return answer, reach.Found(fleet.FailureHTTPStatus, "HTTP %d, expected 200 to 299%s", answer.Status, said)
	case isHTML(answer):
		return answer, reach.Found(fleet.FailureContent, "HTTP %d with a page for people, such as a login; something else answers here", answer.Status)
	}
	return answer, nil
}

// isHTML knows pages also where the header says something else.
func isHTML(a reach.Answer) bool {
	if media, _, err := mime.ParseMediaType(a.ContentType); err == nil && (media == "text/html" || media == "application/xhtml+xml") {
		return true
	}
	start := bytes.ToLower(bytes.TrimLeft(a.Body[:min(len(a.Body), 512)], "\ufeff \t\r\n"))
	return slices.ContainsFunc([]string{"<!doctype html", "<html"}, func(begin string) bool { return bytes.HasPrefix(start, []byte(begin)) })
}
