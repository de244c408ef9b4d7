package kube

import (
	"bytes"
	"cmp"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
	"github.com/lockstep-fleet/lockstep/kit/errs"
)

const (
	// recordPrefix begins the names of Helm's records; the release, ".v" and the
	// revision follow.
	recordPrefix = "sh.helm.release.v1."
	recordLabel  = "owner=helm"
	// maxRecord bounds a record after decompression. One is at most 1 MiB before it,
	// so only a damaged or hostile one is larger.
	maxRecord = 64 << 20
)

// revision is one of Helm's records as its name tells it.
type revision struct {
	storage string // "secrets" or "configmaps"
	name    string // of the record
	release string
	number  uint32
	version string // the record's resource version
}

// record is what was read of a revision, kept until it changes.
type record struct {
	version string
	release fleet.HelmRelease
}

// Package reads the newest revision of each of the cluster's Helm releases, by name,
// from where Helm keeps them: Secrets, or ConfigMaps. Only what is new since the
// last call is fetched whole. A release that is not installed is not in it.
func (s *Source) Package(ctx context.Context) (fleet.Package, error) {
	bounded, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	newest, err := s.newest(bounded)
	if err != nil {
		return fleet.Package{}, err
	}
	out := fleet.Package{Cluster: s.cluster, ObservedAt: s.now()}
	kept := make(map[string]record, len(newest))
	for _, name := range slices.Sorted(maps.Keys(newest)) {
		r := newest[name]
		key := r.storage + "/" + r.name
		s.mu.Lock()
		read, known := s.read[key]
		s.mu.Unlock()
		if !known || read.version != r.version {
			release, err := s.fetch(bounded, r)
			if apierrors.IsNotFound(err) {
				continue // uninstalled since it was listed
			}
			if err != nil {
				return fleet.Package{}, err
			}
			read = record{r.version, release}
		}
		kept[key] = read
		out.Helm = append(out.Helm, read.release)
	}
	s.mu.Lock()
	s.read = kept
	s.mu.Unlock()
	return out, nil
}

// newest lists the records of both storages and returns the newest of each of the
// cluster's releases.
func (s *Source) newest(ctx context.Context) (map[string]revision, error) {
	out := make(map[string]revision)
	var denied error
	for _, storage := range []string{"secrets", "configmaps"} {
		doing := fmt.Sprintf("listing Helm's records in the %s of namespace %q", storage, s.namespace)
		of := s.metadata.Resource(schema.GroupVersionResource{Version: "v1", Resource: storage}).Namespace(s.namespace)
		list, err := of.List(ctx, metav1.ListOptions{LabelSelector: recordLabel})
		if apierrors.IsForbidden(err) {
			if storage == "secrets" || len(s.releases) > 0 {
				denied = cmp.Or(denied, s.closed(doing, "list "+storage, err))
			}
			continue
		}
		if err != nil {
			return nil, s.explain(doing, ask{"list", "", storage}, err)
		}
		for i := range list.Items {
			r, ok := readRevision(storage, &list.Items[i].ObjectMeta)
			if !ok || len(s.releases) > 0 && !slices.Contains(s.releases, r.release) {
				continue
			}
			if before, had := out[r.release]; !had || r.number > before.number {
				out[r.release] = r
			}
		}
	}
	// A storage that may not be read is missed when it may hold what is asked for.
	all := len(s.releases) > 0
	for _, name := range s.releases {
		_, found := out[name]
		all = all && found
	}
	if denied != nil && !all {
		return nil, denied
	}
	return out, nil
}

// closed is the error of a storage of Helm's that may not be read.
func (s *Source) closed(doing, verb string, err error) error {
	return errs.New(errs.PermissionDenied, "LS-KUB-008", "%s: the API server at %s does not allow to %s in namespace %q: %w; grant it with the role lockstep-collector-helm of %s", doing, s.host, verb, s.namespace, err, manifest)
}

func readRevision(storage string, meta *metav1.ObjectMeta) (revision, bool) {
	rest, ok := strings.CutPrefix(meta.Name, recordPrefix)
	cut := strings.LastIndex(rest, ".v")
	if !ok || cut < 1 {
		return revision{}, false
	}
	number, err := strconv.ParseUint(rest[cut+2:], 10, 32)
	if err != nil {
		return revision{}, false
	}
	return revision{storage, meta.Name, rest[:cut], uint32(number), meta.ResourceVersion}, true
}

func (s *Source) fetch(ctx context.Context, r revision) (fleet.HelmRelease, error) {
	doing := fmt.Sprintf("reading Helm's record %s in namespace %q", r.name, s.namespace)
	var data []byte
	var err error
	if r.storage == "secrets" {
		var found *corev1.Secret
		if found, err = s.core.Secrets(s.namespace).Get(ctx, r.name, metav1.GetOptions{}); err == nil {
			data = found.Data["release"]
		}
	} else {
		var found *corev1.ConfigMap
		if found, err = s.core.ConfigMaps(s.namespace).Get(ctx, r.name, metav1.GetOptions{}); err == nil {
			data = []byte(found.Data["release"])
		}
	}
	switch {
	case apierrors.IsNotFound(err):
		return fleet.HelmRelease{}, err
	case apierrors.IsForbidden(err):
		return fleet.HelmRelease{}, s.closed(doing, "get "+r.storage, err)
	case err != nil:
		return fleet.HelmRelease{}, s.explain(doing, ask{"get", "", r.storage}, err)
	}
	stored, err := decodeRecord(data)
	if err != nil {
		return fleet.HelmRelease{}, errs.New(errs.Internal, "LS-KUB-009", "%s: %w; look at it with `helm get metadata %s -n %s --revision %d`", doing, err, r.release, s.namespace, r.number)
	}
	return stored.release(r), nil
}

// stored is the part of Helm's record that is read. Templates, manifests and hooks
// are most of it and pass by.
type stored struct {
	Namespace string `json:"namespace"`
	Info      struct {
		Status       string `json:"status"`
		LastDeployed string `json:"last_deployed"` // empty in some old records
	} `json:"info"`
	Chart struct {
		Metadata struct {
			Name        string            `json:"name"`
			Version     string            `json:"version"`
			AppVersion  string            `json:"appVersion"`
			Annotations map[string]string `json:"annotations"`
		} `json:"metadata"`
		Values map[string]any `json:"values"`
	} `json:"chart"`
	Config map[string]any `json:"config"` // the values people gave
}

// decodeRecord reads Helm's form of a release: JSON, mostly compressed, as base64.
func decodeRecord(data []byte) (*stored, error) {
	if len(data) == 0 {
		return nil, errors.New("it has no release in it")
	}
	plain, err := base64.StdEncoding.DecodeString(string(data))
	if err != nil {
		return nil, fmt.Errorf("it is no base64: %w", err)
	}
	var text io.Reader = bytes.NewReader(plain)
	if bytes.HasPrefix(plain, []byte{0x1f, 0x8b}) { // records of Helm's first years are plain
		if text, err = gzip.NewReader(text); err != nil {
			return nil, fmt.Errorf("it cannot be decompressed: %w", err)
		}
	}
	limited := &io.LimitedReader{R: text, N: maxRecord}
	decoder := json.NewDecoder(limited)
	decoder.UseNumber() // a number that people gave keeps its digits
	var out stored
	err = decoder.Decode(&out)
	if err == nil {
		_, err = io.Copy(io.Discard, limited) // the checksum comes last
	}
	switch {
	case limited.N == 0:
		return nil, fmt.Errorf("it is larger than %d MiB", maxRecord>>20)
	case err != nil:
		return nil, fmt.Errorf("it is no release: %w", err)
	}
	return &out, nil
}

func (r *stored) release(of revision) fleet.HelmRelease {
	out := fleet.HelmRelease{
		Name:         of.release,
		Namespace:    r.Namespace,
		Chart:        r.Chart.Metadata.Name,
		ChartVersion: r.Chart.Metadata.Version,
		AppVersion:   r.Chart.Metadata.AppVersion,
		Revision:     of.number,
		Status:       r.Info.Status,
		ValuesHash:   hashValues(r.Config),
		Versions:     r.versions(),
	}
	if at, err := time.Parse(time.RFC3339Nano, r.Info.LastDeployed); err == nil {
		out.UpdatedAt = at.UTC()
	}
	return out
}

// hashValues is the SHA-256 of values as JSON with sorted keys. No values and an
// empty set of them are the same.
func hashValues(values map[string]any) string {
	if values == nil {
		values = map[string]any{}
	}
	// What came out of JSON goes back into it.
	text, _ := json.Marshal(values)
	sum := sha256.Sum256(text)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// versions reads what the vendor's charts declare, by line: the knobs in the values
// first, then the chart's annotations, then its application version. A line whose
// components are told apart has no one version and is left out.
func (r *stored) versions() fleet.VersionSet {
	noted := r.Chart.Metadata.Annotations
	app := r.Chart.Metadata.AppVersion
	out := make(fleet.VersionSet)
	declare := func(line fleet.Line, versions ...string) {
		for i, version := range versions {
			versions[i], _, _ = strings.Cut(version, "@") // a tag may be pinned by a digest
		}
		if versions = slices.Compact(versions); len(versions) == 1 && versions[0] != "" {
			out[line] = versions[0]
		}
	}
	switch r.Chart.Metadata.Name {
	case chartGateway:
		// The application version begins with the gateway's. What follows it was not
		// always the version of the bastions.
		gateway, _, _ := strings.Cut(app, "_")
		declare(fleet.LineGateway, cmp.Or(r.value("version"), r.value("gateway.deployment.image.tag"), noted["gatewayVersion"], gateway))
		if r.value("sra.enabled") != "false" {
			declare(fleet.LineSRA, cmp.Or(r.value("sra.image.tag"), noted["sraVersion"]))
		}
	case chartAPIGateway:
		// The image fetches the application, so its tag says nothing.
		declare(fleet.LineGateway, cmp.Or(r.value("version"), app))
	case chartWebAccess:
		declare(fleet.LineZTWA, cmp.Or(r.value("dispatcher.image.tag"), app), cmp.Or(r.value("webWorker.image.tag"), app))
	case chartSRA:
		var sides []string
		if r.value("ztbConfig.enabled") != "false" {
			sides = append(sides, cmp.Or(r.value("ztbConfig.image.tag"), noted["ztbVersion"]))
		}
		if r.value("sshConfig.enabled") != "false" {
			// Both run one image since the chart has no annotation for SSH.
			sides = append(sides, cmp.Or(r.value("sshConfig.image.tag"), noted["sshVersion"], noted["ztbVersion"]))
		}
		declare(fleet.LineSRA, sides...)
	}
	return out
}

// value looks a path like "sra.image.tag" up as Helm does: what people gave counts
// before the chart's own, and a null takes the chart's own away.
func (r *stored) value(path string) string {
	switch v := lookup(r.Config, r.Chart.Values, path).(type) {
	case string:
		return v
	case json.Number:
		return v.String()
	case bool:
		return strconv.FormatBool(v)
	}
	return ""
}

func lookup(given, own map[string]any, path string) any {
	key, rest, deeper := strings.Cut(path, ".")
	value, said := given[key]
	if !deeper {
		if said {
			return value
		}
		return own[key]
	}
	below, isMap := value.(map[string]any)
	if said && !isMap {
		return nil
	}
	ownBelow, _ := own[key].(map[string]any)
	return lookup(below, ownBelow, rest)
}
