//go:build integration

package drift_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"log/slog"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/cli"
	helmkube "helm.sh/helm/v4/pkg/kube"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/lockstep-fleet/lockstep/adapters/akeyless/akeylesstest"
	adapter "github.com/lockstep-fleet/lockstep/adapters/compose"
	"github.com/lockstep-fleet/lockstep/integration/lab"
	"github.com/lockstep-fleet/lockstep/integration/lab/kube"
	"github.com/lockstep-fleet/lockstep/integration/lab/project"
)

// What the suite stands on, started once.
var (
	program string // the binary, built from this tree
	docker  *lab.Lab
	cluster *kube.Lab
)

// projects are where the Compose clusters' files are.
var projects string

func TestMain(m *testing.M) {
	flag.Parse()
	// What goes on side by side waits nearly all of its time.
	if err := flag.Set("test.parallel", "16"); err != nil {
		log.Fatal(err)
	}
	os.Exit(prepare(m))
}

func prepare(m *testing.M) int {
	dir, err := os.MkdirTemp("", "drift-")
	if err != nil {
		log.Print(err)
		return 1
	}
	code := 1
	if err := startAll(context.Background(), dir); err != nil {
		log.Print(err)
	} else {
		code = m.Run()
	}
	if err := errors.Join(closeAll(), os.RemoveAll(dir)); err != nil {
		log.Print(err)
		return 1
	}
	return code
}

func startAll(ctx context.Context, dir string) error {
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil))
	projects, program = filepath.Join(dir, "projects"), filepath.Join(dir, "lockstep")
	var (
		wg   sync.WaitGroup
		errs [3]error
	)
	wg.Go(func() {
		if out, err := exec.CommandContext(ctx, "go", "build", "-o", program, "github.com/lockstep-fleet/lockstep/cmd/lockstep").CombinedOutput(); err != nil {
			errs[0] = fmt.Errorf("build the program under test: %w\n%s", err, out)
		}
	})
	wg.Go(func() {
		docker, errs[1] = lab.Start(ctx, lab.Options{Clusters: []string{"berlin", "tokyo", "paris"}, Name: "lockstep-drift", Dir: projects, Log: logger})
	})
	wg.Go(func() { cluster, errs[2] = kube.Start(ctx, kube.Options{Log: logger}) })
	wg.Wait()
	return errors.Join(errs[:]...)
}

func closeAll() error {
	var errs []error
	if docker != nil {
		errs = append(errs, docker.Close())
	}
	if cluster != nil {
		errs = append(errs, cluster.Close())
	}
	return errors.Join(errs...)
}

// compose is a cluster that is a Compose project, as a person on its host has it.
type compose struct {
	project project.Project
	// engine is where the product reaches its Docker Engine.
	engine string
}

func composeAt(t *testing.T, name, engine string) *compose {
	t.Helper()
	for _, c := range docker.Clusters {
		if c.Name == name {
			return &compose{project: c.Project, engine: engine}
		}
	}
	t.Fatalf("the lab has no cluster %s", name)
	return nil
}

// edit replaces the image of these services in the Compose file. Nothing of it runs.
func (c *compose) edit(t *testing.T, image string, services ...string) {
	t.Helper()
	text, err := os.ReadFile(c.project.File)
	if err != nil {
		t.Fatal(err)
	}
	service, edited := "", 0
	var out strings.Builder
	for line := range strings.Lines(string(text)) {
		bare := strings.TrimSpace(line)
		if strings.HasPrefix(line, "  ") && !strings.HasPrefix(line, "   ") {
			service = strings.TrimSuffix(bare, ":")
		}
		for _, wanted := range services {
			if service == wanted && strings.HasPrefix(bare, "image: ") {
				line = "    image: " + image + "\n"
				edited++
			}
		}
		out.WriteString(line)
	}
	if edited != len(services) {
		t.Fatalf("%d of %q are in %s", edited, services, c.project.File)
	}
	if err := os.WriteFile(c.project.File, []byte(out.String()), 0o600); err != nil {
		t.Fatal(err)
	}
}

// up edits the Compose file and makes the project run as it says then, as docker
// compose up does.
func (c *compose) up(t *testing.T, image string, services ...string) {
	t.Helper()
	was, err := docker.Compose.Capture(t.Context(), c.project.Target(""))
	if err != nil {
		t.Fatal(err)
	}
	images := make(map[string]string)
	for _, service := range services {
		images[service] = image
	}
	is, err := adapter.Retarget(was, images, nil)
	if err != nil {
		t.Fatal(err)
	}
	c.edit(t, image, services...)
	if err := docker.Compose.Apply(t.Context(), is, nil); err != nil {
		t.Fatal(err)
	}
}

// declaration is the cluster's entry in a fleet file.
func (c *compose) declaration(id string, more ...string) string {
	return fmt.Sprintf("  - id: %s\n    labels: {place: compose}\n%s    compose: {engine: %q, project: %s, dir: %q, files: [%q], profiles: [gateway, sra]}\n",
		id, entries(more), c.engine, c.project.Name, c.project.Dir, c.project.File)
}

func entries(lines []string) string {
	var out strings.Builder
	for _, line := range lines {
		out.WriteString("    " + line + "\n")
	}
	return out.String()
}

// vendorCluster is a cluster's name at the vendor.
func vendorCluster(id string) string { return "acc-lab/p-lab/" + id }

// atVendor is the line of a declaration that says so.
func atVendor(id string) string { return "vendor_cluster: " + vendorCluster(id) }

// registered has the vendor tell that a cluster's SSH bastion reported a version just
// now.
func registered(vendor *akeylesstest.Server, id, version string) {
	now := time.Now()
	vendor.SetCluster(akeylesstest.Cluster{Name: vendorCluster(id), DisplayName: id, LastReport: now, Instances: []akeylesstest.Instance{
		{ID: id + "-ssh", Version: version, LastReport: now},
	}})
}

// The gateway of a release gw of the chart: its workload, and the image without a tag.
const (
	gatewayWorkload = "unified-gw-akeyless-gateway"
	gatewayImage    = "docker.io/akeyless/gateway"
)

// release is one version of the vendor's chart.
type release struct{ chart, gateway, sra string }

// namespace is a cluster that is a Kubernetes namespace, in the hands of somebody
// with kubectl.
type namespace struct {
	name  string
	admin kubernetes.Interface
}

// install makes a namespace in which a release of the chart runs.
func install(t *testing.T, name string, r release) *namespace {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", cluster.Kubeconfig(kube.Admin))
	if err != nil {
		t.Fatal(err)
	}
	config.QPS = -1
	n := &namespace{name: name}
	if n.admin, err = kubernetes.NewForConfig(config); err != nil {
		t.Fatal(err)
	}
	if _, err := n.admin.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	settings := cli.New()
	settings.KubeConfig = cluster.Kubeconfig(kube.Admin)
	settings.SetNamespace(name)
	helm := action.NewConfiguration()
	if err := helm.Init(settings.RESTClientGetter(), name, "secret"); err != nil {
		t.Fatal(err)
	}
	chart, err := loader.Load("../kube/testdata/akeyless-gateway")
	if err != nil {
		t.Fatal(err)
	}
	chart.Metadata.Version, chart.Metadata.AppVersion = r.chart, r.gateway+"_"+r.chart
	chart.Metadata.Annotations = maps.Clone(chart.Metadata.Annotations)
	chart.Metadata.Annotations["gatewayVersion"], chart.Metadata.Annotations["sraVersion"] = r.gateway, r.sra
	first := action.NewInstall(helm)
	first.ReleaseName, first.Namespace = "gw", name
	first.WaitStrategy, first.Timeout = helmkube.StatusWatcherStrategy, limit
	if _, err := first.RunWithContext(t.Context(), chart, nil); err != nil {
		t.Fatal(err)
	}
	return n
}

// setImage patches a deployment, as kubectl set image does.
func (n *namespace) setImage(t *testing.T, name, image string) {
	t.Helper()
	d, err := n.admin.AppsV1().Deployments(n.name).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"template": map[string]any{"spec": map[string]any{
		"containers": []map[string]string{{"name": d.Spec.Template.Spec.Containers[0].Name, "image": image}},
	}}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := n.admin.AppsV1().Deployments(n.name).Patch(t.Context(), name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
}

// declaration is the cluster's entry in a fleet file.
func (n *namespace) declaration(id string, more ...string) string {
	return fmt.Sprintf("  - id: %s\n    labels: {place: kubernetes}\n%s    kubernetes: {kubeconfig: %q, namespace: %s}\n", id, entries(more), cluster.Kubeconfig(kube.Admin), n.name)
}

// wire is the way to the Docker Engine, which can be cut.
type wire struct {
	path            string
	network, engine string // where it leads
	wg              sync.WaitGroup

	mu       sync.Mutex
	listener net.Listener
	open     map[net.Conn]bool
}

// wireTo lays a way to an engine that ends with the test.
func wireTo(t *testing.T, engine, path string) *wire {
	t.Helper()
	w := &wire{path: path, open: make(map[net.Conn]bool)}
	w.network, w.engine, _ = strings.Cut(engine, "://")
	w.mend(t)
	t.Cleanup(w.cut)
	return w
}

func (w *wire) mend(t *testing.T) {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "unix", w.path)
	if err != nil {
		t.Fatal(err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.listener = l
	w.wg.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return // it is cut
			}
			w.wg.Go(func() { w.carry(l, near) })
		}
	})
}

// carry takes what is said on a connection to the engine and back until either side
// ends it.
func (w *wire) carry(of net.Listener, near net.Conn) {
	far, err := new(net.Dialer).DialContext(context.Background(), w.network, w.engine)
	if err != nil {
		_ = near.Close()
		return
	}
	if !w.keep(of, near, far) {
		return
	}
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
		both.Go(func() {
			_, _ = io.Copy(way[0], way[1])
			_, _ = near.Close(), far.Close()
		})
	}
	both.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.open, near)
	delete(w.open, far)
}

// keep remembers connections to cut, or ends them where that has happened already.
func (w *wire) keep(of net.Listener, ends ...net.Conn) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, end := range ends {
		if w.listener != of {
			_ = end.Close()
			continue
		}
		w.open[end] = true
	}
	return w.listener == of
}

// cut ends every connection, and nobody gets through any more.
func (w *wire) cut() {
	w.mu.Lock()
	if w.listener != nil {
		_ = w.listener.Close()
		w.listener = nil
	}
	for end := range w.open {
		_ = end.Close()
	}
	w.mu.Unlock()
	w.wg.Wait()
}
