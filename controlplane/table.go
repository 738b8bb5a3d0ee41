package controlplane

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"maps"
	"slices"
	"sync"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// entry is one resource, marshalled once for all nodes.
type entry struct {
	version  string
	resource *discovery.Resource // what state of the world is sent is a part of it
}

func newEntry(name string, m proto.Message) *entry { return packed(name, pack(m)) }

func packed(name string, a *anypb.Any) *entry {
	v := versionOf(a.Value)
	return &entry{v, &discovery.Resource{Name: name, Version: v, Resource: a}}
}

func versionOf(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}

// table has the resources of one type. Changes are numbered; what a node knows is
// the number of the change up to which it was told, so that a change costs what
// it is and not what the node has.
type table struct {
	typeURL string
	whole   bool // a state-of-the-world answer has all resources (LDS, CDS)

	mu      sync.Mutex
	entries map[string]slot
	gone    map[string]slot   // removed, until there are too many
	floor   uint64            // changes up to here may have removed what is not in gone
	sum     [sha256.Size]byte // of all names and versions, in any order
	seq     uint64            // of changes
	recent  []change          // the last ones
	sorted  []*entry          // all by name; nil: not made since the last change
}

type slot struct {
	*entry
	seq uint64 // of its last change
}

type change struct {
	seq   uint64
	names []string // sorted
}

const (
	keptChanges = 256
	maxGone     = 1 << 14
)

func newTable(typeURL string, whole bool) *table {
	return &table{typeURL: typeURL, whole: whole, entries: map[string]slot{}, gone: map[string]slot{}}
}

// update sets resources, and removes those that are nil. What has not changed is
// nothing. It returns how many have.
func (t *table) update(resources map[string]*entry) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	var changed []string
	for name, e := range resources {
		old := t.entries[name].entry
		if e == nil && old == nil || e != nil && old != nil && e.version == old.version {
			continue
		}
		changed = append(changed, name)
		if old != nil {
			t.mix(name, old)
			delete(t.entries, name)
		}
		if e != nil {
			t.mix(name, e)
			t.entries[name] = slot{e, t.seq + 1}
			delete(t.gone, name)
		} else {
			t.gone[name] = slot{old, t.seq + 1}
		}
	}
	if len(changed) == 0 {
		return 0
	}
	slices.Sort(changed)
	t.seq++
	if len(t.gone) > maxGone {
		clear(t.gone)
		t.floor = t.seq
	}
	if len(t.recent) == keptChanges {
		t.recent = slices.Delete(t.recent, 0, 1)
	}
	t.recent = append(t.recent, change{t.seq, changed})
	t.sorted = nil
	return len(changed)
}

// mix puts a resource into the sum, or takes it out.
func (t *table) mix(name string, e *entry) {
	one := sha256.Sum256([]byte(name + "\x00" + e.version))
	for i := range t.sum {
		t.sum[i] ^= one[i]
	}
}

func (t *table) version() string { return hex.EncodeToString(t.sum[:8]) }

// since are the names that changed after a number, and that a node has asked for.
func (t *table) since(seq uint64, s *subscription) []string {
	var list []string
	if len(t.recent) > 0 && t.recent[0].seq > seq+1 { // too long ago
		for name, e := range t.entries {
			if e.seq > seq && s.wants(name) {
				list = append(list, name)
			}
		}
		for name, e := range t.gone {
			if e.seq > seq && s.wants(name) {
				list = append(list, name)
			}
		}
	}
	for i := len(t.recent) - 1; i >= 0 && t.recent[i].seq > seq; i-- {
		for _, name := range t.recent[i].names {
			if s.wants(name) {
				list = append(list, name)
			}
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// subscription is what one stream has asked for of one type, and what it was told.
type subscription struct {
	TypeOf
	table *table // nil: the type is not served
	group *group // that it belongs to; nil: all nodes have the same
	epoch uint64 // of the group
	delta bool
	nonce string // of the last response

	asks    cache.Subscription // while out is there nobody changes it; nil: nothing yet
	names   uint64             // tells its names from others
	initial map[string]string  // versions that a node has from elsewhere, until they are compared
	out     func(*answer)      // takes the answer that the node waits for; nil: it waits for none
	position
}

// position is how far a node was told.
type position struct {
	told, buried uint64   // changes up to here, but removals only up to there
	all          bool     // everything is to be sent,
	fresh        []string // or these too
	forget       []string // names that a node knows from elsewhere, and that are not there
	force        bool     // something is to be sent, even if it is nothing
}

func (s *subscription) wants(name string) bool {
	_, asked := s.asks.SubscribedResources()[name]
	return asked || s.asks.IsWildcard()
}

var errBehind = errors.New("too much was removed since the last acknowledgement")

// next is what a node is to be sent now; nil: nothing. Without bury, what was
// removed is not told: first the node must learn that no route names it any more.
func (t *table) next(s *subscription, bury bool) (*answer, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := s.position
	whole, wildcard := t.whole && !s.delta, s.asks.IsWildcard()
	bury = bury || !t.whole && !s.delta // there absence says nothing
	if !p.all && !p.force && len(p.fresh)+len(p.forget) == 0 && p.told == t.seq && (!bury || p.buried == t.seq) {
		return nil, nil
	}
	if p.told == 0 || p.all && !s.delta { // it has nothing that is gone
		p.buried = t.seq
	}
	if s.delta && wildcard && p.buried < t.floor {
		return nil, errBehind
	}
	there := func(name string) bool { _, ok := t.entries[name]; return ok }
	gone := slices.DeleteFunc(t.since(p.buried, s), there)
	a := &answer{sub: s, version: t.version()}
	said := p.force || p.all && (whole || s.delta && wildcard)
	if p.all {
		a.entries = t.wanted(s)
	} else {
		changed := slices.DeleteFunc(append(t.since(p.told, s), p.fresh...), func(name string) bool { return !there(name) })
		switch said = said || whole && (len(changed) > 0 || bury && len(gone) > 0); {
		case !whole:
			a.entries = t.named(changed)
		case said:
			a.entries = t.wanted(s)
			for _, name := range gone {
				if e, kept := t.gone[name]; kept && !bury {
					a.entries = append(slices.Clip(a.entries), e.entry)
				}
			}
		}
	}
	if s.delta {
		a.removed = append(slices.DeleteFunc(slices.Clone(p.fresh), there), p.forget...)
		if bury {
			a.removed = append(a.removed, gone...)
		}
		if p.all { // told at once that they are not there
			for name := range s.asks.SubscribedResources() {
				if !there(name) {
					a.removed = append(a.removed, name)
				}
			}
		}
	}
	slices.Sort(a.removed)
	a.removed = slices.Compact(a.removed)
	a.after = position{told: t.seq, buried: p.buried}
	if bury {
		a.after.buried = t.seq
	}
	if !said && len(a.entries)+len(a.removed) == 0 {
		s.position = a.after
		return nil, nil
	}
	return a, nil
}

// wanted is everything that a node has asked for.
func (t *table) wanted(s *subscription) []*entry {
	switch {
	case !s.asks.IsWildcard():
		return t.named(slices.Collect(maps.Keys(s.asks.SubscribedResources())))
	case t.sorted == nil:
		t.sorted = t.named(slices.Collect(maps.Keys(t.entries)))
	}
	return t.sorted
}

// named are the resources of some names, in order.
func (t *table) named(names []string) []*entry {
	slices.Sort(names)
	list := make([]*entry, 0, len(names))
	for _, name := range slices.Compact(names) {
		if e, ok := t.entries[name]; ok {
			list = append(list, e.entry)
		}
	}
	return list
}

// intern puts the table's own strings in the place of equal ones.
func (t *table) intern(names []string) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, name := range names {
		if e, ok := t.entries[name]; ok {
			names[i] = e.resource.Name
		}
	}
}

// clone is a table of its own with the same resources.
func (t *table) clone() *table {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := newTable(t.typeURL, t.whole)
	c.seq, c.sum, c.floor = 1, t.sum, 1
	for name, e := range t.entries {
		c.entries[name] = slot{e.entry, 1}
	}
	return c
}

// move has a node follow another table: it is sent what differs.
func (s *subscription) move(to *table) {
	from := s.table
	s.table = to
	if s.all {
		return
	}
	from.mu.Lock()
	knows := map[string]string{}
	for name, e := range from.entries {
		if s.wants(name) {
			knows[name] = e.version
		}
	}
	for _, name := range append(from.since(s.told, s), from.since(s.buried, s)...) {
		knows[name] = "" // not as it is
	}
	from.mu.Unlock()
	to.mu.Lock()
	defer to.mu.Unlock()
	for name, e := range to.entries {
		if s.wants(name) && knows[name] != e.version {
			s.fresh = append(s.fresh, name)
		}
	}
	for name := range knows {
		if _, there := to.entries[name]; !there {
			s.fresh = append(s.fresh, name)
		}
	}
	s.told, s.buried = to.seq, to.seq
}

// at is the number of the last change.
func (t *table) at() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.seq
}

// compare sets a subscription to what differs from the versions that a node has of
// before: from an earlier stream, perhaps with another server.
func (t *table) compare(s *subscription) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s.position = position{told: t.seq, buried: t.seq}
	for name, e := range t.entries {
		if s.wants(name) && s.initial[name] != e.version {
			s.fresh = append(s.fresh, name)
		}
	}
	for name := range s.asks.SubscribedResources() {
		if _, there := t.entries[name]; !there {
			s.forget = append(s.forget, name)
		}
	}
	for name := range s.initial {
		if _, there := t.entries[name]; !there && s.wants(name) {
			s.forget = append(s.forget, name)
		}
	}
}
