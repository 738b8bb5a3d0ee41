package xdsclient

import (
	"bufio"
	"bytes"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"

	"github.com/meshferry/meshferry/xdsclient/xdstest"
)

func seeds(f *testing.F) {
	for _, m := range []proto.Message{
		xdstest.Cluster("blue"), xdstest.Endpoints("blue", "10.0.0.1:1"), xdstest.Listener("out", "r"), xdstest.APIListener("out", "r"),
		xdstest.Routes("r", xdstest.VirtualHost("shop", "blue", "green"), xdstest.VirtualHost("stock", "blue")),
	} {
		f.Add(xdstest.Any(m).GetValue())
	}
	f.Add([]byte{})
	f.Add([]byte{0x12, 0xff})
}

// Whatever a server sends is used or refused, and what is used can be delivered,
// kept on disk and read again.
func FuzzDecode(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		_ = nameOf(raw)
		d := newDecoder(Options{})
		if l, err := d.listener(raw, nil); err == nil {
			if again, err := d.listener(raw, l); err != nil || again != l {
				t.Errorf("the same listener differs: %v", err)
			}
		}
		if c, err := cluster(raw, nil); err == nil {
			if again, err := cluster(raw, c); err != nil || again != c {
				t.Errorf("the same cluster differs: %v", err)
			}
		}
		var decoder endpointDecoder
		var plain endpointv3.ClusterLoadAssignment
		name, a, err := decoder.decode(raw)
		if bad := proto.Unmarshal(raw, &plain); bad == nil && plain.GetClusterName() != "" {
			if want, bad := assignment(&plain); (bad == nil) != (err == nil) || bad == nil && !a.equal(want) {
				t.Errorf("decoded in parts %+v, %v; as a whole %+v, %v", a, err, want, bad)
			}
		} else if err == nil {
			t.Errorf("decoded in parts, not as a whole: %v", bad)
		}
		if err == nil {
			again, b, err := decoder.decode(raw)
			if err != nil || again != name || !a.equal(b) {
				t.Errorf("the same endpoints differ: %v", err)
			}
		}
		if r, err := route(raw, nil, nil); err == nil {
			again, err := route(raw, r, nil)
			if err != nil || !samePointers(again, r) {
				t.Errorf("the same route differs: %v", err)
			}
			if other, err := route(raw, nil, r); err != nil || len(other.Hosts) != len(r.Hosts) {
				t.Errorf("the same route differs beside itself: %v", err)
			}
		}
	})
}

// A whole dialogue of garbage leaves a client that works.
func FuzzResponses(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, raw []byte) {
		o, err := Options{Servers: []Server{{Address: "x"}}, Node: &corev3.Node{Id: "x"}, Wildcard: true}.withDefaults()
		if err != nil {
			t.Fatal(err)
		}
		c := newCore(o)
		st := &stream{nodeValue: o.Node, types: map[string]*streamType{}, wake: make(chan struct{}, 1)}
		now := time.Now()
		c.up(st)
		for _, url := range []string{ListenerURL, RouteURL, ClusterURL, EndpointURL} {
			m := &discoveryv3.DiscoveryResponse{TypeUrl: url, Nonce: "n", VersionInfo: "v", Resources: nil}
			a := xdstest.Any(&discoveryv3.Resource{})
			a.TypeUrl, a.Value = url, raw
			m.Resources = append(m.Resources, a)
			c.response(st, m, now)
			c.settle(now)
			now = now.Add(time.Minute)
			c.expire(now)
			c.settle(now)
		}
		for n, cl := range c.pending.Clusters {
			if cl != nil && cl.Endpoints == nil {
				t.Errorf("cluster %q without endpoints", n)
			}
		}
		s := newStore("", o.Log)
		j, _ := c.job(s)
		var b bytes.Buffer
		b.WriteString(storeHeader)
		if err := writeRecords(&b, j.records); err != nil {
			t.Fatal(err)
		}
		list, size, err := readStore(bufio.NewReader(&b))
		if err != nil || len(list) != len(j.records) || size == 0 {
			t.Errorf("%d records of %d, %v", len(list), len(j.records), err)
		}
		next := newCore(o)
		next.restore(list, now)
		if len(next.pending.Clusters) < len(c.pending.Clusters) {
			t.Errorf("%d clusters from disk, %d before", len(next.pending.Clusters), len(c.pending.Clusters))
		}
	})
}

func FuzzStore(f *testing.F) {
	var b bytes.Buffer
	b.WriteString(storeHeader)
	if err := writeRecords(&b, []savedResource{
		{url: ClusterURL, name: "a", version: "1", at: time.Unix(1, 2), raw: []byte{1}},
		{url: ClusterURL, name: "a", at: time.Unix(1, 2)},
		{url: RouteURL, name: "b", at: time.Unix(1, 2), raw: []byte{}},
	}); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add([]byte(storeHeader))
	f.Add([]byte(storeHeader + "\xff\xff\xff\x0f\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		list, size, err := readStore(bufio.NewReader(bytes.NewReader(raw)))
		if size > len(raw) {
			t.Errorf("%d bytes of %d", size, len(raw))
		}
		for _, r := range list {
			if r.raw == nil || r.url == "" || r.name == "" {
				t.Errorf("%+v", r)
			}
		}
		_ = err
	})
}

// Cut anywhere, the journal gives for each resource the old or the new one.
func TestStoreCutAnywhere(t *testing.T) {
	var b bytes.Buffer
	b.WriteString(storeHeader)
	old := savedResource{url: ClusterURL, name: "a", version: "1", at: time.Unix(1, 0), raw: []byte("old")}
	kept := savedResource{url: ClusterURL, name: "b", version: "1", at: time.Unix(1, 0), raw: []byte("kept")}
	if err := writeRecords(&b, []savedResource{old, kept}); err != nil {
		t.Fatal(err)
	}
	whole := b.Len()
	next := old
	next.raw = []byte("next")
	if err := writeRecords(&b, []savedResource{next, {url: ClusterURL, name: "b"}}); err != nil {
		t.Fatal(err)
	}
	for n := whole; n <= b.Len(); n++ {
		list, _, err := readStore(bufio.NewReader(bytes.NewReader(b.Bytes()[:n])))
		if err != nil || len(list) == 0 || string(list[0].raw) != "old" && string(list[0].raw) != "next" {
			t.Errorf("cut at %d: %v %v", n, list, err)
		}
		if n == b.Len() && (len(list) != 1 || string(list[0].raw) != "next") {
			t.Errorf("whole: %v", list)
		}
	}
	for i := range b.Len() {
		bad := bytes.Clone(b.Bytes())
		bad[i] ^= 0x40
		list, _, _ := readStore(bufio.NewReader(bytes.NewReader(bad)))
		for _, r := range list {
			if s := string(r.raw); s != "old" && s != "next" && s != "kept" {
				t.Errorf("bit flipped at %d: %q", i, s)
			}
		}
	}
}
