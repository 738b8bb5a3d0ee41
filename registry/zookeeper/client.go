package zookeeper

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/go-zookeeper/zk"
	"golang.org/x/time/rate"

	"github.com/meshferry/meshferry/registry"
)

// callWithin bounds each call. The library itself waits until it gives a
// connection up, two thirds of the session's time-out.
const callWithin = 5 * time.Second

// atOnce bounds the calls in flight of one pass, so that reads are pipelined and
// the server is not flooded.
const atOnce = 32

// client is the library with a deadline for each call, and with at most one
// watch for each node: the library keeps a channel for every call that sets one.
type client struct {
	// Immutable after New.
	acl    []zk.ACL
	writes *rate.Limiter // nil: no limit

	conn atomic.Pointer[zk.Conn] // set by Run

	mu    sync.Mutex
	armed map[watch]struct{} // guarded by mu
}

type watch struct {
	path string
	kind watchKind
}

type watchKind int

const (
	onData watchKind = iota
	onChildren
	onCreation
)

// event notes which watches have fired. It is called before the caller can learn
// of the change, so a read after it sets a new watch.
func (c *client) event(e zk.Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch e.Type {
	case zk.EventNodeCreated:
		delete(c.armed, watch{e.Path, onCreation})
	case zk.EventNodeDataChanged:
		delete(c.armed, watch{e.Path, onCreation})
		delete(c.armed, watch{e.Path, onData})
	case zk.EventNodeChildrenChanged:
		delete(c.armed, watch{e.Path, onChildren})
	case zk.EventNodeDeleted, zk.EventNotWatching:
		delete(c.armed, watch{e.Path, onCreation})
		delete(c.armed, watch{e.Path, onData})
		delete(c.armed, watch{e.Path, onChildren})
	}
}

// arm tells whether the caller must set a watch. It is noted before it is set,
// for it may fire before the call returns.
func (c *client) arm(w watch) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, found := c.armed[w]; found {
		return false
	}
	c.armed[w] = struct{}{}
	return true
}

// watching tells whether a change of the node's data would be told.
func (c *client) watching(path string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, found := c.armed[watch{path, onData}]
	return found
}

func (c *client) disarm(w watch) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.armed, w)
}

// content is what a node holds. The zero content is that of no node.
type content struct {
	found    bool
	data     []byte
	children []string
	stat     zk.Stat
}

// data reads a node and watches it. One that is not there is watched for its
// creation if creation is set.
func (c *client) data(ctx context.Context, path string, creation bool) (content, error) {
	read := func(ctx context.Context, w bool) (content, error) {
		return call(ctx, c, func(conn *zk.Conn) (n content, err error) {
			var s *zk.Stat
			if w {
				n.data, s, _, err = conn.GetW(path)
			} else {
				n.data, s, err = conn.Get(path)
			}
			return n.with(s, err)
		})
	}
	return c.watched(ctx, watch{path, onData}, creation, read)
}

// children lists the children of a node and watches the list, or the creation of
// the node when it is not there.
func (c *client) children(ctx context.Context, path string) (content, error) {
	read := func(ctx context.Context, w bool) (content, error) {
		return call(ctx, c, func(conn *zk.Conn) (n content, err error) {
			var s *zk.Stat
			if w {
				n.children, s, _, err = conn.ChildrenW(path)
			} else {
				n.children, s, err = conn.Children(path)
			}
			return n.with(s, err)
		})
	}
	return c.watched(ctx, watch{path, onChildren}, true, read)
}

func (n content) with(s *zk.Stat, err error) (content, error) {
	if err != nil || s == nil {
		return content{}, err
	}
	n.found, n.stat = true, *s
	return n, nil
}

func (c *client) watched(ctx context.Context, w watch, creation bool, read func(context.Context, bool) (content, error)) (content, error) {
	// A node may come and go between the calls; whoever reads tries again later.
	for range 4 {
		set := c.arm(w)
		n, err := read(ctx, set)
		if err == nil {
			return n, nil
		}
		if set {
			c.disarm(w)
		}
		if !errors.Is(err, zk.ErrNoNode) {
			return content{}, fmt.Errorf("read %s: %w", w.path, err)
		}
		if !creation {
			return content{}, nil
		}
		there, err := c.watchCreation(ctx, w.path)
		if err != nil {
			return content{}, fmt.Errorf("read %s: %w", w.path, err)
		}
		if !there {
			return content{}, nil
		}
	}
	return content{}, fmt.Errorf("read %s: it comes and goes", w.path)
}

// watchCreation waits for a node. When it is there already, the library has set a
// watch on its data instead.
func (c *client) watchCreation(ctx context.Context, path string) (there bool, err error) {
	w := watch{path, onCreation}
	if !c.arm(w) {
		return false, nil
	}
	there, err = call(ctx, c, func(conn *zk.Conn) (bool, error) {
		there, _, _, err := conn.ExistsW(path)
		return there, err
	})
	if err != nil || there {
		c.disarm(w)
	}
	return there, err
}

// peek reads a node and sets no watch.
func (c *client) peek(ctx context.Context, path string) (content, error) {
	n, err := call(ctx, c, func(conn *zk.Conn) (n content, err error) {
		var s *zk.Stat
		n.data, s, err = conn.Get(path)
		return n.with(s, err)
	})
	if errors.Is(err, zk.ErrNoNode) {
		return content{}, nil
	}
	return n, err
}

// list lists the children of a node and sets no watch.
func (c *client) list(ctx context.Context, path string) ([]string, error) {
	names, err := call(ctx, c, func(conn *zk.Conn) ([]string, error) {
		names, _, err := conn.Children(path)
		return names, err
	})
	if errors.Is(err, zk.ErrNoNode) {
		return nil, nil
	}
	return names, err
}

// create creates a node, and its parents if they are missing. Whether they are
// is asked first, because a create that fails costs the ensemble, and the budget,
// as much as one that does not.
func (c *client) create(ctx context.Context, path string, data []byte, flags int32) error {
	if parent := parentOf(path); parent != "" {
		there, err := call(ctx, c, func(conn *zk.Conn) (bool, error) {
			there, _, err := conn.Exists(parent)
			return there, err
		})
		if err == nil && !there {
			err = c.create(ctx, parent, nil, 0)
		}
		if err != nil && !errors.Is(err, zk.ErrNodeExists) {
			return fmt.Errorf("create %s: %w", parent, err)
		}
	}
	return c.write(ctx, func(conn *zk.Conn) error {
		_, err := conn.Create(path, data, flags, c.acl)
		return err
	})
}

func parentOf(path string) string {
	for i := len(path) - 1; i > 0; i-- {
		if path[i] == '/' {
			return path[:i]
		}
	}
	return ""
}

func (c *client) set(ctx context.Context, path string, data []byte, version int32) error {
	return c.write(ctx, func(conn *zk.Conn) error {
		_, err := conn.Set(path, data, version)
		return err
	})
}

func (c *client) remove(ctx context.Context, path string, version int32) error {
	return c.write(ctx, func(conn *zk.Conn) error { return conn.Delete(path, version) })
}

// replace makes a node of another session one of ours, in one transaction:
// nobody sees the list without it.
func (c *client) replace(ctx context.Context, path string, data []byte, version int32) error {
	return c.write(ctx, func(conn *zk.Conn) error {
		_, err := conn.Multi(
			&zk.DeleteRequest{Path: path, Version: version},
			&zk.CreateRequest{Path: path, Data: data, Acl: c.acl, Flags: zk.FlagEphemeral})
		return err
	})
}

func (c *client) write(ctx context.Context, f func(*zk.Conn) error) error {
	if c.writes != nil {
		if err := c.writes.Wait(ctx); err != nil {
			return orAway(fmt.Errorf("write budget: %w", err))
		}
	}
	_, err := call(ctx, c, func(conn *zk.Conn) (struct{}, error) { return struct{}{}, f(conn) })
	return err
}

// call runs one blocking call of the library. One that is given up ends by
// itself: with an answer, with its connection, or with the library.
func call[T any](ctx context.Context, c *client, f func(*zk.Conn) (T, error)) (T, error) {
	var none T
	conn := c.conn.Load()
	if conn == nil {
		return none, registry.ErrAway
	}
	ctx, cancel := context.WithTimeout(ctx, callWithin)
	defer cancel()
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		v, err := f(conn)
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		return r.value, orAway(r.err)
	case <-ctx.Done():
		return none, orAway(ctx.Err())
	}
}

// orAway marks an error that is the connection's, not the node's. The library says
// "not authenticated" of a permission that is missing.
func orAway(err error) error {
	if errors.Is(err, zk.ErrNoAuth) {
		return fmt.Errorf("ZooKeeper denies it (its ACL; user and password?): %w", err)
	}
	for _, e := range []error{zk.ErrConnectionClosed, zk.ErrClosing, zk.ErrNoServer, zk.ErrSessionExpired, zk.ErrSessionMoved,
		errDetached, context.DeadlineExceeded, context.Canceled} {
		if errors.Is(err, e) {
			return fmt.Errorf("%w: %w", registry.ErrAway, err)
		}
	}
	return err
}

// debugLog is the library's log.
type debugLog struct{ *slog.Logger }

func (l debugLog) Printf(format string, args ...any) {
	if l.Enabled(context.Background(), slog.LevelDebug) {
		l.Debug("zk: " + fmt.Sprintf(format, args...))
	}
}
