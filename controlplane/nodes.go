package controlplane

import (
	"cmp"
	"context"
	"hash/maphash"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rpc "google.golang.org/genproto/googleapis/rpc/status"
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

// node is one stream, and its cache for go-control-plane. Changes are pushed to it
// by the goroutine that made them, what it asks for comes from the stream's.
type node struct {
	*nodes
	state *state
	end   context.CancelCauseFunc
	names uint64 // of the request that is being taken; the stream's goroutine owns it

	mu   sync.Mutex // guards what follows; the state's and tables' are taken under it
	from *core.Node
	subs []*subscription // by when they were asked for
	Node
}

func (n *node) sub(typeURL string) *subscription {
	for _, s := range n.subs {
		if s.TypeURL == typeURL {
			return s
		}
	}
	return nil
}

// acknowledged notes that a node took, or refused, what it was sent. mu is held.
func (n *node) acknowledged(s *subscription, refused *rpc.Status) {
	if refused == nil {
		s.Acked, s.AckedAt, s.Nacked = s.Sent, time.Now(), ""
		return
	}
	s.Nacked = refused.GetMessage()
	n.nacks.Add(1)
	n.log.Warn("a node refused what it was sent", "node", n.ID, "type", s.TypeURL, "version", s.Sent, "reason", s.Nacked)
}

func (n *node) sent(typeURL, version, nonce string, resources int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.responses.Add(1)
	s := n.sub(typeURL)
	s.nonce, s.Sent, s.SentAt, s.Resources = nonce, version, time.Now(), resources
	s.Responses++
}

// nodes are the streams.
type nodes struct {
	ready func() bool
	log   *slog.Logger
	lists nameLists

	responses, nacks atomic.Int64 // of all time

	all struct {
		sync.Mutex
		open map[*node]struct{} // guarded
	}
}

func newNodes(ready func() bool, log *slog.Logger) *nodes {
	n := &nodes{ready: ready, log: log, lists: nameLists{seed: maphash.MakeSeed(), long: map[uint64][]string{}}}
	n.all.open = map[*node]struct{}{}
	return n
}

func (n *nodes) open(ctx context.Context, state *state, delta bool, end context.CancelCauseFunc) (*node, error) {
	one := &node{nodes: n, state: state, end: end, Node: Node{Delta: delta, Since: time.Now()}}
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
	one.mu.Lock()
	defer one.mu.Unlock()
	for _, s := range one.subs {
		one.state.leave(s.group)
	}
}

func (n *nodes) each() []*node {
	n.all.Lock()
	defer n.all.Unlock()
	return slices.Collect(maps.Keys(n.all.open))
}

// pushAll tells every node what changed for it.
func (n *nodes) pushAll() {
	for _, one := range n.each() {
		one.mu.Lock()
		one.push()
		one.mu.Unlock()
	}
}

// list is a copy of all nodes, by id.
func (n *nodes) list() []Node {
	list := []Node{}
	for _, one := range n.each() {
		one.mu.Lock()
		c := one.Node
		for _, s := range one.subs {
			t := s.TypeOf
			if s.group != nil {
				t.Group = s.group.id
			}
			c.Types = append(c.Types, t)
		}
		one.mu.Unlock()
		list = append(list, c)
	}
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

// nameLists are the long lists of names that nodes asked for last. Those that ask for
// the same share one; with a seed of its own nobody can make two look the same.
type nameLists struct {
	seed maphash.Seed
	mu   sync.Mutex
	long map[uint64][]string // guarded by mu
}

const (
	longList  = 256 // names
	longLists = 64  // that are kept
)

// shared returns a list with strings that the table has anyway, and what tells it
// from others: an acknowledgement of state of the world repeats all names.
func (l *nameLists) shared(t *table, list []string) ([]string, uint64) {
	var h maphash.Hash
	h.SetSeed(l.seed)
	for _, name := range list {
		_, _ = h.WriteString(name) // never fail
		_ = h.WriteByte(0)
	}
	id := h.Sum64()
	if len(list) >= longList {
		l.mu.Lock()
		defer l.mu.Unlock()
		if had := l.long[id]; len(had) == len(list) {
			return had, id
		}
		if len(l.long) >= longLists {
			clear(l.long)
		}
		l.long[id] = list
	}
	t.intern(list)
	return list, id
}
