package akeylesstest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
)

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
