package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"dubbo.apache.org/dubbo-go/v3"
	"dubbo.apache.org/dubbo-go/v3/common/constant"
	"dubbo.apache.org/dubbo-go/v3/protocol"
	"dubbo.apache.org/dubbo-go/v3/server"
)

// Greeter is the service. dubbo-go exports its methods by reflection; Java calls
// them with a small first letter.
type Greeter struct {
	name  string
	count *counts

	tellCaller bool
}

// SayHello greets a name and says who greets.
func (g *Greeter) SayHello(ctx context.Context, name string) (string, error) {
	g.count.call(ctx, "SayHello")
	answer := fmt.Sprintf("hello %s, this is %s", name, g.name)
	if g.tellCaller {
		answer += ", called from " + callerHost(ctx)
	}
	return answer, nil
}

// callerHost is the host from which a call came.
func callerHost(ctx context.Context) string {
	attachments, _ := ctx.Value(constant.AttachmentKey).(map[string]any)
	end := func(key string) string {
		address, _ := attachments[key].(string)
		host, _, _ := net.SplitHostPort(address)
		return host
	}
	if far := end(constant.RemoteAddr); far != end(constant.LocalAddr) {
		return far
	}
	return thisHost
}

const thisHost = "this host"

// Slow answers after so many milliseconds.
func (g *Greeter) Slow(ctx context.Context, ms int64) (string, error) {
	g.count.call(ctx, "Slow")
	time.Sleep(time.Duration(ms) * time.Millisecond)
	return g.name, nil
}

// Fail answers with a business error.
func (g *Greeter) Fail(ctx context.Context, text string) (string, error) {
	g.count.call(ctx, "Fail")
	return "", errors.New(text)
}

// Echo gives the bytes back.
func (g *Greeter) Echo(ctx context.Context, data []byte) ([]byte, error) {
	g.count.call(ctx, "Echo")
	return data, nil
}

// Reference is the name under which dubbo-go keeps the service.
func (g *Greeter) Reference() string { return "Greeter" }

// counts is what the provider saw.
type counts struct {
	mu    sync.Mutex
	calls map[string]int
	peers map[string]int
}

func (c *counts) call(ctx context.Context, method string) {
	attachments, _ := ctx.Value(constant.AttachmentKey).(map[string]any)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.calls[method]++
	if peer, ok := attachments[constant.RemoteAddr].(string); ok {
		c.peers[peer]++
	}
}

// stats is the answer of GET /stats.
type stats struct {
	Name        string         `json:"name"`
	Calls       map[string]int `json:"calls"`       // by method
	Connections int            `json:"connections"` // distinct ones that carried a call
	Peers       []string       `json:"peers"`       // their far ends
}

func (c *counts) stats(name string) stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return stats{name, maps.Clone(c.calls), len(c.peers), slices.Sorted(maps.Keys(c.peers))}
}

// exported is a context that says when dubbo-go begins to wait for its end,
// which it does when everything is exported and registered. There is no hook.
type exported struct {
	context.Context
	once sync.Once
	now  chan struct{}
}

func (e *exported) Done() <-chan struct{} {
	e.once.Do(func() { close(e.now) })
	return make(chan struct{})
}

func provide(ctx context.Context, s settings, out io.Writer) error {
	p := []protocol.ServerOption{protocol.WithDubbo(), protocol.WithPort(s.port)}
	var more []dubbo.InstanceOption
	if s.ip != "" {
		// Otherwise dubbo-go opens the same port once more, on all addresses, for
		// its own MetadataService, and panics.
		p, more = append(p, protocol.WithIp(s.ip)), append(more, dubbo.WithRemoteMetadata())
	}
	// The protocol goes to the instance: given to the server alone, a default
	// triple listener on 50051 comes with it.
	ins, err := instance(s, append(more, dubbo.WithProtocol(p...))...)
	if err != nil {
		return err
	}
	srv, err := ins.NewServer()
	if err != nil {
		return err
	}
	g := &Greeter{s.name, &counts{calls: map[string]int{}, peers: map[string]int{}}, s.tellCaller}
	o := []server.ServiceOption{server.WithInterface(s.iface), server.WithGroup(s.group), server.WithVersion(s.version)}
	for k, v := range s.params {
		o = append(o, server.WithParam(k, v))
	}
	if err := srv.Register(g, nil, o...); err != nil {
		return err
	}
	waiting := &exported{Context: context.Background(), now: make(chan struct{})}
	served := make(chan error, 1)
	go func() { served <- srv.ServeContext(waiting) }()
	select {
	case err := <-served:
		return fmt.Errorf("not served: %w", err)
	case <-ctx.Done():
		return leave()
	case <-waiting.now:
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /stats", func(w http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(w).Encode(g.count.stats(s.name))
	})
	if err := control(ctx, s, out, mux); err != nil {
		return err
	}
	return leave()
}
