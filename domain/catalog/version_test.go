package catalog_test

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/lockstep-fleet/lockstep/domain/catalog"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

func TestVersionsStandInOrder(t *testing.T) {
	t.Parallel()
	// Each stands before every one below it; those of one line are one version.
	order := [][]string{
		{"0", "0.0", "v0", "00"},
		{"0.0.1"},
		{"0.1-rc"},
		{"0.1"},
		// The example of semver.org.
		{"1.0.0-alpha", "1.0-alpha", "v1.0.0-alpha+build"},
		{"1.0.0-alpha.1", "1.0.0-alpha.01"},
		{"1.0.0-alpha.beta"},
		{"1.0.0-alpha-beta"},
		{"1.0.0-beta"},
		{"1.0.0-beta.2"},
		{"1.0.0-beta.11"},
		{"1.0.0-rc.1"},
		{"1.0.0", "1", "1.0", "v1.0.0", "V1", "1.0.0.0", "01.00.00", "1.0.0+5114f85"},
		{"1.0.0.1"},
		{"1.0.2"},
		{"1.0.10", "1.0.010"},
		{"1.2"},
		{"2.3.2-0"},
		{"2.3.2-1"},
		{"2.3.2-99999999999999999999999999"},
		{"2.3.2-100000000000000000000000000"},
		{"2.3.2--"},
		{"2.3.2-0a"},
		{"2.3.2", "v2.3.2"},
		{"2.3.2_1.8.0", "v2.3.2_1.8.0"},
		{"2.3.2_1.10.0"},
		{"2.3.2_1.10.0_1"},
		{"2.3.2_a"},
		{"2.3.2.1-rc"},
		{"2.3.2.1"},
		{"2.3.3-rc"},
		{"2.3.3"},
		{"4.52.0"},
		{"5.0.1_3.3.0"},
		{"18446744073709551616"},
		{"18446744073709551617.0"},
		{strings.Repeat("9", 70)},
		{"1" + strings.Repeat("0", 70)},
	}
	for i, above := range order {
		for j, below := range order {
			for _, a := range above {
				for _, b := range below {
					want := 0
					switch {
					case i < j:
						want = -1
					case i > j:
						want = 1
					}
					if got, ok := catalog.Compare(a, b); got != want || !ok {
						t.Errorf("%s with %s: %d, %v, want %d", a, b, got, ok, want)
					}
				}
			}
		}
	}
}

func TestWhatAVersionIs(t *testing.T) {
	t.Parallel()
	const digest = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
	type is struct{ comparable, malformed, floating bool }
	for text, want := range map[string]is{
		"":                                  {},
		digest:                              {},
		digest[7:]:                          {},
		digest[7:47]:                        {},
		"a" + digest[8:47]:                  {},
		"1.2.3":                             {comparable: true},
		"v1":                                {comparable: true},
		"20260527":                          {comparable: true},
		"2026-05-27":                        {comparable: true},
		"1.2.3-rc.1+build.5":                {comparable: true},
		"1.2.3+build":                       {comparable: true},
		"2.3.2_1.8.0":                       {comparable: true, malformed: true},
		"1.2.":                              {comparable: true, malformed: true},
		"1.2..3":                            {comparable: true, malformed: true},
		"1.2.3-":                            {comparable: true, malformed: true},
		"1.2.3+":                            {comparable: true, malformed: true},
		"1.2.3-a..b":                        {comparable: true, malformed: true},
		"1.2.3-a+b+c":                       {comparable: true, malformed: true},
		"1.2.3 ":                            {comparable: true, malformed: true},
		"1.2.3-é":                           {comparable: true, malformed: true},
		"1_2":                               {malformed: true},
		"1.x":                               {malformed: true},
		"9f86d08":                           {malformed: true},
		" 1.2.3":                            {malformed: true},
		".1.2":                              {malformed: true},
		"-1":                                {malformed: true},
		"\x00":                              {malformed: true},
		"é":                                 {malformed: true},
		"١.٢":                               {malformed: true},
		"two words":                         {malformed: true},
		"sha256:short":                      {malformed: true},
		"latest":                            {floating: true},
		"latest-akeyless":                   {floating: true},
		"v":                                 {floating: true},
		"version1":                          {floating: true},
		"stable_4.52":                       {floating: true},
		strings.Repeat("1.", 32<<10):        {comparable: true, malformed: true},
		strings.Repeat("1", 64<<10):         {comparable: true},
		strings.Repeat("a", 64<<10):         {floating: true},
		"1-" + strings.Repeat("0.", 32<<10): {malformed: true},
	} {
		v := catalog.ParseVersion(text)
		if got := (is{v.Comparable(), v.Malformed(), v.Floating()}); got != want {
			t.Errorf("%.80q is %+v, want %+v", text, got, want)
		}
		if v.String() != text {
			t.Errorf("%.80q is written %.80q", text, v.String())
		}
		if order, ok := v.Compare(catalog.ParseVersion("1.0")); ok != want.comparable || !ok && order != 0 {
			t.Errorf("%.80q compares as %d, %v", text, order, ok)
		}
	}
}

// anyVersion draws texts that are close to versions and to one another.
func anyVersion(t *rapid.T, label string) string {
	return rapid.OneOf(
		rapid.StringMatching(`v?[01]?[0-2](\.0?[0-2]){0,3}(-(0|1|01|a|b|a1|a-a|-)(\.(0|1|10|a))?)?(\+[ab])?`),
		rapid.StringMatching(`[01](\.[0-2]){1,2}[_.+-]?(0|1|01|10|a|_){0,3}`),
		rapid.SampledFrom([]string{"", "latest", "latest-akeyless", "9f86d08", "99999999999999999999", "99999999999999999998", "1.2é"}),
		rapid.String(),
	).Draw(t, label)
}

func TestComparingIsAnOrder(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		ordered(t, anyVersion(t, "a"), anyVersion(t, "b"), anyVersion(t, "c"))
	})
}

func FuzzCompare(f *testing.F) {
	f.Add("1.2.3", "v1.2.3-rc.1+b", "2.3.2_1.8.0")
	f.Add("latest", "", "sha256:9f86d081884c7d659a2feaa0c55ad015")
	f.Add("1.0_01", "1.0_1", "1.0_001")
	f.Add("1.2.3-", "1..2", "1.0..2")
	f.Add("0=a", "=a", "a")
	f.Add("1-a.b", "1-a-b", "1-a.b.c")
	f.Add("1..2.3", "1.0..2", "1.0.2")
	f.Add(strings.Repeat("9", 100), "1-00", "1-0")
	f.Fuzz(func(t *testing.T, a, b, c string) { ordered(t, a, b, c) })
}

// ordered checks the laws of an order on three texts.
func ordered(t interface {
	Helper()
	Fatalf(format string, args ...any)
}, a, b, c string) {
	t.Helper()
	for _, text := range []string{a, b, c} {
		v := catalog.ParseVersion(text)
		if order, ok := catalog.Compare(text, text); order != 0 || ok != v.Comparable() {
			t.Fatalf("%q with itself: %d, %v", text, order, ok)
		}
		if v.Floating() && (v.Comparable() || v.Malformed()) {
			t.Fatalf("%q is floating and more", text)
		}
	}
	ab, okAB := catalog.Compare(a, b)
	// Whoever looks for b finds what carries a, if both name one version.
	carries := catalog.NewIndex([]catalog.Entry{{Release: catalog.Release{ID: "1", Versions: fleet.VersionSet{"x": a}}}}).Carries("x", b)
	if one := a == b || okAB && ab == 0; one != (len(carries) == 1) {
		t.Fatalf("%q and %q: one version %v, but found %v", a, b, one, carries)
	}
	ba, okBA := catalog.Compare(b, a)
	bc, okBC := catalog.Compare(b, c)
	ac, okAC := catalog.Compare(a, c)
	if ab != -ba || okAB != okBA || ab < -1 || ab > 1 {
		t.Fatalf("%q with %q: %d, %v, and the other way round %d, %v", a, b, ab, okAB, ba, okBA)
	}
	if okAB && okBC && (!okAC || ab <= 0 && bc <= 0 && (ac > 0 || ac == 0 && (ab < 0 || bc < 0))) {
		t.Fatalf("%q, %q, %q: %d and %d, but %d, %v", a, b, c, ab, bc, ac, okAC)
	}
}
