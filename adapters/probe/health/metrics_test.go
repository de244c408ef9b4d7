package health

import (
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		text   string
		want   map[string]float64
		dotted bool
	}{
		"nothing": {"", map[string]float64{}, false},
		"types": {`# TYPE akeyless_gw_requests_total counter
akeyless_gw_requests_total{code="200"} 10
akeyless_gw_requests_total{code="500"} 2
# TYPE akeyless_gw_lag histogram
akeyless_gw_lag_bucket{le="0.1"} 3
akeyless_gw_lag_bucket{le="+Inf"} 4
akeyless_gw_lag_sum 0.5
akeyless_gw_lag_count 4
# TYPE akeyless_gw_size summary
akeyless_gw_size{quantile="0.5"} 100
akeyless_gw_size_sum 700
akeyless_gw_size_count 7
`, map[string]float64{"gw_requests_total": 12, "gw_lag_sum": 0.5, "gw_lag_count": 4, "gw_size_sum": 700, "gw_size_count": 7}, false},
		"types with dots": {`# TYPE akeyless.gw.lag histogram
akeyless.gw.lag_bucket{le="0.1"} 3
akeyless.gw.lag_bucket{le="+Inf"} 4
akeyless.gw.lag_sum 0.5
akeyless.gw.lag_count 4
`, map[string]float64{"gw_lag_sum": 0.5, "gw_lag_count": 4}, true},
		"quoted names": {`# TYPE "akeyless.gw.x.y" gauge
{"akeyless.gw.x.y",a="b"} 1
{"akeyless.gw.x.y","service.name"="c"} 2
{"akeyless.gw.z"} 3
`, map[string]float64{"gw_x_y": 3, "gw_z": 3}, true},
		"bare names": {"akeyless.gw.a 1\nakeyless.gw.b{} 2\nakeyless.gw.c { } 3\nakeyless.gw.d\t4\n  akeyless.gw.e 5\nakeyless_gw_f{a.b=\"c.d\"} 6\nakeyless.gw.g{x=\"\\\"}.=,\",y.z=\"\"} 7",
			map[string]float64{"gw_a": 1, "gw_b": 2, "gw_c": 3, "gw_d": 4, "gw_e": 5, "gw_f": 6, "gw_g": 7}, true},
		"no types": {"akeyless_gw_lag_bucket{le=\"1\"} 3\nakeyless_gw_lag_count 3\nakeyless_gw_size{quantile=\"0.5\"} 1\n",
			map[string]float64{"gw_lag_count": 3}, false},
		"unknown types": {"# TYPE akeyless_gw_x stateset\nakeyless_gw_x 1\n# EOF\n", map[string]float64{"gw_x": 1}, false},
		"no numbers": {"akeyless_gw_a NaN\nakeyless_gw_b +Inf\nakeyless_gw_c{x=\"1\"} -Inf\nakeyless_gw_c{x=\"2\"} 5\nakeyless_gw_d{x=\"1\"} 1e308\nakeyless_gw_d{x=\"2\"} 1e308\n",
			map[string]float64{"gw_c": 5}, false},
		"others": {"go_goroutines 7\nbroken{\n# HELP akeyless_gw_x what \\q\n# TYPE go_x counter\n{\"go.x\"} 1\nakeyless_gw_x 1\nakeylessly 3\nakeyless\n",
			map[string]float64{"gw_x": 1}, false},
		"windows":     {"# TYPE akeyless_gw_x counter\r\nakeyless_gw_x 1\r\n", map[string]float64{"gw_x": 1}, false},
		"a long name": {"akeyless_" + strings.Repeat("x", 201) + " 1\nakeyless_gw_x 1\n", map[string]float64{"gw_x": 1}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, dotted, err := parse([]byte(c.text))
			if err != nil {
				t.Fatalf("%v in\n%s", err, rewrite([]byte(c.text)))
			}
			if diff := cmp.Diff(c.want, got); diff != "" || dotted != c.dotted {
				t.Errorf("dotted %t, (-want +got):\n%s", dotted, diff)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range []string{
		"", "\n\n", "#", "# TYPE", "{", `{"akeyless`, `{"akeyless.gw.x"} 1`, "akeyless.gw.x{a.b=\"c\\", "akeyless.gw.x{a.b=\"c\"} 1 2\n", "akeyless_gw_x NaN",
		"# TYPE akeyless.gw.h histogram\nakeyless.gw.h_bucket{le=\"+Inf\"} 1\nakeyless.gw.h_count 1e400\n", "akeyless_gw_x{} {} 1", "akeyless\xff.x 1",
		"# TYPE akeyless_gw_s summary\nakeyless_gw_s{quantile=\"NaN\"} 0x1p-2\nakeyless_gw_s_count -1\n",
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		readings, _, err := parse(text)
		if err != nil && readings != nil {
			t.Errorf("readings %v beside %v", readings, err)
		}
		for name, value := range readings {
			if math.IsNaN(value) || math.IsInf(value, 0) || len(name) > maxName+len("_count") || plain(name) != name {
				t.Errorf("%q = %v", name, value)
			}
		}
	})
}
