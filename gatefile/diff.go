package gatefile

import (
	"cmp"
	"reflect"
	"slices"
	"strings"

	"github.com/lockstep-fleet/lockstep/domain/gate"
	"github.com/lockstep-fleet/lockstep/kit/config"
)

// Change is a key that two plans set differently. What only one of them has, such as
// a rule, is empty in the other.
type Change struct {
	Key    string `json:"key"` // such as step.checks.probes.demand
	Before string `json:"before"`
	After  string `json:"after"`
}

// Diff lists what is different between two plans besides their names, in the order
// in which a policy says it. It is empty exactly when it tells nothing new: two plans
// of one hash may differ in words for people.
func Diff(before, after gate.Plan) []Change {
	old, recent := facts(before), facts(after)
	var out []Change
	for _, f := range old {
		if text, there := recent.text(f.key); !there || text != f.text {
			out = append(out, Change{f.key, f.text, text})
		}
	}
	for _, f := range recent {
		if _, there := old.text(f.key); !there {
			out = append(out, Change{f.key, "", f.text})
		}
	}
	// How lasting a failure has to be goes without saying where a check is off.
	out = slices.DeleteFunc(out, func(c Change) bool {
		return strings.Contains(c.Key, ".sustain.") && (c.Before == "" || c.After == "")
	})
	order := []string{"mode", "statistics", "step", "wave"}
	slices.SortStableFunc(out, func(a, b Change) int {
		return cmp.Compare(slices.Index(order, section(a.Key)), slices.Index(order, section(b.Key)))
	})
	return out
}

// section is the key of a policy that a key is in.
func section(key string) string {
	name, _, _ := strings.Cut(key, ".")
	return name
}

// fact is a key with its value.
type fact struct{ key, text string }

type factList []fact

func (l factList) text(key string) (string, bool) {
	for _, f := range l {
		if f.key == key {
			return f.text, true
		}
	}
	return "", false
}

// facts lists what a plan says, key by key.
func facts(p gate.Plan) factList {
	all := flat(reflect.ValueOf(policyOf(p)), "")
	return slices.DeleteFunc(slices.Clone(all), func(f fact) bool {
		of, sustained, _ := strings.Cut(f.key, ".sustain.")
		demand, _ := all.text(of + ".demand")
		return f.key == "name" || f.key == "extends" || strings.HasSuffix(f.key, "].off") || strings.HasSuffix(f.key, "].name") ||
			sustained != "" && demand == string(gate.DemandOff)
	})
}

func flat(v reflect.Value, key string) factList {
	switch v.Kind() {
	case reflect.Struct:
		var out factList
		for i := range v.NumField() {
			out = append(out, flat(v.Field(i), below(key, v.Type().Field(i).Tag.Get("yaml")))...)
		}
		return out
	case reflect.Slice:
		var out factList
		for i := range v.Len() {
			out = append(out, flat(v.Index(i), key+"["+v.Index(i).FieldByName("Name").String()+"]")...)
		}
		return out
	}
	return factList{{key, strings.TrimSpace(config.Marshal(v.Interface()))}}
}
