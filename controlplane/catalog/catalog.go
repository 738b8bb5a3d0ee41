package catalog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/meshferry/meshferry/registry"
	"github.com/meshferry/meshferry/rewrite"
)

// Registry is what is needed of a registry. Whoever opened it runs it.
type Registry interface {
	registry.Subscriber
	registry.Lister
	Status() registry.Status
}

// Named is a registry and its name.
type Named struct {
	Name     string
	Registry Registry
}

// Options of New. Only Registries is needed.
type Options struct {
	Registries []Named
	// Hold is how long the last providers of an interface stay when a set is
	// suddenly empty; 0: 30 s.
	Hold time.Duration
	// Quiet is how long nothing must change before changes are delivered, 10 times
	// it is how long they wait at most; 0: 20 ms.
	Quiet time.Duration
	// MaxInterfaces bounds what is followed in a registry; 0: 100 000.
	MaxInterfaces int
	Log           *slog.Logger
}

// View is what the registries have at one moment. It is never changed.
type View struct {
	Services map[string]*Service // by host
	Refused  []rewrite.Collision // services without a host
}

// Catalog follows registries.
type Catalog struct {
	// immutable after New
	o   Options
	log *slog.Logger

	// owned by Run
	sets    map[string]map[int]*set // by interface, then by registry
	listed  []map[string]context.CancelFunc
	waiting []map[string]bool // interfaces whose first set has not come; nil: the list has not
	byIface map[string][]*Service
	owners  map[string]map[registry.Service]*Service // by host
	dirty   map[string]bool
	view    *View
	holds   map[hold]time.Time

	mu     sync.Mutex
	status []Status // guarded by mu
}

// Status is how far a registry is followed.
type Status struct {
	Name       string          `json:"name"`
	Registry   registry.Status `json:"registry"`
	Interfaces int             `json:"interfaces"` // that are followed
	Waiting    int             `json:"waiting"`    // of these: nothing was heard yet
	Held       int             `json:"held"`       // of these: empty sets that are not believed yet
	Known      bool            `json:"listed"`     // the registry was
}

type set struct {
	registry   string
	providers  []registry.Provider
	incomplete string
}

type hold struct {
	iface    string
	registry int
}

// New is a catalog that follows nothing yet.
func New(o Options) (*Catalog, error) {
	if len(o.Registries) == 0 {
		return nil, errors.New("no registry to follow")
	}
	o.Hold = cmp.Or(o.Hold, 30*time.Second)
	o.Quiet = cmp.Or(o.Quiet, 20*time.Millisecond)
	o.MaxInterfaces = cmp.Or(o.MaxInterfaces, 100_000)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	c := &Catalog{o: o, log: o.Log,
		sets: map[string]map[int]*set{}, byIface: map[string][]*Service{}, owners: map[string]map[registry.Service]*Service{},
		dirty: map[string]bool{}, holds: map[hold]time.Time{},
		listed: make([]map[string]context.CancelFunc, len(o.Registries)), waiting: make([]map[string]bool, len(o.Registries)),
		status: make([]Status, len(o.Registries))}
	for i := range c.listed {
		c.listed[i] = map[string]context.CancelFunc{}
		c.status[i].Name = o.Registries[i].Name
	}
	return c, nil
}

// Statuses tells how far each registry is followed.
func (c *Catalog) Statuses() []Status {
	c.mu.Lock()
	list := slices.Clone(c.status)
	c.mu.Unlock()
	for i, r := range c.o.Registries {
		list[i].Registry = r.Registry.Status()
	}
	return list
}

type event struct {
	registry  int
	names     []string
	list      bool
	endpoints registry.Endpoints
}

// Run follows the registries until ctx ends. It calls deliver, from one goroutine,
// with each view and the hosts that differ from the view before it.
func (c *Catalog) Run(ctx context.Context, deliver func(v *View, changed []string)) error {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	events := make(chan event)
	forward := func(e event) {
		select {
		case events <- e:
		case <-ctx.Done():
		}
	}
	sets := make([]chan registry.Endpoints, len(c.o.Registries))
	for i, r := range c.o.Registries {
		sets[i] = make(chan registry.Endpoints)
		running.Go(func() {
			names := make(chan []string)
			done := make(chan struct{})
			go func() { defer close(done); c.list(ctx, r, names) }()
			for {
				select {
				case list := <-names:
					forward(event{registry: i, list: true, names: list})
				case e := <-sets[i]:
					forward(event{registry: i, endpoints: e})
				case <-done:
					return
				}
			}
		})
	}
	var first time.Time // of the changes that wait
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case e := <-events:
			if e.list {
				c.follow(ctx, e.registry, e.names, sets[e.registry], &running)
			} else {
				c.take(e.registry, e.endpoints)
			}
			if first.IsZero() {
				first = time.Now()
			}
			timer.Reset(min(c.o.Quiet, time.Until(first.Add(10*c.o.Quiet))))
			continue
		case <-timer.C:
		}
		first = time.Time{}
		next := c.expire()
		c.count()
		if c.complete() {
			if changed := c.settle(); len(changed) > 0 || c.view == nil {
				c.view = c.compose()
				deliver(c.view, changed)
			}
		}
		timer.Reset(next)
	}
}

func (c *Catalog) list(ctx context.Context, r Named, names chan<- []string) {
	for ctx.Err() == nil {
		err := r.Registry.List(ctx, names)
		if ctx.Err() != nil {
			return
		}
		c.log.Error("the registry cannot be listed; trying again", "registry", r.Name, "err", err)
		select {
		case <-time.After(time.Second + rand.N(time.Second)):
		case <-ctx.Done():
		}
	}
}

// follow subscribes to new names and drops those that are gone and empty.
func (c *Catalog) follow(ctx context.Context, i int, names []string, sets chan<- registry.Endpoints, running *sync.WaitGroup) {
	if c.waiting[i] == nil {
		c.waiting[i] = map[string]bool{}
	}
	if len(names) > c.o.MaxInterfaces {
		c.log.Error("the registry has too many interfaces; the last ones are not followed", "registry", c.o.Registries[i].Name, "interfaces", len(names), "limit", c.o.MaxInterfaces)
		names = names[:c.o.MaxInterfaces]
	}
	present := make(map[string]bool, len(names))
	for _, name := range names {
		present[name] = true
		if c.listed[i][name] != nil {
			continue
		}
		ctx, cancel := context.WithCancel(ctx)
		c.listed[i][name] = cancel
		c.waiting[i][name] = true
		running.Go(func() {
			if err := c.o.Registries[i].Registry.Subscribe(ctx, name, sets); err != nil { // no name of an interface
				select {
				case sets <- registry.Endpoints{Interface: name}:
				case <-ctx.Done():
				}
			}
		})
	}
	for name, cancel := range c.listed[i] {
		if !present[name] && c.sets[name][i] == nil {
			cancel()
			delete(c.listed[i], name)
			delete(c.waiting[i], name)
		}
	}
}

// take replaces the set of one interface in one registry.
func (c *Catalog) take(i int, e registry.Endpoints) {
	delete(c.waiting[i], e.Interface)
	h := hold{e.Interface, i}
	old := c.sets[e.Interface][i]
	if len(e.Providers) == 0 && e.Incomplete == "" {
		if old == nil {
			return
		}
		if _, held := c.holds[h]; !held {
			c.holds[h] = time.Now().Add(c.o.Hold)
			c.log.Warn("an interface has suddenly no providers; the last ones stay for a while", "registry", c.o.Registries[i].Name, "interface", e.Interface, "hold", c.o.Hold)
		}
		return
	}
	delete(c.holds, h)
	s := &set{registry: c.o.Registries[i].Name, providers: e.Providers, incomplete: e.Incomplete}
	if e.Incomplete != "" && old != nil {
		s.providers = slices.Clone(s.providers)
		for _, p := range old.providers {
			if !slices.Contains(s.providers, p) {
				s.providers = append(s.providers, p)
			}
		}
	}
	if len(s.providers) == 0 {
		return // incomplete, and nothing was known
	}
	if c.sets[e.Interface] == nil {
		c.sets[e.Interface] = map[int]*set{}
	}
	c.sets[e.Interface][i] = s
	c.dirty[e.Interface] = true
}

// expire believes empty sets whose time has come, while their registry is there
// to say otherwise. It returns when to look again.
func (c *Catalog) expire() time.Duration {
	next := time.Hour
	for h, until := range c.holds {
		left := time.Until(until)
		switch {
		case left > 0:
			next = min(next, left)
		case c.o.Registries[h.registry].Registry.Status().State != registry.Connected:
			next = min(next, time.Second)
		default:
			delete(c.holds, h)
			delete(c.sets[h.iface], h.registry)
			if len(c.sets[h.iface]) == 0 {
				delete(c.sets, h.iface)
			}
			c.dirty[h.iface] = true
		}
	}
	return next
}

// complete tells whether every registry has answered once.
func (c *Catalog) complete() bool {
	if c.view != nil {
		return true
	}
	for _, w := range c.waiting {
		if w == nil || len(w) > 0 {
			return false
		}
	}
	return true
}

func (c *Catalog) count() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.status {
		c.status[i].Interfaces, c.status[i].Waiting, c.status[i].Known, c.status[i].Held = len(c.listed[i]), len(c.waiting[i]), c.waiting[i] != nil, 0
	}
	for h := range c.holds {
		c.status[h.registry].Held++
	}
}

// settle composes the services of what is dirty, and returns the hosts that are
// different now.
func (c *Catalog) settle() []string {
	changed := map[string]bool{}
	for iface := range c.dirty {
		var sets []set
		for _, i := range slices.Sorted(maps.Keys(c.sets[iface])) {
			sets = append(sets, *c.sets[iface][i])
		}
		before := map[registry.Service]*Service{}
		for _, s := range c.byIface[iface] {
			before[s.Service] = s
		}
		now := services(sets)
		for k, s := range now {
			if old := before[s.Service]; old != nil && old.equal(s) {
				now[k] = old
			} else {
				changed[s.Host] = true
			}
			delete(before, s.Service)
			if c.owners[s.Host] == nil {
				c.owners[s.Host] = map[registry.Service]*Service{}
			}
			c.owners[s.Host][s.Service] = now[k]
		}
		for service, s := range before {
			changed[s.Host] = true
			delete(c.owners[s.Host], service)
			if len(c.owners[s.Host]) == 0 {
				delete(c.owners, s.Host)
			}
		}
		if c.byIface[iface] = now; len(now) == 0 {
			delete(c.byIface, iface)
		}
	}
	clear(c.dirty)
	return slices.Sorted(maps.Keys(changed))
}

// compose is the view of now.
func (c *Catalog) compose() *View {
	v := &View{Services: make(map[string]*Service, len(c.owners))}
	for host, owners := range c.owners {
		if len(owners) == 1 {
			for _, s := range owners {
				v.Services[host] = s
			}
			continue
		}
		table, refused := rewrite.Hosts(slices.Collect(maps.Keys(owners)))
		v.Services[host] = owners[table[host]]
		v.Refused = append(v.Refused, refused...)
	}
	slices.SortFunc(v.Refused, func(a, b rewrite.Collision) int {
		return cmp.Or(cmp.Compare(a.Host, b.Host), cmp.Compare(a.Refused.Key(), b.Refused.Key()))
	})
	return v
}

// Waiting says what is missing before the first view, for readiness.
func (c *Catalog) Waiting() []string {
	var why []string
	for _, s := range c.Statuses() {
		switch {
		case !s.Known:
			why = append(why, fmt.Sprintf("registry %s was not listed yet (%s %s)", s.Name, s.Registry.State, s.Registry.Err))
		case s.Waiting > 0:
			why = append(why, fmt.Sprintf("registry %s: %d of %d interfaces were not heard yet", s.Name, s.Waiting, s.Interfaces))
		}
	}
	return why
}
