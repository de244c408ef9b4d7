package s3

import (
	"os"
	"strings"
	"sync/atomic"

	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// keyFiles are keys in files. They are read once, and again after a refusal.
type keyFiles struct{ access, secret string }

func (k *keyFiles) read() (credentials.Value, error) {
	value := credentials.Value{SignerType: credentials.SignatureV4}
	for file, into := range map[string]*string{k.access: &value.AccessKeyID, k.secret: &value.SecretAccessKey} {
		text, err := os.ReadFile(file)
		if err != nil {
			return credentials.Value{}, errs.New(errs.Invalid, "LS-PIP-001", "reading a key of the storage: %w", err)
		}
		if *into = strings.TrimSpace(string(text)); *into == "" {
			return credentials.Value{}, errs.New(errs.Invalid, "LS-PIP-001", "the key file %s of the storage is empty", file)
		}
	}
	return value, nil
}

// RetrieveWithCredContext is credentials.Provider's.
func (k *keyFiles) RetrieveWithCredContext(*credentials.CredContext) (credentials.Value, error) {
	return k.read()
}

// Retrieve is credentials.Provider's.
func (k *keyFiles) Retrieve() (credentials.Value, error) { return k.read() }

// IsExpired is credentials.Provider's: only a refusal ends a key's life.
func (k *keyFiles) IsExpired() bool { return false }

// remembered is a source of keys that knows what it gave last: to notice a
// change, and to keep keys out of what people read, nothing must be asked again.
type remembered struct {
	credentials.Provider
	last atomic.Pointer[credentials.Value]
}

// RetrieveWithCredContext is credentials.Provider's.
func (r *remembered) RetrieveWithCredContext(with *credentials.CredContext) (credentials.Value, error) {
	value, err := r.Provider.RetrieveWithCredContext(with)
	if err == nil {
		r.last.Store(&value)
	}
	return value, err
}

// given is what it gave last, nothing before the first call.
func (r *remembered) given() credentials.Value {
	if value := r.last.Load(); value != nil {
		return *value
	}
	return credentials.Value{}
}
