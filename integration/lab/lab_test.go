package lab_test

import (
	"strings"
	"testing"

	"github.com/lockstep-fleet/lockstep/integration/lab"
)

func TestStartNeedsAFolder(t *testing.T) {
	t.Parallel()
	if _, err := lab.Start(t.Context(), lab.Options{}); err == nil || !strings.Contains(err.Error(), "folder") {
		t.Errorf("got %v, want an error that asks for a folder", err)
	}
}
