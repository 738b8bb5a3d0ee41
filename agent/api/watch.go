package api

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/gin-gonic/gin"

	"github.com/meshferry/meshferry/agent/workload"
)

// watch answers with the document of a subscription as soon as its revision is
// another than the caller's: once (long-poll), or again and again as server-sent
// events.
func (s *Server) watch(c *gin.Context) {
	id, wait, known, err := watchQuery(c)
	if err != nil {
		s.fail(c, err)
		return
	}
	if boot := c.Query("agent"); boot != "" && boot != s.o.Agent {
		s.fail(c, refuse("gone", "publish and subscribe again", "the agent was started anew: it is %s, not %.40q", s.o.Agent, boot))
		return
	}
	if !s.hold(c) {
		s.fail(c, tooManyHeld())
		return
	}
	if strings.Contains(c.GetHeader("Accept"), "text/event-stream") {
		s.events(c, id, known)
		return
	}
	extend(c, wait)
	timeout := time.NewTimer(wait)
	defer timeout.Stop()
	d, err := s.next(c, id, known, timeout.C)
	switch {
	case err != nil:
		s.fail(c, err)
	case d == nil:
		c.Status(http.StatusNotModified)
	default:
		c.PureJSON(http.StatusOK, d)
	}
}

func watchQuery(c *gin.Context) (id string, wait time.Duration, known uint64, err error) {
	if err := knownQuery(c, "subscription", "agent", "revision", "wait"); err != nil {
		return "", 0, 0, err
	}
	if id = c.Query("subscription"); id == "" {
		return "", 0, 0, invalid("", "no subscription")
	}
	if text := c.Query("revision"); text != "" {
		if known, err = strconv.ParseUint(text, 10, 64); err != nil {
			return "", 0, 0, invalid("", "revision %.40q is not a number", text)
		}
	}
	wait, err = span("wait", c.Query("wait"), defaultWatch, 0, maxWatch)
	return id, wait, known, err
}

// next waits until the document's revision is another than known; nil at the
// time-out. It errs when the subscription or the agent ends.
func (s *Server) next(c *gin.Context, id string, known uint64, timeout <-chan time.Time) (*Document, error) {
	for {
		_, routes := s.o.Routes.Changes().Watch()
		_, workloads := s.o.Workloads.View().Watch()
		sub, err := s.o.Workloads.Subscription(id)
		if err != nil {
			return nil, ended(id)
		}
		s.o.Workloads.Touch(id)
		if d := s.document(sub); d.Revision != known {
			return &d, nil
		}
		select {
		case <-routes:
		case <-workloads:
		case <-timeout:
			return nil, nil
		case <-c.Request.Context().Done():
			if stopped(c) {
				return nil, stopping()
			}
			return nil, c.Request.Context().Err()
		}
	}
}

func ended(id string) error { return refuse("gone", "subscribe again", "no subscription %.40q", id) }

// keepAlive is the longest silence of an event stream: Touch and dead peers are
// noticed by it.
const keepAlive = 15 * time.Second

// events sends each new document as one event "update"; what ends the stream is
// an event "error" with the body that a long-poll would get.
func (s *Server) events(c *gin.Context, id string, known uint64) {
	if _, err := s.o.Workloads.Subscription(id); err != nil {
		s.fail(c, ended(id))
		return
	}
	c.Header("Content-Type", "text/event-stream")
	c.Header("Cache-Control", "no-store")
	c.Writer.WriteHeaderNow()
	for {
		extend(c, keepAlive)
		c.Writer.Flush()
		timeout := time.NewTimer(keepAlive)
		d, err := s.next(c, id, known, timeout.C)
		timeout.Stop()
		switch {
		case err != nil:
			if c.Request.Context().Err() == nil || stopped(c) {
				c.SSEvent("error", refusalOf(err).problem())
			}
			return
		case d == nil:
			if _, err := c.Writer.WriteString(": still here\n\n"); err != nil {
				return
			}
		default:
			known = d.Revision
			c.SSEvent("update", d)
		}
	}
}

// view is the current view of the workloads.
func (s *Server) view() *workload.View { return s.o.Workloads.View().Load() }
