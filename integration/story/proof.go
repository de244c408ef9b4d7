package story

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"

	"github.com/lockstep-fleet/lockstep/integration/lab/sink"
	"github.com/lockstep-fleet/lockstep/kit/bus/natsbus"
	"github.com/lockstep-fleet/lockstep/topology"
)

// count is a whole number as proto's JSON writes 64-bit ones: in quotes.
type count int64

func (c *count) UnmarshalJSON(data []byte) error {
	n, err := strconv.ParseInt(strings.Trim(string(data), `"`), 10, 64)
	*c = count(n)
	return err
}

// gateRow is what `lockstep gate explain -o json` says.
type gateRow struct {
	ID       string `json:"id"`
	Cluster  string `json:"cluster"`
	Step     string `json:"step"`
	Boundary struct {
		End time.Time `json:"end"`
	} `json:"boundary"`
	Terms struct {
		Policy string `json:"policy"`
	} `json:"terms"`
	Decision struct {
		Verdict      string    `json:"verdict"`
		Consequence  string    `json:"consequence"`
		Summary      string    `json:"summary"`
		EvidenceHash string    `json:"evidence_hash"`
		DecidedAt    time.Time `json:"decided_at"`
		Evidence     struct {
			NewFailed    count `json:"new_failed"`
			NewSucceeded count `json:"new_succeeded"`
		} `json:"evidence"`
		Checks []struct {
			Check   string `json:"check"`
			Verdict string `json:"verdict"`
		} `json:"checks"`
		Controls struct {
			Clusters []struct {
				Cluster string `json:"cluster"`
			} `json:"clusters"`
		} `json:"controls"`
	} `json:"decision"`
}

// hear checks what the webhook was told: each notice that the story calls for,
// by id once, whatever was killed meanwhile.
func (t *teller) hear(ctx context.Context) error {
	n := len(t.opts.Clusters)
	want := map[string]int{
		"rollout_started": 2, "rollout_succeeded": 1, "rollout_held": 1,
		"cluster_succeeded": n, "rollback_started": 1, "cluster_rolled_back": 1,
		"gate_decided": 2*n + 4, "step_passed": 2*n + 1, "wave_gated": 2,
	}
	count := func(deliveries []sink.Delivery) (map[string]int, error) {
		heard := make(map[string]int)
		for _, d := range deliveries {
			if d.Accepted == 0 {
				continue
			}
			var body struct {
				Data struct {
					Kind string `json:"kind"`
				} `json:"data"`
			}
			if err := json.Unmarshal(d.Body, &body); err != nil {
				return nil, fmt.Errorf("decode notice %s: %w", d.ID, err)
			}
			if d.Changed {
				return nil, fmt.Errorf("notice %s came again with another body", d.ID)
			}
			heard[body.Data.Kind]++
		}
		return heard, nil
	}
	limited, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	deliveries, err := t.lab.Sink.Wait(limited, func(deliveries []sink.Delivery) bool {
		heard, err := count(deliveries)
		if err != nil {
			return true
		}
		for kind, n := range want {
			if heard[kind] < n {
				return false
			}
		}
		return true
	})
	heard, countErr := count(deliveries)
	if countErr != nil {
		return countErr
	}
	if err != nil {
		return fmt.Errorf("the webhook heard %v, wanted %v: %w", heard, want, err)
	}
	for kind, n := range want {
		if heard[kind] != n {
			return fmt.Errorf("the webhook heard %d of %s under different ids, wanted %d", heard[kind], kind, n)
		}
	}
	for _, d := range deliveries {
		t.figures.Notices++
		t.figures.RepeatedNotices += max(d.Accepted-1, 0)
	}
	t.say("The webhook heard %d notices, each once by its id (%d came again under the same id, as at-least-once allows).", t.figures.Notices, t.figures.RepeatedNotices)
	return nil
}

func (t *teller) gates(ctx context.Context) ([]gateRow, error) {
	var gates []gateRow
	err := t.server.read(ctx, &gates, "gate", "list")
	return gates, err
}

// replay deletes what the evaluator remembers, starts again, and takes every
// decision again from rows.
func (t *teller) replay(ctx context.Context) error {
	before, err := t.gates(ctx)
	if err != nil {
		return err
	}
	// Of the good release two for each cluster and one for each wave, of the bad one two.
	if want := 2*len(t.opts.Clusters) + 4; len(before) != want {
		return fmt.Errorf("there are %d gates, wanted %d", len(before), want)
	}
	if err := t.measure(ctx); err != nil {
		return err
	}
	if err := t.server.stop(); err != nil {
		return err
	}
	if err := forgetEvaluator(ctx, filepath.Join(t.opts.Dir, "data", "bus"), t.opts.Log); err != nil {
		return err
	}
	if _, err := t.server.start(ctx); err != nil {
		return err
	}
	// Everything is observed again from the stream's beginning meanwhile; nothing
	// may be decided twice or otherwise.
	if err := t.allOn(ctx, releaseGood, t.opts.Clusters); err != nil {
		return err
	}
	for _, g := range before {
		if _, _, err := t.server.run(ctx, []int{0}, "gate", "verify", g.ID); err != nil {
			return err
		}
	}
	after, err := t.gates(ctx)
	if err != nil {
		return err
	}
	if !reflect.DeepEqual(before, after) {
		return fmt.Errorf("the gates differ after the evaluator's state was deleted: %+v and %+v", before, after)
	}
	t.figures.Gates = len(after)
	t.say("The evaluator's state was deleted and the server started again: all %d gate decisions are the same, and each was taken again from rows alike.", len(after))
	return nil
}

// forgetEvaluator deletes the evaluator's durable positions from a bus that no
// server uses; all else it knows is in memory.
func forgetEvaluator(ctx context.Context, dir string, log *slog.Logger) error {
	s, err := natsserver.NewServer(&natsserver.Options{DontListen: true, JetStream: true, StoreDir: dir, NoSigs: true})
	if err != nil {
		return fmt.Errorf("open the bus in %s: %w", dir, err)
	}
	s.Start()
	defer func() { s.Shutdown(); s.WaitForShutdown() }()
	if !s.ReadyForConnections(20 * time.Second) {
		return fmt.Errorf("the bus in %s was not ready within 20 s", dir)
	}
	b, err := natsbus.Open(natsbus.Options{InProcess: s, Name: "story", Log: log})
	if err != nil {
		return err
	}
	defer b.Close()
	for _, c := range topology.Consumers() {
		if c.Owner != topology.Evaluator {
			continue
		}
		if err := b.DeleteConsumer(ctx, c.Stream, c.Durable); err != nil {
			return err
		}
	}
	return nil
}

// measure reads what the server measured of itself since it was last started.
func (t *teller) measure(ctx context.Context) error {
	tally := t.traffic.Count("", time.Time{}, time.Now())
	t.figures.Sessions, t.figures.Pairs = tally.Completed+tally.Failed, t.traffic.Pairs()
	_, body, err := t.server.get(ctx, t.server.admin, "/metrics")
	if err != nil {
		return fmt.Errorf("read /metrics: %w", err)
	}
	t.figures.LatencyMedian = quantile(body, "lockstep_evaluator_decision_latency_seconds", 0.5)
	t.figures.LatencyP99 = quantile(body, "lockstep_evaluator_decision_latency_seconds", 0.99)
	return nil
}

// quantile returns the upper bound of the histogram bucket that holds q.
func quantile(metrics []byte, name string, q float64) time.Duration {
	type bucket struct {
		bound float64
		n     float64
	}
	var buckets []bucket
	scanner := bufio.NewScanner(bytes.NewReader(metrics))
	for scanner.Scan() {
		rest, ok := strings.CutPrefix(scanner.Text(), name+`_bucket{le="`)
		if !ok {
			continue
		}
		bound, value, ok := strings.Cut(rest, `"} `)
		if !ok {
			continue
		}
		b, errBound := strconv.ParseFloat(bound, 64)
		n, errN := strconv.ParseFloat(value, 64)
		if errBound == nil && errN == nil {
			buckets = append(buckets, bucket{b, n})
		}
	}
	if len(buckets) == 0 {
		return 0
	}
	total := buckets[len(buckets)-1].n
	for _, b := range buckets {
		if b.n >= q*total {
			return time.Duration(b.bound * float64(time.Second))
		}
	}
	return 0
}
