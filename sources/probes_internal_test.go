package sources

import (
	"testing"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

func TestRefusedLoginsBecomeSeldom(t *testing.T) {
	t.Parallel()
	began := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	old, renewed := credentials{key: began}, credentials{key: began, certificate: began}
	in := map[string]float64{"connect_seconds": 0.1, "login_seconds": 0.1}
	refused := fleet.Check{Failure: fleet.FailureAuth, Readings: map[string]float64{"connect_seconds": 0.1}}
	gone := fleet.Check{Failure: fleet.FailureRefused}
	for name, tc := range map[string]struct {
		looks  []fleet.Check // a second apart
		every  time.Duration // 30 s unless given
		after  time.Duration // since the last look
		with   credentials
		paused time.Duration // since the last look; none is that a login may be tried
	}{
		"never looked":                  {},
		"once":                          {looks: []fleet.Check{refused}},
		"twice":                         {looks: []fleet.Check{refused, refused}},
		"three times":                   {looks: []fleet.Check{refused, refused, refused}, paused: 5 * time.Minute},
		"almost over":                   {looks: []fleet.Check{refused, refused, refused}, after: 5*time.Minute - 1, paused: 5 * time.Minute},
		"over":                          {looks: []fleet.Check{refused, refused, refused}, after: 5 * time.Minute},
		"four times":                    {looks: []fleet.Check{refused, refused, refused, refused}, paused: 5 * time.Minute},
		"every two minutes":             {looks: []fleet.Check{refused, refused, refused}, every: 2 * time.Minute, paused: 15 * time.Minute},
		"every hour":                    {looks: []fleet.Check{refused, refused, refused}, every: time.Hour, after: time.Hour},
		"logged in before":              {looks: []fleet.Check{refused, refused, {OK: true, Readings: in}, refused}},
		"logged in at last":             {looks: []fleet.Check{refused, refused, refused, {OK: true, Readings: in}}},
		"only the command failed":       {looks: []fleet.Check{refused, refused, refused, {Failure: fleet.FailureCommand, Readings: in}}},
		"nobody to log in to":           {looks: []fleet.Check{refused, gone, refused, refused}, paused: 5 * time.Minute},
		"nobody there at the next turn": {looks: []fleet.Check{refused, refused, refused, gone}, paused: 5 * time.Minute},
		"nobody is ever there":          {looks: []fleet.Check{gone, gone, gone, gone}},
		"another certificate":           {looks: []fleet.Check{refused, refused, refused}, with: renewed},
		"a clock that was put back":     {looks: []fleet.Check{refused, refused, refused}, after: -time.Hour},
	} {
		var r refusals
		at := began
		for _, look := range tc.looks {
			at = at.Add(time.Second)
			look.At = at
			r = r.after(look, old)
		}
		every, with := 30*time.Second, old
		if tc.every > 0 {
			every = tc.every
		}
		if tc.with != (credentials{}) {
			with = tc.with
		}
		var want time.Time
		if tc.paused > 0 {
			want = at.Add(tc.paused)
		}
		if got := r.until(at.Add(tc.after), every, with); !got.Equal(want) {
			t.Errorf("%s: until %s, want %s", name, got, want)
		}
	}
}

// What was refused with one key says nothing of the next.
func TestRefusalsBelongToTheirKey(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	refused := fleet.Check{Failure: fleet.FailureAuth, At: at}
	var r refusals
	for range 3 {
		r = r.after(refused, credentials{key: at})
	}
	r = r.after(refused, credentials{key: at.Add(1)})
	if got := r.until(at, time.Minute, credentials{key: at.Add(1)}); !got.IsZero() || r.count != 1 {
		t.Errorf("until %s after %d refusals of the new key", got, r.count)
	}
}
