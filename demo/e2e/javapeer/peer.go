package javapeer

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/meshferry/meshferry/internal/install"
	"github.com/meshferry/meshferry/internal/process"
)

// readyWithin bounds the start of a JVM on a busy machine; callWithin the wait
// for an answer beyond what a load takes by itself.
const (
	readyWithin = 3 * time.Minute
	callWithin  = 2 * time.Minute
)

// Options describe a process. One with a port is a provider; any can call.
type Options struct {
	Line        Line
	Dir         string // for its log and Dubbo's own files
	Application string // default: java-<line>
	Thin        bool   // with the two jars of sdk-lite/java; Registry is "mesh://127.0.0.1:20883"

	// Registry is what Dubbo is told: "zookeeper://127.0.0.1:2181?register-mode=instance".
	// Empty: none; a consumer then needs URL.
	Registry   string
	Params     map[string]string // parameters of the service and of references
	Env        []string          // NAME=value, beside those of this process
	Properties map[string]string // -D: "dubbo.application.service-discovery.migration": "FORCE_APPLICATION"

	// Provider. Java binds all addresses and refuses to register a loopback one.
	Port           int
	Name           string // in its answers
	Group, Version string
	More           []Service // beside the one of Group and Version
	Features       bool      // also FeatureService and FollowService, each for every Service

	// Consumer.
	URL     string // call this, without a registry: "dubbo://[::ffff:127.0.0.1]:20881"
	Timeout time.Duration
	Retries *int // nil: Dubbo's default, 2
}

// Service is one more export of the greeting service.
type Service struct {
	Group   string            `json:"group,omitempty"`
	Version string            `json:"version,omitempty"`
	Params  map[string]string `json:"params,omitempty"`
}

// settings is what Peer.java reads.
type settings struct {
	Application string            `json:"application"`
	Registry    string            `json:"registry,omitempty"`
	Params      map[string]string `json:"params,omitempty"`
	Port        int               `json:"port,omitempty"`
	Name        string            `json:"name,omitempty"`
	Services    []Service         `json:"services"`
	Features    bool              `json:"features"`
	URL         string            `json:"url,omitempty"`
	Timeout     int64             `json:"timeout"` // ms
	Retries     *int              `json:"retries,omitempty"`
}

// Call is what to call, and how often.
type Call struct {
	Method         string `json:"method"` // sayHello, slow, fail or echo; default sayHello
	Arg            string `json:"arg"`    // default "world"; slow: milliseconds, echo: bytes
	N              int    `json:"n"`      // one after the other; default 1
	Group, Version string `json:",omitempty"`
}

// Entry is one call of a ledger. Times are milliseconds.
type Entry struct {
	N             int
	At, MS        float64 // when it began, after the first; how long it took
	OK            bool
	Answer, Error string
	Cause         string // the error at the root
}

// Stats is what a provider counted.
type Stats struct {
	Name        string
	Calls       map[string]int // by method
	Connections int            // distinct ones that carried a call
	Peers       []string       // their far ends

	Serializations map[string]int // calls by the number of their serialization; "2" is hessian2, "23" fastjson2
}

// Peer is a running process. Its methods may be called from any goroutine.
type Peer struct {
	// immutable after Run
	*process.Process
	log string

	mu      sync.Mutex
	in      io.Writer              // guarded by mu
	next    int                    // guarded by mu
	waiting map[int]chan<- message // guarded by mu; nil when it has ended
}

// message is one line of its standard output.
type message struct {
	ID    int
	Ready bool
	Error string
	Calls []Entry
	Stats Stats
	Text  string
}

// Start runs a peer until the test ends. Its log is shown if the test fails.
func Start(t testing.TB, o Options) *Peer {
	t.Helper()
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	p, err := Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("Java Dubbo %s logged:\n%s", o.Line, p.Log())
		}
	})
	return p
}

// Run installs if need be, starts a process and waits until it is ready: a
// provider has registered. ctx bounds the start only.
func Run(ctx context.Context, o Options) (*Peer, error) {
	classPath, err := Install(ctx, o.Line)
	if err == nil && o.Thin {
		var jars string
		jars, err = install.Project(ctx, "sdk-lite-java", "sdk-lite/java")
		classPath += ":" + jars + "/meshferry-client/*:" + jars + "/meshferry-dubbo/*"
	}
	if err != nil {
		return nil, err
	}
	p := &Peer{log: filepath.Join(o.Dir, "java.log"), waiting: map[int]chan<- message{}}
	ready := make(chan message, 1)
	p.waiting[0] = ready
	if err := p.launch(o, classPath); err != nil {
		return nil, fmt.Errorf("start Java Dubbo %s: %w", o.Line, err)
	}
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	if m, err := p.wait(ctx, ready); err != nil || !m.Ready {
		p.Kill()
		return nil, fmt.Errorf("start Java Dubbo %s: %w\n%s", o.Line, errors.Join(err, errors.New("it is not ready")), p.Log())
	}
	return p, nil
}

// arguments of the JVM. Dubbo's serializers look into classes of the JDK.
func arguments(o Options, classPath string) ([]string, error) {
	s := settings{o.Application, o.Registry, o.Params, o.Port, o.Name, append([]Service{{Group: o.Group, Version: o.Version}}, o.More...), o.Features, o.URL, o.Timeout.Milliseconds(), o.Retries}
	if s.Application == "" {
		s.Application = "java-" + string(o.Line)
	}
	if s.Timeout == 0 {
		s.Timeout = 3000
	}
	text, err := json.Marshal(s)
	if err != nil {
		return nil, err
	}
	// The compiler's second stage costs more than it brings in a short life.
	args := []string{"-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Duser.home=" + o.Dir,
		"-Ddubbo.application.logger=slf4j", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dorg.slf4j.simpleLogger.showDateTime=true",
		"-Ddubbo.application.qos-enable=false"} // its port is the same for all
	for _, pkg := range []string{"lang", "util", "math", "time"} {
		args = append(args, "--add-opens=java.base/java."+pkg+"=ALL-UNNAMED")
	}
	for k, v := range o.Properties {
		args = append(args, "-D"+k+"="+v)
	}
	return append(args, "-cp", classPath, "org.example.Peer", string(text)), nil
}

func (p *Peer) launch(o Options, classPath string) error {
	args, err := arguments(o, classPath)
	if err != nil {
		return err
	}
	log, err := os.Create(p.log)
	if err != nil {
		return err
	}
	defer log.Close() // the process has its own
	cmd := exec.Command("java", args...)
	cmd.Dir, cmd.Stderr = o.Dir, log
	cmd.Env = append(os.Environ(), o.Env...)
	if p.in, err = cmd.StdinPipe(); err != nil {
		return err
	}
	out, in := io.Pipe()
	cmd.Stdout = in
	if p.Process, err = process.Start(cmd); err != nil {
		return err
	}
	go func() {
		<-p.Gone()
		in.Close()
	}()
	go p.read(out)
	return nil
}

// read hands lines to those who wait for them, until there are no more.
func (p *Peer) read(out io.Reader) {
	for lines := bufio.NewReader(out); ; {
		line, err := lines.ReadBytes('\n')
		var m message
		if err == nil && json.Unmarshal(line, &m) == nil {
			p.mu.Lock()
			if who := p.waiting[m.ID]; who != nil {
				who <- m
				delete(p.waiting, m.ID)
			}
			p.mu.Unlock()
		}
		if err != nil {
			break
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, who := range p.waiting {
		close(who)
	}
	p.waiting = nil
}

func (p *Peer) wait(ctx context.Context, answer <-chan message) (message, error) {
	select {
	case m, ok := <-answer:
		switch {
		case !ok:
			return m, errors.New("it has ended")
		case m.Error != "":
			return m, errors.New(m.Error)
		}
		return m, nil
	case <-ctx.Done():
		return message{}, fmt.Errorf("no answer: %w", ctx.Err())
	}
}

// ask sends one line and waits for its answer.
func (p *Peer) ask(ctx context.Context, what string, request map[string]any) (message, error) {
	answer := make(chan message, 1)
	p.mu.Lock()
	p.next++
	request["id"], request["do"] = p.next, what
	text, err := json.Marshal(request)
	if err == nil && p.waiting == nil {
		err = errors.New("it has ended")
	}
	if err == nil {
		p.waiting[p.next] = answer
		if _, err = p.in.Write(append(text, '\n')); err != nil {
			err = fmt.Errorf("it has ended: %w", err) // and read has not noticed yet
		}
	}
	p.mu.Unlock()
	if err != nil {
		return message{}, fmt.Errorf("java %s: %w", what, err)
	}
	m, err := p.wait(ctx, answer)
	if err != nil {
		return m, fmt.Errorf("java %s: %w", what, err)
	}
	return m, nil
}

func (c Call) request() map[string]any {
	r := map[string]any{"method": c.Method, "arg": c.Arg, "n": max(c.N, 1), "group": c.Group, "version": c.Version}
	if c.Method == "" {
		r["method"] = "sayHello"
	}
	if c.Arg == "" {
		r["arg"] = "world"
	}
	return r
}

// Call makes calls one after the other. An error means that the process could not
// be asked; a call that failed is an entry.
func (p *Peer) Call(ctx context.Context, c Call) ([]Entry, error) {
	ctx, cancel := context.WithTimeout(ctx, callWithin)
	defer cancel()
	m, err := p.ask(ctx, "call", c.request())
	return m.Calls, err
}

// Load begins rate calls a second for a time, whether or not earlier ones have
// been answered, and waits for all.
func (p *Peer) Load(ctx context.Context, c Call, rate int, length time.Duration) ([]Entry, error) {
	ctx, cancel := context.WithTimeout(ctx, length+callWithin)
	defer cancel()
	r := c.request()
	r["rate"], r["ms"] = rate, length.Milliseconds()
	m, err := p.ask(ctx, "load", r)
	return m.Calls, err
}

// Stats asks a provider what it counted.
func (p *Peer) Stats(ctx context.Context) (Stats, error) {
	ctx, cancel := context.WithTimeout(ctx, callWithin)
	defer cancel()
	m, err := p.ask(ctx, "stats", map[string]any{})
	return m.Stats, err
}

// Use makes one use of FeatureService or FollowService (see Uses.java) and gives
// the text that it comes to.
func (p *Peer) Use(ctx context.Context, what, group, version string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callWithin)
	defer cancel()
	m, err := p.ask(ctx, "use", map[string]any{"what": what, "group": group, "version": version})
	return m.Text, err
}

// Log is its standard error so far: warnings and errors of Dubbo.
func (p *Peer) Log() string {
	text, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// Stop lets Dubbo unregister, drain and end. It says when that takes too long.
func (p *Peer) Stop() error {
	if !p.Process.Stop(callWithin) {
		return fmt.Errorf("the JVM did not stop within %v", callWithin)
	}
	return nil
}
