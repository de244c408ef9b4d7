// Package fleetfile owns Lockstep's one configuration file, fleet.yaml: its
// shape, its defaults and what makes it acceptable, also where the parts of it
// that describe the fleet come as a document of their own. It does not own how
// files are read (kit/config) and opens none of those that it names, and it does
// not know which releases there are or what was declared when.
package fleetfile

import (
	"cmp"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/gatefile"
	"github.com/lockstep-fleet/lockstep/kit/config"
	"github.com/lockstep-fleet/lockstep/kit/rpc"
)

// File is fleet.yaml. Each field is worded for people by its "comment" tag and,
// where there is no default to show, by an "example" tag that holds YAML; that of
// a section goes before those of its keys. The printed defaults and the
// reference are made from these.
type File struct {
	Server    Server              `yaml:"server" comment:"where the server listens and keeps its data"`
	Access    Access              `yaml:"access" comment:"who may call the API besides the administrator"`
	Bus       Bus                 `yaml:"bus" comment:"where messages go"`
	Store     Store               `yaml:"store" comment:"where history is kept"`
	Log       Log                 `yaml:"log" comment:"what the server says on standard error"`
	Vendor    *Vendor             `yaml:"vendor" comment:"the vendor's API, which shows sessions and registered bastions; without it no sessions are seen and gates stay inconclusive"`
	Releases  []Release           `yaml:"releases" comment:"the sets of images that belong together"`
	Clusters  []Cluster           `yaml:"clusters" comment:"the places where a gateway and its SRA components run together"`
	Inventory Inventory           `yaml:"inventory" comment:"how engines are asked what runs"`
	Collector Collector           `yaml:"collector" comment:"how what is seen is kept until the bus has it"`
	Drift     Drift               `yaml:"drift" comment:"when a mix is too long, a disagreement a split and a silence darkness"`
	Rollout   Rollout             `yaml:"rollout" comment:"what a rollout may do to one cluster"`
	Gate      gatefile.Statistics `yaml:"gate" comment:"the numbers of the session gate; rates are fractions of 1"`
	Notify    Notify              `yaml:"notify" comment:"who is told"`
}

// Server is where the server listens and keeps its data.
type Server struct {
	Listen      string      `yaml:"listen" comment:"host and port of the API; it is plain HTTP and tokens travel in it: away from loopback, put TLS in front"`
	AdminListen string      `yaml:"admin_listen" comment:"host and port of health, metrics and profiles, which ask for no token; off for none"`
	DataDir     config.Path `yaml:"data_dir" comment:"bus, history and admin.token; used by one server at a time; empty: $XDG_DATA_HOME/lockstep, else ~/.local/share/lockstep"`
}

// Off is the admin_listen of a server that has no such listener.
const Off = "off"

// URL is where clients on the same machine reach the API.
func (s Server) URL() string { return local(s.Listen) }

// AdminURL is where the same machine asks for health and metrics; empty when
// the server does not listen for that.
func (s Server) AdminURL() string {
	if s.AdminListen == Off {
		return ""
	}
	return local(s.AdminListen)
}

func local(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return "http://" + listen
	}
	// Listening on every address is not an address to call.
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, port)
}

// TokenFile is where the server leaves the administrator's token.
func (s Server) TokenFile() string { return filepath.Join(string(s.DataDir), "admin.token") }

// Access says who may call the API besides the administrator.
type Access struct {
	Tokens []Token `yaml:"tokens" comment:"tokens besides admin.token, each known by its hash only"`
}

// Token lets its bearer do what a role may do.
type Token struct {
	Name   string         `yaml:"name" comment:"who it is given to; the log names it; admin is taken, by the token in admin.token" example:"ci"`
	Role   string         `yaml:"role" comment:"viewer, operator, approver (nothing waits for an approval yet) or admin" example:"operator"`
	Tenant fleet.TenantID `yaml:"tenant" comment:"the tenant it acts for; only default exists so far"`
	SHA256 string         `yaml:"sha256" comment:"the token's SHA-256, as lockstep token create prints it" example:"0000000000000000000000000000000000000000000000000000000000000000"`
}

// adminName is what the server calls the administrator, whose token it makes
// itself.
const adminName = "admin"

// Hash is the token's hash as kit/rpc writes it.
func (t Token) Hash() string { return hashPrefix + t.SHA256 }

const hashPrefix = "sha256:"

// NewToken makes a token and what a configuration knows it by.
func NewToken(name, role string, tenant fleet.TenantID) (token string, known Token) {
	token = rpc.NewToken()
	return token, Token{Name: name, Role: role, Tenant: tenant, SHA256: strings.TrimPrefix(rpc.HashToken(token), hashPrefix)}
}

// Bus is where messages go.
type Bus struct {
	URL             string      `yaml:"url" comment:"NATS servers with JetStream, nats://host:4222, several parted by commas; empty: the embedded bus"`
	CredentialsFile config.Path `yaml:"credentials_file" comment:"a NATS credentials file, for bus.url"`
	Replicas        int         `yaml:"replicas" comment:"copies of every stream and bucket: 1, 3 or 5; more than 1 needs bus.url"`
}

// Store is where history is kept.
type Store struct {
	DSNFile config.Path `yaml:"dsn_file" comment:"a file that holds the DSN of a ClickHouse server, clickhouse://user:password@host:9000/database; empty: the embedded engine"`
}

// Log is what the server says and how.
type Log struct {
	Level  string `yaml:"level" comment:"debug, info, warn or error"`
	Format string `yaml:"format" comment:"text or json"`
}

// Vendor is the vendor's API, which shows sessions and registered bastions.
type Vendor struct {
	URL           string        `yaml:"url" comment:"regional, or a gateway's https://host:8000/api/v2" example:"https://api.akeyless.io"`
	AccessType    string        `yaml:"access_type" comment:"access_key, k8s, jwt, oidc, aws_iam or universal_identity"`
	AccessID      string        `yaml:"access_id" comment:"of the credential; its role needs sra-reports-access=all, or gates stay inconclusive because they are blind" example:"p-abc123"`
	AccessKeyFile config.Path   `yaml:"access_key_file" comment:"for access_key: the file that holds the access key" example:"/etc/lockstep/akeyless.key"`
	JWTFile       config.Path   `yaml:"jwt_file" comment:"for jwt and oidc: the file that holds the token; read at every authentication" example:"/var/run/lockstep/token"`
	K8sAuthConfig string        `yaml:"k8s_auth_config" comment:"for k8s: the name of the gateway's Kubernetes auth config" example:"prod"`
	K8sTokenFile  config.Path   `yaml:"k8s_token_file" comment:"for k8s: the service account's token; without it the usual file of a pod" example:"/var/run/secrets/kubernetes.io/serviceaccount/token"`
	GatewayURL    string        `yaml:"gateway_url" comment:"for k8s: the gateway that knows the auth config; without it the one behind url" example:"https://gateway:8000"`
	UIDTokenFile  config.Path   `yaml:"uid_token_file" comment:"for universal_identity: the file that holds the token; whoever rotates it writes it there" example:"/var/run/lockstep/uid"`
	CAFile        config.Path   `yaml:"ca_file" comment:"certificates to trust besides the system's" example:"/etc/lockstep/ca.pem"`
	Command       []string      `yaml:"command" comment:"the vendor's command line and its first arguments, asked instead of the API; it brings credentials of its own" example:"[akeyless]"`
	Timeout       time.Duration `yaml:"timeout" comment:"how long one request may take with its answer, or one run of the command"`
	PollInterval  time.Duration `yaml:"poll_interval" comment:"how often sessions and registrations are read"`
	SourceLag     time.Duration `yaml:"source_lag" comment:"the longest time from a session's start until the vendor lists it, the difference between its clock and this machine's included"`
}

// Release is a set of images that belong together. A line that it does not
// mention stays as it is.
type Release struct {
	ID      fleet.ReleaseID `yaml:"id" comment:"the name people use" example:"5.0.1"`
	Gateway *Image          `yaml:"gateway" comment:"what the gateway line runs; a release may carry one line only" example:"{version: 5.0.1, image: docker.io/akeyless/base:5.0.1}"`
	SRA     *Image          `yaml:"sra" comment:"what the SRA line runs" example:"{version: 3.1.0, image: docker.io/akeyless/zero-trust-bastion:3.1.0}"`
}

// Image is what one line runs in a release.
type Image struct {
	Version string `yaml:"version" comment:"what the image gives its process as VERSION"`
	Image   string `yaml:"image" comment:"with an exact tag or a digest"`
}

// Lines returns the images of the release by version line.
func (r Release) Lines() map[fleet.Line]Image {
	lines := make(map[fleet.Line]Image, 2)
	if r.Gateway != nil {
		lines[fleet.LineGateway] = *r.Gateway
	}
	if r.SRA != nil {
		lines[fleet.LineSRA] = *r.SRA
	}
	return lines
}

// Cluster is one place where a gateway and its SRA components run together.
type Cluster struct {
	ID fleet.ClusterID `yaml:"id" comment:"the cluster's name here" example:"berlin"`
	// Release may be one that only the catalogue knows. It is not loaded yet when the
	// file is judged, so the id is taken as it is and the catalogue is asked later.
	Release       fleet.ReleaseID   `yaml:"release" comment:"what it is expected to run until a rollout moves it: a release of this file or of the catalogue; without one its state is unknown" example:"5.0.1"`
	Labels        map[string]string `yaml:"labels" comment:"what clusters are chosen by, as Kubernetes writes labels; keys that begin with lockstep. are reserved" example:"{env: prod}"`
	Window        time.Duration     `yaml:"window" comment:"how long it may be mixed, instead of drift.mixed_window" example:"45m"`
	VendorCluster string            `yaml:"vendor_cluster" comment:"the gateway's cluster_name at the vendor; without one no sessions are seen" example:"acc-1/p-1/berlin"`
	Compose       *Compose          `yaml:"compose" comment:"the Docker Compose project that the cluster is"`
	Kubernetes    *Kubernetes       `yaml:"kubernetes" comment:"the Kubernetes namespace that the cluster is, instead of compose; rollouts drive it where helm names its releases, else it is only watched"`
	GatewayURL    string            `yaml:"gateway_url" comment:"the gateway's own API: how remote access is configured is read there with the vendor's credentials" example:"https://gateway:8000/api/v2"`
	Probes        []Probe           `yaml:"probes" comment:"synthetic logins and connections, told apart from people's sessions"`
	ProbeBudget   ProbeBudget       `yaml:"probe_budget" comment:"how much its probes may ask of it"`
	Health        *Health           `yaml:"health" comment:"the health endpoints of its components"`
	Recording     *Recording        `yaml:"recording" comment:"where recordings of its sessions have to appear"`
	Forwarding    *Forwarding       `yaml:"forwarding" comment:"where its logs are forwarded to"`
}

// Kubernetes is a cluster that runs in a Kubernetes namespace.
type Kubernetes struct {
	Kubeconfig config.Path                `yaml:"kubeconfig" comment:"without it KUBECONFIG, ~/.kube/config or the pod's own account, as kubectl" example:"/etc/lockstep/kubeconfig"`
	Context    string                     `yaml:"context" comment:"without it the current one" example:"prod"`
	Namespace  string                     `yaml:"namespace" comment:"the namespace of its workloads and Helm releases" example:"akeyless"`
	Releases   []string                   `yaml:"releases" comment:"its Helm releases; without it all of the namespace" example:"[gateway]"`
	Helm       []Helm                     `yaml:"helm" comment:"the Helm releases that rollouts drive, in the order of their upgrades"`
	Workloads  map[string]fleet.Component `yaml:"workloads" comment:"kind/name or kind/name/container: gateway, sra-web, sra-ssh, dispatcher or worker, where the vendor's charts do not tell it" example:"{deployment/edge: gateway}"`
}

// Helm is one Helm release that rollouts drive.
type Helm struct {
	Release    string        `yaml:"release" comment:"its name" example:"gateway"`
	Values     config.Path   `yaml:"values" comment:"all of its values, as they were reviewed; without it those that it has go on" example:"/etc/lockstep/values/oslo.yaml"`
	Repository string        `yaml:"repository" comment:"where its chart is read, such as a mirror; without it where the release in the catalogue came from" example:"oci://registry.example.org/charts/akeyless-gateway"`
	Ready      time.Duration `yaml:"ready" comment:"how long its workloads may take to become ready; without it 3m" example:"2m"`
}

// Probe is one synthetic login or connection.
type Probe struct {
	Name            string          `yaml:"name" comment:"what findings call it" example:"login"`
	Type            string          `yaml:"type" comment:"ssh (login and one command), https (one request), tls or tcp" example:"ssh"`
	Component       fleet.Component `yaml:"component" comment:"the component it speaks of" example:"sra-ssh"`
	Address         string          `yaml:"address" comment:"host:port, or the address of a page for https" example:"bastion:22"`
	Every           time.Duration   `yaml:"every" comment:"how often"`
	Timeout         time.Duration   `yaml:"timeout" comment:"after this it has failed"`
	User            string          `yaml:"user" comment:"for ssh: who logs in" example:"probe"`
	KeyFile         config.Path     `yaml:"key_file" comment:"for ssh: the private key" example:"/etc/lockstep/probe"`
	CertificateFile config.Path     `yaml:"certificate_file" comment:"for ssh: the certificate that goes with the key; read at every probe" example:"/etc/lockstep/probe-cert.pub"`
	HostKey         string          `yaml:"host_key" comment:"for ssh: the server's key, a line as in authorized_keys" example:"ssh-ed25519 AAAA"`
	KnownHostsFile  config.Path     `yaml:"known_hosts_file" comment:"for ssh: keys or authorities of servers, as ssh knows them" example:"/etc/lockstep/known_hosts"`
	InsecureHostKey bool            `yaml:"insecure_host_key" comment:"for ssh: take any host key"`
	Command         string          `yaml:"command" comment:"for ssh: what is run; without it true" example:"id"`
	CAFile          config.Path     `yaml:"ca_file" comment:"for https and tls: certificates to trust besides the system's" example:"/etc/lockstep/ca.pem"`
	ServerName      string          `yaml:"server_name" comment:"for https and tls: the name in the certificate, where it is not the address's" example:"gateway.example.org"`
	Statuses        []int           `yaml:"statuses" comment:"for https: the statuses that are fine; without it 200 to 399" example:"[200, 401]"`
	Contains        string          `yaml:"contains" comment:"for https: text that the page must hold" example:"ok"`
}

// ProbeBudget is how much the probes of a cluster may ask of it.
type ProbeBudget struct {
	LoginsPerHour int `yaml:"logins_per_hour" comment:"how often its ssh probes may log in, all together"`
	AtOnce        int `yaml:"at_once" comment:"how many of its probes may run at the same time; the others wait for their turn"`
}

// Health are the health endpoints of a cluster's components.
type Health struct {
	Gateway string        `yaml:"gateway" comment:"the gateway's health address, asked for /health and /status" example:"http://gateway:8080"`
	SSH     string        `yaml:"ssh" comment:"the SSH bastion's, asked for /status" example:"http://ssh:9900"`
	Web     string        `yaml:"web" comment:"the web bastion's, connected to" example:"web:8888"`
	Worker  string        `yaml:"worker" comment:"the web worker's, asked for /healthy" example:"http://worker:9090"`
	Metrics string        `yaml:"metrics" comment:"the host of the gateway's metrics, where port 8000 (5.x) and 8889 (4.x) are tried, or their URL" example:"gateway"`
	CAFile  config.Path   `yaml:"ca_file" comment:"certificates to trust besides the system's" example:"/etc/lockstep/ca.pem"`
	Every   time.Duration `yaml:"every" comment:"how often"`
	Timeout time.Duration `yaml:"timeout" comment:"after this an endpoint has failed"`
}

// Recording says where the recordings of a cluster's sessions have to appear.
type Recording struct {
	Protocols     []string      `yaml:"protocols" comment:"the sessions that are recorded"`
	Pattern       string        `yaml:"pattern" comment:"how a recording's object begins, with {session_id}, {cluster}, {date}, {protocol}, {target} and {user}"`
	Within        time.Duration `yaml:"within" comment:"how long after a session's end its recording may take; less than rollout.lookback"`
	MinDuration   time.Duration `yaml:"min_duration" comment:"shorter sessions may have none"`
	Endpoint      string        `yaml:"endpoint" comment:"the S3-compatible storage" example:"https://s3.eu-central-1.amazonaws.com"`
	AllowHTTP     bool          `yaml:"allow_http" comment:"the endpoint may be http on another machine, where keys travel in the clear"`
	Region        string        `yaml:"region" comment:"its region" example:"eu-central-1"`
	Bucket        string        `yaml:"bucket" comment:"its bucket" example:"recordings"`
	Prefix        string        `yaml:"prefix" comment:"the folder of this cluster's recordings" example:"berlin"`
	AccessKeyFile config.Path   `yaml:"access_key_file" comment:"the file that holds the access key id; without it the machine's own credentials" example:"/etc/lockstep/s3.id"`
	SecretKeyFile config.Path   `yaml:"secret_key_file" comment:"the file that holds the secret key" example:"/etc/lockstep/s3.key"`
	CAFile        config.Path   `yaml:"ca_file" comment:"certificates to trust besides the system's" example:"/etc/lockstep/ca.pem"`
	PathStyle     bool          `yaml:"path_style" comment:"the bucket stands in the path and not in the host name, as most storages other than AWS want it"`
	CanaryEvery   time.Duration `yaml:"canary_every" comment:"how often a small object is written, read and removed"`
	NoCanary      bool          `yaml:"no_canary" comment:"write nothing there: only look"`
	Every         time.Duration `yaml:"every" comment:"how often recordings are looked for"`
}

// Forwarding says where a cluster's logs are forwarded to.
type Forwarding struct {
	Type      string        `yaml:"type" comment:"tcp, tls, syslog or https" example:"syslog"`
	Address   string        `yaml:"address" comment:"host:port, or the address to post to for https" example:"logs:6514"`
	TLS       bool          `yaml:"tls" comment:"for syslog: over TLS"`
	CAFile    config.Path   `yaml:"ca_file" comment:"for https and over TLS: certificates to trust besides the system's" example:"/etc/lockstep/ca.pem"`
	TokenFile config.Path   `yaml:"token_file" comment:"for https: the file that holds what the header says" example:"/etc/lockstep/hec.token"`
	Header    string        `yaml:"header" comment:"for https: the header that carries what the file holds; without it Authorization: Splunk TOKEN" example:"DD-API-KEY"`
	Send      bool          `yaml:"send" comment:"also send one labelled test line; else it is only connected to"`
	Every     time.Duration `yaml:"every" comment:"how often"`
	Timeout   time.Duration `yaml:"timeout" comment:"after this it has failed"`
}

// Compose is a cluster that runs as a Docker Compose project.
type Compose struct {
	Engine   string                     `yaml:"engine" comment:"unix://, tcp:// or ssh://; without it DOCKER_HOST, else the local socket"`
	Project  string                     `yaml:"project" comment:"the Compose project's name; without it the cluster's id" example:"berlin"`
	Dir      config.Path                `yaml:"dir" comment:"the project's folder" example:"/srv/berlin"`
	Files    []string                   `yaml:"files" comment:"its Compose files in order, relative to dir"`
	EnvFiles []string                   `yaml:"env_files" comment:"as --env-file of docker compose, relative to dir" example:"[.env]"`
	Profiles []string                   `yaml:"profiles" comment:"as --profile of docker compose" example:"[gateway, sra]"`
	Services map[string]fleet.Component `yaml:"services" comment:"service: gateway, sra-web, sra-ssh, dispatcher or worker, where the vendor's names do not tell it" example:"{edge: gateway}"`
}

// Inventory is how often engines are asked what runs.
type Inventory struct {
	PollInterval time.Duration `yaml:"poll_interval" comment:"how often each engine is asked"`
}

// Collector says how what is seen is kept until the bus has it.
type Collector struct {
	ID        string        `yaml:"id" comment:"begins the names of this collector's sources on the bus; every collector of an installation has its own"`
	SpoolDir  config.Path   `yaml:"spool_dir" comment:"where observations wait for the bus; empty: spool in server.data_dir"`
	SpoolMB   int           `yaml:"spool_mb" comment:"how much may wait, in MiB; beyond it the oldest is dropped, which makes gates inconclusive"`
	FullEvery time.Duration `yaml:"full_every" comment:"how often what did not change is sent in full; in between a mark says that it holds"`
}

// Drift says when a mix is too long, a disagreement a split and a silence darkness.
type Drift struct {
	MixedWindow  time.Duration                `yaml:"mixed_window" comment:"how long a mix may last that no rollout explains, where nothing else here says it"`
	DarkAfter    time.Duration                `yaml:"dark_after" comment:"silence after which a cluster is dark"`
	SplitAfter   time.Duration                `yaml:"split_after" comment:"how long what is declared, running and reported may disagree before a cluster is split"`
	LearnWindows bool                         `yaml:"learn_windows" comment:"take windows from what moves took in this fleet"`
	WindowCap    time.Duration                `yaml:"window_cap" comment:"no learned window is longer; without it 4h, or mixed_window where that is longer"`
	Steps        map[fleet.Line]time.Duration `yaml:"steps" comment:"line: how long a move of it may last; lines are gateway, sra and ztwa" example:"{gateway: 45m}"`
	Edges        []Edge                       `yaml:"edges" comment:"single moves of a line that have windows of their own"`
}

// Edge is one move of a line, with the time it may take.
type Edge struct {
	Line   fleet.Line    `yaml:"line" comment:"gateway, sra or ztwa" example:"sra"`
	From   string        `yaml:"from" comment:"the version it comes from" example:"3.0.3"`
	To     string        `yaml:"to" comment:"the version it goes to" example:"3.1.0"`
	Window time.Duration `yaml:"window" comment:"how long it may last" example:"2h"`
}

// Rollout bounds what a rollout may do to one cluster.
type Rollout struct {
	Window   time.Duration `yaml:"window" comment:"how long one cluster may be mixed, from its first step on; then a cluster that is still mixed goes back; at least 5m and gate.deadline for each step"`
	Lookback time.Duration `yaml:"lookback" comment:"how far before a cluster's first step baseline sessions are taken"`
}

// Notify says who is told.
type Notify struct {
	Webhooks []Webhook `yaml:"webhooks" comment:"receivers of notices"`
}

// Webhook is one receiver of notices.
type Webhook struct {
	Name       string      `yaml:"name" comment:"what metrics and logs call it" example:"ops"`
	URL        string      `yaml:"url" comment:"where notices are posted" example:"https://example.org/hook"`
	SecretFile config.Path `yaml:"secret_file" comment:"a file that holds the secret which signs them; without it they are unsigned" example:"/etc/lockstep/hook.secret"`
}

// Find returns the file to read: flag, LOCKSTEP_CONFIG, ./fleet.yaml,
// $XDG_CONFIG_HOME/lockstep/fleet.yaml, /etc/lockstep/fleet.yaml; empty when
// there is none. A file named by the first two must exist.
func Find(flag string, env func(string) string) (string, error) {
	return config.Place{Env: "LOCKSTEP_CONFIG", Name: "fleet.yaml", Folder: "lockstep"}.Find(flag, env)
}

// Default is the configuration without a file: a server without clusters.
// DataDir is empty when env has neither XDG_DATA_HOME nor HOME.
func Default(env func(string) string) File {
	return File{
		Server:    Server{Listen: "127.0.0.1:8470", AdminListen: "127.0.0.1:8471", DataDir: dataDir(env)},
		Bus:       Bus{Replicas: 1},
		Log:       Log{Level: "info", Format: "text"},
		Inventory: Inventory{PollInterval: 5 * time.Second},
		Collector: Collector{ID: "hub", SpoolMB: 512, FullEvery: 5 * time.Minute},
		Drift: Drift{
			MixedWindow: 30 * time.Minute, DarkAfter: 2 * time.Minute, SplitAfter: 10 * time.Minute, LearnWindows: true, WindowCap: windowCap,
		},
		Rollout: Rollout{Window: 30 * time.Minute, Lookback: 24 * time.Hour},
		Gate: gatefile.Statistics{
			Alpha: 0.01, Beta: 0.05, Tolerance: 1.25, Margin: 2,
			AcceptableRate: 0.02, FloorRate: 0.02,
			Partners: 10, PlannedTrials: 200,
			Maturation: 2 * time.Minute, BurstWindow: time.Minute, Bucket: time.Second,
			Deadline: 10 * time.Minute, MaxLate: 0.01,
		},
	}
}

func dataDir(env func(string) string) config.Path {
	if base := env("XDG_DATA_HOME"); filepath.IsAbs(base) {
		return config.Path(filepath.Join(base, "lockstep"))
	}
	if home := env("HOME"); filepath.IsAbs(home) {
		return config.Path(filepath.Join(home, ".local", "share", "lockstep"))
	}
	return ""
}

// Flag is a value given on the command line.
type Flag struct {
	Name  string // such as --listen
	Key   string // such as server.listen
	Value string // empty: not given
}

// prefix begins the name of every environment variable that sets a key.
const prefix = "LOCKSTEP"

// variable is the environment variable that sets a key outside a list.
func variable(key string) string {
	return prefix + "_" + strings.ToUpper(strings.ReplaceAll(key, ".", "_"))
}

// natsURL is the variable that other NATS programs read; it stands in for that
// of bus.url.
const natsURL = "NATS_URL"

// dockerHost is the variable that names the engine of clusters that name none.
const dockerHost = "DOCKER_HOST"

// Read reads the file at path over the defaults, the environment over the file
// and flags over the environment, without judging the whole; an empty path reads
// no file. The error is config.Problems where the form of something is wrong.
func Read(path string, env func(string) string, flags ...Flag) (File, error) {
	f := Default(env)
	f.Drift.WindowCap = 0 // complete fills it, once mixed_window is known
	if path != "" {
		if err := config.Load(path, &f); err != nil {
			return File{}, err
		}
	}
	err := config.Env(&f, prefix, func(name string) (string, bool) {
		text := env(name)
		if text == "" && name == variable("bus.url") {
			text = env(natsURL)
		}
		return text, text != ""
	})
	if err != nil {
		return File{}, err
	}
	err = config.Env(&f, prefix, func(name string) (string, bool) {
		for _, flag := range flags {
			if variable(flag.Key) == name {
				return flag.Value, flag.Value != ""
			}
		}
		return "", false
	})
	if problems, ok := errors.AsType[config.Problems](err); ok {
		for i, problem := range problems {
			for _, flag := range flags {
				if variable(flag.Key) == problem.Key {
					problems[i].Key = flag.Name
				}
			}
		}
	}
	if err != nil {
		return File{}, err
	}
	f.complete(env)
	return f, nil
}

// Load reads as Read does and judges what comes out. Each problem names the
// file, the variable or the flag that its value came from.
func Load(path string, env func(string) string, flags ...Flag) (File, error) {
	f, err := Read(path, env, flags...)
	if err != nil {
		return File{}, err
	}
	origins := Origins(path, env, flags...)
	err = f.validate(origins)
	if problems, ok := errors.AsType[config.Problems](err); ok {
		for i := range problems {
			problems[i].File = cmp.Or(origins(problems[i].Key).Name, path)
		}
	}
	if err != nil {
		return File{}, err
	}
	return f, nil
}

// complete fills defaults that depend on what was declared, and those of keys
// that may be set to nothing.
func (f *File) complete(env func(string) string) {
	if f.Server.DataDir == "" {
		f.Server.DataDir = dataDir(env)
	}
	for i := range f.Access.Tokens {
		if t := &f.Access.Tokens[i]; t.Tenant == "" {
			t.Tenant = fleet.DefaultTenant
		}
	}
	if v := f.Vendor; v != nil {
		if v.AccessType == "" {
			v.AccessType = "access_key"
		}
		if v.Timeout == 0 {
			v.Timeout = 15 * time.Second
		}
		if v.PollInterval == 0 {
			v.PollInterval = 10 * time.Second
		}
		if v.SourceLag == 0 {
			v.SourceLag = 5 * time.Second
		}
	}
	for i := range f.Clusters {
		f.Clusters[i].complete(cmp.Or(env(dockerHost), localEngine))
	}
	f.Drift.complete()
}

// localEngine is the engine of clusters that name none, where DOCKER_HOST names
// none either.
const localEngine = "unix:///var/run/docker.sock"

// windowCap is the default of drift.window_cap.
const windowCap = 4 * time.Hour

// complete fills the cap on learned windows: a file that allows more than the
// default for any mix was acceptable before there was a cap.
func (d *Drift) complete() {
	if d.WindowCap == 0 {
		d.WindowCap = max(windowCap, d.MixedWindow)
	}
}

// complete fills the defaults of a cluster; engine is that of a Compose project
// that names none.
func (c *Cluster) complete(engine string) {
	if p := c.Compose; p != nil {
		p.Engine = cmp.Or(p.Engine, engine)
		p.Project = cmp.Or(p.Project, string(c.ID))
		if len(p.Files) == 0 {
			p.Files = []string{"compose.yaml"}
		}
	}
	c.completeLooks()
}

// completeLooks fills the defaults of what looks at a cluster.
func (c *Cluster) completeLooks() {
	spans := func(every, timeout *time.Duration, otherwise time.Duration) {
		if *every == 0 {
			*every = otherwise
		}
		if timeout != nil && *timeout == 0 {
			*timeout = 10 * time.Second
		}
	}
	for i := range c.Probes {
		spans(&c.Probes[i].Every, &c.Probes[i].Timeout, 30*time.Second)
	}
	if c.ProbeBudget.LoginsPerHour == 0 {
		c.ProbeBudget.LoginsPerHour = 720
	}
	if c.ProbeBudget.AtOnce == 0 {
		c.ProbeBudget.AtOnce = 4
	}
	if h := c.Health; h != nil {
		spans(&h.Every, &h.Timeout, 15*time.Second)
	}
	if f := c.Forwarding; f != nil {
		spans(&f.Every, &f.Timeout, time.Minute)
	}
	if r := c.Recording; r != nil {
		spans(&r.Every, nil, 30*time.Second)
		if len(r.Protocols) == 0 {
			r.Protocols = []string{"rdp"}
		}
		if r.Pattern == "" {
			r.Pattern = "{session_id}"
		}
		if r.Within == 0 {
			r.Within = 5 * time.Minute
		}
		if r.CanaryEvery == 0 {
			r.CanaryEvery = 15 * time.Minute
		}
	}
}

// Spool is where observations wait for the bus.
func (f File) Spool() string {
	if f.Collector.SpoolDir != "" {
		return string(f.Collector.SpoolDir)
	}
	return filepath.Join(string(f.Server.DataDir), "spool")
}
