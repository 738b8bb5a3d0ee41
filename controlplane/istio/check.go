package istio

import (
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	networking "istio.io/api/networking/v1alpha3"
)

type report func(p Place, field, format string, args ...any)

// Host is the form of a host in which it is compared: Istio lowers some and not
// others.
func Host(name string) string { return strings.ToLower(strings.TrimSuffix(name, ".")) }

var (
	dnsName    = regexp.MustCompile(`^[a-zA-Z0-9]([-a-zA-Z0-9]{0,61}[a-zA-Z0-9])?(\.[a-zA-Z0-9]([-a-zA-Z0-9]{0,61}[a-zA-Z0-9])?)*\.?$`)
	subsetName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$`)
)

// checker looks at a folder as a whole.
type checker struct {
	c          *Config
	fail, warn report
	rules      map[string]Object[*networking.DestinationRule] // by host
	ports      map[uint32]bool                                // that services have
}

// meshPort is that of services that registries have.
const meshPort = 20882

func check(c *Config, fail, warn report) {
	k := &checker{c: c, fail: fail, warn: warn, rules: map[string]Object[*networking.DestinationRule]{}, ports: map[uint32]bool{meshPort: true}}
	for _, o := range c.ServiceEntries {
		for _, p := range o.Spec.Ports {
			k.ports[p.GetNumber()] = true
		}
	}
	for _, o := range c.DestinationRules {
		k.destinationRule(o)
	}
	owner := map[string]Place{}
	for _, o := range c.VirtualServices {
		k.virtualService(o, owner)
	}
	owner = map[string]Place{}
	for _, o := range c.ServiceEntries {
		k.serviceEntry(o, owner)
	}
	for _, o := range c.WorkloadEntries {
		k.workload(o.Spec, "", o.at, false)
	}
}

func (k *checker) host(p Place, path, name string) bool {
	switch {
	case strings.Contains(name, "*"):
		k.fail(p, path, "%q: want the host of one service, without *", name)
	case strings.ContainsAny(name, "/:"):
		k.fail(p, path, "%q: want a host, not a service key: 'meshferry routes explain %s' tells it", name, name)
	case len(name) > 253 || !dnsName.MatchString(name):
		k.fail(p, path, "%q is no DNS name", name)
	default:
		return true
	}
	return false
}

// own notes that a host belongs to the object at p; two cannot have it.
func (k *checker) own(owner map[string]Place, kind string, p Place, path, name string) {
	if !k.host(p, path, name) {
		return
	}
	if other, twice := owner[Host(name)]; twice {
		k.fail(p, path, "%s has a %s at %s already: which one counts would depend on their order", Host(name), kind, other)
		return
	}
	owner[Host(name)] = p
}

func (k *checker) destinationRule(o Object[*networking.DestinationRule]) {
	p := o.at("host")
	if !k.host(p, "spec.host", o.Spec.Host) {
		return
	}
	if other, twice := k.rules[Host(o.Spec.Host)]; twice {
		k.fail(p, "spec.host", "%s has a DestinationRule at %s already: which one counts would depend on their order", Host(o.Spec.Host), other.at("host"))
		return
	}
	k.rules[Host(o.Spec.Host)] = o
	k.policy(o.Spec.TrafficPolicy, "trafficPolicy", o.at)
	seen := map[string]bool{}
	for i, s := range o.Spec.Subsets {
		path := fmt.Sprintf("subsets[%d]", i)
		switch {
		case !subsetName.MatchString(s.Name):
			k.fail(o.at(path+".name"), "spec."+path+".name", "%q: want a name of small letters, digits and dashes", s.Name)
		case seen[s.Name]:
			k.fail(o.at(path+".name"), "spec."+path+".name", "subset %q is there twice", s.Name)
		case len(s.Labels) == 0:
			k.warn(o.at(path), "spec."+path, "subset %q has no labels: it is all endpoints", s.Name)
		}
		seen[s.Name] = true
		own := s.TrafficPolicy
		if own != nil && own.OutlierDetection == nil && o.Spec.TrafficPolicy.GetOutlierDetection() != nil { // it is that of the rule
			own = &networking.TrafficPolicy{LoadBalancer: own.LoadBalancer, ConnectionPool: own.ConnectionPool, OutlierDetection: o.Spec.TrafficPolicy.OutlierDetection, PortLevelSettings: own.PortLevelSettings}
		}
		k.policy(own, path+".trafficPolicy", o.at)
	}
}

func (k *checker) policy(p *networking.TrafficPolicy, path string, at func(string) Place) {
	if p == nil {
		return
	}
	atMost := func(field string, value, most int32) {
		if value < 0 || value > most {
			k.fail(at(path+"."+field), "spec."+path+"."+field, "%d: want 0 to %d", value, most)
		}
	}
	if hash := p.GetLoadBalancer().GetConsistentHash(); hash != nil && hash.GetHttpHeaderName() == "" {
		k.fail(at(path+".loadBalancer.consistentHash"), "spec."+path+".loadBalancer.consistentHash", "httpHeaderName is missing: the attachment to hash")
	}
	if p.GetLoadBalancer().GetSimple() == networking.LoadBalancerSettings_PASSTHROUGH {
		k.fail(at(path+".loadBalancer.simple"), "spec."+path+".loadBalancer.simple", "PASSTHROUGH is not possible: a Dubbo call has no address of its own")
	}
	k.locality(p, path+".loadBalancer.localityLbSetting", at)
	for i, one := range p.GetPortLevelSettings() {
		port := fmt.Sprintf("%s.portLevelSettings[%d]", path, i)
		if n := one.Port.GetNumber(); n == 0 || n > 65535 {
			k.fail(at(port+".port"), "spec."+port+".port.number", "%d: want 1 to 65535", n)
		} else if !k.ports[n] {
			k.warn(at(port+".port"), "spec."+port+".port.number", "no effect: services have port %d", meshPort)
		}
		k.policy(&networking.TrafficPolicy{LoadBalancer: one.LoadBalancer, ConnectionPool: one.ConnectionPool, OutlierDetection: one.OutlierDetection}, port, at)
	}
	if tcp := p.GetConnectionPool().GetTcp(); tcp != nil {
		atMost("connectionPool.tcp.maxConnections", tcp.MaxConnections, 1<<31-1)
		k.duration(tcp.ConnectTimeout, path+".connectionPool.tcp.connectTimeout", at)
		k.duration(tcp.IdleTimeout, path+".connectionPool.tcp.idleTimeout", at)
	}
	if http := p.GetConnectionPool().GetHttp(); http != nil {
		atMost("connectionPool.http.http1MaxPendingRequests", http.Http1MaxPendingRequests, 1<<31-1)
		atMost("connectionPool.http.http2MaxRequests", http.Http2MaxRequests, 1<<31-1)
		atMost("connectionPool.http.maxRetries", http.MaxRetries, 1<<31-1)
		atMost("connectionPool.http.maxRequestsPerConnection", http.MaxRequestsPerConnection, 1<<31-1)
	}
	if od := p.GetOutlierDetection(); od != nil {
		atMost("outlierDetection.maxEjectionPercent", od.MaxEjectionPercent, 100)
		atMost("outlierDetection.minHealthPercent", od.MinHealthPercent, 100)
		k.duration(od.Interval, path+".outlierDetection.interval", at)
		k.duration(od.BaseEjectionTime, path+".outlierDetection.baseEjectionTime", at)
	}
}

// locality checks the order of endpoints by their place.
func (k *checker) locality(p *networking.TrafficPolicy, path string, at func(string) Place) {
	l := p.GetLoadBalancer().GetLocalityLbSetting()
	if l == nil {
		return
	}
	bad := func(field, format string, args ...any) {
		k.fail(at(path+field), "spec."+path+field, format, args...)
	}
	if len(l.Distribute) > 0 && len(l.Failover)+len(l.FailoverPriority) > 0 {
		bad(".distribute", "it cannot stand beside failover or failoverPriority")
	}
	for i, d := range l.Distribute {
		field := fmt.Sprintf(".distribute[%d]", i)
		if d.From == "" {
			bad(field+".from", "it is missing: region, region/zone, region/zone/subzone or *")
		}
		var sum uint64
		for _, to := range slices.Sorted(maps.Keys(d.To)) {
			sum += uint64(d.To[to])
		}
		if sum != 100 {
			bad(field+".to", "the shares sum up to %d: want 100", sum)
		}
	}
	for i, f := range l.Failover {
		field := fmt.Sprintf(".failover[%d]", i)
		switch {
		case f.From == "" || f.To == "":
			bad(field, "want two regions, from and to")
		case f.From == f.To:
			bad(field, "from and to are the same region")
		case strings.ContainsAny(f.From+f.To, "*/"):
			bad(field, "want regions alone, without zones and *")
		}
	}
	for i, label := range l.FailoverPriority {
		if key, _, _ := strings.Cut(label, "="); key == "" {
			bad(fmt.Sprintf(".failoverPriority[%d]", i), "%q: want a label, or label=value", label)
		}
	}
	if len(l.Failover)+len(l.FailoverPriority) > 0 && p.OutlierDetection == nil && (l.Enabled == nil || l.Enabled.Value) {
		k.warn(at(path), "spec."+path, "no effect without outlierDetection: nobody would notice that endpoints fail")
	}
}

func (k *checker) duration(d *durationpb.Duration, path string, at func(string) Place) {
	if d != nil && d.AsDuration() < time.Millisecond {
		k.fail(at(path), "spec."+path, "%s: want at least 1ms", d.AsDuration())
	}
}

func (k *checker) virtualService(o Object[*networking.VirtualService], owner map[string]Place) {
	if len(o.Spec.Hosts) == 0 {
		k.fail(o.Place, "spec.hosts", "it is missing: which services the routes are for")
	}
	for i, h := range o.Spec.Hosts {
		path := fmt.Sprintf("hosts[%d]", i)
		k.own(owner, "VirtualService", o.at(path), "spec."+path, h)
	}
	k.gateways(o.Spec.Gateways, "gateways", o.at)
	if len(o.Spec.Http) == 0 {
		k.fail(o.Place, "spec.http", "it is missing: a VirtualService without routes")
	}
	open := -1 // the route that takes every call
	for i, r := range o.Spec.Http {
		path := fmt.Sprintf("http[%d]", i)
		if open >= 0 {
			k.warn(o.at(path), "spec."+path, "never reached: spec.http[%d] takes every call", open)
		}
		if k.route(r, path, o.at) && open < 0 {
			open = i
		}
	}
}

func (k *checker) gateways(list []string, path string, at func(string) Place) {
	for i, g := range list {
		if g != "mesh" {
			p := fmt.Sprintf("%s[%d]", path, i)
			k.fail(at(p), "spec."+p, "%q: calls come from inside the mesh only: leave it out", g)
		}
	}
}

// route checks one route and tells whether it takes every call.
func (k *checker) route(r *networking.HTTPRoute, path string, at func(string) Place) (all bool) {
	bad := func(field, format string, args ...any) {
		k.fail(at(path+"."+field), "spec."+path+"."+field, format, args...)
	}
	all = len(r.Match) == 0
	for i, m := range r.Match {
		at2 := fmt.Sprintf("match[%d]", i)
		k.gateways(m.Gateways, path+"."+at2+".gateways", at)
		k.match(m.Uri, path+"."+at2+".uri", at)
		k.match(m.Method, path+"."+at2+".method", at)
		for _, group := range []struct {
			name string
			m    map[string]*networking.StringMatch
		}{{"headers", m.Headers}, {"withoutHeaders", m.WithoutHeaders}, {"queryParams", m.QueryParams}} {
			for _, key := range slices.Sorted(maps.Keys(group.m)) {
				k.match(group.m[key], path+"."+at2+"."+group.name+"["+key+"]", at)
			}
		}
		if m.Uri == nil && m.Method == nil && len(m.Headers) == 0 && len(m.WithoutHeaders) == 0 && len(m.QueryParams) == 0 && m.Port == 0 &&
			len(m.SourceLabels) == 0 && m.SourceNamespace == "" {
			all = true
		}
	}
	switch {
	case len(r.Route) == 0 && r.DirectResponse == nil:
		bad("route", "it is missing: where calls go")
	case len(r.Route) > 0 && r.DirectResponse != nil:
		bad("directResponse", "it cannot stand beside route")
	}
	var sum int64
	for i, d := range r.Route {
		to := fmt.Sprintf("route[%d]", i)
		k.destination(d.Destination, path+"."+to+".destination", at)
		if d.Weight < 0 || d.Weight > 100 {
			bad(to+".weight", "%d: want 0 to 100", d.Weight)
			return all
		}
		sum += int64(d.Weight)
	}
	switch {
	case len(r.Route) > 1 && sum == 0:
		bad("route", "all weights are 0: nothing could be chosen")
	case sum > 100:
		bad("route", "the weights sum up to %d: want 100", sum)
	case len(r.Route) > 1 && sum < 100:
		k.warn(at(path+".route"), "spec."+path+".route", "the weights sum up to %d, not 100: shares are in proportion", sum)
	}
	k.duration(nonzero(r.Timeout), path+".timeout", at)
	if r.Retries != nil {
		if r.Retries.Attempts < 0 {
			bad("retries.attempts", "%d: want 0 or more", r.Retries.Attempts)
		}
		k.duration(r.Retries.PerTryTimeout, path+".retries.perTryTimeout", at)
		k.duration(r.Retries.Backoff, path+".retries.backoff", at)
	}
	if d := r.GetFault().GetDelay(); d != nil {
		k.percent(d.Percentage, path+".fault.delay.percentage", at)
		k.duration(d.GetFixedDelay(), path+".fault.delay.fixedDelay", at)
	}
	if a := r.GetFault().GetAbort(); a != nil {
		k.percent(a.Percentage, path+".fault.abort.percentage", at)
		if s := a.GetHttpStatus(); s < 200 || s > 599 {
			bad("fault.abort.httpStatus", "%d: want 200 to 599", s)
		}
	}
	if r.Mirror != nil {
		k.destination(r.Mirror, path+".mirror", at)
	}
	k.percent(r.MirrorPercentage, path+".mirrorPercentage", at)
	if r.Mirror != nil && len(r.Mirrors) > 0 {
		bad("mirrors", "it cannot stand beside mirror")
	}
	for i, m := range r.Mirrors {
		one := fmt.Sprintf("%s.mirrors[%d]", path, i)
		k.destination(m.Destination, one+".destination", at)
		k.percent(m.Percentage, one+".percentage", at)
	}
	if r.DirectResponse != nil && (r.DirectResponse.Status < 200 || r.DirectResponse.Status > 599) {
		bad("directResponse.status", "%d: want 200 to 599", r.DirectResponse.Status)
	}
	return all
}

// nonzero is nil for a duration of 0, which switches a time-out off.
func nonzero(d *durationpb.Duration) *durationpb.Duration {
	if d.AsDuration() == 0 {
		return nil
	}
	return d
}

func (k *checker) percent(p *networking.Percent, path string, at func(string) Place) {
	if p != nil && !(p.Value >= 0 && p.Value <= 100) {
		k.fail(at(path), "spec."+path, "%v: want 0 to 100", p.Value)
	}
}

func (k *checker) match(m *networking.StringMatch, path string, at func(string) Place) {
	if m == nil {
		return
	}
	if x, ok := m.MatchType.(*networking.StringMatch_Regex); ok {
		if _, err := regexp.Compile(x.Regex); err != nil {
			k.fail(at(path), "spec."+path, "no regular expression (RE2): %v", err)
		}
	}
}

// destination checks that a destination's subset is defined.
func (k *checker) destination(d *networking.Destination, path string, at func(string) Place) {
	if d.GetHost() == "" {
		k.fail(at(path), "spec."+path+".host", "it is missing")
		return
	}
	if !k.host(at(path+".host"), "spec."+path+".host", d.Host) || d.Subset == "" {
		return
	}
	rule, ok := k.rules[Host(d.Host)]
	if !ok {
		k.fail(at(path+".subset"), "spec."+path+".subset", "there is no subset %q: %s has no DestinationRule", d.Subset, Host(d.Host))
		return
	}
	var known []string
	for _, s := range rule.Spec.Subsets {
		known = append(known, s.Name)
	}
	if !slices.Contains(known, d.Subset) {
		k.fail(at(path+".subset"), "spec."+path+".subset", "there is no subset %q: the DestinationRule of %s at %s has [%s]", d.Subset, Host(d.Host), rule.Place, strings.Join(known, " "))
	}
}

func (k *checker) serviceEntry(o Object[*networking.ServiceEntry], owner map[string]Place) {
	if len(o.Spec.Hosts) == 0 {
		k.fail(o.Place, "spec.hosts", "it is missing")
	}
	for i, h := range o.Spec.Hosts {
		path := fmt.Sprintf("hosts[%d]", i)
		k.own(owner, "ServiceEntry", o.at(path), "spec."+path, h)
	}
	if len(o.Spec.Ports) != 1 {
		k.fail(o.at("ports"), "spec.ports", "%d ports: want one, like {number: 20882, name: dubbo}", len(o.Spec.Ports))
		return
	}
	p := o.Spec.Ports[0]
	if p.Number == 0 || p.Number > 65535 || p.TargetPort > 65535 {
		k.fail(o.at("ports[0]"), "spec.ports[0].number", "%d: want 1 to 65535", p.Number)
	}
	if p.Name == "" {
		k.fail(o.at("ports[0]"), "spec.ports[0].name", "it is missing")
	}
	switch p.Protocol {
	case "", "HTTP", "HTTP2", "GRPC":
	default:
		k.fail(o.at("ports[0].protocol"), "spec.ports[0].protocol", "%s: routes are not possible with it: leave it out", p.Protocol)
	}
	switch o.Spec.Resolution {
	case networking.ServiceEntry_STATIC:
	case networking.ServiceEntry_DNS:
		if o.Spec.WorkloadSelector != nil {
			k.fail(o.at("workloadSelector"), "spec.workloadSelector", "not with resolution DNS: use STATIC")
		}
	default:
		k.fail(o.at("resolution"), "spec.resolution", "%s: want STATIC or DNS", o.Spec.Resolution)
	}
	if o.Spec.WorkloadSelector != nil && len(o.Spec.Endpoints) > 0 {
		k.fail(o.at("workloadSelector"), "spec.workloadSelector", "it cannot stand beside endpoints")
	}
	for i, e := range o.Spec.Endpoints {
		k.workload(e, fmt.Sprintf("endpoints[%d]", i), o.at, o.Spec.Resolution == networking.ServiceEntry_DNS)
	}
}

func (k *checker) workload(w *networking.WorkloadEntry, path string, at func(string) Place, names bool) {
	place := func(field string) (Place, string) {
		p := join(path, field)
		return at(p), "spec." + p
	}
	if _, err := netip.ParseAddr(w.Address); err != nil && (!names || !dnsName.MatchString(w.Address)) {
		p, f := place("address")
		k.fail(p, f, "%q: want an IP address", w.Address)
	}
	for name, port := range w.Ports {
		if port == 0 || port > 65535 {
			p, f := place("ports[" + name + "]")
			k.fail(p, f, "%d: want 1 to 65535", port)
		}
	}
}
