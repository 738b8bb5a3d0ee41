package nacos

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/nacos-group/nacos-sdk-go/v2/model"

	"github.com/meshferry/meshferry/registry"
	"github.com/meshferry/meshferry/registry/nacos/nacostest"
	"github.com/meshferry/meshferry/registry/registrytest"
)

// TestConformance cuts the network where the store is to be away; with -long it is
// the server that goes.
func TestConformance(t *testing.T) {
	conformance(t, server(t), options)
}

// TestConformanceWithoutLogin: the server asks for no login, and none is made.
func TestConformanceWithoutLogin(t *testing.T) {
	s := ownServer(t)
	conformance(t, s, func(s *nacostest.Server, namespace, host string) Options {
		o := options(s, namespace, host)
		o.User, o.Password = "", ""
		return o
	})
}

func conformance(t *testing.T, s *nacostest.Server, options func(s *nacostest.Server, namespace, host string) Options) {
	registrytest.Conformance(t, func(t *testing.T) registrytest.Store {
		id := namespace(t, s)
		network := relay(t, s, nil)
		agents := map[string]mortal{}
		store := registrytest.Store{
			Patience:       patience,
			SettlesInTurns: true,
			Open: func(t *testing.T, host string) registry.Registry {
				o := options(s, id, host)
				o.Servers = []string{network.Addr()}
				r, err := New(o)
				if err != nil {
					t.Fatal(err)
				}
				ctx, kill := context.WithCancel(context.Background())
				agents[host] = mortal{r, ctx, kill}
				return agents[host]
			},
			Lose: func(t *testing.T, host string) { agents[host].lose(t) },
			Kill: func(t *testing.T, host string) { agents[host].kill() },
			Down: func(t *testing.T) { network.Cut() },
			Up:   func(t *testing.T) { network.Mend() },
			Consumers: func(t *testing.T, iface string) (urls []string) {
				names, err := s.Services(t.Context(), id, DefaultGroup)
				if err != nil {
					t.Fatal(err)
				}
				for _, name := range names {
					if !strings.HasPrefix(name, "consumers:"+iface+":") {
						continue
					}
					for _, i := range instances(t, s, id, name) {
						u, err := decode(i)
						if err != nil {
							t.Fatal(err)
						}
						urls = append(urls, u.String())
					}
				}
				return urls
			},
			Fingerprint: func(t *testing.T) string {
				names, err := s.Services(t.Context(), id, DefaultGroup)
				if err != nil {
					t.Fatal(err)
				}
				var b strings.Builder
				for _, name := range names {
					fmt.Fprintf(&b, "%s %v\n", name, instances(t, s, id, name))
				}
				return b.String()
			},
		}
		if *long {
			store.Down = func(t *testing.T) { s.Kill() }
			store.Up = func(t *testing.T) {
				if err := s.Restart(); err != nil {
					t.Fatal(err)
				}
			}
		}
		return store
	})
}

// mortal is a Registry whose connection can be cut for good.
type mortal struct {
	*Registry
	alive context.Context
	kill  func()
}

func (m mortal) Run(ctx context.Context) error {
	cut, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(m.alive, cancel)()
	err := m.Registry.Run(cut)
	<-ctx.Done()
	return err
}

// lose takes everything that it registered out of Nacos, over its own connection: a
// server lets nobody else do that.
func (m mortal) lose(t *testing.T) {
	t.Helper()
	m.turn <- struct{}{}
	defer func() { <-m.turn }()
	for name, batch := range m.published {
		if err := m.remove(t.Context(), m.usable(), name, batch); err != nil {
			t.Fatal(err)
		}
	}
}

// instances are those of a service as the server's own API lists them.
func instances(t *testing.T, s *nacostest.Server, namespace, name string) (all []model.Instance) {
	t.Helper()
	list, err := s.Instances(t.Context(), namespace, DefaultGroup, name)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range list {
		all = append(all, model.Instance{Ip: i.IP, Port: uint64(i.Port), Weight: i.Weight, Healthy: i.Healthy, Enable: i.Enabled,
			Ephemeral: i.Ephemeral, ClusterName: i.Cluster, Metadata: i.Metadata})
	}
	slices.SortFunc(all, func(a, b model.Instance) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
	return all
}
