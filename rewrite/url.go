package rewrite

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/meshferry/meshferry/registry"
)

var (
	// ErrMarked says that a URL already carries marks of a mesh: it was read from
	// a registry, and publishing it again would make a loop.
	ErrMarked = errors.New("carries " + registry.MarkPrefix + "* marks")
	// ErrUnfit says that a URL cannot be advertised: it names no host or port, or
	// would be longer than readers take.
	ErrUnfit = errors.New("cannot be advertised")
)

// Address is what other hosts dial to reach the providers of this host: the
// agent's inbound listener.
type Address struct {
	Host string // name or IP address, IPv6 without brackets
	Port int
	Caps string // what the mesh endpoint can do: "1", or "1,tls"
}

// String is host:port, IPv6 hosts in brackets.
func (a Address) String() string { return net.JoinHostPort(a.Host, strconv.Itoa(a.Port)) }

// Canonical is the provider URL as the application would have registered it
// itself. Three repairs are made, nothing else changes:
//   - a missing host becomes host: dubbo-go publishes none. 0.0.0.0 and :: say
//     "any" and name no host either; loopback hosts are names like any other.
//   - empty group and version go: with them Java finds no provider
//     (org.apache.dubbo.common.utils.UrlUtils#isMatch).
//   - weight=0 goes when the provider is dubbo-go, which writes it for "not set";
//     from anybody else it means "no calls".
func Canonical(u registry.URL, host string) registry.URL {
	u = withHost(u, host)
	golang := isDubboGo(u)
	return u.Without(func(k, v string) bool {
		return emptyGroupOrVersion(k, v) || k == "weight" && v == "0" && golang
	})
}

// Consumer is the URL that stands for a consumer in the registry's list of
// consumers, which dashboards show: category and check as Java writes them
// (org.apache.dubbo.registry.integration.RegistryProtocol), a host, and no empty
// group or version.
func Consumer(u registry.URL, host string) registry.URL {
	u = withHost(u, host).Without(emptyGroupOrVersion)
	u.Protocol = "consumer" // Java 3.x hands out the protocol it refers to
	return u.With("category", "consumers").With("check", "false")
}

// Out is the advertised URL of a provider: Canonical, with the agent's address
// in place of its own, which goes last together with the agent's capabilities.
// It errs with ErrMarked or ErrUnfit.
func Out(u registry.URL, host string, a Address) (registry.URL, error) {
	if err := publishable(u); err != nil {
		return registry.URL{}, err
	}
	u = Canonical(u, host)
	if err := dialable(u); err != nil {
		return registry.URL{}, err
	}
	if a.Host == "" || a.Port <= 0 || a.Caps == "" {
		return registry.URL{}, fmt.Errorf("%w: no complete address of the agent: %+v", ErrUnfit, a)
	}
	if u.Query != "" {
		u.Query += "&"
	}
	u.Query += registry.MarkOrigin + "=" + u.HostPort() + "&" + registry.MarkCaps + "=" + a.Caps
	u.Host, u.Port = a.Host, a.Port
	if n := len(u.String()); n > registry.MaxURL {
		return registry.URL{}, fmt.Errorf("%w: %d bytes with marks, readers take %d", ErrUnfit, n, registry.MaxURL)
	}
	return u, nil
}

// Back is the provider URL behind an advertised one: Back(Out(u)) equals
// Canonical(u). It takes the marks in any place, because application-level
// readers compose URLs in an order of their own. False means that u is not the
// URL of a mesh endpoint, and gives it back as it is.
func Back(u registry.URL) (registry.URL, bool) {
	if u.Param(registry.MarkCaps) == "" {
		return u, false
	}
	host, port, err := net.SplitHostPort(u.Param(registry.MarkOrigin))
	if err != nil || host == "" {
		return u, false
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil || n == 0 {
		return u, false
	}
	back := u.Without(isMark)
	back.Host, back.Port = host, int(n)
	return back, true
}

// publishable errs when u is not what an application publishes.
func publishable(u registry.URL) error {
	for k := range u.Params {
		if strings.HasPrefix(k, registry.MarkPrefix) {
			return fmt.Errorf("%s: %w", u.Service(), ErrMarked)
		}
	}
	return nil
}

// dialable errs when a canonical URL has no host and port that fit into one
// parameter.
func dialable(u registry.URL) error {
	if u.Port <= 0 || u.Port > 65535 {
		return fmt.Errorf("%s: %w: no port", u.Service(), ErrUnfit)
	}
	host, _, err := net.SplitHostPort(u.HostPort())
	if err != nil || host == "" || host != u.Host || strings.ContainsAny(host, "&?/@") {
		return fmt.Errorf("%s: %w: bad host %q", u.Service(), ErrUnfit, u.Host)
	}
	return nil
}

func withHost(u registry.URL, host string) registry.URL {
	if u.Host == "" || isUnspecified(u.Host) {
		u.Host = host
	}
	return u
}

func isUnspecified(host string) bool {
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsUnspecified()
}

func isMark(key, _ string) bool { return strings.HasPrefix(key, registry.MarkPrefix) }

func emptyGroupOrVersion(k, v string) bool { return v == "" && (k == "group" || k == "version") }

// isDubboGo tells by the release parameter, "dubbo-golang-3.3.2".
func isDubboGo(u registry.URL) bool { return strings.HasPrefix(u.Param("release"), "dubbo-golang") }
