package natsbus_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"

	"github.com/lockstep-fleet/lockstep/kit/bus"
	"github.com/lockstep-fleet/lockstep/kit/bus/natsbus"
)

// benched is a bus with n messages of 20 kB, about what 100 observations take,
// on a server that syncs as the product's does.
func benched(b *testing.B, n int) *natsbus.Bus {
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
	if err := all.Ensure(b.Context(), []bus.Stream{{Name: stream, Subjects: []string{"log.>"}}}, nil, nil); err != nil {
		b.Fatal(err)
	}
	data := make([]byte, 20_000)
	for i := range n {
		if _, err := all.Publish(b.Context(), bus.Message{Subject: fmt.Sprintf("log.a%d", i%100), Data: data}); err != nil {
			b.Fatal(err)
		}
	}
	return all
}

func BenchmarkPublish(b *testing.B) {
	all := benched(b, 0)
	data := make([]byte, 20_000)
	for b.Loop() {
		if _, err := all.Publish(b.Context(), bus.Message{Subject: "log.a", Data: data}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkConsume(b *testing.B) {
	const n = 5000
	all := benched(b, n)
	turn := 0
	for b.Loop() {
		turn++
		ctx, cancel := context.WithCancel(b.Context())
		seen := 0
		c := bus.Consumer{Stream: stream, Durable: fmt.Sprintf("worker%d", turn), AckWait: time.Minute}
		if err := all.Consume(ctx, c, func(context.Context, bus.Delivery) error {
			if seen++; seen == n {
				cancel()
			}
			return nil
		}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(n*b.N)/b.Elapsed().Seconds(), "messages/s")
}

func BenchmarkLoad(b *testing.B) {
	const n = 5000
	all := benched(b, n)
	for b.Loop() {
		if err := all.Load(b.Context(), stream, "log.>", func(bus.Message) error { return nil }); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(n*b.N)/b.Elapsed().Seconds(), "messages/s")
}
