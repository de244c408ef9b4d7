//go:build integration

package kube_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/lockstep-fleet/lockstep/integration/lab/kube"
)

// holdVariable makes this test binary a run that starts a control plane, says
// where, and waits to be killed.
const holdVariable = "LAB_KUBE_HOLD"

func TestMain(m *testing.M) {
	if os.Getenv(holdVariable) != "" {
		l, err := kube.Start(context.Background(), options())
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(l.URL())
		select {}
	}
	os.Exit(m.Run())
}

func options() kube.Options {
	return kube.Options{Users: []string{"eve"}, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))}
}

func start(t *testing.T) *kube.Lab {
	t.Helper()
	l, err := kube.Start(t.Context(), options())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func clientOf(t *testing.T, kubeconfig string) kubernetes.Interface {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	c, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// eventually waits until check has no complaint, or fails with the last one.
func eventually(t *testing.T, check func() error) {
	t.Helper()
	limit := time.After(30 * time.Second)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-limit:
			t.Fatal(err)
		case <-tick.C:
		}
	}
}

// A killed run must leave nothing that stops the next one, and a live one must be
// waited for.
func TestStartAfterKilledRun(t *testing.T) {
	other := exec.Command(os.Args[0])
	other.Env = append(os.Environ(), holdVariable+"=1")
	other.Stderr = os.Stderr
	out, err := other.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	url, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("the other run did not start a control plane: %v", err)
	}
	short, stop := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer stop()
	if _, err := kube.Start(short, options()); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("while another run holds the control plane: got %v, want a wait until the deadline", err)
	}
	if err := other.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := other.Wait(); err == nil {
		t.Fatal("the killed run ended well")
	}
	eventually(t, func() error {
		conn, err := net.DialTimeout("tcp", strings.TrimPrefix(strings.TrimSpace(url), "https://"), time.Second)
		if err == nil {
			return errors.Join(errors.New("the killed run's API server still answers"), conn.Close())
		}
		return nil
	})

	l, err := kube.Start(t.Context(), options())
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(l.Kubeconfig(kube.Admin))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after Close the folder %s is still there, or cannot be read: %v", dir, err)
	}
}

func TestPodsFareAsTheirImageSays(t *testing.T) {
	l := start(t)
	admin := clientOf(t, l.Kubeconfig(kube.Admin))
	const sidecar = "docker.io/library/redis@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	for name, c := range map[string]struct {
		tag, state string
		phase      corev1.PodPhase
		ready      bool
		restarts   int32
		pulled     bool
	}{
		"well":        {tag: "5.0.1", phase: corev1.PodRunning, ready: true, pulled: true},
		"sick":        {tag: "5.0.1-sick", phase: corev1.PodRunning, pulled: true},
		"crash":       {tag: "5.0.1-crash", phase: corev1.PodRunning, state: "CrashLoopBackOff", restarts: 4, pulled: true},
		"unpublished": {tag: "5.0.1-unpublished", phase: corev1.PodPending, state: "ImagePullBackOff"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			image := "127.0.0.1:5000/akeyless/gateway:" + c.tag
			labels := map[string]string{"app": name}
			_, err := admin.AppsV1().Deployments("default").Create(t.Context(), &appsv1.Deployment{
				ObjectMeta: metav1.ObjectMeta{Name: name},
				Spec: appsv1.DeploymentSpec{
					Selector: &metav1.LabelSelector{MatchLabels: labels},
					Template: corev1.PodTemplateSpec{
						ObjectMeta: metav1.ObjectMeta{Labels: labels},
						Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "main", Image: image}, {Name: "side", Image: sidecar}}},
					},
				},
			}, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			imageID := ""
			if c.pulled {
				imageID = kube.ImageID(image)
			}
			eventually(t, func() error {
				pods, err := admin.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{LabelSelector: "app=" + name})
				if err != nil {
					return err
				}
				if len(pods.Items) != 1 || len(pods.Items[0].Status.ContainerStatuses) != 2 {
					return fmt.Errorf("%d pods, want one with two containers that were started", len(pods.Items))
				}
				p := pods.Items[0]
				own, side := p.Status.ContainerStatuses[0], p.Status.ContainerStatuses[1]
				state := ""
				if own.State.Waiting != nil {
					state = own.State.Waiting.Reason
				}
				ready := false
				for _, condition := range p.Status.Conditions {
					ready = ready || condition.Type == corev1.PodReady && condition.Status == corev1.ConditionTrue
				}
				if p.Status.Phase != c.phase || own.Ready != c.ready || ready != c.ready || state != c.state || own.RestartCount != c.restarts ||
					own.ImageID != imageID || !side.Ready || side.ImageID != sidecar || p.Spec.NodeName == "" {
					return fmt.Errorf("%s is on %q with status %+v", name, p.Spec.NodeName, p.Status)
				}
				return nil
			})
			if err := admin.AppsV1().Deployments("default").Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
				t.Fatal(err)
			}
			eventually(t, func() error {
				pods, err := admin.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{LabelSelector: "app=" + name})
				if err == nil && len(pods.Items) > 0 {
					err = errors.New("pods outlive their deployment")
				}
				return err
			})
		})
	}
}

func TestAPIServerStopsAndForgets(t *testing.T) {
	l := start(t)
	if _, err := clientOf(t, l.Kubeconfig("eve")).CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a user without a role lists pods: %v", err)
	}
	admin := clientOf(t, l.Kubeconfig(kube.Admin))
	kept, err := admin.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "kept"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.StopAPIServer(); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.CoreV1().ConfigMaps("default").Get(t.Context(), "kept", metav1.GetOptions{}); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("a stopped API server answers, or is not simply gone: %v", err)
	}
	if err := l.Compact(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := l.StartAPIServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	got, err := admin.CoreV1().ConfigMaps("default").Get(t.Context(), "kept", metav1.GetOptions{})
	if err != nil || got.UID != kept.UID {
		t.Errorf("after a restart the object is another or gone: %v", err)
	}
	stream, err := admin.CoreV1().ConfigMaps("default").Watch(t.Context(), metav1.ListOptions{ResourceVersion: kept.ResourceVersion})
	if err == nil {
		event := <-stream.ResultChan()
		err = apierrors.FromObject(event.Object)
		stream.Stop()
	}
	if !apierrors.IsResourceExpired(err) && !apierrors.IsGone(err) {
		t.Errorf("watching from a revision that etcd has forgotten: %v, want 410 Gone", err)
	}
}
