package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"text/tabwriter"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/meshferry/meshferry/xdsclient/xdstest"
)

// fleet measures calls through an agent beside what a control plane has it do: alone,
// while the whole fleet loads for the first time, and while endpoints change. Each is
// followed by a control: calls while another process burns as much CPU time, at the
// same moments, as agent and control plane had spent on it. What is left between the
// two is the agent's own fault: locks, stalls, wake-ups.
type fleet struct {
	bench
	clusters, endpoints int
	rate                int  // changes a second
	sotw                bool // state of the world instead of incremental

	// set by start
	self     string // this program
	shared   string // registry
	outbound string // where agents listen
	others   []string
	ads      string // address of the control plane
	server   int    // its process
	say      func(command string) error
}

// phase is one way to measure; the order is that of a round.
type phase int

const (
	alone phase = iota
	loading
	likeLoading
	loaded
	changing
	likeChanging
	phases
)

func (p phase) String() string {
	return [...]string{"alone", "first load", "… its CPU time alone", "loaded", "changes", "… their CPU time alone"}[p]
}

// base is what a phase is compared with.
func (p phase) base() phase {
	if p >= loaded {
		return loaded
	}
	return alone
}

// fleetSample is one phase of one round.
type fleetSample struct {
	result
	agent, server float64   // CPU time beside that of the calls, in cores; of a control: what is burnt
	cores         []float64 // the same of both, in each sampleEvery
	peak          float64   // resident memory of the agent, in MB
}

func (f *fleet) run(ctx context.Context, out io.Writer) error {
	wanted, err := f.wanted()
	if err != nil {
		return err
	}
	if f.dir, err = os.MkdirTemp("", "meshferry-fleet-"); err != nil {
		return err
	}
	defer os.RemoveAll(f.dir)
	defer f.stop()
	if err := f.start(ctx); err != nil {
		return err
	}
	fmt.Fprintf(out, "%d cores; %d clusters with %d endpoints; %d changes a second; %v a cell, median of %d rounds, each with a new agent\n",
		runtime.NumCPU(), f.clusters, f.clusters*f.endpoints, f.rate, f.each, f.rounds)
	fmt.Fprintf(out, "load, agent, control plane and echo server share the cores; CPU is what is spent beside the calls\n\n")
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "depth x connections\t\trequests/s\tp50\tp99\tlongest\tCPU: agent\tserver\tmemory\tto undisturbed: requests/s\tp50\tp99\t")
	binaries := []string{f.agent}
	if f.other != "" {
		binaries = append(binaries, f.other)
	}
	for _, c := range wanted {
		samples := make([][phases][]fleetSample, len(binaries))
		for n := range f.rounds {
			for i, binary := range binaries {
				if err := f.round(ctx, binary, fmt.Sprintf("agent-%dx%d-%d-%d", c.depth, c.connections, n, i), c, &samples[i]); err != nil {
					return fmt.Errorf("%dx%d: %w", c.depth, c.connections, err)
				}
			}
		}
		for i := range samples {
			for p, list := range samples[i] {
				if len(list) > 0 {
					name := phase(p).String()
					if i > 0 {
						name = "other: " + name
					}
					fmt.Fprintf(w, "%d x %d\t%s\t%s\n", c.depth, c.connections, name, columns(list, samples[i][phase(p).base()]))
				}
			}
		}
		w.Flush()
	}
	return nil
}

// columns are the medians of a phase, and those of its ratios to the base of the same
// round.
func columns(list, base []fleetSample) string {
	middle := func(of func(i int) float64) float64 {
		var all []float64
		for i := range list {
			all = append(all, of(i))
		}
		slices.Sort(all)
		return all[len(all)/2]
	}
	text := fmt.Sprintf("%.0f\t", middle(func(i int) float64 { return list[i].rate() }))
	for _, of := range []func(fleetSample) time.Duration{
		func(s fleetSample) time.Duration { return s.P50 }, func(s fleetSample) time.Duration { return s.P99 }, func(s fleetSample) time.Duration { return s.Max },
	} {
		text += fmt.Sprintf("%v\t", time.Duration(middle(func(i int) float64 { return float64(of(list[i])) })).Round(time.Microsecond))
	}
	return text + fmt.Sprintf("%.2f cores\t%.2f\t%.0f MB\t%.2f\t%.2f\t%.2f\t",
		middle(func(i int) float64 { return list[i].agent }), middle(func(i int) float64 { return list[i].server }), middle(func(i int) float64 { return list[i].peak }),
		middle(func(i int) float64 { return list[i].rate() / base[i].rate() }),
		middle(func(i int) float64 { return float64(list[i].P50) / float64(base[i].P50) }),
		middle(func(i int) float64 { return float64(list[i].P99) / float64(base[i].P99) }))
}

// start starts what lives longer than an agent.
func (f *fleet) start(ctx context.Context) error {
	if err := f.build(ctx); err != nil {
		return err
	}
	var err error
	if f.self, err = os.Executable(); err != nil {
		return err
	}
	ports, err := freePorts(4)
	if err != nil {
		return err
	}
	at := func(n int) string { return "127.0.0.1:" + strconv.Itoa(ports[n]) }
	f.outbound, f.others = at(1), []string{at(2), at(3)}
	if _, err := f.child(f.self, "echo", "--listen", at(0)); err != nil {
		return err
	}
	if err := f.controlPlane(at(0)); err != nil {
		return err
	}
	f.shared = filepath.Join(f.dir, "registry")
	return f.advertise(ctx, f.shared, []string{at(0)})
}

// round measures every phase once, with an agent that has never seen the fleet.
func (f *fleet) round(ctx context.Context, binary, name string, c cell, samples *[phases][]fleetSample) error {
	if err := f.say("empty"); err != nil {
		return err
	}
	config := filepath.Join(f.dir, "agent.yaml")
	if err := os.WriteFile(config, fmt.Appendf(nil, "xds: {servers: [%q], delta: %v}\n", f.ads, !f.sotw), 0o600); err != nil {
		return err
	}
	agent, err := f.child(binary, "run", "--config", config, "--registry", "local://"+f.shared, "--address", "127.0.0.1",
		"--outbound", f.outbound, "--inbound", f.others[0], "--control", f.others[1],
		"--control-socket", filepath.Join(f.dir, name+".sock"), "--state-dir", filepath.Join(f.dir, name), "--log-level", "warn")
	if err != nil {
		return err
	}
	defer f.end()
	if err := ready(ctx, target{"agent", f.outbound, direct, nil}); err != nil {
		return err
	}
	perCall := time.Duration(0) // CPU time of the agent, undisturbed
	for p := range phases {
		if p.base() == loaded && f.rate == 0 {
			return nil
		}
		if p != loading && p != changing { // nothing of the last phase goes on
			if err := settle(ctx, agent); err != nil {
				return err
			}
		}
		var s fleetSample
		switch p {
		case loading:
			s, err = f.measure(ctx, agent, c, perCall, func() error { return f.say("serve") })
		case changing:
			s, err = f.measure(ctx, agent, c, perCall, func() error { return f.say("change " + strconv.Itoa(f.rate)) })
			err = errors.Join(err, f.say("change 0"))
		case likeLoading, likeChanging:
			last := samples[p-1][len(samples[p-1])-1]
			var burner *exec.Cmd
			s, err = f.measure(ctx, agent, c, perCall, func() (err error) { burner, err = f.burner(ctx, last.cores); return err })
			if burner != nil {
				_ = burner.Wait()
			}
			s.agent, s.server = last.agent, last.server
		default:
			if s, err = f.measure(ctx, agent, c, 0, nil); err == nil {
				perCall = time.Duration(s.agent * float64(s.For) / float64(s.Calls))
				s.agent = 0
			}
		}
		if err != nil {
			return fmt.Errorf("%v: %w", p, err)
		}
		samples[p] = append(samples[p], s)
	}
	return nil
}

// burner is a process that spends CPU time as burn does.
func (f *fleet) burner(ctx context.Context, cores []float64) (*exec.Cmd, error) {
	c := exec.CommandContext(ctx, f.self, "burn", "--cores", strings.Trim(fmt.Sprint(cores), "[]"))
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return c, c.Start()
}

// measure makes calls for the length of a cell, and has something happen when the
// count begins. perCall is the CPU time of the agent that belongs to a call.
func (f *fleet) measure(ctx context.Context, agent int, c cell, perCall time.Duration, during func() error) (fleetSample, error) {
	var counted atomic.Int64
	var s fleetSample
	done := make(chan error, 1)
	go func() {
		var err error
		s.result, err = generate(ctx, options{To: f.outbound, Service: direct, Connections: c.connections, Depth: c.depth, Bytes: f.bytes, For: f.each, Counted: &counted})
		done <- err
	}()
	type look struct {
		agent, server time.Duration
		calls         int64
	}
	var looks []look
	see := func() error {
		l := look{calls: counted.Load()}
		var err error
		if l.agent, err = cpuTime([]int{agent}); err == nil {
			l.server, err = cpuTime([]int{f.server})
		}
		looks = append(looks, l)
		return err
	}
	time.Sleep(f.each / 5) // the generator warms up for so long
	err := see()
	if err == nil && during != nil {
		err = during()
	}
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for running := true; running; {
		select {
		case failed := <-done:
			err, running = errors.Join(err, failed), false
		case <-tick.C:
			err = errors.Join(err, see())
		}
	}
	err = errors.Join(err, see())
	switch {
	case err != nil:
		return s, err
	case s.Failed > 0 || s.Calls == 0:
		return s, fmt.Errorf("%d of %d calls failed", s.Failed, s.Calls)
	}
	extra := func(a, b look) (agent, server time.Duration) {
		return b.agent - a.agent - perCall*time.Duration(b.calls-a.calls), b.server - a.server
	}
	for i := range looks[1:] {
		own, theirs := extra(looks[i], looks[i+1])
		s.cores = append(s.cores, (own+theirs).Seconds()/sampleEvery.Seconds())
	}
	own, theirs := extra(looks[0], looks[len(looks)-1])
	s.agent, s.server = max(0, own.Seconds()/s.For.Seconds()), theirs.Seconds()/s.For.Seconds()
	s.peak, err = peak(agent)
	return s, err
}

// settle waits until a process is idle.
func settle(ctx context.Context, pid int) error {
	for end := time.Now().Add(time.Minute); time.Now().Before(end) && ctx.Err() == nil; {
		before, err := cpuTime([]int{pid})
		if err != nil {
			return err
		}
		time.Sleep(500 * time.Millisecond)
		if after, err := cpuTime([]int{pid}); err != nil || after-before <= 10*time.Millisecond {
			return err
		}
	}
	return fmt.Errorf("the agent is never idle: %w", ctx.Err())
}

// controlPlane starts the ADS server as a process.
func (f *fleet) controlPlane(echo string) error {
	cmd := exec.Command(f.self, "ads", "--clusters", strconv.Itoa(f.clusters), "--endpoints", strconv.Itoa(f.endpoints), "--to", echo)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	f.children = append(f.children, cmd)
	f.server = cmd.Process.Pid
	lines := bufio.NewScanner(out)
	answer := func() (string, error) {
		if !lines.Scan() {
			return "", fmt.Errorf("the control plane has ended: %w", cmp.Or(lines.Err(), io.EOF))
		}
		return lines.Text(), nil
	}
	f.say = func(command string) error {
		if _, err := fmt.Fprintln(in, command); err != nil {
			return err
		}
		_, err := answer()
		return err
	}
	f.ads, err = answer()
	return err
}

// ads is that server: it takes commands on standard input and answers each with a
// line. "empty" starts it with nothing to tell, "serve" gives it the fleet, "change N"
// has one endpoint after the other change, N a second.
func ads(ctx context.Context, clusters, endpoints int, echo string, in io.Reader, out io.Writer) error {
	s, err := xdstest.New(xdstest.Options{})
	if err != nil {
		return err
	}
	defer func() { s.Stop() }()
	name := func(i int) string {
		return fmt.Sprintf("outbound|20882||com.example.shop.module%d.service%d", i%97, i)
	}
	assignment := func(i, generation int) *endpointv3.ClusterLoadAssignment {
		var addresses []string
		for e := range endpoints {
			n := i*endpoints + e
			addresses = append(addresses, fmt.Sprintf("10.%d.%d.%d:20882", n>>16, n>>8&255, n&255))
		}
		m := xdstest.Endpoints(name(i), addresses...)
		m.Endpoints[0].LbEndpoints[0].LoadBalancingWeight = wrapperspb.UInt32(uint32(100 + generation%100))
		return m
	}
	var list []proto.Message
	var hosts []*routev3.VirtualHost
	add := func(name string, a *endpointv3.ClusterLoadAssignment) {
		c := xdstest.Cluster(name)
		c.LbPolicy = clusterv3.Cluster_LEAST_REQUEST
		list = append(list, c, a)
		hosts = append(hosts, xdstest.VirtualHost(strings.TrimPrefix(name, "outbound|20882||")+":20882", name))
	}
	for i := range clusters {
		add(name(i), assignment(i, 0))
	}
	called := "outbound|20882||" + strings.ToLower(direct)
	add(called, xdstest.Endpoints(called, echo))
	list = append(list, xdstest.Listener("127.0.0.1_20881", "http_proxy"), xdstest.Routes("http_proxy", hosts...))
	fmt.Fprintln(out, s.Address())

	commands := make(chan string)
	go func() {
		defer close(commands)
		for lines := bufio.NewScanner(in); lines.Scan(); {
			commands <- lines.Text()
		}
	}()
	tick := time.NewTicker(time.Hour)
	defer tick.Stop()
	for generation := 1; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			s.Set(assignment(generation*7919%clusters, generation))
			generation++
			continue
		case command, ok := <-commands:
			verb, n, _ := strings.Cut(command, " ")
			rate, _ := strconv.Atoi(n)
			switch {
			case !ok:
				return nil
			case verb == "empty":
				s.Stop()
				if s, err = xdstest.New(xdstest.Options{Address: s.Address()}); err != nil {
					return err
				}
			case verb == "serve":
				s.Set(list...)
			case verb == "change" && rate > 0:
				tick.Reset(time.Second / time.Duration(rate))
			case verb == "change":
				tick.Reset(time.Hour)
			}
			fmt.Fprintln(out, "done")
		}
	}
}

// sampleEvery is how finely a control follows what it stands for.
const sampleEvery = 50 * time.Millisecond

// burn uses CPU time as another process did: so many cores in each sampleEvery. What
// is more than one core is that of a second thread. A negative number, from the coarse
// clock of the kernel, is owed to the next.
func burn(ctx context.Context, cores []float64) {
	var owed float64
	var first, second []float64
	for _, c := range cores {
		c += owed
		owed = min(c, 0)
		first, second = append(first, min(max(c, 0), 1)), append(second, min(max(c-1, 0), 1))
	}
	var threads sync.WaitGroup
	began := time.Now()
	for _, list := range [][]float64{first, second} {
		threads.Go(func() {
			runtime.LockOSThread()
			behind := time.Duration(0)
			for i, share := range list {
				behind += time.Duration(share * float64(sampleEvery))
				end := began.Add(time.Duration(i+1) * sampleEvery)
				start := threadTime()
				for threadTime()-start < behind && time.Now().Before(end) && ctx.Err() == nil {
				}
				behind -= threadTime() - start
				time.Sleep(time.Until(end))
			}
		})
	}
	threads.Wait()
}

// peak is the most memory that a process ever had resident, in MB.
func peak(pid int) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	_, after, _ := strings.Cut(string(text), "VmHWM:")
	var kb float64
	if _, err := fmt.Sscanf(after, "%f kB", &kb); err != nil {
		return 0, fmt.Errorf("VmHWM of %d: %w", pid, err)
	}
	return kb / 1e3, nil
}

// threadTime is the CPU time of this thread.
func threadTime() time.Duration {
	var u syscall.Rusage
	const thread = 1 // RUSAGE_THREAD
	if syscall.Getrusage(thread, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
