package controlplane

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"maps"
	"slices"
	"sync"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// entry is one resource, marshalled once for all nodes: as the field resources of
// a response of state of the world, and of an incremental one.
type entry struct {
	version     string
	sotw, delta mem.SliceBuffer
	any         mem.SliceBuffer // a part of sotw
}

func newEntry(name string, m proto.Message) *entry { return packed(name, pack(m)) }

func packed(name string, a *anypb.Any) *entry {
	e := &entry{version: versionOf(a.Value)}
	size := protowire.SizeBytes(len(a.TypeUrl)) + protowire.SizeBytes(len(a.Value)) + 2
	e.sotw = make([]byte, 0, 2+10+size)
	e.sotw = protowire.AppendTag(e.sotw, outResources, protowire.BytesType)
	e.sotw = protowire.AppendVarint(e.sotw, uint64(size))
	head := len(e.sotw)
	e.sotw = appendText(e.sotw, 1, a.TypeUrl)
	e.sotw = protowire.AppendBytes(protowire.AppendTag(e.sotw, 2, protowire.BytesType), a.Value)
	e.any = e.sotw[head:]
	inner := protowire.SizeBytes(len(e.version)) + protowire.SizeBytes(len(name)) + protowire.SizeBytes(size) + 3
	e.delta = make([]byte, 0, 2+10+inner)
	e.delta = protowire.AppendTag(e.delta, outResources, protowire.BytesType)
	e.delta = protowire.AppendVarint(e.delta, uint64(inner))
	e.delta = appendText(e.delta, 1, e.version)
	e.delta = protowire.AppendBytes(protowire.AppendTag(e.delta, 2, protowire.BytesType), e.any)
	e.delta = appendText(e.delta, 3, name)
	return e
}

func versionOf(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}

// message is the resource.
func (e *entry) message() (proto.Message, error) {
	var a anypb.Any
	if err := proto.Unmarshal(e.any, &a); err != nil {
		return nil, err
	}
	return a.UnmarshalNew()
}

func (e *entry) wire(delta bool) mem.SliceBuffer {
	if delta {
		return e.delta
	}
	return e.sotw
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
	chunks  map[chunkID]chunk // made since the last change
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

// chunkID is what a chunk is made of; chunk is the encoding of many resources that
// several nodes are sent.
type chunkID struct {
	names *names // nil: all
	since uint64 // 0: everything
	delta bool
}

type chunk struct {
	bytes     mem.SliceBuffer
	resources int
}

const (
	small  = 32 // resources that are not worth a chunk
	chunks = 16 // at once
)

func newTable(typeURL string, whole bool) *table {
	return &table{typeURL: typeURL, whole: whole, entries: map[string]slot{}, gone: map[string]slot{}, chunks: map[chunkID]chunk{}}
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
	clear(t.chunks)
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
	table    *table // nil: the type is not served
	group    *group // that it belongs to; nil: all nodes have the same
	delta    bool
	wildcard bool
	legacy   bool   // nothing was ever asked for by name: all
	names    *names // asked for by name

	told   uint64 // changes up to here were sent,
	buried uint64 // but removals only up to here
	all    bool   // everything is to be sent,
	fresh  []string
	forget []string // names that a node knows from elsewhere, and that are not there
	force  bool     // something is to be sent, even if it is nothing

	nonce   string // of the last response
	waiting bool   // for its acknowledgement
}

func (s *subscription) wants(name string) bool { return s.wildcard || s.names.has(name) }

// answer is what a node is to be sent.
type answer struct {
	version   string
	parts     mem.BufferSlice
	resources int
	removed   []string
}

var errBehind = errors.New("too much was removed since the last acknowledgement")

// next is what a node is to be sent now; nil: nothing. Without bury, what was
// removed is not told: first the node must learn that no route names it any more.
func (t *table) next(s *subscription, bury bool) (*answer, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	whole, partial := t.whole && !s.delta, !t.whole && !s.delta
	bury = bury || partial // there absence says nothing
	if !s.all && !s.force && len(s.fresh)+len(s.forget) == 0 && s.told == t.seq && (!bury || s.buried == t.seq) {
		return nil, nil
	}
	if s.delta && s.wildcard && !s.all && s.buried < t.floor {
		return nil, errBehind
	}
	there := func(name string) bool { _, ok := t.entries[name]; return ok }
	a := &answer{version: t.version()}
	id := chunkID{delta: s.delta, names: s.names}
	if s.wildcard {
		id.names = nil
	}
	said := s.force
	if s.all {
		said = said || whole || s.delta && s.wildcard
		t.fill(a, id, true, t.all(s))
		if s.delta && !s.wildcard { // told at once that they are not there
			a.removed = slices.DeleteFunc(slices.Clone(s.names.list), there)
		}
		s.buried = t.seq
	} else {
		list := t.since(s.told, s)
		if len(s.fresh) > 0 {
			list = append(list, s.fresh...)
			slices.Sort(list)
			list = slices.Compact(list)
		}
		changed := slices.DeleteFunc(slices.Clone(list), func(name string) bool { return !there(name) })
		gone := slices.DeleteFunc(t.since(s.buried, s), there)
		switch {
		case whole:
			if said = said || len(changed) > 0 || bury && len(gone) > 0; said {
				t.fill(a, id, true, t.all(s))
			}
			for _, name := range gone {
				if e, kept := t.gone[name]; said && !bury && kept {
					a.parts, a.resources = append(a.parts, e.sotw), a.resources+1
				}
			}
		default:
			id.since = s.told
			t.fill(a, id, len(s.fresh) == 0, changed)
		}
		if s.delta {
			a.removed = append(slices.DeleteFunc(s.fresh, there), s.forget...)
			if bury {
				a.removed = append(a.removed, gone...)
			}
			slices.Sort(a.removed)
			a.removed = slices.Compact(a.removed)
		}
	}
	s.told, s.all, s.fresh, s.forget, s.force = t.seq, false, nil, nil, false
	if bury {
		s.buried = t.seq
	}
	if !said && a.resources == 0 && len(a.removed) == 0 {
		return nil, nil
	}
	return a, nil
}

// all are the names of everything that a node has asked for.
func (t *table) all(s *subscription) []string {
	if s.wildcard {
		return nil // see fill
	}
	return s.names.list
}

// fill puts resources into an answer; nil is all. Many that several nodes are sent
// become one chunk.
func (t *table) fill(a *answer, id chunkID, shared bool, list []string) {
	everything := list == nil && id.names == nil && id.since == 0
	if c, ok := t.chunks[id]; ok && shared {
		a.parts, a.resources = append(a.parts, c.bytes), c.resources
		return
	}
	if everything {
		list = slices.Sorted(maps.Keys(t.entries))
	}
	size := 0
	var parts mem.BufferSlice
	for _, name := range list {
		if e, ok := t.entries[name]; ok {
			b := e.wire(id.delta)
			parts = append(parts, b)
			size += len(b)
		}
	}
	a.parts, a.resources = append(a.parts, parts...), len(parts)
	if !shared || len(parts) <= small {
		return
	}
	bytes := make(mem.SliceBuffer, 0, size)
	for _, b := range parts {
		bytes = append(bytes, b.ReadOnlyData()...)
	}
	if len(t.chunks) == chunks {
		clear(t.chunks)
	}
	t.chunks[id] = chunk{bytes, len(parts)}
	a.parts = append(a.parts[:len(a.parts)-len(parts)], bytes)
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
func (t *table) compare(s *subscription, versions map[string]string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s.told, s.buried, s.all = t.seq, t.seq, false
	differs := func(name string) bool {
		e, there := t.entries[name]
		return there && versions[name] != e.version
	}
	if s.wildcard {
		for name := range t.entries {
			if differs(name) {
				s.fresh = append(s.fresh, name)
			}
		}
	}
	for _, name := range s.names.list {
		if _, there := t.entries[name]; !there || differs(name) {
			s.fresh = append(s.fresh, name)
		}
	}
	for name := range versions {
		if _, there := t.entries[name]; !there && s.wants(name) {
			s.forget = append(s.forget, name)
		}
	}
}
