package codec_test

import (
	"fmt"
	"reflect"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"pgregory.net/rapid"

	"github.com/lockstep-fleet/lockstep/domain/catalog"
	"github.com/lockstep-fleet/lockstep/domain/rollout"
)

// anyOf generates values of a domain type by its fields, so that a field added
// there is in the round trip at once. Numbers stay within what the messages
// hold, times within what a Timestamp does.
func anyOf[T any]() *rapid.Generator[T] {
	return rapid.MakeCustom[T](rapid.MakeConfig{
		Types: map[reflect.Type]*rapid.Generator[any]{
			reflect.TypeFor[time.Time]():          rapid.Custom(instant).AsAny(),
			reflect.TypeFor[int]():                rapid.Custom(func(t *rapid.T) int { return int(rapid.Int32().Draw(t, "int")) }).AsAny(),
			reflect.TypeFor[catalog.Assessment](): rapid.Custom(assessment).AsAny(),
			reflect.TypeFor[rollout.Kind]():       rapid.Deferred(func() *rapid.Generator[any] { return rapid.OneOf(kinds()...) }),
			reflect.TypeFor[rollout.Action]():     rapid.Deferred(func() *rapid.Generator[any] { return rapid.OneOf(actions()...) }),
		},
	})
}

// instant draws the zero time, or one to the nanosecond of the years 1 to 9999.
func instant(t *rapid.T) time.Time {
	if rapid.Bool().Draw(t, "absent") {
		return time.Time{}
	}
	seconds := rapid.Int64Range(-62_135_596_800, 253_402_300_799).Draw(t, "seconds")
	return time.Unix(seconds, rapid.Int64Range(0, 999_999_999).Draw(t, "nanoseconds")).UTC()
}

// assessment draws a risk as it is judged, as far as a gate is told of it: of who
// took it the name, and nothing that follows from the rest.
func assessment(t *rapid.T) catalog.Assessment {
	text := rapid.String()
	a := catalog.Assessment{Detail: text.Draw(t, "detail"), Remedy: text.Draw(t, "remedy"), Condition: catalog.Condition(text.Draw(t, "condition"))}
	if rapid.Bool().Draw(t, "known") {
		risk := rapid.SampledFrom(catalog.Risks()).Draw(t, "risk")
		a.Risk, a.Title, a.Condition = risk.ID, risk.Title, rapid.SampledFrom(catalog.Conditions()).Draw(t, "condition")
	} else {
		a.Risk = catalog.RiskID("of a newer build: " + text.Draw(t, "risk"))
	}
	if rapid.Bool().Draw(t, "acknowledged") {
		a.Acknowledged = &catalog.Acknowledgement{Risk: a.Risk, Owner: rapid.StringN(1, 20, -1).Draw(t, "owner")}
	}
	a.Closed = a.Condition != catalog.ConditionNoMatch && a.Acknowledged == nil
	return a
}

func kinds() []*rapid.Generator[any] {
	return []*rapid.Generator[any]{
		anyOf[rollout.RolloutStarted]().AsAny(), anyOf[rollout.ClusterStarted]().AsAny(), anyOf[rollout.PackageCaptured]().AsAny(),
		anyOf[rollout.StepStarted]().AsAny(), anyOf[rollout.StepApplied]().AsAny(), anyOf[rollout.StepPassed]().AsAny(),
		anyOf[rollout.ClusterHeldBack]().AsAny(), anyOf[rollout.RollbackStarted]().AsAny(), anyOf[rollout.ClusterDone]().AsAny(),
		anyOf[rollout.ClusterRestored]().AsAny(), anyOf[rollout.ClusterLost]().AsAny(), anyOf[rollout.RolloutHeld]().AsAny(),
		anyOf[rollout.RolloutSucceeded]().AsAny(), anyOf[rollout.RollbackRequested]().AsAny(), anyOf[rollout.RolloutRolledBack]().AsAny(),
		anyOf[rollout.RolloutFailed]().AsAny(), anyOf[rollout.ClusterSkipped]().AsAny(), anyOf[rollout.WaveStarted]().AsAny(),
		anyOf[rollout.WaveSoaking]().AsAny(), anyOf[rollout.RolloutPaused]().AsAny(), anyOf[rollout.RolloutResumed]().AsAny(),
		anyOf[rollout.RolloutHolding]().AsAny(), anyOf[rollout.RolloutContinued]().AsAny(), anyOf[rollout.AbortRequested]().AsAny(),
		anyOf[rollout.RolloutAborted]().AsAny(), anyOf[rollout.WaveGated]().AsAny(), anyOf[rollout.WavePassed]().AsAny(),
		anyOf[rollout.WaveFailed]().AsAny(),
	}
}

func actions() []*rapid.Generator[any] {
	return []*rapid.Generator[any]{anyOf[rollout.Capture]().AsAny(), anyOf[rollout.Apply]().AsAny(), anyOf[rollout.Restore]().AsAny()}
}

// wire sends a message through its bytes, as the bus does.
func wire[M proto.Message](t fataler, m M) M {
	t.Helper()
	data, err := proto.Marshal(m)
	if err != nil {
		t.Fatalf("encoding %v: %v", m, err)
	}
	out := m.ProtoReflect().New().Interface()
	if err := proto.Unmarshal(data, out); err != nil {
		t.Fatalf("decoding %v: %v", m, err)
	}
	return out.(M)
}

type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

func same(t fataler, want, got any, options ...cmp.Option) {
	t.Helper()
	if diff := cmp.Diff(want, got, options...); diff != "" {
		t.Fatalf("the round trip changed it (-before +after):\n%s", diff)
	}
}

// unset lists the fields that a message leaves at their zero value, the
// messages inside it included. Times and durations count as one field.
func unset(m protoreflect.Message, path string) []string {
	var out []string
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		name := path + string(f.Name())
		switch {
		case !m.Has(f):
			if f.ContainingOneof() == nil {
				out = append(out, name)
			}
		case f.IsMap() || f.Message() == nil || f.Message().ParentFile().Package() == "google.protobuf":
		case f.IsList():
			for n := range m.Get(f).List().Len() {
				out = append(out, unset(m.Get(f).List().Get(n).Message(), fmt.Sprintf("%s[%d].", name, n))...)
			}
		default:
			out = append(out, unset(m.Get(f).Message(), name+".")...)
		}
	}
	return out
}

// fill sets every exported field of a value to something that is not its zero
// value, each string and number to another one.
func fill(t *testing.T, v reflect.Value, n *int) {
	t.Helper()
	*n++
	if v.Type() == reflect.TypeFor[time.Time]() {
		v.Set(reflect.ValueOf(time.Unix(int64(*n)*1000, 0).UTC()))
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(fmt.Sprintf("text%d", *n))
	case reflect.Int, reflect.Int64:
		v.SetInt(int64(*n))
	case reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(*n))
	case reflect.Float64:
		v.SetFloat(float64(*n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(t, v.Elem(), n)
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(t, v.Index(0), n)
	case reflect.Map:
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		fill(t, key, n)
		fill(t, value, n)
		v.Set(reflect.MakeMap(v.Type()))
		v.SetMapIndex(key, value)
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				fill(t, v.Field(i), n)
			}
		}
	default:
		t.Fatalf("nobody taught fill to make a %s", v.Type())
	}
}

func filled[T any](t *testing.T) T {
	t.Helper()
	var v T
	n := 0
	fill(t, reflect.ValueOf(&v).Elem(), &n)
	return v
}
