package reconcile

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/meshferry/meshferry/agent/workload"
	"github.com/meshferry/meshferry/registry"
	"github.com/meshferry/meshferry/rewrite"
)

// Mode says how the providers of a service are shown.
type Mode string

const (
	Mesh   Mode = "mesh"   // at the agent's address, with marks
	Direct Mode = "direct" // at their own address, without marks: the way back
	Both   Mode = "both"   // each twice; readers that know marks count it once
	Off    Mode = "off"    // not at all
)

// ParseMode reads a mode by its name.
func ParseMode(s string) (Mode, error) {
	switch m := Mode(s); m {
	case Mesh, Direct, Both, Off:
		return m, nil
	}
	return "", fmt.Errorf("publish mode %q: want mesh, direct, both or off", s)
}

// invalidPrefix begins the reason of a publication that cannot be advertised.
const invalidPrefix = "invalid: "

// settings are what desired needs to know besides the view.
type settings struct {
	registry string // name
	address  rewrite.Address
	ports    map[string]int // by application
	hostID   string
	mode     func(registry.Service) Mode
	models   []registry.Model
	carried  []string // protocols that the inbound listener speaks
}

// show is how a provider is shown, and why otherwise than its mode says: an address
// at which nobody speaks its protocol would take it from everybody who calls it now.
func (s settings) show(pub workload.Publication) (Mode, string) {
	mode := s.mode(pub.Service)
	if mode == Off || mode == Direct || slices.Contains(s.carried, pub.URL.Protocol) {
		return mode, ""
	}
	return Direct, ReasonNotCarried
}

// at is what other hosts dial for the providers of an application.
func (s settings) at(application string) rewrite.Address {
	a := s.address
	if port := s.ports[application]; port != 0 {
		a.Port = port
	}
	return a
}

// plan is what one view asks of one registry.
type plan struct {
	generation   uint64
	desired      registry.Desired // lists sorted, each item once
	publications map[workload.Identity]intent
	unprobed     bool // the first probe of a publication is not back
}

// intent is what must be in the registry for one publication to be published.
type intent struct {
	off          bool   // it is published by not being there
	note         string // what is to be said of it though it is advertised
	reason       string // why it is not advertised; empty when it is
	advertised   []string
	interfaces   []string // URL texts at the interface level
	applications []string // Application.ID at the application level
	service      string   // its key in the metadata of these
}

// shows tells whether p advertises the publication.
func (p plan) shows(id workload.Identity) bool {
	i, ok := p.publications[id]
	return ok && !i.off && i.reason == ""
}

// desired makes the plan of a view. A publication that before advertised and
// that is being probed anew stays: a probe that is not back withdraws nothing.
func desired(v *workload.View, before plan, s settings) plan {
	p := plan{generation: v.Generation, publications: map[workload.Identity]intent{}}
	mesh, direct := groups{}, groups{}
	for _, pub := range v.Publications {
		if !pub.Wants(s.registry) {
			continue
		}
		unprobed := !pub.Live && pub.Reason == workload.ReasonSettling
		p.unprobed = p.unprobed || unprobed
		out, err := rewrite.Out(pub.URL, s.address.Host, s.at(pub.URL.Param("application")))
		var i intent
		mode, note := s.show(pub)
		switch {
		case mode == Off || len(s.models) == 0:
			i.off = true
		case err != nil:
			i.reason = invalidPrefix + err.Error()
		case !pub.Live && !(unprobed && before.shows(pub.Identity)):
			i.reason = cmp.Or(pub.Reason, workload.ReasonSettling)
		default:
			own := rewrite.Canonical(pub.URL, s.address.Host)
			i.service, i.note = rewrite.ProtocolKey(own), note
			if mode != Direct {
				i.advertised = append(i.advertised, out.String())
				p.desired.Providers = append(p.desired.Providers, out)
				mesh.add(pub.Identity, own)
			}
			if mode != Mesh {
				i.advertised = append(i.advertised, own.String())
				p.desired.Providers = append(p.desired.Providers, own)
				direct.add(pub.Identity, own)
			}
		}
		p.publications[pub.Identity] = i
	}
	if slices.Contains(s.models, registry.ModelInterface) {
		for id, i := range p.publications {
			i.interfaces = i.advertised
			p.publications[id] = i
		}
		p.desired.Providers = sorted(p.desired.Providers)
		p.desired.Consumers = consumers(v.Subscriptions, s.address.Host)
	} else {
		p.desired.Providers = nil
	}
	if slices.Contains(s.models, registry.ModelApplication) {
		p.applications(mesh, func(name string, urls []registry.URL) ([]registry.Application, error) {
			app, err := rewrite.Application(name, s.hostID, urls, s.at(name))
			return []registry.Application{app}, err
		})
		p.applications(direct, func(name string, urls []registry.URL) ([]registry.Application, error) {
			return rewrite.Direct(name, s.hostID, urls)
		})
		slices.SortFunc(p.desired.Applications, func(a, b registry.Application) int { return cmp.Compare(a.ID(), b.ID()) })
	}
	return p
}

// withdrawn is p with nothing advertised any more.
func (p plan) withdrawn() plan {
	w := plan{generation: p.generation, publications: map[workload.Identity]intent{}}
	for id := range p.publications {
		w.publications[id] = intent{reason: ReasonStopping}
	}
	return w
}

// groups are canonical URLs by application, with the publications they are of.
type groups map[string]*members

type members struct {
	ids  []workload.Identity
	urls []registry.URL
}

// add takes a publication into its application's group. One that names no
// application has no place at the application level.
func (g groups) add(id workload.Identity, u registry.URL) {
	name := u.Param("application")
	if name == "" {
		return
	}
	if g[name] == nil {
		g[name] = &members{}
	}
	g[name].ids = append(g[name].ids, id)
	g[name].urls = append(g[name].urls, u)
}

// applications composes the instances of each group and notes them in the
// intents of its members.
func (p *plan) applications(g groups, compose func(name string, urls []registry.URL) ([]registry.Application, error)) {
	for _, name := range slices.Sorted(maps.Keys(g)) {
		apps, err := compose(name, g[name].urls)
		if err == nil {
			p.desired.Applications = append(p.desired.Applications, apps...)
		}
		for n, id := range g[name].ids {
			i := p.publications[id]
			if err != nil {
				i.reason = invalidPrefix + err.Error()
			}
			for _, app := range apps {
				if len(apps) == 1 || app.Instance.ID() == g[name].urls[n].HostPort() {
					i.applications = append(i.applications, app.ID())
				}
			}
			p.publications[id] = i
		}
	}
}

// consumers are the entries of local consumers. Providers subscribe too, to
// rules about themselves; they are no consumers.
func consumers(subs []workload.Subscription, host string) []registry.URL {
	var urls []registry.URL
	for _, s := range subs {
		if s.URL.Protocol == "provider" || s.URL.Param("side") == "provider" {
			continue
		}
		if iface := s.Service.Interface; iface == "" || iface == "*" {
			continue
		}
		urls = append(urls, rewrite.Consumer(s.URL, host))
	}
	return sorted(urls)
}

// sorted sorts by text and drops what is there twice.
func sorted(urls []registry.URL) []registry.URL {
	slices.SortFunc(urls, func(a, b registry.URL) int { return cmp.Compare(a.String(), b.String()) })
	return slices.Compact(urls)
}
