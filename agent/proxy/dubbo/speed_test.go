package dubbo

import (
	"testing"
)

// ordinary gives a real call of each serialization: a POJO or strings as arguments, strings as attachments.
func ordinary(t testing.TB, file, name string) []byte {
	t.Helper()
	for _, v := range vectors(t) {
		if v.File == file && v.Name == name {
			return v.Frame
		}
	}
	t.Fatalf("no vector %s %s", file, name)
	return nil
}

var ordinaryFrames = []struct{ name, file, vector string }{
	{"hessian2-string", "req-3.3.6-hessian2-real", "real/plain-sayHello"},
	{"hessian2-object", "req-3.3.6-hessian2-real", "real/plain-obj"},
	{"hessian2-go", "req-dubbo-go-3.3.2-hessian2", "go-string/31"},
	{"fastjson2-string", "req-3.3.6-fastjson2-real", "real/plain-sayHello"},
}

func TestNoAllocations(t *testing.T) {
	var f Front
	var a Attachments
	dst := make([]byte, 0, 4096)
	check := func(name string, what func()) {
		t.Helper()
		if n := testing.AllocsPerRun(100, what); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
	for _, o := range ordinaryFrames {
		frame := ordinary(t, o.file, o.vector)
		body, s := frame[HeaderSize:], frame[2]&maskSerialization
		check(o.name+" header", func() {
			if _, _, complete, err := Frame(frame, DefaultMaxBody); err != nil || !complete {
				t.Fatal(err)
			}
		})
		check(o.name+" front", func() {
			if err := ParseFront(s, body, &f); err != nil {
				t.Fatal(err)
			}
		})
		check(o.name+" attachments", func() {
			if err := FindAttachments(s, body, &f, &a); err != nil {
				t.Fatal(err)
			}
		})
		check(o.name+" lookup", func() {
			if _, ok := a.Lookup("interface"); !ok {
				t.Fatal("no interface")
			}
			a.Lookup("dubbo.tag")
		})
		check(o.name+" rewrite", func() {
			if _, err := AppendWithAttachment(dst, frame, &a, "token", "a7c1d3f0-6a0e-4b70-a57e-5f0c6c3a1f2e"); err != nil {
				t.Fatal(err)
			}
		})
	}
	for _, s := range []byte{Hessian2, Fastjson2} {
		check("messages", func() {
			AppendHeartbeat(dst, s, 1)
			AppendHeartbeatReply(dst, s, 1)
			AppendReadonly(dst, s)
			AppendError(dst, 1, "meshferry: not-executed: no endpoint")
			if _, err := AppendException(dst, s, 1, 6, "no endpoint"); err != nil {
				t.Fatal(err)
			}
		})
		response, err := AppendException(nil, s, 1, 6, "no endpoint")
		if err != nil {
			t.Fatal(err)
		}
		h, err := ParseHeader(response)
		if err != nil {
			t.Fatal(err)
		}
		check("response", func() {
			if _, ok := ResponseType(s, response[HeaderSize:]); !ok {
				t.Fatal("no type")
			}
			ParseEvent(h, response[HeaderSize:])
		})
	}
	refusal := AppendError(nil, 1, "meshferry: not-executed: no endpoint")
	check("error text", func() {
		if _, ok := ErrorText(Hessian2, refusal[HeaderSize:]); !ok {
			t.Fatal("no text")
		}
	})
}

// TestFirstAttachmentsOnStack: without class definitions not even the first use of Attachments allocates.
func TestFirstAttachmentsOnStack(t *testing.T) {
	frame := ordinary(t, "req-3.3.6-hessian2-real", "real/plain-sayHello")
	n := testing.AllocsPerRun(100, func() {
		var f Front
		var a Attachments
		if err := ParseFront(Hessian2, frame[HeaderSize:], &f); err != nil {
			t.Fatal(err)
		}
		if err := FindAttachments(Hessian2, frame[HeaderSize:], &f, &a); err != nil {
			t.Fatal(err)
		}
		a.Lookup("group")
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkHeader(b *testing.B) {
	frame := ordinary(b, ordinaryFrames[0].file, ordinaryFrames[0].vector)
	b.ReportAllocs()
	for b.Loop() {
		h, _, _, err := Frame(frame, DefaultMaxBody)
		if err != nil {
			b.Fatal(err)
		}
		PutID(frame, h.ID)
	}
}

func BenchmarkFront(b *testing.B) {
	for _, o := range ordinaryFrames {
		frame := ordinary(b, o.file, o.vector)
		b.Run(o.name, func(b *testing.B) {
			var f Front
			b.ReportAllocs()
			for b.Loop() {
				if err := ParseFront(frame[2]&maskSerialization, frame[HeaderSize:], &f); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkAttachments(b *testing.B) {
	for _, o := range ordinaryFrames {
		frame := ordinary(b, o.file, o.vector)
		body, s := frame[HeaderSize:], frame[2]&maskSerialization
		b.Run(o.name, func(b *testing.B) {
			var f Front
			var a Attachments
			b.ReportAllocs()
			for b.Loop() {
				if err := ParseFront(s, body, &f); err != nil {
					b.Fatal(err)
				}
				if err := FindAttachments(s, body, &f, &a); err != nil {
					b.Fatal(err)
				}
				a.Lookup("group")
			}
		})
	}
}

// BenchmarkSkip steps over one long argument.
func BenchmarkSkip(b *testing.B) {
	long := make([]byte, 0, 1<<16)
	for range 1000 {
		long = append(long, "0123456789abcdef0123456789abcdef"...)
	}
	chinese := make([]byte, 0, 1<<16)
	for range 10000 {
		chinese = append(chinese, "灰"...)
	}
	for _, text := range []struct {
		name string
		s    []byte
	}{{"ascii", long}, {"chinese", chinese}} {
		body := append(appendHessianString(nil, string(text.s)), hessianNull)
		b.Run(text.name, func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			var a Attachments
			for b.Loop() {
				if err := a.find(Hessian2, body, 0, 1); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
