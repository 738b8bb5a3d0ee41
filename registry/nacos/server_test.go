package nacos

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/meshferry/meshferry/registry"
	"github.com/meshferry/meshferry/registry/internal/backend"
	"github.com/meshferry/meshferry/registry/nacos/nacostest"
	"github.com/meshferry/meshferry/registry/registrytest"
)

const (
	iface  = "org.example.Greeter"
	first  = "dubbo://192.0.2.1:20882/org.example.Greeter?application=shop&interface=org.example.Greeter&side=provider&meshferry.origin=192.0.2.1:20880&meshferry.caps=1"
	second = "dubbo://192.0.2.2:20882/org.example.Greeter?application=shop&interface=org.example.Greeter&side=provider&meshferry.origin=192.0.2.2:20880&meshferry.caps=1"
)

func want(t *testing.T, texts ...string) registry.Desired {
	var d registry.Desired
	for _, text := range texts {
		d.Providers = append(d.Providers, parse(t, text))
	}
	return d
}

func listed_(texts ...string) (lines []string) {
	for _, text := range texts {
		lines = append(lines, "interface "+text)
	}
	return lines
}

// TestTakeOver has the next process of a host register before the last one goes:
// nobody sees it.
func TestTakeOver(t *testing.T) {
	s := server(t)
	id := namespace(t, s)
	reader := start(t, options(s, id, "reader"))
	l := reader.Listen(iface)
	old := start(t, options(s, id, "host"))
	old.HoldSoon(want(t, first))
	l.Until(listed_(first))
	next := start(t, options(s, id, "host"))
	next.HoldSoon(want(t, first))
	old.Stop()
	next.HoldSoon(want(t, first, second))
	l.Until(listed_(first, second), registrytest.NotEmpty(t))
	if got := instances(t, s, id, "providers:org.example.Greeter::"); len(got) != 2 {
		t.Errorf("the server lists %v", got)
	}
}

// TestLastProviderLeaves: the set becomes empty, and not only by a second look.
func TestLastProviderLeaves(t *testing.T) {
	s := server(t)
	id := namespace(t, s)
	reader, a := start(t, options(s, id, "reader")), start(t, options(s, id, "host"))
	l := reader.Listen(iface)
	a.HoldSoon(want(t, first))
	l.Until(listed_(first))
	a.HoldSoon(registry.Desired{})
	l.Until(nil)
	a.HoldSoon(want(t, first))
	l.Until(listed_(first))
	a.Stop() // without a word
	l.Until(nil)
}

// TestOneAddress has several providers of one service behind one agent: two
// processes of one application, one of another, another protocol. The service lists
// one instance of a protocol, with the weight of those that are there.
func TestOneAddress(t *testing.T) {
	s := server(t)
	id := namespace(t, s)
	process := func(port string) string {
		return strings.Replace(first, "origin=192.0.2.1:20880", "origin=192.0.2.1:"+port, 1)
	}
	store, tri := strings.Replace(process("20990"), "application=shop", "application=store", 1), strings.Replace(first, "dubbo:", "tri:", 1)
	of := func(weight int, origins ...string) string {
		return fmt.Sprintf("dubbo://192.0.2.1:20882/%[1]s?application=shop&interface=%[1]s&side=provider&weight=%d&meshferry.origins=192.0.2.1:%s&meshferry.origin=192.0.2.1:%s&meshferry.caps=1",
			iface, weight, strings.Join(origins, ",192.0.2.1:"), origins[0])
	}
	reader, a := start(t, options(s, id, "reader")), start(t, options(s, id, "host"))
	l := reader.Listen(iface)
	for i, step := range []struct{ offered, listed []string }{
		{[]string{first}, []string{first}},
		{[]string{first, process("20980"), store, tri}, []string{of(300, "20880", "20980", "20990"), tri}},
		{[]string{first, process("20980"), tri}, []string{of(200, "20880", "20980"), tri}},
		{[]string{process("20980") + "&weight=7", process("20970") + "&weight=0"}, []string{of(7, "20970", "20980")}},
		{[]string{store}, []string{store}},
	} {
		a.HoldSoon(want(t, step.offered...)) // each of them is reported held
		check := registrytest.NotEmpty(t)
		if i == 0 { // nobody provides anything yet
			check = func([]string) {}
		}
		l.Until(listed_(step.listed...), check)
		if got := instances(t, s, id, "providers:"+iface+"::"); len(got) != len(step.listed) {
			t.Errorf("the server lists %v, want %v", got, step.listed)
		}
	}
	// What another agent lists already is a conflict for all that it stands for.
	b := start(t, options(s, id, "other"))
	a.HoldSoon(want(t, first, process("20980")))
	report, err := b.Apply(t.Context(), want(t, first, process("20980"), second))
	if err != nil || report[first].State != registry.Conflict || report[process("20980")].State != registry.Conflict || report[second].State != registry.Held {
		t.Errorf("the other agent: %+v, %v", report, err)
	}
}

func TestNamespacesAndGroupsApart(t *testing.T) {
	s := server(t)
	one, two := options(s, namespace(t, s), "one"), options(s, namespace(t, s), "two")
	three := one
	three.HostID, three.Group = "three", "other"
	for _, o := range []Options{one, two, three} {
		r := start(t, o)
		text := strings.Replace(first, "application=shop", "application="+o.HostID, 1)
		r.HoldSoon(want(t, text))
		r.Listen(iface).Until(listed_(text), func(got []string) {
			if len(got) > 1 {
				t.Errorf("it sees another's: %q", got)
			}
		})
	}
	if got, err := s.Services(t.Context(), one.Namespace, "other"); err != nil || len(got) != 1 {
		t.Errorf("services of the other group: %v, %v", got, err)
	}
}

// TestMissingNamespace: the server takes everything, and we say what is wrong.
func TestMissingNamespace(t *testing.T) {
	s := server(t)
	r := start(t, options(s, "nowhere", "host"))
	r.HoldSoon(want(t, first))
	if got := r.Status(); got.State != registry.Connected || !strings.Contains(got.Err, `namespace "nowhere" does not exist`) {
		t.Errorf("status %+v", got)
	}
	id := namespace(t, s)
	if err := s.CreateNamespace(t.Context(), id+"-id", id+"-name"); err != nil {
		t.Fatal(err)
	}
	r = start(t, options(s, id+"-name", "host"))
	if got := r.Status(); !strings.HasSuffix(got.Err, `; that is the name of one, its id is "`+id+`-id"`) {
		t.Errorf("status with a name for an id %+v", got)
	}
	r = start(t, options(s, id, "host"))
	if got := r.Status(); got.Err != "" {
		t.Errorf("status in a namespace that exists: %+v", got)
	}
}

func TestWrongPassword(t *testing.T) {
	s := server(t)
	for password, want := range map[string]string{
		"not it": `does not take the password of user "nacos"`,
		"":       s.Addr() + ` wants a login, and no user is set: Nacos denies ServiceListRequest`,
	} {
		o := options(s, "", "host")
		o.Password = password
		if password == "" {
			o.User = ""
		}
		r := launch(t, o)
		r.Eventually("said to be refused", func() bool { return strings.Contains(r.Status().Err, want) })
		if got := r.Status(); got.State == registry.Connected || strings.Contains(got.Err, "not it") {
			t.Errorf("status %+v", got)
		}
		if _, err := r.Apply(t.Context(), registry.Desired{}); !errors.Is(err, registry.ErrAway) {
			t.Errorf("Apply: %v, want ErrAway", err)
		}
	}
}

// TestMappings has several agents append to one mapping at once.
func TestMappings(t *testing.T) {
	s := server(t)
	id := namespace(t, s)
	var all []running
	for n := range 4 {
		all = append(all, start(t, options(s, id, fmt.Sprint("host", n))))
	}
	done := make(chan struct{})
	for n, r := range all {
		go func() {
			defer func() { done <- struct{}{} }()
			app := application1(fmt.Sprint("app", n), fmt.Sprint("192.0.2.", n+1))
			_, _ = r.Apply(context.Background(), app) // what is lost in the race comes later
		}()
	}
	for range all {
		<-done
	}
	all[0].Eventually("mapped", func() bool {
		for n, r := range all {
			if _, err := r.Apply(t.Context(), application1(fmt.Sprint("app", n), fmt.Sprint("192.0.2.", n+1))); err != nil {
				t.Log(err) // busy
				return false
			}
		}
		content, _ := s.Config(t.Context(), id, "mapping", iface)
		return len(backend.Mapped(content)) == len(all)
	})
	reader := start(t, options(s, id, "reader"))
	var lines []string
	for n := range all {
		lines = append(lines, fmt.Sprintf("application dubbo://192.0.2.%d:20882/%s?application=app%d&interface=%[2]s&k=v", n+1, iface, n))
	}
	reader.Listen(iface).Until(lines)
}

func application1(name, host string) registry.Desired {
	m := registry.Metadata{Application: name, Revision: "r1", Services: map[string]registry.ServiceInfo{
		iface + ":dubbo": {Name: iface, Protocol: "dubbo", Port: 20882, Path: iface, Params: map[string]string{"k": "v"}}}}
	return registry.Desired{Applications: []registry.Application{{Metadata: m, Instance: registry.Instance{Application: name, Host: host, Port: 20882,
		Metadata: map[string]string{registry.KeyRevision: "r1", registry.KeyStorageType: "remote"}}}}}
}

// memory is a Store.
type memory struct{ b []byte }

func (m *memory) Load() ([]byte, error) { return m.b, nil }
func (m *memory) Save(b []byte) error   { m.b = b; return nil }

// TestOldRevisions: metadata that this agent wrote goes a day after the last instance
// that named it, and not before; what another host names stays.
func TestOldRevisions(t *testing.T) {
	s := server(t)
	id := namespace(t, s)
	revision := func(name, host string) registry.Desired {
		d := application1("shop", host)
		a := &d.Applications[0]
		a.Metadata.Revision, a.Instance.Metadata[registry.KeyRevision] = name, name
		return d
	}
	var kept memory
	later := func(r running, by time.Duration) { r.now = func() time.Time { return time.Now().Add(by) } }
	has := func(name string) bool {
		_, err := s.Config(t.Context(), id, name, "shop")
		if err != nil && !errors.Is(err, nacostest.ErrNoConfig) {
			t.Fatal(err)
		}
		return err == nil
	}
	o := options(s, id, "host")
	o.Store = &kept
	a, b := start(t, o), start(t, options(s, id, "other"))
	a.HoldSoon(revision("r1", "192.0.2.1"))
	a.HoldSoon(revision("r2", "192.0.2.1")) // r1 is old now
	b.HoldSoon(revision("r2", "192.0.2.2"))
	a.HoldSoon(revision("r3", "192.0.2.1")) // r2 is old here, but the other host has it
	a.Stop()
	a = start(t, o) // and a restart forgets nothing
	later(a, backend.KeepRevisions-time.Minute)
	a.HoldSoon(revision("r3", "192.0.2.1"))
	for _, name := range []string{"r1", "r2", "r3"} {
		if !has(name) {
			t.Errorf("metadata of %s went within a day", name)
		}
	}
	later(a, backend.KeepRevisions+time.Minute)
	a.HoldSoon(revision("r3", "192.0.2.1"))
	a.Eventually("collected", func() bool { return !has("r1") })
	for _, name := range []string{"r2", "r3"} {
		if !has(name) {
			t.Errorf("metadata of %s went although an instance names it", name)
		}
	}
	b.HoldSoon(registry.Desired{})
	a.HoldSoon(revision("r3", "192.0.2.1"))
	a.Eventually("collected", func() bool { return !has("r2") })
	if !has("r3") {
		t.Error("metadata that is in use went")
	}
	if got, want := string(kept.b), `{"shop/r3":"0001-01-01T00:00:00Z"}`; got != want {
		t.Errorf("it keeps %s, want %s", got, want)
	}
}

// TestServerLife is one server of its own, without logins at first, that is
// frozen, restarted with what it held, and restarted empty with logins and another
// secret. Subscribers keep what they have all the time.
func TestServerLife(t *testing.T) {
	s := ownServer(t)
	o := func(host string) Options { return options(s, "", host) }
	reader, a := start(t, o("reader")), start(t, o("host"))
	l := reader.Listen(iface)
	d := want(t, first)
	d.Applications = application1("shop", "192.0.2.1").Applications
	lines := append([]string{"application dubbo://192.0.2.1:20882/" + iface + "?application=shop&interface=" + iface + "&k=v"}, listed_(first)...)
	a.HoldSoon(d)
	l.Until(lines)

	s.Pause()
	for _, r := range []running{reader, a} {
		r.Eventually("away", func() bool { return r.Status().State != registry.Connected })
	}
	s.Continue()
	for _, r := range []running{reader, a} {
		r.Eventually("connected", func() bool { return r.Status().State == registry.Connected })
	}
	a.HoldSoon(d)

	s.Kill()
	if err := s.Wipe(); err != nil {
		t.Fatal(err)
	}
	s.SetSecret("the second secret of a test server")
	s.SetAuth(true)
	if err := s.Restart(); err != nil {
		t.Fatal(err)
	}
	for _, r := range []running{reader, a} {
		r.Eventually("connected", func() bool { return r.Status().State == registry.Connected })
	}
	a.HoldSoon(d)
	d.Providers = append(d.Providers, parse(t, second))
	a.HoldSoon(d)
	l.Until(append(lines, "interface "+second), registrytest.NotEmpty(t))
	if got, err := s.Config(t.Context(), nacostest.Public, "r1", "shop"); err != nil || !strings.Contains(got, `"revision":"r1"`) {
		t.Errorf("metadata after the wipe: %q, %v", got, err)
	}
}
