package nacos

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshferry/meshferry/registry"
	"github.com/meshferry/meshferry/registry/internal/backend"
)

// relay stands before a server, at a pair of ports of its own: as another server of a
// cluster, or as what ends TLS.
type relay struct {
	addr      string // of the HTTP port
	listeners [2]net.Listener
	running   sync.WaitGroup

	mu    sync.Mutex
	conns []net.Conn // guarded by mu
	down  bool       // guarded by mu
}

func startRelay(t *testing.T, target string, secure *tls.Config) *relay {
	t.Helper()
	r := &relay{}
	for range 200 {
		port := 22000 + mathrand.IntN(9000)
		var err, err2 error
		r.listeners[0], err = net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port))
		r.listeners[1], err2 = net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port+grpcOffset))
		if err == nil && err2 == nil {
			break
		}
		for i, l := range r.listeners {
			if l != nil {
				l.Close()
			}
			r.listeners[i] = nil
		}
	}
	if r.listeners[0] == nil {
		t.Fatal("no free pair of ports")
	}
	r.addr = r.listeners[0].Addr().String()
	host, port, _ := net.SplitHostPort(target)
	n, _ := strconv.Atoi(port)
	for i, offset := range []int{0, grpcOffset} {
		l := r.listeners[i]
		if secure != nil {
			c := secure.Clone()
			c.NextProtos = [][]string{{"http/1.1"}, {"h2"}}[i]
			l = tls.NewListener(l, c)
		}
		r.running.Go(func() { r.serve(l, net.JoinHostPort(host, strconv.Itoa(n+offset))) })
	}
	t.Cleanup(func() { r.kill(); r.running.Wait() })
	return r
}

func (r *relay) serve(l net.Listener, target string) {
	for {
		in, err := l.Accept()
		if err != nil {
			return
		}
		out, err := net.Dial("tcp", target)
		if err != nil {
			in.Close()
			continue
		}
		r.mu.Lock()
		if r.down {
			in.Close()
			out.Close()
		}
		r.conns = append(r.conns, in, out)
		r.mu.Unlock()
		for _, way := range [][2]net.Conn{{in, out}, {out, in}} {
			r.running.Go(func() {
				_, _ = io.Copy(way[1], way[0]) // however it ends, both end
				way[0].Close()
				way[1].Close()
			})
		}
	}
}

// kill ends it as the death of a server does.
func (r *relay) kill() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.down = true
	for _, l := range r.listeners {
		l.Close()
	}
	for _, c := range r.conns {
		c.Close()
	}
}

// TestSeveralServers: when the one that it is connected to dies, the next is taken,
// and what was published is there again.
func TestSeveralServers(t *testing.T) {
	s := server(t)
	id := namespace(t, s)
	at := map[string]*relay{}
	o := options(s, id, "host")
	o.Servers = nil
	for range 3 {
		r := startRelay(t, s.Addr(), nil)
		at[r.addr] = r
		o.Servers = append(o.Servers, r.addr)
	}
	a, reader := start(t, o), start(t, options(s, id, "reader"))
	a.hold(want(t, first))
	reader.subscribe(iface).until(listed_(first))
	for left := len(at); left > 1; left-- {
		now := a.usable().server
		at[now].kill()
		delete(at, now)
		a.eventually("connected elsewhere", func() bool { c := a.usable(); return c != nil && c.server != now })
		if at[a.usable().server] == nil {
			t.Errorf("it says to be connected to %s, which is dead", a.usable().server)
		}
		a.hold(want(t, first))
		reader.subscribe(iface).until(listed_(first)) // who is new: others may have seen it gone for a moment, or not
	}
	now := a.usable().server
	at[now].kill()
	a.eventually("away", func() bool {
		got := a.Status()
		return got.State == registry.Away && strings.Contains(got.Err, "connection refused")
	})
}

func TestTLS(t *testing.T) {
	s := server(t)
	id := namespace(t, s)
	dir := t.TempDir()
	good, ca := certificate(t, "127.0.0.1"), filepath.Join(dir, "ca.pem")
	other := certificate(t, "192.0.2.9")
	for file, c := range map[string]tls.Certificate{ca: good, filepath.Join(dir, "other.pem"): other} {
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "none.pem"), []byte("no certificate"), 0o600); err != nil {
		t.Fatal(err)
	}
	secure := startRelay(t, s.Addr(), &tls.Config{Certificates: []tls.Certificate{good}})
	elsewhere := startRelay(t, s.Addr(), &tls.Config{Certificates: []tls.Certificate{other}})
	over := func(server, file string) Options {
		o := options(s, id, "host")
		o.Servers, o.TLS = []string{server}, backend.TLS{On: true, CAFile: file}
		return o
	}
	a := start(t, over(secure.addr, ca)) // the login goes this way too
	a.hold(want(t, first))
	a.subscribe(iface).until(listed_(first))
	a.stop()

	noLogin := func(o Options) Options { o.User, o.Password = "", ""; return o } // gRPC comes first then
	plain := over(secure.addr, "")
	plain.TLS.On = false
	for name, c := range map[string]struct {
		o    Options
		want string
	}{
		"an authority that the system does not know":     {over(secure.addr, ""), "certificate signed by unknown authority"},
		"the same for gRPC":                              {noLogin(over(secure.addr, "")), "certificate signed by unknown authority"},
		"another authority":                              {over(secure.addr, filepath.Join(dir, "other.pem")), "certificate signed by unknown authority"},
		"a certificate of another address":               {over(elsewhere.addr, filepath.Join(dir, "other.pem")), "certificate is valid for 192.0.2.9, not 127.0.0.1"},
		"the same address for gRPC":                      {noLogin(over(elsewhere.addr, filepath.Join(dir, "other.pem"))), "certificate is valid for 192.0.2.9, not 127.0.0.1"},
		"no file":                                        {over(secure.addr, filepath.Join(dir, "missing.pem")), "missing.pem: no such file"},
		"a file without certificates":                    {over(secure.addr, filepath.Join(dir, "none.pem")), "no certificate in " + filepath.Join(dir, "none.pem")},
		"a server without TLS":                           {over(s.Addr(), ca), "server gave HTTP response to HTTPS client"},
		"a server with TLS, asked without":               {plain, "login at " + secure.addr + ": "},
		"a server with TLS, asked without, and no login": {noLogin(plain), "connect to " + secure.addr},
	} {
		r := launch(t, c.o)
		r.eventually(name+": "+c.want, func() bool { return strings.Contains(r.Status().Err, c.want) })
		if got := r.Status(); got.State == registry.Connected {
			t.Errorf("%s: %+v", name, got)
		}
		t.Logf("%s: %s", name, r.Status().Err)
		r.stop()
	}
}

// certificate is one of a server at an address, signed by itself.
func certificate(t *testing.T, address string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "Nacos at " + address},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.ParseIP(address)},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
