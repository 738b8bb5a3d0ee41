package dubbogo

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"dubbo.apache.org/dubbo-go/v3/common"
	"dubbo.apache.org/dubbo-go/v3/common/constant"
	"dubbo.apache.org/dubbo-go/v3/registry"
	"github.com/dubbogo/gost/log/logger"

	meshferry "github.com/meshferry/meshferry/sdk-lite/go"
)

// goodbye bounds taking everything back when the application stops.
const goodbye = 2 * time.Second

// agents holds the agents that this process speaks with, by address. It is
// global because dubbo-go calls the constructor of a registry for every look-up
// and throws most results away.
var agents = &shared{byAddress: map[string]*agent{}}

type shared struct {
	mu        sync.Mutex
	byAddress map[string]*agent
}

func (s *shared) at(o meshferry.Options) *agent {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.byAddress[o.Address]
	if a == nil || !a.alive() {
		a = &agent{options: o, followings: map[listenerKey]*following{}}
		a.ctx, a.cancel = context.WithCancel(context.Background())
		s.byAddress[o.Address] = a
	}
	return a
}

func (s *shared) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for address, a := range s.byAddress {
		a.close()
		delete(s.byAddress, address)
	}
}

// agent is one agent as this process sees it.
type agent struct {
	// immutable after at
	options meshferry.Options
	ctx     context.Context // ends with close
	cancel  context.CancelFunc

	impatient atomic.Bool // the last publication had to wait for the registry in vain

	mu         sync.Mutex
	running    *meshferry.Client // nil until the application's name is known
	stopped    chan struct{}     // closed when its Run has returned
	followings map[listenerKey]*following
}

type listenerKey struct {
	service  string
	listener registry.NotifyListener
}

func (a *agent) alive() bool { return a.ctx.Err() == nil }

// client starts the client on first use: the name of the application stands in
// the first URL, not in the registry's.
func (a *agent) client(u *common.URL) (*meshferry.Client, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.running != nil || !a.alive() {
		if !a.alive() {
			return nil, fmt.Errorf("mesh registry %s: %w", a.options.Address, context.Canceled)
		}
		return a.running, nil
	}
	o := a.options
	o.Application = u.GetParam(constant.ApplicationKey, "dubbo-go")
	c, err := meshferry.New(o)
	if err != nil {
		return nil, fmt.Errorf("mesh registry: %w", err)
	}
	a.running, a.stopped = c, make(chan struct{})
	go func() {
		defer close(a.stopped)
		c.Run(a.ctx)
	}()
	return c, nil
}

// follow gives the following of a consumer URL and listener, and makes it when
// there is none. It is nil for URLs that are no consumer's.
func (a *agent) follow(u *common.URL, listener registry.NotifyListener) (*following, error) {
	if u.Protocol == constant.ProviderProtocol || isProvider(u) {
		return nil, nil
	}
	c, err := a.client(u)
	if err != nil {
		return nil, err
	}
	key := listenerKey{u.ServiceKey(), listener}
	a.mu.Lock()
	f := a.followings[key]
	a.mu.Unlock()
	if f != nil {
		return f, nil
	}
	s, err := c.Subscribe(a.ctx, meshferry.Consumer{URL: consumerURL(u)})
	if err != nil {
		return nil, fmt.Errorf("mesh registry: %w", err)
	}
	f = &following{subscription: s, consumer: u, listener: listener}
	f.ctx, f.stop = context.WithCancel(a.ctx)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.followings[key] = f
	return f, nil
}

func (a *agent) unfollow(u *common.URL, listener registry.NotifyListener) error {
	key := listenerKey{u.ServiceKey(), listener}
	a.mu.Lock()
	f := a.followings[key]
	delete(a.followings, key)
	a.mu.Unlock()
	if f == nil {
		return nil
	}
	f.stop()
	return f.subscription.Unsubscribe(a.ctx)
}

// close takes everything back, within goodbye, and ends the client. Calls after
// the first do nothing.
func (a *agent) close() {
	a.mu.Lock()
	c, stopped := a.running, a.stopped
	a.running = nil
	a.mu.Unlock()
	if c != nil {
		ctx, cancel := context.WithTimeout(a.ctx, goodbye)
		if err := c.Withdraw(ctx); err != nil {
			logger.Warnf("[Registry][Mesh] the agent was not told that the application stops: %v", err)
		}
		cancel()
	}
	a.cancel()
	if stopped != nil {
		<-stopped
	}
}

// options reads the registry's URL.
func options(u *common.URL) (meshferry.Options, error) {
	address := strings.TrimPrefix(u.Location, Protocol+"://")
	if address == "" {
		address = u.Path
	}
	address, _, _ = strings.Cut(address, "?")
	if address == "" {
		return meshferry.Options{}, fmt.Errorf("mesh registry: no address in %q; want mesh://127.0.0.1:20883 or mesh:///path/of/socket", u.PrimitiveURL)
	}
	timeout, _ := time.ParseDuration(u.GetParam(constant.RegistryTimeoutKey, ""))
	return meshferry.Options{
		Address: address, Token: u.Password, Timeout: timeout,
		Dir: cacheDir(u.GetParam("cache", "")), Log: slog.New(dubboLog{}),
	}, nil
}

// cacheDir is where direct providers are kept; empty: nowhere.
func cacheDir(param string) string {
	switch param {
	case "off":
		return ""
	case "":
		base, err := os.UserCacheDir()
		if err != nil {
			return "" // no home directory: an ordinary state of a system service
		}
		return filepath.Join(base, "meshferry")
	}
	return param
}
