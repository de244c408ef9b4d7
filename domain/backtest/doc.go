// Package backtest replays steps over a cluster's history through the gate's own
// code: steps that were really made, and fake ones at which nothing was changed.
// From the fake ones follows how often a policy would have rolled back an innocent
// release, and, with failures injected, how soon it would have caught a bad one.
//
// It owns the choice of fake steps, which rows each step is judged by, the
// injection of failures and the sums. It does not own how trials are made and
// judged, which is gate.Fold's as it is, where the history comes from, or how it
// is told.
package backtest
