package zookeeper

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/meshferry/meshferry/registry"
	"github.com/meshferry/meshferry/registry/internal/backend"
)

// nodeKey names one thing in the cache.
type nodeKey struct {
	kind kind
	path string
}

// kind says what a node is read as.
type kind int

const (
	leaves    kind = iota // children that are URLs
	mapping               // a list of applications
	instances             // children that are ids of instances
	instance              // Curator JSON
	metadata              // of one revision
	names                 // children by name
	stored                // the number of kinds that are nodes

	asked // metadata that a provider is asked for; path is "application/revision"
)

// cached is a node, or an answer, with its parsed form.
type cached struct {
	fresh bool
	users map[string]struct{} // interfaces
	retry time.Time           // zero: not by itself
	err   error               // why it cannot be read or understood

	found    bool
	names    []string                 // leaves, instances, names: sorted
	urls     map[string]*registry.URL // leaves: by name; nil for one that is no URL
	apps     []string                 // mapping
	data     string                   // instance, metadata: as parsed
	instance registry.Instance
	metadata *registry.Metadata

	// asked
	candidates map[string]registry.Instance // by id
	inFlight   bool
	tries      int
}

// assembly is one subscribed interface.
type assembly struct {
	dirty     bool // endpoints are not up to date
	uses      map[nodeKey]struct{}
	endpoints *registry.Endpoints
}

// assemble composes the endpoints of an interface from the cache. What it does
// not find is put into missing; then the interface stays dirty.
func (r *reader) assemble(iface string, a *assembly, missing map[nodeKey]*cached) {
	uses := map[nodeKey]struct{}{}
	whole := true
	use := func(kind kind, path string) *cached {
		key := nodeKey{kind, path}
		n := r.cache[key]
		if n == nil {
			n = &cached{users: map[string]struct{}{}}
			r.cache[key] = n
		}
		n.users[iface] = struct{}{}
		uses[key] = struct{}{}
		return n
	}
	need := func(kind kind, path string) *cached {
		n := use(kind, path)
		if !n.fresh {
			missing[nodeKey{kind, path}] = n
			whole = false
			return nil
		}
		return n
	}
	e := &registry.Endpoints{Interface: iface}
	var reasons []string
	incomplete := func(format string, args ...any) { reasons = append(reasons, fmt.Sprintf(format, args...)) }

	if iface == everything {
		for _, dir := range []string{r.paths.root, r.paths.mapping("")} {
			if n := need(names, strings.TrimSuffix(dir, "/")); n != nil {
				for _, name := range n.names {
					e.Providers = append(e.Providers, registry.Provider{URL: registry.URL{Path: name}})
				}
			}
		}
		r.settle(iface, a, uses, whole, e, reasons)
		return
	}
	providers, apps := need(leaves, r.paths.providers(iface)), need(mapping, r.paths.mapping(iface))
	if providers != nil {
		if providers.err != nil {
			incomplete("%v", providers.err)
		}
		for _, name := range providers.names {
			if u := providers.urls[name]; u != nil && u.Service().Interface == iface {
				e.Providers = append(e.Providers, registry.Provider{URL: *u, Model: registry.ModelInterface})
			}
		}
	}
	var mappedTo []string
	if apps != nil {
		if apps.err != nil {
			incomplete("%v", apps.err)
		}
		mappedTo = apps.apps
	}
	for _, app := range mappedTo {
		dir := need(instances, r.paths.instances(app))
		if dir == nil {
			continue
		}
		if dir.err != nil {
			incomplete("%v", dir.err)
		}
		for _, id := range dir.names {
			n := need(instance, r.paths.instances(app)+"/"+id)
			if n == nil || !n.found || n.err != nil {
				continue
			}
			revision := n.instance.Metadata[registry.KeyRevision]
			if checkName(revision) != nil || revision == "0" { // "0": it serves nothing
				continue
			}
			m, why := r.describe(app, revision, n.instance, need, use)
			switch {
			case m != nil:
				for _, u := range registry.ProviderURLs(n.instance, *m, iface) {
					e.Providers = append(e.Providers, registry.Provider{URL: u, Model: registry.ModelApplication})
				}
			case why != nil:
				incomplete("metadata of %s at %s, revision %.12s: %v", app, id, revision, why)
			}
		}
	}
	r.settle(iface, a, uses, whole, e, reasons)
}

// settle ends an assembly: with endpoints, or dirty as before when something was
// missing.
func (r *reader) settle(iface string, a *assembly, uses map[nodeKey]struct{}, whole bool, e *registry.Endpoints, reasons []string) {
	old := a.uses
	a.uses = uses
	if !whole {
		for key := range old {
			uses[key] = struct{}{} // still used by what was delivered last
		}
		return
	}
	for key := range uses {
		delete(old, key)
	}
	r.release(iface, old)
	e.Incomplete = backend.Summary(reasons)
	a.endpoints, a.dirty = e, false
}

// describe is the metadata of an instance's revision: from where Java keeps it,
// from where dubbo-go does, else from the instance itself. Without metadata and
// reason, something is being read.
func (r *reader) describe(app, revision string, i registry.Instance, need, use func(kind, string) *cached) (*registry.Metadata, error) {
	places := r.paths.metadata(app, revision)
	java := need(metadata, places[0])
	if java == nil || java.metadata != nil {
		return metadataOf(java), nil
	}
	dubboGo := need(metadata, places[1])
	if dubboGo == nil || dubboGo.metadata != nil {
		return metadataOf(dubboGo), nil
	}
	if i.Metadata[registry.KeyStorageType] == "remote" {
		if err := errors.Join(java.err, dubboGo.err); err != nil {
			return nil, err
		}
		return nil, errors.New("it is not in ZooKeeper")
	}
	if r.metadata == nil {
		return nil, errors.New("only the provider has it (storage-type local)")
	}
	n := use(asked, app+"/"+revision)
	if n.candidates == nil {
		n.candidates = map[string]registry.Instance{}
	}
	n.candidates[i.ID()] = i
	if n.metadata != nil {
		return n.metadata, nil
	}
	if n.err == nil {
		return nil, errors.New("the provider is being asked")
	}
	return nil, n.err
}

func metadataOf(n *cached) *registry.Metadata {
	if n == nil {
		return nil
	}
	return n.metadata
}

// read fills nodes. It returns false when the connection failed.
func (r *reader) read(ctx context.Context, missing map[nodeKey]*cached) bool {
	type answer struct {
		content
		err error
	}
	var mu sync.Mutex
	answers := map[nodeKey]answer{}
	var g errgroup.Group
	g.SetLimit(atOnce)
	for key := range missing {
		g.Go(func() error {
			var a answer
			if key.kind == leaves || key.kind == instances || key.kind == names {
				a.content, a.err = r.client.children(ctx, key.path)
			} else {
				a.content, a.err = r.client.data(ctx, key.path, true)
			}
			mu.Lock()
			defer mu.Unlock()
			answers[key] = a
			if errors.Is(a.err, registry.ErrAway) {
				return a.err
			}
			return nil
		})
	}
	err := g.Wait()
	for key, a := range answers {
		if n := missing[key]; !errors.Is(a.err, registry.ErrAway) {
			r.fill(key, n, a.content, a.err)
		}
	}
	return err == nil
}

// fill parses what was read. What cannot be parsed is logged when it is new.
func (r *reader) fill(key nodeKey, n *cached, c content, err error) {
	n.fresh, n.err, n.found = true, err, c.found
	if err != nil {
		n.names, n.apps, n.metadata = nil, nil, nil
		n.retry = time.Now().Add(backend.Jittered(10 * time.Second)) // not permitted, most likely
		return
	}
	n.retry = time.Time{}
	skip := func(path string, err error) {
		r.log.Warn("skipped a node of ZooKeeper that cannot be read", "path", path, "err", err)
	}
	switch key.kind {
	case leaves:
		old := n.urls
		n.names, n.urls = c.children, make(map[string]*registry.URL, len(c.children))
		slices.Sort(n.names)
		for _, name := range n.names {
			u, known := old[name]
			if !known {
				if parsed, err := decode(name); err != nil {
					skip(key.path+"/"+name, err)
				} else {
					u = &parsed
				}
			}
			n.urls[name] = u
		}
	case mapping:
		n.apps = slices.DeleteFunc(backend.Mapped(string(c.data)), func(app string) bool { return checkName(app) != nil })
		slices.Sort(n.apps)
		n.apps = slices.Compact(n.apps)
	case names:
		n.names = slices.DeleteFunc(c.children, func(name string) bool { return registry.CheckInterface(name) != nil })
		slices.Sort(n.names)
	case instances:
		// A root that is also the root of metadata holds revisions beside instances.
		n.names = slices.DeleteFunc(c.children, func(id string) bool { return !strings.Contains(id, ":") })
		slices.Sort(n.names)
	case instance, metadata:
		parent, name := key.path[:strings.LastIndexByte(key.path, '/')], key.path[strings.LastIndexByte(key.path, '/')+1:]
		changed := n.data != string(c.data)
		n.data, n.metadata = string(c.data), nil
		if !c.found {
			return
		}
		if key.kind == instance {
			n.instance, n.err = parseInstance(parent[strings.LastIndexByte(parent, '/')+1:], c.data)
		} else if m, err := backend.ParseMetadata(name, c.data); err != nil {
			n.err = fmt.Errorf("%s: %w", key.path, err)
		} else {
			n.metadata = &m
		}
		if n.err != nil && changed {
			skip(key.path, n.err)
		}
	}
}
