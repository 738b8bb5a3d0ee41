package route

import (
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Ruled is what an Explanation says of rules.
type Ruled struct {
	VirtualHost string   `json:"virtualHost,omitempty"` // RouteSpec.Name
	Route       string   `json:"route,omitempty"`       // its name, or its place among the routes: "#2"
	Origin      string   `json:"origin,omitempty"`      // who wrote it: "virtual-service dubbo/demo"
	Match       []string `json:"match,omitempty"`       // its conditions
	PassedOver  []string `json:"passedOver,omitempty"`  // routes before it, that do not match
	Clusters    []Split  `json:"clusters,omitempty"`
	Timeout     string   `json:"timeout,omitempty"`
	Retry       string   `json:"retry,omitempty"`
	Fault       string   `json:"fault,omitempty"`
	Mirrors     []string `json:"mirrors,omitempty"`
	Attachments []string `json:"attachments,omitempty"` // changes
	Direct      string   `json:"directResponse,omitempty"`
	Unsupported []string `json:"unsupported,omitempty"` // what cannot be honoured
}

// Split is one destination of a route.
type Split struct {
	Cluster string   `json:"cluster"`
	Origin  string   `json:"origin,omitempty"`
	Weight  uint32   `json:"weight"`
	Share   float64  `json:"share"` // of the calls of the route, 0 to 1
	Reason  string   `json:"reason,omitempty"`
	Filters []Filter `json:"filters,omitempty"`
	Limits  string   `json:"limits,omitempty"`
}

// Filter is how many endpoints a step left.
type Filter struct {
	Name string `json:"name"`
	Left int    `json:"left"`
}

// queried is the attachments and arguments of a Query.
type queried struct{ q *Query }

func (a queried) Lookup(key string) ([]byte, bool) {
	v, ok := a.q.Attachments[key]
	return []byte(v), ok
}

func (a queried) Argument(index int) ([]byte, bool) {
	v, ok := a.q.Arguments[index]
	return []byte(v), ok
}

// explainRules completes x for a service whose rules decide.
func (s *Snapshot) explainRules(x *Explanation, q Query, entry *Cluster, now time.Time) {
	routes := entry.routes
	x.Source, x.Rules, x.Candidates = "rules", &Ruled{}, []Candidate{}
	x.State = Ready
	if routes.waiting {
		x.State = Waiting
	}
	if routes.spec == nil {
		x.Reason = join2(x.Reason, routes.why)
		return
	}
	x.Reason = join2(x.Reason, routes.why)
	u := x.Rules
	u.VirtualHost, u.Origin, u.Unsupported = routes.spec.Name, routes.spec.Origin, slices.Clone(routes.spec.Unsupported)
	var found *Route
	for i := range routes.spec.Routes {
		rule := &routes.spec.Routes[i]
		at := slices.IndexFunc(routes.list, func(r *Route) bool { return r.RouteRule == rule })
		label := rule.label(i)
		if at < 0 {
			u.PassedOver = append(u.PassedOver, label+": not for this service")
			continue
		}
		r := routes.list[at]
		always := func(uint64) uint64 { return 0 }
		if !r.when.byMethod([]byte(q.Method)) || !r.when.holds(queried{&q}, always) {
			u.PassedOver = append(u.PassedOver, label+": "+strings.Join(rule.Match.texts(), ", "))
			continue
		}
		if r.when.fraction != 0 {
			u.PassedOver = append(u.PassedOver, fmt.Sprintf("%s: taken by %g%% of the calls", label, float64(r.when.fraction)/Million*100))
			continue
		}
		found, u.Route = r, label
		u.Origin = orElse(rule.Origin, u.Origin)
		break
	}
	if found == nil {
		x.Reason = join2(x.Reason, routes.Why())
		return
	}
	u.rule(found)
	u.Unsupported = append(u.Unsupported, s.concerning(routes.spec, found.RouteRule)...)
	if d := found.RouteRule.Timeout; d > 0 && (x.Timeout == "" || d < entry.Timeout(q.Application, []byte(q.Method))) {
		x.Timeout, x.TimeoutWhy = d.String(), "route"
	}
	if found.Direct != nil {
		x.Choice = "answered by the agent itself"
		return
	}
	x.split(found, now)
}

// concerning lists what of the resources behind a route cannot be honoured and is
// said of no rule: listeners, and refused resources, of which the last good one serves.
func (s *Snapshot) concerning(spec *RouteSpec, r *RouteRule) (lines []string) {
	for _, of := range slices.Sorted(maps.Keys(s.general)) {
		kind, name, _ := strings.Cut(of, " ")
		concerns := strings.HasPrefix(spec.Name, name+"/") || slices.ContainsFunc(r.Clusters, func(w WeightedCluster) bool { return w.Cluster == name })
		if strings.EqualFold(kind, "listener") {
			host, port, err := net.SplitHostPort(name) // those of one service are named so
			_, isNot := strconv.Atoi(port)
			concerns = err != nil || isNot != nil || slices.Contains(spec.Hosts, strings.ToLower(host))
		}
		if !concerns {
			continue
		}
		for _, line := range s.general[of] {
			lines = append(lines, of+": "+line)
		}
	}
	return lines
}

func join2(a, b string) string { return strings.TrimPrefix(strings.TrimSuffix(a+"; "+b, "; "), "; ") }

// rule says what a route does.
func (u *Ruled) rule(r *Route) {
	u.Match = r.Match.texts()
	u.Unsupported = append(u.Unsupported, r.Unsupported...)
	if r.RouteRule.Timeout > 0 {
		u.Timeout = r.RouteRule.Timeout.String()
	}
	if p := r.Retry; p.Attempts > 0 && p.On != 0 {
		u.Retry = fmt.Sprintf("%d more tries on %s", p.Attempts, p.On)
		if p.PerTry > 0 {
			u.Retry += ", " + p.PerTry.String() + " each"
		}
	}
	var faults []string
	if f := r.Fault; f.DelayShare > 0 {
		faults = append(faults, fmt.Sprintf("%g%% delayed by %v", float64(f.DelayShare)/Million*100, f.Delay))
	}
	if f := r.Fault; f.AbortShare > 0 {
		faults = append(faults, fmt.Sprintf("%g%% aborted (status %d)", float64(f.AbortShare)/Million*100, f.AbortStatus))
	}
	u.Fault = strings.Join(faults, ", ")
	for _, m := range r.Mirrors {
		u.Mirrors = append(u.Mirrors, fmt.Sprintf("%s (%g%%)", m.Cluster, float64(m.Share)/Million*100))
	}
	u.Attachments = r.Attachments.texts()
	if r.Direct != nil {
		u.Direct = fmt.Sprintf("%d %s", r.Direct.Status, r.Direct.Text)
	}
}

// split explains the destinations of a route.
func (x *Explanation) split(r *Route, now time.Time) {
	var total float64
	for _, i := range r.there {
		total += float64(r.split[i].Weight)
	}
	most := 0.0
	for i := range r.RouteRule.Clusters {
		w := &r.RouteRule.Clusters[i]
		one := Split{Cluster: w.Cluster, Weight: w.Weight}
		at := slices.IndexFunc(r.split, func(d destination) bool { return d.WeightedCluster == w })
		switch {
		case at < 0:
			one.Reason = "weight 0"
		case r.split[at].cluster == nil:
			one.Reason = "there is no such cluster, or its endpoints are not known"
		default:
			cl := r.split[at].cluster
			one.Origin = cl.spec.Origin
			if r.split[at].usable() {
				one.Share = float64(w.Weight) / total
			} else {
				one.Reason = "the cluster has no endpoints"
			}
			b := cl.balance.Load()
			for _, step := range b.steps {
				one.Filters = append(one.Filters, Filter{step.filter, step.left})
			}
			one.Limits = cl.limits()
			x.Rules.Unsupported = append(append(x.Rules.Unsupported, cl.spec.Unsupported...), cl.set.Unsupported...)
			usable := x.ruledCandidates(cl, b, one.Share, now)
			one.Filters = append(one.Filters, Filter{"reachable", usable})
			if usable > 0 && one.Share > 0 {
				x.Routed = true
			}
			if x.Cluster == "" || one.Share > most {
				x.Cluster, x.Policy, x.PolicyWhy, most = cl.Name, cl.Policy.String(), cl.policyWhy, one.Share
			}
		}
		for _, change := range w.Attachments.texts() {
			x.Rules.Attachments = append(x.Rules.Attachments, change+", to "+w.Cluster)
		}
		x.Rules.Clusters = append(x.Rules.Clusters, one)
	}
	used := 0
	for _, c := range x.Candidates {
		if c.Used {
			used++
		}
	}
	switch {
	case !x.Routed:
		x.Reason = join2(x.Reason, "no cluster of the route has an endpoint that may be called")
	default:
		x.Choice = fmt.Sprintf("%s by weight among %d", x.Policy, used)
	}
}

// ruledCandidates adds the endpoints of a cluster, and tells how many may be called.
func (x *Explanation) ruledCandidates(cl *Cluster, b *balance, share float64, now time.Time) (usable int) {
	best := ranks
	var total float64
	for i, e := range cl.Endpoints {
		if b.weights[i] > 0 {
			best = min(best, e.rank())
		}
	}
	for i, e := range cl.Endpoints {
		if e.rank() == best {
			total += float64(b.weights[i])
		}
	}
	for i, e := range cl.Endpoints {
		c := Candidate{
			Service: x.Service, Protocol: protocol, Address: e.Peer.Addr, Host: e.spec.Host, Mesh: e.Mesh, Cluster: cl.Name, Locality: e.locality.text(),
			Weight: e.Weight, InFlight: e.Peer.InFlight.Load(),
		}
		if b.weights[i] > 0 { // of which it is a share by priority and locality; Share says what that comes to
			c.Effective = e.Weight
		}
		switch rank := e.rank(); {
		case rank == ejected:
			c.Reason = cl.state.ejection(e.host, now)
		case e.spec.Health != Healthy && b.weights[i] == 0:
			c.Reason = "health status " + e.spec.Health.String()
		case b.weights[i] == 0:
			c.Reason = "no share: other priorities or localities take the calls"
		case rank != best || best >= ejected:
			c.Reason = rank.String()
		default:
			usable++
			c.Share = share * float64(b.weights[i]) / total
			if c.Used = c.Share > 0; !c.Used {
				c.Reason = "the cluster gets no calls"
			}
		}
		x.Candidates = append(x.Candidates, c)
	}
	return usable
}

func (s *clusterState) ejection(h *host, now time.Time) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return fmt.Sprintf("ejected for %s, %v more", h.why, max(0, h.until.Sub(now)).Round(time.Second))
}

func (l *LocalitySpec) text() string {
	text := strings.TrimRight(l.Region+"/"+l.Zone+"/"+l.SubZone, "/")
	if l.Priority > 0 {
		text = strings.TrimSpace(text + " priority " + strconv.Itoa(int(l.Priority)))
	}
	return text
}

func (h Health) String() string {
	return [...]string{"healthy", "degraded", "draining", "unhealthy"}[h]
}

// String names the conditions.
func (o RetryOn) String() string {
	var list []string
	for i, name := range [...]string{"a lost connection", "a try's time-out", "an error status"} {
		if o&(1<<i) != 0 {
			list = append(list, name)
		}
	}
	return strings.Join(list, ", ")
}

// texts says the conditions of a match.
func (m *Match) texts() []string {
	var list []string
	for _, c := range [...]struct {
		what string
		StringMatch
	}{{"path", m.Path}, {"method", m.Method}, {"group", m.Group}, {"version", m.Version}} {
		if c.Kind != Any || c.Invert {
			list = append(list, c.what+" "+c.StringMatch.String())
		}
	}
	for _, a := range m.Attachments {
		list = append(list, "attachment "+a.Key+" "+a.StringMatch.String())
	}
	for _, a := range m.Arguments {
		list = append(list, fmt.Sprintf("argument %d %v", a.Index, a.StringMatch))
	}
	if m.Fraction != 0 && m.Fraction != NoneOf {
		list = append(list, fmt.Sprintf("%g%% of the calls", float64(m.Fraction)/Million*100))
	}
	if m.Fraction == NoneOf {
		list = append(list, "no call")
	}
	return list
}

// texts says the changes.
func (c *Changes) texts() []string {
	var list []string
	for _, key := range c.Remove {
		list = append(list, "remove "+key)
	}
	for _, a := range c.Set {
		list = append(list, [...]string{"set ", "append ", "add if missing ", "overwrite "}[a.When]+a.Key+"="+a.Value)
	}
	return list
}
