package nacos

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/nacos-group/nacos-sdk-go/v2/common/remote/rpc/rpc_request"
	"github.com/nacos-group/nacos-sdk-go/v2/common/remote/rpc/rpc_response"
	"github.com/nacos-group/nacos-sdk-go/v2/model"

	"github.com/meshferry/meshferry/registry"
)

const (
	// keepRevisions is how long metadata that nobody names any more stays.
	keepRevisions = 24 * time.Hour
	// collectAfter is from a connection until it is believed that nobody names a
	// revision: the clients of a server that was restarted come back one by one.
	collectAfter = time.Minute
)

// Store keeps one small document over restarts of the process.
type Store interface {
	Load() ([]byte, error) // nothing kept: no bytes, no error
	Save([]byte) error
}

// revisions remembers the metadata that this agent wrote, so that it is taken out
// some time: a Nacos client can list no configurations. Owned by who has the turn,
// and by Run before the first connection.
type revisions struct {
	store Store // nil: memory only
	log   *slog.Logger
	since map[string]time.Time // by "application/revision": unused since; zero while in use
}

// load reads what the process before has left. What cannot be read stays in Nacos
// for good, nothing else.
func (v *revisions) load() {
	v.since = map[string]time.Time{}
	if v.store == nil {
		return
	}
	b, err := v.store.Load()
	if err == nil && len(b) > 0 {
		err = json.Unmarshal(b, &v.since)
	}
	if err != nil {
		v.log.Warn("what this agent wrote into Nacos earlier cannot be loaded; old metadata stays there", "err", err)
	}
	if v.since == nil { // the text "null"
		v.since = map[string]time.Time{}
	}
}

func (v *revisions) save() {
	if v.store == nil {
		return
	}
	b, err := json.Marshal(v.since)
	if err == nil {
		err = v.store.Save(b)
	}
	if err != nil {
		v.log.Warn("what this agent writes into Nacos cannot be saved; old metadata may stay there", "err", err)
	}
}

// use notes which are in use from now on. It is called before they are written.
func (v *revisions) use(names []string, now time.Time) {
	changed := false
	for _, name := range names {
		if since, found := v.since[name]; !found || !since.IsZero() {
			v.since[name], changed = time.Time{}, true
		}
	}
	for name, since := range v.since {
		if since.IsZero() && !slices.Contains(names, name) {
			v.since[name], changed = now, true
		}
	}
	if changed {
		v.save()
	}
}

// unused lists those that we have not named since before.
func (v *revisions) unused(before time.Time) (names []string) {
	for name, since := range v.since {
		if !since.IsZero() && since.Before(before) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func (v *revisions) drop(name string) {
	delete(v.since, name)
	v.save()
}

// collect takes out the metadata of revisions that we named once and that no
// instance has named when we looked, a day later. An agent that begins to use one
// at that moment writes it again when it compares.
func (r *Registry) collect(ctx context.Context, c *conn) error {
	if r.now().Sub(c.began) < collectAfter {
		return nil
	}
	for _, name := range r.revisions.unused(r.now().Add(-keepRevisions)) {
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
