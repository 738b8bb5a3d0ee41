package controlplane

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
)

// fleet are clients that ask for everything, as agents do, and keep nothing: they
// speak HTTP/2 themselves, read version and nonce, and acknowledge. So what is
// measured beside them is the server.
type fleet struct {
	asking
	clients int
	out     io.Writer
	seen    sync.Map // "type ordinal" → *atomic.Int64, how many clients had that many responses
	bytes   atomic.Int64
}

// asking is how clients ask.
type asking struct {
	Delta    bool // incremental
	Services int  // that each follows by name, as gRPC clients ask; 0: all, as sidecars ask
}

func (f asking) String() string {
	kind, follows := "state of the world", "everything"
	if f.Delta {
		kind = "incremental"
	}
	if f.Services > 0 {
		follows = fmt.Sprintf("%d services by name", f.Services)
	}
	return kind + ", " + follows
}

// told notes one client's nth response of a type, and prints a line when every
// client has had it.
func (f *fleet) told(typeURL string, n int) {
	key := short(typeURL) + " " + strconv.Itoa(n)
	count, _ := f.seen.LoadOrStore(key, new(atomic.Int64))
	if count.(*atomic.Int64).Add(1) == int64(f.clients) {
		fmt.Fprintf(f.out, "all %s %d\n", key, f.bytes.Load())
	}
}

// light is one client.
type light struct {
	f      *fleet
	conn   net.Conn
	framer *http2.Framer
	out    *bufio.Writer
	path   string
	count  map[string]int
	names  map[string][]byte // the requests' field resource_names, by type
	msg    message

	pending [][]byte // requests, or their rest, that the server gave no window for yet
	window  [2]int64 // of the connection, of the stream
	initial int64    // of a stream, as the server set it
}

const streamID = 1

func (f *fleet) run(address string, node *core.Node, names map[string][]byte) error {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	l := &light{f: f, conn: conn, out: bufio.NewWriterSize(conn, 32<<10), path: "StreamAggregatedResources", count: map[string]int{}, names: names,
		window: [2]int64{65535, 65535}, initial: 65535}
	if f.Delta {
		l.path = "DeltaAggregatedResources"
	}
	l.framer = http2.NewFramer(l.out, bufio.NewReaderSize(conn, 32<<10))
	l.framer.SetReuseFrames()
	if err := l.open(node); err != nil {
		return err
	}
	for {
		frame, err := l.framer.ReadFrame()
		if err != nil {
			return err
		}
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if v, ok := frame.Value(http2.SettingInitialWindowSize); ok {
				l.window[1], l.initial = l.window[1]+int64(v)-l.initial, int64(v)
			}
			if !frame.IsAck() {
				err = errors.Join(l.framer.WriteSettingsAck(), l.pump())
			}
		case *http2.WindowUpdateFrame:
			l.window[min(frame.StreamID, 1)] += int64(frame.Increment)
			err = l.pump()
		case *http2.PingFrame:
			if !frame.IsAck() {
				err = errors.Join(l.framer.WritePing(true, frame.Data), l.out.Flush())
			}
		case *http2.GoAwayFrame, *http2.RSTStreamFrame:
			err = fmt.Errorf("%v", frame)
		case *http2.DataFrame:
			l.f.bytes.Add(int64(len(frame.Data())))
			err = l.data(frame.Data())
		}
		if err != nil {
			return err
		}
	}
}

func (l *light) open(node *core.Node) error {
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, h := range [][2]string{{":method", "POST"}, {":scheme", "http"}, {":path", "/envoy.service.discovery.v3.AggregatedDiscoveryService/" + l.path},
		{":authority", "test"}, {"content-type", "application/grpc"}, {"te", "trailers"}} {
		if err := enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]}); err != nil {
			return err
		}
	}
	_, err := l.out.WriteString(http2.ClientPreface)
	err = errors.Join(err,
		l.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1<<31 - 1}),
		l.framer.WriteWindowUpdate(0, 1<<31-1-65535),
		l.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: streamID, BlockFragment: block.Bytes(), EndHeaders: true}))
	if err != nil {
		return err
	}
	return l.ask(resource.ClusterType, node, "", "")
}

// ask sends a request; version and nonce acknowledge a response.
func (l *light) ask(typeURL string, node *core.Node, version, nonce string) error {
	names := l.names[typeURL]
	var m proto.Message = &discovery.DiscoveryRequest{Node: node, TypeUrl: typeURL, VersionInfo: version, ResponseNonce: nonce}
	if l.f.Delta {
		m = &discovery.DeltaDiscoveryRequest{Node: node, TypeUrl: typeURL, ResponseNonce: nonce}
		if nonce != "" {
			names = nil
		}
	}
	b, err := proto.Marshal(m)
	if err != nil {
		return err
	}
	l.pending = append(l.pending, append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(b)+len(names))), b...))
	if names != nil {
		l.pending = append(l.pending, names)
	}
	return l.pump()
}

// pump sends what the server's windows allow.
func (l *light) pump() error {
	for len(l.pending) > 0 {
		part := l.pending[0]
		n := int(min(int64(len(part)), 16<<10, l.window[0], l.window[1]))
		if n <= 0 {
			break
		}
		if err := l.framer.WriteData(streamID, false, part[:n]); err != nil {
			return err
		}
		l.window[0] -= int64(n)
		l.window[1] -= int64(n)
		if l.pending[0] = part[n:]; n == len(part) {
			l.pending = l.pending[1:]
		}
	}
	return l.out.Flush()
}

// data takes a part of the stream of messages.
func (l *light) data(b []byte) error {
	for len(b) > 0 {
		n, done := l.msg.take(b)
		b = b[n:]
		if !done {
			continue
		}
		m := l.msg
		l.msg = message{}
		l.count[m.typeURL]++
		l.f.told(m.typeURL, l.count[m.typeURL])
		if err := l.ask(m.typeURL, nil, m.version, m.nonce); err != nil {
			return err
		}
		if l.count[m.typeURL] > 1 {
			continue
		}
		if next := map[string]string{resource.ClusterType: resource.EndpointType, resource.EndpointType: resource.ListenerType, resource.ListenerType: resource.RouteType}[m.typeURL]; next != "" {
			if err := l.ask(next, nil, "", ""); err != nil {
				return err
			}
		}
	}
	return nil
}

// message reads one gRPC message as it comes: of its fields the short ones are
// kept, the resources are stepped over.
type message struct {
	head                    []byte // not complete yet: prefix of the message, or of a field
	left                    int    // bytes of the message
	started                 bool
	skip                    int // bytes of a resource
	version, typeURL, nonce string
}

func (m *message) take(b []byte) (used int, done bool) {
	if m.skip > 0 {
		used = min(m.skip, len(b))
		m.skip -= used
		m.left -= used
		return used, m.left == 0
	}
	m.head = append(m.head, b[0])
	if !m.started {
		if len(m.head) == 5 {
			m.left, m.started, m.head = int(binary.BigEndian.Uint32(m.head[1:])), true, nil
		}
		return 1, m.started && m.left == 0
	}
	m.left--
	num, _, n := protowire.ConsumeTag(m.head)
	if n < 0 {
		return 1, false
	}
	size, k := protowire.ConsumeVarint(m.head[n:])
	if k < 0 {
		return 1, false
	}
	if num == 2 || num == 6 { // resources; removed_resources
		m.skip, m.head = int(size), nil
		return 1, m.left == 0
	}
	value := m.head[n+k:]
	if len(value) < int(size) {
		return 1, false
	}
	switch text := string(value); {
	case num == 1:
		m.version = text
	case num == 5:
		m.nonce = text
	case strings.HasPrefix(text, "type.googleapis.com/"):
		m.typeURL = text
	}
	m.head = nil
	return 1, m.left == 0
}

// start opens the clients, and waits for them.
func (f *fleet) start(address string, clients int, out io.Writer) error {
	f.clients, f.out = clients, out
	fields := func(names ...string) (b []byte) {
		for _, name := range names {
			b = protowire.AppendString(protowire.AppendTag(b, 3, protowire.BytesType), name) // resource_names, or resource_names_subscribe
		}
		return b
	}
	cluster := func(i int) string { return clusterName(20882, "", strings.ToLower(scaleName(i))) }
	everything := map[string][]byte{resource.RouteType: fields(proxyRoutes)}
	for i := range scaleServices {
		everything[resource.EndpointType] = append(everything[resource.EndpointType], fields(cluster(i))...)
	}
	var wg sync.WaitGroup
	for c := range clients {
		node, names := agentNode(), everything
		if f.Services > 0 {
			node.Metadata.Fields["GENERATOR"] = structpb.NewStringValue("grpc")
			names = map[string][]byte{}
			for i := range f.Services {
				service := 0 // all follow this one
				if i > 0 {
					service = (c*f.Services + i) % scaleServices
				}
				names[resource.ListenerType] = append(names[resource.ListenerType], fields(strings.ToLower(scaleName(service))+":20882")...)
				for _, typeURL := range []string{resource.ClusterType, resource.EndpointType, resource.RouteType} {
					names[typeURL] = append(names[typeURL], fields(cluster(service))...)
				}
			}
		}
		node.Id = fmt.Sprintf("sidecar~10.0.%d.%d~agent-%d.dubbo~dubbo.svc.cluster.local", c/250, c%250+1, c)
		wg.Go(func() {
			if err := f.run(address, node, names); err != nil {
				fmt.Fprintf(out, "ended: %v\n", err)
			}
		})
	}
	wg.Wait()
	return nil
}
