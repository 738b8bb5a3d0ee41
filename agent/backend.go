package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"github.com/meshferry/meshferry/agent/config"
	"github.com/meshferry/meshferry/agent/discovery"
	"github.com/meshferry/meshferry/agent/metadata"
	"github.com/meshferry/meshferry/agent/reconcile"
	"github.com/meshferry/meshferry/agent/state"
	"github.com/meshferry/meshferry/registry"
	"github.com/meshferry/meshferry/registry/local"
	"github.com/meshferry/meshferry/registry/nacos"
	"github.com/meshferry/meshferry/registry/zookeeper"
	"github.com/meshferry/meshferry/rewrite"
)

// ended is a registry whose session can be ended for good.
type ended interface {
	registry.Registry
	End(ctx context.Context) error
}

// endless is a registry in which everything of ours dies with the process.
type endless struct{ registry.Registry }

func (endless) End(context.Context) error { return nil }

// backend is one registry with the loop that keeps it.
type backend struct {
	name     string
	url      string // without user and password
	registry ended
	loop     *reconcile.Loop
	ctx      context.Context // of both; ends when the registry is taken out
	cancel   context.CancelFunc
}

// groups are what a running agent consists of. Registries end last: a session can
// be ended only while they run.
type groups struct{ parts, registries running }

// start runs a registry and its loop.
func (g *groups) start(b *backend) {
	g.registries.run("registry "+b.name, b.within(b.registry.Run))
	g.parts.run("reconcile "+b.name, b.within(b.loop.Run))
}

func (b *backend) within(part func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(b.ctx, cancel)()
		return part(ctx)
	}
}

func named(list []*backend) []discovery.Named {
	registries := make([]discovery.Named, len(list))
	for i, b := range list {
		registries[i] = discovery.Named{Name: b.name, Registry: b.registry}
	}
	return registries
}

// advertises tells whether the registry lists anything of this agent, as far as is
// known.
func (b *backend) advertises() bool {
	for _, p := range b.loop.State().Load().Publications {
		if len(p.Advertised) > 0 {
			return true
		}
	}
	return false
}

// The write budget of one registry: 20 a second after a burst of 100, so that a
// registry that comes back is not run over by every agent of the fleet.
const (
	writesPerSecond = 20
	writesBurst     = 100
)

// open makes the client of one registry and its loop. It does not connect.
func (a *Agent) open(cfg config.Config, r config.Registry) (*backend, error) {
	address := cfg.AddressFor(r.Name)
	hostID := rewrite.HostID(machineID(), net.JoinHostPort(address, fmt.Sprint(a.inbound)))
	client, err := a.client(r, hostID)
	if err != nil {
		return nil, fmt.Errorf("registry %s: %w", r.Name, err)
	}
	e, ok := client.(ended)
	if !ok {
		e = endless{client}
	}
	b := &backend{name: r.Name, url: r.URL, registry: e}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	b.loop = reconcile.New(reconcile.Options{
		Name:      r.Name,
		Registry:  client,
		Workloads: a.workloads.View(),
		Address:   rewrite.Address{Host: address, Port: a.inbound, Caps: "1"},
		Ports:     a.listeners.extraPorts(),
		HostID:    hostID,
		Mode:      func(s registry.Service) reconcile.Mode { return reconcile.Mode(a.config.Load().PublishMode(s)) },
		Models:    cfg.Publish.Models,
		Log:       a.log.With("part", "reconcile"),
	})
	return b, nil
}

func (a *Agent) client(r config.Registry, hostID string) (registry.Registry, error) {
	return openRegistry(r, hostID, a.log.With("registry", r.Name), &writing{
		session: session{state.File{Path: a.sessionFile(r.Name)}}, metadata: session{state.File{Path: a.metadataFile(r.Name)}},
		writes: rate.NewLimiter(writesPerSecond, writesBurst),
	})
}

// writing is what a client needs to publish.
type writing struct {
	session, metadata session
	writes            *rate.Limiter
}

// OpenReader makes a client of a registry that publishes nothing. It does not
// connect.
func OpenReader(r config.Registry, log *slog.Logger) (registry.Registry, error) {
	return openRegistry(r, "reader", log, nil)
}

func openRegistry(r config.Registry, hostID string, log *slog.Logger, w *writing) (registry.Registry, error) {
	switch r.Backend {
	case "zookeeper":
		o, err := zookeeper.ParseURL(r.URL)
		if err != nil {
			return nil, err
		}
		if o.User, o.Password, err = r.Credentials(); err != nil {
			return nil, err
		}
		if w != nil {
			o.Session, o.Writes = w.session, w.writes
		}
		o.HostID, o.Metadata, o.Log = hostID, metadata.Fetch, log
		return zookeeper.New(o)
	case "nacos":
		o, err := nacos.ParseURL(r.URL)
		if err != nil {
			return nil, err
		}
		if o.User, o.Password, err = r.Credentials(); err != nil {
			return nil, err
		}
		if w != nil {
			o.Store, o.Writes = w.metadata, w.writes
		}
		o.HostID, o.Metadata, o.Log = hostID, metadata.Fetch, log
		return nacos.New(o)
	case "local":
		dir, err := local.ParseURL(r.URL)
		if err != nil {
			return nil, err
		}
		return local.New(local.Options{Dir: dir, HostID: hostID, Log: log})
	}
	return nil, fmt.Errorf("no backend %q in this version", r.Backend)
}

// exchange takes out the registries that next does not name, and takes in those
// that are new. It gives the names of new ones that cannot be opened.
func (a *Agent) exchange(next config.Config) (failed []string) {
	before := *a.backends.Load()
	var list, added []*backend
	for _, r := range next.Registries {
		i := slices.IndexFunc(before, func(b *backend) bool { return b.name == r.Name })
		if i >= 0 {
			list = append(list, before[i])
			continue
		}
		b, err := a.open(next, r)
		if err != nil {
			a.log.Error("registry cannot be added", "registry", r.Name, "err", err)
			failed = append(failed, r.Name)
			continue
		}
		list, added = append(list, b), append(added, b)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.groups == nil {
		return failed // Run has not begun, or ends: too early or too late for changes
	}
	a.backends.Store(&list)
	a.discovery.SetRegistries(named(list))
	for _, b := range added {
		a.log.Info("registry added", "registry", b.name, "url", b.url)
		a.groups.start(b)
	}
	for _, b := range before {
		if !slices.Contains(list, b) {
			a.groups.parts.run("registry "+b.name+" leaves", func(ctx context.Context) error { a.leave(ctx, b, list); return nil })
		}
	}
	return failed
}

// othersMost is how long a registry that is taken out still lists this host's
// providers while the others do not yet.
const othersMost = 30 * time.Second

// leave takes what this agent has written out of a registry once the others hold
// it, and ends its session.
func (a *Agent) leave(ctx context.Context, b *backend, others []*backend) {
	defer b.cancel()
	a.log.Info("registry leaves: waiting until the others list what it lists", "registry", b.name)
	wait, cancel := context.WithTimeout(ctx, othersMost)
	defer cancel()
	for _, o := range others {
		for {
			state, changed := o.loop.State().Watch()
			if state.InSync {
				break
			}
			select {
			case <-changed:
				continue
			case <-wait.Done():
				a.log.Warn("a registry is taken out although another does not list everything", "registry", b.name, "other", o.name)
			}
			break
		}
	}
	a.withdraw(b)
	a.endSession(context.WithoutCancel(ctx), b)
	a.log.Info("registry left", "registry", b.name)
}

// withdraw takes what this agent has written out of a registry.
func (a *Agent) withdraw(b *backend) {
	timeout, listed := withdrawTimeout, b.advertises()
	if b.registry.Status().State != registry.Connected {
		timeout = awayTimeout
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if err := b.loop.Withdraw(ctx); err != nil && listed {
		a.log.Warn("registry still lists this host's providers; they go with the session", "registry", b.name, "err", err)
	}
}

// endSession gives up what a registry keeps of this agent for a restart.
func (a *Agent) endSession(ctx context.Context, b *backend) {
	if b.registry.Status().Session == "" {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, endTimeout)
	defer cancel()
	if err := b.registry.End(ctx); err != nil {
		a.log.Warn("registry session could not be ended; it expires by itself", "registry", b.name, "err", err)
	}
}

// session keeps what a backend needs to resume its session.
type session struct{ file state.File }

func (s session) Load() ([]byte, error) {
	var b []byte
	err := s.file.Load(&b)
	return b, err
}

func (s session) Save(b []byte) error { return s.file.Save(b) }
