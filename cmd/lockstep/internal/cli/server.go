package cli

import (
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/lockstep-fleet/lockstep/cmd/lockstep/internal/fleetfile"
	"github.com/lockstep-fleet/lockstep/kit/config"
)

func (s *shell) serverCommand() *cobra.Command {
	var listen, dataDir, clickhouse string
	c := &cobra.Command{
		Use:   "server",
		Short: "Run the server",
		Long: `Run the server: everything in one process, with its own message bus and
database in the data folder. Without a configuration file it runs with defaults
and no clusters. Flags come before the environment (LOCKSTEP_SERVER_LISTEN,
LOCKSTEP_SERVER_DATA_DIR, LOCKSTEP_SERVER_CLICKHOUSE), which comes before the file.`,
		Args: exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			path, err := fleetfile.Find(s.conn.config, s.Env)
			if err != nil {
				return err
			}
			if dataDir != "" {
				// A flag is relative to where the command runs, not to the file.
				if dataDir, err = filepath.Abs(dataDir); err != nil {
					return fmt.Errorf("find the data folder %s: %w", dataDir, err)
				}
			}
			file, err := fleetfile.Load(path, s.Env, s.applyServerEnv, func(f *fleetfile.File) {
				if listen != "" {
					f.Server.Listen = listen
				}
				if dataDir != "" {
					f.Server.DataDir = config.Path(dataDir)
				}
			})
			if err != nil {
				return err
			}
			if clickhouse == "" {
				clickhouse = s.Env("LOCKSTEP_SERVER_CLICKHOUSE")
			}
			return s.Server(c.Context(), ServerOptions{Config: file, ConfigPath: path, ClickHouse: clickhouse})
		},
	}
	s.configFlag(c)
	c.Flags().StringVar(&listen, "listen", "", "`host:port` to listen on (default server.listen, 127.0.0.1:8470)")
	c.Flags().StringVar(&dataDir, "data-dir", "", "`folder` for all data (default server.data_dir, $XDG_DATA_HOME/lockstep)")
	c.Flags().StringVar(&clickhouse, "clickhouse", "", "`DSN` of a ClickHouse server (default: the embedded engine); pass one with a password as LOCKSTEP_SERVER_CLICKHOUSE")
	return c
}

// applyServerEnv lets the environment override the file's server section.
func (s *shell) applyServerEnv(f *fleetfile.File) {
	if v := s.Env("LOCKSTEP_SERVER_LISTEN"); v != "" {
		f.Server.Listen = v
	}
	if v := s.Env("LOCKSTEP_SERVER_DATA_DIR"); v != "" {
		f.Server.DataDir = config.Path(v)
	}
}
