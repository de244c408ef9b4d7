//go:build integration

package delivery_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-fleet/lockstep/adapters/akeyless/akeylesstest"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/topology"
)

// alone are clusters of which no two share a part, so that a hole is of one of
// them.
func alone(n int) []string {
	parts := make(map[uint32]bool)
	var out []string
	for _, id := range scripted(200) {
		if part := topology.Part(fleet.ClusterID(id)); !parts[part] && len(out) < n {
			parts[part] = true
			out = append(out, id)
		}
	}
	return out
}

// fat are sessions that failed with many words, so that few fill a spool.
type fat struct {
	in   *installation
	next int
	at   time.Time
}

// begun is so long ago that all of them have ended.
func begun(in *installation) *fat { return &fat{in: in, at: time.Now().Add(-30 * time.Minute)} }

// fail reports some, a millisecond apart and later than the last by more than a
// reader looks back, so that they are listed to it once.
func (f *fat) fail(n int, clusters []string) {
	f.in.t.Helper()
	f.at = f.at.Add(time.Minute)
	for i := range n {
		cluster, start := clusters[f.next%len(clusters)], f.at.Add(time.Duration(i)*time.Millisecond)
		s := akeylesstest.Session{
			ID: fmt.Sprintf("fat-%06d", f.next), Status: "failed", StartTime: start, EndTime: start.Add(time.Millisecond), ConnectionType: "ssh",
			Gateway:    akeylesstest.GatewayInfo{ClusterName: configuration{}.AtVendor(cluster), ClusterDisplayName: cluster},
			InstanceID: "ssh-0", UserIdentifier: fmt.Sprint("user", f.next), TargetHost: "db", TargetName: "db", TargetType: "ssh",
			ErrorMsg: strings.Repeat(fmt.Sprintf("session %06d failed. ", f.next), 190),
		}
		f.next++
		if err := f.in.vendor.Report(s); err != nil {
			f.in.t.Fatal(err)
		}
		f.in.truth.observe(s)
	}
}

// dropped is what a mark of loss counts.
var dropped = regexp.MustCompile(`(\d+) messages? with (\d+) observations?`)

// topic is what a mark speaks of.
type topic struct{ cluster, kind string }

// tally is what is lost.
type tally struct{ messages, observations int }

// counted adds up what marks of loss say, by cluster and kind.
func (a *account) counted() map[topic]tally {
	a.t.Helper()
	out := make(map[topic]tally)
	for _, o := range a.lost {
		mark := o.GetMark()
		found := dropped.FindStringSubmatch(mark.GetBlindReason())
		if found == nil || !mark.GetBlind() {
			a.t.Errorf("a mark of loss of %s is not blind or counts nothing: %v", o.GetCluster(), mark)
			continue
		}
		messages, err := strconv.Atoi(found[1])
		if err != nil {
			a.t.Fatal(err)
		}
		observations, err := strconv.Atoi(found[2])
		if err != nil {
			a.t.Fatal(err)
		}
		of := topic{o.GetCluster(), mark.GetAbout()}
		out[of] = tally{out[of].messages + messages, out[of].observations + observations}
	}
	return out
}

// missing adds up holes by cluster and kind, where each part has one cluster.
func (a *account) missing(clusters []string) map[topic]int {
	out := make(map[topic]int)
	for _, h := range a.holes {
		for _, cluster := range clusters {
			if topology.Part(fleet.ClusterID(cluster)) == h.position.Part {
				source := string(h.position.Source)
				out[topic{cluster, source[strings.LastIndex(source, "-")+1:]}] += int(h.to - h.from + 1)
			}
		}
	}
	return out
}

func TestAFullSpoolDropsItsOldestTellsHowMuchAndLeavesGatesInconclusive(t *testing.T) {
	t.Parallel()
	clusters := alone(8)
	in := install(t, akeylesstest.Options{})
	began := time.Now()
	hub := in.collect(configuration{ID: "hub", Clusters: clusters, Vendor: true, Lookback: time.Hour})
	// Nothing is lost of this one, so nothing may be told of it.
	quiet := in.collect(configuration{ID: "agent-quiet", Clusters: []string{"quiet"}, Probed: listen(t)})
	f := begun(in)
	f.fail(80, clusters)
	in.drained()
	away := f.next
	if err := in.bus.kill(); err != nil {
		t.Fatal(err)
	}
	// Each of these is some 4 KB, so the spool would have to hold thrice what it may.
	const chunk, chunks = 1500, 8
	for range chunks {
		f.fail(chunk, clusters)
		before := hub.polls(t)
		await(t, "a poll", func() string {
			// The first of these may have been under way.
			if hub.polls(t) < before+2 {
				return "sessions are not read"
			}
			return ""
		})
	}
	await(t, "word of a full spool", func() string {
		if len(hub.lines("LS-COL-005")) == 0 {
			return "the log has no LS-COL-005"
		}
		return ""
	})
	var size int64
	files, err := os.ReadDir(filepath.Join(hub.Dir, "spool"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if info, err := file.Info(); err == nil {
			size += info.Size()
		}
	}
	if size > 16<<20+4<<10 {
		t.Errorf("the spool may have 16 MiB and has %d bytes", size)
	}
	if err := in.bus.start(); err != nil {
		t.Fatal(err)
	}
	last := f.next
	f.fail(len(clusters), clusters)
	await(t, "the end of the spool", func() string {
		a := in.read()
		for _, e := range a.absent(in.truth) {
			if string(e.session) >= fmt.Sprintf("fat-%06d", last) {
				return fmt.Sprintf("%s is not in the stream; %s", e.session, a.told())
			}
		}
		if waiting := hub.metric(t, spooled); waiting > 5 {
			return fmt.Sprintf("%g messages wait", waiting)
		}
		return ""
	})
	observations := int(hub.metric(t, "lockstep_collector_dropped_total"))
	hub.stop()
	quiet.stop()
	hub.panics()
	a := in.read()
	t.Log(a.told())

	// What was seen while the bus was away is missing from its oldest on, but for what
	// was on its way already; the newest is there, as much as the spool holds.
	missing, newest := make(map[string]int), 0
	for i := away; i < f.next; i++ {
		if a.events[event{fleet.SessionID(fmt.Sprintf("fat-%06d", i)), fleet.SessionFailed}] == nil {
			missing[clusters[i%len(clusters)]]++
			newest = i
		}
	}
	const kept = 16 << 20 / 4400 * 6 / 10
	if newest == 0 || f.next-newest < kept {
		t.Errorf("the newest session that is missing is number %d of %d to %d; want one, and %d behind it", newest, away, f.next, kept)
	}
	for _, e := range a.absent(in.truth) {
		if string(e.session) < fmt.Sprintf("fat-%06d", away) {
			t.Errorf("%s was in the stream before the bus went, and is missing", e.session)
		}
	}
	counted, holes := a.counted(), a.missing(clusters)
	for _, cluster := range clusters {
		of := topic{cluster, string(fleet.KindSession)}
		if got := counted[of]; got.observations < missing[cluster] || missing[cluster] > 0 && holes[of] == 0 {
			t.Errorf("of %s %d sessions are missing, holes have %d messages, and marks count %+v", cluster, missing[cluster], holes[of], got)
		}
	}
	inHoles, told := 0, tally{}
	for of, n := range holes {
		inHoles += n
		// What was on its way may have come after it was told to be lost.
		if got := counted[of].messages; got < n {
			t.Errorf("of %s %d messages about %s are missing, and marks count %d", of.cluster, n, of.kind, got)
		}
	}
	for _, n := range counted {
		told.messages, told.observations = told.messages+n.messages, told.observations+n.observations
	}
	logged := 0
	for _, line := range hub.lines("LS-COL-005") {
		found := regexp.MustCompile(`messages=(\d+)`).FindStringSubmatch(line)
		if found == nil {
			t.Fatalf("it is not said how many: %s", line)
		}
		n, err := strconv.Atoi(found[1])
		if err != nil {
			t.Fatal(err)
		}
		logged += n
	}
	absent := len(a.absent(in.truth))
	t.Logf("%d messages are missing, the log counts %d; %d of %d sessions are missing, the metrics count %d observations; marks count %+v",
		inHoles, logged, absent, last-away, observations, told)
	if logged < inHoles || observations < absent {
		t.Error("the log or the metrics count less than is missing")
	}
	if told.messages != logged || told.observations != observations {
		t.Error("the marks of loss together do not count what the log and the metrics do")
	}
	for source, incarnations := range a.incarnations {
		if len(incarnations) != 1 {
			t.Errorf("%s speaks as %v; what was dropped was counted, so it is still the one it was", source, incarnations)
		}
	}

	s := in.serve(append(slices.Clone(clusters), "quiet")...)
	for _, cluster := range []string{clusters[0], clusters[len(clusters)-1], "quiet"} {
		in.apply(cluster, began)
	}
	for _, cluster := range []string{clusters[0], clusters[len(clusters)-1]} {
		s.inconclusive(cluster)
	}
	if v := s.gates()["quiet"]; v.Decision.Verdict != "pending" && v.Decision.Verdict != "" {
		t.Errorf("nothing is lost of the quiet cluster, and its gate says %s", v)
	}
	s.panics()
}

// segments are a spool's files, oldest first.
func segments(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.seg"))
	if err != nil || len(files) < 3 {
		t.Fatalf("the spool has the segments %v, too few to spoil: %v", files, err)
	}
	slices.Sort(files)
	return files
}

// flip changes one bit in the middle of a file.
func flip(t *testing.T, file string) {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	content[len(content)/2] ^= 1 << 3
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// cut takes the last bytes off a file.
func cut(t *testing.T, file string) {
	t.Helper()
	info, err := os.Stat(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, info.Size()-7); err != nil {
		t.Fatal(err)
	}
}

func TestADamagedSpoolIsToldAndTheCollectorGoesOn(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spoil func(t *testing.T, segments []string)
		named int // the segment that the log names; negative counts from the newest
		// another says that the source cannot know how far it had counted.
		another bool
	}{
		"a bit of an older segment, and the newest is half-written": {func(t *testing.T, segments []string) {
			flip(t, segments[1])
			cut(t, segments[len(segments)-1])
		}, 1, false},
		"a bit of the newest segment": {func(t *testing.T, segments []string) { flip(t, segments[len(segments)-1]) }, -1, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			clusters := alone(4)
			in := install(t, akeylesstest.Options{})
			hub := in.collect(configuration{ID: "hub", Clusters: clusters, Vendor: true, Lookback: time.Hour})
			f := begun(in)
			f.fail(40, clusters)
			in.drained()
			if err := in.bus.kill(); err != nil {
				t.Fatal(err)
			}
			const chunk, chunks = 300, 6
			for i := range chunks {
				f.fail(chunk, clusters)
				await(t, "a fuller spool", func() string {
					// Each is some 4 KB.
					if got, want := hub.metric(t, "lockstep_collector_spool_bytes"), float64((i+1)*chunk*3500); got < want {
						return fmt.Sprintf("%g of %g bytes", got, want)
					}
					return ""
				})
			}
			if err := hub.kill(); err != nil {
				t.Fatal(err)
			}
			files := segments(t, filepath.Join(hub.Dir, "spool"))
			c.spoil(t, files)
			if err := hub.start(); err != nil {
				t.Fatal(err)
			}
			if err := in.bus.start(); err != nil {
				t.Fatal(err)
			}
			f.fail(len(clusters), clusters)
			in.drained()
			await(t, "the end of the spool", func() string {
				if waiting := hub.metric(t, spooled); waiting > 5 {
					return fmt.Sprintf("%g messages wait", waiting)
				}
				return ""
			})
			hub.stop()
			hub.panics()
			a := in.read()
			a.compare(in.truth) // the vendor was asked again, so the sessions are there all the same
			a.damage(hub, clusters, filepath.Base(files[(c.named+len(files))%len(files)]), c.another)
		})
	}
}

// damage holds what is told against what was spoiled.
func (a *account) damage(hub *collector, clusters []string, named string, another bool) {
	a.t.Helper()
	if lines := strings.Join(hub.lines("LS-COL-006"), "\n"); !strings.Contains(lines, named) {
		a.t.Errorf("the log does not name %s with LS-COL-006, and says %q", named, lines)
	}
	told := make(map[string]bool)
	for _, o := range a.lost {
		mark := o.GetMark()
		if !mark.GetBlind() || !strings.Contains(mark.GetBlindReason(), "damaged") {
			a.t.Errorf("a mark of loss of %s is not blind or speaks of no damage: %v", o.GetCluster(), mark)
		}
		if mark.GetAbout() == string(fleet.KindSession) {
			told[o.GetCluster()] = true
		}
	}
	for _, cluster := range clusters {
		if !told[cluster] {
			a.t.Errorf("sessions of %s may be lost, and no mark says so", cluster)
		}
	}
	const source = "hub-session"
	incarnations := a.incarnations[source]
	if another != (len(incarnations) == 2) {
		a.t.Errorf("%s speaks as %v; whether it is to be another after the damage: %t", source, incarnations, another)
	}
	holes := 0
	for _, h := range a.holes {
		if h.position.Incarnation != incarnations[0] {
			a.t.Errorf("a hole after the damage: %s", h)
		}
		holes++
	}
	if holes == 0 && !another {
		a.t.Error("the flipped bit leaves no hole, and there is something behind it")
	}
}
