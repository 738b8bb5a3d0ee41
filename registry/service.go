package registry

import (
	"errors"
	"fmt"
	"strings"
)

// Service names a service. Version "0.0.0" is the same as none and is kept as
// the empty string.
type Service struct {
	Group, Interface, Version string
}

// NormalVersion maps "0.0.0", which Java sends for none, to the empty string.
func NormalVersion(v string) string {
	if v == "0.0.0" {
		return ""
	}
	return v
}

// Key is the service key "group/interface:version", empty parts left out.
// Source: org.apache.dubbo.common.URL#getServiceKey.
func (s Service) Key() string {
	k := s.Interface
	if s.Group != "" {
		k = s.Group + "/" + k
	}
	if s.Version != "" {
		k += ":" + s.Version
	}
	return k
}

// String is Key.
func (s Service) String() string { return s.Key() }

// ParseService reads a service key. It errs when the interface is empty.
func ParseService(key string) (Service, error) {
	var s Service
	rest := key
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		s.Group, rest = rest[:i], rest[i+1:]
	}
	s.Interface, s.Version, _ = strings.Cut(rest, ":")
	s.Version = NormalVersion(s.Version)
	if s.Interface == "" {
		return Service{}, fmt.Errorf("bad service key %q: want [group/]interface[:version]", key)
	}
	return s, nil
}

// CheckInterface errs for a name that no registry could hold as an interface:
// empty, longer than 512 bytes, "." or "..", or with a character that has a
// meaning in a path, in a URL or in what a consumer may ask for.
func CheckInterface(name string) error {
	switch {
	case name == "":
		return errors.New("the interface is empty")
	case len(name) > 512:
		return fmt.Errorf("the interface is longer than 512 bytes: %.40q…", name)
	case name == "." || name == "..":
		return fmt.Errorf("bad interface %q", name)
	}
	for i := range len(name) {
		if name[i] <= ' ' || name[i] == 0x7f || strings.IndexByte("/?&=%*,:#", name[i]) >= 0 {
			return fmt.Errorf("bad interface %q: it contains %q", name, name[i])
		}
	}
	return nil
}

// Matches tells whether a provided service satisfies s, what a consumer asked for:
// equal interfaces, and for group and version equality, "*", or one of a comma
// list ("*" in a list has no meaning). Source:
// org.apache.dubbo.common.utils.UrlUtils#isMatch, isItemMatch. Unlike it, lists
// of versions match too, and "0.0.0" and an empty parameter are the same as none.
func (s Service) Matches(provided Service) bool {
	return s.Interface == provided.Interface &&
		matchesItem(s.Group, provided.Group) &&
		matchesItem(s.Version, provided.Version)
}

// Accepts tells whether a consumer that asked for protocols, one or several with
// commas, takes a provider of this one. Source: RegistryDirectory#checkProtocolValid.
func Accepts(asked, protocol string) bool {
	return asked == "" || matchesItem(asked, protocol)
}

func matchesItem(asked, provided string) bool {
	if asked == "*" || asked == provided {
		return true
	}
	if !strings.Contains(asked, ",") {
		return false
	}
	for item := range strings.SplitSeq(asked, ",") {
		if NormalVersion(strings.TrimSpace(item)) == provided {
			return true
		}
	}
	return false
}
