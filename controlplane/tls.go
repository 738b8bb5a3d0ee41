package controlplane

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	grpctls "google.golang.org/grpc/credentials"
)

// TLS names the files of the server's identity.
type TLS struct {
	Cert, Key string // PEM; read again when they change
	// ClientCA is the authority whose certificates nodes must show (mTLS); empty:
	// nodes need none.
	ClientCA string
}

// fileCredentials reads the files again when they are newer, so that certificates are
// replaced without a restart.
type fileCredentials struct {
	files TLS
	log   *slog.Logger

	mu      sync.Mutex
	looked  time.Time   // guarded by mu
	stamp   [3]string   // guarded by mu; size and time of the files
	current *tls.Config // guarded by mu
}

// ServerCredentials are the transport of a gRPC server with these files.
func ServerCredentials(files TLS, log *slog.Logger) (grpctls.TransportCredentials, error) {
	c, err := newCredentials(files, log)
	if err != nil {
		return nil, err
	}
	return c.transport(), nil
}

func newCredentials(files TLS, log *slog.Logger) (*fileCredentials, error) {
	c := &fileCredentials{files: files, log: log}
	var err error
	c.stamp = c.stamps()
	c.current, err = c.load()
	return c, err
}

func (c *fileCredentials) stamps() (s [3]string) {
	for i, path := range []string{c.files.Cert, c.files.Key, c.files.ClientCA} {
		if info, err := os.Stat(path); err == nil {
			s[i] = fmt.Sprint(info.Size(), info.ModTime())
		}
	}
	return s
}

func (c *fileCredentials) load() (*tls.Config, error) {
	cert, err := tls.LoadX509KeyPair(c.files.Cert, c.files.Key)
	if err != nil {
		return nil, fmt.Errorf("TLS certificate: %w", err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"}}
	if c.files.ClientCA != "" {
		text, err := os.ReadFile(c.files.ClientCA)
		if err != nil {
			return nil, fmt.Errorf("TLS client authority: %w", err)
		}
		config.ClientCAs = x509.NewCertPool()
		if !config.ClientCAs.AppendCertsFromPEM(text) {
			return nil, errors.New("TLS client authority: no certificate in " + c.files.ClientCA)
		}
		config.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return config, nil
}

// config is that of now. Files that became unreadable leave the last good ones.
func (c *fileCredentials) config(*tls.ClientHelloInfo) (*tls.Config, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.looked) > time.Second {
		c.looked = time.Now()
		if s := c.stamps(); s != c.stamp {
			if next, err := c.load(); err != nil {
				c.log.Error("TLS files cannot be read again; the old ones are used", "err", err)
			} else {
				c.current, c.stamp = next, s
			}
		}
	}
	return c.current, nil
}

func (c *fileCredentials) transport() grpctls.TransportCredentials {
	return grpctls.NewTLS(&tls.Config{GetConfigForClient: c.config, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"}})
}
