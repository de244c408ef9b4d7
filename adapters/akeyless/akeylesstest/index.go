package akeylesstest

import (
	"cmp"
	"iter"
	"slices"
)

// chunkSize bounds what one insertion moves.
const chunkSize = 512

// key orders sessions by start, then id.
type key struct {
	start int64 // Unix nanoseconds, UTC
	id    string
}

func keyOf(s *Session) key { return key{start: s.StartTime.UnixNano(), id: s.ID} }

func (k key) compare(other key) int {
	return cmp.Or(cmp.Compare(k.start, other.start), cmp.Compare(k.id, other.id))
}

// index holds sessions in key order as a list of sorted chunks: an insertion
// moves at most one chunk, and appending, the usual case, moves nothing.
type index struct {
	chunks [][]*Session // none empty
	len    int
}

func compareKey(s *Session, k key) int { return keyOf(s).compare(k) }

// chunkFor returns the chunk that holds k or is where it belongs.
func (x *index) chunkFor(k key) int {
	i, _ := slices.BinarySearchFunc(x.chunks, k, func(chunk []*Session, k key) int {
		return compareKey(chunk[len(chunk)-1], k)
	})
	return min(i, len(x.chunks)-1)
}

// put inserts a session, or takes the place of the one with its key.
func (x *index) put(s *Session) {
	if len(x.chunks) == 0 {
		x.chunks, x.len = [][]*Session{{s}}, 1
		return
	}
	c := x.chunkFor(keyOf(s))
	at, found := slices.BinarySearchFunc(x.chunks[c], keyOf(s), compareKey)
	if found {
		x.chunks[c][at] = s
		return
	}
	x.len++
	switch chunk := x.chunks[c]; {
	case len(chunk) < chunkSize:
		x.chunks[c] = slices.Insert(chunk, at, s)
	case at == len(chunk): // past the last of all: a new chunk, the old one stays full
		x.chunks = append(x.chunks, []*Session{s})
	default:
		half := slices.Clone(chunk[chunkSize/2:])
		clear(chunk[chunkSize/2:])
		x.chunks[c] = chunk[:chunkSize/2]
		x.chunks = slices.Insert(x.chunks, c+1, half)
		if at > chunkSize/2 {
			c, at = c+1, at-chunkSize/2
		}
		x.chunks[c] = slices.Insert(x.chunks[c], at, s)
	}
}

func (x *index) remove(k key) {
	if len(x.chunks) == 0 {
		return
	}
	c := x.chunkFor(k)
	at, found := slices.BinarySearchFunc(x.chunks[c], k, compareKey)
	if !found {
		return
	}
	x.len--
	x.chunks[c] = slices.Delete(x.chunks[c], at, at+1)
	if len(x.chunks[c]) == 0 {
		x.chunks = slices.Delete(x.chunks, c, c+1)
	}
}

func (x *index) oldest() *Session { return x.chunks[0][0] }

// newestFirst walks the sessions before the given key, or all when it is nil.
func (x *index) newestFirst(before *key) iter.Seq[*Session] {
	return func(yield func(*Session) bool) {
		c := len(x.chunks) - 1
		if c < 0 {
			return
		}
		at := len(x.chunks[c])
		if before != nil {
			c = x.chunkFor(*before)
			at, _ = slices.BinarySearchFunc(x.chunks[c], *before, compareKey)
		}
		for ; c >= 0; c-- {
			chunk := x.chunks[c]
			if at < 0 {
				at = len(chunk)
			}
			for at--; at >= 0; at-- {
				if !yield(chunk[at]) {
					return
				}
			}
		}
	}
}
