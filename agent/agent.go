// Package agent puts the parts together: it builds them from a configuration,
// runs them, and stops them in the order that loses no call.
//
// Invariants:
//   - Listeners are open before any registry is asked for anything. A registry
//     that is away delays nothing else.
//   - Data flows one way: api → workload → reconcile → registry for what is
//     published, registry → discovery → route → proxy for what is called. What
//     local applications asked for reaches route through Agent.project only.
//   - No part knows how another is started; each long-lived one has Run(ctx).
package agent

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meshferry/meshferry/agent/admin"
	"github.com/meshferry/meshferry/agent/api"
	"github.com/meshferry/meshferry/agent/config"
	"github.com/meshferry/meshferry/agent/discovery"
	"github.com/meshferry/meshferry/agent/peercred"
	"github.com/meshferry/meshferry/agent/proxy"
	"github.com/meshferry/meshferry/agent/resolve"
	"github.com/meshferry/meshferry/agent/route"
	"github.com/meshferry/meshferry/agent/workload"
	"github.com/meshferry/meshferry/agent/xds"
	"github.com/meshferry/meshferry/registry"
	"github.com/meshferry/meshferry/rewrite"
)

// Agent is one agent, built and not yet running.
type Agent struct {
	// immutable after New
	log       *slog.Logger
	lock      *os.File
	listeners listeners
	inbound   int // port
	workloads *workload.Store
	discovery *discovery.Source
	rules     route.RuleSource // nil: no control plane is configured
	router    *route.Router
	proxy     *proxy.Proxy
	api       *api.Server

	config    atomic.Pointer[config.Config] // what the agent runs with; Reload replaces it
	backends  atomic.Pointer[[]*backend]    // in the order of the configuration; Reload replaces them
	inboundAt atomic.Pointer[[]string]      // where registries list the inbound listeners; Reload replaces it
	stopping  atomic.Bool

	mu     sync.Mutex
	groups *groups // guarded by mu; nil: Run has not begun, or ends
}

type listeners struct {
	outbound, inbound, control, socket, mosn net.Listener

	extra []extra
}

func (l listeners) all() (list []net.Listener) {
	for _, one := range []net.Listener{l.outbound, l.inbound, l.control, l.socket, l.mosn} {
		if one != nil {
			list = append(list, one)
		}
	}
	for _, x := range l.extra {
		list = append(list, x.Listener)
	}
	return list
}

// New opens the state directory and the listeners and builds the parts. It asks
// no registry. On an error nothing stays open. version is shown in status.
func New(cfg config.Config, version string, log *slog.Logger) (_ *Agent, err error) {
	a := &Agent{log: log}
	a.config.Store(&cfg)
	defer func() {
		if err != nil {
			a.close()
		}
	}()
	if a.lock, err = lockDir(cfg.StateDir); err != nil {
		return nil, err
	}
	if err := a.listen(cfg); err != nil {
		return nil, err
	}
	inbound, err := netip.ParseAddrPort(a.listeners.inbound.Addr().String())
	if err != nil {
		return nil, err
	}
	a.inbound = int(inbound.Port())
	at := a.advertised(cfg)
	a.inboundAt.Store(&at)
	outbound, err := netip.ParseAddrPort(a.listeners.outbound.Addr().String())
	if err != nil {
		return nil, err
	}
	a.workloads, err = workload.Open(workload.Options{
		Dir:      cfg.StateDir,
		Probe:    workload.ProbeSettings(cfg.Probe),
		Limits:   workload.Limits{Workloads: cfg.Limits.Workloads, Publications: cfg.Limits.Publications, Subscriptions: cfg.Limits.Subscriptions},
		OwnPorts: a.ownPorts(),
		Own:      a.own(),
		Log:      log.With("part", "workload"),
	})
	if err != nil {
		return nil, err
	}
	if err := a.workloads.SetStatic(statics(cfg.Static)); err != nil {
		return nil, fmt.Errorf("inbound.static: %w", err)
	}
	if err := a.openRegistries(cfg); err != nil {
		return nil, err
	}
	if err := a.openRules(cfg, int(outbound.Port())); err != nil {
		return nil, err
	}
	routes := route.Options{
		Sources: []route.Source{a.discovery},
		Inbound: a.advertisedAt,
		Policy:  func(s registry.Service) string { return a.config.Load().LoadBalance(s) },
		Registry: func(name string) route.Share {
			weight, preferred := a.config.Load().Share(name)
			return route.Share{Weight: weight, Preferred: preferred}
		},
		Log: log.With("part", "route"),

		Applications: a.listeners.withOwnPort(),
	}
	if a.rules != nil {
		routes.Rules = resolve.New(resolve.Options{Rules: a.rules, Log: log.With("part", "resolve")})
		routes.Host, routes.Routing = rewrite.Host, a.routing
	}
	a.router = route.New(routes)
	a.proxy, err = proxy.New(proxy.Options{
		Router:        a.router,
		Outbound:      []net.Listener{a.listeners.outbound},
		Inbound:       []net.Listener{a.listeners.inbound},
		Extra:         a.listeners.proxied(),
		Host:          cfg.Address,
		Readonly:      a.workloads.Readonly,
		Lost:          a.workloads.Suspect,
		Refused:       a.discovery.Refused,
		Process:       func(remote, local net.Addr) int { return peercred.TCP(remote, local).PID },
		MaxBody:       cfg.Limits.Frame,
		MaxDownstream: cfg.Limits.Connections,
		MaxInFlight:   cfg.Limits.InFlight,
		QueueBytes:    cfg.Limits.Queue,
		MemoryBytes:   cfg.Limits.Memory,
		Log:           log.With("part", "proxy"),
	})
	if err != nil {
		return nil, err
	}
	boot := rand.Text()
	o := api.Options{
		Agent:     boot,
		Version:   version,
		Address:   net.JoinHostPort(cfg.Address, fmt.Sprint(a.inbound)),
		Extra:     a.listeners.advertisedExtra(cfg.Address),
		Inbound:   a.advertisedAt,
		Listeners: []net.Listener{a.listeners.control},
		Workloads: a.workloads,
		Routes:    a.router,
		Outbound:  outbound,
		Draining:  a.stopping.Load,
		TokenFile: cfg.Listeners.ControlTokenFile,
		Registries: func() (list []api.Registry) {
			for _, b := range *a.backends.Load() {
				list = append(list, api.Registry{Name: b.name, URL: b.url, Status: b.registry.Status, State: b.loop.State()})
			}
			return list
		},
		Limits: api.Limits{Working: cfg.Limits.Requests, Held: cfg.Limits.HeldRequests,
			Rate: float64(cfg.Limits.RequestRate), Burst: cfg.Limits.RequestBurst},
		Log: log.With("part", "api"),
	}
	if a.listeners.socket != nil {
		o.Listeners = append(o.Listeners, a.listeners.socket)
	}
	if a.listeners.mosn != nil {
		o.Mosn = &api.Mosn{Listeners: []net.Listener{a.listeners.mosn}, ProviderPort: cfg.Compat.Mosn.ProviderPort, Registry: cfg.Compat.Mosn.Registry}
	}
	watched := admin.Options{
		Version:   version,
		Routes:    a.router,
		Counters:  a.proxy.Counters,
		Workloads: a.workloads.View(),
		Discovery: a.discovery.Statuses,
		NotReady:  a.notReady,
		Registries: func() (list []admin.Registry) {
			for _, b := range *a.backends.Load() {
				list = append(list, admin.Registry{Name: b.name, Status: b.registry.Status, State: b.loop.State()})
			}
			return list
		},
	}
	if source, ok := a.rules.(*xds.Source); ok {
		watched.XDS, o.XDS = source, source.Status
	}
	o.Admin = admin.New(watched)
	if a.api, err = api.New(o); err != nil {
		return nil, err
	}
	return a, nil
}

func (a *Agent) listen(cfg config.Config) (err error) {
	l := &a.listeners
	if l.outbound, err = listen("outbound", "--outbound", cfg.Listeners.Outbound); err != nil {
		return err
	}
	if l.inbound, err = listen("inbound", "--inbound", cfg.Listeners.Inbound); err != nil {
		return err
	}
	if err = l.openExtra(cfg); err != nil {
		return err
	}
	if l.control, err = listen("control", "--control", cfg.Listeners.Control); err != nil {
		return err
	}
	if path := cfg.Listeners.ControlSocket; path != "" {
		if l.socket, err = listenUnix(path); err != nil {
			return err
		}
	}
	if address := cfg.Compat.Mosn.Listen; address != "" {
		if l.mosn, err = listen("MOSN-compatible", "compat.mosn.listen", address); err != nil {
			return err
		}
	}
	return nil
}

// ownPorts are the ports of this agent's listeners: nobody may publish them, or a
// call would go round in circles.
func (a *Agent) ownPorts() (ports []int) {
	for _, l := range a.listeners.all() {
		if t, ok := l.Addr().(*net.TCPAddr); ok {
			ports = append(ports, t.Port)
		}
	}
	return ports
}

func (a *Agent) openRegistries(cfg config.Config) error {
	list := []*backend{}
	for _, r := range cfg.Registries {
		b, err := a.open(cfg, r)
		if err != nil {
			return err
		}
		list = append(list, b)
	}
	a.backends.Store(&list)
	a.discovery = discovery.New(discovery.Options{
		Registries: named(list),
		Dir:        cfg.StateDir,
		Protection: protection(cfg.Protection),
		Leaving:    a.stopping.Load,
		Log:        a.log.With("part", "discovery"),
	})
	return nil
}

// machineID is the host's own id, or its name where it has none.
func machineID() string {
	if id, err := os.ReadFile("/etc/machine-id"); err == nil && len(strings.TrimSpace(string(id))) > 0 {
		return strings.TrimSpace(string(id))
	}
	name, _ := os.Hostname()
	return name
}

// Run works until ctx ends and then stops in order (DESIGN §8): not ready,
// withdraw, wait until consumers have noticed, READONLY on the inbound side, drain
// on both, close. It returns nil after an orderly stop.
func (a *Agent) Run(ctx context.Context) error {
	defer a.close()
	a.announce()

	// Registries end last: a session can be ended only while it runs. ctx asks for
	// an orderly stop, so no part hangs on it directly.
	background := context.WithoutCancel(ctx)
	parts, partFailed := group(background)
	registries, registryFailed := group(background)
	parts.run("workloads", a.workloads.Run)
	parts.run("routes", a.router.Run)
	parts.run("projection", a.project)
	parts.run("proxy", func(ctx context.Context) error {
		a.awaitLocal(ctx)
		return a.proxy.Run(ctx)
	})
	parts.run("control API", a.api.Run)
	a.mu.Lock()
	a.groups = &groups{parts, registries}
	for _, b := range *a.backends.Load() {
		a.groups.start(b)
	}
	a.mu.Unlock()
	orderly := false
	select {
	case <-partFailed:
	case <-registryFailed:
	case <-ctx.Done():
		orderly = true
	}
	a.mu.Lock()
	a.groups = nil // no registry comes or goes any more
	a.mu.Unlock()
	if orderly {
		a.stop()
	}
	err := parts.end()
	if orderly {
		a.endSessions(background)
	}
	if err = errors.Join(err, registries.end()); err == nil {
		a.log.Info("agent stopped")
	}
	return err
}

// announce says how the agent runs, and what looks wrong about it.
func (a *Agent) announce() {
	cfg := a.config.Load()
	for _, w := range cfg.Warnings {
		a.log.Warn(w)
	}
	if a.rules == nil {
		for _, s := range cfg.Services {
			if s.Routing != "" && s.Routing != string(route.FromRegistry) {
				a.log.Warn("services.routing names xds, and there is no xDS server: the registries decide", "match", s.Match)
			}
		}
	}
	if ip, err := netip.ParseAddr(cfg.Address); err == nil && !ours(ip) {
		a.log.Warn("the advertised address is none of this machine's: others reach this agent only if something forwards to it", "address", cfg.Address)
	}
	var registries []string
	for _, r := range cfg.Registries {
		registries = append(registries, r.Name+"="+r.URL)
	}
	a.log.Info("agent runs", "address", net.JoinHostPort(cfg.Address, fmt.Sprint(a.inbound)), "outbound", a.listeners.outbound.Addr().String(),
		"inbound", a.listeners.inbound.Addr().String(), "control", a.listeners.control.Addr().String(), "socket", cfg.Listeners.ControlSocket,
		"state", cfg.StateDir, "registries", strings.Join(registries, " "))
	for _, x := range a.listeners.advertisedExtra(cfg.Address) {
		a.log.Info("an application has an inbound port of its own", "application", x.Application, "address", x.Address)
	}
}

// running is a group of parts that end together.
type running struct {
	*errgroup.Group
	ctx    context.Context
	cancel context.CancelFunc
}

// group gives one and when it ends because a part of it failed.
func group(ctx context.Context) (_ running, failed <-chan struct{}) {
	ctx, cancel := context.WithCancel(ctx)
	g, ctx := errgroup.WithContext(ctx)
	return running{g, ctx, cancel}, ctx.Done()
}

func (r running) run(what string, part func(context.Context) error) {
	r.Go(func() error {
		if err := part(r.ctx); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		return nil
	})
}

func (r running) end() error {
	r.cancel()
	return r.Wait()
}

// endSessions gives up what registries keep of this agent for a restart. After a
// failure they keep it: the next process resumes.
func (a *Agent) endSessions(ctx context.Context) {
	for _, b := range *a.backends.Load() {
		a.endSession(ctx, b)
	}
}

// How long a stop waits for registries.
const (
	withdrawTimeout = 5 * time.Second
	awayTimeout     = time.Second // of withdrawTimeout, for one that is away already
	endTimeout      = 2 * time.Second
)

// stop brings calls to an end while everything still works.
func (a *Agent) stop() {
	a.stopping.Store(true)
	a.log.Info("agent stops: withdrawing")
	advertised := false
	var g errgroup.Group
	for _, b := range *a.backends.Load() {
		advertised = advertised || b.advertises()
		g.Go(func() error { a.withdraw(b); return nil })
	}
	_ = g.Wait() // none errs
	stop := a.config.Load().Stop
	if advertised {
		a.log.Info("waiting until consumers have noticed", "for", stop.NotifyWait)
		time.Sleep(stop.NotifyWait)
	}
	ctx, cancel := context.WithTimeout(context.Background(), stop.Drain)
	defer cancel()
	if err := a.proxy.Drain(ctx); err != nil {
		a.log.Warn("calls are cut", "err", err)
	}
}

// project gives what local applications asked for to the data plane: publications
// are what the inbound side may dial, subscriptions are what is looked for.
func (a *Agent) project(ctx context.Context) error {
	for {
		view, changed := a.workloads.View().Watch()
		var locals []route.Local
		for _, p := range view.Publications {
			if local, ok := localOf(p, a.config.Load().Address); ok {
				locals = append(locals, local)
			}
		}
		for _, s := range view.Static {
			locals = append(locals, staticLocals(s, a.config.Load().Address)...)
		}
		holders := map[string]int{} // by workload: process
		for _, l := range view.Leases {
			if l.State == workload.LeaseHeld || l.State == workload.LeaseRenewed {
				holders[l.Workload] = l.Owner.PID
			}
		}
		callers := make([]route.Caller, 0, len(view.Subscriptions))
		wanted := make([]string, 0, len(view.Subscriptions))
		for _, s := range view.Subscriptions {
			if s.Protocol == workload.ProviderRules {
				continue // nothing is called
			}
			callers = append(callers, route.Caller{Application: s.URL.Param("application"), Service: s.Service, Protocol: s.Protocol, URL: s.URL, PID: callerPID(s.Owner, holders[s.Workload])})
			wanted = append(wanted, s.Service.Interface)
		}
		wanted = append(wanted, besideAdopted(locals)...)
		a.router.SetLocal(locals)
		a.router.SetCallers(callers)
		a.discovery.SetWanted(wanted)
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// callerPID is the process that calls for a subscription, 0 if it is not known: who
// holds the lease, else who subscribed.
func callerPID(o workload.Owner, holder int) int {
	if holder > 0 {
		return holder
	}
	return max(o.PID, 0)
}

// awaitLocal waits until the data plane knows the local providers that were kept on
// disk, at most firstProbes: whoever connects first after a restart waits that long
// in the listener's queue instead of being refused.
func (a *Agent) awaitLocal(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, firstProbes)
	defer cancel()
	for {
		view, viewed := a.workloads.View().Watch()
		snap, compiled := a.router.Changes().Watch()
		if knowsLocal(snap, view) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-viewed:
		case <-compiled:
		}
	}
}

const firstProbes = time.Second

func knowsLocal(snap *route.Snapshot, view *workload.View) bool {
	for _, p := range view.Publications {
		if p.Reason == workload.ReasonSettling || p.Live && p.Protocol == "dubbo" && snap.Inbound.Lookup([]byte(p.Path), []byte(p.Service.Version)) == nil {
			return false
		}
	}
	return len(view.Static) == 0 || snap.Adopts()
}

// localOf is a publication as the inbound side sees it. One that said READONLY is
// withdrawn from registries, but calls that still come go to it (CONTRACT §7).
func localOf(p workload.Publication, host string) (route.Local, bool) {
	if !p.Live && p.Reason != workload.ReasonReadonly || p.Address == "" {
		return route.Local{}, false
	}
	u := rewrite.Canonical(p.URL, host)
	return route.Local{
		Address: p.Address, Application: u.Param("application"), Workload: p.Workload, Protocol: p.Protocol,
		Service: p.Service, Path: p.Path, URL: u, Readonly: !p.Live,
	}, true
}

// routing is who decides about calls of a service, where there are rules.
func (a *Agent) routing(s registry.Service) route.Routing {
	return route.Routing(cmp.Or(a.config.Load().Routing(s), string(route.FromXDSThenRegistry)))
}

// notReady lists why this agent should get no new work. The listeners are open
// since New; a registry that is away is no reason as long as something is known.
func (a *Agent) notReady() (why []string) {
	if a.stopping.Load() {
		why = append(why, "stopping")
	}
	for _, b := range *a.backends.Load() {
		if s := b.loop.State().Load(); s.LastCompare.IsZero() && s.Err == "" {
			why = append(why, "registry "+b.name+" was not asked yet")
		}
	}
	return why
}

// close releases what New opened and no part has closed.
func (a *Agent) close() {
	for _, l := range a.listeners.all() {
		if err := l.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			a.log.Debug("close listener", "err", err)
		}
	}
	if a.lock != nil {
		a.lock.Close()
	}
}

// metadataFile is where a registry's backend keeps what it wrote of metadata.
func (a *Agent) metadataFile(name string) string {
	return filepath.Join(a.config.Load().StateDir, "metadata-"+name+".state")
}

// sessionFile is where the session of a registry is kept.
func (a *Agent) sessionFile(name string) string {
	return filepath.Join(a.config.Load().StateDir, "session-"+name+".state")
}
