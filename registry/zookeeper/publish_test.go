package zookeeper

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-zookeeper/zk"
	"golang.org/x/time/rate"

	"github.com/meshferry/meshferry/registry"
	"github.com/meshferry/meshferry/registry/internal/backend"
	"github.com/meshferry/meshferry/registry/zookeeper/zktest"
)

var update = flag.Bool("update", false, "rewrite golden files")

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (-update rewrites it):\n%s", file, got)
	}
}

const greeter = "org.example.GreetService"

func urls(texts ...string) (all []registry.URL) {
	for _, text := range texts {
		u, err := registry.ParseURL(text)
		if err != nil {
			panic(err)
		}
		all = append(all, u)
	}
	return all
}

// desired is what the agent of a host wants: one service in both models.
func desired(host, revision string) registry.Desired {
	return registry.Desired{
		Providers: urls("dubbo://" + host + ":20882/" + greeter + "?application=shop&interface=" + greeter +
			"&methods=sayHello&side=provider&timestamp=1700000000000&version=1.0.0&meshferry.origin=" + host + ":20880&meshferry.caps=1"),
		Applications: []registry.Application{{
			Instance: registry.Instance{Application: "shop", Host: host, Port: 20882, Metadata: map[string]string{
				registry.KeyEndpoints: `[{"port":20882,"protocol":"dubbo"}]`, registry.KeyRevision: revision,
				registry.KeyStorageType: "remote", "meta-v": "1.0.0", registry.KeyTimestamp: "1700000000000",
				registry.MarkOrigin: host + ":20880", registry.MarkCaps: "1",
			}},
			Metadata: registry.Metadata{Application: "shop", Revision: revision, Services: map[string]registry.ServiceInfo{
				greeter + ":1.0.0:dubbo": {Name: greeter, Version: "1.0.0", Protocol: "dubbo", Port: 20882, Path: greeter,
					Params: map[string]string{"side": "provider", "methods": "sayHello", "x": "a<b>&c"}},
			}},
		}},
		Consumers: urls("consumer://" + host + "/" + greeter + "?application=cart&category=consumers&check=false&interface=" + greeter + "&side=consumer"),
	}
}

// tree is what is below a test's roots, under the usual names.
func tree(t *testing.T, s *zktest.Server, o Options) string {
	t.Helper()
	top := "/" + strings.Split(o.Root, "/")[0]
	return strings.ReplaceAll(s.Tree(t, "/"+o.Root, "/"+o.ServicesRoot), top+"/", "/")
}

// owned are the stats of all nodes below a test's roots that an agent owns.
func owned(t *testing.T, s *zktest.Server, o Options) map[string]zk.Stat {
	t.Helper()
	all := map[string]zk.Stat{}
	walk(t, s.Conn(t), "/"+strings.Split(o.Root, "/")[0], func(path string, n content) {
		if n.stat.EphemeralOwner != 0 {
			all[path] = n.stat
		}
	})
	return all
}

func TestTree(t *testing.T) {
	s := server(t)
	o := options(s, "host-a")
	a := start(t, o)
	d := desired("192.0.2.1", "r1")
	a.Hold(d)
	golden(t, "tree-published.golden", tree(t, s, o))
	next := desired("192.0.2.1", "r2")
	next.Consumers = nil
	a.Hold(next)
	golden(t, "tree-updated.golden", tree(t, s, o))
	a.Hold(registry.Desired{})
	golden(t, "tree-withdrawn.golden", tree(t, s, o))
}

// TestResume restarts the agent: not one node may change, and its watchers hear
// nothing.
func TestResume(t *testing.T) {
	s := server(t)
	o := options(s, "host-a")
	o.Session = &memory{}
	a := start(t, o)
	d := desired("192.0.2.1", "r1")
	a.Hold(d)
	before, session := owned(t, s, o), a.Status().Session
	var events []<-chan zk.Event
	c := s.Conn(t)
	for path := range before {
		_, _, ch, err := c.GetW(path)
		_, _, ch2, err2 := c.ChildrenW(parentOf(path))
		if err != nil || err2 != nil {
			t.Fatal(err, err2)
		}
		events = append(events, ch, ch2)
	}
	a.Stop()

	b := start(t, o)
	<-b.Lost() // it must be told to compare
	if got := b.Status().Session; got != session {
		t.Fatalf("session %s, want %s", got, session)
	}
	b.Hold(d)
	after := owned(t, s, o)
	for path, was := range before {
		if after[path] != was {
			t.Errorf("%s: %+v, was %+v", path, after[path], was)
		}
	}
	for _, ch := range events {
		select {
		case e := <-ch:
			t.Errorf("a watcher heard %+v", e)
		default:
		}
	}

	b.Stop()
	e := start(t, o) // it never wrote them, and must withdraw them
	e.Hold(registry.Desired{})
	if left := owned(t, s, o); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

// TestLeftoverTakenOver starts an agent that cannot resume while its old session
// still lives: its nodes change hands, and no watcher sees a list without them.
func TestLeftoverTakenOver(t *testing.T) {
	s := server(t)
	o := options(s, "host-a")
	store := &memory{}
	o.Session = store
	a := start(t, o)
	d := desired("192.0.2.1", "r1")
	a.Hold(d)
	before := owned(t, s, o)
	a.Stop()

	var doc document
	if err := json.Unmarshal(store.b, &doc); err != nil {
		t.Fatal(err)
	}
	doc.Password = slices.Repeat([]byte{7}, passwordBytes)
	store.b, _ = json.Marshal(doc)

	dirs := map[string]zk.Stat{}
	c := s.Conn(t)
	ctx, cancel := context.WithCancel(t.Context())
	var watchers sync.WaitGroup
	for path := range before {
		dir := parentOf(path)
		_, stat, err := c.Children(dir)
		if err != nil {
			t.Fatal(err)
		}
		dirs[dir] = *stat
		watchers.Go(func() {
			for {
				names, _, ch, err := c.ChildrenW(dir)
				if err != nil || len(names) == 0 {
					t.Errorf("a watcher of %s saw %q, %v", dir, names, err)
				}
				select {
				case <-ch:
				case <-ctx.Done():
					return
				}
			}
		})
	}
	b := start(t, o)
	b.Hold(d)
	cancel()
	watchers.Wait()
	for path, was := range before {
		now := owned(t, s, o)[path]
		_, dir, err := c.Children(parentOf(path))
		if err != nil {
			t.Fatal(err)
		}
		if now.EphemeralOwner == was.EphemeralOwner || sessionName(now.EphemeralOwner) != b.Status().Session {
			t.Errorf("%s: owner %x, was %x", path, now.EphemeralOwner, was.EphemeralOwner)
		}
		// Delete and create are two changes of the list in one transaction.
		if dir.Cversion != dirs[parentOf(path)].Cversion+2 || dir.Pzxid != now.Czxid {
			t.Errorf("%s was not replaced by one transaction", path)
		}
	}
	endSession(t, s, &memory{b: must(json.Marshal(document{Session: b.session, Password: b.journal.doc.Password}))})
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

// TestUnrecordedSessionOfThisHost finds nodes with our mark of a session that we
// never recorded: a clone of this host, or a lost state file. It waits.
func TestUnrecordedSessionOfThisHost(t *testing.T) {
	s := server(t)
	o := options(s, "host-a")
	o.Session = &memory{}
	clone := start(t, o)
	d := desired("192.0.2.1", "r1")
	clone.Hold(d)
	before := owned(t, s, o)

	o.Session = &memory{}
	a := start(t, o)
	for range 2 {
		for key, item := range a.Try(d) {
			if item.State != registry.Pending || !strings.Contains(item.Err, clone.Status().Session) {
				t.Errorf("%s is %+v, want pending, with the session", key, item)
			}
		}
	}
	if after := owned(t, s, o); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("nodes changed:\n%v\n%v", before, after)
	}
	drain(a.Lost())
	if err := clone.End(t.Context()); err != nil {
		t.Fatal(err)
	}
	heard(t, a.Lost())
	a.Hold(d)
}

func drain(c <-chan struct{}) {
	for len(c) > 0 {
		<-c
	}
}

func heard(t *testing.T, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(patience):
		t.Fatal("nothing was told by Lost")
	}
}

func TestConflicts(t *testing.T) {
	s := server(t)
	d := registry.Desired{Providers: desired("192.0.2.1", "r1").Providers}
	key := d.Providers[0].String()
	for _, c := range []struct {
		name, data, owner string
		flags             int32
	}{
		{"an agent", "meshferry:host-b", "host-b", zk.FlagEphemeral},
		{"a Java provider", "192.0.2.1", "session 0x", zk.FlagEphemeral},
		{"a static provider", "", "a persistent node", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := options(s, "host-a")
			a := start(t, o)
			a.Hold(d)
			a.Hold(registry.Desired{}) // the parents are there now
			path := a.paths.leaf(greeter, "providers", key)
			conn := s.Conn(t)
			if _, err := conn.Create(path, []byte(c.data), c.flags, zk.WorldACL(zk.PermAll)); err != nil {
				t.Fatal(err)
			}
			if got := a.Try(d)[key]; got.State != registry.Conflict || !strings.HasPrefix(got.Owner, c.owner) {
				t.Errorf("%+v, want a conflict with %s", got, c.owner)
			}
			a.Hold(registry.Desired{})
			if there, _, err := conn.Exists(path); !there {
				t.Fatal("the other's node is gone", err)
			}
			if got := a.Try(d)[key].State; got != registry.Conflict {
				t.Errorf("then %s", got)
			}
			drain(a.Lost())
			if err := conn.Delete(path, -1); err != nil {
				t.Fatal(err)
			}
			heard(t, a.Lost())
			a.Hold(d)
		})
	}
}

// TestHandsOff deletes and changes by hand what was written: all comes back, and
// the loss of what lives with the session is told.
func TestHandsOff(t *testing.T) {
	s := server(t)
	o := options(s, "host-a")
	a := start(t, o)
	d := desired("192.0.2.1", "r1")
	a.Hold(d)
	want := tree(t, s, o)
	c := s.Conn(t)
	paths := []string{a.paths.mapping(greeter), a.paths.metadata("shop", "r1")[0], a.paths.metadata("shop", "r1")[1]}
	for path := range owned(t, s, o) {
		paths = append(paths, path)
	}
	for _, change := range []struct {
		name string
		do   func(path string) error
	}{
		{"deleted", func(path string) error { return c.Delete(path, -1) }},
		{"emptied", func(path string) error { _, err := c.Set(path, nil, -1); return err }},
	} {
		for _, path := range paths {
			drain(a.Lost())
			if err := change.do(path); err != nil {
				t.Fatal(err)
			}
			if !slices.Contains(paths[:3], path) {
				heard(t, a.Lost())
			}
			a.Hold(d)
			if got := tree(t, s, o); got != want {
				t.Errorf("%s was %s; then:\n%s", path, change.name, got)
			}
		}
	}
	drain(a.Lost())
	a.Hold(desired("192.0.2.1", "r2"))
	a.Hold(registry.Desired{})
	if len(a.Lost()) > 0 {
		t.Error("our own writes were told as a loss")
	}
}

// TestMappingRace has many hosts add their applications to one list.
func TestMappingRace(t *testing.T) {
	s := server(t)
	o := options(s, "")
	const writers, ifaces = 8, 3
	var wg sync.WaitGroup
	for i := range writers {
		o := o
		o.HostID = fmt.Sprintf("host-%d", i)
		a := start(t, o)
		wg.Go(func() {
			for n := range ifaces {
				if err := a.mapTo(t.Context(), fmt.Sprintf("org.example.S%d", n), fmt.Sprintf("app%d", i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for n := range ifaces {
		data, _, err := s.Conn(t).Get(fmt.Sprintf("/%s/mapping/org.example.S%d", o.Root, n))
		apps := backend.Mapped(string(data))
		slices.Sort(apps)
		if err != nil || fmt.Sprint(apps) != "[app0 app1 app2 app3 app4 app5 app6 app7]" {
			t.Errorf("%q, %v", data, err)
		}
	}
}

// TestCredentials has an ensemble shared with somebody who has none.
func TestCredentials(t *testing.T) {
	s := server(t)
	o := options(s, "host-a")
	o.Session = &memory{}
	o.User, o.Password = "agent", "se:cret"
	a := start(t, o)
	d := desired("192.0.2.1", "r1")
	a.Hold(d)
	c := s.Conn(t)
	path := a.paths.leaf(greeter, "providers", d.Providers[0].String())
	friend := s.Conn(t)
	if err := friend.AddAuth("digest", []byte("agent:se:cret")); err != nil {
		t.Fatal(err)
	}
	acl, _, err := friend.GetACL(path)
	if want := zk.DigestACL(zk.PermAll, "agent", "se:cret"); err != nil || fmt.Sprint(acl) != fmt.Sprint(want) {
		t.Errorf("ACL %v, %v, want %v", acl, err, want)
	}
	if err := c.Delete(path, -1); err == nil { // needs the parent's permission
		t.Error("anybody can delete the node")
	}

	stranger := o
	stranger.User, stranger.Session, stranger.HostID = "", nil, "host-b"
	b := start(t, stranger)
	report := b.Try(desired("192.0.2.2", "r1"))
	for key, item := range report {
		if item.State != registry.Pending || !strings.Contains(item.Err, "ZooKeeper denies it (its ACL; user and password?)") {
			t.Errorf("%s is %+v without credentials", key, item)
		}
	}
	b.Listen(greeter).Await("told why", func(e registry.Endpoints) bool {
		return strings.Contains(e.Incomplete, "ZooKeeper denies it")
	})

	a.Stop() // a resumed session must show its credentials again
	again := start(t, o)
	again.Hold(d)
	again.Hold(desired("192.0.2.1", "r2"))
	again.Listen(greeter).Await("read", size(2))
}

// TestRevisionsCollected ages two hosts that share a revision.
func TestRevisionsCollected(t *testing.T) {
	s := server(t)
	o := options(s, "host-a")
	now := time.Now()
	later := func(a running, by time.Duration) { a.now = func() time.Time { return now.Add(by) } }
	a := start(t, o)
	o.HostID = "host-b"
	b := start(t, o)
	a.Hold(desired("192.0.2.1", "r1"))
	b.Hold(desired("192.0.2.2", "r1"))
	a.Hold(desired("192.0.2.1", "r2"))

	there := func(revision string) bool {
		t.Helper()
		for _, path := range a.paths.metadata("shop", revision) {
			if found, _, err := s.Conn(t).Exists(path); err != nil || !found {
				return false
			}
		}
		return true
	}
	later(a, 25*time.Hour)
	a.Hold(desired("192.0.2.1", "r2"))
	if !there("r1") {
		t.Fatal("a revision was deleted that another host's instance names")
	}
	b.Hold(registry.Desired{})
	a.Hold(desired("192.0.2.1", "r2"))
	if there("r1") || !there("r2") {
		t.Errorf("r1 %v, r2 %v: want only what is in use", there("r1"), there("r2"))
	}
	later(b, 23*time.Hour)
	b.Hold(desired("192.0.2.2", "r3"))
	b.Hold(registry.Desired{})
	b.Hold(registry.Desired{})
	if !there("r3") {
		t.Error("a revision was deleted before its time")
	}
}

// TestWriteBudget has one leaf below new roots: four parents and itself.
func TestWriteBudget(t *testing.T) {
	for budget, want := range map[int]registry.ItemState{4: registry.Pending, 5: registry.Held} {
		o := options(server(t), "host-a")
		o.Writes = rate.NewLimiter(0, budget)
		a := start(t, o)
		d := registry.Desired{Providers: desired("192.0.2.1", "r1").Providers}
		key := d.Providers[0].String()
		for range 2 { // what is there costs nothing
			got := a.Try(d)[key]
			if got.State != want || want == registry.Pending && !strings.Contains(got.Err, "budget") {
				t.Errorf("with %d writes: %+v", budget, got)
			}
		}
	}
}

func TestEnd(t *testing.T) {
	s := server(t)
	o := options(s, "host-a")
	o.Session = &memory{}
	a := start(t, o)
	a.Hold(desired("192.0.2.1", "r1"))
	first := a.Status().Session
	if err := a.End(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := owned(t, s, o); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	a.Stop() // Run has returned by itself
	if got := a.Status().State; got != registry.Closed {
		t.Errorf("state %s", got)
	}
	if err := a.End(t.Context()); err == nil {
		t.Error("a second End succeeded")
	}
	if _, err := a.Apply(t.Context(), registry.Desired{}); !errors.Is(err, registry.ErrAway) {
		t.Errorf("Apply after End: %v", err)
	}
	if again := start(t, o).Status().Session; again == first {
		t.Error("an ended session was resumed")
	}
}

// TestStoreFails works on without a store that can be trusted.
func TestStoreFails(t *testing.T) {
	for name, store := range map[string]*memory{
		"damaged":    {b: []byte("{")},
		"unreadable": {err: errors.New("disk full")},
		"nonsense":   {b: []byte(`{"session":5,"password":"AAAA","nodes":["/x","relative",""]}`)},
		"unknown":    {b: []byte(`{"session":5,"password":"AAAAAAAAAAAAAAAAAAAAAA=="}`)},
	} {
		t.Run(name, func(t *testing.T) {
			o := options(server(t), "host-a")
			o.Session = store
			a := start(t, o)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			report, err := a.Apply(ctx, desired("192.0.2.1", "r1"))
			for key, item := range report {
				if item.State != registry.Held {
					t.Errorf("%s is %+v, %v", key, item, err)
				}
			}
		})
	}
}

func TestNewRefuses(t *testing.T) {
	for name, o := range map[string]Options{
		"no servers": {HostID: "h"},
		"no host":    {Servers: []string{"127.0.0.1:1"}},
		"bad root":   {Servers: []string{"127.0.0.1:1"}, HostID: "h", Root: "a//b"},
	} {
		if _, err := New(o); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestApplicationsThatCannotBe are refused one by one, with the reason.
func TestApplicationsThatCannotBe(t *testing.T) {
	a := start(t, options(server(t), "host-a"))
	for name, spoil := range map[string]func(*registry.Application){
		"list in name": func(a *registry.Application) { a.Instance.Application, a.Metadata.Application = "x,y", "x,y" },
		"path in name": func(a *registry.Application) { a.Instance.Application, a.Metadata.Application = "x/y", "x/y" },
		"no revision": func(a *registry.Application) {
			a.Metadata.Revision = ""
			a.Instance.Metadata[registry.KeyRevision] = ""
		},
		"other revision": func(a *registry.Application) { a.Metadata.Revision = "r9" },
		"other name":     func(a *registry.Application) { a.Metadata.Application = "other" },
		"path as interface": func(a *registry.Application) {
			a.Metadata.Services["x"] = registry.ServiceInfo{Name: "../x", Protocol: "dubbo"}
		},
	} {
		d := desired("192.0.2.1", "r1")
		spoil(&d.Applications[0])
		report := a.Try(d)
		if got := report[d.Applications[0].ID()]; got.State != registry.Pending || got.Err == "" {
			t.Errorf("%s: %+v", name, got)
		}
		if got := report[d.Providers[0].String()].State; got != registry.Held {
			t.Errorf("%s: beside it %s", name, got)
		}
	}
}
