package controlplane

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/meshferry/meshferry/registry"
)

var scale = flag.Bool("scale", false, "measure 10 000 services with 500 clients")

const (
	scaleServices  = 10_000
	scaleEndpoints = 10
	scaleClients   = 500
	scaleChanges   = 60
	scaleChild     = "MESHFERRY_TEST_XDS_CLIENTS" // address and number of services of each client
)

func scaleName(i int) string { return fmt.Sprintf("com.example.team%d.Service%d", i%100, i) }

// many is a registry with many services, of which one changes at a time.
type many struct {
	sets map[string]chan registry.Endpoints
}

func (m *many) endpoints(t testing.TB, i, revision int) registry.Endpoints {
	e := registry.Endpoints{Interface: scaleName(i)}
	for k := range scaleEndpoints {
		u, err := registry.ParseURL(fmt.Sprintf("dubbo://10.%d.%d.%d:20882/%s?application=app%d&interface=%s&methods=a,b,c&side=provider&version=&weight=%d&meshferry.caps=1&meshferry.origin=10.0.0.1:20880",
			i/250, i%250, k+1, scaleName(i), i%500, scaleName(i), 100+revision))
		if err != nil {
			t.Fatal(err)
		}
		e.Providers = append(e.Providers, registry.Provider{URL: u, Model: registry.ModelInterface})
	}
	return e
}

func (m *many) Status() registry.Status { return registry.Status{State: registry.Connected} }

func (m *many) List(ctx context.Context, ch chan<- []string) error {
	var names []string
	for name := range m.sets {
		names = append(names, name)
	}
	slices.Sort(names)
	select {
	case ch <- names:
	case <-ctx.Done():
	}
	<-ctx.Done()
	return nil
}

func (m *many) Subscribe(ctx context.Context, iface string, ch chan<- registry.Endpoints) error {
	for {
		select {
		case e := <-m.sets[iface]:
			select {
			case ch <- e:
			case <-ctx.Done():
				return nil
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// TestScale prints what a change of one provider costs: `make bench-xds`.
func TestScale(t *testing.T) {
	if to := os.Getenv(scaleChild); to != "" {
		clients(t, to)
		return
	}
	if !*scale {
		t.Skip("-scale is not set")
	}
	m := &many{sets: map[string]chan registry.Endpoints{}}
	for i := range scaleServices {
		m.sets[scaleName(i)] = make(chan registry.Endpoints, 1)
		m.sets[scaleName(i)] <- m.endpoints(t, i, 0)
	}
	began := time.Now()
	address, _ := start(t, m, "")
	t.Logf("%d services with %d endpoints each: ready after %v, heap %d MB", scaleServices, scaleEndpoints, time.Since(began).Round(time.Millisecond), heap())
	for _, each := range []int{100, 1000} {
		t.Run(fmt.Sprintf("each client follows %d services", each), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, os.Args[0], "-test.run", "^TestScale$", "-test.timeout", "3m")
			cmd.Env = append(os.Environ(), scaleChild+"="+address+" "+strconv.Itoa(each))
			cmd.Stderr = os.Stderr
			out, err := cmd.StdoutPipe()
			if err == nil {
				err = cmd.Start()
			}
			if err != nil {
				t.Fatal(err)
			}
			lines := make(chan string)
			go func() {
				defer close(lines)
				for scan := bufio.NewScanner(out); scan.Scan(); {
					if strings.HasPrefix(scan.Text(), "all ") {
						lines <- scan.Text()
					}
				}
			}()
			defer func() { cancel(); _ = cmd.Wait() }() // it was ended
			next := func() {
				t.Helper()
				select {
				case _, ok := <-lines:
					if !ok {
						t.Fatal("the clients have ended")
					}
				case <-ctx.Done():
					t.Fatal("not every client was told")
				}
			}
			next()
			t.Logf("%d clients connected, heap %d MB", scaleClients, heap())
			var took []time.Duration
			before := cpu(t)
			for change := range scaleChanges {
				from := time.Now()
				m.sets[scaleName(0)] <- m.endpoints(t, 0, each+change+1) // followed by every client
				next()
				took = append(took, time.Since(from))
			}
			used := (cpu(t) - before) / scaleChanges
			slices.Sort(took)
			p99 := took[len(took)*99/100]
			t.Logf("from a registry change to the last of %d clients: p50 %v, p99 %v, most %v; CPU of the server %v a change", scaleClients,
				took[len(took)/2].Round(time.Millisecond), p99.Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond), used.Round(time.Millisecond))
			if p99 > time.Second {
				t.Errorf("p99 is over 1 s")
			}
		})
	}
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc >> 20
}

func cpu(t testing.TB) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// clients are incremental clients that acknowledge what they are sent. They print
// a line each time all of them have been told.
func clients(t *testing.T, to string) {
	var address string
	var each int
	if _, err := fmt.Sscan(to, &address, &each); err != nil {
		t.Fatal(err)
	}
	var told atomic.Int64
	var wg sync.WaitGroup
	for c := range scaleClients {
		wg.Go(func() {
			conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(256<<20)))
			if err != nil {
				panic(err)
			}
			defer conn.Close()
			stream, err := discovery.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(context.Background())
			if err != nil {
				panic(err)
			}
			meta, err := structpb.NewStruct(map[string]any{"GENERATOR": "grpc"})
			if err != nil {
				panic(err)
			}
			req := &discovery.DeltaDiscoveryRequest{Node: &core.Node{Id: fmt.Sprintf("sidecar~10.0.0.1~agent-%d.dubbo~dubbo.svc.cluster.local", c), Metadata: meta}, TypeUrl: resource.EndpointType}
			for i := range each {
				service := 0
				if i > 0 {
					service = (c*each + i) % scaleServices
				}
				req.ResourceNamesSubscribe = append(req.ResourceNamesSubscribe, clusterName(20882, "", strings.ToLower(scaleName(service))))
			}
			if err := stream.Send(req); err != nil {
				panic(err)
			}
			for {
				r, err := stream.Recv()
				if err != nil {
					return
				}
				if err := stream.Send(&discovery.DeltaDiscoveryRequest{TypeUrl: r.TypeUrl, ResponseNonce: r.Nonce}); err != nil {
					return
				}
				if n := told.Add(1); n%scaleClients == 0 {
					fmt.Printf("all %d\n", n/scaleClients)
				}
			}
		})
	}
	wg.Wait()
}
