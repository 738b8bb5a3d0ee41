package controlplane

import (
	"cmp"
	"maps"
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

	"github.com/meshferry/meshferry/controlplane/catalog"
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

// clusters are the cluster of a host and one for each subset. A policy of a subset
// replaces that of the rule block by block, as Istio merges them.
func (s *service) clusters(rule *destinationRule) []*cluster.Cluster {
	list := []*cluster.Cluster{}
	s.each(rule, func(subset string, _ map[string]string, p *networking.TrafficPolicy) {
		list = append(list, s.cluster(subset, p, rule))
	})
	if s.dns {
		for i, a := range s.assignments(rule, &profile{}) {
			list[i].ClusterDiscoveryType = &cluster.Cluster_Type{Type: cluster.Cluster_STRICT_DNS}
			list[i].EdsClusterConfig, list[i].LoadAssignment = nil, a
		}
	}
	return list
}

// assignments are the endpoints of the clusters, for nodes like p.
func (s *service) assignments(rule *destinationRule, p *profile) []*endpoint.ClusterLoadAssignment {
	list := []*endpoint.ClusterLoadAssignment{}
	s.each(rule, func(subset string, labels map[string]string, policy *networking.TrafficPolicy) {
		list = append(list, s.assignment(subset, labels, localities(policy), p))
	})
	return list
}

func (s *service) each(rule *destinationRule, yield func(subset string, labels map[string]string, p *networking.TrafficPolicy)) {
	if rule == nil {
		yield("", nil, nil)
		return
	}
	yield("", nil, s.policy(rule.Spec.TrafficPolicy))
	for _, sub := range rule.Spec.Subsets {
		yield(sub.Name, sub.Labels, s.policy(merge(rule.Spec.TrafficPolicy, sub.TrafficPolicy)))
	}
}

// policy is p with what it says of the service's port, which replaces all else.
func (s *service) policy(p *networking.TrafficPolicy) *networking.TrafficPolicy {
	for _, one := range p.GetPortLevelSettings() {
		if one.Port.GetNumber() == s.port {
			return &networking.TrafficPolicy{LoadBalancer: one.LoadBalancer, ConnectionPool: one.ConnectionPool, OutlierDetection: one.OutlierDetection}
		}
	}
	return p
}

func merge(all, subset *networking.TrafficPolicy) *networking.TrafficPolicy {
	if subset == nil || all == nil {
		return cmp.Or(subset, all)
	}
	ports := subset.PortLevelSettings
	if len(ports) == 0 {
		ports = all.PortLevelSettings
	}
	return &networking.TrafficPolicy{
		LoadBalancer:      cmp.Or(subset.LoadBalancer, all.LoadBalancer),
		ConnectionPool:    cmp.Or(subset.ConnectionPool, all.ConnectionPool),
		OutlierDetection:  cmp.Or(subset.OutlierDetection, all.OutlierDetection),
		PortLevelSettings: ports,
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
	if l := localities(p); len(l.GetDistribute())+len(l.GetFailover())+len(l.GetFailoverPriority()) > 0 {
		c.CommonLbConfig = cmp.Or(c.CommonLbConfig, &cluster.Cluster_CommonLbConfig{})
		c.CommonLbConfig.LocalityConfigSpecifier = &cluster.Cluster_CommonLbConfig_LocalityWeightedLbConfig_{
			LocalityWeightedLbConfig: &cluster.Cluster_CommonLbConfig_LocalityWeightedLbConfig{}}
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

// assignment lists the endpoints with these labels, by locality, and orders them
// for nodes like p, as istiod does.
func (s *service) assignment(subset string, labels map[string]string, setting *networking.LocalityLoadBalancerSetting, p *profile) *endpoint.ClusterLoadAssignment {
	a := &endpoint.ClusterLoadAssignment{ClusterName: clusterName(s.port, subset, s.host)}
	for _, e := range s.endpoints {
		if !e.has(labels) {
			continue
		}
		far := priority(setting, p, e)
		i := slices.IndexFunc(a.Endpoints, func(l *endpoint.LocalityLbEndpoints) bool {
			return placeOf(l) == e.locality && l.Priority == far
		})
		if i < 0 {
			i = len(a.Endpoints)
			a.Endpoints = append(a.Endpoints, &endpoint.LocalityLbEndpoints{
				Locality:            &core.Locality{Region: e.locality.Region, Zone: e.locality.Zone, SubZone: e.locality.SubZone},
				LoadBalancingWeight: wrapperspb.UInt32(0), Priority: far,
			})
		}
		l := a.Endpoints[i]
		l.LoadBalancingWeight.Value += e.weight
		l.LbEndpoints = append(l.LbEndpoints, &endpoint.LbEndpoint{
			HostIdentifier:      &endpoint.LbEndpoint_Endpoint{Endpoint: &endpoint.Endpoint{Address: socket(e.address, e.port)}},
			LoadBalancingWeight: wrapperspb.UInt32(e.weight),
		})
	}
	switch {
	case setting == nil || p.locality == (catalog.Locality{}) && len(p.labels) == 0:
	case setting.Distribute != nil:
		distribute(a, setting.Distribute, p.locality)
	default:
		order := (len(setting.FailoverPriority) == 0 || len(setting.Failover) > 0) && p.locality != (catalog.Locality{})
		var levels []uint32
		for _, l := range a.Endpoints {
			if order {
				l.Priority = l.Priority*5 + nearness(p.locality, placeOf(l), setting.Failover)
			}
			levels = append(levels, l.Priority)
		}
		slices.Sort(levels) // priorities are 0 to N, without a gap
		levels = slices.Compact(levels)
		for _, l := range a.Endpoints {
			l.Priority = uint32(slices.Index(levels, l.Priority))
		}
	}
	return a
}

func placeOf(l *endpoint.LocalityLbEndpoints) catalog.Locality {
	return catalog.Locality{Region: l.Locality.Region, Zone: l.Locality.Zone, SubZone: l.Locality.SubZone}
}

// distribute gives localities the shares that are written for nodes at a place;
// those without one are left out.
func distribute(a *endpoint.ClusterLoadAssignment, list []*networking.LocalityLoadBalancerSetting_Distribute, from catalog.Locality) {
	for _, d := range list {
		if !covers(d.From, from) {
			continue
		}
		left := a.Endpoints
		a.Endpoints = nil
		for _, pattern := range slices.Backward(slices.Sorted(maps.Keys(d.To))) { // what says more before what says less
			var chosen, others []*endpoint.LocalityLbEndpoints
			var sum uint64
			for _, l := range left {
				if covers(pattern, placeOf(l)) {
					chosen, sum = append(chosen, l), sum+uint64(l.LoadBalancingWeight.Value)
				} else {
					others = append(others, l)
				}
			}
			left = others
			for _, l := range chosen {
				share := (uint64(l.LoadBalancingWeight.Value)*uint64(d.To[pattern]) + sum - 1) / max(sum, 1)
				if l.LoadBalancingWeight.Value = uint32(share); share > 0 {
					a.Endpoints = append(a.Endpoints, l)
				}
			}
		}
		slices.SortFunc(a.Endpoints, func(x, y *endpoint.LocalityLbEndpoints) int {
			p, q := placeOf(x), placeOf(y)
			return cmp.Or(cmp.Compare(p.Region, q.Region), cmp.Compare(p.Zone, q.Zone), cmp.Compare(p.SubZone, q.SubZone))
		})
		return
	}
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
