package kube

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

func TestVersionsThatChartsDeclare(t *testing.T) {
	t.Parallel()
	gateway := `"chart":{"metadata":{"name":"akeyless-gateway","appVersion":"5.0.1_3.3.0","annotations":{"gatewayVersion":"5.0.1","sraVersion":"3.1.0"}},
		"values":{"version":"","gateway":{"deployment":{"image":{"tag":""}}},"sra":{"enabled":true,"image":{"tag":null}}}}`
	bare := `"chart":{"metadata":{"name":"akeyless-gateway","appVersion":"4.24.0_2.3.2_1.8.0"}}`
	access := `"chart":{"metadata":{"name":"akeyless-zero-trust-web-access","appVersion":"1.2.0"}}`
	sra := `"chart":{"metadata":{"name":"akeyless-sra","annotations":{"ztbVersion":"2.9.0"}},"values":{"ztbConfig":{"enabled":true},"sshConfig":{"enabled":true}}}`
	for name, c := range map[string]struct {
		text string
		want fleet.VersionSet
	}{
		"by annotations":                  {gateway, fleet.VersionSet{"gateway": "5.0.1", "sra": "3.1.0"}},
		"bastions held back":              {gateway + `,"config":{"sra":{"image":{"tag":"3.0.3"}}}`, fleet.VersionSet{"gateway": "5.0.1", "sra": "3.0.3"}},
		"the version over the tag":        {gateway + `,"config":{"version":"4.52.0","gateway":{"deployment":{"image":{"tag":"x"}}}}`, fleet.VersionSet{"gateway": "4.52.0", "sra": "3.1.0"}},
		"the tag over the annotation":     {gateway + `,"config":{"gateway":{"deployment":{"image":{"tag":"4.51.1"}}}}`, fleet.VersionSet{"gateway": "4.51.1", "sra": "3.1.0"}},
		"a number as it was written":      {gateway + `,"config":{"version":5.10}`, fleet.VersionSet{"gateway": "5.10", "sra": "3.1.0"}},
		"no bastions":                     {gateway + `,"config":{"sra":{"enabled":false}}`, fleet.VersionSet{"gateway": "5.0.1"}},
		"a chart's own knob":              {`"chart":{"metadata":{"name":"akeyless-gateway"},"values":{"version":"5.0.0","sra":{"image":{"tag":"3.0.0"}}}}`, fleet.VersionSet{"gateway": "5.0.0", "sra": "3.0.0"}},
		"a chart's own knob taken away":   {`"chart":{"metadata":{"name":"akeyless-gateway","annotations":{"sraVersion":"3.1.0"}},"values":{"sra":{"image":{"tag":"3.0.0"}}}},"config":{"sra":{"image":null}}`, fleet.VersionSet{"sra": "3.1.0"}},
		"something else where a map was":  {gateway + `,"config":{"gateway":"yes"}`, fleet.VersionSet{"gateway": "5.0.1", "sra": "3.1.0"}},
		"by the application version":      {bare, fleet.VersionSet{"gateway": "4.24.0"}},
		"web access":                      {access, fleet.VersionSet{"ztwa": "1.2.0"}},
		"web access, both told":           {access + `,"config":{"dispatcher":{"image":{"tag":"1.3.0"}},"webWorker":{"image":{"tag":"1.3.0"}}}`, fleet.VersionSet{"ztwa": "1.3.0"}},
		"web access, told apart":          {access + `,"config":{"webWorker":{"image":{"tag":"1.3.0"}}}`, fleet.VersionSet{}},
		"legacy bastions":                 {sra, fleet.VersionSet{"sra": "2.9.0"}},
		"legacy bastions told apart":      {sra + `,"config":{"sshConfig":{"image":{"tag":"2.8.0"}}}`, fleet.VersionSet{}},
		"legacy bastions, one side alone": {sra + `,"config":{"sshConfig":{"enabled":false,"image":{"tag":"2.8.0"}}}`, fleet.VersionSet{"sra": "2.9.0"}},
		"legacy gateway":                  {`"chart":{"metadata":{"name":"akeyless-api-gateway","appVersion":"3.29.0"},"values":{"image":{"tag":"latest"}}}`, fleet.VersionSet{"gateway": "3.29.0"}},
		"legacy gateway with a version":   {`"chart":{"metadata":{"name":"akeyless-api-gateway","appVersion":"3.29.0"}},"config":{"version":"3.30.0"}`, fleet.VersionSet{"gateway": "3.30.0"}},
		"another's chart":                 {`"chart":{"metadata":{"name":"redis","appVersion":"8"}},"config":{"version":"1"}`, fleet.VersionSet{}},
	} {
		decoder := json.NewDecoder(strings.NewReader("{" + c.text + "}"))
		decoder.UseNumber()
		var r stored
		if err := decoder.Decode(&r); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if diff := cmp.Diff(c.want, r.versions()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestTheHashOfValues(t *testing.T) {
	t.Parallel()
	read := func(text string) map[string]any {
		decoder := json.NewDecoder(strings.NewReader(text))
		decoder.UseNumber()
		var out map[string]any
		if err := decoder.Decode(&out); err != nil {
			t.Fatal(err)
		}
		return out
	}
	same := [][2]string{{`{"a":1,"b":{"c":"x","d":[1,2]}}`, ` {"b": {"d": [1, 2], "c": "x"}, "a": 1}`}, {`{}`, `null`}}
	for _, c := range same {
		if hashValues(read(c[0])) != hashValues(read(c[1])) {
			t.Errorf("%s and %s differ", c[0], c[1])
		}
	}
	other := [][2]string{{`{"a":1}`, `{"a":2}`}, {`{"a":1}`, `{"a":"1"}`}, {`{"a":[1,2]}`, `{"a":[2,1]}`}, {`{"a":null}`, `{}`}, {`{"a":9007199254740993}`, `{"a":9007199254740992}`}}
	for _, c := range other {
		if hashValues(read(c[0])) == hashValues(read(c[1])) {
			t.Errorf("%s and %s do not differ", c[0], c[1])
		}
	}
	// It is compared over restarts and versions: sha256sum of {"a":1}.
	if got, want := hashValues(read(`{"a":1}`)), "sha256:015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}
