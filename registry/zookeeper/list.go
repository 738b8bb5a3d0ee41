package zookeeper

import (
	"context"
	"slices"

	"github.com/meshferry/meshferry/registry"
)

// everything stands for the listing of the registry among the interfaces: it is
// assembled and watched like one, with a URL that has only a path for each name.
const everything = ""

// list delivers the names of interfaces until ctx ends: the folders at the root,
// where applications and Dubbo's own may stand too, and the mapping, which has
// those that are registered at the application level alone.
func (r *reader) list(ctx context.Context, ch chan<- []string) error {
	sets := make(chan registry.Endpoints)
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- r.subs.Subscribe(ctx, everything, sets) }()
	defer func() { cancel(); <-ended }()
	var sent []string
	for first := true; ; first = false {
		var names []string
		select {
		case e := <-sets:
			for _, p := range e.Providers {
				if name := p.URL.Path; name != "mapping" && name != "metadata" && name != "config" {
					names = append(names, name)
				}
			}
		case <-ctx.Done():
			return nil
		}
		slices.Sort(names)
		names = slices.Compact(names)
		if !first && slices.Equal(names, sent) {
			continue
		}
		select {
		case ch <- names:
			sent = slices.Clone(names)
		case <-ctx.Done():
			return nil
		}
	}
}
