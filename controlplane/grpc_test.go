package controlplane

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/xds"
)

// TestGRPC has grpc-go's own xDS resolver read listener, routes, clusters and
// endpoints of a service, and carry a call to the endpoint; then the provider
// moves, and calls follow it.
func TestGRPC(t *testing.T) {
	serve := func() (url string, stop func()) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		s := grpc.NewServer()
		grpc_health_v1.RegisterHealthServer(s, health.NewServer())
		done := make(chan struct{})
		go func() { defer close(done); _ = s.Serve(l) }() // ends with Stop
		return fmt.Sprintf("dubbo://%s/com.a.Foo?interface=com.a.Foo", l.Addr()), func() { s.Stop(); <-done }
	}
	first, stopFirst := serve()
	f := newFake(t, first)
	address, s := start(t, f, folder(t, "foo.yaml", `
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: foo}
spec:
  hosts: [com.a.foo]
  http:
  - match: [{headers: {canary: {exact: "1"}}}]
    route: [{destination: {host: com.a.foo, port: {number: 20882}}}]
  - route: [{destination: {host: com.a.foo}}]
    timeout: 5s
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: foo}
spec:
  host: com.a.foo
  trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}, outlierDetection: {consecutive5xxErrors: 5}}
`))
	resolver, err := xds.NewXDSResolverWithConfigForTesting(fmt.Appendf(nil,
		`{"xds_servers":[{"server_uri":%q,"channel_creds":[{"type":"insecure"}],"server_features":["xds_v3"]}],"node":{"id":"grpc-client"}}`, address))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("xds:///com.a.foo:20882", grpc.WithResolvers(resolver), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	call := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		_, err := grpc_health_v1.NewHealthClient(conn).Check(ctx, &grpc_health_v1.HealthCheckRequest{}, grpc.WaitForReady(true))
		return err
	}
	if err := call(); err != nil {
		t.Fatalf("%v; nodes %+v", err, s.nodes.list()) // what grpc-go asked for and got
	}
	second, stopSecond := serve()
	defer stopSecond()
	f.set(t, second)
	eventually(t, "told of the move", func() bool {
		for _, n := range s.nodes.list() {
			for _, ty := range n.Types {
				if short(ty.TypeURL) == "ClusterLoadAssignment" && ty.Responses == 2 && ty.Acked == ty.Sent && n.Kind == "grpc" {
					return true
				}
			}
		}
		return false
	})
	stopFirst()
	for deadline := time.Now().Add(within); ; {
		if err := call(); err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	for _, n := range s.nodes.list() {
		for _, ty := range n.Types {
			if ty.Nacked != "" {
				t.Errorf("grpc-go refused %s: %s", ty.TypeURL, ty.Nacked)
			}
		}
	}
}
