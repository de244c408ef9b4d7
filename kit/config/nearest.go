package config

import (
	"slices"
	"strings"
)

// suggestion names the known key that was probably meant, or all of them when
// none is close.
func suggestion(got string, known []string) string {
	if near := Nearest(got, known); len(near) > 0 {
		return "; did you mean " + near[0] + "?"
	}
	sorted := slices.Sorted(slices.Values(known))
	return "; known here: " + strings.Join(sorted, ", ")
}

// Nearest returns the known names that may have been meant by got, the likeliest
// first, and none when nothing is close. Upper and lower case are alike.
func Nearest(got string, known []string) []string {
	distance := make(map[string]int, len(known))
	for _, k := range known {
		if d := edits(strings.ToLower(got), strings.ToLower(k)); d < len(got)/3+2 {
			distance[k] = d
		}
	}
	near := slices.DeleteFunc(slices.Clone(known), func(k string) bool { _, ok := distance[k]; return !ok })
	slices.SortStableFunc(near, func(a, b string) int { return distance[a] - distance[b] })
	return near
}

// edits is the Levenshtein distance in bytes: how many single insertions,
// deletions and replacements lead from a to b.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}
