package istio

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	networking "istio.io/api/networking/v1alpha3"

	"github.com/meshferry/meshferry/internal/nearest"
)

const (
	maxDepth = 30 // of nested keys; more is an alias to itself
	maxNodes = 1 << 20
)

// Object is one document of the folder.
type Object[T proto.Message] struct {
	Kind, Namespace, Name string
	Place                 Place
	Spec                  T
	lines                 map[string]int // by path below spec, "http[0].route[1]"
}

// Ref is Istio's own name of the object, as istiod writes it into the metadata of
// routes and clusters.
func (o Object[T]) Ref() string {
	return "/apis/networking.istio.io/v1/namespaces/" + o.Namespace + "/" + kebab[o.Kind] + "/" + o.Name
}

var kebab = map[string]string{"VirtualService": "virtual-service", "DestinationRule": "destination-rule",
	"ServiceEntry": "service-entry", "WorkloadEntry": "workload-entry"}

// Equal tells whether two objects say the same, wherever they stand.
func (o Object[T]) Equal(other Object[T]) bool {
	return o.Kind == other.Kind && o.Namespace == other.Namespace && o.Name == other.Name && proto.Equal(o.Spec, other.Spec)
}

// at is the place of a field, or of the nearest one around it.
func (o Object[T]) at(path string) Place {
	for {
		if line, ok := o.lines[path]; ok {
			return Place{o.Place.File, line}
		}
		if path == "" {
			return o.Place
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
}

// Config is a folder that was read.
type Config struct {
	VirtualServices  []Object[*networking.VirtualService]
	DestinationRules []Object[*networking.DestinationRule]
	ServiceEntries   []Object[*networking.ServiceEntry]
	WorkloadEntries  []Object[*networking.WorkloadEntry]
}

// Parse reads files, name to text. The Config is usable if Problems.Err is nil.
func Parse(files map[string][]byte) (*Config, Problems) {
	r := &reader{c: &Config{}, known: map[string]Place{}}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		r.file(name, files[name])
	}
	if len(r.problems.Errors()) == 0 {
		check(r.c, r.fail, r.warn)
	}
	r.problems.sort()
	return r.c, r.problems
}

type reader struct {
	c        *Config
	problems Problems
	known    map[string]Place // kind/namespace/name

	// of the document that is read
	kind  string
	name  string // of the file
	lines map[string]int
	nodes int
}

func (r *reader) fail(p Place, field, format string, args ...any) {
	r.problems = append(r.problems, Problem{Place: p, Field: field, Text: fmt.Sprintf(format, args...)})
}

func (r *reader) warn(p Place, field, format string, args ...any) {
	r.problems = append(r.problems, Problem{Place: p, Warning: true, Field: field, Text: fmt.Sprintf(format, args...)})
}

func (r *reader) place(n *yaml.Node) Place { return Place{r.name, n.Line} }

var yamlLine = regexp.MustCompile(`line (\d+): `)

func (r *reader) file(name string, text []byte) {
	r.name = name
	d := yaml.NewDecoder(bytes.NewReader(text))
	for {
		var doc yaml.Node
		switch err := d.Decode(&doc); {
		case errors.Is(err, io.EOF):
			return
		case err != nil:
			line := 1 // the parser does not say line 1
			if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
				line, _ = strconv.Atoi(m[1]) // digits
			}
			r.fail(Place{name, line}, "", "no YAML: %s", yamlLine.ReplaceAllString(strings.TrimPrefix(err.Error(), "yaml: "), ""))
			return
		}
		if len(doc.Content) == 1 && !isNull(doc.Content[0]) {
			r.lines, r.nodes = map[string]int{}, 0
			r.document(doc.Content[0])
		}
	}
}

// document reads one object of Kubernetes.
func (r *reader) document(n *yaml.Node) {
	var version, kind string
	var metadata struct{ name, namespace string }
	metadata.namespace = "default"
	var spec *yaml.Node
	text := func(v *yaml.Node, field string, to *string) {
		if v.Kind != yaml.ScalarNode || v.Tag != "!!str" {
			r.fail(r.place(v), field, "want a text, not %s", kindOf(v))
			return
		}
		*to = v.Value
	}
	first := len(r.problems)
	r.pairs(n, "", func(key string, k, v *yaml.Node) {
		switch key {
		case "apiVersion":
			text(v, key, &version)
		case "kind":
			text(v, key, &kind)
		case "metadata":
			r.pairs(v, "metadata", func(key string, k, v *yaml.Node) {
				switch key {
				case "name":
					text(v, "metadata.name", &metadata.name)
				case "namespace":
					text(v, "metadata.namespace", &metadata.namespace)
				case "labels", "annotations", "creationTimestamp", "generation", "resourceVersion", "uid", "managedFields", "selfLink", "generateName", "ownerReferences", "finalizers":
				default:
					r.fail(r.place(k), "metadata."+key, "unknown field%s", nearest.DidYouMean(key, []string{"name", "namespace", "labels", "annotations"}))
				}
			})
		case "spec":
			spec = v
		case "status": // what a server adds
		default:
			r.fail(r.place(k), key, "unknown field%s", nearest.DidYouMean(key, []string{"apiVersion", "kind", "metadata", "spec"}))
		}
	})
	if len(r.problems.Errors()) > len(r.problems[:first].Errors()) {
		return
	}
	group, _, _ := strings.Cut(version, "/")
	if _, used := kinds[kind]; !used || group != "networking.istio.io" {
		switch {
		case kind == "":
			r.fail(r.place(n), "kind", "it is missing")
		case strings.HasSuffix(group, "istio.io") && !used:
			r.warn(r.place(n), "kind", "%s has no effect on Dubbo calls here", kind)
		default:
			r.fail(r.place(n), "kind", "%s of %q is none of Istio's: want networking.istio.io/v1 and one of VirtualService, DestinationRule, ServiceEntry, WorkloadEntry", kind, version)
		}
		return
	}
	if metadata.name == "" {
		r.fail(r.place(n), "metadata.name", "it is missing")
		return
	}
	id := kind + " " + metadata.namespace + "/" + metadata.name
	if other, twice := r.known[id]; twice {
		r.fail(r.place(n), "metadata.name", "%s is at %s already", id, other)
		return
	}
	r.known[id] = r.place(n)
	if spec == nil {
		r.fail(r.place(n), "spec", "it is missing")
		return
	}
	r.kind = kind
	switch kind {
	case "VirtualService":
		add(r, &r.c.VirtualServices, metadata.namespace, metadata.name, n, spec, &networking.VirtualService{})
	case "DestinationRule":
		add(r, &r.c.DestinationRules, metadata.namespace, metadata.name, n, spec, &networking.DestinationRule{})
	case "ServiceEntry":
		add(r, &r.c.ServiceEntries, metadata.namespace, metadata.name, n, spec, &networking.ServiceEntry{})
	case "WorkloadEntry":
		add(r, &r.c.WorkloadEntries, metadata.namespace, metadata.name, n, spec, &networking.WorkloadEntry{})
	}
}

func add[T protoreflect.ProtoMessage](r *reader, list *[]Object[T], namespace, name string, n, spec *yaml.Node, m T) {
	o := Object[T]{Kind: r.kind, Namespace: namespace, Name: name, Place: r.place(n), Spec: m, lines: r.lines}
	r.lines[""] = spec.Line
	r.message(spec, m.ProtoReflect(), "", "", 0)
	*list = append(*list, o)
}

// message fills m from a mapping. path is the field's with indexes, form without.
func (r *reader) message(n *yaml.Node, m protoreflect.Message, path, form string, depth int) {
	if r.nodes++; depth > maxDepth || r.nodes > maxNodes {
		r.fail(r.place(n), field(path), "nested too deeply")
		return
	}
	known := kinds[r.kind]
	oneofs := map[protoreflect.Name]string{}
	r.pairs(n, field(path), func(key string, k, v *yaml.Node) {
		at, shape := join(path, key), join(form, key)
		fd := m.Descriptor().Fields().ByJSONName(key)
		if fd == nil {
			r.fail(r.place(k), field(at), "unknown field%s", nearest.DidYouMean(key, names(m.Descriptor())))
			return
		}
		if why, ok := known.ignored[shape]; ok {
			r.warn(r.place(k), field(at), "no effect: %s", why)
			return
		}
		if !known.isUsed(shape) {
			why, ok := known.refused[shape]
			if !ok {
				why = "Istio has this field, but a Dubbo call cannot use it"
			}
			r.fail(r.place(k), field(at), "not possible: %s", why)
			return
		}
		if isNull(v) {
			return
		}
		if one := fd.ContainingOneof(); one != nil && !one.IsSynthetic() {
			if other, twice := oneofs[one.Name()]; twice {
				r.fail(r.place(k), field(at), "only one of %s and %s is possible", other, key)
				return
			}
			oneofs[one.Name()] = key
		}
		r.lines[at] = k.Line
		r.field(v, m, fd, at, shape, depth+1)
	})
}

func (r *reader) field(n *yaml.Node, m protoreflect.Message, fd protoreflect.FieldDescriptor, path, form string, depth int) {
	switch {
	case fd.IsMap():
		to := m.Mutable(fd).Map()
		r.pairs(n, field(path), func(key string, k, v *yaml.Node) {
			r.lines[path+"["+key+"]"] = k.Line
			if v, ok := r.value(v, fd.MapValue(), to.NewValue, path+"["+key+"]", form, depth); ok {
				to.Set(protoreflect.ValueOfString(key).MapKey(), v)
			}
		})
	case fd.IsList():
		if n.Kind != yaml.SequenceNode {
			r.fail(r.place(n), field(path), "want a list, not %s", kindOf(n))
			return
		}
		to := m.Mutable(fd).List()
		for i, item := range n.Content {
			at := fmt.Sprintf("%s[%d]", path, i)
			item = resolve(item)
			r.lines[at] = item.Line
			if v, ok := r.value(item, fd, to.NewElement, at, form, depth); ok {
				to.Append(v)
			}
		}
	default:
		if v, ok := r.value(n, fd, func() protoreflect.Value { return m.NewField(fd) }, path, form, depth); ok {
			m.Set(fd, v)
		}
	}
}

// value reads one value. Of a list or a map fd is the type of its items.
func (r *reader) value(n *yaml.Node, fd protoreflect.FieldDescriptor, empty func() protoreflect.Value, path, form string, depth int) (v protoreflect.Value, ok bool) {
	bad := func(want string) (protoreflect.Value, bool) {
		r.fail(r.place(n), field(path), "want %s, not %s", want, kindOf(n))
		return v, false
	}
	if fd.Kind() == protoreflect.MessageKind {
		v = empty()
		if special := fd.Message().FullName(); special.Parent() == "google.protobuf" {
			if d, ok := v.Message().Interface().(*durationpb.Duration); ok {
				// As jsonpb, which istiod uses: Go's durations, not protojson's seconds only.
				t, err := time.ParseDuration(n.Value)
				if n.Kind != yaml.ScalarNode || err != nil {
					return bad("a duration like 1.5s or 300ms")
				}
				p := durationpb.New(t)
				d.Seconds, d.Nanos = p.Seconds, p.Nanos
				return v, true
			}
			if n.Kind != yaml.ScalarNode || protojson.Unmarshal([]byte(n.Value), v.Message().Interface()) != nil {
				if special.Name() == "BoolValue" {
					return bad("true or false")
				}
				return bad("a number")
			}
			return v, true
		}
		r.message(n, v.Message(), path, form, depth)
		return v, true
	}
	if n.Kind != yaml.ScalarNode {
		return bad("a value")
	}
	switch fd.Kind() {
	case protoreflect.StringKind:
		if n.Tag != "!!str" {
			return bad("a text: write it in quotes")
		}
		return protoreflect.ValueOfString(n.Value), true
	case protoreflect.BoolKind:
		var b bool
		if n.Tag != "!!bool" || n.Decode(&b) != nil {
			return bad("true or false")
		}
		return protoreflect.ValueOfBool(b), true
	case protoreflect.EnumKind:
		values := fd.Enum().Values()
		if e := values.ByName(protoreflect.Name(n.Value)); e != nil {
			return protoreflect.ValueOfEnum(e.Number()), true
		}
		var all []string
		for i := range values.Len() {
			all = append(all, string(values.Get(i).Name()))
		}
		return bad("one of " + strings.Join(all, ", "))
	case protoreflect.DoubleKind, protoreflect.FloatKind:
		if f, err := strconv.ParseFloat(n.Value, 64); err == nil {
			return protoreflect.ValueOfFloat64(f), true
		}
		return bad("a number")
	}
	bits := 32
	if fd.Kind() == protoreflect.Int64Kind || fd.Kind() == protoreflect.Uint64Kind {
		bits = 64
	}
	switch fd.Kind() {
	case protoreflect.Int32Kind, protoreflect.Int64Kind:
		i, err := strconv.ParseInt(n.Value, 10, bits)
		if err != nil {
			return bad("a whole number")
		}
		if bits == 32 {
			return protoreflect.ValueOfInt32(int32(i)), true
		}
		return protoreflect.ValueOfInt64(i), true
	case protoreflect.Uint32Kind, protoreflect.Uint64Kind:
		i, err := strconv.ParseUint(n.Value, 10, bits)
		if err != nil {
			return bad("a whole number from 0")
		}
		if bits == 32 {
			return protoreflect.ValueOfUint32(uint32(i)), true
		}
		return protoreflect.ValueOfUint64(i), true
	}
	return bad("something else")
}

// pairs yields the keys and values of a mapping, each key once.
func (r *reader) pairs(n *yaml.Node, path string, yield func(key string, k, v *yaml.Node)) {
	n = resolve(n)
	if isNull(n) {
		return
	}
	if n.Kind != yaml.MappingNode {
		r.fail(r.place(n), path, "want keys and values, not %s", kindOf(n))
		return
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := resolve(n.Content[i]), resolve(n.Content[i+1])
		switch {
		case k.Kind != yaml.ScalarNode:
			r.fail(r.place(k), path, "want a name as key, not %s", kindOf(k))
		case seen[k.Value]:
			r.fail(r.place(k), join(path, k.Value), "it is there twice")
		default:
			seen[k.Value] = true
			yield(k.Value, k, v)
		}
	}
}

func names(d protoreflect.MessageDescriptor) []string {
	var all []string
	for i := range d.Fields().Len() {
		all = append(all, d.Fields().Get(i).JSONName())
	}
	return all
}

func resolve(n *yaml.Node) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	return n
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "keys and values"
	case yaml.SequenceNode:
		return "a list"
	}
	return fmt.Sprintf("%.40q", n.Value)
}

// field is a path below spec as a report shows it.
func field(path string) string { return join("spec", path) }

func join(path, key string) string {
	if path == "" || key == "" {
		return path + key
	}
	return path + "." + key
}
