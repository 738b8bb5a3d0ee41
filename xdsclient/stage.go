package xdsclient

import (
	"container/heap"
	"time"
)

// key names a resource.
type key struct{ url, name string }

// stage turns resources as they arrive into coherent steps: make before break. It
// holds what was received and what was delivered, and does no I/O.
//
// The work of a step is proportional to what was touched: sets of what is dirty,
// counters of who refers to what.
type stage struct {
	// immutable
	wildcard    bool // clusters are asked for by wildcard
	missingHold time.Duration
	resourceMax time.Duration

	complete  bool // a complete answer with all clusters has come
	clusters  map[string]*stagedCluster
	services  map[string]*stagedService
	routes    map[key]*stagedRoute
	listeners map[string]*stagedListener

	dirtyClusters  map[string]struct{}
	dirtyRoutes    map[key]struct{}
	dirtyListeners map[string]struct{}

	want    map[key]int      // how many received or delivered things refer to it
	crossed map[key]struct{} // whose count may have become 0, or more than 0
	holds   int              // virtual hosts and listeners that wait
	hasty   bool             // no server was heard yet: what is on disk is all there is, nothing waits
	paused  bool             // no server is heard: what waits, waits
	resumed time.Time        // since then one is
	wake    wakeups
	out     Update
}

type stagedCluster struct {
	recv *Cluster // without the endpoints of EDS; nil: the server has none
	pub  *Cluster // as delivered
	gone bool     // asked for by name, and not there
	uses int      // delivered virtual hosts and listeners that name it

	waitRoutes    map[key]struct{} // have virtual hosts that wait for it
	waitListeners map[string]struct{}
}

type stagedService struct {
	recv     *Assignment         // nil: not heard
	clusters map[string]struct{} // received or delivered, whose endpoints it has
}

type stagedRoute struct {
	all       *decodedRoute // as received
	recv      *decodedRoute // what of it can be used, see narrow
	pub       *decodedRoute
	gone      bool                  // asked for, and not there
	held      map[*VirtualHost]hold // of recv
	listeners map[string]struct{}   // received or delivered, that refer to it
}

type stagedListener struct {
	recv, pub *Listener
	gone      bool // asked for by name, and not there
	told      bool // that it is gone
	held      *hold
}

// hold is how long something waits to become complete.
type hold struct {
	since time.Time
	until time.Time
	needs []key // what is missing
}

// waits tells whether the wait goes on, for at most that long, and sees to it that
// it is looked at again.
func (s *stage) waits(h *hold, most time.Duration, k key, now time.Time) bool {
	if s.hasty {
		return false
	}
	if h.since.IsZero() {
		h.since = now
	}
	since := h.since
	if s.resumed.After(since) {
		since = s.resumed
	}
	until := since.Add(most)
	if !s.paused && !now.Before(until) {
		return false
	}
	if !s.paused && !until.Equal(h.until) {
		h.until = until
		s.wake.add(until, k)
	}
	return true
}

// pause stops the clocks of what waits; resume starts them anew.
func (s *stage) pause() { s.paused = true }

func (s *stage) resume(now time.Time) {
	s.hasty = false
	if !s.paused {
		return
	}
	s.paused, s.resumed = false, now
	s.touchHeld()
}

func (s *stage) touchHeld() {
	for k, r := range s.routes {
		if len(r.held) > 0 {
			s.dirtyRoutes[k] = struct{}{}
		}
	}
	for name, l := range s.listeners {
		if l.held != nil {
			s.dirtyListeners[name] = struct{}{}
		}
	}
}

func newStage(o Options) *stage {
	return &stage{
		hasty: true, wildcard: o.Wildcard, missingHold: o.MissingHold, resourceMax: o.ResourceTimeout,
		clusters: map[string]*stagedCluster{}, services: map[string]*stagedService{},
		routes: map[key]*stagedRoute{}, listeners: map[string]*stagedListener{},
		dirtyClusters: map[string]struct{}{}, dirtyRoutes: map[key]struct{}{}, dirtyListeners: map[string]struct{}{},
		want: map[key]int{}, crossed: map[key]struct{}{},
	}
}

func (s *stage) refer(k key, by int) {
	n := s.want[k] + by
	if n == 0 {
		delete(s.want, k)
	} else {
		s.want[k] = n
	}
	if n == 0 || n == by {
		s.crossed[k] = struct{}{}
	}
}

func (s *stage) clusterOf(name string) *stagedCluster {
	c := s.clusters[name]
	if c == nil {
		c = &stagedCluster{}
		s.clusters[name] = c
	}
	return c
}

func (s *stage) serviceOf(name string) *stagedService {
	v := s.services[name]
	if v == nil {
		v = &stagedService{clusters: map[string]struct{}{}}
		s.services[name] = v
	}
	return v
}

func (s *stage) routeOf(k key) *stagedRoute {
	r := s.routes[k]
	if r == nil {
		r = &stagedRoute{listeners: map[string]struct{}{}}
		s.routes[k] = r
	}
	return r
}

// setCluster takes a cluster as received; nil: the server has none.
func (s *stage) setCluster(name string, c *Cluster) {
	st := s.clusterOf(name)
	if st.recv == c && st.gone == (c == nil) {
		return
	}
	old := st.recv
	st.recv, st.gone = c, c == nil
	if c != nil && c.service != "" {
		s.refer(key{EndpointURL, c.service}, 1)
		s.serviceOf(c.service).clusters[name] = struct{}{}
	}
	if old != nil && old.service != "" {
		s.leave(old.service, name, st)
	}
	s.dirtyClusters[name] = struct{}{}
}

// leave drops one reference of a cluster to its service.
func (s *stage) leave(service, name string, st *stagedCluster) {
	s.refer(key{EndpointURL, service}, -1)
	if (st.recv == nil || st.recv.service != service) && (st.pub == nil || st.pub.service != service) {
		delete(s.serviceOf(service).clusters, name)
	}
}

// setAssignment takes the endpoints of a service; nil: forget them.
func (s *stage) setAssignment(service string, a *Assignment) {
	v := s.serviceOf(service)
	v.recv = a
	for name := range v.clusters {
		s.dirtyClusters[name] = struct{}{}
	}
	if a == nil && len(v.clusters) == 0 {
		delete(s.services, service)
	}
}

// setRoute takes a route as received; nil with gone: the server has none; nil
// without: nobody asks for it any more.
func (s *stage) setRoute(k key, r *decodedRoute, gone bool) {
	st := s.routeOf(k)
	st.all, st.gone = r, gone
	s.narrow(k, st)
}

// narrow leaves of a route what the listeners that lead to it are for. One that is
// asked for by name is for that name, as of a gRPC client, while istiod sends every
// virtual host of the port with it: to follow all would mean to follow everybody's
// clusters.
func (s *stage) narrow(k key, st *stagedRoute) {
	r := st.all
	if r != nil && !s.wildcard && k.url == RouteURL {
		r = r.only(st.listeners)
	}
	s.referHosts(st.recv, r, s.wantCluster)
	st.recv = r
	s.dirtyRoutes[k] = struct{}{}
}

func (s *stage) wantCluster(name string, by int) {
	if !s.wildcard {
		s.refer(key{ClusterURL, name}, by)
	}
}

func (s *stage) useCluster(name string, by int) {
	s.wantCluster(name, by)
	c := s.clusterOf(name)
	c.uses += by
	if c.uses == 0 && c.recv == nil {
		s.dirtyClusters[name] = struct{}{}
	}
}

// referHosts counts the clusters of virtual hosts that come or go.
func (s *stage) referHosts(old, next *decodedRoute, count func(string, int)) {
	was := map[*VirtualHost]struct{}{}
	if old != nil {
		for _, v := range old.Hosts {
			was[v] = struct{}{}
		}
	}
	if next != nil {
		for _, v := range next.Hosts {
			if _, same := was[v]; same {
				delete(was, v)
				continue
			}
			for _, c := range v.Clusters {
				count(c, 1)
			}
		}
	}
	for v := range was {
		for _, c := range v.Clusters {
			count(c, -1)
		}
	}
}

// setListener takes a listener as received; nil: the server has none.
func (s *stage) setListener(name string, l *Listener) {
	st := s.listeners[name]
	if st == nil {
		st = &stagedListener{}
		s.listeners[name] = st
	}
	s.referListener(st.recv, l, s.wantCluster)
	st.recv, st.gone = l, l == nil
	s.dirtyListeners[name] = struct{}{}
}

func (s *stage) referListener(old, next *Listener, count func(string, int)) {
	if old == next {
		return
	}
	if next != nil {
		for _, k := range next.refs {
			s.refer(k, 1)
			if r := s.routeOf(k); !has(r.listeners, next.Name) {
				r.listeners[next.Name] = struct{}{}
				s.narrow(k, r)
			}
		}
		for _, c := range next.clusters {
			count(c, 1)
		}
	}
	if old != nil {
		for _, k := range old.refs {
			s.refer(k, -1)
		}
		for _, c := range old.clusters {
			count(c, -1)
		}
	}
}

// completed says that every cluster that the server has for a wildcard came.
func (s *stage) completed() {
	if s.complete {
		return
	}
	s.complete = true
	s.touchHeld()
}

// flush makes what is complete into the next step, in s.out.
func (s *stage) flush(now time.Time) {
	for _, k := range s.wake.due(now) {
		if k.url == ListenerURL {
			s.dirtyListeners[k.name] = struct{}{}
		} else {
			s.dirtyRoutes[k] = struct{}{}
		}
	}
	for len(s.dirtyClusters)+len(s.dirtyRoutes)+len(s.dirtyListeners) > 0 {
		for len(s.dirtyClusters) > 0 {
			for name := range s.dirtyClusters {
				delete(s.dirtyClusters, name)
				s.flushCluster(name)
			}
		}
		for k := range s.dirtyRoutes {
			delete(s.dirtyRoutes, k)
			s.flushRoute(k, now)
		}
		for name := range s.dirtyListeners {
			delete(s.dirtyListeners, name)
			s.flushListener(name, now)
		}
	}
}

func (s *stage) flushCluster(name string) {
	st := s.clusterOf(name)
	old := st.pub
	switch {
	case st.recv == nil && old != nil && st.uses > 0:
		next := &Cluster{Name: name, Config: old.Config, Endpoints: old.Endpoints, Orphan: true, service: old.service}
		if v := s.services[old.service]; old.service != "" && v != nil && v.recv != nil {
			next.Endpoints = v.recv
		}
		if !old.Orphan || next.Endpoints != old.Endpoints {
			s.publish(name, st, next)
		}
	case st.recv == nil && old != nil:
		s.publish(name, st, nil)
	case st.recv != nil:
		next := &Cluster{Name: name, Config: st.recv.Config, Endpoints: st.recv.Endpoints, service: st.recv.service}
		if next.service != "" {
			if next.Endpoints = s.serviceOf(next.service).recv; next.Endpoints == nil {
				return // not warm: what was delivered stays
			}
		}
		if old == nil || old.Orphan || old.Config != next.Config || old.Endpoints != next.Endpoints || old.service != next.service {
			s.publish(name, st, next)
		}
	}
	for k := range st.waitRoutes {
		s.dirtyRoutes[k] = struct{}{}
	}
	for l := range st.waitListeners {
		s.dirtyListeners[l] = struct{}{}
	}
	st.waitRoutes, st.waitListeners = nil, nil
	if st.recv == nil && st.pub == nil && st.uses == 0 && (s.wildcard || s.want[key{ClusterURL, name}] == 0) {
		delete(s.clusters, name)
	}
}

func (s *stage) publish(name string, st *stagedCluster, next *Cluster) {
	old := st.pub
	st.pub = next
	if next != nil && next.service != "" {
		s.refer(key{EndpointURL, next.service}, 1)
		s.serviceOf(next.service).clusters[name] = struct{}{}
	}
	if old != nil && old.service != "" {
		s.leave(old.service, name, st)
	}
	if s.out.Clusters == nil {
		s.out.Clusters = map[string]*Cluster{}
	}
	s.out.Clusters[name] = next
}

// missing tells which clusters of a list are not delivered, and how long that may
// be waited for.
func (s *stage) missing(clusters []string) (needs []key, most time.Duration) {
	for _, name := range clusters {
		c := s.clusters[name]
		if c != nil && (c.pub != nil || c.gone && !s.wildcard) {
			continue
		}
		needs = append(needs, key{ClusterURL, name})
		if s.wildcard && s.complete && (c == nil || c.recv == nil) {
			most = max(most, s.missingHold)
		} else {
			// Its endpoints have a time-out of their own, counted from when they were asked for.
			most = max(most, s.resourceMax+s.missingHold)
		}
	}
	return needs, most
}

func (s *stage) flushRoute(k key, now time.Time) {
	st := s.routes[k]
	if st == nil {
		return
	}
	if st.recv == nil {
		if st.pub != nil {
			s.publishRoute(k, st, nil)
		} else if st.gone {
			s.tellRoute(k, nil)
			s.touchListeners(st)
		}
		s.holds -= len(st.held)
		st.held = nil
		if s.want[k] == 0 {
			delete(s.routes, k)
		}
		return
	}
	if st.pub != nil && samePointers(st.pub, st.recv) {
		s.holds -= len(st.held)
		st.held = nil
		s.touchListeners(st)
		return
	}
	old := map[string]int{}
	was := map[*VirtualHost]struct{}{}
	if st.pub != nil {
		for i, v := range st.pub.Hosts {
			old[v.Name] = i
			was[v] = struct{}{}
		}
	}
	next := &decodedRoute{Route: &Route{Name: st.recv.Name, Config: st.recv.Config}, ext: st.recv.ext}
	held := map[*VirtualHost]hold{}
	var fresh []*VirtualHost // held, without an old one of that name
	for i, v := range st.recv.Hosts {
		raw := st.recv.raws[i]
		if _, same := was[v]; !same {
			needs, most := s.missing(v.Clusters)
			if len(needs) > 0 {
				h := st.held[v]
				if s.waits(&h, most, k, now) {
					h.needs = needs
					held[v] = h
					for _, n := range needs {
						c := s.clusterOf(n.name)
						if c.waitRoutes == nil {
							c.waitRoutes = map[key]struct{}{}
						}
						c.waitRoutes[k] = struct{}{}
					}
					j, ok := old[v.Name]
					if !ok {
						fresh = append(fresh, v)
						continue
					}
					v, raw = st.pub.Hosts[j], st.pub.raws[j]
				}
			}
		}
		next.Hosts, next.raws = append(next.Hosts, v), append(next.raws, raw)
	}
	s.holds += len(held) - len(st.held)
	st.held = held
	if len(fresh) > 0 && st.pub != nil {
		s.keepRenamed(st, next, fresh)
	}
	if len(next.Hosts) == 0 && len(held) > 0 && st.pub == nil {
		return
	}
	if st.pub != nil && samePointers(st.pub, next) {
		s.touchListeners(st)
		return
	}
	s.publishRoute(k, st, next)
}

// keepRenamed keeps old virtual hosts that are not there any more while a new one
// with one of their domains waits.
func (s *stage) keepRenamed(st *stagedRoute, next *decodedRoute, fresh []*VirtualHost) {
	domains := map[string]struct{}{}
	for _, v := range fresh {
		for _, d := range v.Config.GetDomains() {
			domains[d] = struct{}{}
		}
	}
	have := map[string]struct{}{}
	for _, v := range next.Hosts {
		have[v.Name] = struct{}{}
	}
	for i, v := range st.pub.Hosts {
		if _, ok := have[v.Name]; ok {
			continue
		}
		for _, d := range v.Config.GetDomains() {
			if _, ok := domains[d]; ok {
				next.Hosts, next.raws = append(next.Hosts, v), append(next.raws, st.pub.raws[i])
				break
			}
		}
	}
}

// samePointers tells whether two routes show the same.
func samePointers(a, b *decodedRoute) bool {
	if a.Config != b.Config || len(a.Hosts) != len(b.Hosts) {
		return false
	}
	for i := range a.Hosts {
		if a.Hosts[i] != b.Hosts[i] {
			return false
		}
	}
	return true
}

func (s *stage) publishRoute(k key, st *stagedRoute, next *decodedRoute) {
	s.referHosts(st.pub, next, s.useCluster)
	st.pub = next
	s.tellRoute(k, next)
	s.touchListeners(st)
}

func (s *stage) touchListeners(st *stagedRoute) {
	for l := range st.listeners {
		if ls := s.listeners[l]; ls != nil && (ls.held != nil || ls.pub != ls.recv) {
			s.dirtyListeners[l] = struct{}{}
		}
	}
}

func (s *stage) tellRoute(k key, r *decodedRoute) {
	if k.url == RouteURL {
		if s.out.Routes == nil {
			s.out.Routes = map[string]*Route{}
		}
		if s.out.Routes[k.name] = nil; r != nil {
			s.out.Routes[k.name] = r.Route
		}
		return
	}
	if s.out.Extensions == nil {
		s.out.Extensions = map[string]map[string]*Resource{}
	}
	if s.out.Extensions[k.url] == nil {
		s.out.Extensions[k.url] = map[string]*Resource{}
	}
	if s.out.Extensions[k.url][k.name] = nil; r != nil {
		s.out.Extensions[k.url][k.name] = r.ext
	}
}

func (s *stage) flushListener(name string, now time.Time) {
	st := s.listeners[name]
	if st == nil {
		return
	}
	if st.recv == nil {
		s.release(st)
		if st.pub != nil || !st.told {
			s.publishListener(name, st, nil)
		}
		st.told = true
		return
	}
	if st.pub == st.recv {
		s.release(st)
		return
	}
	needs, most := s.missing(st.recv.clusters)
	for _, k := range st.recv.refs {
		r := s.routes[k]
		switch {
		case r == nil || r.pub == nil && !r.gone:
			needs, most = append(needs, k), max(most, 2*s.resourceMax+s.missingHold)
		case st.pub != nil && len(r.held) > 0:
			for _, h := range r.held {
				needs = append(needs, h.needs...)
			}
			most = max(most, s.resourceMax+s.missingHold)
		}
	}
	if len(needs) > 0 {
		h := hold{}
		if st.held != nil {
			h = *st.held
		}
		if s.waits(&h, most, key{ListenerURL, name}, now) {
			h.needs = needs
			if st.held == nil {
				s.holds++
			}
			st.held = &h
			for _, n := range needs {
				if n.url == ClusterURL {
					c := s.clusterOf(n.name)
					if c.waitListeners == nil {
						c.waitListeners = map[string]struct{}{}
					}
					c.waitListeners[name] = struct{}{}
				}
			}
			return
		}
	}
	s.release(st)
	s.publishListener(name, st, st.recv)
}

func (s *stage) release(st *stagedListener) {
	if st.held != nil {
		st.held = nil
		s.holds--
	}
}

func (s *stage) publishListener(name string, st *stagedListener, next *Listener) {
	s.referListener(st.pub, next, s.useCluster)
	if st.pub != nil {
		for _, k := range st.pub.refs {
			if r := s.routes[k]; r != nil && !refersTo(next, k) && !refersTo(st.recv, k) {
				delete(r.listeners, name)
				s.narrow(k, r)
			}
		}
	}
	st.pub, st.told = next, false
	if s.out.Listeners == nil {
		s.out.Listeners = map[string]*Listener{}
	}
	s.out.Listeners[name] = next
}

func has(set map[string]struct{}, name string) bool { _, ok := set[name]; return ok }

func refersTo(l *Listener, k key) bool {
	if l == nil {
		return false
	}
	for _, r := range l.refs {
		if r == k {
			return true
		}
	}
	return false
}

// forgetListener drops everything about a listener that nobody asks for.
func (s *stage) forgetListener(name string, now time.Time) {
	if st := s.listeners[name]; st != nil {
		s.setListener(name, nil)
		st.told = st.pub == nil
		s.flushListener(name, now)
		delete(s.dirtyListeners, name)
		delete(s.listeners, name)
	}
}

// take is the step since the last one.
func (s *stage) take() Update {
	u := s.out
	s.out = Update{}
	return u
}

// wakeups are times at which something is to be looked at again.
type wakeups []wakeup

type wakeup struct {
	at time.Time
	k  key
}

func (w wakeups) Len() int           { return len(w) }
func (w wakeups) Less(i, j int) bool { return w[i].at.Before(w[j].at) }
func (w wakeups) Swap(i, j int)      { w[i], w[j] = w[j], w[i] }
func (w *wakeups) Push(x any)        { *w = append(*w, x.(wakeup)) }
func (w *wakeups) Pop() any {
	last := (*w)[len(*w)-1]
	*w = (*w)[:len(*w)-1]
	return last
}

func (w *wakeups) add(at time.Time, k key) { heap.Push(w, wakeup{at, k}) }

// due takes out what is due.
func (w *wakeups) due(now time.Time) []key {
	var list []key
	for len(*w) > 0 && !(*w)[0].at.After(now) {
		list = append(list, heap.Pop(w).(wakeup).k)
	}
	return list
}

// next is the earliest time, false: none.
func (w wakeups) next() (time.Time, bool) {
	if len(w) == 0 {
		return time.Time{}, false
	}
	return w[0].at, true
}
