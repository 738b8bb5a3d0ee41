package api

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/meshferry/meshferry/agent/route"
	"github.com/meshferry/meshferry/agent/workload"
	"github.com/meshferry/meshferry/registry"
)

// UnsubscribeReply answers unsubscribe.
type UnsubscribeReply struct {
	Agent         string   `json:"agent"`
	State         string   `json:"state"`         // unsubscribed
	Subscriptions []string `json:"subscriptions"` // ids of those that ended
}

func (s *Server) subscribe(c *gin.Context) {
	var r subscribeRequest
	err := decode(c.Request.Body, &r)
	var sub workload.Subscription
	if err == nil {
		sub, err = r.subscription()
	}
	if err == nil {
		sub.Owner = peerOf(c.Request).owner()
		sub, err = s.o.Workloads.Subscribe(c.Request.Context(), sub)
	}
	if err != nil {
		s.fail(c, err)
		return
	}
	if slices.Contains(sub.Categories, "providers") {
		s.awaitSet(c, sub.Service)
	}
	c.PureJSON(http.StatusOK, s.document(sub))
}

// awaitSet gives the sources a short time to find the interface, so that the
// first answer is seldom "waiting".
func (s *Server) awaitSet(c *gin.Context, service registry.Service) {
	if !s.hold(c) {
		return
	}
	ctx, cancel := context.WithTimeout(c.Request.Context(), s.o.FirstSet)
	defer cancel()
	if strings.ContainsAny(service.Group+service.Version, "*,") {
		s.o.Routes.Await(ctx, service.Interface)
		return
	}
	s.o.Routes.AwaitService(ctx, service)
}

func (s *Server) unsubscribe(c *gin.Context) {
	var r subscribeRequest
	err := decode(c.Request.Body, &r)
	var m workload.Match
	if err == nil {
		m, err = r.match()
	}
	var removed []workload.Subscription
	if err == nil {
		removed, err = s.o.Workloads.Unsubscribe(c.Request.Context(), m, peerOf(c.Request).owner())
	}
	if err != nil {
		s.fail(c, err)
		return
	}
	reply := UnsubscribeReply{Agent: s.o.Agent, State: "unsubscribed", Subscriptions: []string{}}
	for _, sub := range removed {
		reply.Subscriptions = append(reply.Subscriptions, sub.ID)
	}
	s.forget()
	c.PureJSON(http.StatusOK, reply)
}

// forget drops the revisions of subscriptions that are no more.
func (s *Server) forget() {
	alive := map[string]bool{}
	for _, sub := range s.view().Subscriptions {
		alive[sub.ID] = true
	}
	s.revisions.keep(func(id string) bool { return alive[id] })
}

// document is what a subscription is answered now.
func (s *Server) document(sub workload.Subscription) Document {
	snap := s.o.Routes.Snapshot()
	set, known := snap.Interface(sub.Service.Interface)
	state := string(set.State)
	if !known || set.State == route.Dropped {
		state = StateWaiting
	}
	if len(matching(sub, set.Providers)) == 0 { // rules may lead to some that no registry lists
		service := sub.Service
		service.Version = registry.NormalVersion(service.Version)
		if providers := snap.Ruled(service); len(providers) > 0 {
			state, set.Reason, set.Providers = StateReady, "", providers
		}
	}
	d := Answer(Question{
		Subscription: sub, State: state, Reason: set.Reason, Providers: set.Providers,
		Outbound: s.o.Outbound, Protocols: s.o.Protocols, Inbound: s.o.Inbound(),
	})
	d.Agent = s.o.Agent
	d.Registries = s.registryStates(time.Now())
	d.Revision = s.revisions.of(d)
	return d
}

func (s *Server) registryStates(now time.Time) []RegistryState {
	registries := s.o.Registries()
	list := make([]RegistryState, len(registries))
	for i, r := range registries {
		st := r.Status()
		list[i] = RegistryState{Name: r.Name, State: st.State, Age: age(now, st.Since)}
	}
	return list
}

// age is a time span in whole seconds, "0s" when its begin is unknown.
func age(now, since time.Time) string {
	if since.IsZero() || since.After(now) {
		return "0s"
	}
	return now.Sub(since).Truncate(time.Second).String()
}
