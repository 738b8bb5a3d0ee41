package registry

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
)

// Keys of instance metadata. Source: org.apache.dubbo.registry.client.metadata.ServiceInstanceMetadataUtils.
const (
	KeyEndpoints   = "dubbo.endpoints"                   // JSON list of {port, protocol}
	KeyURLParams   = "dubbo.metadata-service.url-params" // JSON map: where MetadataService is, storage-type local
	KeyRevision    = "dubbo.metadata.revision"           // revision of Metadata
	KeyStorageType = "dubbo.metadata.storage-type"       // "local" or "remote"
	KeyTimestamp   = "timestamp"                         // start of the provider, milliseconds
	MarkPrefix     = "meshferry."                        // every mark of ours begins so
	MarkOrigin     = "meshferry.origin"                  // host:port of the provider behind a mesh endpoint
	MarkOrigins    = "meshferry.origins"                 // of an entry that stands for several providers: all of them, separated by commas
	MarkCaps       = "meshferry.caps"                    // a mesh endpoint, and what it can do
	MarkHost       = "meshferry.host"                    // instance metadata: the owning agent's host id
)

// Instance is one process of an application at one address, as application-level
// discovery registers it. Source: org.apache.dubbo.registry.client.DefaultServiceInstance.
type Instance struct {
	Application string
	Host        string
	Port        int
	Metadata    map[string]string
}

// ID is host:port, the instance's name within its application.
func (i Instance) ID() string { return net.JoinHostPort(i.Host, strconv.Itoa(i.Port)) }

// Metadata lists the services of one revision of an application. Source:
// org.apache.dubbo.metadata.MetadataInfo.
type Metadata struct {
	Application string                 `json:"app"`
	Revision    string                 `json:"revision"`
	Services    map[string]ServiceInfo `json:"services"` // by "[group/]interface[:version]:protocol"
}

// ServiceInfo is one exported service. Source: MetadataInfo.ServiceInfo.
type ServiceInfo struct {
	Name     string            `json:"name"`
	Group    string            `json:"group,omitempty"`
	Version  string            `json:"version,omitempty"`
	Protocol string            `json:"protocol"`
	Port     int               `json:"port,omitempty"` // 0 or -1: that of the instance
	Path     string            `json:"path"`
	Params   map[string]string `json:"params"`
}

// Service is the service that the entry describes.
func (s ServiceInfo) Service() Service {
	return Service{Group: s.Group, Interface: s.Name, Version: NormalVersion(s.Version)}
}

// Application is one instance together with what it serves: what a Publisher
// writes for the application level. Metadata.Revision and the instance's
// KeyRevision are equal.
type Application struct {
	Instance Instance
	Metadata Metadata
}

// ID is "application@host:port".
func (a Application) ID() string { return a.Instance.Application + "@" + a.Instance.ID() }

// Interfaces lists the interfaces of the metadata, sorted, each once.
func (m Metadata) Interfaces() []string {
	var names []string
	for _, s := range m.Services {
		names = append(names, s.Name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// ProviderURLs composes the provider URLs of one interface from an instance and
// its metadata. The port is the service's own if it has one, else the endpoint
// of that protocol, else the instance's (ServiceInstancesChangedListener,
// Java >= 3.1). The instance's timestamp, weight and marks go into the URL.
// Parameters come in sorted order, so that equal content gives equal text.
func ProviderURLs(i Instance, m Metadata, iface string) []URL {
	endpoints := i.endpoints()
	var urls []URL
	for _, key := range slices.Sorted(maps.Keys(m.Services)) {
		s := m.Services[key]
		if s.Name != iface {
			continue
		}
		port := i.Port
		if p, ok := endpoints[s.Protocol]; ok {
			port = p
		}
		if s.Port > 0 {
			port = s.Port
		}
		params := maps.Clone(s.Params)
		if params == nil {
			params = map[string]string{}
		}
		params["interface"] = s.Name
		if _, ok := params["application"]; !ok {
			params["application"] = i.Application
		}
		for k, v := range map[string]string{"group": s.Group, "version": s.Version} {
			if v != "" {
				params[k] = v
			}
		}
		for k, v := range i.Metadata {
			if k == KeyTimestamp || k == "weight" || k == MarkOrigin || k == MarkCaps {
				params[k] = v
			}
		}
		path := s.Path
		if path == "" {
			path = s.Name
		}
		urls = append(urls, URL{Protocol: s.Protocol, Host: i.Host, Port: port, Path: path, Query: query(params)})
	}
	return urls
}

func query(params map[string]string) string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(params)) {
		if b.Len() > 0 {
			b.WriteByte('&')
		}
		b.WriteString(escape(k, "&=") + "=" + escape(params[k], "&"))
	}
	return b.String()
}

// escape percent-encodes control characters and those of special, so that one
// parameter of a map stays one parameter of a URL. Everything else stays as it
// is, '%' too: values may be encoded already.
func escape(s, special string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == 0x7f || strings.IndexByte(special, c) >= 0 {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// endpoints reads KeyEndpoints; what cannot be read counts as absent.
func (i Instance) endpoints() map[string]int {
	var list []struct {
		Port     int    `json:"port"`
		Protocol string `json:"protocol"`
	}
	if json.Unmarshal([]byte(i.Metadata[KeyEndpoints]), &list) != nil {
		return nil
	}
	ports := map[string]int{}
	for _, e := range list {
		if e.Port > 0 && e.Port <= 65535 {
			ports[e.Protocol] = e.Port
		}
	}
	return ports
}
