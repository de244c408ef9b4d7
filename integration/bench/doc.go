// Package bench measures the built program from outside: how soon it is ready,
// what it holds in memory, how large it is. Run it with `make bench`.
package bench
