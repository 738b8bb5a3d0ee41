package zookeeper

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/go-zookeeper/zk"

	"github.com/meshferry/meshferry/registry"
)

// asksProvider stands for MetadataService of the captured providers: one service
// for each endpoint, as they all had.
func asksProvider(_ context.Context, i registry.Instance) (registry.Metadata, error) {
	m := registry.Metadata{Application: i.Application, Revision: i.Metadata[registry.KeyRevision], Services: map[string]registry.ServiceInfo{}}
	for _, protocol := range []string{"dubbo", "tri"} {
		if strings.Contains(i.Metadata[registry.KeyEndpoints], `"`+protocol+`"`) {
			m.Services[greeter+":"+protocol] = registry.ServiceInfo{Name: greeter, Protocol: protocol, Path: greeter, Params: map[string]string{"asked": "yes"}}
		}
	}
	return m, nil
}

// TestRealPeers loads what Java and dubbo-go left in ZooKeeper and reads it.
func TestRealPeers(t *testing.T) {
	s := server(t)
	files, err := filepath.Glob("testdata/vectors/*.txt")
	if err != nil {
		t.Fatal(err)
	}
	out := make([]string, len(files))
	var wg sync.WaitGroup
	for i, file := range files {
		top := fmt.Sprintf("real%d", i)
		o := Options{Servers: []string{s.Addr()}, HostID: "host-a", Root: top + "/dubbo", ServicesRoot: top + "/services", Metadata: asksProvider}
		if strings.Contains(file, "reggroup") {
			o.Root, o.ServicesRoot = top+"/myroot", top+"/myroot"
		}
		s.Load(t, file, "/"+top)
		set := start(t, o).Listen(greeter)
		wg.Go(func() {
			e := set.Await("complete", func(e registry.Endpoints) bool { return e.Incomplete == "" })
			var b strings.Builder
			fmt.Fprintf(&b, "%s\n", filepath.Base(file))
			for _, p := range e.Providers {
				fmt.Fprintf(&b, "  %-11s %s\n", p.Model, p.URL)
			}
			out[i] = b.String()
		})
	}
	wg.Wait()
	golden(t, "endpoints.golden", strings.Join(out, ""))
}

// buffer is a log that can be read while it is written.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) count(s string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Count(b.b.String(), s)
}

// TestNodesThatCannotBeRead are skipped and logged once, however often they are
// read.
func TestNodesThatCannotBeRead(t *testing.T) {
	s := server(t)
	o := options(s, "host-a")
	log := &buffer{}
	o.Log = slog.New(slog.NewTextHandler(log, nil))
	a := start(t, o)
	d := desired("192.0.2.1", "r1")
	a.Hold(d)
	c := s.Conn(t)
	for path, data := range map[string]string{
		a.paths.providers(greeter) + "/%zz":                                    "",
		a.paths.providers(greeter) + "/no-url":                                 "",
		a.paths.providers(greeter) + "/" + encode("dubbo://h:1/x?interface=x"): "", // of another interface
		a.paths.instances("shop") + "/192.0.2.8:1":                             "not JSON",
		a.paths.instances("shop") + "/192.0.2.9:1":                             `{"address":"","port":1}`,
	} {
		if _, err := c.Create(path, []byte(data), 0, zk.WorldACL(zk.PermAll)); err != nil {
			t.Fatal(err)
		}
	}
	set := a.Listen(greeter)
	set.Await("read", size(2))
	for n := range 3 {
		more := d
		more.Providers = append(more.Providers, desired(fmt.Sprintf("192.0.2.%d", 20+n), "r1").Providers...)
		a.Hold(more)
		set.Await("changed", size(3))
		a.Hold(d)
		set.Await("changed back", size(2))
	}
	a.reader.connected(true) // as after a reconnect: all is read again
	a.Hold(registry.Desired{})
	set.Await("read again", size(0))
	for _, bad := range []string{"%zz", "no-url", "192.0.2.8:1", "192.0.2.9:1"} {
		if n := log.count("path=" + a.paths.providers(greeter) + "/" + bad); n > 1 {
			t.Errorf("%s was logged %d times", bad, n)
		}
	}
	if n := log.count("cannot be read"); n != 4 {
		t.Errorf("%d nodes were logged, want 4:\n%s", n, log.b.String())
	}
}

// TestProviderIsAsked has five instances of one revision whose metadata only they
// have, and the first two calls fail.
func TestProviderIsAsked(t *testing.T) {
	s := server(t)
	o := options(s, "host-a")
	var mu sync.Mutex
	var asked []string
	o.Metadata = func(ctx context.Context, i registry.Instance) (registry.Metadata, error) {
		if _, ok := ctx.Deadline(); !ok {
			t.Error("no deadline")
		}
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, i.ID())
		if len(asked) <= 2 {
			return registry.Metadata{}, errors.New("it is starting")
		}
		return asksProvider(ctx, i)
	}
	a := start(t, o)
	if err := a.mapTo(t.Context(), greeter, "shop"); err != nil {
		t.Fatal(err)
	}
	set := a.Listen(greeter)
	set.Await("empty", size(0))
	c := s.Conn(t)
	if _, err := c.Create("/"+o.ServicesRoot, nil, 0, zk.WorldACL(zk.PermAll)); err != nil {
		t.Fatal(err)
	}
	ops := []any{&zk.CreateRequest{Path: a.paths.instances("shop"), Acl: zk.WorldACL(zk.PermAll)}}
	for n := range 5 {
		i := desired(fmt.Sprintf("192.0.2.%d", n+1), "r1").Applications[0].Instance
		i.Metadata[registry.KeyStorageType] = "local"
		data, err := marshalInstance(i, "host-b")
		if err != nil {
			t.Fatal(err)
		}
		ops = append(ops, &zk.CreateRequest{Path: a.paths.instance(i), Data: data, Acl: zk.WorldACL(zk.PermAll), Flags: zk.FlagEphemeral})
	}
	if _, err := c.Multi(ops...); err != nil {
		t.Fatal(err)
	}
	set.Await("told why it is incomplete", func(e registry.Endpoints) bool {
		return len(e.Providers) == 0 && strings.Contains(e.Incomplete, "it is starting")
	})
	e := set.Await("whole", size(5))
	if e.Incomplete != "" {
		t.Errorf("incomplete: %s", e.Incomplete)
	}
	mu.Lock()
	defer mu.Unlock()
	if slices.Sort(asked); len(asked) != 3 || len(slices.Compact(asked)) != 3 {
		t.Errorf("asked %q, want three instances once each", asked)
	}
}

// TestMetadataComesLate has the instance before its metadata, and then without
// anybody to ask.
func TestMetadataComesLate(t *testing.T) {
	s := server(t)
	o := options(s, "host-a")
	a := start(t, o)
	d := desired("192.0.2.1", "r1")
	d.Providers, d.Consumers = nil, nil
	a.Hold(d)
	c := s.Conn(t)
	var content []byte
	for _, path := range a.paths.metadata("shop", "r1") {
		content, _, _ = c.Get(path)
		if err := c.Delete(path, -1); err != nil {
			t.Fatal(err)
		}
	}
	set := a.Listen(greeter)
	set.Await("told what is missing", func(e registry.Endpoints) bool {
		return len(e.Providers) == 0 && strings.Contains(e.Incomplete, "shop") && strings.Contains(e.Incomplete, "not in ZooKeeper")
	})
	path := a.paths.metadata("shop", "r1")[1]
	if _, err := c.Create(path, []byte("{"), 0, zk.WorldACL(zk.PermAll)); err != nil {
		t.Fatal(err)
	}
	set.Await("told that it is damaged", func(e registry.Endpoints) bool { return strings.Contains(e.Incomplete, path) })
	if _, err := c.Set(path, content, -1); err != nil {
		t.Fatal(err)
	}
	if e := set.Await("read", size(1)); e.Incomplete != "" {
		t.Errorf("incomplete: %s", e.Incomplete)
	}

	i := desired("192.0.2.2", "r9").Applications[0].Instance
	i.Metadata[registry.KeyStorageType] = "local"
	data, err := marshalInstance(i, "host-b")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Create(a.paths.instance(i), data, zk.FlagEphemeral, zk.WorldACL(zk.PermAll)); err != nil {
		t.Fatal(err)
	}
	set.Await("told that only the provider has it", func(e registry.Endpoints) bool {
		return len(e.Providers) == 1 && strings.Contains(e.Incomplete, "only the provider")
	})
}

// TestSubscriptionsShare counts the watches of our session: a hundred further
// subscriptions set none.
func TestSubscriptionsShare(t *testing.T) {
	s := server(t)
	o := options(s, "host-a")
	a := start(t, o)
	a.Hold(desired("192.0.2.1", "r1"))
	a.Listen(greeter).Await("read", size(2))
	watches := func() (n int) {
		text, err := s.FourLetter("wchp")
		if err != nil {
			t.Fatal(err)
		}
		session := a.Status().Session
		return strings.Count(text, session)
	}
	count := func() int {
		a.client.mu.Lock()
		defer a.client.mu.Unlock()
		return len(a.client.armed)
	}
	before, armed := watches(), count()
	for range 100 {
		a.Listen(greeter).Await("read", size(2))
	}
	if after := watches(); before == 0 || after != before || count() != armed {
		t.Errorf("%d watches, were %d; %d armed, were %d", after, before, count(), armed)
	}
	if text, _ := s.FourLetter("wchp"); strings.Contains(text, "/mapping/other") {
		t.Error("watches of an interface that nobody asked for")
	}
}

// TestForgotten has an interface whose last subscription has gone: nothing of it
// stays in the cache, and a later subscription sees the present.
func TestForgotten(t *testing.T) {
	s := server(t)
	a := start(t, options(s, "host-a"))
	d := desired("192.0.2.1", "r1")
	a.Hold(d)
	ctx, cancel := context.WithCancel(t.Context())
	ch, ended := make(chan registry.Endpoints), make(chan error, 1)
	go func() { ended <- a.Subscribe(ctx, greeter, ch) }()
	<-ch
	cancel()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	other := a.Listen("org.example.Other") // the next pass
	other.Await("empty", size(0))
	a.Hold(registry.Desired{Applications: d.Applications})
	a.Listen(greeter).Await("read", size(1))
}
