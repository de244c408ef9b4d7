//go:build integration

package kube_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"

	"github.com/lockstep-fleet/lockstep/adapters/kube"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// collector is the service account of the manifests.
const collector = "lockstep-collector"

// manifests are what people apply, as kustomize renders it from an overlay of theirs.
// More are lines of that overlay.
func (f *fixture) manifests(more ...string) []runtime.Object {
	f.t.Helper()
	return f.manifestsOf(collector, more...)
}

// manifestsOf are those of a service account, such as lockstep-driver.
func (f *fixture) manifestsOf(account string, more ...string) []runtime.Object {
	f.t.Helper()
	name := strings.TrimPrefix(account, "lockstep-")
	folder := "../../deploy/k8s/" + name
	files := filesys.MakeFsInMemory()
	entries, err := os.ReadDir(folder)
	if err != nil {
		f.t.Fatal(err)
	}
	write := func(path, content string) {
		if err := files.WriteFile(path, []byte(content)); err != nil {
			f.t.Fatal(err)
		}
	}
	for _, e := range entries {
		content, err := os.ReadFile(filepath.Join(folder, e.Name()))
		if err != nil {
			f.t.Fatal(err)
		}
		write("/"+name+"/"+e.Name(), string(content))
	}
	write("/overlay/kustomization.yaml", fmt.Sprintf("namespace: %s\nresources: [../%s]\n%s", f.namespace, name, strings.Join(more, "\n")))
	rendered, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(files, "/overlay")
	if err != nil {
		f.t.Fatal(err)
	}
	var out []runtime.Object
	for _, r := range rendered.Resources() {
		text, err := r.AsYAML()
		if err != nil {
			f.t.Fatal(err)
		}
		o, _, err := scheme.Codecs.UniversalDeserializer().Decode(text, nil, nil)
		if err != nil {
			f.t.Fatalf("%v in\n%s", err, text)
		}
		out = append(out, o)
	}
	return out
}

func (f *fixture) apply(objects []runtime.Object) {
	f.t.Helper()
	for _, object := range objects {
		var err error
		switch o := object.(type) {
		case *corev1.ServiceAccount:
			_, err = f.admin.CoreV1().ServiceAccounts(o.Namespace).Create(f.t.Context(), o, metav1.CreateOptions{})
		case *rbacv1.Role:
			_, err = f.admin.RbacV1().Roles(o.Namespace).Create(f.t.Context(), o, metav1.CreateOptions{})
		case *rbacv1.RoleBinding:
			_, err = f.admin.RbacV1().RoleBindings(o.Namespace).Create(f.t.Context(), o, metav1.CreateOptions{})
		default:
			err = fmt.Errorf("the manifests have a %T", o)
		}
		if err != nil {
			f.t.Fatal(err)
		}
	}
}

// missing waits until all of a source's permissions are granted but those that are
// named, and returns these.
func (f *fixture) missing(s *kube.Source, want ...string) []kube.Permission {
	f.t.Helper()
	var out []kube.Permission
	eventually(f.t, func() error { // a role counts a moment after it was made
		all, err := s.Permissions(f.t.Context())
		if err != nil {
			return err
		}
		out = nil
		var names []string
		for _, p := range all {
			if !p.Allowed {
				out = append(out, p)
				names = append(names, p.Verb+" "+p.Resource)
			}
		}
		if !slices.Equal(names, want) {
			return fmt.Errorf("not allowed: %q, want %q", names, want)
		}
		return nil
	})
	return out
}

// releases installs two releases, each kept where Helm can keep it, and returns what
// reading them takes.
func (f *fixture) releases() (kube.Options, []fleet.HelmRelease) {
	f.t.Helper()
	f.helm().install("gw", current, nil)
	f.helmIn("configmap").install("other", next, nil)
	return kube.Options{Releases: []string{"gw", "other"}}, []fleet.HelmRelease{
		f.record("gw", current, 1, "deployed", fleet.VersionSet{fleet.LineGateway: "5.0.1", fleet.LineSRA: "3.1.0"}),
		f.record("other", next, 1, "deployed", fleet.VersionSet{fleet.LineGateway: "5.1.0", fleet.LineSRA: "3.2.0"}),
	}
}

func ofReleases() map[string]int {
	return map[string]int{
		"deployment/unified-gw-akeyless-gateway": 2, "deployment/web-gw-akeyless-gateway": 1, "deployment/ssh-gw-akeyless-gateway": 1,
		"deployment/unified-other-akeyless-gateway": 2, "deployment/web-other-akeyless-gateway": 1, "deployment/ssh-other-akeyless-gateway": 1,
	}
}

func TestManifestsGrantEnoughAndNoMore(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	o, records := f.releases()
	f.apply(f.manifests())
	o.Kubeconfig = f.kubeconfig(collector, nil)
	s := f.source(o)
	f.missing(s)
	f.inventory(s, healthy(ofReleases()))
	f.declared(s, records...)

	config, err := clientcmd.BuildConfigFromFlags("", o.Kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	itself, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	rules, err := itself.AuthorizationV1().SelfSubjectRulesReviews().Create(t.Context(),
		&authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: f.namespace}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rules.Status.ResourceRules {
		if slices.Contains(r.APIGroups, "authorization.k8s.io") || slices.Contains(r.APIGroups, "authentication.k8s.io") {
			continue // everybody may ask what he may, and who he is
		}
		for _, verb := range r.Verbs {
			if !slices.Contains([]string{"get", "list", "watch"}, verb) {
				t.Errorf("the manifests grant to %s %s", verb, r.Resources)
			}
		}
	}
	for name, err := range map[string]error{
		"pods of another namespace": func() error {
			_, err := itself.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{})
			return err
		}(),
		"another namespace": func() error {
			_, err := itself.CoreV1().Namespaces().Get(t.Context(), "default", metav1.GetOptions{})
			return err
		}(),
		"nodes": func() error { _, err := itself.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{}); return err }(),
	} {
		if !apierrors.IsForbidden(err) {
			t.Errorf("reading %s: %v, want that it is forbidden", name, err)
		}
	}
}

// As deploy/k8s/collector/README.md says how to keep Secrets to themselves.
func TestManifestsWithoutHelm(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	o, _ := f.releases()
	readme, err := os.ReadFile("../../deploy/k8s/collector/README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, patches, found := strings.Cut(string(readme), "resources: [../collector]\n")
	patches, _, ended := strings.Cut(patches, "```")
	if !found || !ended {
		t.Fatal("the README shows no overlay with patches")
	}
	f.apply(f.manifests(patches))
	o.Kubeconfig = f.kubeconfig(collector, nil)
	s := f.source(o)
	f.missing(s, "get secrets", "list secrets", "get configmaps", "list configmaps")
	f.inventory(s, healthy(ofReleases()))
	if _, err := s.Package(t.Context()); errs.IDOf(err) != "LS-KUB-008" || errs.KindOf(err) != errs.PermissionDenied {
		t.Errorf("reading Helm's records: %v, want LS-KUB-008", err)
	}
}

// Each rule of the manifests is taken away once. Permissions names it, and so does
// the error of what does not work without it.
func TestEachRuleIsNeeded(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	options, records := f.releases()
	roles := make(map[string]*rbacv1.Role)
	for _, o := range f.manifests() {
		if role, ok := o.(*rbacv1.Role); ok {
			roles[role.Name] = role
		}
	}
	for of, role := range roles {
		for _, rule := range flat(role.Rules) {
			group, resource, verb := rule.APIGroups[0], rule.Resources[0], rule.Verbs[0]
			qualified := strings.TrimSuffix(resource+"."+group, ".")
			name := verb + "-" + qualified
			t.Run(name, func(t *testing.T) {
				f := *f
				f.t = t
				// One role of all that is left is what two are.
				left := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: f.namespace}}
				for _, r := range roles {
					for _, other := range flat(r.Rules) {
						if other.APIGroups[0] != group || other.Resources[0] != resource || other.Verbs[0] != verb {
							left.Rules = append(left.Rules, other)
						}
					}
				}
				f.apply([]runtime.Object{left})
				f.account(name, rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name})
				o := options
				o.Kubeconfig = f.kubeconfig(name, nil)
				s := f.source(o)
				if p := f.missing(s, verb+" "+qualified)[0]; p.Namespace != f.namespace || p.Without == "" {
					t.Errorf("the missing permission is told as %+v", p)
				}
				var err error
				switch {
				case of == collector && verb == "list":
					// This API server lists by a watch; those before it do not.
					f.inventory(s, healthy(ofReleases()))
					return
				case of == collector:
					f.declared(s, records...)
					err = f.fails(s, "LS-KUB-004")
				default:
					f.inventory(s, healthy(ofReleases()))
					if _, err = s.Package(t.Context()); errs.IDOf(err) != "LS-KUB-008" {
						t.Fatalf("got %v, want LS-KUB-008", err)
					}
				}
				if errs.KindOf(err) != errs.PermissionDenied || !strings.Contains(err.Error(), verb) || !strings.Contains(err.Error(), qualified) || !strings.Contains(err.Error(), f.namespace) {
					t.Errorf("the error does not name what is missing: %v", err)
				}
			})
		}
	}
}

// flat makes rules of one group, resource and verb each.
func flat(rules []rbacv1.PolicyRule) []rbacv1.PolicyRule {
	var out []rbacv1.PolicyRule
	for _, r := range rules {
		for _, group := range r.APIGroups {
			for _, resource := range r.Resources {
				for _, verb := range r.Verbs {
					out = append(out, rbacv1.PolicyRule{APIGroups: []string{group}, Resources: []string{resource}, Verbs: []string{verb}})
				}
			}
		}
	}
	return out
}
