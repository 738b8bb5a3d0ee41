package agent

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"

	"github.com/meshferry/meshferry/agent/config"
	"github.com/meshferry/meshferry/agent/route"
	"github.com/meshferry/meshferry/agent/workload"
	"github.com/meshferry/meshferry/registry"
)

// statics are the applications that the configuration names.
func statics(list []config.Static) []workload.Static {
	all := make([]workload.Static, len(list))
	for i, s := range list {
		all[i] = workload.Static{Application: s.Application, Protocol: s.Protocol, Host: s.Host, Port: s.Port, Services: s.Services}
	}
	return all
}

// own are the addresses of this agent's listeners.
func (a *Agent) own() (list []netip.AddrPort) {
	for _, l := range a.listeners.all() {
		if t, ok := l.Addr().(*net.TCPAddr); ok {
			list = append(list, t.AddrPort())
		}
	}
	return list
}

// advertisedAt is every host:port at which registries list the inbound listeners.
func (a *Agent) advertisedAt() []string { return *a.inboundAt.Load() }

// advertised are the addresses at which the registries of a configuration list the
// inbound listeners.
func (a *Agent) advertised(cfg config.Config) (list []string) {
	ports := slices.Collect(maps.Values(a.listeners.extraPorts()))
	for _, port := range append(ports, a.inbound) {
		list = append(list, net.JoinHostPort(cfg.Address, fmt.Sprint(port)))
		for _, host := range cfg.Addresses {
			list = append(list, net.JoinHostPort(host, fmt.Sprint(port)))
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// readdress takes the addresses of a new configuration. Those of the old one stay
// until the next: a registry that leaves lists them until the others list everything.
// It tells whether there are others now.
func (a *Agent) readdress(before, now config.Config) bool {
	at := append(a.advertised(before), a.advertised(now)...)
	slices.Sort(at)
	at = slices.Compact(at)
	return !slices.Equal(*a.inboundAt.Swap(&at), at)
}

// staticLocals are the services of an application that registers itself. Without a
// list the router adopts what it has registered. It is dialled whatever its probe
// says: callers read in the registry that it is there, before a probe can, and
// nothing is advertised for it here that could be wrong.
func staticLocals(s workload.Static, host string) []route.Local {
	l := route.Local{Address: s.Address, Application: s.Application, Workload: "static/" + s.Application, Protocol: s.Protocol, Readonly: !s.Live}
	if len(s.Services) == 0 {
		return []route.Local{l}
	}
	var list []route.Local
	for _, service := range s.Services {
		one := l
		one.Service, one.Path = service, service.Interface
		one.URL = registry.URL{Protocol: s.Protocol, Host: host, Port: s.Port, Path: service.Interface}.With("application", s.Application)
		for _, p := range [][2]string{{"group", service.Group}, {"interface", service.Interface}, {"version", service.Version}} {
			if p[1] != "" {
				one.URL = one.URL.With(p[0], p[1])
			}
		}
		list = append(list, one)
	}
	return list
}

// besideAdopted are the interfaces that must be followed so that their calls are
// told apart: an application that registers itself may offer other groups of what
// others here offer.
func besideAdopted(locals []route.Local) (interfaces []string) {
	if !slices.ContainsFunc(locals, route.Local.Adopts) {
		return nil
	}
	for _, l := range locals {
		if !l.Adopts() {
			interfaces = append(interfaces, l.Service.Interface)
		}
	}
	return interfaces
}
