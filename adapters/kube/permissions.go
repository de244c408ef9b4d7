package kube

import (
	"context"
	"fmt"

	authv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Permission is one thing that a source must be allowed to do.
type Permission struct {
	Verb      string
	Resource  string // as kubectl writes it, like "deployments.apps"
	Namespace string
	Allowed   bool
	// Without says for people what is not seen while it is not allowed.
	Without string
}

// need is a resource, what is done with it, and what is not seen without it.
type need struct {
	group, resource string
	verbs           []string
	without         string
}

// needs lists everything a source asks of an API server. The manifests in
// deploy/k8s/collector grant exactly this.
func needs() []need {
	return []need{
		{"", "namespaces", []string{"get"}, "whether the namespace is there; no inventory is told"},
		{"", "pods", []string{"list", "watch"}, "what runs; no inventory is told"},
		{"apps", "deployments", []string{"list", "watch"}, "what Deployments ask for; no inventory is told"},
		{"apps", "statefulsets", []string{"list", "watch"}, "what StatefulSets ask for; no inventory is told"},
		{"apps", "daemonsets", []string{"list", "watch"}, "what DaemonSets ask for; no inventory is told"},
		{"", "secrets", []string{"get", "list"}, "Helm releases: charts, versions and whether values changed"},
		{"", "configmaps", []string{"get", "list"}, "Helm releases of those who keep them in ConfigMaps (HELM_DRIVER=configmap)"},
	}
}

// Permissions asks the API server what these credentials may do, of all that a
// source does.
func (s *Source) Permissions(ctx context.Context) ([]Permission, error) {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	var out []Permission
	for _, n := range needs() {
		for _, verb := range n.verbs {
			want := &authv1.ResourceAttributes{Namespace: s.namespace, Verb: verb, Group: n.group, Resource: n.resource}
			if n.resource == "namespaces" {
				want.Name = s.namespace
			}
			review := &authv1.SelfSubjectAccessReview{Spec: authv1.SelfSubjectAccessReviewSpec{ResourceAttributes: want}}
			answer, err := s.access.SelfSubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
			if err != nil {
				return nil, s.explain(fmt.Sprintf("asking what is allowed in namespace %q", s.namespace), ask{"create", "authorization.k8s.io", "selfsubjectaccessreviews"}, err)
			}
			out = append(out, Permission{
				Verb: verb, Resource: qualified(n.group, n.resource), Namespace: s.namespace,
				Allowed: answer.Status.Allowed, Without: n.without,
			})
		}
	}
	return out, nil
}
