//go:build integration

package kube_test

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-fleet/lockstep/adapters/kube"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// fails waits until the inventory is refused with an error of the catalogue.
func (f *fixture) fails(s *kube.Source, id string) error {
	f.t.Helper()
	var failed error
	eventually(f.t, func() error {
		if _, failed = s.Inventory(f.t.Context()); errs.IDOf(failed) != id {
			return fmt.Errorf("want an inventory to be refused with %s, got %w", id, cmp.Or(failed, errors.New("one")))
		}
		return nil
	})
	return failed
}

// A pod goes while the API server is away. No look may tell of it afterwards.
func TestAPIServerRestart(t *testing.T) {
	for _, c := range []struct {
		name      string
		compacted bool // watches cannot go on where they were
	}{{name: "resumed"}, {name: "expired", compacted: true}} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t)
			s := f.source(kube.Options{})
			f.deployment("unified-gw", 2, pods("unified-gw", "akeyless-gateway", gatewayImage+":5.0.1", nil))
			whole := healthy(map[string]int{"deployment/unified-gw": 2})
			before := f.inventory(s, whole)

			if err := cluster.StopAPIServer(); err != nil {
				t.Fatal(err)
			}
			for range 3 {
				if got, err := s.Inventory(t.Context()); errs.IDOf(err) != "LS-KUB-002" {
					t.Errorf("without an API server: got %d instances and %v, want an error LS-KUB-002", len(got.Instances), err)
				}
			}
			gone := before.Instances[0].ID
			if err := cluster.Erase(t.Context(), fmt.Sprintf("pods/%s/%s", f.namespace, gone)); err != nil {
				t.Fatal(err)
			}
			if c.compacted {
				if err := cluster.Compact(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			// Looks go on all the time that it takes to come back.
			begun := time.Now()
			started := make(chan error, 1)
			go func() { started <- cluster.StartAPIServer(t.Context()) }()
			refused := 0
			after := f.inventory(s, func(i fleet.Inventory) error {
				for _, one := range i.Instances {
					if one.ID == gone {
						t.Errorf("%s after its end, %s is told", i.ObservedAt.Sub(begun), gone)
					}
				}
				return whole(i)
			}, func(error) { refused++ })
			if err := <-started; err != nil {
				t.Fatal(err)
			}
			if refused == 0 || after.ObservedAt.Before(begun) {
				t.Errorf("after %d refusals, the inventory says that it is of %s; the API server was started at %s", refused, after.ObservedAt, begun)
			}
			t.Logf("whole again %s after the API server was started, after %d refusals", time.Since(begun).Round(time.Millisecond), refused)
			// And it goes on being told.
			f.setImage("unified-gw", gatewayImage+":5.1.0")
			f.inventory(s, func(i fleet.Inventory) error {
				for _, one := range i.Instances {
					if one.Tag != "5.1.0" {
						return fmt.Errorf("%s still runs %s", one.ID, one.Image)
					}
				}
				return whole(i)
			})
		})
	}
}

func TestNamespaceDeleted(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.source(kube.Options{})
	f.deployment("unified-gw", 1, pods("unified-gw", "akeyless-gateway", gatewayImage+":5.0.1", nil))
	f.inventory(s, healthy(map[string]int{"deployment/unified-gw": 1}))
	if err := f.admin.CoreV1().Namespaces().Delete(t.Context(), f.namespace, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Log(f.fails(s, "LS-KUB-005"))
	if _, err := f.admin.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: f.namespace}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	f.deployment("unified-gw", 2, pods("unified-gw", "akeyless-gateway", gatewayImage+":5.1.0", nil))
	f.inventory(s, healthy(map[string]int{"deployment/unified-gw": 2}))
}

func TestTokenRevoked(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	ctx := t.Context()
	f.deployment("unified-gw", 1, pods("unified-gw", "akeyless-gateway", gatewayImage+":5.0.1", nil))
	f.account("reader", rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"})
	// A token that lives as long as this secret does.
	bound, err := f.admin.CoreV1().Secrets(f.namespace).Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "bound"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s := f.source(kube.Options{Kubeconfig: f.kubeconfig("reader", &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Secret", Name: bound.Name, UID: bound.UID})})
	f.inventory(s, healthy(map[string]int{"deployment/unified-gw": 1}))
	if err := f.admin.CoreV1().Secrets(f.namespace).Delete(ctx, bound.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	t.Log(f.fails(s, "LS-KUB-003"))
	t.Logf("refused %s after the token was revoked", time.Since(begun).Round(time.Millisecond))
}

// account makes a service account and binds it to a role in the namespace.
func (f *fixture) account(name string, role rbacv1.RoleRef) {
	f.t.Helper()
	_, err := f.admin.CoreV1().ServiceAccounts(f.namespace).Create(f.t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	if err != nil {
		f.t.Fatal(err)
	}
	_, err = f.admin.RbacV1().RoleBindings(f.namespace).Create(f.t.Context(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: role,
		Subjects: []rbacv1.Subject{{Kind: "ServiceAccount", Name: name, Namespace: f.namespace}},
	}, metav1.CreateOptions{})
	if err != nil {
		f.t.Fatal(err)
	}
}

// kubeconfig lets a service account in; its token ends with what it is bound to.
func (f *fixture) kubeconfig(account string, bound *authenticationv1.BoundObjectReference) string {
	f.t.Helper()
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: bound}}
	token, err := f.admin.CoreV1().ServiceAccounts(f.namespace).CreateToken(f.t.Context(), account, request, metav1.CreateOptions{})
	if err != nil {
		f.t.Fatal(err)
	}
	path := filepath.Join(f.t.TempDir(), account+".kubeconfig")
	if err := cluster.WriteKubeconfig(path, token.Status.Token); err != nil {
		f.t.Fatal(err)
	}
	return path
}
