package main

import (
	"bufio"
	"context"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"github.com/meshferry/meshferry/xdsclient"
)

// The control plane has nothing at first, then the fleet with the service that is
// called, then changes.
func TestADS(t *testing.T) {
	in, commands := io.Pipe()
	answers, out := io.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- ads(t.Context(), 3, 2, "127.0.0.1:1", in, out) }()
	lines := bufio.NewScanner(answers)
	lines.Scan()
	address := lines.Text()
	say := func(command string) {
		t.Helper()
		io.WriteString(commands, command+"\n")
		if !lines.Scan() || lines.Text() != "done" {
			t.Fatalf("%s: %q", command, lines.Text())
		}
	}
	say("empty")
	say("serve")
	ctx, cancel := context.WithCancel(t.Context())
	c, err := xdsclient.New(xdsclient.Options{Node: &corev3.Node{Id: "fleet"}, Wildcard: true, Delta: true, Servers: []xdsclient.Server{{Address: address}}})
	if err != nil {
		t.Fatal(err)
	}
	updates, running := make(chan xdsclient.Update), make(chan error, 1)
	go func() { running <- c.Run(ctx, updates) }()
	late := time.After(30 * time.Second)
	next := func() xdsclient.Update {
		t.Helper()
		select {
		case u := <-updates:
			return u
		case <-late:
			t.Fatal("nothing comes")
			panic("not reached")
		}
	}
	clusters := map[string]int{}
	for len(clusters) < 4 {
		for name, v := range next().Clusters {
			clusters[name] = v.Endpoints.Len()
		}
	}
	if n := clusters["outbound|20882||"+strings.ToLower(direct)]; n != 1 {
		t.Errorf("%v", clusters)
	}
	say("change 1000")
	for len(next().Clusters) != 1 {
	}
	say("change 0")
	cancel()
	for stopped := false; !stopped; {
		select {
		case <-updates:
		case err := <-running:
			if stopped = true; err != nil {
				t.Error(err)
			}
		}
	}
	commands.Close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// A control spends what it is asked to, across threads, and what it owes.
func TestBurn(t *testing.T) {
	before, err := cpuTime([]int{os.Getpid()})
	if err != nil {
		t.Fatal(err)
	}
	burn(t.Context(), []float64{0, 1.5, -.5, .5, 0, 0, 0, 0, 0, 0})
	after, err := cpuTime([]int{os.Getpid()})
	if err != nil {
		t.Fatal(err)
	}
	// 1.5 × 50 ms, and what the kernel's clock of 10 ms hides; a busy machine may
	// leave less time for it.
	if spent := after - before; spent > 200*time.Millisecond {
		t.Errorf("spent %v", spent)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	burn(ended, []float64{2, 2})
}

func TestColumns(t *testing.T) {
	sample := func(calls int64, p50 time.Duration) fleetSample {
		return fleetSample{result: result{Calls: calls, For: time.Second, P50: p50, P99: 2 * p50, Max: 3 * p50}, agent: .25, peak: 100}
	}
	base := []fleetSample{sample(100, 10*time.Microsecond), sample(200, 10*time.Microsecond), sample(400, 10*time.Microsecond)}
	list := []fleetSample{sample(100, 20*time.Microsecond), sample(100, 10*time.Microsecond), sample(100, 30*time.Microsecond)}
	if got, want := columns(list, base), "100\t20µs\t40µs\t60µs\t0.25 cores\t0.00\t100 MB\t0.50\t2.00\t2.00\t"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
