package metadata

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	hessian "github.com/apache/dubbo-go-hessian2"
	"go.uber.org/goleak"

	"github.com/meshferry/meshferry/agent/proxy/dubbo"
	"github.com/meshferry/meshferry/registry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// class writes a class definition.
func class(name string, fields ...string) []byte {
	e := hessian.NewEncoder()
	b := []byte{'C'}
	add := func(v any) {
		e.Clean()
		if err := e.Encode(v); err != nil {
			panic(err)
		}
		b = append(b, e.Buffer()...)
	}
	add(name)
	add(int32(len(fields)))
	for _, f := range fields {
		add(f)
	}
	return b
}

// answer is the body of a reply whose MetadataInfo has one service.
func answer() []byte {
	text := func(b []byte, s string) []byte { return append(append(b, byte(len(s))), s...) }
	b := append([]byte{0x94}, class("org.apache.dubbo.metadata.MetadataInfo", "app", "revision", "services")...)
	b = append(b, 0x60)
	b = text(text(b, "app-a"), "rev-1")
	b = append(b, 'H')
	b = text(b, "g1/com.a.Foo:1.0:dubbo")
	b = append(b, class("a.ServiceInfo", "name", "group", "version", "protocol", "port", "path", "params")...)
	b = append(b, 0x61)
	b = text(text(text(text(b, "com.a.Foo"), "g1"), "1.0"), "dubbo")
	b = append(b, 'I', 0, 0, 0x51, 0x90) // 20880
	b = text(b, "com.a.Foo")
	b = append(b, 'H')
	b = text(text(b, "methods"), "sayHello")
	b = append(b, 'Z', 'Z')
	return append(b, 'H', 'Z', 'N') // attachments, and the byte that dubbo-go appends
}

func TestDecode(t *testing.T) {
	m, err := decode(answer())
	if err != nil {
		t.Fatal(err)
	}
	s := m.Services["g1/com.a.Foo:1.0:dubbo"]
	if m.Application != "app-a" || m.Revision != "rev-1" || s.Service().Key() != "g1/com.a.Foo:1.0" || s.Port != 20880 || s.Params["methods"] != "sayHello" {
		t.Fatalf("decoded %+v", m)
	}
	for name, body := range map[string][]byte{
		"null":      {0x92},
		"exception": {0x90, 0x01, 'x'},
		"text":      {0x91, 0x01, 'x'},
		"empty":     nil,
		"cut":       answer()[:40],
		"deep":      append([]byte{0x91}, bytes.Repeat([]byte{0x79}, 1000)...),
		"long list": {0x91, 'X', 'I', 0x7f, 0xff, 0xff, 0xff},
		"class":     {0x91, 'C', 0x01, 'a', 'I', 0x7f, 0xff, 0xff, 0xff},
	} {
		if _, err := decode(body); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// Every value that the encoder of dubbo-go writes is read back.
func TestDecodeValues(t *testing.T) {
	long := strings.Repeat("ä€𝄞x", 20000)
	for _, want := range []any{
		nil, true, false, "", "abc", long, int32(0), int32(-17), int32(2047), int32(-262144), int32(1 << 30), int64(7), int64(-9), int64(2047), int64(1 << 40),
		[]string{"a", "b"}, map[any]any{"k": "v", "n": map[any]any{"x": "y"}},
	} {
		e := hessian.NewEncoder()
		if err := e.Encode(want); err != nil {
			t.Fatal(err)
		}
		d := decoder{b: e.Buffer()}
		got, err := d.value(0)
		if err != nil || len(d.b) != 0 {
			t.Errorf("%T: %v, %d bytes left", want, err, len(d.b))
			continue
		}
		if f := func(v any) string {
			return strings.NewReplacer("interface {}", "", "map[]", "map").Replace(fmt.Sprint(v))
		}; f(got) != f(want) {
			t.Errorf("%.60v came back as %.60v", want, got)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(answer())
	f.Add([]byte{0x92})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 4096 {
			t.Skip()
		}
		_, _ = decode(b)
	})
}

// serve answers one connection like a provider's MetadataService.
func serve(t *testing.T, reply func(c net.Conn, h dubbo.Header, body []byte)) (host string, port int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-done })
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			header := make([]byte, dubbo.HeaderSize)
			if _, err := io.ReadFull(c, header); err == nil {
				h, _ := dubbo.ParseHeader(header)
				body := make([]byte, h.BodyLen)
				_, _ = io.ReadFull(c, body)
				reply(c, h, body)
			}
			c.Close()
		}
	}()
	a := l.Addr().(*net.TCPAddr)
	return a.IP.String(), a.Port
}

func frame(flags, status byte, id uint64, body []byte) []byte {
	b := append([]byte{0xda, 0xbb, flags, status}, make([]byte, 12)...)
	dubbo.PutID(b, id)
	binary.BigEndian.PutUint32(b[12:], uint32(len(body)))
	return append(b, body...)
}

func instance(host string, port int, params string) registry.Instance {
	return registry.Instance{Application: "app-a", Host: host, Port: 1, Metadata: map[string]string{
		registry.KeyRevision:  "rev-1",
		registry.KeyURLParams: strings.ReplaceAll(params, "PORT", strconv.Itoa(port)),
	}}
}

func TestFetch(t *testing.T) {
	host, port := serve(t, func(c net.Conn, h dubbo.Header, body []byte) {
		var f dubbo.Front
		var a dubbo.Attachments
		if dubbo.ParseFront(2, body, &f) != nil || dubbo.FindAttachments(2, body, &f, &a) != nil {
			return
		}
		group, _ := a.Lookup("group")
		if string(f.Path) != service || string(f.Version) != "1.0.0" || string(f.Method) != "getMetadataInfo" || string(group) != "app-a" || !strings.Contains(string(body), "rev-1") {
			c.Write(dubbo.AppendError(nil, h.ID, "not what Dubbo asks"))
			return
		}
		c.Write(dubbo.AppendHeartbeat(nil, 2, 99)) // may come at any time
		c.Write(frame(2, dubbo.StatusOK, h.ID, answer()))
	})
	m, err := Fetch(context.Background(), instance(host, port, `{"port":"PORT","protocol":"dubbo"}`))
	if err != nil || m.Revision != "rev-1" || len(m.Services) != 1 {
		t.Fatalf("%+v, %v", m, err)
	}
}

func TestFetchFails(t *testing.T) {
	host, port := serve(t, func(c net.Conn, h dubbo.Header, _ []byte) {
		c.Write(dubbo.AppendError(nil, h.ID, "no such service"))
	})
	for _, tt := range []struct{ params, want string }{
		{`{"port":"PORT"}`, "no such service"},
		{`{"port":"1"}`, "refused"},
		{`{"port":"PORT","protocol":"tri"}`, ErrUnsupported.Error()},
		{`nonsense`, registry.KeyURLParams},
	} {
		_, err := Fetch(context.Background(), instance(host, port, tt.params))
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "app-a") {
			t.Errorf("%s: %v, want %q and the application", tt.params, err, tt.want)
		}
	}
}

// A provider that never answers costs its deadline, not more.
func TestFetchEnds(t *testing.T) {
	held := make(chan struct{})
	host, port := serve(t, func(net.Conn, dubbo.Header, []byte) { <-held })
	t.Cleanup(func() { close(held) })
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := Fetch(ctx, instance(host, port, `{"port":"PORT"}`)); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("%v", err)
	}
}
