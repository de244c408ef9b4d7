package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/lockstep-fleet/lockstep/adapters/helm"
	"github.com/lockstep-fleet/lockstep/cmd/lockstep/internal/cli"
	"github.com/lockstep-fleet/lockstep/codec"
	"github.com/lockstep-fleet/lockstep/domain/catalog"
	catalogv1 "github.com/lockstep-fleet/lockstep/proto/gen/lockstep/catalog/v1"
	"github.com/lockstep-fleet/lockstep/releasefile"
)

// readReleases reads the releases of a place: what Helm knows how to read, and
// else a CSV.
func readReleases(ctx context.Context, from cli.ReleaseSource) (list []*catalogv1.Release, skipped []string, err error) {
	var releases []catalog.Release
	switch {
	case from.Location == "-":
		releases, err = releasefile.Read(from.In, "standard input")
	case charted(from.Location):
		releases, skipped, err = helm.Read(ctx, helm.Options{
			Location: from.Location, Charts: from.Charts, CAFile: from.CAFile, Username: from.Username, PasswordFile: from.PasswordFile,
		})
	default:
		releases, err = readFile(from.Location)
	}
	if err != nil {
		return nil, nil, err
	}
	for _, r := range releases {
		list = append(list, codec.ReleaseToProto(r))
	}
	return list, skipped, nil
}

// charted says whether a location holds charts, not a table.
func charted(location string) bool {
	if strings.Contains(location, "://") {
		return true
	}
	switch strings.ToLower(filepath.Ext(location)) {
	case ".yaml", ".yml", ".tgz", ".gz":
		return true
	}
	info, err := os.Stat(location)
	return err == nil && info.IsDir()
}

func readFile(name string) (releases []catalog.Release, err error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("read releases: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return releasefile.Read(f, name)
}
