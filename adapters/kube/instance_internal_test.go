package kube

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

func TestTheRunningDigestOfEveryFormOfImageID(t *testing.T) {
	t.Parallel()
	ran, asked := "sha256:"+strings.Repeat("ab", 32), "sha256:"+strings.Repeat("cd", 32)
	for name, c := range map[string]struct{ imageID, image, want string }{
		"docker":                   {"docker-pullable://akeyless/gateway@" + ran, "akeyless/gateway:5", ran},
		"containerd":               {"docker.io/akeyless/gateway@" + ran, "akeyless/gateway:5", ran},
		"of a registry with port":  {"mirror:5000/akeyless/gateway@" + ran, "akeyless/gateway:5", ran},
		"what runs over the pin":   {"docker.io/akeyless/gateway@" + ran, "akeyless/gateway:5@" + asked, ran},
		"bare":                     {ran, "akeyless/gateway:5", ran},
		"bare, of docker":          {"docker://" + ran, "akeyless/gateway:5", ran},
		"bare, without algorithm":  {strings.TrimPrefix(ran, "sha256:"), "akeyless/gateway:5", ran},
		"bare, of a pinned image":  {ran, "akeyless/gateway:5@" + asked, asked},
		"not there yet":            {"", "akeyless/gateway:5@" + asked, ""},
		"a name without digest":    {"docker.io/akeyless/gateway:5", "akeyless/gateway:5", ""},
		"a digest that is cut off": {"docker.io/akeyless/gateway@sha256:abcd", "akeyless/gateway:5", ""},
	} {
		if got := runningDigest(c.imageID, c.image); got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

func TestHealthOfEveryStateOfAPod(t *testing.T) {
	t.Parallel()
	began := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	running := corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(began)}}
	waiting := func(reason string) corev1.ContainerState {
		return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason}}
	}
	const late, early = time.Minute, -time.Minute // of the change of readiness, from the container's start
	for name, c := range map[string]struct {
		phase    corev1.PodPhase
		ready    bool
		changed  time.Duration
		state    corev1.ContainerState
		restarts int32
		init     string
		ending   bool
		want     fleet.Health
	}{
		"ready":                          {phase: corev1.PodRunning, ready: true, changed: late, state: running, want: fleet.HealthHealthy},
		"ready after restarts":           {phase: corev1.PodRunning, ready: true, changed: late, state: running, restarts: 4, want: fleet.HealthHealthy},
		"not scheduled":                  {phase: corev1.PodPending, state: corev1.ContainerState{}, want: fleet.HealthStarting},
		"pulling":                        {phase: corev1.PodPending, state: waiting("ContainerCreating"), want: fleet.HealthStarting},
		"waiting for its init":           {phase: corev1.PodPending, state: waiting("PodInitializing"), want: fleet.HealthStarting},
		"running and not ready yet":      {phase: corev1.PodRunning, changed: early, state: running, want: fleet.HealthStarting},
		"not ready any more":             {phase: corev1.PodRunning, changed: late, state: running, want: fleet.HealthUnhealthy},
		"started again, not ready":       {phase: corev1.PodRunning, changed: early, state: running, restarts: 1, want: fleet.HealthUnhealthy},
		"crashing":                       {phase: corev1.PodRunning, state: waiting("CrashLoopBackOff"), restarts: 1, want: fleet.HealthUnhealthy},
		"crashed for the first time":     {phase: corev1.PodRunning, state: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}, want: fleet.HealthUnhealthy},
		"an image that is not there":     {phase: corev1.PodPending, state: waiting("ImagePullBackOff"), want: fleet.HealthUnhealthy},
		"a secret that is not there":     {phase: corev1.PodPending, state: waiting("CreateContainerConfigError"), want: fleet.HealthUnhealthy},
		"an init container that crashes": {phase: corev1.PodPending, state: waiting("PodInitializing"), init: "CrashLoopBackOff", want: fleet.HealthUnhealthy},
		"on a node that is lost":         {phase: corev1.PodUnknown, state: running, changed: early, want: fleet.HealthUnhealthy},
		"told to go":                     {phase: corev1.PodRunning, ready: true, changed: late, state: running, ending: true, want: fleet.HealthStopped},
		"evicted":                        {phase: corev1.PodFailed, state: running, want: fleet.HealthStopped},
		"done":                           {phase: corev1.PodSucceeded, state: running, want: fleet.HealthStopped},
	} {
		p := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "main"}}}}
		p.Status.Phase = c.phase
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "main", State: c.state, RestartCount: c.restarts}}
		condition := corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionFalse, LastTransitionTime: metav1.NewTime(began.Add(c.changed))}
		if c.ready {
			condition.Status = corev1.ConditionTrue
		}
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionTrue}, condition}
		p.Status.InitContainerStatuses = []corev1.ContainerStatus{{State: waiting(c.init)}}
		if c.ending {
			p.DeletionTimestamp = &metav1.Time{Time: began}
		}
		got := readPod(p)
		if health := got.health(got.containers[0]); health != c.want {
			t.Errorf("%s: got %s, want %s", name, health, c.want)
		}
	}
}

func TestOnlyALiteralVersionCounts(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		env  []corev1.EnvVar
		want string
	}{
		"none":               {nil, ""},
		"a literal":          {[]corev1.EnvVar{{Name: "OTHER", Value: "1"}, {Name: "VERSION", Value: "5.0.1"}}, "5.0.1"},
		"the last one":       {[]corev1.EnvVar{{Name: "VERSION", Value: "5.0.1"}, {Name: "VERSION", Value: "5.1.0"}}, "5.1.0"},
		"from elsewhere":     {[]corev1.EnvVar{{Name: "VERSION", ValueFrom: &corev1.EnvVarSource{}}}, ""},
		"elsewhere at last":  {[]corev1.EnvVar{{Name: "VERSION", Value: "5.0.1"}, {Name: "VERSION", ValueFrom: &corev1.EnvVarSource{}}}, ""},
		"of another's value": {[]corev1.EnvVar{{Name: "VERSION", Value: "$(OTHER)"}}, ""},
	} {
		if got := literal(c.env, "VERSION"); got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}
