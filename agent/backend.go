package agent

import (
	"context"
	"fmt"
	"log/slog"

	"golang.org/x/time/rate"

	"github.com/meshferry/meshferry/agent/config"
	"github.com/meshferry/meshferry/agent/metadata"
	"github.com/meshferry/meshferry/agent/reconcile"
	"github.com/meshferry/meshferry/agent/state"
	"github.com/meshferry/meshferry/registry"
	"github.com/meshferry/meshferry/registry/local"
	"github.com/meshferry/meshferry/registry/zookeeper"
)

// ended is a registry whose session can be ended for good.
type ended interface {
	registry.Registry
	End(ctx context.Context) error
}

// endless is a registry in which everything of ours dies with the process.
type endless struct{ registry.Registry }

func (endless) End(context.Context) error { return nil }

func newBackend(c config.Registry, r registry.Registry, l *reconcile.Loop) backend {
	e, ok := r.(ended)
	if !ok {
		e = endless{r}
	}
	return backend{name: c.Name, url: c.URL, registry: e, loop: l}
}

// advertises tells whether the registry lists anything of this agent, as far as is
// known.
func (b backend) advertises() bool {
	for _, p := range b.loop.State().Load().Publications {
		if len(p.Advertised) > 0 {
			return true
		}
	}
	return false
}

// The write budget of one registry: 20 a second after a burst of 100, so that a
// registry that comes back is not run over by every agent of the fleet.
const (
	writesPerSecond = 20
	writesBurst     = 100
)

// open makes the client of one registry. It does not connect.
func (a *Agent) open(r config.Registry, hostID string, log *slog.Logger) (registry.Registry, error) {
	switch r.Backend {
	case "zookeeper":
		o, err := zookeeper.ParseURL(r.URL)
		if err != nil {
			return nil, err
		}
		if o.User, o.Password, err = r.Credentials(); err != nil {
			return nil, err
		}
		o.HostID = hostID
		o.Session = session{state.File{Path: a.sessionFile(r.Name)}}
		o.Writes = rate.NewLimiter(writesPerSecond, writesBurst)
		o.Metadata = metadata.Fetch
		o.Log = log
		return zookeeper.New(o)
	case "local":
		dir, err := local.ParseURL(r.URL)
		if err != nil {
			return nil, err
		}
		return local.New(local.Options{Dir: dir, HostID: hostID, Log: log})
	}
	return nil, fmt.Errorf("no backend %q in this version", r.Backend)
}

// session keeps what a backend needs to resume its session.
type session struct{ file state.File }

func (s session) Load() ([]byte, error) {
	var b []byte
	err := s.file.Load(&b)
	return b, err
}

func (s session) Save(b []byte) error { return s.file.Save(b) }
