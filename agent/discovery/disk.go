package discovery

import (
	"encoding/json"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/meshferry/meshferry/agent/state"
	"github.com/meshferry/meshferry/registry"
)

const (
	staleMost  = 24 * time.Hour   // a set is not used longer after its registry was heard
	saveEvery  = 3 * time.Second  // at most, when something changed
	saveAnyway = 10 * time.Minute // so that Heard on disk is not much too old
	saveRatio  = 20               // a save takes at most one part in this of the time
	stateFile  = "endpoints.state"
	mostLoaded = 20_000 // interfaces taken from a file
)

// document is the content of the state file.
type document struct {
	Registries map[string]map[string]savedSet `json:"registries"` // by registry, by interface
}

// savedSet is the last set of one interface in one registry.
type savedSet struct {
	Heard time.Time `json:"heard"` // when the registry was connected last

	list []registry.Provider
}

type savedProvider struct {
	Model registry.Model `json:"model"`
	URL   string         `json:"url"`
}

type savedJSON struct {
	Heard     time.Time       `json:"heard"`
	Providers []savedProvider `json:"providers"`
}

// MarshalJSON writes providers by their text.
func (s savedSet) MarshalJSON() ([]byte, error) {
	out := savedJSON{Heard: s.Heard}
	for _, p := range s.list {
		out.Providers = append(out.Providers, savedProvider{p.Model, p.URL.String()})
	}
	return json.Marshal(out)
}

// UnmarshalJSON reads what MarshalJSON wrote. A URL that cannot be read is left
// out.
func (s *savedSet) UnmarshalJSON(text []byte) error {
	var in savedJSON
	if err := json.Unmarshal(text, &in); err != nil {
		return err
	}
	*s = savedSet{Heard: in.Heard}
	for _, p := range in.Providers {
		if u, err := registry.ParseURL(p.URL); err == nil {
			s.list = append(s.list, registry.Provider{URL: u, Model: p.Model})
		}
	}
	return nil
}

// disk keeps the last sets in a file. The loop owns it; a goroutine writes.
type disk struct {
	file   state.File
	log    *slog.Logger
	loaded map[string]map[string]savedSet // from the file, at the start
	dirty  bool                           // something changed since the last save began
	next   time.Time                      // not saved earlier
	anyway time.Time                      // saved then even if nothing changed
	saves  chan document                  // to the writer; capacity 1; nil: nothing is saved
	saved  chan time.Duration             // from the writer: how long it took
	busy   bool
}

// openDisk loads the file in dir, and begins with nothing if it cannot be read.
func openDisk(dir string, log *slog.Logger) *disk {
	d := &disk{log: log}
	if dir == "" {
		return d
	}
	d.file = state.File{Path: filepath.Join(dir, stateFile)}
	var doc document
	if err := d.file.Load(&doc); err != nil {
		log.Warn("last sets of providers are lost", "err", err)
	}
	d.loaded = doc.Registries
	d.saves, d.saved = make(chan document, 1), make(chan time.Duration, 1)
	go d.write()
	return d
}

// write saves until saves is closed.
func (d *disk) write() {
	failed := false
	for doc := range d.saves {
		began := time.Now()
		err := d.file.Save(doc)
		if err != nil && !failed {
			d.log.Warn("last sets of providers are not on disk", "err", err)
		}
		if err == nil && failed {
			d.log.Info("last sets of providers are on disk again")
		}
		failed = err != nil
		d.saved <- time.Since(began)
	}
	close(d.saved)
}

// set is the saved set of an interface, if its registry was heard within a day.
func (d *disk) set(registry, iface string, now time.Time) (savedSet, bool) {
	s, ok := d.loaded[registry][iface]
	return s, ok && len(s.list) > 0 && now.Sub(s.Heard) < staleMost
}

// tick saves if it is time to.
func (d *disk) tick(now time.Time, content func() document) {
	if d.saves == nil {
		return
	}
	if d.busy {
		select {
		case took := <-d.saved:
			d.busy, d.next = false, now.Add(max(saveEvery, saveRatio*took))
		default:
			return
		}
	}
	if d.anyway.IsZero() {
		d.anyway = now.Add(saveAnyway)
	}
	if now.Before(d.next) || !d.dirty && now.Before(d.anyway) {
		return
	}
	d.saves <- content()
	d.dirty, d.busy, d.anyway = false, true, now.Add(saveAnyway)
}

// finish saves for the last time and ends the writer.
func (d *disk) finish(doc document) {
	if d.saves == nil {
		return
	}
	if d.busy {
		<-d.saved
	}
	d.saves <- doc
	close(d.saves)
	<-d.saved
}
