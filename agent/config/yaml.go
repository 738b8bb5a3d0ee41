package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"go.yaml.in/yaml/v3"

	"github.com/meshferry/meshferry/registry"
)

const (
	maxFile  = 1 << 20 // bytes
	maxDepth = 20      // of nested keys; more is an alias to itself
)

// file reads the YAML text.
func (l *loader) file(name string, text []byte) {
	if len(text) > maxFile {
		l.fail(name, "longer than %d bytes", maxFile)
		return
	}
	var doc, more yaml.Node
	d := yaml.NewDecoder(bytes.NewReader(text))
	switch err := d.Decode(&doc); {
	case errors.Is(err, io.EOF):
		return // nothing but comments
	case err != nil:
		l.fail(yamlPlace(name, err), "%s", yamlReason(err))
		return
	}
	if err := d.Decode(&more); !errors.Is(err, io.EOF) {
		l.fail(name, "want one document, there are more (a line of ---)")
		return
	}
	y := yamlReader{loader: l, name: name}
	y.mapping(doc.Content[0], "", 0)
}

var yamlLine = regexp.MustCompile(`line (\d+): `)

// yamlPlace and yamlReason are the line of a syntax error and the rest of it.
func yamlPlace(name string, err error) string {
	if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
		return name + ":" + m[1]
	}
	return name + ":1" // the parser does not say line 1
}

func yamlReason(err error) string {
	s := strings.TrimPrefix(err.Error(), "yaml: ")
	return "no YAML: " + yamlLine.ReplaceAllString(s, "")
}

// yamlReader walks the nodes of a file.
type yamlReader struct {
	*loader
	name string
}

func (y yamlReader) place(n *yaml.Node) string { return fmt.Sprintf("%s:%d", y.name, n.Line) }

// pairs yields the keys and values of a mapping, each key once. A null is an
// empty mapping.
func (y yamlReader) pairs(n *yaml.Node, path string, yield func(key string, k, v *yaml.Node)) {
	n = resolve(n)
	if isNull(n) {
		return
	}
	if n.Kind != yaml.MappingNode {
		y.fail(y.place(n), "%s: want keys and values, not %s", at(path), kind(n))
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := resolve(n.Content[i]), resolve(n.Content[i+1])
		if k.Kind != yaml.ScalarNode {
			y.fail(y.place(k), "%s: want a name as key, not %s", at(path), kind(k))
			continue
		}
		if seen[k.Value] {
			y.fail(y.place(k), "%s is there twice", join(path, k.Value))
			continue
		}
		seen[k.Value] = true
		yield(k.Value, k, v)
	}
}

func (y yamlReader) mapping(n *yaml.Node, path string, depth int) {
	if depth > maxDepth {
		y.fail(y.place(n), "%s: nested too deeply", at(path))
		return
	}
	leaf := map[string]setting{}
	level := map[string]bool{}
	all := []string{"addresses", "registries", "services", "inbound.static", "inbound.extra"}
	for _, s := range y.settings {
		leaf[s.key] = s
		all = append(all, s.key)
	}
	for _, key := range all {
		if rest, ok := strings.CutPrefix(key, path); ok {
			head, _, _ := strings.Cut(strings.TrimPrefix(rest, "."), ".")
			level[head] = true
		}
	}
	y.pairs(n, path, func(key string, k, v *yaml.Node) {
		full := join(path, key)
		s, isLeaf := leaf[full]
		switch {
		case isLeaf:
			if values, ok := y.values(v, full); ok {
				y.set(s, y.place(v), values...)
			}
		case full == "addresses":
			y.addresses(v)
		case full == "registries":
			y.items(v, full, y.registry)
		case full == "services":
			y.items(v, full, y.service)
		case full == "inbound.static":
			y.items(v, full, y.static)
		case full == "inbound.extra":
			y.items(v, full, y.extra)
		case level[key]:
			y.mapping(v, full, depth+1)
		default:
			y.unknown(k, full, slices.Collect(maps.Keys(level)), all)
		}
	})
}

func (y yamlReader) unknown(k *yaml.Node, full string, level, all []string) {
	if later[full] {
		y.fail(y.place(k), "%s: this version does not have it yet", full)
		return
	}
	y.fail(y.place(k), "unknown key %q%s", full, suggest(full, level, all))
}

// values are those of a scalar or of a list of scalars. Nothing is no value: ok
// is false, and the default stays.
func (y yamlReader) values(n *yaml.Node, path string) (values []string, ok bool) {
	n = resolve(n)
	switch {
	case isNull(n):
		return nil, false
	case n.Kind == yaml.ScalarNode:
		return []string{n.Value}, true
	case n.Kind == yaml.SequenceNode:
		for _, item := range n.Content {
			if item = resolve(item); item.Kind != yaml.ScalarNode {
				y.fail(y.place(item), "%s: want a plain value, not %s", path, kind(item))
				return nil, false
			}
			values = append(values, item.Value)
		}
		return values, true
	}
	y.fail(y.place(n), "%s: want a value, not %s", path, kind(n))
	return nil, false
}

// value is that of a scalar.
func (y yamlReader) value(n *yaml.Node, path string, set func(string) error) {
	values, ok := y.values(n, path)
	if !ok {
		return
	}
	if len(values) != 1 {
		y.fail(y.place(n), "%s: want one value, not %d", path, len(values))
		return
	}
	if err := set(values[0]); err != nil {
		y.fail(y.place(n), "%s: %w", path, err)
	}
}

func (y yamlReader) items(n *yaml.Node, path string, item func(*yaml.Node)) {
	n = resolve(n)
	if isNull(n) {
		return
	}
	if n.Kind != yaml.SequenceNode {
		y.fail(y.place(n), "%s: want a list, not %s", path, kind(n))
		return
	}
	for _, i := range n.Content {
		item(resolve(i))
	}
}

func (y yamlReader) addresses(n *yaml.Node) {
	y.c.Addresses = map[string]string{}
	y.pairs(n, "addresses", func(name string, _, v *yaml.Node) {
		full := join("addresses", name)
		y.where[full] = y.place(v)
		y.value(v, full, func(text string) (err error) {
			y.c.Addresses[name], err = host(text)
			return err
		})
	})
}

// fields reads a mapping whose keys are all values.
func (y yamlReader) fields(n *yaml.Node, path string, fields map[string]func(string) error) {
	known := slices.Collect(maps.Keys(fields))
	y.pairs(n, path, func(key string, k, v *yaml.Node) {
		set, ok := fields[key]
		if !ok {
			y.unknown(k, join(path, key), known, nil)
			return
		}
		y.value(v, join(path, key), set)
	})
}

func (y yamlReader) registry(n *yaml.Node) {
	e := entry{where: y.place(n), urlWhere: y.place(n), params: map[string]string{}}
	fields := e.fields()
	y.fields(n, "registries", fields)
	if n.Kind == yaml.MappingNode {
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == "url" {
				e.urlWhere = y.place(n.Content[i+1])
			}
		}
	}
	switch {
	case e.url == "":
		y.fail(e.where, "registries: an entry without url")
		return
	case e.name == "" && !slices.ContainsFunc(y.entries, func(e entry) bool { return e.name == "main" }):
		e.name = "main"
	}
	y.entries = append(y.entries, e)
}

func (y yamlReader) service(n *yaml.Node) {
	var s Service
	y.pairs(n, "services", func(key string, k, v *yaml.Node) {
		full := "services." + key
		switch key {
		case "match":
			y.value(v, full, func(text string) error { s.Match = text; return checkPattern(text) })
		case "publish":
			y.value(v, full, func(text string) (err error) {
				s.Publish, err = choice("mesh", "direct", "both", "off")(text)
				return err
			})
		case "routing":
			source := func(text string) (err error) {
				s.Routing, err = choice("registry", "xds", "xds-then-registry")(text)
				return err
			}
			if v.Kind == yaml.ScalarNode {
				y.value(v, full, source)
				return
			}
			y.fields(v, full, map[string]func(string) error{"source": source, "loadbalance": func(text string) (err error) {
				s.LoadBalance, err = choice("random", "roundrobin", "leastactive")(text)
				return err
			}})
		default:
			y.unknown(k, full, []string{"match", "publish", "routing"}, nil)
		}
	})
	if s.Match == "" {
		y.fail(y.place(n), "services: an entry without match (which services it is for, like \"com.a.*\")")
		return
	}
	y.c.Services = append(y.c.Services, s)
}

func (y yamlReader) static(n *yaml.Node) {
	const path = "inbound.static"
	s := Static{Protocol: "dubbo"}
	y.pairs(n, path, func(key string, k, v *yaml.Node) {
		full := join(path, key)
		switch key {
		case "application":
			y.value(v, full, func(text string) error { s.Application = text; return checkApplication(text) })
		case "protocol":
			y.value(v, full, func(text string) (err error) { s.Protocol, err = choice("dubbo")(text); return err })
		case "host":
			y.value(v, full, func(text string) error {
				s.Host = text
				if _, err := netip.ParseAddr(text); err != nil {
					return fmt.Errorf("want an IP address of this machine, not %q", text)
				}
				return nil
			})
		case "port":
			y.value(v, full, func(text string) (err error) { s.Port, err = integer(1, 65535)(text); return err })
		case "services":
			list, _ := y.values(v, full)
			for _, text := range list {
				one, err := registry.ParseService(text)
				if err == nil {
					err = registry.CheckInterface(one.Interface)
				}
				if err != nil {
					y.fail(y.place(v), "%s: %w", full, err)
				}
				s.Services = append(s.Services, one)
			}
		default:
			y.unknown(k, full, []string{"application", "protocol", "host", "port", "services"}, nil)
		}
	})
	if s.Application == "" || s.Port == 0 {
		y.fail(y.place(n), "%s: an entry needs application and port, where it really listens", path)
		return
	}
	for _, other := range y.c.Static {
		if other.Application == s.Application && other.Protocol == s.Protocol && other.Host == s.Host && other.Port == s.Port {
			y.fail(y.place(n), "%s: %s at port %d is there twice", path, s.Application, s.Port)
			return
		}
	}
	y.where[path] = y.place(n)
	y.c.Static = append(y.c.Static, s)
}

func (y yamlReader) extra(n *yaml.Node) {
	const path = "inbound.extra"
	var x Extra
	y.fields(n, path, map[string]func(string) error{
		"port": func(text string) (err error) {
			if x.Port, err = integer(1, 65535)(text); err != nil {
				x.Port = -1 // told of once
			}
			return err
		},
		"application": func(text string) error { x.Application = text; return checkApplication(text) },
	})
	if x.Port < 0 {
		return
	}
	if x.Application == "" || x.Port == 0 {
		y.fail(y.place(n), "%s: an entry needs port and application, the one to which the port belongs", path)
		return
	}
	for _, other := range y.c.Extra {
		if other.Application == x.Application {
			y.fail(y.place(n), "%s: %s is there twice, and has one port", path, x.Application)
			return
		}
	}
	y.where[extraKey(x)] = y.place(n)
	y.c.Extra = append(y.c.Extra, x)
}

// extraKey names an entry of inbound.extra in messages.
func extraKey(x Extra) string { return "inbound.extra of " + x.Application }

func checkApplication(name string) error {
	if name == "" || len(name) > 128 || strings.ContainsFunc(name, unicode.IsControl) {
		return fmt.Errorf("want the name of an application, 1 to 128 characters, not %.40q", name)
	}
	return nil
}

func resolve(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

func kind(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "keys and values"
	case yaml.SequenceNode:
		return "a list"
	}
	return fmt.Sprintf("%.40q", n.Value)
}

func at(path string) string {
	if path == "" {
		return "the file"
	}
	return path
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}
