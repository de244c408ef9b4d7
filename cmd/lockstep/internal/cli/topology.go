package cli

import "github.com/spf13/cobra"

// TopologyEntry is something that Lockstep has on the bus or in the store.
type TopologyEntry struct {
	Kind      string `json:"kind"` // stream, noun, consumer, bucket or table
	Name      string `json:"name"`
	Detail    string `json:"detail"`    // what it holds or where it listens
	Owner     string `json:"owner"`     // the one service that writes it
	Retention string `json:"retention"` // how long it keeps what it holds
}

func (s *shell) topologyCommand() *cobra.Command {
	var out string
	c := &cobra.Command{
		Use:   "topology",
		Short: "List every stream, consumer, bucket and table with its owner",
		Long: `List everything that Lockstep has on the message bus and in the store: its kind
and name, the one service that writes it, and how long it is kept. It is what this
build knows; no server is asked.

Use it to size disks, to write NATS permissions and ClickHouse grants, or to see
who writes what.`,
		Example: `  lockstep topology
  lockstep topology -o wide
  lockstep topology -o json | jq -r '.[] | select(.kind == "table").name'`,
		Args: exactly(),
		RunE: func(*cobra.Command, []string) error { return s.printTopology(s.Topology(), out) },
	}
	outputFlag(c, &out, "table", "wide", "json", "yaml", "name")
	return c
}

func (s *shell) printTopology(entries []TopologyEntry, out string) error {
	t := &table{header: []string{"KIND", "NAME", "OWNER", "RETENTION"}}
	switch out {
	case "json", "yaml":
		return rows(s, entries, out)
	case "name":
		for _, e := range entries {
			if err := s.print(e.Kind + "/" + e.Name + "\n"); err != nil {
				return err
			}
		}
		return nil
	case "wide":
		t.header = append(t.header, "DETAIL")
	}
	for _, e := range entries {
		row := []string{e.Kind, e.Name, e.Owner, e.Retention}
		if out == "wide" {
			row = append(row, e.Detail)
		}
		t.add(row...)
	}
	return s.print(t.render(s.colour))
}
