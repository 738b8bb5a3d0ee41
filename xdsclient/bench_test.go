package xdsclient_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/meshferry/meshferry/xdsclient"
	"github.com/meshferry/meshferry/xdsclient/xdstest"
)

const (
	benchClusters  = 10_000
	benchEndpoints = 10 // of each
	benchServer    = "XDSCLIENT_BENCH_SERVER"
)

func benchCluster(i int) string {
	return fmt.Sprintf("outbound|20882||com.example.shop.module%d.service%d", i%97, i)
}

// benchAssignment is one as istiod sends it: locality, weight, tlsMode and workload
// in the metadata.
func benchAssignment(i, generation int) *endpointv3.ClusterLoadAssignment {
	var addresses []string
	for e := range benchEndpoints {
		n := i*benchEndpoints + e
		addresses = append(addresses, fmt.Sprintf("10.%d.%d.%d:20882", n>>16, n>>8&255, n&255))
	}
	m := xdstest.Endpoints(benchCluster(i), addresses...)
	m.Endpoints[0].Locality = &corev3.Locality{Region: "cn", Zone: "hz", SubZone: "a"}
	for e, lb := range m.Endpoints[0].LbEndpoints {
		lb.LoadBalancingWeight = wrapperspb.UInt32(uint32(100 + generation*(1-min(e, 1))))
		lb.Metadata = &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{
			"envoy.transport_socket_match": {Fields: map[string]*structpb.Value{"tlsMode": structpb.NewStringValue("istio")}},
			"istio":                        {Fields: map[string]*structpb.Value{"workload": structpb.NewStringValue(fmt.Sprintf("demo-%d-%d;dubbo;demo;;cluster", i, e))}},
		}}
	}
	return m
}

// TestBenchServer is not a test: it is the control plane of the benchmark, in a
// process of its own so that its memory does not count.
func TestBenchServer(t *testing.T) {
	if os.Getenv(benchServer) == "" {
		t.Skip("only as the server of the benchmark")
	}
	s := newServer(t, xdstest.Options{})
	var list []proto.Message
	var hosts []*routev3.VirtualHost
	for i := range benchClusters {
		c := xdstest.Cluster(benchCluster(i))
		c.LbPolicy = clusterv3.Cluster_LEAST_REQUEST
		c.CircuitBreakers = &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{{
			MaxConnections: wrapperspb.UInt32(1<<32 - 1), MaxRequests: wrapperspb.UInt32(1<<32 - 1), TrackRemaining: true,
		}}}
		list = append(list, c, benchAssignment(i, 0))
		v := xdstest.VirtualHost(strings.TrimPrefix(benchCluster(i), "outbound|20882||")+":20882", benchCluster(i))
		hosts = append(hosts, v)
	}
	s.Set(append(list, xdstest.Listener("127.0.0.1_20881", "http_proxy"), xdstest.Routes("http_proxy", hosts...))...)
	fmt.Println("address", s.Address())
	in := bufio.NewScanner(os.Stdin)
	for generation := 1; in.Scan(); generation++ { // one line: one endpoint changes
		s.Set(benchAssignment(generation%benchClusters, generation))
	}
}

// remote starts the server of the benchmark; change makes one endpoint change.
func remote(b *testing.B) (address string, change func()) {
	b.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestBenchServer$")
	cmd.Env = append(os.Environ(), benchServer+"=1")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { in.Close(); _ = cmd.Wait() })
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if a, ok := strings.CutPrefix(lines.Text(), "address "); ok {
			go func() { // the pipe is read until the process ends
				for lines.Scan() {
				}
			}()
			return a, func() {
				if _, err := fmt.Fprintln(in); err != nil {
					b.Error(err)
				}
			}
		}
	}
	b.Fatal("no server")
	return "", nil
}

func cpuTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

func peakRSS() float64 {
	text, _ := os.ReadFile("/proc/self/status")
	var kb float64
	for line := range strings.Lines(string(text)) {
		if n, _ := fmt.Sscanf(line, "VmHWM: %f kB", &kb); n == 1 {
			return kb / 1024
		}
	}
	return 0
}

// BenchmarkSnapshot is the time and the memory to the first snapshot of 10 000
// clusters with 100 000 endpoints, behind one route configuration, from another
// process; then the CPU time of one endpoint's change, from its arrival to its
// delivery, acknowledged and kept on disk.
func BenchmarkSnapshot(b *testing.B) {
	for _, mode := range []string{"sotw", "delta"} {
		b.Run(mode, func(b *testing.B) {
			address, change := remote(b)
			before := heap()
			for b.Loop() {
				b.StopTimer()
				o := xdsclient.Options{
					Node: node, Wildcard: true, Delta: mode == "delta", Servers: []xdsclient.Server{{Address: address}},
					Path: b.TempDir() + "/xds.state",
				}
				c, err := xdsclient.New(o)
				if err != nil {
					b.Fatal(err)
				}
				ctx, cancel := context.WithCancel(context.Background())
				ch, ended := make(chan xdsclient.Update), make(chan error, 1)
				b.StartTimer()
				began := time.Now()
				cpu := cpuTime(b)
				go func() { ended <- c.Run(ctx, ch) }()
				clusters := map[string]*xdsclient.Cluster{}
				for len(clusters) < benchClusters {
					for n, v := range (<-ch).Clusters {
						clusters[n] = v
					}
				}
				ready := false
				b.ReportMetric(float64(time.Since(began).Milliseconds()), "ms/first")
				b.ReportMetric(float64((cpuTime(b) - cpu).Milliseconds()), "cpu-ms/first")
				b.StopTimer()
				n := 0
				for _, v := range clusters {
					n += v.Endpoints.Len()
				}
				if n != benchClusters*benchEndpoints {
					b.Fatalf("%d endpoints", n)
				}
				for !ready {
					select {
					case u := <-ch:
						ready = u.Ready
					case <-time.After(2 * time.Second): // it was ready with the last one
						ready = true
					}
				}
				time.Sleep(2 * time.Second) // the file is written
				b.ReportMetric(float64(heap()-before)/(1<<20), "heap-MB")
				b.ReportMetric(peakRSS(), "peak-rss-MB")

				const changes = 500
				cpu = cpuTime(b)
				for range changes {
					change()
					for len((<-ch).Clusters) != 1 {
					}
				}
				b.ReportMetric(float64((cpuTime(b)-cpu).Microseconds())/changes/1000, "cpu-ms/change")
				runtime.KeepAlive(clusters)
				cancel()
				if err := <-ended; err != nil {
					b.Error(err)
				}
				b.StartTimer()
			}
		})
	}
}
