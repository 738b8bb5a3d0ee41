package agent

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/meshferry/meshferry/agent/config"
	"github.com/meshferry/meshferry/agent/xds"
	"github.com/meshferry/meshferry/xdsclient"
)

// istioVersion is what the agent says to istiod: the newest whose answers are in
// the tests. istiod leaves out what older proxies do not understand.
const istioVersion = "1.29.0"

// openRules builds the source of rules that the configuration names, if any.
func (a *Agent) openRules(cfg config.Config, outbound int) error {
	s, err := openXDS(cfg, outbound, a.log.With("part", "xds"))
	if s != nil {
		a.rules = s
	}
	return err
}

// openXDS makes the source of rules, or nil if no server is configured. outbound is
// the port of the outbound listener.
func openXDS(cfg config.Config, outbound int, log *slog.Logger) (*xds.Source, error) {
	x := cfg.XDS
	if len(x.Servers) == 0 {
		return nil, nil
	}
	node, err := nodeOf(cfg, outbound)
	if err != nil {
		return nil, err
	}
	o := xds.Options{
		Client: xdsclient.Options{Node: node, Delta: x.Delta, Path: filepath.Join(cfg.StateDir, "xds.state")},
		Mode:   xds.Mode(x.Mode), Listeners: x.Listeners, Port: x.Port, MeshPorts: cfg.MeshPorts, Log: log,
	}
	switch {
	case len(o.Listeners) == 0: // as istiod names the one for HTTP_PROXY_PORT
		o.Listeners = []string{"127.0.0.1_" + strconv.Itoa(outbound)}
	case slices.Contains(o.Listeners, "*"):
		o.Listeners = nil
	}
	for _, address := range x.Servers {
		s := xdsclient.Server{Address: address}
		if x.TLS.Enabled {
			t := xdsclient.TLSFiles{CA: x.TLS.CAFile, Cert: x.TLS.CertFile, Key: x.TLS.KeyFile, ServerName: x.TLS.ServerName}
			if s.TLS, err = t.Credentials(); err != nil {
				return nil, fmt.Errorf("xds.tls: %w", err)
			}
			if x.TLS.TokenFile != "" {
				s.DialOptions = append(s.DialOptions, grpc.WithPerRPCCredentials(xdsclient.TokenFile(x.TLS.TokenFile)))
			}
		}
		o.Client.Servers = append(o.Client.Servers, s)
	}
	return xds.New(o)
}

// nodeOf introduces the agent as Istio wants it: an id of four parts, and metadata
// that makes istiod answer with one listener at the outbound address (mode sidecar)
// or by name (mode grpc).
func nodeOf(cfg config.Config, outbound int) (*corev3.Node, error) {
	n := cfg.XDS.Node
	name := n.Name
	if name == "" {
		host, err := os.Hostname()
		if err != nil {
			return nil, fmt.Errorf("xds.node.name: %w", err)
		}
		name, _, _ = strings.Cut(host, ".")
	}
	ip := "127.0.0.1" // istiod wants an address; one that is nobody's selects nothing
	if a, err := netip.ParseAddr(cfg.Address); err == nil {
		ip = a.String()
	}
	labels := map[string]any{}
	for _, l := range n.Labels {
		k, v, _ := strings.Cut(l, "=")
		labels[k] = v
	}
	meta := map[string]any{"ISTIO_VERSION": istioVersion, "NAMESPACE": n.Namespace, "LABELS": labels, "INSTANCE_IPS": ip}
	if xds.Mode(cfg.XDS.Mode) == xds.GRPC {
		meta["GENERATOR"] = "grpc"
	} else {
		meta["HTTP_PROXY_PORT"], meta["INTERCEPTION_MODE"] = strconv.Itoa(outbound), "NONE"
	}
	metadata, err := structpb.NewStruct(meta)
	if err != nil {
		return nil, fmt.Errorf("xds.node: %w", err)
	}
	node := &corev3.Node{Id: n.ID, Metadata: metadata, UserAgentName: "meshferry"}
	if node.Id == "" {
		node.Id = fmt.Sprintf("sidecar~%s~%s.%s~%s.svc.cluster.local", ip, name, n.Namespace, n.Namespace)
	}
	if n.Locality != "" {
		parts := append(strings.Split(n.Locality, "/"), "", "")
		node.Locality = &corev3.Locality{Region: parts[0], Zone: parts[1], SubZone: parts[2]}
	}
	return node, nil
}
