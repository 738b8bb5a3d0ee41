package controlplane

import (
	"cmp"
	"slices"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	http "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	networking "istio.io/api/networking/v1alpha3"
)

// clusterName is Istio's: subset and port are part of the name.
func clusterName(port uint32, subset, host string) string {
	return "outbound|" + itoa(port) + "|" + subset + "|" + host
}

const httpProtocolOptions = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

func ads() *core.ConfigSource {
	return &core.ConfigSource{
		ConfigSourceSpecifier: &core.ConfigSource_Ads{Ads: &core.AggregatedConfigSource{}},
		ResourceApiVersion:    core.ApiVersion_V3,
		InitialFetchTimeout:   durationpb.New(0),
	}
}

// clusters are the cluster of a host and one for each subset, with their
// endpoints. A policy of a subset replaces that of the rule block by block, as
// Istio merges them.
func (s *service) clusters(rule *destinationRule) ([]*cluster.Cluster, []*endpoint.ClusterLoadAssignment) {
	var policy *networking.TrafficPolicy
	var subsets []*networking.Subset
	if rule != nil {
		policy, subsets = rule.Spec.TrafficPolicy, rule.Spec.Subsets
	}
	list := []*cluster.Cluster{s.cluster("", policy, rule)}
	sets := []*endpoint.ClusterLoadAssignment{s.assignment("", nil)}
	for _, sub := range subsets {
		list = append(list, s.cluster(sub.Name, merge(policy, sub.TrafficPolicy), rule))
		sets = append(sets, s.assignment(sub.Name, sub.Labels))
	}
	if s.dns {
		for i, c := range list {
			c.ClusterDiscoveryType = &cluster.Cluster_Type{Type: cluster.Cluster_STRICT_DNS}
			c.EdsClusterConfig, c.LoadAssignment = nil, sets[i]
		}
		sets = nil
	}
	return list, sets
}

func merge(all, subset *networking.TrafficPolicy) *networking.TrafficPolicy {
	if subset == nil || all == nil {
		return cmp.Or(subset, all)
	}
	return &networking.TrafficPolicy{
		LoadBalancer:     cmp.Or(subset.LoadBalancer, all.LoadBalancer),
		ConnectionPool:   cmp.Or(subset.ConnectionPool, all.ConnectionPool),
		OutlierDetection: cmp.Or(subset.OutlierDetection, all.OutlierDetection),
	}
}

func (s *service) cluster(subset string, p *networking.TrafficPolicy, rule *destinationRule) *cluster.Cluster {
	name := clusterName(s.port, subset, s.host)
	c := &cluster.Cluster{
		Name:                 name,
		ClusterDiscoveryType: &cluster.Cluster_Type{Type: cluster.Cluster_EDS},
		EdsClusterConfig:     &cluster.Cluster_EdsClusterConfig{EdsConfig: ads(), ServiceName: name},
		ConnectTimeout:       durationpb.New(10e9),
		LbPolicy:             cluster.Cluster_LEAST_REQUEST,
		Metadata:             s.metadata(subset, rule),
	}
	balance(c, p.GetLoadBalancer())
	pool(c, p.GetConnectionPool())
	if od := p.GetOutlierDetection(); od != nil {
		c.OutlierDetection = outlier(od)
		if od.MinHealthPercent > 0 {
			c.CommonLbConfig = &cluster.Cluster_CommonLbConfig{HealthyPanicThreshold: &typev3.Percent{Value: float64(od.MinHealthPercent)}}
		}
	}
	return c
}

func (s *service) metadata(subset string, rule *destinationRule) *core.Metadata {
	text := structpb.NewStringValue
	fields := map[string]*structpb.Value{"services": structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{
		structpb.NewStructValue(&structpb.Struct{Fields: map[string]*structpb.Value{"host": text(s.host), "name": text(cmp.Or(s.key, s.host))}}),
	}})}
	if rule != nil {
		fields["config"] = text(rule.Ref())
	}
	if subset != "" {
		fields["subset"] = text(subset)
	}
	return &core.Metadata{FilterMetadata: map[string]*structpb.Struct{"istio": {Fields: fields}}}
}

func balance(c *cluster.Cluster, lb *networking.LoadBalancerSettings) {
	switch lb.GetSimple() {
	case networking.LoadBalancerSettings_ROUND_ROBIN:
		c.LbPolicy = cluster.Cluster_ROUND_ROBIN
	case networking.LoadBalancerSettings_RANDOM:
		c.LbPolicy = cluster.Cluster_RANDOM
	}
	hash := lb.GetConsistentHash()
	if hash == nil {
		return
	}
	if m := hash.GetMaglev(); m != nil {
		c.LbPolicy = cluster.Cluster_MAGLEV
		if m.TableSize > 0 {
			c.LbConfig = &cluster.Cluster_MaglevLbConfig_{MaglevLbConfig: &cluster.Cluster_MaglevLbConfig{TableSize: wrapperspb.UInt64(m.TableSize)}}
		}
		return
	}
	//lint:ignore SA1019 what is deprecated is still written
	size := cmp.Or(hash.GetRingHash().GetMinimumRingSize(), hash.GetMinimumRingSize(), 1024)
	c.LbPolicy = cluster.Cluster_RING_HASH
	c.LbConfig = &cluster.Cluster_RingHashLbConfig_{RingHashLbConfig: &cluster.Cluster_RingHashLbConfig{MinimumRingSize: wrapperspb.UInt64(size)}}
}

// pool sets limits; without any they are as large as can be, as istiod sends them
// (Envoy's own default is 1024).
func pool(c *cluster.Cluster, p *networking.ConnectionPoolSettings) {
	most := func(n int32) *wrapperspb.UInt32Value {
		if n > 0 {
			return wrapperspb.UInt32(uint32(n))
		}
		return wrapperspb.UInt32(1<<32 - 1)
	}
	tcp, h := p.GetTcp(), p.GetHttp()
	c.CircuitBreakers = &cluster.CircuitBreakers{Thresholds: []*cluster.CircuitBreakers_Thresholds{{
		MaxConnections: most(tcp.GetMaxConnections()), MaxPendingRequests: most(h.GetHttp1MaxPendingRequests()),
		MaxRequests: most(h.GetHttp2MaxRequests()), MaxRetries: most(h.GetMaxRetries()),
	}}}
	if tcp.GetConnectTimeout() != nil {
		c.ConnectTimeout = tcp.ConnectTimeout
	}
	if k := tcp.GetTcpKeepalive(); k != nil {
		keep := &core.TcpKeepalive{}
		if k.Probes > 0 {
			keep.KeepaliveProbes = wrapperspb.UInt32(k.Probes)
		}
		if k.Time != nil {
			keep.KeepaliveTime = wrapperspb.UInt32(uint32(k.Time.Seconds))
		}
		if k.Interval != nil {
			keep.KeepaliveInterval = wrapperspb.UInt32(uint32(k.Interval.Seconds))
		}
		c.UpstreamConnectionOptions = &cluster.UpstreamConnectionOptions{TcpKeepalive: keep}
	}
	idle := cmp.Or(h.GetIdleTimeout(), tcp.GetIdleTimeout())
	if idle == nil && h.GetMaxRequestsPerConnection() == 0 {
		return
	}
	common := &core.HttpProtocolOptions{IdleTimeout: idle}
	if n := h.GetMaxRequestsPerConnection(); n > 0 {
		common.MaxRequestsPerConnection = wrapperspb.UInt32(uint32(n))
	}
	c.TypedExtensionProtocolOptions = map[string]*anypb.Any{httpProtocolOptions: pack(&http.HttpProtocolOptions{
		CommonHttpProtocolOptions: common,
		UpstreamProtocolOptions: &http.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: &http.HttpProtocolOptions_ExplicitHttpConfig{
			ProtocolConfig: &http.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions{HttpProtocolOptions: &core.Http1ProtocolOptions{}},
		}},
	})}
}

func outlier(od *networking.OutlierDetection) *cluster.OutlierDetection {
	out := &cluster.OutlierDetection{
		Interval: od.Interval, BaseEjectionTime: od.BaseEjectionTime,
		EnforcingSuccessRate: wrapperspb.UInt32(0),
	}
	enforce := func(n *wrapperspb.UInt32Value) (limit, percent *wrapperspb.UInt32Value) {
		if n.GetValue() == 0 {
			return n, wrapperspb.UInt32(0)
		}
		return n, wrapperspb.UInt32(100)
	}
	if od.Consecutive_5XxErrors != nil {
		out.Consecutive_5Xx, out.EnforcingConsecutive_5Xx = enforce(od.Consecutive_5XxErrors)
	}
	if od.ConsecutiveGatewayErrors != nil {
		out.ConsecutiveGatewayFailure, out.EnforcingConsecutiveGatewayFailure = enforce(od.ConsecutiveGatewayErrors)
	}
	if od.SplitExternalLocalOriginErrors {
		out.SplitExternalLocalOriginErrors = true
		out.EnforcingLocalOriginSuccessRate = wrapperspb.UInt32(0)
		if od.ConsecutiveLocalOriginFailures != nil {
			out.ConsecutiveLocalOriginFailure, out.EnforcingConsecutiveLocalOriginFailure = enforce(od.ConsecutiveLocalOriginFailures)
		}
	}
	if od.MaxEjectionPercent > 0 {
		out.MaxEjectionPercent = wrapperspb.UInt32(uint32(od.MaxEjectionPercent))
	}
	return out
}

// assignment lists the endpoints with these labels, by locality.
func (s *service) assignment(subset string, labels map[string]string) *endpoint.ClusterLoadAssignment {
	a := &endpoint.ClusterLoadAssignment{ClusterName: clusterName(s.port, subset, s.host)}
	for _, e := range s.endpoints {
		if !e.has(labels) {
			continue
		}
		i := slices.IndexFunc(a.Endpoints, func(l *endpoint.LocalityLbEndpoints) bool {
			return l.Locality.Region == e.locality.Region && l.Locality.Zone == e.locality.Zone && l.Locality.SubZone == e.locality.SubZone
		})
		if i < 0 {
			i = len(a.Endpoints)
			a.Endpoints = append(a.Endpoints, &endpoint.LocalityLbEndpoints{
				Locality:            &core.Locality{Region: e.locality.Region, Zone: e.locality.Zone, SubZone: e.locality.SubZone},
				LoadBalancingWeight: wrapperspb.UInt32(0),
			})
		}
		l := a.Endpoints[i]
		l.LoadBalancingWeight.Value += e.weight
		l.LbEndpoints = append(l.LbEndpoints, &endpoint.LbEndpoint{
			HostIdentifier:      &endpoint.LbEndpoint_Endpoint{Endpoint: &endpoint.Endpoint{Address: socket(e.address, e.port)}},
			LoadBalancingWeight: wrapperspb.UInt32(e.weight),
		})
	}
	return a
}

func socket(address string, port uint32) *core.Address {
	return &core.Address{Address: &core.Address_SocketAddress{SocketAddress: &core.SocketAddress{
		Address: address, PortSpecifier: &core.SocketAddress_PortValue{PortValue: port},
	}}}
}

// pack is anypb.New for messages of ours, always the same bytes.
func pack(m proto.Message) *anypb.Any {
	return &anypb.Any{TypeUrl: "type.googleapis.com/" + string(m.ProtoReflect().Descriptor().FullName()), Value: marshal(m)}
}

func marshal(m proto.Message) []byte {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		panic("marshal a message of our own: " + err.Error()) // invalid UTF-8: names were checked
	}
	return b
}
