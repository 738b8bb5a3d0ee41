package nacos

import (
	"cmp"
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

	"github.com/meshferry/meshferry/registry"
	"github.com/meshferry/meshferry/registry/internal/backend"
)

// Times of publishing.
const (
	seenWithin = 3 * time.Second       // until what was written can be read; usually half a second
	readAgain  = 25 * time.Millisecond // configurations: a read may be older than a write that was answered
	checkAfter = 2 * time.Second       // a configuration that we wrote is looked at once more
	checkLater = 25 * time.Second      // and then with each comparison
)

// item is one thing that we want a service to list.
type item struct {
	keys     []string // in the report: all that it stands for
	identity string   // equal for two that would take each other's place
	instance model.Instance
}

// described application: what its instance needs before it.
type app struct {
	item       item
	metadata   registry.Metadata
	content    string
	interfaces []string
}

// plan is what a Desired asks of Nacos.
type plan struct {
	apps     []app
	services map[string][]item // without the applications' own
}

// Apply makes Nacos hold d. Order: metadata, mapping, instances of applications,
// then those of interfaces; what goes is taken out after that, interfaces first.
// See registry.Publisher. Two agents that begin at the same moment with one entry
// can both get it; then the next Apply of the one with the greater host id gives
// it up.
func (r *Registry) Apply(ctx context.Context, d registry.Desired) (registry.Report, error) {
	out := backend.NewOutcome()
	p := r.plan(d, out)
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	case <-ctx.Done():
		return out.Nothing(ctx.Err(), p.keys())
	}
	c := r.usable()
	if c == nil {
		return out.Nothing(registry.ErrAway, p.keys())
	}

	var used []string
	for _, a := range p.apps {
		used = append(used, a.metadata.Application+"/"+a.metadata.Revision)
	}
	r.revisions.use(used, r.now())
	described := map[string][]item{} // services of applications
	var mu sync.Mutex
	backend.Each(atOnce, p.apps, func(a app) {
		if err := r.describe(ctx, c, a); err != nil {
			out.Fail(err, a.item.keys...)
			if !slices.ContainsFunc(r.published[a.metadata.Application], func(i model.Instance) bool { return same(i, a.item.instance) }) {
				return // what is there already stays: its metadata was there once
			}
		}
		mu.Lock()
		defer mu.Unlock()
		described[a.metadata.Application] = append(described[a.metadata.Application], a.item)
	})
	r.put(ctx, c, described, out)
	r.put(ctx, c, p.services, out)
	var gone [2][]string // interfaces, applications
	for name := range r.published {
		_, application := described[name]
		_, iface := p.services[name]
		switch {
		case application || iface:
		case strings.HasPrefix(name, providers+":") || strings.HasPrefix(name, consumers+":"):
			gone[0] = append(gone[0], name)
		default:
			gone[1] = append(gone[1], name)
		}
	}
	for _, names := range gone {
		empty := map[string][]item{}
		for _, name := range names {
			empty[name] = nil
		}
		r.put(ctx, c, empty, out)
	}

	if r.usable() != c {
		// What was written went with the connection.
		return out.Nothing(fmt.Errorf("the connection ended meanwhile: %w", registry.ErrAway), p.keys())
	}
	if out.OK() {
		if err := r.collect(ctx, c); err != nil {
			out.Fail(err)
		}
	}
	return out.Report()
}

// keys are those of the report.
func (p plan) keys() (keys []string) {
	for _, a := range p.apps {
		keys = append(keys, a.item.keys...)
	}
	for _, items := range p.services {
		for _, i := range items {
			keys = append(keys, i.keys...)
		}
	}
	return keys
}

// plan translates d. What cannot be written goes into the report at once.
func (r *Registry) plan(d registry.Desired, out *backend.Outcome) plan {
	p := plan{services: map[string][]item{}}
	known := map[string]bool{}
	once := func(key string) bool {
		was := known[key]
		known[key] = true
		return !was
	}
	for _, a := range d.Applications {
		if !once(a.ID()) {
			continue
		}
		translated, err := r.application(a)
		if err != nil {
			out.Fail(err, a.ID())
			continue
		}
		p.apps = append(p.apps, translated)
	}
	good := func(list []registry.URL) (urls []registry.URL) {
		for _, u := range list {
			text := u.String()
			if !once(text) {
				continue
			}
			if err := writable(u); err != nil {
				out.Fail(err, text)
				continue
			}
			urls = append(urls, u)
		}
		return urls
	}
	list := func(category string, u registry.URL, of ...registry.URL) {
		name, i := serviceName(category, u), encode(category, u, r.o.HostID)
		one := item{identity: u.String(), instance: i}
		if listed, err := decode(i); err == nil {
			one.identity = listed.String() // as divide reads it
		}
		for _, u := range of {
			one.keys = append(one.keys, u.String())
		}
		p.services[name] = append(p.services[name], one)
	}
	for _, s := range share(good(d.Providers)) {
		list(providers, s.url, s.of...)
	}
	for _, u := range good(d.Consumers) {
		list(consumers, u, u)
	}
	return p
}

// writable errs for a URL that no service could list.
func writable(u registry.URL) error {
	if err := registry.CheckInterface(u.Service().Interface); err != nil {
		return err
	}
	for _, part := range []string{u.Param("version"), u.Param("group")} {
		if strings.ContainsAny(part, ":@ ") {
			return fmt.Errorf("version or group %q cannot stand in the name of a Nacos service", part)
		}
	}
	return nil
}

func (r *Registry) application(a registry.Application) (app, error) {
	if err := backend.CheckApplication(a, checkName); err != nil {
		return app{}, err
	}
	i, m := a.Instance, a.Metadata
	content, err := backend.Marshal(m)
	if err != nil {
		return app{}, err
	}
	return app{metadata: m, content: string(content), interfaces: m.Interfaces(),
		item: item{keys: []string{a.ID()}, identity: i.ID(), instance: application(i, r.o.HostID)}}, nil
}

// put makes each of these services list these items of ours, and no others.
func (r *Registry) put(ctx context.Context, c *conn, services map[string][]item, out *backend.Outcome) {
	var mu sync.Mutex // of r.published
	backend.Each(atOnce, slices.Sorted(maps.Keys(services)), func(name string) {
		mu.Lock()
		before := r.published[name]
		mu.Unlock()
		now, err := r.own(ctx, c, name, services[name], before, out)
		if err != nil {
			err = fmt.Errorf("service %s: %w", name, err)
			for _, i := range services[name] {
				out.Fail(err, i.keys...)
			}
			out.Fail(err)
		}
		mu.Lock()
		defer mu.Unlock()
		if len(now) == 0 {
			delete(r.published, name)
		} else {
			r.published[name] = now
		}
	})
}

// own makes one service list our items, all in one write. It returns what the
// connection has in it then.
func (r *Registry) own(ctx context.Context, c *conn, name string, items []item, before []model.Instance, out *backend.Outcome) (now []model.Instance, err error) {
	now = before
	conflicts := false
	r.services.begin(name)
	defer func() { r.services.end(name, now, conflicts, len(now) > 0 || conflicts) }()
	if err := r.services.follow(ctx, c, r.namespace, r.o.Group, name); err != nil {
		return now, err
	}
	hosts, _ := r.services.hosts(name)
	free, taken := r.divide(name, items, hosts)
	if len(taken) > 0 { // so it was half a second ago
		if err := r.services.refresh(ctx, c, r.namespace, r.o.Group, name); err != nil {
			return now, err
		}
		hosts, _ = r.services.hosts(name)
		free, taken = r.divide(name, items, hosts)
	}
	conflicts = len(taken) > 0
	for key, owner := range taken {
		out.Set(registry.Item{State: registry.Conflict, Owner: owner}, key)
	}
	want := make([]model.Instance, len(free))
	for n, i := range free {
		want[n] = i.instance
	}
	if !equalSets(before, want) || !containsAll(hosts, want) || r.strays(hosts, want) {
		var old []model.Instance
		for _, i := range before {
			if !listed(want, i) && listed(hosts, i) {
				old = append(old, i)
			}
		}
		if len(want) == 0 {
			err = r.remove(ctx, c, name, before)
		} else {
			err = r.write(ctx, c, name, want)
		}
		if err != nil {
			return now, err
		}
		now = want
		if err := r.seen(ctx, c, name, want, old); err != nil {
			return now, err
		}
	}
	for _, i := range free {
		out.Set(registry.Item{State: registry.Held}, i.keys...)
	}
	return now, nil
}

// divide parts the items into those that are ours to list and those that another
// lists already, with its name. Of two that both list one, the smaller host id
// keeps it; who is no agent always does.
func (r *Registry) divide(name string, items []item, hosts []model.Instance) (free []item, taken map[string]string) {
	others := map[string]string{} // identity to owner
	ours := map[string]bool{}
	for _, h := range hosts {
		identity := address(h)
		if strings.HasPrefix(name, providers+":") || strings.HasPrefix(name, consumers+":") {
			u, err := decode(h)
			if err != nil {
				continue
			}
			identity = u.String()
		}
		if host := h.Metadata[registry.MarkHost]; host == r.o.HostID {
			ours[identity] = true
		} else if was, found := others[identity]; !found || host < was {
			others[identity] = host
		}
	}
	taken = map[string]string{}
	for _, i := range items {
		owner, found := others[i.identity]
		if !found || ours[i.identity] && owner != "" && r.o.HostID < owner {
			free = append(free, i)
			continue
		}
		for _, key := range i.keys {
			taken[key] = cmp.Or(owner, "an application that registers itself")
		}
	}
	return free, taken
}

// strays tells whether a service lists instances of this host that are not wanted:
// of a write that was answered too late.
func (r *Registry) strays(hosts, want []model.Instance) bool {
	return slices.ContainsFunc(hosts, func(h model.Instance) bool {
		return h.Metadata[registry.MarkHost] == r.o.HostID && !slices.ContainsFunc(want, func(w model.Instance) bool { return same(h, w) })
	})
}

func equalSets(a, b []model.Instance) bool {
	return len(a) == len(b) && containsAll(a, b) && containsAll(b, a)
}

// write makes our instances in a service these, which are not none.
func (r *Registry) write(ctx context.Context, c *conn, name string, batch []model.Instance) error {
	if r.o.Writes != nil {
		if err := r.o.Writes.Wait(ctx); err != nil {
			return err
		}
	}
	return c.ask(ctx, rpc_request.NewBatchInstanceRequest(r.namespace, name, r.o.Group, "batchRegisterInstance", batch),
		&rpc_response.BatchInstanceResponse{Response: &rpc_response.Response{}})
}

// remove takes all our instances out of a service. One that is named stands for
// the batch that it is in.
func (r *Registry) remove(ctx context.Context, c *conn, name string, batch []model.Instance) error {
	if len(batch) == 0 {
		return nil
	}
	if r.o.Writes != nil {
		if err := r.o.Writes.Wait(ctx); err != nil {
			return err
		}
	}
	return c.ask(ctx, rpc_request.NewInstanceRequest(r.namespace, name, r.o.Group, "deregisterInstance", batch[0]),
		&rpc_response.InstanceResponse{Response: &rpc_response.Response{}})
}

// seen waits until the service lists what was written, and no longer what was
// taken out.
func (r *Registry) seen(ctx context.Context, c *conn, name string, want, old []model.Instance) error {
	done := func(hosts []model.Instance) bool {
		if !containsAll(hosts, want) {
			return false
		}
		return !slices.ContainsFunc(old, func(i model.Instance) bool {
			return slices.ContainsFunc(hosts, func(h model.Instance) bool { return same(h, i) })
		})
	}
	limit, cancel := context.WithTimeout(ctx, seenWithin)
	defer cancel()
	if r.services.await(limit, c, name, done) {
		return nil
	}
	if err := r.services.refresh(ctx, c, r.namespace, r.o.Group, name); err != nil {
		return err
	}
	if hosts, _ := r.services.hosts(name); !done(hosts) {
		return errors.New("it was written, but is not listed yet")
	}
	return nil
}

// describe writes what consumers read before they use an instance.
func (r *Registry) describe(ctx context.Context, c *conn, a app) error {
	name := a.metadata.Application
	if err := r.checked(ctx, "metadata "+name+"/"+a.metadata.Revision, func() (wrote bool, err error) {
		return r.setMetadata(ctx, c, a)
	}); err != nil {
		return fmt.Errorf("metadata of %s, revision %.12s: %w", name, a.metadata.Revision, err)
	}
	for _, iface := range a.interfaces {
		if err := r.checked(ctx, "mapping "+iface+" "+name, func() (wrote bool, err error) {
			return r.mapTo(ctx, c, iface, name)
		}); err != nil {
			return fmt.Errorf("mapping of %s: %w", iface, err)
		}
	}
	return nil
}

// checked does f when it is due for key. What f wrote is looked at once more soon:
// a write of somebody else can still take its place.
func (r *Registry) checked(ctx context.Context, key string, f func() (wrote bool, err error)) error {
	r.checks.Lock()
	due := r.due[key]
	r.checks.Unlock()
	if time.Now().Before(due) {
		return nil
	}
	wrote, err := f()
	if err != nil {
		return err
	}
	next := checkLater
	if wrote {
		next = checkAfter
		time.AfterFunc(checkAfter, func() { backend.Poke(r.lost) })
	}
	r.checks.Lock()
	defer r.checks.Unlock()
	r.due[key] = time.Now().Add(next)
	return nil
}

// setMetadata writes the metadata of a revision unless it is there.
func (r *Registry) setMetadata(ctx context.Context, c *conn, a app) (wrote bool, err error) {
	group, dataID := a.metadata.Revision, escaped(a.metadata.Application)
	holds := func(content string) bool { return backend.SameMetadata([]byte(content), []byte(a.content)) }
	content, _, err := c.config(ctx, r.o.Namespace, group, dataID)
	if err != nil || holds(content) {
		return false, err
	}
	if err := c.setConfig(ctx, r.o.Namespace, group, dataID, a.content, ""); err != nil {
		return false, err
	}
	return true, r.readBack(ctx, c, group, dataID, holds)
}

// readBack waits until a configuration is what was written.
func (r *Registry) readBack(ctx context.Context, c *conn, group, dataID string, holds func(content string) bool) error {
	limit, cancel := context.WithTimeout(ctx, seenWithin)
	defer cancel()
	for {
		content, _, err := c.config(limit, r.o.Namespace, group, dataID)
		if err != nil {
			return err
		}
		if holds(content) {
			return nil
		}
		select {
		case <-limit.Done():
			return errNotRead
		case <-time.After(readAgain):
		}
	}
}

var errNotRead = errors.New("it was written, but is not read yet")

// mapTo adds an application to an interface's list. Nothing is ever taken out: the
// entry may be another host's as well. Compare-and-set does not guard the first
// write of a configuration, so two that create it at once can lose one of them;
// checked comes back for that. Source: NacosMetadataReport#registerServiceAppMapping.
func (r *Registry) mapTo(ctx context.Context, c *conn, iface, name string) (wrote bool, err error) {
	dataID := escaped(iface)
	holds := func(content string) bool { return slices.Contains(backend.Mapped(content), name) }
	for try := 0; ; try++ {
		content, found, err := c.config(ctx, r.o.Namespace, mappingPart, dataID)
		if err != nil || holds(content) {
			return wrote, err
		}
		next := name
		if found && content != "" {
			next = strings.Join(append(backend.Mapped(content), name), ",")
		}
		err = c.setConfig(ctx, r.o.Namespace, mappingPart, dataID, next, content)
		switch {
		case err == nil:
			wrote = true
			if err = r.readBack(ctx, c, mappingPart, dataID, holds); !errors.Is(err, errNotRead) {
				return wrote, err
			}
		case errors.Is(err, registry.ErrAway) || denied(err) || try >= 20:
			return wrote, err
		}
		select { // another's write was first
		case <-ctx.Done():
			return wrote, ctx.Err()
		case <-time.After(backend.Jittered(100 * time.Millisecond)):
		}
	}
}
