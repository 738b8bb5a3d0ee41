package controlplane

import (
	"context"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/config"
	"github.com/envoyproxy/go-control-plane/pkg/server/delta/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/sotw/v3"
	xds "github.com/envoyproxy/go-control-plane/pkg/server/v3"
	rpc "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
)

// order is that in which types are sent, make before break: clusters and their
// endpoints before the routes that name them. What was removed goes last.
var order = []string{resource.ClusterType, resource.EndpointType, resource.ListenerType, resource.RouteType, dubboType}

// options of go-control-plane's servers. Only listeners and clusters are all asked
// for by a request without names.
var options = []config.XDSOption{sotw.WithOrderedADS(), sotw.DeactivateLegacyWildcardForTypes([]string{resource.EndpointType, resource.RouteType, dubboType})}

// StreamAggregatedResources is the service of Envoy's API. Each stream has a server
// of go-control-plane, whose cache is the node: so what a node was told has one
// place.
func (s *Server) StreamAggregatedResources(stream discovery.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	return s.nodes.serve(stream.Context(), s.state, false, func(ctx context.Context, n *node) error {
		return sotw.NewServer(ctx, n, n.callbacks(), options...).StreamHandler(stream, resource.AnyType)
	})
}

// DeltaAggregatedResources is the incremental one.
func (s *Server) DeltaAggregatedResources(stream discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	return s.nodes.serve(stream.Context(), s.state, true, func(ctx context.Context, n *node) error {
		return delta.NewServer(ctx, n, n.callbacks(), options...).DeltaStreamHandler(stream, resource.AnyType)
	})
}

func (n *nodes) serve(ctx context.Context, state *state, delta bool, serve func(context.Context, *node) error) error {
	if !n.ready() { // as istiod says it; the client tries the next server
		return status.Error(codes.Unavailable, "the registries were not read yet")
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	one, err := n.open(ctx, state, delta, end)
	if err != nil {
		return err
	}
	defer n.close(one)
	if err := serve(ctx, one); err != nil {
		return err
	}
	return context.Cause(ctx)
}

// callbacks see every request before go-control-plane does, and every response.
func (n *node) callbacks() xds.CallbackFuncs {
	return xds.CallbackFuncs{
		StreamRequestFunc: func(_ int64, r *discovery.DiscoveryRequest) (err error) {
			_, r.ResourceNames, err = n.asked(r.Node, r.TypeUrl, r.ResponseNonce, r.ErrorDetail, r.ResourceNames)
			return err
		},
		StreamDeltaRequestFunc: func(_ int64, r *discovery.DeltaDiscoveryRequest) (err error) {
			var s *subscription
			if s, r.ResourceNamesSubscribe, err = n.asked(r.Node, r.TypeUrl, r.ResponseNonce, r.ErrorDetail, r.ResourceNamesSubscribe); err == nil {
				s.initial, r.InitialResourceVersions = r.InitialResourceVersions, nil // compared once, and not kept
			}
			return err
		},
		StreamResponseFunc: func(_ context.Context, _ int64, _ *discovery.DiscoveryRequest, r *discovery.DiscoveryResponse) {
			n.sent(r.TypeUrl, r.VersionInfo, r.Nonce, len(r.Resources))
		},
		StreamDeltaResponseFunc: func(_ int64, _ *discovery.DeltaDiscoveryRequest, r *discovery.DeltaDiscoveryResponse) {
			n.sent(r.TypeUrl, r.SystemVersionInfo, r.Nonce, len(r.Resources))
		},
	}
}

// asked notes a request. The first one of a type makes its subscription. It returns
// the names as other nodes have them.
func (n *node) asked(from *core.Node, typeURL, nonce string, refused *rpc.Status, names []string) (*subscription, []string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if from != nil && n.from == nil {
		n.from, n.ID, n.Kind = from, from.GetId(), kindOf(from)
	}
	s := n.sub(typeURL)
	if s == nil {
		if len(n.subs) == maxTypes {
			return nil, nil, status.Error(codes.ResourceExhausted, "too many types")
		}
		s = &subscription{TypeOf: TypeOf{TypeURL: typeURL}, delta: n.Delta, epoch: n.state.epoch.Load()}
		var err error
		if s.table, s.group, err = n.state.table(typeURL, n.from); err != nil {
			return nil, nil, status.Error(codes.InvalidArgument, err.Error())
		}
		s.Served = s.table != nil
		n.subs = append(n.subs, s)
	}
	if nonce != "" && nonce == s.nonce {
		n.acknowledged(s, refused)
	}
	names, n.names = n.lists.shared(s.table, names)
	return s, names, nil
}

var _ cache.ConfigWatcher = (*node)(nil)

// CreateWatch takes a request of state of the world: all names that are wanted.
func (n *node) CreateWatch(r *cache.Request, asks cache.Subscription, out chan cache.Response) (func(), error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.sub(r.TypeUrl)
	before, same := s.asks, s.names == n.names
	s.asks, s.names, s.Names = asks, n.names, len(asks.SubscribedResources())
	switch {
	case before == nil || r.ResponseNonce == "" || asks.IsWildcard() && !before.IsWildcard(): // or it begins again
		s.all = true
	case same || s.table == nil:
	default:
		for name := range asks.SubscribedResources() {
			if _, had := before.SubscribedResources()[name]; had {
				continue
			}
			if s.table.whole { // else absence says nothing
				s.force = true
			} else if !before.IsWildcard() {
				s.fresh = append(s.fresh, name)
			}
		}
	}
	return n.watch(s, func(a *answer) { a.sotw = r; out <- a })
}

// CreateDeltaWatch takes an incremental one: what is wanted more, and less.
func (n *node) CreateDeltaWatch(r *cache.DeltaRequest, asks cache.Subscription, out chan cache.DeltaResponse) (func(), error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.sub(r.TypeUrl)
	before := s.asks
	s.asks, s.Names = asks, len(asks.SubscribedResources())
	switch {
	case before == nil && len(s.initial) > 0 && s.table != nil:
		s.table.compare(s)
		s.force = asks.IsWildcard()
	case before == nil || asks.IsWildcard() && !before.IsWildcard():
		s.all = true
	default:
		for _, name := range r.ResourceNamesSubscribe {
			if name != "*" {
				s.fresh = append(s.fresh, name)
			}
		}
	}
	s.initial = nil
	for name := range asks.ReturnedResources() { // unsubscribed while it wants all: told what becomes of them
		s.fresh = append(s.fresh, name)
	}
	return n.watch(s, func(a *answer) { a.delta = r; out <- a })
}

// watch waits for one answer to a request; there may be one at once. mu is held.
// The channels of go-control-plane have room for one of every type.
func (n *node) watch(s *subscription, out func(*answer)) (cancel func(), err error) {
	if s.table == nil { // a type that is not served is answered by nothing
		return nil, nil
	}
	s.out = out
	n.push()
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		s.out = nil
	}, nil
}

// push answers what waits, if there is something to say. mu is held.
func (n *node) push() {
	epoch := n.state.epoch.Load()
	for _, bury := range []bool{false, true} {
		for i, typeURL := range order {
			s := n.sub(typeURL)
			if s == nil || s.out == nil || bury && n.behind(order[i+1:], epoch) {
				continue
			}
			err := n.regroup(s, epoch)
			var a *answer
			if err == nil {
				a, err = s.table.next(s, bury)
			}
			switch {
			case err != nil: // the node comes back and says what it has
				n.end(status.Error(codes.Aborted, err.Error()))
				return
			case a != nil:
				a.node = n
				s.out(a)
				s.out = nil
			}
		}
	}
}

// behind tells whether there is more to say of these types.
func (n *node) behind(types []string, epoch uint64) bool {
	for _, typeURL := range types {
		if s := n.sub(typeURL); s != nil && (s.all || s.told < s.table.at() || s.group != nil && s.epoch != epoch) {
			return true
		}
	}
	return false
}

// regroup looks for the group again, when rules tell nodes apart by something else
// than before.
func (n *node) regroup(s *subscription, epoch uint64) error {
	if s.group == nil || s.epoch == epoch {
		return nil
	}
	table, group, err := n.state.table(s.TypeURL, n.from)
	if err != nil {
		return err
	}
	if table != s.table {
		s.move(table)
	}
	n.state.leave(s.group)
	s.group, s.epoch = group, epoch
	return nil
}

// answer is what a node is to be sent, for go-control-plane.
type answer struct {
	node    *node
	sub     *subscription
	sotw    *discovery.DiscoveryRequest      // that it answers,
	delta   *discovery.DeltaDiscoveryRequest // or this one
	version string
	entries []*entry
	removed []string
	after   position // of the subscription, once it was sent
}

func (a *answer) GetDiscoveryResponse() (*discovery.DiscoveryResponse, error) {
	r := &discovery.DiscoveryResponse{VersionInfo: a.version, TypeUrl: a.sub.TypeURL, Resources: make([]*anypb.Any, len(a.entries))}
	for i, e := range a.entries {
		r.Resources[i] = e.resource.Resource
	}
	return r, nil
}

func (a *answer) GetDeltaDiscoveryResponse() (*discovery.DeltaDiscoveryResponse, error) {
	r := &discovery.DeltaDiscoveryResponse{SystemVersionInfo: a.version, TypeUrl: a.sub.TypeURL, RemovedResources: a.removed, Resources: make([]*discovery.Resource, len(a.entries))}
	for i, e := range a.entries {
		r.Resources[i] = e.resource
	}
	return r, nil
}

func (a *answer) GetRequest() *discovery.DiscoveryRequest           { return a.sotw }
func (a *answer) GetDeltaRequest() *discovery.DeltaDiscoveryRequest { return a.delta }
func (a *answer) GetVersion() (string, error)                       { return a.version, nil }
func (a *answer) GetSystemVersion() (string, error)                 { return a.version, nil }
func (a *answer) GetResponseVersion() string                        { return a.version }
func (a *answer) GetContext() context.Context                       { return context.Background() }
func (a *answer) GetNextVersionMap() map[string]string              { return a.GetReturnedResources() }

// GetReturnedResources is called when the answer is sent; one that go-control-plane
// dropped for a newer request was not. What the node has now is known by a number:
// go-control-plane is given no names to keep.
func (a *answer) GetReturnedResources() map[string]string {
	a.node.mu.Lock()
	defer a.node.mu.Unlock()
	a.sub.position = a.after
	a.node.push() // what waited for this
	return map[string]string{}
}
