package page_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/lockstep-fleet/lockstep/kit/errs"
	"github.com/lockstep-fleet/lockstep/kit/page"
)

func self(s string) string { return s }

func numbered(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("item-%04d", i)
	}
	return out
}

func TestSizeOfAPage(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		items int
		size  int32
		want  int
		more  bool
	}{
		{0, 10, 0, false},
		{10, 10, 10, false},
		{11, 10, 10, true},
		{page.DefaultSize, 0, page.DefaultSize, false},
		{page.DefaultSize + 1, 0, page.DefaultSize, true},
		{page.DefaultSize + 1, -1, page.DefaultSize, true},
		{page.MaxSize + 1, page.MaxSize + 1, page.MaxSize, true},
		{page.MaxSize + 1, 1<<31 - 1, page.MaxSize, true},
	} {
		got, token, err := page.Of(numbered(c.items), self, c.size, "")
		if err != nil || len(got) != c.want || (token != "") != c.more {
			t.Errorf("%d items, size %d: %d items, token %q, error %v", c.items, c.size, len(got), token, err)
		}
	}
}

func TestPagesOfAListThatRestsAreTheList(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		items := rapid.SliceOfDistinct(rapid.StringN(1, -1, -1), self).Draw(t, "items")
		size := rapid.Int32Range(1, 7).Draw(t, "size")
		var got []string
		for token := ""; ; {
			some, next, err := page.Of(items, self, size, token)
			if err != nil {
				t.Fatal(err)
			}
			if next != "" && len(some) != int(size) {
				t.Fatalf("a page of %d before the last one, want %d", len(some), size)
			}
			got = append(got, some...)
			if token = next; token == "" {
				break
			}
		}
		if !slices.Equal(got, items) {
			t.Fatalf("got %q, want %q", got, items)
		}
	})
}

func TestItemsThatComeAndGoDoNotShiftPages(t *testing.T) {
	t.Parallel()
	_, token, err := page.Of([]string{"a", "b", "c", "d"}, self, 2, "")
	if err != nil {
		t.Fatal(err)
	}
	got, _, err := page.Of([]string{"new", "b", "c", "d"}, self, 2, token)
	if err != nil || strings.Join(got, "") != "cd" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestWhatIsRefused(t *testing.T) {
	t.Parallel()
	_, gone, err := page.Of([]string{"a", "b", "c"}, self, 1, "")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		token string
		want  string
	}{
		"a token of a gone item": {gone, "LS-API-002: page_token is not valid any more; start again without one"},
		"a token of nonsense":    {"%%%", "LS-API-002: page_token is not valid any more; start again without one"},
	} {
		items, token, err := page.Of([]string{"b", "c"}, self, 1, c.token)
		if err == nil || err.Error() != c.want || errs.KindOf(err) != errs.Invalid {
			t.Errorf("%s: %v", name, err)
		}
		if items != nil || token != "" {
			t.Errorf("%s: it gave %q, %q as well", name, items, token)
		}
	}
}
