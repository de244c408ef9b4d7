package story

import (
	"fmt"
	"os"
	"path/filepath"
	"text/template"

	"github.com/lockstep-fleet/lockstep/adapters/akeyless/akeylesstest"
	"github.com/lockstep-fleet/lockstep/integration/lab"
	"github.com/lockstep-fleet/lockstep/integration/lab/traffic"
)

// The three releases of the story.
const (
	releaseOld  = "4.52.0"
	releaseGood = "4.53.0"
	releaseBad  = "4.54.0"
)

// badPercent is the share of sessions that the bad release's bastions break.
const badPercent = 30

// vendorCluster is a cluster's name at the vendor.
func vendorCluster(cluster string) string { return "acc-lab/p-lab/" + cluster }

// fleetFile is the one file that configures the server. Times are short so that
// a person can watch; what is judged and how is the product's.
var fleetFile = template.Must(template.New("fleet").Parse(`server:
  listen: {{.Listen}}
  admin_listen: {{.AdminListen}}
  data_dir: {{.Dir}}/data
vendor:
  url: {{.VendorURL}}
  access_id: {{.AccessID}}
  access_key_file: {{.Dir}}/vendor.key
  poll_interval: 1s
  source_lag: 500ms
releases:
{{- range .Releases}}
  - id: "{{.ID}}"
    gateway: {version: "{{.Images.Gateway.Version}}", image: "{{.Images.Gateway.Tagged}}"}
    sra: {version: "{{.Images.SRA.Version}}", image: "{{.Images.SRA.Tagged}}"}
{{- end}}
clusters:
{{- range .Clusters}}
  - id: {{.Name}}
    release: "{{$.Initial}}"
    vendor_cluster: acc-lab/p-lab/{{.Name}}
    compose:
      engine: {{$.Engine}}
      project: {{.Project.Name}}
      dir: {{.Project.Dir}}
      files: ["{{.Project.File}}"]
      profiles: [gateway, sra]
{{- end}}
inventory: {poll_interval: 2s}
drift: {mixed_window: 5m, dark_after: 1m}
rollout: {window: 20m, lookback: 1h}
gate:
  margin: 3
  acceptable_rate: 0.05
  floor_rate: 0.05
  planned_trials: 100
  maturation: 2s
  burst_window: 2s
  deadline: 4m
notify:
  webhooks:
    - {name: story, url: "{{.Webhook}}"}
`))

// policyName is what the rollouts call the policy that they are judged by.
const policyName = "story"

// policies is the document of gate policies. Its times are short for the same reason.
const policies = `policies:
  - name: story
    extends: fast
    statistics:
      margin: 3
      acceptable_rate: 0.05
      floor_rate: 0.05
      planned_trials: 100
      maturation: 2s
      burst_window: 2s
      deadline: 4m
    step:
      deadline: 4m
      checks:
        inventory: {demand: pass}
        sessions: {demand: pass}
        probes: {demand: "off"}
    wave:
      soak: 3s
      deadline: 4m
      checks:
        probes: {demand: "off"}
`

// release is one entry of the catalogue.
type release struct {
	ID     string
	Images lab.Images
}

func writeFleetFile(dir, listen, adminListen string, l *lab.Lab, vendor *akeylesstest.Server, releases []release) (string, error) {
	if err := os.WriteFile(filepath.Join(dir, "vendor.key"), []byte(akeylesstest.AccessKey+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("write the vendor's key: %w", err)
	}
	path := filepath.Join(dir, "fleet.yaml")
	f, err := os.Create(path)
	if err != nil {
		return "", fmt.Errorf("write the fleet file: %w", err)
	}
	defer f.Close()
	err = fleetFile.Execute(f, map[string]any{
		"Listen": listen, "AdminListen": adminListen, "Dir": dir, "VendorURL": vendor.URL(), "AccessID": akeylesstest.AccessID, "Releases": releases,
		"Clusters": l.Clusters, "Initial": releaseOld, "Engine": l.Engine.Host(), "Webhook": l.Sink.URL(),
	})
	if err != nil {
		return "", fmt.Errorf("write the fleet file: %w", err)
	}
	return path, f.Close()
}

// reporter tells the fake vendor of the sessions that the traffic opens, as
// bastions tell the real one.
type reporter struct {
	vendor *akeylesstest.Server
	failed func(error)
}

func (r reporter) Report(s traffic.Session) {
	err := r.vendor.Report(akeylesstest.Session{
		ID: s.ID, Status: string(s.Status), StartTime: s.Start, EndTime: s.End, ConnectionType: string(s.Path), ClientType: "cli",
		InstanceID: s.Instance, Gateway: akeylesstest.GatewayInfo{ClusterName: vendorCluster(s.Cluster), ClusterDisplayName: s.Cluster},
		UserIdentifier: s.User, TargetHost: s.Target, TargetName: s.Target, TargetType: "ssh", ErrorMsg: s.Error,
	})
	if err != nil {
		r.failed(err)
	}
}
