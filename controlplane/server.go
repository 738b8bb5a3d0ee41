package controlplane

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/meshferry/meshferry/controlplane/catalog"
	"github.com/meshferry/meshferry/controlplane/istio"
)

// Options of New.
type Options struct {
	Registries []catalog.Named // at least one, running
	Folder     string          // of Istio's resources; empty: none
	Poll       time.Duration   // between two looks into the folder; 0: 5 s if changes are notified, else 500 ms
	Hold       time.Duration   // see catalog.Options
	TLS        *TLS            // nil: plain text
	Log        *slog.Logger
}

// Server is the control plane.
type Server struct {
	// immutable after New
	o       Options
	log     *slog.Logger
	catalog *catalog.Catalog
	state   *state
	nodes   *nodes
	tls     credentials.TransportCredentials
	files   map[string][]byte // of the folder, at the start

	ready  atomic.Bool
	folder atomic.Pointer[Folder]
	totals atomic.Pointer[Totals]
}

// Folder is how the folder stands.
type Folder struct {
	Dir      string    `json:"dir"`
	Files    int       `json:"files"`
	Served   time.Time `json:"served"`            // when what is served was read
	Refused  string    `json:"refused,omitempty"` // why what is there now is not served
	Warnings []string  `json:"warnings,omitempty"`
}

// Totals are what is served.
type Totals struct {
	Services  int      `json:"services"`
	Endpoints int      `json:"endpoints"`
	Refused   []string `json:"refused,omitempty"` // services without a host
	Changes   int      `json:"changes"`           // of the registries, since the start
	Slowest   string   `json:"slowest"`           // that any of them took to be made into resources
	slowest   time.Duration
}

// New checks the options and reads the folder. One that is wrong is an error, for
// there is no last good one.
func New(o Options) (*Server, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	c, err := catalog.New(catalog.Options{Registries: o.Registries, Hold: o.Hold, Log: o.Log})
	if err != nil {
		return nil, err
	}
	s := &Server{o: o, log: o.Log, catalog: c, state: newState()}
	s.nodes = newNodes(s.ready.Load, o.Log)
	s.folder.Store(&Folder{Dir: o.Folder})
	s.totals.Store(&Totals{})
	config, err := s.first()
	if err != nil {
		return nil, err
	}
	s.state.setRules(config)
	if o.TLS != nil {
		if s.tls, err = ServerCredentials(*o.TLS, o.Log); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Run serves xDS on one listener and the admin pages on another, which may be
// nil, until ctx ends. It closes both.
func (s *Server) Run(ctx context.Context, listen, admin net.Listener) error {
	options := []grpc.ServerOption{
		grpc.MaxConcurrentStreams(maxNodes), grpc.MaxRecvMsgSize(64 << 20),
		// A state-of-the-world acknowledgement of 10 000 names has 700 KB. With small
		// windows (gRPC would make them grow) everybody is told before those are read.
		grpc.InitialWindowSize(1 << 16), grpc.InitialConnWindowSize(1 << 16),
	}
	views := make(chan delivery)
	return Serve(ctx, s, s.tls, options, s.Admin(), listen, admin,
		func(ctx context.Context) error {
			return s.catalog.Run(ctx, func(v *catalog.View, changed []string) {
				select {
				case views <- delivery{v, changed}:
				case <-ctx.Done():
				}
			})
		},
		func(ctx context.Context) error { s.loop(ctx, views); return nil })
}

type delivery struct {
	view    *catalog.View
	changed []string
}

// loop owns the state: it takes what registries and folder say, one after the
// other.
func (s *Server) loop(ctx context.Context, views <-chan delivery) {
	f := watched{server: s, files: s.files, timer: time.NewTimer(time.Hour), poll: cmp.Or(s.o.Poll, pollWatched)}
	defer f.timer.Stop()
	changed, unwatched := make(chan struct{}, 1), make(chan error, 1)
	if s.o.Folder != "" {
		f.timer.Reset(f.poll)
		watching := make(chan struct{})
		go func() {
			defer close(watching)
			if err := watchFolder(ctx, s.o.Folder, changed); err != nil {
				unwatched <- err
			}
		}()
		defer func() { <-watching }()
	}
	for {
		select {
		case <-ctx.Done():
			return
		case d := <-views:
			start := time.Now()
			n := s.state.setView(d.view, d.changed)
			s.nodes.pushAll()
			s.count(d.view, time.Since(start))
			if !s.ready.Swap(true) {
				s.log.Info("serving", "services", len(d.view.Services))
				continue
			}
			s.log.Info("registries changed", "hosts", len(d.changed), "clusters", n.clusters, "endpoints", n.endpoints, "routes", n.routes, "took", time.Since(start))
		case err := <-unwatched:
			f.poll = cmp.Or(s.o.Poll, pollUnwatched)
			s.log.Warn("the folder's changes are not notified; it is looked at by the clock", "every", f.poll, "err", err)
			f.timer.Reset(0)
		case <-changed:
			if !f.soon { // else a folder that never rests would never be looked at
				f.soon = true
				f.timer.Reset(settle)
			}
		case <-f.timer.C:
			f.soon = false
			f.timer.Reset(f.look())
		}
	}
}

// watched is what is known of the folder. The goroutine of loop owns it.
type watched struct {
	server *Server
	files  map[string][]byte // that were served or refused last
	next   map[string][]byte // that wait until they stay as they are
	lost   *Folder           // how it stood before it could not be read; nil: it can
	poll   time.Duration
	timer  *time.Timer
	soon   bool // it is looked at after a notification
}

// look reads the folder, and takes it when it has settled. It returns when to look
// again. A folder that was refused is not parsed again until it changes.
func (f *watched) look() time.Duration {
	s := f.server
	next, err := ReadFolder(s.o.Folder)
	switch {
	case err != nil:
		if f.lost == nil {
			f.lost = s.folder.Load()
			s.log.Error("the folder cannot be read; what was read last is served", "err", err)
			s.refuse(err)
		}
		f.next = nil
		return f.poll
	case f.lost != nil:
		s.folder.Store(f.lost)
		f.lost = nil
		s.log.Info("the folder can be read again")
	}
	switch {
	case same(f.files, next):
		f.next = nil
		return f.poll
	case f.next == nil || !same(f.next, next):
		f.next = next
		return settle
	}
	f.files, f.next = next, nil
	config, err := s.parse(next)
	if err != nil {
		s.log.Error("the folder is refused; the last good one is served", "err", err)
		s.refuse(err)
		return f.poll
	}
	start := time.Now()
	n := s.state.setRules(config)
	s.nodes.pushAll()
	s.log.Info("folder changed", "files", len(next), "clusters", n.clusters, "endpoints", n.endpoints, "routes", n.routes, "took", time.Since(start))
	return f.poll
}

func (s *Server) refuse(err error) {
	f := *s.folder.Load()
	f.Refused = err.Error()
	s.folder.Store(&f)
}

func (s *Server) count(v *catalog.View, took time.Duration) {
	t := Totals{Services: len(v.Services), Changes: s.totals.Load().Changes + 1, slowest: max(took, s.totals.Load().slowest)}
	t.Slowest = t.slowest.String()
	for _, svc := range v.Services {
		t.Endpoints += len(svc.Endpoints)
	}
	for _, c := range v.Refused {
		t.Refused = append(t.Refused, c.Error())
	}
	if old := s.totals.Load().Refused; len(t.Refused) > len(old) {
		s.log.Warn("services have no host in xDS, because others have it", "services", t.Refused)
	}
	s.totals.Store(&t)
}

// first reads the folder at the start.
func (s *Server) first() (c *istio.Config, err error) {
	if s.o.Folder == "" {
		return &istio.Config{}, nil
	}
	if s.files, err = ReadFolder(s.o.Folder); err != nil {
		return nil, err
	}
	return s.parse(s.files)
}

// parse reads files; those that are good will be served.
func (s *Server) parse(files map[string][]byte) (*istio.Config, error) {
	c, problems := istio.Parse(files)
	if err := problems.Err(); err != nil {
		return nil, err
	}
	s.folder.Store(&Folder{Dir: s.o.Folder, Files: len(files), Served: time.Now(), Warnings: lines(problems)})
	for _, p := range problems {
		s.log.Warn("in the folder", "problem", p.String())
	}
	return c, nil
}

func lines(problems istio.Problems) []string {
	var list []string
	for _, p := range problems {
		list = append(list, p.String())
	}
	return list
}
