//go:build integration

package story_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/lockstep-fleet/lockstep/integration/story"
)

// TestStory tells the whole story. It needs the built binary, and Docker, which
// the lab installs and starts where it is missing.
func TestStory(t *testing.T) {
	binary, err := filepath.Abs(filepath.Join("..", "..", "bin", "lockstep"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(binary); err != nil {
		t.Fatalf("the binary under test is missing; `make build` makes it: %v", err)
	}
	dir := t.TempDir()
	figures, err := story.Tell(t.Context(), story.Options{
		Binary: binary, Dir: dir, Say: func(s string) { t.Log(s) },
		Log: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		if log, readErr := os.ReadFile(filepath.Join(dir, "server.log")); readErr == nil {
			t.Logf("the server's log:\n%s", tail(log, 20_000))
		}
		t.Fatal(err)
	}
	figures.Print(os.Stdout)
}

func tail(b []byte, n int) []byte { return b[max(0, len(b)-n):] }
