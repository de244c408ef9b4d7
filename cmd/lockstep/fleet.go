package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/lockstep-fleet/lockstep/adapters/compose"
	"github.com/lockstep-fleet/lockstep/adapters/webhook"
	"github.com/lockstep-fleet/lockstep/cmd/lockstep/internal/cli"
	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/fleetfile"
	"github.com/lockstep-fleet/lockstep/gatefile"
	"github.com/lockstep-fleet/lockstep/kit/errs"
	"github.com/lockstep-fleet/lockstep/services/evaluator"
	"github.com/lockstep-fleet/lockstep/services/executor"
	"github.com/lockstep-fleet/lockstep/services/notifier"
	"github.com/lockstep-fleet/lockstep/sources"
)

// deployments are the clusters that a rollout can change.
func deployments(set *sources.Set) map[fleet.ClusterID]executor.Deployment {
	out := make(map[fleet.ClusterID]executor.Deployment, len(set.Projects)+len(set.Releases))
	for id, d := range set.Projects {
		out[id] = d
	}
	for id, d := range set.Releases {
		out[id] = d
	}
	return out
}

func evaluatorConfig(file fleetfile.File) evaluator.Config {
	config := evaluator.Config{
		Tenant: fleet.DefaultTenant, Beat: beat, Releases: imageSets(file.Releases),
		Limits: limits(file.Drift), LimitsDefinition: fleetfile.DefineDrift(file.Drift),
	}
	for _, c := range file.Clusters {
		config.Clusters = append(config.Clusters, declaredCluster(c, fleetfile.DefineCluster(c)))
	}
	return config
}

func executorConfig(file fleetfile.File) executor.Config {
	return executor.Config{
		Tenant: fleet.DefaultTenant, Window: file.Rollout.Window, Lookback: file.Rollout.Lookback, Beat: beat,
		Gate: file.Gate.Policy(), Policies: gatefile.Presets(),
	}
}

// lookOnce asks every source once, for a person to see.
func lookOnce(ctx context.Context, file fleetfile.File, clusters []string) (_ []cli.SourceReport, err error) {
	compose.RedirectLogs(slog.New(slog.DiscardHandler))
	set, err := sources.Open(file, slog.New(slog.DiscardHandler), time.Now)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, set.Close()) }()
	ids := make([]fleet.ClusterID, len(clusters))
	for i, id := range clusters {
		ids[i] = fleet.ClusterID(id)
	}
	var out []cli.SourceReport
	for _, look := range set.Look(ctx, ids) {
		out = append(out, reported(look))
	}
	return out, nil
}

// reported words what came of one look.
func reported(look sources.Look) cli.SourceReport {
	r := cli.SourceReport{Kind: string(look.Kind), Name: look.Name, Status: cli.CheckOK}
	if len(look.Clusters) == 1 {
		r.Cluster = string(look.Clusters[0])
	}
	for _, o := range look.Observations {
		r.Observations = append(r.Observations, codec.ObservationToProto(o, time.Now()))
	}
	var what, todo []string
	for _, missing := range look.Missing {
		what = append(what, missing.What)
		if !slices.Contains(todo, missing.Todo) && missing.Todo != "" {
			todo = append(todo, missing.Todo)
		}
	}
	r.Problem, r.Todo = strings.Join(what, "; "), strings.Join(todo, "; ")
	missing := r.Problem
	switch {
	case look.Err != nil:
		f := failed(look.Err, r.Todo)
		r.Status, r.Problem, r.Todo, r.ID = f.status, strings.Trim(missing+"; "+f.detail, "; "), f.todo, f.id
	case look.Skipped != "":
		r.Status, r.Problem = cli.CheckSkip, look.Skipped
	case len(what) > 0:
		r.Status = cli.CheckWarn
	}
	for _, o := range look.Observations {
		if r.Status == cli.CheckOK && o.Check != nil && !o.Check.OK {
			r.Status = cli.CheckWarn
		}
	}
	return r
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
