package gate

import "math"

// Shape is all that an e-value needs to know of one block: NB new trials of
// which YB failed, put beside NA baseline trials, Y failures in both together.
type Shape struct {
	NA, NB, Y, YB int
}

// Valid reports whether the four counts can belong to one block.
func (s Shape) Valid() bool {
	if s.NA < 0 || s.NB < 0 || s.Y < 0 || s.Y > s.NA+s.NB {
		return false
	}
	lo, hi := s.support()
	return s.YB >= lo && s.YB <= hi
}

// support returns the smallest and the largest YB that Y leaves open.
func (s Shape) support() (lo, hi int) {
	return max(0, s.Y-s.NA), min(s.NB, s.Y)
}

// informative reports whether the block can move evidence at all: its new
// failures were not settled by its total.
func (s Shape) informative() bool {
	lo, hi := s.support()
	return lo < hi
}

// Fisher returns Fisher's noncentral hypergeometric law of the new failures
// of a block, given y failures among its nA baseline and nB new trials, when
// the true odds ratio is w: the probabilities of lo, lo+1, … in order. It
// returns nothing for impossible counts or a w that is not a positive number.
func Fisher(nA, nB, y int, w float64) (lo int, probabilities []float64) {
	s := Shape{NA: nA, NB: nB, Y: y}
	s.YB, _ = s.support()
	if !s.Valid() || !(w > 0) || math.IsInf(w, 1) {
		return 0, nil
	}
	lo, hi := s.support()
	logs := make([]float64, 0, hi-lo+1)
	for x := lo; x <= hi; x++ {
		logs = append(logs, logWeight(s, x, math.Log(w)))
	}
	norm := logSumExp(logs)
	for i := range logs {
		logs[i] = math.Exp(logs[i] - norm)
	}
	return lo, logs
}

// LogE returns the natural logarithm of a block's e-value for odds ratio w1
// against w0: the ratio of the two Fisher laws at what was seen. It is NaN for
// an invalid shape; w1 and w0 must be positive.
//
// Source: the conditional (stratified 2×2, logrank) e-value of ter Schure,
// Pérez-Ortiz, Ly and Grünwald, arXiv 2011.06931.
func LogE(s Shape, w1, w0 float64) float64 {
	if !s.Valid() {
		return math.NaN()
	}
	if !s.informative() {
		return 0
	}
	if s.NB == 1 {
		return logESingle(s.NA, s.Y, s.YB, w1, w0)
	}
	return logEBlock(s, w1, w0)
}

// logESingle is LogE for one new trial with m partners: the two-point law has
// a closed form.
func logESingle(m, y, yB int, w1, w0 float64) float64 {
	r := float64(m + 1 - y)
	e := math.Log((r + float64(w0*float64(y))) / (r + float64(w1*float64(y))))
	if yB == 1 {
		e += math.Log(w1 / w0)
	}
	return e
}

// logEBlock is LogE for any block, by summing the law's weights.
func logEBlock(s Shape, w1, w0 float64) float64 {
	ln1, ln0 := math.Log(w1), math.Log(w0)
	lo, hi := s.support()
	z1 := make([]float64, 0, hi-lo+1)
	z0 := make([]float64, 0, hi-lo+1)
	for x := lo; x <= hi; x++ {
		z1 = append(z1, logWeight(s, x, ln1))
		z0 = append(z0, logWeight(s, x, ln0))
	}
	return float64(float64(s.YB)*(ln1-ln0)) - (logSumExp(z1) - logSumExp(z0))
}

// logWeight is the logarithm of C(NB, x) · C(NA, Y−x) · w^x.
func logWeight(s Shape, x int, lnW float64) float64 {
	return logChoose(s.NB, x) + logChoose(s.NA, s.Y-x) + float64(float64(x)*lnW)
}

// logChoose is the logarithm of the binomial coefficient.
func logChoose(n, k int) float64 {
	if k == 0 || k == n {
		return 0
	}
	a, _ := math.Lgamma(float64(n + 1))
	b, _ := math.Lgamma(float64(k + 1))
	c, _ := math.Lgamma(float64(n - k + 1))
	return a - b - c
}

// logSumExp is log Σ exp(x), safe for large and for infinitely small terms.
func logSumExp(xs []float64) float64 {
	top := math.Inf(-1)
	for _, x := range xs {
		top = max(top, x)
	}
	if math.IsInf(top, 0) {
		return top
	}
	sum := 0.0
	for _, x := range xs {
		sum += math.Exp(x - top)
	}
	return top + math.Log(sum)
}

// logMeanExp is log of the mean of exp(x).
func logMeanExp(xs []float64) float64 {
	return logSumExp(xs) - math.Log(float64(len(xs)))
}

// drift is the expected LogE of one new trial with m partners, betting on w1
// against w0, when baseline trials fail at rate and the true odds ratio is
// truth. By enumeration over every outcome of the block.
func drift(m int, rate, truth, w1, w0 float64) float64 {
	newRate := shifted(rate, truth)
	sum := 0.0
	for yA := 0; yA <= m; yA++ {
		pA := math.Exp(logChoose(m, yA)) * math.Pow(rate, float64(yA)) * math.Pow(1-rate, float64(m-yA))
		for yB := 0; yB <= 1; yB++ {
			pB := newRate
			if yB == 0 {
				pB = 1 - newRate
			}
			if p := pA * pB; p > 0 {
				sum += p * LogE(Shape{NA: m, NB: 1, Y: yA + yB, YB: yB}, w1, w0)
			}
		}
	}
	return sum
}

// shifted returns the rate whose odds are odds times those of rate.
func shifted(rate, odds float64) float64 {
	return odds * rate / (1 - rate + odds*rate)
}
