package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/meshferry/meshferry/agent"
	"github.com/meshferry/meshferry/agent/config"
	"github.com/meshferry/meshferry/controlplane"
	"github.com/meshferry/meshferry/controlplane/adapter"
	"github.com/meshferry/meshferry/controlplane/catalog"
	"github.com/meshferry/meshferry/registry"
)

// serving are the flags of the commands that follow registries and serve xDS.
type serving struct {
	registries          []string
	file                string
	listen, admin       string
	cert, key, clientCA string
	hold                time.Duration
	logLevel, logFormat string
}

func (s *serving) flags(cmd *cobra.Command, listen, admin string) {
	f := cmd.Flags()
	f.StringArrayVar(&s.registries, "registry", nil, "registry as [name=]URL, repeatable:\nzookeeper://h1:2181,h2:2181/root, nacos://h1:8848 or local:///directory")
	f.StringVar(&s.file, "config", "", "YAML file with registries, as the agent's (docs/configuration.md): for user and password;\nits other settings do not count here")
	f.StringVar(&s.listen, "listen", listen, "where xDS is served")
	f.StringVar(&s.admin, "admin", admin, "where /readyz, /metrics and /debug are served; empty: nowhere")
	f.StringVar(&s.cert, "tls-cert", "", "certificate of the server, PEM; read again when it changes")
	f.StringVar(&s.key, "tls-key", "", "its key")
	f.StringVar(&s.clientCA, "tls-client-ca", "", "authority of the certificates that clients must show (mTLS)")
	f.DurationVar(&s.hold, "empty-hold", 30*time.Second, "how long the last providers of a service stay when they are suddenly all gone")
	f.StringVar(&s.logLevel, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&s.logFormat, "log-format", "text", "text or json")
	f.SortFlags = false
}

func (s *serving) tls() (*controlplane.TLS, error) {
	switch {
	case s.cert == "" && s.key == "" && s.clientCA == "":
		return nil, nil
	case s.cert == "" || s.key == "":
		return nil, usageError{errors.New("--tls-cert and --tls-key belong together")}
	}
	return &controlplane.TLS{Cert: s.cert, Key: s.key, ClientCA: s.clientCA}, nil
}

// server is what the two commands run.
type server interface {
	Run(ctx context.Context, listen, admin net.Listener) error
}

// command is one of the two: it opens the registries and listeners, and runs what
// open makes of them until a signal.
func (s *serving) command(cmd *cobra.Command, listen, admin string, open func(registries []catalog.Named, t *controlplane.TLS, log *slog.Logger) (server, error)) {
	s.flags(cmd, listen, admin)
	cmd.Args = usage(cobra.NoArgs)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		t, err := s.tls()
		if err != nil {
			return err
		}
		var level slog.LevelVar
		if err := level.UnmarshalText([]byte(s.logLevel)); err != nil {
			return usageError{fmt.Errorf("--log-level: %w", err)}
		}
		log := logger(cmd.ErrOrStderr(), s.logFormat, &level)
		clients, named, err := s.open(log)
		if err != nil {
			return err
		}
		one, err := open(named, t, log)
		if err != nil {
			return err
		}
		onListen, err := net.Listen("tcp", s.listen)
		if err != nil {
			return fmt.Errorf("--listen: %w", err)
		}
		var onAdmin net.Listener
		if s.admin != "" {
			if onAdmin, err = net.Listen("tcp", s.admin); err != nil {
				onListen.Close()
				return fmt.Errorf("--admin: %w", err)
			}
		}
		ctx, stop := untilSignal(cmd.Context(), log, func() {})
		defer stop()
		g, ctx := errgroup.WithContext(ctx)
		for _, r := range clients {
			g.Go(func() error { return r.Run(ctx) })
		}
		log.Info("listening", "xds", onListen.Addr().String(), "admin", s.admin)
		g.Go(func() error { return one.Run(ctx, onListen, onAdmin) })
		return g.Wait()
	}
}

// open makes clients of the registries.
func (s *serving) open(log *slog.Logger) (clients []registry.Registry, named []catalog.Named, err error) {
	flags := map[string][]string{"registry": s.registries, "address": {"127.0.0.1"}} // they publish nothing
	if len(s.registries) == 0 {
		delete(flags, "registry") // MESHFERRY_REGISTRY
	}
	if s.file != "" {
		flags["config"] = []string{s.file}
	}
	if len(s.registries) == 0 && s.file == "" && os.Getenv("MESHFERRY_REGISTRY") == "" && os.Getenv("MESHFERRY_CONFIG") == "" {
		return nil, nil, usageError{errors.New("no registry: give --registry zookeeper://host:2181, MESHFERRY_REGISTRY, or --config with registries")}
	}
	cfg, err := config.Read(flags)
	if err != nil {
		return nil, nil, err
	}
	for _, r := range cfg.Registries {
		client, err := agent.OpenReader(r, log.With("registry", r.Name))
		if err != nil {
			return nil, nil, fmt.Errorf("registry %s: %w", r.Name, err)
		}
		reader, ok := client.(catalog.Registry)
		if !ok {
			return nil, nil, fmt.Errorf("registry %s: %s cannot be listed in this version", r.Name, r.Backend)
		}
		clients, named = append(clients, client), append(named, catalog.Named{Name: r.Name, Registry: reader})
	}
	return clients, named, nil
}

func newControlPlane() *cobra.Command {
	var s serving
	var folder string
	cmd := &cobra.Command{
		Use:   "control-plane",
		Short: "Serve routes to agents, gRPC clients and Envoy over xDS",
		Long: `Serve xDS without Kubernetes: the services that registries have, and what a folder
of Istio's resources (VirtualService, DestinationRule, ServiceEntry, WorkloadEntry)
says about them. The folder is read again when it changes; one with a mistake is
refused whole, and the last good one is served. It keeps no state: run several and
name all of them to the agents. 'meshferry routes check' tells beforehand what
would be refused. See docs/xds.md.`,
		Example: `  meshferry control-plane --registry zookeeper://10.0.0.9:2181 --folder /etc/meshferry/routes
  meshferry control-plane --registry zookeeper://10.0.0.9:2181 --folder routes --listen 0.0.0.0:15010 --tls-cert s.pem --tls-key s.key --tls-client-ca ca.pem`,
	}
	cmd.Flags().StringVar(&folder, "folder", "", "folder of Istio's resources; empty: none, every service has its default route")
	s.command(cmd, "127.0.0.1:15010", "127.0.0.1:15014", func(registries []catalog.Named, t *controlplane.TLS, log *slog.Logger) (server, error) {
		return controlplane.New(controlplane.Options{Registries: registries, Folder: folder, Hold: s.hold, TLS: t, Log: log})
	})
	return cmd
}

func newAdapter() *cobra.Command {
	var s serving
	var namespace string
	cmd := &cobra.Command{
		Use:   "adapter",
		Short: "Tell istiod the providers that registries have",
		Long: `Serve an unmodified istiod, with or without Kubernetes, the services that registries
have as ServiceEntries, over MCP-over-xDS (configSources of its mesh
configuration). An outage of a registry takes nothing away. See docs/xds.md.`,
		Example: `  meshferry adapter --registry zookeeper://10.0.0.9:2181
  # in istiod's mesh configuration:  configSources: [{address: "xds://127.0.0.1:15999"}]`,
	}
	cmd.Flags().StringVar(&namespace, "namespace", "dubbo", "namespace of the ServiceEntries")
	s.command(cmd, "127.0.0.1:15999", "127.0.0.1:15998", func(registries []catalog.Named, t *controlplane.TLS, log *slog.Logger) (server, error) {
		return adapter.New(adapter.Options{Registries: registries, Namespace: namespace, Hold: s.hold, TLS: t, Log: log})
	})
	return cmd
}
