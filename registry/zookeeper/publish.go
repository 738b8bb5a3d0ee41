package zookeeper

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/go-zookeeper/zk"

	"github.com/meshferry/meshferry/registry"
	"github.com/meshferry/meshferry/registry/internal/backend"
)

// node is an ephemeral node that we want to own.
type node struct {
	key  string // in the report
	path string
	data []byte
}

// application is what an application's instance needs before it, and itself.
type application struct {
	metadata   registry.Metadata
	content    []byte // of the metadata nodes
	interfaces []string
	node       node
}

// plan is what a Desired asks of ZooKeeper.
type plan struct {
	applications []application
	leaves       []node
}

// Apply makes ZooKeeper hold d. Everything of d is read, so that what somebody
// deleted or changed comes back; only what differs is written. Order: metadata,
// mapping, instance, leaf; what goes is removed after that, leaves first. See
// registry.Publisher.
func (r *Registry) Apply(ctx context.Context, d registry.Desired) (registry.Report, error) {
	out := backend.NewOutcome()
	p := r.plan(d, out)
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	case <-ctx.Done():
		return out.Nothing(ctx.Err(), p.keys())
	}
	session, ok := r.usable()
	if !ok {
		return out.Nothing(registry.ErrAway, p.keys())
	}
	rest := r.journal.hold(p.paths(), p.revisions(), r.now())

	tell := func(key string, item registry.Item, err error) {
		if err != nil {
			out.Fail(err, key)
			return
		}
		out.Set(item, key)
	}
	backend.Each(atOnce, p.applications, func(a application) {
		item, err := r.publish(ctx, a, session)
		tell(a.node.key, item, err)
	})
	backend.Each(atOnce, p.leaves, func(n node) {
		item, err := r.own(ctx, n, session)
		tell(n.key, item, err)
	})
	var mu sync.Mutex // of gone
	var gone []string
	leavesFirst := func(leaf bool) {
		backend.Each(atOnce, rest, func(path string) {
			if isLeaf(path) != leaf {
				return
			}
			if err := r.withdraw(ctx, path, session); err != nil {
				out.Fail(fmt.Errorf("withdraw %s: %w", path, err))
				return
			}
			mu.Lock()
			defer mu.Unlock()
			gone = append(gone, path)
		})
	}
	leavesFirst(true)
	leavesFirst(false)
	r.journal.drop(gone)
	if out.OK() {
		if err := r.collect(ctx); err != nil {
			out.Fail(err)
		}
	}

	if now, ok := r.usable(); !ok || now != session {
		// What was written in the old session went with it.
		return out.Nothing(fmt.Errorf("the session changed meanwhile: %w", registry.ErrAway), p.keys())
	}
	return out.Report()
}

// plan translates d. What cannot be written goes into the report at once.
func (r *Registry) plan(d registry.Desired, out *backend.Outcome) plan {
	var p plan
	for _, a := range d.Applications {
		application, err := r.application(a)
		if err != nil {
			out.Fail(err, a.ID())
			continue
		}
		p.applications = append(p.applications, application)
	}
	mark := []byte(ownerPrefix + r.o.HostID)
	leaves := func(category string, urls []registry.URL) {
		for _, u := range urls {
			text, iface := u.String(), u.Service().Interface
			if err := registry.CheckInterface(iface); err != nil {
				out.Fail(err, text)
				continue
			}
			p.leaves = append(p.leaves, node{key: text, path: r.paths.leaf(iface, category, text), data: mark})
		}
	}
	leaves("providers", d.Providers)
	leaves("consumers", d.Consumers)
	return p
}

func (r *Registry) application(a registry.Application) (application, error) {
	i, m := a.Instance, a.Metadata
	for _, name := range append(m.Interfaces(), i.ID()) {
		if err := checkName(name); err != nil {
			return application{}, err
		}
	}
	if err := backend.CheckApplication(a, checkName); err != nil {
		return application{}, err
	}
	content, err := backend.Marshal(m)
	if err != nil {
		return application{}, err
	}
	data, err := marshalInstance(i, r.o.HostID)
	if err != nil {
		return application{}, err
	}
	return application{metadata: m, content: content, interfaces: m.Interfaces(),
		node: node{key: a.ID(), path: r.paths.instance(i), data: data}}, nil
}

func (p plan) nodes() []node {
	nodes := slices.Clone(p.leaves)
	for _, a := range p.applications {
		nodes = append(nodes, a.node)
	}
	return nodes
}

func (p plan) keys() (keys []string) {
	for _, n := range p.nodes() {
		keys = append(keys, n.key)
	}
	return keys
}

func (p plan) paths() (paths []string) {
	for _, n := range p.nodes() {
		paths = append(paths, n.path)
	}
	return paths
}

func (p plan) revisions() (revisions []string) {
	for _, a := range p.applications {
		revisions = append(revisions, a.metadata.Application+"/"+a.metadata.Revision)
	}
	return revisions
}

// publish writes an application in the order in which consumers follow it
// backwards.
func (r *Registry) publish(ctx context.Context, a application, session int64) (registry.Item, error) {
	for _, path := range r.paths.metadata(a.metadata.Application, a.metadata.Revision) {
		if err := r.describe(ctx, path, a); err != nil {
			return registry.Item{}, fmt.Errorf("metadata %s: %w", path, err)
		}
	}
	for _, iface := range a.interfaces {
		if err := r.mapTo(ctx, iface, a.metadata.Application); err != nil {
			return registry.Item{}, fmt.Errorf("mapping of %s: %w", iface, err)
		}
	}
	return r.own(ctx, a.node, session)
}

// describe writes the metadata of a revision, unless it is there.
func (r *Registry) describe(ctx context.Context, path string, a application) error {
	for range attempts {
		n, err := r.client.peek(ctx, path)
		switch {
		case err != nil:
			return err
		case !n.found:
			err = r.client.create(ctx, path, a.content, 0)
		case backend.SameMetadata(n.data, a.content):
			return nil
		default:
			err = r.client.set(ctx, path, a.content, n.stat.Version)
		}
		if err == nil {
			return nil
		}
		if !raced(err) {
			return err
		}
	}
	return errRaced
}

// mapTo adds an application to an interface's list, by compare and set. Nothing
// is ever taken out: the entry may be another host's as well. Source:
// org.apache.dubbo.metadata.MetadataServiceNameMapping.
func (r *Registry) mapTo(ctx context.Context, iface, app string) error {
	path := r.paths.mapping(iface)
	for range 10 * attempts { // every lost race is another's success
		n, err := r.client.peek(ctx, path)
		if err != nil {
			return err
		}
		apps := backend.Mapped(string(n.data))
		switch {
		case slices.Contains(apps, app):
			return nil
		case !n.found:
			err = r.client.create(ctx, path, []byte(app), 0)
		default:
			err = r.client.set(ctx, path, []byte(strings.Join(append(apps, app), ",")), n.stat.Version)
		}
		if err == nil {
			return nil
		}
		if !raced(err) {
			return err
		}
	}
	return errRaced
}

// attempts bounds how often a write that lost a race is tried at once.
const attempts = 5

var errRaced = errors.New("it changes all the time")

// raced tells whether a write failed because the node was not as it was read.
func raced(err error) bool {
	return errors.Is(err, zk.ErrBadVersion) || errors.Is(err, zk.ErrNoNode) || errors.Is(err, zk.ErrNodeExists)
}

// own makes n a node of our session. It reads after each write: a create whose
// answer was lost is found so, and the watch is set so.
func (r *Registry) own(ctx context.Context, n node, session int64) (registry.Item, error) {
	r.tell(n.path, false) // our own writes are no loss
	for range attempts {
		is, err := r.client.data(ctx, n.path, false)
		if err != nil {
			return registry.Item{}, err
		}
		owned := is.found && is.stat.EphemeralOwner == session
		switch {
		case owned && bytes.Equal(is.data, n.data):
			r.tell(n.path, true)
			return registry.Item{State: registry.Held}, nil
		case owned:
			err = r.client.set(ctx, n.path, n.data, is.stat.Version)
		case !is.found:
			err = r.client.create(ctx, n.path, n.data, zk.FlagEphemeral)
		case r.leftover(is):
			err = r.client.replace(ctx, n.path, n.data, is.stat.Version)
		default:
			r.tell(n.path, true) // its end is told, and it is tried again
			return r.held(is), nil
		}
		if err != nil && !raced(err) {
			return registry.Item{}, fmt.Errorf("write %s: %w", n.path, err)
		}
	}
	return registry.Item{}, fmt.Errorf("write %s: %w", n.path, errRaced)
}

// tell has a change of the node told by Lost, or not. A change between the read
// and this call is not missed: its event was noted by the client.
func (r *Registry) tell(path string, on bool) {
	r.mu.Lock()
	if on {
		r.mine[path] = struct{}{}
	} else {
		delete(r.mine, path)
	}
	r.mu.Unlock()
	if on && !r.client.watching(path) {
		backend.Poke(r.lost)
	}
}

// leftover tells whether a node is of an earlier session of ours, one that was
// not resumed: it would go with it.
func (r *Registry) leftover(n content) bool {
	return n.stat.EphemeralOwner != 0 && owner(n.data) == r.o.HostID && r.journal.recorded(n.stat.EphemeralOwner)
}

// held describes a node that is not ours to touch.
func (r *Registry) held(n content) registry.Item {
	host, session := owner(n.data), sessionName(n.stat.EphemeralOwner)
	switch {
	case n.stat.EphemeralOwner == 0:
		return registry.Item{State: registry.Conflict, Owner: "a persistent node"}
	case host == r.o.HostID:
		return registry.Item{State: registry.Pending,
			Err: "left by session " + session + " of this host, which was not recorded: waiting for its end"}
	case host != "":
		return registry.Item{State: registry.Conflict, Owner: host}
	default:
		return registry.Item{State: registry.Conflict, Owner: "session " + session}
	}
}

// withdraw removes a node that we wrote, if it is still ours.
func (r *Registry) withdraw(ctx context.Context, path string, session int64) error {
	r.tell(path, false)
	for range attempts {
		n, err := r.client.peek(ctx, path)
		if err != nil {
			return err
		}
		if !n.found || n.stat.EphemeralOwner != session && !r.leftover(n) {
			return nil
		}
		err = r.client.remove(ctx, path, n.stat.Version)
		if err != nil && !raced(err) {
			return err
		}
	}
	return errRaced
}

// collect removes metadata that we named long ago and no instance names now.
func (r *Registry) collect(ctx context.Context) error {
	for _, unused := range r.journal.unused(r.now()) {
		app, revision, _ := strings.Cut(unused, "/")
		named, err := r.named(ctx, app, revision)
		if err != nil {
			return fmt.Errorf("collect metadata of %s: %w", app, err)
		}
		if !named {
			for _, path := range r.paths.metadata(app, revision) {
				if err := r.client.remove(ctx, path, -1); err != nil && !errors.Is(err, zk.ErrNoNode) {
					return fmt.Errorf("collect %s: %w", path, err)
				}
			}
			r.journal.dropRevision(unused)
		}
	}
	return nil
}

// named tells whether a live instance of app has the revision. One that cannot be
// read counts as if it had.
func (r *Registry) named(ctx context.Context, app, revision string) (bool, error) {
	ids, err := r.client.list(ctx, r.paths.instances(app))
	if err != nil {
		return false, err
	}
	for _, id := range ids {
		n, err := r.client.peek(ctx, r.paths.instances(app)+"/"+id)
		if err != nil {
			return false, err
		}
		i, err := parseInstance(app, n.data)
		if n.stat.EphemeralOwner != 0 && (err != nil || i.Metadata[registry.KeyRevision] == revision) {
			return true, nil
		}
	}
	return false, nil
}
