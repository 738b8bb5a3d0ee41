package nacos

import (
	"cmp"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/meshferry/meshferry/registry"
)

// shared is a provider URL as a service lists it, and the URLs that it stands for.
type shared struct {
	url registry.URL
	of  []registry.URL
}

// place is what Nacos and its clients tell instances of a service apart by, and
// what one URL cannot say twice.
type place struct {
	service, protocol, address, path string
}

// share joins the URLs of processes that one service has behind one address: the
// processes of a service behind one agent. Nacos would list them side by side, but
// clients that go by ip and port keep one of them and lose the weight of the rest
// (dubbo-go's nacosListener, and the reports of changes of Java's ServiceInfoHolder).
// Another protocol or another path cannot be joined: a URL has room for one.
func share(urls []registry.URL) []shared {
	var all []shared
	at := map[place]int{}
	for _, u := range urls {
		p := place{serviceName(providers, u), u.Protocol, u.HostPort(), u.Path}
		n, found := at[p]
		if found && u.Param(registry.MarkOrigin) != "" {
			all[n].of = append(all[n].of, u)
			continue
		}
		if u.Param(registry.MarkOrigin) != "" {
			at[p] = len(all)
		}
		all = append(all, shared{of: []registry.URL{u}})
	}
	for n := range all {
		all[n].url = sum(all[n].of)
	}
	return all
}

// sum is the URL that stands for several: the one whose origin sorts first, with
// the weight of all, the methods of all, and the start of the process that started
// first: a warm-up that one has behind it is not asked of all again. It is what
// package rewrite makes of an application's processes.
func sum(urls []registry.URL) registry.URL {
	if len(urls) == 1 {
		return urls[0]
	}
	urls = slices.SortedFunc(slices.Values(urls), byOrigin)
	first := urls[0]
	u := first.Without(func(k, _ string) bool { return k == registry.MarkOrigin || k == registry.MarkCaps })

	total := 0
	var ofMethods []string // "<method>.weight"
	var origins []string
	var methods []string
	earliest := first
	for _, one := range urls {
		total += weight(one, "weight", 100)
		origins = append(origins, one.Param(registry.MarkOrigin))
		for k := range one.Params {
			if strings.HasSuffix(k, ".weight") && !slices.Contains(ofMethods, k) {
				ofMethods = append(ofMethods, k)
			}
		}
		for m := range strings.SplitSeq(strings.ReplaceAll(one.Param("methods"), "%2C", ","), ",") {
			if m != "" && !slices.Contains(methods, m) {
				methods = append(methods, m)
			}
		}
		if t := began(one); t > 0 && (began(earliest) == 0 || t < began(earliest)) {
			earliest = one
		}
	}
	u = u.With("weight", strconv.Itoa(total))
	for _, k := range ofMethods {
		n := 0
		for _, one := range urls {
			n += weight(one, k, weight(one, "weight", 100))
		}
		u = u.With(k, strconv.Itoa(n))
	}
	differ := func(key string) bool {
		return slices.ContainsFunc(urls, func(one registry.URL) bool { return one.Param(key) != first.Param(key) })
	}
	switch {
	case !differ("methods"):
	case slices.ContainsFunc(urls, func(one registry.URL) bool { return one.Param("methods") == "" || one.Param("methods") == "*" }):
		u = u.With("methods", "*") // one of them takes any
	default:
		u = u.With("methods", strings.Join(methods, ","))
	}
	if differ(registry.KeyTimestamp) && began(earliest) > 0 {
		u = u.With(registry.KeyTimestamp, earliest.Param(registry.KeyTimestamp))
	}
	return u.With(registry.MarkOrigins, strings.Join(slices.Compact(origins), ",")).
		With(registry.MarkOrigin, first.Param(registry.MarkOrigin)).With(registry.MarkCaps, first.Param(registry.MarkCaps))
}

// byOrigin orders as package rewrite does: by host, then port, then text.
func byOrigin(a, b registry.URL) int {
	aHost, aPort, err := net.SplitHostPort(a.Param(registry.MarkOrigin))
	bHost, bPort, err2 := net.SplitHostPort(b.Param(registry.MarkOrigin))
	if err != nil || err2 != nil {
		return cmp.Or(cmp.Compare(a.Param(registry.MarkOrigin), b.Param(registry.MarkOrigin)), cmp.Compare(a.String(), b.String()))
	}
	aNumber, _ := strconv.Atoi(aPort) // no number: 0, the text decides
	bNumber, _ := strconv.Atoi(bPort)
	return cmp.Or(cmp.Compare(aHost, bHost), cmp.Compare(aNumber, bNumber), cmp.Compare(a.String(), b.String()))
}

// weight is a weight parameter as readers take it: none or no number is otherwise,
// negative is 0.
func weight(u registry.URL, key string, otherwise int) int {
	n, err := strconv.Atoi(u.Param(key))
	if err != nil {
		return otherwise
	}
	return max(n, 0)
}

// began is when a process started, Unix milliseconds, 0 if it does not say.
// dubbo-go writes seconds: what has at most 11 digits.
func began(u registry.URL) int64 {
	t, err := strconv.ParseInt(u.Param(registry.KeyTimestamp), 10, 64)
	if err != nil || t <= 0 {
		return 0
	}
	if t < 100_000_000_000 {
		t *= 1000
	}
	return t
}
