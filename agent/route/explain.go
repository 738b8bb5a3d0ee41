package route

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/meshferry/meshferry/registry"
)

// Query asks how a call would be routed.
type Query struct {
	Service     registry.Service  `json:"service"`
	Method      string            `json:"method,omitempty"`
	Attachments map[string]string `json:"attachments,omitempty"` // group, version and path count where Service has none
	Arguments   map[int]string    `json:"arguments,omitempty"`   // as text, by index
	Application string            `json:"application,omitempty"` // the caller
	Direction   string            `json:"direction,omitempty"`   // Outbound when empty
}

// Explanation answers a Query.
type Explanation struct {
	Direction  string      `json:"direction"`
	Service    string      `json:"service"`
	Method     string      `json:"method,omitempty"`
	State      SetState    `json:"state"`
	Reason     string      `json:"reason,omitempty"`
	Routed     bool        `json:"routed"`            // there is an endpoint for the call
	Routing    Routing     `json:"routing,omitempty"` // who may decide, where it is not the registries alone
	Source     string      `json:"source,omitempty"`  // who decides: "registry" or "rules"; with Routing only
	Rules      *Ruled      `json:"rules,omitempty"`   // with Source "rules"
	Cluster    string      `json:"cluster,omitempty"` // with Source "rules": the one with the largest share
	Choice     string      `json:"choice,omitempty"`  // with Source "rules": how one of the used candidates is chosen
	Groups     []string    `json:"groups,omitempty"`  // that exist of this interface and version
	Policy     string      `json:"policy,omitempty"`
	PolicyWhy  string      `json:"policyWhy,omitempty"`
	Timeout    string      `json:"timeout,omitempty"`    // "1s"; empty: none
	TimeoutWhy string      `json:"timeoutWhy,omitempty"` // when it depends on the caller
	Callers    []CallerRow `json:"callers,omitempty"`    // when their time-outs differ
	Dedicated  bool        `json:"dedicated,omitempty"`
	Candidates []Candidate `json:"candidates"`
}

// CallerRow is a local application whose subscription counts for the time-out.
type CallerRow struct {
	Application string `json:"application"`
	Timeout     string `json:"timeout,omitempty"` // of its calls; empty: none
	// Processes are the pids by which calls are known to be its, when they do not say
	// it in attachment remote.application.
	Processes []int `json:"processes"`
}

// Candidate is one provider that was looked at.
type Candidate struct {
	Service     string   `json:"service"`
	Cluster     string   `json:"cluster,omitempty"`  // of rules
	Locality    string   `json:"locality,omitempty"` // of rules
	Protocol    string   `json:"protocol"`
	Address     string   `json:"address"`
	Host        string   `json:"host,omitempty"` // of rules: the name that has the address
	Origin      string   `json:"origin,omitempty"`
	Mesh        bool     `json:"mesh"`
	Application string   `json:"application,omitempty"`
	Workload    string   `json:"workload,omitempty"`
	Registries  []string `json:"registries,omitempty"`
	Model       string   `json:"model,omitempty"`
	Used        bool     `json:"used"`             // calls go there
	Reason      string   `json:"reason,omitempty"` // why not
	Weight      int      `json:"weight"`           // as configured
	Effective   int      `json:"effectiveWeight"`  // with warm-up
	Warmup      string   `json:"warmup,omitempty"` // "30% of 10m0s"
	Share       float64  `json:"share"`            // of the calls, 0 to 1, by weight
	InFlight    int64    `json:"inFlight"`
}

// Explain tells how a call would be routed now, and of every provider that was
// looked at whether it is used, and why not.
func (r *Router) Explain(q Query) Explanation {
	x := r.Snapshot().explain(q, time.Now())
	asked := q.asked()
	if x.Direction == Outbound {
		if routing := r.Routing(asked); routing != FromRegistry {
			x.Routing, x.Source = routing, orElse(x.Source, "registry")
		}
	}
	return x
}

// asked is the service key of a query, completed from its attachments.
func (q Query) asked() registry.Service {
	s := q.Service
	if s.Group == "" {
		s.Group = q.Attachments["group"]
	}
	if s.Version == "" {
		s.Version = registry.NormalVersion(q.Attachments["version"])
	}
	return s
}

func (s *Snapshot) explain(q Query, now time.Time) Explanation {
	asked := q.asked()
	x := Explanation{Direction: q.Direction, Method: q.Method, Service: asked.Key()}
	table, rows := &s.Outbound, s.outboundRows
	if q.Direction == Inbound {
		table, rows = &s.Inbound, s.inboundRows
	} else {
		x.Direction = Outbound
	}
	var cl *Cluster
	if v := table.host(asked, q.Attachments["path"]); v != nil {
		x.Groups = v.Groups()
		if cl = v.Group([]byte(asked.Group)); cl == nil {
			x.Reason = fmt.Sprintf("no group %q", asked.Group)
		}
	}
	if cl != nil {
		x.Policy, x.PolicyWhy, x.Dedicated = cl.Policy.String(), cl.policyWhy, cl.Dedicated
		x.timeout(cl, q)
	}
	if cl != nil && cl.routes != nil {
		s.explainRules(&x, q, cl, now)
		return x
	}
	if cl != nil && cl.noRules != "" {
		x.Reason = join2(x.Reason, cl.noRules)
	}
	x.Candidates = rows(&x, asked, cl)
	if len(x.Groups) == 0 {
		x.Reason = strings.TrimSuffix(x.nobody(asked)+"; "+x.Reason, "; ")
	}
	x.judge(cl, now)
	return x
}

// nobody says why no provider can be meant, of this version.
func (x *Explanation) nobody(asked registry.Service) string {
	var others []string
	for _, c := range x.Candidates {
		if !slices.Contains(others, c.Service) {
			others = append(others, c.Service)
		}
	}
	slices.Sort(others)
	const most = 5
	switch {
	case x.State == Waiting:
		return "no registry has told of this interface yet"
	case len(others) == 0 && x.Direction == Inbound:
		return "no local application offers this interface, or its port does not answer"
	case len(others) == 0:
		return "no registry lists a provider of this interface"
	case len(others) > most:
		others = append(others[:most], "more")
	}
	return fmt.Sprintf("no usable provider of version %q; there is %s", asked.Version, strings.Join(others, ", "))
}

// host is what the data plane finds when it reads all attachments.
func (t *Table) host(s registry.Service, path string) *VirtualHost {
	v := t.Lookup([]byte(s.Interface), []byte(s.Version))
	if path != "" && path != s.Interface && (v == nil || v.Only() == nil) {
		if other := t.Lookup([]byte(path), []byte(s.Version)); other != nil {
			return other
		}
	}
	return v
}

func (x *Explanation) timeout(cl *Cluster, q Query) {
	if d := cl.Timeout(q.Application, []byte(q.Method)); d > 0 {
		x.Timeout = d.String()
	}
	if !cl.NeedsCaller() {
		return
	}
	known := false
	for i, c := range cl.deadlines.callers {
		known = known || q.Application != "" && c.application == q.Application
		one := CallerRow{Application: c.application, Processes: append([]int{}, c.pids...)}
		if d := cl.deadlines.caller(i, []byte(q.Method)); d > 0 {
			one.Timeout = d.String()
		}
		x.Callers = append(x.Callers, one)
	}
	switch {
	case known:
		x.TimeoutWhy = "the caller is known: subscription of " + q.Application
	case q.Application != "":
		x.TimeoutWhy = "subscriptions disagree and " + q.Application + " has none: the longest"
	default:
		x.TimeoutWhy = "subscriptions disagree and the caller is unknown: the longest"
	}
}

// row completes a candidate by its endpoint, which is nil for one that is not in
// the tables, and says when it belongs to another cluster.
func row(e *Endpoint, cl *Cluster, s registry.Service, asked string, c Candidate) Candidate {
	c.Service = s.Key()
	if e == nil {
		return c
	}
	c.Mesh, c.Origin, c.Weight, c.InFlight = e.Mesh, e.Origin, e.Weight, e.Peer.InFlight.Load()
	switch {
	case cl == nil || s != cl.Service:
		c.Reason = "other service key than " + asked
	case !slices.ContainsFunc(cl.Endpoints, func(o *Endpoint) bool { return same(o, e) }):
		c.Reason = "other path: " + e.URL.Path
	}
	return c
}

// outboundRows lists what the registries say of the interface, or of the
// interfaces that have it as path.
func (s *Snapshot) outboundRows(x *Explanation, asked registry.Service, cl *Cluster) []Candidate {
	name := asked.Interface
	if cl != nil {
		name = cl.Service.Interface
	}
	set, ok := s.interfaces.value(name)
	if !ok {
		x.State = Waiting
		return []Candidate{}
	}
	x.State = set.merged.State
	if set.merged.Reason != "" {
		x.Reason = strings.TrimPrefix(x.Reason+"; "+set.merged.Reason, "; ")
	}
	list := []Candidate{}
	for i, c := range set.candidates {
		u := c.provider.URL
		out := Candidate{
			Protocol: u.Protocol, Address: c.address, Origin: c.origin, Mesh: c.mesh, Application: c.application,
			Registries: c.registries, Model: string(c.provider.Model), Reason: c.excluded, Weight: c.weight,
		}
		if out.Reason == "" && u.Protocol != protocol {
			out.Reason = "protocol " + u.Protocol
		}
		list = append(list, row(set.endpoints[i], cl, c.service, x.Service, out))
	}
	return list
}

// inboundRows lists the local providers of the interface, and for an implicit
// service the processes that have it.
func (s *Snapshot) inboundRows(x *Explanation, asked registry.Service, cl *Cluster) []Candidate {
	list := []Candidate{}
	for i, l := range s.inbound.list {
		if l.Service.Interface != asked.Interface && l.Path != asked.Interface {
			continue
		}
		out := Candidate{Protocol: l.Protocol, Address: l.Address, Application: l.Application, Workload: l.Workload}
		if l.Protocol != protocol {
			out.Reason = "protocol " + l.Protocol
		}
		list = append(list, row(s.inbound.endpoints[i], cl, l.Service, x.Service, out))
	}
	if len(list) == 0 && cl != nil {
		for _, e := range cl.Endpoints {
			out := Candidate{Protocol: protocol, Address: e.Peer.Addr, Application: cl.Service.Group}
			list = append(list, row(e, cl, cl.Service, x.Service, out))
		}
	}
	x.State = Ready
	if len(list) == 0 {
		x.State = Empty
	}
	return list
}

// judge says which candidates are used: those of the best rank that any has, by
// their effective weights.
func (x *Explanation) judge(cl *Cluster, now time.Time) {
	if cl == nil || len(cl.Endpoints) == 0 {
		return
	}
	x.Routed = true
	b := cl.balance.Load()
	best := ranks
	for i, e := range cl.Endpoints {
		if b.weights[i] > 0 {
			best = min(best, e.rank())
		}
	}
	var total float64
	for i, e := range cl.Endpoints {
		if e.rank() == best {
			total += float64(b.weights[i])
		}
	}
	for n := range x.Candidates {
		c := &x.Candidates[n]
		if c.Reason != "" {
			continue
		}
		i := slices.IndexFunc(cl.Endpoints, func(e *Endpoint) bool { return e.Peer.Addr == c.Address && e.Origin == c.Origin })
		if i < 0 {
			continue
		}
		e := cl.Endpoints[i]
		c.Effective = int(b.weights[i])
		if _, warming := e.effective(now); warming {
			c.Warmup = fmt.Sprintf("%d%% of %s", max(0, 100*now.Sub(e.facts.began)/e.facts.warmup), e.facts.warmup)
		}
		switch rank := e.rank(); {
		case b.weights[i] == 0:
			c.Reason = "weight 0"
		case rank != best:
			c.Reason = rank.String()
		default:
			c.Used = true
			c.Share = float64(b.weights[i]) / total
		}
	}
}
