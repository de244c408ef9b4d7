package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lockstep-fleet/lockstep/kit/rpc"
	catalogv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/catalog/v1"
)

// ReleaseSource is where releases are read from.
type ReleaseSource struct {
	// Location is a file, a folder, "-" for In, or an address.
	Location string
	// Charts are those to read, none for all that matter.
	Charts []string
	// CAFile, Username and PasswordFile are how an address is reached; empty where
	// nothing is asked for.
	CAFile, Username, PasswordFile string
	In                             io.Reader
}

func (s *shell) releasesCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:     "releases",
		Aliases: []string{"release"},
		Short:   "See and import releases, block them, acknowledge risks",
		Long: `See which releases there are, which version set each carries and whether it may be
moved to; import new ones; say no to a release, or yes to a named risk of a move.`,
	}, s.releaseListCommand(), s.releaseImportCommand(), s.blockCommand(), s.unblockCommand(), s.graphCommand(),
		s.risksCommand(), s.ackCommand(), s.unackCommand(), s.acksCommand())
}

// releasePage is how many releases are asked for at once.
const releasePage = 1000

// releaseStatuses are those of a release.
func releaseStatuses() []string { return []string{"available", "withdrawn", "blocked"} }

func (s *shell) releaseListCommand() *cobra.Command {
	var out, chart string
	var statuses, versions []string
	c := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List releases with their versions and whether they may be moved to",
		Long: `List releases in order of chart and the chart's version, sets of images last: the
version of each line, and whether it is available, withdrawn (it carries a version
that the vendor went back from) or blocked (a person said no), and why. With -o wide
also what is odd about how it is packaged.

Use it to choose what to move to, and to see why a release is refused.`,
		Example: `  lockstep releases list
  lockstep releases list --version sra=3.0.3 --status available,blocked
  lockstep releases list -o json | jq '.[] | select(.status != "available") | {chart_version, reason}'`,
		Args: exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			cl, err := s.dial()
			if err != nil {
				return err
			}
			defer cl.close()
			ask := &catalogv1.ListReleasesRequest{PageSize: releasePage, Statuses: unique(statuses), Chart: chart, Versions: unique(versions)}
			var all []*catalogv1.Entry
			for {
				res, err := cl.catalog.ListReleases(c.Context(), ask)
				if err != nil {
					return cl.failed("list releases", err)
				}
				all = append(all, res.GetReleases()...)
				if ask.PageToken = res.GetNextPageToken(); ask.PageToken == "" {
					break
				}
			}
			return s.printReleases(all, out, len(statuses)+len(versions) > 0 || chart != "")
		},
	}
	s.connectionFlags(c)
	c.Flags().Var(choices{&statuses, releaseStatuses()}, "status", "only releases of this `status`; repeat for several: "+strings.Join(releaseStatuses(), ", "))
	c.Flags().StringVar(&chart, "chart", "", "only releases of this `chart`")
	c.Flags().StringSliceVar(&versions, "version", nil, "only releases that carry this `version`, such as 3.0.3 or sra=3.0.3; repeat for several")
	offer(c, "status", releaseStatuses()...)
	outputFlag(c, &out, "table", "wide", "json", "yaml", "name")
	return c
}

// releaseRow is a release as scripts read it.
type releaseRow struct {
	ID             string            `json:"id"`
	Chart          string            `json:"chart"`
	ChartVersion   string            `json:"chart_version"`
	AppVersion     string            `json:"app_version"`
	ReleasedOn     string            `json:"released_on"` // 2006-01-02 in UTC, empty when unknown
	GatewayVersion string            `json:"gateway_version"`
	SRAVersion     string            `json:"sra_version"`
	ZTWAVersion    string            `json:"ztwa_version"`
	Status         string            `json:"status"`
	Reason         string            `json:"reason"`
	PackagingRisks []string          `json:"packaging_risks"`
	Images         map[string]string `json:"images"`
	Source         string            `json:"source"`
	Block          *blockRow         `json:"block"` // null when none holds
}

// blockRow is a block as scripts read it.
type blockRow struct {
	Owner     string `json:"owner"`
	Reason    string `json:"reason"`
	At        string `json:"at"`
	ExpiresAt string `json:"expires_at"` // empty for never
}

func rowOf(e *catalogv1.Entry) releaseRow {
	r := e.GetRelease()
	row := releaseRow{
		ID: r.GetId(), Chart: r.GetChart(), ChartVersion: r.GetChartVersion(), AppVersion: r.GetAppVersion(), ReleasedOn: date(r.GetReleasedAt()),
		GatewayVersion: r.GetVersions()["gateway"], SRAVersion: r.GetVersions()["sra"], ZTWAVersion: r.GetVersions()["ztwa"],
		Status: e.GetStatus(), Reason: strings.Join(e.GetReasons(), "; "), PackagingRisks: e.GetPackagingRisks(), Images: r.GetImages(), Source: r.GetSource(),
	}
	// No null for a script that counts.
	if row.PackagingRisks == nil {
		row.PackagingRisks = []string{}
	}
	if row.Images == nil {
		row.Images = map[string]string{}
	}
	if b := e.GetBlock(); b != nil {
		row.Block = &blockRow{Owner: b.GetOwner(), Reason: b.GetReason(), At: stamped(b.GetAt()), ExpiresAt: stamped(b.GetExpiresAt())}
	}
	return row
}

// date is the day of a time in UTC: the day that a source tells is no instant
// anywhere else.
func date(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return t.AsTime().Format(time.DateOnly)
}

// stamped is a time as the API writes it.
func stamped(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return t.AsTime().Format(time.RFC3339Nano)
}

func (s *shell) printReleases(list []*catalogv1.Entry, out string, narrowed bool) error {
	switch out {
	case "json", "yaml":
		var all []releaseRow
		for _, e := range list {
			all = append(all, rowOf(e))
		}
		return rows(s, all, out)
	case "name":
		names := make([]string, len(list))
		for i, e := range list {
			names[i] = e.GetRelease().GetId()
		}
		return s.names("release", names)
	}
	switch {
	case len(list) == 0 && narrowed:
		s.talk("No release matches.")
		return nil
	case len(list) == 0:
		s.talk("There are no releases; `lockstep releases import LOCATION` takes some in, and fleet.yaml declares sets of images.")
		return nil
	}
	t := &table{header: []string{"RELEASE", "CHART", "RELEASED", "GATEWAY", "SRA", "STATUS", "REASON"}}
	if out == "wide" {
		t.header = []string{"RELEASE", "CHART", "RELEASED", "GATEWAY", "SRA", "ZTWA", "APP", "STATUS", "REASON", "PACKAGING RISKS", "SOURCE"}
	}
	for _, e := range list {
		r := rowOf(e)
		if out == "wide" {
			t.add(r.ID, r.Chart, r.ReleasedOn, r.GatewayVersion, r.SRAVersion, r.ZTWAVersion, r.AppVersion, r.Status, r.Reason, strings.Join(r.PackagingRisks, "; "), r.Source)
		} else {
			t.add(r.ID, r.Chart, r.ReleasedOn, r.GatewayVersion, r.SRAVersion, r.Status, r.Reason)
		}
	}
	return s.print(t.render(s.colour))
}

// printRelease prints one release that was just changed.
func (s *shell) printRelease(e *catalogv1.Entry, out string) error {
	if out == "json" || out == "yaml" {
		return s.plainly(rowOf(e), out)
	}
	return s.printReleases([]*catalogv1.Entry{e}, out, false)
}

// mostImported is how many releases one import holds at most, mostSent how many
// bytes one request: how large a release is depends on its source.
const mostImported, mostSent = 5000, rpc.MaxMessage - 64<<10

func (s *shell) releaseImportCommand() *cobra.Command {
	var out string
	var dryRun bool
	var from ReleaseSource
	c := &cobra.Command{
		Use:   "import LOCATION",
		Short: "Take releases into the catalogue",
		Long: `Read releases and take them into the catalogue. LOCATION is one of

  a CSV file, or - for one on standard input
  a chart repository's index file
  a chart's folder or its archive (.tgz)
  https://… of a chart repository, or oci://… of a chart

What is known already changes nothing, and what LOCATION does not know is not
forgotten. It is read on this machine; the server is sent what was read.

Use it when the vendor has published something, or by a timer.`,
		Example: `  lockstep releases import releases.csv --dry-run
  lockstep releases import https://akeylesslabs.github.io/helm-charts
  lockstep releases import ./index.yaml --chart akeyless-gateway -o json`,
		Args: exactly("LOCATION"),
		RunE: func(c *cobra.Command, args []string) error {
			switch {
			case strings.TrimSpace(args[0]) == "":
				return usage("LOCATION is empty; name a file, a folder or an address")
			case (from.Username == "") != (from.PasswordFile == ""):
				return usage("--username and --password-file go together; give both")
			case s.ReadReleases == nil:
				return errors.New("import releases: this program has nothing that reads releases; use the lockstep that runs your server")
			}
			cl, err := s.dial()
			if err != nil {
				return err
			}
			defer cl.close()
			from.Location, from.In = args[0], s.In
			list, skipped, err := s.ReadReleases(c.Context(), from)
			switch {
			case err != nil:
				return err
			case len(list) == 0:
				return fmt.Errorf("import releases: there are none at %s", clean(withoutSecret(from.Location)))
			}
			for _, why := range skipped {
				s.talk("Left out: %s", clean(why))
			}
			s.talk("Read %s.", count(int64(len(list)), "release"))
			// What was taken in before an error is told as well.
			done, err := cl.importReleases(c.Context(), list, dryRun)
			return errors.Join(s.printImport(done, out, dryRun, err != nil), err)
		},
	}
	s.connectionFlags(c)
	c.Flags().StringSliceVar(&from.Charts, "chart", nil, "only this `chart`; repeat for several")
	c.Flags().StringVar(&from.CAFile, "ca-file", "", "`file` with the authority of the address's certificate (default: the machine's)")
	c.Flags().StringVar(&from.Username, "username", "", "`name` to log in with")
	c.Flags().StringVar(&from.PasswordFile, "password-file", "", "`file` that holds the password")
	c.Flags().BoolVar(&dryRun, "dry-run", false, "say what would change and change nothing")
	outputFlag(c, &out, "table", "json", "yaml")
	return c
}

// withoutSecret is an address without who logs in there.
func withoutSecret(location string) string {
	scheme, rest, found := strings.Cut(location, "://")
	if !found {
		return location
	}
	host, path, _ := strings.Cut(rest, "/")
	if at := strings.LastIndex(host, "@"); at >= 0 {
		host = host[at+1:]
	}
	return strings.TrimSuffix(scheme+"://"+host+"/"+path, "/")
}

// portions cuts releases into as many requests as they need.
func portions(list []*catalogv1.Release) [][]*catalogv1.Release {
	var out [][]*catalogv1.Release
	from, size := 0, 0
	for i, r := range list {
		// A field's tag and length take a few bytes more.
		n := proto.Size(r) + 8
		if i > from && (i-from == mostImported || size+n > mostSent) {
			out, from, size = append(out, list[from:i]), i, 0
		}
		size += n
	}
	return append(out, list[from:])
}

// importReleases hands releases in and sums up what came of it, of those portions
// that went through.
func (c *client) importReleases(ctx context.Context, list []*catalogv1.Release, dryRun bool) (*catalogv1.ImportReleasesResponse, error) {
	done := &catalogv1.ImportReleasesResponse{}
	for _, part := range portions(list) {
		res, err := c.catalog.ImportReleases(ctx, &catalogv1.ImportReleasesRequest{Releases: part, DryRun: dryRun})
		if err != nil {
			return done, c.failed("import releases", err)
		}
		done.Added = append(done.Added, res.GetAdded()...)
		done.Updated = append(done.Updated, res.GetUpdated()...)
		done.Withdrawn = append(done.Withdrawn, res.GetWithdrawn()...)
		done.Contradictions = append(done.Contradictions, res.GetContradictions()...)
		done.Unchanged += res.GetUnchanged()
	}
	return done, nil
}

// mostListed is how many releases of a kind people are shown; machines get all.
const mostListed = 10

func (s *shell) printImport(done *catalogv1.ImportReleasesResponse, out string, dryRun, failed bool) error {
	changed := len(done.GetAdded()) + len(done.GetUpdated()) + len(done.GetWithdrawn())
	if failed && changed == 0 && done.GetUnchanged() == 0 {
		return nil
	}
	if out != "table" {
		return s.object(done, out)
	}
	t := &table{header: []string{"RELEASE", "CHANGE"}}
	for _, part := range []struct {
		word string
		ids  []string
	}{{"added", done.GetAdded()}, {"updated", done.GetUpdated()}, {"withdrawn", done.GetWithdrawn()}} {
		for i, id := range part.ids {
			if left := len(part.ids) - i; i == mostListed && left > 1 && part.word != "withdrawn" {
				t.add(fmt.Sprintf("… and %d more", left), part.word)
				break
			}
			t.add(id, part.word)
		}
	}
	text := &account{}
	text.table(t, s.colour)
	if len(done.GetContradictions()) > 0 {
		text.WriteString("\nWhat contradicts what was known:\n")
	}
	for _, sentence := range done.GetContradictions() {
		fmt.Fprintf(text, "  %s\n", clean(sentence))
	}
	if err := s.print(strings.TrimPrefix(text.String(), "\n")); err != nil {
		return err
	}
	s.talk("%d added, %d updated, %d unchanged; %d withdrawn now.", len(done.GetAdded()), len(done.GetUpdated()), done.GetUnchanged(), len(done.GetWithdrawn()))
	if dryRun {
		s.talk("Nothing was changed; without --dry-run this is what happens.")
	}
	return nil
}

// sentence checks that a person says why.
func sentence(reason string) error {
	if strings.TrimSpace(reason) == "" {
		return usage("say why, for the record: --reason TEXT")
	}
	return nil
}

func reasonFlag(c *cobra.Command, into *string) {
	c.Flags().StringVar(into, "reason", "", "why, in a `sentence` (required)")
}

func (s *shell) blockCommand() *cobra.Command {
	var out, reason, owner string
	var end ending
	c := &cobra.Command{
		Use:   "block RELEASE --reason TEXT",
		Short: "Say that a release may not be moved to",
		Long: `Say that a release may not be moved to, until --until, for --for, or until it is
unblocked. Clusters that run it are left alone.

Use it when a release has turned out bad, before somebody rolls it out again.`,
		Example: `  lockstep releases block 4.53.0 --reason "RDP sessions freeze"
  lockstep releases block 4.53.0 --reason "change freeze" --until 2026-04-01`,
		Args:              exactly("RELEASE"),
		ValidArgsFunction: s.first(s.releaseIDs),
		RunE: func(c *cobra.Command, args []string) error {
			if err := sentence(reason); err != nil {
				return err
			}
			until, err := end.read(s)
			if err != nil {
				return err
			}
			cl, err := s.dial()
			if err != nil {
				return err
			}
			defer cl.close()
			res, err := cl.catalog.BlockRelease(c.Context(), &catalogv1.BlockReleaseRequest{Release: named(args[0], "release"), Reason: reason, Owner: owner, ExpiresAt: until})
			if err != nil {
				return cl.failed("block release "+args[0], err)
			}
			return s.printRelease(res.GetRelease(), out)
		},
	}
	s.connectionFlags(c)
	reasonFlag(c, &reason)
	ownerFlag(c, &owner)
	end.flags(c)
	outputFlag(c, &out, "table", "wide", "json", "yaml", "name")
	return c
}

func ownerFlag(c *cobra.Command, into *string) {
	c.Flags().StringVar(into, "owner", "", "`who` answers for it (default: whose token it is)")
}

func (s *shell) unblockCommand() *cobra.Command {
	var out, reason string
	c := &cobra.Command{
		Use:   "unblock RELEASE --reason TEXT",
		Short: "Take a block back",
		Long: `Take a block back. A release that is withdrawn stays so.

Use it when what spoke against the release is settled.`,
		Example:           `  lockstep releases unblock 4.53.0 --reason "the freeze was the hypervisor's"`,
		Args:              exactly("RELEASE"),
		ValidArgsFunction: s.first(s.releaseIDs),
		RunE: func(c *cobra.Command, args []string) error {
			if err := sentence(reason); err != nil {
				return err
			}
			cl, err := s.dial()
			if err != nil {
				return err
			}
			defer cl.close()
			res, err := cl.catalog.UnblockRelease(c.Context(), &catalogv1.UnblockReleaseRequest{Release: named(args[0], "release"), Reason: reason})
			if err != nil {
				return cl.failed("unblock release "+args[0], err)
			}
			return s.printRelease(res.GetRelease(), out)
		},
	}
	s.connectionFlags(c)
	reasonFlag(c, &reason)
	outputFlag(c, &out, "table", "wide", "json", "yaml", "name")
	return c
}

func (s *shell) graphCommand() *cobra.Command {
	var out, chart string
	c := &cobra.Command{
		Use:   "graph",
		Short: "Show the version sets and the moves between them",
		Long: `Show the version sets in the order of the chart's versions, one a line, each with
the moves that lead from it and the release that brings them. A line that goes down
is marked: the chart went up, and what it carries went back.

With -o dot it is a graph for Graphviz.

Use it to see how to get from one version set to another.`,
		Example: `  lockstep releases graph
  lockstep releases graph -o dot | dot -Tsvg > releases.svg
  lockstep releases graph --chart akeyless-gateway -o json | jq '.edges | length'`,
		Args: exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			cl, err := s.dial()
			if err != nil {
				return err
			}
			defer cl.close()
			res, err := cl.catalog.GetGraph(c.Context(), &catalogv1.GetGraphRequest{Chart: chart})
			if err != nil {
				return cl.failed("get the graph of releases", err)
			}
			switch out {
			case "json", "yaml":
				return s.object(res, out)
			case "dot":
				return s.print(graphDot(res))
			}
			if len(res.GetNodes()) == 0 {
				s.talk("There are no releases of this chart.")
				return nil
			}
			return s.print(graphTable(res).render(s.colour))
		},
	}
	s.connectionFlags(c)
	c.Flags().StringVar(&chart, "chart", "", "the `chart` (default: the vendor's gateway chart)")
	outputFlag(c, &out, "table", "json", "yaml", "dot")
	return c
}

func graphTable(g *catalogv1.GetGraphResponse) *table {
	t := &table{header: []string{"VERSION SET", "STATUS", "RELEASES", "MOVES ON"}}
	for i, n := range g.GetNodes() {
		var onward []string
		for _, e := range g.GetEdges() {
			if int(e.GetFrom()) == i {
				onward = append(onward, "→ "+e.GetRelease()+": "+moveWords(e.GetMoves()))
			}
		}
		t.add(versionWords(n.GetVersions()), n.GetStatus(), strings.Join(n.GetReleases(), ", "), strings.Join(onward, "; "))
	}
	return t
}

// moveWords is a move in words: "gateway 4.52.0 → 4.53.0, sra 3.0.3 → 3.0.2 (down)".
func moveWords(moves []*catalogv1.LineMove) string {
	var words []string
	for _, m := range moves {
		word := fmt.Sprintf("%s %s → %s", m.GetLine(), cmp.Or(m.GetFrom(), "none"), cmp.Or(m.GetTo(), "none"))
		if m.GetDirection() == "down" {
			word += " (down)"
		}
		words = append(words, word)
	}
	return strings.Join(words, ", ")
}

// graphDot is the graph in Graphviz's language.
func graphDot(g *catalogv1.GetGraphResponse) string {
	quote := func(lines ...string) string {
		for i, line := range lines {
			lines[i] = strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(clean(line))
		}
		return `"` + strings.Join(lines, `\n`) + `"`
	}
	var b strings.Builder
	b.WriteString("digraph releases {\n  rankdir=LR;\n  node [shape=box];\n")
	for i, n := range g.GetNodes() {
		look := ""
		if n.GetStatus() != "available" {
			look = " color=red"
		}
		fmt.Fprintf(&b, "  n%d [label=%s%s];\n", i, quote(versionWords(n.GetVersions()), strings.Join(n.GetReleases(), ", "), n.GetStatus()), look)
	}
	for _, e := range g.GetEdges() {
		look := ""
		if slices.ContainsFunc(e.GetMoves(), func(m *catalogv1.LineMove) bool { return m.GetDirection() == "down" }) {
			look = " color=red"
		}
		fmt.Fprintf(&b, "  n%d -> n%d [label=%s%s];\n", e.GetFrom(), e.GetTo(), quote(e.GetRelease(), moveWords(e.GetMoves())), look)
	}
	b.WriteString("}\n")
	return b.String()
}
