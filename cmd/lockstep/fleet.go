package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/lockstep-fleet/lockstep/adapters/akeyless"
	"github.com/lockstep-fleet/lockstep/adapters/compose"
	"github.com/lockstep-fleet/lockstep/adapters/webhook"
	"github.com/lockstep-fleet/lockstep/cmd/lockstep/internal/fleetfile"
	"github.com/lockstep-fleet/lockstep/domain/drift"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/domain/rollout"
	"github.com/lockstep-fleet/lockstep/kit/errs"
	"github.com/lockstep-fleet/lockstep/services/collector"
	"github.com/lockstep-fleet/lockstep/services/evaluator"
	"github.com/lockstep-fleet/lockstep/services/executor"
	"github.com/lockstep-fleet/lockstep/services/notifier"
)

// deployments prepares every cluster's project; nothing connects yet.
func (s *server) deployments(clusters []fleetfile.Cluster) (map[fleet.ClusterID]*compose.Deployment, error) {
	compose.RedirectLogs(s.log.With("part", "compose"))
	engines := make(map[string]*compose.Engine)
	out := make(map[fleet.ClusterID]*compose.Deployment, len(clusters))
	for _, c := range clusters {
		if c.Compose == nil {
			continue
		}
		engine := engines[c.Compose.Engine]
		if engine == nil {
			var err error
			engine, err = compose.New(compose.Options{Host: c.Compose.Engine, Logger: s.log.With("part", "compose")})
			if err != nil {
				return nil, fmt.Errorf("cluster %s: %w", c.ID, err)
			}
			s.onClose(engine.Close)
			engines[c.Compose.Engine] = engine
		}
		out[c.ID] = compose.NewDeployment(engine, c.ID, target(c), time.Now)
	}
	return out, nil
}

// target is a cluster's project as adapters/compose takes it.
func target(c fleetfile.Cluster) compose.Target {
	return compose.Target{
		Project: c.Compose.Project, Files: c.Compose.Files, EnvFiles: c.Compose.EnvFiles, Profiles: c.Compose.Profiles,
		Dir: string(c.Compose.Dir), Host: c.Compose.Engine, Components: c.Compose.Services,
	}
}

func asDeployments(in map[fleet.ClusterID]*compose.Deployment) map[fleet.ClusterID]executor.Deployment {
	out := make(map[fleet.ClusterID]executor.Deployment, len(in))
	for id, d := range in {
		out[id] = d
	}
	return out
}

func releases(file fleetfile.File) []rollout.Release {
	out := make([]rollout.Release, 0, len(file.Releases))
	for _, r := range file.Releases {
		release := rollout.Release{ID: r.ID, Lines: make(map[fleet.Line]rollout.ReleaseImage)}
		for line, image := range r.Lines() {
			release.Lines[line] = rollout.ReleaseImage{Version: image.Version, Ref: image.Image}
		}
		out = append(out, release)
	}
	return out
}

func evaluatorConfig(file fleetfile.File) evaluator.Config {
	config := evaluator.Config{
		Tenant: fleet.DefaultTenant, Beat: beat,
		Limits: drift.Limits{MixedWindow: file.Drift.MixedWindow, DarkAfter: file.Drift.DarkAfter},
	}
	for _, c := range file.Clusters {
		cluster := evaluator.ClusterConfig{ID: c.ID}
		for _, r := range releases(file) {
			if r.ID == c.Release {
				cluster.Assigned = &drift.Assignment{Release: r.ID, Versions: r.Versions()}
			}
		}
		config.Clusters = append(config.Clusters, cluster)
	}
	return config
}

func executorConfig(file fleetfile.File) executor.Config {
	config := executor.Config{
		Tenant: fleet.DefaultTenant, Releases: releases(file), Window: file.Rollout.Window, Lookback: file.Rollout.Lookback, Beat: beat,
		Unseen: make(map[fleet.ClusterID]string),
		Gate:   file.Gate.Policy(),
	}
	for _, c := range file.Clusters {
		config.Clusters = append(config.Clusters, c.ID)
		switch {
		case file.Vendor == nil:
			config.Unseen[c.ID] = "the configuration has no vendor section"
		case c.VendorCluster == "":
			config.Unseen[c.ID] = "the configuration gives it no vendor_cluster"
		}
	}
	return config
}

// sources lists where the collector looks: every cluster's engine, and the
// vendor when one is configured.
func (s *server) sources(file fleetfile.File, deployments map[fleet.ClusterID]*compose.Deployment) ([]collector.Source, error) {
	var out []collector.Source
	for _, c := range file.Clusters {
		if d := deployments[c.ID]; d != nil {
			out = append(out, collector.InventorySource(c.ID, file.Inventory.PollInterval, d.Inventory))
		}
	}
	if file.Vendor == nil {
		return out, nil
	}
	key, err := os.ReadFile(string(file.Vendor.AccessKeyFile))
	if err != nil {
		return nil, errs.New(errs.Invalid, "LS-VEN-008", "reading vendor.access_key_file: %w", err)
	}
	if len(strings.TrimSpace(string(key))) == 0 {
		return nil, errs.New(errs.Invalid, "LS-VEN-008", "reading vendor.access_key_file: %s is empty; put the vendor's access key there", file.Vendor.AccessKeyFile)
	}
	client, err := akeyless.New(akeyless.Options{
		BaseURL: file.Vendor.URL, AccessID: file.Vendor.AccessID, AccessKey: akeyless.Secret(key), Log: s.log.With("part", "vendor"),
	})
	if err != nil {
		return nil, err
	}
	s.onClose(func() error { client.Close(); return nil })
	clusters := make(map[string]fleet.ClusterID)
	for _, c := range file.Clusters {
		if c.VendorCluster != "" {
			clusters[c.VendorCluster] = c.ID
		}
	}
	if len(clusters) == 0 {
		return out, nil
	}
	reader, err := akeyless.NewSessionReader(akeyless.ReaderOptions{
		Client: client, Clusters: clusters, SourceLag: file.Vendor.SourceLag, Lookback: file.Rollout.Lookback,
	})
	if err != nil {
		return nil, err
	}
	sessions := func(ctx context.Context) ([]fleet.Session, []fleet.Mark, error) {
		page, err := reader.Poll(ctx)
		return page.Sessions, page.Marks, err
	}
	registrations := func(ctx context.Context) ([]fleet.Registration, error) {
		reported, err := client.ListBastions(ctx)
		if err != nil {
			return nil, err
		}
		var found []fleet.Registration
		for _, r := range reported {
			if id, ours := clusters[r.Name]; ours {
				found = append(found, r.Registration(id, time.Now()))
			}
		}
		return found, nil
	}
	return append(out,
		collector.SessionSource("vendor-sessions", file.Vendor.PollInterval, sessions),
		collector.RegistrationSource("vendor-bastions", file.Vendor.PollInterval, registrations)), nil
}

func sinks(notify fleetfile.Notify) (map[string]notifier.Sink, error) {
	out := make(map[string]notifier.Sink, len(notify.Webhooks))
	for _, w := range notify.Webhooks {
		var secret []byte
		if w.SecretFile != "" {
			var err error
			if secret, err = os.ReadFile(string(w.SecretFile)); err != nil {
				return nil, errs.New(errs.Invalid, "LS-NOT-001", "webhook %s: reading secret_file: %w", w.Name, err)
			}
		}
		sink, err := webhook.New(webhook.Options{URL: w.URL, Secret: strings.TrimSpace(string(secret)), Client: &http.Client{}, Now: time.Now})
		if err != nil {
			return nil, fmt.Errorf("webhook %s: %w", w.Name, err)
		}
		out[w.Name] = sink
	}
	return out, nil
}
