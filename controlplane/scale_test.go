package controlplane

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/meshferry/meshferry/registry"
)

var scale = flag.Bool("scale", false, "measure 10 000 services with 500 clients")

const (
	scaleServices  = 10_000
	scaleEndpoints = 10
	scaleClients   = 500
	scaleChild     = "MESHFERRY_TEST_XDS_CLIENTS" // address and kind of clients
)

func scaleName(i int) string { return fmt.Sprintf("com.example.team%d.Service%d", i%100, i) }

// many is a registry with many services, of which one changes at a time.
type many struct {
	names chan []string

	mu   sync.Mutex
	sets map[string]chan registry.Endpoints // guarded by mu
}

func (m *many) endpoints(t testing.TB, i, count, revision int) registry.Endpoints {
	e := registry.Endpoints{Interface: scaleName(i)}
	for k := range count {
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
	for {
		select {
		case names := <-m.names:
			select {
			case ch <- names:
			case <-ctx.Done():
				return nil
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// list has the registry tell its interfaces.
func (m *many) list() { m.names <- slices.Sorted(maps.Keys(m.sets)) }

// add is a service that is new.
func (m *many) add(t testing.TB, i int) {
	set := make(chan registry.Endpoints, 1)
	set <- m.endpoints(t, scaleServices+i, scaleEndpoints, 0)
	m.mu.Lock()
	m.sets[scaleName(scaleServices+i)] = set
	m.mu.Unlock()
	m.list()
}

func (m *many) Subscribe(ctx context.Context, iface string, ch chan<- registry.Endpoints) error {
	m.mu.Lock()
	set := m.sets[iface]
	m.mu.Unlock()
	for {
		select {
		case e := <-set:
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
		if err := clients(to); err != nil {
			t.Fatal(err)
		}
		return
	}
	if !*scale {
		t.Skip("-scale is not set")
	}
	m := &many{sets: map[string]chan registry.Endpoints{}, names: make(chan []string, 1)}
	for i := range scaleServices {
		m.sets[scaleName(i)] = make(chan registry.Endpoints, 1)
		m.sets[scaleName(i)] <- m.endpoints(t, i, scaleEndpoints, 0)
	}
	m.list()
	revision := 0
	dir := folder(t, "rule.yaml", scaleRule(0))
	began := time.Now()
	address, s := start(t, m, dir)
	t.Logf("%d services with %d endpoints each: ready after %v, heap %d MB", scaleServices, scaleEndpoints, time.Since(began).Round(time.Millisecond), heap())
	for _, mode := range []asking{
		{Delta: true}, {}, {Delta: true, Services: 200}, {Services: 200},
	} {
		t.Run(mode.String(), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			config, err := json.Marshal(mode)
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(ctx, os.Args[0], "-test.run", "^TestScale$", "-test.timeout", "3m")
			cmd.Env = append(os.Environ(), scaleChild+"="+address+" "+string(config))
			cmd.Stderr = os.Stderr
			out, err := cmd.StdoutPipe()
			if err == nil {
				err = cmd.Start()
			}
			if err != nil {
				t.Fatal(err)
			}
			lines := make(chan string, 100)
			go func() {
				defer close(lines)
				for scan := bufio.NewScanner(out); scan.Scan(); {
					lines <- scan.Text()
				}
			}()
			defer func() { cancel(); _ = cmd.Wait() }() // it was ended
			ordinal := map[string]int{}
			var sent int64
			all := func(kinds ...string) { // have been told, once more
				t.Helper()
				want := map[string]int{}
				for _, kind := range kinds {
					ordinal[kind]++
					want[kind] = ordinal[kind]
				}
				for len(want) > 0 {
					select {
					case line, ok := <-lines:
						if !ok || strings.HasPrefix(line, "ended") {
							t.Fatal("a client has ended: " + line)
						}
						var kind string
						var n int
						if _, err := fmt.Sscanf(line, "all %s %d %d", &kind, &n, &sent); err == nil && n == want[kind] {
							delete(want, kind)
						}
					case <-ctx.Done():
						t.Fatalf("not every client was told: %v", want)
					}
				}
			}
			settled := func() { // everybody has acknowledged what was sent
				eventually(t, "acknowledged", func() bool {
					for _, n := range s.nodes.list() {
						for _, one := range n.Types {
							if one.Acked != one.Sent {
								return false
							}
						}
					}
					return true
				})
			}
			from, before := time.Now(), cpu(t)
			all("Cluster", "ClusterLoadAssignment", "Listener", "RouteConfiguration")
			took := time.Since(from)
			settled()
			t.Logf("%d clients have everything after %v: %d MB sent, CPU of the server %v; heap %d MB, RSS %s", scaleClients,
				took.Round(time.Millisecond), sent>>20, (cpu(t) - before).Round(time.Millisecond), heap(), rss())
			measure := func(what string, times int, change func(), kinds ...string) {
				var took []time.Duration
				before, bytes := cpu(t), sent
				for range times {
					revision++
					from := time.Now()
					change()
					all(kinds...)
					took = append(took, time.Since(from))
					settled()
				}
				used := (cpu(t) - before) / time.Duration(times)
				slices.Sort(took)
				p99 := took[len(took)*99/100]
				t.Logf("%-16s × %2d: told the last of %d clients after p50 %v, p99 %v; CPU of the server %v, sent %d KB each; heap %d MB", what, times, scaleClients,
					took[len(took)/2].Round(time.Millisecond), p99.Round(time.Millisecond), used.Round(time.Millisecond), (sent-bytes)>>10/int64(times*scaleClients), heap())
				if p99 > time.Second && len(kinds) == 1 && kinds[0] == "ClusterLoadAssignment" {
					t.Error("p99 is over 1 s")
				}
			}
			times := 60
			if !mode.Delta && mode.Services == 0 { // reading 500 acknowledgements of 10 000 names takes seconds
				times = 20
			}
			measure("endpoint changes", times, func() { m.sets[scaleName(0)] <- m.endpoints(t, 0, 10, revision) }, "ClusterLoadAssignment")
			measure("provider comes", times/3, func() { m.sets[scaleName(0)] <- m.endpoints(t, 0, 10+revision%2, revision) }, "ClusterLoadAssignment")
			measure("rule changes", 5, func() { write(t, dir, "rule.yaml", scaleRule(revision)) }, "RouteConfiguration")
			if mode.Services == 0 {
				measure("new service", 3, func() { m.add(t, revision) }, "Cluster", "RouteConfiguration")
			}
		})
	}
}

// scaleRule is a rule of the first service, which every client follows.
func scaleRule(revision int) string {
	return fmt.Sprintf(`{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: a}, spec: {hosts: [%s], http: [{route: [{destination: {host: %[1]s}}], timeout: %dms}]}}
`, strings.ToLower(scaleName(0)), 1000+revision)
}

func rss() string {
	b, _ := os.ReadFile("/proc/self/status") // elsewhere there is none
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			return strings.Join(strings.Fields(v), " ")
		}
	}
	return "unknown"
}

func heap() uint64 {
	for range 3 { // pools of buffers go with the second
		runtime.GC()
	}
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

// clients is the process of the clients.
func clients(to string) error {
	address, config, _ := strings.Cut(to, " ")
	f := &fleet{}
	if err := json.Unmarshal([]byte(config), &f.asking); err != nil {
		return err
	}
	return f.start(address, scaleClients, os.Stdout)
}
