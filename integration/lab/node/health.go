package node

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"time"
)

// CheckHealth asks the node of this role on this machine whether it is up, the
// way the vendor's compose file does: over HTTP, or for the web bastion by
// opening its port.
func CheckHealth(ctx context.Context, role Role) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	switch role {
	case Gateway:
		return get(ctx, fmt.Sprintf("http://127.0.0.1:%d/health", GatewayPort))
	case SRASSH:
		return get(ctx, fmt.Sprintf("http://127.0.0.1:%d/status", SSHStatusPort))
	case SRAWeb:
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", WebPort))
		if err != nil {
			return err
		}
		return conn.Close()
	}
	return fmt.Errorf("check health: unknown role %q; name one or set LAB_ROLE", role)
}

func get(ctx context.Context, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answered %s", url, resp.Status)
	}
	return nil
}
