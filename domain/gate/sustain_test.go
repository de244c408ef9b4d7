package gate

import (
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func lookOf(after time.Duration, v Verdict) Result {
	return Result{Check: CheckForwarding, Verdict: v, Reasons: []Reason{{LookFailed, "it fails"}}, Text: "it fails", At: noon.Add(after)}
}

func TestStreak(t *testing.T) {
	t.Parallel()
	type look struct {
		after   time.Duration
		verdict Verdict
	}
	thrice := Sustain{For: time.Minute, Looks: 3}
	for _, tt := range []struct {
		name  string
		p     Sustain
		looks []look
		want  Verdict
	}{
		{"nothing asked for", Sustain{}, []look{{0, Fail}}, Fail},
		{"one look asked for", Sustain{Looks: 1}, []look{{0, Fail}}, Fail},
		{"the first of three", thrice, []look{{0, Fail}}, Pending},
		{"two far apart are two", thrice, []look{{0, Fail}, {time.Hour, Fail}}, Pending},
		{"three in a row", thrice, []look{{0, Fail}, {30 * time.Second, Fail}, {time.Minute, Fail}}, Fail},
		{"three too close", thrice, []look{{0, Fail}, {1, Fail}, {time.Minute - 1, Fail}}, Pending},
		{"the same look again", thrice, []look{{0, Fail}, {time.Minute, Fail}, {time.Minute, Fail}, {time.Minute, Fail}}, Pending},
		{"one between did not fail", thrice, []look{{0, Fail}, {30 * time.Second, Pass}, {40 * time.Second, Fail}, {time.Minute, Fail}}, Pending},
		{"a hold is no failure", thrice, []look{{0, Fail}, {30 * time.Second, Hold}, {40 * time.Second, Fail}, {time.Minute, Fail}}, Pending},
		{"it came late that one did not fail", thrice, []look{{0, Fail}, {40 * time.Second, Fail}, {30 * time.Second, Pass}, {time.Minute, Fail}}, Pending},
		{"it came late that one did before", thrice, []look{{time.Second, Fail}, {40 * time.Second, Fail}, {0, Pass}, {time.Minute + time.Second, Fail}}, Fail},
		{"nobody could tell between", thrice, []look{{0, Fail}, {10 * time.Second, Inconclusive}, {20 * time.Second, Pending}, {30 * time.Second, Fail}, {time.Minute, Fail}}, Fail},
		{"at one instant both", Sustain{Looks: 1}, []look{{0, Fail}, {0, Pass}, {0, Fail}}, Pending},
		{"it failed before it passed", Sustain{}, []look{{1, Pass}, {0, Fail}}, Pending},
		{"nothing was seen", Sustain{Looks: 1}, []look{{-noon.Sub(time.Time{}), Fail}}, Pending},
		{"what does not fail stays", thrice, []look{{0, Fail}, {1, Inconclusive}}, Inconclusive},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var s Streak
			var got Result
			for _, l := range tt.looks {
				r := lookOf(l.after, l.verdict)
				if l.after < -time.Hour {
					r.At = time.Time{}
				}
				got = s.Take(r, tt.p)
			}
			if got.Verdict != tt.want {
				t.Errorf("it is %s, want %s: %s", got.Verdict, tt.want, got.Text)
			}
			if last := tt.looks[len(tt.looks)-1].verdict; last == Fail && tt.want == Pending && (codes(got) != "not_sustained look_failed" || got.Text != got.Reasons[0].Text) {
				t.Errorf("it says %s: %s", codes(got), got.Text)
			}
		})
	}
}

// A result is not changed where it came from.
func TestStreakLeavesTheResult(t *testing.T) {
	t.Parallel()
	r := lookOf(0, Fail)
	r.Reasons = slices.Grow(r.Reasons, 1) // room in which to write another reason
	var s Streak
	s.Take(r, Sustain{Looks: 2})
	if r.Verdict != Fail || r.Reasons[0].Code != LookFailed {
		t.Errorf("the result became %+v", r)
	}
}

func histories() *rapid.Generator[[]Result] {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Result {
		return lookOf(time.Duration(rapid.IntRange(0, 12).Draw(t, "at"))*time.Second, rapid.SampledFrom([]Verdict{Fail, Fail, Fail, Pass, Hold, Inconclusive, Pending}).Draw(t, "verdict"))
	}), 1, 20)
}

// sustainedBy says from a whole history what a streak says look by look.
func sustainedBy(history []Result, p Sustain) bool {
	var fine time.Time
	for _, r := range history {
		if r.Verdict == Pass || r.Verdict == Hold {
			fine = newer(fine, r.At)
		}
	}
	var failing []time.Time
	for _, r := range history {
		if r.Verdict == Fail && r.At.After(fine) {
			failing = append(failing, r.At)
		}
	}
	slices.SortFunc(failing, time.Time.Compare)
	failing = slices.Compact(failing)
	return len(failing) > 0 && len(failing) >= p.Looks && failing[len(failing)-1].Sub(failing[0]) >= p.For
}

func TestStreakIsAFunctionOfItsLooks(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		history := histories().Draw(t, "history")
		p := Sustain{For: time.Duration(rapid.IntRange(0, 6).Draw(t, "for")) * time.Second, Looks: rapid.IntRange(0, 5).Draw(t, "looks")}
		last := history[len(history)-1]
		say := func(looks []Result) (s Streak, r Result) {
			for _, l := range looks {
				s.Take(l, p)
			}
			return s, s.Take(last, p)
		}
		s, got := say(history)
		if want := last.Verdict != Fail || sustainedBy(history, p); (got.Verdict == last.Verdict) != want {
			t.Fatalf("a look that says %s is taken for %s, %v", last.Verdict, got.Verdict, s)
		}
		again := append(rapid.Permutation(history).Draw(t, "order"), rapid.SliceOfN(rapid.SampledFrom(history), 0, 5).Draw(t, "repeats")...)
		other, same := say(again)
		if !slices.Equal(s.failing, other.failing) || !s.fine.Equal(other.fine) || same.Verdict != got.Verdict {
			t.Fatalf("in another order, with repeats, %v instead of %v", other, s)
		}
	})
}
