package workload

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/meshferry/meshferry/registry"
)

// shown names what a View has of static applications.
func shown(v *View) (list []string) {
	for _, one := range v.Static {
		state := one.Reason
		if one.Live {
			state = "live"
		}
		list = append(list, fmt.Sprintf("%s %s %s", one.Application, one.Address, state))
	}
	return list
}

func awaitStatic(t *testing.T, s *Store, want ...string) {
	t.Helper()
	await(t, s, strings.Join(want, ", "), func(v *View) bool { return slices.Equal(shown(v), want) })
}

func TestStaticIsProbedAndKept(t *testing.T) {
	host := newFakeHost()
	host.set("127.0.0.1:20880", beats)
	dir := t.TempDir()
	s, stop := start(t, Options{Dir: dir, Dial: host.dial})
	foo := registry.Service{Interface: "com.a.Foo"}
	if err := s.SetStatic([]Static{{Application: "file", Port: 20890, Services: []registry.Service{foo}}}); err != nil {
		t.Fatal(err)
	}
	if err := s.AddStatic(t.Context(), Static{Application: "shop", Port: 20880, Owner: Owner{UID: 7}}); err != nil {
		t.Fatal(err)
	}
	awaitStatic(t, s, "file 127.0.0.1:20890 port-closed", "shop 127.0.0.1:20880 live")

	before := s.View().Load().Generation
	if err := s.AddStatic(t.Context(), Static{Application: "shop", Port: 20880, Owner: Owner{UID: 7}}); err != nil {
		t.Fatal(err)
	}
	if now := s.View().Load().Generation; now != before {
		t.Errorf("the same again made generation %d of %d", now, before)
	}
	s.Readonly("127.0.0.1:20880")
	awaitStatic(t, s, "file 127.0.0.1:20890 port-closed", "shop 127.0.0.1:20880 readonly")
	host.cut("127.0.0.1:20880")
	awaitStatic(t, s, "file 127.0.0.1:20890 port-closed", "shop 127.0.0.1:20880 live")
	stop()

	// The next run has both; what the configuration does not name any more goes.
	host.set("127.0.0.1:20880", lost)
	s, stop = start(t, Options{Dir: dir, Dial: host.dial})
	if got := shown(s.View().Load()); !slices.Equal(got, []string{"file 127.0.0.1:20890 port-closed", "shop 127.0.0.1:20880 live"}) &&
		!slices.Equal(got, []string{"file 127.0.0.1:20890 settling", "shop 127.0.0.1:20880 live"}) {
		t.Errorf("after the restart %q", got)
	}
	if err := s.SetStatic(nil); err != nil {
		t.Fatal(err)
	}
	host.set("127.0.0.1:20881", beats)
	// Another port of the same name replaces the first.
	if err := s.AddStatic(t.Context(), Static{Application: "shop", Port: 20881, Owner: Owner{UID: 7}}); err != nil {
		t.Fatal(err)
	}
	awaitStatic(t, s, "shop 127.0.0.1:20881 live")
	removed, err := s.RemoveStatic(t.Context(), "shop", "", Owner{UID: 7})
	if err != nil || len(removed) != 1 || removed[0].Port != 20881 {
		t.Errorf("%+v, %v", removed, err)
	}
	if removed, err := s.RemoveStatic(t.Context(), "shop", "", Nobody); err != nil || removed != nil {
		t.Errorf("once more: %+v, %v", removed, err)
	}
	stop()
	s, _ = start(t, Options{Dir: dir, Dial: host.dial})
	if got := shown(s.View().Load()); got != nil {
		t.Errorf("after the removal %q", got)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, probed := s.targets["127.0.0.1:20881"]; probed {
		t.Error("still probed")
	}
}

// A static application shares its port's probe with what is published there.
func TestStaticBesideAPublication(t *testing.T) {
	host := newFakeHost()
	host.set("127.0.0.1:20880", beats)
	s, _ := start(t, Options{Dial: host.dial})
	publish(t, s, Publication{URL: providerURL(t, 20880, "")})
	await(t, s, "live", live)
	if err := s.SetStatic([]Static{{Application: "demo", Port: 20880}}); err != nil {
		t.Fatal(err)
	}
	awaitStatic(t, s, "demo 127.0.0.1:20880 live")
	if err := s.SetStatic(nil); err != nil {
		t.Fatal(err)
	}
	if v := s.View().Load(); len(v.Static) != 0 || !live(v) {
		t.Errorf("%+v", v)
	}
}

func TestStaticRefusals(t *testing.T) {
	s, stop := start(t, Options{OwnPorts: []int{20882}, Limits: Limits{Workloads: 2}, Dial: newFakeHost().dial})
	for what, one := range map[string]Static{
		"1 to 128 characters, not 0": {Port: 20880},
		"not 129":                    {Application: strings.Repeat("a", 129), Port: 20880},
		"control characters":         {Application: "a\nb", Port: 20880},
		"port 0":                     {Application: "shop"},
		"port 65536":                 {Application: "shop", Port: 65536},
		"one of the agent's own":     {Application: "shop", Port: 20882},
		"only dubbo":                 {Application: "shop", Port: 20880, Protocol: "tri"},
		"interface":                  {Application: "shop", Port: 20880, Services: []registry.Service{{Group: "g"}}},
	} {
		if err := s.AddStatic(t.Context(), one); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
		if err := s.SetStatic([]Static{{Application: "fine", Port: 1}, one}); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s, configured: %v", what, err)
		}
	}
	if got := shown(s.View().Load()); got != nil {
		t.Errorf("%q", got)
	}
	if err := s.SetStatic([]Static{{Application: "file", Port: 1}}); err != nil {
		t.Fatal(err)
	}
	if err := s.AddStatic(t.Context(), Static{Application: "shop", Port: 2, Owner: Owner{UID: 7}}); err != nil {
		t.Fatal(err)
	}
	if err := s.AddStatic(t.Context(), Static{Application: "more", Port: 3}); !errors.Is(err, ErrLimit) {
		t.Errorf("%v", err)
	}
	if err := s.AddStatic(t.Context(), Static{Application: "shop", Port: 4, Owner: Owner{UID: 8}}); !errors.Is(err, ErrForbidden) {
		t.Errorf("%v", err)
	}
	if _, err := s.RemoveStatic(t.Context(), "shop", "dubbo", Owner{UID: 8}); !errors.Is(err, ErrForbidden) {
		t.Errorf("%v", err)
	}
	if _, err := s.RemoveStatic(t.Context(), "file", "", Owner{}); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "configuration") {
		t.Errorf("%v", err)
	}
	stop()
	if err := s.AddStatic(t.Context(), Static{Application: "shop", Port: 2}); !errors.Is(err, ErrStopped) {
		t.Errorf("%v", err)
	}
	if _, err := s.RemoveStatic(t.Context(), "shop", "", Nobody); !errors.Is(err, ErrStopped) {
		t.Errorf("%v", err)
	}
}

// The agent's port at another address is not the agent's.
func TestStaticBesideOurListeners(t *testing.T) {
	for listener, refused := range map[string][]string{
		"10.0.0.5:20882":  nil,
		"0.0.0.0:20882":   {"127.0.0.1", "127.0.0.2"},
		"[::]:20882":      {"127.0.0.1", "127.0.0.2"},
		"127.0.0.2:20882": {"127.0.0.2"},
	} {
		s, stop := start(t, Options{OwnPorts: []int{20882}, Own: []netip.AddrPort{netip.MustParseAddrPort(listener)}, Dial: newFakeHost().dial})
		for _, host := range []string{"127.0.0.1", "127.0.0.2"} {
			err := s.AddStatic(t.Context(), Static{Application: "app at " + host, Host: host, Port: 20882})
			if slices.Contains(refused, host) != errors.Is(err, ErrInvalid) {
				t.Errorf("%s beside %s: %v", host, listener, err)
			}
		}
		if err := s.AddStatic(t.Context(), Static{Application: "elsewhere", Host: "203.0.113.9", Port: 20880}); !errors.Is(err, ErrInvalid) {
			t.Errorf("an address of another machine: %v", err)
		}
		if refused == nil {
			if err := s.AddStatic(t.Context(), Static{Application: "other", Port: 20882}); !errors.Is(err, ErrOwned) {
				t.Errorf("two applications at one address: %v", err)
			}
		}
		stop()
	}
}
