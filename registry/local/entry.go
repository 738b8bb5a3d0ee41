package local

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"

	"github.com/meshferry/meshferry/registry"
)

const (
	format   = 1
	maxEntry = 16 << 20 // bytes; a larger file is no entry
)

// document is the text of an entry file.
type document struct {
	Format       int           `json:"meshferry-entry"`
	Host         string        `json:"host"` // host id of the owner
	PID          int           `json:"pid"`  // for humans; the lock tells who lives
	Providers    []string      `json:"providers,omitempty"`
	Applications []application `json:"applications,omitempty"`
	Consumers    []string      `json:"consumers,omitempty"`
}

type application struct {
	Name     string            `json:"name"`
	Host     string            `json:"host"`
	Port     int               `json:"port"`
	Metadata map[string]string `json:"metadata"`
	Services registry.Metadata `json:"services"`
}

// entry is what one process holds. It is never changed after it was made.
type entry struct {
	host         string
	pid          int
	providers    map[string]bool // URL texts
	applications map[string]bool // Application.ID
	byInterface  map[string][]registry.Provider
}

func encode(host string, pid int, d registry.Desired) ([]byte, error) {
	doc := document{Format: format, Host: host, PID: pid, Providers: texts(d.Providers), Consumers: texts(d.Consumers)}
	for _, a := range d.Applications {
		i := a.Instance
		doc.Applications = append(doc.Applications, application{i.Application, i.Host, i.Port, i.Metadata, a.Metadata})
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // URLs stay readable
	e.SetIndent("", " ")
	if err := e.Encode(doc); err != nil {
		return nil, err
	}
	if b.Len() > maxEntry {
		return nil, fmt.Errorf("an entry of %d bytes; at most %d are possible", b.Len(), maxEntry)
	}
	return b.Bytes(), nil
}

func texts(urls []registry.URL) []string {
	var all []string
	for _, u := range urls {
		all = append(all, u.String())
	}
	return all
}

// decode reads an entry file. It errs for anything that encode would not have
// written; fields that it does not know are ignored.
func decode(text []byte) (*entry, error) {
	var doc document
	if err := json.Unmarshal(text, &doc); err != nil {
		return nil, err
	}
	switch {
	case doc.Format != format:
		return nil, fmt.Errorf("no entry of format %d", format)
	case doc.Host == "" || doc.PID <= 0:
		return nil, errors.New("no owner")
	}
	var d registry.Desired
	for _, text := range doc.Providers {
		u, err := registry.ParseURL(text)
		if err == nil {
			err = checkURL(u)
		}
		if err != nil {
			return nil, err
		}
		d.Providers = append(d.Providers, u)
	}
	for _, a := range doc.Applications {
		app := registry.Application{
			Instance: registry.Instance{Application: a.Name, Host: a.Host, Port: a.Port, Metadata: a.Metadata},
			Metadata: a.Services,
		}
		if err := checkApplication(app); err != nil {
			return nil, err
		}
		d.Applications = append(d.Applications, app)
	}
	return newEntry(doc.Host, doc.PID, d), nil
}

func newEntry(host string, pid int, d registry.Desired) *entry {
	e := &entry{
		host: host, pid: pid,
		providers: map[string]bool{}, applications: map[string]bool{}, byInterface: map[string][]registry.Provider{},
	}
	add := func(iface string, model registry.Model, urls ...registry.URL) {
		for _, u := range urls {
			e.byInterface[iface] = append(e.byInterface[iface], registry.Provider{URL: u, Model: model})
		}
	}
	for _, u := range d.Providers {
		e.providers[u.String()] = true
		add(u.Service().Interface, registry.ModelInterface, u)
	}
	for _, a := range d.Applications {
		e.applications[a.ID()] = true
		for _, iface := range a.Metadata.Interfaces() {
			add(iface, registry.ModelApplication, registry.ProviderURLs(a.Instance, a.Metadata, iface)...)
		}
	}
	return e
}

func checkURL(u registry.URL) error {
	if err := registry.CheckInterface(u.Service().Interface); err != nil {
		return err
	}
	back, err := registry.ParseURL(u.String())
	if err == nil && back != u {
		err = errors.New("the URL does not survive its own text")
	}
	if err != nil {
		return err
	}
	return survivesJSON(u.String())
}

func checkApplication(a registry.Application) error {
	i := a.Instance
	switch {
	case i.Application == "":
		return errors.New("the application has no name")
	case i.Host == "" || i.Port <= 0 || i.Port > 65535:
		return fmt.Errorf("application %s has no address that can be dialled: %s", i.Application, i.ID())
	case a.Metadata.Revision != i.Metadata[registry.KeyRevision]:
		return fmt.Errorf("application %s: the metadata has revision %q, the instance names %q",
			i.Application, a.Metadata.Revision, i.Metadata[registry.KeyRevision])
	}
	for _, iface := range a.Metadata.Interfaces() {
		if err := registry.CheckInterface(iface); err != nil {
			return fmt.Errorf("application %s: %w", i.Application, err)
		}
	}
	return survivesJSON(a)
}

// survivesJSON errs for text that is not UTF-8: JSON would replace its bytes.
func survivesJSON[T any](v T) error {
	var back T
	text, err := json.Marshal(v)
	if err == nil {
		err = json.Unmarshal(text, &back)
	}
	if err == nil && !reflect.DeepEqual(v, back) {
		err = errors.New("the text is not UTF-8")
	}
	return err
}
