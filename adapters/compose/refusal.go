package compose

import (
	"errors"
	"io/fs"
	"regexp"
	"strings"

	"github.com/compose-spec/compose-go/v2/errdefs"

	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// refused is the error of files that Compose does not accept. The library quotes
// what it stumbles over, which may be a password, and an error goes to logs and
// histories: file, line and key are told, never a value, and the library's error is
// not wrapped.
func refused(project, doing string, err error) error {
	return errs.New(errs.Invalid, "LS-CMP-004", "compose project %q: %s: %s; `docker compose config` shows it", project, doing, place(err))
}

// places are how the library words that something is wrong and where, up to the
// first value, and what is told of it.
var places = []struct {
	said *regexp.Regexp
	told string
}{
	{regexp.MustCompile(`^invalid interpolation format for (\S+)\.\n`), "$1 has a $$ that begins no variable"},
	{regexp.MustCompile(`^error while interpolating (\S+): required variable (\w+) is missing a value`), "$1 needs the variable $2"},
	{regexp.MustCompile(`^error while interpolating (\S+): `), "$1 is not of its type, or its variables cannot be put in"},
	{regexp.MustCompile(`^failed to read (.+?): line (\d+): `), "$1 line $2 cannot be read"},
	{regexp.MustCompile(`^failed to read (.+?): `), "$1 cannot be read"},
	{regexp.MustCompile(`(?s)^failed to parse (.+?): .*?\b(?:line |L)(\d+)\b`), "$1 line $2 cannot be parsed"},
	{regexp.MustCompile(`^failed to parse (.+?): `), "$1 cannot be parsed"},
	{regexp.MustCompile(`^validating (.+?): (\S*) ?additional properties ('[^']*'(?:, '[^']*')*) not allowed$`), "$1: $2 knows no $3"},
	{regexp.MustCompile(`^validating (.+?): (\S*) (must be an? [a-z]+(?:(?:, | or )[a-z]+)*)$`), "$1: $2 $3"},
	{regexp.MustCompile(`^validating (.+?): (\S*) `), "$1: $2 is not as it must be"},
	{regexp.MustCompile(`^((?:services|jobs|networks|volumes|secrets|configs|models)\.[\w.\[\]*-]+): `), "$1 is not as it must be"},
	// These name services and files.
	{regexp.MustCompile(`(?s)^((?:dependency cycle detected|include cycle detected|cannot extend service|no such service).*)$`), "$1"},
}

// place says where an error of the library arose.
func place(err error) string {
	// Interpolation tells of every value that fails.
	if many, ok := errors.AsType[interface {
		error
		Unwrap() []error
	}](err); ok {
		var all []string
		for _, one := range many.Unwrap() {
			all = append(all, place(one))
		}
		return strings.Join(all, ", ")
	}
	if absent, ok := errors.AsType[*fs.PathError](err); ok {
		return absent.Error()
	}
	if errors.Is(err, errdefs.ErrInvalid) {
		return err.Error() // of what does not go together, by the names of services and the like
	}
	text := err.Error()
	for _, p := range places {
		if found := p.said.FindStringSubmatchIndex(text); found != nil {
			return strings.Join(strings.Fields(string(p.said.ExpandString(nil, p.told, text, found))), " ")
		}
	}
	// What is decoded into the model tells the key.
	if decoded, ok := errors.AsType[interface {
		error
		Name() string
	}](err); ok {
		return decoded.Name() + " is not as it must be"
	}
	return "Compose does not accept them"
}
