//go:build integration

package kube_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/lockstep-fleet/lockstep/adapters/kube"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	lab "github.com/lockstep-fleet/lockstep/integration/lab/kube"
)

// count says how many instances there are of each service.
func count(i fleet.Inventory) map[string]int {
	out := make(map[string]int)
	for _, one := range i.Instances {
		out[one.Service]++
	}
	return out
}

// healthy complains until the services have so many instances, all healthy.
func healthy(want map[string]int) func(fleet.Inventory) error {
	return func(i fleet.Inventory) error {
		if got := count(i); !maps.Equal(got, want) {
			return fmt.Errorf("instances by service: %v, want %v", got, want)
		}
		for _, one := range i.Instances {
			if one.Health != fleet.HealthHealthy {
				return fmt.Errorf("instance %s of %s is %s", one.ID, one.Service, one.Health)
			}
		}
		return nil
	}
}

// digest is that of what runs when an image is asked for.
func digest(image string) string {
	_, sum, _ := strings.Cut(lab.ImageID(image), "@")
	return sum
}

func chartLabels(chart, version string) map[string]string {
	return map[string]string{"helm.sh/chart": chart, "app.kubernetes.io/version": version}
}

func TestWorkloadsOfTheVendor(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.source(kube.Options{})
	begun := time.Now().Add(-time.Second) // the API server tells seconds

	const (
		unified  = gatewayImage + ":5.0.1"
		legacy   = "docker.io/akeyless/base:latest-akeyless"
		worker   = "docker.io/akeyless/zero-trust-web-worker:1.2.0"
		replaced = "mirror.example.org:5000/akeyless/zero-trust-bastion"
	)
	pinned := replaced + ":3.1.0@sha256:" + strings.Repeat("5a", 32)
	f.deployment("unified-gw", 2, pods("unified-gw", "akeyless-gateway", unified, chartLabels("akeyless-gateway-3.3.0", "5.0.0")))
	f.daemonSet("unified-edge", pods("unified-edge", "akeyless-gateway", unified, nil))
	f.deployment("web-gw", 1, pods("web-gw", "gateway-sra-web", pinned, nil))
	f.statefulSet("ssh-sra", 2, pods("ssh-sra", "ssh-bastion", bastionImage+":2.9.0", chartLabels("akeyless-sra-2.1.0", "2.9.0")))
	f.deployment("old-api-gateway", 1, pods("old-api-gateway", "api-gateway", legacy, nil,
		corev1.EnvVar{Name: "VERSION", Value: "4.51.0"}, corev1.EnvVar{Name: "VERSION", Value: "4.52.0"}))
	f.deployment("web-worker-deployment", 1, pods("web-worker-deployment", "web-worker", worker, nil))
	f.deployment("web-dispatcher-deployment", 0, pods("web-dispatcher-deployment", "web-dispatcher", "docker.io/akeyless/zero-trust-web-dispatcher:1.2.0", nil))
	f.deployment("gw-cache", 1, pods("gw-cache", "redis", "docker.io/library/redis:8", nil))

	got := f.inventory(s, healthy(map[string]int{
		"deployment/unified-gw": 2, "daemonset/unified-edge": len(lab.Nodes), "deployment/web-gw": 1, "statefulset/ssh-sra": 2,
		"deployment/old-api-gateway": 1, "deployment/web-worker-deployment": 1,
	}))
	if got.Cluster != "east" || got.ObservedAt.Before(begun) || time.Now().Before(got.ObservedAt) {
		t.Errorf("the inventory is of %s at %s", got.Cluster, got.ObservedAt)
	}
	for _, want := range []fleet.Instance{
		{Service: "deployment/unified-gw", Component: fleet.Gateway, Image: unified, Tag: "5.0.1", Labelled: "5.0.0"},
		{Service: "daemonset/unified-edge", Component: fleet.Gateway, Image: unified, Tag: "5.0.1"},
		{Service: "deployment/web-gw", Component: fleet.SRAWeb, Image: pinned, Tag: "3.1.0"},
		{Service: "statefulset/ssh-sra", Component: fleet.SRASSH, Image: bastionImage + ":2.9.0", Tag: "2.9.0", Labelled: "2.9.0"},
		{Service: "deployment/old-api-gateway", Component: fleet.Gateway, Image: legacy, Tag: "latest-akeyless", Version: "4.52.0"},
		{Service: "deployment/web-worker-deployment", Component: fleet.Worker, Image: worker, Tag: "1.2.0"},
	} {
		for _, one := range got.Instances {
			if one.Service != want.Service {
				continue
			}
			if one.StartedAt.Before(begun) || one.StartedAt.After(got.ObservedAt) {
				t.Errorf("%s started at %s, not between %s and %s", one.ID, one.StartedAt, begun, got.ObservedAt)
			}
			if !slices.Contains(lab.Nodes, one.Node) {
				t.Errorf("%s runs on node %q", one.ID, one.Node)
			}
			if name := strings.SplitN(want.Service, "/", 2)[1]; !strings.HasPrefix(string(one.ID), name+"-") {
				t.Errorf("a pod of %s has the id %s", want.Service, one.ID)
			}
			want.ID, want.StartedAt, want.Node = one.ID, one.StartedAt, one.Node
			want.Declared, want.Health = want.Image, fleet.HealthHealthy
			want.ImageID, want.Digest = lab.ImageID(want.Image), digest(want.Image)
			if one != want {
				t.Errorf("got  %+v\nwant %+v", one, want)
			}
		}
	}
	nodes := make(map[string]bool)
	for _, one := range got.Instances {
		if one.Service == "daemonset/unified-edge" {
			nodes[one.Node] = true
		}
	}
	if len(nodes) != len(lab.Nodes) {
		t.Errorf("the DaemonSet is seen on %v, want one on each of %v", nodes, lab.Nodes)
	}
}

// Nothing that is not there yet is told, and Changed says when it is.
func TestChangesAreTold(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.source(kube.Options{})
	changed := func() {
		t.Helper()
		select {
		case <-s.Changed():
		case <-time.After(limit):
			t.Fatal("no change is told")
		}
	}
	changed() // there is a first inventory
	f.inventory(s, healthy(map[string]int{}))
	f.deployment("unified-gw", 1, pods("unified-gw", "akeyless-gateway", gatewayImage+":5.0.1", nil))
	// As a collector does: it looks when it is told, and nothing is missed.
	for want := healthy(map[string]int{"deployment/unified-gw": 1}); ; {
		changed()
		got, err := s.Inventory(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if want(got) == nil {
			break
		}
	}
	f.change("unified-gw", func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32) })
	for {
		changed()
		got, err := s.Inventory(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(got.Instances) == 0 {
			break
		}
	}
}

func TestRollingUpdateIsMixedAndThenWhole(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.source(kube.Options{})
	const before, after = bastionImage + ":3.1.0", bastionImage + ":3.2.0"
	f.deployment("web-gw", 3, pods("web-gw", "gateway-sra-web", before, chartLabels("akeyless-gateway-3.3.0", "3.1.0")))
	whole := healthy(map[string]int{"deployment/web-gw": 3})
	f.inventory(s, whole)
	f.change("web-gw", func(d *appsv1.Deployment) {
		one, none := intstr.FromInt32(1), intstr.FromInt32(0)
		d.Spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{MaxSurge: &one, MaxUnavailable: &none}
		d.Spec.Template.Spec.Containers[0].Image = after
		d.Spec.Template.Labels["app.kubernetes.io/version"] = "3.2.0"
	})

	var looks, mixed, fewest int
	fewest = 3
	f.inventory(s, func(i fleet.Inventory) error {
		looks++
		images, ready := make(map[string]int), 0
		for _, one := range i.Instances {
			images[one.Image]++
			if one.Health == fleet.HealthHealthy {
				ready++
			}
			if one.Digest != "" && one.Digest != digest(one.Image) || one.Labelled != one.Tag {
				t.Errorf("an instance is half one and half the other: %+v", one)
			}
		}
		fewest = min(fewest, ready)
		if images[before] > 0 && images[after] > 0 {
			mixed++
			for _, one := range i.Instances {
				if one.Declared != after {
					t.Errorf("while the rollout is under way, %s is asked for and %s is told", after, one.Declared)
				}
			}
		}
		if images[before] > 0 || images[after] == 0 {
			return fmt.Errorf("the rollout is at %v", images)
		}
		return whole(i)
	})
	if mixed == 0 {
		t.Errorf("no mix was seen in %d looks", looks)
	}
	if fewest < 3 {
		t.Errorf("only %d of 3 were told to be healthy at one time, though none was to be unavailable", fewest)
	}
	t.Logf("mixed in %d of %d looks", mixed, looks)
}

func TestFailingImages(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.source(kube.Options{})
	f.deployment("unified-gw", 1, pods("unified-gw", "akeyless-gateway", gatewayImage+":5.0.1", nil))
	f.inventory(s, healthy(map[string]int{"deployment/unified-gw": 1}))
	// No pod is taken away for one that does not get ready.
	for tag, want := range map[string]struct {
		health   fleet.Health
		restarts uint32
		pulled   bool
	}{
		"5.1.0-crash":       {fleet.HealthUnhealthy, 4, true},
		"5.1.0-unpublished": {fleet.HealthUnhealthy, 0, false},
		"5.1.0-sick":        {fleet.HealthStarting, 0, true},
	} {
		image := gatewayImage + ":" + tag
		f.setImage("unified-gw", image)
		f.inventory(s, func(i fleet.Inventory) error {
			if len(i.Instances) != 2 {
				return fmt.Errorf("%d instances, want the old and the new one", len(i.Instances))
			}
			for _, one := range i.Instances {
				switch {
				case one.Image != image && (one.Tag != "5.0.1" || one.Health != fleet.HealthHealthy || one.Declared != image):
					return fmt.Errorf("%s: the old one is told as %+v", tag, one)
				case one.Image == image && (one.Health != want.health || one.Restarts != want.restarts || (one.Digest == digest(image)) != want.pulled || !want.pulled && one.Digest != ""):
					return fmt.Errorf("%s: the new one is told as %+v", tag, one)
				}
			}
			if i.Instances[0].Image == i.Instances[1].Image {
				return fmt.Errorf("%s: both run %s", tag, i.Instances[0].Image)
			}
			return nil
		})
	}
}

// What was ready and is no more is unhealthy, and restarts are counted.
func TestReadinessLost(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.source(kube.Options{})
	f.statefulSet("ssh-gw", 1, pods("ssh-gw", "gateway-sra-ssh", bastionImage+":3.1.0", nil))
	f.inventory(s, healthy(map[string]int{"statefulset/ssh-gw": 1}))
	later := time.Now().Add(2 * time.Second).UTC().Format(time.RFC3339)
	patch := fmt.Sprintf(`{"status":{"conditions":[{"type":"Ready","status":"False","lastTransitionTime":%q}],"containerStatuses":[{"name":"gateway-sra-ssh","restartCount":2}]}}`, later)
	if _, err := f.admin.CoreV1().Pods(f.namespace).Patch(t.Context(), "ssh-gw-0", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	f.inventory(s, func(i fleet.Inventory) error {
		if len(i.Instances) != 1 || i.Instances[0].Health != fleet.HealthUnhealthy || i.Instances[0].Restarts != 2 {
			return fmt.Errorf("got %+v", i.Instances)
		}
		return nil
	})
}

func TestManyPods(t *testing.T) {
	t.Parallel()
	f := newFixture(t)
	s := f.source(kube.Options{})
	const many = 300
	begun := time.Now()
	f.deployment("web-gw", many, pods("web-gw", "gateway-sra-web", bastionImage+":3.1.0", nil))
	got := f.inventory(s, healthy(map[string]int{"deployment/web-gw": many}))
	ids := make(map[fleet.InstanceID]bool)
	for _, one := range got.Instances {
		ids[one.ID] = true
	}
	if len(ids) != many {
		t.Errorf("%d pods have %d ids", many, len(ids))
	}
	t.Logf("%d pods were ready and told after %s", many, time.Since(begun).Round(time.Millisecond))
	f.change("web-gw", func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32) })
	f.inventory(s, healthy(map[string]int{}))
}
