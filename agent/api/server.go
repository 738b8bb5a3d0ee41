package api

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"runtime/debug"
	"time"

	"github.com/gin-gonic/gin"
	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"
)

// Server serves the control API.
type Server struct {
	// immutable after New
	o       Options
	log     *slog.Logger
	token   *[sha256.Size]byte // nil: none is asked for
	started time.Time
	control http.Handler
	mosn    http.Handler

	// safe for use by all requests
	working   slots
	held      slots
	buckets   buckets
	revisions revisions
}

// New checks the options. Nothing is served before Run.
func New(o Options) (*Server, error) {
	o = o.withDefaults()
	if err := o.check(); err != nil {
		return nil, fmt.Errorf("control API: %w", err)
	}
	token, err := readToken(o.TokenFile)
	if err != nil {
		return nil, fmt.Errorf("control API: %w", err)
	}
	s := &Server{
		o: o, log: o.Log, token: token, started: time.Now(),
		working:   make(slots, o.Limits.Working),
		held:      make(slots, o.Limits.Held),
		buckets:   newBuckets(rate.Limit(o.Limits.Rate), o.Limits.Burst),
		revisions: newRevisions(),
	}
	s.control = s.routes()
	if o.Mosn != nil {
		s.mosn = s.mosnRoutes()
	}
	return s, nil
}

// engine is a gin engine with the guards that every listener has.
func (s *Server) engine() *gin.Engine {
	if gin.IsDebugging() {
		gin.SetMode(gin.ReleaseMode) // the mode is gin's own global; debug prints every route to stdout
	}
	e := gin.New()
	e.HandleMethodNotAllowed = true
	e.RedirectTrailingSlash = false
	e.UseEscapedPath = true // a workload's name may hold "%2F"
	e.Use(s.recover)
	e.NoRoute(func(c *gin.Context) {
		s.fail(c, refuse("not-found", "GET /v1/openapi.json describes what there is", "no %s", c.Request.URL.Path))
	})
	e.NoMethod(func(c *gin.Context) {
		s.fail(c, refuse("method", "", "%s is not possible here; Allow says what is", c.Request.Method))
	})
	return e
}

func (s *Server) routes() *gin.Engine {
	e := s.engine()
	e.Use(s.guard, s.authorise)
	if s.o.Admin != nil {
		for _, path := range []string{"/healthz", "/readyz", "/metrics", "/debug/xds"} {
			e.GET(path, gin.WrapH(s.o.Admin))
		}
	}
	v1 := e.Group("/v1", s.limit)
	v1.GET("/openapi.json", s.openapi)
	v1.GET("/watch", s.watch)
	v1.GET("/status", s.status)
	v1.GET("/services", s.services)
	v1.GET("/endpoints", s.endpoints)
	v1.GET("/explain", s.explain)
	change := v1.Group("", s.refuseDraining)
	change.POST("/publish", s.publish)
	change.POST("/unpublish", s.unpublish)
	change.POST("/subscribe", s.subscribe)
	change.POST("/unsubscribe", s.unsubscribe)
	change.POST("/static", s.static)
	change.POST("/static/remove", s.removeStatic)
	change.POST("/lease", s.lease)
	change.PUT("/lease/:workload", s.renew)
	return e
}

// recover turns a panic of a handler into a 500, but for the one by which a
// handler aborts its connection.
func (s *Server) recover(c *gin.Context) {
	defer func() {
		switch p := recover(); p {
		case nil:
		case http.ErrAbortHandler:
			panic(p)
		default:
			s.log.Error("control API: a handler panicked", "path", c.Request.URL.Path, "panic", p, "stack", string(debug.Stack()))
			if !c.Writer.Written() {
				s.fail(c, refuse("internal", "the agent's log says more", "internal error"))
			}
		}
	}()
	c.Next()
}

func (s *Server) refuseDraining(c *gin.Context) {
	if s.o.Draining() {
		s.fail(c, stopping())
	}
}

var errStopping = errors.New("the agent is stopping")

func stopping() error {
	return &refusal{code: "stopping", message: errStopping.Error(), after: time.Second}
}

// stopped tells whether the request ends because the agent does.
func stopped(c *gin.Context) bool {
	return errors.Is(context.Cause(c.Request.Context()), errStopping)
}

// extend moves a request's deadlines, which are made for short ones, d away.
func extend(c *gin.Context, d time.Duration) {
	rc := http.NewResponseController(c.Writer)
	// Both err only for a connection that is gone already.
	_ = rc.SetReadDeadline(time.Time{}) // the body was read; what is left to read is the end of the peer
	_ = rc.SetWriteDeadline(time.Now().Add(d + writeTimeout))
}

const writeTimeout = 10 * time.Second

// Run serves until ctx ends. Then held requests end at once, others have a
// second to finish, and Run returns nil. It may be called once.
func (s *Server) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	s.serve(ctx, g, s.control, s.o.Listeners)
	if s.o.Mosn != nil {
		s.serve(ctx, g, s.mosn, s.o.Mosn.Listeners)
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("control API: %w", err)
	}
	return nil
}

func (s *Server) serve(ctx context.Context, g *errgroup.Group, h http.Handler, listeners []net.Listener) {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	base, end := context.WithCancelCause(context.WithoutCancel(ctx))
	server := &http.Server{
		Handler:                      h,
		BaseContext:                  func(net.Listener) context.Context { return base },
		ConnContext:                  withPeer,
		Protocols:                    protocols,
		DisableGeneralOptionsHandler: true,
		ReadHeaderTimeout:            2 * time.Second,
		ReadTimeout:                  5 * time.Second,
		WriteTimeout:                 writeTimeout,
		IdleTimeout:                  60 * time.Second,
		MaxHeaderBytes:               maxURI,
		ErrorLog:                     slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	for _, l := range listeners {
		g.Go(func() error {
			if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serve %s: %w", l.Addr(), err)
			}
			return nil
		})
	}
	g.Go(func() error {
		<-ctx.Done()
		end(errStopping)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if err := server.Shutdown(grace); err != nil {
			return server.Close()
		}
		return nil
	})
}
