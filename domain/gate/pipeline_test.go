package gate

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

func lookAt(kind fleet.CheckKind, after time.Duration, failure fleet.Failure) fleet.Check {
	c := fleet.Check{Name: string(kind), Kind: kind, At: noon.Add(after), OK: failure == "", Failure: failure}
	if failure != "" {
		c.Detail = "it said so"
	}
	return c
}

func TestRecording(t *testing.T) {
	t.Parallel()
	recording, storage := fleet.CheckRecording, fleet.CheckStorage
	both := []ConfiguredCheck{{"recording", recording}, {"storage", storage}}
	for _, tt := range []struct {
		name       string
		configured []ConfiguredCheck
		looks      []fleet.Check
		verdict    Verdict
		codes      string
		figures    map[string]int64
	}{
		{"nothing is configured", []ConfiguredCheck{{"forwarding", fleet.CheckForwarding}}, nil, Inconclusive, "not_configured", map[string]int64{}},
		{"nobody has looked", both, nil, Pending, "not_looked not_looked", map[string]int64{"configured": 2, "not_looked": 1}},
		{"only before the step", both, []fleet.Check{lookAt(storage, -1, ""), lookAt(recording, -1, fleet.FailureMissing)},
			Pending, "not_looked not_looked", map[string]int64{"configured": 2, "not_looked": 1}},
		{"all is well", both, []fleet.Check{lookAt(storage, 0, ""), lookAt(recording, 1, ""), lookAt(recording, 2, "")},
			Pass, "arrives", map[string]int64{"configured": 2, "looks": 3, "recordings": 2}},
		{"no recorded session has ended", both, []fleet.Check{lookAt(storage, 1, "")},
			Pass, "arrives not_looked", map[string]int64{"configured": 2, "looks": 1}},
		{"no recorded session has ended and nothing else looks", both[:1], nil, Pending, "not_looked not_looked", map[string]int64{"configured": 1}},
		{"a recording is missing", both, []fleet.Check{lookAt(storage, 1, ""), lookAt(recording, 1, ""), lookAt(recording, 2, fleet.FailureMissing)},
			Fail, "look_failed", map[string]int64{"configured": 2, "looks": 3, "recordings": 2, "failing": 1}},
		{"the next one is there", both, []fleet.Check{lookAt(storage, 1, ""), lookAt(recording, 3, ""), lookAt(recording, 2, fleet.FailureMissing)},
			Pass, "arrives", map[string]int64{"configured": 2, "looks": 3, "recordings": 2}},
		{"of one instant", both, []fleet.Check{lookAt(storage, 1, fleet.FailureForbidden), lookAt(storage, 1, "")},
			Fail, "look_failed not_looked", map[string]int64{"configured": 2, "looks": 2, "failing": 1}},
		{"of one instant, one could not look", both[1:], []fleet.Check{lookAt(storage, 1, fleet.FailureSetup), lookAt(storage, 1, fleet.FailureForbidden)},
			Fail, "look_failed", map[string]int64{"configured": 1, "looks": 2, "failing": 1}},
		{"it failed before as well", both[1:], []fleet.Check{lookAt(storage, -2, ""), lookAt(storage, -1, fleet.FailureForbidden), lookAt(storage, 1, fleet.FailureForbidden)},
			Hold, "failed_before", map[string]int64{"configured": 1, "looks": 1, "failing": 1, "failing_before": 1}},
		{"before, it could not look", both[1:], []fleet.Check{lookAt(storage, -1, fleet.FailureSetup), lookAt(storage, 1, fleet.FailureForbidden)},
			Fail, "look_failed", map[string]int64{"configured": 1, "looks": 1, "failing": 1}},
		{"it cannot look", both[1:], []fleet.Check{lookAt(storage, 1, ""), lookAt(storage, 2, fleet.FailureSetup)},
			Inconclusive, "setup_failed", map[string]int64{"configured": 1, "looks": 2, "setup_failed": 1}},
		{"looks of nobody's", both[1:], []fleet.Check{lookAt(recording, 1, fleet.FailureMissing), lookAt(storage, 1, "")},
			Pass, "arrives", map[string]int64{"configured": 1, "looks": 1}},
		{"configured twice", append(both[1:], both[1]), []fleet.Check{lookAt(storage, 1, "")}, Pass, "arrives", map[string]int64{"configured": 1, "looks": 1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			wantResult(t, PipelineFacts{Applied: noon, Configured: tt.configured, Looks: tt.looks}.Recording(), tt.verdict, tt.codes, tt.figures)
		})
	}
}

func TestForwarding(t *testing.T) {
	t.Parallel()
	f := PipelineFacts{
		Applied:    noon,
		Configured: []ConfiguredCheck{{"forwarding", fleet.CheckForwarding}, {"storage", fleet.CheckStorage}},
		Looks:      []fleet.Check{lookAt(fleet.CheckStorage, time.Minute, fleet.FailureForbidden), lookAt(fleet.CheckForwarding, time.Second, "")},
	}
	got := f.Forwarding()
	wantResult(t, got, Pass, "arrives", map[string]int64{"configured": 1, "looks": 1})
	if !got.At.Equal(noon.Add(time.Second)) {
		t.Errorf("seen at %s", got.At)
	}
	f.Looks = append(f.Looks, lookAt(fleet.CheckForwarding, time.Minute, fleet.FailureRefused))
	wantResult(t, f.Forwarding(), Fail, "look_failed", map[string]int64{"configured": 1, "looks": 2, "failing": 1})
	f.Configured = nil
	wantResult(t, f.Forwarding(), Inconclusive, "not_configured", map[string]int64{})
}

func TestPipelineOrderChangesNothing(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		look := rapid.Custom(func(t *rapid.T) fleet.Check {
			c := lookAt(rapid.SampledFrom([]fleet.CheckKind{fleet.CheckRecording, fleet.CheckStorage}).Draw(t, "kind"), time.Duration(rapid.IntRange(-2, 3).Draw(t, "at")),
				rapid.SampledFrom([]fleet.Failure{"", fleet.FailureSetup, fleet.FailureMissing, fleet.FailureEmpty}).Draw(t, "failure"))
			c.Detail = rapid.SampledFrom([]string{"a", "b"}).Draw(t, "detail")
			return c
		})
		f := PipelineFacts{Applied: noon, Configured: []ConfiguredCheck{{"recording", fleet.CheckRecording}, {"storage", fleet.CheckStorage}}}
		f.Looks = rapid.SliceOfN(look, 0, 8).Draw(t, "looks")
		want := f.Recording()
		f.Looks = rapid.Permutation(f.Looks).Draw(t, "order")
		f.Configured = rapid.Permutation(f.Configured).Draw(t, "configured")
		if diff := cmp.Diff(want, f.Recording()); diff != "" {
			t.Fatalf("another order says something else:\n%s", diff)
		}
	})
}
