package rewrite

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/meshferry/meshferry/registry"
)

// DefaultWeight is the weight of a provider that names none. Source:
// org.apache.dubbo.rpc.cluster.Constants#DEFAULT_WEIGHT; dubbo-go agrees.
const DefaultWeight = 100

// Application is what stands for the local processes of one application at the
// application level: one instance at the agent's address, with metadata of our
// own (Java >= 3.1 takes the port from the metadata, so rewriting an instance
// alone is bypassed). It holds the union of the services. A service that several
// processes serve has the sum of their weights; its other parameters, and the
// origin mark, are those of the process whose address sorts first. The start
// time is that of the process that started first: a warm-up that one process
// has behind it is not asked of all again.
//
// providers are the live local ones, Canonical, with their own host and port. It
// errs with ErrUnfit or ErrMarked when one cannot be advertised, or when there is
// none.
func Application(name, hostID string, providers []registry.URL, a Address) (registry.Application, error) {
	app, err := compose(name, hostID, providers, a)
	if err != nil {
		return registry.Application{}, fmt.Errorf("application %s: %w", name, err)
	}
	app.Instance.Metadata[registry.MarkOrigin] = slices.MinFunc(providers, byOrigin).HostPort()
	app.Instance.Metadata[registry.MarkCaps] = a.Caps
	return app, nil
}

// Direct is the application level without a mesh: one instance for each address
// that the processes of one application listen on, in order of their addresses,
// as they would register themselves. The metadata is ours here too, because an
// application that publishes through an agent answers no metadata calls. There
// is no origin and no caps mark; the owner mark stays.
func Direct(name, hostID string, providers []registry.URL) ([]registry.Application, error) {
	byAddress := map[string][]registry.URL{}
	for _, u := range providers {
		byAddress[u.HostPort()] = append(byAddress[u.HostPort()], u)
	}
	var apps []registry.Application
	for _, address := range slices.Sorted(maps.Keys(byAddress)) {
		group := byAddress[address]
		app, err := compose(name, hostID, group, Address{Host: group[0].Host, Port: group[0].Port})
		if err != nil {
			return nil, fmt.Errorf("application %s at %s: %w", name, address, err)
		}
		apps = append(apps, app)
	}
	return apps, nil
}

// Weight is the weight parameter of a provider URL as a reader takes it: not
// there or no number is DefaultWeight, negative is 0.
func Weight(u registry.URL) int { return weight(u, "weight", DefaultWeight) }

func weight(u registry.URL, key string, otherwise int) int {
	n, err := strconv.Atoi(u.Param(key))
	if err != nil {
		return otherwise
	}
	return max(n, 0)
}

func compose(name, hostID string, providers []registry.URL, at Address) (registry.Application, error) {
	if name == "" || len(providers) == 0 {
		return registry.Application{}, fmt.Errorf("%w: no name or no providers", ErrUnfit)
	}
	var errs []error
	byKey := map[string][]registry.URL{}
	for _, u := range providers {
		errs = append(errs, publishable(u), dialable(u))
		key := ProtocolKey(u)
		byKey[key] = append(byKey[key], u)
	}
	if err := errors.Join(errs...); err != nil {
		return registry.Application{}, err
	}
	metadata := registry.Metadata{Application: name, Services: map[string]registry.ServiceInfo{}}
	ports := map[string]int{}
	for key, same := range byKey {
		info := describe(name, same, at.Port)
		metadata.Services[key] = info
		ports[info.Protocol] = at.Port
	}
	metadata.Revision = revision(metadata)
	instance := registry.Instance{Application: name, Host: at.Host, Port: at.Port, Metadata: map[string]string{
		registry.KeyEndpoints:   endpoints(ports),
		registry.KeyRevision:    metadata.Revision,
		registry.KeyStorageType: "remote",
		registry.MarkHost:       hostID,
	}}
	if ms := started(providers); ms > 0 {
		instance.Metadata[registry.KeyTimestamp] = strconv.FormatInt(ms, 10)
	}
	return registry.Application{Instance: instance, Metadata: metadata}, nil
}

// ProtocolKey is "[group/]interface[:version]:protocol" of what the URL says,
// "0.0.0" included, as a consumer compares text.
// Source: MetadataInfo.ServiceInfo#buildMatchKey.
func ProtocolKey(u registry.URL) string {
	s := registry.Service{Group: u.Param("group"), Interface: u.Service().Interface, Version: u.Param("version")}
	return s.Key() + ":" + u.Protocol
}

// describe is one service as the processes in same serve it. The key of a
// service has no room for a path: the process that serves it at the path of the
// first one counts, any other is left to the interface level.
func describe(name string, same []registry.URL, port int) registry.ServiceInfo {
	first := slices.MinFunc(same, func(a, b registry.URL) int {
		if c := cmp.Or(cmp.Compare(altered(a), altered(b)), cmp.Compare(a.Path, b.Path)); c != 0 {
			return c
		}
		return byOrigin(a, b)
	})
	params := map[string]string{}
	for k, v := range first.Params { // the last of several values counts, as everywhere
		if !unshared(k) {
			params[k] = v
		}
	}
	for k, v := range map[string]string{
		"application": name, "interface": first.Service().Interface, "side": "provider",
	} {
		if params[k] == "" {
			params[k] = v
		}
	}
	same = slices.DeleteFunc(slices.Clone(same), func(u registry.URL) bool { return u.Path != first.Path })
	sumWeights(params, same)
	return registry.ServiceInfo{
		Name: first.Service().Interface, Group: first.Param("group"), Version: first.Param("version"),
		Protocol: first.Protocol, Port: port, Path: first.Path, Params: params,
	}
}

// altered is 1 when the path is not the interface.
func altered(u registry.URL) int {
	if u.Path == u.Service().Interface {
		return 0
	}
	return 1
}

// sumWeights sets "weight" to the sum of what the processes have. A sum that
// readers assume anyway is left out, so that hosts which name the default and
// hosts which do not share a revision. Several processes have their
// "<method>.weight" summed too.
func sumWeights(params map[string]string, same []registry.URL) {
	methods := map[string]bool{}
	total := 0
	for _, u := range same {
		total += Weight(u)
		for k := range u.Params {
			if strings.HasSuffix(k, ".weight") && !unshared(k) {
				methods[k] = true
			}
		}
	}
	set(params, "weight", total, DefaultWeight)
	if len(same) == 1 {
		return
	}
	for k := range methods {
		sum := 0
		for _, u := range same {
			sum += weight(u, k, Weight(u))
		}
		set(params, k, sum, total)
	}
}

func set(params map[string]string, key string, value, assumed int) {
	if value == assumed {
		delete(params, key)
		return
	}
	params[key] = strconv.Itoa(value)
}

// unshared are the parameters that differ between equal hosts, and our marks:
// neither written into metadata nor hashed (Java leaves them out likewise,
// DefaultMetadataParamsFilter).
func unshared(key string) bool {
	return key == "host" || key == "pid" || key == "timestamp" ||
		strings.HasPrefix(key, "bind.") || strings.HasPrefix(key, registry.MarkPrefix)
}

// revision names the content of metadata. Readers use it as a cache key and
// never compute it themselves (MetadataInfo#calAndGetRevision), so any name will
// do that changes with the content.
func revision(m registry.Metadata) string {
	m.Revision = ""
	text, err := json.Marshal(m) // maps come sorted
	if err != nil {
		panic(fmt.Sprintf("metadata of strings and numbers: %v", err))
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:16])
}

// endpoints is the value of KeyEndpoints, one entry a protocol, sorted.
func endpoints(ports map[string]int) string {
	var list []string
	for _, protocol := range slices.Sorted(maps.Keys(ports)) {
		quoted, err := json.Marshal(protocol)
		if err != nil {
			panic(fmt.Sprintf("a string: %v", err))
		}
		list = append(list, fmt.Sprintf(`{"port":%d,"protocol":%s}`, ports[protocol], quoted))
	}
	return "[" + strings.Join(list, ",") + "]"
}

// started is the earliest start of the processes in Unix milliseconds, 0 when
// none says it. dubbo-go writes seconds; until the year 5138 a time in seconds
// has at most 11 digits, and no Dubbo process started before 1973.
func started(providers []registry.URL) int64 {
	var first int64
	for _, u := range providers {
		t, err := strconv.ParseInt(u.Param("timestamp"), 10, 64)
		if err != nil || t <= 0 {
			continue
		}
		if t < 100_000_000_000 {
			t *= 1000
		}
		if first == 0 || t < first {
			first = t
		}
	}
	return first
}

// byOrigin orders by address, and by text where the address is the same.
func byOrigin(a, b registry.URL) int {
	if c := cmp.Or(cmp.Compare(a.Host, b.Host), cmp.Compare(a.Port, b.Port)); c != 0 {
		return c
	}
	return cmp.Compare(a.String(), b.String())
}
