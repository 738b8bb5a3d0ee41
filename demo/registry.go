package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/meshferry/meshferry/registry"
	"github.com/meshferry/meshferry/registry/local"
	"github.com/meshferry/meshferry/registry/nacos"
	"github.com/meshferry/meshferry/registry/zookeeper"
)

// registryURL is the registry as the agents are given it.
func (d *demo) registryURL() string {
	if d.registry != "" {
		return d.registry
	}
	return "local://" + filepath.Join(d.dir, "registry")
}

// openRegistry opens the registry to look into it. The demo writes nothing there.
func (d *demo) openRegistry(ctx context.Context) (err error) {
	if d.registry == "" {
		dir := filepath.Join(d.dir, "registry")
		d.title("Registry: embedded, a directory that processes of one machine share: %s", dir)
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
	} else {
		d.title("Registry: %s", redacted(d.registry))
	}
	if d.reader, err = open(d.registryURL()); err != nil {
		return err
	}
	go d.reader.Run(ctx)
	return d.await(ctx, nil, "the registry", func() error {
		if s := d.reader.Status(); s.State != registry.Connected {
			return fmt.Errorf("it is %s %s", s.State, s.Err)
		}
		return nil
	})
}

// open makes a client to look into a registry.
func open(url string) (registry.Registry, error) {
	const reader = "demo-reader"
	quiet := slog.New(slog.DiscardHandler)
	scheme, dir, _ := strings.Cut(url, "://")
	switch scheme {
	case "local":
		return local.New(local.Options{Dir: dir, HostID: reader, Log: quiet})
	case "zookeeper":
		o, err := zookeeper.ParseURL(url)
		if err != nil {
			return nil, err
		}
		o.HostID, o.Log = reader, quiet
		return zookeeper.New(o)
	case "nacos":
		o, err := nacos.ParseURL(url)
		if err != nil {
			return nil, err
		}
		o.HostID, o.Log = reader, quiet
		return nacos.New(o)
	}
	return nil, fmt.Errorf("registry %q: want zookeeper://host:2181, nacos://host:8848, or none for the embedded one", redacted(url))
}

// providers reads the present set of the service from the registry of the demo.
func (d *demo) providers(ctx context.Context) (registry.Endpoints, error) {
	return current(ctx, d.reader)
}

// current reads the present set of the service from a registry.
func current(ctx context.Context, r registry.Registry) (registry.Endpoints, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	ch := make(chan registry.Endpoints)
	done := make(chan error, 1)
	go func() { done <- r.Subscribe(ctx, service, ch) }()
	select {
	case set := <-ch:
		cancel()
		<-done
		return set, nil
	case err := <-done:
		return registry.Endpoints{}, err
	case <-ctx.Done():
		return registry.Endpoints{}, context.Cause(ctx)
	}
}
