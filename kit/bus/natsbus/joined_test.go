package natsbus

import (
	"slices"
	"strings"
	"testing"
)

// TestJoinedPages reads pages of three from a list that others change: each word of a
// case is the list as it stands when the next page is asked for, the last for good.
func TestJoinedPages(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ lists, want string }{
		"nothing":                              {"", ""},
		"one page":                             {"abc", "abc"},
		"several pages":                        {"abcdefgh", "abcdefgh"},
		"one goes that was read":               {"abcdefgh bcdefgh", "bcdefgh"},
		"one comes before what was read":       {"bcdefgh abcdefgh", "abcdefgh"},
		"one goes and one comes":               {"acdefgh bcdefgh", "acdefgh"},
		"one goes that was not read":           {"abcdefgh abcdefh", "abcdefh"},
		"one comes behind what was read":       {"abcdefg abcdefgh", "abcdefgh"},
		"all go":                               {"abcdefgh ", ""},
		"all but the first go":                 {"abcdefgh a", "a"},
		"the last that was read goes":          {"abcdefgh abdefgh", "abdefgh"},
		"it goes on changing while it is read": {"abcdefgh bcdefgh cdefgh cdefghi", "cdefghi"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			lists := strings.Split(c.lists, " ")
			got, err := joined(func(offset int) ([]string, int, error) {
				list := strings.Split(lists[0], "")
				if len(lists) > 1 {
					lists = lists[1:]
				}
				from := min(offset, len(list))
				return slices.Clone(list[from:min(from+3, len(list))]), len(list), nil
			})
			if err != nil || strings.Join(got, "") != c.want {
				t.Errorf("got %q, %v; want %q", got, err, c.want)
			}
		})
	}
}
