package nacos

import (
	"crypto/tls"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/meshferry/meshferry/registry"
	"github.com/meshferry/meshferry/registry/internal/backend"
	"github.com/meshferry/meshferry/registry/nacos/nacostest"
	"github.com/meshferry/meshferry/registry/registrytest"
)

// relay stands before both ports of a server.
func relay(t *testing.T, s *nacostest.Server, secure *tls.Config) *registrytest.Relay {
	return registrytest.StartRelay(t, s.Addr(), secure, grpcOffset)
}

// TestSeveralServers: when the one that it is connected to dies, the next is taken,
// and what was published is there again.
func TestSeveralServers(t *testing.T) {
	s := server(t)
	id := namespace(t, s)
	at := map[string]*registrytest.Relay{}
	o := options(s, id, "host")
	o.Servers = nil
	for range 3 {
		r := relay(t, s, nil)
		at[r.Addr()] = r
		o.Servers = append(o.Servers, r.Addr())
	}
	a, reader := start(t, o), start(t, options(s, id, "reader"))
	a.HoldSoon(want(t, first))
	reader.Listen(iface).Until(listed_(first))
	for left := len(at); left > 1; left-- {
		now := a.usable().server
		at[now].Cut()
		delete(at, now)
		a.Eventually("connected elsewhere", func() bool { c := a.usable(); return c != nil && c.server != now })
		if at[a.usable().server] == nil {
			t.Errorf("it says to be connected to %s, which is dead", a.usable().server)
		}
		a.HoldSoon(want(t, first))
		reader.Listen(iface).Until(listed_(first)) // who is new: others may have seen it gone for a moment, or not
	}
	now := a.usable().server
	at[now].Cut()
	a.Eventually("away", func() bool {
		got := a.Status()
		return got.State == registry.Away && strings.Contains(got.Err, "connection refused")
	})
}

func TestTLS(t *testing.T) {
	s := server(t)
	id := namespace(t, s)
	good, ca := registrytest.Certificate(t, "127.0.0.1")
	other, otherCA := registrytest.Certificate(t, "192.0.2.9")
	none := filepath.Join(t.TempDir(), "none.pem")
	if err := os.WriteFile(none, []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	secure := relay(t, s, &tls.Config{Certificates: []tls.Certificate{good}})
	elsewhere := relay(t, s, &tls.Config{Certificates: []tls.Certificate{other}})
	over := func(server, file string) Options {
		o := options(s, id, "host")
		o.Servers, o.TLS = []string{server}, backend.TLS{On: true, CAFile: file}
		return o
	}
	a := start(t, over(secure.Addr(), ca)) // the login goes this way too
	a.HoldSoon(want(t, first))
	a.Listen(iface).Until(listed_(first))
	a.Stop()

	noLogin := func(o Options) Options { o.User, o.Password = "", ""; return o } // gRPC comes first then
	plain := over(secure.Addr(), "")
	plain.TLS.On = false
	for name, c := range map[string]struct {
		o    Options
		want string
	}{
		"an authority that the system does not know":     {over(secure.Addr(), ""), "certificate signed by unknown authority"},
		"the same for gRPC":                              {noLogin(over(secure.Addr(), "")), "certificate signed by unknown authority"},
		"another authority":                              {over(secure.Addr(), otherCA), "certificate signed by unknown authority"},
		"a certificate of another address":               {over(elsewhere.Addr(), otherCA), "certificate is valid for 192.0.2.9, not 127.0.0.1"},
		"the same address for gRPC":                      {noLogin(over(elsewhere.Addr(), otherCA)), "certificate is valid for 192.0.2.9, not 127.0.0.1"},
		"no file":                                        {over(secure.Addr(), none+".missing"), "none.pem.missing: no such file"},
		"a file without certificates":                    {over(secure.Addr(), none), "no certificate in " + none},
		"a server without TLS":                           {over(s.Addr(), ca), "server gave HTTP response to HTTPS client"},
		"a server with TLS, asked without":               {plain, "login at " + secure.Addr() + ": "},
		"a server with TLS, asked without, and no login": {noLogin(plain), "connect to " + secure.Addr()},
	} {
		r := launch(t, c.o)
		r.Eventually(name+": "+c.want, func() bool { return strings.Contains(r.Status().Err, c.want) })
		if got := r.Status(); got.State == registry.Connected {
			t.Errorf("%s: %+v", name, got)
		}
		t.Logf("%s: %s", name, r.Status().Err)
		r.Stop()
	}
}
