//go:build !unix

package chdb

// lockFile takes no lock: the engine does not run on these systems.
func lockFile(string) (unlock func(), err error) { return func() {}, nil }
