package main

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

func TestPrintsWhatAFleetFileNeeds(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out, in := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- run(ctx, []string{"-clusters", "2", "-seed", "1"}, in) }()
	var printed strings.Builder
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		printed.WriteString(lines.Text() + "\n")
		if strings.Contains(lines.Text(), "curl") {
			break // the last line
		}
	}
	go func() { _, _ = io.Copy(io.Discard, out) }()
	var file struct {
		Vendor struct {
			URL      string `yaml:"url"`
			AccessID string `yaml:"access_id"`
			KeyFile  string `yaml:"access_key_file"`
		} `yaml:"vendor"`
	}
	if err := yaml.Unmarshal([]byte(printed.String()), &file); err != nil {
		t.Fatalf("%v in:\n%s", err, printed.String())
	}
	key, err := os.ReadFile(file.Vendor.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, file.Vendor.URL+"/auth",
		strings.NewReader(`{"access-id":"`+file.Vendor.AccessID+`","access-key":"`+strings.TrimSpace(string(key))+`"}`))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := new(http.Transport).RoundTrip(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Errorf("what was printed logs in with %s", response.Status)
	}
	if n := strings.Count(printed.String(), "vendor_cluster: acc-lab/p-lab/c"); n != 2 {
		t.Errorf("%d clusters are named, want 2, in:\n%s", n, printed.String())
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	_ = in.Close()
	if _, err := os.Stat(file.Vendor.KeyFile); !os.IsNotExist(err) {
		t.Errorf("the key is still there: %v", err)
	}
}

func TestRefusesWhatItCannotPlay(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{
		"beyond loopback": {"-listen", "0.0.0.0:0"},
		"no dialect":      {"-dialect", "x"},
		"no share":        {"-fail", "2"},
		"no clusters":     {"-clusters", "0"},
	} {
		if err := run(t.Context(), args, io.Discard); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
