// Package prototest finds fields of protobuf messages that a translation drops in
// silence: it sets each field by reflection, and looks whether anything changes.
//
// A field that a new version of the API brings is set too, so that a test which uses
// this fails when the API grows by something that nobody thought about.
package prototest

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Subject is a message and what is made of it.
type Subject struct {
	Base proto.Message // valid, with what must be there for the rest to count
	// Translate gives a comparable text of all that comes out of a message, also of
	// what is said about it. It must not change the message.
	Translate func(proto.Message) string
	// Leaves are full names of messages that are set as a whole and not looked into.
	Leaves []string
	// Meaningless are fields that may be dropped, with the reason: by path from the
	// root ("virtual_hosts.routes.decorator"), or wherever they are ("*.metadata").
	Meaningless map[string]string
	// Bases replace Base below a path: a field that counts only beside another one.
	Bases map[string]proto.Message
	// Said tells from two translations that a field as a whole was named as not
	// honoured, so that what is inside it need not be looked at.
	Said func(before, after, field string) bool
}

// always are leaves in every subject.
var always = []string{
	"google.protobuf.Any", "google.protobuf.Struct", "google.protobuf.Duration", "google.protobuf.Timestamp",
	"google.protobuf.BoolValue", "google.protobuf.UInt32Value", "google.protobuf.UInt64Value", "google.protobuf.Int32Value", "google.protobuf.Int64Value",
	"google.protobuf.DoubleValue", "google.protobuf.FloatValue", "google.protobuf.StringValue", "google.protobuf.BytesValue",
}

// Dropped lists the paths of fields that change nothing, sorted, and behind "stale: "
// the entries of Meaningless that do change something or do not exist.
func (s Subject) Dropped() []string {
	w := &walk{Subject: s, used: map[string]bool{}}
	w.message(s.Base, nil, s.Base.ProtoReflect().Descriptor(), "", nil)
	for path := range s.Meaningless {
		if !w.used[path] {
			w.dropped = append(w.dropped, "stale: "+path)
		}
	}
	slices.Sort(w.dropped)
	return slices.Compact(w.dropped)
}

type walk struct {
	Subject
	used    map[string]bool
	dropped []string
}

// message looks at each field of the message that steps lead to from root.
func (w *walk) message(root proto.Message, steps []protoreflect.FieldDescriptor, d protoreflect.MessageDescriptor, prefix string, within []protoreflect.FullName) {
	if slices.Contains(within, d.FullName()) {
		return // it was looked at one level above
	}
	within = append(slices.Clone(within), d.FullName())
	fields := d.Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		path := strings.TrimPrefix(prefix+"."+string(f.Name()), ".")
		base := root
		if b := w.Bases[path]; b != nil {
			base = b
		}
		before := w.Translate(base)
		next := proto.Clone(base)
		set(at(next.ProtoReflect(), steps), f, w.leaf(f))
		after := w.Translate(next)
		if w.meaningless(path, before == after) {
			continue
		}
		switch {
		case w.Said != nil && w.Said(before, after, string(f.Name())):
		case w.leaf(f):
			if before == after {
				w.dropped = append(w.dropped, path)
			}
		default:
			w.message(next, append(slices.Clone(steps), f), f.Message(), path, within)
		}
	}
}

// meaningless tells whether a field that changed nothing may be dropped.
func (w *walk) meaningless(path string, same bool) bool {
	for _, entry := range [...]string{path, "*." + path[strings.LastIndexByte(path, '.')+1:]} {
		if _, ok := w.Meaningless[entry]; ok && same {
			w.used[entry] = true
			return true
		}
	}
	return false
}

// leaf tells whether a field is set as a whole.
func (w *walk) leaf(f protoreflect.FieldDescriptor) bool {
	if f.IsMap() || f.Message() == nil {
		return true
	}
	name := string(f.Message().FullName())
	return slices.Contains(always, name) || slices.Contains(w.Leaves, name)
}

// at follows the steps; of a list it is the first element.
func at(m protoreflect.Message, steps []protoreflect.FieldDescriptor) protoreflect.Message {
	for _, f := range steps {
		if f.IsList() {
			list := m.Mutable(f).List()
			if list.Len() == 0 {
				list.AppendMutable()
			}
			m = list.Get(0).Message()
			continue
		}
		m = m.Mutable(f).Message()
	}
	return m
}

// set gives a field a value that is none of its defaults. A message that is looked
// into is only made present.
func set(m protoreflect.Message, f protoreflect.FieldDescriptor, leaf bool) {
	switch {
	case f.IsMap():
		v := m.NewField(f)
		value := v.Map().NewValue()
		if f.MapValue().Message() != nil {
			fill(value.Message())
		} else {
			value = sample(f.MapValue())
		}
		v.Map().Set(sample(f.MapKey()).MapKey(), value)
		m.Set(f, v)
	case f.IsList() && f.Message() != nil:
		list := m.Mutable(f).List()
		if list.Len() > 0 && !leaf {
			return
		}
		one := list.NewElement()
		if leaf {
			fill(one.Message())
		}
		list.Append(one)
	case f.IsList():
		m.Mutable(f).List().Append(sample(f))
	case f.Message() != nil:
		if leaf {
			m.Clear(f)
			fill(m.Mutable(f).Message())
		} else {
			m.Mutable(f)
		}
	default:
		m.Set(f, sample(f))
	}
}

// fill sets the first field of each choice of a leaf, and what is in it: the number
// of a wrapper, the seconds of a duration, the type of an Any.
func fill(m protoreflect.Message) {
	switch m.Descriptor().FullName() {
	case "google.protobuf.Any":
		m.Set(m.Descriptor().Fields().ByName("type_url"), protoreflect.ValueOfString("type.googleapis.com/example.Unknown"))
		m.Set(m.Descriptor().Fields().ByName("value"), protoreflect.ValueOfBytes([]byte{0x0a, 0x00}))
		return
	case "google.protobuf.Duration":
		m.Set(m.Descriptor().Fields().ByName("seconds"), protoreflect.ValueOfInt64(7))
		return
	}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		switch {
		case f.ContainingOneof() != nil && m.WhichOneof(f.ContainingOneof()) != nil, f.IsMap(), f.IsList():
		case f.Message() == nil:
			m.Set(f, sample(f))
		case f.Message() != m.Descriptor():
			fill(m.Mutable(f).Message())
		}
	}
}

func sample(f protoreflect.FieldDescriptor) protoreflect.Value {
	switch f.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.EnumKind:
		values := f.Enum().Values()
		return protoreflect.ValueOfEnum(values.Get(values.Len() - 1).Number())
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return protoreflect.ValueOfInt32(7)
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return protoreflect.ValueOfInt64(7)
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(7)
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(7)
	case protoreflect.FloatKind:
		return protoreflect.ValueOfFloat32(7)
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(7)
	case protoreflect.StringKind:
		return protoreflect.ValueOfString("sample")
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte("sample"))
	}
	panic(fmt.Sprintf("prototest: field %s", f.FullName()))
}
