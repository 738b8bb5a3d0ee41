package zookeeper

import (
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/meshferry/meshferry/registry"
	"github.com/meshferry/meshferry/registry/internal/backend"
)

// remembered sessions: a host begins a new one only after an expiry.
const maxEarlier = 32

// document is what a Registry keeps in its Store.
type document struct {
	Session   int64             `json:"session,omitempty"`
	Password  []byte            `json:"password,omitempty"`
	Earlier   []int64           `json:"earlier,omitempty"` // sessions before, oldest first
	Nodes     []string          `json:"nodes,omitempty"`   // ephemeral nodes that those sessions may hold, sorted
	Revisions backend.Revisions `json:"revisions,omitempty"`
}

// journal is the document in memory, written through. It is recorded before a
// node is created, so that the next process knows everything that may be there.
type journal struct {
	// Immutable after New.
	store registry.Store // nil: memory only
	log   *slog.Logger

	mu  sync.Mutex
	doc document // guarded by mu
}

// load returns the session to resume, if there is one. A document that cannot be
// read costs a new session, nothing else.
func (j *journal) load() (session, bool) {
	var doc document
	if err := backend.Load(j.store, &doc); err != nil {
		j.log.Warn("the ZooKeeper session cannot be loaded; a new one begins", "err", err)
		return session{}, false
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	slices.Sort(doc.Nodes)
	j.doc = doc
	return session{ID: doc.Session, Password: doc.Password}, doc.Session != 0 && len(doc.Password) == passwordBytes
}

// save writes the document; the caller holds mu.
func (j *journal) save() {
	if err := backend.Save(j.store, j.doc); err != nil {
		j.log.Warn("the ZooKeeper session cannot be saved; after a restart its nodes stay until it expires", "err", err)
	}
}

// begin records the session that is used from now on.
func (j *journal) begin(s session) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.doc.Session == s.ID && slices.Equal(j.doc.Password, s.Password) {
		return
	}
	if old := j.doc.Session; old != 0 && old != s.ID {
		j.doc.Earlier = append(j.doc.Earlier, old)
		if n := len(j.doc.Earlier) - maxEarlier; n > 0 {
			j.doc.Earlier = slices.Delete(j.doc.Earlier, 0, n)
		}
	}
	j.doc.Session, j.doc.Password = s.ID, s.Password
	j.save()
}

// end forgets the session and its nodes.
func (j *journal) end() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.doc.Session, j.doc.Password, j.doc.Earlier, j.doc.Nodes = 0, nil, nil, nil
	j.save()
}

// recorded tells whether a session was ours.
func (j *journal) recorded(id int64) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return id != 0 && (id == j.doc.Session || slices.Contains(j.doc.Earlier, id))
}

// hold records nodes and revisions that are about to be written. It returns the
// nodes recorded before that are not wanted now.
func (j *journal) hold(nodes, revisions []string, now time.Time) (rest []string) {
	slices.Sort(nodes)
	nodes = slices.Compact(nodes)
	j.mu.Lock()
	defer j.mu.Unlock()
	changed := false
	all := slices.Clone(nodes)
	for _, n := range j.doc.Nodes {
		if _, found := slices.BinarySearch(nodes, n); !found {
			rest = append(rest, n)
		}
	}
	all = append(all, rest...)
	slices.Sort(all)
	if !slices.Equal(all, j.doc.Nodes) {
		j.doc.Nodes, changed = all, true
	}
	if j.doc.Revisions == nil {
		j.doc.Revisions = backend.Revisions{}
	}
	if j.doc.Revisions.Use(revisions, now) || changed {
		j.save()
	}
	return rest
}

// drop forgets nodes that are gone or another's.
func (j *journal) drop(nodes []string) {
	if len(nodes) == 0 {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.doc.Nodes = slices.DeleteFunc(j.doc.Nodes, func(n string) bool { return slices.Contains(nodes, n) })
	j.save()
}

// unused lists the revisions that can go.
func (j *journal) unused(now time.Time) []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.doc.Revisions.Unused(now)
}

func (j *journal) dropRevision(r string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	delete(j.doc.Revisions, r)
	j.save()
}
