package controlplane

import (
	"context"
	"flag"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/meshferry/meshferry/controlplane/catalog"
	"github.com/meshferry/meshferry/registry"
)

func TestMain(m *testing.M) { flag.Parse(); goleak.VerifyTestMain(m) }

const within = 10 * time.Second

// fake is a registry whose content the test sets.
type fake struct {
	mu      sync.Mutex
	sets    map[string][]registry.Provider
	changed chan struct{} // closed at a change
}

func newFake(t testing.TB, urls ...string) *fake {
	f := &fake{sets: map[string][]registry.Provider{}, changed: make(chan struct{})}
	f.set(t, urls...)
	return f
}

// set replaces the providers of the interfaces that the URLs name.
func (f *fake) set(t testing.TB, urls ...string) {
	t.Helper()
	sets := map[string][]registry.Provider{}
	for _, text := range urls {
		u, err := registry.ParseURL(text)
		if err != nil {
			t.Fatal(err)
		}
		iface := u.Service().Interface
		sets[iface] = append(sets[iface], registry.Provider{URL: u, Model: registry.ModelInterface})
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for iface, set := range sets {
		f.sets[iface] = set
	}
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *fake) Status() registry.Status { return registry.Status{State: registry.Connected} }

func (f *fake) List(ctx context.Context, ch chan<- []string) error {
	known := -1
	for {
		f.mu.Lock()
		var names []string
		for name := range f.sets {
			names = append(names, name)
		}
		changed := f.changed
		f.mu.Unlock()
		if len(names) != known {
			known = len(names)
			select {
			case ch <- names:
			case <-ctx.Done():
				return nil
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

func (f *fake) Subscribe(ctx context.Context, iface string, ch chan<- registry.Endpoints) error {
	var last []registry.Provider
	for first := true; ; first = false {
		f.mu.Lock()
		set, changed := f.sets[iface], f.changed
		f.mu.Unlock()
		if first || len(set) != len(last) || len(set) > 0 && &set[0] != &last[0] {
			last = set
			select {
			case ch <- registry.Endpoints{Interface: iface, Providers: set}:
			case <-ctx.Done():
				return nil
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// start runs a control plane over a registry and a folder; it ends with the test.
func start(t testing.TB, f catalog.Registry, folder string) (address string, s *Server) {
	t.Helper()
	return startWith(t, f, Options{Folder: folder})
}

func startWith(t testing.TB, f catalog.Registry, o Options) (address string, s *Server) {
	t.Helper()
	o.Registries = []catalog.Named{{Name: "main", Registry: f}}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, l, nil) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	eventually(t, "ready", s.ready.Load)
	return l.Addr().String(), s
}

func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	limit := within
	if *scale {
		limit = 2 * time.Minute
	}
	for deadline := time.Now().Add(limit); !done(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never %s", what)
		}
	}
}

// folder writes a folder of files, name and text by turns.
func folder(t testing.TB, pairs ...string) string {
	t.Helper()
	dir := t.TempDir()
	for i := 0; i < len(pairs); i += 2 {
		write(t, dir, pairs[i], pairs[i+1])
	}
	return dir
}

// write replaces a file as editors do: by a rename.
func write(t testing.TB, dir, name, text string) {
	t.Helper()
	tmp := filepath.Join(dir, "."+name+".swp")
	err := os.WriteFile(tmp, []byte(text), 0o600)
	if err == nil {
		err = os.Rename(tmp, filepath.Join(dir, name))
	}
	if err != nil {
		t.Fatal(err)
	}
}

func agentNode() *core.Node {
	m, err := structpb.NewStruct(map[string]any{"HTTP_PROXY_PORT": "20881", "INTERCEPTION_MODE": "NONE"})
	if err != nil {
		panic(err)
	}
	return &core.Node{Id: "sidecar~10.9.9.9~agent-1.dubbo~dubbo.svc.cluster.local", Metadata: m}
}

func dial(t testing.TB, address string) discovery.AggregatedDiscoveryServiceClient {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(256<<20)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return discovery.NewAggregatedDiscoveryServiceClient(conn)
}

// client is a state-of-the-world stream.
type client struct {
	t      testing.TB
	stream discovery.AggregatedDiscoveryService_StreamAggregatedResourcesClient
	in     chan *discovery.DiscoveryResponse
	names  map[string][]string
	node   *core.Node
}

func openStream(t testing.TB, address string, node *core.Node) *client {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	stream, err := dial(t, address).StreamAggregatedResources(ctx)
	if err != nil {
		t.Fatal(err)
	}
	s := &client{t: t, stream: stream, in: make(chan *discovery.DiscoveryResponse, 100), names: map[string][]string{}, node: node}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			r, err := stream.Recv()
			if err != nil {
				return
			}
			s.in <- r
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return s
}

func (s *client) ask(typeURL string, names ...string) {
	s.t.Helper()
	s.names[typeURL] = names
	if err := s.stream.Send(&discovery.DiscoveryRequest{Node: s.node, TypeUrl: typeURL, ResourceNames: names}); err != nil {
		s.t.Fatal(err)
	}
	s.node = nil
}

// next is the next response, which it acknowledges.
func (s *client) next() *discovery.DiscoveryResponse {
	s.t.Helper()
	select {
	case r := <-s.in:
		if err := s.stream.Send(&discovery.DiscoveryRequest{TypeUrl: r.TypeUrl, ResourceNames: s.names[r.TypeUrl], VersionInfo: r.VersionInfo, ResponseNonce: r.Nonce}); err != nil {
			s.t.Fatal(err)
		}
		return r
	case <-time.After(within):
		s.t.Fatal("no response")
		return nil
	}
}

func short(typeURL string) string { return typeURL[strings.LastIndexByte(typeURL, '.')+1:] }
