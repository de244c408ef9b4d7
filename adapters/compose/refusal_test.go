package compose

import (
	"errors"
	"strings"
	"testing"

	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// chain is an error with all that it wraps.
func chain(err error) []error {
	all := []error{err}
	if next := errors.Unwrap(err); next != nil {
		all = append(all, chain(next)...)
	}
	if many, ok := err.(interface{ Unwrap() []error }); ok {
		for _, one := range many.Unwrap() {
			all = append(all, chain(one)...)
		}
	}
	return all
}

func TestARefusalTellsWhereAndNoValue(t *testing.T) {
	t.Parallel()
	const canary = "hunter2"
	service := func(rest string) map[string]string {
		return map[string]string{"compose.yaml": "services:\n  gateway:\n    image: akeyless/base:5.0.1\n" + rest}
	}
	with := func(files map[string]string, name, text string) map[string]string {
		files[name] = text
		return files
	}
	for name, c := range map[string]struct {
		files map[string]string
		says  []string
	}{
		"a quote of a service's env file": {with(service("    env_file: gateway.env\n"), "gateway.env", "A=1\nPASSWORD=\"hunter2secret"), []string{"gateway.env", "line 2"}},
		"a name in it":                    {with(service("    env_file: gateway.env\n"), "gateway.env", "\nhunter2!x=1\n"), []string{"gateway.env", "line 2"}},
		"a variable in it":                {with(service("    env_file: gateway.env\n"), "gateway.env", "PASSWORD=hunter2${x\n"), []string{"gateway.env"}},
		"a quote of the project's":        {with(service(""), ".env", "PASSWORD='hunter2secret"), []string{".env", "line 1"}},
		"a variable in the project's":     {with(service(""), ".env", "PASSWORD=hunter2${x\n"), []string{".env"}},
		"interpolation":                   {service("    environment:\n      PASSWORD: \"hunter2${x\"\n"), []string{"compose.yaml", "services.gateway.environment.PASSWORD"}},
		"two of them": {service("    environment:\n      PASSWORD: \"hunter2${x\"\n      TOKEN: \"${hunter2\"\n"),
			[]string{"services.gateway.environment.PASSWORD", "services.gateway.environment.TOKEN"}},
		"a variable that must be set": {service("    environment:\n      PASSWORD: ${MASTER:?hunter2}\n"), []string{"services.gateway.environment.PASSWORD", "MASTER"}},
		"a value of another type":     {service("    init: ${MASTER:-hunter2}\n"), []string{"services.gateway.init"}},
		"no YAML":                     {service("    environment:\n      PASSWORD: \"hunter2\n"), []string{"compose.yaml", "line"}},
		"an anchor":                   {service("    environment:\n      PASSWORD: *hunter2\n"), []string{"compose.yaml", "line 5"}},
		"a duration":                  {service("    stop_grace_period: hunter2\n"), []string{"compose.yaml", "stop_grace_period"}},
		"a key":                       {service("    passwort: hunter2\n"), []string{"compose.yaml", "services.gateway.passwort"}},
		"a kind":                      {service("    environment: hunter2\n"), []string{"compose.yaml", "services.gateway.environment"}},
		"a port":                      {service("    ports: [\"hunter2\"]\n"), []string{"compose.yaml"}},
		"a host":                      {service("    extra_hosts: [\"hunter2\"]\n"), []string{"compose.yaml", "extra_hosts"}},
		"a size":                      {service("    mem_limit: hunter2\n"), []string{"compose.yaml", "mem_limit"}},
		"an unknown network":          {service("    networks: [front]\n"), []string{"compose.yaml", `"gateway"`, "front"}},
		"an absent base":              {service("    extends: {file: base.yaml, service: other}\n"), []string{"compose.yaml", "base.yaml"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := offline(t).load(t.Context(), Target{Project: "vault", Dir: files(t, c.files), Files: []string{"compose.yaml"}})
			if errs.IDOf(err) != "LS-CMP-004" || errs.KindOf(err) != errs.Invalid {
				t.Fatalf("got %v", err)
			}
			for _, part := range append(c.says, `"vault"`, "`docker compose config` shows it") {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q does not say %q", err, part)
				}
			}
			for _, one := range chain(err) {
				if strings.Contains(one.Error(), canary) {
					t.Errorf("%T shows the value: %v", one, one)
				}
			}
		})
	}
}
