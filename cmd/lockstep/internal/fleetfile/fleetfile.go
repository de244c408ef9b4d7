// Package fleetfile owns Lockstep's one configuration file, fleet.yaml: its
// shape, its defaults and what makes it acceptable. It does not own how YAML is
// read (kit/config) and opens none of the files that it names.
package fleetfile

import (
	"errors"
	"net"
	"path/filepath"
	"time"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/config"
)

// File is fleet.yaml.
type File struct {
	Server    Server    `yaml:"server"`
	Vendor    *Vendor   `yaml:"vendor"` // nil: no sessions are seen and gates stay inconclusive
	Releases  []Release `yaml:"releases"`
	Clusters  []Cluster `yaml:"clusters"`
	Inventory Inventory `yaml:"inventory"`
	Drift     Drift     `yaml:"drift"`
	Rollout   Rollout   `yaml:"rollout"`
	Gate      Gate      `yaml:"gate"`
	Notify    Notify    `yaml:"notify"`
}

// Server is where the server listens and keeps its data.
type Server struct {
	Listen  string      `yaml:"listen"` // host:port
	DataDir config.Path `yaml:"data_dir"`
}

// URL is where clients on the same machine reach the server.
func (s Server) URL() string {
	host, port, err := net.SplitHostPort(s.Listen)
	if err != nil {
		return "http://" + s.Listen
	}
	// Listening on every address is not an address to call.
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, port)
}

// TokenFile is where the server leaves the administrator's token.
func (s Server) TokenFile() string { return filepath.Join(string(s.DataDir), "admin.token") }

// Vendor is the vendor's API, which shows sessions and registered bastions.
type Vendor struct {
	URL           string        `yaml:"url"`
	AccessID      string        `yaml:"access_id"`
	AccessKeyFile config.Path   `yaml:"access_key_file"`
	PollInterval  time.Duration `yaml:"poll_interval"`
	SourceLag     time.Duration `yaml:"source_lag"` // how late the vendor may show a session
}

// Release is a set of images that belong together. A line that it does not
// mention stays as it is.
type Release struct {
	ID      fleet.ReleaseID `yaml:"id"`
	Gateway *Image          `yaml:"gateway"`
	SRA     *Image          `yaml:"sra"`
}

// Image is what one line runs in a release.
type Image struct {
	Version string `yaml:"version"`
	Image   string `yaml:"image"` // repository:tag, with or without @sha256:…
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
	ID            fleet.ClusterID `yaml:"id"`
	Release       fleet.ReleaseID `yaml:"release"`        // expected until a rollout moves it; empty: none expected
	VendorCluster string          `yaml:"vendor_cluster"` // the gateway's cluster_name at the vendor
	Compose       *Compose        `yaml:"compose"`
}

// Compose is a cluster that runs as a Docker Compose project.
type Compose struct {
	Engine   string                     `yaml:"engine"` // unix:///… or tcp://…
	Project  string                     `yaml:"project"`
	Dir      config.Path                `yaml:"dir"`
	Files    []string                   `yaml:"files"`     // relative to Dir
	EnvFiles []string                   `yaml:"env_files"` // relative to Dir
	Profiles []string                   `yaml:"profiles"`
	Services map[string]fleet.Component `yaml:"services"` // for services that do not bear the vendor's names
}

// Inventory is how often engines are asked what runs.
type Inventory struct {
	PollInterval time.Duration `yaml:"poll_interval"`
}

// Drift says when a mix is too long and a silence is darkness.
type Drift struct {
	MixedWindow time.Duration `yaml:"mixed_window"` // for mixes outside a rollout
	DarkAfter   time.Duration `yaml:"dark_after"`
}

// Rollout bounds what a rollout may do to one cluster.
type Rollout struct {
	Window   time.Duration `yaml:"window"`   // how long one cluster may be mixed
	Lookback time.Duration `yaml:"lookback"` // how far before a step baseline sessions are taken
}

// Gate holds the numbers of the session gate. Rates are fractions of 1.
type Gate struct {
	Alpha          float64       `yaml:"alpha"`           // chance of a wrong rollback
	Beta           float64       `yaml:"beta"`            // chance of a wrong promotion
	Tolerance      float64       `yaml:"tolerance"`       // odds ratios up to this are tolerated
	Margin         float64       `yaml:"margin"`          // promotion shows the odds ratio to be below this
	AcceptableRate float64       `yaml:"acceptable_rate"` // promotion without comparison shows the failure rate to be below this
	FloorRate      float64       `yaml:"floor_rate"`      // a regression below this rate holds instead of rolling back
	Partners       int           `yaml:"partners"`        // baseline sessions per new one
	PlannedTrials  int           `yaml:"planned_trials"`
	Maturation     time.Duration `yaml:"maturation"`   // after this, a session without an outcome is unresolved
	BurstWindow    time.Duration `yaml:"burst_window"` // retries within this count once
	Bucket         time.Duration `yaml:"bucket"`       // sessions are ordered by start in buckets of this width
	Deadline       time.Duration `yaml:"deadline"`
	MaxLate        float64       `yaml:"max_late"` // share of late rows above which a gate is inconclusive
}

// Notify says who is told.
type Notify struct {
	Webhooks []Webhook `yaml:"webhooks"`
}

// Webhook is one receiver of notices.
type Webhook struct {
	Name       string      `yaml:"name"`
	URL        string      `yaml:"url"`
	SecretFile config.Path `yaml:"secret_file"` // signs what is sent; empty: unsigned
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
		Server:    Server{Listen: "127.0.0.1:8470", DataDir: dataDir(env)},
		Inventory: Inventory{PollInterval: 5 * time.Second},
		Drift:     Drift{MixedWindow: 30 * time.Minute, DarkAfter: 2 * time.Minute},
		Rollout:   Rollout{Window: 30 * time.Minute, Lookback: 24 * time.Hour},
		Gate: Gate{
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

// Read reads the file at path over the defaults, without judging it; an empty
// path gives the defaults alone. The error is config.Problems where the file's
// form is wrong.
func Read(path string, env func(string) string) (File, error) {
	f := Default(env)
	if path == "" {
		return f, nil
	}
	if err := config.Load(path, &f); err != nil {
		return File{}, err
	}
	f.complete(env)
	return f, nil
}

// Load reads the file at path as Read does and judges it. The overrides, such
// as flags, are applied in between.
func Load(path string, env func(string) string, overrides ...func(*File)) (File, error) {
	f, err := Read(path, env)
	if err != nil {
		return File{}, err
	}
	for _, override := range overrides {
		override(&f)
	}
	err = f.Validate()
	var problems config.Problems
	if errors.As(err, &problems) {
		for i := range problems {
			problems[i].File = path
		}
	}
	if err != nil {
		return File{}, err
	}
	return f, nil
}

// complete fills defaults that depend on what the file declares.
func (f *File) complete(env func(string) string) {
	if v := f.Vendor; v != nil {
		if v.PollInterval == 0 {
			v.PollInterval = 10 * time.Second
		}
		if v.SourceLag == 0 {
			v.SourceLag = 5 * time.Second
		}
	}
	for i := range f.Clusters {
		c := f.Clusters[i].Compose
		if c == nil {
			continue
		}
		if c.Engine == "" {
			c.Engine = env("DOCKER_HOST")
		}
		if c.Engine == "" {
			c.Engine = "unix:///var/run/docker.sock"
		}
		if c.Project == "" {
			c.Project = string(f.Clusters[i].ID)
		}
		if len(c.Files) == 0 {
			c.Files = []string{"compose.yaml"}
		}
	}
}
