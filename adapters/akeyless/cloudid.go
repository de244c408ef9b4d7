package akeyless

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/config"

	"github.com/lockstep-fleet/lockstep/kit/errs"
)

const (
	// The global endpoint, which is of this region whatever the caller's.
	stsURL    = "https://sts.amazonaws.com/"
	stsRegion = "us-east-1"
	stsBody   = "Action=GetCallerIdentity&Version=2011-06-15"
)

// cloudID proves an AWS identity: it is a signed request to AWS that asks "who am
// I?", which the vendor sends on to hear the answer. It is good for a quarter of
// an hour and never sent to AWS from here.
//
// The form is that of the vendor's own libraries (akeylesslabs/akeyless-go-cloud-id,
// cloudprovider/aws/cloud_id.go): base64 of a JSON object with sts_request_method
// as it is, and sts_request_url, sts_request_body and sts_request_headers (a JSON
// object of lists) in base64 each.
func cloudID(ctx context.Context, provider aws.CredentialsProvider, at time.Time) (Secret, error) {
	refuse := func(err error) error {
		return errs.New(errs.Unauthenticated, "LS-VEN-013", "no AWS identity to authenticate with (%s); give this process a role or AWS credentials, or choose another vendor.access_type", oneLine(err.Error(), 300))
	}
	if provider == nil {
		found, err := config.LoadDefaultConfig(ctx)
		if err != nil {
			return "", refuse(err)
		}
		provider = found.Credentials
	}
	credentials, err := provider.Retrieve(ctx)
	if err != nil {
		return "", refuse(err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, stsURL, bytes.NewReader([]byte(stsBody)))
	if err != nil {
		return "", fmt.Errorf("build the request that proves an AWS identity: %w", err)
	}
	request.Header.Set("Content-Length", strconv.Itoa(len(stsBody)))
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")
	request.Header.Set("User-Agent", "lockstep")
	sum := sha256.Sum256([]byte(stsBody))
	if err := v4.NewSigner().SignHTTP(ctx, credentials, request, hex.EncodeToString(sum[:]), "sts", stsRegion, at); err != nil {
		return "", refuse(err)
	}
	headers, err := json.Marshal(request.Header)
	if err != nil {
		return "", fmt.Errorf("encode the headers that prove an AWS identity: %w", err)
	}
	proof, err := json.Marshal(map[string]string{
		"sts_request_method":  request.Method,
		"sts_request_url":     base64.StdEncoding.EncodeToString([]byte(stsURL)),
		"sts_request_body":    base64.StdEncoding.EncodeToString([]byte(stsBody)),
		"sts_request_headers": base64.StdEncoding.EncodeToString(headers),
	})
	if err != nil {
		return "", fmt.Errorf("encode the proof of an AWS identity: %w", err)
	}
	return Secret(base64.StdEncoding.EncodeToString(proof)), nil
}
