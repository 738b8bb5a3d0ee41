package controlplane

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
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// authority signs certificates.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign}
	a.cert, a.key = a.sign(template)
	return a
}

func (a *authority) sign(template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key
}

// issue writes a certificate and its key.
func (a *authority) issue(dir string, serial int64) (cert, key string) {
	a.t.Helper()
	c, k := a.sign(&x509.Certificate{SerialNumber: big.NewInt(serial), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}})
	der, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	a.write(cert, "CERTIFICATE", c.Raw)
	a.write(key, "EC PRIVATE KEY", der)
	return cert, key
}

func (a *authority) write(path, kind string, der []byte) {
	a.t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		a.t.Fatal(err)
	}
}

// With mTLS a client with a certificate of the authority is served, one without
// or with a foreign one is not; a replaced certificate is used without a restart.
func TestTLS(t *testing.T) {
	a, foreign := newAuthority(t), newAuthority(t)
	dir, mine, theirs := t.TempDir(), t.TempDir(), t.TempDir()
	cert, key := a.issue(dir, 2)
	ca := filepath.Join(dir, "ca.pem")
	a.write(ca, "CERTIFICATE", a.cert.Raw)
	address, _ := startWith(t, newFake(t, demoURL), Options{TLS: &TLS{Cert: cert, Key: key, ClientCA: ca}})
	roots := x509.NewCertPool()
	roots.AddCert(a.cert)
	ask := func(pair ...tls.Certificate) (serial int64, err error) {
		config := &tls.Config{RootCAs: roots, Certificates: pair, VerifyConnection: func(c tls.ConnectionState) error {
			serial = c.PeerCertificates[0].SerialNumber.Int64()
			return nil
		}}
		conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(credentials.NewTLS(config)))
		if err != nil {
			return 0, err
		}
		defer conn.Close()
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		stream, err := discovery.NewAggregatedDiscoveryServiceClient(conn).StreamAggregatedResources(ctx)
		if err != nil {
			return 0, err
		}
		if err := stream.Send(&discovery.DiscoveryRequest{Node: agentNode(), TypeUrl: resource.ClusterType}); err != nil {
			return 0, err
		}
		_, err = stream.Recv()
		return serial, err
	}
	load := func(cert, key string) tls.Certificate {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		return pair
	}
	own := load(a.issue(mine, 3))
	if serial, err := ask(own); err != nil || serial != 2 {
		t.Fatalf("%d %v", serial, err)
	}
	if _, err := ask(); err == nil {
		t.Error("a client without a certificate is served")
	}
	if _, err := ask(load(foreign.issue(theirs, 3))); err == nil {
		t.Error("a client of another authority is served")
	}
	a.issue(dir, 9)
	eventually(t, "the new certificate", func() bool { serial, err := ask(own); return err == nil && serial == 9 })
}
