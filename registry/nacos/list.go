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
	"golang.org/x/sync/errgroup"

	"github.com/meshferry/meshferry/registry"
	"github.com/meshferry/meshferry/registry/internal/backend"
)

// List names the interfaces. Nobody announces new services in Nacos, so it looks
// every few seconds. See registry.Lister.
func (r *Registry) List(ctx context.Context, ch chan<- []string) error {
	l := lister{r: r, revisions: map[string][]string{}}
	var sent []string
	told := false
	for {
		names, err := l.look(ctx)
		if err != nil && ctx.Err() == nil && !errors.Is(err, registry.ErrAway) {
			r.log.Warn("Nacos cannot be listed; trying again", "err", err)
		}
		if err == nil && (!told || !slices.Equal(names, sent)) {
			select {
			case ch <- names:
				sent, told = names, true
			case <-ctx.Done():
				return nil
			}
		}
		wait := backend.Jittered(r.o.look)
		if err != nil {
			wait = backend.Jittered(time.Second)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// lister is the state of one List.
type lister struct {
	r *Registry

	mu        sync.Mutex
	revisions map[string][]string // guarded by mu; interfaces by "application/revision"
}

// look names the interfaces of all services of the group. Services with a category
// in their name are of the interface level, all others may be applications, whose
// metadata says what they serve.
func (l *lister) look(ctx context.Context) ([]string, error) {
	c := l.r.usable()
	if c == nil {
		return nil, registry.ErrAway
	}
	services, err := l.r.reader.list(ctx, c)
	if err != nil {
		return nil, err
	}
	found, used := map[string]struct{}{}, map[string]struct{}{}
	var mu sync.Mutex // of found and used
	var g errgroup.Group
	g.SetLimit(atOnce)
	for _, name := range services {
		if category, rest, ok := strings.Cut(name, ":"); ok {
			iface, _, _ := strings.Cut(rest, ":")
			if iface = strings.ReplaceAll(iface, "___", "$"); category == providers && registry.CheckInterface(iface) == nil {
				mu.Lock()
				found[iface] = struct{}{}
				mu.Unlock()
			}
			continue
		}
		if checkName(name) != nil {
			continue
		}
		g.Go(func() error {
			keys, interfaces, err := l.application(ctx, c, name)
			mu.Lock()
			defer mu.Unlock()
			for _, k := range keys {
				used[k] = struct{}{}
			}
			for _, i := range interfaces {
				found[i] = struct{}{}
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	maps.DeleteFunc(l.revisions, func(key string, _ []string) bool {
		_, is := used[key]
		return !is
	})
	return slices.Sorted(maps.Keys(found)), nil
}

// application reads what an application serves, each revision once. One that only
// the provider has and that it does not tell is left out: it comes with its
// mapping or its interface level, or at a later look.
func (l *lister) application(ctx context.Context, c *conn, app string) (keys, interfaces []string, err error) {
	a := &rpc_response.QueryServiceResponse{Response: &rpc_response.Response{}}
	if err := c.ask(ctx, rpc_request.NewServiceQueryRequest(l.r.namespace, app, l.r.o.Group, "", false, 0), a); err != nil {
		return nil, nil, err
	}
	for _, i := range a.ServiceInfo.Hosts {
		revision := i.Metadata[registry.KeyRevision]
		if !usable(i) || checkName(revision) != nil || revision == "0" {
			continue
		}
		key := app + "/" + revision
		keys = append(keys, key)
		l.mu.Lock()
		known, ok := l.revisions[key]
		l.mu.Unlock()
		if !ok {
			content, found, err := c.config(ctx, l.r.o.Namespace, revision, escaped(app))
			if err != nil {
				return keys, interfaces, fmt.Errorf("metadata of %s: %w", app, err)
			}
			var m registry.Metadata
			switch {
			case found:
				m, err = backend.ParseMetadata(revision, []byte(content))
			case l.r.o.Metadata == nil || i.Metadata[registry.KeyStorageType] == "remote":
				continue
			default:
				var of registry.Instance
				if of, err = parseApplication(app, i); err == nil {
					limit, cancel := context.WithTimeout(ctx, askWithin)
					m, err = l.r.o.Metadata(limit, of)
					cancel()
				}
			}
			if err != nil {
				continue
			}
			known = m.Interfaces()
			l.mu.Lock()
			l.revisions[key] = known
			l.mu.Unlock()
		}
		interfaces = append(interfaces, known...)
	}
	return keys, interfaces, nil
}
