package cli

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/fleetfile"
)

func (s *shell) tokenCommand() *cobra.Command {
	return group(&cobra.Command{
		Use:     "token",
		Aliases: []string{"tokens"},
		Short:   "Make access tokens",
		Long: `Make access tokens for people and programs besides the administrator. A server
knows a token by its hash in access.tokens of the configuration; the token itself
is shown once and kept nowhere.`,
	}, s.tokenCreateCommand())
}

func (s *shell) tokenCreateCommand() *cobra.Command {
	var name, role, tenant string
	c := &cobra.Command{
		Use:   "create --name NAME --role ROLE",
		Short: "Make an access token and the lines that let it in",
		Long: `Make an access token. The token is all that is printed on standard output, so that
a script can keep it; the lines to add to the configuration, which hold its hash,
go to standard error. It counts once they are there and the server was restarted.

Roles, each with what those before it may: viewer sees everything and plans, operator
starts rollouts and rolls them back, approver is for what waits for an approval
(nothing waits for an approval yet), admin does everything. To take a token back,
remove its lines and restart.`,
		Example: `  (umask 077; lockstep token create --name ci --role operator > ci.token)
  lockstep status --server https://lockstep.example --token-file ci.token`,
		Args: exactly(),
		RunE: func(*cobra.Command, []string) error {
			token, t := fleetfile.NewToken(name, role, fleet.TenantID(tenant))
			if problems := t.Problems(); len(problems) > 0 {
				lines := make([]string, 0, len(problems))
				for _, p := range problems {
					lines = append(lines, "--"+p.String())
				}
				return usage("%s", strings.Join(lines, "\n"))
			}
			if err := s.print(token + "\n"); err != nil {
				return err
			}
			s.talk(`This token is shown once. Add its hash to the server's configuration and restart the server:

access:
  tokens:
    - name: %q
      role: %s
      tenant: %q
      sha256: %s`, t.Name, t.Role, t.Tenant, t.SHA256)
			return nil
		},
	}
	c.Flags().StringVar(&name, "name", "", "who it is given to; the log calls it by this `name` (required)")
	c.Flags().StringVar(&role, "role", "", "`role`: "+strings.Join(fleetfile.Roles(), ", ")+" (required)")
	c.Flags().StringVar(&tenant, "tenant", string(fleet.DefaultTenant), "`tenant` it acts for; only default exists so far")
	offer(c, "role", fleetfile.Roles()...)
	return c
}
