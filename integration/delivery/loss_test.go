//go:build integration

package delivery_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lockstep-fleet/lockstep/adapters/akeyless/akeylesstest"
	"github.com/lockstep-fleet/lockstep/codec"
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

// fat are sessions that failed with many words, so that few fill a spool. They
// start a millisecond apart.
type fat struct {
	in   *installation
	next int
	last time.Time
}

func (f *fat) fail(n int, clusters []string) {
	f.in.t.Helper()
	for range n {
		cluster := clusters[f.next%len(clusters)]
		start := time.Now().Truncate(time.Millisecond)
		if !start.After(f.last) {
			start = f.last.Add(time.Millisecond)
		}
		f.last = start
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
	hub := in.collect(configuration{ID: "hub", Clusters: clusters, Vendor: true})
	// Nothing is lost of this one, so nothing may be told of it.
	quiet := in.collect(configuration{ID: "agent-quiet", Clusters: []string{"quiet"}, Probed: listen(t)})
	f := &fat{in: in}
	f.fail(80, clusters)
	in.drained()
	away := f.next
	if err := in.bus.kill(); err != nil {
		t.Fatal(err)
	}
	// Each of these is some 4 KB, so the spool would have to hold thrice what it may.
	const chunk, chunks = 600, 20
	for range chunks {
		f.fail(chunk, clusters)
		read := len(in.vendor.Requests())
		polls := in.vendor.Requests()["list-sra-sessions"]
		await(t, "a poll", func() string {
			if in.vendor.Requests()["list-sra-sessions"] < polls+3 {
				return fmt.Sprintf("of %d calls none lists sessions", read)
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
	hub.stop()
	quiet.stop()
	hub.panics()
	a := in.read()
	t.Log(a.told())

	// The oldest of what was seen while the bus was away is missing, and nothing else.
	absent := a.absent(in.truth)
	missing := make(map[string]int)
	first := make(map[string]string) // that is there, by cluster
	for i := away; i < f.next; i++ {
		id, cluster := fmt.Sprintf("fat-%06d", i), clusters[i%len(clusters)]
		switch there := a.events[event{fleet.SessionID(id), fleet.SessionFailed}] != nil; {
		case there && first[cluster] == "":
			first[cluster] = id
		case !there && first[cluster] != "":
			t.Errorf("%s of %s is missing, and %s before it is there", id, cluster, first[cluster])
		case !there:
			missing[cluster]++
		}
	}
	if len(absent) == 0 || len(absent) >= last-away {
		t.Errorf("%d of %d sessions are missing, so the spool was not put to the test", len(absent), last-away)
	}
	counted, holes := a.counted(), a.missing(clusters)
	t.Logf("%d of %d sessions are missing; holes %v; marks count %v", len(absent), last-away, holes, counted)
	for _, cluster := range clusters {
		of := topic{cluster, string(fleet.KindSession)}
		if got := counted[of]; got.observations < missing[cluster] {
			t.Errorf("of %s %d sessions are missing, and marks count %d observations", cluster, missing[cluster], got.observations)
		}
	}
	for _, of := range slices.SortedFunc(maps.Keys(holes), func(a, b topic) int { return strings.Compare(a.cluster+a.kind, b.cluster+b.kind) }) {
		if got := counted[of].messages; got != holes[of] {
			t.Errorf("of %s %d messages about %s are missing, and marks count %d", of.cluster, holes[of], of.kind, got)
		}
	}
	for of := range counted {
		if holes[of] == 0 {
			t.Errorf("messages about %s of %s are told to be lost, and none is missing", of.kind, of.cluster)
		}
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
		s.inconclusive(cluster, "")
	}
	if v := s.gates()["quiet"]; v.Decision.Verdict != "pending" && v.Decision.Verdict != "" {
		t.Errorf("nothing is lost of the quiet cluster, and its gate says %s", v)
	}
	s.panics()
}

// spoiled is what is wrong with a spool's files after spoil.
func spoil(t *testing.T, dir string) (bit, cut string) {
	t.Helper()
	segments, err := filepath.Glob(filepath.Join(dir, "*.seg"))
	if err != nil || len(segments) < 3 {
		t.Fatalf("the spool has the segments %v, too few to spoil: %v", segments, err)
	}
	slices.Sort(segments)
	bit, cut = segments[1], segments[len(segments)-1]
	content, err := os.ReadFile(bit)
	if err != nil {
		t.Fatal(err)
	}
	content[len(content)/2] ^= 1 << 3
	if err := os.WriteFile(bit, content, 0o600); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(cut)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(cut, info.Size()-7); err != nil {
		t.Fatal(err)
	}
	return filepath.Base(bit), filepath.Base(cut)
}

func TestADamagedSpoolIsToldAndTheCollectorGoesOn(t *testing.T) {
	t.Parallel()
	clusters := alone(4)
	in := install(t, akeylesstest.Options{})
	hub := in.collect(configuration{ID: "hub", Clusters: clusters, Vendor: true})
	f := &fat{in: in}
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
	bit, cut := spoil(t, filepath.Join(hub.Dir, "spool"))
	t.Logf("a bit of %s is another, and %s is cut", bit, cut)
	if err := hub.start(); err != nil {
		t.Fatal(err)
	}
	if err := in.bus.start(); err != nil {
		t.Fatal(err)
	}
	f.fail(len(clusters), clusters)
	a := in.drained()
	await(t, "the end of the spool", func() string {
		if waiting := hub.metric(t, spooled); waiting > 5 {
			return fmt.Sprintf("%g messages wait", waiting)
		}
		return ""
	})
	hub.stop()
	hub.panics()
	a = in.read()
	t.Log(a.told())
	a.compare(in.truth) // the vendor was asked again, so the sessions are there all the same
	if lines := hub.lines("LS-COL-006"); len(lines) == 0 {
		t.Error("the log says nothing of the damage (LS-COL-006)")
	} else if !strings.Contains(strings.Join(lines, "\n"), bit) {
		t.Errorf("the log does not name %s: %s", bit, strings.Join(lines, "\n"))
	}
	about := make(map[string]bool)
	for _, o := range a.lost {
		mark := o.GetMark()
		if !mark.GetBlind() || !strings.Contains(mark.GetBlindReason(), "damaged") {
			t.Errorf("a mark of loss of %s is not blind or speaks of no damage: %v", o.GetCluster(), mark)
		}
		if mark.GetAbout() == string(fleet.KindSession) {
			about[o.GetCluster()] = true
		}
	}
	for _, cluster := range clusters {
		if !about[cluster] {
			t.Errorf("sessions of %s may be lost, and no mark says so", cluster)
		}
	}
	// A record that was cut off was durable, and so was its sequence, which nobody may
	// use for something else.
	if got := a.incarnations["hub-session"]; len(got) != 2 {
		t.Errorf("the sessions' source speaks as %v, want another one after the damage", got)
	}
	before := a.incarnations["hub-session"][0]
	seen := false
	for _, h := range a.holes {
		if h.position.Incarnation != before {
			t.Errorf("a hole after the damage: %s", h)
		}
		seen = seen || h.position.Source == "hub-session"
	}
	if !seen {
		t.Error("the flipped bit leaves no hole in the sessions' messages")
	}
	for p := range a.newest {
		if p.Incarnation == before && a.newest[codec.Position{Source: p.Source, Incarnation: a.incarnations[p.Source][len(a.incarnations[p.Source])-1], Part: p.Part}] == 0 && p.Source == "hub-session" {
			t.Errorf("after the damage %+v says nothing more", p)
		}
	}
}
