//go:build integration

package kube_test

import (
	"context"
	"crypto/rand"
	"log"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	helmkube "helm.sh/helm/v4/pkg/kube"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/lockstep-fleet/lockstep/adapters/kube"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	lab "github.com/lockstep-fleet/lockstep/integration/lab/kube"
)

// The vendor's images.
const (
	gatewayImage = "docker.io/akeyless/gateway"
	bastionImage = "docker.io/akeyless/zero-trust-bastion"
)

// limit is how long something may take that takes seconds where nothing else runs.
const limit = time.Minute

// cluster is the control plane that all tests share. Tests that break it are not
// parallel: those that are begin when all of them are over.
var cluster *lab.Lab

func TestMain(m *testing.M) { os.Exit(prepare(m)) }

func prepare(m *testing.M) int {
	if order := os.Getenv(handEnv); order != "" {
		return hand(order)
	}
	helmkube.ManagedFieldsManager = "helm" // as it is for Helm's own command
	var err error
	cluster, err = lab.Start(context.Background(), lab.Options{Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		log.Print(err)
		return 1
	}
	code := m.Run()
	if err := cluster.Close(); err != nil {
		log.Print(err)
		return 1
	}
	return code
}

// fixture is one test's namespace.
type fixture struct {
	t         *testing.T
	namespace string
	config    *rest.Config
	admin     kubernetes.Interface
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", cluster.Kubeconfig(lab.Admin))
	if err != nil {
		t.Fatal(err)
	}
	config.QPS = -1
	admin, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	f := &fixture{t: t, namespace: "t-" + strings.ToLower(rand.Text()[:8]), config: config, admin: admin}
	if _, err := admin.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: f.namespace}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// The test's own context ends before cleanups run.
		err := admin.CoreV1().Namespaces().Delete(context.WithoutCancel(t.Context()), f.namespace, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			t.Error(err)
		}
	})
	return f
}

// source reads the fixture's namespace as the product does, until the test ends.
func (f *fixture) source(o kube.Options) *kube.Source {
	f.t.Helper()
	o.Cluster = "east"
	if o.Kubeconfig == "" {
		o.Kubeconfig = cluster.Kubeconfig(lab.Admin)
	}
	if o.Namespace == "" {
		o.Namespace = f.namespace
	}
	s, err := kube.New(o)
	if err != nil {
		f.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(f.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	f.t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			f.t.Errorf("the source ended with %v", err)
		}
	})
	return s
}

// eventually waits until check has no complaint, or fails with the last one.
func eventually(t *testing.T, check func() error) {
	t.Helper()
	begun := time.Now()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Since(begun) > limit {
			t.Fatal(err)
		}
		<-tick.C
	}
}

// inventory waits until the inventory is as check wants it. Who asks for them hears
// of the looks that were refused.
func (f *fixture) inventory(s *kube.Source, check func(fleet.Inventory) error, refused ...func(error)) fleet.Inventory {
	f.t.Helper()
	var got fleet.Inventory
	eventually(f.t, func() error {
		var err error
		if got, err = s.Inventory(f.t.Context()); err != nil {
			for _, hear := range refused {
				hear(err)
			}
			return err
		}
		return check(got)
	})
	return got
}

// pods are a workload's, with one container.
func pods(name, container, image string, labels map[string]string, env ...corev1.EnvVar) corev1.PodTemplateSpec {
	all := map[string]string{"app": name}
	for k, v := range labels {
		all[k] = v
	}
	return corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: all},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: container, Image: image, Env: env}}},
	}
}

func selector(name string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}
}

func (f *fixture) deployment(name string, replicas int32, template corev1.PodTemplateSpec) {
	f.t.Helper()
	_, err := f.admin.AppsV1().Deployments(f.namespace).Create(f.t.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       appsv1.DeploymentSpec{Replicas: &replicas, Selector: selector(name), Template: template},
	}, metav1.CreateOptions{})
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) statefulSet(name string, replicas int32, template corev1.PodTemplateSpec) {
	f.t.Helper()
	_, err := f.admin.AppsV1().StatefulSets(f.namespace).Create(f.t.Context(), &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       appsv1.StatefulSetSpec{Replicas: &replicas, Selector: selector(name), ServiceName: name, Template: template},
	}, metav1.CreateOptions{})
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) daemonSet(name string, template corev1.PodTemplateSpec) {
	f.t.Helper()
	_, err := f.admin.AppsV1().DaemonSets(f.namespace).Create(f.t.Context(), &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       appsv1.DaemonSetSpec{Selector: selector(name), Template: template},
	}, metav1.CreateOptions{})
	if err != nil {
		f.t.Fatal(err)
	}
}

// setImage asks a deployment for another image, as kubectl set image does.
func (f *fixture) setImage(name, image string) {
	f.t.Helper()
	f.change(name, func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = image })
}

func (f *fixture) change(name string, edit func(*appsv1.Deployment)) {
	f.t.Helper()
	eventually(f.t, func() error { // its controller writes to it, too
		d, err := f.admin.AppsV1().Deployments(f.namespace).Get(f.t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		edit(d)
		_, err = f.admin.AppsV1().Deployments(f.namespace).Update(f.t.Context(), d, metav1.UpdateOptions{})
		return err
	})
}
