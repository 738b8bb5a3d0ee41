package nacos

import (
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/nacos-group/nacos-sdk-go/v2/model"

	"github.com/meshferry/meshferry/registry"
	"github.com/meshferry/meshferry/registry/internal/backend"
)

const (
	providers = "providers"
	consumers = "consumers"
	// markText keeps the text of a URL that the metadata does not give back: its
	// parameters in another order, or one that is there twice.
	// It is left out where the server would refuse so much: order is not worth a
	// provider. So is the list of origins.
	markText = registry.MarkPrefix + "text"
	cluster  = "DEFAULT"
	// maxMetadata is what a server takes of keys and values together. Source:
	// com.alibaba.nacos.common.paramcheck.ParamCheckRule#maxMetadataLength.
	maxMetadata = 1024
)

// ofConsumers are the parameters that a consumer's entry is cut to when it is too
// long: what dashboards show. Nobody calls it.
var ofConsumers = map[string]bool{
	"application": true, "category": true, "check": true, "group": true, "interface": true, "pid": true, "release": true, "side": true, "timestamp": true, "version": true,
}

func length(metadata map[string]string) (n int) {
	for k, v := range metadata {
		n += len(k) + len(v)
	}
	return n
}

// serviceName is the Nacos service of a URL: empty parts are kept. Source:
// org.apache.dubbo.registry.nacos.NacosServiceName.
func serviceName(category string, u registry.URL) string {
	return escaped(category + ":" + u.Service().Interface + ":" + u.Param("version") + ":" + u.Param("group"))
}

// escaped writes '$' as Dubbo does. Source: NacosNamingServiceWrapper and
// NacosConfigServiceWrapper#handleInnerSymbol.
func escaped(name string) string { return strings.ReplaceAll(name, "$", "___") }

// provides tells whether a service name is of an interface. Names with two parts
// ("providers:iface:version"), which a compatible mode of Java writes beside the
// whole name, are no services of their own.
func provides(name, iface string) bool {
	rest, ok := strings.CutPrefix(name, providers+":"+escaped(iface)+":")
	return ok && strings.Count(rest, ":") == 1
}

// encode is the instance that stands for a URL, as Java writes it: all parameters
// and category, protocol and path. Source: NacosRegistry#createInstance.
func encode(category string, u registry.URL, hostID string) model.Instance {
	metadata := map[string]string{}
	for k, v := range u.Params { // the last of several values counts
		metadata[k] = v
	}
	if metadata["category"] == "" {
		metadata["category"] = category
	}
	metadata["protocol"], metadata["path"] = u.Protocol, u.Path
	i := instance(u.Host, u.Port, metadata)
	back, err := decode(i)
	metadata[registry.MarkHost] = hostID
	if category == consumers && length(metadata) > maxMetadata {
		maps.DeleteFunc(metadata, func(k, _ string) bool {
			return !ofConsumers[k] && k != "protocol" && k != "path" && k != registry.MarkHost
		})
		return i
	}
	if err != nil || back != u {
		metadata[markText] = base64.RawURLEncoding.EncodeToString([]byte(u.String()))
	}
	for _, k := range []string{markText, registry.MarkOrigins} {
		if length(metadata) > maxMetadata {
			delete(metadata, k)
		}
	}
	return i
}

// instance is one that consumers use: Go's zero values would say the opposite.
func instance(host string, port int, metadata map[string]string) model.Instance {
	return model.Instance{Ip: host, Port: uint64(port), Weight: 1, Enable: true, Healthy: true, Ephemeral: true,
		ClusterName: cluster, Metadata: metadata}
}

// decode is the URL of an instance. Parameters come sorted, origin and caps last,
// as they stand in what we advertise; what encode has added goes.
func decode(i model.Instance) (registry.URL, error) {
	m := i.Metadata
	if i.Port > 65535 || i.Ip == "" {
		return registry.URL{}, fmt.Errorf("address %q:%d", i.Ip, i.Port)
	}
	if text, ok := m[markText]; ok {
		b, err := base64.RawURLEncoding.DecodeString(text)
		if err != nil {
			return registry.URL{}, fmt.Errorf("%s: %w", markText, err)
		}
		u, err := registry.ParseURL(string(b))
		if err != nil {
			return registry.URL{}, fmt.Errorf("%s: %w", markText, err)
		}
		if u.Host != i.Ip || u.Port != int(i.Port) {
			return registry.URL{}, fmt.Errorf("%s: it is of %s, the instance of %s:%d", markText, u.HostPort(), i.Ip, i.Port)
		}
		return u, nil
	}
	if m["protocol"] == "" {
		return registry.URL{}, errors.New("no protocol: not of Dubbo")
	}
	var pairs, last []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		switch {
		case k == "protocol" || k == "path" || k == registry.MarkHost || k == "category" && m[k] == providers:
		case k == registry.MarkOrigins || k == registry.MarkOrigin || k == registry.MarkCaps:
			last = append(last, k+"="+m[k])
		default:
			pairs = append(pairs, k+"="+m[k])
		}
	}
	slices.SortFunc(last, func(a, b string) int { return strings.Compare(b, a) }) // origins, origin, caps
	u := registry.URL{Protocol: m["protocol"], Host: i.Ip, Port: int(i.Port), Path: m["path"],
		Query: strings.Join(append(pairs, last...), "&")}
	if u.Path == "" {
		u.Path = m["interface"]
	}
	parsed, err := registry.ParseURL(u.String()) // checks everything that is not from here
	if err != nil {
		return registry.URL{}, err
	}
	if parsed != u {
		return registry.URL{}, fmt.Errorf("it is not one URL: %q", u.String())
	}
	return u, nil
}

// usable tells whether Dubbo's consumers use an instance. Source: NacosRegistry
// (enabled), and for applications NacosServiceDiscovery (healthy too).
func usable(i model.Instance) bool { return i.Enable && i.Healthy && i.Weight > 0 }

// application is the instance that stands for an application's process.
func application(i registry.Instance, hostID string) model.Instance {
	metadata := maps.Clone(i.Metadata)
	if metadata == nil {
		metadata = map[string]string{}
	}
	metadata[registry.MarkHost] = hostID
	return instance(i.Host, i.Port, metadata)
}

// parseApplication reads an instance of an application.
func parseApplication(app string, i model.Instance) (registry.Instance, error) {
	if err := backend.CheckInstance(i.Ip, int(i.Port)); err != nil {
		return registry.Instance{}, err
	}
	return registry.Instance{Application: app, Host: i.Ip, Port: int(i.Port), Metadata: i.Metadata}, nil
}

// checkName errs for what cannot name an application's service, or a revision.
func checkName(name string) error {
	if name == "" || len(name) > 256 || strings.Contains(name, "@@") || strings.ContainsAny(name, ", \t\r\n/?&#") {
		return fmt.Errorf("%q cannot name an application or a revision in Nacos", name)
	}
	return nil
}

func address(i model.Instance) string { return net.JoinHostPort(i.Ip, strconv.FormatUint(i.Port, 10)) }

// same tells whether two instances say the same; ids and times that a server adds
// do not count.
func same(a, b model.Instance) bool {
	return a.Ip == b.Ip && a.Port == b.Port && a.Enable == b.Enable && a.Weight == b.Weight && a.Healthy == b.Healthy && maps.Equal(a.Metadata, b.Metadata)
}
