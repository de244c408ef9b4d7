package kube_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-fleet/lockstep/adapters/kube"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

const (
	gatewayImage = "docker.io/akeyless/gateway:5.0.1"
	bastionImage = "akeyless/zero-trust-bastion:3.1.0"
)

var sum = "sha256:" + strings.Repeat("ab", 32)

func template(containers ...string) corev1.PodTemplateSpec {
	var out corev1.PodTemplateSpec
	for pair := range slices.Chunk(containers, 2) {
		out.Spec.Containers = append(out.Spec.Containers, corev1.Container{Name: pair[0], Image: pair[1]})
	}
	return out
}

// of gives an object labels; "release" stands for Helm's annotation.
func of(o object, labels map[string]string) object {
	if release, ok := labels["release"]; ok {
		o.SetAnnotations(map[string]string{"meta.helm.sh/release-name": release})
	}
	o.SetLabels(labels)
	return o
}

func deployment(name string, containers ...string) *appsv1.Deployment {
	d := &appsv1.Deployment{Spec: appsv1.DeploymentSpec{Template: template(containers...)}}
	d.Name = name
	return d
}

// podOf is a ready pod of a workload as its controller makes it: containers are
// pairs of a name and an image.
func podOf(kind, workload, suffix string, containers ...string) *corev1.Pod {
	p := &corev1.Pod{Spec: template(containers...).Spec}
	p.Name = workload + "-" + suffix
	p.Spec.NodeName = "node-1"
	controller := true
	owner := metav1.OwnerReference{APIVersion: "apps/v1", Kind: kind, Name: workload, Controller: &controller}
	if kind == "Deployment" {
		owner.Kind, owner.Name = "ReplicaSet", workload+"-5d4f"
		p.Labels = map[string]string{"pod-template-hash": "5d4f"}
	}
	p.OwnerReferences = []metav1.OwnerReference{owner}
	p.Status.Phase = corev1.PodRunning
	p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(at)}}
	for _, c := range p.Spec.Containers {
		p.Status.ContainerStatuses = append(p.Status.ContainerStatuses, corev1.ContainerStatus{
			Name: c.Name, Ready: true, ImageID: "docker.io/akeyless/any@" + sum,
			State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(at.Add(-time.Hour))}},
		})
	}
	return p
}

func TestInventoryTellsWhatRuns(t *testing.T) {
	t.Parallel()
	gateway := podOf("Deployment", "unified-east", "a", "istio-proxy", "istio/proxyv2:1.24", "akeyless-gateway", gatewayImage)
	gateway.Spec.Containers[1].Env = []corev1.EnvVar{{Name: "VERSION", Value: "4.0"}, {Name: "VERSION", Value: "5.0.1"}}
	gateway.Status.ContainerStatuses[1].RestartCount = 3
	old := podOf("Deployment", "unified-east", "b", "akeyless-gateway", "docker.io/akeyless/gateway:4.52.0")
	old.OwnerReferences[0].Name, old.Labels["pod-template-hash"] = "unified-east-77aa", "77aa"
	old.Labels["app.kubernetes.io/version"] = "4.52.0_3.0.3"
	ssh := podOf("StatefulSet", "ssh-east", "0", "ssh-bastion", bastionImage)
	ssh.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "VERSION", ValueFrom: &corev1.EnvVarSource{}}}
	statefulSet := &appsv1.StatefulSet{Spec: appsv1.StatefulSetSpec{Template: template("ssh-bastion", "akeyless/zero-trust-bastion:3.2.0")}}
	statefulSet.Name = "ssh-east"
	statefulSet.Labels = map[string]string{"app.kubernetes.io/version": "3.2.0"} // of the pods to come
	daemonSet := &appsv1.DaemonSet{Spec: appsv1.DaemonSetSpec{Template: template("front", "mirror:5000/bastion:3.1.0")}}
	daemonSet.Name = "front"
	alone := podOf("Deployment", "debug", "x", "akeyless-gateway", gatewayImage)
	alone.OwnerReferences = nil
	job := podOf("Deployment", "job", "x", "akeyless-gateway", gatewayImage)
	job.OwnerReferences[0].APIVersion, job.OwnerReferences[0].Kind = "batch/v1", "Job"
	foreign := podOf("StatefulSet", "foreign", "0", "akeyless-gateway", gatewayImage)
	foreign.OwnerReferences[0].APIVersion = "apps.example.org/v1"
	server := newServer(t,
		of(deployment("unified-east", "akeyless-gateway", gatewayImage), map[string]string{"app.kubernetes.io/version": "5.0.0_3.3.0"}),
		statefulSet, daemonSet, gateway, old, ssh, alone, job, foreign,
		podOf("DaemonSet", "front", "n1", "front", "mirror:5000/bastion:3.1.0"),
		podOf("ReplicaSet", "web-loose", "a", "gateway-sra-web", "akeyless/zero-trust-bastion@"+sum),
		podOf("Deployment", "cache", "a", "redis", "redis:8"),
	)
	got := inventory(t, start(t, server.URL, func(o *kube.Options) {
		o.Workloads = map[string]fleet.Component{"daemonset/front": fleet.SRAWeb}
	}))
	began := at.Add(-time.Hour)
	want := fleet.Inventory{Cluster: "east", ObservedAt: at, Instances: []fleet.Instance{
		{ID: "front-n1", Component: fleet.SRAWeb, Service: "daemonset/front", Image: "mirror:5000/bastion:3.1.0", Tag: "3.1.0", Declared: "mirror:5000/bastion:3.1.0",
			Digest: sum, ImageID: "docker.io/akeyless/any@" + sum, Health: fleet.HealthHealthy, StartedAt: began, Node: "node-1"},
		{ID: "unified-east-a", Component: fleet.Gateway, Service: "deployment/unified-east", Image: gatewayImage, Tag: "5.0.1", Declared: gatewayImage, Version: "5.0.1", Labelled: "5.0.0_3.3.0",
			Digest: sum, ImageID: "docker.io/akeyless/any@" + sum, Health: fleet.HealthHealthy, StartedAt: began, Node: "node-1", Restarts: 3},
		{ID: "unified-east-b", Component: fleet.Gateway, Service: "deployment/unified-east", Image: "docker.io/akeyless/gateway:4.52.0", Tag: "4.52.0", Declared: gatewayImage, Labelled: "4.52.0_3.0.3",
			Digest: sum, ImageID: "docker.io/akeyless/any@" + sum, Health: fleet.HealthHealthy, StartedAt: began, Node: "node-1"},
		{ID: "web-loose-a", Component: fleet.SRAWeb, Service: "replicaset/web-loose", Image: "akeyless/zero-trust-bastion@" + sum,
			Digest: sum, ImageID: "docker.io/akeyless/any@" + sum, Health: fleet.HealthHealthy, StartedAt: began, Node: "node-1"},
		{ID: "ssh-east-0", Component: fleet.SRASSH, Service: "statefulset/ssh-east", Image: bastionImage, Tag: "3.1.0", Declared: "akeyless/zero-trust-bastion:3.2.0",
			Digest: sum, ImageID: "docker.io/akeyless/any@" + sum, Health: fleet.HealthHealthy, StartedAt: began, Node: "node-1"},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("inventory (-want +got):\n%s", diff)
	}
}

func TestComponentsOfTheVendorsCharts(t *testing.T) {
	t.Parallel()
	chart := func(name string) map[string]string { return map[string]string{"helm.sh/chart": name} }
	named := func(name string) map[string]string { return map[string]string{"app.kubernetes.io/name": name} }
	for name, c := range map[string]struct {
		kind, workload string
		labels         map[string]string
		containers     []string
		want           fleet.Component
	}{
		"gateway":                         {"Deployment", "unified-gw", nil, []string{"akeyless-gateway", "any/image:1"}, fleet.Gateway},
		"gateway on each node":            {"DaemonSet", "unified-gw", nil, []string{"akeyless-gateway", "any/image:1"}, fleet.Gateway},
		"web":                             {"Deployment", "web-gw", nil, []string{"gateway-sra-web", "any/image:1"}, fleet.SRAWeb},
		"ssh":                             {"Deployment", "ssh-gw", nil, []string{"gateway-sra-ssh", "any/image:1"}, fleet.SRASSH},
		"dispatcher by image":             {"Deployment", "x", nil, []string{"main", "mirror.example.org:5000/akl/zero-trust-web-dispatcher:1.2.0"}, fleet.Dispatcher},
		"worker by image":                 {"Deployment", "x", nil, []string{"main", "mirror.example.org/zero-trust-web-worker@" + sum}, fleet.Worker},
		"dispatcher by chart":             {"Deployment", "web-dispatcher-deployment", chart("akeyless-zero-trust-web-access-2.0.1"), []string{"main", "any/image:1"}, fleet.Dispatcher},
		"worker by chart":                 {"Deployment", "web-worker-deployment", named("akeyless-zero-trust-web-access"), []string{"main", "any/image:1"}, fleet.Worker},
		"worker by container":             {"Deployment", "web-worker-deployment", chart("akeyless-zero-trust-web-access-2.0.1"), []string{"istio-proxy", "istio/proxyv2", "web-worker", "any/image:1"}, fleet.Worker},
		"legacy web":                      {"Deployment", "web-sra", chart("akeyless-sra-1.2.0"), []string{"main", "any/image:1"}, fleet.SRAWeb},
		"legacy ssh":                      {"StatefulSet", "ssh-sra", chart("akeyless-sra-1.2.0"), []string{"ssh-bastion", "any/image:1", "log", "any/log:1"}, fleet.SRASSH},
		"legacy ssh by image":             {"StatefulSet", "bastion", nil, []string{"main", "akeyless/ssh-proxy:0.15.0"}, fleet.SRASSH},
		"legacy ssh of a release web":     {"StatefulSet", "ssh-web-akeyless-sra", nil, []string{"main", bastionImage}, fleet.SRASSH},
		"legacy web of a release ssh":     {"Deployment", "web-ssh-akeyless-sra", nil, []string{"main", bastionImage}, fleet.SRAWeb},
		"a bastion's side by container":   {"Deployment", "bastion", nil, []string{"the-ssh", bastionImage}, fleet.SRASSH},
		"legacy portal":                   {"Deployment", "ztp-sra", chart("akeyless-sra-1.2.0"), []string{"main", "any/image:1"}, "sra-portal"},
		"legacy portal by image":          {"Deployment", "ztp-sra", nil, []string{"main", "akeyless/zero-trust-portal:1"}, "sra-portal"},
		"legacy gateway":                  {"Deployment", "gw", chart("akeyless-api-gateway-1.25.0"), []string{"api-gateway", "any/image:1"}, fleet.Gateway},
		"legacy gateway by image":         {"StatefulSet", "gw", nil, []string{"main", "akeyless/base:latest"}, fleet.Gateway},
		"the vendor's own registry":       {"Deployment", "gw", nil, []string{"main", "docker.registry-2.akeyless.io/base:latest-akeyless"}, fleet.Gateway},
		"behind a mirror's prefix":        {"Deployment", "gw", nil, []string{"main", "harbor.example.org/hub/akeyless/gateway:5.0.1"}, fleet.Gateway},
		"two containers of one image":     {"Deployment", "gw", nil, []string{"main", gatewayImage, "log", gatewayImage}, fleet.Gateway},
		"another gateway":                 {"Deployment", "gw", nil, []string{"api-gateway", "kong/gateway:3"}, ""},
		"another base":                    {"Deployment", "gw", nil, []string{"main", "example.org/base:3"}, ""},
		"another worker":                  {"Deployment", "web-worker-deployment", nil, []string{"web-worker", "any/image:1"}, ""},
		"a helper beside a worker":        {"Deployment", "web-worker-deployment", chart("akeyless-zero-trust-web-access-2.0.1"), []string{"a", "any/image:1", "b", "any/image:1"}, ""},
		"a chart with a longer name":      {"Deployment", "web-x", chart("akeyless-sra-tools-1.2.0"), []string{"main", "any/image:1"}, ""},
		"the legacy gateway's cache":      {"Deployment", "gw-cache", chart("akeyless-api-gateway-1.25.0"), []string{"cache", "bitnami/redis:6.2"}, ""},
		"a bastion of which side":         {"Deployment", "bastion", nil, []string{"main", bastionImage}, ""},
		"an image that cannot be read":    {"Deployment", "x", nil, []string{"main", "UPPER/base"}, ""},
		"the unified chart's redis of HA": {"StatefulSet", "gw-redis-ha-server", chart("redis-ha-4.27.0"), []string{"redis", "redis:8"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// Half of them have the labels on the workload, as the charts do.
			p := podOf(c.kind, c.workload, "a", c.containers...)
			objects := []object{p}
			if c.kind == "Deployment" {
				objects = append(objects, of(deployment(c.workload, c.containers...), c.labels))
			} else {
				p.Labels = c.labels
			}
			got := inventory(t, start(t, newServer(t, objects...).URL))
			switch {
			case c.want == "" && len(got.Instances) == 0:
			case len(got.Instances) != 1 || got.Instances[0].Component != c.want || got.Instances[0].ID != fleet.InstanceID(p.Name):
				t.Errorf("got %+v, want one %s", got.Instances, c.want)
			}
		})
	}
}

func TestWorkloadsCanBeNamed(t *testing.T) {
	t.Parallel()
	server := newServer(t,
		podOf("Deployment", "edge", "a", "proxy", "any/proxy:1", "gw", "any/gw:1", "ssh", "any/ssh:1"),
		podOf("Deployment", "unified-gw", "a", "istio-proxy", "istio/proxyv2", "akeyless-gateway", gatewayImage),
		podOf("StatefulSet", "plain", "0", "main", "any/image:1", "side", "any/side:1"),
	)
	got := inventory(t, start(t, server.URL, func(o *kube.Options) {
		o.Releases = []string{"of-none-of-them"}
		o.Workloads = map[string]fleet.Component{
			"deployment/edge/gw":    fleet.Gateway,
			"deployment/edge/ssh":   fleet.SRASSH,
			"deployment/unified-gw": "my-gateway",
			"statefulset/plain":     fleet.Worker,
		}
	}))
	var list []string
	for _, i := range got.Instances {
		list = append(list, string(i.ID)+" "+string(i.Component)+" "+i.Image)
	}
	want := []string{"edge-a gateway any/gw:1", "edge-a/ssh sra-ssh any/ssh:1", "unified-gw-a my-gateway " + gatewayImage, "plain-0 worker any/image:1"}
	if diff := cmp.Diff(want, list); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestOnlyTheClustersReleasesCount(t *testing.T) {
	t.Parallel()
	label := func(release string) map[string]string {
		return map[string]string{"app.kubernetes.io/instance": release}
	}
	orphan := podOf("ReplicaSet", "orphan", "a", "akeyless-gateway", gatewayImage)
	orphan.Labels = label("east")
	server := newServer(t, orphan,
		of(deployment("unified-east", "akeyless-gateway", gatewayImage), map[string]string{"release": "east", "app.kubernetes.io/instance": "argo"}),
		podOf("Deployment", "unified-east", "a", "akeyless-gateway", gatewayImage),
		of(deployment("web-east", "gateway-sra-web", bastionImage), label("east")),
		podOf("Deployment", "web-east", "a", "gateway-sra-web", bastionImage),
		of(deployment("unified-west", "akeyless-gateway", gatewayImage), label("west")),
		podOf("Deployment", "unified-west", "a", "akeyless-gateway", gatewayImage),
	)
	for name, c := range map[string]struct {
		releases []string
		want     string
	}{
		"of one":         {[]string{"east"}, "unified-east-a web-east-a orphan-a"},
		"of both":        {[]string{"west", "east"}, "unified-east-a unified-west-a web-east-a orphan-a"},
		"all there is":   {nil, "unified-east-a unified-west-a web-east-a orphan-a"},
		"of one unknown": {[]string{"north"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := inventory(t, start(t, server.URL, func(o *kube.Options) { o.Releases = c.releases }))
			var ids []string
			for _, i := range got.Instances {
				ids = append(ids, string(i.ID))
			}
			if strings.Join(ids, " ") != c.want {
				t.Errorf("got %q, want %q", ids, c.want)
			}
		})
	}
}

func TestAnEmptyNamespaceIsAnObservation(t *testing.T) {
	t.Parallel()
	// The workload is there and has no pods.
	server := newServer(t, deployment("unified-gw", "akeyless-gateway", gatewayImage))
	if got := inventory(t, start(t, server.URL)); len(got.Instances) != 0 || got.Cluster != "east" {
		t.Errorf("got %+v", got)
	}
}

func TestChangesAreFollowedAndTold(t *testing.T) {
	t.Parallel()
	d := deployment("unified-gw", "akeyless-gateway", gatewayImage)
	server := newServer(t, d)
	s := start(t, server.URL)
	// When there is something to read, that is a change, too.
	<-s.Changed()
	p := podOf("Deployment", "unified-gw", "a", "akeyless-gateway", gatewayImage)
	server.put(p)
	until(t, s, "a new pod", func(i []fleet.Instance) bool { return len(i) == 1 })

	upgraded := deployment("unified-gw", "akeyless-gateway", gatewayImage+"-fixed")
	server.put(upgraded)
	until(t, s, "a new template", func(i []fleet.Instance) bool { return i[0].Declared == gatewayImage+"-fixed" })

	unready := podOf("Deployment", "unified-gw", "a", "akeyless-gateway", gatewayImage)
	unready.Status.Conditions[0].Status = corev1.ConditionFalse
	server.put(unready)
	until(t, s, "a pod that is not ready", func(i []fleet.Instance) bool { return i[0].Health == fleet.HealthUnhealthy })

	server.remove(p)
	until(t, s, "no pod", func(i []fleet.Instance) bool { return len(i) == 0 })
}

func TestWhatShowsNothingNewIsNoChange(t *testing.T) {
	t.Parallel()
	p := podOf("Deployment", "unified-gw", "a", "akeyless-gateway", gatewayImage)
	server := newServer(t, p)
	s := start(t, server.URL)
	inventory(t, s)
	for range 2 { // of the first lists, which may come one by one
		select {
		case <-s.Changed():
		case <-time.After(500 * time.Millisecond):
		}
	}
	same := p.DeepCopy()
	same.Annotations = map[string]string{"seen": "again"}
	server.put(same)
	select {
	case <-s.Changed():
		t.Error("an annotation is told as a change")
	case <-time.After(time.Second):
	}
	// The watch was alive meanwhile.
	server.remove(p)
	<-s.Changed()
}

func TestNothingIsToldBeforeAllIsRead(t *testing.T) {
	t.Parallel()
	server := newServer(t)
	_, err := prepare(t, server.URL, func(o *kube.Options) { o.Timeout = time.Second }).Inventory(t.Context())
	if errs.IDOf(err) != "LS-KUB-006" || errs.KindOf(err) != errs.Unavailable {
		t.Errorf("without Run: %v", err)
	}
	// Nothing is known of one kind of workload: neither is what is declared.
	server.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, "/statefulsets") {
			fail(w, http.StatusInternalServerError, metav1.StatusReasonInternalError, "etcd is slow")
			return true
		}
		return false
	})
	_, err = start(t, server.URL, func(o *kube.Options) { o.Timeout = 3 * time.Second }).Inventory(t.Context())
	if errs.IDOf(err) != "LS-KUB-006" || !strings.Contains(err.Error(), "statefulsets.apps") || !strings.Contains(err.Error(), "etcd is slow") || strings.Contains(err.Error(), "daemonsets") {
		t.Errorf("with a failing list: %v", err)
	}
	server.intercept(nil)
}

func TestErrorsSayWhatToDo(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		hook func(w http.ResponseWriter, r *http.Request) bool
		set  func(*kube.Options)
		id   string
		kind errs.Kind
		says []string
	}{
		"no such namespace": {
			set: func(o *kube.Options) { o.Namespace = "valut" },
			id:  "LS-KUB-005", kind: errs.NotFound, says: []string{`"valut"`, "correct the namespace"},
		},
		"credentials that are rejected": {
			hook: func(w http.ResponseWriter, _ *http.Request) bool {
				fail(w, http.StatusUnauthorized, metav1.StatusReasonUnauthorized, "Unauthorized")
				return true
			},
			id: "LS-KUB-003", kind: errs.Unauthenticated, says: []string{"renew the token"},
		},
		"a login page": {
			hook: func(w http.ResponseWriter, _ *http.Request) bool {
				w.Header().Set("Content-Type", "text/html; charset=utf-8")
				_, _ = w.Write([]byte("<html>log in</html>"))
				return true
			},
			id: "LS-KUB-007", kind: errs.Unavailable, says: []string{"200 OK", "/api/v1/namespaces/vault", "NO_PROXY"},
		},
		// It must not be told as a permission of Kubernetes.
		"a proxy that refuses": {
			hook: func(w http.ResponseWriter, _ *http.Request) bool {
				w.Header().Set("Content-Type", "text/html")
				w.WriteHeader(http.StatusForbidden)
				return true
			},
			id: "LS-KUB-007", kind: errs.Unavailable, says: []string{"403 Forbidden"},
		},
		"a server that is overloaded": {
			hook: func(w http.ResponseWriter, _ *http.Request) bool {
				http.Error(w, "Too many requests, please try again later.", http.StatusTooManyRequests)
				return true
			},
			id: "LS-KUB-002", kind: errs.Unavailable, says: []string{"kubectl get --raw /readyz"},
		},
		"a server that takes its time": {
			hook: func(_ http.ResponseWriter, r *http.Request) bool {
				<-r.Context().Done()
				return true
			},
			set: func(o *kube.Options) { o.Timeout = 100 * time.Millisecond },
			id:  "LS-KUB-002", kind: errs.Unavailable, says: []string{`"vault"`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := newServer(t)
			server.intercept(c.hook)
			set := c.set
			if set == nil {
				set = func(*kube.Options) {}
			}
			s := start(t, server.URL, set)
			_, err := s.Inventory(t.Context())
			if errs.IDOf(err) != c.id || errs.KindOf(err) != c.kind {
				t.Fatalf("got %v", err)
			}
			for _, part := range append(c.says, server.URL) {
				if part != server.URL || c.id != "LS-KUB-007" {
					if !strings.Contains(err.Error(), part) {
						t.Errorf("error %q does not say %q", err, part)
					}
				}
			}
			server.CloseClientConnections()
		})
	}
}

func TestAnUnreachableServerSaysWhich(t *testing.T) {
	t.Parallel()
	server := newServer(t)
	server.Close()
	_, err := start(t, server.URL).Inventory(t.Context())
	if errs.IDOf(err) != "LS-KUB-002" || !strings.Contains(err.Error(), server.URL) {
		t.Errorf("got %v", err)
	}
}

func TestACommandThatGivesNoCredentialsIsNamed(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	text := `{"apiVersion":"v1","kind":"Config","current-context":"lab","clusters":[{"name":"lab","cluster":{"server":"https://127.0.0.1:1"}}],
		"contexts":[{"name":"lab","context":{"cluster":"lab","user":"lab","namespace":"vault"}}],
		"users":[{"name":"lab","user":{"exec":{"apiVersion":"client.authentication.k8s.io/v1","command":"/nowhere/login","interactiveMode":"Never"}}}]}`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := start(t, "", func(o *kube.Options) { o.Kubeconfig = path }).Inventory(t.Context())
	if errs.IDOf(err) != "LS-KUB-003" || !strings.Contains(err.Error(), "/nowhere/login") {
		t.Errorf("got %v", err)
	}
}

// The library runs the command without a limit: it must hold up neither the caller
// nor, once it has ended, anything else.
func TestACommandThatDoesNotEndIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	gate := filepath.Join(dir, "gate")
	if err := syscall.Mkfifo(gate, 0o600); err != nil {
		t.Fatal(err)
	}
	// It waits until somebody opens the other side, then gives a token.
	script := "read line < " + gate + `; echo '{"apiVersion":"client.authentication.k8s.io/v1","kind":"ExecCredential","status":{"token":"t"}}'`
	path := filepath.Join(dir, "kubeconfig")
	text := fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"lab","clusters":[{"name":"lab","cluster":{"server":"https://127.0.0.1:1"}}],
		"contexts":[{"name":"lab","context":{"cluster":"lab","user":"lab","namespace":"vault"}}],
		"users":[{"name":"lab","user":{"exec":{"apiVersion":"client.authentication.k8s.io/v1","command":"sh","args":["-c",%q],"interactiveMode":"Never"}}}]}`, script)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	const timeout = 200 * time.Millisecond
	s := start(t, "", func(o *kube.Options) { o.Kubeconfig, o.Timeout = path, timeout })
	for range 3 {
		began := time.Now()
		_, err := s.Inventory(t.Context())
		if errs.IDOf(err) != "LS-KUB-003" || errs.KindOf(err) != errs.Unauthenticated || !strings.Contains(err.Error(), "the command sh has not ended") {
			t.Errorf("got %v", err)
		}
		if took := time.Since(began); took > timeout+5*time.Second {
			t.Errorf("it took %s", took)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), timeout/4)
	defer cancel()
	if _, err := s.Inventory(ctx); !errors.Is(err, context.DeadlineExceeded) || errs.IDOf(err) != "" {
		t.Errorf("a caller who has less time: %v", err)
	}
	open, err := os.OpenFile(gate, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open.WriteString("go\n"); err != nil {
		t.Fatal(err)
	}
	defer open.Close() // earlier, the line might be lost
	for limit := time.After(30 * time.Second); ; {
		_, err := s.Inventory(t.Context())
		if errs.IDOf(err) == "LS-KUB-002" {
			break // it has its token, and nothing listens
		}
		select {
		case <-limit:
			t.Fatalf("after the command has ended: %v", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func TestMissingPermissionsAreNamedTogether(t *testing.T) {
	t.Parallel()
	p := podOf("Deployment", "unified-gw", "a", "akeyless-gateway", gatewayImage)
	server := newServer(t, p)
	server.forbid("list pods", "watch pods", "list daemonsets", "watch daemonsets")
	server.intercept(func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, "/daemonsets") {
			<-time.After(300 * time.Millisecond) // the last refusal comes later than the first
		}
		return false
	})
	s := start(t, server.URL)
	_, err := s.Inventory(t.Context())
	if errs.IDOf(err) != "LS-KUB-004" || errs.KindOf(err) != errs.PermissionDenied {
		t.Errorf("got %v", err)
	}
	for _, part := range []string{"list and watch pods, list and watch daemonsets.apps", `"vault"`, "deploy/k8s/collector/role.yaml"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %q does not say %q", err, part)
		}
	}
	if strings.Contains(err.Error(), "deployments") {
		t.Errorf("%v: deployments are allowed", err)
	}
	if server.count("watch deployments") == 0 {
		t.Error("what is allowed is not watched")
	}
	// Once granted, it works without a restart.
	server.forbid()
	for limit := time.After(30 * time.Second); ; {
		got, err := s.Inventory(t.Context())
		if err == nil && len(got.Instances) == 1 {
			break
		}
		select {
		case <-limit:
			t.Fatalf("after the grant: %v", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func TestTheNamespaceMustBeReadable(t *testing.T) {
	t.Parallel()
	server := newServer(t)
	server.forbid("get namespaces")
	_, err := start(t, server.URL).Inventory(t.Context())
	if errs.IDOf(err) != "LS-KUB-004" || !strings.Contains(err.Error(), "get namespaces") {
		t.Errorf("got %v", err)
	}
}

// Gone is what a server says of a watch that lags too far behind, at its beginning
// or in the midst of it.
func TestAWatchThatIsGoneIsBegunAnew(t *testing.T) {
	t.Parallel()
	for _, streamed := range []bool{false, true} {
		p := podOf("Deployment", "unified-gw", "a", "akeyless-gateway", gatewayImage)
		server := newServer(t, p)
		var gone atomic.Int32
		gone.Store(2)
		server.intercept(func(w http.ResponseWriter, r *http.Request) bool {
			q := r.URL.Query()
			if !strings.HasSuffix(r.URL.Path, "/pods") || q.Get("watch") == "" || gone.Add(-1) < 0 {
				return false
			}
			if streamed {
				w.Header().Set("Content-Type", "application/json")
				text := []byte(`{"kind":"Status","apiVersion":"v1","status":"Failure","code":410,"reason":"Expired","message":"too old resource version"}`)
				event(w, "ERROR", text)
				return true
			}
			fail(w, http.StatusGone, metav1.StatusReasonExpired, "too old resource version")
			return true
		})
		s := start(t, server.URL)
		until(t, s, "the pod", func(i []fleet.Instance) bool { return len(i) == 1 })
		if gone.Load() >= 0 {
			t.Error("the server was never asked for a watch it has no history of")
		}
		server.remove(p)
		until(t, s, "no pod", func(i []fleet.Instance) bool { return len(i) == 0 })
	}
}

// A server that does not know how to list by watching is asked for lists.
func TestAnOlderServerIsListed(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	var mu sync.Mutex
	server := newServer(t, podOf("Deployment", "unified-gw", "a", "akeyless-gateway", gatewayImage))
	server.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Query().Get("sendInitialEvents") == "" {
			return false
		}
		fail(w, http.StatusUnprocessableEntity, metav1.StatusReasonInvalid, "sendInitialEvents is forbidden")
		return true
	})
	s := start(t, server.URL, func(o *kube.Options) {
		o.Log = slog.New(slog.NewTextHandler(writer(func(p []byte) (int, error) {
			mu.Lock()
			defer mu.Unlock()
			return log.Write(p)
		}), nil))
	})
	if got := inventory(t, s); len(got.Instances) != 1 || server.count("list pods") == 0 {
		t.Errorf("got %+v", got)
	}
	mu.Lock()
	defer mu.Unlock()
	if log.Len() > 0 {
		t.Errorf("it is told as a failure: %s", log.String())
	}
}

// A server that is too busy to list by watching may still list.
func TestABusyServerIsListed(t *testing.T) {
	t.Parallel()
	server := newServer(t, podOf("Deployment", "unified-gw", "a", "akeyless-gateway", gatewayImage))
	server.intercept(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Query().Get("sendInitialEvents") == "" {
			return false
		}
		fail(w, http.StatusTooManyRequests, metav1.StatusReasonTooManyRequests, "later")
		return true
	})
	if got := inventory(t, start(t, server.URL)); len(got.Instances) != 1 {
		t.Errorf("got %+v", got)
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

// After an outage the server answers before the watches are back: what was known
// before it is not told.
func TestWhatWasTrueBeforeAnOutageIsNotTold(t *testing.T) {
	t.Parallel()
	p := podOf("Deployment", "unified-gw", "a", "akeyless-gateway", gatewayImage)
	server := newServer(t, p)
	s := start(t, server.URL, func(o *kube.Options) { o.Timeout = 3 * time.Second })
	until(t, s, "the pod", func(i []fleet.Instance) bool { return len(i) == 1 })

	down := func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, "/namespaces/"+namespace) {
			return false // the server is back, the rest is not
		}
		fail(w, http.StatusServiceUnavailable, metav1.StatusReasonServiceUnavailable, "starting")
		return true
	}
	server.intercept(down)
	server.CloseClientConnections()
	server.remove(p)
	var err error
	for limit := time.After(20 * time.Second); err == nil; {
		var got fleet.Inventory
		if got, err = s.Inventory(t.Context()); err == nil && len(got.Instances) != 1 {
			t.Fatal("a change was seen through a broken watch")
		}
		select {
		case <-limit:
			t.Fatal("an inventory is told from broken watches")
		default:
		}
	}
	if errs.IDOf(err) != "LS-KUB-006" {
		t.Errorf("got %v", err)
	}
	server.intercept(nil)
	for limit := time.After(30 * time.Second); ; {
		got, err := s.Inventory(t.Context())
		if err == nil && len(got.Instances) == 0 {
			break
		}
		if err == nil {
			t.Fatal("what was true before the outage is told after it")
		}
		select {
		case <-limit:
			t.Fatalf("after the outage: %v", err)
		default:
		}
	}
}

// A watch that lists first is open before it has brought anything.
func TestAListThatIsStillComingIsWaitedFor(t *testing.T) {
	t.Parallel()
	p := podOf("Deployment", "unified-gw", "a", "akeyless-gateway", gatewayImage)
	server := newServer(t, p)
	s := start(t, server.URL, func(o *kube.Options) { o.Timeout = 3 * time.Second })
	until(t, s, "the pod", func(i []fleet.Instance) bool { return len(i) == 1 })
	release := server.hold()
	began := server.count("watch pods")
	server.CloseClientConnections()
	server.remove(p)
	for limit := time.After(20 * time.Second); server.count("watch pods") == began; {
		select {
		case <-limit:
			t.Fatal("the watch is not opened again")
		case <-time.After(10 * time.Millisecond):
		}
	}
	if got, err := s.Inventory(t.Context()); errs.IDOf(err) != "LS-KUB-006" {
		t.Errorf("told %+v, %v", got, err)
	}
	release()
	until(t, s, "no pod", func(i []fleet.Instance) bool { return len(i) == 0 })
}

func TestAllIsListedAnewWhenAWatchEnds(t *testing.T) {
	t.Parallel()
	server := newServer(t)
	s := start(t, server.URL)
	inventory(t, s)
	// A watch that ends at once and empty would be taken for a fault.
	server.put(podOf("Deployment", "unified-gw", "a", "akeyless-gateway", gatewayImage))
	until(t, s, "the pod", func(i []fleet.Instance) bool { return len(i) == 1 })
	before := len(server.asked())
	server.endWatches()
	var again []string // requests for pods since
	for limit := time.After(20 * time.Second); len(again) == 0; {
		for _, url := range server.asked()[before:] {
			if strings.Contains(url, "/pods?") {
				again = append(again, url)
			}
		}
		select {
		case <-limit:
			t.Fatal("the watch is not opened again")
		case <-time.After(10 * time.Millisecond):
		}
	}
	if !strings.Contains(again[0], "sendInitialEvents=true") {
		t.Errorf("it asks for %s", again[0])
	}
	if got := inventory(t, s); len(got.Instances) != 1 {
		t.Errorf("got %+v", got)
	}
}

func TestASilentWatchIsOpenedAnew(t *testing.T) {
	t.Parallel()
	server := newServer(t)
	s := start(t, server.URL, func(o *kube.Options) { o.Silence = 1100 * time.Millisecond }) // a shorter watch would be taken for a fault
	inventory(t, s)
	for limit := time.After(20 * time.Second); server.count("watch pods") < 3; {
		select {
		case <-limit:
			t.Fatal("a watch that brings nothing is waited for")
		case <-time.After(10 * time.Millisecond):
		}
	}
	// And what happened meanwhile is not lost.
	server.put(podOf("Deployment", "unified-gw", "a", "akeyless-gateway", gatewayImage))
	for limit := time.After(20 * time.Second); ; {
		got, err := s.Inventory(t.Context())
		if err == nil && len(got.Instances) == 1 {
			break
		}
		select {
		case <-limit:
			t.Fatalf("the pod is not seen: %v", err)
		default:
		}
	}
}

// A watch whose answer never begins would hold a source forever.
func TestAWatchThatDoesNotOpenIsGivenUp(t *testing.T) {
	t.Parallel()
	server := newServer(t, podOf("Deployment", "unified-gw", "a", "akeyless-gateway", gatewayImage))
	var first atomic.Bool
	server.intercept(func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, "/pods") && first.CompareAndSwap(false, true) {
			<-r.Context().Done()
			return true
		}
		return false
	})
	s := start(t, server.URL, func(o *kube.Options) { o.Timeout = time.Second })
	for limit := time.After(20 * time.Second); ; {
		got, err := s.Inventory(t.Context())
		if err == nil && len(got.Instances) == 1 {
			break
		}
		select {
		case <-limit:
			t.Fatalf("the pod is not seen: %v", err)
		default:
		}
	}
}

func TestRunEndsWithItsContext(t *testing.T) {
	t.Parallel()
	// Also when nothing answers, and a pause would be on.
	server := newServer(t)
	server.Close()
	s := prepare(t, server.URL)
	ctx, cancel := contextWithCancel(t)
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	_, _ = s.Inventory(t.Context())
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("got %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Error("it goes on")
	}
}

func TestACallersEndIsNotTheServersFault(t *testing.T) {
	t.Parallel()
	ctx, cancel := contextWithCancel(t)
	cancel()
	s := prepare(t, newServer(t).URL)
	_, inventory := s.Inventory(ctx)
	_, pack := s.Package(ctx)
	_, permissions := s.Permissions(ctx)
	for _, err := range []error{inventory, pack, permissions} {
		if !errors.Is(err, ctx.Err()) || errs.IDOf(err) != "" {
			t.Errorf("got %v", err)
		}
	}
}

func TestWhatCannotBeUsedIsRefused(t *testing.T) {
	t.Parallel()
	config := kubeconfig(t, "https://127.0.0.1:1")
	for name, c := range map[string]struct {
		o    kube.Options
		id   string
		says string
	}{
		"no such file":          {kube.Options{Kubeconfig: filepath.Join(t.TempDir(), "absent")}, "LS-KUB-001", "absent"},
		"no such context":       {kube.Options{Kubeconfig: config, Context: "prod"}, "LS-KUB-001", `"prod"`},
		"no kind of workload":   {kube.Options{Kubeconfig: config, Workloads: map[string]fleet.Component{"job/x": fleet.Gateway}}, "LS-KUB-010", `"job/x"`},
		"no name":               {kube.Options{Kubeconfig: config, Workloads: map[string]fleet.Component{"deployment/": fleet.Gateway}}, "LS-KUB-010", `"deployment/"`},
		"no component":          {kube.Options{Kubeconfig: config, Workloads: map[string]fleet.Component{"deployment/x": ""}}, "LS-KUB-010", `"deployment/x"`},
		"more than a container": {kube.Options{Kubeconfig: config, Workloads: map[string]fleet.Component{"deployment/x/y/z": fleet.Gateway}}, "LS-KUB-010", "deployment/NAME/CONTAINER"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := kube.New(c.o)
			if errs.IDOf(err) != c.id || errs.KindOf(err) != errs.Invalid || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v", err)
			}
		})
	}
}
