// Package kube provides a real Kubernetes API server to tests: etcd,
// kube-apiserver with RBAC, kube-controller-manager and kube-scheduler, built
// once from pinned modules, and kwok in place of the machines. A Deployment, a
// StatefulSet, a DaemonSet or a Helm chart gets there what it gets elsewhere, up
// to pods with container statuses; what does not exist is the containers.
//
// It owns building, starting, stopping and breaking that control plane, its
// folders, and how pods fare (stages.yaml). It does not own what is applied to
// it: tests speak to it through the files that Kubeconfig names.
//
// The scheduler is part of it, though pods could name their node: charts do not,
// and a DaemonSet's pods wait for a scheduler.
package kube

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Admin is the user who may do everything.
const Admin = "admin"

// Nodes are the machines there are.
var Nodes = []string{"node-1", "node-2"}

//go:embed stages.yaml
var stages []byte

const startLimit = 60 * time.Second

// Options says how to start a control plane. The zero value is usable.
type Options struct {
	// Users are users beside Admin. They may do what every user who has logged in
	// may, until a test binds them to a role.
	Users []string
	// Cache is the folder for the built programs and for what a run leaves; empty
	// means lockstep/kube in the user's cache folder.
	Cache string
	// Log receives what takes time or surprises; nil discards it.
	Log *slog.Logger
}

// Lab is a control plane on loopback that answered when Start returned. Its
// methods are for one caller at a time.
type Lab struct {
	lock     *os.File // who holds it owns the cache folder
	bin, dir string
	port     *port
	access   access
	api      client // of the API server
	data     client // of etcd
	etcd     *process
	server   *process   // nil while stopped
	clients  []*process // of the API server, in its place: none while it is stopped
}

// Start builds the control plane if this version has not been built, and starts
// an empty one. It needs the go command and a working directory inside the
// workspace. One process at a time holds the cache folder; Start waits its turn
// until ctx ends.
func Start(ctx context.Context, o Options) (*Lab, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Cache == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return nil, fmt.Errorf("choose a folder for the lab's Kubernetes: %w (set XDG_CACHE_HOME)", err)
		}
		o.Cache = filepath.Join(cache, "lockstep", "kube")
	}
	cache, err := filepath.Abs(o.Cache)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cache, 0o700); err != nil {
		return nil, fmt.Errorf("make the folder of the lab's Kubernetes: %w", err)
	}
	lock, err := acquire(ctx, filepath.Join(cache, "lock"), o.Log)
	if err != nil {
		return nil, err
	}
	l := &Lab{lock: lock, dir: filepath.Join(cache, "run")}
	if err := l.start(ctx, cache, o); err != nil {
		return nil, fmt.Errorf("start the lab's Kubernetes: %w", errors.Join(err, l.stop(), l.lock.Close()))
	}
	return l, nil
}

func (l *Lab) start(ctx context.Context, cache string, o Options) error {
	source, err := module(ctx)
	if err != nil {
		return err
	}
	if l.bin, err = build(ctx, cache, source, o.Log); err != nil {
		return err
	}
	begun := time.Now()
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	// What an earlier run left: its log, or all of it when it was killed.
	if err := errors.Join(os.RemoveAll(l.dir), os.MkdirAll(l.dir, 0o700)); err != nil {
		return err
	}
	if l.port, err = reserve(); err != nil {
		return err
	}
	if l.access, err = prepare(l.dir, l.port.number, append([]string{Admin}, o.Users...)); err != nil {
		return err
	}
	l.api = l.access.client(Admin)
	l.data = overSocket(l.socket())
	if err := l.startEtcd(); err != nil {
		return err
	}
	// It waits for etcd by itself.
	if err := l.StartAPIServer(ctx); err != nil {
		return err
	}
	if err := l.startNodes(ctx); err != nil {
		return err
	}
	o.Log.Info("Kubernetes control plane started", "url", l.URL(), "took", time.Since(begun).Round(time.Millisecond))
	return nil
}

func (l *Lab) launch(program string, args ...string) (*process, error) {
	return run(l.dir, binary(l.bin, program), args...)
}

func (l *Lab) socket() string { return filepath.Join(l.dir, "etcd.sock") }

func (l *Lab) startEtcd() error {
	clients, peers := "unix://"+l.socket(), "unix://"+filepath.Join(l.dir, "peer.sock")
	var err error
	l.etcd, err = l.launch("go.etcd.io/etcd/server/v3",
		"--name=lab",
		"--data-dir="+filepath.Join(l.dir, "etcd"),
		"--unsafe-no-fsync", // a power failure ends the test, too
		"--listen-client-urls="+clients, "--advertise-client-urls="+clients,
		"--listen-peer-urls="+peers, "--initial-advertise-peer-urls="+peers,
		"--initial-cluster=lab="+peers,
	)
	return err
}

// StartAPIServer starts the API server that StopAPIServer stopped, on the same
// port and the same data, and returns when it is ready.
func (l *Lab) StartAPIServer(ctx context.Context) error {
	if l.server != nil {
		return errors.New("start the API server: it runs")
	}
	var err error
	l.server, err = l.launch("k8s.io/kubernetes/cmd/kube-apiserver",
		"--etcd-servers=unix://"+l.socket(),
		"--etcd-compaction-interval=0", // Compact does it
		"--bind-address=127.0.0.1", "--advertise-address=127.0.0.1",
		"--secure-port="+strconv.Itoa(l.port.number), "--permit-port-sharing",
		"--endpoint-reconciler-type=none",
		"--tls-cert-file="+l.access.certificate, "--tls-private-key-file="+l.access.key,
		"--token-auth-file="+l.access.tokens,
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file="+l.access.key, "--service-account-signing-key-file="+l.access.key,
		"--authorization-mode=RBAC",
		// It marks new nodes as not ready until the node lifecycle controller,
		// which does not run here, has seen them ready.
		"--disable-admission-plugins=TaintNodesByCondition",
		"--service-cluster-ip-range=10.96.0.0/16",
		"--profiling=false",
	)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	err = l.server.await(ctx, func(ctx context.Context) error { return l.api.call(ctx, http.MethodGet, "/readyz", nil, nil) })
	if err != nil {
		return err
	}
	return l.startClients()
}

// StopAPIServer kills the API server as a crash would, and with it the control
// plane's own clients, which would come back to it only after half a minute. Its
// port stays taken, so that a connection is refused and never answered by another
// program.
func (l *Lab) StopAPIServer() error {
	if l.server == nil {
		return errors.New("stop the API server: it does not run")
	}
	errs := []error{l.server.kill()}
	for _, p := range l.clients {
		errs = append(errs, p.kill())
	}
	l.server, l.clients = nil, nil
	return errors.Join(errs...)
}

func (l *Lab) startClients() error {
	config := filepath.Join(l.dir, "stages.yaml")
	if err := os.WriteFile(config, stages, 0o600); err != nil {
		return err
	}
	kubeconfig := "--kubeconfig=" + l.Kubeconfig(Admin)
	// Their own limits are for clusters that others use, too, and would spread 300
	// pods over a quarter of a minute.
	quick := []string{kubeconfig, "--kube-api-qps=1000", "--kube-api-burst=1000", "--leader-elect=false", "--secure-port=0", "--profiling=false"}
	for _, c := range []struct {
		program string
		args    []string
	}{
		{"k8s.io/kubernetes/cmd/kube-controller-manager", append([]string{
			"--service-account-private-key-file=" + l.access.key,
			"--controllers=" + strings.Join([]string{
				"deployment-controller", "replicaset-controller", "statefulset-controller", "daemonset-controller",
				"garbage-collector-controller", "namespace-controller", "serviceaccount-controller",
			}, ","),
		}, quick...)},
		{"k8s.io/kubernetes/cmd/kube-scheduler", quick},
		{"sigs.k8s.io/kwok/cmd/kwok", []string{kubeconfig, "--manage-all-nodes", "--config=" + config}},
	} {
		p, err := l.launch(c.program, c.args...)
		if err != nil {
			return err
		}
		l.clients = append(l.clients, p)
	}
	return nil
}

// startNodes returns when nodes are ready and pods can be made.
func (l *Lab) startNodes(ctx context.Context) error {
	for _, name := range Nodes {
		node := map[string]any{
			"apiVersion": "v1", "kind": "Node",
			"metadata": map[string]any{"name": name, "labels": map[string]string{"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}},
		}
		if err := l.api.call(ctx, http.MethodPost, "/api/v1/nodes", node, nil); err != nil {
			return fmt.Errorf("add node %s: %w", name, err)
		}
	}
	controllers, kwok := l.clients[0], l.clients[2]
	err := kwok.await(ctx, func(ctx context.Context) error {
		var list struct {
			Items []struct{ Status struct{ Phase string } }
		}
		if err := l.api.call(ctx, http.MethodGet, "/api/v1/nodes", nil, &list); err != nil {
			return err
		}
		for _, n := range list.Items {
			if n.Status.Phase != "Running" {
				return errors.New("a node is not ready")
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return controllers.await(ctx, func(ctx context.Context) error {
		return l.api.call(ctx, http.MethodGet, "/api/v1/namespaces/default/serviceaccounts/default", nil, nil)
	})
}

// Compact makes etcd forget every revision so far. A watch that a client resumes
// from one of them is answered with 410 Gone, once the API server has restarted
// and so lost what it remembers by itself.
func (l *Lab) Compact(ctx context.Context) error {
	// A revision of our own: the newest one a client may have seen is forgotten too.
	var put struct{ Header struct{ Revision string } }
	key := map[string][]byte{"key": []byte("lab"), "value": {}}
	err := l.data.call(ctx, http.MethodPost, "/v3/kv/put", key, &put)
	if err == nil {
		err = l.data.call(ctx, http.MethodPost, "/v3/kv/compaction", map[string]any{"revision": put.Header.Revision, "physical": true}, nil)
	}
	if err != nil {
		return fmt.Errorf("compact etcd: %w", err)
	}
	return nil
}

// Erase removes an object from etcd while the API server is stopped, so that it is
// gone without anybody having been told. Its path is like "pods/NAMESPACE/NAME".
func (l *Lab) Erase(ctx context.Context, path string) error {
	if l.server != nil {
		return errors.New("erase " + path + ": the API server runs and would not notice; stop it first")
	}
	var answer struct{ Deleted string }
	key := map[string][]byte{"key": []byte("/registry/" + path)}
	if err := l.data.call(ctx, http.MethodPost, "/v3/kv/deleterange", key, &answer); err != nil {
		return fmt.Errorf("erase %s: %w", path, err)
	}
	if answer.Deleted != "1" {
		return fmt.Errorf("erase %s: etcd has no such object", path)
	}
	return nil
}

// URL is the API server's address.
func (l *Lab) URL() string { return l.access.url }

// Kubeconfig is the path of the file that lets a user in: Admin, or one of
// Options.Users.
func (l *Lab) Kubeconfig(user string) string { return l.access.kubeconfig(user) }

// WriteKubeconfig writes a file that lets the bearer of a token in, such as a
// service account.
func (l *Lab) WriteKubeconfig(path, token string) error { return l.access.write(path, token) }

// Close ends the control plane and removes what was in it. It tells of a program
// that had ended before, and then keeps the logs until the next start.
func (l *Lab) Close() error {
	err := l.stop()
	if err == nil {
		err = os.RemoveAll(l.dir)
	}
	if err = errors.Join(err, l.lock.Close()); err != nil {
		return fmt.Errorf("stop the lab's Kubernetes: %w", err)
	}
	return nil
}

func (l *Lab) stop() error {
	var errs []error
	if l.server != nil {
		errs = append(errs, l.StopAPIServer())
	}
	if l.etcd != nil {
		errs = append(errs, l.etcd.kill())
	}
	if l.port != nil {
		errs = append(errs, l.port.release())
	}
	return errors.Join(errs...)
}

// ImageID is what the lab's nodes say of a running container of an image:
// "repository@sha256:…", with the digest that the image's name has, else one that
// follows from the name.
func ImageID(image string) string {
	name, digest, pinned := strings.Cut(image, "@")
	if !pinned {
		digest = fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(image)))
	}
	if colon := strings.LastIndex(name, ":"); colon > strings.LastIndex(name, "/") {
		name = name[:colon]
	}
	return name + "@" + digest
}
