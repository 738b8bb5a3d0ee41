// Package xdstest is a control plane in the process of a test: an ADS server on
// loopback, state of the world and incremental, whose listener can be stopped and
// started again at the same address.
//
// By itself it answers as a good server does: Set and Delete change what it has,
// and every stream is told what it asked for. With Options.Manual it answers
// nothing, and Send and SendDelta put any response on the wire. Requests and Await
// show what clients said.
//
//	s, err := xdstest.New(xdstest.Options{})
//	defer s.Stop()
//	s.Set(xdstest.Cluster("blue"), xdstest.Endpoints("blue", "10.0.0.1:20882"))
//	// … a client of s.Address()
//	s.Stop()                      // it is away
//	err = s.Start()               // it is back, with what it had
//
// Invariants:
//   - It listens on 127.0.0.1 only.
//   - What a stream is told at once is ordered make before break: clusters,
//     endpoints, listeners, routes, others.
//   - A response of state of the world to a change has all listeners and clusters
//     that were asked for, and of other types those that changed, as istiod does.
package xdstest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"sync"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// Options of New. The zero value works.
type Options struct {
	// TLS secures the listener; nil: plain text.
	TLS credentials.TransportCredentials
	// Manual: nothing is answered but by Send and SendDelta.
	Manual bool
	// Address is 127.0.0.1 and a port; "": a free one.
	Address string
	// ServerOptions are added to the server's own: the greatest age of connections, …
	ServerOptions []grpc.ServerOption
}

// Request is what a client said: of state of the world, or incremental.
type Request struct {
	Stream      int // counted from 1
	Delta       bool
	TypeURL     string
	Node        *corev3.Node
	Version     string   // state of the world
	Nonce       string   // of the response that it answers, "" for none
	Names       []string // state of the world: all; incremental: subscribed
	Unsubscribe []string
	Initial     map[string]string // initial_resource_versions
	NACK        string            // message of the error detail
}

// Server is an ADS server. New makes one that listens.
type Server struct {
	o Options

	mu       sync.Mutex
	address  string
	grpc     *grpc.Server  // nil: stopped
	served   chan struct{} // closed when it returned
	closed   chan struct{} // closed when its listener is
	sets     map[string]*set
	streams  map[int]*stream
	count    int
	nonces   int
	refuse   error
	requests []Request
	changed  chan struct{} // closed when requests or streams changed
}

// set is the resources of one type.
type set struct {
	version   int
	resources map[string]held
}

type held struct {
	version int
	body    *anypb.Any
}

// stream is one stream of a client.
type stream struct {
	id    int
	delta bool
	types map[string]*asked
	out   []any
	wake  chan struct{} // capacity 1
	end   context.CancelFunc
}

// asked is what a stream wants of a type.
type asked struct {
	wildcard bool
	names    map[string]struct{}
	nonce    string
}

// New listens and serves.
func New(o Options) (*Server, error) {
	s := &Server{o: o, address: o.Address, sets: map[string]*set{}, streams: map[int]*stream{}, changed: make(chan struct{})}
	if s.address != "" {
		return s, s.Start()
	}
	// Below the ports that the kernel gives to dialers: a client that dials a stopped
	// server again and again must not get the server's port for its own end.
	var err error
	for range 100 {
		s.address = "127.0.0.1:" + strconv.Itoa(10_000+rand.IntN(20_000))
		if err = s.Start(); err == nil {
			return s, nil
		}
	}
	return nil, err
}

// Address is where it listens, also while it is stopped.
func (s *Server) Address() string { return s.address }

// Start listens again after Stop.
func (s *Server) Start() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.grpc != nil {
		return nil
	}
	l, err := net.Listen("tcp", s.address)
	if err != nil {
		return fmt.Errorf("xdstest: %w", err)
	}
	s.address = l.Addr().String()
	opts := []grpc.ServerOption{grpc.MaxRecvMsgSize(64 << 20)}
	if s.o.TLS != nil {
		opts = append(opts, grpc.Creds(s.o.TLS))
	}
	g := grpc.NewServer(append(opts, s.o.ServerOptions...)...)
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(g, ads{s: s})
	served, closed := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(served)
		_ = g.Serve(&listener{Listener: l, close: sync.OnceFunc(func() { close(closed) })})
	}()
	s.grpc, s.served, s.closed = g, served, closed
	return nil
}

// Stop closes the listener and cuts every connection.
func (s *Server) Stop() {
	if g, served, _ := s.detach(); g != nil {
		g.Stop()
		<-served
	}
}

// GoAway ends every connection as a server does whose connections have a greatest
// age: GOAWAY, then the streams end. It goes on listening.
func (s *Server) GoAway() error {
	g, _, closed := s.detach()
	if g == nil {
		return errors.New("xdstest: stopped")
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		g.GracefulStop()
	}()
	<-closed // it does not listen any more
	err := s.Start()
	s.EndStreams()
	<-gone
	return err
}

func (s *Server) detach() (g *grpc.Server, served, closed chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g, s.grpc = s.grpc, nil
	return g, s.served, s.closed
}

// listener tells when it is closed.
type listener struct {
	net.Listener
	close func()
}

func (l *listener) Close() error {
	defer l.close()
	return l.Listener.Close()
}

// EndStreams ends all streams; the connections stay.
func (s *Server) EndStreams() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range s.streams {
		st.end()
	}
}

// Refuse ends each stream with an error, for which package status has codes; nil
// ends that. Streams that stand are ended, too.
func (s *Server) Refuse(err error) {
	s.mu.Lock()
	s.refuse = err
	s.mu.Unlock()
	s.EndStreams()
}

func (s *Server) refusal() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refuse
}

// Streams is how many streams there are, and how many there were in all.
func (s *Server) Streams() (now, all int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.streams), s.count
}

// Set adds or replaces resources, and tells the streams.
func (s *Server) Set(list ...proto.Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	touched := map[string][]string{}
	for _, m := range list {
		body := Any(m)
		name := Name(m)
		t := s.setOf(body.GetTypeUrl())
		if len(touched[body.GetTypeUrl()]) == 0 {
			t.version++
		}
		t.resources[name] = held{t.version, body}
		touched[body.GetTypeUrl()] = append(touched[body.GetTypeUrl()], name)
	}
	s.push(touched)
}

// Delete removes resources, and tells the streams.
func (s *Server) Delete(typeURL string, names ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.setOf(typeURL)
	t.version++
	for _, n := range names {
		delete(t.resources, n)
	}
	s.push(map[string][]string{typeURL: names})
}

// Send puts a response of state of the world on every such stream, with a new
// nonce if it has none.
func (s *Server) Send(m *discoveryv3.DiscoveryResponse) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range s.streams {
		if !st.delta {
			m := proto.CloneOf(m)
			if m.Nonce == "" {
				m.Nonce = s.nonce()
			}
			st.send(m)
		}
	}
}

// SendDelta puts an incremental response on every such stream.
func (s *Server) SendDelta(m *discoveryv3.DeltaDiscoveryResponse) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range s.streams {
		if st.delta {
			m := proto.CloneOf(m)
			if m.Nonce == "" {
				m.Nonce = s.nonce()
			}
			st.send(m)
		}
	}
}

// Requests is what came so far.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.requests)
}

// Await gives the first request, of those from the given number on, that
// satisfies ok, and the number after it.
func (s *Server) Await(ctx context.Context, from int, ok func(Request) bool) (Request, int, error) {
	for {
		s.mu.Lock()
		list, changed := s.requests, s.changed
		s.mu.Unlock()
		for ; from < len(list); from++ {
			if ok(list[from]) {
				return list[from], from + 1, nil
			}
		}
		select {
		case <-ctx.Done():
			return Request{}, from, ctx.Err()
		case <-changed:
		}
	}
}

func (s *Server) setOf(url string) *set {
	t := s.sets[url]
	if t == nil {
		t = &set{resources: map[string]held{}}
		s.sets[url] = t
	}
	return t
}

func (s *Server) nonce() string {
	s.nonces++
	return "n" + strconv.Itoa(s.nonces)
}

func (s *Server) notify() {
	close(s.changed)
	s.changed = make(chan struct{})
}

var order = []string{ClusterURL, EndpointURL, ListenerURL, RouteURL}

// push tells the streams what changed.
func (s *Server) push(touched map[string][]string) {
	if s.o.Manual {
		return
	}
	urls := slices.Clone(order)
	for _, url := range slices.Sorted(maps.Keys(touched)) {
		if !slices.Contains(urls, url) {
			urls = append(urls, url)
		}
	}
	for _, st := range s.streams {
		for _, url := range urls {
			a := st.types[url]
			names, ok := touched[url]
			if !ok || a == nil {
				continue
			}
			if !a.wildcard {
				names = slices.DeleteFunc(slices.Clone(names), func(n string) bool { _, ok := a.names[n]; return !ok })
				if len(names) == 0 {
					continue
				}
			}
			if st.delta {
				s.answerDelta(st, url, a, names)
			} else {
				s.answer(st, url, a, names)
			}
		}
	}
}

// answer sends what a stream of state of the world asked for; of types that need
// not be whole only the given names.
func (s *Server) answer(st *stream, url string, a *asked, names []string) {
	t := s.setOf(url)
	m := &discoveryv3.DiscoveryResponse{TypeUrl: url, VersionInfo: strconv.Itoa(t.version), Nonce: s.nonce()}
	switch {
	case a.wildcard:
		names = slices.Sorted(maps.Keys(t.resources))
	case url == ClusterURL || url == ListenerURL:
		names = slices.Sorted(maps.Keys(a.names))
	}
	for _, n := range names {
		if h, ok := t.resources[n]; ok {
			m.Resources = append(m.Resources, h.body)
		}
	}
	if len(m.Resources) == 0 && url != ClusterURL && url != ListenerURL {
		return
	}
	a.nonce = m.Nonce
	st.send(m)
}

func (s *Server) answerDelta(st *stream, url string, a *asked, names []string) {
	t := s.setOf(url)
	m := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: url, SystemVersionInfo: strconv.Itoa(t.version), Nonce: s.nonce()}
	for _, n := range names {
		if h, ok := t.resources[n]; ok {
			m.Resources = append(m.Resources, &discoveryv3.Resource{Name: n, Version: strconv.Itoa(h.version), Resource: h.body})
		} else {
			m.RemovedResources = append(m.RemovedResources, n)
		}
	}
	a.nonce = m.Nonce
	st.send(m)
}

func (st *stream) send(m any) {
	st.out = append(st.out, m)
	select {
	case st.wake <- struct{}{}:
	default:
	}
}

// request takes a request of state of the world.
func (s *Server) request(st *stream, m *discoveryv3.DiscoveryRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, Request{
		Stream: st.id, TypeURL: m.GetTypeUrl(), Node: m.GetNode(), Version: m.GetVersionInfo(), Nonce: m.GetResponseNonce(),
		Names: m.GetResourceNames(), NACK: m.GetErrorDetail().GetMessage(),
	})
	defer s.notify()
	url := m.GetTypeUrl()
	a := st.types[url]
	first := a == nil
	if first {
		a = &asked{wildcard: len(m.GetResourceNames()) == 0, names: map[string]struct{}{}}
		st.types[url] = a
	} else if m.GetResponseNonce() != a.nonce {
		return // stale
	}
	var added []string
	next := map[string]struct{}{}
	for _, n := range m.GetResourceNames() {
		next[n] = struct{}{}
		if _, ok := a.names[n]; !ok {
			added = append(added, n)
		}
	}
	a.names = next
	a.wildcard = a.wildcard && len(next) == 0
	if (first || len(added) > 0) && !s.o.Manual {
		s.answer(st, url, a, added)
	}
}

func (s *Server) deltaRequest(st *stream, m *discoveryv3.DeltaDiscoveryRequest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, Request{
		Stream: st.id, Delta: true, TypeURL: m.GetTypeUrl(), Node: m.GetNode(), Nonce: m.GetResponseNonce(), Names: m.GetResourceNamesSubscribe(),
		Unsubscribe: m.GetResourceNamesUnsubscribe(), Initial: m.GetInitialResourceVersions(), NACK: m.GetErrorDetail().GetMessage(),
	})
	defer s.notify()
	url := m.GetTypeUrl()
	a := st.types[url]
	first := a == nil
	if first {
		a = &asked{wildcard: len(m.GetResourceNamesSubscribe()) == 0, names: map[string]struct{}{}}
		st.types[url] = a
	}
	for _, n := range m.GetResourceNamesSubscribe() {
		a.names[n] = struct{}{}
	}
	for _, n := range m.GetResourceNamesUnsubscribe() {
		delete(a.names, n)
	}
	if s.o.Manual {
		return
	}
	t := s.setOf(url)
	names := slices.Clone(m.GetResourceNamesSubscribe())
	if first {
		if a.wildcard {
			names = slices.Sorted(maps.Keys(t.resources))
		}
		for n, version := range m.GetInitialResourceVersions() {
			h, ok := t.resources[n]
			if i := slices.Index(names, n); ok && i >= 0 && strconv.Itoa(h.version) == version {
				names = slices.Delete(names, i, i+1)
			} else if !ok && i < 0 {
				names = append(names, n)
			}
		}
	}
	if first && a.wildcard || len(names) > 0 {
		s.answerDelta(st, url, a, names)
	}
}

// open and drop keep the list of streams.
func (s *Server) open(delta bool, end context.CancelFunc) *stream {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count++
	st := &stream{id: s.count, delta: delta, types: map[string]*asked{}, wake: make(chan struct{}, 1), end: end}
	s.streams[st.id] = st
	s.notify()
	return st
}

func (s *Server) drop(st *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.streams, st.id)
	s.notify()
}

func (s *Server) next(st *stream) []any {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := st.out
	st.out = nil
	return out
}

// ads is the gRPC service.
type ads struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	s *Server
}

// StreamAggregatedResources implements state of the world.
func (a ads) StreamAggregatedResources(g discoveryv3.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	return a.s.serve(g.Context(), false,
		func(st *stream) error {
			m, err := g.Recv()
			if err == nil {
				a.s.request(st, m)
			}
			return err
		},
		func(m any) error { return g.Send(m.(*discoveryv3.DiscoveryResponse)) })
}

// DeltaAggregatedResources implements incremental xDS.
func (a ads) DeltaAggregatedResources(g discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	return a.s.serve(g.Context(), true,
		func(st *stream) error {
			m, err := g.Recv()
			if err == nil {
				a.s.deltaRequest(st, m)
			}
			return err
		},
		func(m any) error { return g.Send(m.(*discoveryv3.DeltaDiscoveryResponse)) })
}

func (s *Server) serve(ctx context.Context, delta bool, recv func(*stream) error, send func(any) error) error {
	ctx, end := context.WithCancel(ctx)
	defer end()
	if err := s.refusal(); err != nil {
		return err
	}
	st := s.open(delta, end)
	defer s.drop(st)
	go func() { // ends with the stream: Recv errs when the handler returned
		defer end()
		for recv(st) == nil {
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return s.refusal()
		case <-st.wake:
			for _, m := range s.next(st) {
				if err := send(m); err != nil {
					return err
				}
			}
		}
	}
}
