package discovery

import (
	"cmp"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/meshferry/meshferry/agent/route"
	"github.com/meshferry/meshferry/registry"
)

// Protection says how long providers are held that a registry suddenly does not
// list any more.
type Protection struct {
	EmptyHold  time.Duration // when none is left; 0: 30 s, negative: not at all
	ShrinkHold time.Duration // when more than half are gone, or the set is incomplete; 0: 10 s, negative: not at all
	Disabled   bool          // every set is taken as it comes
}

// set is what is known of one interface in one registry. It is a pure state
// machine: each step gives the set and the time of its next step.
type set struct {
	now    []registry.Provider // what the registry lists, sorted
	held   []registry.Provider // what it does not list any more and is still served, sorted
	good   int                 // places of the last set that was not suspect
	since  time.Time           // when holding began
	until  time.Time           // when it ends
	why    string              // of holding
	heard  bool                // the registry said something since the start
	stale  bool                // held is from disk
	failed string              // why the registry cannot say anything of this interface
	lacks  string              // why providers may be missing from now
}

// observe takes a whole set from the registry. It tells whether anything changed.
func (s *set) observe(e registry.Endpoints, p Protection, now time.Time) bool {
	observed := sorted(e.Providers)
	same := s.heard && slices.Equal(observed, s.now) && (e.Incomplete == s.lacks || len(observed) > 0)
	s.lacks = e.Incomplete
	if same && len(s.held) == 0 {
		return false
	}
	if len(s.held) == 0 {
		s.good = len(places(s.now))
	}
	before, why, stale := s.held, s.why, s.stale
	s.held = missing(slices.Concat(s.now, s.held), observed)
	s.now, s.heard, s.stale, s.failed = observed, true, false, ""
	var hold time.Duration
	hold, s.why = suspect(s.good, observed, e.Incomplete, p)
	if hold <= 0 || len(s.held) == 0 {
		s.release()
		return true
	}
	if s.since.IsZero() || stale {
		s.since = now
	}
	s.until = s.since.Add(hold)
	return !same || stale || why != s.why || !slices.Equal(sorted(before), sorted(s.held))
}

// suspect says how long what is missing from a set is to be held, and why; 0 or
// less: not at all, the set is as good as the last one or protection is off.
func suspect(good int, observed []registry.Provider, incomplete string, p Protection) (time.Duration, string) {
	left := len(places(observed))
	switch {
	case p.Disabled || good == 0:
		return 0, ""
	case left == 0:
		return cmp.Or(p.EmptyHold, 30*time.Second), fmt.Sprintf("all %d providers disappeared", good)
	case 2*left < good:
		return cmp.Or(p.ShrinkHold, 10*time.Second), fmt.Sprintf("%d of %d providers disappeared", good-left, good)
	case incomplete != "":
		return cmp.Or(p.ShrinkHold, 10*time.Second), "incomplete: " + incomplete
	}
	return 0, ""
}

// refused drops what is held at addresses that refuse connections.
func (s *set) refused(refuses func(address string) bool) bool {
	if s.stale {
		return false // the registry is away: the provider may come back before it does
	}
	n := len(s.held)
	s.held = slices.DeleteFunc(slices.Clone(s.held), func(p registry.Provider) bool { return refuses(p.URL.HostPort()) })
	if n > 0 && len(s.held) == 0 {
		s.release()
	}
	return len(s.held) != n
}

// protect judges a hold by other settings. What is from disk is held because the
// registry is away, which is no matter of protection.
func (s *set) protect(p Protection) bool {
	if len(s.held) == 0 || s.stale {
		return false
	}
	hold, _ := suspect(s.good, s.now, s.lacks, p)
	if s.until = s.since.Add(hold); hold > 0 {
		return false
	}
	s.release()
	return true
}

// expire ends a hold whose time is over.
func (s *set) expire(now time.Time) bool {
	if len(s.held) == 0 || now.Before(s.until) {
		return false
	}
	s.release()
	return true
}

// release ends a hold.
func (s *set) release() {
	s.held, s.why, s.stale, s.since, s.until = nil, "", false, time.Time{}, time.Time{}
}

// restore serves a set from disk until the registry is heard, at most until then.
func (s *set) restore(providers []registry.Provider, saved, until time.Time) {
	s.held, s.stale = sorted(providers), true
	s.good = len(places(providers))
	s.since, s.until = saved, until
	s.why = "stale: of " + saved.UTC().Format(time.RFC3339)
}

// fail notes that the registry cannot say anything of the interface.
func (s *set) fail(err error) bool {
	text := err.Error()
	if s.heard || s.failed == text {
		return false
	}
	s.failed = text
	return true
}

// counts is how the set counts in a Status.
func (s *set) counts() counts {
	switch {
	case s.stale:
		return counts{stale: 1}
	case len(s.held) > 0:
		return counts{protected: 1}
	}
	return counts{}
}

// providers is what is served.
func (s *set) providers() []registry.Provider { return sorted(slices.Concat(s.now, s.held)) }

// update is what route is told.
func (s *set) update(source, iface string) route.Update {
	u := route.Update{Source: source, Interface: iface, Providers: s.providers(), State: route.Ready, Reason: s.why}
	switch {
	case len(s.held) > 0:
		u.State = route.Protected
	case s.failed != "":
		u.State, u.Reason = route.Empty, s.failed
	case !s.heard:
		u.State, u.Reason = route.Waiting, "not heard of yet"
	case len(u.Providers) == 0 && s.lacks != "": // there may be some: nobody is to be told that there are none
		u.State, u.Reason = route.Waiting, s.lacks
	case len(u.Providers) == 0:
		u.State = route.Empty
	}
	return u
}

// missing lists what is in before and whose place is not in observed.
func missing(before, observed []registry.Provider) []registry.Provider {
	there := places(observed)
	return slices.DeleteFunc(slices.Clone(before), func(p registry.Provider) bool { return there[place(p)] })
}

// place is where a provider really is: the origin of a mesh entry. So a provider
// that goes from direct to mesh, or from one model to the other, does not count
// as gone.
func place(p registry.Provider) string {
	if origin := p.URL.Param(registry.MarkOrigin); origin != "" {
		return origin
	}
	return p.URL.HostPort()
}

func places(list []registry.Provider) map[string]bool {
	m := make(map[string]bool, len(list))
	for _, p := range list {
		m[place(p)] = true
		for origin := range strings.SplitSeq(p.URL.Param(registry.MarkOrigins), ",") {
			if origin != "" {
				m[origin] = true // of an entry that stands for several
			}
		}
	}
	return m
}

// lost lists what is in before and that another registry does not have: neither at
// its place nor at one more, where a host has another address in that registry. Then
// it is the same process that says it: same service, port and start. As many are
// needed there as are here.
func lost(before, observed []registry.Provider) []registry.Provider {
	here, more := places(before), map[string][]string{}
	for _, p := range observed {
		if at, k := place(p), kin(p); k != "" && !here[at] && !slices.Contains(more[k], at) {
			more[k] = append(more[k], at)
		}
	}
	moved := map[string]bool{} // places of before
	return slices.DeleteFunc(missing(before, observed), func(p registry.Provider) bool {
		at, k := place(p), kin(p)
		if !moved[at] && len(more[k]) > 0 {
			more[k] = more[k][1:]
			moved[at] = true
		}
		return moved[at]
	})
}

// kin is what a provider says of itself whatever its host is called; empty if it does
// not say when it began.
func kin(p registry.Provider) string {
	_, port, err := net.SplitHostPort(place(p))
	start := p.URL.Param(registry.KeyTimestamp)
	if err != nil || start == "" {
		return ""
	}
	return strings.Join([]string{p.URL.Protocol, p.URL.Service().Key(), p.URL.Param("application"), port, start}, " ")
}

func sorted(list []registry.Provider) []registry.Provider {
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b registry.Provider) int {
		return cmp.Or(cmp.Compare(a.Model, b.Model), cmp.Compare(a.URL.Host, b.URL.Host), cmp.Compare(a.URL.Port, b.URL.Port),
			cmp.Compare(a.URL.Protocol, b.URL.Protocol), cmp.Compare(a.URL.Query, b.URL.Query), cmp.Compare(a.URL.Path, b.URL.Path))
	})
	return slices.Compact(list)
}
