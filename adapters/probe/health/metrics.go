package health

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"math"
	"net/url"
	"slices"
	"strings"
	"sync"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/lockstep-fleet/lockstep/adapters/probe/internal/reach"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

const (
	maxMetrics  = 8 << 20 // of the text, in bytes
	maxReadings = 100     // of one check, with the generation
	maxName     = 200     // of one reading, in bytes
	generation  = "generation"
	// oldPort is where generation 4 told its metrics.
	oldPort = "8889"
)

// form is one way in which a gateway may tell its metrics.
type form struct {
	url string
	old bool // at the place of generation 4
}

// forms are the ways to try, newest first; nil when the place is not one.
func forms(place string) []form {
	if !strings.Contains(place, "://") {
		u, err := url.Parse("http://" + place)
		if err != nil || u.Hostname() == "" || u.Host != place || u.Port() != "" {
			return nil
		}
		return []form{
			{url: "https://" + u.Host + ":8000/metrics"},
			{url: "http://" + u.Host + ":8000/metrics"},
			{url: "http://" + u.Host + ":" + oldPort + "/metrics", old: true},
		}
	}
	u, err := url.Parse(place)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil
	}
	if strings.Trim(u.Path, "/") == "" {
		u.Path = "/metrics"
	}
	return []form{{url: u.String(), old: u.Port() == oldPort}}
}

// metrics reads the form that worked last, and all others when it does not any
// more: an upgrade to generation 5 moves the place.
func (h *Health) metrics(ctx context.Context) fleet.Check {
	begun := h.options.Now()
	check := h.anyForm(ctx)
	check.At, check.Took = begun, max(h.options.Now().Sub(begun), 0)
	return check
}

func (h *Health) anyForm(ctx context.Context) fleet.Check {
	var failed []fleet.Check
	last := int(h.answers.Load()) - 1
	if last >= 0 {
		// A place that is gone may never answer: half the time is for the others.
		half, cancel := context.WithTimeout(ctx, h.options.Timeout/2)
		defer cancel()
		check := h.read(half, h.forms[last])
		if check.OK || len(h.forms) == 1 {
			return check
		}
		failed = append(failed, check)
	}
	others := make([]fleet.Check, len(h.forms))
	var wg sync.WaitGroup
	for i, f := range h.forms {
		if i != last {
			wg.Go(func() { others[i] = h.read(ctx, f) })
		}
	}
	wg.Wait()
	for i, check := range others {
		if check.OK {
			h.answers.Store(int64(i) + 1)
			return check
		}
		if i != last {
			failed = append(failed, check)
		}
	}
	// What answered, if wrongly, says more than what is not there or speaks
	// otherwise.
	for _, check := range failed {
		switch check.Failure {
		case fleet.FailureRefused, fleet.FailureTimeout, fleet.FailureUnreachable, fleet.FailureDNS, fleet.FailureTLS:
		default:
			return check
		}
	}
	return failed[0]
}

// read reads one form.
func (h *Health) read(ctx context.Context, f form) fleet.Check {
	o := &h.options
	check := fleet.Check{Cluster: o.Cluster, Name: o.Name + "/metrics", Kind: fleet.CheckMetrics, Component: fleet.Gateway, Target: f.url}
	trail := reach.NewTrail(o.Now)
	readings, detail, err := h.told(ctx, f, trail)
	trail.Tell(ctx, &check, detail, err)
	check.Readings = readings // of the gateway alone
	return check
}

func (h *Health) told(ctx context.Context, f form, trail *reach.Trail) (readings map[string]float64, detail string, err error) {
	answer, err := h.get(ctx, reach.Request{URL: f.url, Limit: maxMetrics, Accept: "text/plain; version=0.0.4; q=1, text/plain; q=0.5"}, trail)
	if err != nil {
		return nil, "", err
	}
	if answer.Cut {
		return nil, "", reach.Found(fleet.FailureContent, "the metrics are larger than %d MiB", maxMetrics>>20)
	}
	all, dotted, err := parse(answer.Body)
	if err != nil {
		return nil, "", reach.Found(fleet.FailureContent, "the metrics cannot be read: %w", err)
	}
	if len(all) == 0 {
		return nil, "", reach.Found(fleet.FailureContent, "no metric of the gateway is told here; their names begin with akeyless_gw_ or akeyless.gw.")
	}
	age := 5.0
	if dotted || f.old {
		age = 4
	}
	readings = map[string]float64{generation: age}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if len(readings) == maxReadings {
			return readings, fmt.Sprintf("generation %.0f, the first %d of %d metrics", age, maxReadings-1, len(all)), nil
		}
		readings[name] = all[name]
	}
	return readings, fmt.Sprintf("generation %.0f, %d metrics", age, len(all)), nil
}

// parse reads the vendor's metrics out of the text form of Prometheus, summed over
// their labels, under names such as gw_quota_current_transactions_number. dotted
// says whether a name came with dots, as before 5.0.
func parse(text []byte) (readings map[string]float64, dotted bool, err error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(rewrite(text)))
	if err != nil {
		return nil, false, err
	}
	readings = make(map[string]float64)
	for _, full := range slices.Sorted(maps.Keys(families)) {
		name, isVendors := strings.CutPrefix(plain(full), "akeyless_")
		if !isVendors || len(name) > maxName {
			continue
		}
		dotted = dotted || strings.HasPrefix(full, "akeyless.")
		for suffix, value := range sums(families[full]) {
			if _, taken := readings[name+suffix]; !taken && !math.IsInf(value, 0) {
				readings[name+suffix] = value
			}
		}
	}
	return readings, dotted, nil
}

// sums adds up a family over its labels. Buckets and quantiles cannot be added to
// anything and are left out, as is what is no finite number.
func sums(family *dto.MetricFamily) map[string]float64 {
	out := make(map[string]float64)
	add := func(suffix string, value float64) {
		if !math.IsNaN(value) && !math.IsInf(value, 0) {
			out[suffix] += value
		}
	}
	for _, m := range family.GetMetric() {
		switch {
		case m.Counter != nil:
			add("", m.GetCounter().GetValue())
		case m.Gauge != nil:
			add("", m.GetGauge().GetValue())
		case m.Histogram != nil:
			add("_count", float64(m.GetHistogram().GetSampleCount()))
			add("_sum", m.GetHistogram().GetSampleSum())
		case m.Summary != nil:
			add("_count", float64(m.GetSummary().GetSampleCount()))
			add("_sum", m.GetSummary().GetSampleSum())
		case m.Untyped != nil && !slices.ContainsFunc(m.GetLabel(), isPart):
			add("", m.GetUntyped().GetValue())
		}
	}
	return out
}

// isPart knows the samples of a histogram or summary whose type was not told.
func isPart(l *dto.LabelPair) bool { return l.GetName() == "le" || l.GetName() == "quantile" }

// plain writes a name with letters, digits and underscores only.
func plain(name string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, name)
}

// types are those that the parser knows; what is told under another one is read as
// if no type were told.
var types = []string{"counter", "gauge", "histogram", "summary", "untyped"}

// rewrite prepares the text for the parser, which knows names with dots only in
// quotes: bare ones are put in quotes. Others' metrics and comments become empty
// lines, so that their mistakes cost nothing and lines keep their numbers.
func rewrite(text []byte) []byte {
	var out bytes.Buffer
	out.Grow(len(text))
	for line := range bytes.Lines(text) {
		line = bytes.TrimSpace(line)
		end := bytes.IndexAny(line, "{ \t")
		switch {
		case bytes.HasPrefix(line, []byte("#")):
			writeType(&out, strings.Fields(string(line)))
		case bytes.HasPrefix(line, []byte(`{"akeyless`)):
			writeLabels(&out, line, "")
		case end < 0 || !bytes.HasPrefix(line, []byte("akeyless")):
		default:
			writeSample(&out, string(line[:end]), bytes.TrimLeft(line[end:], " \t"))
		}
		out.WriteByte('\n')
	}
	return out.Bytes()
}

// writeType writes the comment that tells a type, and no other.
func writeType(out *bytes.Buffer, words []string) {
	if len(words) != 4 || words[0] != "#" || words[1] != "TYPE" || !slices.Contains(types, words[3]) {
		return
	}
	if name := strings.Trim(words[2], `"`); strings.HasPrefix(name, "akeyless") {
		fmt.Fprintf(out, "# TYPE %s %s", quoted(name), words[3])
	}
}

// writeSample writes a sample whose name came bare; rest is labels and value.
func writeSample(out *bytes.Buffer, name string, rest []byte) {
	dotted := strings.Contains(name, ".")
	switch {
	case !dotted:
		out.WriteString(name)
		name = ""
	case !bytes.HasPrefix(rest, []byte("{")):
		out.WriteString("{" + quoted(name) + "}")
	}
	if bytes.HasPrefix(rest, []byte("{")) {
		writeLabels(out, rest, name)
		return
	}
	out.WriteByte(' ')
	out.Write(rest)
}

// writeLabels writes labels and what follows them, after the name when one is
// given.
func writeLabels(out *bytes.Buffer, line []byte, name string) {
	out.WriteByte('{')
	if name != "" {
		out.WriteString(quoted(name))
		if !bytes.HasPrefix(bytes.TrimLeft(line[1:], " \t"), []byte("}")) {
			out.WriteByte(',')
		}
	}
	word, inQuotes := 1, false
	for i := 1; i < len(line); i++ {
		switch c := line[i]; {
		case inQuotes && c == '\\':
			i++
		case c == '"':
			inQuotes = !inQuotes
		case !inQuotes && (c == '=' || c == ',' || c == '}'):
			out.WriteString(quoted(strings.TrimSpace(string(line[word:i]))))
			out.WriteByte(c)
			word = i + 1
			if c == '}' {
				out.Write(line[word:])
				return
			}
		}
	}
	out.Write(line[word:])
}

// quoted puts a bare name with dots in quotes and leaves everything else alone.
func quoted(word string) string {
	if strings.Contains(word, ".") && !strings.Contains(word, `"`) {
		return `"` + word + `"`
	}
	return word
}
