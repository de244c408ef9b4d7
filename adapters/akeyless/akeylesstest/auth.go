package akeylesstest

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"
)

// AccessType is how a caller shows who it is, in the words of access-type.
type AccessType string

// The access types the server plays.
const (
	AuthAccessKey         AccessType = "access_key"
	AuthK8s               AccessType = "k8s"
	AuthJWT               AccessType = "jwt"
	AuthOIDC              AccessType = "oidc"
	AuthAWSIAM            AccessType = "aws_iam"
	AuthUniversalIdentity AccessType = "universal_identity"
)

// elsewhere are the documented access types the server does not play.
var elsewhere = []string{"password", "saml", "ldap", "azure_ad", "gcp", "cert", "oci", "kerberos", "oauth2"}

// Scope is whose sessions a credential's role sees.
type Scope string

// Every scope.
const (
	ScopeAll      Scope = "all"      // every session: sra-reports-access=all
	ScopeGateways Scope = "gateways" // the sessions of some gateways, and its own
	ScopeOwn      Scope = "own"      // its own sessions; allowed_gateways is left out
)

// Credential is one way to log in, with what its role may see.
type Credential struct {
	AccessID string
	Type     AccessType // empty means AuthAccessKey
	// Secret is the access key, the JWT, the service account's token, the
	// universal identity token or the AWS secret access key.
	Secret string
	// K8sConfig is the k8s-auth-config-name that goes with a k8s credential.
	K8sConfig string
	// AWSAccessKeyID is the key that signs for an aws_iam credential.
	AWSAccessKeyID string
	Scope          Scope    // empty means ScopeAll
	Gateways       []string // the cluster names of ScopeGateways
}

// sees says whether the role shows a session of others.
func (c *Credential) sees(gateway string) bool {
	switch c.Scope {
	case ScopeOwn:
		return false
	case ScopeGateways:
		return slices.Contains(c.Gateways, gateway)
	case ScopeAll:
	}
	return true
}

// grant is what a token stands for.
type grant struct {
	until      time.Time // by Options.Now
	credential int
}

// SetScope changes what a credential's role sees, from the next call on. It
// panics on an access id that the server does not have.
func (s *Server) SetScope(accessID string, scope Scope, gateways ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.credential(accessID)
	c.Scope, c.Gateways = scope, gateways
}

// SetSecret replaces a credential's secret, as a rotation does; tokens issued
// before stay good. It panics on an access id that the server does not have.
func (s *Server) SetSecret(accessID, secret string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.credential(accessID).Secret = secret
}

func (s *Server) credential(accessID string) *Credential {
	i := slices.IndexFunc(s.credentials, func(c Credential) bool { return c.AccessID == accessID })
	if i < 0 {
		panic(fmt.Sprintf("fake vendor API: no credential has the access id %q", accessID))
	}
	return &s.credentials[i]
}

var (
	errCredentials  = refuse(http.StatusUnauthorized, "Unauthorized: the credentials are wrong")
	errUnauthorized = refuse(http.StatusUnauthorized, "Unauthorized: token is invalid or has expired")
)

func (s *Server) auth(req request) (any, error) {
	access := AccessType(req.texts["access-type"])
	switch {
	case access == "":
		access = AuthAccessKey
	case slices.Contains(elsewhere, string(access)):
		return nil, refuse(http.StatusBadRequest, fmt.Sprintf("access-type %q is documented, and this fake does not play it", access))
	}
	needs, known := map[AccessType][]string{
		AuthAccessKey:         {"access-id", "access-key"},
		AuthK8s:               {"access-id", "k8s-auth-config-name", "k8s-service-account-token"},
		AuthJWT:               {"access-id", "jwt"},
		AuthOIDC:              {"access-id", "jwt"},
		AuthAWSIAM:            {"access-id", "cloud-id"},
		AuthUniversalIdentity: {},
	}[access]
	if !known {
		return nil, broken(http.StatusBadRequest, "access-type %q is not in the schema", access)
	}
	for _, key := range needs {
		if req.texts[key] == "" {
			return nil, broken(http.StatusBadRequest, "access-type %q needs %s", access, key)
		}
	}
	switch access {
	case AuthUniversalIdentity:
		if req.texts["uid-token"] == "" && req.texts["uid_token"] == "" {
			return nil, broken(http.StatusBadRequest, "access-type %q needs uid-token", access)
		}
	case AuthK8s:
		// The gateway validates the token; one that is asked itself knows its address.
		at, err := url.Parse(req.texts["gateway-url"])
		if err != nil || req.gateway < 0 && at.Host == "" {
			return nil, broken(http.StatusBadRequest, "access-type %q needs gateway-url, such as https://gateway.example:8000", access)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	var refused error = errCredentials
	for i := range s.credentials {
		c := &s.credentials[i]
		if c.kind() != access || req.texts["access-id"] != c.AccessID && (access != AuthUniversalIdentity || req.texts["access-id"] != "") {
			continue
		}
		if err := c.accepts(req, now); err != nil {
			refused = err
			continue
		}
		return s.issue(i, now), nil
	}
	return nil, refused
}

func (c *Credential) kind() AccessType {
	if c.Type == "" {
		return AuthAccessKey
	}
	return c.Type
}

// accepts checks the secret of a request that is for this credential.
func (c *Credential) accepts(req request, now time.Time) error {
	good := false
	switch c.kind() {
	case AuthAccessKey:
		good = req.texts["access-key"] == c.Secret
	case AuthJWT, AuthOIDC:
		good = req.texts["jwt"] == c.Secret
	case AuthK8s:
		// Some clients send the token as it is, others in base64.
		sent := req.texts["k8s-service-account-token"]
		plain, err := base64.StdEncoding.DecodeString(sent)
		good = req.texts["k8s-auth-config-name"] == c.K8sConfig && (sent == c.Secret || err == nil && string(plain) == c.Secret)
	case AuthUniversalIdentity:
		good = req.texts["uid-token"] == c.Secret || req.texts["uid_token"] == c.Secret
	case AuthAWSIAM:
		return c.signed(req.texts["cloud-id"], now)
	}
	if !good {
		return errCredentials
	}
	return nil
}

// issue makes a token. Its reply also holds credentials of the vendor's other
// services, which no client of these calls needs: planted, to be kept nowhere.
func (s *Server) issue(credential int, now time.Time) any {
	s.issued++
	token := fmt.Sprintf("t-lab-%08d", s.issued)
	until := now.Add(s.switches.tokenTTL)
	s.tokens[token] = grant{until: until, credential: credential}
	creds := map[string]any{
		"access_id":  s.credentials[credential].AccessID,
		"auth_creds": plantedAuth, "uam_creds": plantedUAM, "kfm_creds": plantedKFM,
	}
	reply := map[string]any{"token": token, "creds": creds}
	if said := s.expiration(until); said != "" {
		reply["expiration"] = said
		creds["expiry"] = until.Add(s.switches.skew).Unix()
	}
	return reply
}

// expiration words the end of a token by the server's own clock.
func (s *Server) expiration(until time.Time) string {
	until = until.Add(s.switches.skew).UTC()
	switch s.switches.expiration {
	case ExpirationUnix:
		return strconv.FormatInt(until.Unix(), 10)
	case ExpirationAbsent:
		return ""
	case ExpirationRFC3339:
	}
	return until.Format(time.RFC3339)
}

func (s *Server) validateToken(req request) (any, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	held, known := s.tokens[req.texts["token"]]
	left := held.until.Sub(s.now())
	if !known || left <= 0 {
		return map[string]any{"is_valid": false, "ttl": 0, "reason": errUnauthorized.message}, nil
	}
	reply := map[string]any{"is_valid": true, "ttl": int(left / time.Second)}
	if said := s.expiration(held.until); said != "" {
		reply["expiration"] = said
	}
	return reply, nil
}

// admit checks a token, counts its use and returns whose it is.
func (s *Server) admit(req request) (Credential, error) {
	token := req.texts["token"]
	if token == "" {
		return Credential{}, broken(http.StatusUnauthorized, "Unauthorized: token is missing")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	held, known := s.tokens[token]
	if !known || !s.now().Before(held.until) {
		delete(s.tokens, token)
		return Credential{}, errUnauthorized
	}
	if s.switches.expireAfter > 0 {
		if s.switches.expireAfter--; s.switches.expireAfter == 0 {
			clear(s.tokens)
		}
	}
	return s.credentials[held.credential], nil
}
