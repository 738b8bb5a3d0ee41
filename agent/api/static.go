package api

import (
	"net/http"
	"slices"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/meshferry/meshferry/agent/workload"
	"github.com/meshferry/meshferry/registry"
)

// States of a static application.
const (
	stateServing = "serving" // its port answers
	stateWaiting = "waiting" // it does not; reason says why
)

// staticRequest is the body of POST /v1/static and, without port and services, of
// POST /v1/static/remove.
type staticRequest struct {
	Application string   `json:"application"`
	Protocol    string   `json:"protocol"` // default: dubbo
	Host        string   `json:"host"`     // default: 127.0.0.1
	Port        int      `json:"port"`
	Services    []string `json:"services"`
}

// StaticReply answers both: what was kept, or what was removed.
type StaticReply struct {
	Agent        string         `json:"agent"`
	Address      string         `json:"address"` // where such an application registers itself
	Outbound     string         `json:"outbound"`
	Applications []StaticStatus `json:"applications"`
}

// StaticStatus is an application that registers itself at the agent's address.
type StaticStatus struct {
	Application string   `json:"application"`
	Protocol    string   `json:"protocol"`
	Host        string   `json:"host"`
	Port        int      `json:"port"`
	From        string   `json:"from"`  // "configuration" or "command"
	State       string   `json:"state"` // serving or waiting
	Reason      string   `json:"reason,omitempty"`
	Services    []string `json:"services"` // that calls have reached or the configuration names, so far
}

func (s *Server) static(c *gin.Context) {
	var r staticRequest
	if err := decode(c.Request.Body, &r); err != nil {
		s.fail(c, err)
		return
	}
	one := workload.Static{Application: r.Application, Protocol: r.Protocol, Host: r.Host, Port: r.Port, Owner: peerOf(c.Request).owner()}
	for _, text := range r.Services {
		service, err := registry.ParseService(text)
		if err != nil {
			s.fail(c, invalid("", "services: %v", err))
			return
		}
		one.Services = append(one.Services, service)
	}
	if err := s.o.Workloads.AddStatic(c.Request.Context(), one); err != nil {
		s.fail(c, err)
		return
	}
	s.settle(c, one)
	reply := s.staticReply()
	for _, kept := range s.statics(s.view()) {
		if kept.Application == one.Application && kept.Port == one.Port && kept.From == fromCommand {
			reply.Applications = append(reply.Applications, kept)
		}
	}
	c.PureJSON(http.StatusOK, reply)
}

// settle waits for the first probe, which is a matter of milliseconds, so that the
// answer can say whether somebody listens there.
func (s *Server) settle(c *gin.Context, one workload.Static) {
	timeout := time.NewTimer(time.Second)
	defer timeout.Stop()
	for {
		view, changed := s.o.Workloads.View().Watch()
		if !slices.ContainsFunc(view.Static, func(k workload.Static) bool {
			return k.Application == one.Application && k.Port == one.Port && k.Reason == workload.ReasonSettling
		}) {
			return
		}
		select {
		case <-changed:
		case <-timeout.C:
			return
		case <-c.Request.Context().Done():
			return
		}
	}
}

func (s *Server) removeStatic(c *gin.Context) {
	var r staticRequest
	err := decode(c.Request.Body, &r)
	if err == nil && (r.Host != "" || r.Port != 0 || r.Services != nil) {
		err = invalid("", "host, port and services are not wanted here: application names what to remove")
	}
	if err == nil && r.Application == "" {
		err = invalid("", "application is missing")
	}
	var removed []workload.Static
	if err == nil {
		removed, err = s.o.Workloads.RemoveStatic(c.Request.Context(), r.Application, r.Protocol, peerOf(c.Request).owner())
	}
	if err != nil {
		s.fail(c, err)
		return
	}
	reply := s.staticReply()
	for _, one := range removed {
		reply.Applications = append(reply.Applications, staticStatus(one))
	}
	c.PureJSON(http.StatusOK, reply)
}

func (s *Server) staticReply() StaticReply {
	return StaticReply{Agent: s.o.Agent, Address: s.o.Address, Outbound: s.o.Outbound.String(), Applications: []StaticStatus{}}
}

const (
	fromConfiguration = "configuration"
	fromCommand       = "command"
)

func staticStatus(one workload.Static) StaticStatus {
	st := StaticStatus{Application: one.Application, Protocol: one.Protocol, Host: one.Host, Port: one.Port, From: fromCommand,
		State: stateWaiting, Reason: one.Reason, Services: []string{}}
	if one.Configured {
		st.From = fromConfiguration
	}
	if one.Live {
		st.State = stateServing
	}
	return st
}

// statics are those of the view with the services that are routed to them.
func (s *Server) statics(view *workload.View) []StaticStatus {
	list := []StaticStatus{}
	local := s.o.Routes.Snapshot().Local()
	for _, one := range view.Static {
		st := staticStatus(one)
		for _, l := range local {
			if l.Application == one.Application && l.Address == one.Address && !l.Adopts() {
				st.Services = append(st.Services, l.Service.Key())
			}
		}
		slices.Sort(st.Services)
		st.Services = slices.Compact(st.Services)
		list = append(list, st)
	}
	return list
}
