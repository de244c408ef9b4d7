package fleetfile

import (
	"fmt"
	"maps"
	"math"
	"net"
	"net/url"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/drift"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/rollout"
	"github.com/lockstep-fleet/lockstep/gatefile"
	"github.com/lockstep-fleet/lockstep/kit/config"
	"github.com/lockstep-fleet/lockstep/kit/rpc"
)

// findings collects what is wrong under dotted key paths.
type findings struct {
	problems config.Problems
	origins  func(key string) Origin // where a value comes from
}

func (p *findings) add(key, format string, args ...any) {
	p.problems = append(p.problems, config.Problem{Key: key, Text: fmt.Sprintf(format, args...)})
}

// Validate returns everything that is wrong as config.Problems, or nil. It takes
// the values for ones of a file.
func (f *File) Validate() error {
	return f.validate(func(string) Origin { return Origin{Kind: inFile} })
}

func (f *File) validate(origins func(string) Origin) error {
	p := findings{origins: origins}
	p.file(f)
	if len(p.problems) == 0 {
		return nil
	}
	return p.problems
}

func (p *findings) file(f *File) {
	p.server(f.Server)
	p.tokens(f.Access.Tokens)
	p.bus(f.Bus)
	p.absolute("store.dsn_file", f.Store.DSNFile)
	p.oneOf("log.level", f.Log.Level, LogLevels())
	p.oneOf("log.format", f.Log.Format, LogFormats())
	p.vendor(f.Vendor, f.Clusters)
	p.releases(f.Releases)
	p.clusters(f)
	p.poll("inventory.poll_interval", f.Inventory.PollInterval)
	p.collector(f.Collector)
	p.drift(f.Drift)
	if f.Drift.DarkAfter > 0 && f.Inventory.PollInterval > 0 && f.Drift.DarkAfter < 2*f.Inventory.PollInterval {
		p.add("drift.dark_after", "%s is shorter than two polls (inventory.poll_interval is %s), so clusters would go dark between polls; raise it", f.Drift.DarkAfter, f.Inventory.PollInterval)
	}
	p.rollout(f.Rollout, f.Gate)
	p.gate(f.Gate, f.Vendor)
	p.webhooks(f.Notify.Webhooks)
}

func (p *findings) server(s Server) {
	p.address("server.listen", s.Listen, "8470", "")
	if s.AdminListen != Off {
		p.address("server.admin_listen", s.AdminListen, "8471", ", or off for none")
		if _, port, err := net.SplitHostPort(s.AdminListen); err == nil && s.AdminListen == s.Listen && port != "0" {
			p.add("server.admin_listen", "%s is server.listen already; give it a port of its own", s.AdminListen)
		}
	}
	if s.DataDir == "" {
		p.add("server.data_dir", "set it: neither XDG_DATA_HOME nor HOME says where data belongs")
	} else {
		p.absolute("server.data_dir", s.DataDir)
	}
}

// address checks host:port; a free port is as good as any other.
func (p *findings) address(key, value, port, otherwise string) {
	if host, given, err := net.SplitHostPort(value); err != nil {
		p.add(key, "%q is not host:port; write for example 127.0.0.1:%s%s", value, port, otherwise)
	} else if _, err := strconv.ParseUint(given, 10, 16); err != nil {
		p.add(key, "%q is not a port; use a number up to 65535 (0 takes a free one), as in %s", given, net.JoinHostPort(host, port))
	}
}

// Roles lists what a token may be allowed.
func Roles() []string {
	var names []string
	for role := rpc.Viewer; role <= rpc.Admin; role++ {
		names = append(names, role.String())
	}
	return names
}

// LogLevels lists what log.level may be.
func LogLevels() []string { return []string{"debug", "info", "warn", "error"} }

// LogFormats lists what log.format may be.
func LogFormats() []string { return []string{"text", "json"} }

func (p *findings) tokens(list []Token) {
	names, digests := make(map[string]bool, len(list)), make(map[string]string, len(list))
	for i, t := range list {
		key := fmt.Sprintf("access.tokens[%d]", i)
		p.accessToken(key+".", t)
		if names[t.Name] && t.Name != "" {
			p.add(key+".name", "token %s is declared twice; keep one or rename it", t.Name)
		}
		names[t.Name] = true
		if other, taken := digests[t.SHA256]; taken && t.SHA256 != "" {
			p.add(key+".sha256", "it is token %s already, so nobody could tell who calls; make each its own with `lockstep token create`", other)
		}
		digests[t.SHA256] = t.Name
	}
}

// Problems lists what is wrong with a token by itself, keyed by field.
func (t Token) Problems() config.Problems {
	var p findings
	p.accessToken("", t)
	return p.problems
}

func (p *findings) accessToken(prefix string, t Token) {
	p.token(prefix+"name", t.Name)
	if t.Name == adminName {
		p.add(prefix+"name", "admin is whoever holds admin.token; choose another name")
	}
	p.oneOf(prefix+"role", t.Role, Roles())
	if t.Tenant != fleet.DefaultTenant {
		p.add(prefix+"tenant", "there is no tenant %q; only one exists so far, %s", t.Tenant, fleet.DefaultTenant)
	}
	if !hashShape.MatchString(t.SHA256) {
		// Not repeated in the text: it may be the token itself.
		p.add(prefix+"sha256", "this is not a SHA-256, 64 lower-case hexadecimal digits; `lockstep token create` makes a token and prints its own")
	}
}

// replicas lists how many copies of streams can agree.
func replicas() []int { return []int{1, 3, 5} }

func (p *findings) bus(b Bus) {
	if b.URL == "" {
		if b.CredentialsFile != "" {
			p.add("bus.credentials_file", "the embedded bus takes no credentials; set bus.url to the NATS servers or remove it")
		}
		if b.Replicas != 1 {
			p.add("bus.replicas", "%d needs as many NATS servers; set bus.url to theirs, or 1 for the embedded bus", b.Replicas)
		}
		return
	}
	for address := range strings.SplitSeq(b.URL, ",") {
		u, err := url.Parse(strings.TrimSpace(address))
		switch {
		case err != nil || !slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme) || u.Host == "":
			p.add("bus.url", "this is not the address of a NATS server; write one such as nats://host:4222, several parted by commas")
		case u.User != nil && p.origins("bus.url").Kind != inEnv:
			// Not repeated in the text: it holds a secret.
			p.add("bus.url", "the address carries a user name, a password or a token; keep secrets in bus.credentials_file, or set the address as LOCKSTEP_BUS_URL")
		}
	}
	p.absolute("bus.credentials_file", b.CredentialsFile)
	if !slices.Contains(replicas(), b.Replicas) {
		p.add("bus.replicas", "%d copies cannot agree; use 1, 3 or 5", b.Replicas)
	}
}

func (p *findings) oneOf(key, value string, words []string) {
	switch {
	case value == "":
		p.add(key, "missing; use one of %s", strings.Join(words, ", "))
	case !slices.Contains(words, value):
		p.add(key, "%q is none of %s", value, strings.Join(words, ", "))
	}
}

func (p *findings) vendor(v *Vendor, clusters []Cluster) {
	if v == nil {
		return
	}
	p.vendorAccess(v)
	p.positive("vendor.timeout", v.Timeout)
	p.poll("vendor.poll_interval", v.PollInterval)
	p.positive("vendor.source_lag", v.SourceLag)
	names := map[string]fleet.ClusterID{}
	for i, c := range clusters {
		if c.VendorCluster == "" {
			continue
		}
		if other, taken := names[c.VendorCluster]; taken {
			p.add(fmt.Sprintf("clusters[%d].vendor_cluster", i), "%s is cluster %s already; its sessions would count twice, give each cluster its own", c.VendorCluster, other)
		}
		names[c.VendorCluster] = c.ID
	}
}

// AccessTypes lists how the vendor's API may be authenticated to.
func AccessTypes() []string {
	return []string{"access_key", "k8s", "jwt", "oidc", "aws_iam", "universal_identity"}
}

func (p *findings) vendorAccess(v *Vendor) {
	p.absolute("vendor.ca_file", v.CAFile)
	if len(v.Command) > 0 {
		p.vendorCommand(v)
		return
	}
	p.httpURL("vendor.url", v.URL)
	p.oneOf("vendor.access_type", v.AccessType, AccessTypes())
	if v.AccessType != "universal_identity" {
		p.required("vendor.access_id", v.AccessID, "the access id of the credential that Lockstep uses")
	}
	p.paths("vendor", map[string]config.Path{
		"access_key_file": v.AccessKeyFile, "jwt_file": v.JWTFile, "k8s_token_file": v.K8sTokenFile, "uid_token_file": v.UIDTokenFile,
	})
	switch v.AccessType {
	case "access_key":
		p.required("vendor.access_key_file", string(v.AccessKeyFile), "the file that holds the access key")
	case "jwt", "oidc":
		p.required("vendor.jwt_file", string(v.JWTFile), "the file that holds the token")
	case "k8s":
		p.required("vendor.k8s_auth_config", v.K8sAuthConfig, "the name of the gateway's Kubernetes auth config")
	case "universal_identity":
		p.required("vendor.uid_token_file", string(v.UIDTokenFile), "the file that holds the token")
	}
	if v.GatewayURL != "" {
		p.httpURL("vendor.gateway_url", v.GatewayURL)
	}
}

// vendorCommand checks the command line that stands in for the API.
func (p *findings) vendorCommand(v *Vendor) {
	p.required("vendor.command[0]", v.Command[0], "the vendor's program")
	for i, argument := range v.Command {
		// Not repeated in full: what stands behind = is a secret.
		name, _, _ := strings.Cut(argument, "=")
		if slices.Contains([]string{"--token", "--access-key", "--uid-token"}, name) {
			p.add(fmt.Sprintf("vendor.command[%d]", i), "%s puts a secret into this file and into the list of processes; keep it in the command's own profile", name)
		}
	}
	beside := map[string]string{
		"url": v.URL, "access_id": v.AccessID, "access_key_file": string(v.AccessKeyFile), "jwt_file": string(v.JWTFile), "k8s_auth_config": v.K8sAuthConfig,
		"k8s_token_file": string(v.K8sTokenFile), "gateway_url": v.GatewayURL, "uid_token_file": string(v.UIDTokenFile), "ca_file": string(v.CAFile),
	}
	for _, name := range slices.Sorted(maps.Keys(beside)) {
		if beside[name] != "" {
			p.add("vendor."+name, "it does nothing beside vendor.command, which brings credentials and an address of its own; remove one of the two")
		}
	}
}

func (p *findings) releases(list []Release) {
	seen := make(map[fleet.ReleaseID]bool, len(list))
	for i, r := range list {
		key := fmt.Sprintf("releases[%d]", i)
		p.release(key+".id", r.ID)
		if seen[r.ID] && r.ID != "" {
			p.add(key+".id", "release %s is declared twice; keep one or rename it", r.ID)
		}
		seen[r.ID] = true
		if r.Gateway == nil && r.SRA == nil {
			p.add(key, "the release carries nothing; declare gateway, sra or both")
		}
		p.image(key+".gateway", r.Gateway)
		p.image(key+".sra", r.SRA)
	}
}

func (p *findings) image(key string, i *Image) {
	if i == nil {
		return
	}
	p.required(key+".version", i.Version, "the version that the image gives its process")
	if i.Image == "" {
		p.add(key+".image", "missing; set the image as repository:tag")
		return
	}
	if strings.ContainsAny(i.Image, " \t\n") {
		p.add(key+".image", "%q contains space; write repository:tag", i.Image)
		return
	}
	ref, digest, pinned := strings.Cut(i.Image, "@")
	if pinned {
		if !regexp.MustCompile(`^sha256:[0-9a-f]{64}$`).MatchString(digest) {
			p.add(key+".image", "%q is not a digest; write repository:tag@sha256: and 64 hexadecimal digits", digest)
		}
		return
	}
	_, tag, _ := strings.Cut(ref[strings.LastIndex(ref, "/")+1:], ":")
	switch tag {
	case "":
		p.add(key+".image", "%s has no tag, so what it names can change; write %s:%s", i.Image, strings.TrimSuffix(ref, ":"), or(i.Version, "TAG"))
	case "latest":
		p.add(key+".image", "the tag latest names something else every time; write the version's own tag")
	}
}

func (p *findings) clusters(f *File) {
	list := f.Clusters
	ids := make(map[fleet.ClusterID]bool, len(list))
	projects := make(map[[2]string]fleet.ClusterID, len(list))
	for i, c := range list {
		key := fmt.Sprintf("clusters[%d]", i)
		p.token(key+".id", string(c.ID))
		if ids[c.ID] && c.ID != "" {
			p.add(key+".id", "cluster %s is declared twice; keep one or rename it", c.ID)
		}
		ids[c.ID] = true
		if c.Release != "" {
			p.release(key+".release", c.Release)
		}
		p.labels(key+".labels", c.Labels)
		if c.Window != 0 {
			p.window(key+".window", c.Window)
		}
		p.gatewayURL(key+".gateway_url", c.GatewayURL, f.Vendor)
		p.looks(key, c)
		if r := c.Recording; r != nil && f.Rollout.Lookback > 0 && r.Within >= f.Rollout.Lookback {
			p.add(key+".recording.within", "%s is not shorter than rollout.lookback (%s), so a session would be forgotten before its recording is missed; lower it", r.Within, f.Rollout.Lookback)
		}
		if c.Kubernetes != nil {
			p.kubernetes(key+".kubernetes", *c.Kubernetes)
			if c.Compose != nil {
				p.add(key+".kubernetes", "the cluster has compose as well; it is one or the other")
			}
			place := [2]string{string(c.Kubernetes.Kubeconfig) + " " + c.Kubernetes.Context, c.Kubernetes.Namespace + " " + strings.Join(c.Kubernetes.Releases, " ")}
			if other, taken := projects[place]; taken && c.Kubernetes.Namespace != "" {
				p.add(key+".kubernetes.namespace", "namespace %s with these releases is cluster %s already; give each cluster its own", c.Kubernetes.Namespace, other)
			} else {
				p.drivenOnce(key, c, projects)
			}
			projects[place] = c.ID
		}
		if c.Compose == nil {
			if c.Kubernetes == nil {
				p.add(key+".compose", "missing; say which Compose project the cluster is, or under kubernetes which namespace")
			}
			continue
		}
		p.compose(key+".compose", *c.Compose)
		place := [2]string{c.Compose.Engine, c.Compose.Project}
		if other, taken := projects[place]; taken && c.Compose.Project != "" {
			p.add(key+".compose.project", "project %s on %s is cluster %s already; a project is one cluster", c.Compose.Project, c.Compose.Engine, other)
		}
		projects[place] = c.ID
	}
}

func (p *findings) kubernetes(key string, k Kubernetes) {
	p.absolute(key+".kubeconfig", k.Kubeconfig)
	p.id(key+".namespace", k.Namespace, namespaceShape, "lower-case letters, digits and hyphen")
	p.texts(key+".releases", k.Releases)
	p.helm(key, k)
	for _, name := range slices.Sorted(maps.Keys(k.Workloads)) {
		if !workloadShape.MatchString(name) {
			p.add(key+".workloads."+name, "%q is no workload; write deployment/name, statefulset/name or daemonset/name, with /container behind it where there are several", name)
		}
		p.token(key+".workloads."+name, string(k.Workloads[name]))
	}
}

// drivenOnce refuses a Helm release that another cluster drives.
func (p *findings) drivenOnce(key string, c Cluster, driven map[[2]string]fleet.ClusterID) {
	for i, h := range c.Kubernetes.Helm {
		place := [2]string{string(c.Kubernetes.Kubeconfig) + " " + c.Kubernetes.Context, c.Kubernetes.Namespace + " helm " + h.Release}
		if other, taken := driven[place]; taken && other != c.ID && h.Release != "" {
			p.add(fmt.Sprintf("%s.kubernetes.helm[%d].release", key, i), "release %s of namespace %s is driven for cluster %s already; one cluster drives it", h.Release, c.Kubernetes.Namespace, other)
		}
		driven[place] = c.ID
	}
}

// maxReady leaves a step time to see that everything runs before it is given up.
const maxReady = rollout.StepAllowance - time.Minute

func (p *findings) helm(key string, k Kubernetes) {
	names := make(map[string]bool)
	for i, h := range k.Helm {
		at := fmt.Sprintf("%s.helm[%d]", key, i)
		p.required(at+".release", h.Release, "the name of the Helm release, as `helm list` shows it")
		p.absolute(at+".values", h.Values)
		switch {
		case names[h.Release] && h.Release != "":
			p.add(at+".release", "release %s is listed twice; keep one", h.Release)
		case h.Release != "" && len(k.Releases) > 0 && !slices.Contains(k.Releases, h.Release):
			p.add(at+".release", "release %s is not among the releases that are watched (%s); add it to %s.releases", h.Release, strings.Join(k.Releases, ", "), key)
		}
		names[h.Release] = true
		if h.Ready < 0 || h.Ready > maxReady {
			p.add(at+".ready", "%s is not between 0s and %s, within which a step has to be over; correct it", h.Ready, maxReady)
		}
		if strings.Contains(h.Repository, "@") && strings.Contains(h.Repository, "://") {
			p.add(at+".repository", "the address carries a user name or password; log in with Helm as the user that Lockstep runs as")
		}
	}
}

// gatewayURL checks the address of a gateway, which is asked as the vendor's API is.
func (p *findings) gatewayURL(key, address string, v *Vendor) {
	switch {
	case address == "":
	case v == nil:
		p.add(key, "a gateway is asked with the vendor's credentials, and there are none; declare vendor or remove it")
	case len(v.Command) > 0:
		p.add(key, "a gateway is asked over its API, and vendor.command brings no credentials for that; set vendor.url and its credentials instead of the command, or remove it")
	default:
		p.httpURL(key, address)
	}
}

// looks checks what looks at a cluster besides its engine.
func (p *findings) looks(key string, c Cluster) {
	names := make(map[string]bool)
	for i, probe := range c.Probes {
		at := fmt.Sprintf("%s.probes[%d]", key, i)
		p.probe(at, probe)
		if names[probe.Name] && probe.Name != "" {
			p.add(at+".name", "probe %s is declared twice; keep one or rename it", probe.Name)
		}
		names[probe.Name] = true
	}
	if len(c.Probes) > 0 {
		p.probeBudget(key+".probe_budget", c)
	}
	if h := c.Health; h != nil {
		at := key + ".health"
		addresses := map[string]string{"gateway": h.Gateway, "ssh": h.SSH, "worker": h.Worker}
		for _, name := range slices.Sorted(maps.Keys(addresses)) {
			if addresses[name] != "" {
				p.httpURL(at+"."+name, addresses[name])
			}
		}
		if h.Web != "" {
			p.address(at+".web", h.Web, "8888", "")
		}
		if strings.Contains(h.Metrics, "/") {
			p.httpURL(at+".metrics", h.Metrics)
		}
		if h.Gateway+h.SSH+h.Web+h.Worker+h.Metrics == "" {
			p.add(at, "it names no endpoint; set gateway, ssh, web, worker or metrics, or remove it")
		}
		p.absolute(at+".ca_file", h.CAFile)
		p.schedule(at, h.Every, h.Timeout)
	}
	if r := c.Recording; r != nil {
		at := key + ".recording"
		p.httpURL(at+".endpoint", r.Endpoint)
		p.required(at+".bucket", r.Bucket, "the bucket that recordings go to")
		p.texts(at+".protocols", r.Protocols)
		if !strings.Contains(r.Pattern, "{session_id}") {
			p.add(at+".pattern", "%q does not hold {session_id}, so no recording could be told from another", r.Pattern)
		}
		if (r.AccessKeyFile == "") != (r.SecretKeyFile == "") {
			p.add(at+".secret_key_file", "access_key_file and secret_key_file belong together; set both, or neither for the machine's own credentials")
		}
		if u, err := url.Parse(r.Endpoint); err == nil && u.Scheme == "http" && !r.AllowHTTP && !slices.Contains([]string{"127.0.0.1", "::1", "localhost"}, u.Hostname()) {
			p.add(at+".endpoint", "it is http, and keys would travel in the clear; use https, or set allow_http: true")
		}
		p.paths(at, map[string]config.Path{"access_key_file": r.AccessKeyFile, "secret_key_file": r.SecretKeyFile, "ca_file": r.CAFile})
		p.positive(at+".within", r.Within)
		p.positive(at+".canary_every", r.CanaryEvery)
		p.positive(at+".every", r.Every)
		if c.VendorCluster == "" {
			p.add(key+".vendor_cluster", "missing; without it no sessions are seen, so recordings cannot be looked for")
		}
	}
	if f := c.Forwarding; f != nil {
		at := key + ".forwarding"
		p.oneOf(at+".type", f.Type, forwardingTypes())
		if f.Type == "https" {
			p.httpURL(at+".address", f.Address)
		} else {
			p.address(at+".address", f.Address, "6514", "")
		}
		p.absolute(at+".ca_file", f.CAFile)
		p.absolute(at+".token_file", f.TokenFile)
		p.belong(at, f.Type, forwardingKeys(), *f)
		if f.Type == "syslog" && !f.TLS && f.CAFile != "" {
			p.add(at+".ca_file", "without tls: true no certificate is shown; set it or remove this")
		}
		p.schedule(at, f.Every, f.Timeout)
	}
}

// probeTypes lists what a probe may be.
func probeTypes() []string { return []string{"ssh", "https", "tls", "tcp"} }

// forwardingTypes lists what a log receiver may be.
func forwardingTypes() []string { return []string{"tcp", "tls", "syslog", "https"} }

// probeKeys lists the keys that probes of one type have and not those of every type.
func probeKeys() map[string][]string {
	return map[string][]string{
		"ssh":   {"user", "key_file", "certificate_file", "host_key", "known_hosts_file", "insecure_host_key", "command"},
		"https": {"ca_file", "server_name", "statuses", "contains"},
		"tls":   {"ca_file", "server_name"},
		"tcp":   {},
	}
}

// forwardingKeys lists the same of log receivers.
func forwardingKeys() map[string][]string {
	return map[string][]string{
		"tcp":    {},
		"tls":    {"ca_file"},
		"syslog": {"tls", "ca_file"},
		"https":  {"ca_file", "token_file", "header"},
	}
}

// belong finds the keys of a section that do nothing for its type.
func (p *findings) belong(at, kind string, keys map[string][]string, section any) {
	if _, known := keys[kind]; !known {
		return // which is a problem of its own
	}
	v := reflect.ValueOf(section)
	for i := range v.NumField() {
		name := v.Type().Field(i).Tag.Get("yaml")
		var kinds []string
		for _, one := range slices.Sorted(maps.Keys(keys)) {
			if slices.Contains(keys[one], name) {
				kinds = append(kinds, one)
			}
		}
		if len(kinds) > 0 && !slices.Contains(kinds, kind) && !v.Field(i).IsZero() {
			p.add(at+"."+name, "it does nothing for type %s, only for %s; remove it or change the type", kind, strings.Join(kinds, " and "))
		}
	}
}

// probeBudget checks how often the probes of a cluster log in, all together.
func (p *findings) probeBudget(key string, c Cluster) {
	b := c.ProbeBudget
	if b.AtOnce < 1 {
		p.add(key+".at_once", "%d lets no probe run; use 1 or more", b.AtOnce)
	}
	if b.LoginsPerHour < 1 {
		p.add(key+".logins_per_hour", "%d lets no probe log in; use 1 or more", b.LoginsPerHour)
		return
	}
	probes, logins := 0, 0.0
	for _, probe := range c.Probes {
		if probe.Type == "ssh" && probe.Every > 0 {
			probes++
			logins += time.Hour.Seconds() / probe.Every.Seconds()
		}
	}
	if logins > float64(b.LoginsPerHour) {
		fits := time.Duration(math.Ceil(float64(probes)*time.Hour.Seconds()/float64(b.LoginsPerHour))) * time.Second
		p.add(key+".logins_per_hour", "the ssh probes log in %.0f times an hour, and %d are allowed; set their every to %s or more, or raise it", math.Ceil(logins), b.LoginsPerHour, fits)
	}
}

func (p *findings) probe(key string, probe Probe) {
	p.token(key+".name", probe.Name)
	p.oneOf(key+".type", probe.Type, probeTypes())
	if probe.Component != "" {
		p.token(key+".component", string(probe.Component))
	}
	p.schedule(key, probe.Every, probe.Timeout)
	p.paths(key, map[string]config.Path{
		"key_file": probe.KeyFile, "certificate_file": probe.CertificateFile, "known_hosts_file": probe.KnownHostsFile, "ca_file": probe.CAFile,
	})
	p.belong(key, probe.Type, probeKeys(), probe)
	if probe.Type == "https" {
		p.httpURL(key+".address", probe.Address)
		return
	}
	p.address(key+".address", probe.Address, "22", "")
	if probe.Type != "ssh" {
		return
	}
	p.required(key+".user", probe.User, "who logs in")
	p.required(key+".key_file", string(probe.KeyFile), "the private key to log in with")
	said := 0
	for _, one := range []bool{probe.HostKey != "", probe.KnownHostsFile != "", probe.InsecureHostKey} {
		if one {
			said++
		}
	}
	switch {
	case said == 0:
		p.add(key+".host_key", "missing; set host_key or known_hosts_file so that the probe knows whom it talks to, or insecure_host_key: true")
	case said > 1:
		p.add(key+".host_key", "%d of host_key, known_hosts_file and insecure_host_key are set; keep the one that says whom the probe talks to", said)
	}
}

// schedule checks how often something is looked at and how long a look may take.
func (p *findings) schedule(key string, every, timeout time.Duration) {
	p.positive(key+".every", every)
	p.positive(key+".timeout", timeout)
	if every > 0 && every < time.Second {
		p.add(key+".every", "%s is too often; look once a second at most", every)
	}
}

func (p *findings) collector(c Collector) {
	if !collectorShape.MatchString(c.ID) {
		p.add("collector.id", "%q is not a name; use up to 40 lower-case letters, digits, underscore and hyphen", c.ID)
	}
	p.absolute("collector.spool_dir", c.SpoolDir)
	if c.SpoolMB < 16 {
		p.add("collector.spool_mb", "%d is too little to outlast a pause of the bus; use 16 or more", c.SpoolMB)
	}
	p.positive("collector.full_every", c.FullEvery)
}

func (p *findings) compose(key string, c Compose) {
	if u, err := url.Parse(c.Engine); err != nil || !slices.Contains([]string{"unix", "tcp", "http", "https", "ssh"}, u.Scheme) {
		p.add(key+".engine", "%q is not an engine's address; write for example unix:///var/run/docker.sock or tcp://host:2376", c.Engine)
	} else if u.Scheme == "unix" && !filepath.IsAbs(u.Path) {
		p.add(key+".engine", "%q does not name the socket in full; write for example unix:///var/run/docker.sock", c.Engine)
	}
	p.token(key+".project", c.Project)
	p.required(key+".dir", string(c.Dir), "the folder that holds the project's Compose files")
	p.absolute(key+".dir", c.Dir)
	p.texts(key+".files", c.Files)
	p.texts(key+".env_files", c.EnvFiles)
	p.texts(key+".profiles", c.Profiles)
	for _, service := range slices.Sorted(maps.Keys(c.Services)) {
		p.token(key+".services."+service, string(c.Services[service]))
	}
}

func (p *findings) texts(key string, list []string) {
	for i, one := range list {
		switch at := fmt.Sprintf("%s[%d]", key, i); {
		case one == "":
			p.add(at, "is empty; remove it or fill it in")
		case slices.Contains(list[:i], one):
			p.add(at, "%s is listed twice; keep one", one)
		}
	}
}

// labels checks what clusters are chosen by.
func (p *findings) labels(key string, labels map[string]string) {
	for _, label := range slices.Sorted(maps.Keys(labels)) {
		at := key + "." + label
		if strings.HasPrefix(label, reserved) {
			p.add(at, "keys that begin with %s are for Lockstep's own use; choose another", reserved)
		} else if err := fleet.CheckLabel(label, labels[label]); err != nil {
			p.add(at, "%v", err)
		}
	}
}

// reserved begins the keys of labels that people may not give.
const reserved = "lockstep."

// lines lists the version lines that windows may be given for.
func lines() []string {
	return []string{string(fleet.LineGateway), string(fleet.LineSRA), string(fleet.LineZTWA)}
}

func (p *findings) drift(d Drift) {
	p.positive("drift.mixed_window", d.MixedWindow)
	p.positive("drift.dark_after", d.DarkAfter)
	p.positive("drift.split_after", d.SplitAfter)
	p.positive("drift.window_cap", d.WindowCap)
	switch {
	case d.WindowCap <= 0:
	case d.WindowCap < d.MixedWindow:
		p.add("drift.window_cap", "%s is shorter than drift.mixed_window (%s), so what is learned could only be stricter than what is not; raise it", d.WindowCap, d.MixedWindow)
	case d.WindowCap >= drift.Horizon && d.WindowCap > d.MixedWindow:
		p.add("drift.window_cap", "%s is too long: mixes are remembered for %s; lower it", d.WindowCap, drift.Horizon)
	}
	for _, line := range slices.Sorted(maps.Keys(d.Steps)) {
		at := "drift.steps." + string(line)
		p.line(at, line)
		p.window(at, d.Steps[line])
	}
	seen := make(map[Edge]int, len(d.Edges))
	for i, e := range d.Edges {
		at := fmt.Sprintf("drift.edges[%d]", i)
		if e.Line == "" {
			p.add(at+".line", "missing; use one of %s", strings.Join(lines(), ", "))
		} else {
			p.line(at+".line", e.Line)
		}
		p.required(at+".from", e.From, "the version that the line comes from")
		p.required(at+".to", e.To, "the version that the line goes to")
		if e.From == e.To && e.From != "" {
			p.add(at+".to", "%s is where it comes from, so nothing moves; name another version or remove the edge", e.To)
		}
		p.window(at+".window", e.Window)
		move := Edge{Line: e.Line, From: e.From, To: e.To}
		if first, twice := seen[move]; twice {
			p.add(at, "it is drift.edges[%d] already, %s from %s to %s; keep one", first, e.Line, e.From, e.To)
		} else {
			seen[move] = i
		}
	}
}

func (p *findings) line(key string, line fleet.Line) {
	if !slices.Contains(lines(), string(line)) {
		p.add(key, "%q is no version line%s", line, suggestion(string(line), lines()))
	}
}

// suggestion names the known word that was probably meant, or all of them when
// none is close.
func suggestion(got string, known []string) string {
	if near := config.Nearest(got, known); len(near) > 0 {
		return "; did you mean " + near[0] + "?"
	}
	return "; known here: " + strings.Join(slices.Sorted(slices.Values(known)), ", ")
}

// window checks how long something may be mixed. The floor keeps a slip of the
// unit from being taken for a window.
func (p *findings) window(key string, d time.Duration) {
	switch {
	case d < time.Second:
		p.add(key, "%s is too short for anything to move in it; write a duration of 1s or more, such as 45m", d)
	case d >= drift.Horizon:
		p.add(key, "%s is too long: mixes are remembered for %s; write a shorter duration, such as 45m", d, drift.Horizon)
	}
}

func (p *findings) rollout(r Rollout, g gatefile.Statistics) {
	p.positive("rollout.window", r.Window)
	p.positive("rollout.lookback", r.Lookback)
	// Two steps, gateway and SRA, each wait for a gate while the cluster is mixed.
	if need := rollout.WindowNeeded(2, g.Deadline); r.Window > 0 && g.Deadline > 0 && r.Window < need {
		p.add("rollout.window", "%s is too short for two steps with their gates (gate.deadline is %s), so a rollout could not finish inside it; raise it to at least %s or lower the deadline", r.Window, g.Deadline, need)
	}
}

func (p *findings) gate(g gatefile.Statistics, v *Vendor) {
	if !(g.Tolerance >= 1) || math.IsInf(g.Tolerance, 0) {
		p.add("gate.tolerance", "%v is not an odds ratio of at least 1; 1 tolerates nothing, 1.25 is usual", g.Tolerance)
	}
	if !(g.Margin > 1) || math.IsInf(g.Margin, 0) {
		p.add("gate.margin", "%v is not an odds ratio above 1; 2 suits busy clusters, 3 to 5 quiet ones", g.Margin)
	} else if g.Margin <= g.Tolerance {
		p.add("gate.margin", "%v is not above gate.tolerance %v; promotion would have to show more than a rollback tolerates", g.Margin, g.Tolerance)
	}
	if g.Partners < 2 {
		p.add("gate.partners", "%d is too few; a new session is compared with at least 2, usually 10", g.Partners)
	}
	if g.PlannedTrials < 1 {
		p.add("gate.planned_trials", "%d is too few; write how many sessions a step usually sees, such as 200", g.PlannedTrials)
	}
	p.positive("gate.maturation", g.Maturation)
	if g.BurstWindow < 0 {
		p.add("gate.burst_window", "%s is negative; write a duration such as 60s, or 0s to count every retry", g.BurstWindow)
	}
	p.positive("gate.bucket", g.Bucket)
	p.positive("gate.deadline", g.Deadline)
	wait, of := g.Maturation, "gate.maturation"
	if v != nil {
		wait, of = wait+v.SourceLag, "gate.maturation and vendor.source_lag together"
	}
	if g.Deadline > 0 && wait > 0 && g.Deadline <= wait {
		p.add("gate.deadline", "%s is not longer than %s (%s), so no session could be judged in time; raise it", g.Deadline, of, wait)
	}
	p.policy(g.Policy().Validate())
}

// policy adds what no gate could use, for keys of which nothing is said yet.
func (p *findings) policy(err error) {
	if err == nil {
		return
	}
	for finding := range strings.SplitSeq(strings.TrimPrefix(err.Error(), "gate policy: "), "; ") {
		name, rest, _ := strings.Cut(finding, " is ")
		value, bounds, _ := strings.Cut(rest, " but must be ")
		if name == "tol" {
			name = "tolerance"
		}
		key := "gate." + name
		if !slices.ContainsFunc(p.problems, func(known config.Problem) bool { return known.Key == key }) {
			p.add(key, "%s is out of range; it must be %s", value, bounds)
		}
	}
}

func (p *findings) webhooks(list []Webhook) {
	seen := make(map[string]bool, len(list))
	for i, w := range list {
		key := fmt.Sprintf("notify.webhooks[%d]", i)
		p.token(key+".name", w.Name)
		if seen[w.Name] && w.Name != "" {
			p.add(key+".name", "webhook %s is declared twice; keep one or rename it", w.Name)
		}
		seen[w.Name] = true
		p.httpURL(key+".url", w.URL)
		p.absolute(key+".secret_file", w.SecretFile)
	}
}

func (p *findings) required(key, value, what string) {
	if value == "" {
		p.add(key, "missing; set %s", what)
	}
}

func (p *findings) absolute(key string, path config.Path) {
	if path != "" && !filepath.IsAbs(string(path)) {
		p.add(key, "%s is relative; write the path in full", path)
	}
}

// paths checks the paths of a section by their keys.
func (p *findings) paths(section string, paths map[string]config.Path) {
	for _, key := range slices.Sorted(maps.Keys(paths)) {
		p.absolute(section+"."+key, paths[key])
	}
}

// poll checks how often something is asked in full. The floor only keeps a slip
// of the unit from asking without pause.
func (p *findings) poll(key string, every time.Duration) {
	const floor = 10 * time.Millisecond
	p.positive(key, every)
	if every > 0 && every < floor {
		p.add(key, "%s is too often; use %s or more, usually 5s", every, floor)
	}
}

func (p *findings) positive(key string, d time.Duration) {
	if d <= 0 {
		p.add(key, "%s is not a length of time; write a duration above zero, such as 30s", d)
	}
}

func (p *findings) httpURL(key, text string) {
	u, err := url.Parse(text)
	switch {
	case text == "":
		p.add(key, "missing; set an address such as https://example.org")
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		p.add(key, "this is not a web address; write one such as https://example.org/path")
	case u.User != nil:
		// Not repeated in the text: it holds a secret.
		p.add(key, "the address carries a user name or password; keep secrets in a file")
	}
}

// token checks a name that becomes a part of message subjects.
func (p *findings) token(key, id string) {
	p.id(key, id, tokenShape, "lower-case letters, digits, underscore and hyphen")
}

// release allows dots, which versions have; releases are in no subject.
func (p *findings) release(key string, id fleet.ReleaseID) {
	p.id(key, string(id), releaseShape, "lower-case letters, digits, dot, underscore and hyphen")
}

// The shapes of names. A fleet has thousands of them, so each is compiled once.
var (
	tokenShape     = regexp.MustCompile(`^[a-z0-9_-]{1,63}$`)
	releaseShape   = regexp.MustCompile(`^[a-z0-9._-]{1,63}$`)
	hashShape      = regexp.MustCompile(`^[0-9a-f]{64}$`)
	collectorShape = regexp.MustCompile(`^[a-z0-9_-]{1,40}$`)
	namespaceShape = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)
	workloadShape  = regexp.MustCompile(`^(deployment|statefulset|daemonset)/[^/]+(/[^/]+)?$`)
)

func (p *findings) id(key, id string, shape *regexp.Regexp, letters string) {
	switch {
	case id == "":
		p.add(key, "missing; name it with up to 63 %s", letters)
	case !shape.MatchString(id):
		p.add(key, "%q is not a name; use up to 63 %s", id, letters)
	}
}

func or(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}
