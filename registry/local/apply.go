package local

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"github.com/meshferry/meshferry/registry"
)

// Apply makes the own entry equal to d without what is in conflict. Two entries
// conflict when live owners with different host ids have the same provider URL
// or the same application instance.
func (r *Registry) Apply(ctx context.Context, d registry.Desired) (registry.Report, error) {
	select {
	case r.applying <- struct{}{}:
		defer func() { <-r.applying }()
	case <-ctx.Done():
		return pending(d, ctx.Err()), ctx.Err()
	}
	report, err := r.apply(ctx, d)
	if err != nil {
		err = fmt.Errorf("apply to %s: %w", r.dir, err)
		return pending(d, err), err
	}
	return report, nil
}

func (r *Registry) apply(ctx context.Context, d registry.Desired) (registry.Report, error) {
	if s := r.Status(); s.State != registry.Connected {
		return nil, fmt.Errorf("%w: %s %s", registry.ErrAway, s.State, s.Err)
	}
	unlock, err := r.decide(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()

	r.mu.Lock()
	defer r.mu.Unlock()
	if r.status.State != registry.Connected { // ended while we waited
		return nil, registry.ErrAway
	}
	if err := r.scanLocked(); err != nil {
		return nil, fmt.Errorf("%w: %w", registry.ErrAway, err)
	}
	report := registry.Report{}
	held := r.allowed(d, report)
	if err := r.write(held); err != nil {
		return nil, fmt.Errorf("%w: %w", registry.ErrAway, err)
	}
	return report, nil
}

// decide takes the directory's lock, so that nobody else takes an entry between
// our look and our write. It is held for milliseconds.
func (r *Registry) decide(ctx context.Context) (unlock func(), err error) {
	// Opened for reading, because a close after writing wakes every reader.
	f, err := os.OpenFile(r.path(lockName), os.O_RDONLY|os.O_CREATE, r.fileMode())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", registry.ErrAway, err)
	}
	for pause := time.Millisecond; ; pause = min(2*pause, 50*time.Millisecond) {
		locked, err := lockExclusive(f)
		if locked {
			return func() { f.Close() }, nil
		}
		if err != nil {
			f.Close()
			return nil, fmt.Errorf("%w: %w", registry.ErrAway, err)
		}
		select {
		case <-time.After(pause/2 + rand.N(pause)):
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("another process holds %s: %w", r.path(lockName), ctx.Err())
		}
	}
}

// allowed is the part of d that may be written, each item once; report gets the
// state of every item.
func (r *Registry) allowed(d registry.Desired, report registry.Report) (held registry.Desired) {
	take := func(key string, bad error, taken func(*entry) bool) bool {
		if _, twice := report[key]; twice {
			return false
		}
		if bad != nil {
			report[key] = registry.Item{State: registry.Pending, Err: bad.Error()}
			return false
		}
		for _, f := range r.foreign {
			if f.host != r.hostID && taken(f.entry) {
				report[key] = registry.Item{State: registry.Conflict, Owner: f.host}
				return false
			}
		}
		report[key] = registry.Item{State: registry.Held}
		return true
	}
	for _, u := range d.Providers {
		key := u.String()
		if take(key, checkURL(u), func(e *entry) bool { return e.providers[key] }) {
			held.Providers = append(held.Providers, u)
		}
	}
	for _, a := range d.Applications {
		key := a.ID()
		if take(key, checkApplication(a), func(e *entry) bool { return e.applications[key] }) {
			held.Applications = append(held.Applications, a)
		}
	}
	for _, u := range d.Consumers {
		if take(u.String(), checkURL(u), func(*entry) bool { return false }) {
			held.Consumers = append(held.Consumers, u)
		}
	}
	return held
}

// write makes the own file hold exactly held; nothing to hold is no file. r.mu
// is held.
func (r *Registry) write(held registry.Desired) error {
	if len(held.Providers)+len(held.Applications)+len(held.Consumers) == 0 {
		if r.own == nil {
			return nil
		}
		if err := r.withdraw(); err != nil {
			return err
		}
		r.publishView()
		return nil
	}
	text, err := encode(r.hostID, os.Getpid(), held)
	if err != nil {
		return err
	}
	if r.own != nil && bytes.Equal(r.own.text, text) {
		return nil
	}
	next := &own{entry: newEntry(r.hostID, os.Getpid(), held), text: text}
	if next.file, err = r.replace(text); err != nil {
		return err
	}
	if next.info, err = next.file.Stat(); err != nil {
		next.file.Close()
		return err
	}
	if r.own != nil {
		r.own.file.Close() // only now: the file at the path is always locked
	}
	r.own = next
	r.publishView()
	return nil
}

// replace puts a new, locked file with that text at the own path. There is no
// fsync: an entry does not outlive its process.
func (r *Registry) replace(text []byte) (_ *os.File, err error) {
	path := r.path(temporary + r.name)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, r.fileMode())
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(path)
		}
	}()
	locked, err := lockExclusive(f)
	if err != nil {
		return nil, err
	}
	if !locked {
		return nil, fmt.Errorf("%s is locked by somebody else", path)
	}
	if _, err := f.Write(text); err != nil {
		return nil, err
	}
	return f, os.Rename(path, r.path(r.name))
}

// fileMode makes files as readable as the directory is.
func (r *Registry) fileMode() os.FileMode {
	mode := os.FileMode(0o600)
	if info, err := os.Stat(r.dir); err == nil {
		mode |= info.Mode().Perm() & 0o044
	}
	return mode
}

func pending(d registry.Desired, err error) registry.Report {
	report := registry.Report{}
	item := registry.Item{State: registry.Pending, Err: err.Error()}
	for _, list := range [][]registry.URL{d.Providers, d.Consumers} {
		for _, u := range list {
			report[u.String()] = item
		}
	}
	for _, a := range d.Applications {
		report[a.ID()] = item
	}
	return report
}
