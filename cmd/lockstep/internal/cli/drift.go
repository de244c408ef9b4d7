package cli

import (
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	driftv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/drift/v1"
)

func (s *shell) driftCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:     "drift",
		Aliases: []string{"drifts"},
		Short:   "See what does not belong together, since when, and why",
		Long: `See what does not belong together, since when, and why. An episode of drift begins
when a cluster comes into a state that calls for attention (overdue, drifted, split,
withdrawn or dark) and ends when it leaves such states.`,
	}, s.driftListCommand(), s.driftHistoryCommand(), s.driftExplainCommand())
}

func (s *shell) driftListCommand() *cobra.Command {
	var out, since, selector string
	var states []string
	c := &cobra.Command{
		Use:     "list [CLUSTER...]",
		Aliases: []string{"ls"},
		Short:   "List episodes of drift, the newest first",
		Long: `List the episodes of drift that go on, of every cluster or of those named that
match, the newest first. With --since, those that are over as well, if they went on
then or later.

Use it in the morning, and to see what an alert was about that is over by now.`,
		Example: `  lockstep drift list
  lockstep drift list -l env=prod --state overdue --since 7d
  lockstep drift list -o name | xargs lockstep status`,
		ValidArgsFunction: s.every(clusterIDs),
		RunE: func(c *cobra.Command, args []string) error {
			clusters, err := clusterArgs(args)
			if err != nil {
				return err
			}
			from, err := s.moment("since", since)
			if err != nil {
				return err
			}
			cl, err := s.dial()
			if err != nil {
				return err
			}
			defer cl.close()
			ask := &driftv1.ListDriftsRequest{PageSize: 1000, Clusters: clusters, States: unique(states), LabelSelector: selector, Since: from}
			var all []*driftv1.Drift
			for {
				res, err := cl.drift.ListDrifts(c.Context(), ask)
				if err != nil {
					return cl.failed("list drift", err)
				}
				all = append(all, res.GetDrifts()...)
				if ask.PageToken = res.GetNextPageToken(); ask.PageToken == "" {
					break
				}
			}
			return s.printDrifts(all, out)
		},
	}
	s.connectionFlags(c)
	selectorFlag(c, &selector)
	c.Flags().Var(choices{&states, driftStates()}, "state", "only episodes in this `state`; repeat for several: "+strings.Join(driftStates(), ", "))
	offer(c, "state", driftStates()...)
	c.Flags().StringVar(&since, "since", "", "also episodes that are over, if they went on then or later: "+momentWords)
	outputFlag(c, &out, "table", "wide", "json", "yaml", "name")
	return c
}

func (s *shell) printDrifts(list []*driftv1.Drift, out string) error {
	switch out {
	case "json", "yaml":
		return objects(s, list, out)
	case "name":
		clusters := make([]string, 0, len(list))
		for _, d := range list {
			clusters = append(clusters, d.GetCluster())
		}
		return s.names("cluster", unique(clusters))
	}
	if len(list) == 0 {
		s.talk("There is no drift.")
		return nil
	}
	t := &table{header: []string{"CLUSTER", "STATE", "BEGAN", "LASTED", "ASSIGNED", "REASON"}}
	if out == "wide" {
		t.header = []string{"CLUSTER", "STATE", "BEGAN", "ENDED", "LASTED", "STATES", "ASSIGNED", "REASON"}
	}
	for _, d := range list {
		began, lasted := s.instant(d.GetOpenedAt()), s.lasted(d.GetOpenedAt(), d.GetClosedAt())
		if out == "wide" {
			t.add(d.GetCluster(), d.GetState(), began, s.instant(d.GetClosedAt()), lasted, strings.Join(d.GetStates(), ", "), d.GetAssignedRelease(), strings.Join(d.GetReasons(), "; "))
		} else {
			t.add(d.GetCluster(), d.GetState(), began, lasted, d.GetAssignedRelease(), firstReason(d.GetReasons()))
		}
	}
	return s.print(t.render(s.colour))
}

func (s *shell) driftHistoryCommand() *cobra.Command {
	var out string
	var when span
	limit := 0
	c := &cobra.Command{
		Use:   "history CLUSTER",
		Short: "List the periods of a cluster's history, the newest first",
		Long: `List the periods of a cluster's history, the newest first. In a period its state,
what runs, what is assigned and what moves it stay the same; the reason is that of
its beginning.

Use it to see when a cluster began to differ, and what ran at some time.`,
		Example: `  lockstep drift history berlin
  lockstep drift history berlin --last 7d -o wide
  lockstep drift history berlin --from 2026-03-01 --to 2026-04-01 -o json | jq '.[].state'`,
		Args:              exactly("CLUSTER"),
		ValidArgsFunction: s.first(clusterIDs),
		RunE: func(c *cobra.Command, args []string) error {
			clusters, err := clusterArgs(args)
			if err != nil {
				return err
			}
			from, to, err := when.read(s)
			if err != nil {
				return err
			}
			if err := checkLimit(limit); err != nil {
				return err
			}
			cl, err := s.dial()
			if err != nil {
				return err
			}
			defer cl.close()
			res, err := cl.drift.ListPeriods(c.Context(), &driftv1.ListPeriodsRequest{Cluster: clusters[0], From: from, To: to, PageSize: int32(limit)})
			if err != nil {
				return cl.failed("list the history of "+clusters[0], err)
			}
			return s.printPeriods(res.GetPeriods(), out, limit)
		},
	}
	s.connectionFlags(c)
	when.flags(c, "default: from the beginning")
	limitFlag(c, &limit, "periods")
	outputFlag(c, &out, "table", "wide", "json", "yaml")
	return c
}

// mostRows is how many rows the server returns at most, usualRows how many when
// no number is given.
const mostRows, usualRows = 1000, 100

func limitFlag(c *cobra.Command, into *int, what string) {
	c.Flags().IntVarP(into, "limit", "n", *into, "at most this `number` of "+what+", up to 1000; 0 means 100")
}

func checkLimit(limit int) error {
	if limit < 0 || limit > mostRows {
		return usage("--limit %d: it is at least 1 and at most %d; 0 means %d", limit, mostRows, usualRows)
	}
	return nil
}

// cut tells that a list has been cut where it may have been.
func (s *shell) cut(shown, limit int) {
	if limit == 0 {
		limit = usualRows
	}
	if shown == limit {
		s.talk("There may be more than these %d; --limit shows up to %d.", shown, mostRows)
	}
}

func (s *shell) printPeriods(list []*driftv1.Period, out string, limit int) error {
	if out == "json" || out == "yaml" {
		return objects(s, list, out)
	}
	if len(list) == 0 {
		s.talk("There is no history in that time.")
		return nil
	}
	t := &table{header: []string{"BEGAN", "LASTED", "STATE", "RUNNING", "ASSIGNED", "ROLLOUT", "REASON"}}
	if out == "wide" {
		t.header = []string{"BEGAN", "ENDED", "LASTED", "STATE", "RUNNING", "ASSIGNED", "ROLLOUT", "TARGET", "FROM", "TO", "REASON"}
	}
	for _, p := range list {
		began, lasted := s.instant(p.GetBeganAt()), s.lasted(p.GetBeganAt(), p.GetEndedAt())
		runs := ranText(p.GetLines())
		if out == "wide" {
			t.add(began, s.instant(p.GetEndedAt()), lasted, p.GetState(), runs, p.GetAssignedRelease(), p.GetRollout(), p.GetTargetRelease(),
				versionWords(p.GetEdgeFrom()), versionWords(p.GetEdgeTo()), strings.Join(p.GetReasons(), "; "))
		} else {
			t.add(began, lasted, p.GetState(), runs, p.GetAssignedRelease(), p.GetRollout(), firstReason(p.GetReasons()))
		}
	}
	if err := s.print(t.render(s.colour)); err != nil {
		return err
	}
	s.cut(len(list), limit)
	return nil
}

// ranText is what ran, in words.
func ranText(lines []*driftv1.RunningLine) string {
	var list []string
	for _, l := range lines {
		if len(l.GetVersions()) > 0 {
			list = append(list, l.GetLine()+" "+strings.Join(l.GetVersions(), " and "))
		}
	}
	return strings.Join(list, ", ")
}

func (s *shell) driftExplainCommand() *cobra.Command {
	var out string
	c := &cobra.Command{
		Use:   "explain CLUSTER",
		Short: "Tell a cluster's story: what is the matter, since when, and what to do",
		Long: `Tell a cluster's whole story in at most ten lines: its state and since when, what
runs, is assigned, declared and reported, how long it may be mixed, how sessions fare
compared with before, how often this has happened, and what to do next.

Use it when an alert names a cluster, before anything else is looked at.`,
		Example: `  lockstep drift explain berlin
  lockstep drift explain berlin -o json | jq -r '.lines[] | select(.about == "next").text'`,
		Args:              exactly("CLUSTER"),
		ValidArgsFunction: s.first(clusterIDs),
		RunE: func(c *cobra.Command, args []string) error {
			clusters, err := clusterArgs(args)
			if err != nil {
				return err
			}
			cl, err := s.dial()
			if err != nil {
				return err
			}
			defer cl.close()
			res, err := cl.drift.ExplainDrift(c.Context(), &driftv1.ExplainDriftRequest{Cluster: clusters[0]})
			if err != nil {
				return cl.failed("explain the drift of "+clusters[0], err)
			}
			if out == "table" {
				return s.print(storyText(res.GetLines(), terminalWidth(s.Out), s.colour))
			}
			return s.object(res, out)
		},
	}
	s.connectionFlags(c)
	outputFlag(c, &out, "table", "json", "yaml")
	return c
}

// storyText lays a story out: what each line is about, then its text, wrapped
// where the terminal is narrower; a width of 0 wraps nothing.
func storyText(lines []*driftv1.StoryLine, width int, colour bool) string {
	label := 0
	for _, l := range lines {
		label = max(label, utf8.RuneCountInString(clean(l.GetAbout())))
	}
	indent := label + 3
	var b strings.Builder
	for _, l := range lines {
		about := clean(l.GetAbout())
		b.WriteString(about + strings.Repeat(" ", indent-utf8.RuneCountInString(about)))
		for i, part := range wrap(clean(l.GetText()), width-indent) {
			if i > 0 {
				b.WriteString(strings.Repeat(" ", indent))
			} else if l.GetAbout() == "state" {
				part = paintFirst(part, colour)
			}
			b.WriteString(part + "\n")
		}
	}
	return b.String()
}

// paintFirst colours the state word that a sentence begins with.
func paintFirst(text string, colour bool) string {
	end := strings.IndexFunc(text, func(r rune) bool { return (r < 'a' || r > 'z') && r != '_' })
	if end < 0 {
		end = len(text)
	}
	return paint(text[:end], colour) + text[end:]
}

// narrowest is the least room in which words are still wrapped.
const narrowest = 20

// wrap breaks a text between words into lines of at most width letters; a longer
// word stands alone. Without enough room it is one line.
func wrap(text string, width int) []string {
	if width < narrowest {
		return []string{text}
	}
	var lines []string
	line, room := "", width
	for _, word := range strings.Fields(text) {
		n := utf8.RuneCountInString(word)
		if line != "" && n+1 > room {
			lines, line, room = append(lines, line), "", width
		}
		if line != "" {
			line, room = line+" ", room-1
		}
		line, room = line+word, room-n
	}
	return append(lines, line)
}

// terminalWidth is how many letters a line of a terminal holds, 0 for none.
func terminalWidth(w any) int {
	f, ok := w.(interface{ Fd() uintptr })
	if !ok {
		return 0
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0 // it is no terminal
	}
	return width
}
