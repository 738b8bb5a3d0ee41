package zookeeper

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"

	"github.com/meshferry/meshferry/registry"
	"github.com/meshferry/meshferry/registry/registrytest"
	"github.com/meshferry/meshferry/registry/zookeeper/zktest"
)

func TestConformance(t *testing.T) {
	s := server(t)
	registrytest.Conformance(t, func(t *testing.T) registrytest.Store {
		root, services := roots()
		top, _, _ := strings.Cut(root, "/")
		stores := map[string]*memory{}
		return registrytest.Store{
			Resumes: true,
			Open: func(t *testing.T, host string) registry.Registry {
				if stores[host] == nil {
					stores[host] = &memory{}
				}
				r, err := New(Options{Servers: []string{s.Addr()}, Root: root, ServicesRoot: services, HostID: host,
					SessionTimeout: 10 * time.Second, Session: stores[host]})
				if err != nil {
					t.Fatal(err)
				}
				return r
			},
			Lose: func(t *testing.T, host string) {
				c := s.Conn(t)
				walk(t, c, "/"+top, func(path string, n content) {
					if owner(n.data) == host {
						if err := c.Delete(path, -1); err != nil {
							t.Errorf("delete %s: %v", path, err)
						}
					}
				})
			},
			Kill: func(t *testing.T, host string) { endSession(t, s, stores[host]) },
			Down: func(t *testing.T) { s.Kill() },
			Up: func(t *testing.T) {
				if err := s.Restart(); err != nil {
					t.Fatal(err)
				}
			},
			Consumers: func(t *testing.T, iface string) (urls []string) {
				names, _, err := s.Conn(t).Children("/" + root + "/" + iface + "/consumers")
				if err != nil {
					t.Fatal(err)
				}
				for _, name := range names {
					u, err := decode(name)
					if err != nil {
						t.Fatal(err)
					}
					urls = append(urls, u.String())
				}
				return urls
			},
			Fingerprint: func(t *testing.T) string {
				var b strings.Builder
				walk(t, s.Conn(t), "/"+top, func(path string, n content) {
					fmt.Fprintf(&b, "%s %d %d\n", path, n.stat.Mzxid, n.stat.Pzxid)
				})
				return b.String()
			},
		}
	})
}

// walk calls f for every node, parents first.
func walk(t *testing.T, c *zk.Conn, path string, f func(path string, n content)) {
	t.Helper()
	data, stat, err := c.Get(path)
	if err != nil {
		t.Fatal(path, err)
	}
	names, _, err := c.Children(path)
	if err != nil {
		t.Fatal(path, err)
	}
	f(path, content{found: true, data: data, stat: *stat})
	for _, name := range names {
		walk(t, c, path+"/"+name, f)
	}
}

// endSession has the server end a session at once, as if it had expired. Its holder
// can be faster: then it is tried again.
func endSession(t *testing.T, s *zktest.Server, store *memory) {
	t.Helper()
	var doc document
	if err := json.Unmarshal(store.b, &doc); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		closeSession(t, s.Addr(), doc)
		text, err := s.FourLetter("dump")
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(text, sessionName(doc.Session)+":") {
			return
		}
	}
	t.Fatal("the session does not end")
}

// closeSession resumes a session and closes it.
func closeSession(t *testing.T, addr string, doc document) {
	t.Helper()
	resumed := make(chan session, 2)
	l := newLink(net.DialTimeout, patience, 1, discard, func(s session) { resumed <- s })
	l.resume(session{doc.Session, doc.Password})
	c, events, err := zk.Connect([]string{addr}, 10*time.Second, zk.WithDialer(l.dial), zk.WithLogger(debugLog{discard}))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	select {
	case <-resumed: // or another, if it has ended meanwhile
	case <-ctx.Done():
		t.Fatal("not resumed")
	}
	for state := zk.StateUnknown; state != zk.StateHasSession; {
		select {
		case e := <-events:
			state = e.State
		case <-ctx.Done():
			t.Fatal("no session")
		}
	}
	c.Close()
}
