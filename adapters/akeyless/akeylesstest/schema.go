package akeylesstest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"
)

const (
	largestRequest = 1 << 20
	largestReport  = 64 << 20
	keptViolations = 100
)

// kind is the type of a request key.
type kind string

const (
	text kind = "string"
	flag kind = "boolean"
	list kind = "array of strings"
)

// schemas are the request keys of each call, as published. Go's decoder takes
// keys in any case and drops those it does not know, so it cannot check them.
var schemas = map[string]map[string]kind{
	"auth": {
		"access-id": text, "access-key": text, "access-type": text, "account-id": text,
		"admin-email": text, "admin-password": text, "azure-cloud": text,
		"cert-challenge": text, "cert-data": text, "cloud-id": text, "debug": flag,
		"disable-pafxfast": text, "gateway-spn": text, "gateway-url": text, "gcp-audience": text,
		"json": flag, "jwt": text, "k8s-auth-config-name": text, "k8s-service-account-token": text,
		"kerberos-token": text, "kerberos-username": text, "key-data": text, "keytab-data": text,
		"krb5-conf-data": text, "ldap-password": text, "oci-auth-type": text, "oci-group-ocid": list,
		"otp": text, "signed-cert-challenge": text, "uid-token": text, "use-remote-browser": flag,
		"username": text,
		// Of older SDKs.
		"uid_token": text, "ldap_password": text, "ldap_username": text,
	},
	"validate-token":            {"json": flag, "token": text},
	"list-sra-bastions":         {"json": flag, "token": text, "uid-token": text, "allowed-urls-only": flag},
	"list-sra-sessions":         {"json": flag, "token": text, "uid-token": text, "status-type": list, "resource-type": list, "pagination-token": text},
	"list-gateways":             {"json": flag, "token": text, "uid-token": text},
	"gateway-get-remote-access": {"json": flag, "token": text, "uid-token": text},
}

// request is what a call was sent, by the wire's kebab-case keys. A key that
// was not sent reads as empty.
type request struct {
	gateway int // the place of the gateway that was asked; -1 for the API itself
	texts   map[string]string
	flags   map[string]bool
	lists   map[string][]string
}

// violated remembers a broken request.
func (s *Server) violated(r *http.Request, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.violations) < keptViolations {
		s.violations = append(s.violations, fmt.Sprintf("%s %s: %s", r.Method, r.URL.Path, err))
	}
}

// read checks a request against the schema of its call.
func read(call string, r *http.Request) (request, error) {
	req := request{texts: map[string]string{}, flags: map[string]bool{}, lists: map[string][]string{}}
	if r.Method != http.MethodPost {
		return req, broken(http.StatusMethodNotAllowed, "405 method not allowed")
	}
	sent := r.Header.Get("Content-Type")
	if media, _, err := mime.ParseMediaType(sent); err != nil || media != "application/json" {
		return req, broken(http.StatusUnsupportedMediaType, "content type %q is not application/json", sent)
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, largestRequest+1))
	if err != nil {
		return req, fmt.Errorf("read the request: %w", err)
	}
	if len(body) > largestRequest {
		return req, broken(http.StatusRequestEntityTooLarge, "the request is larger than %d bytes", largestRequest)
	}
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(body, &keys); err != nil {
		return req, broken(http.StatusBadRequest, "invalid request body: %s", shape(err))
	}
	if keys == nil {
		return req, broken(http.StatusBadRequest, "invalid request body: null is no object")
	}
	for key, value := range keys {
		want, known := schemas[call][key]
		if !known {
			return req, broken(http.StatusBadRequest, "key %q is not in the schema", key)
		}
		if bytes.Equal(value, []byte("null")) {
			continue // as good as absent for the servers there are
		}
		var err error
		switch want {
		case text:
			var v string
			err = json.Unmarshal(value, &v)
			req.texts[key] = v
		case flag:
			var v bool
			err = json.Unmarshal(value, &v)
			req.flags[key] = v
		case list:
			var v []string
			err = json.Unmarshal(value, &v)
			req.lists[key] = v
		}
		if err != nil {
			return req, broken(http.StatusBadRequest, "key %q is not of type %s", key, want)
		}
	}
	for key, options := range map[string][]string{"status-type": statuses, "resource-type": resourceTypes} {
		for _, value := range req.lists[key] {
			if !slices.Contains(options, value) {
				return req, broken(http.StatusBadRequest, "%s %q is none of %s", key, value, strings.Join(options, ", "))
			}
		}
	}
	return req, nil
}

// shape says what is wrong with JSON without repeating any of it.
func shape(err error) string {
	var typed *json.UnmarshalTypeError
	if errors.As(err, &typed) {
		return typed.Value + " is no object"
	}
	return "it is not JSON"
}
