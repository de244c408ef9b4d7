//go:build linux && amd64

package evaluator_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/drift"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	driftv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/drift/v1"
	fleetv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/fleet/v1"
	observationv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/observation/v1"
)

// seeds is how many days are played, each by a cluster of its own, and rounds how
// many instants of a day there are.
const (
	seeds  = 24
	rounds = 10
)

// player is one cluster's day. It says the same in every world.
type player struct {
	random *rand.Rand
	source *source
	// What runs, what Helm declares and what the bastion reports, empty before the
	// first of it.
	gateway, sra, helm, bastion string
	said                        []*observationv1.Batch
	late                        []codec.Observation
}

// version draws one: of winter mostly, of spring, or of no release.
func (p *player) version() string { return []string{"1", "1", "2", "2", "3"}[p.random.IntN(5)] }

func (p *player) registration(w *world) codec.Observation {
	return codec.Observation{Registration: &fleet.Registration{
		Cluster: p.source.cluster, ObservedAt: w.now(), LastReport: w.now(), Bastions: []fleet.Bastion{{ID: "b1", Version: p.bastion}},
	}}
}

// batches are what is published of the cluster in one round; none means that it is
// silent.
func (p *player) batches(w *world) []*observationv1.Batch {
	cluster := p.source.cluster
	dice := p.random.IntN(100)
	var seen []codec.Observation
	switch {
	case dice < 4: // a message is lost, and all is told behind it
		p.source.batch()
		p.gateway = p.version()
		seen = append(seen, w.inventory(cluster, p.gateway, p.sra))
		if p.helm != "" {
			seen = append(seen, w.helm(cluster, p.helm, p.helm))
		}
		if p.bastion != "" {
			seen = append(seen, p.registration(w))
		}
	case dice < 12: // a step of an update: a mix, or its end
		p.gateway = p.version()
		seen = append(seen, w.inventory(cluster, p.gateway, p.sra))
	case dice < 24:
		p.sra = p.version()
		seen = append(seen, w.inventory(cluster, p.gateway, p.sra))
	case dice < 34: // both at once
		p.gateway = p.version()
		p.sra = p.gateway
		seen = append(seen, w.inventory(cluster, p.gateway, p.sra))
	case dice < 42: // one that arrives later than it should
		p.late = append(p.late, w.inventory(cluster, p.version(), p.version()))
		return nil
	case dice < 50 && len(p.late) > 0:
		i := p.random.IntN(len(p.late))
		seen = append(seen, p.late[i])
		p.late = slices.Delete(p.late, i, i+1)
	case dice < 60:
		p.helm = p.version()
		seen = append(seen, w.helm(cluster, p.helm, p.helm))
	case dice < 66:
		p.bastion = p.version()
		seen = append(seen, p.registration(w))
	case dice < 72 && len(p.said) > 0: // what came already
		return []*observationv1.Batch{p.said[p.random.IntN(len(p.said))]}
	case dice < 76:
		return nil
	default:
		// A start does not read marks again, so what had lasted up to one is not known to
		// it of a report that arrives after both.
		p.late = nil
		seen = append(seen, w.holds(cluster, fleet.KindInventory))
		if p.helm != "" {
			seen = append(seen, w.holds(cluster, fleet.KindPackage))
		}
		if p.bastion != "" {
			seen = append(seen, w.holds(cluster, fleet.KindRegistration))
		}
	}
	b := p.source.batch(seen...)
	p.said = append(p.said, b)
	return []*observationv1.Batch{b}
}

// Whoever is killed at any point of a day and started anew ends the day knowing the
// same as one who saw all of it, and has told the same.
func TestARebuildIsAsIfNothingHadHappened(t *testing.T) {
	t.Parallel()
	// The day is over when it is told: what arrived counts by when it was seen.
	step := time.Now().UTC().Truncate(time.Minute).Add(-6 * time.Hour)
	seed := uint64(1)
	if text := os.Getenv("LOCKSTEP_REBUILD_SEED"); text != "" { // to play other days
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	var mu sync.Mutex
	ends := make(map[bool]map[string]string)
	t.Run("worlds", func(t *testing.T) {
		for _, killed := range []bool{false, true} {
			t.Run(fmt.Sprint("killed ", killed), func(t *testing.T) {
				t.Parallel()
				end := day(t, seed, step, killed)
				mu.Lock()
				defer mu.Unlock()
				ends[killed] = end
			})
		}
	})
	same(t, "what is known at the end of the day", ends[false], ends[true])
}

func day(t *testing.T, seed uint64, step time.Time, killed bool) map[string]string {
	t.Helper()
	var clusters []fleet.ClusterID
	for i := range seeds {
		clusters = append(clusters, fleet.ClusterID(fmt.Sprintf("day-%02d", i)))
	}
	w := newWorld(t, clusters...)
	w.step, w.clock = step, step.Add(11*time.Second)
	// Nobody is dark: an absence of the evaluator's own delays that on purpose. Nor is
	// anybody split, since packages and registrations of before are not read again.
	w.config.Limits = drift.Limits{MixedWindow: 10 * time.Minute, DarkAfter: 48 * time.Hour, SplitAfter: 48 * time.Hour}
	w.config.Releases = append(w.config.Releases, spring())
	w.windows = time.Hour
	w.config.Beat = 25 * time.Millisecond
	l := w.start()
	var players []*player
	for i, cluster := range clusters {
		players = append(players, &player{random: rand.New(rand.NewPCG(seed, uint64(i))), source: w.source(cluster), gateway: "1", sra: "1"})
	}
	common, chance := rand.New(rand.NewPCG(seed, 1000)), rand.New(rand.NewPCG(seed, 2000))
	// Everything is known before the clock goes on, in both worlds.
	settle := func(sent []uint64) {
		w.awaitHandled(sent...)
		w.awaitPasses()
		w.awaitHistory(clusters...)
		w.awaitPasses() // What was learned may change a state.
	}
	play := func(say func(p *player) []*observationv1.Batch) {
		w.advance(time.Duration(1+common.IntN(6)) * time.Minute)
		var sent []uint64
		at := chance.IntN(3 * len(players)) // where the evaluator dies, mostly nowhere
		for i, p := range players {
			if killed && i == at {
				l.stop()
				l = w.start()
			}
			for _, b := range say(p) {
				sent = append(sent, w.publish(b))
			}
		}
		settle(sent)
	}
	whole := func(gateway, sra string) func(p *player) []*observationv1.Batch {
		return func(p *player) []*observationv1.Batch {
			cluster := p.source.cluster
			return []*observationv1.Batch{p.source.batch(w.inventory(cluster, gateway, sra))}
		}
	}
	play(whole("1", "1"))
	for range rounds {
		play(func(p *player) []*observationv1.Batch { return p.batches(w) })
	}
	// As the day left it, as far as it lasts, and then in the middle of a move of
	// which there is something to know.
	play(func(p *player) []*observationv1.Batch {
		return []*observationv1.Batch{p.source.batch(w.inventory(p.source.cluster, p.gateway, p.sra))}
	})
	end := make(map[string]string)
	tell := func(when string) {
		for _, c := range l.clusters(&fleetv1.ListClustersRequest{PageSize: 1000}).GetClusters() {
			end[when+" "+c.GetId()] = text(c)
		}
		drifts, err := l.drift.ListDrifts(t.Context(), &driftv1.ListDriftsRequest{PageSize: 1000})
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range drifts.GetDrifts() {
			end[when+" episode of "+d.GetCluster()] = text(d)
		}
	}
	tell("after the day")
	play(whole("1", "1"))
	// Enough of them move on for something to be known of that.
	for _, sra := range []string{"1", "2"} {
		play(func(p *player) []*observationv1.Batch {
			if !slices.Contains(players[:6], p) {
				return nil
			}
			return whole("2", sra)(p)
		})
	}
	play(whole("1", "1"))
	play(whole("2", "1"))
	tell("on the way")
	if learned := end["on the way day-00"]; !strings.Contains(learned, "that this move took in this fleet") {
		t.Errorf("nothing was learned that day: %s", learned)
	}
	for _, cluster := range clusters {
		var told []string
		for _, p := range w.checkPeriods(cluster) {
			told = append(told, w.period(p.Period))
		}
		end["history of "+string(cluster)] = strings.Join(told, "\n")
		end["episodes of "+string(cluster)] = strings.Join(w.episodes(cluster), "\n")
	}
	return end
}

// text is a message to compare; the texts of protojson differ in their spaces from
// binary to binary alone.
func text(m proto.Message) string { return protojson.Format(m) }
