package api

import (
	"encoding/json"
	"net/http"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/meshferry/meshferry/agent/route"
	"github.com/meshferry/meshferry/agent/workload"
)

// LeaseLine is what a lease is answered: once by PUT, every five seconds by POST.
// Revision is the highest of the workload's subscriptions.
type LeaseLine struct {
	Agent    string `json:"agent"`
	Revision uint64 `json:"revision"`
}

// lease is held open by an application for as long as it lives.
func (s *Server) lease(c *gin.Context) {
	var r leaseRequest
	if err := decode(c.Request.Body, &r); err != nil {
		s.fail(c, err)
		return
	}
	ttl, err := s.leaseTerms(r)
	if err == nil && !s.hold(c) {
		err = tooManyHeld()
	}
	if err != nil {
		s.fail(c, err)
		return
	}
	release, err := s.o.Workloads.HoldLease(r.Workload, ttl, peerOf(c.Request).owner())
	if err != nil {
		s.fail(c, err)
		return
	}
	defer release()
	c.Header("Content-Type", "application/x-ndjson")
	c.Header("Cache-Control", "no-store")
	tick := time.NewTicker(s.o.LeaseEvery)
	defer tick.Stop()
	lines := json.NewEncoder(c.Writer)
	watcher := leaseRevision{s: s, workload: r.Workload}
	for {
		extend(c, 0)
		if err := lines.Encode(LeaseLine{s.o.Agent, watcher.now()}); err != nil {
			return
		}
		c.Writer.Flush()
		select {
		case <-tick.C:
		case <-c.Request.Context().Done():
			return
		}
	}
}

// renew is the lease of an application that holds no stream.
func (s *Server) renew(c *gin.Context) {
	r := leaseRequest{Workload: c.Param("workload")}
	if c.Request.ContentLength != 0 {
		if err := decode(c.Request.Body, &r); err != nil {
			s.fail(c, err)
			return
		}
	}
	ttl, err := s.leaseTerms(r)
	if err == nil && r.Workload != c.Param("workload") {
		err = invalid("", "the workload of the path and of the body differ")
	}
	if err == nil {
		err = s.o.Workloads.RenewLease(r.Workload, ttl, peerOf(c.Request).owner())
	}
	if err != nil {
		s.fail(c, err)
		return
	}
	watcher := leaseRevision{s: s, workload: r.Workload}
	c.PureJSON(http.StatusOK, LeaseLine{s.o.Agent, watcher.now()})
}

func (s *Server) leaseTerms(r leaseRequest) (time.Duration, error) {
	if err := workload.CheckWorkload(r.Workload); err != nil {
		return 0, err
	}
	return span("ttl", r.TTL, defaultTTL, minTTL, maxTTL)
}

// leaseRevision computes the revision of a workload's lease, anew only after
// something changed.
type leaseRevision struct {
	s        *Server
	workload string
	routes   *route.Snapshot
	view     *workload.View
	revision uint64
}

func (l *leaseRevision) now() uint64 {
	routes, view := l.s.o.Routes.Snapshot(), l.s.view()
	if routes == l.routes && view == l.view {
		return l.revision
	}
	l.routes, l.view, l.revision = routes, view, 0
	for _, sub := range view.Subscriptions {
		if sub.Workload == l.workload {
			l.revision = max(l.revision, l.s.document(sub).Revision)
		}
	}
	return l.revision
}
