package kube

import (
	"context"
	"errors"
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// manifest is what grants the permissions that are needed.
const manifest = "deploy/k8s/collector/role.yaml"

// ask is what a request wants of the API server.
type ask struct{ verbs, group, resource string }

func (a ask) String() string { return a.verbs + " " + qualified(a.group, a.resource) }

// qualified is a resource as kubectl writes it, like "deployments.apps".
func qualified(group, resource string) string {
	if group == "" {
		return resource
	}
	return resource + "." + group
}

// explain adds to an error of a call what was tried and, by its kind, what to do.
func (s *Source) explain(doing string, a ask, err error) error {
	var page *notKubernetes
	var status apierrors.APIStatus
	switch {
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("%s at %s: %w", doing, s.host, err)
	case errors.As(err, &page):
		return errs.New(errs.Unavailable, "LS-KUB-007", "%s: %w; a proxy or a login page stands where the API server of %s should be: correct the kubeconfig's server, or NO_PROXY", doing, page, s.cluster)
	case apierrors.IsUnauthorized(err):
		return errs.New(errs.Unauthenticated, "LS-KUB-003", "%s: the API server at %s rejects the credentials: %w; renew the token or certificate of the kubeconfig", doing, s.host, err)
	case strings.Contains(err.Error(), "getting credentials:"): // of an exec plugin; the library keeps no more than the text
		return errs.New(errs.Unauthenticated, "LS-KUB-003", "%s: the kubeconfig's command gives no credentials for %s: %w; run `kubectl get pods -n %s` as this user", doing, s.host, err, s.namespace)
	case apierrors.IsForbidden(err):
		return s.forbidden(doing, []ask{a}, err)
	case apierrors.IsNotFound(err):
		return errs.New(errs.NotFound, "LS-KUB-005", "%s: the API server at %s has no %s of that name: %w; correct the namespace or the context", doing, s.host, strings.TrimSuffix(a.resource, "s"), err)
	case !errors.As(err, &status), apierrors.IsServerTimeout(err), apierrors.IsTimeout(err), apierrors.IsTooManyRequests(err), apierrors.IsServiceUnavailable(err), apierrors.IsInternalError(err):
		return errs.New(errs.Unavailable, "LS-KUB-002", "%s: the API server at %s does not answer: %w; check it with `kubectl get --raw /readyz`", doing, s.host, err)
	}
	return fmt.Errorf("%s at %s: %w", doing, s.host, err)
}

// forbidden names all that is not allowed, so that one look at the roles is enough.
func (s *Source) forbidden(doing string, asked []ask, err error) error {
	names := make([]string, 0, len(asked))
	for _, a := range asked {
		names = append(names, a.String())
	}
	return errs.New(errs.PermissionDenied, "LS-KUB-004", "%s: the API server at %s does not allow to %s in namespace %q, or there is no such namespace: %w; grant it with %s", doing, s.host, strings.Join(names, ", "), s.namespace, err, manifest)
}
