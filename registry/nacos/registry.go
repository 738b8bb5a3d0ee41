package nacos

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/nacos-group/nacos-sdk-go/v2/common/constant"
	"github.com/nacos-group/nacos-sdk-go/v2/common/remote/rpc/rpc_request"
	"github.com/nacos-group/nacos-sdk-go/v2/common/remote/rpc/rpc_response"
	"github.com/nacos-group/nacos-sdk-go/v2/model"

	"github.com/meshferry/meshferry/registry"
	"github.com/meshferry/meshferry/registry/internal/backend"
)

// Pauses between tries to connect, and of logins that were refused: many servers
// lock a user out.
const (
	retryFirst = 200 * time.Millisecond
	retryLast  = 5 * time.Second
	loginRetry = 10 * time.Second
	renewEvery = 5 * time.Second
)

// Registry is Nacos as a registry.Registry.
type Registry struct {
	// Immutable after New.
	o         Options
	namespace string // as naming calls it
	log       *slog.Logger
	services  *services
	reader    *reader
	lost      chan struct{} // capacity 1
	turn      chan struct{} // capacity 1: who holds the value applies

	mu     sync.Mutex
	status registry.Status // guarded by mu
	conn   *conn           // guarded by mu; nil while away

	revisions revisions // owned as published is
	now       func() time.Time
	published map[string][]model.Instance // owned by who has the turn, and by Run before the connection is usable; by service

	checks sync.Mutex
	due    map[string]time.Time // guarded by checks; when a configuration of ours is looked at again
}

var _ registry.Registry = (*Registry)(nil)

// New checks o and returns a Registry that does nothing until Run.
func New(o Options) (*Registry, error) {
	o, err := o.complete()
	if err != nil {
		return nil, err
	}
	if o.HostID == "" {
		return nil, errors.New("registry Nacos: the host id is empty")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	r := &Registry{
		o:         o,
		namespace: o.Namespace,
		log:       o.Log,
		lost:      make(chan struct{}, 1),
		turn:      make(chan struct{}, 1),
		status:    registry.Status{State: registry.Connecting, Since: time.Now()},
		now:       time.Now,
		revisions: revisions{store: o.Store, log: o.Log},
		published: map[string][]model.Instance{},
		due:       map[string]time.Time{},
	}
	if r.namespace == "" {
		r.namespace = constant.DEFAULT_NAMESPACE_ID
	}
	r.services = newServices(o.HostID, r.changed)
	r.reader = newReader(r)
	return r, nil
}

// Run holds a connection until ctx ends, and returns nil then. What was published
// goes with it. It may be called once.
func (r *Registry) Run(ctx context.Context) error {
	r.revisions.load()
	var wg sync.WaitGroup
	defer wg.Wait()
	reading, stop := context.WithCancel(ctx)
	defer stop()
	wg.Go(func() { r.reader.run(reading) })
	defer r.enter(registry.Closed)

	next := rand.IntN(len(r.o.Servers))
	pause := retryFirst
	for ctx.Err() == nil {
		server := r.o.Servers[next%len(r.o.Servers)]
		next++
		began := time.Now()
		err := r.hold(ctx, server)
		if ctx.Err() != nil {
			break
		}
		r.away(err)
		switch {
		case errors.Is(err, errLogin):
			pause = loginRetry
		case time.Since(began) > retryLast:
			pause = retryFirst
			next-- // it was fine for a while: a server that is restarted comes back at its place
		}
		select {
		case <-ctx.Done():
		case <-time.After(backend.Jittered(pause)):
		}
		if next%len(r.o.Servers) == 0 {
			pause = min(2*pause, retryLast)
		}
	}
	return nil
}

// hold makes one connection and keeps it until it ends; the error says why.
func (r *Registry) hold(ctx context.Context, server string) error {
	token, ttl, err := r.o.login(ctx, server)
	if err != nil {
		return err
	}
	secure, err := r.o.TLS.Config()
	if err != nil {
		return err
	}
	c, err := dial(ctx, server, r.o.Namespace, token, secure)
	if err != nil {
		return fmt.Errorf("connect to %s: %w", server, err)
	}
	if r.o.User != "" {
		c.renew = r.renewal(c, server)
	}
	served := make(chan error, 1)
	go func() { served <- c.serve(ctx, func(kind string, body []byte) { r.pushed(c, kind, body) }) }()
	err = r.use(ctx, c, ttl)
	c.end(err)
	why := <-served
	r.mu.Lock()
	r.conn = nil
	r.mu.Unlock()
	r.services.disconnected()
	r.reader.rounds.Poke()
	return why
}

// use brings our instances back, declares the connection usable, and returns when
// it has ended or its token must be renewed.
func (r *Registry) use(ctx context.Context, c *conn, ttl time.Duration) error {
	// A first question that needs permission: refused, nothing else would work.
	if _, err := c.list(ctx, r.namespace, r.o.Group, 1, 1); err != nil {
		if denied(err) && r.o.User == "" {
			return fmt.Errorf("%s wants a login, and no user is set: %w", c.server, err)
		}
		return err
	}
	select {
	case r.turn <- struct{}{}: // an Apply of the last connection ends soon
	case <-c.ended.Done():
		return context.Cause(c.ended)
	}
	for name, batch := range r.published {
		if err := r.write(ctx, c, name, batch); err != nil {
			r.log.Warn("instances could not be registered again", "service", name, "err", err)
		}
	}
	<-r.turn
	r.checks.Lock()
	clear(r.due) // a server that was wiped knows nothing
	r.checks.Unlock()

	note := ""
	if missing, ids := r.o.namespaceMissing(ctx, c.server, *c.token.Load()); missing {
		note = fmt.Sprintf("namespace %q does not exist on %s: nobody else will find what is registered there", r.o.Namespace, c.server)
		if len(ids) > 0 {
			note += fmt.Sprintf("; that is the name of one, its id is %q", strings.Join(ids, `" or "`))
		}
		r.log.Warn("Nacos namespace does not exist; it takes registrations all the same", "namespace", r.o.Namespace, "server", c.server, "idsOfThatName", ids)
	}
	r.services.connected(c)
	r.mu.Lock()
	if c.ended.Err() == nil {
		r.conn = c
		r.status = registry.Status{State: registry.Connected, Since: time.Now(), Err: note}
	}
	r.mu.Unlock()
	r.log.Info("connected to Nacos", "server", c.server)
	r.reader.rounds.Poke()
	backend.Poke(r.lost)

	if ttl <= 0 {
		ttl = 100 * 365 * 24 * time.Hour
	}
	renew := time.NewTimer(ttl - ttl/10)
	defer renew.Stop()
	for {
		select {
		case <-c.ended.Done():
			return context.Cause(c.ended)
		case <-renew.C:
			token, next, err := r.o.login(ctx, c.server)
			if err != nil {
				renew.Reset(max(ttl/100, time.Second))
				r.log.Warn("the login at Nacos could not be renewed", "err", err)
				continue
			}
			c.token.Store(&token)
			renew.Reset(next - next/10)
		}
	}
}

// renewal logs in anew for requests that are denied: the server may sign tokens
// with another secret now. It does so seldom: most likely the user may not do what
// was asked.
func (r *Registry) renewal(c *conn, server string) func(context.Context) bool {
	var mu sync.Mutex
	last := time.Now()
	return func(ctx context.Context) bool {
		mu.Lock()
		defer mu.Unlock()
		if time.Since(last) < renewEvery {
			return false
		}
		last = time.Now()
		token, _, err := r.o.login(ctx, server)
		if err != nil {
			r.log.Warn("the login at Nacos could not be renewed", "err", err)
			return false
		}
		c.token.Store(&token)
		return true
	}
}

func (r *Registry) away(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	text := err.Error()
	was := r.status
	if was.State == registry.Connected {
		r.status = registry.Status{State: registry.Away, Since: time.Now(), Err: text}
		r.log.Warn("Nacos is away", "err", err)
		backend.Poke(r.lost)
		return
	}
	r.status.Err = text
	if was.Err != text && (was.Err == "" || errors.Is(err, errLogin) || denied(err)) {
		r.log.Warn("Nacos cannot be reached; trying again", "servers", strings.Join(r.o.Servers, ","), "err", err)
	}
}

func (r *Registry) enter(state string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.conn = nil
	r.status = registry.Status{State: state, Since: time.Now()}
}

// Status is the state of the connection.
func (r *Registry) Status() registry.Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.status
}

// usable is the connection, if there is one.
func (r *Registry) usable() *conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.conn
}

// Lost gets a value when an entry of ours has gone or another's has, with each new
// connection, and when the registry is away.
func (r *Registry) Lost() <-chan struct{} { return r.lost }

// Subscribe delivers the providers of iface. See registry.Subscriber.
func (r *Registry) Subscribe(ctx context.Context, iface string, ch chan<- registry.Endpoints) error {
	if err := registry.CheckInterface(iface); err != nil {
		return err
	}
	return r.reader.subs.Subscribe(ctx, iface, ch)
}

// pushed is called with what the server sends. It never blocks.
func (r *Registry) pushed(c *conn, kind string, body []byte) {
	switch kind {
	case constant.NOTIFY_SUBSCRIBE_REQUEST_NAME:
		var q struct{ ServiceInfo model.Service }
		if err := json.Unmarshal(body, &q); err != nil {
			r.log.Warn("Nacos sent what cannot be read", "kind", kind, "err", err)
			return
		}
		r.services.pushed(c, bare(q.ServiceInfo.Name), q.ServiceInfo.Hosts)
	case constant.CONFIG_CHANGE_NOTIFY_REQUEST_NAME:
		r.reader.mappingsChanged()
	}
}

// bare is a service's name without its group, which some answers put before it.
func bare(name string) string {
	if _, after, ok := strings.Cut(name, constant.SERVICE_INFO_SPLITER); ok {
		return after
	}
	return name
}

// changed is told of each service whose instances are others than before.
func (r *Registry) changed(lost bool) {
	if lost {
		backend.Poke(r.lost)
	}
	r.reader.rounds.Poke()
}

// list is one page of the names of a group's services, and how many there are.
func (c *conn) list(ctx context.Context, namespace, group string, page, size int) (*rpc_response.ServiceListResponse, error) {
	a := &rpc_response.ServiceListResponse{Response: &rpc_response.Response{}}
	return a, c.ask(ctx, rpc_request.NewServiceListRequest(namespace, "", group, page, size, ""), a)
}

// config reads a configuration; found is false if there is none. While it is being
// written the server does not give it; that is waited for.
func (c *conn) config(ctx context.Context, namespace, group, dataID string) (content string, found bool, err error) {
	for wait := readAgain; ; wait *= 2 {
		a := &rpc_response.ConfigQueryResponse{Response: &rpc_response.Response{}}
		err = c.ask(ctx, rpc_request.NewConfigQueryRequest(group, dataID, namespace), a)
		if refused(err, codeNotFound) {
			return "", false, nil
		}
		if !refused(err, codeBeingWritten) || wait > requestWithin/4 {
			return a.Content, err == nil, err
		}
		select {
		case <-ctx.Done():
			return "", false, err
		case <-time.After(wait):
		}
	}
}

// setConfig writes a configuration. With was it succeeds only if that is the
// content now; servers with Derby of before 2.3 do not keep to it, so what counts
// is what is read afterwards.
func (c *conn) setConfig(ctx context.Context, namespace, group, dataID, content, was string) error {
	q := rpc_request.NewConfigPublishRequest(group, dataID, namespace, content, "")
	if was != "" {
		q.CasMd5 = hash(was)
	}
	return c.ask(ctx, q, &rpc_response.ConfigPublishResponse{Response: &rpc_response.Response{}})
}

func hash(content string) string {
	sum := md5.Sum([]byte(content))
	return hex.EncodeToString(sum[:])
}
