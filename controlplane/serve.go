package controlplane

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
)

// Serve serves ADS on one listener and pages on another, which may be nil, beside
// some work, until ctx or any of them ends. It closes both. Without credentials
// ADS is plain text.
func Serve(ctx context.Context, ads discovery.AggregatedDiscoveryServiceServer, creds credentials.TransportCredentials, options []grpc.ServerOption,
	pages http.Handler, listen, admin net.Listener, work ...func(context.Context) error) error {
	options = append(options,
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second, PermitWithoutStream: true}))
	if creds != nil {
		options = append(options, grpc.Creds(creds))
	}
	server := grpc.NewServer(options...)
	discovery.RegisterAggregatedDiscoveryServiceServer(server, ads)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		if err := server.Serve(listen); err != nil {
			return fmt.Errorf("serve ADS: %w", err)
		}
		return nil
	})
	g.Go(func() error { <-ctx.Done(); server.Stop(); return nil })
	if admin != nil {
		web := &http.Server{Handler: pages, ReadHeaderTimeout: 5 * time.Second}
		g.Go(func() error {
			if err := web.Serve(admin); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serve admin: %w", err)
			}
			return nil
		})
		g.Go(func() error { <-ctx.Done(); return web.Close() })
	}
	for _, f := range work {
		g.Go(func() error { return f(ctx) })
	}
	return g.Wait()
}
