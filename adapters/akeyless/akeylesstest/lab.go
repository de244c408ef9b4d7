package akeylesstest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"
)

// Switches is what PUT /lab/switches takes: the server's switches for a lab in
// another process. An absent field leaves its switch alone.
type Switches struct {
	Dialect           *Dialect  `json:"dialect,omitempty"`
	OldServer         *bool     `json:"old_server,omitempty"`
	Down              *bool     `json:"down,omitempty"`
	LatencyMillis     *int64    `json:"latency_ms,omitempty"`
	RateLimitCalls    *int      `json:"rate_limit_calls,omitempty"`
	RetryAfterSeconds *int64    `json:"retry_after_seconds,omitempty"` // goes with rate_limit_calls
	HTMLCalls         *int      `json:"html_calls,omitempty"`
	HiddenGateways    *[]string `json:"hidden_gateways,omitempty"` // all that are hidden
	OmitGateways      *bool     `json:"omit_gateways,omitempty"`
	ExpireTokens      bool      `json:"expire_tokens,omitempty"`
	ExpireTokensAfter *int      `json:"expire_tokens_after,omitempty"`
}

// lab wraps a call of the lab: 204 when done, the API's error wording if not.
func lab(handle func(*json.Decoder) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		decoder := json.NewDecoder(io.LimitReader(r.Body, largestReport))
		decoder.DisallowUnknownFields() // a lab's typing error should not pass as silence
		if err := handle(decoder); err != nil {
			write(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
			return
		}
		w.WriteHeader(http.StatusNoContent)
	}
}

// putSessions takes an array. Sessions before a bad one are kept: reports are
// upserts, so the lab may send the array again.
func (s *Server) putSessions(body *json.Decoder) error {
	var reported []Session
	if err := body.Decode(&reported); err != nil {
		return fmt.Errorf("read the array of sessions: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, session := range reported {
		if err := s.report(session); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) putClusters(body *json.Decoder) error {
	var reported []Cluster
	if err := body.Decode(&reported); err != nil {
		return fmt.Errorf("read the array of clusters: %w", err)
	}
	if slices.ContainsFunc(reported, func(c Cluster) bool { return c.Name == "" }) {
		return errors.New("set clusters: one has no cluster_name")
	}
	for _, c := range reported {
		s.SetCluster(c)
	}
	return nil
}

func (s *Server) putSwitches(body *json.Decoder) error {
	var w Switches
	if err := body.Decode(&w); err != nil {
		return fmt.Errorf("read the switches: %w", err)
	}
	if w.Dialect != nil && *w.Dialect != DialectSchema && *w.Dialect != DialectInstances {
		return fmt.Errorf("set switches: dialect %q is neither %q nor %q", *w.Dialect, DialectSchema, DialectInstances)
	}
	s.set(func(is *switches) {
		assign(&is.dialect, w.Dialect)
		assign(&is.oldServer, w.OldServer)
		assign(&is.down, w.Down)
		assign(&is.limited, w.RateLimitCalls)
		assign(&is.html, w.HTMLCalls)
		assign(&is.silent, w.OmitGateways)
		assign(&is.expireAfter, w.ExpireTokensAfter)
		if w.LatencyMillis != nil {
			is.latency = time.Duration(*w.LatencyMillis) * time.Millisecond
		}
		if w.RetryAfterSeconds != nil {
			is.retryAfter = time.Duration(*w.RetryAfterSeconds) * time.Second
		}
		if w.HiddenGateways != nil {
			clear(is.hidden)
			for _, name := range *w.HiddenGateways {
				is.hidden[name] = true
			}
		}
	})
	if w.ExpireTokens {
		s.ExpireTokens()
	}
	return nil
}

func assign[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}
