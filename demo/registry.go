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
	quiet := slog.New(slog.DiscardHandler)
	switch {
	case d.registry == "":
		dir := filepath.Join(d.dir, "registry")
		d.title("Registry: embedded, a directory that processes of one machine share: %s", dir)
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		d.reader, err = local.New(local.Options{Dir: dir, HostID: "demo-reader", Log: quiet})
	case strings.HasPrefix(d.registry, "zookeeper://"):
		d.title("Registry: %s", redacted(d.registry))
		var o zookeeper.Options
		if o, err = zookeeper.ParseURL(d.registry); err != nil {
			return err
		}
		o.HostID, o.Log = "demo-reader", quiet
		d.reader, err = zookeeper.New(o)
	default:
		return fmt.Errorf("registry %q: want zookeeper://host:2181, or none for the embedded one", redacted(d.registry))
	}
	if err != nil {
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

// providers reads the registry's present set of the service.
func (d *demo) providers(ctx context.Context) (registry.Endpoints, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	ch := make(chan registry.Endpoints)
	done := make(chan error, 1)
	go func() { done <- d.reader.Subscribe(ctx, service, ch) }()
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
