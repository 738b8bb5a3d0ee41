package xdsclient

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/anypb"
)

// fromDisk is the origin of what was loaded from the file.
const fromDisk = -1

const (
	mostNamed   = 10      // bad resources named in a NACK and in a log line
	longestText = 4 << 10 // bytes of a NACK's message
)

// core is the state of the client: what is asked for, what was received, and what
// is ready to be delivered. It does no I/O but to queue requests; the lock of
// Client guards it.
type core struct {
	o         Options
	log       *slog.Logger
	dec       *decoder
	route     *decodedRoute // the last one that was decoded
	stage     *stage
	types     map[string]*typeState
	order     []*typeState // in which they are asked for: make before break
	streams   []*stream    // by server; nil: none
	serving   int          // the server that answered last; fromDisk: none did
	heard     time.Time    // when a server answered last, or a stream that had an answer ended
	timers    wakeups
	saved     map[key]savedResource // from the file, not used yet
	dirty     map[key]struct{}      // differ from the file
	pending   Update                // not delivered yet
	ready     bool
	told      bool // that it is ready
	endpoints endpointDecoder
}

// typeState is one type of resource.
type typeState struct {
	url      string
	whole    bool // a response of state of the world has every resource: LDS, CDS
	wildcard bool
	answered bool // for a wildcard
	names    map[string]struct{}
	list     []string // names, sorted; nil: to be made
	gen      int      // of names

	version string // last acknowledged
	server  int    // whose version it is
	strange bool   // it was sent without being asked for, and that was logged
	ttl     bool   // the server confirms resources, and that was logged

	resources map[string]*resource
	waiting   map[string]time.Time // names without an answer; until when, once it was asked for. "": the wildcard

	responses, nacks int
	nacked           *refusal
	refusing         bool // the last response was refused
}

// resource is one of them, as the server sent it.
type resource struct {
	raw     []byte
	version string
	server  int
	at      time.Time
	value   any // *Listener, *decodedRoute, *Cluster, *Assignment; nil: none that can be used
	missing bool
	refused *refusal // the last one that could not be used
	kept    string   // why it is still there although the server has it no more
}

type refusal struct {
	version string
	why     string
	at      time.Time
}

func newCore(o Options) *core {
	c := &core{
		o: o, log: o.Log, dec: newDecoder(o), stage: newStage(o), types: map[string]*typeState{},
		streams: make([]*stream, len(o.Servers)), serving: fromDisk,
		saved: map[key]savedResource{}, dirty: map[key]struct{}{},
	}
	c.stage.pause()
	add := func(url string, whole bool) {
		t := &typeState{
			url: url, whole: whole, wildcard: whole && o.Wildcard, server: fromDisk,
			names: map[string]struct{}{}, resources: map[string]*resource{}, waiting: map[string]time.Time{},
		}
		if t.wildcard {
			t.waiting[""] = time.Time{}
		}
		c.types[url] = t
		c.order = append(c.order, t)
	}
	add(ClusterURL, true)
	add(EndpointURL, false)
	add(ListenerURL, true)
	add(RouteURL, false)
	for _, e := range o.Extensions {
		if e.RouteURL != "" && c.types[e.RouteURL] == nil {
			add(e.RouteURL, false)
		}
	}
	return c
}

func (t *typeState) sorted() []string {
	if t.list == nil && len(t.names) > 0 {
		t.list = slices.Sorted(maps.Keys(t.names))
	}
	return t.list
}

// wants tells whether a name was asked for.
func (t *typeState) wants(name string) bool {
	if t.wildcard {
		return true
	}
	_, ok := t.names[name]
	return ok
}

// up is called when a stream stands.
func (c *core) up(st *stream) {
	c.streams[st.server] = st
	c.sync(st)
}

// down is called when a stream ended. It tells whether the next server should be
// asked too.
func (c *core) down(st *stream, server int, now time.Time) (next bool) {
	heard := st != nil && st.heard
	if heard { // until now all was confirmed, however long nothing changed
		c.heard = now
	}
	if st != nil && c.streams[server] == st {
		c.streams[server] = nil
	}
	if !slices.ContainsFunc(c.streams, func(s *stream) bool { return s != nil && s.heard }) {
		c.stage.pause()
		for _, t := range c.order {
			for name := range t.waiting {
				t.waiting[name] = time.Time{}
			}
		}
	}
	return !heard && c.wantsAnother(now)
}

// wantsAnother tells whether something is not known, or was not confirmed for too
// long.
func (c *core) wantsAnother(now time.Time) bool {
	for _, t := range c.order {
		if len(t.waiting) > 0 {
			return true
		}
	}
	return c.o.FallbackAfter > 0 && !c.heard.IsZero() && now.Sub(c.heard) >= c.o.FallbackAfter
}

// sent is called when a request with new names has been written.
func (c *core) sent(st *stream, url string, now time.Time) {
	if c.streams[st.server] != st {
		return
	}
	t := c.types[url]
	deadline := now.Add(c.o.ResourceTimeout)
	for name, until := range t.waiting {
		if until.IsZero() {
			t.waiting[name] = deadline
			c.timers.add(deadline, key{url, name})
		}
	}
}

// expire declares missing what was not answered in time. It gives the server that
// did not answer at all, else fromDisk.
func (c *core) expire(now time.Time) (silent int) {
	silent = fromDisk
	for _, k := range c.timers.due(now) {
		t := c.types[k.url]
		if until, waits := t.waiting[k.name]; !waits || until.IsZero() || until.After(now) {
			continue
		}
		heard := false
		for i, st := range c.streams {
			if st == nil {
				continue
			}
			heard = heard || st.heard
			if !heard {
				silent = i
			}
		}
		switch {
		case !heard: // that is an outage, not a missing resource
			t.waiting[k.name] = now.Add(c.o.ResourceTimeout)
			c.timers.add(t.waiting[k.name], k)
			continue
		case k.name == "":
			c.log.Warn("ADS server does not answer for a type", "type", short(k.url))
			c.whole(t)
		default:
			c.log.Warn("xDS resource does not exist", "type", short(k.url), "name", k.name)
			c.absent(t, k.name)
		}
		silent = fromDisk
	}
	return silent
}

// whole notes that everything came that the server has for a wildcard.
func (c *core) whole(t *typeState) {
	t.answered = true
	delete(t.waiting, "")
	if t.url == ClusterURL {
		c.stage.completed()
	}
}

// absent notes that the server does not have what was asked for by name.
func (c *core) absent(t *typeState, name string) {
	delete(t.waiting, name)
	r := t.resources[name]
	if r == nil {
		r = &resource{}
		t.resources[name] = r
	}
	if r.refused != nil {
		c.refused(t.url, name, "")
	}
	r.missing, r.value, r.raw, r.refused = true, nil, nil, nil
	c.dirty[key{t.url, name}] = struct{}{}
	delete(c.saved, key{t.url, name})
	c.put(t, name, r)
}

// put hands a resource to the stage.
func (c *core) put(t *typeState, name string, r *resource) {
	switch t.url {
	case ListenerURL:
		l, _ := r.value.(*Listener)
		if l != nil && c.o.Follow != nil && !c.o.Follow(name) {
			return
		}
		c.stage.setListener(name, l)
	case ClusterURL:
		cl, _ := r.value.(*Cluster)
		c.stage.setCluster(name, cl)
	case EndpointURL:
		a, _ := r.value.(*Assignment)
		if a == nil {
			a = &Assignment{Missing: true}
		}
		c.stage.setAssignment(name, a)
	default:
		v, _ := r.value.(*decodedRoute)
		c.stage.setRoute(key{t.url, name}, v, v == nil)
	}
}

// settle delivers what is complete, and asks for what that needs.
func (c *core) settle(now time.Time) {
	for {
		c.stage.flush(now)
		if len(c.stage.crossed) == 0 {
			break
		}
		for k := range c.stage.crossed {
			delete(c.stage.crossed, k)
			c.want(c.types[k.url], k.name, c.stage.want[k] > 0)
		}
	}
	c.ready = c.ready || c.isReady()
	u := c.stage.take()
	u.Ready = c.ready
	c.pending.merge(u)
	for _, st := range c.streams {
		if st != nil {
			c.sync(st)
		}
	}
}

func (c *core) isReady() bool {
	for _, t := range c.order {
		if len(t.waiting) > 0 {
			return false
		}
	}
	return c.stage.holds == 0
}

// want asks for a resource by name, or does not any more.
func (c *core) want(t *typeState, name string, wanted bool) {
	if t.wildcard {
		return
	}
	if _, asked := t.names[name]; asked == wanted {
		return
	}
	t.gen++
	t.list = nil
	k := key{t.url, name}
	if !wanted {
		delete(t.names, name)
		delete(t.waiting, name)
		if r := t.resources[name]; r != nil {
			if r.refused != nil {
				c.refused(t.url, name, "")
			}
			delete(t.resources, name)
			c.dirty[k] = struct{}{}
		}
		switch t.url {
		case EndpointURL:
			c.stage.setAssignment(name, nil)
		case ClusterURL:
			c.stage.setCluster(name, nil)
		case ListenerURL:
		default:
			c.stage.setRoute(k, nil, false)
		}
		return
	}
	t.names[name] = struct{}{}
	t.waiting[name] = time.Time{}
	c.adopt(t, name)
}

// adopt takes a resource from the file until a server sends it.
func (c *core) adopt(t *typeState, name string) {
	s, ok := c.saved[key{t.url, name}]
	if !ok {
		return
	}
	delete(c.saved, key{t.url, name})
	r := &resource{raw: s.raw, version: s.version, server: fromDisk, at: s.at}
	if _, err := c.decode(t, r, s.raw); err != nil {
		c.log.Warn("an xDS resource on disk cannot be used", "type", short(t.url), "name", name, "err", err)
		return
	}
	t.resources[name] = r
	delete(t.waiting, name)
	c.put(t, name, r)
}

// restore begins with what the file had.
func (c *core) restore(list []savedResource, now time.Time) {
	for _, s := range list {
		if c.types[s.url] != nil {
			c.saved[key{s.url, s.name}] = s
		}
	}
	for _, t := range c.order {
		if !t.wildcard {
			continue
		}
		for _, s := range list {
			if s.url == t.url {
				c.adopt(t, s.name)
			}
		}
		if len(t.resources) > 0 {
			delete(t.waiting, "")
		}
	}
	for _, t := range c.order {
		for name := range t.names {
			c.adopt(t, name)
		}
	}
	c.settle(now)
}

// decode fills value of r from raw, and gives the name. The old value stays if
// nothing changed, or if it errs.
func (c *core) decode(t *typeState, r *resource, raw []byte) (string, error) {
	switch t.url {
	case ListenerURL:
		prev, _ := r.value.(*Listener)
		l, err := c.dec.listener(raw, prev)
		if err != nil {
			return "", err
		}
		r.value = l
		return l.Name, nil
	case ClusterURL:
		prev, _ := r.value.(*Cluster)
		cl, err := cluster(raw, prev)
		if err != nil {
			return "", err
		}
		r.value = cl
		return cl.Name, nil
	case EndpointURL:
		prev, _ := r.value.(*Assignment)
		name, a, err := c.endpoints.decode(raw)
		if err != nil {
			return "", err
		}
		if prev == nil || !a.equal(prev) {
			r.value = a
		}
		return name, nil
	case RouteURL:
		prev, _ := r.value.(*decodedRoute)
		v, err := route(raw, prev, c.route)
		if err != nil {
			return "", err
		}
		c.route = v
		if c.o.Implied != nil {
			if err := imply(v, prev, c.o.Implied(v.Name)); err != nil {
				return "", err
			}
		}
		r.value = v
		return v.Name, nil
	}
	v, err := c.dec.extensionRoute(t.url, raw)
	if err != nil {
		return "", err
	}
	r.value = v
	return v.Name, nil
}

// batch is one response while it is applied.
type batch struct {
	t       *typeState
	server  int
	version string
	now     time.Time
	seen    map[string]int // how often each name is in it; told: it is refused as double
	bad     []string       // what was refused, for the NACK
	unnamed bool           // one of them has no name that can be read
	changed int
}

// told marks a name in batch.seen.
const told = -1

// item is one resource of a response, before it is decoded.
type item struct {
	name, version string
	raw           []byte
	err           error
	heartbeat     bool
}

// read finds the name of a resource of a response.
func (b *batch) read(name, version string, a *anypb.Any) item {
	wrapped, raw, err := unwrap(b.t.url, a)
	if errors.Is(err, errHeartbeat) {
		b.seen[wrapped]++
		return item{name: wrapped, heartbeat: true}
	}
	if name == "" {
		name = wrapped
	}
	if inner := nameOf(raw); err == nil {
		if name != "" && inner != "" && name != inner {
			err = fmt.Errorf("it is named %q in its wrapper and %q inside", name, inner)
		} else if inner != "" {
			name = inner
		}
	}
	if name != "" {
		b.seen[name]++
	} else if err == nil {
		err = errNoName
	}
	return item{name: name, version: version, raw: raw, err: err}
}

// apply applies the resources of a response, once all their names are known: of two
// with one name neither is better, so what was there before stays.
func (c *core) apply(b *batch, list []item) {
	for _, i := range list {
		switch n := b.seen[i.name]; {
		case i.heartbeat:
			if !b.t.ttl {
				c.log.Info("the ADS server bounds the life of resources (ttl), here they live until it removes them", "type", short(b.t.url))
			}
			b.t.ttl = true
			continue
		case i.name == "":
			b.unnamed = true
			b.bad = append(b.bad, fmt.Sprintf("a resource without a name: %v", i.err))
			continue
		case n == told:
			continue
		case n > 1:
			i.err, b.seen[i.name] = errors.New("it is there twice"), told
		}
		c.resource(b, i.name, i.version, i.raw, i.err)
	}
}

// resource applies one resource of a response.
func (c *core) resource(b *batch, name, version string, raw []byte, err error) {
	if !b.t.wants(name) {
		return
	}
	r := b.t.resources[name]
	fresh := r == nil
	if fresh {
		r = &resource{}
	}
	before := r.value
	if err == nil && (r.value == nil || !bytes.Equal(r.raw, raw)) {
		var in string
		if in, err = c.decode(b.t, r, raw); err == nil && in != name {
			r.value, err = before, fmt.Errorf("it is named %q inside", in)
		}
	}
	if err != nil {
		b.bad = append(b.bad, fmt.Sprintf("%s: %v", name, err))
		r.refused = &refusal{version, err.Error(), b.now}
		c.refused(b.t.url, name, err.Error())
		b.t.resources[name] = r
		if r.value == nil && !b.t.wildcard {
			// That is an answer: there is none that can be used, and nothing waits for one.
			delete(b.t.waiting, name)
			c.put(b.t, name, r)
		}
		return
	}
	if r.refused != nil {
		c.refused(b.t.url, name, "")
	}
	changed := r.value != before
	if !bytes.Equal(r.raw, raw) {
		c.dirty[key{b.t.url, name}] = struct{}{}
		r.raw = raw
	}
	r.version, r.server, r.at, r.missing, r.refused, r.kept = version, b.server, b.now, false, nil, ""
	b.t.resources[name] = r
	delete(b.t.waiting, name)
	delete(c.saved, key{b.t.url, name})
	if changed || fresh {
		b.changed++
		c.put(b.t, name, r)
	}
}

// refused tells the reader that a resource cannot be used, or can be again.
func (c *core) refused(url, name, why string) {
	if c.pending.Refused == nil {
		c.pending.Refused = map[Ref]string{}
	}
	c.pending.Refused[Ref{url, name}] = why
}

// begin starts to apply a response. False: it was not asked for.
func (c *core) begin(st *stream, url, nonce, version string, now time.Time) (*batch, *streamType) {
	t, ss := c.types[url], st.types[url]
	if t == nil || ss == nil {
		if t == nil || !t.strange {
			c.log.Warn("ADS server sent what was not asked for", "server", c.o.Servers[st.server].Address, "type", url)
		}
		if t != nil {
			t.strange = true
		}
		return nil, nil
	}
	st.heard, c.heard, c.serving = true, now, st.server
	c.stage.resume(now)
	ss.nonce = nonce
	t.responses++
	if t.server != st.server {
		t.version, t.server = "", st.server
	}
	return &batch{t: t, server: st.server, version: version, now: now, seen: map[string]int{}}, ss
}

// end finishes a response: a message for the NACK, or "".
func (c *core) end(b *batch) string {
	if b.t.wildcard {
		c.whole(b.t)
	}
	if len(b.bad) == 0 {
		b.t.refusing = false
		return ""
	}
	b.t.nacks++
	text := strings.Join(b.bad[:min(len(b.bad), mostNamed)], "; ")
	if more := len(b.bad) - mostNamed; more > 0 {
		text += fmt.Sprintf("; and %d more", more)
	}
	text = strings.ToValidUTF8(text[:min(len(text), longestText)], "?")
	// The server sends it again with each change of something else.
	again := b.t.refusing && b.t.nacked.why == text
	b.t.nacked, b.t.refusing = &refusal{b.version, text, b.now}, true
	if !again {
		c.log.Warn("xDS resources cannot be used, the last good ones stay", "type", short(b.t.url), "version", b.version, "server", c.o.Servers[b.server].Address, "err", text)
	}
	return text
}

// response applies a response of state of the world and answers it.
func (c *core) response(st *stream, m *discoveryv3.DiscoveryResponse, now time.Time) {
	b, ss := c.begin(st, m.GetTypeUrl(), m.GetNonce(), m.GetVersionInfo(), now)
	if b == nil {
		return
	}
	list := make([]item, 0, len(m.GetResources()))
	for _, a := range m.GetResources() {
		list = append(list, b.read("", m.GetVersionInfo(), a))
	}
	c.apply(b, list)
	if b.t.whole && !b.unnamed {
		c.sweep(b)
	}
	text := c.end(b)
	if text == "" {
		b.t.version = m.GetVersionInfo()
	}
	c.ask(st, b.t, ss, text)
}

// sweep deletes what a response with everything does not have.
func (c *core) sweep(b *batch) {
	keep := c.o.Servers[b.server].IgnoreDeletion
	for name, r := range b.t.resources {
		switch {
		case b.seen[name] != 0:
		case r.value != nil:
			c.remove(b, name, r, keep)
		case b.t.wildcard: // it was refused, and is gone now
			delete(b.t.resources, name)
			c.refused(b.t.url, name, "")
		case r.refused != nil:
			c.absent(b.t, name)
		}
	}
}

// remove takes out a resource that the server has no more.
func (c *core) remove(b *batch, name string, r *resource, keep bool) {
	if keep {
		if r.kept == "" {
			r.kept = "the server has it no more; its deletions are ignored"
			c.log.Warn("a deletion of the ADS server is ignored", "type", short(b.t.url), "name", name)
		}
		return
	}
	b.changed++
	if !b.t.wildcard {
		c.absent(b.t, name)
		return
	}
	if r.refused != nil {
		c.refused(b.t.url, name, "")
	}
	delete(b.t.resources, name)
	delete(c.saved, key{b.t.url, name})
	c.dirty[key{b.t.url, name}] = struct{}{}
	r.value = nil
	if b.t.url == ListenerURL && c.o.Follow != nil && !c.o.Follow(name) {
		return
	}
	c.put(b.t, name, r)
}

// deltaResponse applies an incremental response and answers it.
func (c *core) deltaResponse(st *stream, m *discoveryv3.DeltaDiscoveryResponse, now time.Time) {
	b, _ := c.begin(st, m.GetTypeUrl(), m.GetNonce(), m.GetSystemVersionInfo(), now)
	if b == nil {
		return
	}
	list := make([]item, 0, len(m.GetResources()))
	for _, r := range m.GetResources() {
		switch {
		case r.GetResource() != nil:
			list = append(list, b.read(r.GetName(), r.GetVersion(), r.GetResource()))
		case r.GetTtl() != nil:
			b.seen[r.GetName()]++
			list = append(list, item{name: r.GetName(), heartbeat: true})
		default:
			b.bad = append(b.bad, fmt.Sprintf("%s: it is empty", r.GetName()))
		}
	}
	c.apply(b, list)
	for _, name := range m.GetRemovedResources() {
		if b.seen[name] != 0 || !b.t.wants(name) {
			continue
		}
		r := b.t.resources[name]
		switch {
		case b.t.whole && r != nil && r.value != nil:
			c.remove(b, name, r, c.o.Servers[b.server].IgnoreDeletion)
		case r != nil && r.value != nil:
			r.kept = "the server removed it, but something still refers to it"
		case !b.t.wildcard:
			c.absent(b.t, name)
		}
	}
	b.t.version = m.GetSystemVersionInfo()
	req := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: b.t.url, ResponseNonce: m.GetNonce()}
	if text := c.end(b); text != "" {
		req.ErrorDetail = &status.Status{Code: int32(codes.InvalidArgument), Message: text}
	}
	st.send(req, b.t.url, false)
}

// sync sends a stream what it was not asked for yet.
func (c *core) sync(st *stream) {
	for _, t := range c.order {
		ss := st.types[t.url]
		switch {
		case ss == nil && (t.wildcard || len(t.names) > 0):
			ss = &streamType{}
			st.types[t.url] = ss
		case ss == nil || ss.gen == t.gen:
			continue
		}
		if st.delta {
			c.askDelta(st, t, ss)
		} else {
			c.ask(st, t, ss, "")
		}
	}
}

// ask sends a request of state of the world: ACK, NACK or a change of names.
func (c *core) ask(st *stream, t *typeState, ss *streamType, refused string) {
	req := &discoveryv3.DiscoveryRequest{TypeUrl: t.url, ResponseNonce: ss.nonce}
	if t.server == st.server {
		req.VersionInfo = t.version
	}
	if !t.wildcard {
		req.ResourceNames = t.sorted()
	}
	if refused != "" {
		req.ErrorDetail = &status.Status{Code: int32(codes.InvalidArgument), Message: refused}
	}
	req.Node = st.node()
	adds := !ss.asked || ss.gen != t.gen
	ss.asked, ss.gen = true, t.gen
	st.send(req, t.url, adds)
}

// askDelta subscribes and unsubscribes. It is never part of an ACK: istiod reads
// the names of an ACK as a change.
func (c *core) askDelta(st *stream, t *typeState, ss *streamType) {
	req := &discoveryv3.DeltaDiscoveryRequest{TypeUrl: t.url, Node: st.node()}
	if !ss.asked {
		req.InitialResourceVersions = map[string]string{}
		for name, r := range t.resources {
			if r.value == nil {
				continue
			}
			version := r.version
			if r.server != st.server {
				// Another server's version means nothing to this one, but it must tell
				// what of this it does not have.
				version = "?"
			}
			req.InitialResourceVersions[name] = version
		}
	}
	adds := !ss.asked
	if !t.wildcard {
		if ss.names == nil {
			ss.names = map[string]struct{}{}
		}
		for name := range t.names {
			if _, ok := ss.names[name]; !ok {
				req.ResourceNamesSubscribe = append(req.ResourceNamesSubscribe, name)
				ss.names[name] = struct{}{}
				adds = true
			}
		}
		for name := range ss.names {
			if _, ok := t.names[name]; !ok {
				req.ResourceNamesUnsubscribe = append(req.ResourceNamesUnsubscribe, name)
				delete(ss.names, name)
			}
		}
		slices.Sort(req.ResourceNamesSubscribe)
		slices.Sort(req.ResourceNamesUnsubscribe)
	}
	ss.asked, ss.gen = true, t.gen
	st.send(req, t.url, adds)
}

// setListeners replaces the listeners that are asked for by name.
func (c *core) setListeners(names []string, now time.Time) {
	t := c.types[ListenerURL]
	next := map[string]struct{}{}
	for _, n := range names {
		next[n] = struct{}{}
		c.want(t, n, true)
	}
	for n := range t.names {
		if _, ok := next[n]; !ok {
			c.stage.forgetListener(n, now)
			c.want(t, n, false)
		}
	}
	c.settle(now)
}

// wakeAt is when expire has something to do.
func (c *core) wakeAt() (time.Time, bool) {
	a, ok := c.timers.next()
	b, more := c.stage.wake.next()
	if !ok || more && b.Before(a) {
		return b, more
	}
	return a, ok
}

// node is sent with the first request of a stream.
func (st *stream) node() *corev3.Node {
	if st.named {
		return nil
	}
	st.named = true
	return st.nodeValue
}

// short is the last word of a type URL.
func short(url string) string { return url[strings.LastIndexByte(url, '.')+1:] }
