package catalog_test

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lockstep-fleet/lockstep/domain/catalog"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

// assess judges one risk of a move.
func assess(t *testing.T, m catalog.Move, risk catalog.RiskID, acknowledged ...catalog.Acknowledgement) catalog.Assessment {
	t.Helper()
	all := catalog.Assess(m, acknowledged, noon)
	i := slices.IndexFunc(all, func(a catalog.Assessment) bool { return a.Risk == risk })
	if i < 0 {
		t.Fatalf("%s is not assessed", risk)
	}
	return all[i]
}

func remoteAccess(legacy *bool) *fleet.RemoteAccess {
	return &fleet.RemoteAccess{LegacySigning: legacy}
}

// A move is described by what it changes of one under which no risk is met.
func calm() catalog.Move {
	return catalog.Move{
		Cluster: "oslo", Release: "2.0.9", Engine: catalog.EngineKubernetes, Chart: catalog.GatewayChart, ChartVersion: "2.0.9",
		From: fleet.VersionSet{"gateway": "4.51.1", "sra": "3.0.3"}, To: fleet.VersionSet{"gateway": "4.52.0", "sra": "3.0.4"},
		RemoteAccess: remoteAccess(new(true)), Failures: map[fleet.Failure]int{}, OpenSSH: new(9), Restarts: new(false),
		Published: map[fleet.Line]bool{"gateway": true, "sra": true},
	}
}

func TestTheConditionsOfRisks(t *testing.T) {
	t.Parallel()
	const match, no, unknown = catalog.ConditionMatch, catalog.ConditionNoMatch, catalog.ConditionUnknown
	type row struct {
		change func(*catalog.Move)
		want   catalog.Condition
		detail string // a part of it
	}
	failed := func(class fleet.Failure) func(*catalog.Move) {
		return func(m *catalog.Move) { m.Failures[class] = 3 }
	}
	still := func(m *catalog.Move) { m.To = maps.Clone(m.From) }
	to := func(line fleet.Line, from, to string) func(*catalog.Move) {
		return func(m *catalog.Move) { m.From[line], m.To[line] = from, to }
	}
	all := func(changes ...func(*catalog.Move)) func(*catalog.Move) {
		return func(m *catalog.Move) {
			for _, change := range changes {
				change(m)
			}
		}
	}
	signing := func(legacy *bool) func(*catalog.Move) {
		return func(m *catalog.Move) { m.RemoteAccess = remoteAccess(legacy) }
	}
	unread := func(m *catalog.Move) { m.RemoteAccess = nil }
	unwatched := func(m *catalog.Move) { m.Failures = nil }
	unseen := func(m *catalog.Move) { m.From = nil }
	gatewayOnly := func(m *catalog.Move) { delete(m.To, "sra") }
	chart := func(name, version string) func(*catalog.Move) {
		return func(m *catalog.Move) { m.Chart, m.ChartVersion = name, version }
	}
	compose := func(user *string) func(*catalog.Move) {
		return func(m *catalog.Move) {
			m.Engine, m.SSHUser, m.Chart, m.ChartVersion = catalog.EngineCompose, user, "", ""
		}
	}
	nonRoot := to("sra", "3.0.3", "3.1.0")
	open := func(sessions *int) func(*catalog.Move) { return func(m *catalog.Move) { m.OpenSSH = sessions } }
	restarts := func(is *bool) func(*catalog.Move) {
		return func(m *catalog.Move) { m.To["sra"], m.Restarts = m.From["sra"], is }
	}
	for risk, rows := range map[catalog.RiskID]map[string]row{
		catalog.RiskLegacySSH: {
			"allowed":                      {func(*catalog.Move) {}, no, "are allowed"},
			"allowed, nothing watched":     {unwatched, no, "are allowed"},
			"allowed, nothing seen":        {unseen, no, "are allowed"},
			"not allowed, none failed":     {signing(new(false)), no, "no session failed"},
			"not allowed, nothing watched": {all(signing(new(false)), unwatched), unknown, "no sessions are seen"},
			"not told":                     {signing(nil), unknown, "was not read"},
			"not read":                     {unread, unknown, "was not read"},
			"some failed":                  {failed(fleet.FailureLegacySSH), match, "3 did"},
			"some failed, not read":        {all(failed(fleet.FailureLegacySSH), unread), match, "3 did"},
			"some failed, gateway alone":   {all(failed(fleet.FailureLegacySSH), gatewayOnly), match, "3 did"},
			"some failed, nothing moves":   {all(failed(fleet.FailureLegacySSH), still), no, "does not move"},
			"some failed, nothing seen":    {all(failed(fleet.FailureLegacySSH), unseen), unknown, "whether gateway moves is not known"},
			"some failed, other lines": {all(failed(fleet.FailureLegacySSH), func(m *catalog.Move) { m.To = fleet.VersionSet{"ztwa": "1"} }), no,
				"does not move"},
			"others failed": {failed(fleet.FailureTarget), no, "are allowed"},
		},
		catalog.RiskIssuerUsers: {
			"none failed":                {func(*catalog.Move) {}, no, "no session failed"},
			"nothing watched":            {unwatched, unknown, "no sessions are seen"},
			"nothing watched or moved":   {all(unwatched, still), no, "does not move"},
			"some failed":                {failed(fleet.FailureIssuerUsers), match, "3 did"},
			"some failed, nothing moves": {all(failed(fleet.FailureIssuerUsers), still), no, "does not move"},
			"some failed, nothing seen":  {all(failed(fleet.FailureIssuerUsers), unseen), unknown, "whether gateway moves"},
			"some failed, to latest": {all(failed(fleet.FailureIssuerUsers), gatewayOnly, to("gateway", "4.51.1", "latest")), unknown,
				"it runs 4.51.1 and goes to latest"},
			"some failed, from latest": {all(failed(fleet.FailureIssuerUsers), gatewayOnly, to("gateway", "latest", "4.52.0")), unknown,
				"it runs latest and goes to 4.52.0"},
			"some failed, latest": {all(failed(fleet.FailureIssuerUsers), to("gateway", "latest", "latest"), to("sra", "1", "1")), unknown,
				"it runs latest and goes to latest"},
		},
		catalog.RiskNonRoot: {
			"below it":                     {func(*catalog.Move) {}, no, "still runs as root"},
			"no sra":                       {gatewayOnly, no, "carries no sra"},
			"past it before":               {all(chart(catalog.LegacySRAChart, "1.0"), to("sra", "3.1.0", "3.2.0")), no, "runs without root already"},
			"past it before, as candidate": {all(chart(catalog.LegacySRAChart, "1.0"), to("sra", "3.1.0-rc.1", "3.2.0")), no, "runs without root already"},
			"back below it":                {all(chart(catalog.LegacySRAChart, "1.0"), to("sra", "3.1.0", "3.0.3")), no, "still runs as root"},
			"a new chart":                  {nonRoot, no, "not one of the older ones"},
			"an old chart":                 {all(nonRoot, chart(catalog.LegacySRAChart, "3.2.9")), match, "chart akeyless-sra 3.2.9 is older than 3.3.0"},
			"an old chart, candidate":      {all(chart(catalog.LegacySRAChart, "3.2.9"), to("sra", "3.0.3", "3.1.0-rc.1")), match, "needs root"},
			"an old chart, new enough":     {all(nonRoot, chart(catalog.LegacySRAChart, "3.3.0")), no, "3.3.0 or newer"},
			"an old chart, some version":   {all(nonRoot, chart(catalog.LegacySRAChart, "")), unknown, "chart akeyless-sra (unknown) is older"},
			"an old chart, sra not seen":   {all(nonRoot, chart(catalog.LegacySRAChart, "1.0"), unseen), unknown, "it runs (unknown) and goes to 3.1.0"},
			"an old chart, from latest":    {all(chart(catalog.LegacySRAChart, "1.0"), to("sra", "latest", "3.1.0")), unknown, "it runs latest"},
			"an old chart, to latest":      {all(chart(catalog.LegacySRAChart, "1.0"), to("sra", "3.0.3", "latest")), unknown, "goes to latest"},
			"past it before, to latest":    {all(chart(catalog.LegacySRAChart, "1.0"), to("sra", "3.1.0", "latest")), no, "runs without root already"},
			"a new chart, sra not seen":    {all(nonRoot, unseen), no, "not one of the older ones"},
			"another chart":                {all(nonRoot, chart("umbrella", "9.0")), unknown, "whether chart umbrella"},
			"no chart":                     {all(nonRoot, chart("", "")), unknown, "whether chart (unknown)"},
			"compose as root":              {all(nonRoot, compose(new("0:0"))), no, "as root"},
			"compose as root by name":      {all(nonRoot, compose(new("root:root"))), no, "as root"},
			"compose as nobody":            {all(nonRoot, compose(new(""))), match, "sets no user"},
			"compose as somebody":          {all(nonRoot, compose(new("0:1000"))), match, "user 0:1000"},
			"compose not read":             {all(nonRoot, compose(nil)), unknown, "was not read"},
			"compose as nobody, not seen":  {all(nonRoot, compose(new("")), unseen), unknown, "it runs (unknown)"},
			"compose as nobody, below it":  {compose(new("")), no, "still runs as root"},
			"no engine":                    {all(nonRoot, func(m *catalog.Move) { m.Engine = "" }), unknown, "Kubernetes or with Compose"},
			"another engine":               {all(nonRoot, func(m *catalog.Move) { m.Engine = "nomad" }), unknown, "Kubernetes or with Compose"},
		},
		catalog.RiskMetrics: {
			"below it":           {func(*catalog.Move) {}, no, "on one side"},
			"past it":            {to("gateway", "4.52.0", "5.0.0"), match, "from 4.52.0 to 5.0.0"},
			"past it, candidate": {to("gateway", "4.52.0", "5.0.0-rc.1"), match, "from 4.52.0"},
			"from a candidate":   {to("gateway", "5.0.0-rc.1", "5.0.0"), no, "on one side"},
			"back below it":      {to("gateway", "5.0.1", "4.52.0"), match, "from 5.0.1 to 4.52.0"},
			"malformed":          {to("gateway", "4.52.0_1", "5.0.1_3.3.0"), match, "to 5.0.1_3.3.0"},
			"not moved":          {still, no, "gateway does not move"},
			"no gateway":         {func(m *catalog.Move) { delete(m.To, "gateway") }, no, "gateway does not move"},
			"not seen":           {unseen, unknown, "it runs (unknown) and goes to 4.52.0"},
			"from latest":        {to("gateway", "latest", "5.0.0"), unknown, "it runs latest"},
			"latest both times":  {to("gateway", "latest", "latest"), unknown, "it runs latest"},
			"from a digest":      {to("gateway", "sha256:"+strings.Repeat("0", 64), "5.0.0"), unknown, "it runs sha256:"},
			"one digest":         {to("gateway", "sha256:"+strings.Repeat("0", 64), "sha256:"+strings.Repeat("0", 64)), no, "gateway does not move"},
		},
		catalog.RiskUnpublished: {
			"published":              {func(*catalog.Move) {}, no, "every image"},
			"missing":                {func(m *catalog.Move) { m.Published["sra"] = false }, match, "no image of sra 3.0.4"},
			"both missing":           {func(m *catalog.Move) { clear(m.Published); m.Published["sra"], m.Published["gateway"] = false, false }, match, "gateway 4.52.0 and sra 3.0.4"},
			"not asked":              {func(m *catalog.Move) { delete(m.Published, "sra") }, unknown, "an image of sra was not asked"},
			"nothing asked":          {func(m *catalog.Move) { m.Published = nil }, unknown, "gateway and sra"},
			"missing, not all asked": {func(m *catalog.Move) { m.Published = map[fleet.Line]bool{"gateway": false} }, match, "no image of gateway 4.52.0"},
			"another line missing":   {func(m *catalog.Move) { m.Published["ztwa"] = false }, no, "every image"},
			"carries nothing known":  {func(m *catalog.Move) { m.To = nil }, unknown, "what the release carries"},
		},
		catalog.RiskReconnectBurst: {
			"few open":                 {func(*catalog.Move) {}, no, "9 SSH sessions are open"},
			"few open, nothing seen":   {unseen, no, "9 SSH sessions are open"},
			"many open":                {open(new(10)), match, "with 10 SSH sessions open"},
			"many open, not seen":      {all(open(new(10)), unseen), unknown, "whether sra moves is not known"},
			"open not known":           {open(nil), unknown, "how many SSH sessions are open is not known"},
			"refused lately":           {failed(fleet.FailureTooManyOpen), match, "3 sessions were refused"},
			"refused, open not known":  {all(failed(fleet.FailureTooManyOpen), open(nil)), match, "3 sessions were refused"},
			"nothing watched":          {unwatched, no, "9 SSH sessions"},
			"many open, no restart":    {all(open(new(10)), restarts(new(false))), no, "no bastion restarts"},
			"many open, restart":       {all(open(new(10)), restarts(new(true))), match, "with 10 SSH"},
			"many open, who knows":     {all(open(new(10)), restarts(nil)), unknown, "restart all the same is not known"},
			"few open, who knows":      {restarts(nil), no, "9 SSH sessions"},
			"many open, gateway alone": {all(open(new(10)), gatewayOnly), no, "no bastion restarts"},
		},
	} {
		for name, c := range rows {
			t.Run(string(risk)+"/"+name, func(t *testing.T) {
				t.Parallel()
				m := calm()
				c.change(&m)
				a := assess(t, m, risk)
				if a.Condition != c.want || !strings.Contains(a.Detail, c.detail) || a.Closed != (c.want != no) {
					t.Errorf("%s, closed %v: %q; want %s by %q", a.Condition, a.Closed, a.Detail, c.want, c.detail)
				}
			})
		}
	}
}

func TestNothingKnownOpensNothing(t *testing.T) {
	t.Parallel()
	for _, a := range catalog.Assess(catalog.Move{}, nil, noon) {
		// Where nothing is known to move, a risk of moving is not met.
		closed := a.Risk == catalog.RiskUnpublished || a.Risk == catalog.RiskReconnectBurst
		if a.Closed != closed || a.Acknowledged != nil {
			t.Errorf("%+v", a)
		}
	}
	bare := catalog.Move{To: fleet.VersionSet{"gateway": "5.0.0", "sra": "3.1.0"}}
	for _, a := range catalog.Assess(bare, nil, noon) {
		if a.Condition != catalog.ConditionUnknown || !a.Closed {
			t.Errorf("%+v", a)
		}
	}
}

func TestEveryRiskSaysWhatItIsAndWhatToDo(t *testing.T) {
	t.Parallel()
	var got []catalog.RiskID
	for i, r := range catalog.Risks() {
		got = append(got, r.ID)
		a := catalog.Assess(calm(), nil, noon)[i]
		if r.Title == "" || r.Remedy == "" || a.Risk != r.ID || a.Title != r.Title || a.Remedy != r.Remedy || a.Condition != catalog.ConditionNoMatch || a.Detail == "" || a.Closed {
			t.Errorf("%+v is assessed as %+v", r, a)
		}
		if found, ok := catalog.LookupRisk(r.ID); !ok || found != r {
			t.Errorf("%s is looked up as %+v", r.ID, found)
		}
	}
	want := []catalog.RiskID{"legacy-ssh-algorithms", "issuer-session-users", "nonroot-3.1", "metrics-5.0", "unpublished-image", "reconnect-burst"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestAnAcknowledgementOpensWhatItIsAbout(t *testing.T) {
	t.Parallel()
	m := calm()
	m.From["gateway"], m.To["gateway"] = "4.52.0", "5.0.0"
	yes := func(change func(*catalog.Acknowledgement)) catalog.Acknowledgement {
		a := catalog.Acknowledgement{Risk: catalog.RiskMetrics, Owner: "anna", Reason: "so be it"}
		change(&a)
		return a
	}
	anywhere := yes(func(*catalog.Acknowledgement) {})
	ofRelease := yes(func(a *catalog.Acknowledgement) { a.Release = "2.0.9" })
	inCluster := yes(func(a *catalog.Acknowledgement) { a.Cluster = "oslo" })
	ofBoth := yes(func(a *catalog.Acknowledgement) { a.Cluster, a.Release = "oslo", "2.0.9" })
	ended := yes(func(a *catalog.Acknowledgement) { a.Cluster, a.Release, a.Expires = "oslo", "2.0.9", noon })
	lasts := yes(func(a *catalog.Acknowledgement) { a.Expires = noon.Add(time.Nanosecond) })
	for name, c := range map[string]struct {
		given []catalog.Acknowledgement
		want  *catalog.Acknowledgement
	}{
		"none":                {nil, nil},
		"any release":         {[]catalog.Acknowledgement{anywhere}, &anywhere},
		"this release":        {[]catalog.Acknowledgement{anywhere, ofRelease}, &ofRelease},
		"this cluster":        {[]catalog.Acknowledgement{inCluster, ofRelease, anywhere}, &inCluster},
		"both":                {[]catalog.Acknowledgement{anywhere, inCluster, ofBoth, ofRelease}, &ofBoth},
		"ended":               {[]catalog.Acknowledgement{ended}, nil},
		"ended, a wider left": {[]catalog.Acknowledgement{anywhere, ended}, &anywhere},
		"not ended":           {[]catalog.Acknowledgement{lasts}, &lasts},
		"another risk":        {[]catalog.Acknowledgement{yes(func(a *catalog.Acknowledgement) { a.Risk = catalog.RiskNonRoot })}, nil},
		"another release":     {[]catalog.Acknowledgement{yes(func(a *catalog.Acknowledgement) { a.Release = "2.0.8" })}, nil},
		"another cluster":     {[]catalog.Acknowledgement{yes(func(a *catalog.Acknowledgement) { a.Cluster = "bern" })}, nil},
		"half another":        {[]catalog.Acknowledgement{yes(func(a *catalog.Acknowledgement) { a.Cluster, a.Release = "oslo", "2.0.8" })}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := assess(t, m, catalog.RiskMetrics, c.given...)
			if diff := cmp.Diff(c.want, a.Acknowledged); diff != "" {
				t.Error(diff)
			}
			if a.Condition != catalog.ConditionMatch || a.Closed != (c.want == nil) {
				t.Errorf("%s, closed %v", a.Condition, a.Closed)
			}
		})
	}
}
