package gatefile

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/lockstep-fleet/lockstep/domain/gate"
)

// KeyTable is what the reference says of every key but those that are alike in both
// stages and in every check, of which it says the first.
func KeyTable() string {
	var b strings.Builder
	b.WriteString("| key | standard | what it means |\n|---|---|---|\n")
	p := standard()
	p.Step.Rules = []rule{{}}
	keyRows(&b, reflect.ValueOf(document{[]policy{p}}), "")
	return b.String()
}

func keyRows(b *strings.Builder, v reflect.Value, above string) {
	for i := range v.NumField() {
		field, value := v.Type().Field(i), v.Field(i)
		key := below(above, field.Tag.Get("yaml"))
		if value.Kind() == reflect.Slice {
			key += "[]"
		}
		def := "–"
		known := !strings.Contains(key, "rules[]") && !strings.HasSuffix(key, ".name") && !strings.HasSuffix(key, ".extends")
		if value.Kind() != reflect.Struct && value.Kind() != reflect.Slice && known {
			def = "`" + flat(value, "")[0].text + "`"
		}
		fmt.Fprintf(b, "| `%s` | %s | %s |\n", key, def, field.Tag.Get("comment"))
		switch {
		case strings.HasSuffix(key, ".wave"), value.Type() == reflect.TypeFor[check]() && !strings.HasSuffix(key, ".telemetry"):
		case value.Kind() == reflect.Struct:
			keyRows(b, value, key)
		case value.Kind() == reflect.Slice:
			keyRows(b, value.Index(0), key)
		}
	}
}

// PresetTable sets what differs between the built-in policies side by side, and what
// that comes to.
func PresetTable() string {
	var b strings.Builder
	b.WriteString("| key |")
	list := presets()
	for _, p := range list {
		b.WriteString(" " + p.Name + " |")
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(list)) + "\n")
	row := func(key string, cells []string) {
		fmt.Fprintf(&b, "| %s | %s |\n", key, strings.Join(cells, " | "))
	}
	for _, f := range facts(list[0].plan()) {
		var cells []string
		differs := false
		for _, p := range list {
			text, _ := facts(p.plan()).text(f.key)
			cells = append(cells, "`"+text+"`")
			differs = differs || cells[0] != cells[len(cells)-1]
		}
		if differs || strings.HasSuffix(f.key, ".demand") || strings.HasPrefix(f.key, "statistics.") {
			row("`"+f.key+"`", cells)
		}
	}
	var probes, people []string
	for _, p := range list {
		people = append(people, fmt.Sprint(p.Statistics.sessionsToPass()))
		n, _ := gate.Evidence{}.SessionsNeeded(p.Statistics.Policy())
		probes = append(probes, fmt.Sprint(n))
	}
	row("probes without a failure until they pass", probes)
	row("people's sessions until they pass an unchanged release, 2 % failing", people)
	return b.String()
}
