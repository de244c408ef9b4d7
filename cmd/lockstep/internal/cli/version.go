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
		Long: `Say which build of the command line this is; the server is not asked.

Put it into every report of a problem.`,
		Example: `  lockstep version
  lockstep version -o json | jq -r .version`,
		Args: exactly(),
		RunE: func(*cobra.Command, []string) error {
			v := s.Version
			if out == "table" {
				return s.print(v.String() + "\n")
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
