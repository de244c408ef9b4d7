package gate

import (
	"cmp"
	"slices"
)

// EBH returns the indices, ascending, of the hypotheses that the e-BH
// procedure rejects at false discovery rate q: those with the k largest
// e-values, for the largest k whose k-th value is at least n/(q·k). The
// e-values are plain, not logarithms, and must be current ones, never running
// maxima; they may depend on each other in any way.
//
// Source: Wang and Ramdas, arXiv 2009.02824.
func EBH(e []float64, q float64) []int {
	order := make([]int, len(e))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(e[b], e[a]) })
	reject := 0
	for k := 1; k <= len(order); k++ {
		if e[order[k-1]] >= float64(len(e))/(q*float64(k)) {
			reject = k
		}
	}
	named := slices.Clone(order[:reject])
	slices.Sort(named)
	return named
}
