package akeyless_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-fleet/lockstep/adapters/akeyless"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// command is a program of its own with the given shell lines. "$*" are its
// arguments.
func command(t *testing.T, lines string, change ...func(*akeyless.Options)) *akeyless.Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "akeyless")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+lines+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	// Through the shell: to run a file that was just written can fail while
	// another test starts a process.
	o := akeyless.Options{Command: []string{"/bin/sh", path}}
	for _, f := range change {
		f(&o)
	}
	client, err := akeyless.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return client
}

// vendorLines answer like the vendor's command line, and with an error that says
// what it was given when that is not one of its calls.
const vendorLines = `case "$*" in
"list-sra-bastions --json")
	echo '{"clusters":[{"cluster_name":"c","instances":[{"id":"i","version":"3.1.0"}]}]}';;
"list-gateways --json")
	echo '{"clusters":[{"cluster_name":"c","status":"Running","allowed":true}]}';;
"list-sra-sessions --status-type failed --json")
	echo '{"sessions":[{"session_id":"s","status":"failed","start_time":"2026-03-01T12:00:00Z","error_msg":"no mutual signature","gateway_info":{"cluster_name":"c"}}],
		"next_page":"more","allowed_gateways":[{"cluster_name":"c"}]}';;
"gateway-get-remote-access --json")
	echo '{"global":{"legacy_signing_alg":true}}';;
*) echo "unknown: $*" >&2; exit 2;;
esac`

func TestCommandLine(t *testing.T) {
	t.Parallel()
	client := command(t, vendorLines)
	got, err := client.Registrations(t.Context(), map[string]fleet.ClusterID{"c": "west"})
	if err != nil {
		t.Fatal(err)
	}
	got[0].ObservedAt = noon
	want := []fleet.Registration{{
		Cluster: "west", ObservedAt: noon, Bastions: []fleet.Bastion{{ID: "i", Version: "3.1.0"}},
		Gateways: []fleet.RegisteredGateway{{Name: "c", Status: "Running"}},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("registrations (-want +got):\n%s", diff)
	}
	query := akeyless.SessionQuery{Statuses: []fleet.SessionStatus{fleet.SessionFailed}}
	page, err := listSessions(t, client, query, 1)
	if err != nil || len(page.Sessions) != 1 || page.Sessions[0].Failure != fleet.FailureLegacySSH || len(page.Gateways) != 1 || !page.AsOf.IsZero() {
		t.Errorf("sessions: %+v, %v", page, err)
	}
	// The program above does not know the flag for further pages, as old ones do not.
	if _, err := listSessions(t, client, query, 1000); !errors.Is(err, akeyless.ErrRepeatedPage) {
		t.Errorf("further pages: %v, want to be told that there are none to be had", err)
	}
	access, err := client.RemoteAccess(t.Context())
	if err != nil || access.LegacySigning == nil || !*access.LegacySigning {
		t.Errorf("remote access: %+v, %v", access, err)
	}
}

func TestCommandLineThatFails(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 70_000)
	for name, tc := range map[string]struct {
		lines string
		kind  akeyless.Kind
		parts []string
	}{
		"exit code and words":   {`printf 'not \033[31mlogged\tin\n' >&2; exit 3`, akeyless.KindCommand, []string{"/bin/sh list-sra-bastions", "exit code 3", "not [31mlogged in"}},
		"no words":              {`exit 1`, akeyless.KindCommand, []string{"exit code 1", "it said nothing"}},
		"words after an answer": {`echo '{"clusters":[]}'; echo late >&2; exit 4`, akeyless.KindCommand, []string{"exit code 4", "late"}},
		"endless words":         {`while :; do echo ` + long[:4000] + `; done >&2`, akeyless.KindCommand, []string{"no result within 1s"}},
		"many words":            {`echo ` + long + ` >&2; exit 5`, akeyless.KindCommand, []string{"exit code 5", "xx…"}},
		"no answer":             {`exit 0`, akeyless.KindMalformed, []string{"unexpected EOF"}},
		"not JSON":              {`echo Please log in`, akeyless.KindMalformed, nil},
		"half an answer":        {`echo '{"clusters":[{'`, akeyless.KindMalformed, nil},
		"killed":                {`echo '{}'; kill -9 $$`, akeyless.KindCommand, []string{"signal: killed"}},
		"an endless answer":     {`echo '{"a":"'; while :; do echo ` + long[:4000] + `; done`, akeyless.KindTooLarge, []string{"100000 bytes"}},
		"hangs":                 {`sleep 600`, akeyless.KindCommand, []string{"no result within 1s"}},
		"hangs in its child":    {`sleep 600 & wait`, akeyless.KindCommand, []string{"no result within 1s"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			_, err := command(t, tc.lines, func(o *akeyless.Options) {
				o.MaxResponse = 100_000
				if strings.Contains(strings.Join(tc.parts, ""), "no result") {
					o.Timeout = time.Second
				}
			}).ListBastions(t.Context())
			if name == "an endless answer" { // it has no catalogue id
				if akeyless.KindOf(err) != tc.kind {
					t.Fatal(err)
				}
			} else {
				wantKind(t, err, tc.kind, tc.parts...)
			}
			if took := time.Since(began); took > 20*time.Second {
				t.Errorf("took %s", took)
			}
		})
	}
}

// TestCommandLineWithoutGateways fails to list gateways in ways that are a refusal
// and in others that are not.
func TestCommandLineWithoutGateways(t *testing.T) {
	t.Parallel()
	for said, swallowed := range map[string]bool{
		"Failed to list gateways: Status 403 Forbidden": true,
		"you do not have Permission for this action":    true,
		"connection refused":                            false,
		"":                                              false,
	} {
		client := command(t, `[ "$1" = list-gateways ] && { echo "`+said+`" >&2; exit 1; }; echo '{"clusters":[{"cluster_name":"c"}]}'`)
		got, err := client.Registrations(t.Context(), map[string]fleet.ClusterID{"c": "west"})
		if (err == nil) != swallowed || swallowed && len(got) != 1 {
			t.Errorf("%q: got %+v, %v", said, got, err)
		}
	}
}

// TestCommandLineRepeatsNoArgument has the command complain of what it was given.
func TestCommandLineRepeatsNoArgument(t *testing.T) {
	t.Parallel()
	const hush, other = "S3cr3t-HUSH", "An0ther-S3cr3t"
	lines := `echo "short: $1; bad: $2; $3; ${3#*=}" >&2; exit 3`
	client, err := akeyless.New(akeyless.Options{Command: []string{"/bin/sh", "-c", lines, "sh", "west", hush, "--key=" + other}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.ListBastions(t.Context())
	wantKind(t, err, akeyless.KindCommand, "short: west; bad: [redacted]; [redacted]; [redacted]")
	if said := everyText(err); strings.Contains(said, hush) || strings.Contains(said, other) {
		t.Errorf("an argument is told: %s", said)
	}
}

func TestCommandLineThatIsNotThere(t *testing.T) {
	t.Parallel()
	for name, path := range map[string]string{
		"not on the path": "no-such-vendor-command", "no such file": filepath.Join(t.TempDir(), "akeyless"), "not to be run": secretFile(t, "x"),
	} {
		client, err := akeyless.New(akeyless.Options{Command: []string{path, "--key", "hush"}})
		if err != nil {
			t.Fatal(err)
		}
		_, err = client.ListBastions(t.Context())
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wantKind(t, err, akeyless.KindNoCommand, path+" list-sra-bastions", "vendor.command")
			if said := fmt.Sprintf("%v %v", err, client); strings.Contains(said, "hush") {
				t.Errorf("an argument is told: %s", said)
			}
		})
	}
}

func TestCommandLineEndsWithItsCaller(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancelCause(t.Context())
	stopping := errors.New("stopping")
	started := filepath.Join(t.TempDir(), "started")
	client := command(t, `echo yes > "`+started+`"; exec sleep 600`)
	go func() {
		for {
			if _, err := os.Stat(started); err == nil {
				cancel(stopping)
				return
			}
			<-time.After(5 * time.Millisecond)
		}
	}()
	if _, err := client.ListBastions(ctx); !errors.Is(err, stopping) || akeyless.KindOf(err) != "" {
		t.Errorf("got %v, want the caller's own cause and no kind", err)
	}
}

// TestCommandLineLeavesNothingBehind has a command start another one. Both hold a
// pipe open, which ends with the last of them.
func TestCommandLineLeavesNothingBehind(t *testing.T) {
	t.Parallel()
	pipe := filepath.Join(t.TempDir(), "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	reader, err := os.OpenFile(pipe, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	client := command(t, `exec 3>"`+pipe+`"; echo running >&3; sleep 600 & wait`, func(o *akeyless.Options) { o.Timeout = 2 * time.Second })
	if _, err := client.ListBastions(t.Context()); akeyless.KindOf(err) != akeyless.KindCommand {
		t.Fatal(err)
	}
	if err := reader.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if said, err := io.ReadAll(reader); err != nil || string(said) != "running\n" {
		t.Errorf("the pipe says %q, %v; what the command started is still there", said, err)
	}
}
