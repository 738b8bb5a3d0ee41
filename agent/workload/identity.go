package workload

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

const (
	maxName         = 128 // bytes in the name of a workload
	anonymousPrefix = "anon/"
)

// Label is for people: what it is, where, and whose.
func (i Identity) Label() string {
	return fmt.Sprintf("%s %s at port %d of %s", i.Protocol, i.Service, i.Port, i.Workload)
}

// compare orders identities: by workload, service, protocol, path, port.
func (i Identity) compare(j Identity) int {
	return cmp.Or(
		strings.Compare(i.Workload, j.Workload),
		strings.Compare(i.Service.Interface, j.Service.Interface),
		strings.Compare(i.Service.Group, j.Service.Group),
		strings.Compare(i.Service.Version, j.Service.Version),
		strings.Compare(i.Protocol, j.Protocol),
		strings.Compare(i.Path, j.Path),
		cmp.Compare(i.Port, j.Port),
	)
}

// sameSlot tells whether both are the same service at the same local port,
// whatever workload they belong to: only one of them can be meant.
func (i Identity) sameSlot(j Identity) bool {
	i.Workload = j.Workload
	return i == j
}

// CheckWorkload errs, wrapping ErrInvalid, unless name is 1 to 128 of
// [A-Za-z0-9._:@/-].
func CheckWorkload(name string) error {
	if name == "" || len(name) > maxName {
		return fmt.Errorf("%w: the name of a workload has 1 to %d characters, not %d", ErrInvalid, maxName, len(name))
	}
	for _, r := range name {
		if !nameRune(r) {
			return fmt.Errorf("%w: the workload %q contains %q: only letters, digits and . _ : @ / - are allowed", ErrInvalid, name, r)
		}
	}
	return nil
}

func nameRune(r rune) bool {
	switch {
	case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9':
		return true
	}
	return strings.ContainsRune("._:@/-", r)
}

// anonymous is the workload of an application that gave itself no name:
// anon/<application>, and /<port> for a provider (port > 0). Application names
// may hold any character; those that a workload cannot hold become '-'.
func anonymous(application string, port int) string {
	application = strings.Map(func(r rune) rune {
		if nameRune(r) {
			return r
		}
		return '-'
	}, application)
	name := anonymousPrefix + cmp.Or(application, "-")
	if port > 0 {
		name += "/" + strconv.Itoa(port)
	}
	return name
}
