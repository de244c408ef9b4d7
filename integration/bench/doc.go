// Package bench measures the built program from outside: how soon it is ready,
// what it holds in memory, how large it is; and in processes of their own what it is
// made of: a hub, and a server that a large fleet reports to. Run it with
// `make bench`.
package bench
