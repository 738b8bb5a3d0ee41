package controlplane

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// order is that in which types are sent, make before break: clusters and their
// endpoints before the routes that name them. What was removed goes last.
var order = []string{resource.ClusterType, resource.EndpointType, resource.ListenerType, resource.RouteType, dubboType}

// StreamAggregatedResources and DeltaAggregatedResources are the service of Envoy's
// API. They read and write messages of their own, see request and response.
func (s *Server) StreamAggregatedResources(stream discovery.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	return s.stream(stream, false)
}

// DeltaAggregatedResources is the incremental one.
func (s *Server) DeltaAggregatedResources(stream discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	return s.stream(stream, true)
}

// stream serves one node. A type has one response under way at a time: a node that
// is slow is told the newest when it is ready, and holds up nobody.
func (s *Server) stream(rpc grpc.ServerStream, delta bool) error {
	if !s.ready.Load() { // as istiod says it; the client tries the next server
		return status.Error(codes.Unavailable, "the registries were not read yet")
	}
	n, err := s.nodes.open(rpc.Context(), delta)
	if err != nil {
		return err
	}
	n.state, n.send, n.epoch = s.state, rpc.SendMsg, s.state.epoch.Load()
	defer func() {
		s.nodes.close(n)
		for _, sub := range n.subs {
			s.state.leave(sub.group)
		}
	}()
	requests, ended := make(chan *request), make(chan struct{})
	go func() {
		defer close(ended)
		last := map[string]*names{}
		for {
			r := &request{delta: delta, lists: s.nodes.lists, last: slices.Collect(maps.Values(last))}
			if rpc.RecvMsg(r) != nil { // the node has gone, or the server ends
				return
			}
			if r.names != nil && (len(last) < maxTypes || last[r.typeURL] != nil) {
				last[r.typeURL] = r.names
			}
			select {
			case requests <- r:
			case <-rpc.Context().Done():
				return
			}
		}
	}()
	for {
		select {
		case r := <-requests:
			if err := n.take(r); err != nil {
				return err
			}
		case <-n.wake:
		case <-ended:
			return nil
		}
		if err := n.regroup(); err != nil {
			return err
		}
		if err := n.push(rpc.Context()); err != nil {
			return err
		}
	}
}

// take reads a request into the subscriptions.
func (n *node) take(r *request) error {
	if r.node != nil && n.from == nil {
		n.introduce(r.node)
	}
	if r.typeURL == "" {
		return status.Error(codes.InvalidArgument, "type URL is required for ADS")
	}
	s := n.subs[r.typeURL]
	first := s == nil
	if first {
		if len(n.subs) == maxTypes {
			return status.Error(codes.ResourceExhausted, "too many types")
		}
		table, group, err := n.state.table(r.typeURL, n.from)
		if err != nil {
			return status.Error(codes.InvalidArgument, err.Error())
		}
		s = &subscription{table: table, group: group, delta: n.Delta, names: noNames, all: true}
		s.legacy = table != nil && table.whole
		n.subs[r.typeURL] = s
	}
	switch {
	case r.nonce != "" && r.nonce == s.nonce:
		s.waiting = false
		n.acknowledged(r)
	case first, r.nonce == "" && !n.Delta: // a client that begins again
		s.all, s.waiting = true, false
	case !n.Delta:
		return nil // of an older response: the node has not seen the last one yet
	}
	if n.Delta {
		s.updated(r, n.lists, first)
	} else {
		s.replaced(r)
	}
	n.asked(r.typeURL, s)
	return nil
}

// replaced takes the names of a state-of-the-world request: all that are wanted.
func (s *subscription) replaced(r *request) {
	before, all := s.names, s.wildcard
	if s.legacy = s.legacy && len(r.names.list) == 0 && !r.wildcard; s.legacy {
		s.wildcard = true
		return
	}
	s.names, s.wildcard = r.names, r.wildcard
	if s.all || s.table == nil {
		return
	}
	added := s.names.without(before)
	switch {
	case s.wildcard && !all:
		s.all = true
	case len(added) > 0 && s.table.whole:
		s.force = true
	case len(added) > 0 && !all:
		s.fresh = append(s.fresh, added...)
	}
}

// updated takes an incremental request: what is wanted more, and less.
func (s *subscription) updated(r *request, p *nameLists, first bool) {
	if s.legacy = s.legacy && len(r.subscribe) == 0 && !r.wildcard; s.legacy {
		s.wildcard = true
	} else {
		begins := r.wildcard && !s.wildcard
		s.wildcard = s.wildcard && !r.unwildcard || r.wildcard
		s.all = s.all || begins
	}
	if len(r.subscribe)+len(r.unsubscribe) > 0 {
		list := slices.Concat(s.names.list, r.subscribe)
		if len(r.unsubscribe) > 0 {
			drop := p.of(slices.Clone(r.unsubscribe))
			list = slices.DeleteFunc(list, drop.has)
		}
		s.names = p.of(list)
	}
	if s.table == nil {
		return
	}
	switch {
	case first && len(r.initial) > 0:
		s.table.compare(s, r.initial)
		s.force = s.wildcard
	case first || s.all:
	default:
		s.fresh = append(s.fresh, r.subscribe...)
		if s.wildcard { // told what becomes of them
			s.fresh = append(s.fresh, r.unsubscribe...)
		}
	}
	if len(r.subscribe) > 0 {
		s.waiting = false // it wants an answer now
	}
}

// regroup looks for the groups of the node again, when rules tell nodes apart by
// something else than before.
func (n *node) regroup() error {
	epoch := n.state.epoch.Load()
	if n.epoch == epoch {
		return nil
	}
	for typeURL, s := range n.subs {
		if s.group == nil {
			continue
		}
		table, group, err := n.state.table(typeURL, n.from)
		if err != nil {
			return status.Error(codes.InvalidArgument, err.Error())
		}
		if table != s.table {
			s.move(table)
		}
		n.state.leave(s.group)
		s.group = group
		n.asked(typeURL, s)
	}
	n.epoch = epoch
	return nil
}

// push sends what there is to send.
func (n *node) push(ctx context.Context) error {
	for _, bury := range []bool{false, true} {
		for i, typeURL := range order {
			s := n.subs[typeURL]
			if s == nil || s.table == nil || s.waiting || bury && n.behind(order[i+1:]) {
				continue
			}
			a, err := s.table.next(s, bury)
			if err != nil {
				return status.Error(codes.Aborted, err.Error()) // it comes back and says what it has
			}
			if a == nil {
				continue
			}
			n.nonce++
			s.nonce, s.waiting = strconv.FormatUint(n.nonce, 10), true
			n.sent(typeURL, a)
			if err := n.send(newResponse(a, typeURL, s.nonce)); err != nil {
				return fmt.Errorf("send to %s: %w", n.ID, err)
			}
		}
	}
	return ctx.Err()
}

// behind tells whether there is more to say of these types.
func (n *node) behind(types []string) bool {
	for _, typeURL := range types {
		if s := n.subs[typeURL]; s != nil && (s.all || s.told < s.table.at()) {
			return true
		}
	}
	return false
}

// introduce learns who the node is.
func (n *node) introduce(from *core.Node) {
	n.from = from
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ID, n.Kind = from.GetId(), kindOf(from)
}

// acknowledged notes that a node took, or refused, what it was sent.
func (n *node) acknowledged(r *request) {
	n.mu.Lock()
	defer n.mu.Unlock()
	t := n.of(r.typeURL)
	if r.nacked {
		t.Nacked = r.nack
		n.nacks.Add(1)
		n.log.Warn("a node refused what it was sent", "node", n.ID, "type", r.typeURL, "version", t.Sent, "reason", r.nack)
		return
	}
	t.Acked, t.AckedAt, t.Nacked = t.Sent, time.Now(), ""
}

func (n *node) asked(typeURL string, s *subscription) {
	n.mu.Lock()
	defer n.mu.Unlock()
	t := n.of(typeURL)
	t.Names, t.Served, t.Group = len(s.names.list), s.table != nil, ""
	if s.group != nil {
		t.Group = s.group.id
	}
}

func (n *node) sent(typeURL string, a *answer) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.responses.Add(1)
	t := n.of(typeURL)
	t.Sent, t.SentAt, t.Resources = a.version, time.Now(), a.resources
	t.Responses++
}
