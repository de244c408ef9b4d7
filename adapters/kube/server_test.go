package kube_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	authv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/lockstep-fleet/lockstep/adapters/kube"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

const namespace = "vault"

var at = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func now() time.Time { return at }

// object is what the server keeps: any of the typed objects.
type object interface {
	runtime.Object
	metav1.Object
}

// change is one event of the server's history.
type change struct {
	version  int
	resource string
	kind     string // ADDED, MODIFIED or DELETED
	text     json.RawMessage
}

// apiServer speaks as much of the Kubernetes API as a source asks for. It keeps
// its history, so that a watch goes on where it was.
type apiServer struct {
	t *testing.T
	*httptest.Server

	mu      sync.Mutex
	turn    chan struct{} // closed at each change
	version int
	objects map[string]map[string]object // by resource and name
	history []change
	// hook answers a request instead of the server when it says so.
	hook func(w http.ResponseWriter, r *http.Request) bool
	// forbidden are "verb resource" that are answered with 403.
	forbidden []string
	seen      []string // "verb resource" of every request
	urls      []string
	over      chan struct{} // closed to end all watches as a server does
	held      chan struct{} // while it is there and open, what a watch begins with is held back
}

func newServer(t *testing.T, objects ...object) *apiServer {
	t.Helper()
	s := &apiServer{t: t, turn: make(chan struct{}), over: make(chan struct{}), version: 100, objects: make(map[string]map[string]object)}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	s.put(objects...)
	return s
}

func resourceOf(o object) string {
	name := fmt.Sprintf("%T", o)
	return strings.ToLower(name[strings.LastIndexByte(name, '.')+1:]) + "s"
}

func (s *apiServer) put(objects ...object) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range objects {
		resource := resourceOf(o)
		kind := "MODIFIED"
		if s.objects[resource] == nil {
			s.objects[resource] = make(map[string]object)
		}
		if s.objects[resource][o.GetName()] == nil {
			kind = "ADDED"
		}
		s.objects[resource][o.GetName()] = o
		s.note(resource, kind, o)
	}
}

func (s *apiServer) remove(o object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.objects[resourceOf(o)], o.GetName())
	s.note(resourceOf(o), "DELETED", o)
}

// note adds to the history, with s.mu held.
func (s *apiServer) note(resource, kind string, o object) {
	s.version++
	kinds, _, err := scheme.Scheme.ObjectKinds(o)
	if err != nil {
		s.t.Error(err)
		return
	}
	o.GetObjectKind().SetGroupVersionKind(kinds[0])
	o.SetNamespace(namespace)
	o.SetResourceVersion(strconv.Itoa(s.version))
	text, err := json.Marshal(o)
	if err != nil {
		s.t.Error(err)
	}
	s.history = append(s.history, change{s.version, resource, kind, text})
	close(s.turn)
	s.turn = make(chan struct{})
}

// intercept sets the hook; nil takes it away.
func (s *apiServer) intercept(hook func(w http.ResponseWriter, r *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hook = hook
}

func (s *apiServer) forbid(asked ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forbidden = asked
}

func (s *apiServer) count(asked string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, seen := range s.seen {
		if seen == asked {
			n++
		}
	}
	return n
}

// asked returns the addresses of all requests.
func (s *apiServer) asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.urls)
}

// endWatches ends those that are open, as a server does from time to time.
func (s *apiServer) endWatches() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.over)
	s.over = make(chan struct{})
}

// hold keeps back what watches begin with, until the function it returns is called.
func (s *apiServer) hold() (release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	held := make(chan struct{})
	s.held = held
	return func() { close(held) }
}

func (s *apiServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	i := slices.Index(parts, "namespaces")
	resource, name := "", ""
	switch {
	case i < 0:
		resource = parts[len(parts)-1]
	case len(parts) == i+2:
		resource, name = "namespaces", parts[i+1]
	default:
		resource = parts[i+2]
		if len(parts) > i+3 {
			name = parts[i+3]
		}
	}
	verb := "list"
	switch {
	case r.Method == http.MethodPost, r.Method == http.MethodPut:
		verb = "create" // or anew
	case r.URL.Query().Get("watch") != "":
		verb = "watch"
	case name != "":
		verb = "get"
	}
	s.mu.Lock()
	s.seen = append(s.seen, verb+" "+resource)
	s.urls = append(s.urls, r.URL.String())
	hook, denied := s.hook, slices.Contains(s.forbidden, verb+" "+resource)
	s.mu.Unlock()
	switch {
	case hook != nil && hook(w, r):
	case denied:
		fail(w, http.StatusForbidden, metav1.StatusReasonForbidden, "User \"collector\" cannot "+verb+" resource \""+resource+"\"")
	case verb == "create" && resource == "selfsubjectaccessreviews":
		s.review(w, r)
	case verb == "create":
		s.create(w, r, resource)
	case verb == "watch":
		s.watch(w, r, resource)
	case resource == "namespaces":
		if name != namespace {
			fail(w, http.StatusNotFound, metav1.StatusReasonNotFound, "namespaces \""+name+"\" not found")
			return
		}
		reply(w, map[string]any{"kind": "Namespace", "apiVersion": "v1", "metadata": map[string]any{"name": name}})
	case verb == "get":
		s.get(w, resource, name)
	default:
		s.list(w, r, resource)
	}
}

func (s *apiServer) get(w http.ResponseWriter, resource, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	found := s.objects[resource][name]
	if found == nil {
		fail(w, http.StatusNotFound, metav1.StatusReasonNotFound, resource+" \""+name+"\" not found")
		return
	}
	reply(w, found)
}

func (s *apiServer) list(w http.ResponseWriter, r *http.Request, resource string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	items := make([]any, 0)
	for _, o := range s.objects[resource] {
		if selector := r.URL.Query().Get("labelSelector"); selector != "" {
			key, value, _ := strings.Cut(selector, "=")
			if o.GetLabels()[key] != value {
				continue
			}
		}
		if strings.Contains(r.Header.Get("Accept"), "PartialObjectMetadataList") {
			text, _ := json.Marshal(o)
			var whole struct {
				Metadata json.RawMessage `json:"metadata"`
			}
			_ = json.Unmarshal(text, &whole)
			items = append(items, whole)
			continue
		}
		items = append(items, o)
	}
	list := map[string]any{"kind": kindsOf[resource].kind + "List", "apiVersion": kindsOf[resource].version, "metadata": map[string]any{"resourceVersion": strconv.Itoa(s.version)}, "items": items}
	if strings.Contains(r.Header.Get("Accept"), "PartialObjectMetadataList") {
		list["kind"], list["apiVersion"] = "PartialObjectMetadataList", "meta.k8s.io/v1"
	}
	reply(w, list)
}

// watch streams the history from the version that is asked for, or, when a list is
// wanted first, all there is with the bookmark that ends it.
func (s *apiServer) watch(w http.ResponseWriter, r *http.Request, resource string) {
	from, _ := strconv.Atoi(r.URL.Query().Get("resourceVersion"))
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusOK)
	_ = http.NewResponseController(w).Flush()
	s.mu.Lock()
	held := s.held
	s.mu.Unlock()
	if held != nil {
		select {
		case <-held:
		case <-r.Context().Done():
			return
		}
	}
	s.mu.Lock()
	over := s.over
	if r.URL.Query().Get("sendInitialEvents") == "true" {
		from = s.version
		for _, o := range s.objects[resource] {
			text, _ := json.Marshal(o)
			event(w, "ADDED", text)
		}
		bookmark, _ := json.Marshal(map[string]any{
			"kind": kindsOf[resource].kind, "apiVersion": kindsOf[resource].version,
			"metadata": map[string]any{"resourceVersion": strconv.Itoa(from), "annotations": map[string]string{metav1.InitialEventsAnnotationKey: "true"}},
		})
		event(w, "BOOKMARK", bookmark)
	}
	s.mu.Unlock()
	for {
		_ = http.NewResponseController(w).Flush()
		s.mu.Lock()
		turn := s.turn
		for _, c := range s.history {
			if c.version > from {
				from = c.version
				if c.resource == resource {
					event(w, c.kind, c.text)
				}
			}
		}
		s.mu.Unlock()
		_ = http.NewResponseController(w).Flush()
		select {
		case <-turn:
		case <-over:
			return
		case <-r.Context().Done():
			return
		}
	}
}

var kindsOf = map[string]struct{ kind, version string }{
	"pods": {"Pod", "v1"}, "deployments": {"Deployment", "apps/v1"}, "statefulsets": {"StatefulSet", "apps/v1"}, "daemonsets": {"DaemonSet", "apps/v1"},
}

func (s *apiServer) review(w http.ResponseWriter, r *http.Request) {
	var review authv1.SelfSubjectAccessReview
	if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
		s.t.Errorf("a review that cannot be read: %v", err)
	}
	want := review.Spec.ResourceAttributes
	s.mu.Lock()
	review.Status.Allowed = want.Namespace == namespace && !slices.Contains(s.forbidden, want.Verb+" "+want.Resource)
	s.mu.Unlock()
	reply(w, review)
}

func (s *apiServer) create(w http.ResponseWriter, r *http.Request, resource string) {
	made := map[string]object{"secrets": &corev1.Secret{}, "configmaps": &corev1.ConfigMap{}}[resource]
	if err := json.NewDecoder(r.Body).Decode(made); err != nil {
		s.t.Errorf("an object that cannot be read: %v", err)
	}
	s.put(made)
	reply(w, made)
}

func event(w http.ResponseWriter, kind string, text json.RawMessage) {
	_ = json.NewEncoder(w).Encode(map[string]any{"type": kind, "object": text})
}

func reply(w http.ResponseWriter, answer any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer)
}

func fail(w http.ResponseWriter, code int, reason metav1.StatusReason, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(status(code, reason, message))
}

func status(code int, reason metav1.StatusReason, message string) metav1.Status {
	return metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"},
		Status:   metav1.StatusFailure, Code: int32(code), Reason: reason, Message: message,
	}
}

// kubeconfig writes one that points to an address.
func kubeconfig(t *testing.T, url string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"lab",
		"clusters":[{"name":"lab","cluster":{"server":%q}}],
		"contexts":[{"name":"lab","context":{"cluster":"lab","user":"lab","namespace":%q}}],
		"users":[{"name":"lab","user":{"token":"t"}}]}`, url, namespace)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// prepare makes a source of a server and does not run it.
func prepare(t *testing.T, url string, set ...func(*kube.Options)) *kube.Source {
	t.Helper()
	o := kube.Options{
		Cluster: "east", Kubeconfig: kubeconfig(t, url), Now: now, Timeout: 10 * time.Second,
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
	for _, change := range set {
		change(&o)
	}
	s, err := kube.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// start makes a source of a server and runs it to the end of the test.
func start(t *testing.T, url string, set ...func(*kube.Options)) *kube.Source {
	t.Helper()
	s := prepare(t, url, set...)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run ended with %v", err)
		}
	})
	return s
}

func contextWithCancel(t *testing.T) (context.Context, context.CancelFunc) {
	t.Helper()
	return context.WithCancel(t.Context())
}

func inventory(t *testing.T, s *kube.Source) fleet.Inventory {
	t.Helper()
	got, err := s.Inventory(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// until asks for inventories, one after each signal, until one is right.
func until(t *testing.T, s *kube.Source, what string, right func([]fleet.Instance) bool) {
	t.Helper()
	limit := time.After(30 * time.Second)
	for !right(inventory(t, s).Instances) {
		select {
		case <-s.Changed():
		case <-limit:
			t.Fatalf("never seen: %s", what)
		}
	}
}
