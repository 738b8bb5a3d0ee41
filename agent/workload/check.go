package workload

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/meshferry/meshferry/registry"
)

// complete checks what an application published and fills what it left out. The
// URL is the truth: identity fields that are given must agree with it.
func (s *Store) complete(p Publication) (Publication, error) {
	bad := func(format string, args ...any) (Publication, error) {
		return Publication{}, fmt.Errorf("%w: "+format, append([]any{ErrInvalid}, args...)...)
	}
	id := identify(p.URL)
	id.Workload = cmp.Or(p.Workload, anonymous(p.URL.Param("application"), id.Port))
	switch {
	case !callable(id.Protocol):
		return bad("protocol %q: nobody calls a provider by that", id.Protocol)
	case id.Service.Interface == "":
		return bad("the URL names no interface")
	case id.Port < 1 || id.Port > 65535:
		return bad("port %d: a provider listens on 1 to 65535", id.Port)
	case slices.Contains(s.ownPorts, id.Port):
		return bad("port %d is one of the agent's own listeners: publish the port of the provider", id.Port)
	case p.Protocol != "" && p.Protocol != id.Protocol,
		p.Service != (registry.Service{}) && p.Service != id.Service,
		p.Path != "" && p.Path != id.Path,
		p.Port != 0 && p.Port != id.Port:
		return bad("the fields %v and the URL %s do not agree", p.Identity, p.URL)
	}
	if err := CheckWorkload(id.Workload); err != nil {
		return Publication{}, err
	}
	for key := range p.URL.Params {
		if strings.HasPrefix(key, registry.MarkPrefix) {
			return bad("the URL carries %s: it comes from a registry; publish the provider's own URL", key)
		}
	}
	if same, err := registry.ParseURL(p.URL.String()); err != nil {
		return bad("%w", err)
	} else if same != p.URL {
		return bad("%s reads back as another URL", p.URL)
	}
	return Publication{Identity: id, URL: p.URL, Registries: slices.Clone(p.Registries), Client: p.Client, Owner: p.Owner,
		Address: registry.URL{Host: s.dialHost(p.URL.Host), Port: id.Port}.HostPort()}, nil
}

// callable tells whether a provider can have this protocol. An application with two
// of them swaps its registry for both, so the agent takes also those that it does
// not speak. The words that are refused are Dubbo's for entries which nobody calls,
// or for what never leaves a process.
func callable(protocol string) bool {
	switch protocol {
	case "", "consumer", "provider", "override", "route", "condition", "script", "tag", "empty", "registry", "service-discovery-registry", "mesh", "injvm", "mock":
		return false
	}
	return !strings.ContainsFunc(protocol, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("+.-", c)
	})
}

// all tells whether every one of the protocols that a reference accepts, "dubbo,tri",
// is good.
func all(protocols string, good func(string) bool) bool {
	return !slices.ContainsFunc(strings.Split(protocols, ","), func(p string) bool { return !good(strings.TrimSpace(p)) })
}

// dialHost is the host at which a provider is dialled: the URL's own if it is an
// address of this machine, else 127.0.0.1. A provider may name an address that
// only others see (behind NAT, or DUBBO_IP_TO_REGISTRY); it is local all the same.
func (s *Store) dialHost(host string) string {
	const loopback = "127.0.0.1"
	ip, err := netip.ParseAddr(host)
	if err != nil || ip.IsUnspecified() {
		return loopback
	}
	ip = ip.Unmap()
	if ip.IsLoopback() {
		return ip.String()
	}
	own, err := s.addresses()
	if err != nil {
		s.log.Warn("addresses of this machine cannot be read", "err", err)
	}
	for _, a := range own {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil && prefix.Addr().WithZone("").Unmap() == ip.WithZone("") {
			return ip.String()
		}
	}
	return loopback
}

// completeSubscription checks what an application subscribed and fills what it
// left out.
func completeSubscription(sub Subscription) (Subscription, error) {
	bad := func(format string, args ...any) (Subscription, error) {
		return Subscription{}, fmt.Errorf("%w: "+format, append([]any{ErrInvalid}, args...)...)
	}
	if sub.Service == (registry.Service{}) {
		sub.Service = sub.URL.Service()
	}
	sub.Service.Version = registry.NormalVersion(sub.Service.Version)
	sub.Protocol = cmp.Or(sub.Protocol, sub.URL.Param("protocol"))
	sub.Workload = cmp.Or(sub.Workload, anonymous(sub.URL.Param("application"), 0))
	switch {
	case sub.Protocol != "" && sub.Protocol != ProviderRules && !all(sub.Protocol, callable):
		return bad("protocol %q: nobody calls a provider by that", sub.Protocol)
	case sub.Service.Interface == "" || sub.Service.Interface == "*":
		return bad("interface %q: name one interface", sub.Service.Interface)
	}
	if err := CheckWorkload(sub.Workload); err != nil {
		return Subscription{}, err
	}
	if sub.URL != (registry.URL{}) {
		if same, err := registry.ParseURL(sub.URL.String()); err != nil {
			return bad("%w", err)
		} else if same != sub.URL {
			return bad("%s reads back as another URL", sub.URL)
		}
	}
	sub.Categories = slices.Clone(sub.Categories)
	sub.ID = subscriptionID(sub)
	return sub, nil
}
