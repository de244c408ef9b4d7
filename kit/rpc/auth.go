package rpc

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"

	"connectrpc.com/connect/v2/connecthttp"

	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// Role is what a caller may do. A role includes every role before it; the zero
// Role includes nothing.
type Role int

// Every role.
const (
	// Viewer may look.
	Viewer Role = iota + 1
	// Operator may start, hold and take back.
	Operator
	// Approver may do what an operator may; what waits for a person's word will ask
	// for it.
	Approver
	// Admin may do everything.
	Admin
)

var roleNames = [...]string{Viewer: "viewer", Operator: "operator", Approver: "approver", Admin: "admin"}

// String is the name that ParseRole reads.
func (r Role) String() string {
	if r < Viewer || r > Admin {
		return "none"
	}
	return roleNames[r]
}

// ParseRole reads the name of a role.
func ParseRole(name string) (Role, error) {
	for r := Viewer; r <= Admin; r++ {
		if name == roleNames[r] {
			return r, nil
		}
	}
	return 0, fmt.Errorf("%q is not a role; the roles are %s", name, strings.Join(roleNames[Viewer:], ", "))
}

// Includes says whether r covers what the needed role may do.
func (r Role) Includes(needed Role) bool {
	return needed >= Viewer && r >= needed && r <= Admin
}

// Principal is who calls.
type Principal struct {
	// Name is for people and the log.
	Name   string
	Role   Role
	Tenant string
}

// principalKey is where a context keeps the caller.
type principalKey struct{}

// PrincipalFrom returns who makes the call that ctx belongs to.
func PrincipalFrom(ctx context.Context) (Principal, bool) {
	who, ok := ctx.Value(principalKey{}).(Principal)
	return who, ok
}

// caller is the name of who calls, for the log.
func caller(ctx context.Context) string {
	who, _ := PrincipalFrom(ctx)
	return who.Name
}

// Authenticator finds out who sends a request. Its error says why nobody is
// believed, and carries a kind.
type Authenticator interface {
	Authenticate(r *http.Request) (Principal, error)
}

const (
	tokenPrefix = "lst_"
	hashPrefix  = "sha256:"
)

// NewToken returns a bearer token that nobody can guess. Whoever makes one shows
// it once and keeps its HashToken.
func NewToken() string { return tokenPrefix + rand.Text() }

// HashToken returns what a configuration knows a token by.
func HashToken(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hashPrefix + hex.EncodeToString(sum[:])
}

// Token is a bearer token as a configuration names it, and who shows it.
type Token struct {
	// Hash is the HashToken of the token; "sha256:" may be left out.
	Hash string
	Principal
}

// Tokens believes those who show a bearer token that it knows the hash of. It
// never holds a token.
type Tokens struct {
	hashes [][sha256.Size]byte
	owners []Principal
}

// NewTokens returns what believes exactly the given tokens.
func NewTokens(list ...Token) (*Tokens, error) {
	t := &Tokens{}
	names, hashes := make(map[string]bool), make(map[[sha256.Size]byte]string)
	for i, one := range list {
		if one.Name == "" {
			return nil, badToken("token %d has no name; give it one, it is what the log calls its owner", i+1)
		}
		if names[one.Name] {
			return nil, badToken("two tokens are named %q; give each a name of its own", one.Name)
		}
		if one.Role.String() == (Role(0)).String() {
			return nil, badToken("token %q has no role; give it one of %s", one.Name, strings.Join(roleNames[Viewer:], ", "))
		}
		raw, err := hex.DecodeString(strings.TrimPrefix(one.Hash, hashPrefix))
		if err != nil || len(raw) != sha256.Size {
			return nil, badToken("the hash of token %q is not one; it is 64 hexadecimal digits, the SHA-256 of the token", one.Name)
		}
		hash := [sha256.Size]byte(raw)
		if hash == sha256.Sum256(nil) {
			return nil, badToken("the hash of token %q is that of nothing; hash the token itself", one.Name)
		}
		if other, taken := hashes[hash]; taken {
			return nil, badToken("%q and %q are the same token; give each its own", other, one.Name)
		}
		names[one.Name], hashes[hash] = true, one.Name
		t.hashes, t.owners = append(t.hashes, hash), append(t.owners, one.Principal)
	}
	return t, nil
}

func badToken(format string, args ...any) error {
	return errs.New(errs.Invalid, "LS-API-015", format, args...)
}

// Authenticate believes the bearer token of the Authorization header. Every
// request takes the time of a look at every hash, whichever matches.
func (t *Tokens) Authenticate(r *http.Request) (Principal, error) {
	scheme, given, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	got := sha256.Sum256([]byte(given))
	found := -1
	for i := range t.hashes {
		found = subtle.ConstantTimeSelect(subtle.ConstantTimeCompare(got[:], t.hashes[i][:]), i, found)
	}
	if !strings.EqualFold(scheme, "Bearer") || found < 0 {
		return Principal{}, unauthenticated()
	}
	return t.owners[found], nil
}

func unauthenticated() error {
	return errs.New(errs.Unauthenticated, "LS-API-004", "the bearer token is missing or wrong; the first start of a server writes one to admin.token in its data directory")
}

// authenticated lets requests through that show who sends them. What else a
// request asks for is not looked at before that.
func (s *Server) authenticated(next http.Handler) http.Handler {
	refusal := connecthttp.NewErrorWriter()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// What one caller may see is no other's to find in a cache on the way.
		w.Header().Set("Cache-Control", "no-store")
		who, err := s.auth.Authenticate(r)
		if err == nil {
			next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), principalKey{}, who)))
			return
		}
		told, level := verdict(r.Context(), err)
		s.note(r.Context(), level, r.URL.Path, told, err)
		challenge := `Bearer realm="` + errorDomain + `"`
		if r.Header.Get("Authorization") != "" {
			challenge += `, error="invalid_token"`
		}
		w.Header().Set("WWW-Authenticate", challenge)
		// A browser's GET looks like a call but for the encoding of its message.
		if refusal.IsSupported(r) && (r.Method != http.MethodGet || r.URL.Query().Has("encoding")) {
			if refusal.Write(w, r, told) == nil {
				return
			}
		}
		http.Error(w, told.Message(), http.StatusUnauthorized)
	})
}
