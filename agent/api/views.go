package api

import (
	"cmp"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/meshferry/meshferry/agent/route"
	"github.com/meshferry/meshferry/agent/workload"
	"github.com/meshferry/meshferry/registry"
)

// Status is the agent on one screen: GET /v1/status.
type Status struct {
	Agent      string           `json:"agent"`
	Version    string           `json:"version"`
	State      string           `json:"state"` // "running" or "stopping"
	Uptime     string           `json:"uptime"`
	Address    string           `json:"address"` // what other hosts dial
	Extra      []Extra          `json:"extra"`   // exceptions of address
	Outbound   string           `json:"outbound"`
	Registries []RegistryStatus `json:"registries"`
	XDS        []XDSStatus      `json:"xds"` // servers of rules, in the order of preference
	Workloads  []WorkloadStatus `json:"workloads"`
	Static     []StaticStatus   `json:"static"`    // applications that register themselves
	Protected  []SetStatus      `json:"protected"` // sets that are held although the registry says otherwise
	Warnings   []string         `json:"warnings"`
}

// RegistryStatus is one registry: its connection, and what of ours it holds.
type RegistryStatus struct {
	Name      string `json:"name"`
	URL       string `json:"url,omitempty"`
	State     string `json:"state"` // of registry.Status
	Age       string `json:"age"`
	Session   string `json:"session,omitempty"`
	Error     string `json:"error,omitempty"`
	InSync    bool   `json:"inSync"`
	Compared  string `json:"compared,omitempty"` // how long ago the last complete comparison was
	Published int    `json:"published"`          // publications that it holds
	Pending   int    `json:"pending"`            // publications that it should hold and does not
}

// XDSStatus is one ADS server.
type XDSStatus struct {
	Server string `json:"server"` // host:port
	State  string `json:"state"`  // of the constants below
	Age    string `json:"age,omitempty"`
	Error  string `json:"error,omitempty"` // why its last stream ended
}

// States of an ADS server.
const (
	XDSServing   = "serving"   // it answers, and what it says is in effect
	XDSConnected = "connected" // a stream stands, it has not answered yet
	XDSAway      = "away"      // it does not answer; what was said last is in effect
	XDSUnused    = "unused"    // one before it in the list serves
)

// WorkloadStatus is one local application.
type WorkloadStatus struct {
	Workload      string               `json:"workload"`
	Lease         string               `json:"lease"` // of workload.LeaseState; "none" lives by probes alone
	TTL           string               `json:"ttl,omitempty"`
	Publications  []PublicationReply   `json:"publications"`
	Subscriptions []SubscriptionStatus `json:"subscriptions"`
}

// SubscriptionStatus is one subscription and how it was answered last.
type SubscriptionStatus struct {
	Subscription string `json:"subscription"`
	Service      string `json:"service"`
	State        string `json:"state"`
	Mode         string `json:"mode"`
	Reason       string `json:"reason,omitempty"`
	Revision     uint64 `json:"revision"`
}

// SetStatus is what is known of one interface.
type SetStatus struct {
	Interface string `json:"interface"`
	State     string `json:"state"`
	Reason    string `json:"reason"`
	Providers int    `json:"providers"`
}

func (s *Server) status(c *gin.Context) {
	if err := knownQuery(c); err != nil {
		s.fail(c, err)
		return
	}
	now := time.Now()
	view := s.view()
	st := Status{
		Agent: s.o.Agent, Version: s.o.Version, State: "running", Uptime: age(now, s.started),
		Address: s.o.Address, Extra: append([]Extra{}, s.o.Extra...), Outbound: s.o.Outbound.String(),
		Registries: []RegistryStatus{}, XDS: s.xds(now), Workloads: s.workloads(view), Static: s.statics(view), Protected: []SetStatus{}, Warnings: []string{},
	}
	if s.o.Draining() {
		st.State = "stopping"
	}
	for _, r := range s.o.Registries() {
		st.Registries = append(st.Registries, r.describe(now))
	}
	for _, set := range s.sets(view) {
		if set.State == StateProtected {
			st.Protected = append(st.Protected, set)
		}
	}
	if view.DiskError != "" {
		st.Warnings = append(st.Warnings, "the state is not on disk: "+view.DiskError)
	}
	for _, text := range s.o.Routes.Unsupported() {
		st.Warnings = append(st.Warnings, "rules: "+text)
	}
	c.PureJSON(http.StatusOK, st)
}

func (s *Server) xds(now time.Time) []XDSStatus {
	list := []XDSStatus{}
	if s.o.XDS == nil {
		return list
	}
	for _, one := range s.o.XDS().Servers {
		st := XDSStatus{Server: one.Address, State: XDSAway, Error: one.Err}
		switch {
		case !one.Asked:
			st.State = XDSUnused
		case one.Connected && one.Serving:
			st.State = XDSServing
		case one.Connected:
			st.State = XDSConnected
		}
		if !one.Since.IsZero() {
			st.Age = age(now, one.Since)
		}
		list = append(list, st)
	}
	return list
}

func (r Registry) describe(now time.Time) RegistryStatus {
	connection := r.Status()
	d := RegistryStatus{
		Name: r.Name, URL: r.URL, State: connection.State, Age: age(now, connection.Since),
		Session: connection.Session, Error: connection.Err,
	}
	st := r.State.Load()
	// What the last comparison found is not known to hold while nobody can look.
	d.InSync, d.Error = st.InSync && connection.State == registry.Connected, cmp.Or(d.Error, st.Err)
	if !st.LastCompare.IsZero() {
		d.Compared = age(now, st.LastCompare)
	}
	for _, p := range st.Publications {
		if p.State == statePublished {
			d.Published++
		} else {
			d.Pending++
		}
	}
	return d
}

func (s *Server) workloads(view *workload.View) []WorkloadStatus {
	byName := map[string]*WorkloadStatus{}
	of := func(name string) *WorkloadStatus {
		if byName[name] == nil {
			byName[name] = &WorkloadStatus{
				Workload: name, Lease: "none", Publications: []PublicationReply{}, Subscriptions: []SubscriptionStatus{},
			}
		}
		return byName[name]
	}
	for _, l := range view.Leases {
		w := of(l.Workload)
		w.Lease, w.TTL = string(l.State), l.TTL.String()
	}
	for _, p := range view.Publications {
		w := of(p.Workload)
		w.Publications = append(w.Publications, s.publicationReply(view, p.Identity, 0))
	}
	for _, sub := range view.Subscriptions {
		w := of(sub.Workload)
		d := s.document(sub)
		w.Subscriptions = append(w.Subscriptions, SubscriptionStatus{
			Subscription: sub.ID, Service: sub.Service.Key(), State: d.State, Mode: d.Mode, Reason: d.Reason, Revision: d.Revision,
		})
	}
	list := []WorkloadStatus{}
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		list = append(list, *byName[name])
	}
	return list
}

// sets is what is known of every interface that somebody local subscribed to.
func (s *Server) sets(view *workload.View) []SetStatus {
	list := []SetStatus{}
	routes := s.o.Routes.Snapshot()
	names := map[string]bool{}
	for _, sub := range view.Subscriptions {
		names[sub.Service.Interface] = true
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		set, _ := routes.Interface(name)
		list = append(list, SetStatus{Interface: name, State: string(set.State), Reason: set.Reason, Providers: len(set.Providers)})
	}
	return list
}

// Services is the answer of GET /v1/services: what local applications offer, and
// what they call.
type Services struct {
	Inbound  []PublicationReply `json:"inbound"`
	Outbound []ServiceStatus    `json:"outbound"`
}

// ServiceStatus is one service that can be called from here.
type ServiceStatus struct {
	Service     string   `json:"service"`
	State       string   `json:"state"`
	Reason      string   `json:"reason,omitempty"`
	Providers   int      `json:"providers"`
	Subscribers []string `json:"subscribers"` // workloads; none: called without a subscription
}

func (s *Server) services(c *gin.Context) {
	if err := knownQuery(c); err != nil {
		s.fail(c, err)
		return
	}
	view, routes := s.view(), s.o.Routes.Snapshot()
	reply := Services{Inbound: []PublicationReply{}, Outbound: []ServiceStatus{}}
	for _, p := range view.Publications {
		reply.Inbound = append(reply.Inbound, s.publicationReply(view, p.Identity, 0))
	}
	asked := map[registry.Service][]string{}
	for _, service := range routes.Services() {
		asked[service] = []string{}
	}
	for _, sub := range view.Subscriptions {
		if !slices.Contains(asked[sub.Service], sub.Workload) {
			asked[sub.Service] = append(asked[sub.Service], sub.Workload)
		}
	}
	for service, subscribers := range asked {
		set, _ := routes.Interface(service.Interface)
		one := ServiceStatus{Service: service.Key(), State: string(set.State), Reason: set.Reason, Subscribers: subscribers}
		for _, p := range set.Providers {
			if service.Matches(p.URL.Service()) {
				one.Providers++
			}
		}
		if one.Providers == 0 && set.State == route.Ready {
			one.State = StateEmpty
		}
		reply.Outbound = append(reply.Outbound, one)
	}
	slices.SortFunc(reply.Outbound, func(a, b ServiceStatus) int { return cmp.Compare(a.Service, b.Service) })
	c.PureJSON(http.StatusOK, reply)
}

// Endpoints is the answer of GET /v1/endpoints.
type Endpoints struct {
	Service   string            `json:"service"`
	Direction string            `json:"direction"`
	State     string            `json:"state"`
	Reason    string            `json:"reason,omitempty"`
	Endpoints []route.Candidate `json:"endpoints"`
	// Registries are those that were asked; none for direction inbound.
	Registries []RegistryState `json:"registries,omitempty"`
}

// Explanation is the answer of GET /v1/explain.
type Explanation struct {
	route.Explanation
	Registries []RegistryState `json:"registries,omitempty"`
}

func (s *Server) endpoints(c *gin.Context) {
	q, err := routeQuery(c, "service", "direction")
	if err != nil {
		s.fail(c, err)
		return
	}
	e := s.explanation(c, q)
	c.PureJSON(http.StatusOK, Endpoints{
		Service: q.Service.Key(), Direction: q.Direction, State: string(e.State), Reason: e.Reason,
		Endpoints: e.Candidates, Registries: e.Registries,
	})
}

func (s *Server) explain(c *gin.Context) {
	q, err := routeQuery(c, "service", "direction", "method", "application", "attachment", "argument")
	if err != nil {
		s.fail(c, err)
		return
	}
	c.PureJSON(http.StatusOK, s.explanation(c, q))
}

// explanation looks for an interface that nobody asked for yet, as a call would.
func (s *Server) explanation(c *gin.Context, q route.Query) Explanation {
	var e Explanation
	if q.Direction == route.Outbound {
		s.awaitSet(c, q.Service)
		e.Registries = s.registryStates(time.Now())
	}
	e.Explanation = s.o.Routes.Explain(q)
	if e.Candidates == nil {
		e.Candidates = []route.Candidate{}
	}
	return e
}

// routeQuery reads the query parameters of endpoints and explain.
func routeQuery(c *gin.Context, names ...string) (route.Query, error) {
	if err := knownQuery(c, names...); err != nil {
		return route.Query{}, err
	}
	service, err := registry.ParseService(c.Query("service"))
	if err != nil {
		return route.Query{}, invalid("give ?service=[group/]interface[:version]", "%v", err)
	}
	q := route.Query{
		Service: service, Method: c.Query("method"), Application: c.Query("application"),
		Direction: cmp.Or(c.Query("direction"), route.Outbound),
	}
	if q.Direction != route.Outbound && q.Direction != route.Inbound {
		return q, invalid("", "direction %.40q is neither outbound nor inbound", q.Direction)
	}
	for _, pair := range c.QueryArray("attachment") {
		k, v, ok := strings.Cut(pair, "=")
		if !ok || k == "" {
			return q, invalid("give attachment=key=value, with the inner = as it is", "bad attachment %.40q", pair)
		}
		if q.Attachments == nil {
			q.Attachments = map[string]string{}
		}
		q.Attachments[k] = v
	}
	for _, pair := range c.QueryArray("argument") {
		k, v, ok := strings.Cut(pair, "=")
		index, err := strconv.Atoi(k)
		if !ok || err != nil || index < 0 {
			return q, invalid("give argument=index=value, the first index is 0", "bad argument %.40q", pair)
		}
		if q.Arguments == nil {
			q.Arguments = map[int]string{}
		}
		q.Arguments[index] = v
	}
	return q, nil
}

// knownQuery errs for a query parameter that the call does not have.
func knownQuery(c *gin.Context, names ...string) error {
	for _, name := range slices.Sorted(maps.Keys(c.Request.URL.Query())) {
		if !slices.Contains(names, name) {
			return unknownField(name, names)
		}
	}
	return nil
}
