package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/meshferry/meshferry/registry"
	"github.com/meshferry/meshferry/registry/local"
)

// bench measures direct, relay and agent (one hop, two hops) in one run. The
// rounds are interleaved, so that a machine that slows down slows all of them.
type bench struct {
	agent  string
	other  string // a second binary of the agent, to compare with
	each   time.Duration
	rounds int
	bytes  int
	only   string
	ways   string

	dir      string
	children []*exec.Cmd
}

// target is one way to the echo server.
type target struct {
	name, to, service string
	hop               []int // processes whose CPU time is that of the hop
}

// cell is a load shape.
type cell struct{ depth, connections int }

var cells = []cell{{1, 1}, {1, 8}, {1, 64}, {32, 1}, {32, 8}, {32, 64}}

const (
	direct  = "meshferry.bench.Direct"
	several = "meshferry.bench.Several" // at ten addresses
	meshed  = "meshferry.bench.Mesh"
)

func (b *bench) run(ctx context.Context, out io.Writer) (err error) {
	wanted, err := b.wanted()
	if err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp("", "meshferry-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	defer b.stop()
	targets, err := b.start(ctx)
	if err != nil {
		return err
	}
	for _, t := range targets {
		if t.name == "agent" {
			memory, own, err := rss(t.hop[0])
			if err != nil {
				return err
			}
			fmt.Fprintf(out, "idle agent: %.1f MB resident: %.1f MB of its own, the rest pages of its program\n", float64(memory)/1e6, float64(own)/1e6)
		}
	}
	fmt.Fprintf(out, "%d cores, %d bytes, %v a cell, median of %d interleaved rounds; the load, the hops and the echo server share the cores\n\n", runtime.NumCPU(), b.bytes, b.each, b.rounds)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "depth x connections\t\trequests/s\tp50\tp99\tCPU/request\tto relay: requests/s\tp50\tCPU\t")
	for _, c := range wanted {
		samples := map[string][]sample{}
		for range b.rounds {
			for _, t := range targets {
				s, err := b.measure(ctx, t, c)
				if err != nil {
					return fmt.Errorf("%s at %dx%d: %w", t.name, c.depth, c.connections, err)
				}
				samples[t.name] = append(samples[t.name], s)
			}
		}
		base := median(samples["relay"])
		for _, t := range targets {
			s := median(samples[t.name])
			cpu, ratio := "", ""
			if len(t.hop) > 0 {
				cpu = fmt.Sprintf("%.2f µs", float64(s.cpu)/1e3)
				ratio = fmt.Sprintf("%.2f", float64(s.cpu)/float64(base.cpu))
			}
			fmt.Fprintf(w, "%d x %d\t%s\t%.0f\t%v\t%v\t%s\t%.2f\t%.2f\t%s\t\n", c.depth, c.connections, t.name, s.rate(),
				s.P50.Round(time.Microsecond), s.P99.Round(time.Microsecond), cpu, s.rate()/base.rate(), float64(s.P50)/float64(base.P50), ratio)
		}
		w.Flush()
	}
	return nil
}

func (b *bench) wanted() ([]cell, error) {
	if b.only == "" {
		return cells, nil
	}
	var list []cell
	for text := range strings.SplitSeq(b.only, ",") {
		var c cell
		if _, err := fmt.Sscanf(text, "%dx%d", &c.depth, &c.connections); err != nil || c.depth < 1 || c.connections < 1 {
			return nil, fmt.Errorf("--only: %q is no depth x connections such as 32x8", text)
		}
		list = append(list, c)
	}
	return list, nil
}

type sample struct {
	result
	cpu time.Duration // of the hop, for each request
}

func median(s []sample) sample {
	s = slices.Clone(s)
	slices.SortFunc(s, func(a, b sample) int { return cmp.Compare(a.rate(), b.rate()) })
	return s[len(s)/2]
}

// measure runs the generator in a process of its own, as the hops are.
func (b *bench) measure(ctx context.Context, t target, c cell) (sample, error) {
	before, err := cpuTime(t.hop)
	if err != nil {
		return sample{}, err
	}
	r, err := generate(ctx, options{To: t.to, Service: t.service, Connections: c.connections, Depth: c.depth, Bytes: b.bytes, For: b.each})
	if err != nil {
		return sample{}, err
	}
	after, err := cpuTime(t.hop)
	if err != nil {
		return sample{}, err
	}
	if r.Failed > 0 || r.Calls == 0 {
		return sample{}, fmt.Errorf("%d of %d calls failed", r.Failed, r.Calls)
	}
	// The hop also worked while the load warmed up, for a fifth of the time.
	return sample{r, time.Duration(float64(after-before) / (1.2 * float64(r.Calls)))}, nil
}

func (b *bench) start(ctx context.Context) ([]target, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if err := b.build(ctx); err != nil {
		return nil, err
	}
	ports, err := freePorts(20)
	if err != nil {
		return nil, err
	}
	at := func(n int) string { return "127.0.0.1:" + strconv.Itoa(ports[n]) }
	var echoes []string
	for n := range 10 {
		echoes = append(echoes, at(n))
	}
	if _, err := b.child(self, "echo", "--listen", strings.Join(echoes, ",")); err != nil {
		return nil, err
	}
	relay, err := b.child(self, "relay", "--listen", at(10), "--to", at(0))
	if err != nil {
		return nil, err
	}
	shared := filepath.Join(b.dir, "registry")
	agent := func(binary, name, outbound, inbound, control string) (int, error) {
		return b.child(binary, "run", "--registry", "local://"+shared, "--address", "127.0.0.1",
			"--outbound", outbound, "--inbound", inbound, "--control", control,
			"--control-socket", filepath.Join(b.dir, name+".sock"), "--state-dir", filepath.Join(b.dir, name), "--log-level", "warn")
	}
	consumer, err := agent(b.agent, "consumer", at(11), at(12), at(13))
	if err != nil {
		return nil, err
	}
	provider, err := agent(b.agent, "provider", at(14), at(15), at(16))
	if err != nil {
		return nil, err
	}
	if err := b.advertise(ctx, shared, echoes); err != nil {
		return nil, err
	}
	if err := publish(ctx, at(16), fmt.Sprintf("dubbo://%s/%s?application=bench&interface=%[2]s&methods=echo&warmup=0", echoes[0], meshed)); err != nil {
		return nil, err
	}
	targets := []target{
		{"direct", echoes[0], direct, nil},
		{"relay", at(10), direct, []int{relay}},
		{"agent", at(11), direct, []int{consumer}},
		{"agent, ten endpoints", at(11), several, []int{consumer}},
		{"two agents", at(11), meshed, []int{consumer, provider}},
	}
	if b.other != "" {
		other, err := agent(b.other, "other", at(17), at(18), at(19))
		if err != nil {
			return nil, err
		}
		targets = append(targets, target{"other agent", at(17), direct, []int{other}},
			target{"other agent, ten endpoints", at(17), several, []int{other}})
	}
	if b.ways != "" {
		targets = slices.DeleteFunc(targets, func(t target) bool {
			return t.name != "relay" && !slices.Contains(strings.Split(b.ways, "+"), strings.TrimPrefix(t.name, "other "))
		})
	}
	for _, t := range targets {
		if err := ready(ctx, t); err != nil {
			return nil, err
		}
	}
	return targets, nil
}

// build makes the agent's binary, if none was given.
func (b *bench) build(ctx context.Context) error {
	if b.agent != "" {
		return nil
	}
	b.agent = filepath.Join(b.dir, "meshferry")
	// As make build: without the tags the linker keeps twice as much, and pages of it are resident.
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-tags", "nomsgpack,grpcnotrace", "-ldflags", "-s -w", "-o", b.agent, "github.com/meshferry/meshferry/cmd/meshferry")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("build the agent: %w", err)
	}
	return nil
}

// advertise puts the echo server into the embedded registry as an application
// with an SDK of its own would.
func (b *bench) advertise(ctx context.Context, dir string, echoes []string) error {
	r, err := local.New(local.Options{Dir: dir, HostID: "bench"})
	if err != nil {
		return err
	}
	running := make(chan error, 1)
	go func() { running <- r.Run(ctx) }()
	var d registry.Desired
	add := func(service, address string) error {
		u, err := registry.ParseURL(fmt.Sprintf("dubbo://%s/%s?application=bench&interface=%[2]s&methods=echo&warmup=0", address, service))
		d.Providers = append(d.Providers, u)
		return err
	}
	errs := []error{add(direct, echoes[0])}
	for _, e := range echoes {
		errs = append(errs, add(several, e))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		_, err := r.Apply(ctx, d)
		if !errors.Is(err, registry.ErrAway) || time.Now().After(end) {
			return err
		}
	}
}

func publish(ctx context.Context, control, url string) error {
	body, err := json.Marshal(map[string]string{"url": url, "wait": "5s"})
	if err != nil {
		return err
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		err := func() error {
			r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+control+"/v1/publish", bytes.NewReader(body))
			if err != nil {
				return err
			}
			r.Header.Set("Content-Type", "application/json")
			answer, err := http.DefaultClient.Do(r)
			if err != nil {
				return err
			}
			defer answer.Body.Close()
			text, _ := io.ReadAll(answer.Body)
			if answer.StatusCode != http.StatusOK {
				return fmt.Errorf("publish: %s: %s", answer.Status, text)
			}
			return nil
		}()
		if err == nil || time.Now().After(end) || ctx.Err() != nil {
			return err
		}
	}
}

// ready waits until one call is answered.
func ready(ctx context.Context, t target) error {
	for end := time.Now().Add(10 * time.Second); ; {
		r, err := generate(ctx, options{To: t.to, Service: t.service, Connections: 1, Depth: 1, Bytes: 1, For: 50 * time.Millisecond})
		if err == nil && r.Failed == 0 && r.Calls > 0 {
			return nil
		}
		if time.Now().After(end) || ctx.Err() != nil {
			return fmt.Errorf("%s: no call is answered: %v, %w", t.name, r, err)
		}
	}
}

// child starts a process that ends with this one.
func (b *bench) child(name string, args ...string) (pid int, err error) {
	log, err := os.Create(filepath.Join(b.dir, fmt.Sprintf("child-%d.log", len(b.children))))
	if err != nil {
		return 0, err
	}
	defer log.Close()
	c := exec.Command(name, args...)
	c.Stderr = log
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stdout, err := c.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := c.Start(); err != nil {
		return 0, err
	}
	b.children = append(b.children, c)
	if name != b.agent && name != b.other {
		if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil {
			text, _ := os.ReadFile(log.Name())
			return 0, fmt.Errorf("%s: %q %w\n%s", strings.Join(args, " "), line, err, text)
		}
	}
	go io.Copy(io.Discard, stdout)
	return c.Process.Pid, nil
}

func (b *bench) stop() {
	for _, c := range b.children {
		_ = c.Process.Signal(syscall.SIGKILL)
		_ = c.Wait()
	}
}

// end ends the child that was started last.
func (b *bench) end() {
	last := len(b.children) - 1
	c := b.children[last]
	b.children = b.children[:last]
	_ = c.Process.Signal(syscall.SIGKILL)
	_ = c.Wait()
}

func freePorts(n int) ([]int, error) {
	var ports []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}

// cpuTime is the user and system time of processes, from /proc/PID/stat.
func cpuTime(pids []int) (time.Duration, error) {
	const tick = 10 * time.Millisecond // USER_HZ is 100 on Linux
	total := time.Duration(0)
	for _, pid := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return 0, err
		}
		f := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
		for _, n := range []int{11, 12} { // utime, stime
			ticks, err := strconv.Atoi(f[n])
			if err != nil {
				return 0, err
			}
			total += time.Duration(ticks) * tick
		}
	}
	return total, nil
}

// rss is the resident memory of a process, in bytes, and what of it is its own: not
// pages of files, which all processes share and the kernel can drop.
func rss(pid int) (all, own int, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, 0, err
	}
	var size, resident, shared int // pages; proc_pid_statm(5)
	if _, err := fmt.Sscan(string(text), &size, &resident, &shared); err != nil {
		return 0, 0, err
	}
	return resident * os.Getpagesize(), (resident - shared) * os.Getpagesize(), nil
}
