//go:build integration

package delivery_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"math"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lockstep-fleet/lockstep/adapters/akeyless/akeylesstest"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	observationv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/observation/v1"
	"github.com/lockstep-fleet/lockstep/topology"
)

// batch is one of a source of its own, with what one observation of a cluster says.
func batch(source, cluster string, at time.Time, observations ...*observationv1.Observation) *observationv1.Batch {
	for _, o := range observations {
		o.Cluster, o.ObservedAt = cluster, timestamppb.New(at)
	}
	return &observationv1.Batch{Source: source, Incarnation: "i", Sequence: 1, Part: topology.Part(fleet.ClusterID(cluster)), Observations: observations}
}

func check(c *observationv1.Check) *observationv1.Observation {
	c.Name, c.Kind = "port", string(fleet.CheckTCP)
	if c.GetAt() == nil {
		c.At = timestamppb.Now()
	}
	return &observationv1.Observation{Kind: &observationv1.Observation_Check{Check: c}}
}

func session(id string, start *timestamppb.Timestamp) *observationv1.Observation {
	return &observationv1.Observation{Kind: &observationv1.Observation_Session{Session: &observationv1.Session{Id: id, Status: "connected", Start: start}}}
}

func inventory(version string) *observationv1.Observation {
	return &observationv1.Observation{Kind: &observationv1.Observation_Inventory{Inventory: &observationv1.Inventory{Instances: []*observationv1.Instance{{
		Id: "a", Component: string(fleet.Gateway), Version: version, Labelled: version, Health: string(fleet.HealthHealthy),
	}}}}}
}

// refuses fails the test when the bus takes a message of 10 MB from someone who
// writes to its socket.
func (in *installation) refuses(subject string) {
	in.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(in.url, "nats://"))
	if err != nil {
		in.t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		in.t.Fatal(err)
	}
	const size = 10 << 20
	go func() {
		// The server hangs up while it is being written to.
		_, _ = fmt.Fprintf(conn, "CONNECT {\"verbose\":false}\r\nPUB %s %d\r\n", subject, size)
		_, _ = conn.Write(append(bytes.Repeat([]byte("x"), size), "\r\n"...))
	}()
	said := ""
	for lines := bufio.NewScanner(conn); lines.Scan(); {
		if said += lines.Text(); strings.Contains(said, "Maximum Payload Violation") {
			return
		}
	}
	in.t.Errorf("the bus took a message of 10 MB, or said only %.300q", said)
}

// letters are the dead letters by what they hold, with the reason of each.
func (in *installation) letters(js jetstream.JetStream) map[string]string {
	in.t.Helper()
	stream, err := js.Stream(in.t.Context(), topology.StreamDeadLetters)
	if err != nil {
		in.t.Fatal(err)
	}
	out := make(map[string]string)
	for n := uint64(1); n <= stream.CachedInfo().State.LastSeq; n++ {
		m, err := stream.GetMsg(in.t.Context(), n)
		if err != nil {
			in.t.Fatal(err)
		}
		out[string(m.Data)] = m.Header.Get("Lockstep-Reason")
	}
	return out
}

func TestWhatStrangersPublishHarmsNobodyAndIsAccountedFor(t *testing.T) {
	t.Parallel()
	in := install(t, akeylesstest.Options{})
	s := in.serve("oslo")
	conn, err := nats.Connect(in.url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	const day, year = 24 * time.Hour, 365 * 24 * time.Hour
	now := time.Now()
	in24 := now.Add(day - time.Minute)
	whole := func(b *observationv1.Batch) []byte {
		data, err := proto.Marshal(b)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	// The kind under which it is counted, or dead for a dead letter.
	const dead, implausible = "", "implausible_time"
	for i, c := range []struct {
		name string
		data func(source string) []byte
		want string
	}{
		{"half a batch", func(source string) []byte {
			data := whole(batch(source, "oslo", now, inventory("5.0.1")))
			return data[:len(data)/2]
		}, dead},
		{"noise", func(string) []byte { return bytes.Repeat([]byte{0xff, 0x13, 0x80}, 10_000) }, dead},
		{"no time", func(source string) []byte {
			b := batch(source, "oslo", now, inventory("5.0.1"))
			b.Observations[0].ObservedAt = nil
			return whole(b)
		}, dead},
		{"nothing seen", func(source string) []byte { return whole(batch(source, "oslo", now, &observationv1.Observation{})) }, dead},
		{"four megabytes of nothing", func(source string) []byte {
			return append(whole(batch(source, "oslo", now)), bytes.Repeat([]byte{5<<3 | 2, 0}, 2_000_000)...)
		}, dead},
		{"a reading that is no number", func(source string) []byte {
			return whole(batch(source, "oslo", now, check(&observationv1.Check{Readings: map[string]float64{"connect_seconds": math.NaN()}})))
		}, dead},
		{"an endless reading", func(source string) []byte {
			return whole(batch(source, "oslo", now, check(&observationv1.Check{Readings: map[string]float64{"connect_seconds": math.Inf(-1)}})))
		}, dead},
		{"no duration", func(source string) []byte {
			return whole(batch(source, "oslo", now, check(&observationv1.Check{Took: &durationpb.Duration{Seconds: 1, Nanos: -1}})))
		}, dead},
		{"a time that is none", func(source string) []byte {
			return whole(batch(source, "oslo", now, session("s", &timestamppb.Timestamp{Seconds: math.MaxInt64})))
		}, dead},
		{"a negative duration", func(source string) []byte {
			return whole(batch(source, "oslo", now, check(&observationv1.Check{Took: durationpb.New(-time.Hour)})))
		}, "probe"},
		{"a cluster that nobody knows", func(source string) []byte { return whole(batch(source, "nowhere", now, inventory("5.0.1"))) }, "unknown_cluster"},
		{"a version of 64 KB", func(source string) []byte {
			return whole(batch(source, "oslo", now, inventory(strings.Repeat("v", 64<<10))))
		}, "inventory"},
		{"a day ago", func(source string) []byte { return whole(batch(source, "oslo", now.Add(-day), inventory("5.0.1"))) }, "inventory"},
		{"nearly a day ahead", func(source string) []byte {
			return whole(batch(source, "oslo", in24, session("ahead", timestamppb.New(in24))))
		}, "session"},
		{"more than a day ahead", func(source string) []byte {
			return whole(batch(source, "oslo", now, session("ahead", timestamppb.New(now.Add(day+time.Hour)))))
		}, implausible},
		// When it was seen is put right: it was, and it has arrived.
		{"seen ten years ago", func(source string) []byte { return whole(batch(source, "oslo", now.Add(-10*year), inventory("5.0.1"))) }, "inventory"},
		{"seen in ten years", func(source string) []byte { return whole(batch(source, "oslo", now.Add(10*year), inventory("5.0.1"))) }, "inventory"},
		{"ten years ago", func(source string) []byte {
			return whole(batch(source, "oslo", now, session("past", timestamppb.New(now.Add(-10*year)))))
		}, implausible},
		{"in ten years", func(source string) []byte {
			return whole(batch(source, "oslo", now, session("future", timestamppb.New(now.Add(10*year)))))
		}, implausible},
		{"a session of the year 1", func(source string) []byte {
			return whole(batch(source, "oslo", now, session("old", timestamppb.New(time.Time{}.Add(time.Second)))))
		}, implausible},
		{"a check of the year 9999", func(source string) []byte {
			return whole(batch(source, "oslo", now, check(&observationv1.Check{At: timestamppb.New(time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC))})))
		}, implausible},
		{"the last of all sequences", func(source string) []byte {
			b := batch(source, "oslo", now, session("last", timestamppb.New(now)))
			b.Sequence = math.MaxUint64
			return whole(b)
		}, "session"},
		{"a part that is none", func(source string) []byte {
			b := batch(source, "oslo", now, session("part", timestamppb.New(now)))
			b.Part = math.MaxUint32
			return whole(b)
		}, "session"},
	} {
		source := fmt.Sprintf("stranger-%d", i)
		data := c.data(source)
		before := s.metric(t, observed, fmt.Sprintf("%q", c.want))
		subject := topology.ObservationSubject(fleet.DefaultTenant, fleet.SourceID(source), 1, fleet.KindSession)
		if _, err := js.Publish(t.Context(), subject, data); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		await(t, "an account of "+c.name, func() string {
			if !s.lives() {
				t.Fatalf("%s: the server ended", c.name)
			}
			reason, there := in.letters(js)[string(data)]
			switch {
			case c.want == dead && reason != "":
				t.Logf("%s: %.200s", c.name, reason)
				return ""
			case c.want != dead && there:
				t.Fatalf("%s is a dead letter (%s), want it counted as %s", c.name, reason, c.want)
			case c.want != dead && s.metric(t, observed, fmt.Sprintf("%q", c.want)) > before:
				return ""
			}
			return "it is neither a dead letter with a reason nor counted as " + c.want
		})
	}
	in.refuses(topology.ObservationSubject(fleet.DefaultTenant, "stranger", 1, fleet.KindSession))

	// What a source says after all that is taken in, and asked for.
	before := s.metric(t, observed, `"session"`)
	good := whole(batch("good", "oslo", time.Now(), session("good", timestamppb.Now())))
	if _, err := js.Publish(t.Context(), topology.ObservationSubject(fleet.DefaultTenant, "good", topology.Part("oslo"), fleet.KindSession), good); err != nil {
		t.Fatal(err)
	}
	await(t, "an account of a good message", func() string {
		if s.metric(t, observed, `"session"`) > before {
			return ""
		}
		return "it is not counted"
	})
	if most := s.memory(); most > 1<<30 {
		t.Errorf("the server took up to %d MiB", most>>20)
	} else {
		t.Logf("the server took up to %d MiB", most>>20)
	}
	s.ready()
	var clusters []struct{ ID string }
	s.ask(&clusters, "status")
	if !slices.ContainsFunc(clusters, func(c struct{ ID string }) bool { return c.ID == "oslo" }) {
		t.Errorf("status tells %v", clusters)
	}
	for line := range strings.Lines(s.metrics(t)) {
		if strings.HasPrefix(line, observed) && strings.Contains(line, "} -") {
			t.Errorf("a count went below zero: %s", line)
		}
	}
	// The server reads its stream anew after a restart, with all that is in it.
	if err := s.kill(); err != nil {
		t.Fatal(err)
	}
	if err := s.start(); err != nil {
		t.Fatal(err)
	}
	s.ready()
	s.panics()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if conn.FlushWithContext(ctx) != nil {
		t.Error("the bus does not answer")
	}
}
