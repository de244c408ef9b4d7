package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
	observationv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/observation/v1"
)

func (s *shell) observeCommand() *cobra.Command {
	var out, since string
	var kinds []string
	req := &observationv1.WatchObservationsRequest{}
	limit := 0
	c := &cobra.Command{
		Use:   "observe [CLUSTER...]",
		Short: "Show what collectors see, as it comes",
		Long: `Show observations as collectors hand them in, before anything is judged: what
runs, sessions as they open and end, what the vendor reports, what is declared,
probes, health and the recording pipeline. A line an observation, or one JSON
object a line with -o json; interrupt it to end it.

With --since, what was seen since then comes first; the bus keeps a week. With
--failures, only failed and vanished sessions, checks that are not ok, and sources
that cannot see. --marks also shows how far each source says it is complete.

Use it when something is judged that you do not believe, or nothing is.`,
		Example: `  lockstep observe
  lockstep observe berlin --kind session --since 10m
  lockstep observe --failures --since 24h --follow=false
  lockstep observe -o json | jq -c 'select(.observation.check.ok == false)'`,
		ValidArgsFunction: s.every(clusterIDs),
		RunE: func(c *cobra.Command, args []string) error {
			from, err := s.moment("since", since)
			if err != nil {
				return err
			}
			if req.Kinds, err = observationKinds(kinds); err != nil {
				return err
			}
			if limit < 0 {
				return usage("--limit %d is not a number of observations", limit)
			}
			if req.Clusters, err = clusterArgs(args); err != nil {
				return err
			}
			req.Since = from
			cl, err := s.dial()
			if err != nil {
				return err
			}
			defer cl.close()
			return s.observe(c.Context(), cl, req, limit, out)
		},
	}
	s.connectionFlags(c)
	outputFlag(c, &out, "table", "wide", "json")
	flags := c.Flags()
	flags.StringVar(&since, "since", "", "begin with what was seen since then: "+momentWords)
	flags.BoolVarP(&req.Follow, "follow", "f", true, "stay for what comes")
	flags.StringSliceVar(&kinds, "kind", nil, "only these kinds: inventory, session, registration, package, probe, health, pipeline")
	flags.StringSliceVar(&req.Sources, "source", nil, "only from these sources, such as hub-session")
	flags.BoolVar(&req.Failures, "failures", false, "only what failed")
	flags.BoolVar(&req.Marks, "marks", false, "also progress marks")
	flags.IntVarP(&limit, "limit", "n", 0, "end after so many; 0 is no limit")
	if err := c.RegisterFlagCompletionFunc("kind", cobra.FixedCompletions(observationKindNames(), cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic("cli: " + err.Error()) // only when the command has no such flag
	}
	return c
}

func observationKindNames() []string {
	kinds := fleet.Kinds()
	names := make([]string, len(kinds))
	for i, kind := range kinds {
		names[i] = string(kind)
	}
	return names
}

// observationKinds takes the plural for the kind.
func observationKinds(given []string) ([]string, error) {
	known := observationKindNames()
	var out []string
	for _, kind := range given {
		singular := strings.TrimSuffix(kind, "s")
		switch {
		case slices.Contains(known, kind):
			out = append(out, kind)
		case slices.Contains(known, singular):
			out = append(out, singular)
		default:
			return nil, usage("--kind %q is none of %s", kind, strings.Join(known, ", "))
		}
	}
	return unique(out), nil
}

func unique(list []string) []string {
	var out []string
	for _, one := range list {
		if !slices.Contains(out, one) {
			out = append(out, one)
		}
	}
	return out
}

// errEnough ends a watch that has shown as much as was asked for.
var errEnough = errors.New("enough is shown")

// observe prints what comes. A lost connection is taken up again behind the last
// record shown.
func (s *shell) observe(ctx context.Context, cl *client, req *observationv1.WatchObservationsRequest, limit int, out string) error {
	show := s.observationLine(out)
	var last *observationv1.Record
	shown := 0
	each := func(r *observationv1.Record) error {
		if last != nil && !after(r, last) {
			return nil
		}
		last = r
		if err := show(r); err != nil {
			return err
		}
		if shown++; limit > 0 && shown == limit {
			return errEnough
		}
		return nil
	}
	var lostAt time.Time // zero while connected
	ever := false
	for {
		if last != nil {
			// A second before it: the bus tells times apart less finely than places.
			req.Since = timestamppb.New(last.GetReceivedAt().AsTime().Add(-time.Second))
		}
		err := cl.observations(ctx, req, func() {
			if !lostAt.IsZero() {
				s.talk("The server answers again.")
				lostAt = time.Time{}
			}
			ever = true
		}, each)
		switch {
		case ctx.Err() != nil || errors.Is(err, errEnough) || err == nil && !req.GetFollow():
			return nil //nolint:nilerr // interrupted, which is how a watch ends, or all is shown
		case err != nil && (!ever || lostAt.IsZero() && !passing(err)):
			return err
		case lostAt.IsZero():
			lostAt = s.Now()
			s.talk("The connection to %s is lost; trying again.", cl.server)
		case s.Now().Sub(lostAt) > patience:
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
}

// after says whether a record stands behind another.
func after(r, last *observationv1.Record) bool {
	return cmp.Or(cmp.Compare(r.GetStreamSequence(), last.GetStreamSequence()), cmp.Compare(r.GetIndex(), last.GetIndex())) > 0
}

// observations calls stands once the server has taken the call, and each with
// every record until the stream ends.
func (c *client) observations(ctx context.Context, req *observationv1.WatchObservationsRequest, stands func(), each func(*observationv1.Record) error) error {
	const doing = "watch observations"
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.observation.WatchObservations(ctx, req)
	if err != nil {
		return c.failed(doing, err)
	}
	for {
		m, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return c.failed(doing, err)
		}
		stands()
		for _, r := range m.GetRecords() {
			if err := each(r); err != nil {
				return err
			}
		}
	}
}

// observationLine prints one record a line; the columns are as wide as they have
// been needed so far.
func (s *shell) observationLine(out string) func(*observationv1.Record) error {
	if out == "json" {
		return func(r *observationv1.Record) error { return s.line(r) }
	}
	wide := out == "wide"
	headed := false
	widths := []int{len("2026-03-01 12:00:00"), 10, len("registration")}
	if wide {
		widths = append(widths, 16, 32)
	}
	return func(r *observationv1.Record) error {
		o := r.GetObservation()
		row := []string{s.stamp(o.GetObservedAt()), clean(o.GetCluster()), observationKind(o)}
		header := []string{"SEEN", "CLUSTER", "KIND"}
		if wide {
			row, header = append(row, clean(r.GetSource()), clean(o.GetId())), append(header, "SOURCE", "ID")
		}
		row, header = append(row, s.observed(o)), append(header, "WHAT")
		for i := range widths {
			widths[i] = max(widths[i], len([]rune(row[i])))
		}
		var b strings.Builder
		if !headed {
			headed = true
			writeRow(&b, header, append(slices.Clone(widths), 0), false)
		}
		writeRow(&b, row, append(slices.Clone(widths), 0), s.colour)
		return s.print(b.String())
	}
}

// stamp is a time to the second, in the reader's place.
func (s *shell) stamp(t *timestamppb.Timestamp) string {
	if t == nil {
		return ""
	}
	return t.AsTime().In(s.Now().Location()).Format(time.DateTime)
}

func observationKind(o *observationv1.Observation) string {
	switch kind := o.GetKind().(type) {
	case *observationv1.Observation_Inventory:
		return string(fleet.KindInventory)
	case *observationv1.Observation_Session:
		return string(fleet.KindSession)
	case *observationv1.Observation_Mark:
		return "mark"
	case *observationv1.Observation_Registration:
		return string(fleet.KindRegistration)
	case *observationv1.Observation_Package:
		return string(fleet.KindPackage)
	case *observationv1.Observation_Check:
		return string(fleet.CheckKind(kind.Check.GetKind()).Kind())
	}
	return "unknown"
}

// observed says in a few words what was seen.
func (s *shell) observed(o *observationv1.Observation) string {
	switch kind := o.GetKind().(type) {
	case *observationv1.Observation_Inventory:
		return inventoryWords(kind.Inventory)
	case *observationv1.Observation_Session:
		return sessionWords(kind.Session)
	case *observationv1.Observation_Mark:
		return s.markWords(kind.Mark)
	case *observationv1.Observation_Registration:
		return s.registrationWords(kind.Registration)
	case *observationv1.Observation_Package:
		return packageWords(kind.Package)
	case *observationv1.Observation_Check:
		return s.checkWords(kind.Check)
	}
	return "something that this version of the command does not know"
}

// tally counts words and lists them, "3 gateway 5.0.1, 1 sra-web 3.1.0".
func tally(words []string) string {
	counts := make(map[string]int, len(words))
	var order []string
	for _, word := range words {
		if counts[word]++; counts[word] == 1 {
			order = append(order, word)
		}
	}
	slices.Sort(order)
	for i, word := range order {
		order[i] = fmt.Sprintf("%d %s", counts[word], word)
	}
	return strings.Join(order, ", ")
}

func inventoryWords(m *observationv1.Inventory) string {
	if len(m.GetInstances()) == 0 {
		return "nothing runs"
	}
	var words []string
	for _, i := range m.GetInstances() {
		word := i.GetComponent() + " " + cmp.Or(i.GetVersion(), i.GetTag(), i.GetDigest(), "of unknown version")
		var notes []string
		if health := i.GetHealth(); health != string(fleet.HealthHealthy) && health != string(fleet.HealthNone) {
			notes = append(notes, health)
		}
		if n := i.GetRestarts(); n > 0 {
			notes = append(notes, count(int64(n), "restart"))
		}
		if len(notes) > 0 {
			word += " (" + strings.Join(notes, ", ") + ")"
		}
		words = append(words, clean(word))
	}
	return tally(words)
}

func sessionWords(m *observationv1.Session) string {
	words := fleet.SessionStatus(m.GetStatus()).Event() + " " + m.GetId() + ": " + cmp.Or(m.GetUser(), "somebody") + " to " + cmp.Or(m.GetTarget(), "something")
	if m.GetProtocol() != "" {
		words += " by " + m.GetProtocol()
	}
	if m.GetProbe() {
		words += " (probe)"
	}
	if m.GetFailure() != "" || m.GetError() != "" {
		words += ": " + strings.TrimPrefix(m.GetFailure()+": "+m.GetError(), ": ")
	}
	return clean(strings.TrimSuffix(words, ": "))
}

func (s *shell) markWords(m *observationv1.Mark) string {
	about := cmp.Or(m.GetAbout(), string(fleet.KindSession))
	switch {
	case m.GetLost():
		return clean(about + ": lost for good: " + m.GetBlindReason())
	case m.GetBlind():
		return clean(about + ": not seen: " + m.GetBlindReason())
	}
	return clean(about + ": complete until " + s.stamp(m.GetCompleteUntil()))
}

func (s *shell) registrationWords(m *observationv1.Registration) string {
	var words []string
	for _, b := range m.GetBastions() {
		words = append(words, clean(cmp.Or(b.GetVersion(), "unreported")))
	}
	text := count(int64(len(words)), "bastion")
	if len(words) > 0 {
		text += " (" + tally(words) + ")"
	}
	for _, g := range m.GetGateways() {
		text += "; gateway " + clean(g.GetName()) + " " + clean(g.GetStatus())
	}
	if m.GetLastReport() != nil {
		text += "; last report " + s.stamp(m.GetLastReport())
	}
	return text
}

func packageWords(m *observationv1.Package) string {
	var words []string
	for _, r := range m.GetHelm() {
		word := fmt.Sprintf("%s: %s %s, revision %d, %s", r.GetName(), r.GetChart(), r.GetChartVersion(), r.GetRevision(), r.GetStatus())
		var versions []string
		for _, line := range slices.Sorted(maps.Keys(r.GetVersions())) {
			versions = append(versions, line+" "+r.GetVersions()[line])
		}
		if len(versions) > 0 {
			word += " (" + strings.Join(versions, ", ") + ")"
		}
		words = append(words, clean(word))
	}
	for _, c := range m.GetCompose() {
		if c.GetState() == string(fleet.ComposeSame) {
			continue
		}
		word := c.GetService() + " " + c.GetState()
		if len(c.GetDifferences()) > 0 {
			word += " (" + strings.Join(c.GetDifferences(), "; ") + ")"
		}
		words = append(words, clean(word))
	}
	if len(words) == 0 && len(m.GetCompose()) > 0 {
		words = append(words, count(int64(len(m.GetCompose())), "service")+" as declared")
	}
	if a := m.GetRemoteAccess(); a != nil {
		words = append(words, clean("remote access: recordings to "+cmp.Or(a.GetRecordingStorage(), "nowhere")+", logs to "+cmp.Or(a.GetLogForwarding(), "nowhere")))
	}
	return cmp.Or(strings.Join(words, "; "), "nothing is declared")
}

func (s *shell) checkWords(m *observationv1.Check) string {
	word := "ok"
	if !m.GetOk() {
		word = "failed"
	}
	text := word + " " + m.GetName() + " (" + m.GetKind() + " " + cmp.Or(m.GetTarget(), m.GetSession(), m.GetComponent()) + ")"
	if m.GetTook() != nil {
		text += " in " + m.GetTook().AsDuration().Round(100*time.Microsecond).String()
	}
	if detail := strings.TrimPrefix(m.GetFailure()+": "+m.GetDetail(), ": "); !m.GetOk() && detail != "" {
		text += ": " + detail
	}
	if at := m.GetCertificateExpiresAt(); at != nil {
		text += "; certificate until " + s.stamp(at)
	}
	return clean(text)
}
