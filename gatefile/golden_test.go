package gatefile_test

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files and the reference anew")

// current compares a file with what it has to hold.
func current(t *testing.T, path, want string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, string(have)); diff != "" {
		t.Errorf("%s is not current, -update writes it anew (-want +have):\n%s", path, diff)
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	current(t, filepath.Join("testdata", name), got)
}
