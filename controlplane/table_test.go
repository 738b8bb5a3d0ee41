package controlplane

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"unsafe"

	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/stream/v3"
	"google.golang.org/grpc"
)

func assignment(name string, revision int) *entry {
	return newEntry(name, &endpoint.ClusterLoadAssignment{ClusterName: name, NamedEndpoints: map[string]*endpoint.Endpoint{fmt.Sprint(revision): {}}})
}

// memory keeps what it is sent, as a client of the protocol does.
type memory struct {
	whole bool
	has   map[string]string // versions by name
}

func (m *memory) take(t *testing.T, r *discovery.DiscoveryResponse) {
	t.Helper()
	if m.whole {
		clear(m.has)
	}
	for _, one := range r.Resources {
		var v endpoint.ClusterLoadAssignment
		if err := one.UnmarshalTo(&v); err != nil {
			t.Fatal(err)
		}
		m.has[v.ClusterName] = versionOf(one.Value)
	}
}

func (m *memory) takeDelta(t *testing.T, r *discovery.DeltaDiscoveryResponse) {
	t.Helper()
	for _, one := range r.Resources {
		if m.has[one.Name] = one.Version; versionOf(one.Resource.Value) != one.Version {
			t.Fatalf("%s: version %s", one.Name, one.Version)
		}
	}
	for _, name := range r.RemovedResources {
		delete(m.has, name)
	}
}

// pipe is a stream without a network.
type pipe[Req, Resp any] struct {
	grpc.ServerStream
	ctx context.Context
	in  chan Req
	out chan Resp
}

func newPipe[Req, Resp any](ctx context.Context) *pipe[Req, Resp] {
	return &pipe[Req, Resp]{ctx: ctx, in: make(chan Req, 100), out: make(chan Resp)}
}

func (p *pipe[Req, Resp]) Context() context.Context { return p.ctx }

func (p *pipe[Req, Resp]) Recv() (r Req, err error) {
	select {
	case r = <-p.in:
		return r, nil
	case <-p.ctx.Done():
		return r, p.ctx.Err()
	}
}

func (p *pipe[Req, Resp]) Send(r Resp) error {
	select {
	case p.out <- r:
		return nil
	case <-p.ctx.Done():
		return p.ctx.Err()
	}
}

// tester is a client behind a pipe, with one type.
type tester struct {
	memory
	typeURL string
	delta   bool
	asks    []string // by name, or *
	legacy  bool     // nothing was asked for by name
	nonce   string   // to acknowledge
	version string
	sotw    *pipe[*discovery.DiscoveryRequest, *discovery.DiscoveryResponse]
	incr    *pipe[*discovery.DeltaDiscoveryRequest, *discovery.DeltaDiscoveryResponse]
}

// connect opens a stream with what the client has.
func (c *tester) connect(ctx context.Context, s *Server) {
	c.nonce = ""
	if c.delta {
		c.incr = newPipe[*discovery.DeltaDiscoveryRequest, *discovery.DeltaDiscoveryResponse](ctx)
		go func() { _ = s.DeltaAggregatedResources(c.incr) }()
		c.incr.in <- &discovery.DeltaDiscoveryRequest{Node: agentNode(), TypeUrl: c.typeURL, ResourceNamesSubscribe: slices.Clone(c.asks), InitialResourceVersions: maps.Clone(c.has)}
		return
	}
	c.sotw = newPipe[*discovery.DiscoveryRequest, *discovery.DiscoveryResponse](ctx)
	go func() { _ = s.StreamAggregatedResources(c.sotw) }()
	c.sotw.in <- &discovery.DiscoveryRequest{Node: agentNode(), TypeUrl: c.typeURL, ResourceNames: slices.Clone(c.asks)}
}

// ask changes what is wanted.
func (c *tester) ask(names ...string) {
	more := slices.DeleteFunc(slices.Clone(names), func(n string) bool { return slices.Contains(c.asks, n) })
	less := slices.DeleteFunc(slices.Clone(c.asks), func(n string) bool { return slices.Contains(names, n) })
	c.asks, c.legacy = names, false
	if c.delta {
		maps.DeleteFunc(c.has, func(name, _ string) bool { return !c.wants(name) })
		c.incr.in <- &discovery.DeltaDiscoveryRequest{TypeUrl: c.typeURL, ResourceNamesSubscribe: more, ResourceNamesUnsubscribe: less}
	} else {
		c.sotw.in <- &discovery.DiscoveryRequest{TypeUrl: c.typeURL, ResourceNames: slices.Clone(names), ResponseNonce: c.nonce, VersionInfo: c.version}
	}
}

// drain takes and acknowledges up to so many responses, until there are none.
func (c *tester) drain(t *testing.T, most int) {
	for range most {
		synctest.Wait()
		if c.delta {
			select {
			case r := <-c.incr.out:
				c.takeDelta(t, r)
				maps.DeleteFunc(c.has, func(name, _ string) bool { return !c.wants(name) })
				c.incr.in <- &discovery.DeltaDiscoveryRequest{TypeUrl: c.typeURL, ResponseNonce: r.Nonce}
				continue
			default:
			}
		} else {
			select {
			case r := <-c.sotw.out:
				c.take(t, r)
				c.nonce, c.version = r.Nonce, r.VersionInfo
				c.sotw.in <- &discovery.DiscoveryRequest{TypeUrl: c.typeURL, ResourceNames: slices.Clone(c.asks), ResponseNonce: c.nonce, VersionInfo: c.version}
				continue
			default:
			}
		}
		return
	}
}

func (c *tester) wants(name string) bool {
	return c.legacy || slices.Contains(c.asks, name) || slices.Contains(c.asks, "*")
}

func unserved() *Server {
	s := &Server{state: newState(), nodes: newNodes(func() bool { return true }, slog.New(slog.DiscardHandler))}
	return s
}

// TestConverges changes a table at random while a node behind go-control-plane's
// server asks late, for other names, for all beside names, and comes again with what
// it has, state of the world and incrementally: it ends with what the table has, also
// when more has changed than is kept.
func TestConverges(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	letters := []string{"a", "b", "c", "d", "e"}
	for round := range 400 {
		whole, delta, all := round%2 == 0, round%4 < 2, round%8 < 4
		synctest.Test(t, func(t *testing.T) {
			s := unserved()
			table, typeURL := s.state.base.endpoints, resource.EndpointType
			if whole {
				table, typeURL = s.state.clusters, resource.ClusterType
			}
			c := &tester{memory: memory{whole, map[string]string{}}, typeURL: typeURL, delta: delta}
			switch {
			case all && whole:
				c.legacy = true
			case all:
				c.asks = []string{"*"}
			default:
				c.asks = []string{"a", "b", "c"}
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer func() { cancel() }()
			c.connect(ctx, s)
			changes := random.IntN(2 * keptChanges)
			for i := range changes {
				name := letters[random.IntN(5)]
				var e *entry
				if random.IntN(4) > 0 {
					e = assignment(name, i%7)
				}
				table.update(map[string]*entry{name: e})
				if random.IntN(3) > 0 {
					s.nodes.pushAll()
				}
				switch random.IntN(60) {
				case 0, 1, 2:
					c.drain(t, 1+random.IntN(3))
				case 3, 4:
					n := 1 + random.IntN(4)
					asks := slices.Clone(letters[n-1 : n+1])
					if random.IntN(3) == 0 {
						asks = append(asks, "*")
					}
					if delta && slices.Contains(append(asks, c.asks...), "*") { // what is under way would seem to be wanted
						c.drain(t, 1000)
					}
					if !c.legacy { // else it would have to know that it still wants all
						c.ask(asks...)
					}
				case 5:
					cancel()
					synctest.Wait()
					if !delta {
						clear(c.has)
					}
					maps.DeleteFunc(c.has, func(name, _ string) bool { return !c.wants(name) })
					ctx, cancel = context.WithCancel(t.Context())
					c.connect(ctx, s)
				}
			}
			s.nodes.pushAll()
			c.drain(t, 1000)
			want := map[string]string{}
			for name, e := range table.entries {
				if c.wants(name) {
					want[name] = e.version
				}
			}
			// What is not asked for any more, and what is gone where absence says nothing, a
			// client forgets by itself.
			maps.DeleteFunc(c.has, func(name, _ string) bool {
				_, there := table.entries[name]
				return !c.wants(name) || !there && !whole && !delta
			})
			if !maps.Equal(c.has, want) {
				t.Fatalf("round %d (whole %v, incremental %v, asks %q) after %d changes: has %v, want %v", round, whole, delta, c.asks, changes, c.has, want)
			}
			again := newTable(typeURL, whole) // the version is that of the content
			for _, name := range slices.Sorted(maps.Keys(table.entries)) {
				again.update(map[string]*entry{name: table.entries[name].entry})
			}
			if again.version() != table.version() {
				t.Fatalf("equal content has versions %s and %s", again.version(), table.version())
			}
			cancel()
			synctest.Wait()
			if n := s.nodes.list(); len(n) != 0 {
				t.Fatalf("%v", n)
			}
		})
	}
}

func subscribed(table *table, delta bool, names ...string) *subscription {
	s := &subscription{table: table, delta: delta, asks: stream.NewSotwSubscription(names, true)}
	s.all = true
	return s
}

// What was removed stays with a node until it is told to bury it, state of the
// world included; one that was away for too many removals must come again.
func TestTableBuries(t *testing.T) {
	for _, delta := range []bool{false, true} {
		table := newTable(resource.ClusterType, true)
		sub := subscribed(table, delta)
		node := &memory{true, map[string]string{}}
		step := func(bury bool, want ...string) {
			t.Helper()
			a, err := table.next(sub, bury)
			if err != nil {
				t.Fatal(err)
			}
			if a != nil {
				if delta {
					r, _ := a.GetDeltaDiscoveryResponse()
					node.takeDelta(t, r)
				} else {
					r, _ := a.GetDiscoveryResponse()
					node.take(t, r)
				}
				sub.position = a.after
			}
			if has := slices.Sorted(maps.Keys(node.has)); !slices.Equal(has, want) {
				t.Fatalf("incremental %v: has %v, want %v", delta, has, want)
			}
		}
		table.update(map[string]*entry{"a": assignment("a", 1), "b": assignment("b", 1)})
		step(false, "a", "b")
		table.update(map[string]*entry{"b": nil})
		step(false, "a", "b")
		table.update(map[string]*entry{"c": assignment("c", 1)})
		step(false, "a", "b", "c")
		step(true, "a", "c")
		gone := map[string]*entry{}
		for i := range maxGone + 1 {
			gone[fmt.Sprint(i)] = assignment("x", 1)
		}
		table.update(gone)
		for name := range gone {
			gone[name] = nil
		}
		table.update(gone)
		if _, err := table.next(sub, true); errors.Is(err, errBehind) != delta {
			t.Errorf("incremental %v: %v", delta, err)
		}
	}
}

// Nodes share resources and names, and go-control-plane keeps no versions for them.
func TestNodesShare(t *testing.T) {
	s := unserved()
	all := map[string]*entry{}
	for i := range 2 * longList {
		name := "cluster-" + strconv.Itoa(i)
		all[name] = assignment(name, 1)
	}
	s.state.base.endpoints.update(all)
	var firsts []string
	for _, count := range []int{2 * longList, 2 * longList, 2} {
		list := []string{}
		for i := range count {
			list = append(list, "cluster-"+strconv.Itoa(i))
		}
		n, err := s.nodes.open(t.Context(), s.state, false, func(error) {})
		if err != nil {
			t.Fatal(err)
		}
		r := &discovery.DiscoveryRequest{Node: agentNode(), TypeUrl: resource.EndpointType, ResourceNames: list}
		if err := n.callbacks().OnStreamRequest(1, r); err != nil {
			t.Fatal(err)
		}
		out := make(chan cache.Response, 1)
		if _, err := n.CreateWatch(r, stream.NewSotwSubscription(r.ResourceNames, false), out); err != nil {
			t.Fatal(err)
		}
		a := <-out
		response, err := a.GetDiscoveryResponse()
		if err != nil || len(response.Resources) != count || response.Resources[0] != all["cluster-0"].resource.Resource {
			t.Fatalf("%d resources, %v", len(response.Resources), err)
		}
		if known := a.GetReturnedResources(); len(known) != 0 {
			t.Errorf("%d versions are kept", len(known))
		}
		firsts = append(firsts, r.ResourceNames[0])
	}
	for _, name := range firsts {
		if unsafe.StringData(name) != unsafe.StringData(all["cluster-0"].resource.Name) {
			t.Error("a node has a string of its own")
		}
	}
}
