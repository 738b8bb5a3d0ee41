package api

import (
	"encoding/json"
	"io"
	"net/http"

	"github.com/gin-gonic/gin"

	"github.com/meshferry/meshferry/agent/workload"
	"github.com/meshferry/meshferry/registry"
)

// mosnRequest is the body of all four calls. The registry's address and password
// are read over: registries are named in our configuration, and what a body
// names is never dialled. Source: MOSN pkg/upstream/servicediscovery/dubbod,
// whose reader takes unknown fields too.
type mosnRequest struct {
	Service struct {
		Interface string   `json:"interface"`
		Methods   []string `json:"methods"`
		Group     string   `json:"group"`
		Version   string   `json:"version"` // not in /sub and /unsub: any
	} `json:"service"`
}

// mosnReply is 0 and a text, or 1 and the error; the status is always 200.
type mosnReply struct {
	Errno  int    `json:"err_no"`
	ErrMsg string `json:"err_msg"`
}

// mosnKey marks a request whose refusal is a mosnReply, too.
const mosnKey = "meshferry.mosn"

// mosnRoutes is the engine of the MOSN-compatible listener. Content type and
// registry are not checked; everything else that guards the control API does.
func (s *Server) mosnRoutes() *gin.Engine {
	e := s.engine()
	e.Use(func(c *gin.Context) {
		c.Set(mosnKey, c.FullPath() != "")
		c.Request.Header.Set("Content-Type", "application/json")
	})
	e.Use(s.guard, s.authorise, s.limit)
	e.POST("/pub", s.mosnCall("publish", "publish fail, err: ", s.mosnPublish))
	e.POST("/unpub", s.mosnCall("unpub", "unpub fail, err: ", s.mosnUnpublish))
	e.POST("/sub", s.mosnCall("subscribe", "subscribe fail, err: ", s.mosnSubscribe))
	e.POST("/unsub", s.mosnCall("unsubscribe", "unsubscribe fail, err: ", s.mosnUnsubscribe))
	return e
}

func (s *Server) mosnCall(name, failed string, do func(*gin.Context, mosnRequest) error) gin.HandlerFunc {
	return func(c *gin.Context) {
		var r mosnRequest
		body, err := io.ReadAll(c.Request.Body)
		if err == nil {
			err = json.Unmarshal(body, &r)
		}
		if err == nil && s.o.Draining() {
			err = stopping()
		}
		if err == nil {
			err = do(c, r)
		}
		if err != nil {
			c.PureJSON(http.StatusOK, mosnReply{1, failed + refusalOf(err).message})
			return
		}
		c.PureJSON(http.StatusOK, mosnReply{0, name + " success"})
	}
}

// fields is the request as ours. One process stands behind these bodies, so all
// share one workload.
func (r mosnRequest) fields(m *Mosn) publicationFields {
	f := publicationFields{serviceFields: serviceFields{
		Application: "mosn", Interface: r.Service.Interface, Group: &r.Service.Group, Version: &r.Service.Version, Methods: r.Service.Methods,
	}, Port: m.ProviderPort}
	if m.Registry != "" {
		f.Registries = []string{m.Registry}
	}
	return f
}

func (s *Server) mosnPublish(c *gin.Context, r mosnRequest) error {
	p, err := r.fields(s.o.Mosn).publication(s.registryNames())
	if err != nil {
		return err
	}
	p.Owner = peerOf(c.Request).owner()
	_, err = s.o.Workloads.Publish(c.Request.Context(), p)
	return err
}

func (s *Server) mosnUnpublish(c *gin.Context, r mosnRequest) error {
	m, err := r.fields(s.o.Mosn).match()
	if err == nil {
		err = checkService(registry.Service{Interface: m.Interface})
	}
	if err == nil {
		_, _, _, err = s.o.Workloads.Unpublish(c.Request.Context(), m, peerOf(c.Request).owner())
	}
	return err
}

func (r mosnRequest) subscription() (workload.Subscription, error) {
	anyVersion := "*"
	return subscribeRequest{serviceFields: serviceFields{
		Application: "mosn", Interface: r.Service.Interface, Group: &r.Service.Group, Version: &anyVersion, Methods: r.Service.Methods,
		Protocol: "dubbo",
	}}.subscription()
}

func (s *Server) mosnSubscribe(c *gin.Context, r mosnRequest) error {
	sub, err := r.subscription()
	if err != nil {
		return err
	}
	sub.Owner = peerOf(c.Request).owner()
	if _, err := s.o.Workloads.Subscribe(c.Request.Context(), sub); err != nil {
		return err
	}
	s.awaitSet(c, sub.Service)
	return nil
}

func (s *Server) mosnUnsubscribe(c *gin.Context, r mosnRequest) error {
	sub, err := r.subscription()
	if err != nil {
		return err
	}
	m := workload.Match{
		Application: "mosn", Protocol: "dubbo", Interface: sub.Service.Interface,
		Group: &sub.Service.Group, Version: &sub.Service.Version,
	}
	_, err = s.o.Workloads.Unsubscribe(c.Request.Context(), m, peerOf(c.Request).owner())
	return err
}
