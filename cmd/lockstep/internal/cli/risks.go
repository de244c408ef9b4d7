package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	catalogv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/catalog/v1"
)

func (s *shell) risksCommand() *cobra.Command {
	var out, release, cluster string
	c := &cobra.Command{
		Use:   "risks --release RELEASE --cluster CLUSTER",
		Short: "Tell which named risks a move of one cluster meets",
		Long: `Tell which named risks a move of one cluster to a release meets. A risk that matches,
or of which it is not known whether it does, is closed until somebody has
acknowledged it. It tells and stops nothing: a rollout can be started all the same.

Use it before a rollout, while there is time to ask.`,
		Example: `  lockstep releases risks --release 4.53.0 --cluster berlin
  lockstep releases risks -r 4.53.0 -c berlin -o json | jq '.[] | select(.closed).risk'`,
		Args: exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			if release == "" || cluster == "" {
				return usage("say which move: --release RELEASE --cluster CLUSTER")
			}
			clusters, err := clusterArgs([]string{cluster})
			if err != nil {
				return err
			}
			cl, err := s.dial()
			if err != nil {
				return err
			}
			defer cl.close()
			id := named(release, "release")
			res, err := cl.catalog.AssessMove(c.Context(), &catalogv1.AssessMoveRequest{Cluster: clusters[0], Release: id})
			if err != nil {
				return cl.failed(fmt.Sprintf("assess a move of %s to %s", clusters[0], id), err)
			}
			if out == "table" || out == "wide" {
				return s.printAssessments(res.GetAssessments(), out == "wide")
			}
			return objects(s, res.GetAssessments(), out)
		},
	}
	s.connectionFlags(c)
	c.Flags().StringVarP(&release, "release", "r", "", "`release` to move to (required)")
	c.Flags().StringVarP(&cluster, "cluster", "c", "", "`cluster` to move (required)")
	s.completeFlag(c, "release", s.releaseIDs)
	s.completeFlag(c, "cluster", clusterIDs)
	outputFlag(c, &out, "table", "wide", "json", "yaml")
	return c
}

func (s *shell) printAssessments(list []*catalogv1.Assessment, wide bool) error {
	if len(list) == 0 {
		s.talk("No risk has a name.")
		return nil
	}
	t := &table{header: []string{"RISK", "CONDITION", "IN THE WAY", "DETAIL"}}
	if wide {
		t.header = []string{"RISK", "TITLE", "CONDITION", "IN THE WAY", "ACKNOWLEDGED BY", "UNTIL", "DETAIL"}
	}
	todo := &account{}
	for _, a := range list {
		way := "no"
		switch {
		case a.GetClosed():
			way = "yes"
			fmt.Fprintf(todo, "  %s: %s\n", clean(a.GetRisk()), clean(a.GetRemedy()))
		case a.GetAcknowledgement() != nil:
			way = "acknowledged"
		}
		if wide {
			t.add(a.GetRisk(), a.GetTitle(), a.GetCondition(), way, a.GetAcknowledgement().GetOwner(), s.instant(a.GetAcknowledgement().GetExpiresAt()), a.GetDetail())
		} else {
			t.add(a.GetRisk(), a.GetCondition(), way, a.GetDetail())
		}
	}
	text := t.render(s.colour)
	if todo.Len() > 0 {
		text += "\nWhat to do, or acknowledge with 'lockstep releases ack RISK':\n" + todo.String()
	}
	return s.print(text)
}

// scope is what an acknowledgement is narrowed to.
type scope struct{ release, cluster string }

func (o *scope) flags(s *shell, c *cobra.Command) {
	c.Flags().StringVarP(&o.release, "release", "r", "", "only for moves to this `release` (default: any)")
	c.Flags().StringVarP(&o.cluster, "cluster", "c", "", "only for this `cluster` (default: any)")
	s.completeFlag(c, "release", s.releaseIDs)
	s.completeFlag(c, "cluster", clusterIDs)
}

func (s *shell) ackCommand() *cobra.Command {
	var out, reason, owner string
	var of scope
	var end ending
	c := &cobra.Command{
		Use:   "ack RISK --reason TEXT",
		Short: "Say that a named risk is known and taken",
		Long: `Say that a named risk is known and taken, for all moves, or for those to one
release or of one cluster, until --until, for --for, or until it is taken back.

Use it when 'lockstep releases risks' shows one in the way and you have looked into it.`,
		Example: `  lockstep releases ack legacy-ssh-algorithms --cluster berlin --reason "no old targets there"
  lockstep releases ack legacy-ssh-algorithms --release 4.53.0 --for 30d --reason "tried in stage"`,
		Args:              exactly("RISK"),
		ValidArgsFunction: s.first(riskIDs),
		RunE: func(c *cobra.Command, args []string) error {
			if err := sentence(reason); err != nil {
				return err
			}
			until, err := end.read(s)
			if err != nil {
				return err
			}
			cl, err := s.dial()
			if err != nil {
				return err
			}
			defer cl.close()
			res, err := cl.catalog.AcknowledgeRisk(c.Context(), &catalogv1.AcknowledgeRiskRequest{
				Risk: args[0], Release: named(of.release, "release"), Cluster: named(of.cluster, "cluster"), Reason: reason, Owner: owner, ExpiresAt: until,
			})
			if err != nil {
				return cl.failed("acknowledge "+args[0], err)
			}
			if out != "table" {
				return s.object(res.GetAcknowledgement(), out)
			}
			return s.print(s.ackTable([]*catalogv1.Acknowledgement{res.GetAcknowledgement()}).render(s.colour))
		},
	}
	s.connectionFlags(c)
	reasonFlag(c, &reason)
	of.flags(s, c)
	ownerFlag(c, &owner)
	end.flags(c)
	outputFlag(c, &out, "table", "json", "yaml")
	return c
}

func (s *shell) unackCommand() *cobra.Command {
	var reason string
	var of scope
	c := &cobra.Command{
		Use:   "unack RISK --reason TEXT",
		Short: "Take an acknowledgement back",
		Long: `Take an acknowledgement back, named by its risk, and by its release and cluster
where it was given for one.

Use it when what it stood on is no longer so.`,
		Example: `  lockstep releases unack legacy-ssh-algorithms --cluster berlin --reason "an old switch came"`,
		Args:    exactly("RISK"),
		// The risks that are acknowledged are among them.
		ValidArgsFunction: s.first(riskIDs),
		RunE: func(c *cobra.Command, args []string) error {
			if err := sentence(reason); err != nil {
				return err
			}
			cl, err := s.dial()
			if err != nil {
				return err
			}
			defer cl.close()
			ask := &catalogv1.RevokeAcknowledgementRequest{Risk: args[0], Release: named(of.release, "release"), Cluster: named(of.cluster, "cluster"), Reason: reason}
			if _, err := cl.catalog.RevokeAcknowledgement(c.Context(), ask); err != nil {
				return cl.failed("take back the acknowledgement of "+args[0], err)
			}
			s.talk("The acknowledgement of %s%s is taken back.", clean(ask.GetRisk()), scopeWords(ask.GetRelease(), ask.GetCluster()))
			return nil
		},
	}
	s.connectionFlags(c)
	reasonFlag(c, &reason)
	of.flags(s, c)
	return c
}

func scopeWords(release, cluster string) string {
	words := ""
	if release != "" {
		words += " for release " + clean(release)
	}
	if cluster != "" {
		words += " on cluster " + clean(cluster)
	}
	return words
}

func (s *shell) acksCommand() *cobra.Command {
	var out string
	c := &cobra.Command{
		Use:   "acks",
		Short: "List the risks that have a name, and who has acknowledged which",
		Long: `List the risks that have a name, and the acknowledgements that hold, in order of
risk, release and cluster.

Use it to review what was waved through, and until when.`,
		Example: `  lockstep releases acks
  lockstep releases acks -o json | jq '.acknowledgements[] | {risk, owner, expires_at}'`,
		Args: exactly(),
		RunE: func(c *cobra.Command, _ []string) error {
			cl, err := s.dial()
			if err != nil {
				return err
			}
			defer cl.close()
			res, err := cl.catalog.GetAcknowledgements(c.Context(), &catalogv1.GetAcknowledgementsRequest{})
			if err != nil {
				return cl.failed("list acknowledgements", err)
			}
			if out != "table" {
				return s.object(res, out)
			}
			known := &table{header: []string{"RISK", "TITLE", "WHAT TO DO"}}
			for _, r := range res.GetRisks() {
				known.add(r.GetId(), r.GetTitle(), r.GetRemedy())
			}
			if len(res.GetAcknowledgements()) == 0 {
				defer s.talk("None is acknowledged.")
			}
			text := &account{}
			text.table(known, s.colour)
			text.table(s.ackTable(res.GetAcknowledgements()), s.colour)
			return s.print(strings.TrimPrefix(text.String(), "\n"))
		},
	}
	s.connectionFlags(c)
	outputFlag(c, &out, "table", "json", "yaml")
	return c
}

func (s *shell) ackTable(list []*catalogv1.Acknowledgement) *table {
	t := &table{header: []string{"ACKNOWLEDGED", "RELEASE", "CLUSTER", "OWNER", "SINCE", "UNTIL", "REASON"}}
	for _, a := range list {
		until := "taken back"
		if a.GetExpiresAt() != nil {
			until = s.instant(a.GetExpiresAt())
		}
		t.add(a.GetRisk(), orAny(a.GetRelease()), orAny(a.GetCluster()), a.GetOwner(), s.instant(a.GetAt()), until, a.GetReason())
	}
	return t
}

func orAny(id string) string {
	if id == "" {
		return "any"
	}
	return id
}
