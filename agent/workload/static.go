package workload

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/meshferry/meshferry/registry"
)

// Static is an application that asks the agent for nothing: it registers itself at
// the agent's inbound address (Java: DUBBO_DUBBO_PORT_TO_REGISTRY), and somebody has said
// where it really listens, because no registry knows (CONTRACT §11, inbound.static).
type Static struct {
	Application string
	Protocol    string             // "dubbo"; empty means that
	Host        string             // address of this machine where it listens; empty means 127.0.0.1
	Port        int                // where it listens there
	Services    []registry.Service // what it offers; none: what the registries say
	Configured  bool               // said by the configuration; else by AddStatic
	Owner       Owner              // who said it

	Live    bool   // its port answers
	Address string // where it is dialled
	Reason  string // why it is not Live
}

func (s Static) same(o Static) bool {
	return s.Application == o.Application && s.Protocol == o.Protocol && s.Address == o.Address && s.Configured == o.Configured
}

func compareStatics(a, b *static) int {
	return cmp.Or(cmp.Compare(a.Application, b.Application), cmp.Compare(a.Protocol, b.Protocol), cmp.Compare(a.Address, b.Address))
}

// static is one with its probe.
type static struct {
	Static
	target *target
}

// shown is the application as a View has it.
func (s *static) shown() Static {
	out := s.Static
	out.Live, out.Reason = s.target.status()
	return out
}

// SetStatic replaces the applications that the configuration names. Those that
// stay are not probed anew. It errs, wrapping ErrInvalid, and changes nothing when
// one cannot be meant.
func (s *Store) SetStatic(list []Static) error {
	whole := make([]Static, len(list))
	for i, one := range list {
		one.Configured, one.Owner = true, Nobody
		var err error
		if whole[i], err = s.completeStatic(one); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	changed := false
	for _, old := range slices.Clone(s.statics) {
		if old.Configured && !slices.ContainsFunc(whole, old.same) {
			s.removeStatic(old)
			changed = true
		}
	}
	for _, one := range whole {
		changed = s.putStatic(one) || changed
	}
	if changed {
		s.changed(true)
		poke(s.wake)
	}
	return nil
}

// AddStatic keeps an application until RemoveStatic, in the place of one of the
// same name and protocol that was added before. It returns when that is on disk.
// Errors: ErrInvalid, ErrForbidden (another user has said where it listens),
// ErrOwned (another application listens there), ErrLimit, ErrStopped, that of ctx.
func (s *Store) AddStatic(ctx context.Context, one Static) error {
	one.Configured = false
	whole, err := s.completeStatic(one)
	var change uint64
	if err == nil {
		change, err = s.addStatic(whole)
	}
	if err == nil {
		err = s.onDisk(ctx, change)
	}
	if err != nil {
		return fmt.Errorf("application %s: %w", one.Application, err)
	}
	return nil
}

func (s *Store) addStatic(one Static) (change uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return 0, ErrStopped
	}
	var older []*static
	for _, old := range s.statics {
		if old.Address == one.Address && old.Application != one.Application {
			return 0, fmt.Errorf("%w: %s is where %s listens", ErrOwned, old.Address, old.Application)
		}
		if old.Configured || old.Application != one.Application || old.Protocol != one.Protocol {
			continue
		}
		if foreign(old.Owner, one.Owner) {
			return 0, fmt.Errorf("%w: user %d has said that it listens at %s", ErrForbidden, old.Owner.UID, old.Address)
		}
		if !old.same(one) {
			older = append(older, old)
		}
	}
	if len(s.statics)-len(older) >= s.limits.Workloads && !slices.ContainsFunc(s.statics, func(o *static) bool { return o.same(one) }) {
		return 0, fmt.Errorf("%w: %d applications", ErrLimit, s.limits.Workloads)
	}
	for _, old := range older {
		s.removeStatic(old)
	}
	if s.putStatic(one) || len(older) > 0 {
		s.log.Info("application that registers itself", "application", one.Application, "protocol", one.Protocol, "address", one.Address)
		s.changed(true)
		poke(s.wake)
	}
	return s.changes, nil
}

// RemoveStatic forgets what AddStatic has added under a name; an empty protocol
// is any. Nothing there is no error. Errors: ErrForbidden, ErrInvalid for one that
// stands in the configuration, ErrStopped, that of ctx.
func (s *Store) RemoveStatic(ctx context.Context, application, protocol string, o Owner) (removed []Static, err error) {
	removed, change, err := s.dropStatic(application, protocol, o)
	if err == nil {
		err = s.onDisk(ctx, change)
	}
	if err != nil {
		return removed, fmt.Errorf("remove application %s: %w", application, err)
	}
	return removed, nil
}

func (s *Store) dropStatic(application, protocol string, o Owner) (removed []Static, change uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return nil, 0, ErrStopped
	}
	for _, one := range slices.Clone(s.statics) {
		switch {
		case one.Application != application || protocol != "" && one.Protocol != protocol:
		case one.Configured:
			err = fmt.Errorf("%w: it stands in the agent's configuration (inbound.static): take it out there", ErrInvalid)
		case foreign(one.Owner, o):
			err = fmt.Errorf("%w: it belongs to user %d", ErrForbidden, one.Owner.UID)
		default:
			removed = append(removed, one.shown())
			s.removeStatic(one)
		}
	}
	if len(removed) > 0 {
		err = nil
		s.log.Info("application that registers itself: removed", "application", application)
		s.changed(true)
	}
	return removed, s.changes, err
}

// completeStatic checks what was said and fills what was left out.
func (s *Store) completeStatic(one Static) (Static, error) {
	one.Protocol, one.Host = cmp.Or(one.Protocol, "dubbo"), cmp.Or(one.Host, "127.0.0.1")
	bad := func(format string, args ...any) (Static, error) {
		return Static{}, fmt.Errorf("%w: "+format, append([]any{ErrInvalid}, args...)...)
	}
	switch {
	case one.Application == "" || len(one.Application) > maxName:
		return bad("the name of an application has 1 to %d characters, not %d", maxName, len(one.Application))
	case one.Protocol != "dubbo":
		return bad("protocol %q: only dubbo can be served", one.Protocol)
	case one.Port < 1 || one.Port > 65535:
		return bad("port %d: a provider listens on 1 to 65535", one.Port)
	case s.dialHost(one.Host) != one.Host:
		return bad("%q is no address of this machine", one.Host)
	}
	one.Address = registry.URL{Host: one.Host, Port: one.Port}.HostPort()
	if s.isOwn(one.Host, one.Port) {
		return bad("%s is one of the agent's own listeners: name the port on which %s really listens", one.Address, one.Application)
	}
	for _, c := range one.Application {
		if c < ' ' || c == 0x7f {
			return bad("the name of the application %q has control characters", one.Application)
		}
	}
	for _, service := range one.Services {
		if err := registry.CheckInterface(service.Interface); err != nil {
			return bad("%w", err)
		}
	}
	one.Services = slices.Clone(one.Services)
	one.Live, one.Reason = false, ""
	return one, nil
}

// isOwn tells whether a listener of the agent takes connections to a host and port.
func (s *Store) isOwn(host string, port int) bool {
	for _, l := range s.own {
		if int(l.Port()) == port && (l.Addr().IsUnspecified() || l.Addr().Unmap().String() == host) {
			return true
		}
	}
	return len(s.own) == 0 && slices.Contains(s.ownPorts, port)
}

// putStatic adds one or gives it new content, and tells whether that changes
// anything. mu is held.
func (s *Store) putStatic(one Static) bool {
	at := slices.IndexFunc(s.statics, func(old *static) bool { return old.same(one) })
	if at >= 0 {
		changed := !slices.Equal(s.statics[at].Services, one.Services) || s.statics[at].Owner.UID != one.Owner.UID
		s.statics[at].Static = one
		return changed
	}
	t := s.attach(one.Address, true)
	if !t.live && !t.readonly && t.reason == "" {
		t.published(time.Now())
	}
	s.statics = append(s.statics, &static{one, t})
	slices.SortStableFunc(s.statics, compareStatics)
	return true
}

// removeStatic takes one out. mu is held.
func (s *Store) removeStatic(one *static) {
	s.statics = slices.DeleteFunc(s.statics, func(o *static) bool { return o == one })
	s.detach(one.target, true)
}

// savedStatic is a Static on disk.
type savedStatic struct {
	Application string
	Protocol    string
	Host        string
	Port        int
	Services    []registry.Service `json:",omitempty"`
	Configured  bool               `json:",omitempty"` // kept only so that it is Live after a restart
	Owner       Owner
	Live        bool
	Beats       bool
}

func (s *Store) savedStatics() (list []savedStatic) {
	for _, one := range s.statics {
		live, _ := one.target.status()
		list = append(list, savedStatic{one.Application, one.Protocol, one.Host, one.Port, one.Services, one.Configured, one.Owner, live, one.target.beats})
	}
	return list
}

// restoreStatics takes them in as restore does. SetStatic drops those that the
// configuration does not name any more.
func (s *Store) restoreStatics(list []savedStatic, now time.Time) {
	for _, saved := range list {
		one, err := s.completeStatic(Static{Application: saved.Application, Protocol: saved.Protocol, Host: saved.Host, Port: saved.Port,
			Services: saved.Services, Configured: saved.Configured, Owner: saved.Owner})
		if err != nil {
			s.log.Warn("an application of the last run is left out", "application", saved.Application, "err", err)
			continue
		}
		s.putStatic(one)
		t := s.targets[one.Address]
		t.beats = t.beats || saved.Beats
		if saved.Live {
			t.live, t.reason, t.fresh = true, "", false
		}
		t.since = now
	}
}
