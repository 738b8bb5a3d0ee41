package meshferry

import (
	"fmt"
	"net"
	"strconv"
	"strings"
)

// target is what the client itself must know of a Dubbo URL. The text is never
// rebuilt from it: agents compare URLs byte by byte.
type target struct {
	protocol, host, path string
	port                 int
	query                string
}

func parseURL(raw string) (target, error) {
	protocol, rest, ok := strings.Cut(raw, "://")
	if !ok || protocol == "" {
		return target{}, fmt.Errorf("bad Dubbo URL %q: no protocol://", raw)
	}
	t := target{protocol: protocol}
	rest, t.query, _ = strings.Cut(rest, "?")
	authority, path, _ := strings.Cut(rest, "/")
	t.path = path
	if i := strings.LastIndexByte(authority, '@'); i >= 0 {
		authority = authority[i+1:]
	}
	t.host = strings.Trim(authority, "[]")
	if host, port, err := net.SplitHostPort(authority); err == nil {
		t.host = host
		if port != "" {
			n, err := strconv.ParseUint(port, 10, 16)
			if err != nil {
				return target{}, fmt.Errorf("bad Dubbo URL %q: port is not a number in 0..65535", raw)
			}
			t.port = int(n)
		}
	}
	return t, nil
}

func (t target) param(key string) string {
	for pair := range strings.SplitSeq(t.query, "&") {
		if k, v, _ := strings.Cut(pair, "="); k == key {
			return v
		}
	}
	return ""
}

// service is the service key "group/interface:version".
func (t target) service() string {
	iface := t.param("interface")
	if iface == "" {
		iface = t.path
	}
	return serviceKey(t.param("group"), iface, t.param("version"))
}

func serviceKey(group, iface, version string) string {
	key := iface
	if group != "" {
		key = group + "/" + key
	}
	if version != "" && version != "0.0.0" {
		key += ":" + version
	}
	return key
}
