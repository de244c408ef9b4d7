package cli

import "github.com/spf13/cobra"

func (s *shell) serverCommand() *cobra.Command {
	var v settings
	c := &cobra.Command{
		Use:   "server",
		Short: "Run the server",
		Long: `Run the server: everything in one process. It brings its own message bus and
database, kept in the data folder, unless the configuration names NATS and
ClickHouse servers. Without a configuration file it runs with defaults and no
clusters. It runs until it is interrupted or terminated, and stops in order; a
second signal ends it at once.

Flags come before the environment, the environment before the file, the file
before the defaults: 'lockstep help configuration'. 'lockstep doctor' says what
is missing before you start, and 'lockstep status' what runs where once it is up.`,
		Example: `  lockstep server --config /etc/lockstep/fleet.yaml
  lockstep server --data-dir ./data --listen 127.0.0.1:9000 --admin-listen off
  LOCKSTEP_STORE_DSN_FILE=/etc/lockstep/clickhouse.dsn lockstep server --nats nats://a:4222,nats://b:4222`,
		Args: exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			opts, err := s.accepted(&v)
			if err != nil {
				return err
			}
			return s.Server(c.Context(), opts)
		},
	}
	s.configFlag(c)
	v.flags(c)
	return c
}
