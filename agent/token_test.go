package agent

import (
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
)

// TestControlToken: with a token file the control port wants the token; the socket,
// which has a file mode, does not.
func TestControlToken(t *testing.T) {
	c := settings(t)
	c.Listeners.ControlTokenFile = filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(c.Listeners.ControlTokenFile, []byte("s3cret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	a := run(t, c)
	status := func(network, address, token string) int {
		t.Helper()
		transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, address)
		}}
		req, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+a.listeners.control.Addr().String()+"/v1/status", nil)
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		r, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
		return r.StatusCode
	}
	control := a.listeners.control.Addr().String()
	for _, c := range []struct {
		network, address, token string
		want                    int
	}{
		{"tcp", control, "", 401}, {"tcp", control, "wrong", 401}, {"tcp", control, "s3cret", 200}, {"unix", c.Listeners.ControlSocket, "", 200},
	} {
		if got := status(c.network, c.address, c.token); got != c.want {
			t.Errorf("%s with token %q: %d, want %d", c.network, c.token, got, c.want)
		}
	}
}
