// Package page owns how long lists are cut into pages with tokens.
package page

import (
	"encoding/base64"
	"slices"

	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// Sizes of a page: what 0 means, or less, and what no request exceeds.
const (
	DefaultSize = 100
	MaxSize     = 1000
)

// Of returns the page of items that follows the token and the token of the next
// page, empty after the last. Keys are unique and not empty. A token names the
// last item of the page before, so that items which come and go do not shift
// pages; an item that has gone makes its token invalid.
func Of[T any](items []T, key func(T) string, size int32, token string) ([]T, string, error) {
	most := Size(size)
	if token != "" {
		last, err := base64.RawURLEncoding.DecodeString(token)
		at := -1
		if err == nil {
			at = slices.IndexFunc(items, func(item T) bool { return key(item) == string(last) })
		}
		if at < 0 {
			return nil, "", errs.New(errs.Invalid, "LS-API-002", "page_token is not valid any more; start again without one")
		}
		items = items[at+1:]
	}
	if len(items) <= most {
		return items, "", nil
	}
	items = items[:most]
	return items, base64.RawURLEncoding.EncodeToString([]byte(key(items[most-1]))), nil
}

// Size is how many items a page holds that a request asks for in a size.
func Size(asked int32) int {
	if asked <= 0 {
		return DefaultSize
	}
	return int(min(asked, MaxSize))
}
