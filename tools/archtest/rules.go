package main

import "slices"

// testHelper covers the packages that exist to be imported by tests.
const testHelper = "./.../*test"

// files says which files of a package a rule governs.
type files int

const (
	all        files = iota
	production       // what the product is built from
	tests            // _test.go files, packages for tests, and integration/
	code             // all but _test.go files, whose TestMain is a main of its own
)

// rule is one forbidden kind of arrow or one habit. A rule with Only or Never
// judges imports, one with Uses judges names of other packages that a file
// mentions, one with Syntax or Text judges what stands in the file itself, one
// with Folder judges all files of a package together.
type rule struct {
	ID    string
	Title string

	From    []string // packages it governs; none means all
	NotFrom []string // packages it spares
	Files   files
	NotMain bool // spares package main

	Only   []string // imports that are allowed; any other breaks the rule
	Never  []string // imports that break the rule
	Within string   // arrows inside one folder that this pattern covers are free
	Reach  bool     // Never holds for what the imports import, too
	Uses   []string // importpath.Name, with * in Name
	Syntax []string // keys of the table in check.go
	Text   []string // beginnings of string constants
	Folder string   // key of the table in habits.go

	Why     string
	Instead string
}

// exception allows one arrow that a rule forbids. Each has a reason that a
// reviewer accepted; a wish to go home is none.
type exception struct {
	Rule string
	From string
	To   string
	Why  string
}

// technology is a foreign library that one place alone may import, so that it
// can be replaced, upgraded and mocked there.
type technology struct {
	ID        string
	Modules   []string
	Importers []string
	Tests     bool // test files anywhere may import it as well
	Instead   string
}

func exceptions() []exception {
	return []exception{
		{"adapter-adapter", "./adapters/compose/...", "./adapters/docker/...", "a Compose project runs on one Docker Engine: both share the connection and the reading of containers"},
		{"adapter-adapter", "./adapters/helm/...", "./adapters/kube/...", "a Helm target is a Kubernetes namespace: both share the connection and the reading of pods"},
		{"one-clickhouse", "./adapters/chdb/...", "github.com/ClickHouse/clickhouse-go/v2/lib/proto/...", "the embedded engine answers clickhouse-go, whose first query is decoded with the client's own protocol revision"},
		{"one-docker", "./integration/compose/...", "...", "the suite of the Docker and Compose adapters looks at the Engine past them, or it would believe what it is to check"},
		{"one-kubernetes", "./integration/kube/...", "...", "the suite of the Kubernetes adapter deploys and installs with other hands than the adapter's, or it would believe what it is to check"},
		{"one-kubernetes", "./integration/drift/...", "...", "the story of drift updates workloads and installs charts as people do, past the product"},
		{"one-kubernetes", "./integration/lab/kube/...", "...", "the lab runs the real Kubernetes API server, which is built from its own modules"},
		{"one-telemetry", "./adapters/probe/health/...", "github.com/prometheus/common/...", "the gateway's metrics are read in the format that this library defines; nothing of our own is counted with it"},
		{"one-telemetry", "./adapters/probe/health/...", "github.com/prometheus/client_model/...", "what the library for that format reads into"},
		{"production-testing", "./services/evaluator/...", "./domain/backtest/...", "a backtest is what the product does and no helper of tests"},
		{"one-clickhouse", "./adapters/chdb/...", "github.com/ClickHouse/ch-go/proto/...", "the embedded engine writes the same Native blocks that clickhouse-go reads"},
	}
}

func technologies() []technology {
	return []technology{
		{
			ID: "one-nats", Modules: []string{"github.com/nats-io/nats.go/...", "github.com/synadia-io/orbit.go/..."},
			Importers: []string{"./kit/bus/natsbus/..."}, Tests: true,
			Instead: "use the interfaces of kit/bus; what they lack is added there",
		},
		{
			ID: "one-cel", Modules: []string{"cel.dev/cel-go/..."},
			Importers: []string{"./gatefile/..."}, Instead: "compile rules with gatefile.Compile",
		},
		{
			ID: "one-nats-server", Modules: []string{"github.com/nats-io/nats-server/..."},
			Importers: []string{"./cmd/lockstep/..."}, Tests: true,
			Instead: "let cmd/lockstep start the server and hand over a connection",
		},
		{
			ID: "one-clickhouse", Modules: []string{"github.com/ClickHouse/..."},
			Importers: []string{"./adapters/clickhouse/..."},
			Instead:   "declare the small interface you need; adapters/clickhouse has the method behind it",
		},
		{
			ID: "one-chdb", Modules: []string{"github.com/ebitengine/purego/...", "github.com/chdb-io/..."},
			Importers: []string{"./adapters/chdb/..."},
			Instead:   "speak to the engine through adapters/clickhouse, as to any ClickHouse server",
		},
		{
			ID: "one-docker", Modules: []string{"github.com/docker/...", "github.com/moby/...", "github.com/compose-spec/..."},
			Importers: []string{"./adapters/docker/...", "./adapters/compose/..."},
			Instead:   "ask adapters/docker or adapters/compose, in words of domain/fleet",
		},
		{
			ID: "one-telemetry", Modules: []string{"go.opentelemetry.io/otel/sdk/...", "go.opentelemetry.io/otel/exporters/...", "go.opentelemetry.io/contrib/...", "github.com/prometheus/..."},
			Importers: []string{"./kit/obs/..."}, Tests: true,
			Instead: "take a TracerProvider or MeterProvider of go.opentelemetry.io/otel/trace and metric; kit/obs makes them",
		},
		{
			ID: "one-s3", Modules: []string{"github.com/minio/..."},
			Importers: []string{"./adapters/s3/..."},
			Instead:   "ask adapters/s3, in words of domain/fleet",
		},
		{
			ID: "one-oci", Modules: []string{"oras.land/..."},
			Importers: []string{"./adapters/helm/..."},
			Instead:   "ask adapters/helm, in words of domain/catalog",
		},
		{
			ID: "one-kubernetes", Modules: []string{"k8s.io/...", "sigs.k8s.io/...", "helm.sh/..."},
			Importers: []string{"./adapters/kube/...", "./adapters/helm/..."},
			Instead:   "ask adapters/kube or adapters/helm, in words of domain/fleet",
		},
	}
}

// rules returns every rule, the technologies' among them.
func rules() []rule {
	pure := []string{
		"bytes", "cmp", "container/*", "crypto/sha256", "encoding/binary", "encoding/hex", "errors", "fmt",
		"hash", "hash/fnv", "iter", "maps", "math", "math/big", "math/bits", "regexp", "slices", "sort",
		"strconv", "strings", "time", "unicode", "unicode/utf8",
	}
	testLibraries := []string{
		"testing/...", "net/http/httptest", "go.uber.org/goleak/...", "pgregory.net/rapid/...",
		"github.com/google/go-cmp/...", "gotest.tools/...", "github.com/stretchr/testify/...",
	}
	out := []rule{
		{
			ID: "domain-imports", Title: "domain imports only domain and a short list of pure packages",
			From: []string{"./domain/..."}, Files: production,
			Only:    slices.Concat([]string{"./domain/..."}, pure),
			Why:     "a decision must be replayable anywhere from its inputs: no clock, chance, context, I/O, logger or wire format",
			Instead: "take the value as a parameter and return what to do as data; the shell that calls Decide acts on it",
		},
		{
			ID: "domain-test-imports", Title: "domain's tests import only domain, the standard library and test libraries",
			From: []string{"./domain/..."}, Files: tests,
			Only:    slices.Concat([]string{"./domain/...", "std", "golang.org/x/tools/txtar"}, testLibraries),
			Why:     "a rule that needs an adapter or a service to be tested is not a rule",
			Instead: "build inputs with domain/domaintest; test the shell beside the shell",
		},
		{
			ID: "domain-clock", Title: "domain reads no clock, time zone file or terminal",
			From: []string{"./domain/..."}, Files: production,
			Uses: []string{
				"time.Now", "time.Since", "time.Until", "time.After", "time.AfterFunc", "time.NewTimer", "time.NewTicker",
				"time.Tick", "time.Sleep", "time.Local", "time.LoadLocation", "fmt.Print*", "fmt.Scan*",
			},
			Why:     "the same inputs must give the same decision at any time on any machine",
			Instead: "pass now (and a *time.Location) in; return WakeAt for a timer",
		},
		{
			ID: "domain-goroutine", Title: "domain starts no goroutine",
			From: []string{"./domain/..."}, Files: production, Syntax: []string{"go"},
			Why:     "an order of events that the scheduler chose cannot be replayed",
			Instead: "return several commands; the shell may run them side by side",
		},
		{
			ID: "service-service", Title: "a service does not import another service",
			From: []string{"./services/..."}, Never: []string{"./services/..."}, Within: "./services/*", Reach: true,
			Why:     "services must work the same in one process and in four",
			Instead: "send a message on a subject of topology, or call the other service's Connect API",
		},
		{
			ID: "service-adapter", Title: "a service does not import an adapter",
			From: []string{"./services/..."}, NotFrom: []string{"./services/*/cmd/..."}, Files: production,
			Never: []string{"./adapters/..."}, Reach: true,
			Why:     "a service that names a technology cannot be tested without it or moved to another",
			Instead: "declare the one to three methods you need beside their caller; cmd hands the adapter in",
		},
		{
			ID: "kit-product", Title: "kit imports nothing of the product",
			From: []string{"./kit/..."}, Never: []string{"./..."}, Within: "./kit",
			Why:     "kit is how any process lives; a product word in it turns every change of the product into a change of everything",
			Instead: "make the type generic, or take it as a parameter or an interface",
		},
		{
			ID: "proto-alone", Title: "proto imports nothing else of this repository",
			From: []string{"./proto/..."}, Never: []string{"./..."}, Within: "./proto",
			Why:     "proto is all that outsiders import, and must come without the product",
			Instead: "convert in codec",
		},
		{
			ID: "import-cmd", Title: "nothing imports a command",
			Never: []string{"./.../cmd/..."}, Within: "./.../cmd/*",
			Why:     "a command is a list of what to wire; what others need of it belongs to a package with a name",
			Instead: "move the shared part out of cmd",
		},
		{
			ID: "import-integration", Title: "nothing imports integration",
			Never: []string{"./integration/..."}, Within: "./integration",
			Why:     "integration drives the product from outside and brings an Engine along",
			Instead: "move the shared part to a package of the product, or the test to integration",
		},
		{
			ID: "adapter-adapter", Title: "an adapter imports another only where that is listed",
			From: []string{"./adapters/..."}, Files: production,
			Never: []string{"./adapters/..."}, Within: "./adapters/*",
			Why:     "adapters that lean on one another cannot be replaced one at a time",
			Instead: "let cmd hand one to the other behind an interface, or list the pair with its reason in exceptions()",
		},
		{
			ID: "client-connect", Title: "the CLI and the console speak Connect, and nothing else",
			From: []string{"./cmd/lockstep/internal/cli/...", "./console/..."}, Files: production,
			Never: []string{"./services/...", "./adapters/...", "./kit/bus/...", "./topology/..."}, Reach: true,
			Why:     "what a person can do with the CLI must work from another machine and pass the same checks as any other client",
			Instead: "add the call to the service's API in proto/",
		},
		{
			ID: "production-testing", Title: "production code imports no testing package",
			Files:   production,
			Never:   slices.Concat([]string{testHelper}, testLibraries),
			Why:     "test helpers register flags, panic freely and pull their own dependencies into the binary",
			Instead: "move the helper to a _test.go file or to a package named after what it helps, such as domaintest",
		},
		{
			ID: "global-exit", Title: "only package main exits or takes signals",
			Files: code, NotMain: true, Uses: []string{"os.Exit", "os/signal.Notify*", "os/signal.Ignore", "os/signal.Reset", "log.Fatal*"},
			Why:     "an exit inside a package skips the drains of every other role, and two owners of a signal mean none",
			Instead: "return the error; main exits. take the context that main cancels",
		},
		{
			ID: "global-telemetry", Title: "only package main sets a global logger or telemetry provider",
			NotMain: true,
			Uses: []string{
				"log/slog.SetDefault", "log.SetOutput", "log.SetFlags", "log.SetPrefix", "log.SetDefault",
				"go.opentelemetry.io/otel.Set*", "go.opentelemetry.io/otel/log/global.Set*",
				"github.com/prometheus/client_golang/prometheus.MustRegister", "github.com/prometheus/client_golang/prometheus.Register",
			},
			Why:     "telemetry is handed in; a global makes two roles in one process write under one name",
			Instead: "take a *slog.Logger, a provider or a prometheus.Registerer as a parameter",
		},
		{
			ID: "hidden-init", Title: "no init function outside package main",
			NotFrom: []string{"./proto/gen/..."}, NotMain: true, Syntax: []string{"init"},
			Why:     "what runs on import cannot be ordered, configured, tested or refused",
			Instead: "write a constructor and call it where the value is needed",
		},
		{
			ID: "sleep", Title: "nothing sleeps",
			Uses:    []string{"time.Sleep"},
			Why:     "a sleep in a test is either too short or too long, and one in the product cannot be cut short when the process is to stop",
			Instead: "wait for what you wait for: a channel, a context, a timer in a select; test loops in testing/synctest",
		},
		{
			ID: "leaks", Title: "a package that starts goroutines looks for leaked ones in its tests",
			NotFrom: []string{"./integration/...", "./proto/..."}, Folder: "leaks",
			Why:     "a goroutine that outlives its owner holds memory, sockets and locks of a process that may run for months",
			Instead: "call goleak.VerifyTestMain in TestMain or goleak.Find in a test, or test in testing/synctest bubbles, which do not end before their goroutines",
		},
		{
			ID: "dot-import", Title: "no dot imports",
			Syntax:  []string{"dot"},
			Why:     "a dot import hides where a name comes from, from readers and from this check",
			Instead: "import the package by its name",
		},
		{
			ID: "subject-names", Title: "subjects are spelt in topology only",
			NotFrom: []string{"./topology/..."}, Files: production,
			Text:    []string{"lockstep.obs.", "lockstep.evt.", "lockstep.cmd.", "lockstep.dlq."},
			Why:     "two services that spell the same subject would both write it, and nobody could list who owns what",
			Instead: "call the function of topology that builds the subject; add it there with its owner",
		},
		{
			ID: ownersRule, Title: "each stream, bucket, noun and table has one owner",
			From:    []string{"./topology/..."},
			Why:     "two writers of one subject, bucket or table undo each other's facts",
			Instead: "name one owning service in topology; the other asks it by a message",
		},
	}
	for _, t := range technologies() {
		r := rule{
			ID: t.ID, Title: "one importer per technology", NotFrom: t.Importers, Never: t.Modules,
			Why:     "a technology that one folder knows can be upgraded, replaced and faked there",
			Instead: t.Instead,
		}
		if t.Tests {
			r.Files = production
		}
		out = append(out, r)
	}
	return out
}
