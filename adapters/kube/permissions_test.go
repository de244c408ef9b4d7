package kube_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// manifests is the folder that grants what a source needs.
const manifests = "../../deploy/k8s/collector"

func TestPermissionsSayWhatIsMissing(t *testing.T) {
	t.Parallel()
	server := newServer(t)
	server.forbid("watch daemonsets", "list secrets")
	got, err := prepare(t, server.URL).Permissions(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var denied []string
	for _, p := range got {
		if !p.Allowed {
			denied = append(denied, p.Verb+" "+p.Resource)
		}
		if p.Namespace != namespace || p.Without == "" {
			t.Errorf("%+v does not say where, or what is not seen", p)
		}
	}
	if diff := cmp.Diff([]string{"watch daemonsets.apps", "list secrets"}, denied); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	server.Close()
	if _, err := prepare(t, server.URL).Permissions(t.Context()); errs.IDOf(err) != "LS-KUB-002" {
		t.Errorf("without a server: %v", err)
	}
}

// entry is what is read of any of the manifests' objects.
type entry struct {
	Kind     string
	Metadata struct{ Name string }
	Rules    []struct {
		APIGroups     []string `yaml:"apiGroups"`
		Resources     []string
		Verbs         []string
		ResourceNames []string `yaml:"resourceNames"`
	}
	RoleRef struct {
		Kind, Name string
	} `yaml:"roleRef"`
	Subjects  []struct{ Kind, Name string }
	Resources []string // of a kustomization
}

func readManifest(t *testing.T, name string) []entry {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(manifests, name))
	if err != nil {
		t.Fatal(err)
	}
	var out []entry
	for decoder := yaml.NewDecoder(bytes.NewReader(text)); ; {
		var e entry
		if err := decoder.Decode(&e); errors.Is(err, io.EOF) {
			return out
		} else if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		out = append(out, e)
	}
}

// What the manifests grant is what the code asks for: neither more nor less.
func TestTheManifestsGrantExactlyWhatIsAskedFor(t *testing.T) {
	t.Parallel()
	permissions, err := prepare(t, newServer(t).URL).Permissions(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	asked := make(map[string][]string)
	for _, p := range permissions {
		role := "lockstep-collector"
		if p.Resource == "secrets" || p.Resource == "configmaps" {
			role = "lockstep-collector-helm" // which may be left out
		}
		asked[role] = append(asked[role], p.Verb+" "+p.Resource)
	}
	granted := make(map[string][]string)
	for _, role := range readManifest(t, "role.yaml") {
		if role.Kind != "Role" {
			t.Errorf("%s is a %s: it would reach beyond the namespace", role.Metadata.Name, role.Kind)
		}
		for _, rule := range role.Rules {
			if len(rule.ResourceNames) > 0 {
				t.Errorf("a rule of %s is for named objects, which no list is", role.Metadata.Name)
			}
			for _, group := range rule.APIGroups {
				for _, resource := range rule.Resources {
					for _, verb := range rule.Verbs {
						if group != "" {
							granted[role.Metadata.Name] = append(granted[role.Metadata.Name], verb+" "+resource+"."+group)
						} else {
							granted[role.Metadata.Name] = append(granted[role.Metadata.Name], verb+" "+resource)
						}
					}
				}
			}
		}
	}
	for _, list := range []map[string][]string{asked, granted} {
		for _, one := range list {
			slices.Sort(one)
		}
	}
	if diff := cmp.Diff(asked, granted); diff != "" {
		t.Errorf("roles (-asked +granted):\n%s", diff)
	}
}

func TestTheManifestsBelongTogether(t *testing.T) {
	t.Parallel()
	account := readManifest(t, "serviceaccount.yaml")[0]
	var roles, bound []string
	for _, role := range readManifest(t, "role.yaml") {
		roles = append(roles, role.Metadata.Name)
	}
	for _, binding := range readManifest(t, "rolebinding.yaml") {
		bound = append(bound, binding.RoleRef.Name)
		if binding.Kind != "RoleBinding" || binding.RoleRef.Kind != "Role" || len(binding.Subjects) != 1 || binding.Subjects[0].Name != account.Metadata.Name || binding.Subjects[0].Kind != account.Kind {
			t.Errorf("binding %+v does not bind a role to %s", binding, account.Metadata.Name)
		}
	}
	if !slices.Equal(roles, bound) {
		t.Errorf("roles %v, bound %v", roles, bound)
	}
	files, err := filepath.Glob(filepath.Join(manifests, "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	applied := slices.Concat(readManifest(t, "kustomization.yaml")[0].Resources, []string{"kustomization.yaml"})
	if len(files) != len(applied) {
		t.Errorf("the folder has %v, applied are %v", files, applied)
	}
	for _, name := range applied {
		if !slices.Contains(files, filepath.Join(manifests, name)) {
			t.Errorf("%s is applied and not there", name)
		}
	}
}
