package akeylesstest

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// identityRequest is the body of the only request a cloud-id may carry.
const identityRequest = "Action=GetCallerIdentity&Version=2011-06-15"

// longestAge is how old a signature may be, as at AWS.
const longestAge = 15 * time.Minute

var (
	stsHost       = regexp.MustCompile(`^sts(\.[a-z0-9-]+)?\.amazonaws\.com$`)
	authorization = regexp.MustCompile(`^AWS4-HMAC-SHA256 Credential=([^/, ]+)/(\d{8})/([a-z0-9-]+)/sts/aws4_request, ?SignedHeaders=([a-z0-9;-]+), ?Signature=([0-9a-f]{64})$`)
)

// signed checks an aws_iam cloud-id: base64 of a JSON object that holds the
// parts of a GetCallerIdentity request signed by AWS Signature Version 4, which
// the vendor sends on to learn who signed it. A cloud-id that is none of this is
// the caller's mistake; one signed with another key or too long ago is refused
// as AWS would.
func (c *Credential) signed(cloudID string, now time.Time) error {
	malformed := func(what string) error {
		return broken(http.StatusBadRequest, "cloud-id is no signed GetCallerIdentity request: %s", what)
	}
	var parts map[string]string
	if raw, err := base64.StdEncoding.DecodeString(cloudID); err != nil || json.Unmarshal(raw, &parts) != nil {
		return malformed("it is not base64 of a JSON object of texts")
	}
	plain := make(map[string]string)
	for key, value := range parts {
		switch key {
		case "sts_request_method":
			plain[key] = value
		case "sts_request_url", "sts_request_headers", "sts_request_body":
			raw, err := base64.StdEncoding.DecodeString(value)
			if err != nil {
				return malformed(key + " is not base64")
			}
			plain[key] = string(raw)
		default:
			return malformed("key " + strconv.Quote(key) + " is unknown")
		}
	}
	body, sent := plain["sts_request_body"]
	if !sent {
		body = identityRequest // some clients leave it out: it is always the same
	}
	address, err := url.Parse(plain["sts_request_url"])
	var header http.Header
	switch {
	case plain["sts_request_method"] != http.MethodPost:
		return malformed("sts_request_method is not POST")
	case err != nil || address.Scheme != "https" || !stsHost.MatchString(address.Host) || strings.Trim(address.Path, "/") != "" || address.RawQuery != "":
		return malformed("sts_request_url is no address of STS")
	case body != identityRequest:
		return malformed("sts_request_body asks for something else")
	case json.Unmarshal([]byte(plain["sts_request_headers"]), &header) != nil:
		return malformed("sts_request_headers is no JSON object of lists")
	}
	said := authorization.FindStringSubmatch(header.Get("Authorization"))
	if said == nil {
		return malformed("its Authorization header is not of Signature Version 4 for STS")
	}
	key, date, region, names, signature := said[1], said[2], said[3], strings.Split(said[4], ";"), said[5]
	at, err := time.Parse("20060102T150405Z", header.Get("X-Amz-Date"))
	if err != nil || at.Format("20060102") != date {
		return malformed("its X-Amz-Date does not fit its Authorization")
	}
	if !slices.Contains(names, "host") || !slices.Contains(names, "x-amz-date") {
		return malformed("host and X-Amz-Date are not signed")
	}
	if age := now.Sub(at).Abs(); age > longestAge {
		return refuse(http.StatusUnauthorized, "Unauthorized: the signature of the cloud identity has expired")
	}
	if header.Get("Host") == "" {
		header.Set("Host", address.Host) // HTTP clients keep both beside the headers
	}
	if header.Get("Content-Length") == "" {
		header.Set("Content-Length", strconv.Itoa(len(body)))
	}
	want := sign(c.Secret, date, region, at, canonical(header, names, body))
	if key != c.AWSAccessKeyID || !hmac.Equal([]byte(want), []byte(signature)) {
		return errCredentials
	}
	return nil
}

// canonical is the canonical request of Signature Version 4 for a POST to the
// root.
func canonical(header http.Header, names []string, body string) string {
	lines := []string{http.MethodPost, "/", ""}
	for _, name := range names {
		lines = append(lines, name+":"+strings.Join(strings.Fields(strings.Join(header.Values(name), ",")), " "))
	}
	return strings.Join(append(lines, "", strings.Join(names, ";"), digest(body)), "\n")
}

func sign(secret, date, region string, at time.Time, request string) string {
	key := []byte("AWS4" + secret)
	for _, part := range []string{date, region, "sts", "aws4_request"} {
		key = mac(key, part)
	}
	scope := strings.Join([]string{date, region, "sts", "aws4_request"}, "/")
	return hex.EncodeToString(mac(key, strings.Join([]string{"AWS4-HMAC-SHA256", at.Format("20060102T150405Z"), scope, digest(request)}, "\n")))
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

func digest(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}
