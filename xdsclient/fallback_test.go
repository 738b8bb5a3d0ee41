package xdsclient_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/meshferry/meshferry/xdsclient"
	"github.com/meshferry/meshferry/xdsclient/xdstest"
)

// shopAt is shop with other endpoints.
func shopAt(s server, host string) {
	shop(s)
	s.Set(xdstest.Endpoints("blue", host+":20882"))
}

func TestFallbackAndReturn(t *testing.T) {
	both(t, func(t *testing.T, delta bool) {
		first, second := newServer(t, xdstest.Options{}), newServer(t, xdstest.Options{})
		shopAt(first, "10.1.0.1")
		shopAt(second, "10.2.0.1")
		// Only the second server has it; what only it had goes on the way back.
		second.Set(xdstest.Cluster("extra"), xdstest.Endpoints("extra", "10.2.0.9:1"))
		first.Stop()
		o := fast(first, second)
		o.Delta = delta
		c := start(t, o)
		c.until("served by the second", c.serves("blue", "10.2.0.1"))
		c.until("extra", c.serves("extra", "10.2.0.9"))
		d := c.eventually("retrying the first", func(d xdsclient.Dump) bool { return d.Servers[0].Err != "" })
		if !d.Servers[0].Asked || !d.Servers[1].Serving || d.Servers[0].Serving {
			t.Errorf("servers %+v", d.Servers)
		}

		first.restart()
		c.until("served by the first", c.serves("blue", "10.1.0.1"))
		c.until("extra gone", func() bool { return c.cluster["extra"] == nil })
		d = c.eventually("second not asked", func(d xdsclient.Dump) bool { return d.Servers[0].Serving && !d.Servers[1].Asked })
		c.eventually("its stream closed", func(xdsclient.Dump) bool { now, _ := second.Streams(); return now == 0 })
		c.coherent()
		for _, r := range first.Requests() {
			if r.Nonce == "" && r.Version != "" {
				t.Errorf("the second server's version went to the first: %+v", r)
			}
			for name, version := range r.Initial {
				if version != "?" {
					t.Errorf("the second server's version of %s went to the first: %q", name, version)
				}
			}
		}

		// Everything is known: an outage of the first is no reason to ask the second.
		_, streams := second.Streams()
		first.Stop()
		c.eventually("several tries", func(d xdsclient.Dump) bool { return d.Servers[0].Err != "" && !d.Servers[0].Connected })
		first.Set(xdstest.Endpoints("blue", "10.1.0.2:20882"))
		first.restart()
		c.until("the first again", c.serves("blue", "10.1.0.2"))
		if _, now := second.Streams(); now != streams {
			t.Error("fell back although everything was known")
		}
	})
}

// Nothing confirmed for long is a reason too.
func TestFallbackAfterALongOutage(t *testing.T) {
	first, second := newServer(t, xdstest.Options{}), newServer(t, xdstest.Options{})
	shopAt(first, "10.1.0.1")
	shopAt(second, "10.2.0.1")
	o := fast(first, second)
	o.FallbackAfter = 50 * time.Millisecond
	c := start(t, o)
	c.until("served by the first", c.serves("blue", "10.1.0.1"))
	first.Stop()
	c.until("served by the second", c.serves("blue", "10.2.0.1"))
	first.restart()
	c.until("served by the first", c.serves("blue", "10.1.0.1"))
}

// A server that accepts and says nothing is no server.
func TestFallbackFromASilentServer(t *testing.T) {
	first, second := newServer(t, xdstest.Options{Manual: true}), newServer(t, xdstest.Options{})
	shopAt(second, "10.2.0.1")
	o := fast(first, second)
	o.ResourceTimeout = 50 * time.Millisecond
	c := start(t, o)
	c.until("served by the second", c.serves("blue", "10.2.0.1"))
}

func TestColdStartFromDisk(t *testing.T) {
	for _, mode := range []string{"wildcard", "by name"} {
		t.Run(mode, func(t *testing.T) {
			s := newServer(t, xdstest.Options{})
			shop(s)
			o := fast(s)
			o.Wildcard = mode == "wildcard"
			o.Path = filepath.Join(t.TempDir(), "xds.state")
			names := []string{"127.0.0.1_20881"}
			c := start(t, o)
			c.SetListeners(names)
			c.until("shop", func() bool { return c.has("http_proxy", "shop=blue+green")() && c.ready && len(c.listen) == 1 })
			s.Set(xdstest.Endpoints("blue", "10.0.0.7:20882"))
			c.until("changed", c.serves("blue", "10.0.0.7"))
			s.Set(xdstest.Cluster("gone"), xdstest.Endpoints("gone", "10.0.0.8:1"))
			s.Delete(cds, "gone")
			c.stop()
			s.Stop()

			info, err := os.Stat(o.Path)
			if err != nil || info.Mode().Perm() != 0o600 {
				t.Fatalf("%v %v", info, err)
			}
			c = start(t, o)
			c.SetListeners(names)
			c.until("from disk", func() bool { return c.has("http_proxy", "shop=blue+green")() && len(c.listen) == 1 && c.ready })
			c.coherent()
			if !c.serves("blue", "10.0.0.7")() || !c.serves("green", "10.0.0.2")() || c.cluster["gone"] != nil {
				t.Errorf("blue %v, green %v, gone %v", c.endpoints("blue"), c.endpoints("green"), c.cluster["gone"])
			}
			if r := resource(c.Dump(), eds, "blue"); r.Server != "disk" || r.State != xdsclient.Acked {
				t.Errorf("%+v", r)
			}
			from := len(s.Requests())
			s.Set(xdstest.Endpoints("green", "10.0.0.6:1"))
			s.Delete(cds, "blue")
			s.Set(xdstest.Routes("http_proxy", xdstest.VirtualHost("shop", "green")))
			s.restart()
			c.until("up to date", func() bool { return c.serves("green", "10.0.0.6")() && c.cluster["blue"] == nil })
			r, _ := s.await("first", from, func(xdstest.Request) bool { return true })
			if r.Version != "" || r.Nonce != "" {
				t.Errorf("a version from disk was sent: %+v", r)
			}
			c.stop()

			// A damaged file: what is before the damage is used, the file is moved aside.
			raw, err := os.ReadFile(o.Path)
			if err != nil {
				t.Fatal(err)
			}
			raw[len(raw)-1] ^= 1
			if err := os.WriteFile(o.Path, raw, 0o600); err != nil {
				t.Fatal(err)
			}
			c = start(t, o)
			c.SetListeners(names)
			c.until("up to date", c.serves("green", "10.0.0.6"))
			if _, err := os.Stat(o.Path + ".damaged"); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestTLS(t *testing.T) {
	dir := t.TempDir()
	ca := newAuthority(t, dir, "ca")
	other := newAuthority(t, dir, "other")
	serverCert := ca.issue(t, "server", net.IPv4(127, 0, 0, 1), "istiod.istio-system.svc")
	ca.issue(t, "client", nil, "")
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	file := func(name string) string { return filepath.Join(dir, name) }

	plain := &tls.Config{Certificates: []tls.Certificate{serverCert}}
	mutual := &tls.Config{Certificates: []tls.Certificate{serverCert}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool}
	for name, test := range map[string]struct {
		server *tls.Config
		files  xdsclient.TLSFiles
		err    string // in the dump; "" works
	}{
		"tls":                   {plain, xdsclient.TLSFiles{CA: file("ca.pem")}, ""},
		"tls with server name":  {plain, xdsclient.TLSFiles{CA: file("ca.pem"), ServerName: "istiod.istio-system.svc"}, ""},
		"tls with a wrong name": {plain, xdsclient.TLSFiles{CA: file("ca.pem"), ServerName: "other.example"}, "other.example"},
		"tls with another CA":   {plain, xdsclient.TLSFiles{CA: file("other.pem")}, "unknown authority"},
		"mtls":                  {mutual, xdsclient.TLSFiles{CA: file("ca.pem"), Cert: file("client.pem"), Key: file("client-key.pem")}, ""},
		"mtls without a client": {mutual, xdsclient.TLSFiles{CA: file("ca.pem")}, "certificate required"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, xdstest.Options{TLS: credentials.NewTLS(test.server)})
			shop(s)
			creds, err := test.files.Credentials()
			if err != nil {
				t.Fatal(err)
			}
			o := fast(s)
			o.Servers[0].TLS = creds
			c := start(t, o)
			if test.err == "" {
				c.until("shop", c.has("http_proxy", "shop=blue+green"))
				return
			}
			c.eventually(test.err, func(d xdsclient.Dump) bool { return strings.Contains(d.Servers[0].Err, test.err) })
		})
	}
	t.Run("an address without a name in the certificate", func(t *testing.T) {
		named := ca.issue(t, "named", nil, "istiod.istio-system.svc")
		s := newServer(t, xdstest.Options{TLS: credentials.NewTLS(&tls.Config{Certificates: []tls.Certificate{named}})})
		creds, err := xdsclient.TLSFiles{CA: file("ca.pem")}.Credentials()
		if err != nil {
			t.Fatal(err)
		}
		o := fast(s)
		o.Servers[0].TLS = creds
		c := start(t, o)
		c.eventually("refused", func(d xdsclient.Dump) bool {
			return strings.Contains(d.Servers[0].Err, "127.0.0.1") && d.Servers[0].Streams == 0
		})
	})
	t.Run("renewed", func(t *testing.T) {
		s := newServer(t, xdstest.Options{TLS: credentials.NewTLS(mutual)})
		shop(s)
		f := xdsclient.TLSFiles{CA: file("ca.pem"), Cert: file("renewed.pem"), Key: file("renewed-key.pem")}
		other.issue(t, "renewed", nil, "")
		creds, err := f.Credentials()
		if err != nil {
			t.Fatal(err)
		}
		o := fast(s)
		o.Servers[0].TLS = creds
		c := start(t, o)
		c.eventually("refused", func(d xdsclient.Dump) bool { return d.Servers[0].Err != "" })
		ca.issue(t, "renewed", nil, "")
		c.until("shop", c.has("http_proxy", "shop=blue+green"))
	})
	t.Run("token", func(t *testing.T) {
		var got atomic.Value
		s := newServer(t, xdstest.Options{TLS: credentials.NewTLS(plain), ServerOptions: []grpc.ServerOption{
			grpc.StreamInterceptor(func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
				md, _ := metadata.FromIncomingContext(stream.Context())
				text := strings.Join(md.Get("authorization"), ",")
				got.Store(text)
				if text != "Bearer good" {
					return status.Error(codes.Unauthenticated, "authentication failure")
				}
				return next(srv, stream)
			}),
		}})
		shop(s)
		creds, err := xdsclient.TLSFiles{CA: file("ca.pem")}.Credentials()
		if err != nil {
			t.Fatal(err)
		}
		var l log
		o := fast(s)
		o.Log = l.logger()
		o.Servers[0].TLS = creds
		o.Servers[0].DialOptions = []grpc.DialOption{grpc.WithPerRPCCredentials(xdsclient.TokenFile(file("token")))}
		c := start(t, o)
		c.eventually("no file", func(d xdsclient.Dump) bool { return strings.Contains(d.Servers[0].Err, "no such file") })
		write := func(text string) {
			t.Helper()
			if err := os.WriteFile(file("token"), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write("two words")
		c.eventually("no token", func(d xdsclient.Dump) bool { return strings.Contains(d.Servers[0].Err, "is not a token") })
		write("bad\n")
		c.eventually("refused", func(d xdsclient.Dump) bool { return strings.Contains(d.Servers[0].Err, "authentication failure") })
		if got.Load() != "Bearer bad" || l.count("does not accept who asks") != 3 {
			t.Errorf("sent %q, logged\n%s", got.Load(), l.b.String())
		}
		write("good\n")
		c.until("shop", c.has("http_proxy", "shop=blue+green"))

		// Not in plain text.
		bare := newServer(t, xdstest.Options{})
		o = fast(bare)
		o.Servers[0].DialOptions = []grpc.DialOption{grpc.WithPerRPCCredentials(xdsclient.TokenFile(file("token")))}
		c = start(t, o)
		c.eventually("not sent", func(d xdsclient.Dump) bool { return d.Servers[0].Err != "" })
		if now, all := bare.Streams(); now+all > 0 {
			t.Error("a token went out in plain text")
		}
	})
	for name, f := range map[string]xdsclient.TLSFiles{
		"no CA":      {CA: file("nowhere.pem")},
		"not a CA":   {CA: file("client-key.pem")},
		"no key":     {Cert: file("client.pem")},
		"wrong key":  {Cert: file("client.pem"), Key: file("server-key.pem")},
		"no cert":    {Key: file("client-key.pem")},
		"lost files": {Cert: file("x"), Key: file("y")},
	} {
		if _, err := f.Credentials(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// authority signs certificates into a folder.
type authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, dir, name string) *authority {
	t.Helper()
	a := &authority{dir: dir}
	a.key = newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.write(t, name+".pem", "CERTIFICATE", der)
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (a *authority) issue(t *testing.T, name string, ip net.IP, dns string) tls.Certificate {
	t.Helper()
	k := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if ip != nil {
		template.IPAddresses = []net.IP{ip}
	}
	if dns != "" {
		template.DNSNames = []string{dns}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, k.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	a.write(t, name+"-key.pem", "PRIVATE KEY", raw)
	a.write(t, name+".pem", "CERTIFICATE", der)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: k}
}

func (a *authority) write(t *testing.T, name, kind string, der []byte) {
	t.Helper()
	text := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
	if err := os.WriteFile(filepath.Join(a.dir, name), text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// SetListeners from several goroutines while the server comes and goes.
func TestConcurrentUse(t *testing.T) {
	s := newServer(t, xdstest.Options{})
	shop(s)
	o := fast(s)
	o.Wildcard = false
	c := start(t, o)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	for range 2 {
		go func() {
			defer func() { done <- struct{}{} }()
			for i := 0; ctx.Err() == nil; i++ {
				if i%2 == 0 {
					c.SetListeners(nil)
				} else {
					c.SetListeners([]string{"127.0.0.1_20881", "other"})
				}
				c.Dump()
				runtime.Gosched()
			}
		}()
	}
	for i := range 20 {
		if i%5 == 0 {
			s.EndStreams()
		}
		s.Set(xdstest.Endpoints("blue", "10.0.0.1:1", "10.0.0.2:1"))
		select {
		case u := <-c.ch:
			c.apply(u)
		case <-time.After(5 * time.Millisecond):
		}
	}
	cancel()
	// The goroutines may wait for nothing but the lock.
	<-done
	<-done
	c.SetListeners([]string{"127.0.0.1_20881"})
	c.until("shop", func() bool {
		return c.listen["127.0.0.1_20881"] != nil && slices.Equal(c.hosts("http_proxy"), []string{"shop=blue+green"})
	})
	c.coherent()
}
