package cli

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	fleetv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/fleet/v1"
)

func (s *shell) clustersCommand() *cobra.Command {
	var out string
	var which selection
	c := &cobra.Command{
		Use:     "clusters [CLUSTER...]",
		Aliases: []string{"cluster"},
		Short:   "List clusters, or describe one",
		Long: `List every cluster, or those named that match: its state, labels, the release it is
expected to run, how many of its instances are healthy, and when it was last seen.

With exactly one CLUSTER, all that is known of it: why it is in its state, how long
it may be mixed, what runs, what is registered at the vendor and what is declared.
With -o json and yaml it is a list in either case.

Use it to find clusters by label or version, and to look into one.`,
		Example: `  lockstep clusters -l env=prod
  lockstep clusters berlin
  lockstep clusters berlin --as-of "2026-03-04 12:00"
  lockstep clusters -l env=prod -o name | xargs lockstep status`,
		ValidArgsFunction: s.every(clusterIDs),
		RunE: func(c *cobra.Command, args []string) error {
			ask, err := which.request(s, args)
			if err != nil {
				return err
			}
			cl, err := s.dial()
			if err != nil {
				return err
			}
			defer cl.close()
			clusters, err := cl.clusters(c.Context(), ask)
			if err != nil {
				return err
			}
			now, wide := s.then(ask), out == "wide"
			switch {
			case out == "json" || out == "yaml":
				return objects(s, clusters, out)
			case out == "name":
				return s.names("cluster", idsOf(clusters))
			case len(clusters) == 0:
				s.noClusters(which.narrowed(), which.asOf != "")
				return nil
			case len(ask.GetIds()) == 1:
				return s.print(s.clusterText(clusters[0], now, wide))
			}
			return s.print(clusterTable(clusters, wide, now).render(s.colour))
		},
	}
	s.connectionFlags(c)
	which.flags(s, c)
	outputFlag(c, &out, "table", "wide", "json", "yaml", "name")
	return c
}

func clusterTable(clusters []*fleetv1.Cluster, wide bool, now time.Time) *table {
	t := &table{header: []string{"CLUSTER", "STATE", "LABELS", "ASSIGNED", "HEALTHY", "SEEN"}}
	if wide {
		t.header = []string{"CLUSTER", "STATE", "SINCE", "LABELS", "RUNNING", "ASSIGNED", "ROLLOUT", "TARGET", "HEALTHY", "SEEN", "BASTIONS", "REPORTED"}
	}
	for _, c := range clusters {
		labels := pairs(c.GetLabels(), "=", ",")
		if !wide {
			t.add(c.GetId(), c.GetState(), labels, c.GetAssignedRelease(), healthy(c), ago(now, c.GetLastSeen()))
			continue
		}
		t.add(c.GetId(), c.GetState(), ago(now, c.GetSince()), labels, linesText(c.GetLines()), c.GetAssignedRelease(), c.GetRollout(), c.GetTargetRelease(),
			healthy(c), ago(now, c.GetLastSeen()), bastions(c.GetBastions()), ago(now, c.GetLastReport()))
	}
	return t
}

// pairs lists a map in order of its keys.
func pairs(m map[string]string, is, and string) string {
	list := make([]string, 0, len(m))
	for _, key := range slices.Sorted(maps.Keys(m)) {
		list = append(list, key+is+m[key])
	}
	return strings.Join(list, and)
}

// versionWords is a version set in words: "gateway 4.52.0, sra 3.0.3".
func versionWords(versions map[string]string) string { return pairs(versions, " ", ", ") }

// linesText is what runs, in words: "gateway 5.0.1 and 5.1.0, sra 3.1.0".
func linesText(lines []*fleetv1.Line) string {
	var list []string
	for _, l := range lines {
		if len(l.GetRunning()) > 0 {
			list = append(list, l.GetLine()+" "+strings.Join(l.GetRunning(), " and "))
		}
	}
	return strings.Join(list, ", ")
}

// account is a page about one thing: lines with a label each, then tables.
type account struct {
	strings.Builder
	width int // of the labels
}

func (a *account) say(label, format string, args ...any) {
	fmt.Fprintf(a, "%-*s  %s\n", a.width, label, fmt.Sprintf(format, args...))
}

// list says sentences, the label beside the first one alone.
func (a *account) list(label string, sentences []string) {
	for i, sentence := range sentences {
		if i > 0 {
			label = ""
		}
		a.say(label, "%s", clean(sentence))
	}
}

// table adds a table with rows below a free line.
func (a *account) table(t *table, colour bool) {
	if len(t.rows) > 0 {
		a.WriteString("\n" + t.render(colour))
	}
}

// clusterText is all that is known of one cluster.
func (s *shell) clusterText(c *fleetv1.Cluster, now time.Time, wide bool) string {
	a := &account{width: len("Reported")}
	fmt.Fprintf(a, "Cluster %s\n", clean(c.GetId()))
	state := paint(clean(c.GetState()), s.colour)
	if c.GetSince() != nil {
		state += fmt.Sprintf(" since %s (%s)", s.instant(c.GetSince()), ago(now, c.GetSince()))
	}
	a.say("State", "%s", state)
	a.list("Because", c.GetReasons())
	a.list("Note", c.GetNotes())
	a.say("Labels", "%s", cmp.Or(clean(pairs(c.GetLabels(), "=", ", ")), "-"))
	a.say("Assigned", "%s", cmp.Or(clean(c.GetAssignedRelease()), "-"))
	if c.GetRollout() != "" {
		target := ""
		if c.GetTargetRelease() != "" {
			target = ", to release " + clean(c.GetTargetRelease())
		}
		a.say("Rollout", "%s%s", clean(c.GetRollout()), target)
	}
	if c.GetMixedSince() != nil {
		a.say("Mixed", "since %s (%s)", s.instant(c.GetMixedSince()), ago(now, c.GetMixedSince()))
	}
	if c.GetWindow() != nil {
		basis := ""
		if c.GetWindowBasis() != "" {
			basis = ": " + clean(c.GetWindowBasis())
		}
		a.say("Window", "it may be mixed for %s%s", length(c.GetWindow()), basis)
	}
	a.say("Seen", "%s", s.whenAndAgo(now, c.GetLastSeen()))
	a.say("Reported", "%s", s.whenAndAgo(now, c.GetLastReport()))
	s.runsText(a, c, now, wide)
	return a.String()
}

// runsText adds what runs, what is registered and what is declared.
func (s *shell) runsText(a *account, c *fleetv1.Cluster, now time.Time, wide bool) {
	lines := &table{header: []string{"LINE", "RUNNING", "ASSIGNED"}}
	for _, l := range c.GetLines() {
		lines.add(l.GetLine(), running(l), l.GetAssigned())
	}
	a.table(lines, s.colour)

	instances := &table{header: []string{"INSTANCE", "COMPONENT", "SERVICE", "VERSION", "HEALTH", "AGE"}}
	if wide {
		instances.header = append(instances.header, "IMAGE", "DIGEST")
	}
	for _, i := range c.GetInstances() {
		row := []string{brief(i.GetId(), wide), i.GetComponent(), i.GetService(), i.GetVersion(), i.GetHealth(), ago(now, i.GetStartedAt())}
		if wide {
			row = append(row, i.GetImage(), i.GetDigest())
		}
		instances.add(row...)
	}
	a.table(instances, s.colour)

	registered := &table{header: []string{"BASTION", "VERSION"}}
	for _, b := range c.GetBastions() {
		registered.add(b.GetId(), cmp.Or(b.GetVersion(), "unreported"))
	}
	a.table(registered, s.colour)

	d := c.GetDeclared()
	if d == nil {
		return
	}
	fmt.Fprintf(a, "\nDeclared, as read %s\n", s.whenAndAgo(now, d.GetObservedAt()))
	helm := &table{header: []string{"HELM RELEASE", "NAMESPACE", "CHART", "VERSION", "REVISION", "STATUS", "DECLARES"}}
	for _, r := range d.GetHelm() {
		helm.add(r.GetName(), r.GetNamespace(), r.GetChart(), r.GetChartVersion(), fmt.Sprint(r.GetRevision()), r.GetStatus(), versionWords(r.GetVersions()))
	}
	a.table(helm, s.colour)
	compose := &table{header: []string{"COMPOSE SERVICE", "STATE", "IMAGE", "DIFFERENCES"}}
	for _, service := range d.GetCompose() {
		compose.add(service.GetService(), service.GetState(), service.GetImage(), strings.Join(service.GetDifferences(), "; "))
	}
	a.table(compose, s.colour)
}

// brief cuts an engine's id of 64 letters to the twelve that its own tools show.
func brief(id string, whole bool) string {
	if !whole && len(id) == 64 && !strings.ContainsFunc(id, func(r rune) bool { return !strings.ContainsRune("0123456789abcdef", r) }) {
		return id[:12]
	}
	return id
}
