package config_test

import (
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/lockstep-fleet/lockstep/kit/config"
)

func TestMarshalWordsAFile(t *testing.T) {
	t.Parallel()
	type inner struct {
		Every time.Duration `yaml:"poll_interval" comment:"how often it is asked"`
		Dir   config.Path   `yaml:"dir"`
	}
	type outer struct {
		Version string            `yaml:"version" comment:"what runs;\nin two lines"`
		Inner   inner             `yaml:"inner" comment:"a section"`
		Absent  *inner            `yaml:"absent"`
		None    []string          `yaml:"none"`
		Empty   []string          `yaml:"empty"`
		List    []inner           `yaml:"list"`
		Names   map[string]string `yaml:"names"`
		Ratio   float64           `yaml:"ratio"`
		Whole   float64           `yaml:"whole"`
		Quiet   bool              `yaml:"quiet"`
		private int
	}
	v := outer{
		Version: "5.0", Inner: inner{Every: 30 * time.Minute, Dir: "/var/lib/x"}, Empty: []string{},
		List: []inner{{Every: 90 * time.Second}, {Every: 24 * time.Hour, Dir: "/y"}}, Names: map[string]string{"b": "yes", "a": "two\nlines"},
		Ratio: 0.01, Whole: 2, private: 1,
	}
	const want = `# what runs;
# in two lines
version: "5.0"
# a section
inner:
  # how often it is asked
  poll_interval: 30m
  dir: /var/lib/x
absent:
none:
empty: []
list:
  - poll_interval: 1m30s
    dir: ""
  - poll_interval: 24h
    dir: /y
names:
  a: "two\nlines"
  b: yes
ratio: 0.01
whole: 2
quiet: false
`
	if diff := cmp.Diff(want, config.Marshal(v)); diff != "" {
		t.Errorf("worded (-want +got):\n%s", diff)
	}
}

// everything has a field of every kind that a file can hold.
type everything struct {
	Text     string                   `yaml:"text" comment:"free"`
	Number   int64                    `yaml:"number"`
	Small    uint8                    `yaml:"small"`
	Ratio    float64                  `yaml:"ratio"`
	Half     float32                  `yaml:"half"`
	Quiet    bool                     `yaml:"quiet"`
	Every    time.Duration            `yaml:"every"`
	Dir      config.Path              `yaml:"dir"`
	Texts    []string                 `yaml:"texts"`
	Lengths  map[string]time.Duration `yaml:"lengths"`
	Maybe    *part                    `yaml:"maybe" comment:"may be missing"`
	Parts    []part                   `yaml:"parts"`
	Pointers []*part                  `yaml:"pointers"`
	Named    map[string]part          `yaml:"named"`
	Level    *int                     `yaml:"level"`
}

type part struct {
	ID    string   `yaml:"id" comment:"what it is called"`
	Files []string `yaml:"files"`
}

func TestLoadReadsBackWhatMarshalWrote(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "conf.yaml")
	text := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{
		"", " ", "~", "null", "yes", "5.0", "0x1f", "1e3", "2026-03-01", "a: b", "- a", "# no", "a #b", "'", `"`, "\\", "%", "@x", "`", "!!str", "&a", "*a", "<<", "? a",
		"a\nb", "\n", "\t\n", " a\n", "a\n\n", "a\r\nb", "\t", "\u0085", "\u2028", "\ufeffa", "{", "[", "a,b", "=", ".inf", ".nan", "0o7", "1_000", "---", "...", "--- a",
	}))
	texts := rapid.OneOf(rapid.Just([]string(nil)), rapid.SliceOfN(text, 0, 3))
	parts := rapid.Custom(func(t *rapid.T) part { return part{text.Draw(t, "id"), texts.Draw(t, "files")} })
	length := rapid.OneOf(rapid.Int64(), rapid.Map(rapid.Int64Range(-200, 200), func(n int64) int64 { return n * int64(30*time.Second) }))
	values := rapid.Custom(func(t *rapid.T) everything {
		v := everything{
			Text: text.Draw(t, "text"), Number: rapid.Int64().Draw(t, "number"), Small: rapid.Uint8().Draw(t, "small"),
			Ratio: rapid.OneOf(rapid.Float64(), rapid.SampledFrom([]float64{math.Inf(1), math.Inf(-1), 1, 1e21})).Draw(t, "ratio"),
			Half:  rapid.Float32().Draw(t, "half"), Quiet: rapid.Bool().Draw(t, "quiet"), Every: time.Duration(length.Draw(t, "every")),
			Texts: texts.Draw(t, "texts"), Maybe: rapid.Ptr(parts, true).Draw(t, "maybe"), Level: rapid.Ptr(rapid.Int(), true).Draw(t, "level"),
		}
		if name := text.Draw(t, "dir"); name != "" {
			v.Dir = config.Path("/" + name)
		}
		if rapid.Bool().Draw(t, "lists") {
			v.Parts = rapid.SliceOfN(parts, 0, 3).Draw(t, "parts")
			v.Pointers = rapid.SliceOfN(rapid.Ptr(parts, true), 0, 3).Draw(t, "pointers")
			v.Named = rapid.MapOfN(text, parts, 0, 3).Draw(t, "named")
			v.Lengths = rapid.MapOfN(text, rapid.Map(length, func(n int64) time.Duration { return time.Duration(n) }), 0, 3).Draw(t, "lengths")
		}
		return v
	})
	rapid.Check(t, func(t *rapid.T) {
		want := values.Draw(t, "value")
		file := config.Marshal(want)
		if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
			t.Fatal(err)
		}
		var got everything
		if err := config.Load(path, &got); err != nil {
			t.Fatalf("%v\n%s", err, file)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("read back (-want +got):\n%s\nfrom\n%s", diff, file)
		}
	})
}
