package meshferry

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
)

const (
	watchWait   = 30 * time.Second
	refreshWait = time.Minute // direct providers change without a new revision
)

// Set is all that is known of one subscription at one time. Do not change it.
type Set struct {
	Version uint64              // grows with each change; 0: nothing is known yet
	URLs    map[string][]string // whole lists by category: "providers", "configurators", "routers"
	State   string              // as the agent said last; empty: none has answered yet
	Mode    string              // "mesh": the agent's address; "direct": the agent hands out endpoints
	Reason  string
	Away    bool // control API and outbound address of the agent fail
	Direct  bool // these are the direct providers, because the agent is away or just came back
}

// Providers is the URLs to call, without the empty:// that stands for none.
func (s Set) Providers() []string {
	return slices.DeleteFunc(slices.Clone(s.URLs["providers"]), func(u string) bool { return strings.HasPrefix(u, "empty://") })
}

// Subscription follows one service that this process calls.
type Subscription struct {
	// immutable after Subscribe
	c        *Client
	id       string
	consumer Consumer
	file     file

	// guarded by c.mu
	users   int    // Subscribe calls of this identity not yet unsubscribed
	ready   bool   // the first call is over, it may be followed
	boot    string // the agent that answered; empty: the answer is from disk, or there is none
	answer  Answer
	set     Set
	changed chan struct{} // closed and replaced when set changed
	stop    context.CancelFunc
	stopped chan struct{}
}

// Subscribe asks the agent what to call for a service and follows it until
// Unsubscribe. Asking again for the same identity (protocol and service key as
// asked) gives the same Subscription, and wants one more Unsubscribe. Without
// agent the set is empty until one answers or, a second later, direct providers
// are taken from disk. A refusal is an error, and nothing is kept.
func (c *Client) Subscribe(ctx context.Context, s Consumer) (*Subscription, error) {
	id, err := s.identity()
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	if known := c.subscriptions[id]; known != nil {
		known.users++
		c.mu.Unlock()
		return known, nil
	}
	sub := &Subscription{c: c, id: id, consumer: s, users: 1, changed: make(chan struct{}), file: cacheFile(c.dir, c.app, id)}
	sub.set.Reason = ReasonAgentAway
	c.subscriptions[id] = sub
	c.mu.Unlock()

	kept, err := sub.file.load()
	if err != nil {
		c.log.Warn("kept direct providers cannot be read", "subscription", id, "err", err)
	}
	c.mu.Lock()
	sub.answer = kept
	sub.settle()
	away := c.away
	c.mu.Unlock()
	err = nil
	if !away {
		err = sub.ask(ctx)
	}
	if err != nil && (ctx.Err() != nil || refused(err)) {
		c.mu.Lock()
		delete(c.subscriptions, id)
		c.mu.Unlock()
		return nil, fmt.Errorf("subscribe %s: %w", id, err)
	}
	c.mu.Lock()
	sub.ready = true
	c.announce()
	c.mu.Unlock()
	return sub, nil
}

// Set is what is known now.
func (s *Subscription) Set() Set {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return s.set
}

// Next waits until there is a set newer than the given version and returns it.
// It skips sets that were replaced meanwhile. It errs when ctx ends.
func (s *Subscription) Next(ctx context.Context, version uint64) (Set, error) {
	for {
		s.c.mu.Lock()
		set, changed := s.set, s.changed
		s.c.mu.Unlock()
		if set.Version > version {
			return set, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Set{}, context.Cause(ctx)
		}
	}
}

// Unsubscribe ends the subscription when the last user of its identity does so.
func (s *Subscription) Unsubscribe(ctx context.Context) error {
	s.c.mu.Lock()
	s.users--
	last := s.users == 0
	s.c.mu.Unlock()
	if !last {
		return nil
	}
	return s.end(ctx)
}

func (s *Subscription) end(ctx context.Context) error {
	s.c.mu.Lock()
	if s.c.subscriptions[s.id] == s {
		delete(s.c.subscriptions, s.id)
	}
	stop, stopped := s.stop, s.stopped
	s.c.mu.Unlock()
	if stop != nil {
		stop()
		<-stopped // it must not subscribe again behind our call
	}
	err := s.c.link.unsubscribe(ctx, s.c.from, s.consumer)
	if err == nil || errors.Is(err, errAway) || errors.Is(err, errGone) {
		return nil // without agent it ends with the lease
	}
	return fmt.Errorf("unsubscribe %s: %w", s.id, err)
}

// follow keeps the set true until ctx ends.
func (s *Subscription) follow(ctx context.Context) {
	pause := newBackoff(100*time.Millisecond, 5*time.Second)
	asked := time.Now()
	for ctx.Err() == nil {
		s.c.mu.Lock()
		changed, known := s.c.changed, s.boot != "" && s.boot == s.c.boot
		answer := s.answer
		s.c.mu.Unlock()
		var err error
		if !known || time.Since(asked) > refreshWait {
			err = s.ask(ctx)
			asked = time.Now()
		} else {
			err = s.watch(ctx, answer)
		}
		if err == nil {
			pause.reset()
			continue
		}
		if errors.Is(err, errGone) {
			s.c.mu.Lock()
			s.boot = "" // the next turn subscribes again
			s.c.mu.Unlock()
		}
		wait := pause.pause()
		if refused(err) && ctx.Err() == nil {
			s.c.log.Warn("agent refuses a subscription that it had taken", "subscription", s.id, "err", err, "again", wait)
		}
		if !sleep(ctx, wait, changed) {
			return
		}
	}
}

// watch waits for an answer other than the one given and takes it.
func (s *Subscription) watch(ctx context.Context, present Answer) error {
	begin := time.Now()
	next, err := s.c.link.watch(ctx, present, watchWait)
	switch {
	case err != nil:
		return err
	case next.Agent == present.Agent && next.Revision != present.Revision:
		s.take(next)
	case time.Since(begin) < time.Second:
		return fmt.Errorf("%w: watch ended at once without a change", errAway) // asking on would be a busy loop
	}
	return nil
}

// ask makes one subscribe call.
func (s *Subscription) ask(ctx context.Context) error {
	a, err := s.c.link.subscribe(ctx, s.c.from, s.consumer)
	if err != nil {
		return err
	}
	if a.Agent == "" || a.Subscription == "" {
		return fmt.Errorf("%w: %w", errAway, &Refusal{Status: http.StatusOK, Code: "answer", Message: "subscribe answer without agent or subscription"})
	}
	s.take(a)
	return nil
}

// take makes an agent's answer the present one, and keeps it on disk.
func (s *Subscription) take(a Answer) {
	s.c.mu.Lock()
	if a.State == StateWaiting && len(a.Fallback) == 0 {
		a.Fallback = s.answer.Fallback // an agent that knows nothing yet does not make ours wrong
	}
	if _, ok := a.URLs["providers"]; !ok {
		if old, ok := s.answer.URLs["providers"]; ok {
			a.URLs = maps.Clone(a.URLs)
			if a.URLs == nil {
				a.URLs = map[string][]string{}
			}
			a.URLs["providers"] = old
		}
	}
	s.answer, s.boot = a, a.Agent
	s.c.hear(a.Agent)
	s.settle()
	s.c.mu.Unlock()
	if a.State == StateWaiting {
		return
	}
	if err := s.file.save(a); err != nil {
		s.c.log.Warn("direct providers are not kept for a start without agent", "subscription", s.id, "err", err)
	}
}

// settle decides what is handed out. Needs c.mu.
func (s *Subscription) settle() {
	next := s.set
	next.Away = s.c.away
	switch {
	case s.c.away:
		next.Reason = ReasonAgentAway
		if len(s.answer.Fallback) > 0 {
			next.URLs, next.Direct = map[string][]string{"providers": s.answer.Fallback}, true
		}
	case s.boot != "" && s.boot == s.c.boot:
		next.State, next.Mode, next.Reason = s.answer.State, s.answer.Mode, s.answer.Reason
		if next.Direct && s.answer.State == StateWaiting {
			break // what the direct providers gave way to is not there yet
		}
		next.URLs, next.Direct = s.answer.URLs, false
	}
	if next.State == s.set.State && next.Mode == s.set.Mode && next.Reason == s.set.Reason &&
		next.Away == s.set.Away && next.Direct == s.set.Direct &&
		maps.EqualFunc(next.URLs, s.set.URLs, slices.Equal) {
		return
	}
	next.Version++
	s.set = next
	close(s.changed)
	s.changed = make(chan struct{})
}
