// Package probe owns synthetic connections and sessions: it opens a connection to
// a component as a person would, goes as far as it is told (TCP, TLS, one HTTPS
// request, one SSH login with one command), and tells how far it came, how long
// each part took and what class a failure is of.
//
// A probe looks from the machine that it runs on, at one address, once for each
// call of Check. When to look and how often, what an outcome means for a gate, and
// people's sessions are not its own: a fleet.Check is labelled as a probe by being
// one, and is never counted with sessions. What components say of themselves is
// read by probe/health.
package probe

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/lockstep-fleet/lockstep/adapters/probe/internal/reach"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

const (
	defaultTimeout = 10 * time.Second
	// maxPage bounds how much of a page is searched for a text.
	maxPage = 1 << 20
)

// Options describe one probe.
type Options struct {
	Cluster   fleet.ClusterID
	Name      string
	Kind      fleet.CheckKind // ssh, https, tls or tcp
	Component fleet.Component // what the probe speaks of, empty for none
	// Address is host:port, and for https a URL.
	Address string
	// Timeout bounds one Check with all its parts; 0 means 10 s.
	Timeout time.Duration
	SSH     *SSH // for ssh, and only there
	TLS     TLS  // for https and tls
	HTTP    HTTP // for https
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Dial opens connections and must return when its context ends; nil means the
	// machine's own network.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// TLS says whom to trust and under which name.
type TLS = reach.TLS

// HTTP says how to ask and what a good answer is.
type HTTP struct {
	// Statuses are the good ones; none means 200 to 399. Redirects are followed as
	// long as scheme, host and port stay the same, and not from a status that is
	// listed here. A redirect to elsewhere is an answer like any other.
	Statuses []int
	// Contains is text that must be in the first MiB of the body; empty asks for
	// none.
	Contains string
}

// Probe looks at one address. It is safe for concurrent use.
type Probe struct {
	options Options
	host    string // of Address, without the port
	target  string // Address without what may be secret
}

// New checks the options, reads the files that they name, and connects to
// nothing. Check reads the files anew.
func New(o Options) (*Probe, error) {
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	p := &Probe{options: o, target: o.Address}
	if err := p.check(); err != nil {
		return nil, fmt.Errorf("probe %s of cluster %s: %w", o.Name, o.Cluster, err)
	}
	return p, nil
}

func (p *Probe) check() error {
	o := &p.options
	if o.Name == "" || o.Cluster == "" {
		return errs.New(errs.Invalid, "LS-PRB-007", "a probe needs a name and a cluster")
	}
	if o.Timeout < 0 {
		return errs.New(errs.Invalid, "LS-PRB-007", "the timeout is %s; it must be positive", o.Timeout)
	}
	if o.Kind == fleet.CheckSSH != (o.SSH != nil) {
		return errs.New(errs.Invalid, "LS-PRB-007", "the kind is %q; the ssh settings belong to probes of kind ssh, which need them, and to no others", o.Kind)
	}
	if http := o.HTTP; o.Kind != fleet.CheckHTTPS && (http.Statuses != nil || http.Contains != "") {
		return errs.New(errs.Invalid, "LS-PRB-007", "the kind is %q; the http settings belong to probes of kind https", o.Kind)
	}
	if (o.Kind == fleet.CheckSSH || o.Kind == fleet.CheckTCP) && o.TLS != (TLS{}) {
		return errs.New(errs.Invalid, "LS-PRB-007", "the kind is %q; the tls settings belong to probes of kind https and tls", o.Kind)
	}
	switch o.Kind {
	case fleet.CheckHTTPS:
		if err := p.checkURL(); err != nil {
			return err
		}
	case fleet.CheckSSH, fleet.CheckTLS, fleet.CheckTCP:
		host, port, err := net.SplitHostPort(o.Address)
		if number, bad := strconv.ParseUint(port, 10, 16); err != nil || host == "" || bad != nil || number == 0 {
			return errs.New(errs.Invalid, "LS-PRB-001", "the address %q is not one; for kind %s it looks like bastion.example.org:2222", o.Address, o.Kind)
		}
		p.host = host
	default:
		return errs.New(errs.Invalid, "LS-PRB-007", "the kind %q is unknown; it is one of ssh, https, tls and tcp", o.Kind)
	}
	if o.SSH != nil {
		_, err := o.SSH.load(o.Address)
		return err
	}
	_, err := o.TLS.Config()
	return err
}

// checkURL reads an https address. A URL may hold a password or a key, so no
// error repeats it.
func (p *Probe) checkURL() error {
	u, err := url.Parse(p.options.Address)
	if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.Fragment != "" {
		return errs.New(errs.Invalid, "LS-PRB-001", "the address is not a URL that begins with https:// and bears neither a user nor a fragment; it looks like https://web.example.org/login")
	}
	if u.RawQuery != "" {
		shown := *u
		shown.RawQuery = ""
		p.target = shown.String()
	}
	for _, status := range p.options.HTTP.Statuses {
		if status < 200 || status > 599 {
			return errs.New(errs.Invalid, "LS-PRB-007", "%d is no HTTP status that an answer ends with; give numbers from 200 to 599", status)
		}
	}
	return nil
}

// Check looks once. It returns within the timeout, or when ctx ends; a check that
// ctx cut short says so and means nothing. What it opened is closed.
func (p *Probe) Check(ctx context.Context) fleet.Check {
	o := &p.options
	check := fleet.Check{
		Cluster: o.Cluster, Name: o.Name, Kind: o.Kind, Component: o.Component, Target: p.target, At: o.Now(),
	}
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	trail := reach.NewTrail(o.Now)
	detail, err := p.look(ctx, trail)
	trail.Tell(ctx, &check, detail, err)
	check.Took = max(o.Now().Sub(check.At), 0)
	return check
}

// look says what was seen when all is well.
func (p *Probe) look(ctx context.Context, trail *reach.Trail) (string, error) {
	switch p.options.Kind {
	case fleet.CheckSSH:
		return p.login(ctx, trail)
	case fleet.CheckHTTPS:
		return p.get(ctx, trail)
	case fleet.CheckTLS:
		return p.handshake(ctx, trail)
	}
	_, err := reach.Open(ctx, p.options.Dial, p.options.Address, trail)
	return "connected", err
}

func (p *Probe) handshake(ctx context.Context, trail *reach.Trail) (string, error) {
	config, err := p.options.TLS.Config()
	if err != nil {
		return "", missing(err)
	}
	if config.ServerName == "" {
		config.ServerName = p.host
	}
	config.Time = p.options.Now
	conn, err := reach.Open(ctx, p.options.Dial, p.options.Address, trail)
	if err != nil {
		return "", err
	}
	state, err := reach.Handshake(ctx, conn, config, trail)
	return tls.VersionName(state.Version), err
}

func (p *Probe) get(ctx context.Context, trail *reach.Trail) (string, error) {
	config, err := p.options.TLS.Config()
	if err != nil {
		return "", missing(err)
	}
	config.Time = p.options.Now
	want := p.options.HTTP
	answer, err := reach.Get(ctx, reach.Request{
		URL: p.options.Address, TLS: config, Dial: p.options.Dial, Limit: maxPage,
		Final: func(status int) bool { return slices.Contains(want.Statuses, status) },
	}, trail)
	if err != nil {
		return "", err
	}
	if good := want.Statuses; len(good) > 0 && !slices.Contains(good, answer.Status) {
		return "", reach.Found(fleet.FailureHTTPStatus, "HTTP %d, expected one of %v", answer.Status, good)
	} else if len(good) == 0 && (answer.Status < 200 || answer.Status > 399) {
		return "", reach.Found(fleet.FailureHTTPStatus, "HTTP %d, expected 200 to 399", answer.Status)
	}
	if !bytes.Contains(answer.Body, []byte(want.Contains)) {
		where := "the answer"
		if answer.Cut {
			where = "the first MiB of the answer"
		}
		return "", reach.Found(fleet.FailureContent, "HTTP %d, and the expected text is not in %s", answer.Status, where)
	}
	return fmt.Sprintf("HTTP %d", answer.Status), nil
}
