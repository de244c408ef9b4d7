package gate

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// Every file in testdata tells one story of sessions and marks and what the
// gate says of it. Times are offsets from the step's start, noon UTC. Words:
//
//	policy KEY=VALUE…     changes to the default policy
//	step from=T end=T     where the baseline begins and the step ends
//	sessions id=P from=T every=D count=N [fail=K] [hang=K] [user=U] [target=X]
//	                      N sessions P0, P1, …; every K-th fails, or never has an outcome; by default each has its own user
//	session id=P at=T status=S [user=U] [target=X]
//	mark until=T | blind reason=WORDS_JOINED_BY_UNDERSCORES
//	look | deadline | revocation
//	                      asks for the verdict, also past the deadline, or for the revocation
//	> …                   the answer expected
func TestScenarios(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(filepath.Join("testdata", "*.txt"))
	if err != nil || len(files) == 0 {
		t.Fatalf("scenarios: %v, %d found", err, len(files))
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(text))
			if diff := cmp.Diff(string(text), got); diff != "" {
				t.Errorf("%s (-file +gate):\n%s\nwhole story as the gate tells it:\n%s", file, diff, got)
			}
		})
	}
}

// play runs a scenario and returns its text with the answers filled in.
func play(t *testing.T, text string) string {
	t.Helper()
	p := DefaultPolicy()
	var f *Fold
	var seq uint64
	var out strings.Builder
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "> ") {
			continue
		}
		out.WriteString(line)
		words := strings.Fields(line)
		if len(words) == 0 || strings.HasPrefix(line, "#") {
			continue
		}
		a := arguments{t: t, line: line, values: map[string]string{}}
		for _, w := range words[1:] {
			key, value, _ := strings.Cut(w, "=")
			a.values[key] = value
		}
		seq++
		switch words[0] {
		case "policy":
			a.change(&p)
		case "step":
			var err error
			f, err = NewFold(p, paris, Boundary{BaselineFrom: a.time("from"), Start: noon, End: a.time("end")})
			if err != nil {
				t.Fatal(err)
			}
		case "sessions":
			for i := range a.number("count") {
				s := fleet.Session{ID: fleet.SessionID(fmt.Sprintf("%s%d", a.values["id"], i)), Cluster: paris, Status: fleet.SessionConnected,
					Start: a.time("from").Add(time.Duration(i) * a.duration("every")), User: a.values["user"], Target: "db"}
				if s.User == "" {
					s.User = string(s.ID)
				}
				if k := a.number("fail"); k > 0 && i%k == k-1 {
					s.Status = fleet.SessionFailed
				}
				if k := a.number("hang"); k > 0 && i%k == k-1 {
					s.Status = fleet.SessionConnecting
				}
				f.Session(s, seq)
			}
		case "session":
			f.Session(fleet.Session{ID: fleet.SessionID(a.values["id"]), Cluster: paris, Status: fleet.SessionStatus(a.values["status"]),
				Start: a.time("at"), User: a.values["user"], Target: a.values["target"]}, seq)
		case "mark":
			f.Mark(fleet.Mark{Cluster: paris, CompleteUntil: a.time("until")}, seq)
		case "blind":
			f.Mark(fleet.Mark{Cluster: paris, Blind: true, BlindReason: strings.ReplaceAll(a.values["reason"], "_", " ")}, seq)
		case "look", "deadline":
			tell(&out, f.Verdict(words[0] == "deadline"))
		case "revocation":
			if d, revoked := f.Revocation(); revoked {
				tell(&out, d)
			} else {
				out.WriteString("> none\n")
			}
		default:
			t.Fatalf("unknown word in: %s", line)
		}
	}
	return out.String()
}

func tell(out *strings.Builder, d Decision) {
	codes := make([]string, len(d.Reasons))
	for i, r := range d.Reasons {
		codes[i] = string(r.Code)
	}
	e := d.Evidence
	fmt.Fprintf(out, "> %s after %d: %s\n", d.Verdict, d.Trials, strings.Join(codes, " "))
	fmt.Fprintf(out, "> new %d/%d baseline %d/%d cut %d unresolved %d/%d late %d/%d blocks %d of 1:%d\n", e.New.Failed, e.New.Total(),
		e.Baseline.Failed, e.Baseline.Total(), e.Cut, e.Unresolved.New, e.Unresolved.Baseline, e.Late.New, e.Late.Baseline, e.Blocks.Blocks(), e.Partners)
	fmt.Fprintf(out, "> %s\n", d.Summary)
}

type arguments struct {
	t      *testing.T
	line   string
	values map[string]string
}

func (a arguments) duration(key string) time.Duration {
	d, err := time.ParseDuration(a.values[key])
	if err != nil {
		a.t.Fatalf("%s: %v", a.line, err)
	}
	return d
}

func (a arguments) time(key string) time.Time { return noon.Add(a.duration(key)) }

func (a arguments) number(key string) int {
	if a.values[key] == "" {
		return 0
	}
	n, err := strconv.Atoi(a.values[key])
	if err != nil {
		a.t.Fatalf("%s: %v", a.line, err)
	}
	return n
}

func (a arguments) change(p *Policy) {
	for key, value := range a.values {
		number, err := strconv.ParseFloat(value, 64)
		if err != nil {
			number = 0
		}
		switch key {
		case "acceptable_rate":
			p.AcceptableRate = number
		case "floor_rate":
			p.FloorRate = number
		case "max_late":
			p.MaxLate = number
		case "planned_trials":
			p.PlannedTrials = int(number)
		case "maturation":
			p.Maturation = a.duration(key)
		case "burst_window":
			p.BurstWindow = a.duration(key)
		case "bucket":
			p.Bucket = a.duration(key)
		default:
			a.t.Fatalf("%s: unknown key %s", a.line, key)
		}
	}
}
