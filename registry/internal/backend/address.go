package backend

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/meshferry/meshferry/internal/nearest"
)

// Address is an address of a registry in the form of Dubbo's:
//
//	scheme://[user:password@]host[:port][,host[:port]…][/path][?key=value&…]
//
// User and password are percent-decoded; they may stand in the parameters username
// and password too. Spaces around the hosts do not count. Parameter backup has more
// servers. Source: org.apache.dubbo.common.utils.UrlUtils#parseURL.
type Address struct {
	Servers        []string // host:port
	User, Password string
	Path           string            // without its first slash
	Params         map[string]string // those that the backend knows
}

// Form is what addresses of one backend look like.
type Form struct {
	Name   string   // in errors
	Scheme string   // before "://"
	Port   int      // of a server that names none
	Most   int      // the highest port that can be meant
	Params []string // known ones, beside backup, username and password
}

// elsewhere are parameters of Dubbo's addresses that are set elsewhere here, or not
// at all. Source: org.apache.dubbo.config.RegistryConfig.
var elsewhere = map[string]string{
	"register-mode": "publish.models says at which levels providers are written",
	"registerMode":  "publish.models says at which levels providers are written",
	"session":       "sessionTimeout says it, with a unit: 15s",
	"simplified":    "the agent writes what the application publishes",
	"register":      "services[].publish says what is published",
	"preferred":     "it is a key of registries[], beside the address",
	"weight":        "it is a key of registries[], beside the address",
	"accessKey":     "only user and password are supported",
	"secretKey":     "only user and password are supported",
}

// ofApplications are parameters that tell Dubbo how to use a registry, and an agent
// nothing.
var ofApplications = []string{
	"check", "client", "cluster", "dynamic", "enable-empty-protection", "file", "register-consumer-url", "subscribe", "timeout", "transporter",
	"use-as-config-center", "use-as-metadata-center", "zone",
}

// Parse reads an address. Errors never contain the password.
func (f Form) Parse(text string) (a Address, err error) {
	defer func() {
		if err != nil {
			a, err = Address{}, fmt.Errorf("bad %s address: %w", f.Name, err)
		}
	}()
	rest, ok := strings.CutPrefix(strings.TrimSpace(text), f.Scheme+"://")
	if !ok {
		return a, fmt.Errorf("it does not begin with %s://", f.Scheme)
	}
	rest, query, _ := strings.Cut(rest, "?")
	authority, path, _ := strings.Cut(rest, "/")
	a.Path = path
	if i := strings.LastIndexByte(authority, '@'); i >= 0 {
		user, password, found := strings.Cut(authority[:i], ":")
		authority = authority[i+1:]
		var err, err2 error
		a.User, err = url.PathUnescape(user)
		a.Password, err2 = url.PathUnescape(password)
		if err != nil || err2 != nil || !found || user == "" {
			return a, errors.New("want user:password, percent-encoded, before the '@'")
		}
	}
	if strings.ContainsAny(authority, ";|") {
		return a, errors.New("it has several registries: give each an entry of its own, with a name")
	}
	params, err := url.ParseQuery(query)
	if err != nil {
		return a, errors.New("parameters: a '%' without two hex digits, or a ';'") // the library's error quotes them
	}
	a.Params = map[string]string{}
	servers := strings.Split(authority, ",")
	for _, key := range slices.Sorted(maps.Keys(params)) {
		switch value := params[key][0]; {
		case key == "backup":
			servers = append(servers, strings.Split(value, ",")...)
		case key == "username":
			if a.User != "" && a.User != value {
				return a, fmt.Errorf("the user is %q before the '@' and %q in the parameters", a.User, value)
			}
			a.User = value
		case key == "password":
			a.Password = value
		case slices.Contains(f.Params, key):
			a.Params[key] = value
		case elsewhere[key] != "":
			return a, fmt.Errorf("parameter %q: %s", key, elsewhere[key])
		case slices.Contains(ofApplications, key) || strings.Contains(key, "."):
			return a, fmt.Errorf("parameter %q is for applications: leave it out here", key)
		default:
			known := append(slices.Clone(f.Params), "backup", "username", "password")
			return a, fmt.Errorf("unknown parameter %q%s; known are %s", key, nearest.DidYouMean(key, known), strings.Join(known, ", "))
		}
	}
	if a.Password != "" && a.User == "" {
		return a, errors.New("a password without a user")
	}
	for _, server := range servers {
		server, err := f.server(strings.TrimSpace(server))
		if err != nil {
			return a, err
		}
		if !slices.Contains(a.Servers, server) {
			a.Servers = append(a.Servers, server)
		}
	}
	return a, nil
}

func (f Form) server(text string) (string, error) {
	bad := fmt.Errorf("server %q: want host:port, the port at most %d", text, f.Most)
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		host, port = strings.Trim(text, "[]"), strconv.Itoa(f.Port)
		if strings.Contains(host, ":") && !strings.HasPrefix(text, "[") {
			return "", bad
		}
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > f.Most || host == "" || strings.ContainsAny(host, "[]@/ ") {
		return "", bad
	}
	return net.JoinHostPort(host, port), nil
}

// TLS is how a server is connected to.
type TLS struct {
	On     bool
	CAFile string // PEM; empty: the system's authorities
}

// ParseTLS reads "true", "false", or the path of a file with authorities; empty is
// false.
func ParseTLS(value string) (TLS, error) {
	switch {
	case value == "" || value == "false":
		return TLS{}, nil
	case value == "true":
		return TLS{On: true}, nil
	case strings.HasPrefix(value, "/"):
		return TLS{On: true, CAFile: value}, nil
	}
	return TLS{}, errors.New("tls: want true, false or the absolute path of a file with authorities")
}

// Dial makes a connection, with TLS if it is on.
func (t TLS) Dial(network, address string, timeout time.Duration) (net.Conn, error) {
	config, err := t.Config()
	if err != nil {
		return nil, err
	}
	if config == nil {
		return net.DialTimeout(network, address, timeout)
	}
	return tls.DialWithDialer(&net.Dialer{Timeout: timeout}, network, address, config)
}

// Config is the configuration of a client, nil without TLS. The file is read anew
// each time, so that authorities can be replaced.
func (t TLS) Config() (*tls.Config, error) {
	if !t.On {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("authorities: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("authorities: no certificate in %s", t.CAFile)
		}
	}
	return c, nil
}
