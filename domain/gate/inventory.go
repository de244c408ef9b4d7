package gate

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/catalog"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// Codes of the inventory check, besides NoBaseline.
const (
	AsPlanned         Code = "as_planned"         // what should run runs and is registered
	NotSeen           Code = "not_seen"           // nothing was seen since the step
	MissingInstances  Code = "missing_instances"  // fewer instances run than before
	WrongVersion      Code = "wrong_version"      // instances run another version than planned
	WrongDigest       Code = "wrong_digest"       // instances run another image of the planned version
	UnknownImage      Code = "unknown_image"      // what instances run cannot be told
	Unhealthy         Code = "unhealthy"          // instances that should work say that they do not
	Starting          Code = "starting"           // instances have not said yet whether they work
	Unregistered      Code = "unregistered"       // the vendor lists fewer bastions or gateways than before
	NotReported       Code = "not_reported"       // the vendor has heard nothing of them since the step
	ReportedOtherwise Code = "reported_otherwise" // the vendor lists versions that should run no more
	MixedTooLong      Code = "mixed_too_long"     // the cluster is mixed past its window
)

// InventoryFacts are what the inventory check looks at: what runs and is
// registered, what did before, and what is planned.
type InventoryFacts struct {
	// Applied is when the step had been applied. What was seen before says nothing
	// of it.
	Applied time.Time
	// WasRunning and WasRegistered are the baseline: what was seen before the cluster
	// was first touched. Nothing is registered where nobody looks.
	WasRunning    fleet.Inventory
	WasRegistered fleet.Registration
	// Running and Registered are what was seen last, and held until RunningSeen and
	// RegisteredSeen.
	Running                     fleet.Inventory
	Registered                  fleet.Registration
	RunningSeen, RegisteredSeen time.Time
	// Versions are the planned ones of the lines that have moved by now, this step's
	// and earlier ones'.
	Versions fleet.VersionSet
	// Digests are those that the images of a component may have under the plan, such
	// as that of an index and that of its platform; none where the plan pins none.
	Digests map[fleet.Component][]string
	// Complete says that the last step was applied: a line that Versions leaves open
	// then runs one version only.
	Complete bool
	// MixedSince is when the cluster was first seen mixed, the zero time while it is
	// not; Window how long it may be, zero for as long as it likes.
	MixedSince time.Time
	Window     time.Duration
}

// Judge passes when all that ran and was registered before does so again, the
// planned versions run everywhere and from the planned images, the vendor has heard
// of them since the step, and the mix is within its window.
//
// What may still come is pending within the window, which begins with the mix or
// else the step, and fails past it, as far as it was seen to last. Another image
// under the planned version and an instance that does not work are failures at once.
// Where all runs as planned and only the vendor's list says otherwise a person
// decides.
func (f InventoryFacts) Judge() Result {
	j := inventoryJudge{InventoryFacts: f, figures: noFigures(CheckInventory)}
	at := f.RunningSeen
	switch {
	case f.WasRunning.ObservedAt.IsZero():
		j.add(Inconclusive, NoBaseline, "What ran before the step was not captured, so nothing tells what should run.")
	case !f.RunningSeen.After(f.Applied):
		j.add(Pending, NotSeen, "What runs was not seen since the step was applied at %s.", instant(f.Applied))
	default:
		j.late = f.lasted(f.RunningSeen)
		j.instances()
		j.mix()
		at = newer(at, f.RegisteredSeen)
		j.late = f.lasted(f.RegisteredSeen)
		j.registrations()
	}
	return j.result(CheckInventory, at, j.figures, Reason{AsPlanned, j.asPlanned()})
}

// inventoryJudge is one judgement under way.
type inventoryJudge struct {
	InventoryFacts
	findings
	figures map[string]int64
	// late says that what is being looked at was seen past the window.
	late bool
}

// lasted says whether what is seen until an instant is past the window.
func (f InventoryFacts) lasted(seen time.Time) bool {
	began := f.Applied
	if !f.MixedSince.IsZero() {
		began = f.MixedSince
	}
	return f.Window > 0 && !seen.Before(began.Add(f.Window))
}

// coming adds what may still come: pending in time, and then what it is to be late.
func (j *inventoryJudge) coming(late Verdict, c Code, format string, args ...any) {
	v := Pending
	if j.late {
		v = late
	}
	j.add(v, c, format, args...)
}

// running lists the instances of known components that are not stopped, by
// component.
func running(inventory fleet.Inventory) map[fleet.Component][]fleet.Instance {
	out := make(map[fleet.Component][]fleet.Instance)
	for _, i := range inventory.Instances {
		if _, known := fleet.LineOf(i.Component); known && i.Health != fleet.HealthStopped {
			out[i.Component] = append(out[i.Component], i)
		}
	}
	return out
}

func (j *inventoryJudge) instances() {
	before, now := running(j.WasRunning), running(j.Running)
	seen := make(map[fleet.Line][]string) // the versions that run
	for _, component := range componentsOf(before, now) {
		line, _ := fleet.LineOf(component)
		is, was := now[component], before[component]
		j.figures["expected"] += int64(len(was))
		j.figures["running"] += int64(len(is))
		if lacking := len(was) - len(is); lacking > 0 {
			j.figures["missing"] += int64(lacking)
			j.coming(Fail, MissingInstances, "%s: %d of %s that ran before the step are back.", component, len(is), several(int64(len(was)), "instance"))
		}
		j.health(component, was, is)
		for _, i := range is {
			seen[line] = append(seen[line], i.RunningVersion())
		}
		if planned, moved := j.Versions[line]; moved {
			j.images(component, planned, was, is)
		}
	}
	for _, line := range slices.Sorted(maps.Keys(j.Versions)) {
		if len(seen[line]) == 0 {
			j.figures["missing"]++
			j.coming(Fail, MissingInstances, "%s should run %s but nothing of it runs.", line, j.Versions[line])
		}
	}
	if j.Complete {
		j.others(seen)
	}
}

// images compares what a component runs with the plan. What ran before the step may
// still be replaced; what neither ran nor is planned will not be.
func (j *inventoryJudge) images(component fleet.Component, planned string, was, is []fleet.Instance) {
	digests := j.Digests[component]
	var versions, left, images, unknown []string
	for _, i := range is {
		version := i.RunningVersion()
		named := version == planned || catalog.ParseVersion(version).Comparable()
		pinned := len(digests) > 0 && i.Digest != ""
		switch {
		case named && !sameVersion(version, planned), !named && pinned && !slices.Contains(digests, i.Digest):
			versions = append(versions, fmt.Sprintf("%s runs %s", i.ID, orUnnamed(version)))
		case len(digests) > 0 && i.Digest == "", len(digests) == 0 && !named:
			unknown = append(unknown, string(i.ID))
		case !pinned || slices.Contains(digests, i.Digest):
		case slices.ContainsFunc(was, func(old fleet.Instance) bool { return old.Digest == i.Digest }):
			left = append(left, fmt.Sprintf("%s runs %s", i.ID, i.Digest))
		default:
			images = append(images, fmt.Sprintf("%s runs %s", i.ID, i.Digest))
		}
	}
	j.figures["wrong_version"] += int64(len(versions))
	j.figures["wrong_digest"] += int64(len(left) + len(images))
	j.figures["unknown_image"] += int64(len(unknown))
	if len(versions) > 0 {
		j.coming(Fail, WrongVersion, "%s should run %s: %s.", component, planned, inOrder(versions))
	}
	if len(left) > 0 {
		j.coming(Fail, WrongDigest, "%s should run %s from another image than before: %s.", component, planned, inOrder(left))
	}
	if len(images) > 0 {
		j.add(Fail, WrongDigest, "%s should run %s from image %s: %s.", component, planned, inOrder(digests), inOrder(images))
	}
	if len(unknown) > 0 {
		j.add(Inconclusive, UnknownImage, "%s should run %s, and what these run cannot be told: %s.", component, planned, inOrder(unknown))
	}
}

// health compares how many instances do not work with how many did not before: what
// was broken already says nothing of the step.
func (j *inventoryJudge) health(component fleet.Component, was, is []fleet.Instance) {
	count := func(instances []fleet.Instance, health fleet.Health) (names []string) {
		for _, i := range instances {
			if i.Health == health {
				names = append(names, string(i.ID))
			}
		}
		return names
	}
	ill, starting := count(is, fleet.HealthUnhealthy), count(is, fleet.HealthStarting)
	j.figures["unhealthy"] += int64(len(ill))
	j.figures["starting"] += int64(len(starting))
	if before := len(count(was, fleet.HealthUnhealthy)); len(ill) > before {
		j.add(Fail, Unhealthy, "%s: %s unhealthy, %d before the step.", component, inOrder(ill), before)
	}
	if len(starting) > 0 {
		j.coming(Fail, Starting, "%s: %s starting.", component, inOrder(starting))
	}
}

// others looks at the lines that the plan leaves open, once nothing moves any more.
func (j *inventoryJudge) others(seen map[fleet.Line][]string) {
	for _, line := range slices.Sorted(maps.Keys(seen)) {
		if _, moved := j.Versions[line]; moved {
			continue
		}
		most := 0
		for _, version := range seen[line] {
			same := 0
			for _, other := range seen[line] {
				if sameVersion(other, version) {
					same++
				}
			}
			most = max(most, same)
		}
		if other := len(seen[line]) - most; other > 0 {
			j.figures["wrong_version"] += int64(other)
			j.coming(Fail, WrongVersion, "%s should run one version and runs %s.", line, inOrder(seen[line]))
		}
	}
}

func (j *inventoryJudge) mix() {
	if j.MixedSince.IsZero() {
		return
	}
	mixed := max(0, j.RunningSeen.Sub(j.MixedSince))
	j.figures["mixed_seconds"] = int64(mixed / time.Second)
	if j.late {
		j.add(Fail, MixedTooLong, "Mixed since %s, for %s, past the window of %s.", instant(j.MixedSince), mixed.Truncate(time.Second), j.Window)
	}
}

// registrations compares what the vendor lists with what it listed before.
func (j *inventoryJudge) registrations() {
	before, now := j.WasRegistered, j.Registered
	j.figures["bastions"] = int64(len(now.Bastions))
	if before.ObservedAt.IsZero() && now.ObservedAt.IsZero() {
		return
	}
	// It is the bastions that report; whether they do so without being replaced, and
	// whether this vendor says when, is not known.
	reported := now.LastReport
	if _, replaced := j.Versions[fleet.LineSRA]; !replaced || before.LastReport.IsZero() && reported.IsZero() {
		reported = j.RegisteredSeen
	}
	if !reported.After(j.Applied) {
		j.coming(Fail, NotReported, "The vendor has heard nothing of this cluster since the step was applied at %s.", instant(j.Applied))
	}
	if lacking := len(before.Bastions) - len(now.Bastions); lacking > 0 {
		j.figures["unregistered"] += int64(lacking)
		j.coming(Fail, Unregistered, "%d of %s are registered again.", len(now.Bastions), several(int64(len(before.Bastions)), "bastion"))
	}
	var gone []string
	for _, was := range before.Gateways {
		if was.Status == gatewayRunning && !slices.Contains(now.Gateways, was) {
			gone = append(gone, was.Name)
		}
	}
	if len(gone) > 0 {
		j.figures["unregistered"] += int64(len(gone))
		j.coming(Fail, Unregistered, "No longer registered as running: gateway %s.", inOrder(gone))
	}
	planned, moved := j.Versions[fleet.LineSRA]
	var otherwise []string
	for _, b := range now.Bastions {
		switch {
		case !catalog.ParseVersion(b.Version).Comparable():
			j.figures["bastions_unknown_version"]++
		case moved && !saysSame(b.Version, planned):
			otherwise = append(otherwise, fmt.Sprintf("%s as %s", b.ID, b.Version))
		}
	}
	j.figures["bastions_wrong_version"] = int64(len(otherwise))
	if len(otherwise) > 0 {
		j.coming(Hold, ReportedOtherwise, "sra should run %s, and the vendor lists %s.", planned, inOrder(otherwise))
	}
}

// gatewayRunning is the vendor's word for a gateway that works.
const gatewayRunning = "Running"

// asPlanned says what runs, where all is well.
func (j *inventoryJudge) asPlanned() string {
	text := fmt.Sprintf("%s as planned (%s)", several(j.figures["running"], "instance")+" run", j.Versions)
	if j.Registered.ObservedAt.IsZero() {
		return text + "."
	}
	return text + ", " + several(j.figures["bastions"], "bastion") + " registered."
}

func orUnnamed(version string) string {
	if version == "" {
		return "an unknown version"
	}
	return version
}

func componentsOf(a, b map[fleet.Component][]fleet.Instance) []fleet.Component {
	both := slices.AppendSeq(slices.Collect(maps.Keys(a)), maps.Keys(b))
	slices.Sort(both)
	return slices.Compact(both)
}

// sameVersion says whether two texts name one version, such as v1.2 and 1.2.0.
func sameVersion(a, b string) bool {
	if a == b {
		return true
	}
	order, ok := catalog.Compare(a, b)
	return ok && order == 0
}

// saysSame says whether a version that is reported says nothing against a planned
// one: 5.0.1-debian and 5.0.1_3.3.0 say nothing against 5.0.1.
func saysSame(reported, planned string) bool {
	rest, extends := strings.CutPrefix(reported, planned)
	return sameVersion(reported, planned) || extends && strings.ContainsAny(rest[:1], "-_+")
}

// inOrder lists texts in order, each once and not too many.
func inOrder(texts []string) string {
	const some = 5
	sorted := slices.Compact(slices.Sorted(slices.Values(texts)))
	if rest := len(sorted) - some; rest > 0 {
		sorted = append(sorted[:some], fmt.Sprintf("%d more", rest))
	}
	return strings.Join(sorted, ", ")
}
