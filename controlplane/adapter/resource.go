package adapter

import (
	"crypto/sha256"
	"encoding/hex"
	"net/netip"
	"slices"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"
	mcp "istio.io/api/mcp/v1alpha1"
	networking "istio.io/api/networking/v1alpha3"

	"github.com/meshferry/meshferry/controlplane/catalog"
)

const (
	portName = "dubbo" // no protocol: then istiod makes routes of it (HTTP sniffing)
	manager  = "meshferry"
)

// resource is the ServiceEntry of a service in MCP's envelope, always the same
// bytes for the same service. skipped are endpoints whose address is no IP.
//
// The endpoints stand in the ServiceEntry: WorkloadEntries were seen to stay
// without effect until the next change at a cold start of istiod.
func resource(namespace string, s *catalog.Service) (r *anypb.Any, skipped int) {
	entry := &networking.ServiceEntry{
		Hosts:      []string{s.Host},
		Ports:      []*networking.ServicePort{{Number: catalog.MeshPort, Name: portName}},
		Location:   networking.ServiceEntry_MESH_INTERNAL,
		Resolution: networking.ServiceEntry_STATIC,
	}
	for _, e := range s.Endpoints {
		if _, err := netip.ParseAddr(e.Address); err != nil {
			skipped++
			continue
		}
		w := &networking.WorkloadEntry{Address: e.Address, Labels: e.Labels(), Weight: uint32(e.Weight)}
		if e.Port != catalog.MeshPort {
			w.Ports = map[string]uint32{portName: uint32(e.Port)}
		}
		l := e.Locality()
		w.Locality = strings.TrimRight(strings.Join([]string{l.Region, l.Zone, l.SubZone}, "/"), "/")
		entry.Endpoints = append(entry.Endpoints, w)
	}
	body := pack(entry)
	annotations := map[string]string{"interface": s.Interface, "meshferry.io/service": s.Key()}
	if s.Group != "" {
		annotations["group"] = s.Group
	}
	if s.Version != "" {
		annotations["version"] = s.Version
	}
	m := &mcp.Metadata{
		Name: namespace + "/" + s.Host, CreateTime: &timestamppb.Timestamp{},
		Labels: map[string]string{"manager": manager}, Annotations: annotations,
	}
	// istiod ignores a resource whose version it has, whatever is in it.
	m.Version = hash(body.Value, pack(m).Value)
	return pack(&mcp.Resource{Metadata: m, Body: body}), skipped
}

func hash(texts ...[]byte) string {
	h := sha256.New()
	for _, t := range texts {
		one := sha256.Sum256(t)
		h.Write(one[:])
	}
	return hex.EncodeToString(h.Sum(nil)[:8])
}

func pack(m proto.Message) *anypb.Any {
	a := &anypb.Any{}
	if err := anypb.MarshalFrom(a, m, proto.MarshalOptions{Deterministic: true}); err != nil {
		panic("marshal a message of our own: " + err.Error())
	}
	return a
}

// snapshot is all that istiod is sent. It is never changed.
type snapshot struct {
	version string
	entries []*anypb.Any // by name
}

// collect composes a snapshot of resources by host.
func collect(byHost map[string]*anypb.Any) *snapshot {
	hosts := make([]string, 0, len(byHost))
	for h := range byHost {
		hosts = append(hosts, h)
	}
	slices.Sort(hosts)
	s := &snapshot{}
	var texts [][]byte
	for _, h := range hosts {
		s.entries = append(s.entries, byHost[h])
		texts = append(texts, byHost[h].Value)
	}
	s.version = hash(texts...)
	return s
}
