package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"dubbo.apache.org/dubbo-go/v3"
	"dubbo.apache.org/dubbo-go/v3/common/constant"
	"dubbo.apache.org/dubbo-go/v3/graceful_shutdown"
	"dubbo.apache.org/dubbo-go/v3/logger"
	"dubbo.apache.org/dubbo-go/v3/registry"
)

// settings are the flags of both roles.
type settings struct {
	role         string
	application  string
	registry     string
	registryType string
	cache        string
	iface        string
	group        string
	version      string
	params       params

	http     string
	logLevel string
	stopWait time.Duration

	// provider
	name       string
	ip         string
	port       int
	tellCaller bool

	// consumer
	url     string
	timeout time.Duration
	retries int
	calls   int
	every   time.Duration
}

// params is a repeatable flag k=v.
type params map[string]string

func (p params) String() string { return strings.Join(slices.Sorted(maps.Keys(p)), ",") }

func (p params) Set(s string) error {
	k, v, ok := strings.Cut(s, "=")
	if !ok || k == "" {
		return errors.New("want key=value")
	}
	p[k] = v
	return nil
}

func parse(args []string, errs io.Writer) (settings, error) {
	if len(args) == 0 || (args[0] != "provider" && args[0] != "consumer") {
		return settings{}, errors.New("want a role: app provider|consumer [flags]; app provider --help lists them")
	}
	s := settings{role: args[0], params: params{}}
	f := flag.NewFlagSet("app "+s.role, flag.ContinueOnError)
	f.SetOutput(errs)
	f.StringVar(&s.application, "application", "demo-"+s.role, "Dubbo application name")
	f.StringVar(&s.registry, "registry", "", "registry: mesh://127.0.0.1:20883, zookeeper://127.0.0.1:2181, nacos://127.0.0.1:8848")
	f.StringVar(&s.registryType, "registry-type", "interface", "interface, application or all")
	f.StringVar(&s.cache, "cache", "off", "mesh: directory for direct providers")
	f.StringVar(&s.iface, "interface", "org.example.GreetService", "interface of the service")
	f.StringVar(&s.group, "group", "", "group of the service")
	f.StringVar(&s.version, "version", "", "version of the service")
	f.Var(s.params, "param", "parameter of the service or reference, key=value; repeatable")
	f.StringVar(&s.http, "http", "127.0.0.1:0", "address of the remote control")
	f.StringVar(&s.logLevel, "log-level", "error", "level of dubbo-go's log")
	f.DurationVar(&s.stopWait, "stop-wait", 500*time.Millisecond, "how long to serve on after unregistering")
	switch s.role {
	case "provider":
		f.StringVar(&s.name, "name", "provider", "name in the answers")
		f.StringVar(&s.ip, "ip", "", "address to listen on and to register; empty: all, and the registry's choice")
		f.IntVar(&s.port, "port", 20880, "port to listen on")
		f.BoolVar(&s.tellCaller, "tell-caller", false, "the answers say from where the provider was called")
	case "consumer":
		f.StringVar(&s.url, "url", "", "call this URL, without a registry")
		f.DurationVar(&s.timeout, "timeout", 3*time.Second, "time-out of a call")
		f.IntVar(&s.retries, "retries", -1, "retries; -1: dubbo-go's default")
		f.IntVar(&s.calls, "calls", 0, "make so many calls, print them and exit")
		f.DurationVar(&s.every, "every", 0, "make a call so often, and print who answered and through which hops")
	}
	if err := f.Parse(args[1:]); err != nil {
		return settings{}, err
	}
	if f.NArg() > 0 {
		return settings{}, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	if s.registry == "" && s.url == "" {
		return settings{}, errors.New("want --registry")
	}
	return s, nil
}

// instance holds what both roles share in dubbo-go.
func instance(s settings, more ...dubbo.InstanceOption) (*dubbo.Instance, error) {
	o := []dubbo.InstanceOption{
		dubbo.WithName(s.application),
		dubbo.WithLogger(logger.WithZap(), logger.WithLevel(s.logLevel)),
		dubbo.WithShutdown(graceful_shutdown.WithoutInternalSignal(), graceful_shutdown.WithConsumerUpdateWaitTime(s.stopWait),
			graceful_shutdown.WithStepTimeout(2*time.Second), graceful_shutdown.WithOfflineRequestWindowTimeout(100*time.Millisecond)),
	}
	if s.registry != "" {
		r, err := registryOptions(s)
		if err != nil {
			return nil, err
		}
		o = append(o, dubbo.WithRegistry(r...))
	}
	return dubbo.NewInstance(append(o, more...)...)
}

// registryOptions takes the registry address apart: dubbo-go wants user,
// password and the root of interfaces (its "group") by themselves.
func registryOptions(s settings) ([]registry.Option, error) {
	level, ok := map[string]registry.Option{
		"interface": registry.WithRegisterInterface(), "application": registry.WithRegisterService(), "all": registry.WithRegisterServiceAndInterface(),
	}[s.registryType]
	if !ok {
		return nil, fmt.Errorf("--registry-type %q: want interface, application or all", s.registryType)
	}
	scheme, rest, ok := strings.Cut(s.registry, "://")
	if !ok {
		return nil, fmt.Errorf("--registry %q: want mesh://…, zookeeper://… or nacos://…", s.registry)
	}
	o := []registry.Option{level}
	if i := strings.LastIndexByte(rest, '@'); i >= 0 {
		user, password, _ := strings.Cut(rest[:i], ":")
		o, rest = append(o, registry.WithUsername(user), registry.WithPassword(password)), rest[i+1:]
	}
	if scheme == "mesh" {
		return append(o, registry.WithAddress(scheme+"://"+rest), registry.WithParams(map[string]string{"cache": s.cache})), nil
	}
	hosts, root, _ := strings.Cut(rest, "/")
	if root != "" {
		o = append(o, registry.WithGroup(root))
	}
	if scheme == "nacos" { // its SDK writes below the home directory unless it is told otherwise
		dir := filepath.Join(os.TempDir(), fmt.Sprintf("demo-nacos-%d", os.Getuid()))
		o = append(o, registry.WithParams(map[string]string{constant.NacosLogDirKey: dir, constant.NacosCacheDirKey: dir, constant.NacosLogLevelKey: "error"}))
	}
	return append(o, registry.WithAddress(scheme+"://"+hosts)), nil
}

func main() {
	// dubbo-go's console log writes to whatever os.Stdout is, and standard output
	// belongs to the lines that programs read.
	out := os.Stdout
	os.Stdout = os.Stderr
	s, err := parse(os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	if err == nil && s.role == "provider" {
		err = provide(ctx, s, out)
	} else if err == nil {
		err = consume(ctx, s, out)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "app:", err)
		os.Exit(1)
	}
}

// ready is the line that says how to reach the remote control.
type ready struct {
	Ready string `json:"ready"` // the role
	HTTP  string `json:"http"`
	Port  int    `json:"port,omitempty"`
	PID   int    `json:"pid"`
}

// control serves the remote control until ctx ends.
func control(ctx context.Context, s settings, out io.Writer, h http.Handler) error {
	l, err := net.Listen("tcp", s.http)
	if err != nil {
		return fmt.Errorf("remote control: %w", err)
	}
	server := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	if err := json.NewEncoder(out).Encode(ready{Ready: s.role, HTTP: l.Addr().String(), Port: s.port, PID: os.Getpid()}); err != nil {
		return err
	}
	<-ctx.Done()
	server.Close()
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// leave lets dubbo-go unregister, drain and end.
func leave() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := graceful_shutdown.Shutdown(ctx); err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	return nil
}
