package registrytest

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
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/meshferry/meshferry/internal/process"
)

// Relay stands before a server at ports of its own: as another server of a cluster,
// as what ends TLS, or as a network that can be cut. It ends with the test.
type Relay struct {
	// Immutable after StartRelay.
	t       *testing.T
	target  string // host
	port    int    // of the target
	own     int    // first port here
	offsets []int  // from port, and from own
	secure  *tls.Config
	running sync.WaitGroup

	mu    sync.Mutex
	open  []io.Closer // guarded by mu; listeners and connections
	epoch int         // guarded by mu; counts the cuts
}

// StartRelay passes on what comes to target, and to the ports at these offsets from
// it. With secure it ends TLS.
func StartRelay(t *testing.T, target string, secure *tls.Config, offsets ...int) *Relay {
	t.Helper()
	host, text, err := net.SplitHostPort(target)
	if err != nil {
		t.Fatal(err)
	}
	r := &Relay{t: t, target: host, offsets: append([]int{0}, offsets...)}
	if r.port, err = strconv.Atoi(text); err != nil {
		t.Fatal(err)
	}
	if r.own, err = process.FreePort("127.0.0.1", offsets...); err != nil {
		t.Fatal(err)
	}
	if secure != nil {
		r.secure = secure.Clone()
		r.secure.NextProtos = []string{"h2", "http/1.1"}
	}
	r.Mend()
	t.Cleanup(func() { r.Cut(); r.running.Wait() })
	return r
}

// Addr is host:port of the relay.
func (r *Relay) Addr() string { return "127.0.0.1:" + strconv.Itoa(r.own) }

// Cut ends every connection and refuses further ones, as the death of a server does.
func (r *Relay) Cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.epoch++
	for _, c := range r.open {
		c.Close()
	}
	r.open = nil
}

// Mend takes connections again, at the same ports.
func (r *Relay) Mend() {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, offset := range r.offsets {
		l, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(r.own+offset))
		if err != nil {
			r.t.Fatal(err)
		}
		r.open = append(r.open, l)
		if r.secure != nil {
			l = tls.NewListener(l, r.secure)
		}
		epoch, target := r.epoch, net.JoinHostPort(r.target, strconv.Itoa(r.port+offset))
		r.running.Go(func() { r.serve(l, target, epoch) })
	}
}

func (r *Relay) serve(l net.Listener, target string, epoch int) {
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
		if r.epoch == epoch {
			r.open = append(r.open, in, out)
		} else { // cut meanwhile
			in.Close()
			out.Close()
		}
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

// Certificate is one of a server at an IP address, signed by itself, and a file with
// it as an authority.
func Certificate(t *testing.T, address string) (c tls.Certificate, file string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	of := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "registry at " + address},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.ParseIP(address)},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, of, of, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, file
}
