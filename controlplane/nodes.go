package controlplane

import (
	"cmp"
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

const (
	maxNodes = 10_000 // streams that are served at once
	maxTypes = 64     // that one stream asks for
)

// Node is what one stream was sent and acknowledged.
type Node struct {
	ID      string    `json:"id"`
	Kind    string    `json:"kind"` // agent, grpc or envoy
	Address string    `json:"address"`
	Delta   bool      `json:"incremental"`
	Since   time.Time `json:"since"`
	Types   []TypeOf  `json:"types"`
}

// TypeOf is one type of resources on a stream.
type TypeOf struct {
	TypeURL   string    `json:"type"`
	Served    bool      `json:"served"`          // this server has such resources
	Names     int       `json:"names"`           // asked for by name; 0: all
	Group     string    `json:"group,omitempty"` // of nodes that are sent the same; empty: all, or those that say nothing
	Responses int       `json:"responses"`
	Resources int       `json:"resources"` // in the last response
	Sent      string    `json:"sent"`      // version
	SentAt    time.Time `json:"sentAt"`
	Acked     string    `json:"acked"` // version
	AckedAt   time.Time `json:"ackedAt"`
	Nacked    string    `json:"nacked,omitempty"` // why the last response was refused
}

// node is one stream.
type node struct {
	*nodes
	wake chan struct{} // something may have changed
	send func(m any) error

	// owned by the goroutine of the stream
	state *state
	from  *core.Node
	subs  map[string]*subscription // by type
	nonce uint64
	epoch uint64 // of the groups that subs name

	mu sync.Mutex
	Node
}

func (n *node) of(typeURL string) *TypeOf {
	i := slices.IndexFunc(n.Types, func(t TypeOf) bool { return t.TypeURL == typeURL })
	if i < 0 {
		i = len(n.Types)
		n.Types = append(n.Types, TypeOf{TypeURL: typeURL})
	}
	return &n.Types[i]
}

// nodes are the streams.
type nodes struct {
	log   *slog.Logger
	lists *nameLists

	responses, nacks atomic.Int64 // of all time

	all struct {
		sync.Mutex
		open map[*node]struct{} // guarded
	}
}

func newNodes(log *slog.Logger) *nodes {
	n := &nodes{log: log, lists: newNameLists()}
	n.all.open = map[*node]struct{}{}
	return n
}

func (n *nodes) open(ctx context.Context, delta bool) (*node, error) {
	one := &node{nodes: n, wake: make(chan struct{}, 1), subs: map[string]*subscription{}, Node: Node{Delta: delta, Since: time.Now()}}
	if p, ok := peer.FromContext(ctx); ok {
		one.Address = p.Addr.String()
	}
	n.all.Lock()
	defer n.all.Unlock()
	if len(n.all.open) >= maxNodes {
		return nil, status.Error(codes.ResourceExhausted, "too many nodes")
	}
	n.all.open[one] = struct{}{}
	return one, nil
}

func (n *nodes) close(one *node) {
	n.all.Lock()
	delete(n.all.open, one)
	n.all.Unlock()
}

// wakeAll has every stream look whether something changed for it.
func (n *nodes) wakeAll() {
	n.all.Lock()
	defer n.all.Unlock()
	for one := range n.all.open {
		select {
		case one.wake <- struct{}{}:
		default:
		}
	}
}

// list is a copy of all nodes, by id.
func (n *nodes) list() []Node {
	list := []Node{}
	n.all.Lock()
	for one := range n.all.open {
		one.mu.Lock()
		c := one.Node
		c.Types = slices.Clone(c.Types)
		one.mu.Unlock()
		list = append(list, c)
	}
	n.all.Unlock()
	slices.SortFunc(list, func(a, b Node) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), a.Since.Compare(b.Since))
	})
	return list
}

func (n *nodes) totals() (open map[string]int, responses, nacks int64) {
	open = map[string]int{}
	for _, one := range n.list() {
		open[one.Kind]++
	}
	return open, n.responses.Load(), n.nacks.Load()
}
