package controlplane

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"maps"
	"slices"
	"strconv"
	"sync"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// entry is one resource, marshalled once for all nodes.
type entry struct {
	any     *anypb.Any
	version string
}

// table has the resources of one type. It is a cache of go-control-plane, beside
// its LinearCache, because that one compares everything a node knows at each
// change and counts versions up, so that two instances would differ.
type table struct {
	typeURL string
	whole   bool // a state-of-the-world answer has all resources (LDS, CDS)

	mu      sync.Mutex
	entries map[string]*entry
	sum     [sha256.Size]byte // of all names and versions, in any order
	seq     uint64            // of changes
	recent  []change          // the last ones, for nodes that ask again
	watches map[*watch]struct{}
}

type change struct {
	seq   uint64
	names []string
}

const keptChanges = 256

// watch is one node that waits for changes.
type watch struct {
	sub  cache.Subscription // its names are not changed while the watch is open
	send func(names []string)
}

// seqKey stands among the names that a node knows, for the number of the last
// change that it was told. No resource has such a name.
const seqKey = "\x00"

func newTable(typeURL string, whole bool) *table {
	return &table{typeURL: typeURL, whole: whole, entries: map[string]*entry{}, watches: map[*watch]struct{}{}}
}

func newEntry(m proto.Message) *entry {
	a := pack(m)
	sum := sha256.Sum256(a.Value)
	return &entry{a, hex.EncodeToString(sum[:8])}
}

// update sets resources, and removes those that are nil. What has not changed is
// nothing. It returns how many have.
func (t *table) update(resources map[string]*entry) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	var names []string
	for name, e := range resources {
		old := t.entries[name]
		if e == nil && old == nil || e != nil && old != nil && e.version == old.version {
			continue
		}
		names = append(names, name)
		if old != nil {
			t.mix(name, old)
			delete(t.entries, name)
		}
		if e != nil {
			t.mix(name, e)
			t.entries[name] = e
		}
	}
	if len(names) == 0 {
		return 0
	}
	slices.Sort(names)
	t.seq++
	if len(t.recent) == keptChanges {
		t.recent = slices.Delete(t.recent, 0, 1)
	}
	t.recent = append(t.recent, change{t.seq, names})
	for w := range t.watches {
		if mine := subscribed(w.sub, names); len(mine) > 0 {
			w.send(mine)
		}
	}
	return len(names)
}

// mix puts a resource into the sum, or takes it out.
func (t *table) mix(name string, e *entry) {
	one := sha256.Sum256([]byte(name + "\x00" + e.version))
	for i := range t.sum {
		t.sum[i] ^= one[i]
	}
}

func (t *table) version() string { return hex.EncodeToString(t.sum[:8]) }

func subscribed(sub cache.Subscription, names []string) []string {
	if sub.IsWildcard() {
		return names
	}
	var mine []string
	for _, name := range names {
		if _, ok := sub.SubscribedResources()[name]; ok {
			mine = append(mine, name)
		}
	}
	return mine
}

// missed are the names whose resources a node does not know as they are. quick
// says that its subscription is as it was: then only what changed since counts.
func (t *table) missed(sub cache.Subscription, quick bool) []string {
	known := sub.ReturnedResources()
	if last, err := strconv.ParseUint(known[seqKey], 10, 64); err == nil && quick {
		switch {
		case last == t.seq:
			return nil
		case last < t.seq && len(t.recent) > 0 && t.recent[0].seq <= last+1:
			var names []string
			for _, c := range t.recent {
				if c.seq > last {
					names = append(names, c.names...)
				}
			}
			slices.Sort(names)
			return subscribed(sub, slices.Compact(names))
		}
	}
	var names []string
	differs := func(name string) {
		e := t.entries[name]
		version, has := known[name]
		if e != nil && version != e.version || e == nil && has {
			names = append(names, name)
		}
	}
	for name := range sub.SubscribedResources() {
		differs(name)
	}
	if sub.IsWildcard() {
		for name := range t.entries {
			differs(name)
		}
		for name := range known {
			if name != seqKey && t.entries[name] == nil {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// open keeps a watch until it has sent or is cancelled.
func (t *table) open(w *watch) (cancel func()) {
	t.watches[w] = struct{}{}
	return func() {
		t.mu.Lock()
		delete(t.watches, w)
		t.mu.Unlock()
	}
}

// CreateWatch answers a state-of-the-world request at once if the node misses
// something or has nothing yet, else when something changes.
func (t *table) CreateWatch(req *cache.Request, sub cache.Subscription, out chan cache.Response) (func(), error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	answer := func(names []string) *response {
		r := &response{req: req, version: t.version(), known: sub.ReturnedResources(), seq: t.seq, names: names, has: make([]*entry, len(names))}
		for i, name := range names {
			r.has[i] = t.entries[name]
		}
		switch {
		case t.whole && sub.IsWildcard():
			for _, name := range slices.Sorted(maps.Keys(t.entries)) {
				r.send = append(r.send, t.entries[name])
			}
		case t.whole:
			for _, name := range slices.Sorted(maps.Keys(sub.SubscribedResources())) {
				if e := t.entries[name]; e != nil {
					r.send = append(r.send, e)
				}
			}
		default:
			for _, e := range r.has {
				if e != nil {
					r.send = append(r.send, e)
				}
			}
		}
		return r
	}
	useful := func(r *response) bool { return t.whole || len(r.send) > 0 } // absence says nothing in RDS and EDS
	names := t.missed(sub, sub.IsWildcard() && req.GetResponseNonce() != "")
	first := req.GetResponseNonce() == ""
	if r := answer(names); len(names) > 0 && useful(r) || first && (t.whole || len(r.send) > 0) {
		out <- r
		return func() {}, nil
	}
	w := &watch{sub: sub}
	w.send = func(names []string) {
		if r := answer(names); useful(r) {
			out <- r
			delete(t.watches, w)
		}
	}
	return t.open(w), nil
}

// CreateDeltaWatch is CreateWatch for incremental requests.
func (t *table) CreateDeltaWatch(req *cache.DeltaRequest, sub cache.Subscription, out chan cache.DeltaResponse) (func(), error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	answer := func(names []string) *deltaResponse {
		r := &deltaResponse{req: req, version: t.version(), known: sub.ReturnedResources(), seq: t.seq, names: names, has: make([]*entry, len(names))}
		for i, name := range names {
			r.has[i] = t.entries[name]
		}
		return r
	}
	first := req.GetResponseNonce() == "" && len(req.GetInitialResourceVersions()) == 0
	if first || len(req.GetInitialResourceVersions()) > 0 {
		delete(sub.ReturnedResources(), seqKey) // a client cannot know it
	}
	quick := len(req.GetResourceNamesSubscribe()) == 0 && len(req.GetResourceNamesUnsubscribe()) == 0
	names := t.missed(sub, quick)
	for _, name := range req.GetResourceNamesSubscribe() { // told at once that it is not there
		if name != "*" && t.entries[name] == nil && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	if len(names) > 0 || first && sub.IsWildcard() {
		out <- answer(names)
		return func() {}, nil
	}
	w := &watch{sub: sub}
	w.send = func(names []string) {
		out <- answer(names)
		delete(t.watches, w)
	}
	return t.open(w), nil
}

// Fetch is REST, which is not served.
func (t *table) Fetch(context.Context, *cache.Request) (cache.Response, error) {
	return nil, errors.New("REST is not served")
}

// learned notes in known what a node was sent. The server calls it, through
// GetReturnedResources, when it sends; known is the stream's own.
func learned(known map[string]string, names []string, has []*entry, seq uint64) map[string]string {
	for i, name := range names {
		if has[i] != nil {
			known[name] = has[i].version
		} else {
			delete(known, name)
		}
	}
	known[seqKey] = strconv.FormatUint(seq, 10)
	return known
}

// response is a state-of-the-world answer.
type response struct {
	req     *discovery.DiscoveryRequest
	version string
	send    []*entry
	known   map[string]string
	names   []string // that differ from what the node knows
	has     []*entry // by names; nil: gone
	seq     uint64
}

func (r *response) GetDiscoveryResponse() (*discovery.DiscoveryResponse, error) {
	out := &discovery.DiscoveryResponse{VersionInfo: r.version, TypeUrl: r.req.GetTypeUrl(), Resources: make([]*anypb.Any, len(r.send))}
	for i, e := range r.send {
		out.Resources[i] = e.any
	}
	return out, nil
}

func (r *response) GetRequest() *discovery.DiscoveryRequest { return r.req }
func (r *response) GetVersion() (string, error)             { return r.version, nil }
func (r *response) GetResponseVersion() string              { return r.version }
func (r *response) GetContext() context.Context             { return context.Background() }
func (r *response) GetReturnedResources() map[string]string {
	return learned(r.known, r.names, r.has, r.seq)
}

// deltaResponse is an incremental answer.
type deltaResponse struct {
	req     *discovery.DeltaDiscoveryRequest
	version string
	known   map[string]string
	names   []string
	has     []*entry
	seq     uint64
}

func (r *deltaResponse) GetDeltaDiscoveryResponse() (*discovery.DeltaDiscoveryResponse, error) {
	out := &discovery.DeltaDiscoveryResponse{TypeUrl: r.req.GetTypeUrl(), SystemVersionInfo: r.version}
	for i, name := range r.names {
		if e := r.has[i]; e != nil {
			out.Resources = append(out.Resources, &discovery.Resource{Name: name, Version: e.version, Resource: e.any})
		} else {
			out.RemovedResources = append(out.RemovedResources, name)
		}
	}
	return out, nil
}

func (r *deltaResponse) GetDeltaRequest() *discovery.DeltaDiscoveryRequest { return r.req }
func (r *deltaResponse) GetSystemVersion() (string, error)                 { return r.version, nil }
func (r *deltaResponse) GetResponseVersion() string                        { return r.version }
func (r *deltaResponse) GetContext() context.Context                       { return context.Background() }
func (r *deltaResponse) GetNextVersionMap() map[string]string              { return r.GetReturnedResources() }
func (r *deltaResponse) GetReturnedResources() map[string]string {
	return learned(r.known, r.names, r.has, r.seq)
}
