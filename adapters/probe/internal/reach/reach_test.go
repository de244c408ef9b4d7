package reach

import (
	"errors"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestATrailTellsThePartsThatEndedWell(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	pass := func(d time.Duration) { now = now.Add(d) }
	trail := NewTrail(func() time.Time { return now })
	trail.Enter(PartConnect)
	pass(2 * time.Second)
	trail.Leave(PartConnect)
	trail.Enter(PartFirstByte)
	pass(time.Second)
	trail.Leave(PartFirstByte)
	// A second request on the same connection.
	trail.Enter(PartFirstByte)
	pass(time.Minute)
	trail.Leave(PartFirstByte)
	// A clock that was set back.
	trail.Enter(PartTLS)
	pass(-time.Hour)
	trail.Leave(PartTLS)
	// One part does not end another.
	trail.Enter(PartLogin)
	trail.Leave(PartHandshake)
	trail.Expires(now)

	var failed, fine fleet.Check
	trail.Tell(t.Context(), &failed, "unused", errors.New("odd"))
	want := fleet.Check{
		Failure: fleet.FailureUnclassified, Detail: "logging in: odd", CertificateExpires: now,
		Readings: map[string]float64{"connect_seconds": 2, "first_byte_seconds": 1, "tls_seconds": 0},
	}
	if diff := cmp.Diff(want, failed); diff != "" {
		t.Error(diff)
	}
	trail.Tell(t.Context(), &fine, "all is well", nil)
	if !fine.OK || fine.Failure != "" || fine.Detail != "all is well" {
		t.Errorf("got %+v", fine)
	}
	fine.Readings["connect_seconds"] = 7
	trail.Tell(t.Context(), &failed, "", nil)
	if failed.Readings["connect_seconds"] != 2 {
		t.Error("two checks share their readings")
	}
}

func TestClean(t *testing.T) {
	t.Parallel()
	for said, want := range map[string]string{
		"":                              "",
		" two\r\n\tlines \x00\x1b[31m ": "two lines [31m",
		"\xff\xfeno text":               "no text",
		"Grüße, 世界":                     "Grüße, 世界",
	} {
		if got := Clean(said); got != want {
			t.Errorf("%q became %q, want %q", said, got, want)
		}
	}
	for _, unit := range []string{"x", "世", "x ", "\xff"} {
		got := Clean(strings.Repeat(unit, 1<<20))
		if len(got) > maxDetail || !utf8.ValidString(got) {
			t.Errorf("%q without end became %d bytes: %q", unit, len(got), got)
		}
	}
}
