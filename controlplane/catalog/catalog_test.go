package catalog

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/meshferry/meshferry/registry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func provider(t testing.TB, model registry.Model, text string) registry.Provider {
	t.Helper()
	u, err := registry.ParseURL(text)
	if err != nil {
		t.Fatal(err)
	}
	return registry.Provider{URL: u, Model: model}
}

func TestServices(t *testing.T) {
	const i, a = registry.ModelInterface, registry.ModelApplication
	for name, tt := range map[string]struct {
		in   []registry.Provider
		want string
	}{
		"one":                 {[]registry.Provider{provider(t, i, "dubbo://10.0.0.1:20880/com.a.Foo?interface=com.a.Foo")}, "com.a.foo 10.0.0.1:20880*100"},
		"group and version":   {[]registry.Provider{provider(t, i, "dubbo://10.0.0.1:20880/com.a.Foo?interface=com.a.Foo&group=g&version=1.0")}, "com.a.foo-g-1-0 10.0.0.1:20880*100"},
		"both models":         {[]registry.Provider{provider(t, i, "dubbo://10.0.0.1:20880/com.a.Foo?interface=com.a.Foo&weight=50"), provider(t, a, "dubbo://10.0.0.1:20880/com.a.Foo?interface=com.a.Foo&weight=70")}, "com.a.foo 10.0.0.1:20880*50"},
		"processes":           {[]registry.Provider{provider(t, i, "dubbo://10.0.0.1:20882/com.a.Foo?meshferry.origin=10.0.0.1:1&meshferry.caps=1&weight=30"), provider(t, i, "dubbo://10.0.0.1:20882/com.a.Foo?meshferry.origin=10.0.0.1:2&meshferry.caps=1&weight=40"), provider(t, a, "dubbo://10.0.0.1:20882/com.a.Foo?meshferry.origin=10.0.0.1:1&meshferry.caps=1&weight=70")}, "com.a.foo 10.0.0.1:20882*70"},
		"published both ways": {[]registry.Provider{provider(t, i, "dubbo://10.0.0.1:20880/com.a.Foo?"), provider(t, i, "dubbo://10.0.0.1:20882/com.a.Foo?meshferry.origin=10.0.0.1:20880&meshferry.caps=1")}, "com.a.foo 10.0.0.1:20882*100"},
		"not in use":          {[]registry.Provider{provider(t, i, "dubbo://10.0.0.1:1/com.a.Foo?enabled=false"), provider(t, i, "dubbo://10.0.0.1:2/com.a.Foo?disabled=true"), provider(t, i, "tri://10.0.0.1:3/com.a.Foo")}, ""},
		"no calls":            {[]registry.Provider{provider(t, i, "dubbo://10.0.0.1:1/com.a.Foo?weight=0"), provider(t, i, "dubbo://10.0.0.2:1/com.a.Foo?weight=0&release=dubbo-golang-3.3.2")}, "com.a.foo 10.0.0.2:1*100"},
	} {
		t.Run(name, func(t *testing.T) {
			both := []set{{registry: "a", providers: tt.in}, {registry: "b", providers: tt.in}} // two registries count once
			for _, sets := range [][]set{both[:1], both} {
				var got []string
				for _, s := range services(sets) {
					line := s.Host
					for _, e := range s.Endpoints {
						line += fmt.Sprintf(" %s*%d", e.ID(), e.Weight)
					}
					got = append(got, line)
				}
				if strings.Join(got, "\n") != tt.want {
					t.Errorf("got %q, want %q", got, tt.want)
				}
			}
		})
	}
}

func TestLabels(t *testing.T) {
	e := Endpoint{URL: provider(t, "", "dubbo://h:1/com.a.Foo?version=1.0&dubbo.tag=gray&methods=a,b&side=provider&timestamp=1&pid=2&serialization=hessian2,fastjson2&owner=Jane Doe&meshferry.caps=1&region=cn&zone=hz&aeraki_meta_app_version=v2&bind.ip=1&empty=").URL}
	want := map[string]string{"version": "v2", "dubbo.tag": "gray", "side": "provider", "serialization": "hessian2-fastjson2", "region": "cn", "zone": "hz", "aeraki_meta_app_version": "v2"}
	if got := e.Labels(); !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if e.Locality() != (Locality{"cn", "hz", ""}) || !e.Has(map[string]string{"version": "v2"}) || e.Has(map[string]string{"version": "1.0"}) {
		t.Errorf("%v %v", e.Locality(), e.Labels())
	}
	e.URL = e.URL.With("aeraki_meta_locality", "eu/ams/b")
	if e.Locality() != (Locality{"eu", "ams", "b"}) {
		t.Error(e.Locality())
	}
}

// fake is a registry that says what the test says.
type fake struct {
	names chan []string
	sets  map[string]chan registry.Endpoints

	mu     sync.Mutex
	status registry.Status // guarded by mu
}

func (f *fake) state(s string) {
	f.mu.Lock()
	f.status.State = s
	f.mu.Unlock()
}

// record is what was delivered.
type record struct {
	mu   sync.Mutex
	list []string
}

func (r *record) add(s string) {
	r.mu.Lock()
	r.list = append(r.list, s)
	r.mu.Unlock()
}

func (r *record) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.list)
}

func newFake(ifaces ...string) *fake {
	f := &fake{names: make(chan []string), sets: map[string]chan registry.Endpoints{}, status: registry.Status{State: registry.Connected}}
	for _, i := range ifaces {
		f.sets[i] = make(chan registry.Endpoints)
	}
	return f
}

func (f *fake) List(ctx context.Context, ch chan<- []string) error {
	return relay(ctx, f.names, ch)
}

func (f *fake) Subscribe(ctx context.Context, iface string, ch chan<- registry.Endpoints) error {
	return relay(ctx, f.sets[iface], ch)
}

func (f *fake) Status() registry.Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.status
}

func relay[T any](ctx context.Context, from <-chan T, to chan<- T) error {
	for {
		select {
		case v := <-from:
			select {
			case to <- v:
			case <-ctx.Done():
				return nil
			}
		case <-ctx.Done():
			return nil
		}
	}
}

const (
	foo  = "com.a.Foo"
	text = "dubbo://10.0.0.1:20880/com.a.Foo?interface=com.a.Foo"
)

// world runs a catalog over fakes; seen is every delivery.
func world(t *testing.T, registries ...*fake) (seen *record, end func(), c *Catalog) {
	t.Helper()
	var named []Named
	for i, f := range registries {
		named = append(named, Named{fmt.Sprintf("r%d", i), f})
	}
	c, err := New(Options{Registries: named})
	if err != nil {
		t.Fatal(err)
	}
	seen = &record{}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		done <- c.Run(ctx, func(v *View, changed []string) {
			var all []string
			for _, host := range slices.Sorted(maps.Keys(v.Services)) {
				all = append(all, fmt.Sprintf("%s=%d", host, len(v.Services[host].Endpoints)))
			}
			seen.add(strings.Join(all, " ") + " changed " + strings.Join(changed, " "))
		})
	}()
	return seen, func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}, c
}

func settle(d time.Duration) { time.Sleep(d); synctest.Wait() }

func TestNothingBeforeEveryRegistryAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newFake(foo), newFake()
		seen, end, c := world(t, a, b)
		defer end()
		a.names <- []string{foo}
		a.sets[foo] <- registry.Endpoints{Interface: foo, Providers: []registry.Provider{provider(t, registry.ModelInterface, text)}}
		settle(time.Hour)
		if len(seen.all()) != 0 || len(c.Waiting()) != 1 || !strings.Contains(c.Waiting()[0], "r1") {
			t.Errorf("delivered %q, waiting for %q", seen.all(), c.Waiting())
		}
		b.names <- nil
		settle(time.Second)
		if want := []string{"com.a.foo=1 changed com.a.foo"}; !slices.Equal(seen.all(), want) || c.Waiting() != nil {
			t.Errorf("delivered %q, want %q; waiting for %q", seen.all(), want, c.Waiting())
		}
	})
}

func TestEmptySetsWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newFake(foo)
		seen, end, c := world(t, r)
		defer end()
		full := registry.Endpoints{Interface: foo, Providers: []registry.Provider{provider(t, registry.ModelInterface, text)}}
		r.names <- []string{foo}
		r.sets[foo] <- full
		settle(time.Second)
		r.sets[foo] <- registry.Endpoints{Interface: foo}
		settle(20 * time.Second)
		if c.Statuses()[0].Held != 1 {
			t.Errorf("%+v", c.Statuses())
		}
		r.sets[foo] <- full // it was a hiccup
		settle(time.Minute)
		if len(seen.all()) != 1 {
			t.Errorf("a hiccup was delivered: %q", seen.all())
		}
		r.sets[foo] <- registry.Endpoints{Interface: foo}
		settle(10 * time.Second)
		r.state("away") // who could say otherwise is away
		settle(time.Minute)
		if len(seen.all()) != 1 {
			t.Errorf("taken away during an outage: %q", seen.all())
		}
		r.state(registry.Connected)
		settle(2 * time.Second)
		if want := " changed com.a.foo"; len(seen.all()) != 2 || seen.all()[1] != want {
			t.Errorf("delivered %q, want %q at last", seen.all(), want)
		}
	})
}

func TestIncompleteSetsTakeNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newFake(foo)
		seen, end, _ := world(t, r)
		defer end()
		one, two := provider(t, registry.ModelInterface, text), provider(t, registry.ModelInterface, strings.Replace(text, "0.1", "0.2", 1))
		r.names <- []string{foo}
		r.sets[foo] <- registry.Endpoints{Interface: foo, Providers: []registry.Provider{one, two}}
		settle(time.Second)
		r.sets[foo] <- registry.Endpoints{Interface: foo, Providers: []registry.Provider{one}, Incomplete: "metadata"}
		settle(time.Second)
		r.sets[foo] <- registry.Endpoints{Interface: foo, Providers: []registry.Provider{one}}
		settle(time.Second)
		if want := []string{"com.a.foo=2 changed com.a.foo", "com.a.foo=1 changed com.a.foo"}; !slices.Equal(seen.all(), want) {
			t.Errorf("delivered %q, want %q", seen.all(), want)
		}
	})
}

// A provider that starts again has another timestamp and pid: no change.
func TestRestartIsNoChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newFake(foo)
		seen, end, _ := world(t, r)
		defer end()
		r.names <- []string{foo}
		for n := range 3 {
			r.sets[foo] <- registry.Endpoints{Interface: foo, Providers: []registry.Provider{provider(t, registry.ModelInterface, fmt.Sprintf("%s&pid=%d&timestamp=%d", text, n, n))}}
			settle(time.Second)
		}
		if len(seen.all()) != 1 {
			t.Errorf("delivered %q", seen.all())
		}
	})
}

// Interfaces that differ in capitals share a host: one has it, the other is named.
func TestCollision(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const low = "com.a.foo"
		r := newFake(foo, low)
		c, err := New(Options{Registries: []Named{{"r", r}}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var last *View
		done := make(chan error)
		go func() { done <- c.Run(ctx, func(v *View, _ []string) { last = v }) }()
		r.names <- []string{foo, low}
		r.sets[low] <- registry.Endpoints{Interface: low, Providers: []registry.Provider{provider(t, registry.ModelInterface, "dubbo://10.0.0.9:1/com.a.foo")}}
		r.sets[foo] <- registry.Endpoints{Interface: foo, Providers: []registry.Provider{provider(t, registry.ModelInterface, text)}}
		settle(time.Second)
		if len(last.Services) != 1 || last.Services["com.a.foo"].Interface != foo || len(last.Refused) != 1 || last.Refused[0].Refused.Interface != low {
			t.Errorf("%+v", last)
		}
		cancel()
		<-done
	})
}
