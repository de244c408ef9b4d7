package codec_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/kit/errs"
	"github.com/lockstep-fleet/lockstep/kit/page"
	fleetv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/fleet/v1"
	rolloutv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/rollout/v1"
)

func even(n int) bool { return n%2 == 0 }

func TestPagesUnderFiltersAreWhatMatches(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		items := rapid.SliceOfDistinct(rapid.IntRange(0, 50), func(n int) int { return n }).Draw(t, "items")
		req := &fleetv1.ListClustersRequest{PageSize: rapid.Int32Range(1, 7).Draw(t, "size"), Release: "spring"}
		want := slices.DeleteFunc(slices.Clone(items), func(n int) bool { return !even(n) })
		var got []int
		for {
			some, next, err := codec.Page(req, items, strconv.Itoa, even)
			if err != nil {
				t.Fatal(err)
			}
			if next != "" && len(some) != int(req.GetPageSize()) {
				t.Fatalf("a page of %d before the last one, want %d", len(some), req.GetPageSize())
			}
			got = append(got, some...)
			if req.PageToken = next; next == "" {
				break
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("got %v, want %v", got, want)
		}
	})
}

// Between two pages the last item of the first may cease to match.
func TestAPageFollowsAnItemThatMatchesNoLonger(t *testing.T) {
	t.Parallel()
	items := []string{"a", "b", "c", "d"}
	self := func(s string) string { return s }
	req := &fleetv1.ListClustersRequest{PageSize: 2, States: []string{"drifted"}}
	_, next, err := codec.Page(req, items, self, func(s string) bool { return s != "c" })
	if err != nil {
		t.Fatal(err)
	}
	req.PageToken = next
	got, next, err := codec.Page(req, items, self, func(s string) bool { return s > "b" })
	if err != nil || strings.Join(got, "") != "cd" || next != "" {
		t.Errorf("after b come %v, then %q (%v)", got, next, err)
	}
}

func TestALongListIsCutAtTheLongestPage(t *testing.T) {
	t.Parallel()
	items := make([]int, 3*page.MaxSize)
	for i := range items {
		items[i] = i
	}
	looked := 0
	got, next, err := codec.Page(&rolloutv1.ListRolloutsRequest{PageSize: page.MaxSize}, items, strconv.Itoa, func(int) bool { looked++; return true })
	if err != nil || len(got) != page.MaxSize || next == "" {
		t.Errorf("a page of %d, then %q (%v)", len(got), next, err)
	}
	if looked > page.MaxSize+1 {
		t.Errorf("%d items were looked at for one page", looked)
	}
}

func TestATokenIsGoodForItsFiltersOnly(t *testing.T) {
	t.Parallel()
	ask := func(req *fleetv1.ListClustersRequest, size int32, token string) (string, error) {
		req.PageSize, req.PageToken = size, token
		_, next, err := codec.Page(req, []int{1, 2, 3, 4}, strconv.Itoa, func(int) bool { return true })
		return next, err
	}
	requests := map[string]func() *fleetv1.ListClustersRequest{
		"none":    func() *fleetv1.ListClustersRequest { return &fleetv1.ListClustersRequest{} },
		"release": func() *fleetv1.ListClustersRequest { return &fleetv1.ListClustersRequest{Release: "spring"} },
		"other":   func() *fleetv1.ListClustersRequest { return &fleetv1.ListClustersRequest{Release: "summer"} },
		"state":   func() *fleetv1.ListClustersRequest { return &fleetv1.ListClustersRequest{States: []string{"spring"}} },
		"both": func() *fleetv1.ListClustersRequest {
			return &fleetv1.ListClustersRequest{States: []string{"locked"}, Release: "spring"}
		},
	}
	for given, of := range requests {
		token, err := ask(of(), 2, "")
		if err != nil || token == "" {
			t.Fatalf("filters %s: token %q, %v", given, token, err)
		}
		for used, with := range requests {
			_, err := ask(with(), 3, token) // Another size is no other list.
			if used == given && err != nil {
				t.Errorf("filters %s: %v", given, err)
			}
			if used != given && (err == nil || err.Error() != "LS-API-002: page_token belongs to a list with other filters; give those again, or start without a token") {
				t.Errorf("a token for filters %s with filters %s: %v", given, used, err)
			}
		}
		for _, spoilt := range []string{token[:len(token)-1], token + "x", token + ".", "." + token, ".", "%"} {
			if _, err := ask(of(), 2, spoilt); errs.KindOf(err) != errs.Invalid {
				t.Errorf("filters %s: the spoilt token %q gave %v", given, spoilt, err)
			}
		}
		if len(token) > 512 {
			t.Errorf("the token has %d bytes", len(token))
		}
	}
}

func TestFiltersThatCannotBeEncoded(t *testing.T) {
	t.Parallel()
	req := &fleetv1.ListClustersRequest{Release: "\xff"}
	if _, _, err := codec.Page(req, []int{1}, strconv.Itoa, even); err == nil || !strings.Contains(fmt.Sprint(err), "ListClustersRequest") {
		t.Errorf("broken text gave %v", err)
	}
}
