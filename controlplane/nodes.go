package controlplane

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// maxNodes bounds the streams that are served at once.
const maxNodes = 10_000

// Node is what one stream was sent and acknowledged.
type Node struct {
	ID       string         `json:"id"`
	Kind     string         `json:"kind"` // agent, grpc or envoy
	Address  string         `json:"address"`
	Delta    bool           `json:"incremental"`
	Since    time.Time      `json:"since"`
	Types    []TypeOf       `json:"types"`
	byType   map[string]int // index in Types
	streamID int64
}

// TypeOf is one type of resources on a stream.
type TypeOf struct {
	TypeURL   string    `json:"type"`
	Names     int       `json:"names"` // asked for by name; 0: all
	Responses int       `json:"responses"`
	Resources int       `json:"resources"` // in the last response
	Sent      string    `json:"sent"`      // version
	SentAt    time.Time `json:"sentAt"`
	Acked     string    `json:"acked"` // version
	AckedAt   time.Time `json:"ackedAt"`
	Nacked    string    `json:"nacked,omitempty"` // why the last response was refused
	nonce     string
}

// nodes are the streams; it is go-control-plane's callbacks.
type nodes struct {
	ready func() bool
	log   *slog.Logger

	mu        sync.Mutex
	sotw      map[int64]*Node // guarded by mu
	delta     map[int64]*Node // guarded by mu
	responses int             // guarded by mu; of all time
	nacks     int             // guarded by mu; of all time
}

func newNodes(ready func() bool, log *slog.Logger) *nodes {
	return &nodes{ready: ready, log: log, sotw: map[int64]*Node{}, delta: map[int64]*Node{}}
}

func (n *nodes) open(ctx context.Context, all map[int64]*Node, id int64, delta bool) error {
	if !n.ready() { // as istiod says it; the client tries the next server
		return status.Error(codes.Unavailable, "the registries were not read yet")
	}
	node := &Node{Delta: delta, Since: time.Now(), byType: map[string]int{}, streamID: id}
	if p, ok := peer.FromContext(ctx); ok {
		node.Address = p.Addr.String()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.sotw)+len(n.delta) >= maxNodes {
		return status.Error(codes.ResourceExhausted, "too many nodes")
	}
	all[id] = node
	return nil
}

func (n *nodes) close(all map[int64]*Node, id int64) {
	n.mu.Lock()
	delete(all, id)
	n.mu.Unlock()
}

// request notes a request; names is how many resources are asked for by name,
// negative if it does not say.
func (n *nodes) request(all map[int64]*Node, id int64, from *core.Node, typeURL, nonce string, names int, nack string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	node := all[id]
	if node == nil {
		return
	}
	if from != nil {
		node.ID, node.Kind = from.GetId(), kindOf(from)
	}
	t := node.of(typeURL)
	if names >= 0 {
		t.Names = names
	}
	switch {
	case nonce == "" || nonce != t.nonce:
	case nack != "":
		t.Nacked = nack
		n.nacks++
		n.log.Warn("a node refused what it was sent", "node", node.ID, "type", typeURL, "version", t.Sent, "reason", nack)
	default:
		t.Acked, t.AckedAt, t.Nacked = t.Sent, time.Now(), ""
	}
}

func (n *nodes) response(all map[int64]*Node, id int64, typeURL, nonce, version string, resources int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.responses++
	if node := all[id]; node != nil {
		t := node.of(typeURL)
		t.nonce, t.Sent, t.SentAt, t.Resources = nonce, version, time.Now(), resources
		t.Responses++
	}
}

func (n *Node) of(typeURL string) *TypeOf {
	i, ok := n.byType[typeURL]
	if !ok {
		i = len(n.Types)
		n.byType[typeURL] = i
		n.Types = append(n.Types, TypeOf{TypeURL: typeURL})
	}
	return &n.Types[i]
}

// list is a copy of all nodes, by id.
func (n *nodes) list() []Node {
	n.mu.Lock()
	defer n.mu.Unlock()
	list := []Node{}
	for _, all := range []map[int64]*Node{n.sotw, n.delta} {
		for _, node := range all {
			c := *node
			c.Types = slices.Clone(node.Types)
			list = append(list, c)
		}
	}
	slices.SortFunc(list, func(a, b Node) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.streamID, b.streamID))
	})
	return list
}

func (n *nodes) totals() (open map[string]int, responses, nacks int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	open = map[string]int{}
	for _, all := range []map[int64]*Node{n.sotw, n.delta} {
		for _, node := range all {
			open[node.Kind]++
		}
	}
	return open, n.responses, n.nacks
}

func (n *nodes) OnStreamOpen(ctx context.Context, id int64, _ string) error {
	return n.open(ctx, n.sotw, id, false)
}

func (n *nodes) OnStreamClosed(id int64, _ *core.Node) { n.close(n.sotw, id) }

func (n *nodes) OnStreamRequest(id int64, r *discovery.DiscoveryRequest) error {
	n.request(n.sotw, id, r.GetNode(), r.GetTypeUrl(), r.GetResponseNonce(), len(r.GetResourceNames()), r.GetErrorDetail().GetMessage())
	return nil
}

func (n *nodes) OnStreamResponse(_ context.Context, id int64, _ *discovery.DiscoveryRequest, r *discovery.DiscoveryResponse) {
	n.response(n.sotw, id, r.GetTypeUrl(), r.GetNonce(), r.GetVersionInfo(), len(r.GetResources()))
}

func (n *nodes) OnDeltaStreamOpen(ctx context.Context, id int64, _ string) error {
	return n.open(ctx, n.delta, id, true)
}

func (n *nodes) OnDeltaStreamClosed(id int64, _ *core.Node) { n.close(n.delta, id) }

func (n *nodes) OnStreamDeltaRequest(id int64, r *discovery.DeltaDiscoveryRequest) error {
	names := -1
	if len(r.GetResourceNamesSubscribe()) > 0 {
		names = len(r.GetResourceNamesSubscribe())
	}
	n.request(n.delta, id, r.GetNode(), r.GetTypeUrl(), r.GetResponseNonce(), names, r.GetErrorDetail().GetMessage())
	return nil
}

func (n *nodes) OnStreamDeltaResponse(id int64, _ *discovery.DeltaDiscoveryRequest, r *discovery.DeltaDiscoveryResponse) {
	n.response(n.delta, id, r.GetTypeUrl(), r.GetNonce(), r.GetSystemVersionInfo(), len(r.GetResources()))
}

func (n *nodes) OnFetchRequest(context.Context, *discovery.DiscoveryRequest) error {
	return status.Error(codes.Unimplemented, "REST is not served")
}

func (n *nodes) OnFetchResponse(*discovery.DiscoveryRequest, *discovery.DiscoveryResponse) {}
