// Package releasefile owns the reading of releases from a CSV file: one release a
// row, in the order of publication. It says all that is wrong with a file at once.
//
// It does not own what releases mean (domain/catalog): a version that nobody can
// compare, such as 2.3.2_1.8.0 or latest, is data and is taken as it stands.
package releasefile

import (
	"bytes"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/lockstep-fleet/lockstep/domain/catalog"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/config"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

const (
	// maxFile bounds a file. A release takes some 50 bytes.
	maxFile = 16 << 20
	// maxProblems bounds how many problems are told: who has more of them has one
	// that is behind them all.
	maxProblems = 20
)

// The columns of a file.
const (
	columnVersion      = "chart_version"
	columnReleased     = "released_on"
	columnApp          = "app_version"
	columnGateway      = "gateway_version"
	columnSRA          = "sra_version"
	columnZTWA         = "ztwa_version"
	columnChart        = "chart"
	columnGatewayImage = "gateway_image"
	columnSRAImage     = "sra_image"
	columnDigest       = "digest"
)

// columns lists every column, as documents and suggestions do.
func columns() []string {
	return []string{
		columnVersion, columnReleased, columnApp, columnGateway, columnSRA, columnZTWA,
		columnChart, columnGatewayImage, columnSRAImage, columnDigest,
	}
}

// Problems is everything wrong with a file, so that a person mends it in one go.
type Problems []config.Problem

// Error lists the problems, one a line, behind their catalogue id.
func (p Problems) Error() string { return p.Unwrap().Error() }

// Unwrap gives the problems as an error with a kind and a catalogue id.
func (p Problems) Unwrap() error {
	if len(p) == 1 {
		return errs.New(errs.Invalid, "LS-REL-013", "%s", p[0])
	}
	lines := make([]string, 0, len(p)+1)
	lines = append(lines, fmt.Sprintf("the releases have %d problems:", len(p)))
	if len(p) > maxProblems {
		lines[0] = fmt.Sprintf("the releases have more than %d problems; the first:", maxProblems)
	}
	for _, one := range p[:min(len(p), maxProblems)] {
		lines = append(lines, "  "+one.String())
	}
	return errs.New(errs.Invalid, "LS-REL-013", "%s", strings.Join(lines, "\n"))
}

// Read returns the releases of a CSV file in the order of its rows. Its first row
// names the columns, in any order: chart_version, released_on as 2006-01-02,
// app_version and gateway_version, sra_version, ztwa_version, of which a row has one
// at least; chart, which is the vendor's gateway chart where it is not said;
// gateway_image, sra_image, and digest of the chart's archive. Rows that begin with
// "#" are comments. A row that stands there twice is one release. Rows stand in the order
// of publication, and nothing depends on it: what the vendor took back follows from
// the dates.
//
// Name is what errors call the file and what releases have as their source. The
// error is Problems when the file is a CSV file and not acceptable.
func Read(r io.Reader, name string) ([]catalog.Release, error) {
	raw, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read releases from %s: %w", name, err)
	}
	if len(raw) > maxFile {
		return nil, errs.New(errs.Exhausted, "LS-REL-006", "read releases from %s: it is larger than %d MiB; a release is one short line", name, maxFile>>20)
	}
	text := bytes.TrimPrefix(raw, []byte("\ufeff"))
	if problem := foreign(text); problem != "" {
		return nil, errs.New(errs.Invalid, "LS-REL-014", "read releases from %s: %s", name, problem)
	}
	f := &file{name: name, first: make(map[chartVersion]placed)}
	f.read(text)
	if len(f.problems) > 0 {
		return nil, f.problems
	}
	return f.releases, nil
}

// foreign says why a text cannot be a CSV file, empty when it can.
func foreign(text []byte) string {
	begin := strings.ToLower(string(bytes.TrimSpace(text[:min(len(text), 512)])))
	switch {
	case begin == "" && len(bytes.TrimSpace(text)) == 0:
		return "it is empty; its first row names the columns, such as chart_version,released_on,gateway_version,sra_version"
	case bytes.HasPrefix(text, []byte{0xff, 0xfe}), bytes.HasPrefix(text, []byte{0xfe, 0xff}):
		return "it is UTF-16; save it as CSV in UTF-8"
	case bytes.HasPrefix(text, []byte{0x1f, 0x8b}), strings.HasPrefix(begin, "pk\x03\x04"):
		return "it is an archive or a spreadsheet; save the table as CSV"
	case bytes.IndexByte(text, 0) >= 0:
		return "it is no text; save the table as CSV in UTF-8"
	case strings.HasPrefix(begin, "<"):
		return "it is HTML or XML, perhaps a login page; download the file itself"
	case strings.HasPrefix(begin, "{"), strings.HasPrefix(begin, "["):
		return "it is JSON; a CSV file is wanted, whose first row names the columns"
	}
	if utf8.Valid(text) {
		return ""
	}
	for i, line := range bytes.Split(text, []byte("\n")) {
		if !utf8.Valid(line) {
			return fmt.Sprintf("line %d is not UTF-8; save it as CSV in UTF-8", i+1)
		}
	}
	return ""
}

// chartVersion is what may stand in a file once.
type chartVersion struct{ chart, version string }

// placed is a release and where it stands.
type placed struct {
	line    int
	release catalog.Release
}

// file is a file while it is read.
type file struct {
	name     string
	columns  []string
	first    map[chartVersion]placed
	releases []catalog.Release
	problems Problems
}

func (f *file) problem(line int, column, format string, args ...any) {
	f.problems = append(f.problems, config.Problem{File: f.name, Line: line, Key: column, Text: fmt.Sprintf(format, args...)})
}

// read takes in all rows, or as many as it takes to find too many problems.
func (f *file) read(text []byte) {
	rows := csv.NewReader(bytes.NewReader(text))
	rows.Comment, rows.FieldsPerRecord, rows.TrimLeadingSpace = '#', -1, true
	for len(f.problems) <= maxProblems {
		cells, err := rows.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			f.unreadable(err)
			if f.columns == nil {
				return
			}
			continue
		}
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		line, _ := rows.FieldPos(0)
		switch {
		case slices.Max(cells) == "": // as spreadsheets write rows that are empty
		case f.columns != nil:
			f.row(line, cells)
		case !f.header(line, cells):
			return
		}
	}
	if f.columns == nil {
		f.problem(0, "", "it holds nothing but comments; its first row names the columns")
	} else if len(f.releases) == 0 && len(f.problems) == 0 {
		f.problem(0, "", "it has columns and no rows; add a row for each release")
	}
}

// unreadable reports a row that breaks the rules of CSV.
func (f *file) unreadable(err error) {
	line := 0
	if wrong, ok := errors.AsType[*csv.ParseError](err); ok {
		line, err = wrong.Line, wrong.Err
	}
	if errors.Is(err, csv.ErrQuote) || errors.Is(err, csv.ErrBareQuote) {
		f.problem(line, "", "a quotation mark stands where none can; put the whole value into quotation marks and double those inside")
		return
	}
	f.problem(line, "", "%v", err)
}

// header takes in the row that names the columns. Without a column of chart
// versions no row can be judged.
func (f *file) header(line int, cells []string) bool {
	before := len(f.problems)
	known := columns()
	names := make([]string, 0, len(cells))
	for _, cell := range cells {
		name := strings.ToLower(cell)
		switch {
		case len(cells) == 1 && strings.ContainsAny(cell, ";\t|"):
			f.problem(line, "", "the columns are not parted by commas; save it as CSV with commas")
			return false
		case name == "":
			f.problem(line, "", "a column has no name; name it or remove it")
		case slices.Contains(names, name):
			f.problem(line, name, "the column is there twice; remove one")
		case !slices.Contains(known, name):
			f.problem(line, cell, "there is no such column%s", suggestion(name, known))
		}
		names = append(names, name)
	}
	if !slices.Contains(names, columnVersion) && len(f.problems) == before {
		f.problem(line, columnVersion, "the column is missing; the first row names the columns, and the chart's version is one of them")
	}
	f.columns = names
	return slices.Contains(names, columnVersion)
}

// suggestion names the column that was probably meant, or all of them when none is
// close.
func suggestion(got string, known []string) string {
	if near := config.Nearest(got, known); len(near) > 0 {
		return "; did you mean " + near[0] + "?"
	}
	return "; known are " + strings.Join(known, ", ")
}

// row takes in one release.
func (f *file) row(line int, cells []string) {
	before := len(f.problems)
	if len(cells) != len(f.columns) {
		f.problem(line, "", "the row has %d values for %d columns; put values with commas into quotation marks", len(cells), len(f.columns))
		return
	}
	r := catalog.Release{
		Chart: catalog.GatewayChart, Source: f.name,
		Versions: make(fleet.VersionSet), Images: make(map[fleet.Line]string),
	}
	for i, value := range cells {
		if value != "" {
			f.cell(line, f.columns[i], value, &r)
		}
	}
	if r.ChartVersion == "" {
		f.problem(line, columnVersion, "the chart's version is missing")
	}
	if len(r.Versions) == 0 {
		f.problem(line, "", "no version at all; fill in gateway_version, sra_version or ztwa_version")
	}
	if len(f.problems) > before {
		return
	}
	r.ID = catalog.ReleaseIDOf(r.Chart, r.ChartVersion)
	key := chartVersion{r.Chart, r.ChartVersion}
	if first, again := f.first[key]; again {
		if !reflect.DeepEqual(first.release, r) {
			f.problem(line, columnVersion, "%s %s stands in line %d with other content; keep one", r.Chart, r.ChartVersion, first.line)
		}
		return
	}
	f.first[key] = placed{line, r}
	f.releases = append(f.releases, r)
}

// cell takes one value into a release.
func (f *file) cell(line int, column, value string, r *catalog.Release) {
	if strings.ContainsFunc(value, unicode.IsControl) {
		f.problem(line, column, "%q goes over lines or holds what cannot be seen; correct it", value)
	}
	switch column {
	case columnChart:
		r.Chart = value
	case columnVersion:
		r.ChartVersion = value
	case columnApp:
		r.AppVersion = value
	case columnGateway:
		r.Versions[fleet.LineGateway] = value
	case columnSRA:
		r.Versions[fleet.LineSRA] = value
	case columnZTWA:
		r.Versions[fleet.LineZTWA] = value
	case columnGatewayImage:
		r.Images[fleet.LineGateway] = value
	case columnSRAImage:
		r.Images[fleet.LineSRA] = value
	case columnReleased:
		at, err := time.Parse(time.DateOnly, value)
		if err != nil {
			f.problem(line, column, "%q is no date; write it as 2006-01-02", value)
			return
		}
		r.ReleasedAt = at
	case columnDigest:
		sum := strings.TrimPrefix(strings.ToLower(value), "sha256:")
		if len(sum) != 64 || strings.Trim(sum, "0123456789abcdef") != "" {
			f.problem(line, column, "%q is no digest; it looks like sha256: and 64 hexadecimal digits", value)
			return
		}
		r.Digest = "sha256:" + sum
	}
}
