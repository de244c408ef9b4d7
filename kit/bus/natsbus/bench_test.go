package natsbus_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"

	"github.com/lockstep-fleet/lockstep/kit/bus"
	"github.com/lockstep-fleet/lockstep/kit/bus/natsbus"
)

// bench is a bus on a server that syncs as the product's does, and beside it a
// client of NATS as one would write it without the bus.
type bench struct {
	*natsbus.Bus
	raw jetstream.JetStream
}

func newBench(b *testing.B) *bench {
	b.Helper()
	s, err := natsserver.NewServer(&natsserver.Options{DontListen: true, JetStream: true, StoreDir: b.TempDir(), NoSigs: true, NoLog: true, SyncAlways: true})
	if err != nil {
		b.Fatal(err)
	}
	s.Start()
	b.Cleanup(func() { stopServer(s) })
	if !s.ReadyForConnections(patience) {
		b.Fatal("the server did not get ready")
	}
	all, err := natsbus.Open(natsbus.Options{InProcess: s, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(all.Close)
	conn, err := nats.Connect("", nats.InProcessServer(s))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(conn.Close)
	raw, err := jetstream.New(conn)
	if err != nil {
		b.Fatal(err)
	}
	if err := all.Ensure(b.Context(), []bus.Stream{{Name: stream, Subjects: []string{"log.>"}}}, []bus.Bucket{{Name: bus.Positions}}, nil); err != nil {
		b.Fatal(err)
	}
	return &bench{all, raw}
}

func (b *bench) message(i, size int) bus.Message {
	return bus.Message{Subject: fmt.Sprintf("log.a%d", i%100), Type: "test.Text", Data: make([]byte, size)}
}

// rawMessage has the headers that the bus gives a message.
func (b *bench) rawMessage(i, size int) *nats.Msg {
	m := b.message(i, size)
	msg := nats.NewMsg(m.Subject)
	msg.Data = m.Data
	msg.Header.Set("Lockstep-Type", m.Type)
	msg.Header.Set("Lockstep-Time", time.Now().Format(time.RFC3339Nano))
	return msg
}

func (b *bench) fill(t *testing.B, n, size int) {
	t.Helper()
	for n > 0 {
		batch := make([]bus.Message, min(n, 500))
		for i := range batch {
			batch[i] = b.message(i, size)
		}
		if _, err := b.PublishBatch(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
		n -= len(batch)
	}
}

// compare runs both turn about and reports how many messages a second the bus
// moves, and which part of the bare client's speed that is.
func compare(b *testing.B, n int, ours, raw func()) {
	b.Helper()
	compareUntil(b, n, func() time.Time { ours(); return time.Now() }, func() time.Time { raw(); return time.Now() })
}

// compareUntil is compare for what does not end with its last message.
func compareUntil(b *testing.B, n int, ours, raw func() time.Time) {
	b.Helper()
	var took [2]time.Duration
	for b.Loop() {
		for i, run := range []func() time.Time{ours, raw} {
			began := time.Now()
			took[i] += run().Sub(began)
		}
	}
	b.ReportMetric(float64(n*b.N)/took[0].Seconds(), "messages/s")
	b.ReportMetric(took[1].Seconds()/took[0].Seconds(), "of_raw")
}

// sizes are a fact's, and what 100 observations take.
func sizes(b *testing.B, run func(b *testing.B, size int)) {
	b.Helper()
	for _, size := range []int{200, 20_000} {
		b.Run(fmt.Sprintf("%dB", size), func(b *testing.B) { run(b, size) })
	}
}

func BenchmarkPublish(b *testing.B) {
	sizes(b, func(b *testing.B, size int) {
		all := newBench(b)
		compare(b, 1, func() {
			if _, err := all.Publish(b.Context(), all.message(1, size)); err != nil {
				b.Fatal(err)
			}
		}, func() {
			if _, err := all.raw.PublishMsg(b.Context(), all.rawMessage(1, size)); err != nil {
				b.Fatal(err)
			}
		})
	})
}

func BenchmarkPublishBatch(b *testing.B) {
	const n = 500
	sizes(b, func(b *testing.B, size int) {
		all := newBench(b)
		compare(b, n, func() { all.fill(b, n, size) }, func() {
			batch := make([]*nats.Msg, n)
			for i := range batch {
				batch[i] = all.rawMessage(i, size)
			}
			if _, err := jetstreamext.PublishMsgBatch(b.Context(), all.raw, batch); err != nil {
				b.Fatal(err)
			}
		})
	})
}

// BenchmarkConsume hands over one message after another; the bare client asks for
// one after another of a consumer with the same settings.
func BenchmarkConsume(b *testing.B) {
	const n = 1000
	sizes(b, func(b *testing.B, size int) {
		all := newBench(b)
		all.fill(b, n, size)
		turn := 0
		compareUntil(b, n, func() (end time.Time) {
			turn++
			ctx, cancel := context.WithCancel(b.Context())
			defer cancel()
			seen := 0
			if err := all.Consume(ctx, bus.Consumer{Stream: stream, Durable: fmt.Sprintf("ours%d", turn)}, func(context.Context, bus.Delivery) error {
				if seen++; seen == n {
					end = time.Now()
					cancel()
				}
				return nil
			}); err != nil {
				b.Fatal(err)
			}
			return end
		}, func() time.Time {
			cons, err := all.raw.CreateConsumer(b.Context(), stream, jetstream.ConsumerConfig{
				Durable: fmt.Sprintf("raw%d", turn), AckPolicy: jetstream.AckExplicitPolicy, MaxAckPending: 1,
			})
			if err != nil {
				b.Fatal(err)
			}
			for range n {
				m, err := cons.Next()
				if err != nil {
					b.Fatal(err)
				}
				if err := m.Ack(); err != nil {
					b.Fatal(err)
				}
			}
			return time.Now()
		})
	})
}

// BenchmarkConsumeBatch hands over 500 at once. The bare client fetches as many,
// and waits until the server has heard that it is done with them.
func BenchmarkConsumeBatch(b *testing.B) {
	const batch = 500
	sizes(b, func(b *testing.B, size int) {
		n := min(10_000, 60_000_000/size)
		all := newBench(b)
		all.fill(b, n, size)
		turn := 0
		compare(b, n, func() {
			turn++
			ctx, cancel := context.WithCancel(b.Context())
			defer cancel()
			seen := 0
			c := bus.Consumer{Stream: stream, Durable: fmt.Sprintf("ours%d", turn), Batch: batch, BatchBytes: 16 << 20}
			if err := all.ConsumeBatch(ctx, c, func(_ context.Context, batch []bus.Delivery) (int, error) {
				if seen += len(batch); seen == n {
					cancel()
				}
				return len(batch), nil
			}); err != nil {
				b.Fatal(err)
			}
		}, func() {
			cons, err := all.raw.CreateConsumer(b.Context(), stream, jetstream.ConsumerConfig{
				Durable: fmt.Sprintf("raw%d", turn), AckPolicy: jetstream.AckAllPolicy, MaxAckPending: batch,
			})
			if err != nil {
				b.Fatal(err)
			}
			for seen := 0; seen < n; {
				fetched, err := cons.Fetch(batch)
				if err != nil {
					b.Fatal(err)
				}
				var last jetstream.Msg
				for m := range fetched.Messages() {
					last = m
					seen++
				}
				if err := last.DoubleAck(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
		})
	})
}

// BenchmarkLoad reads a whole stream, and one subject among a hundred.
func BenchmarkLoad(b *testing.B) {
	const n = 20_000
	for subject, part := range map[string]int{"log.>": 1, "log.a7": 100} {
		b.Run(subject, func(b *testing.B) {
			all := newBench(b)
			all.fill(b, n, 200)
			for b.Loop() {
				seen := 0
				if err := all.Load(b.Context(), stream, subject, func(bus.Message) error { seen++; return nil }); err != nil {
					b.Fatal(err)
				}
				if seen != n/part {
					b.Fatalf("%d messages of %d", seen, n/part)
				}
			}
			b.ReportMetric(float64(n/part*b.N)/b.Elapsed().Seconds(), "messages/s")
		})
	}
}
