package nacos

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nacos-group/nacos-sdk-go/v2/common/remote/rpc/rpc_request"
	"github.com/nacos-group/nacos-sdk-go/v2/common/remote/rpc/rpc_response"
	"github.com/nacos-group/nacos-sdk-go/v2/model"

	"github.com/meshferry/meshferry/registry"
)

// settleFor is how long after a reconnect what a service has lost is still
// delivered: clients of a server that was restarted come back within 5 s.
const settleFor = 6 * time.Second

// services are the services that we follow: the server pushes each change of
// their instances.
type services struct {
	// Immutable after newServices.
	hostID  string
	changed func(lost bool) // called without the lock; must not block

	mu        sync.Mutex
	conn      *conn               // guarded by mu; the one that pushes count of
	before    bool                // guarded by mu; there was a connection before this one
	keepUntil time.Time           // guarded by mu; end of settleFor
	byName    map[string]*service // guarded by mu
	news      chan struct{}       // guarded by mu; closed at the next change
}

// service is one of them. Its slices are replaced, never changed.
type service struct {
	known     bool             // hosts are of this connection
	pushes    int              // of this connection
	hosts     []model.Instance // what the server says
	kept      []model.Instance // what it said before the reconnect and does not yet again
	read      bool             // the reader uses it
	own       bool             // instances of ours are in it, or should be
	busy      bool             // they are being written
	conflicts bool             // another holds what we want
	want      []model.Instance // ours
}

func newServices(hostID string, changed func(lost bool)) *services {
	return &services{hostID: hostID, changed: changed, byName: map[string]*service{}, news: make(chan struct{})}
}

// connected makes c the connection that counts. Nothing is known on it yet.
func (s *services) connected(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.before {
		s.keepUntil = time.Now().Add(settleFor)
	}
	s.conn, s.before = c, true
	for _, v := range s.byName {
		for _, h := range v.hosts {
			if h.Metadata[registry.MarkHost] != s.hostID && !listed(v.kept, h) {
				v.kept = append(slices.Clip(v.kept), h)
			}
		}
		v.known, v.pushes, v.hosts = false, 0, nil
	}
}

func (s *services) disconnected() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conn = nil
}

// listed tells whether a list has an instance of that address, protocol and
// application, whatever else it says.
func listed(list []model.Instance, i model.Instance) bool {
	return slices.ContainsFunc(list, func(other model.Instance) bool {
		return other.Ip == i.Ip && other.Port == i.Port && other.Metadata["protocol"] == i.Metadata["protocol"] &&
			other.Metadata["application"] == i.Metadata["application"]
	})
}

func (s *services) entry(name string) *service {
	v := s.byName[name]
	if v == nil {
		v = &service{}
		s.byName[name] = v
	}
	return v
}

// set takes over what the server says of a service; s.mu is held.
func (s *services) set(v *service, hosts []model.Instance) (lost bool) {
	v.hosts, v.known = hosts, true
	v.kept = slices.DeleteFunc(slices.Clone(v.kept), func(i model.Instance) bool { return listed(hosts, i) })
	close(s.news)
	s.news = make(chan struct{})
	return v.own && !v.busy && (v.conflicts || !containsAll(hosts, v.want))
}

func containsAll(hosts, want []model.Instance) bool {
	for _, w := range want {
		if !slices.ContainsFunc(hosts, func(h model.Instance) bool { return same(h, w) }) {
			return false
		}
	}
	return true
}

// pushed is told of a change by the server.
func (s *services) pushed(c *conn, name string, hosts []model.Instance) {
	s.mu.Lock()
	v := s.byName[name]
	if v == nil || c != s.conn {
		s.mu.Unlock()
		return
	}
	v.pushes++
	lost := s.set(v, hosts)
	s.mu.Unlock()
	s.changed(lost)
}

// follow makes a service known on c, if it is not.
func (s *services) follow(ctx context.Context, c *conn, namespace, group, name string) error {
	s.mu.Lock()
	v := s.entry(name)
	known, pushes := v.known && s.conn == c, v.pushes
	s.mu.Unlock()
	if known {
		return nil
	}
	a := &rpc_response.SubscribeServiceResponse{Response: &rpc_response.Response{}}
	if err := c.ask(ctx, rpc_request.NewSubscribeServiceRequest(namespace, name, group, "", true), a); err != nil {
		return err
	}
	s.learn(c, name, pushes, a.ServiceInfo.Hosts)
	return nil
}

// refresh asks the server for a service: pushes come half a second late.
func (s *services) refresh(ctx context.Context, c *conn, namespace, group, name string) error {
	s.mu.Lock()
	pushes := s.entry(name).pushes
	s.mu.Unlock()
	a := &rpc_response.QueryServiceResponse{Response: &rpc_response.Response{}}
	if err := c.ask(ctx, rpc_request.NewServiceQueryRequest(namespace, name, group, "", false, 0), a); err != nil {
		return err
	}
	s.learn(c, name, pushes, a.ServiceInfo.Hosts)
	return nil
}

// learn takes over an answer, unless the server has pushed meanwhile: that is
// newer.
func (s *services) learn(c *conn, name string, pushes int, hosts []model.Instance) {
	s.mu.Lock()
	v := s.entry(name)
	if c == s.conn && v.pushes == pushes {
		s.set(v, hosts)
	}
	s.mu.Unlock()
}

// hosts are the instances that the server lists now; known is false before it has
// said so.
func (s *services) hosts(name string) (hosts []model.Instance, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.byName[name]
	if v == nil {
		return nil, false
	}
	return v.hosts, v.known
}

// view is what readers are told: hosts, and what is kept since a reconnect.
func (s *services) view(name string) (instances []model.Instance, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.byName[name]
	if v == nil {
		return nil, false
	}
	return append(slices.Clip(v.hosts), v.kept...), v.known
}

// expire ends the keeping when it is time, and says when that will be.
func (s *services) expire(now time.Time) (next time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keepUntil.After(now) {
		return s.keepUntil
	}
	for _, v := range s.byName {
		if v.known {
			v.kept = nil
		}
	}
	return time.Time{}
}

// await returns true when done is true of the instances of a service, false when
// ctx or the connection ends first.
func (s *services) await(ctx context.Context, c *conn, name string, done func(hosts []model.Instance) bool) bool {
	for {
		s.mu.Lock()
		news, v := s.news, s.byName[name]
		ok := v != nil && v.known && s.conn == c && done(v.hosts)
		s.mu.Unlock()
		if ok {
			return true
		}
		select {
		case <-news:
		case <-ctx.Done():
			return false
		case <-c.ended.Done():
			return false
		}
	}
}

// begin says that our instances in a service are being written, end that they are
// written as far as they could be.
func (s *services) begin(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.entry(name)
	v.own, v.busy = true, true
}

func (s *services) end(name string, want []model.Instance, conflicts, own bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.entry(name)
	v.busy, v.want, v.conflicts, v.own = false, want, conflicts, own
}

// use says which services the reader needs, and gives those that nobody does any
// more: they are forgotten.
func (s *services) use(names map[string]struct{}) (unused []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range names {
		s.entry(name).read = true
	}
	for name, v := range s.byName {
		if _, used := names[name]; !used {
			v.read = false
			if !v.own {
				delete(s.byName, name)
				unused = append(unused, name)
			}
		}
	}
	return unused
}

// String is for tests and debugging: what is known, by name.
func (s *services) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for name := range s.byName {
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}
