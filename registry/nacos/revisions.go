package nacos

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/nacos-group/nacos-sdk-go/v2/common/remote/rpc/rpc_request"
	"github.com/nacos-group/nacos-sdk-go/v2/common/remote/rpc/rpc_response"
	"github.com/nacos-group/nacos-sdk-go/v2/model"

	"github.com/meshferry/meshferry/registry"
	"github.com/meshferry/meshferry/registry/internal/backend"
)

// collectAfter is from a connection until it is believed that nobody names a
// revision: the clients of a server that was restarted come back one by one.
const collectAfter = time.Minute

// revisions remembers the metadata that this agent wrote, so that it is taken out
// some time: a Nacos client can list no configurations. Owned by who has the turn,
// and by Run before the first connection.
type revisions struct {
	store registry.Store // nil: memory only
	log   *slog.Logger
	all   backend.Revisions
}

// load reads what the process before has left. What cannot be read stays in Nacos
// for good, nothing else.
func (v *revisions) load() {
	if err := backend.Load(v.store, &v.all); err != nil {
		v.log.Warn("what this agent wrote into Nacos earlier cannot be loaded; old metadata stays there", "err", err)
	}
	if v.all == nil {
		v.all = backend.Revisions{}
	}
}

func (v *revisions) save() {
	if err := backend.Save(v.store, v.all); err != nil {
		v.log.Warn("what this agent writes into Nacos cannot be saved; old metadata may stay there", "err", err)
	}
}

// use notes which are in use from now on. It is called before they are written.
func (v *revisions) use(names []string, now time.Time) {
	if v.all.Use(names, now) {
		v.save()
	}
}

func (v *revisions) drop(name string) {
	delete(v.all, name)
	v.save()
}

// collect takes out the metadata of revisions that we named once and that no
// instance has named when we looked, a day later. An agent that begins to use one
// at that moment writes it again when it compares.
func (r *Registry) collect(ctx context.Context, c *conn) error {
	if r.now().Sub(c.began) < collectAfter {
		return nil
	}
	for _, name := range r.revisions.all.Unused(r.now()) {
		app, revision, _ := strings.Cut(name, "/")
		a := &rpc_response.QueryServiceResponse{Response: &rpc_response.Response{}}
		if err := c.ask(ctx, rpc_request.NewServiceQueryRequest(r.namespace, app, r.o.Group, "", false, 0), a); err != nil {
			return fmt.Errorf("collect metadata of %s: %w", app, err)
		}
		if slices.ContainsFunc(a.ServiceInfo.Hosts, func(i model.Instance) bool { return i.Metadata[registry.KeyRevision] == revision }) {
			continue
		}
		if err := c.ask(ctx, rpc_request.NewConfigRemoveRequest(revision, escaped(app), r.o.Namespace),
			&rpc_response.ConfigRemoveResponse{Response: &rpc_response.Response{}}); err != nil {
			return fmt.Errorf("collect metadata of %s, revision %.12s: %w", app, revision, err)
		}
		r.log.Info("took old metadata out of Nacos", "application", app, "revision", revision)
		r.revisions.drop(name)
	}
	return nil
}
