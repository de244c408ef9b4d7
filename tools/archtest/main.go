// Archtest checks that the repository's folders still obey the arrows drawn in
// ARCHITECTURE.md. It owns the table of what may import, call or name what, and
// the reason of each row (rules.go). It does not judge style or correctness:
// golangci-lint and the tests do.
//
// It reads source files, not packages: files of every build tag and system are
// seen, nothing is downloaded or type-checked, and folders that do not exist yet
// break no rule.
//
//	go -C tools run ./archtest -C ..
//
// Exit code 0 means that every rule holds, 1 that one is broken or the tree
// cannot be read, 2 that the command line is wrong.
package main

import (
	"flag"
	"fmt"
	"os"
)

func main() {
	root := flag.String("C", "..", "`folder` of the repository's root module")
	list := flag.Bool("rules", false, "print the rules instead of checking them")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "archtest takes no arguments, got %q; see -h\n", flag.Args())
		os.Exit(2)
	}
	if *list {
		for _, r := range rules() {
			fmt.Printf("%s: %s\n    why:     %s\n    instead: %s\n", r.ID, r.Title, r.Why, r.Instead)
		}
		return
	}
	found, err := check(os.DirFS(*root))
	if err != nil {
		fmt.Fprintf(os.Stderr, "archtest: %v\n", err)
		os.Exit(1)
	}
	for _, v := range found {
		fmt.Println(v)
	}
	if len(found) > 0 {
		fmt.Fprintf(os.Stderr, "archtest: %d forbidden arrows\n", len(found))
		os.Exit(1)
	}
}
