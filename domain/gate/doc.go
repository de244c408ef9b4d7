// Package gate owns the session gate: whether people's sessions fail more
// after a step than before it, in one cluster, with an error promise that
// holds however often one looks.
//
// It owns the policy's numbers and their bounds, the exact block mathematics,
// the evidence (integers only), the ordered entry of trials and the verdict
// with its reasons; the checks of the runbook and how a stage combines them;
// waves, concurrent control and sessions that were open at the step. It does not
// own where sessions come from, the clock (a caller says what time it is and
// whether the deadline passed), or what a verdict leads to.
//
// Every e-value here is a natural logarithm, so that long evidence cannot
// overflow. Floats are computed from the integers on demand and are never
// hashed. Formulas and their sources are in README.md.
package gate
