package releasefile_test

import (
	"encoding/csv"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-fleet/lockstep/domain/catalog"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/errs"
	"github.com/lockstep-fleet/lockstep/releasefile"
)

func TestReadTheVendorsHistory(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join("testdata", "gateway.csv"))
	if err != nil {
		t.Fatal(err)
	}
	rows, err := csv.NewReader(strings.NewReader(string(text))).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, row := range rows[1:] {
		want = append(want, fmt.Sprintf("%s akeyless-gateway %s %s gateway=%s sra=%s", row[0], row[1], row[2], row[3], row[4]))
	}
	releases, err := releasefile.Read(strings.NewReader(string(text)), "gateway.csv")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range releases {
		got = append(got, fmt.Sprintf("%s %s %s %s %s", r.ID, r.Chart, r.ReleasedAt.Format(time.DateOnly), r.AppVersion, r.Versions))
	}
	if diff := cmp.Diff(want, got); diff != "" || len(got) != 129 {
		t.Errorf("%d releases (-want +got):\n%s", len(got), diff)
	}
	if _, _, err := catalog.Import(catalog.State{}, "gateway.csv", releases, "me", time.Unix(1, 0)); err != nil {
		t.Errorf("the catalogue does not take it: %v", err)
	}
}

func TestReadEveryColumnInAnyOrder(t *testing.T) {
	t.Parallel()
	sum := strings.Repeat("0f", 32)
	text := "\ufeff# the vendor's, by hand\r\n" +
		"Digest,ztwa_version, sra_image ,gateway_image,chart,sra_version,gateway_version,app_version,released_on,chart_version\r\n" +
		"\r\n" +
		"sha256:" + sum + ",,\"docker.io/akeyless/zero-trust-bastion:2.3.2_1.8.0\",akeyless/base@sha256:" + sum + ",,2.3.2_1.8.0,latest,\"a, \"\"b\"\"\",2024-12-17,1.0.3\r\n" +
		",,,,,,,,,\r\n" +
		strings.ToUpper(sum) + ",1.2.0,,,akeyless-zero-trust-web-access,,,,,0.9.1\r\n" +
		"# the same once more\r\n" +
		sum + ",1.2.0,,,akeyless-zero-trust-web-access,,,,,0.9.1"
	got, err := releasefile.Read(iotest.OneByteReader(strings.NewReader(text)), "mine.csv")
	if err != nil {
		t.Fatal(err)
	}
	want := []catalog.Release{
		{
			ID: "1.0.3", Chart: "akeyless-gateway", ChartVersion: "1.0.3", AppVersion: `a, "b"`, ReleasedAt: time.Date(2024, 12, 17, 0, 0, 0, 0, time.UTC),
			Versions: fleet.VersionSet{"gateway": "latest", "sra": "2.3.2_1.8.0"},
			Images:   map[fleet.Line]string{"gateway": "akeyless/base@sha256:" + sum, "sra": "docker.io/akeyless/zero-trust-bastion:2.3.2_1.8.0"},
			Digest:   "sha256:" + sum, Source: "mine.csv",
		},
		{
			ID: "akeyless-zero-trust-web-access-0.9.1", Chart: "akeyless-zero-trust-web-access", ChartVersion: "0.9.1",
			Versions: fleet.VersionSet{"ztwa": "1.2.0"}, Images: map[fleet.Line]string{}, Digest: "sha256:" + sum, Source: "mine.csv",
		},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("releases (-want +got):\n%s", diff)
	}
}

func TestEveryProblemIsToldAtOnce(t *testing.T) {
	t.Parallel()
	const head = "chart_version,released_on,gateway_version\n"
	for name, c := range map[string]struct {
		text string
		want []string
	}{
		"rows": {
			head + "1.0.0,2024-01-02,4.1.0\n" +
				"1.0.1,02.01.2024,4.1.0\n" +
				",2024-01-03,4.1.0\n" +
				"# a comment\n" +
				"1.0.2,2024-01-03,\n" +
				"1.0.3,2024-01-03,4.1.0,4\n" +
				"1.0.3\n" +
				"1.0.0,2024-01-02,4.1.1\n" +
				"1.0.5,2024-01-01,\"4.1\n.0\"\n",
			[]string{
				`r.csv:3: released_on: "02.01.2024" is no date; write it as 2006-01-02`,
				"r.csv:4: chart_version: the chart's version is missing",
				"r.csv:6: no version at all; fill in gateway_version, sra_version or ztwa_version",
				"r.csv:7: the row has 4 values for 3 columns; put values with commas into quotation marks",
				"r.csv:8: the row has 1 values for 3 columns; put values with commas into quotation marks",
				"r.csv:9: chart_version: akeyless-gateway 1.0.0 stands in line 2 with other content; keep one",
				`r.csv:10: gateway_version: "4.1\n.0" goes over lines or holds what cannot be seen; correct it`,
			},
		},
		"columns": {
			"chart_version,gatway_version,sra_version,sra_version,,colour,digest\n1,1,1,1,1,1,beef\n",
			[]string{
				"r.csv:1: gatway_version: there is no such column; did you mean gateway_version?",
				"r.csv:1: sra_version: the column is there twice; remove one",
				"r.csv:1: a column has no name; name it or remove it",
				"r.csv:1: colour: there is no such column; known are chart_version, released_on, app_version, gateway_version, sra_version, ztwa_version, chart, gateway_image, sra_image, digest",
				`r.csv:2: digest: "beef" is no digest; it looks like sha256: and 64 hexadecimal digits`,
			},
		},
		"a misspelt version column": {"chart_verison,gateway_version\n1,2\n", []string{"r.csv:1: chart_verison: there is no such column; did you mean chart_version?"}},
		"no version column":         {"gateway_version\n1\n", []string{"r.csv:1: chart_version: the column is missing; the first row names the columns, and the chart's version is one of them"}},
		"semicolons":                {"chart_version;gateway_version\n1;2\n", []string{"r.csv:1: the columns are not parted by commas; save it as CSV with commas"}},
		"quotation marks": {head + "1.0.0,\"x\"y,4.1.0\n1.0.1,x\"y,4.1.0\n1.0.2,,\n", []string{
			"r.csv:2: a quotation mark stands where none can; put the whole value into quotation marks and double those inside",
			"r.csv:3: a quotation mark stands where none can; put the whole value into quotation marks and double those inside",
			"r.csv:4: no version at all; fill in gateway_version, sra_version or ztwa_version",
		}},
		"a quotation mark in the first row": {"chart\"_version\n", []string{"r.csv:1: a quotation mark stands where none can; put the whole value into quotation marks and double those inside"}},
		"columns and no rows":               {head, []string{"r.csv: it has columns and no rows; add a row for each release"}},
		"comments and no columns":           {"# releases\n", []string{"r.csv: it holds nothing but comments; its first row names the columns"}},
	} {
		releases, err := releasefile.Read(strings.NewReader(c.text), "r.csv")
		problems, ok := errors.AsType[releasefile.Problems](err)
		if !ok || errs.IDOf(err) != "LS-REL-013" || errs.KindOf(err) != errs.Invalid {
			t.Errorf("%s: %d releases, %v", name, len(releases), err)
			continue
		}
		var got []string
		for _, p := range problems {
			got = append(got, p.String())
			if !strings.Contains(err.Error(), p.String()) {
				t.Errorf("%s: the text leaves out %s", name, p)
			}
		}
		if diff := cmp.Diff(c.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestManyProblemsAreToldInPart(t *testing.T) {
	t.Parallel()
	for rows, want := range map[int]string{
		1:  "LS-REL-013: r.csv:2: no version at all",
		20: "LS-REL-013: the releases have 20 problems:\n  r.csv:2: no version at all",
		21: "LS-REL-013: the releases have more than 20 problems; the first:\n  r.csv:2: no version at all",
		99: "LS-REL-013: the releases have more than 20 problems; the first:\n  r.csv:2: no version at all",
	} {
		text := "chart_version,sra_version\n" + strings.Repeat("1.0.0,\n", rows)
		_, err := releasefile.Read(strings.NewReader(text), "r.csv")
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%d rows: %v", rows, err)
		}
		if told := strings.Count(err.Error(), "no version"); told != min(rows, 20) {
			t.Errorf("%d rows: %d problems told", rows, told)
		}
	}
}

func TestWhatIsNoCSV(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ text, want string }{
		"nothing":            {"", "it is empty"},
		"blank lines":        {"\n \r\n" + strings.Repeat(" ", 999), "it is empty"},
		"a web page":         {"\n <!DOCTYPE html>\n<html>", "it is HTML"},
		"JSON":               {"{\"entries\": {}}", "it is JSON"},
		"a JSON list":        {"[1]", "it is JSON"},
		"UTF-16":             {"\xff\xfec\x00h\x00", "it is UTF-16"},
		"a spreadsheet":      {"PK\x03\x04\x14", "a spreadsheet"},
		"an archive":         {"\x1f\x8b\x08", "an archive"},
		"no text":            {"chart\x00", "it is no text"},
		"another code table": {"chart_version\nM\xfcnchen\n", "line 2 is not UTF-8"},
	} {
		_, err := releasefile.Read(strings.NewReader(c.text), "r.csv")
		if errs.IDOf(err) != "LS-REL-014" || errs.KindOf(err) != errs.Invalid || !strings.Contains(fmt.Sprint(err), "read releases from r.csv: ") || !strings.Contains(fmt.Sprint(err), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestAFileThatIsTooBigOrBreaksOff(t *testing.T) {
	t.Parallel()
	const row = "1.0.0,4.1.0\n"
	head := "chart_version,gateway_version\n"
	text := head + row + "#"
	text += strings.Repeat(" ", 16<<20-len(text))
	if got, err := releasefile.Read(strings.NewReader(text), "r.csv"); err != nil || len(got) != 1 {
		t.Errorf("16 MiB: %d releases, %v", len(got), err)
	}
	if _, err := releasefile.Read(strings.NewReader(text+"\n"), "r.csv"); errs.IDOf(err) != "LS-REL-006" || errs.KindOf(err) != errs.Exhausted {
		t.Errorf("16 MiB and a byte: %v", err)
	}
	if _, err := releasefile.Read(iotest.TimeoutReader(iotest.HalfReader(strings.NewReader(head+row))), "r.csv"); !errors.Is(err, iotest.ErrTimeout) {
		t.Errorf("a reader that fails: %v", err)
	}
}
