package fleet

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Selector chooses clusters by their labels, in the language of kubectl's -l:
// requirements parted by commas, all of which must hold.
type Selector []Requirement

// Requirement is one condition on one label.
type Requirement struct {
	Key string
	// Not turns it round. Like kubectl's != and notin, it then holds for what lacks
	// the label, too.
	Not bool
	// Values are those the label may have; none means that it only has to be there.
	Values []string
}

// Matches says whether labels meet every requirement.
func (s Selector) Matches(labels map[string]string) bool {
	for _, r := range s {
		value, has := labels[r.Key]
		if met := has && (len(r.Values) == 0 || slices.Contains(r.Values, value)); met == r.Not {
			return false
		}
	}
	return true
}

var (
	labelKey   = regexp.MustCompile(`^([a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$`)
	labelValue = regexp.MustCompile(`^([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?$`)
	inSet      = regexp.MustCompile(`^(\S+)\s+(in|notin)\s*\(([^()]*)\)$`)
)

// CheckLabel says what is wrong with a label, by Kubernetes' rules.
func CheckLabel(key, value string) error {
	switch {
	case !labelKey.MatchString(key):
		return fmt.Errorf("%q is no label key: letters, digits, dots, dashes and underscores, at most 63, behind an optional prefix/", key)
	case !labelValue.MatchString(value):
		return fmt.Errorf("%q is no label value: letters, digits, dots, dashes and underscores, at most 63", value)
	}
	return nil
}

// ParseSelector reads a selector: key=value, key==value, key!=value,
// key in (a,b), key notin (a,b), key, !key. An empty text chooses everything.
func ParseSelector(text string) (Selector, error) {
	var out Selector
	for _, part := range splitOutside(text) {
		part = strings.TrimSpace(part)
		if part == "" {
			if strings.TrimSpace(text) == "" {
				return nil, nil
			}
			return nil, fmt.Errorf("selector %q: a requirement is missing between commas", text)
		}
		r, err := parseRequirement(part)
		if err != nil {
			return nil, fmt.Errorf("selector %q: %w", text, err)
		}
		out = append(out, r)
	}
	return out, nil
}

func parseRequirement(part string) (Requirement, error) {
	var r Requirement
	switch {
	case inSet.MatchString(part):
		m := inSet.FindStringSubmatch(part)
		r.Key, r.Not = m[1], m[2] == "notin"
		for value := range strings.SplitSeq(m[3], ",") {
			r.Values = append(r.Values, strings.TrimSpace(value))
		}
	case strings.Contains(part, "!="):
		key, value, _ := strings.Cut(part, "!=")
		r.Key, r.Not, r.Values = strings.TrimSpace(key), true, []string{strings.TrimSpace(value)}
	case strings.Contains(part, "="):
		key, value, _ := strings.Cut(part, "=")
		r.Key, r.Values = strings.TrimSpace(key), []string{strings.TrimSpace(strings.TrimPrefix(value, "="))}
	case strings.HasPrefix(part, "!"):
		r.Key, r.Not = strings.TrimSpace(part[1:]), true
	default:
		r.Key = part
	}
	for _, value := range append([]string{""}, r.Values...) {
		if err := CheckLabel(r.Key, value); err != nil {
			return Requirement{}, err
		}
	}
	return r, nil
}

// splitOutside splits at commas that stand in no parentheses.
func splitOutside(text string) []string {
	var out []string
	depth, start := 0, 0
	for i, c := range text {
		switch {
		case c == '(':
			depth++
		case c == ')':
			depth--
		case c == ',' && depth == 0:
			out, start = append(out, text[start:i]), i+1
		}
	}
	return append(out, text[start:])
}
