package nacos

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nacos-group/nacos-sdk-go/v2/common/remote/rpc/rpc_request"
	"github.com/nacos-group/nacos-sdk-go/v2/common/remote/rpc/rpc_response"
	"github.com/nacos-group/nacos-sdk-go/v2/model"
	"golang.org/x/sync/errgroup"

	"github.com/meshferry/meshferry/registry"
	"github.com/meshferry/meshferry/registry/internal/backend"
)

// Times and limits of reading.
const (
	lookEvery   = 5 * time.Second // for services of other groups and versions, which nobody announces
	pageSize    = 1000
	atOnce      = 16
	askWithin   = 3 * time.Second
	retryAfter  = 2 * time.Second
	mappingPart = "mapping" // the Nacos group of mappings of Java 3; a registry's own group does not count there
)

// reader assembles what subscribed interfaces need: services at the interface
// level, which are looked for by name, and applications at the application level,
// which the mapping names.
type reader struct {
	// Immutable after newReader.
	r      *Registry
	rounds *backend.Rounds
	subs   *backend.Subscriptions

	mu     sync.Mutex
	listen bool // guarded by mu; a mapping has changed

	// Owned by run.
	conn     *conn                 // that the rest is of
	looked   time.Time             // when names were listed
	names    []string              // of the group's services
	mappings map[string]string     // by interface: content
	metadata map[string]*described // by "application/revision"
	last     map[string]*registry.Endpoints
	skipped  map[string]struct{} // what was said of instances that cannot be read
	asking   sync.WaitGroup
	answers  chan answer // capacity atOnce
	inFlight int
}

// described is the metadata of one revision, or why it cannot be had.
type described struct {
	metadata *registry.Metadata
	err      error
	retry    time.Time
	inFlight bool
}

// answer is what a provider's MetadataService said.
type answer struct {
	key      string
	metadata registry.Metadata
	err      error
}

func newReader(r *Registry) *reader {
	rounds := backend.NewRounds()
	return &reader{r: r, rounds: rounds, subs: backend.NewSubscriptions(rounds.Poke), mappings: map[string]string{},
		metadata: map[string]*described{}, last: map[string]*registry.Endpoints{}, skipped: map[string]struct{}{}, answers: make(chan answer, atOnce)}
}

// mappingsChanged is told that a mapping is not what it was.
func (r *reader) mappingsChanged() {
	r.mu.Lock()
	r.listen = true
	r.mu.Unlock()
	r.rounds.Poke()
}

// run reads and delivers until ctx ends.
func (r *reader) run(ctx context.Context) {
	defer r.asking.Wait()
	r.rounds.Run(ctx, func() {
		for len(r.answers) > 0 {
			r.answered(<-r.answers)
		}
		if err := r.pass(ctx); err != nil && ctx.Err() == nil {
			r.rounds.By(time.Now().Add(backend.Jittered(time.Second)))
			if !errors.Is(err, registry.ErrAway) {
				r.r.log.Warn("Nacos cannot be read; trying again", "err", err)
			}
		}
	})
}

// pass reads what is missing and delivers what has changed.
func (r *reader) pass(ctx context.Context) error {
	subs := r.subs.Interfaces()
	r.mu.Lock()
	listen := r.listen
	r.listen = false
	r.mu.Unlock()
	maps.DeleteFunc(r.last, func(iface string, _ *registry.Endpoints) bool { return !subs[iface] })
	fresh := false
	for iface := range subs {
		if _, known := r.mappings[iface]; !known {
			fresh = true
		}
	}
	c := r.r.usable()
	if c == nil {
		r.conn = nil
		return nil
	}
	if c != r.conn {
		r.conn, r.looked = c, time.Time{}
		clear(r.mappings)
		fresh = len(subs) > 0
	}
	now := time.Now()
	due := now.Sub(r.looked) >= r.r.o.look
	if len(subs) > 0 && (fresh || due) {
		var err error
		if r.names, err = r.list(ctx, c); err != nil {
			return err
		}
		r.looked = now
	}
	if len(subs) > 0 && (fresh || due || listen) {
		if err := r.map_(ctx, c, subs); err != nil {
			r.mappingsChanged()
			return err
		}
	}
	if next := r.r.services.expire(now); !next.IsZero() {
		r.rounds.By(next)
	}
	if len(subs) > 0 {
		r.rounds.By(now.Add(backend.Jittered(r.r.o.look) + r.r.o.look/4))
	}

	used := map[string]struct{}{}
	for iface := range subs {
		used[plain(iface)] = struct{}{} // it is told of at once when somebody provides it
		for _, name := range r.names {
			if provides(name, iface) {
				used[name] = struct{}{}
			}
		}
		for _, app := range r.apps(iface) {
			used[app] = struct{}{}
		}
	}
	if err := r.follow(ctx, c, used); err != nil {
		return err
	}
	if err := r.describe(ctx, c, subs); err != nil {
		return err
	}
	for iface := range subs {
		if e := r.assemble(iface); e != nil {
			r.subs.Offer(e)
		}
	}
	return nil
}

// plain is the service of an interface without version and group.
func plain(iface string) string { return escaped(providers + ":" + iface + "::") }

// list reads the names of all services of the group.
func (r *reader) list(ctx context.Context, c *conn) ([]string, error) {
	var names []string
	for page := 1; ; page++ {
		a, err := c.list(ctx, r.r.namespace, r.r.o.Group, page, pageSize)
		if err != nil {
			return nil, err
		}
		for _, name := range a.ServiceNames {
			names = append(names, bare(name))
		}
		if len(a.ServiceNames) == 0 || len(names) >= a.Count {
			return names, nil
		}
	}
}

// map_ asks which mappings are others than we know, which has the server tell of
// further changes too, and reads those.
func (r *reader) map_(ctx context.Context, c *conn, subs map[string]bool) error {
	q := rpc_request.NewConfigBatchListenRequest(len(subs))
	maps.DeleteFunc(r.mappings, func(iface, _ string) bool { return !subs[iface] })
	var read []string
	for iface := range subs {
		content, known := r.mappings[iface]
		if !known {
			read = append(read, iface)
		}
		md5 := ""
		if content != "" {
			md5 = hash(content)
		}
		q.ConfigListenContexts = append(q.ConfigListenContexts, model.ConfigListenContext{Group: mappingPart, DataId: escaped(iface), Tenant: r.r.o.Namespace, Md5: md5})
	}
	a := &rpc_response.ConfigChangeBatchListenResponse{Response: &rpc_response.Response{}}
	if err := c.ask(ctx, q, a); err != nil {
		return err
	}
	for iface := range subs {
		if slices.ContainsFunc(a.ChangedConfigs, func(x model.ConfigContext) bool { return x.DataId == escaped(iface) }) && !slices.Contains(read, iface) {
			read = append(read, iface)
		}
	}
	var mu sync.Mutex
	var g errgroup.Group
	g.SetLimit(atOnce)
	for _, iface := range read {
		g.Go(func() error {
			content, _, err := c.config(ctx, r.r.o.Namespace, mappingPart, escaped(iface))
			if err != nil {
				return fmt.Errorf("mapping of %s: %w", iface, err)
			}
			mu.Lock()
			defer mu.Unlock()
			r.mappings[iface] = content
			return nil
		})
	}
	return g.Wait()
}

// apps are the applications that the mapping names for an interface.
func (r *reader) apps(iface string) []string {
	apps := slices.DeleteFunc(backend.Mapped(r.mappings[iface]), func(app string) bool { return checkName(app) != nil })
	slices.Sort(apps)
	return slices.Compact(apps)
}

// follow has the server push changes of these services, and of no others that we
// do not provide.
func (r *reader) follow(ctx context.Context, c *conn, names map[string]struct{}) error {
	unused := r.r.services.use(names)
	var g errgroup.Group
	g.SetLimit(atOnce)
	for name := range names {
		g.Go(func() error { return r.r.services.follow(ctx, c, r.r.namespace, r.r.o.Group, name) })
	}
	err := g.Wait()
	for _, name := range unused {
		a := &rpc_response.SubscribeServiceResponse{Response: &rpc_response.Response{}}
		if err := c.ask(ctx, rpc_request.NewSubscribeServiceRequest(r.r.namespace, name, r.r.o.Group, "", false), a); err != nil {
			return err
		}
	}
	return err
}

// describe reads the metadata of the revisions that instances name.
func (r *reader) describe(ctx context.Context, c *conn, subs map[string]bool) error {
	now := time.Now()
	named := map[string]struct{}{}
	var mu sync.Mutex
	var g errgroup.Group
	g.SetLimit(atOnce)
	for iface := range subs {
		for _, app := range r.apps(iface) {
			instances, _ := r.r.services.view(app)
			for _, i := range instances {
				revision := i.Metadata[registry.KeyRevision]
				if !usable(i) || checkName(revision) != nil || revision == "0" {
					continue
				}
				key := app + "/" + revision
				if _, seen := named[key]; seen {
					continue
				}
				named[key] = struct{}{}
				d := r.metadata[key]
				if d == nil {
					d = &described{}
					r.metadata[key] = d
				}
				switch {
				case d.metadata != nil || d.inFlight:
				case d.retry.After(now):
					r.rounds.By(d.retry)
				default:
					g.Go(func() error {
						content, found, err := c.config(ctx, r.r.o.Namespace, revision, escaped(app))
						if err != nil {
							return err
						}
						mu.Lock()
						defer mu.Unlock()
						r.learned(ctx, key, d, app, i, content, found)
						return nil
					})
				}
			}
		}
	}
	err := g.Wait()
	maps.DeleteFunc(r.metadata, func(key string, d *described) bool {
		_, used := named[key]
		return !used && !d.inFlight
	})
	return err
}

// learned takes over what was read of a revision. What is not in Nacos is asked of
// the provider, if only that has it.
func (r *reader) learned(ctx context.Context, key string, d *described, app string, i model.Instance, content string, found bool) {
	later := time.Now().Add(backend.Jittered(retryAfter))
	if found {
		m, err := backend.ParseMetadata(i.Metadata[registry.KeyRevision], []byte(content))
		if d.err = err; err == nil {
			d.metadata = &m
			return
		}
		d.retry = later
		r.rounds.By(later)
		return
	}
	fetch := r.r.o.Metadata
	switch {
	case i.Metadata[registry.KeyStorageType] == "remote":
		d.err = errors.New("it is not in Nacos")
	case fetch == nil:
		d.err = errors.New("only the provider has it (storage-type local)")
	case r.inFlight >= atOnce:
		d.err = errors.New("the provider is being asked")
	default:
		of, err := parseApplication(app, i)
		if err != nil {
			d.err = err
			break
		}
		if d.err == nil {
			d.err = errors.New("the provider is being asked")
		}
		d.inFlight = true
		r.inFlight++
		r.asking.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, askWithin)
			defer cancel()
			m, err := fetch(ctx, of)
			r.answers <- answer{key, m, err} // has room for all that are in flight
			r.rounds.Poke()
		})
		return
	}
	d.retry = later
	r.rounds.By(later)
}

func (r *reader) answered(a answer) {
	r.inFlight--
	d := r.metadata[a.key]
	if d == nil {
		return
	}
	d.inFlight = false
	if d.err = a.err; a.err == nil {
		d.metadata = &a.metadata
		return
	}
	d.retry = time.Now().Add(backend.Jittered(5 * retryAfter))
}

// assemble composes the endpoints of an interface; nil while something is not
// known yet. Equal sets are the same pointer.
func (r *reader) assemble(iface string) *registry.Endpoints {
	e := &registry.Endpoints{Interface: iface}
	var reasons []string
	names := []string{plain(iface)}
	for _, name := range r.names {
		if provides(name, iface) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		instances, known := r.r.services.view(name)
		if !known {
			return nil
		}
		for _, i := range instances {
			if !i.Enable {
				continue
			}
			u, err := decode(i)
			if err != nil {
				r.skip(name, i, err)
				continue
			}
			if u.Service().Interface == iface && u.Port > 0 {
				e.Providers = append(e.Providers, registry.Provider{URL: u, Model: registry.ModelInterface})
			}
		}
	}
	for _, app := range r.apps(iface) {
		instances, known := r.r.services.view(app)
		if !known {
			return nil
		}
		for _, i := range instances {
			revision := i.Metadata[registry.KeyRevision]
			if !usable(i) || checkName(revision) != nil || revision == "0" {
				continue
			}
			of, err := parseApplication(app, i)
			if err != nil {
				r.skip(app, i, err)
				continue
			}
			d := r.metadata[app+"/"+revision]
			if d == nil {
				r.rounds.Poke() // it has come since metadata was looked at
				return nil
			}
			if d.metadata == nil {
				reasons = append(reasons, fmt.Sprintf("metadata of %s at %s, revision %.12s: %v", app, of.ID(), revision, d.err))
				continue
			}
			for _, u := range registry.ProviderURLs(of, *d.metadata, iface) {
				e.Providers = append(e.Providers, registry.Provider{URL: u, Model: registry.ModelApplication})
			}
		}
	}
	slices.SortFunc(e.Providers, func(a, b registry.Provider) int {
		if c := strings.Compare(string(a.Model), string(b.Model)); c != 0 {
			return c
		}
		return strings.Compare(a.URL.String(), b.URL.String())
	})
	e.Providers = slices.Compact(e.Providers) // two connections may list one, while one takes over from the other
	e.Incomplete = backend.Summary(reasons)
	if old := r.last[iface]; old != nil && backend.Equal(old, e) {
		return old
	}
	r.last[iface] = e
	return e
}

// skip says once that an instance cannot be read.
func (r *reader) skip(name string, i model.Instance, err error) {
	key := name + " " + address(i) + " " + err.Error()
	if _, said := r.skipped[key]; said {
		return
	}
	if len(r.skipped) > 1000 {
		clear(r.skipped)
	}
	r.skipped[key] = struct{}{}
	r.r.log.Warn("skipped an instance of Nacos that cannot be read", "service", name, "instance", address(i), "err", err)
}
