package api

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/meshferry/meshferry/agent/workload"
	"github.com/meshferry/meshferry/registry"
)

// client is the kind of SDK that is answered.
type client int

const (
	otherClient client = iota
	javaClient
	goClient
)

// clientOf is told by the field client, else by the release of the consumer URL.
func clientOf(sub workload.Subscription) client {
	name, release := sub.Client, sub.URL.Param("release")
	switch {
	case name == "java":
		return javaClient
	case name == "go", name == "dubbo-go":
		return goClient
	case name != "" || release == "":
		return otherClient
	case strings.HasPrefix(release, "dubbo-golang"):
		return goClient
	}
	return javaClient
}

// javaExtras make Java 3.x come back soon after its only connection was lost;
// otherwise it fails for 50 s (CONTRACT §7).
const javaExtras = "dubbo.application.least-reconnect-duration=1000&heartbeat=1000&heartbeat.timeout=3000"

// handOut composes the one URL behind which the agent reaches every provider of
// a group: the agent's address, and what an SDK needs to know of the providers.
func handOut(g group, sdk client, outbound netip.AddrPort) registry.URL {
	u := registry.URL{Protocol: g.protocol, Host: dialled(outbound.Addr(), sdk), Port: int(outbound.Port()), Path: g.path}
	u = withService(u.With("interface", g.service.Interface), g.service)
	set := func(key, value string) {
		if value != "" {
			u = u.With(key, value)
		}
	}
	methods := union(g.urls, "methods")
	set("application", least(g.urls, "application"))
	set("methods", strings.Join(methods, ","))
	for _, key := range []string{"dubbo.tag", "payload", "token"} {
		if v, equal := common(g.urls, key); equal {
			set(key, v)
		}
	}
	set("timeout", longest(g.urls, "timeout", sdk))
	if sdk == goClient {
		set("retries", "0") // dubbo-go retries every form of error; the agent does it instead
	} else if v, equal := common(g.urls, "retries"); equal {
		set("retries", v)
	}
	for _, m := range methods {
		set(m+".timeout", longest(g.urls, m+".timeout", sdk))
		if v, equal := common(g.urls, m+".retries"); equal && sdk != goClient {
			set(m+".retries", v)
		}
	}
	for _, key := range callbacks(g.urls) {
		set(key, "true")
	}
	setSerialization(set, g.urls, sdk)
	if sdk == javaClient {
		u.Query += "&" + javaExtras
	}
	return u
}

// dialled is the outbound listener's address as an SDK must be given it. Java
// replaces 127.* by the address of an interface before it dials
// (NetUtils#filterLocalHost), but not the IPv4-mapped literal of the same.
func dialled(bound netip.Addr, sdk client) string {
	ip := bound.Unmap()
	if ip.IsUnspecified() {
		ip = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	if sdk == javaClient && ip.Is4() && ip.IsLoopback() {
		return "::ffff:" + ip.String()
	}
	return ip.String()
}

// setSerialization hands out the serializations that every provider knows.
// Java >= 3.2 takes the first it knows of prefer.serialization, all others read
// serialization. Where tokens differ the agent must write into the request,
// which it does in hessian2.
func setSerialization(set func(key, value string), urls []registry.URL, sdk client) {
	names := serializations(urls)
	_, oneToken := common(urls, "token")
	if sdk == goClient || !oneToken {
		names = []string{"hessian2"}
	}
	first := names[0]
	if slices.Contains(names, "hessian2") {
		first = "hessian2"
	}
	set("prefer.serialization", strings.Join(names, ","))
	set("serialization", first)
}

// serializations is what all providers know: in the order that they agree on,
// else hessian2 first. It is never empty: hessian2 is what peers use when told
// nothing.
func serializations(urls []registry.URL) []string {
	all := known(urls[0])
	agreed := true
	for _, u := range urls[1:] {
		other := known(u)
		agreed = agreed && slices.Equal(all, other)
		all = slices.DeleteFunc(slices.Clone(all), func(s string) bool { return !slices.Contains(other, s) })
	}
	if len(all) == 0 {
		return []string{"hessian2"}
	}
	if i := slices.Index(all, "hessian2"); i > 0 && !agreed {
		all = slices.Insert(slices.Delete(slices.Clone(all), i, i+1), 0, "hessian2")
	}
	return all
}

// known is what one provider reads: what it names, else the default of its
// release. Source: Java's UrlUtils#preferSerialization and
// PermittedSerializationKeeper; dubbo-go and Java before 3.2 name nothing.
func known(u registry.URL) []string {
	var names []string
	for _, key := range []string{"prefer.serialization", "serialization"} {
		for _, n := range items(u.Param(key)) {
			if !slices.Contains(names, n) {
				names = append(names, n)
			}
		}
	}
	if len(names) > 0 {
		return names
	}
	if since32(u.Param("release")) {
		return []string{"hessian2", "fastjson2"}
	}
	return []string{"hessian2"}
}

// since32 tells whether a release is Java 3.2 or later.
func since32(release string) bool {
	major, rest, _ := strings.Cut(release, ".")
	minor, _, _ := strings.Cut(rest, ".")
	a, err := strconv.Atoi(major)
	b, err2 := strconv.Atoi(minor)
	return err == nil && err2 == nil && (a > 3 || a == 3 && b >= 2)
}

func items(list string) []string {
	var names []string
	for n := range strings.SplitSeq(list, ",") {
		if n = strings.TrimSpace(n); n != "" {
			names = append(names, n)
		}
	}
	return names
}

// common is the value of a parameter when all URLs have the same or all none.
func common(urls []registry.URL, key string) (value string, equal bool) {
	value = urls[0].Param(key)
	for _, u := range urls[1:] {
		if u.Param(key) != value {
			return "", false
		}
	}
	return value, true
}

// least is the first value in sorted order; empty when no URL has one.
func least(urls []registry.URL, key string) string {
	best := ""
	for _, u := range urls {
		if v := u.Param(key); v != "" && (best == "" || v < best) {
			best = v
		}
	}
	return best
}

// union is every item of a comma list, in order of appearance.
func union(urls []registry.URL, key string) []string {
	var all []string
	seen := map[string]bool{}
	for _, u := range urls {
		for _, m := range items(u.Param(key)) {
			if !seen[m] {
				seen[m] = true
				all = append(all, m)
			}
		}
	}
	return all
}

// longest is the greatest time of all URLs. Java writes and reads milliseconds,
// dubbo-go durations ("3s"); each SDK is given its own form.
func longest(urls []registry.URL, key string, sdk client) string {
	var most time.Duration
	for _, u := range urls {
		v := u.Param(key)
		d, err := time.ParseDuration(v)
		if ms, msErr := strconv.ParseInt(v, 10, 32); msErr == nil {
			d, err = time.Duration(ms)*time.Millisecond, nil
		}
		if err == nil && d > most {
			most = d
		}
	}
	switch {
	case most < time.Millisecond:
		return ""
	case sdk == goClient:
		return strconv.FormatInt(most.Milliseconds(), 10) + "ms"
	}
	return strconv.FormatInt(most.Milliseconds(), 10)
}

// callbacks are the keys "<method>.<argument>.callback" that any URL sets: a
// consumer encodes such arguments differently (Java's CallbackServiceCodec).
func callbacks(urls []registry.URL) []string {
	var keys []string
	for _, u := range urls {
		u.Params(func(k, v string) bool {
			if strings.HasSuffix(k, ".callback") && v == "true" && !slices.Contains(keys, k) {
				keys = append(keys, k)
			}
			return true
		})
	}
	slices.Sort(keys)
	return keys
}

// JavaReference is what an unmodified Java application can be told to call in the
// place of a registry (dubbo.reference.<interface>.url). Group, version, time-out
// and the rest stay those of its own reference.
func JavaReference(outbound netip.AddrPort, iface string) string {
	return registry.URL{
		Protocol: "dubbo", Host: dialled(outbound.Addr(), javaClient), Port: int(outbound.Port()), Path: iface, Query: javaExtras,
	}.String()
}
