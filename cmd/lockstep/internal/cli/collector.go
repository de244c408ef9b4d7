package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/fleetfile"
	observationv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/observation/v1"
)

// SourceReport is what one source would see.
type SourceReport struct {
	Cluster string `json:"cluster"` // empty for one that speaks of several
	Kind    string `json:"kind"`
	Name    string `json:"name"`
	Status  string `json:"status"`
	Seen    string `json:"seen"`    // what would be handed in, in words
	Problem string `json:"problem"` // what is in the way, or what is not seen
	Todo    string `json:"todo"`
	ID      string `json:"id"` // in the catalogue; empty when the error has none
	// Observations are what would be handed in; the command puts them into words.
	Observations []*observationv1.Observation `json:"-"`
}

func (s *shell) collectorCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "collector",
		Short: "Try what a collector would see",
		Long: `What looks at clusters is the collector: inside 'lockstep server', or the program
'collector' beside clusters that the server cannot reach. These commands try what it
would see.

Use them before a collector is started, and when it does not see what it should.`,
	}
	return group(c, s.collectorCheckCommand())
}

func (s *shell) collectorCheckCommand() *cobra.Command {
	var out string
	c := &cobra.Command{
		Use:   "check [CLUSTER...]",
		Short: "Ask every source once and show what would be seen",
		Long: `Ask every source that the configuration names once, or those of the clusters named,
and show what would be handed in, and which permission or setting is missing.
Nothing is handed in. Probes do log in, as probes do; nothing is written to a
storage or a log receiver.

Use it before a collector is started, and after credentials or roles have changed.
Run it as the collector's user, with its environment. It exits with 1 when a source
cannot be read.`,
		Example: `  lockstep collector check -f fleet.yaml
  lockstep collector check berlin -o json | jq '.[] | select(.status != "ok")'`,
		RunE: func(c *cobra.Command, args []string) error {
			file, err := s.load()
			if err != nil {
				return err
			}
			for _, id := range args {
				if !slices.ContainsFunc(file.Clusters, func(c fleetfile.Cluster) bool { return string(c.ID) == id }) {
					return usage("there is no cluster %s in the configuration", id)
				}
			}
			reports, err := s.Look(c.Context(), file, args)
			if err != nil {
				return err
			}
			for i := range reports {
				reports[i].Seen = s.seen(reports[i].Kind, reports[i].Observations)
			}
			if err := s.printReports(reports, out); err != nil {
				return err
			}
			failed := 0
			for _, r := range reports {
				if r.Status == CheckFail {
					failed++
				}
			}
			if failed > 0 {
				return fmt.Errorf("%d of %s cannot be read", failed, count(int64(len(reports)), "source"))
			}
			return nil
		},
	}
	s.configFlag(c)
	c.Flags().StringVarP(&s.conn.config, "file", "f", "", "the configuration file, as --config")
	outputFlag(c, &out, "table", "wide", "json", "yaml")
	return c
}

// load finds, reads and judges the configuration.
func (s *shell) load() (fleetfile.File, error) {
	path, err := fleetfile.Find(s.conn.config, s.Env)
	if err != nil {
		return fleetfile.File{}, err
	}
	return fleetfile.Load(path, s.Env)
}

func (s *shell) printReports(reports []SourceReport, out string) error {
	switch out {
	case "json", "yaml":
		return rows(s, reports, out)
	}
	if len(reports) == 0 {
		s.talk("There is nothing to look at; declare clusters in fleet.yaml.")
		return nil
	}
	t := &table{header: []string{"CLUSTER", "KIND", "STATUS", "SEEN"}}
	if out == "wide" {
		t.header = []string{"CLUSTER", "KIND", "NAME", "STATUS", "SEEN", "PROBLEM", "WHAT TO DO", "ID"}
	}
	var todo strings.Builder
	for _, r := range reports {
		if out == "wide" {
			t.add(r.Cluster, r.Kind, r.Name, r.Status, r.Seen, r.Problem, r.Todo, r.ID)
			continue
		}
		t.add(r.Cluster, r.Kind, r.Status, strings.Trim(r.Seen+"; "+r.Problem, "; "))
		if r.Todo != "" {
			fmt.Fprintf(&todo, "  %s: %s", clean(r.Name), clean(r.Todo))
			if r.ID != "" {
				fmt.Fprintf(&todo, " (lockstep explain %s)", clean(r.ID))
			}
			todo.WriteByte('\n')
		}
	}
	text := t.render(s.colour)
	if todo.Len() > 0 {
		text += "\nWhat to do:\n" + todo.String()
	}
	return s.print(text)
}

// seen puts observations into words; sessions are counted by what became of them.
func (s *shell) seen(of string, all []*observationv1.Observation) string {
	var words, sessions []string
	for _, o := range all {
		switch kind := o.GetKind().(type) {
		case *observationv1.Observation_Session:
			sessions = append(sessions, fleet.SessionStatus(kind.Session.GetStatus()).Event())
		case *observationv1.Observation_Mark:
			if kind.Mark.GetBlind() {
				words = append(words, o.GetCluster()+" "+s.observed(o))
			}
		case *observationv1.Observation_Registration:
			words = append(words, o.GetCluster()+": "+s.observed(o))
		default:
			// That it is ok stands in the column beside it.
			words = append(words, strings.TrimPrefix(s.observed(o), "ok "))
		}
	}
	if of == string(fleet.KindSession) && len(all) > 0 {
		words = append([]string{strings.TrimSuffix(count(int64(len(sessions)), "session")+" ("+tally(sessions)+")", " ()")}, words...)
	}
	const shown = 3
	if len(words) > shown {
		words = append(words[:shown], fmt.Sprintf("and %d more", len(words)-shown))
	}
	return strings.Join(words, "; ")
}
