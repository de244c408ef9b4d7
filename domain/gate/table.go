package gate

import (
	"cmp"
	"slices"
	"strconv"
)

// Row is how many blocks of one shape were seen.
type Row struct {
	Shape
	Count int
}

// Table is evidence as counts of block shapes. In canonical form its rows are
// in order of shape, each shape once and no count zero; Add, Merge and TableOf
// keep that form.
type Table []Row

// TableOf returns the canonical table of rows given in any order.
func TableOf(rows ...Row) Table {
	var t Table
	for _, r := range rows {
		t.Add(r.Shape, r.Count)
	}
	return t
}

// Add counts n more blocks of one shape in a canonical table.
func (t *Table) Add(s Shape, n int) {
	if n == 0 {
		return
	}
	i, found := slices.BinarySearchFunc(*t, s, func(r Row, s Shape) int { return compareShape(r.Shape, s) })
	if !found {
		*t = slices.Insert(*t, i, Row{Shape: s, Count: n})
		return
	}
	(*t)[i].Count += n
	if (*t)[i].Count == 0 {
		*t = slices.Delete(*t, i, i+1)
	}
}

// Merge returns the canonical table of both, leaving both as they are.
func (t Table) Merge(other Table) Table {
	return TableOf(slices.Concat(t, other)...)
}

// Blocks returns how many blocks the table counts.
func (t Table) Blocks() int {
	n := 0
	for _, r := range t {
		n += r.Count
	}
	return n
}

// Append appends the table's canonical text, one "na nb y yb count" line for
// each shape, whatever the order of its rows.
func (t Table) Append(b []byte) []byte {
	for _, r := range TableOf(t...) {
		for _, n := range [...]int{r.NA, r.NB, r.Y, r.YB} {
			b = strconv.AppendInt(b, int64(n), 10)
			b = append(b, ' ')
		}
		b = strconv.AppendInt(b, int64(r.Count), 10)
		b = append(b, '\n')
	}
	return b
}

func compareShape(a, b Shape) int {
	return cmp.Or(cmp.Compare(a.NA, b.NA), cmp.Compare(a.NB, b.NB), cmp.Compare(a.Y, b.Y), cmp.Compare(a.YB, b.YB))
}
