package akeyless

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/lockstep-fleet/lockstep/kit/errs"
)

// AccessType is how the vendor is shown who calls, in its own words.
type AccessType string

// Every access type that this client can use.
const (
	AccessKey         AccessType = "access_key"
	Kubernetes        AccessType = "k8s"
	JWT               AccessType = "jwt"
	OIDC              AccessType = "oidc"
	AWSIAM            AccessType = "aws_iam"
	UniversalIdentity AccessType = "universal_identity"
)

// AccessTypes lists every access type that this client can use.
func AccessTypes() []AccessType {
	return []AccessType{AccessKey, Kubernetes, JWT, OIDC, AWSIAM, UniversalIdentity}
}

const (
	// defaultK8sTokenFile is where Kubernetes puts a pod's own token.
	defaultK8sTokenFile = "/var/run/secrets/kubernetes.io/serviceaccount/token"
	largestSecretFile   = 1 << 20
)

// Auth says who calls. Files are read anew at every authentication, since what
// is in them rotates; space around a secret, such as a file's last newline, is
// dropped.
type Auth struct {
	Type     AccessType // empty means access_key
	AccessID string     // of the authentication method; universal_identity does without

	KeyFile      string // access_key: the file that holds the access key
	JWTFile      string // jwt, oidc: the file that holds a token of the identity provider
	UIDTokenFile string // universal_identity: the file that whoever rotates the token keeps up to date

	K8sAuthConfig string // k8s: the name of the gateway's Kubernetes auth config
	K8sTokenFile  string // k8s: empty means where Kubernetes puts a pod's own token
	GatewayURL    string // k8s: the gateway that knows K8sAuthConfig; empty means the one called

	// AWS gives the credentials for aws_iam; nil means where AWS tools look: the
	// environment, the shared files, the container's or the machine's role.
	AWS aws.CredentialsProvider `json:"-"`
}

// Format writes the type and the access id for every verb: a credentials
// provider may hold a secret and says so to whoever prints it.
func (a Auth) Format(s fmt.State, _ rune) { _, _ = fmt.Fprintf(s, "{%s %s}", a.Type, a.AccessID) }

// checked fills in what is left out and says what is missing. Secret files are
// looked into, so that a wrong path is told at the start and not at the first
// call.
func (a Auth) checked() (Auth, error) {
	a.Type = orDefault(a.Type, AccessKey)
	a.K8sTokenFile = orDefault(a.K8sTokenFile, defaultK8sTokenFile)
	if !slices.Contains(AccessTypes(), a.Type) {
		return a, errs.New(errs.Invalid, "LS-VEN-009", "vendor.access_type: %q is not supported yet; use an authentication method of type %s", clip(string(a.Type), 64), spell(AccessTypes()))
	}
	missing := ""
	switch {
	case a.AccessID == "" && a.Type != UniversalIdentity:
		missing = "vendor.access_id"
	case a.Type == AccessKey && a.KeyFile == "":
		missing = "vendor.access_key_file"
	case (a.Type == JWT || a.Type == OIDC) && a.JWTFile == "":
		missing = "vendor.jwt_file"
	case a.Type == UniversalIdentity && a.UIDTokenFile == "":
		missing = "vendor.uid_token_file"
	case a.Type == Kubernetes && a.K8sAuthConfig == "":
		missing = "vendor.k8s_auth_config"
	}
	if missing != "" {
		return a, errs.New(errs.Invalid, "LS-VEN-014", "an authentication of type %s needs %s, which is not set", a.Type, missing)
	}
	if key, path := a.secretFile(); path != "" {
		if _, err := readSecret(key, path); err != nil {
			return a, err
		}
	}
	return a, nil
}

// secretFile is the file that holds the secret, with the configuration key that
// names it; empty for aws_iam.
func (a Auth) secretFile() (key, path string) {
	switch a.Type {
	case AccessKey:
		return "vendor.access_key_file", a.KeyFile
	case JWT, OIDC:
		return "vendor.jwt_file", a.JWTFile
	case UniversalIdentity:
		return "vendor.uid_token_file", a.UIDTokenFile
	case Kubernetes:
		return "vendor.k8s_token_file", a.K8sTokenFile
	case AWSIAM:
	}
	return "", ""
}

// parts names, for people, what the credentials are made of.
func (a Auth) parts() string {
	switch a.Type {
	case JWT, OIDC:
		return "the access id, that the token in the file of vendor.jwt_file is fresh and meant for it,"
	case UniversalIdentity:
		return "that whoever rotates the token in the file of vendor.uid_token_file still does"
	case Kubernetes:
		return "the access id, vendor.k8s_auth_config, the service account's token (vendor.k8s_token_file)"
	case AWSIAM:
		return "the access id, that it allows this machine's AWS role"
	case AccessKey:
	}
	return "the access id, the key file (vendor.access_key_file)"
}

// request is the body of /auth with the secrets in it.
func (a Auth) request(ctx context.Context, now time.Time) (body map[string]any, secrets []Secret, err error) {
	body = map[string]any{"access-type": string(a.Type)}
	if a.AccessID != "" {
		body["access-id"] = a.AccessID
	}
	if a.Type == AWSIAM {
		id, err := cloudID(ctx, a.AWS, now)
		if err != nil {
			return nil, nil, err
		}
		body["cloud-id"] = string(id)
		return body, []Secret{id}, nil
	}
	secret, err := readSecret(a.secretFile())
	if err != nil {
		return nil, nil, err
	}
	secrets = []Secret{secret}
	switch a.Type {
	case AccessKey:
		body["access-key"] = string(secret)
	case JWT, OIDC:
		body["jwt"] = string(secret)
	case UniversalIdentity:
		// Servers of different age read different keys and ignore the other.
		body["uid-token"], body["uid_token"] = string(secret), string(secret)
	case Kubernetes:
		// The vendor's own integrations send it in base64 once more.
		encoded := Secret(base64.StdEncoding.EncodeToString([]byte(secret)))
		secrets = append(secrets, encoded)
		body["k8s-service-account-token"] = string(encoded)
		body["k8s-auth-config-name"] = a.K8sAuthConfig
		if a.GatewayURL != "" {
			body["gateway-url"] = a.GatewayURL
		}
	case AWSIAM:
	}
	return body, secrets, nil
}

// readSecret reads the secret in a file; key is the configuration key that names
// the file.
func readSecret(key, path string) (Secret, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", errs.New(errs.Invalid, "LS-VEN-008", "reading %s: %w", key, err)
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, largestSecretFile+1))
	secret := strings.TrimSpace(string(content))
	switch {
	case err != nil:
		return "", errs.New(errs.Invalid, "LS-VEN-008", "reading %s: %w", key, err)
	case len(content) > largestSecretFile:
		return "", errs.New(errs.Invalid, "LS-VEN-008", "reading %s: %s holds more than %d bytes; a secret is shorter", key, path, largestSecretFile)
	case secret == "":
		return "", errs.New(errs.Invalid, "LS-VEN-008", "reading %s: %s is empty; put the secret there", key, path)
	}
	return Secret(secret), nil
}

// spell lists words for people: "a, b or c".
func spell[T ~string](words []T) string {
	var b strings.Builder
	for i, w := range words {
		switch {
		case i > 0 && i == len(words)-1:
			b.WriteString(" or ")
		case i > 0:
			b.WriteString(", ")
		}
		b.WriteString(string(w))
	}
	return b.String()
}

// grant is what an authentication brought.
type grant struct {
	token Secret
	// renewAt is when to replace it, by this machine's clock; the zero time means
	// when it is rejected, as nobody said how long it lasts.
	renewAt time.Time
}

// renewal is an authentication under way, which every caller that needs a token
// waits for.
type renewal struct {
	done chan struct{} // closed when err is set
	err  error
	// abandoned says that it ended because its own caller went away.
	abandoned bool
}

// authCall is the call that makes a token of the credentials.
const authCall = "auth"

const (
	// renewAhead is how long before its end a token is replaced, so that a call
	// under way is not rejected; at most a quarter of its life.
	renewAhead = time.Minute
	// renewPause is how long a token that still works is used on after its
	// replacement failed.
	renewPause = 30 * time.Second
)

// tokenOtherThan returns a token that is not the one the caller saw rejected,
// renewing it when there is no other or when it is about to expire. However many
// callers ask at once, one authentication is made, and they share its outcome.
func (c *Client) tokenOtherThan(ctx context.Context, rejected Secret) (Secret, error) {
	for {
		c.mu.Lock()
		held := c.grant
		usable := held.token != "" && held.token != rejected
		if usable && (held.renewAt.IsZero() || c.now().Before(held.renewAt)) {
			c.mu.Unlock()
			return held.token, nil
		}
		under := c.renewal
		if under == nil {
			mine := &renewal{done: make(chan struct{})}
			c.renewal = mine
			c.mu.Unlock()
			return c.renew(ctx, mine, held, usable, rejected != "")
		}
		c.mu.Unlock()
		if usable {
			return held.token, nil // somebody replaces it, and it still works
		}
		select {
		case <-under.done:
			if under.err != nil && !under.abandoned {
				return "", under.err
			}
		case <-ctx.Done():
			return "", fmt.Errorf("wait for a token of %s: %w", c.base, context.Cause(ctx))
		}
	}
}

// renew authenticates for everyone. A token that still works is kept when its
// replacement fails.
func (c *Client) renew(ctx context.Context, mine *renewal, held grant, usable, afterRejection bool) (Secret, error) {
	// One try is enough while there is a token that works.
	fresh, err := c.authenticate(ctx, usable)
	if err != nil && usable && ctx.Err() == nil {
		c.log.WarnContext(ctx, "vendor token not renewed ahead of its end; the old one is used on", "address", c.base, "error", err)
		fresh, err = grant{token: held.token, renewAt: c.now().Add(renewPause)}, nil
	} else if err == nil {
		c.log.InfoContext(ctx, "vendor token renewed", "address", c.base, "access_id", c.auth.AccessID, "after_rejection", afterRejection)
	}
	c.mu.Lock()
	if err == nil {
		c.grant = fresh
	}
	c.renewal = nil
	mine.err, mine.abandoned = err, ctx.Err() != nil
	c.mu.Unlock()
	close(mine.done)
	return fresh.token, err
}

func (c *Client) authenticate(ctx context.Context, once bool) (grant, error) {
	body, secrets, err := c.auth.request(ctx, c.now().Add(c.skew()))
	if err != nil {
		return grant{}, err
	}
	c.mu.Lock()
	c.secrets = secrets
	c.mu.Unlock()
	var reply struct {
		Token      text `json:"token"`
		Expiration text `json:"expiration"`
	}
	q := query{call: authCall, body: body, once: once}
	if _, err := c.send(ctx, q, "", whole(&reply)); err != nil {
		return grant{}, err
	}
	if reply.Token == "" {
		return grant{}, c.malformed(authCall, errors.New("it holds no token"))
	}
	g := grant{token: Secret(reply.Token)}
	life := reply.Expiration.instantOfAnyForm().Sub(c.now().Add(c.skew()))
	if reply.Expiration.instantOfAnyForm().IsZero() || life <= 0 {
		life = c.lifeOf(ctx, g.token)
	}
	if life > 0 {
		g.renewAt = c.now().Add(life - min(renewAhead, life/4))
	}
	return g, nil
}

// lifeOf asks how long a token lasts, for servers whose expiration cannot be
// read; 0 means that it is not known. A server that did not say it once is not
// asked again, and no call fails for it: a token can be used until it is rejected.
func (c *Client) lifeOf(ctx context.Context, token Secret) time.Duration {
	c.mu.Lock()
	silent := c.lifeUnsaid
	c.mu.Unlock()
	if silent {
		return 0
	}
	life := time.Duration(0)
	var reply struct {
		TTL        text `json:"ttl"`
		Expiration text `json:"expiration"`
	}
	if _, err := c.send(ctx, query{call: "validate-token", once: true}, token, whole(&reply)); err == nil {
		life = reply.TTL.seconds()
		if at := reply.Expiration.instantOfAnyForm(); life <= 0 && !at.IsZero() {
			life = at.Sub(c.now().Add(c.skew()))
		}
	}
	c.mu.Lock()
	c.lifeUnsaid = life <= 0
	c.mu.Unlock()
	return max(life, 0)
}
