// Package resolve looks up the names of endpoints: it stands between a source of
// rules and the router, and hands on addresses in place of names (STRICT_DNS).
//
// Invariants:
//   - Data flows one way: source → resolve → router. The router never waits for DNS,
//     and never sees a name.
//   - A name is looked up at most once a second, by one look-up at a time; few
//     look-ups run at once, and each has a deadline.
//   - While DNS fails the last good addresses stay, and the endpoints say so once. A
//     name that does not exist any more is a failure like any other.
//   - The endpoints of a cluster are not known, or stay as they were, until each of
//     its names was tried: a cluster does not start with one host of many.
//   - A change costs in proportion to the clusters that have the name.
package resolve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meshferry/meshferry/agent/route"
	"github.com/meshferry/meshferry/registry"
)

const (
	leastInterval = time.Second
	mostAtOnce    = 16              // look-ups that run
	patience      = 5 * time.Second // of one look-up
	mostNames     = 4096            // looked up; each costs a goroutine that sleeps
)

// Resolver is what net.Resolver does.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// Options of New. Rules is required.
type Options struct {
	Rules    route.RuleSource
	Resolver Resolver // nil: that of the system
	Log      *slog.Logger
}

// Source is a route.RuleSource that hands on what another one says, with addresses
// in place of names.
type Source struct {
	o    Options
	slot chan struct{} // held by each look-up that runs

	// owned by Run
	clusters map[string]*cluster
	names    map[question]*name
}

var _ route.RuleSource = (*Source)(nil)

// cluster is what the source said of one.
type cluster struct {
	name  string
	spec  *route.ClusterSpec
	set   *route.EndpointSet // as the source told it
	names map[question]bool  // that it has; nil: it has none to look up
	told  bool               // the router has endpoints with these or earlier names
}

// question is what is asked, and how often.
type question struct {
	host   string
	family route.Family
	every  time.Duration
}

// name is what is known of one.
type name struct {
	question
	users     map[*cluster]bool
	stop      context.CancelFunc
	tried     bool
	addresses []netip.Addr // the last good ones, sorted
	problem   string       // why the latest look-up failed
}

type answer struct {
	name      *name
	addresses []netip.Addr
	err       error
}

// New is a source that does not run yet.
func New(o Options) *Source {
	if o.Resolver == nil {
		o.Resolver = net.DefaultResolver
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Source{o: o, slot: make(chan struct{}, mostAtOnce), clusters: map[string]*cluster{}, names: map[question]*name{}}
}

// SetServices implements route.RuleSource.
func (s *Source) SetServices(set []registry.Service) { s.o.Rules.SetServices(set) }

// Run implements route.RuleSource.
func (s *Source) Run(ctx context.Context, ch chan<- route.RuleUpdate) error {
	g, ctx := errgroup.WithContext(ctx)
	updates := make(chan route.RuleUpdate)
	g.Go(func() error { return s.o.Rules.Run(ctx, updates) })
	g.Go(func() error { s.loop(ctx, g, updates, ch); return nil })
	return g.Wait()
}

func (s *Source) loop(ctx context.Context, g *errgroup.Group, updates <-chan route.RuleUpdate, ch chan<- route.RuleUpdate) {
	answers := make(chan answer, mostAtOnce)
	watch := func(n *name) {
		var own context.Context
		own, n.stop = context.WithCancel(ctx)
		g.Go(func() error { s.watch(own, n, answers); return nil })
	}
	var last route.RuleUpdate // Source and Synced are those of the source's last one
	for {
		var out route.RuleUpdate
		select {
		case <-ctx.Done():
			return
		case u := <-updates:
			last = route.RuleUpdate{Source: u.Source, Synced: u.Synced}
			out = s.take(u, watch)
		case a := <-answers:
			endpoints := map[string]*route.EndpointSet{}
			for more := true; more; { // a burst of answers is one change
				s.answered(a, endpoints)
				select {
				case a = <-answers:
				default:
					more = false
				}
			}
			if len(endpoints) == 0 {
				continue
			}
			out = last
			out.Endpoints = endpoints
		}
		select {
		case <-ctx.Done():
			return
		case ch <- out:
		}
	}
}

// take notes a change of the source, and gives the one for the router.
func (s *Source) take(u route.RuleUpdate, watch func(*name)) route.RuleUpdate {
	touched := map[string]bool{}
	for name, spec := range u.Clusters {
		s.cluster(name).spec = spec
		touched[name] = true
	}
	for name, set := range u.Endpoints {
		s.cluster(name).set = set
		touched[name] = true
	}
	endpoints := u.Endpoints
	own := false
	change := func(name string, set *route.EndpointSet, tell bool) {
		if !own { // the source's map is not ours to change
			endpoints, own = make(map[string]*route.EndpointSet, len(u.Endpoints)+1), true
			maps.Copy(endpoints, u.Endpoints)
		}
		if delete(endpoints, name); tell {
			endpoints[name] = set
		}
	}
	for name := range touched {
		c := s.clusters[name]
		had := c.names != nil
		s.ask(c, watch)
		switch {
		case c.names != nil:
			if set, ok := s.endpoints(c); ok {
				c.told = true
				change(name, set, true)
			} else {
				change(name, nil, !c.told)
			}
		case had:
			c.told = false
			change(name, c.set, true)
		}
		if c.spec == nil && c.set == nil {
			delete(s.clusters, name)
		}
	}
	u.Endpoints = endpoints
	return u
}

func (s *Source) cluster(name string) *cluster {
	c := s.clusters[name]
	if c == nil {
		c = &cluster{name: name}
		s.clusters[name] = c
	}
	return c
}

// ask has the names of a cluster looked up, and those that it does not have any
// more no longer.
func (s *Source) ask(c *cluster, watch func(*name)) {
	old := c.names
	c.names = nil
	if c.spec != nil && c.spec.Resolve > 0 && c.set != nil {
		c.names = map[question]bool{}
		for i := range c.set.Localities {
			for _, e := range c.set.Localities[i].Endpoints {
				if q, _, isName := c.question(e.Address); isName {
					c.names[q] = true
				}
			}
		}
	}
	for q := range c.names {
		n := s.names[q]
		if n == nil {
			if len(s.names) >= mostNames {
				continue // endpoints says it
			}
			n = &name{question: q, users: map[*cluster]bool{}}
			s.names[q] = n
			watch(n)
		}
		n.users[c] = true
	}
	for q := range old {
		n := s.names[q]
		if n == nil || c.names[q] {
			continue
		}
		if delete(n.users, c); len(n.users) == 0 {
			n.stop()
			delete(s.names, q)
		}
	}
}

// question is what is to be asked about an endpoint; false: it has an address.
func (c *cluster) question(endpoint string) (q question, port string, isName bool) {
	host, port, err := net.SplitHostPort(endpoint)
	if err != nil {
		return question{}, "", false
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return question{}, "", false
	}
	return question{host, c.spec.Family, max(c.spec.Resolve, leastInterval)}, port, true
}

// endpoints is the set of a cluster with addresses; false: some of its names were
// not tried yet.
func (s *Source) endpoints(c *cluster) (*route.EndpointSet, bool) {
	for q := range c.names {
		if n := s.names[q]; n != nil && !n.tried {
			return nil, false
		}
	}
	out := &route.EndpointSet{Overprovisioning: c.set.Overprovisioning, Unsupported: slices.Clone(c.set.Unsupported)}
	said := map[string]bool{}
	say := func(format string, args ...any) {
		if line := fmt.Sprintf(format, args...); !said[line] {
			said[line] = true
			out.Unsupported = append(out.Unsupported, line)
		}
	}
	for _, l := range c.set.Localities {
		given := l.Endpoints
		l.Endpoints = make([]route.EndpointSpec, 0, len(given))
		for _, e := range given {
			q, port, isName := c.question(e.Address)
			if !isName {
				l.Endpoints = append(l.Endpoints, e)
				continue
			}
			n := s.names[q]
			switch {
			case n == nil:
				say("host %s is not looked up: there are more than %d names", q.host, mostNames)
				continue
			case n.problem != "" && len(n.addresses) > 0:
				say("host %s cannot be looked up (%s), its last addresses are used", q.host, n.problem)
			case n.problem != "":
				say("host %s cannot be looked up (%s), it has no endpoints", q.host, n.problem)
			}
			e.Host = q.host
			for _, a := range n.addresses {
				e.Address = net.JoinHostPort(a.String(), port)
				l.Endpoints = append(l.Endpoints, e)
			}
		}
		out.Localities = append(out.Localities, l)
	}
	return out, true
}

// answered takes the result of a look-up, and adds the clusters that it changes.
func (s *Source) answered(a answer, changed map[string]*route.EndpointSet) {
	n := a.name
	if s.names[n.question] != n {
		return // not asked for any more
	}
	same := n.tried
	n.tried = true
	if a.err != nil {
		if n.problem != "" {
			return // said already; why is what it was at first
		}
		n.problem = reason(a.err)
		s.o.Log.Warn("a host name cannot be looked up", "host", n.host, "err", n.problem, "addresses", len(n.addresses))
	} else {
		if n.problem != "" {
			s.o.Log.Info("a host name can be looked up again", "host", n.host, "addresses", len(a.addresses))
		}
		same = same && n.problem == "" && slices.Equal(n.addresses, a.addresses)
		n.problem, n.addresses = "", a.addresses
		if same {
			return
		}
	}
	for c := range n.users {
		if set, ok := s.endpoints(c); ok {
			c.told = true
			changed[c.name] = set
		}
	}
}

// reason is why a look-up failed, without what differs from one to the next.
func reason(err error) string {
	var dns *net.DNSError
	switch {
	case errors.As(err, &dns) && dns.IsNotFound:
		return "no such host"
	case errors.As(err, &dns) && dns.IsTimeout, errors.Is(err, context.DeadlineExceeded):
		return "no answer in time"
	case errors.As(err, &dns):
		return dns.Err
	}
	return err.Error()
}

// watch looks a name up until ctx ends.
func (s *Source) watch(ctx context.Context, n *name, answers chan<- answer) {
	for {
		select {
		case <-ctx.Done():
			return
		case s.slot <- struct{}{}:
		}
		addresses, err := s.lookup(ctx, n.question)
		<-s.slot
		if ctx.Err() != nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case answers <- answer{n, addresses, err}:
		}
		// Up to a tenth more, so that names which came together do not stay together.
		wait := time.NewTimer(n.every + rand.N(n.every/10))
		select {
		case <-ctx.Done():
			wait.Stop()
			return
		case <-wait.C:
		}
	}
}

// lookup asks once. The number of addresses is bounded by the size of an answer.
func (s *Source) lookup(ctx context.Context, q question) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	network := "ip"
	switch q.family {
	case route.IPv4Only:
		network = "ip4"
	case route.IPv6Only:
		network = "ip6"
	}
	list, err := s.o.Resolver.LookupNetIP(ctx, network, q.host)
	if err != nil {
		return nil, err
	}
	list = slices.Clone(list)
	for i := range list {
		list[i] = list[i].Unmap()
	}
	slices.SortFunc(list, netip.Addr.Compare)
	list = slices.Compact(list)
	switch q.family {
	case route.AutoFamily:
		list = prefer(list, netip.Addr.Is6)
	case route.IPv4Preferred:
		list = prefer(list, netip.Addr.Is4)
	}
	if len(list) == 0 {
		return nil, errors.New("no address")
	}
	return list, nil
}

// prefer leaves the addresses of one family, if there are any.
func prefer(list []netip.Addr, wanted func(netip.Addr) bool) []netip.Addr {
	some := slices.DeleteFunc(slices.Clone(list), func(a netip.Addr) bool { return !wanted(a) })
	if len(some) > 0 {
		return some
	}
	return list
}
