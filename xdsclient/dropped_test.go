package xdsclient

import (
	"encoding/json"
	"strings"
	"testing"

	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/meshferry/meshferry/internal/prototest"
)

// Each field of an assignment is in what readers get, or in Unread, or means nothing to
// who dials endpoints.
func TestNoFieldOfEndpointsIsDropped(t *testing.T) {
	base := func(text string) proto.Message {
		m := new(endpointv3.ClusterLoadAssignment)
		if err := prototext.Unmarshal([]byte(text), m); err != nil {
			t.Fatal(err)
		}
		return m
	}
	s := prototest.Subject{
		Base: base(`cluster_name: "a" endpoints { lb_endpoints { endpoint { address { socket_address { address: "10.0.0.1" port_value: 1 } } } } } policy { drop_overloads { drop_percentage { numerator: 1 } } }`),
		Translate: func(m proto.Message) string {
			a, err := assignment(m.(*endpointv3.ClusterLoadAssignment))
			if err != nil {
				return err.Error()
			}
			raw, err := json.Marshal(a)
			if err != nil {
				t.Fatal(err)
			}
			return string(raw)
		},
		Said: func(before, after, field string) bool {
			return strings.Contains(after, `"`+field+`"`) && !strings.Contains(before, `"`+field+`"`)
		},
		Leaves: []string{"envoy.type.v3.FractionalPercent", "envoy.config.core.v3.Pipe", "envoy.config.core.v3.EnvoyInternalAddress"},
		Meaningless: map[string]string{
			"cluster_name":                   "the key",
			"policy.drop_overloads.category": "statistics: all categories count together",
			"endpoints.metadata":             "of localities, for other programs",
			"endpoints.proximity":            "not implemented in Envoy either",
			"endpoints.lb_endpoints.endpoint.health_check_config":                "of active health checks, which are said of the cluster",
			"endpoints.lb_endpoints.endpoint.observability_name":                 "statistics",
			"endpoints.lb_endpoints.endpoint.address.socket_address.ipv4_compat": "of listeners",
			"endpoints.lb_endpoints.metadata.typed_filter_metadata":              "for other programs",
		},
		Bases: map[string]proto.Message{
			"endpoints.lb_endpoints.metadata.filter_metadata": base(`cluster_name: "a" endpoints { lb_endpoints { endpoint { address { socket_address { address: "10.0.0.1" port_value: 1 } } } metadata { filter_metadata { key: "f" value { fields { key: "k" value { string_value: "v" } } } } } } }`),
		},
	}
	for _, path := range s.Dropped() {
		t.Errorf("%s: dropped in silence", path)
	}
}
