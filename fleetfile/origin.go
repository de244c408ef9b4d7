package fleetfile

import (
	"fmt"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/lockstep-fleet/lockstep/kit/config"
)

// Origin says where a value comes from.
type Origin struct {
	Kind string // default, file, env or flag
	Name string // the file, the variable or the flag; empty for a default
}

const (
	inDefault = "default"
	inFile    = "file"
	inEnv     = "env"
	inFlag    = "flag"
)

// Origins returns a function that tells where the value of a key comes from,
// given what Read was given. A file that cannot be read sets nothing.
func Origins(path string, env func(string) string, flags ...Flag) func(key string) Origin {
	keys := mentioned(path)
	return func(key string) Origin {
		for _, flag := range flags {
			if flag.Key == key && flag.Value != "" {
				return Origin{inFlag, flag.Name}
			}
		}
		if name := variable(key); env(name) != "" {
			return Origin{inEnv, name}
		}
		if key == "bus.url" && env(natsURL) != "" {
			return Origin{inEnv, natsURL}
		}
		if keys[key] {
			return Origin{inFile, path}
		}
		if strings.HasSuffix(key, ".compose.engine") && env(dockerHost) != "" {
			return Origin{inEnv, dockerHost}
		}
		return Origin{Kind: inDefault}
	}
}

// mentioned lists the keys that a file gives a value.
func mentioned(path string) map[string]bool {
	keys := make(map[string]bool)
	raw, err := os.ReadFile(path)
	if err != nil {
		return keys
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(raw, &doc); err != nil || len(doc.Content) == 0 {
		return keys
	}
	mention(doc.Content[0], "", 0, keys)
	return keys
}

// deepest is below any key; an alias may stand for what it is in.
const deepest = 10

func mention(n *yaml.Node, key string, depth int, keys map[string]bool) {
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if depth > deepest || n.ShortTag() == "!!null" {
		return
	}
	keys[key] = true
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			mention(n.Content[i+1], below(key, n.Content[i].Value), depth+1, keys)
		}
	case yaml.SequenceNode:
		for i, item := range n.Content {
			mention(item, fmt.Sprintf("%s[%d]", key, i), depth+1, keys)
		}
	}
}

func below(key, name string) string {
	if key == "" {
		return name
	}
	return key + "." + name
}

// Variable is an environment variable that Lockstep reads besides those that
// set a key.
type Variable struct {
	Name    string
	Meaning string
}

// Special lists the variables that set no key.
func Special() []Variable {
	return []Variable{
		{"LOCKSTEP_CONFIG", "the configuration file, as --config"},
		{"LOCKSTEP_SERVER_URL", "the server that commands talk to, as --server"},
		{"LOCKSTEP_TOKEN_FILE", "the file that holds their token, as --token-file"},
		{"LOCKSTEP_STORE_DSN", "the DSN of a ClickHouse server, as --clickhouse"},
		{"LOCKSTEP_SERVER_CLICKHOUSE", "older name of LOCKSTEP_STORE_DSN, which goes before it"},
		{"LOCKSTEP_ENGINE_LIBRARY", "a libchdb.so to use instead of the attached one"},
	}
}

// Strays returns the LOCKSTEP_ variables of an environment, as os.Environ gives
// it, that nothing reads and that look like one that is read, with what may have
// been meant. Others are left alone: Kubernetes, for one, sets such for every
// service.
func Strays(environ []string) []Variable {
	known := config.Variables(&File{}, prefix)
	for _, v := range Special() {
		known = append(known, v.Name)
	}
	names := make([]string, 0, len(known))
	for _, name := range known {
		names = append(names, strings.TrimPrefix(name, prefix+"_"))
	}
	var strays []Variable
	for _, pair := range environ {
		name, value, _ := strings.Cut(pair, "=")
		short, ours := strings.CutPrefix(name, prefix+"_")
		if !ours || slices.Contains(known, name) || ofService(short, value) {
			continue
		}
		if near := config.Nearest(short, names); len(near) > 0 {
			strays = append(strays, Variable{name, prefix + "_" + near[0]})
		}
	}
	return strays
}

// ofService recognizes what Kubernetes tells every pod of a service named
// lockstep, or lockstep- and more.
func ofService(name, value string) bool {
	if strings.HasSuffix(name, "PORT") && strings.Contains(value, "://") {
		return true
	}
	return regexp.MustCompile(`(^|_)(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)$`).MatchString(name)
}

// Redacted is the file without what may be secret: what a web address holds
// besides its host.
func (f File) Redacted() File {
	f.Bus.URL = redacted(f.Bus.URL, false)
	if f.Vendor != nil {
		vendor := *f.Vendor
		vendor.URL = redacted(vendor.URL, false)
		f.Vendor = &vendor
	}
	f.Notify.Webhooks = slices.Clone(f.Notify.Webhooks)
	for i := range f.Notify.Webhooks {
		// Chat services hand out addresses whose path lets everyone post.
		f.Notify.Webhooks[i].URL = redacted(f.Notify.Webhooks[i].URL, true)
	}
	return f
}

func redacted(list string, path bool) string {
	var out []string
	for address := range strings.SplitSeq(list, ",") {
		u, err := url.Parse(address)
		switch {
		case err != nil:
			address = "redacted"
		case path && u.Host != "" && (u.RequestURI() != "/" || u.User != nil):
			address = u.Scheme + "://" + u.Host + "/redacted"
		case u.User != nil:
			u.User = url.User("redacted")
			address = u.String()
		}
		out = append(out, address)
	}
	return strings.Join(out, ",")
}
