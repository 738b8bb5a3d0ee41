package controlplane

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	networking "istio.io/api/networking/v1alpha3"

	"github.com/meshferry/meshferry/controlplane/catalog"
	"github.com/meshferry/meshferry/controlplane/istio"
)

// profile is what resources can depend on of a node. The zero profile is a node
// that says nothing.
type profile struct {
	labels    map[string]string
	namespace string
	locality  catalog.Locality
}

// profileOf reads the metadata LABELS and NAMESPACE, as istiod does, and the
// locality.
func profileOf(n *core.Node) *profile {
	p := &profile{labels: map[string]string{}}
	for k, v := range n.GetMetadata().GetFields()["LABELS"].GetStructValue().GetFields() {
		p.labels[k] = v.GetStringValue()
	}
	p.namespace = n.GetMetadata().GetFields()["NAMESPACE"].GetStringValue()
	if parts := strings.Split(n.GetId(), "~"); p.namespace == "" && len(parts) == 4 {
		if dot := strings.LastIndexByte(parts[2], '.'); dot >= 0 {
			p.namespace = parts[2][dot+1:]
		}
	}
	l := n.GetLocality()
	p.locality = catalog.Locality{Region: l.GetRegion(), Zone: l.GetZone(), SubZone: l.GetSubZone()}
	return p
}

// fits tells whether a match is for nodes like this.
func (p *profile) fits(m *networking.HTTPMatchRequest) bool {
	return contains(p.labels, m.SourceLabels) && (m.SourceNamespace == "" || m.SourceNamespace == p.namespace)
}

// chooses tells whether a match is for some nodes only.
func chooses(m *networking.HTTPMatchRequest) bool {
	return len(m.SourceLabels) > 0 || m.SourceNamespace != ""
}

// dependence is what of a node the resources of a folder depend on.
type dependence struct {
	routes    map[string]bool                // hosts whose routes do,
	matches   []*networking.HTTPMatchRequest // by these, each once
	endpoints map[string]bool                // hosts whose endpoints do, by locality
	labels    []string                       // and by these labels
}

func depends(c *istio.Config) dependence {
	d := dependence{routes: map[string]bool{}, endpoints: map[string]bool{}}
	seen := map[string]*networking.HTTPMatchRequest{}
	for _, o := range c.VirtualServices {
		for _, r := range o.Spec.Http {
			for _, m := range r.Match {
				if !chooses(m) {
					continue
				}
				for _, h := range o.Spec.Hosts {
					d.routes[istio.Host(h)] = true
				}
				id := strconv.Quote(m.SourceNamespace)
				for _, k := range slices.Sorted(maps.Keys(m.SourceLabels)) {
					id += " " + strconv.Quote(k) + "=" + strconv.Quote(m.SourceLabels[k])
				}
				seen[id] = m
			}
		}
	}
	for _, id := range slices.Sorted(maps.Keys(seen)) {
		d.matches = append(d.matches, seen[id])
	}
	for _, o := range c.DestinationRules {
		policies := []*networking.TrafficPolicy{o.Spec.TrafficPolicy}
		for _, s := range o.Spec.Subsets {
			policies = append(policies, merge(o.Spec.TrafficPolicy, s.TrafficPolicy))
		}
		for _, p := range policies {
			l := localities(p)
			if l == nil {
				continue
			}
			d.endpoints[istio.Host(o.Spec.Host)] = true
			for _, label := range l.FailoverPriority {
				if key, _, fixed := strings.Cut(label, "="); !fixed {
					d.labels = append(d.labels, key)
				}
			}
		}
	}
	slices.Sort(d.labels)
	d.labels = slices.Compact(d.labels)
	return d
}

// same tells whether nodes are told apart alike.
func (d dependence) same(other dependence) bool {
	return slices.EqualFunc(d.matches, other.matches, func(a, b *networking.HTTPMatchRequest) bool {
		return a.SourceNamespace == b.SourceNamespace && maps.Equal(a.SourceLabels, b.SourceLabels)
	}) && slices.Equal(d.labels, other.labels) && (len(d.endpoints) > 0) == (len(other.endpoints) > 0)
}

// routeGroup and endpointGroup name those whose resources are the same; empty: of
// a node that says nothing.
func (d dependence) routeGroup(p *profile) string {
	bits := make([]byte, len(d.matches))
	for i, m := range d.matches {
		bits[i] = '0'
		if p.fits(m) {
			bits[i] = '1'
		}
	}
	return strings.TrimRight(string(bits), "0")
}

func (d dependence) endpointGroup(p *profile) string {
	if len(d.endpoints) == 0 {
		return ""
	}
	var values []string
	said := p.locality != catalog.Locality{}
	for _, key := range d.labels {
		v := p.label(key)
		values, said = append(values, strconv.Quote(v)), said || v != ""
	}
	if !said {
		return ""
	}
	return p.locality.Region + "/" + p.locality.Zone + "/" + p.locality.SubZone + " " + strings.Join(values, " ")
}

// label is that of a node or, by Kubernetes' and Istio's names, a part of its
// locality.
func (p *profile) label(key string) string { return cmp.Or(p.labels[key], ofTopology(key, p.locality)) }

func ofTopology(key string, l catalog.Locality) string {
	switch key {
	case "topology.kubernetes.io/region":
		return l.Region
	case "topology.kubernetes.io/zone":
		return l.Zone
	case "topology.istio.io/subzone":
		return l.SubZone
	}
	return ""
}

// localities is the setting that orders endpoints for a node: that of the rule
// or, with outlier detection, Istio's default. nil: none.
func localities(p *networking.TrafficPolicy) *networking.LocalityLoadBalancerSetting {
	l := p.GetLoadBalancer().GetLocalityLbSetting()
	switch {
	case l.GetEnabled() != nil && !l.Enabled.Value:
		return nil
	case l.GetDistribute() != nil:
		return l
	case p.GetOutlierDetection() == nil: // or nobody would notice that endpoints fail
		return nil
	case l == nil:
		return &networking.LocalityLoadBalancerSetting{}
	}
	return l
}

// priority is how far from a node an endpoint is by labels: 0 is where all are
// equal.
func priority(l *networking.LocalityLoadBalancerSetting, p *profile, e endpointOf) uint32 {
	if l.GetDistribute() != nil || len(p.labels) == 0 && p.locality == (catalog.Locality{}) {
		return 0
	}
	for i, label := range l.GetFailoverPriority() {
		key, want, fixed := strings.Cut(label, "=")
		if !fixed {
			want = p.label(key)
		}
		if topology := ofTopology(key, e.locality); topology != want && (topology != "" || !e.has(map[string]string{key: want})) {
			return uint32(len(l.FailoverPriority) - i)
		}
	}
	return 0
}

// nearness is how far from a node a locality is; further are those that no
// failover leads to.
func nearness(from, to catalog.Locality, failover []*networking.LocalityLoadBalancerSetting_Failover) uint32 {
	switch {
	case from == to:
		return 0
	case from.Region == to.Region && from.Zone == to.Zone:
		return 1
	case from.Region == to.Region:
		return 2
	}
	for _, f := range failover {
		if f.From == from.Region && f.To != to.Region {
			return 4
		}
		if f.From == from.Region {
			break
		}
	}
	return 3
}

// covers tells whether a pattern, "region/zone/subzone" with * for the rest, has a
// locality.
func covers(pattern string, l catalog.Locality) bool {
	want := locality(pattern)
	is := func(want, have string) bool { return want == "*" || want == have }
	return is(want.Region, l.Region) && (want.Zone == "" || is(want.Zone, l.Zone)) && (want.SubZone == "" || is(want.SubZone, l.SubZone))
}
