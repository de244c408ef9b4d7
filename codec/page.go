package codec

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/lockstep-fleet/lockstep/kit/errs"
	"github.com/lockstep-fleet/lockstep/kit/page"
)

// ListRequest asks for one page of a list. Its fields other than these two are
// the filters that choose what is in the list.
type ListRequest interface {
	proto.Message
	GetPageSize() int32
	GetPageToken() string
}

// Page returns the page of the items that match which follows the request's
// token, and the token of the next page, empty after the last. The items are all
// there are in their order, so that one which matches no longer still tells where
// the page before ended. A token is good for the filters it was given for.
func Page[T any](req ListRequest, items []T, key func(T) string, match func(T) bool) ([]T, string, error) {
	filters, err := filtersOf(req)
	if err != nil {
		return nil, "", err
	}
	token, same := strings.CutSuffix(req.GetPageToken(), filters)
	if req.GetPageToken() != "" && (!same || token == "" || strings.Contains(token, filterMark)) {
		return nil, "", errs.New(errs.Invalid, "LS-API-002", "page_token belongs to a list with other filters; give those again, or start without a token")
	}
	rest, _, err := page.Of(items, key, 1, token)
	if err != nil {
		return nil, "", err
	}
	var matching []T
	if len(rest) > 0 {
		first := slices.IndexFunc(items, func(item T) bool { return key(item) == key(rest[0]) })
		for _, item := range items[first:] {
			// One more than the page holds says that there is a next one.
			if len(matching) > page.Size(req.GetPageSize()) {
				break
			}
			if match(item) {
				matching = append(matching, item)
			}
		}
	}
	some, next, err := page.Of(matching, key, req.GetPageSize(), "")
	if next != "" {
		next += filters
	}
	return some, next, err
}

// filterMark parts a token from the filters it is good for; no part contains it.
const filterMark = "."

// filtersOf is what the tokens of a request end in: a short text that no other
// choice of filters shares, empty for none.
func filtersOf(req ListRequest) (string, error) {
	m := req.ProtoReflect()
	filters := m.New()
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if f.Name() != "page_size" && f.Name() != "page_token" {
			filters.Set(f, v)
		}
		return true
	})
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(filters.Interface())
	if err != nil {
		return "", fmt.Errorf("encoding the filters of a %s: %w", m.Descriptor().Name(), err)
	}
	if len(data) == 0 {
		return "", nil
	}
	sum := sha256.Sum256(data)
	return filterMark + base64.RawURLEncoding.EncodeToString(sum[:6]), nil
}
