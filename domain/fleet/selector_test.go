package fleet_test

import (
	"strings"
	"testing"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

func TestSelector(t *testing.T) {
	t.Parallel()
	labels := map[string]string{"env": "prod", "example.org/tier": "1", "empty": ""}
	for text, want := range map[string]bool{
		"":                               true,
		"  ":                             true,
		"env=prod":                       true,
		"env==prod":                      true,
		"env = prod":                     true,
		"env=stage":                      false,
		"env!=stage":                     true,
		"env!=prod":                      false,
		"other!=prod":                    true,
		"env in (prod, stage)":           true,
		"env in (stage)":                 false,
		"env notin (prod)":               false,
		"other notin (prod)":             true,
		"env":                            true,
		"other":                          false,
		"!other":                         true,
		"!env":                           false,
		"empty=":                         true,
		"empty":                          true,
		"env=":                           false,
		"env=prod,example.org/tier=1":    true,
		"env=prod,example.org/tier=2":    false,
		"env in (a,prod),!other, empty=": true,
	} {
		selector, err := fleet.ParseSelector(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if got := selector.Matches(labels); got != want {
			t.Errorf("%q matches: %t", text, got)
		}
	}
	for _, text := range []string{",", "env=prod,", "=prod", "env=a b", "env in prod", "env in (", "a b", "!", "env=" + strings.Repeat("x", 64), "-env", "UPPER.example/x=", "é=1"} {
		if selector, err := fleet.ParseSelector(text); err == nil {
			t.Errorf("%q was taken for %v", text, selector)
		} else if !strings.Contains(err.Error(), "selector") {
			t.Errorf("%q: %v", text, err)
		}
	}
}
