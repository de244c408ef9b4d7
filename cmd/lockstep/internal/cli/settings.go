package cli

import (
	"fmt"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lockstep-fleet/lockstep/fleetfile"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// settings are the flags that stand for keys of the configuration.
type settings struct {
	listen, adminListen, dataDir, nats, clickhouse, logLevel, logFormat string
}

// flags adds the settings to a command that reads the configuration as the
// server does.
func (v *settings) flags(c *cobra.Command) {
	c.Flags().StringVar(&v.listen, "listen", "", "`host:port` of the API (default server.listen, 127.0.0.1:8470)")
	c.Flags().StringVar(&v.adminListen, "admin-listen", "", "`host:port` of health, metrics and profiles, or off (default server.admin_listen, 127.0.0.1:8471)")
	c.Flags().Var(choice{&v.logLevel, fleetfile.LogLevels()}, "log-level", "`level`: "+strings.Join(fleetfile.LogLevels(), ", ")+" (default log.level, info)")
	c.Flags().Var(choice{&v.logFormat, fleetfile.LogFormats()}, "log-format", "`format`: "+strings.Join(fleetfile.LogFormats(), ", ")+" (default log.format, text)")
	v.places(c)
	offer(c, "log-level", fleetfile.LogLevels()...)
	offer(c, "log-format", fleetfile.LogFormats()...)
}

// places adds those that say where data is.
func (v *settings) places(c *cobra.Command) {
	c.Flags().StringVar(&v.dataDir, "data-dir", "", "`folder` for all data (default server.data_dir, $XDG_DATA_HOME/lockstep)")
	c.Flags().StringVar(&v.nats, "nats", "", "`URLs` of NATS servers (default bus.url: the embedded bus)")
	c.Flags().StringVar(&v.clickhouse, "clickhouse", "", "`DSN` of a ClickHouse server (default what store.dsn_file holds: the embedded engine); one with a password goes into LOCKSTEP_STORE_DSN or that file")
}

// given lists the settings by the key that each stands for.
func (v *settings) given() []fleetfile.Flag {
	return []fleetfile.Flag{
		{Name: "--listen", Key: "server.listen", Value: v.listen},
		{Name: "--admin-listen", Key: "server.admin_listen", Value: v.adminListen},
		{Name: "--data-dir", Key: "server.data_dir", Value: v.dataDir},
		{Name: "--nats", Key: "bus.url", Value: v.nats},
		{Name: "--log-level", Key: "log.level", Value: v.logLevel},
		{Name: "--log-format", Key: "log.format", Value: v.logFormat},
	}
}

// accepted reads the configuration as the server does, and judges it.
func (s *shell) accepted(v *settings) (ServerOptions, error) {
	path, err := fleetfile.Find(s.conn.config, s.Env)
	if err != nil {
		return ServerOptions{}, err
	}
	file, err := fleetfile.Load(path, s.Env, v.given()...)
	if err != nil {
		return ServerOptions{}, err
	}
	dsn, err := s.dsn(v, file)
	if err != nil {
		return ServerOptions{}, err
	}
	return ServerOptions{Config: file, ConfigPath: path, ClickHouse: dsn}, nil
}

// dsn is the ClickHouse server that the flag, the environment or a file names.
func (s *shell) dsn(v *settings, file fleetfile.File) (string, error) {
	if u, err := url.Parse(v.clickhouse); err == nil && u.User != nil {
		if _, secret := u.User.Password(); secret {
			// Not repeated in the text.
			return "", usage("--clickhouse carries a password, which everyone on this machine can read in the list of processes; keep the DSN in a file that store.dsn_file names, or set it as LOCKSTEP_STORE_DSN")
		}
	}
	for _, given := range []string{v.clickhouse, s.Env("LOCKSTEP_STORE_DSN"), s.Env("LOCKSTEP_SERVER_CLICKHOUSE")} {
		if given != "" {
			return given, nil
		}
	}
	path := string(file.Store.DSNFile)
	if path == "" {
		return "", nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return "", errs.New(errs.Invalid, "LS-CFG-004", "read store.dsn_file: %w", err)
	}
	dsn := strings.TrimSpace(string(text))
	if dsn == "" {
		return "", errs.New(errs.Invalid, "LS-CFG-004", "read store.dsn_file: %s is empty; write the DSN of a ClickHouse server there, or remove the key for the embedded engine", path)
	}
	return dsn, nil
}

// offer completes a flag with a few words.
func offer(c *cobra.Command, flag string, words ...string) {
	if err := c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(fmt.Sprintf("cli: %v", err)) // only when the command has no such flag
	}
}
