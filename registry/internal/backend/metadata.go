package backend

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/meshferry/meshferry/registry"
)

// Marshal writes JSON as Java does: '<', '>' and '&' as they are.
func Marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// ParseMetadata reads the metadata of a revision. It errs if the text names another,
// for then it would be cached under the wrong one.
func ParseMetadata(revision string, text []byte) (registry.Metadata, error) {
	var m registry.Metadata
	if err := json.Unmarshal(text, &m); err != nil {
		return registry.Metadata{}, err
	}
	if m.Revision != revision {
		return registry.Metadata{}, fmt.Errorf("it holds revision %q", m.Revision)
	}
	if m.Services == nil {
		return registry.Metadata{}, errors.New("it has no services")
	}
	return m, nil
}

// SameMetadata tells whether two texts mean the same: equal hosts share metadata,
// and different text with the same meaning is left alone.
func SameMetadata(a, b []byte) bool {
	if bytes.Equal(a, b) {
		return true
	}
	var m, n registry.Metadata
	return json.Unmarshal(a, &m) == nil && json.Unmarshal(b, &n) == nil && reflect.DeepEqual(m, n)
}

// Mapped reads a mapping: applications, separated by commas. Source:
// org.apache.dubbo.metadata.MetadataServiceNameMapping.
func Mapped(text string) (apps []string) {
	for app := range strings.SplitSeq(text, ",") {
		if app = strings.TrimSpace(app); app != "" {
			apps = append(apps, app)
		}
	}
	return apps
}

// CheckApplication errs for what no registry could hold. checkName says what cannot
// name an application or a revision in this one.
func CheckApplication(a registry.Application, checkName func(string) error) error {
	i, m := a.Instance, a.Metadata
	for _, name := range []string{i.Application, m.Revision} {
		if err := checkName(name); err != nil {
			return err
		}
	}
	if strings.ContainsAny(i.Application, ", ") {
		return fmt.Errorf("application %q cannot stand in a list", i.Application)
	}
	for _, iface := range m.Interfaces() {
		if err := registry.CheckInterface(iface); err != nil {
			return err
		}
	}
	if m.Application != i.Application || i.Metadata[registry.KeyRevision] != m.Revision {
		return fmt.Errorf("instance of %s at revision %q, but metadata of %s at revision %q",
			i.Application, i.Metadata[registry.KeyRevision], m.Application, m.Revision)
	}
	return nil
}

// CheckInstance errs for an address that is none.
func CheckInstance(host string, port int) error {
	if host == "" || strings.ContainsAny(host, "/?&@ \t\r\n[]") {
		return fmt.Errorf("address %q", host)
	}
	if port < 1 || port > 65535 {
		return fmt.Errorf("port %d", port)
	}
	return nil
}

// Summary joins the first reasons why a set is incomplete.
func Summary(reasons []string) string {
	const most = 5
	slices.Sort(reasons)
	reasons = slices.Compact(reasons)
	if n := len(reasons) - most; n > 0 {
		reasons = append(reasons[:most], fmt.Sprintf("and %d more", n))
	}
	return strings.Join(reasons, "; ")
}

// KeepRevisions is how long metadata that nobody names any more stays.
const KeepRevisions = 24 * time.Hour

// Revisions are those that this agent has written ("application/revision"), with
// the time since when it has not used one; zero while it does.
type Revisions map[string]time.Time

// Use notes which are in use from now on. It is called before they are written.
func (r Revisions) Use(names []string, now time.Time) (changed bool) {
	for _, name := range names {
		if since, found := r[name]; !found || !since.IsZero() {
			r[name], changed = time.Time{}, true
		}
	}
	for name, since := range r {
		if since.IsZero() && !slices.Contains(names, name) {
			r[name], changed = now, true
		}
	}
	return changed
}

// Unused lists those that have been out of use for KeepRevisions.
func (r Revisions) Unused(now time.Time) (names []string) {
	for name, since := range r {
		if !since.IsZero() && since.Before(now.Add(-KeepRevisions)) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Load reads what Save has kept; v stays as it is when there is nothing.
func Load(s registry.Store, v any) error {
	if s == nil {
		return nil
	}
	b, err := s.Load()
	if err == nil && len(b) > 0 {
		err = json.Unmarshal(b, v)
	}
	return err
}

// Save keeps v as JSON over a restart; without a store it does nothing.
func Save(s registry.Store, v any) error {
	if s == nil {
		return nil
	}
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return s.Save(b)
}
