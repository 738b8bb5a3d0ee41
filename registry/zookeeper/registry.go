package zookeeper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/go-zookeeper/zk"

	"github.com/meshferry/meshferry/registry"
	"github.com/meshferry/meshferry/registry/internal/backend"
)

// maxPacket bounds one answer of the server: about 60 000 providers of one
// interface.
const maxPacket = 64 << 20

// Registry is one ZooKeeper ensemble as a registry.Registry.
type Registry struct {
	// Immutable after New.
	o       Options
	paths   paths
	log     *slog.Logger
	link    *link
	journal *journal
	client  *client
	reader  *reader
	lost    chan struct{}     // capacity 1
	turn    chan struct{}     // capacity 1: who holds the value applies
	wake    chan struct{}     // capacity 1: the session's state has changed
	ending  chan chan<- error // End asks Run
	done    chan struct{}     // closed when Run returns
	now     func() time.Time  // the wall clock; for the age of revisions

	mu      sync.Mutex
	status  registry.Status     // guarded by mu
	session int64               // guarded by mu; usable while the status is connected
	events  uint64              // guarded by mu; counts changes of the session's state
	alive   bool                // guarded by mu; the library has a session
	mine    map[string]struct{} // guarded by mu; nodes whose change is told by Lost
}

var _ registry.Registry = (*Registry)(nil)

// New checks o and returns a Registry that does nothing until Run.
func New(o Options) (*Registry, error) {
	o, err := o.complete()
	if err != nil {
		return nil, err
	}
	if o.HostID == "" {
		return nil, errors.New("ZooKeeper registry: the host id is empty")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	acl := zk.WorldACL(zk.PermAll)
	if o.User != "" {
		acl = zk.AuthACL(zk.PermAll) // Java's CREATOR_ALL_ACL
	}
	r := &Registry{
		o:       o,
		paths:   paths{root: "/" + o.Root, services: "/" + o.ServicesRoot},
		log:     o.Log,
		journal: &journal{store: o.Session, log: o.Log},
		client:  &client{acl: acl, writes: o.Writes, armed: map[watch]struct{}{}},
		lost:    make(chan struct{}, 1),
		turn:    make(chan struct{}, 1),
		wake:    make(chan struct{}, 1),
		ending:  make(chan chan<- error),
		done:    make(chan struct{}),
		now:     time.Now,
		status:  registry.Status{State: registry.Connecting, Since: time.Now()},
		mine:    map[string]struct{}{},
	}
	r.link = newLink(o.TLS.Dial, o.SessionTimeout/3, len(o.Servers), o.Log, r.journal.begin)
	r.reader = newReader(r.client, r.paths, o.Metadata, o.Log)
	return r, nil
}

// Run holds the session until ctx ends, and returns nil then. The session and
// its nodes outlive it by the session's time-out; the next Run with the same
// Store goes on with them. It may be called once.
func (r *Registry) Run(ctx context.Context) error {
	defer close(r.done)
	if s, ok := r.journal.load(); ok {
		r.link.resume(s)
	}
	conn, events, err := zk.Connect(r.o.Servers, r.o.SessionTimeout,
		zk.WithDialer(r.link.dial), zk.WithHostProvider(&hosts{expired: &r.link.expired}), zk.WithMaxBufferSize(maxPacket),
		zk.WithEventCallback(r.event), zk.WithLogger(debugLog{r.log}))
	if err != nil {
		return fmt.Errorf("connect to ZooKeeper: %w", err)
	}
	r.client.conn.Store(conn)

	var wg sync.WaitGroup
	reading, stop := context.WithCancel(ctx)
	wg.Go(func() { r.reader.run(reading) })
	defer func() {
		stop()
		r.enter(registry.Closed, nil)
		conn.Close()
		r.link.drop()
		for range events { // the library closes it when its goroutines have ended
		}
		wg.Wait()
	}()

	authenticated := r.o.User == ""
	for {
		select {
		case <-ctx.Done():
			r.link.detach()
			return nil
		case reply := <-r.ending:
			reply <- r.end(conn)
			return nil
		case <-r.wake:
		}
		seen, alive := r.observed()
		if !alive {
			continue
		}
		if !authenticated { // once: the library repeats it after a reconnect
			if err := r.authenticate(ctx); err != nil {
				r.log.Warn("ZooKeeper authentication failed", "err", err)
				r.later()
				continue
			}
			authenticated = true
		}
		r.connected(seen, conn.SessionID())
	}
}

func (r *Registry) authenticate(ctx context.Context) error {
	_, err := call(ctx, r.client, func(conn *zk.Conn) (struct{}, error) {
		return struct{}{}, conn.AddAuth("digest", []byte(r.o.User+":"+r.o.Password))
	})
	return err
}

// later looks at the session again after a pause.
func (r *Registry) later() {
	time.AfterFunc(time.Second, func() { backend.Poke(r.wake) })
}

// End ends the session and with it every node of ours, and makes Run return. It
// is for an agent that stops for good; after it a new process begins anew.
func (r *Registry) End(ctx context.Context) error {
	reply := make(chan error, 1)
	select {
	case r.ending <- reply:
	case <-r.done:
		return errors.New("end the ZooKeeper session: not running")
	case <-ctx.Done():
		return fmt.Errorf("end the ZooKeeper session: %w", ctx.Err())
	}
	select {
	case err := <-reply:
		return err
	case <-ctx.Done():
		return fmt.Errorf("end the ZooKeeper session: %w", ctx.Err())
	}
}

func (r *Registry) end(conn *zk.Conn) error {
	if _, ok := r.usable(); !ok {
		r.link.detach() // what cannot be ended can still be resumed
		return fmt.Errorf("end the ZooKeeper session: %w", registry.ErrAway)
	}
	r.enter(registry.Closed, nil)
	conn.Close()
	r.journal.end()
	return nil
}

// event is the library's callback: it notes and wakes, and never blocks.
func (r *Registry) event(e zk.Event) {
	if e.Type != zk.EventSession {
		r.client.event(e)
		r.reader.changed(e.Path)
		r.mu.Lock()
		_, own := r.mine[e.Path]
		delete(r.mine, e.Path) // Apply puts it back
		r.mu.Unlock()
		if own {
			backend.Poke(r.lost)
		}
		return
	}
	switch e.State {
	case zk.StateHasSession:
		r.observe(true)
	case zk.StateExpired:
		r.log.Warn("the ZooKeeper session has expired; a new one begins")
		r.observe(false)
	case zk.StateDisconnected, zk.StateAuthFailed:
		r.observe(false)
	case zk.StateConnecting: // the last try, if there was one, has failed
		if err := r.link.lastErr(); err != nil {
			r.note(err)
		}
	}
}

func (r *Registry) observe(alive bool) {
	r.mu.Lock()
	r.alive = alive
	r.events++
	was := r.status.State
	r.mu.Unlock()
	if was == registry.Closed {
		return
	}
	if alive {
		backend.Poke(r.wake)
		return
	}
	r.reader.connected(false)
	if was == registry.Connected {
		r.enter(registry.Away, errors.New("the connection was lost"))
	}
}

func (r *Registry) observed() (events uint64, alive bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.events, r.alive
}

// connected declares the session usable, unless its state has changed since the
// caller looked.
func (r *Registry) connected(seen uint64, id int64) {
	r.mu.Lock()
	if r.events != seen || !r.alive {
		r.mu.Unlock()
		return
	}
	r.session = id
	r.status = registry.Status{State: registry.Connected, Since: time.Now(), Session: sessionName(id)}
	r.mu.Unlock()
	r.log.Info("connected to ZooKeeper", "session", sessionName(id))
	r.reader.connected(true)
	backend.Poke(r.lost)
}

func (r *Registry) enter(state string, err error) {
	r.mu.Lock()
	changed := r.status.State != state
	if changed {
		r.status.State, r.status.Since, r.status.Err = state, time.Now(), text(err)
	}
	r.mu.Unlock()
	if changed && state == registry.Away {
		r.log.Warn("ZooKeeper is away", "err", err)
		backend.Poke(r.lost)
	}
}

// note keeps why a connection cannot be made, and says it once if there was none
// since the start; later it is said by enter.
func (r *Registry) note(err error) {
	r.mu.Lock()
	first := r.status.State == registry.Connecting && r.status.Err == ""
	r.status.Err = err.Error()
	r.mu.Unlock()
	if first {
		r.log.Warn("ZooKeeper cannot be reached; trying again", "servers", strings.Join(r.o.Servers, ","), "err", err)
	}
}

// Status is the state of the session.
func (r *Registry) Status() registry.Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.status
}

// usable is the session, if there is one to write in.
func (r *Registry) usable() (int64, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.session, r.status.State == registry.Connected
}

// Lost gets a value when a node of ours has changed or gone, when one that was
// another's has, when a session begins or goes on, and when the registry is away.
func (r *Registry) Lost() <-chan struct{} { return r.lost }

// Subscribe delivers the providers of iface. See registry.Subscriber.
func (r *Registry) Subscribe(ctx context.Context, iface string, ch chan<- registry.Endpoints) error {
	if err := registry.CheckInterface(iface); err != nil {
		return err
	}
	return r.reader.subs.Subscribe(ctx, iface, ch)
}

// List names the interfaces. See registry.Lister.
func (r *Registry) List(ctx context.Context, ch chan<- []string) error {
	return r.reader.list(ctx, ch)
}

func sessionName(id int64) string { return fmt.Sprintf("0x%x", uint64(id)) }

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
