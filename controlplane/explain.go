package controlplane

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"

	"github.com/meshferry/meshferry/controlplane/catalog"
	"github.com/meshferry/meshferry/controlplane/istio"
	"github.com/meshferry/meshferry/registry"
	"github.com/meshferry/meshferry/rewrite"
)

// Explanation is which route a call would take, by the folder alone.
type Explanation struct {
	Service string    `json:"service"`
	Host    string    `json:"host"`
	Path    string    `json:"path"`
	Rule    string    `json:"rule,omitempty"`   // Istio's own name of the VirtualService
	Routes  []RouteOf `json:"routes"`           // in their order, up to the one that is taken
	Others  []string  `json:"others,omitempty"` // routes for other callers only, and for whom
	Taken   bool      `json:"taken"`            // false: no route fits, and the call fails
	To      []ShareOf `json:"to,omitempty"`
	Timeout string    `json:"timeout,omitempty"`
	Retries uint32    `json:"retries"`
	RetryOn string    `json:"retryOn,omitempty"`
	Status  uint32    `json:"status,omitempty"` // of a direct response
	Faults  bool      `json:"faults,omitempty"`
}

// RouteOf is one route that was looked at.
type RouteOf struct {
	Name  string `json:"name"`
	Taken bool   `json:"taken"`
	Why   string `json:"why,omitempty"` // it does not fit
}

// ShareOf is a cluster and its part of the calls.
type ShareOf struct {
	Cluster string            `json:"cluster"`
	Percent float64           `json:"percent"`
	Labels  map[string]string `json:"labels,omitempty"` // of its subset
}

// Caller is what the agent of a caller says of itself: rules with sourceLabels and
// sourceNamespace are for some callers only.
type Caller struct {
	Labels    map[string]string
	Namespace string
}

// Explain tells which route a call of a service would take: the first that fits,
// as agents read them. Attachments are headers; dubbo-method and :method are the
// method, dubbo-group and dubbo-version those of the service, and the path is
// /interface/method.
func Explain(c *istio.Config, s registry.Service, method string, attachments map[string]string, from Caller) Explanation {
	r := index(c)
	host := rewrite.Host(s)
	e := Explanation{Service: s.Key(), Host: host, Path: "/" + s.Interface + "/" + method}
	svc := r.service(host, &catalog.Service{Service: s, Host: host})
	vs := r.virtual[host]
	if vs != nil {
		e.Rule = vs.Ref()
	}
	seen := call{path: e.Path, headers: map[string]string{}}
	for k, v := range attachments {
		seen.headers[k] = v
	}
	for k, v := range map[string]string{"dubbo-method": method, ":method": method, "dubbo-interface": s.Interface, "dubbo-group": s.Group, "dubbo-version": s.Version, ":path": e.Path} {
		seen.headers[k] = v
	}
	caller := &profile{labels: from.Labels, namespace: from.Namespace}
	e.Others = forOthers(vs, caller)
	for _, one := range svc.routes(vs, r.destination, caller, false) {
		ok, why := seen.matches(one.Match)
		e.Routes = append(e.Routes, RouteOf{one.Name, ok, why})
		if !ok {
			continue
		}
		e.take(r, one)
		break
	}
	return e
}

// forOthers are the routes that are not for a caller.
func forOthers(vs *virtualService, caller *profile) []string {
	var list []string
	if vs == nil {
		return nil
	}
	for i, r := range vs.Spec.Http {
		for _, m := range r.Match {
			if caller.fits(m) {
				continue
			}
			text := cmp.Or(r.Name, fmt.Sprintf("http[%d]", i)) + " ("
			for _, k := range slices.Sorted(maps.Keys(m.SourceLabels)) {
				text += k + "=" + m.SourceLabels[k] + " "
			}
			if m.SourceNamespace != "" {
				text += "namespace " + m.SourceNamespace
			}
			list = append(list, strings.TrimSpace(text)+")")
		}
	}
	return list
}

func (e *Explanation) take(r *rules, one *route.Route) {
	e.Taken = true
	e.Faults = len(one.TypedPerFilterConfig) > 0
	if d := one.GetDirectResponse(); d != nil {
		e.Status = d.Status
		return
	}
	a := one.GetRoute()
	if t := a.Timeout.AsDuration(); t > 0 {
		e.Timeout = t.String()
	}
	e.Retries, e.RetryOn = a.RetryPolicy.GetNumRetries().GetValue(), a.RetryPolicy.GetRetryOn()
	if name := a.GetCluster(); name != "" {
		e.To = []ShareOf{{name, 100, r.labels(name)}}
		return
	}
	var sum uint32
	for _, c := range a.GetWeightedClusters().GetClusters() {
		sum += c.Weight.GetValue()
	}
	for _, c := range a.GetWeightedClusters().GetClusters() {
		e.To = append(e.To, ShareOf{c.Name, 100 * float64(c.Weight.GetValue()) / float64(sum), r.labels(c.Name)})
	}
}

// labels are those of the subset that a cluster's name names.
func (r *rules) labels(name string) map[string]string {
	parts := strings.SplitN(name, "|", 4)
	if rule := r.destination[parts[3]]; rule != nil {
		for _, s := range rule.Spec.Subsets {
			if s.Name == parts[2] {
				return s.Labels
			}
		}
	}
	return nil
}
