// Package s3 owns the calls Lockstep makes to an object storage that speaks S3:
// it lists what recordings left behind, and it writes, reads and removes a small
// object of its own to see that the storage works. It turns failures into the
// classes of fleet.
//
// It does not know which recordings should be there, keeps nothing, and reads and
// removes no object but its own canaries.
package s3

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/lockstep-fleet/lockstep/kit/errs"
)

const (
	defaultTimeout = 10 * time.Second
	// maxObjects bounds a list: it is one page of every storage.
	maxObjects = 1000
	// attempts of one request: a storage under load refuses one now and then.
	attempts = 2
)

// Options say where the storage is and how to get in.
type Options struct {
	// Endpoint is https://host[:port], without the bucket.
	Endpoint string
	// AllowHTTP permits an http endpoint on another machine; on this one it needs no
	// permission.
	AllowHTTP bool
	// Region is asked of the storage when empty, which takes a permission more.
	Region string
	Bucket string
	// Prefix is what every key begins with, a slash at its end or not; empty is the
	// whole bucket.
	Prefix string
	// AccessKeyFile and SecretKeyFile hold a key each, read again when the storage
	// refuses. Both empty: the environment, the shared credentials file, the
	// machine's or the pod's role, in this order.
	AccessKeyFile, SecretKeyFile string
	// PathStyle puts the bucket into the path; else it becomes part of the host name
	// where the storage is known to want that.
	PathStyle bool
	// CAFile holds authorities in PEM that are trusted beside the machine's.
	CAFile string
	// Timeout bounds one call with its repetition; 0 means 10 s.
	Timeout time.Duration
	Now     func() time.Time
	// NewID names a canary; nil means at random.
	NewID func() string
}

// Object is one object as the storage lists it. Key lacks Options.Prefix.
type Object struct {
	Key        string
	Size       int64
	ModifiedAt time.Time
}

// Storage is one bucket below one prefix. It is safe for concurrent use.
type Storage struct {
	opts      Options
	target    string // its address, bucket and prefix, for people
	client    *minio.Core
	source    *remembered
	keys      *credentials.Credentials
	transport *transport
}

// New checks the options, reads the files they name and makes no call.
func New(opts Options) (*Storage, error) {
	endpoint, err := checkEndpoint(opts.Endpoint, opts.AllowHTTP)
	if err != nil {
		return nil, err
	}
	switch {
	case opts.Bucket == "":
		return nil, errs.New(errs.Invalid, "LS-PIP-001", "the storage at %s needs a bucket; name one", endpoint.Host)
	case (opts.AccessKeyFile == "") != (opts.SecretKeyFile == ""):
		return nil, errs.New(errs.Invalid, "LS-PIP-001", "bucket %s: the files of the access key and of the secret key go together; name both or none", opts.Bucket)
	}
	opts.Prefix = strings.Trim(opts.Prefix, "/")
	if opts.Prefix != "" {
		opts.Prefix += "/"
	}
	if opts.Timeout == 0 {
		opts.Timeout = defaultTimeout
	}
	if opts.NewID == nil {
		opts.NewID = rand.Text
	}
	roots, err := authorities(opts.CAFile)
	if err != nil {
		return nil, err
	}
	var source credentials.Provider = &credentials.Chain{Providers: []credentials.Provider{
		&credentials.EnvAWS{}, &credentials.EnvMinio{}, &credentials.FileAWSCredentials{}, &credentials.IAM{},
	}}
	if opts.AccessKeyFile != "" {
		files := &keyFiles{access: opts.AccessKeyFile, secret: opts.SecretKeyFile}
		if _, err := files.read(); err != nil {
			return nil, err
		}
		source = files
	}
	s := &Storage{
		opts: opts, target: fmt.Sprintf("%s/%s/%s", endpoint, opts.Bucket, opts.Prefix),
		source: &remembered{Provider: source}, transport: newTransport(endpoint.Host, roots, opts.Timeout),
	}
	s.keys = credentials.New(s.source)
	lookup := minio.BucketLookupAuto
	if opts.PathStyle {
		lookup = minio.BucketLookupPath
	}
	s.client, err = minio.NewCore(endpoint.Host, &minio.Options{
		Creds: s.keys, Secure: endpoint.Scheme == "https", Transport: s.transport,
		Region: opts.Region, BucketLookup: lookup, MaxRetries: attempts,
	})
	if err != nil {
		return nil, errs.New(errs.Invalid, "LS-PIP-001", "the storage endpoint %s: %w", endpoint, err)
	}
	return s, nil
}

// Close lets go of idle connections. The storage stays usable.
func (s *Storage) Close() { s.transport.base.CloseIdleConnections() }

func checkEndpoint(raw string, allowHTTP bool) (*url.URL, error) {
	u, err := url.Parse(raw)
	switch {
	// The text is not repeated, because it may hold a password.
	case err != nil, u.User != nil, u.Host == "", u.Scheme != "https" && u.Scheme != "http",
		u.Path != "" && u.Path != "/", u.RawQuery != "", u.Fragment != "":
		return nil, errs.New(errs.Invalid, "LS-PIP-001", "the storage endpoint is not https://host[:port] and nothing more; the bucket, the prefix and the keys have settings of their own")
	case u.Scheme == "http" && !allowHTTP && !loopback(u.Hostname()):
		return nil, errs.New(errs.Invalid, "LS-PIP-001", "the storage endpoint http://%s would send recordings' names in the clear; use https, or allow http", u.Host)
	}
	return &url.URL{Scheme: u.Scheme, Host: u.Host}, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// authorities are the machine's and those of the file, nil for the machine's alone.
func authorities(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, errs.New(errs.Invalid, "LS-PIP-001", "reading the authorities of the storage: %w", err)
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool() // a machine without authorities has those of the file
	}
	if !roots.AppendCertsFromPEM(pem) {
		return nil, errs.New(errs.Invalid, "LS-PIP-001", "the file %s holds no certificate in PEM", file)
	}
	return roots, nil
}

// Find lists the objects below the prefix of the options whose key goes on with
// prefix, in the order of their keys. More than 1,000 are an error: a list that
// was cut short would say of an object that it is not there.
func (s *Storage) Find(ctx context.Context, prefix string) ([]Object, error) {
	objects, more, err := s.list(ctx, prefix)
	if err != nil {
		return nil, s.failed(ctx, "listing "+s.opts.Prefix+prefix+" in", err)
	}
	if more {
		return nil, errs.New(errs.Exhausted, "LS-PIP-005", "more than %d objects of %s begin with %q; name a longer prefix", maxObjects, s.target, prefix)
	}
	return objects, nil
}

// list returns up to maxObjects and whether there are more.
func (s *Storage) list(ctx context.Context, prefix string) (objects []Object, more bool, err error) {
	owner := false
	err = s.again(ctx, func(ctx context.Context) error {
		objects, more = nil, false
		for o := range s.client.ListObjectsIter(ctx, s.opts.Bucket, minio.ListObjectsOptions{
			Prefix: s.opts.Prefix + prefix, Recursive: true, MaxKeys: maxObjects, FetchOwner: &owner,
		}) {
			if o.Err != nil {
				return o.Err
			}
			if more = len(objects) == maxObjects; more {
				return nil
			}
			objects = append(objects, Object{Key: strings.TrimPrefix(o.Key, s.opts.Prefix), Size: o.Size, ModifiedAt: o.LastModified})
		}
		// A list whose context has ended ends like one that is complete.
		return ctx.Err()
	})
	return objects, more, err
}

// again makes a call, and once more with other keys when it was refused and the
// keys have changed since.
func (s *Storage) again(ctx context.Context, call func(context.Context) error) error {
	bounded, cancel := context.WithTimeout(ctx, s.opts.Timeout)
	defer cancel()
	err := call(bounded)
	if !refused(err) {
		return err
	}
	with := &credentials.CredContext{Client: &http.Client{Transport: s.transport}, Context: bounded}
	before := s.source.given()
	s.keys.Expire()
	if after, errKeys := s.keys.GetWithContext(with); errKeys != nil || after == before {
		return err
	}
	return call(bounded)
}

// transport is how requests travel. It refuses a list that is none: the library
// would read any page in its place, such as a proxy's, as an empty list.
type transport struct {
	base *http.Transport
	host string // the storage's; keys may come from elsewhere
	// expires is when the certificate ends that the storage showed last.
	expires atomic.Pointer[time.Time]
}

func newTransport(host string, roots *x509.CertPool, limit time.Duration) *transport {
	return &transport{host: host, base: &http.Transport{
		Proxy:           http.ProxyFromEnvironment,
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots},
		IdleConnTimeout: time.Minute, ForceAttemptHTTP2: true,
		// A connection that is being made outlives its request.
		DialContext: (&net.Dialer{Timeout: limit}).DialContext, TLSHandshakeTimeout: limit,
		// An object is compared as it was written.
		DisableCompression: true,
	}}
}

// RoundTrip is http.RoundTripper's.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := t.base.RoundTrip(req)
	if shown := certificates(resp, err); len(shown) > 0 && strings.HasSuffix(req.URL.Host, t.host) {
		t.expires.Store(&shown[0].NotAfter)
	}
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK || !req.URL.Query().Has("list-type") {
		return resp, nil
	}
	body := bufio.NewReader(resp.Body)
	// What cannot be read here cannot be read later either, and is told then.
	head, err := body.Peek(512)
	if (err == nil || errors.Is(err, io.EOF)) && !bytes.Contains(head, []byte("<ListBucketResult")) {
		_ = resp.Body.Close() // nothing of it is wanted
		return nil, errNoList
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{body, resp.Body}
	return resp, nil
}

// certificates are those that the storage showed, trusted or not.
func certificates(resp *http.Response, err error) []*x509.Certificate {
	if distrust, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return distrust.UnverifiedCertificates
	}
	if resp == nil || resp.TLS == nil {
		return nil
	}
	return resp.TLS.PeerCertificates
}
