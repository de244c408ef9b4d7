package catalog

import (
	"cmp"
	"slices"
	"strings"
)

// Version is one version as it is written, taken apart so that it can be
// compared. The zero Version is that of an empty text.
type Version struct {
	text string
	form form
	// numbers are the leading numbers without leading zeros; trailing zeros are
	// dropped, for 1.2 and 1.2.0 are one version.
	numbers []string
	// pre are the identifiers of a pre-release.
	pre []string
	// suffix is what no rule explains, such as _1.8.0; only a malformed version has
	// one.
	suffix string
}

// form is what a text is, as far as versions go.
type form int

const (
	formEmpty   form = iota
	formVersion      // orders by the rules of semver
	formSuffix       // leading numbers and something that no rule explains
	formDigest       // names content
	formWord         // a name without numbers to order it by, such as latest
	formOdd          // none of these
)

// ParseVersion takes any text apart.
//
// A version is numbers with dots between them, any count of them, after an
// optional v, with a pre-release and build metadata as in semver. Numbers that
// are not there are zero, so 1.2 is 1.2.0.
//
// Two numbers or more with something else behind them are malformed, and still
// comparable: 2.3.2_1.8.0 stands after 2.3.2 and before every version with higher
// numbers, such as 2.3.2.1 and 2.3.3. One number with something else behind it is
// not comparable: 9f86d08 is the beginning of a digest and not version nine.
func ParseVersion(text string) Version {
	v := Version{text: text}
	rest := text
	if len(rest) > 1 && (rest[0] == 'v' || rest[0] == 'V') && isDigit(rest[1]) {
		rest = rest[1:]
	}
	switch {
	case text == "":
		return v
	case isDigest(text):
		v.form = formDigest
		return v
	case isLetter(rest[0]) && strings.Trim(rest, tagCharacters) == "":
		v.form = formWord
		return v
	case !isDigit(rest[0]):
		v.form = formOdd
		return v
	}
	v.numbers = make([]string, 0, 4) // as many as most have
	count := 0
	for {
		end := 0
		for end < len(rest) && isDigit(rest[end]) {
			end++
		}
		v.numbers = append(v.numbers, number(rest[:end]))
		count++
		rest = rest[end:]
		if len(rest) < 2 || rest[0] != '.' || !isDigit(rest[1]) {
			break
		}
		rest = rest[1:]
	}
	for len(v.numbers) > 0 && v.numbers[len(v.numbers)-1] == "" {
		v.numbers = v.numbers[:len(v.numbers)-1]
	}
	pre, ok := tail(rest)
	switch {
	case ok:
		v.form, v.pre = formVersion, pre
	case count > 1:
		v.form, v.suffix = formSuffix, rest
	default:
		v.form = formOdd
	}
	return v
}

// tagCharacters are those that the tag of an image may have.
const tagCharacters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"

// tail reads what may stand behind the numbers: a pre-release, build metadata,
// both or nothing.
func tail(text string) (pre []string, ok bool) {
	text, build, built := strings.Cut(text, "+")
	if built && !identifiers(build) {
		return nil, false
	}
	if text == "" {
		return nil, true
	}
	text, ok = strings.CutPrefix(text, "-")
	if !ok || !identifiers(text) {
		return nil, false
	}
	pre = strings.Split(text, ".")
	for i, id := range pre {
		if allDigits(id) {
			pre[i] = "0" + number(id) // no longer empty, and still a number
		}
	}
	return pre, true
}

// identifiers says whether a text is identifiers of semver with dots between them.
func identifiers(text string) bool {
	open := true // an identifier has yet to begin
	for i := range len(text) {
		switch c := text[i]; {
		case c == '.' && open:
			return false
		case c == '.':
			open = true
		case isDigit(c), isLetter(c), c == '-':
			open = false
		default:
			return false
		}
	}
	return !open
}

// isDigest says whether a text names content: an algorithm and hexadecimal
// digits, or as many of them as a commit or an image id has.
func isDigest(text string) bool {
	if algorithm, sum, ok := strings.Cut(text, ":"); ok {
		return algorithm != "" && len(sum) >= 32 && strings.Trim(sum, "0123456789abcdef") == ""
	}
	return (len(text) == 40 || len(text) == 64) && strings.Trim(text, "0123456789abcdef") == "" && !allDigits(text)
}

// number drops leading zeros, so that zero is empty and a longer number is a
// higher one, however long.
func number(digits string) string { return strings.TrimLeft(digits, "0") }

func isDigit(c byte) bool  { return '0' <= c && c <= '9' }
func isLetter(c byte) bool { return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' }

func allDigits(text string) bool { return strings.Trim(text, "0123456789") == "" && text != "" }

// String is the version as it was written.
func (v Version) String() string { return v.text }

// Comparable says whether the version has a place among others.
func (v Version) Comparable() bool { return v.form == formVersion || v.form == formSuffix }

// Malformed says whether the text is no version by any rule, though it may be
// comparable. Words, digests and nothing at all are not malformed.
func (v Version) Malformed() bool { return v.form == formSuffix || v.form == formOdd }

// Floating says whether the text is a name such as latest, which can stand for
// another version tomorrow.
func (v Version) Floating() bool { return v.form == formWord }

// Compare returns -1, 0 or 1 as v stands before, beside or after w, and whether
// both have a place at all; without one the order is 0.
func (v Version) Compare(w Version) (order int, ok bool) {
	if !v.Comparable() || !w.Comparable() {
		return 0, false
	}
	return v.order(&w), true
}

// Compare is Version.Compare of two texts.
func Compare(a, b string) (order int, ok bool) {
	return ParseVersion(a).Compare(ParseVersion(b))
}

// order compares two versions that are comparable.
func (v *Version) order(w *Version) int {
	return cmp.Or(
		slices.CompareFunc(v.numbers, w.numbers, compareNumbers),
		cmp.Compare(v.rank(), w.rank()),
		slices.CompareFunc(v.pre, w.pre, comparePre),
		slices.CompareFunc(runs(v.suffix), runs(w.suffix), compareRuns),
		// What is written otherwise is another suffix, be it by a zero in front.
		cmp.Compare(v.suffix, w.suffix),
	)
}

// rank orders what has the same numbers: pre-release, release, malformed.
func (v *Version) rank() int {
	switch {
	case v.form == formSuffix:
		return 1
	case len(v.pre) > 0:
		return -1
	}
	return 0
}

func compareNumbers(a, b string) int {
	return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b))
}

// comparePre orders identifiers of pre-releases: numbers by value and before
// words.
func comparePre(a, b string) int {
	switch x, y := allDigits(a), allDigits(b); {
	case x && y:
		return compareNumbers(a, b)
	case x:
		return -1
	case y:
		return 1
	}
	return cmp.Compare(a, b)
}

// runs cuts a suffix where digits begin or end.
func runs(text string) []string {
	var out []string
	begin := 0
	for i := 1; i <= len(text); i++ {
		if i == len(text) || isDigit(text[i]) != isDigit(text[i-1]) {
			out = append(out, text[begin:i])
			begin = i
		}
	}
	return out
}

// compareRuns orders runs of a suffix as identifiers of pre-releases.
func compareRuns(a, b string) int {
	if isDigit(a[0]) && isDigit(b[0]) {
		return compareNumbers(number(a), number(b))
	}
	return comparePre(a, b)
}

// key is the same for two texts exactly when they name one version: when they
// compare as equal, or are written alike.
func (v Version) key() string {
	if !v.Comparable() {
		return "=" + v.text
	}
	// A number has no dot in it, an identifier neither dot nor bar, and what may have
	// anything in it stands last.
	var b strings.Builder
	b.Grow(len(v.text) + 4)
	for _, n := range v.numbers {
		b.WriteString(n)
		b.WriteByte('.')
	}
	if len(v.pre) > 0 {
		b.WriteByte('-')
		b.WriteString(strings.Join(v.pre, "."))
	}
	if v.form == formSuffix {
		b.WriteByte('|')
		b.WriteString(v.suffix)
	}
	return b.String()
}

// same says whether two texts name one version.
func same(a, b string) bool {
	return a == b || ParseVersion(a).key() == ParseVersion(b).key()
}
