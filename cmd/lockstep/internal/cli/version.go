package cli

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"
)

func (s *shell) versionCommand() *cobra.Command {
	var out string
	c := &cobra.Command{
		Use:   "version",
		Short: "Say which build this is",
		Args:  exactly(),
		RunE: func(*cobra.Command, []string) error {
			v := s.Version
			if out == "table" {
				return s.print(fmt.Sprintf("lockstep %s (commit %s, %s, %s)\n", v.Version, v.Commit, v.Date, v.Go))
			}
			raw, err := json.Marshal(v)
			if err != nil {
				return fmt.Errorf("encode the version: %w", err)
			}
			return s.encoded(raw, out)
		},
	}
	outputFlag(c, &out, "table", "json", "yaml")
	return c
}
