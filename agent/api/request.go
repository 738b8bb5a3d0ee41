package api

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/meshferry/meshferry/agent/workload"
	"github.com/meshferry/meshferry/registry"
)

// serviceFields name a service, as a Dubbo URL or by its parts, and who asks.
type serviceFields struct {
	URL         string            `json:"url"`
	Application string            `json:"application"`
	Interface   string            `json:"interface"`
	Group       *string           `json:"group"`
	Version     *string           `json:"version"`
	Protocol    string            `json:"protocol"`
	Host        string            `json:"host"`
	Params      map[string]string `json:"params"`
	Methods     []string          `json:"methods"`
	Workload    string            `json:"workload"`
	Client      string            `json:"client"`
}

// publicationFields is one publication of a request.
type publicationFields struct {
	serviceFields
	Port       int      `json:"port"`
	Path       string   `json:"path"`
	Registries []string `json:"registries"`
}

// publishRequest is the body of publish and unpublish: one publication, or a
// batch whose items take workload, client, application and registries from
// beside it when they have none.
type publishRequest struct {
	publicationFields
	Publications []publicationFields `json:"publications"`
	Wait         string              `json:"wait"`
}

// subscribeRequest is the body of subscribe and unsubscribe.
type subscribeRequest struct {
	serviceFields
	Categories []string `json:"categories"`
}

// leaseRequest is the body of a lease; in PUT the workload stands in the path.
type leaseRequest struct {
	Workload string `json:"workload"`
	TTL      string `json:"ttl"`
}

const (
	maxBatch      = 500
	defaultWait   = 2 * time.Second
	maxWait       = 30 * time.Second
	defaultWatch  = 30 * time.Second
	maxWatch      = 5 * time.Minute
	defaultTTL    = 15 * time.Second
	minTTL        = time.Second
	maxTTL        = 10 * time.Minute
	maxParameters = 256
)

func invalid(detail, format string, args ...any) error {
	return refuse("invalid", detail, format, args...)
}

// items are the publications of the request, one or many.
func (r publishRequest) items() (list []publicationFields, batch bool, err error) {
	if r.Publications == nil {
		return []publicationFields{r.publicationFields}, false, nil
	}
	top := r.publicationFields
	if top.URL != "" || top.parts() || top.Port != 0 || top.Path != "" {
		return nil, true, invalid("beside publications stand workload, client, application, registries and wait only",
			"a batch and a single publication in one request")
	}
	if len(r.Publications) == 0 || len(r.Publications) > maxBatch {
		return nil, true, invalid("", "a batch has 1 to %d publications, not %d", maxBatch, len(r.Publications))
	}
	list = slices.Clone(r.Publications)
	for i := range list {
		p := &list[i]
		if p.Workload == "" {
			p.Workload = top.Workload
		}
		if p.Client == "" {
			p.Client = top.Client
		}
		if p.Application == "" && p.URL == "" {
			p.Application = top.Application
		}
		if p.Registries == nil {
			p.Registries = top.Registries
		}
	}
	return list, true, nil
}

// parts tells whether the service is named by its parts.
func (f serviceFields) parts() bool {
	return f.Interface != "" || f.Group != nil || f.Version != nil || f.Protocol != "" || f.Host != "" || f.Params != nil || f.Methods != nil
}

// publication makes what the store takes; the store completes and checks it.
// known are the names of the registries.
func (f publicationFields) publication(known []string) (workload.Publication, error) {
	u, err := f.url("dubbo")
	if err != nil {
		return workload.Publication{}, err
	}
	if f.URL == "" {
		u.Port = f.Port
		if f.Path != "" {
			u.Path = f.Path
		}
		u = u.With("side", "provider")
	} else if f.Port != 0 || f.Path != "" {
		return workload.Publication{}, both()
	}
	id := workload.Identity{Workload: f.Workload, Protocol: u.Protocol, Service: u.Service(), Path: u.Path, Port: u.Port}
	if id.Path == "" {
		id.Path = id.Service.Interface
	}
	if err := checkService(id.Service); err != nil {
		return workload.Publication{}, err
	}
	registries := slices.Compact(slices.Sorted(slices.Values(f.Registries)))
	for _, r := range registries {
		if !slices.Contains(known, r) {
			return workload.Publication{}, invalid("registries of this agent: "+strings.Join(known, ", "), "no registry %.40q in the agent's configuration", r)
		}
	}
	return workload.Publication{Identity: id, URL: u, Registries: registries, Client: f.Client}, nil
}

// match makes what unpublish removes: an exact URL, or fields of which a missing
// one matches any.
func (f publicationFields) match() (workload.Match, error) {
	m, err := f.serviceFields.match()
	if err == nil && m.URL != nil && (f.Port != 0 || f.Path != "") {
		err = both()
	}
	m.Port, m.Path = f.Port, f.Path
	return m, err
}

func (f serviceFields) match() (workload.Match, error) {
	m := workload.Match{Workload: f.Workload}
	if f.URL != "" {
		u, err := f.url("")
		m.URL = &u
		return m, err
	}
	m.Application, m.Protocol, m.Interface, m.Group, m.Version = f.Application, f.Protocol, f.Interface, f.Group, f.Version
	return m, nil
}

// subscription makes what the store takes. A provider:// URL subscribes too: to
// the rules about itself.
func (r subscribeRequest) subscription() (workload.Subscription, error) {
	u, err := r.url("consumer")
	if err != nil {
		return workload.Subscription{}, err
	}
	protocol := u.Param("protocol")
	if r.URL == "" {
		u.Protocol, protocol = "consumer", r.Protocol
		u = u.With("side", "consumer")
	}
	if u.Protocol != "consumer" && u.Protocol != "provider" {
		return workload.Subscription{}, invalid("give a consumer:// URL", "a %.40s:// URL cannot be subscribed", u.Protocol)
	}
	if u.Protocol == "provider" {
		protocol = workload.ProviderRules
	}
	service := u.Service()
	if err := checkService(service); err != nil {
		return workload.Subscription{}, err
	}
	asked := r.Categories
	if asked == nil {
		asked = strings.Split(u.Param("category"), ",")
	}
	return workload.Subscription{
		Workload: r.Workload, Protocol: protocol, Service: service, URL: u, Client: r.Client, Categories: categories(asked),
	}, nil
}

// categories are those of the asked ones that exist; all when none does (a
// consumer's own registration says category=consumers).
func categories(asked []string) []string {
	all := []string{"providers", "configurators", "routers"}
	known := slices.DeleteFunc(slices.Clone(all), func(c string) bool { return !slices.Contains(asked, c) })
	if len(known) == 0 {
		return all
	}
	return known
}

// url is the given URL, or one made of the parts, without a port.
func (f serviceFields) url(protocol string) (registry.URL, error) {
	if f.URL != "" {
		if f.parts() || f.Application != "" {
			return registry.URL{}, both()
		}
		return registry.ParseURL(f.URL)
	}
	if f.Interface == "" {
		return registry.URL{}, invalid("give url, or interface and the other fields", "no url and no interface")
	}
	if f.Protocol != "" {
		protocol = f.Protocol
	}
	u := registry.URL{Protocol: protocol, Host: f.Host, Path: f.Interface}
	params := map[string]string{}
	maps.Copy(params, f.Params)
	if len(params) > maxParameters {
		return u, invalid("", "more than %d params", maxParameters)
	}
	own := map[string]string{"interface": f.Interface, "application": f.Application, "methods": strings.Join(f.Methods, ",")}
	if f.Group != nil {
		own["group"] = *f.Group
	}
	if f.Version != nil {
		own["version"] = *f.Version
	}
	for k, v := range own {
		if _, twice := params[k]; twice && v != "" {
			return u, invalid("", "%q is given as a field and in params", k)
		}
		if v != "" {
			params[k] = v
		}
	}
	for _, k := range slices.Sorted(maps.Keys(params)) {
		if k == "" || strings.ContainsAny(k, "&=?#") || strings.ContainsAny(params[k], "&#") {
			return u, invalid("values are not encoded in a Dubbo URL", "parameter %q=%q contains a separator", k, params[k])
		}
		u = u.With(k, params[k])
	}
	return u, nil
}

func both() error {
	return invalid("beside url stand workload, client, registries, categories and wait only", "a url and fields in one request")
}

// checkService errs for a service that no registry could hold.
func checkService(s registry.Service) error {
	if err := registry.CheckInterface(s.Interface); err != nil {
		return invalid("", "%v", err)
	}
	for name, v := range map[string]string{"group": s.Group, "version": s.Version} {
		if len(v) > 256 || strings.ContainsAny(v, "/?&=:# ") {
			return invalid("", "bad %s %.40q", name, v)
		}
	}
	return nil
}

// span reads a duration of a request; empty is the default.
func span(name, text string, otherwise, least, most time.Duration) (time.Duration, error) {
	if text == "" {
		return otherwise, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, invalid(`like "2s" or "500ms"`, "%s %.40q is not a duration", name, text)
	}
	if d < least || d > most {
		return 0, invalid("", "%s %v is not in %v..%v", name, d, least, most)
	}
	return d, nil
}
