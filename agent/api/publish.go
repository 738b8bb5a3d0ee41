package api

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/meshferry/meshferry/agent/reconcile"
	"github.com/meshferry/meshferry/agent/workload"
)

// States of a publication as the API tells them.
const (
	statePublished   = reconcile.Published
	statePending     = reconcile.Pending
	stateUnpublished = "unpublished"
	stateSuperseded  = "superseded"
	stateRefused     = "refused" // one item of a batch; its error says why
)

// reasonNoRegistry: the registries that the publication names are no longer in
// the configuration.
const reasonNoRegistry = "no-registry"

// PublishReply answers publish and unpublish (CONTRACT §1). State is that of the
// whole: the worst of its publications.
type PublishReply struct {
	Agent        string             `json:"agent"`
	State        string             `json:"state"`
	Reason       string             `json:"reason"`
	Publications []PublicationReply `json:"publications"`
}

// PublicationReply is the result of one publication. The first four fields are
// its identity.
type PublicationReply struct {
	Workload   string             `json:"workload,omitempty"`
	Service    string             `json:"service"`
	Protocol   string             `json:"protocol,omitempty"`
	Port       int                `json:"port,omitempty"`
	State      string             `json:"state"`
	Reason     string             `json:"reason"`
	Advertised []string           `json:"advertised"`
	Registries []PublicationState `json:"registries"`
	Error      *ProblemText       `json:"error,omitempty"`
}

// PublicationState is how one registry stands with one publication.
type PublicationState struct {
	Name   string `json:"name"`
	State  string `json:"state"`
	Reason string `json:"reason,omitempty"`
	Detail string `json:"detail,omitempty"` // what the registry says to that: who holds the entry, an error
}

func (s *Server) publish(c *gin.Context) {
	items, batch, wait, ok := s.publishItems(c)
	if !ok {
		return
	}
	owner := peerOf(c.Request).owner()
	slots := make([]workload.Identity, len(items))
	errs := make([]error, len(items))
	gen := uint64(0)
	for i, item := range items {
		p, err := item.publication(s.registryNames())
		if err == nil {
			p.Owner = owner
			slots[i] = p.Identity
			var g uint64
			g, err = s.o.Workloads.Publish(c.Request.Context(), p)
			gen = max(gen, g)
		}
		if err != nil && !batch {
			s.fail(c, err)
			return
		}
		errs[i] = err
	}
	s.await(c, wait, func(st *reconcile.State) bool {
		return st.Seen >= gen && !slices.ContainsFunc(slots, func(id workload.Identity) bool {
			p, known := findState(st, id)
			return known && p.State != statePublished && p.Reason != reconcile.ReasonConflict
		})
	})
	reply := PublishReply{Agent: s.o.Agent, Publications: make([]PublicationReply, len(items))}
	view := s.view()
	for i, id := range slots {
		if errs[i] != nil {
			reply.Publications[i] = refusedItem(items[i], errs[i])
		} else {
			reply.Publications[i] = s.publicationReply(view, id, gen)
		}
	}
	s.answerPublish(c, reply, statePublished)
}

func (s *Server) unpublish(c *gin.Context) {
	items, batch, wait, ok := s.publishItems(c)
	if !ok {
		return
	}
	owner := peerOf(c.Request).owner()
	reply := PublishReply{Agent: s.o.Agent, Publications: []PublicationReply{}}
	var gone []workload.Identity
	gen, superseded := uint64(0), false
	for _, item := range items {
		m, err := item.match()
		var removed []workload.Publication
		if err == nil {
			var g uint64
			var old bool
			g, removed, old, err = s.o.Workloads.Unpublish(c.Request.Context(), m, owner)
			gen, superseded = max(gen, g), superseded || old
		}
		switch {
		case err != nil && !batch:
			s.fail(c, err)
			return
		case err != nil:
			reply.Publications = append(reply.Publications, refusedItem(item, err))
		}
		for _, p := range removed {
			gone = append(gone, p.Identity)
		}
	}
	s.await(c, wait, func(st *reconcile.State) bool { return withdrawn(st, gone, gen) })
	for _, id := range gone {
		reply.Publications = append(reply.Publications, s.withdrawnReply(id, gen))
	}
	done := stateUnpublished
	if superseded && len(gone) == 0 {
		done = stateSuperseded
	}
	s.answerPublish(c, reply, done)
}

// publishItems decodes the body of publish and unpublish. When it is false the
// request was answered.
func (s *Server) publishItems(c *gin.Context) (items []publicationFields, batch bool, wait time.Duration, ok bool) {
	var r publishRequest
	err := decode(c.Request.Body, &r)
	if err == nil {
		items, batch, err = r.items()
	}
	if err == nil {
		wait, err = span("wait", r.Wait, defaultWait, 0, maxWait)
	}
	if err != nil {
		s.fail(c, err)
		return nil, false, 0, false
	}
	return items, batch, wait, true
}

// await waits until every registry satisfies done, for at most d. With too many
// requests waiting already it does not wait: the answer is then "pending".
func (s *Server) await(c *gin.Context, d time.Duration, done func(*reconcile.State) bool) {
	if d == 0 || !s.hold(c) {
		return
	}
	extend(c, d)
	ctx, cancel := context.WithTimeout(c.Request.Context(), d)
	defer cancel()
	for _, r := range s.o.Registries() {
		for {
			state, changed := r.State.Watch()
			if done(state) {
				break
			}
			select {
			case <-changed:
				continue
			case <-ctx.Done():
			}
			return
		}
	}
}

// findState finds a publication by what names it besides the workload, which the
// store may have filled in; only one can have the same service and port.
func findState(st *reconcile.State, slot workload.Identity) (reconcile.PublicationState, bool) {
	if p, ok := st.Publications[slot]; ok {
		return p, true
	}
	for id, p := range st.Publications {
		if sameSlot(id, slot) {
			return p, true
		}
	}
	return reconcile.PublicationState{}, false
}

func sameSlot(a, b workload.Identity) bool {
	a.Workload = b.Workload
	return a == b
}

func (s *Server) publicationReply(view *workload.View, slot workload.Identity, gen uint64) PublicationReply {
	reply := PublicationReply{
		Workload: slot.Workload, Service: slot.Service.Key(), Protocol: slot.Protocol, Port: slot.Port,
		State: statePublished, Advertised: []string{}, Registries: []PublicationState{},
	}
	var pub workload.Publication
	for _, p := range view.Publications {
		if sameSlot(p.Identity, slot) {
			pub = p
		}
	}
	reply.Workload = cmp.Or(pub.Workload, slot.Workload)
	if !slices.ContainsFunc(s.registryNames(), pub.Wants) {
		reply.State, reply.Reason = statePending, reasonNoRegistry
	}
	for _, r := range s.o.Registries() {
		if !pub.Wants(r.Name) {
			continue
		}
		one := PublicationState{Name: r.Name, State: statePending, Reason: reconcile.ReasonAway}
		st := r.State.Load()
		p, known := findState(st, slot)
		switch {
		case st.Seen >= gen && known:
			one.State, one.Reason, one.Detail = p.State, p.Reason, p.Detail
			for _, u := range p.Advertised {
				if !slices.Contains(reply.Advertised, u) {
					reply.Advertised = append(reply.Advertised, u)
				}
			}
		case st.Err == "":
			one.Reason = reconcile.ReasonSettling
		}
		if !pub.Live && one.State == statePending {
			one.Reason, one.Detail = cmp.Or(pub.Reason, reconcile.ReasonSettling), ""
		}
		reply.Registries = append(reply.Registries, one)
		if one.State != statePublished {
			reply.State, reply.Reason = statePending, worse(reply.Reason, one.Reason)
		}
	}
	return reply
}

// withdrawn tells whether a registry holds none of the publications any more.
func withdrawn(st *reconcile.State, gone []workload.Identity, gen uint64) bool {
	if st.Generation < gen {
		return false
	}
	for _, id := range gone {
		if _, there := st.Publications[id]; there {
			return false
		}
	}
	return true
}

func (s *Server) withdrawnReply(id workload.Identity, gen uint64) PublicationReply {
	reply := PublicationReply{
		Workload: id.Workload, Service: id.Service.Key(), Protocol: id.Protocol, Port: id.Port,
		State: stateUnpublished, Advertised: []string{}, Registries: []PublicationState{},
	}
	for _, r := range s.o.Registries() {
		one := PublicationState{Name: r.Name, State: stateUnpublished}
		if st := r.State.Load(); !withdrawn(st, []workload.Identity{id}, gen) {
			one = PublicationState{Name: r.Name, State: statePending, Reason: reconcile.ReasonSettling}
			if st.Err != "" {
				one.Reason = reconcile.ReasonAway
			}
			reply.State, reply.Reason = statePending, worse(reply.Reason, one.Reason)
		}
		reply.Registries = append(reply.Registries, one)
	}
	return reply
}

func refusedItem(f publicationFields, err error) PublicationReply {
	text := refusalOf(err).problem().Error
	return PublicationReply{
		Workload: f.Workload, Service: cmp.Or(f.URL, f.Interface), Protocol: f.Protocol, Port: f.Port,
		State: stateRefused, Advertised: []string{}, Registries: []PublicationState{}, Error: &text,
	}
}

// answerPublish sums up: 200 when all is done, 202 when something is pending, 207
// when an item of a batch was refused.
func (s *Server) answerPublish(c *gin.Context, reply PublishReply, done string) {
	reply.State = done
	status := http.StatusOK
	refused := false
	for _, p := range reply.Publications {
		switch p.State {
		case statePending:
			reply.State, reply.Reason = statePending, worse(reply.Reason, p.Reason)
			status = http.StatusAccepted
		case stateRefused:
			refused = true
		}
	}
	if refused {
		reply.State, status = statePending, http.StatusMultiStatus
		reply.Reason = cmp.Or(reply.Reason, stateRefused)
	}
	c.PureJSON(status, reply)
}

// worse is the reason to show of two: the one that needs somebody to act first.
func worse(a, b string) string {
	order := []string{reconcile.ReasonConflict, reasonNoRegistry, workload.ReasonPortClosed, reconcile.ReasonAway, reconcile.ReasonSettling}
	if a == "" {
		return b
	}
	i, j := slices.Index(order, a), slices.Index(order, b)
	if j >= 0 && (i < 0 || j < i) {
		return b
	}
	return a
}

func (s *Server) registryNames() []string {
	registries := s.o.Registries()
	names := make([]string, len(registries))
	for i, r := range registries {
		names[i] = r.Name
	}
	return names
}
