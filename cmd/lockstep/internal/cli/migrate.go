package cli

import (
	"errors"

	"github.com/spf13/cobra"
)

// Change is something on the bus or in the store, and what bringing it up to
// date does to it.
type Change struct {
	Kind   string `json:"kind"` // stream, bucket, consumer, database, migration
	Name   string `json:"name"`
	Action string `json:"action"` // create, update, apply or none
	Detail string `json:"detail"`
}

func (s *shell) migrateCommand() *cobra.Command {
	var v settings
	var out string
	var dryRun bool
	c := &cobra.Command{
		Use:   "migrate",
		Short: "Bring streams, buckets and tables up to date",
		Long: `Bring the streams and buckets of the bus and the tables of the store up to date:
those of the NATS and ClickHouse servers that the configuration names, or embedded
ones in the data folder. Repeating it changes nothing.

Where both are elsewhere it may run beside a live server. Embedded ones need the data
folder for themselves: stop its server first. With --dry-run an existing data folder
is opened as well, and no schema is changed.

A server does the same when it starts. Use this where servers may not change the
schema, before a new version is started, or with --dry-run to see what that
version would change.`,
		Example: `  lockstep migrate --dry-run
  lockstep migrate --config /etc/lockstep/fleet.yaml
  lockstep migrate --dry-run -o json | jq '.[] | select(.action != "none")'`,
		Args: exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			opts, err := s.accepted(&v)
			if err != nil {
				return err
			}
			// What was done before an error is told as well.
			changes, err := s.Migrate(c.Context(), opts, dryRun)
			return errors.Join(s.printChanges(changes, out, dryRun, err != nil), err)
		},
	}
	s.configFlag(c)
	v.places(c)
	c.Flags().BoolVar(&dryRun, "dry-run", false, "say what would change and change nothing")
	outputFlag(c, &out, "table", "json", "yaml")
	return c
}

func (s *shell) printChanges(changes []Change, out string, dryRun, failed bool) error {
	if out != "table" {
		return rows(s, changes, out)
	}
	t := &table{header: []string{"KIND", "NAME", "ACTION", "DETAIL"}}
	for _, c := range changes {
		if c.Action != "none" {
			t.add(c.Kind, c.Name, c.Action, c.Detail)
		}
	}
	switch {
	case len(t.rows) == 0 && failed:
		return nil
	case len(t.rows) == 0:
		s.talk("There is nothing to do; everything is up to date.")
		return nil
	}
	err := s.print(t.render(s.colour))
	if dryRun {
		s.talk("Nothing was changed; without --dry-run this is what happens.")
	}
	return err
}
