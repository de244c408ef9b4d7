package s3

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/lockstep-fleet/lockstep/domain/fleet"
)

const (
	// canaryFolder is where canaries live, below the prefix.
	canaryFolder = ".lockstep-canary/"
	// canaryLife is far longer than a check takes: a canary that old has no owner.
	canaryLife = time.Hour
	// maxSwept bounds what one check removes of others.
	maxSwept = 100
	// maxCanary bounds what is read back.
	maxCanary = 64 << 10
)

// Canary writes a small object of a unique name, reads it back, compares and
// removes it. Removal is tried whatever came before, also after ctx has ended. A
// canary that an earlier process left behind is removed once it is an hour old by
// the storage's own clock.
func (s *Storage) Canary(ctx context.Context, cluster fleet.ClusterID, name string) fleet.Check {
	began := s.opts.Now()
	check := fleet.Check{Cluster: cluster, Name: name, Kind: fleet.CheckStorage, Target: s.target, At: began}
	key := canaryFolder + s.opts.NewID()
	written, err := s.tryOut(ctx, key, letter(cluster, name, key, began))
	// The end of the caller's patience must not leave an object behind.
	removal, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.opts.Timeout)
	defer cancel()
	if errRemove := s.remove(removal, key); err == nil && errRemove != nil {
		err = fmt.Errorf("the canary was written and read and stays behind: %w", errRemove)
	}
	check.Took = max(s.opts.Now().Sub(began), 0)
	if expires := s.transport.expires.Load(); expires != nil {
		check.CertificateExpires = *expires
	}
	if err != nil {
		check.Failure, check.Detail = classOf(err), err.Error()
		return check
	}
	check.OK, check.Detail = true, "a small object was written, read and removed"
	if swept, err := s.sweep(removal, written); err != nil {
		check.Detail += "; looking for older ones failed: " + err.Error()
	} else if swept > 0 {
		check.Detail += fmt.Sprintf("; %d that were left behind were removed", swept)
	}
	return check
}

// letter is what a canary holds: who finds one should know what it is.
func letter(cluster fleet.ClusterID, name, key string, at time.Time) []byte {
	return fmt.Appendf(nil, "Lockstep writes this object to see that the storage of recordings works, and removes it at once. It may be deleted.\n"+
		"cluster: %s\ncheck: %s\nkey: %s\nwritten at: %s\n", cluster, name, key, at.UTC().Format(time.RFC3339Nano))
}

// tryOut writes and reads; it returns when the object was written by the
// storage's clock.
func (s *Storage) tryOut(ctx context.Context, key string, text []byte) (time.Time, error) {
	full := s.opts.Prefix + key
	sum := sha256.Sum256(text)
	err := s.again(ctx, func(ctx context.Context) error {
		// Hashes given beforehand make one plain request, which every storage reads.
		_, err := s.client.PutObject(ctx, s.opts.Bucket, full, bytes.NewReader(text), int64(len(text)), "", hex.EncodeToString(sum[:]),
			minio.PutObjectOptions{ContentType: "text/plain; charset=utf-8"})
		return err
	})
	if err != nil {
		return time.Time{}, s.failed(ctx, "writing "+key+" to", err)
	}
	var got []byte
	var info minio.ObjectInfo
	err = s.again(ctx, func(ctx context.Context) error {
		body, about, _, err := s.client.GetObject(ctx, s.opts.Bucket, full, minio.GetObjectOptions{})
		if err != nil {
			return err
		}
		info = about
		got, err = io.ReadAll(io.LimitReader(body, maxCanary))
		return errors.Join(err, body.Close())
	})
	if err != nil {
		return time.Time{}, s.failed(ctx, "reading "+key+" back from", err)
	}
	if !bytes.Equal(got, text) {
		return time.Time{}, &failure{
			class: fleet.FailureContent,
			text:  fmt.Sprintf("reading %s back from %s: %d bytes were written and other %d came back", key, s.target, len(text), len(got)),
		}
	}
	return info.LastModified, nil
}

func (s *Storage) remove(ctx context.Context, key string) error {
	err := s.again(ctx, func(ctx context.Context) error {
		return s.client.RemoveObject(ctx, s.opts.Bucket, s.opts.Prefix+key, minio.RemoveObjectOptions{})
	})
	if err != nil {
		return s.failed(ctx, "removing "+key+" from", err)
	}
	return nil
}

// sweep removes canaries that are older than canaryLife at now, and says how many.
func (s *Storage) sweep(ctx context.Context, now time.Time) (int, error) {
	found, _, err := s.list(ctx, canaryFolder) // what is more than a page is found next time
	if err != nil {
		return 0, s.failed(ctx, "listing "+canaryFolder+" in", err)
	}
	swept := 0
	for _, o := range found {
		if swept == maxSwept {
			break
		}
		if now.Sub(o.ModifiedAt) < canaryLife {
			continue
		}
		if err := s.remove(ctx, o.Key); err != nil {
			return swept, err
		}
		swept++
	}
	return swept, nil
}

// classOf is the class an error carries; one without a class came from ctx.
func classOf(err error) fleet.Failure {
	if f, ok := errors.AsType[*failure](err); ok {
		return f.class
	}
	return fleet.FailureUnclassified
}
