package helm

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"helm.sh/helm/v4/pkg/chart/v2/loader"

	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// maxArchive bounds a packaged chart. Helm bounds what comes out of it.
const maxArchive = 64 << 20

// chart reads a chart's folder or archive on this machine. When it was published
// is not known: the times in it are those of files.
func (s *source) chart(info fs.FileInfo) ([]published, error) {
	var p published
	if info.IsDir() {
		if _, err := os.Stat(filepath.Join(s.opts.Location, "Chart.yaml")); err != nil {
			return nil, errs.New(errs.Invalid, "LS-REL-009", "%s: it is no chart's folder: %w; name the folder that holds Chart.yaml", s.doing(), err)
		}
	} else {
		if info.Size() > maxArchive {
			return nil, s.tooBig("the archive")
		}
		var err error
		if p.digest, err = sum(s.opts.Location); err != nil {
			return nil, errs.New(errs.Invalid, "LS-REL-012", "%s: %w", s.doing(), err)
		}
	}
	loaded, err := loader.Load(s.opts.Location)
	if err != nil {
		return nil, errs.New(errs.Invalid, "LS-REL-009", "%s: it is no chart that Helm can read: %w; check it with `helm lint`", s.doing(), err)
	}
	p.meta, p.values = *loaded.Metadata, loaded.Values
	return []published{p}, nil
}

// sum is the digest of a file, as an index gives it.
func sum(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		return "", err
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}
