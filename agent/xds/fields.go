package xds

import (
	"fmt"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/meshferry/meshferry/agent/route"
)

// notes collects what cannot be honoured, one line each, without repeats.
type notes []string

func (n *notes) add(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	if !slices.Contains(*n, line) {
		*n = append(*n, line)
	}
}

// fields notes each field of m that is set and not in known, a list of names
// between blanks: those that are honoured, and those that mean nothing to a Dubbo
// call.
func (n *notes) fields(m proto.Message, known string) { n.within("", m, known) }

// within is fields of a message that is named before them.
func (n *notes) within(prefix string, m proto.Message, known string) {
	known = " " + known + " "
	m.ProtoReflect().Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		name := string(f.Name())
		if strings.Contains(known, " "+name+" ") {
			return true
		}
		if f.Kind() == protoreflect.BoolKind && !f.IsList() && !v.Bool() {
			return true
		}
		n.add("%s%s is not honoured", prefix, name)
		return true
	})
	slices.Sort(*n) // Range has no order
}

// perMillion is a share; most is a million.
func perMillion(p *typev3.FractionalPercent) uint32 {
	share := uint64(p.GetNumerator())
	switch p.GetDenominator() {
	case typev3.FractionalPercent_HUNDRED:
		share *= 10_000
	case typev3.FractionalPercent_TEN_THOUSAND:
		share *= 100
	}
	return uint32(min(share, route.Million))
}

// runtimePerMillion is the share of a runtime value: its default, since there is no
// runtime here.
func runtimePerMillion(p *corev3.RuntimeFractionalPercent) uint32 {
	return perMillion(p.GetDefaultValue())
}

// origin names the resource that a control plane made something of:
// "virtual-service dubbo/demo" from Istio's metadata, or "".
func origin(m *corev3.Metadata) string {
	path := m.GetFilterMetadata()["istio"].GetFields()["config"].GetStringValue()
	// /apis/networking.istio.io/v1/namespaces/dubbo/virtual-service/demo
	parts := strings.Split(path, "/")
	if i := slices.Index(parts, "namespaces"); i >= 0 && len(parts) == i+4 {
		return parts[i+2] + " " + parts[i+1] + "/" + parts[i+3]
	}
	return path
}
