package local

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/meshferry/meshferry/registry"
	"github.com/meshferry/meshferry/registry/internal/backend"
)

const (
	suffix    = ".entry.json"
	temporary = ".new-"     // prefix of a file that is not an entry yet
	lockName  = ".lock"     // held by an Apply that decides
	orphan    = time.Minute // age of a temporary file that nobody will rename
	tries     = 10          // after a close: 1, 2, 4, ... 512 ms
)

// foreign is a live entry of another owner.
type foreign struct {
	*entry
	file *os.File // open, so that its inode number is not used again
	info fs.FileInfo
}

// own is what this Registry has in the directory.
type own struct {
	*entry
	text []byte
	file *os.File // locked
	info fs.FileInfo
}

// Run watches the directory until ctx ends, and then removes the own entry.
// While the directory cannot be used it tries again, at most 2 s apart.
func (r *Registry) Run(ctx context.Context) error {
	defer r.end()
	const first, most = 20 * time.Millisecond, 2 * time.Second
	for pause := first; ; pause = min(2*pause, most) {
		connected, err := r.follow(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if connected {
			pause = first
		}
		r.away(err)
		select {
		case <-time.After(pause/2 + rand.N(pause/2)):
		case <-ctx.Done():
			return nil
		}
	}
}

// follow keeps the view equal to the directory until ctx ends or the directory
// fails.
func (r *Registry) follow(ctx context.Context) (connected bool, err error) {
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return false, err
	}
	n, err := notify(r.dir)
	if err != nil {
		return false, err
	}
	defer n.close()
	defer context.AfterFunc(ctx, n.close)()
	if err := r.scan(); err != nil {
		return false, err
	}
	r.connected()
	r.removeOrphans()
	for try := tries; ; {
		pause := r.sweep
		if try < tries {
			pause = time.Millisecond << try
			try++
		}
		h, err := n.wait(time.Now().Add(pause))
		switch {
		case err != nil:
			return true, err
		case h.gone:
			return true, fmt.Errorf("%s was removed or moved", r.dir)
		case h.closed:
			try = 0
		}
		if err := r.scan(); err != nil {
			return true, err
		}
	}
}

func (r *Registry) connected() {
	r.mu.Lock()
	r.status = registry.Status{State: registry.Connected, Since: time.Now(), Session: r.name}
	r.mu.Unlock()
	r.log.Info("local registry connected", "dir", r.dir)
	backend.Poke(r.lost)
}

func (r *Registry) away(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.status.State != registry.Away {
		r.log.Warn("local registry away", "dir", r.dir, "err", err)
		r.status = registry.Status{State: registry.Away, Since: time.Now()}
		backend.Poke(r.lost)
	}
	r.status.Err = err.Error()
}

// end removes the own entry and closes every file.
func (r *Registry) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status = registry.Status{State: registry.Closed, Since: time.Now()}
	r.withdraw()
	for _, f := range r.foreign {
		f.file.Close()
	}
	clear(r.foreign)
}

// withdraw removes the own entry, if it is still there. r.mu is held.
func (r *Registry) withdraw() error {
	if r.own == nil {
		return nil
	}
	if sameFile(r.path(r.name), r.own.info) {
		if err := os.Remove(r.path(r.name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	r.own.file.Close()
	r.own = nil
	return nil
}

func (r *Registry) path(name string) string { return filepath.Join(r.dir, name) }

// sameFile says whether the path still leads to that inode.
func sameFile(path string, info fs.FileInfo) bool {
	at, err := os.Lstat(path)
	return err == nil && os.SameFile(at, info)
}

// refresh scans once if the directory is in use, so that a new subscription sees
// what was written before it.
func (r *Registry) refresh() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.status.State == registry.Connected {
		// An error here is found and told by Run's own scan.
		_ = r.scanLocked()
	}
}

func (r *Registry) scan() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.scanLocked()
}

// scanLocked makes the view equal to the directory. r.mu is held.
func (r *Registry) scanLocked() error {
	files, err := os.ReadDir(r.dir)
	if err != nil {
		return err
	}
	changed := r.view == nil
	present := map[string]bool{}
	for _, file := range files {
		name := file.Name()
		if name == r.name || name == lockName || strings.HasPrefix(name, temporary) {
			continue
		}
		present[name] = true
		if r.isSkipped(name) {
			continue
		}
		changed = r.examine(name) || changed
	}
	for name, f := range r.foreign {
		if !present[name] {
			r.forget(name, f, "removed")
			changed = true
		}
	}
	for name := range r.skipped {
		if !present[name] {
			delete(r.skipped, name)
		}
	}
	if r.own != nil && !sameFile(r.path(r.name), r.own.info) {
		r.log.Warn("own entry was removed by somebody", "file", r.path(r.name))
		r.own.file.Close()
		r.own = nil
		changed = true
		backend.Poke(r.lost)
	}
	if changed {
		r.publishView()
	}
	return nil
}

func (r *Registry) forget(name string, f *foreign, why string) {
	r.log.Debug("entry gone", "file", name, "why", why, "host", f.host, "pid", f.pid)
	f.file.Close()
	delete(r.foreign, name)
}

// examine looks at one foreign file and says whether the view changes. An owner
// may replace the file at any moment, so what was opened is good only if it is
// still at the path after its lock was tried; otherwise look again.
func (r *Registry) examine(name string) (changed bool) {
	for range 10 {
		known := r.foreign[name]
		if known == nil {
			f, err := r.read(name)
			if err != nil {
				r.skip(name, err)
				return changed
			}
			known = f
		}
		dead, err := lockShared(known.file)
		switch {
		case err != nil:
			known.file.Close()
			delete(r.foreign, name)
			r.skip(name, err)
			return true
		case !sameFile(r.path(name), known.info):
			known.file.Close()
			if r.foreign[name] != nil {
				delete(r.foreign, name)
				changed = true
			}
			continue
		case dead:
			// Another reader may have removed it, or we may not be allowed to: it
			// does not count in any case.
			if err := os.Remove(r.path(name)); err == nil {
				r.log.Info("removed the entry of a dead process", "file", name, "host", known.host, "pid", known.pid)
			}
			changed = changed || r.foreign[name] != nil
			r.forget(name, known, "dead")
			return changed
		case r.foreign[name] == nil:
			r.foreign[name] = known
			r.log.Debug("entry", "file", name, "host", known.host, "pid", known.pid)
			return true
		}
		return changed
	}
	return changed // replaced all the time: the next event comes at once
}

// errNoEntry is for a file that will not become an entry unless it is written.
var errNoEntry = errors.New("no entry")

// skipped is a file that was logged once.
type skipped struct {
	info fs.FileInfo // nil: could not be read, which may pass
}

// skip logs once that a file is not used. A file that is gone is no news.
func (r *Registry) skip(name string, err error) {
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var now skipped
	if errors.Is(err, errNoEntry) {
		now.info, _ = os.Lstat(r.path(name))
	}
	if _, known := r.skipped[name]; !known || now.info != nil {
		r.log.Warn("skipped a file", "file", r.path(name), "err", err)
	}
	r.skipped[name] = now
}

// isSkipped says that the file is no entry and was not written since that was
// found.
func (r *Registry) isSkipped(name string) bool {
	before := r.skipped[name].info
	if before == nil {
		return false
	}
	now, err := os.Lstat(r.path(name))
	return err == nil && os.SameFile(before, now) && before.ModTime().Equal(now.ModTime())
}

// read opens and reads an entry file, whoever holds its lock.
func (r *Registry) read(name string) (_ *foreign, err error) {
	if !strings.HasSuffix(name, suffix) {
		return nil, fmt.Errorf("%w: the name does not end in %s", errNoEntry, suffix)
	}
	if info, err := os.Lstat(r.path(name)); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() || info.Size() > maxEntry {
		return nil, fmt.Errorf("%w: %s of %d bytes", errNoEntry, info.Mode(), info.Size())
	}
	file, err := openEntry(r.path(name))
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			file.Close()
		}
	}()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(file, maxEntry))
	if err != nil {
		return nil, err
	}
	e, err := decode(text)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoEntry, err)
	}
	return &foreign{entry: e, file: file, info: info}, nil
}

// publishView replaces the view and wakes the subscribers. r.mu is held.
func (r *Registry) publishView() {
	v := &view{byInterface: map[string][]registry.Provider{}}
	add := func(e *entry) {
		for iface, providers := range e.byInterface {
			v.byInterface[iface] = append(v.byInterface[iface], providers...)
		}
	}
	for _, f := range r.foreign {
		add(f.entry)
	}
	if r.own != nil {
		add(r.own.entry)
	}
	for iface, providers := range v.byInterface {
		slices.SortFunc(providers, compare)
		v.byInterface[iface] = slices.Compact(providers)
	}
	r.view = v
	close(r.changed)
	r.changed = make(chan struct{})
}

// compare orders providers, equal ones side by side.
func compare(a, b registry.Provider) int {
	x, y := a.URL, b.URL
	return cmp.Or(
		cmp.Compare(x.Host, y.Host), cmp.Compare(x.Port, y.Port), cmp.Compare(x.Protocol, y.Protocol),
		cmp.Compare(x.Path, y.Path), cmp.Compare(x.Query, y.Query), cmp.Compare(x.User, y.User),
		cmp.Compare(a.Model, b.Model))
}

// removeOrphans removes temporary files of processes that died before they could
// rename them.
func (r *Registry) removeOrphans() {
	files, _ := filepath.Glob(r.path(temporary + "*"))
	for _, path := range files {
		f, err := openEntry(path)
		if err != nil {
			continue
		}
		info, err := f.Stat()
		if err == nil && time.Since(info.ModTime()) > orphan {
			if dead, err := lockShared(f); err == nil && dead {
				os.Remove(path)
			}
		}
		f.Close()
	}
}
