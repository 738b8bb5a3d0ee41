package dubbogo

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"dubbo.apache.org/dubbo-go/v3/common"
	"dubbo.apache.org/dubbo-go/v3/common/constant"
	"dubbo.apache.org/dubbo-go/v3/common/extension"
	"dubbo.apache.org/dubbo-go/v3/filter"
	"dubbo.apache.org/dubbo-go/v3/registry"
	"dubbo.apache.org/dubbo-go/v3/remoting"
	"github.com/dubbogo/gost/log/logger"

	meshferry "github.com/meshferry/meshferry/sdk-lite/go"
)

// Protocol is the name of the registry, as in mesh://127.0.0.1:20883.
const Protocol = "mesh"

// dubbo-go finds extensions by name in its own globals: there is no other way in.
func init() {
	extension.SetRegistry(Protocol, func(u *common.URL) (registry.Registry, error) { return open(u) })
	extension.SetServiceDiscovery(Protocol, func(*common.URL) (registry.ServiceDiscovery, error) {
		return nil, errors.New("registry mesh:// works at the interface level: add registry.WithRegisterInterface() " +
			"(registry-type: interface); the agent publishes both levels")
	})
	extension.SetFilter(filterName, func() filter.Filter { return notSent{} })
	extension.AddCustomShutdownCallback(agents.close)
}

const (
	firstSet   = 3 * time.Second // how long a reference waits for its first set
	retryFirst = time.Second     // dubbo-go drops a provider that it cannot dial; it is told again
	retryLimit = 10 * time.Second
)

// meshRegistry is dubbo-go's view of an agent. All views of one address share it.
type meshRegistry struct {
	url   *common.URL
	agent *agent
}

func open(u *common.URL) (*meshRegistry, error) {
	o, err := options(u)
	if err != nil {
		return nil, err
	}
	return &meshRegistry{url: u, agent: agents.at(o)}, nil
}

// GetURL is the registry's own URL. It is part of dubbo-go's Node.
func (r *meshRegistry) GetURL() *common.URL { return r.url }

// IsAvailable is true until Destroy: an agent that is away is waited for.
func (r *meshRegistry) IsAvailable() bool { return r.agent.alive() }

// Destroy takes everything back and ends the client of this address.
func (r *meshRegistry) Destroy() { r.agent.close() }

// Register publishes a provider. Consumers are not registered: the agent writes
// consumer nodes from subscriptions.
func (r *meshRegistry) Register(u *common.URL) error {
	if !isProvider(u) {
		return nil
	}
	c, err := r.agent.client(u)
	if err != nil {
		return err
	}
	p := meshferry.Publication{URL: providerURL(u)}
	if r.agent.impatient.Load() {
		p.Wait = -1 // the registry was away for the last one, do not wait again for each
	}
	result, err := c.Publish(r.agent.ctx, p)
	if err != nil {
		return fmt.Errorf("mesh registry: %w", err)
	}
	r.agent.impatient.Store(result.State == meshferry.StatePending)
	if result.State == meshferry.StatePending {
		logger.Infof("[Registry][Mesh] %s is not in the registry yet: %s; the agent goes on", u.ServiceKey(), result.Reason)
	}
	return nil
}

// UnRegister takes a provider back.
func (r *meshRegistry) UnRegister(u *common.URL) error {
	if !isProvider(u) {
		return nil
	}
	c, err := r.agent.client(u)
	if err != nil {
		return err
	}
	if _, err := c.Unpublish(r.agent.ctx, meshferry.Publication{URL: providerURL(u)}); err != nil {
		return fmt.Errorf("mesh registry: %w", err)
	}
	return nil
}

// LoadSubscribeInstances hands out the first set before the reference is used:
// dubbo-go's own registries leave this to Subscribe, and a first call may then
// find no provider.
func (r *meshRegistry) LoadSubscribeInstances(u *common.URL, listener registry.NotifyListener) error {
	f, err := r.agent.follow(u, listener)
	if err != nil || f == nil {
		return err
	}
	ctx, cancel := context.WithTimeout(f.ctx, firstSet)
	defer cancel()
	set := f.subscription.Set()
	for !known(set) && !set.Away { // nobody to wait for; Subscribe tells it later
		if set, err = f.subscription.Next(ctx, set.Version); err != nil {
			logger.Warnf("[Registry][Mesh] no provider of %s is known yet", u.ServiceKey())
			return nil
		}
	}
	if known(set) {
		f.notify(set)
	}
	return nil
}

// Subscribe hands out every change until UnSubscribe or Destroy. Provider-side
// configurators are the agent's business, so a provider's own subscription ends
// at once.
func (r *meshRegistry) Subscribe(u *common.URL, listener registry.NotifyListener) error {
	f, err := r.agent.follow(u, listener)
	if err != nil || f == nil {
		return err
	}
	f.run()
	return nil
}

// UnSubscribe ends what Subscribe and LoadSubscribeInstances began.
func (r *meshRegistry) UnSubscribe(u *common.URL, listener registry.NotifyListener) error {
	return r.agent.unfollow(u, listener)
}

func isProvider(u *common.URL) bool {
	return u.GetParam(constant.RegistryRoleKey, "") == fmt.Sprint(common.PROVIDER)
}

// known tells a set that says something of providers, be it that there are none.
func known(s meshferry.Set) bool {
	return len(s.Providers()) > 0 || s.State == meshferry.StateEmpty
}

// following is one listener of one subscription.
type following struct {
	// immutable after agent.follow
	ctx          context.Context
	stop         context.CancelFunc
	subscription *meshferry.Subscription
	consumer     *common.URL
	listener     registry.NotifyListener

	mu   sync.Mutex
	told uint64 // version of the set that the listener has
}

// run tells the listener of every new set, and of the present one again while
// dubbo-go may have dropped a part of it.
func (f *following) run() {
	retry := retryFirst
	for {
		f.mu.Lock()
		version := f.told
		f.mu.Unlock()
		ctx, cancel := context.WithTimeout(f.ctx, retry)
		set, err := f.subscription.Next(ctx, version)
		cancel()
		switch {
		case f.ctx.Err() != nil:
			return
		case err == nil:
			retry = retryFirst
		case f.complete():
			retry = retryLimit
			continue
		default:
			set, retry = f.subscription.Set(), min(2*retry, retryLimit)
		}
		if known(set) {
			f.notify(set)
		} else {
			f.skip(set)
		}
	}
}

// complete says whether nothing is gained by telling the set again. A directory
// that has no usable provider lost ours; with direct providers, which come and
// go, it may have lost some. Source: dubbo-go's RegistryDirectory.doCacheInvoker
// forgets a provider whose Refer failed.
func (f *following) complete() bool {
	set := f.subscription.Set()
	if !known(set) || len(set.Providers()) == 0 {
		return true
	}
	d, ok := f.listener.(interface{ IsAvailable() bool })
	return !set.Direct && ok && d.IsAvailable()
}

func (f *following) notify(set meshferry.Set) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var events []*registry.ServiceEvent
	for _, raw := range set.Providers() {
		u, err := dubboURL(raw, f.consumer)
		if err != nil {
			logger.Warnf("[Registry][Mesh] a URL of the agent is not understood and left out: %v", err)
			continue
		}
		events = append(events, &registry.ServiceEvent{Action: remoting.EventTypeUpdate, Service: u})
	}
	f.listener.NotifyAll(events, func() {})
	f.told = max(f.told, set.Version)
}

func (f *following) skip(set meshferry.Set) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.told = max(f.told, set.Version)
}
