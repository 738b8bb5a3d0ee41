package controlplane

import (
	"bytes"
	"fmt"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// request is a DiscoveryRequest or a DeltaDiscoveryRequest. It is read from the
// wire here, because an acknowledgement of state of the world repeats all names:
// of 10 000 that are known already it makes nothing.
type request struct {
	delta bool
	lists *nameLists
	last  []*names // that were asked for on this stream

	node                    *core.Node
	typeURL, version, nonce string
	nack                    string // why a response was refused
	nacked                  bool
	names                   *names // state of the world; wildcard not among them
	wildcard                bool   // "*" was among the names, or is subscribed to
	unwildcard              bool   // incremental: "*" is unsubscribed
	subscribe, unsubscribe  []string
	initial                 map[string]string // versions by name
}

// Numbers of fields.
const (
	fieldNames = 3 // of both kinds

	sotwVersion, sotwNode, sotwType, sotwNonce, sotwError = 1, 2, 4, 5, 6

	deltaNode, deltaType, deltaUnsubscribe, deltaInitial, deltaNonce, deltaError = 1, 2, 4, 5, 6, 7

	// of responses; they are the same in both kinds
	outVersion, outResources, outType, outNonce, outRemoved = 1, 2, 4, 5, 6
)

const wildcard = "*"

// each yields the fields of a message that are bytes; others are stepped over.
func each(b []byte, yield func(num protowire.Number, value []byte, start, end int) error) error {
	for at := 0; at < len(b); {
		num, typ, n := protowire.ConsumeTag(b[at:])
		if n < 0 {
			return protowire.ParseError(n)
		}
		size := protowire.ConsumeFieldValue(num, typ, b[at+n:])
		if size < 0 {
			return protowire.ParseError(size)
		}
		if typ == protowire.BytesType {
			value, _ := protowire.ConsumeBytes(b[at+n:])
			if err := yield(num, value, at, at+n+size); err != nil {
				return err
			}
		}
		at += n + size
	}
	return nil
}

func (r *request) decode(b []byte) error {
	if !r.delta {
		if n, rest := r.repeated(b); n != nil {
			r.names = n
			b = rest
		}
	}
	var first, last, count int // of the names
	err := each(b, func(num protowire.Number, value []byte, start, end int) error {
		if num == fieldNames && !r.delta {
			if count++; first == 0 && last == 0 {
				first = start
			}
			last = end
			return nil
		}
		return r.field(num, value)
	})
	if err != nil || r.delta || r.names != nil {
		return err
	}
	r.names = r.lists.spelled(b[first:last], func() []string {
		list := make([]string, 0, count)
		_ = each(b[first:last], func(num protowire.Number, value []byte, _, _ int) error { // it was read before
			if num == fieldNames {
				list = append(list, string(value))
			}
			return nil
		})
		return list
	})
	if r.names.has(wildcard) { // it sorts among the first
		r.wildcard = true
		list := make([]string, 0, len(r.names.list))
		for _, name := range r.names.list {
			if name != wildcard {
				list = append(list, name)
			}
		}
		r.names = r.lists.of(list)
	}
	return nil
}

// repeated looks for names that were asked for before, without looking at each of
// them. It returns what is beside them.
func (r *request) repeated(b []byte) (*names, []byte) {
	for at := 0; at < len(b); {
		num, typ, n := protowire.ConsumeTag(b[at:])
		if n < 0 {
			break
		}
		if num != fieldNames {
			size := protowire.ConsumeFieldValue(num, typ, b[at+n:])
			if size < 0 {
				break
			}
			at += n + size
			continue
		}
		for _, one := range r.last {
			end := at + len(one.text)
			if len(one.text) == 0 || !bytes.HasPrefix(b[at:], one.text) {
				continue
			}
			rest := b[end:]
			if more, _, n := protowire.ConsumeTag(rest); len(rest) > 0 && (n < 0 || more == fieldNames) {
				continue
			}
			rest = append(b[:at:at], rest...)
			for left := rest[at:]; len(left) > 0; { // more names further on?
				num, typ, n := protowire.ConsumeTag(left)
				if n < 0 || num == fieldNames {
					return nil, nil
				}
				size := protowire.ConsumeFieldValue(num, typ, left[n:])
				if size < 0 {
					return nil, nil
				}
				left = left[n+size:]
			}
			return one, rest
		}
		break
	}
	return nil, nil
}

// field takes every field but the names of state of the world.
func (r *request) field(num protowire.Number, value []byte) error {
	is := func(sotw, delta protowire.Number) bool {
		return num == sotw && !r.delta || num == delta && r.delta
	}
	const none = 0
	switch {
	case is(sotwNode, deltaNode):
		r.node = &core.Node{}
		return proto.Unmarshal(value, r.node)
	case is(sotwType, deltaType):
		r.typeURL = string(value)
	case is(sotwVersion, none):
		r.version = string(value)
	case is(sotwNonce, deltaNonce):
		r.nonce = string(value)
	case is(sotwError, deltaError):
		var e status.Status
		if err := proto.Unmarshal(value, &e); err != nil {
			return err
		}
		r.nack, r.nacked = e.GetMessage(), true
	case is(none, fieldNames):
		if r.wildcard = r.wildcard || string(value) == wildcard; string(value) != wildcard {
			r.subscribe = append(r.subscribe, string(value))
		}
	case is(none, deltaUnsubscribe):
		if r.unwildcard = r.unwildcard || string(value) == wildcard; string(value) != wildcard {
			r.unsubscribe = append(r.unsubscribe, string(value))
		}
	case is(none, deltaInitial):
		var name, version string
		err := each(value, func(num protowire.Number, value []byte, _, _ int) error {
			switch num {
			case 1:
				name = string(value)
			case 2:
				version = string(value)
			}
			return nil
		})
		if err != nil {
			return err
		}
		if r.initial == nil {
			r.initial = map[string]string{}
		}
		r.initial[name] = version
	}
	return nil
}

// response is what is sent: its parts are shared by all nodes that are sent the
// same.
type response struct {
	head      []byte
	parts     mem.BufferSlice
	resources int
}

func newResponse(a *answer, typeURL, nonce string) *response {
	head := appendText(nil, outVersion, a.version)
	head = appendText(head, outType, typeURL)
	head = appendText(head, outNonce, nonce)
	for _, name := range a.removed {
		head = appendText(head, outRemoved, name)
	}
	return &response{head, a.parts, a.resources}
}

func appendText(b []byte, num protowire.Number, text string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, num, protowire.BytesType), text)
}

// codec is gRPC's, for requests and responses of ADS alone.
type codec struct{}

func (codec) Name() string { return "proto" }

func (codec) Marshal(v any) (mem.BufferSlice, error) {
	r, ok := v.(*response)
	if !ok {
		return nil, fmt.Errorf("a %T is not sent here", v)
	}
	return append(mem.BufferSlice{mem.SliceBuffer(r.head)}, r.parts...), nil
}

func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	r, ok := v.(*request)
	if !ok {
		return fmt.Errorf("a %T is not read here", v)
	}
	b := data.MaterializeToBuffer(mem.DefaultBufferPool())
	defer b.Free()
	return r.decode(b.ReadOnlyData())
}
