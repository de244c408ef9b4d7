package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lockstep-fleet/lockstep/kit/errs"
)

func TestADataDirectoryIsMarkedAndFoundAgain(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "new", "data")
	for range 2 {
		d, err := openDataDir(path)
		if err != nil {
			t.Fatal(err)
		}
		if text, err := os.ReadFile(filepath.Join(path, "format")); err != nil || string(text) != "1\n" {
			t.Errorf("marked %q, %v", text, err)
		}
		d.release()
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("others may look into it: %v, %v", info.Mode(), err)
	}
}

func TestADataDirectoryOfAnotherFormatIsLeftAlone(t *testing.T) {
	t.Parallel()
	for _, mark := range []string{"2\n", "", "0", "-1", "x", "1.5"} {
		path := t.TempDir()
		name := filepath.Join(path, "format")
		if err := os.WriteFile(name, []byte(mark), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := openDataDir(path)
		if errs.IDOf(err) != "LS-SRV-004" || !strings.Contains(err.Error(), path) {
			t.Errorf("mark %q: %v", mark, err)
		}
		if text, err := os.ReadFile(name); err != nil || string(text) != mark {
			t.Errorf("mark %q became %q, %v", mark, text, err)
		}
		// It can be had once the mark is right: nothing holds it.
		if err := os.WriteFile(name, []byte("1"), 0o600); err != nil {
			t.Fatal(err)
		}
		d, err := openDataDir(path)
		if err != nil {
			t.Fatalf("after mark %q: %v", mark, err)
		}
		d.release()
	}
}
