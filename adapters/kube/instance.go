package kube

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// The kinds of workload, as in Options.Workloads.
const (
	kindDeployment  = "deployment"
	kindStatefulSet = "statefulset"
	kindDaemonSet   = "daemonset"
	kindReplicaSet  = "replicaset" // one that no Deployment made
)

// versionKey is the environment variable that decides the application version of
// some of the vendor's images; the tag proves nothing while it is set.
const versionKey = "VERSION"

// marks are what labels and annotations say of an object.
type marks struct {
	chart   string // the vendor's chart, empty for any other
	release string // the Helm release
	version string // app.kubernetes.io/version
}

func readMarks(meta *metav1.ObjectMeta) marks {
	return marks{
		chart:   chartOf(meta.Labels),
		release: cmp.Or(meta.Annotations["meta.helm.sh/release-name"], meta.Labels["app.kubernetes.io/instance"]),
		version: meta.Labels["app.kubernetes.io/version"],
	}
}

// workload is what is kept of a Deployment, StatefulSet or DaemonSet.
type workload struct {
	marks
	images []named // of its template, in order
}

// named is a container by name with the image it asks for.
type named struct{ name, image string }

func (w workload) same(o workload) bool {
	return w.marks == o.marks && slices.Equal(w.images, o.images)
}

func readWorkload(meta *metav1.ObjectMeta, template *corev1.PodTemplateSpec) workload {
	out := workload{marks: readMarks(meta), images: make([]named, 0, len(template.Spec.Containers))}
	for i := range template.Spec.Containers {
		out.images = append(out.images, named{template.Spec.Containers[i].Name, template.Spec.Containers[i].Image})
	}
	return out
}

// pod is what is kept of a pod.
type pod struct {
	podState
	containers []container // in the order of its spec
}

type podState struct {
	marks
	name     string
	kind     string // of its workload, empty when it has none
	workload string
	node     string
	phase    corev1.PodPhase
	ending   bool // it was told to go
	ready    bool
	readyAt  time.Time // when ready last changed
	stuck    bool      // a container that has to run before the others cannot
}

type container struct {
	named
	version  string // the literal VERSION it is given
	imageID  string
	running  bool
	broken   bool // it cannot start, or has ended
	restarts uint32
	started  time.Time
}

func (p pod) same(o pod) bool {
	return p.podState == o.podState && slices.Equal(p.containers, o.containers)
}

func readPod(p *corev1.Pod) pod {
	out := pod{podState: podState{
		marks: readMarks(&p.ObjectMeta), name: p.Name, node: p.Spec.NodeName,
		phase: p.Status.Phase, ending: p.DeletionTimestamp != nil,
	}}
	out.kind, out.workload = ownerOf(&p.ObjectMeta)
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			out.ready, out.readyAt = c.Status == corev1.ConditionTrue, c.LastTransitionTime.UTC()
		}
	}
	for i := range p.Status.InitContainerStatuses {
		out.stuck = out.stuck || cannotStart(p.Status.InitContainerStatuses[i].State.Waiting)
	}
	for i := range p.Spec.Containers {
		spec := &p.Spec.Containers[i]
		c := container{named: named{spec.Name, spec.Image}, version: literal(spec.Env, versionKey)}
		for j := range p.Status.ContainerStatuses {
			if status := &p.Status.ContainerStatuses[j]; status.Name == spec.Name {
				c.read(status)
			}
		}
		out.containers = append(out.containers, c)
	}
	return out
}

func (c *container) read(status *corev1.ContainerStatus) {
	c.imageID = status.ImageID
	c.restarts = uint32(max(0, status.RestartCount))
	switch state := status.State; {
	case state.Running != nil:
		c.running, c.started = true, state.Running.StartedAt.UTC()
	case state.Terminated != nil:
		c.broken, c.started = true, state.Terminated.StartedAt.UTC()
	default:
		c.broken = cannotStart(state.Waiting)
	}
}

// cannotStart says whether a container waits because something is wrong, such as
// CrashLoopBackOff or ImagePullBackOff, and not because its turn has not come.
func cannotStart(waiting *corev1.ContainerStateWaiting) bool {
	return waiting != nil && !slices.Contains([]string{"", "ContainerCreating", "PodInitializing"}, waiting.Reason)
}

// literal looks a variable up that is given as it stands: what refers to a secret,
// a field or another variable is decided elsewhere.
func literal(env []corev1.EnvVar, name string) string {
	for _, v := range slices.Backward(env) { // the last one counts, as it does for the process
		if v.Name == name {
			if v.ValueFrom != nil || strings.Contains(v.Value, "$(") {
				return ""
			}
			return v.Value
		}
	}
	return ""
}

// ownerOf returns the workload of a pod, empty for one that stands alone or runs a
// job. A Deployment names its ReplicaSets after itself and their template, so the
// old ones of a Deployment are its own without reading them.
func ownerOf(meta *metav1.ObjectMeta) (kind, name string) {
	owner := metav1.GetControllerOfNoCopy(meta)
	if owner == nil || !strings.HasPrefix(owner.APIVersion, "apps/") {
		return "", ""
	}
	switch owner.Kind {
	case "StatefulSet":
		return kindStatefulSet, owner.Name
	case "DaemonSet":
		return kindDaemonSet, owner.Name
	case "ReplicaSet":
		hash := meta.Labels["pod-template-hash"]
		if deployment, ok := strings.CutSuffix(owner.Name, "-"+hash); ok && hash != "" {
			return kindDeployment, deployment
		}
		return kindReplicaSet, owner.Name
	}
	return "", ""
}

// instances lists what runs of the cluster's components, with s.mu held.
func (s *Source) instances() []fleet.Instance {
	var out []fleet.Instance
	for _, p := range s.pods.items {
		if p.kind == "" {
			continue
		}
		var asked workload
		if declared := s.declared[p.kind]; declared != nil {
			asked = declared.items[p.workload]
		}
		components, chosen := s.components(p, cmp.Or(asked.chart, p.chart))
		if !chosen && len(s.releases) > 0 && !slices.Contains(s.releases, cmp.Or(asked.release, p.release)) {
			continue
		}
		first := true
		for i, c := range p.containers {
			if components[i] == "" {
				continue
			}
			one := p.instance(c, asked)
			one.Component = components[i]
			if !first {
				one.ID += fleet.InstanceID("/" + c.name) // ids are of one instance each
			}
			first = false
			out = append(out, one)
		}
	}
	slices.SortFunc(out, func(a, b fleet.Instance) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.ID, b.ID))
	})
	return out
}

func (p pod) instance(c container, asked workload) fleet.Instance {
	out := fleet.Instance{
		ID:        fleet.InstanceID(p.name),
		Service:   p.kind + "/" + p.workload,
		Image:     c.image,
		Tag:       tagOf(c.image),
		Digest:    runningDigest(c.imageID, c.image),
		ImageID:   c.imageID,
		Version:   c.version,
		Health:    p.health(c),
		StartedAt: c.started,
		Labelled:  p.version,
		Node:      p.node,
		Restarts:  c.restarts,
	}
	for _, declared := range asked.images {
		if declared.name == c.name {
			out.Declared = declared.image
		}
	}
	if out.Labelled == "" && out.Image == out.Declared {
		// The vendor's charts label the workload and not its pods. What it says of
		// itself holds for the pods of its present template.
		out.Labelled = asked.version
	}
	return out
}

// health puts what the cluster says into the product's words. A container that was
// started again and a pod that was ready before are not starting any more.
func (p pod) health(c container) fleet.Health {
	switch {
	case p.ending || p.phase == corev1.PodSucceeded || p.phase == corev1.PodFailed:
		return fleet.HealthStopped
	case p.ready:
		return fleet.HealthHealthy
	case p.stuck || c.broken || c.restarts > 0 || p.phase == corev1.PodUnknown:
		return fleet.HealthUnhealthy
	case c.running && p.readyAt.After(c.started):
		return fleet.HealthUnhealthy
	}
	return fleet.HealthStarting
}

// runningDigest reads the digest of what runs from the id that the container engine
// gives: "docker-pullable://REPOSITORY@sha256:…", "REPOSITORY@sha256:…", or a bare
// "sha256:…" from an engine that knows no repository of the image. A bare one counts
// for less than the digest that the pod asks for and without which it would not run.
func runningDigest(imageID, image string) string {
	if imageID == "" {
		return ""
	}
	if _, rest, ok := strings.Cut(imageID, "://"); ok {
		imageID = rest
	}
	_, sum, ok := strings.Cut(imageID, "@")
	if !ok {
		if pinned := pinOf(image); pinned != "" {
			return pinned
		}
		sum = imageID
		if !strings.Contains(sum, ":") {
			sum = "sha256:" + sum
		}
	}
	if _, err := digest.Parse(sum); err != nil {
		return ""
	}
	return sum
}
