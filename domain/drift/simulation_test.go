package drift_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-fleet/lockstep/domain/catalog"
	"github.com/lockstep-fleet/lockstep/domain/drift"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// A simulated fleet: what is normal in it, and how late it is told.
const (
	simulatedClusters = 500
	simulatedDay      = 24 * time.Hour
	gateways          = 8 // of twenty instances in each cluster
	bastions          = 12
	mostLate          = 10 * time.Minute
	reportEvery       = 5 * time.Minute
	bastionsLate      = 5 * time.Minute  // to the control plane
	longestUpdate     = 58 * time.Minute // of an hour that it may take
)

func simulatedLimits() drift.Limits {
	return drift.Limits{MixedWindow: time.Hour, DarkAfter: 20 * time.Minute, SplitAfter: 6 * time.Minute}
}

// pairs are the releases of the simulated fleet, one after the other.
var pairs = []fleet.VersionSet{set("4.51.0", "3.0.2"), set("4.52.0", "3.0.3"), set("5.0.1", "3.1.0"), set("5.0.2", "3.2.0")}

func pairID(n int) fleet.ReleaseID { return fleet.ReleaseID(fmt.Sprint("pair-", n)) }

func simulatedCatalogue() *catalog.Index {
	var entries []catalog.Entry
	for n, versions := range pairs {
		entries = append(entries, catalog.Entry{Release: catalog.Release{ID: pairID(n), Chart: catalog.GatewayChart, Versions: versions}})
	}
	return catalog.NewIndex(entries)
}

// place is a simulated cluster as it really is.
type place struct {
	chance    *rand.Rand
	now       time.Time
	instances []fleet.Instance
	asked     fleet.VersionSet // of the workloads
	serial    int
	// before is what bastions ran before the last update; the control plane knows
	// of reports for behind looks before it tells of them.
	before string
	known  []fleet.Registration
	behind int
	// told is what reports say of it, with when they arrive.
	told []arrival
	// reporting is when the next report is due that no change asks for.
	reporting time.Time
	// mixes are those that last for longer than their window.
	mixes []*realMix
	// follow is what a rollout or a person does meanwhile.
	follow []followed
}

// arrival is a report on its way.
type arrival struct {
	at           time.Time
	inventory    *fleet.Inventory
	pkg          *fleet.Package
	registration *fleet.Registration
	change       func(*drift.Cluster)
}

// realMix is one that is too long.
type realMix struct {
	overdue, ended time.Time
	found          bool
}

// followed is a cluster's rollout that ends when it is seen to have arrived.
type followed struct {
	began  time.Time
	target drift.Assignment
}

// late is when a report arrives; most are quick.
func (p *place) late() time.Time {
	if p.chance.IntN(3) > 0 {
		return p.now.Add(time.Duration(p.chance.Int64N(int64(5 * time.Second))))
	}
	return p.now.Add(time.Duration(p.chance.Int64N(int64(mostLate))))
}

// report tells what runs now, sometimes twice.
func (p *place) report() {
	inventory := &fleet.Inventory{Cluster: "oslo", ObservedAt: p.now, Instances: slices.Clone(p.instances)}
	p.told = append(p.told, arrival{at: p.late(), inventory: inventory})
	if p.chance.IntN(10) == 0 {
		p.told = append(p.told, arrival{at: p.late(), inventory: inventory})
	}
}

// look tells the other two sources' views.
func (p *place) look() {
	p.told = append(p.told, arrival{at: p.late(), pkg: &fleet.Package{
		ObservedAt: p.now, Helm: []fleet.HelmRelease{{Name: "gw", Status: "deployed", Versions: p.asked}},
	}})
	known := fleet.Registration{LastReport: p.now}
	for i, instance := range p.instances {
		if instance.Component == fleet.Gateway {
			continue
		}
		bastion := fleet.Bastion{ID: fleet.InstanceID(fmt.Sprint("bastion-", i)), Version: instance.Version}
		if p.now.Sub(instance.StartedAt) < bastionsLate && p.before != "" {
			bastion.Version = p.before
		}
		known.Bastions = append(known.Bastions, bastion)
	}
	p.known = append(p.known, known)
	registration := p.known[max(0, len(p.known)-1-p.behind)]
	registration.ObservedAt = p.now
	p.told = append(p.told, arrival{at: p.late(), registration: &registration})
}

// pass lets time go by, with its reports.
func (p *place) pass(d time.Duration) {
	until := p.now.Add(d)
	for p.reporting.Before(until) {
		p.now = p.reporting
		p.report()
		p.look()
		p.reporting = p.reporting.Add(reportEvery)
	}
	p.now = until
}

func (p *place) start(component fleet.Component, version string) fleet.Instance {
	p.serial++
	image := map[fleet.Component]string{fleet.Gateway: "gateway"}[component]
	if image == "" {
		image = "zero-trust-bastion"
	}
	return fleet.Instance{
		ID: fleet.InstanceID(fmt.Sprint("pod-", p.serial)), Component: component, Image: image + ":" + version, Declared: image + ":" + version, Tag: version,
		Digest: "sha256:" + version, Version: version, Health: fleet.HealthHealthy, StartedAt: p.now,
	}
}

// ask has the workloads of a line ask for another version.
func (p *place) ask(line fleet.Line, version string) {
	asked := fleet.VersionSet{line: version}
	for other, v := range p.asked {
		if other != line {
			asked[other] = v
		}
	}
	p.asked = asked
	for i := range p.instances {
		if l, _ := fleet.LineOf(p.instances[i].Component); l == line {
			name := p.instances[i].Image[:len(p.instances[i].Image)-len(p.instances[i].Tag)]
			p.instances[i].Declared = name + version
		}
	}
}

// update takes the cluster to another pair, one instance after the other, and stays
// where it is for a while after some of them.
func (p *place) update(to fleet.VersionSet, lasts, stuck time.Duration) {
	p.before = p.asked[fleet.LineSRA]
	stuckAfter := 1 + p.chance.IntN(len(p.instances)-2)
	pause := lasts / time.Duration(len(p.instances)+2)
	done := 0
	for _, line := range []fleet.Line{fleet.LineGateway, fleet.LineSRA} {
		p.ask(line, to[line])
		p.pass(pause)
		for i := range p.instances {
			if l, _ := fleet.LineOf(p.instances[i].Component); l != line {
				continue
			}
			next := p.start(p.instances[i].Component, to[line])
			if p.chance.IntN(2) == 0 {
				p.instances = append(p.instances, next) // the new one first
				p.report()
				p.instances = p.instances[:len(p.instances)-1]
			} else {
				p.instances[i].Health = fleet.HealthStopped
				p.report()
			}
			p.pass(pause)
			next.StartedAt = p.now
			p.instances[i] = next
			p.report()
			p.pass(time.Second)
			if done++; done == stuckAfter {
				p.pass(stuck)
			}
		}
	}
}

// restart replaces an instance by one of the same version.
func (p *place) restart() {
	i := p.chance.IntN(len(p.instances))
	p.instances[i] = p.start(p.instances[i].Component, p.instances[i].Version)
	p.report()
}

// change has the evaluator know something at once.
func (p *place) change(fn func(*drift.Cluster)) {
	p.told = append(p.told, arrival{at: p.now, change: fn})
}

func between(chance *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(chance.Int64N(int64(most-least)))
}

// simulate lives a day in one cluster. Who moves it is one of: rollouts, people in
// a cluster without an assignment, people who say on the way what it should run.
func simulate(chance *rand.Rand, seeded bool) *place {
	p := &place{chance: chance, now: noon, reporting: noon, asked: pairs[0], behind: chance.IntN(4)}
	for i := range gateways + bastions {
		component := []fleet.Component{fleet.SRAWeb, fleet.SRASSH}[i%2]
		version := pairs[0][fleet.LineSRA]
		if i < gateways {
			component, version = fleet.Gateway, pairs[0][fleet.LineGateway]
		}
		p.instances = append(p.instances, p.start(component, version))
	}
	who := chance.IntN(3)
	if who != 1 {
		assigned := drift.Assignment{Release: pairID(0), Versions: pairs[0]}
		p.change(func(c *drift.Cluster) { c.Assigned = &assigned })
	}
	tooLong := 1 + chance.IntN(len(pairs)-1) // the update that is stuck, if one is
	for n := 1; n < len(pairs); n++ {
		p.pass(between(chance, 2*time.Hour, 3*time.Hour))
		p.restart()
		p.pass(between(chance, time.Hour, 2*time.Hour))
		target := drift.Assignment{Release: pairID(n), Versions: pairs[n]}
		began, window := p.now, simulatedLimits().MixedWindow
		lasts := between(chance, 30*time.Minute, longestUpdate)
		switch who {
		case 0:
			// A rollout's window is over when it is over, however late reports are.
			window += mostLate + reportEvery
			target.Rollout = fmt.Sprint("r", n)
			move := drift.Move{Rollout: target.Rollout, Target: target, Ends: began.Add(window)}
			p.change(func(c *drift.Cluster) { c.Move = &move })
			p.follow = append(p.follow, followed{began, target})
		case 2:
			p.told = append(p.told, arrival{at: began.Add(lasts / 2), change: func(c *drift.Cluster) { c.Assigned = &target }})
		}
		var stuck time.Duration
		if seeded && n == tooLong {
			stuck = between(chance, window+10*time.Minute, 2*window)
		}
		p.update(pairs[n], lasts, stuck)
		if stuck > 0 {
			p.mixes = append(p.mixes, &realMix{overdue: began.Add(window), ended: p.now})
		}
	}
	p.pass(simulatedDay - p.now.Sub(noon))
	slices.SortStableFunc(p.told, func(a, b arrival) int { return a.at.Compare(b.at) })
	return p
}

// watch judges a simulated cluster at every arrival and whenever time alone changes
// its state, and returns what was alarming without cause.
func (p *place) watch(catalogue *catalog.Index) (wrong []string, judged int) {
	c := drift.Cluster{ID: "oslo"}
	var wake time.Time
	judge := func(now time.Time) {
		j := drift.Judge(c, simulatedLimits(), catalogue, now)
		wake = j.WakeAt
		judged++
		if len(p.follow) > 0 && c.Move != nil && c.Move.Rollout == p.follow[0].target.Rollout && j.State == drift.Locked {
			// It was seen to arrive, and not only not to have begun.
			if runs, whole := drift.Whole(j.Running); whole && cmp.Equal(runs, p.follow[0].target.Versions) {
				target := p.follow[0].target
				c.Assigned, c.Move, p.follow = &target, nil, p.follow[1:]
			}
		}
		if !j.State.Alarming() {
			return
		}
		for _, mix := range p.mixes {
			if j.State == drift.Overdue && !now.Before(mix.overdue) && now.Before(mix.ended.Add(mostLate+reportEvery)) {
				mix.found = true
				return
			}
		}
		wrong = append(wrong, fmt.Sprintf("%s at %s: %q", j.State, now.Format(time.TimeOnly), j.Reasons))
	}
	for _, a := range p.told {
		for !wake.IsZero() && wake.Before(a.at) {
			judge(wake)
		}
		switch {
		case a.inventory != nil:
			c = c.Observe(*a.inventory)
		case a.pkg != nil:
			c = c.ObservePackage(*a.pkg)
		case a.registration != nil:
			c = c.ObserveRegistration(*a.registration)
		default:
			a.change(&c)
		}
		judge(a.at)
	}
	return wrong, judged
}

// A day of five hundred clusters with normal updates, told late, twice and in
// another order, opens no episode; what stays mixed for too long does, every time.
func TestDriftIsNotCriedWolf(t *testing.T) {
	t.Parallel()
	catalogue := simulatedCatalogue()
	seeds := rand.New(rand.NewPCG(24, 500))
	var seeded, found, judged, told int
	for n := range simulatedClusters {
		chance := rand.New(rand.NewPCG(seeds.Uint64(), seeds.Uint64()))
		p := simulate(chance, n%5 == 0)
		wrong, times := p.watch(catalogue)
		judged += times
		told += len(p.told)
		if len(wrong) > 0 {
			t.Errorf("cluster %d: %d false alarms, such as %s", n, len(wrong), wrong[0])
		}
		for _, mix := range p.mixes {
			if seeded++; mix.found {
				found++
			} else {
				t.Errorf("cluster %d: the mix that was overdue at %s was not found", n, mix.overdue)
			}
		}
		if len(p.follow) > 0 {
			t.Errorf("cluster %d: %d rollouts were never seen to arrive", n, len(p.follow))
		}
	}
	t.Logf("%d of %d mixes found in %d reports, judged %d times", found, seeded, told, judged)
	if seeded < simulatedClusters/5 {
		t.Errorf("%d mixes were seeded", seeded)
	}
}

// A million rows of inventories, in order and in no order, come to the same.
func TestAMillionRowsInAnyOrder(t *testing.T) {
	t.Parallel()
	const clusters, inventories, instances = 1000, 250, 4
	catalogue := simulatedCatalogue()
	chance := rand.New(rand.NewPCG(1, 1_000_000))
	// What a cluster may run: whole, halves, and mixed within a line.
	var views [][]fleet.Instance
	for range 50 {
		var view []fleet.Instance
		a, b := pairs[chance.IntN(len(pairs))], pairs[chance.IntN(len(pairs))]
		for i := range instances {
			of := a
			if i == instances-1 {
				of = b
			}
			component := []fleet.Component{fleet.Gateway, fleet.SRAWeb, fleet.SRASSH, fleet.SRASSH}[i]
			line, _ := fleet.LineOf(component)
			view = append(view, runs(component, of[line]))
		}
		views = append(views, view)
	}
	ordered, shuffled := make([]drift.Cluster, clusters), make([]drift.Cluster, clusters)
	type row struct {
		cluster int
		fleet.Inventory
	}
	rows := make([]row, 0, clusters*inventories)
	for i := range inventories {
		for c := range clusters {
			when := noon.Add(time.Duration(i)*simulatedDay/(inventories+1) + time.Duration(chance.IntN(300))*time.Second)
			rows = append(rows, row{c, fleet.Inventory{ObservedAt: when, Instances: views[chance.IntN(len(views))]}})
		}
	}
	slices.SortStableFunc(rows, func(a, b row) int { return a.ObservedAt.Compare(b.ObservedAt) })
	for _, r := range rows {
		ordered[r.cluster] = ordered[r.cluster].Observe(r.Inventory)
	}
	chance.Shuffle(len(rows), func(i, j int) { rows[i], rows[j] = rows[j], rows[i] })
	for _, r := range rows {
		shuffled[r.cluster] = shuffled[r.cluster].Observe(r.Inventory)
	}
	states := make(map[drift.State]int)
	for i := range ordered {
		for _, after := range []time.Duration{0, 10 * time.Minute, time.Hour} {
			now := ordered[i].Seen().Add(after)
			one, other := drift.Judge(ordered[i], limits(), catalogue, now), drift.Judge(shuffled[i], limits(), catalogue, now)
			if diff := cmp.Diff(one, other); diff != "" {
				t.Fatalf("cluster %d at %s (-in order +in no order):\n%s", i, now, diff)
			}
			states[one.State]++
		}
	}
	if len(states) < 4 {
		t.Errorf("only %v came of it", states)
	}
}
