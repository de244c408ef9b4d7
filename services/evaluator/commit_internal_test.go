package evaluator

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lockstep-fleet/lockstep/codec"
)

// While one insert is under way, all who come go in with the next one, in order;
// and what one of them has wrong concerns it alone.
func TestCommits(t *testing.T) {
	t.Parallel()
	record := func(sequence uint64) []codec.Record { return []codec.Record{{StreamSequence: sequence}} }
	broken := errors.New("broken")
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var inserts [][]uint64
		c := &commits{insert: func(_ context.Context, records []codec.Record) error {
			var sequences []uint64
			for _, r := range records {
				sequences = append(sequences, r.StreamSequence)
			}
			mu.Lock()
			inserts = append(inserts, sequences)
			mu.Unlock()
			<-time.After(time.Second)
			if slices.Contains(sequences, 9) {
				return broken
			}
			return nil
		}}
		results := make(map[uint64]error)
		var callers sync.WaitGroup
		hand := func(sequence uint64) {
			callers.Go(func() {
				err := c.InsertRecords(t.Context(), record(sequence))
				mu.Lock()
				defer mu.Unlock()
				results[sequence] = err
			})
			synctest.Wait()
		}
		for _, sequence := range []uint64{1, 2, 3, 4} {
			hand(sequence)
		}
		callers.Wait()
		if want := [][]uint64{{1}, {2, 3, 4}}; !slices.EqualFunc(inserts, want, slices.Equal) {
			t.Errorf("inserted %v, want %v", inserts, want)
		}
		inserts = nil
		for _, sequence := range []uint64{5, 6, 9, 7} {
			hand(sequence)
		}
		callers.Wait()
		if len(inserts) != 5 || !slices.Equal(inserts[1], []uint64{6, 9, 7}) {
			t.Errorf("inserted %v, want one, three together, and these again one by one", inserts)
		}
		for sequence, err := range results {
			if (sequence == 9) != errors.Is(err, broken) {
				t.Errorf("%d ended with %v", sequence, err)
			}
		}
		if err := c.InsertRecords(t.Context(), record(8)); err != nil || c.busy || c.waiting != nil {
			t.Errorf("after all that: %v, %+v", err, c)
		}
	})
}
