package controlplane

import (
	"bytes"
	"hash/maphash"
	"runtime"
	"slices"
	"sync"
	"weak"
)

// names are resources that nodes ask for by name: sorted, each once, never
// changed. Nodes that ask for the same share one.
type names struct {
	list []string
	text []byte // as a request spells them; nil: none did
}

var noNames = &names{}

func (n *names) has(name string) bool {
	_, found := slices.BinarySearch(n.list, name)
	return found
}

// without are those that the other has not.
func (n *names) without(other *names) []string {
	switch {
	case n == other:
		return nil
	case len(other.list) == 0:
		return n.list
	}
	var more []string
	for _, name := range n.list {
		if !other.has(name) {
			more = append(more, name)
		}
	}
	return more
}

// nameLists has the names that are in use, by the hash of how a request spells them and
// by that of what they are. With a seed of its own nobody can make two collide.
type nameLists struct {
	seed maphash.Seed
	mu   sync.Mutex
	used map[spelling]weak.Pointer[names] // guarded by mu
}

type spelling struct {
	hash   uint64
	length int
}

func newNameLists() *nameLists {
	return &nameLists{seed: maphash.MakeSeed(), used: map[spelling]weak.Pointer[names]{}}
}

// spelled returns the names that a request spells as text; parse is called if
// nobody asked so before.
func (p *nameLists) spelled(text []byte, parse func() []string) *names {
	if len(text) == 0 {
		return noNames
	}
	id := spelling{maphash.Bytes(p.seed, text), len(text)}
	if n := p.lookup(id); n != nil {
		return n
	}
	n := *p.of(parse())
	n.text = bytes.Clone(text)
	p.keep(id, &n)
	return &n
}

// of returns the names of a list, which it may keep.
func (p *nameLists) of(list []string) *names {
	if len(list) == 0 {
		return noNames
	}
	slices.Sort(list)
	list = slices.Compact(list)
	var h maphash.Hash
	h.SetSeed(p.seed)
	length := -1 // never that of a spelling
	for _, name := range list {
		_, _ = h.WriteString(name) // never fail
		_ = h.WriteByte(0)
		length -= len(name)
	}
	id := spelling{h.Sum64(), length}
	if n := p.lookup(id); n != nil {
		return n
	}
	n := &names{list: slices.Clip(list)}
	p.keep(id, n)
	return n
}

func (p *nameLists) lookup(id spelling) *names {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.used[id].Value()
}

// keep remembers names for as long as somebody has them.
func (p *nameLists) keep(id spelling, n *names) {
	if n == noNames {
		return
	}
	p.mu.Lock()
	p.used[id] = weak.Make(n)
	p.mu.Unlock()
	runtime.AddCleanup(n, func(id spelling) {
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.used[id].Value() == nil { // else others have them again
			delete(p.used, id)
		}
	}, id)
}
