package local

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/meshferry/meshferry/registry"
)

// Options say where the registry is and who uses it.
type Options struct {
	Dir    string // made when missing, for its owner only; files are as readable as it is
	HostID string // who owns what is published; others see it in conflicts
	Log    *slog.Logger
}

// Registry is one user of the directory. It implements registry.Registry. Run is
// for one time.
type Registry struct {
	// immutable after New
	dir, hostID string
	name        string // of the own entry file, used by nobody else ever
	log         *slog.Logger
	lost        chan struct{}
	applying    chan struct{} // holds a token while an Apply runs
	sweep       time.Duration // between two looks that no event asked for

	mu      sync.Mutex
	status  registry.Status     // guarded by mu
	foreign map[string]*foreign // guarded by mu; live entries of others, by file name
	own     *own                // guarded by mu; nil while nothing is published
	skipped map[string]skipped  // guarded by mu; files that were logged as no entry
	view    *view               // guarded by mu; nil until the directory was read
	changed chan struct{}       // guarded by mu; closed when view is replaced
}

// view is everything that the directory holds at one moment; never changed.
type view struct {
	byInterface map[string][]registry.Provider
}

// ParseURL reads "local:///dir", percent-encoded, into the directory.
func ParseURL(text string) (dir string, err error) {
	u, err := registry.ParseURL(text)
	if err != nil {
		return "", err
	}
	if u.Protocol != "local" || u.User != "" || u.Host != "" || u.Port != 0 || u.Path == "" || u.Query != "" {
		return "", fmt.Errorf("bad registry address %q: want local:///absolute/directory", text)
	}
	dir, err = url.PathUnescape("/" + u.Path)
	if err != nil || strings.ContainsRune(dir, 0) {
		return "", fmt.Errorf("bad registry address %q: the directory is not percent-encoded correctly", text)
	}
	return filepath.Clean(dir), nil
}

// New checks the options. It touches no file; Run does.
func New(o Options) (*Registry, error) {
	if o.HostID == "" {
		return nil, errors.New("local registry: no host id")
	}
	if o.Dir == "" {
		return nil, errors.New("local registry: no directory")
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("local registry: %w", err)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Registry{
		dir: dir, hostID: o.HostID, log: o.Log,
		name:     fileName(o.HostID, rand.Text()),
		lost:     make(chan struct{}, 1),
		applying: make(chan struct{}, 1),
		sweep:    5 * time.Second,
		status:   registry.Status{State: registry.Connecting, Since: time.Now()},
		foreign:  map[string]*foreign{},
		skipped:  map[string]skipped{},
		changed:  make(chan struct{}),
	}, nil
}

// fileName lets a human find an agent's file; random makes it unique.
func fileName(hostID, random string) string {
	safe := strings.Map(func(c rune) rune {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-':
			return c
		}
		return '_'
	}, hostID)
	return fmt.Sprintf("%.64s.%s%s", safe, random, suffix)
}

// Status tells whether the directory can be used.
func (r *Registry) Status() registry.Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.status
}

// Lost tells that the own entry was removed by somebody, that the directory can be
// used (again), or that it cannot.
func (r *Registry) Lost() <-chan struct{} { return r.lost }

// Subscribe sends the providers of iface. A reader that is slow gets the latest
// set, not each one.
func (r *Registry) Subscribe(ctx context.Context, iface string, ch chan<- registry.Endpoints) error {
	if err := registry.CheckInterface(iface); err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	r.refresh()
	var sent []registry.Provider
	for first := true; ; {
		v, changed := r.watch()
		var out chan<- registry.Endpoints // nil while there is nothing to say
		var now []registry.Provider
		if v != nil {
			now = v.byInterface[iface]
			if first || !slices.Equal(now, sent) {
				out = ch
			}
		}
		select {
		// A clone, because the reader may sort or cut what it got.
		case out <- registry.Endpoints{Interface: iface, Providers: slices.Clone(now)}:
			sent, first = now, false
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// List sends the names of the interfaces that have providers.
func (r *Registry) List(ctx context.Context, ch chan<- []string) error {
	r.refresh()
	var sent []string
	for first := true; ; {
		v, changed := r.watch()
		var out chan<- []string // nil while there is nothing to say
		var now []string
		if v != nil {
			now = slices.Sorted(maps.Keys(v.byInterface))
			if first || !slices.Equal(now, sent) {
				out = ch
			}
		}
		select {
		case out <- slices.Clone(now):
			sent, first = now, false
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

func (r *Registry) watch() (*view, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.view, r.changed
}
