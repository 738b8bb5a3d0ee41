package nacos

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/time/rate"

	"github.com/meshferry/meshferry/registry"
)

// DefaultGroup is the Nacos group of services that name none.
const DefaultGroup = "DEFAULT_GROUP"

// grpcOffset is from the HTTP port to that of gRPC. Source:
// com.alibaba.nacos.core.remote.grpc.GrpcSdkServer.
const grpcOffset = 1000

// Options of a Registry.
type Options struct {
	Servers        []string // host:port of each server's HTTP port; gRPC is at +1000
	Namespace      string   // id; empty: the public one
	Group          string   // of services; default DEFAULT_GROUP
	User, Password string   // empty: no login
	TLS            bool     // of gRPC and of the login
	CAFile         string   // PEM; empty: the system's authorities
	HostID         string   // owner mark of what we write; not empty

	Writes   *rate.Limiter         // budget of writes; nil: none
	Store    Store                 // keeps what this agent wrote of metadata; nil: a restart forgets it, and it stays in Nacos
	Metadata registry.MetadataFunc // for instances with storage-type local; nil: their providers stay unknown
	Log      *slog.Logger          // nil: nothing is logged

	look time.Duration // between two looks for services that are new; 0: lookEvery
}

// ParseURL reads a registry address:
//
//	nacos://[user:password@]host[:8848][,host[:8848]…][?key=value&…]
//
// User and password are percent-decoded. Keys: namespace, group, backup (more
// servers, as in Dubbo's addresses) and tls ("true", or the path of a file with
// the authorities to trust). Errors never contain the password.
func ParseURL(s string) (Options, error) {
	bad := func(format string, args ...any) (Options, error) {
		return Options{}, fmt.Errorf("bad Nacos address: "+format, args...)
	}
	rest, ok := strings.CutPrefix(s, "nacos://")
	if !ok {
		return bad("it does not begin with nacos://")
	}
	rest, query, _ := strings.Cut(rest, "?")
	authority, path, _ := strings.Cut(rest, "/")
	if path != "" {
		return bad("it has a path; a namespace is given as ?namespace=…")
	}
	var o Options
	if i := strings.LastIndexByte(authority, '@'); i >= 0 {
		user, password, found := strings.Cut(authority[:i], ":")
		authority = authority[i+1:]
		var err, err2 error
		o.User, err = url.PathUnescape(user)
		o.Password, err2 = url.PathUnescape(password)
		if err != nil || err2 != nil || !found || user == "" {
			return bad("want user:password, percent-encoded, before the '@'")
		}
	}
	params, err := url.ParseQuery(query)
	if err != nil {
		return bad("parameters: %v", err)
	}
	servers := strings.Split(authority, ",")
	for key, values := range params {
		switch value := values[0]; key {
		case "namespace":
			o.Namespace = value
		case "group":
			o.Group = value
		case "backup":
			servers = append(servers, strings.Split(value, ",")...)
		case "tls":
			switch {
			case value == "true":
				o.TLS = true
			case strings.HasPrefix(value, "/"):
				o.TLS, o.CAFile = true, value
			case value != "false":
				return bad("tls: want true, false or the absolute path of a file with authorities")
			}
		default:
			return bad("unknown parameter %q; known are namespace, group, backup, tls", key)
		}
	}
	for _, server := range servers {
		server, err := withPort(server)
		if err != nil {
			return bad("%v", err)
		}
		o.Servers = append(o.Servers, server)
	}
	return o.complete()
}

// word is what Nacos takes as a group or the id of a namespace.
var word = regexp.MustCompile(`^[A-Za-z0-9_.:-]{1,128}$`)

// complete fills defaults and checks everything that can be checked without the
// caller's parts.
func (o Options) complete() (Options, error) {
	if o.Namespace == "public" {
		o.Namespace = ""
	}
	if o.Group == "" {
		o.Group = DefaultGroup
	}
	for what, value := range map[string]string{"namespace": o.Namespace, "group": o.Group} {
		if value != "" && !word.MatchString(value) {
			return Options{}, fmt.Errorf("bad %s %q: want letters, digits and any of _.:-", what, value)
		}
	}
	if len(o.Servers) == 0 {
		return Options{}, errors.New("no Nacos servers")
	}
	if o.look == 0 {
		o.look = lookEvery
	}
	return o, nil
}

func withPort(server string) (string, error) {
	host, port, err := net.SplitHostPort(server)
	if err != nil {
		host, port = strings.Trim(server, "[]"), "8848"
		if strings.Contains(host, ":") && !strings.HasPrefix(server, "[") {
			return "", fmt.Errorf("server %q: want host:port", server)
		}
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || n > 65535-grpcOffset || host == "" || strings.ContainsAny(host, "[]@/ ") {
		return "", fmt.Errorf("server %q: want host:port, the port at most %d", server, 65535-grpcOffset)
	}
	return net.JoinHostPort(host, port), nil
}

// tls is the configuration of a TLS client, nil for none. The file is read anew
// each time, so that authorities can be replaced.
func (o Options) tls() (*tls.Config, error) {
	if !o.TLS {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.CAFile != "" {
		pem, err := os.ReadFile(o.CAFile)
		if err != nil {
			return nil, fmt.Errorf("authorities: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("authorities: no certificate in %s", o.CAFile)
		}
	}
	return c, nil
}
