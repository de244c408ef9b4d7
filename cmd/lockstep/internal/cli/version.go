package cli

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

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
				// A build may not know all of it.
				details := []string{v.Go}
				if v.Date != "" {
					details = slices.Insert(details, 0, v.Date)
				}
				if v.Commit != "" {
					details = slices.Insert(details, 0, "commit "+v.Commit)
				}
				return s.print(fmt.Sprintf("lockstep %s (%s)\n", v.Version, strings.Join(details, ", ")))
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
