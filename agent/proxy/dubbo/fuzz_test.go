package dubbo

import (
	"bytes"
	"testing"
)

// seed adds every n-th captured frame.
func seed(f *testing.F, n int) {
	for i, v := range vectors(f) {
		if i%n == 0 && len(v.Frame) < 4096 {
			f.Add(v.Frame)
		}
	}
}

func FuzzFrame(f *testing.F) {
	seed(f, 40)
	f.Add([]byte{0xda})
	f.Fuzz(func(t *testing.T, b []byte) {
		const limit = 1 << 20
		h, n, complete, err := Frame(b, limit)
		if err != nil {
			return
		}
		if n < HeaderSize || n > HeaderSize+limit || complete != (len(b) >= n && len(b) >= HeaderSize) {
			t.Fatalf("%d of %d bytes, complete %v", n, len(b), complete)
		}
		if !complete {
			return
		}
		frame := bytes.Clone(b[:n])
		PutID(frame, ^h.ID)
		g, err := ParseHeader(frame)
		if h.ID = ^h.ID; err != nil || g != h || !bytes.Equal(frame[HeaderSize:], b[HeaderSize:n]) {
			t.Fatalf("%+v, want %+v, %v", g, h, err)
		}
		ParseEvent(h, frame[HeaderSize:])
		ErrorText(h.Serialization(), frame[HeaderSize:])
		ResponseType(h.Serialization(), frame[HeaderSize:])
	})
}

func FuzzParseFront(f *testing.F) {
	for i, v := range vectors(f) {
		if i%20 == 0 && v.Kind == "request" && v.readable() && len(v.Frame) < 4096 {
			f.Add(v.Serialization, v.body())
		}
	}
	f.Fuzz(func(t *testing.T, serialization byte, body []byte) {
		var front Front
		if err := ParseFront(serialization, body, &front); err != nil {
			return
		}
		if front.Args < 5 || front.Args > len(body) {
			t.Fatalf("arguments at %d of %d", front.Args, len(body))
		}
		// Cut there, the front is the same; one byte before it is none.
		var again Front
		if err := ParseFront(serialization, body[:front.Args:front.Args], &again); err != nil || !bytes.Equal(front.Path, again.Path) {
			t.Fatalf("%q, %q: %v", front.Path, again.Path, err)
		}
		if err := ParseFront(serialization, body[:front.Args-1:front.Args-1], &again); err == nil {
			t.Fatal("valid without its last byte")
		}
	})
}

func FuzzFindAttachments(f *testing.F) {
	seed(f, 10)
	f.Add(request(Hessian2, "HC\x01c\x90\x60NZ"))
	f.Add(argued(Hessian2, "La/B;IZLjava/lang/String;", "C\x01c\x91\x01f\x60\x01x", "\x97", "T", "\x02ab"))
	f.Add(argued(Fastjson2, "La/B;IZLjava/lang/String;", "\xa6\x4aa\x95\x01\xa5", "\x07", "\xb1", "\x4bab"))
	f.Add(request(Fastjson2, "\xa6\x7f\x4aa\x00\xb9\x01\xbb\x01a\xa5"))
	f.Fuzz(func(t *testing.T, frame []byte) {
		if len(frame) < HeaderSize {
			return
		}
		frame = endFrame(bytes.Clone(frame), 0)
		a, err := tryLocate(frame)
		if err != nil {
			return
		}
		if a.start > a.end || a.end > len(a.body) || a.count > indexed {
			t.Fatalf("%d to %d of %d", a.start, a.end, len(a.body))
		}
		for i := range min(a.argc, 100) {
			if value, ok := a.Argument(i); !ok && value != nil && len(value) > 0 {
				t.Fatalf("argument %d is %q and is not there", i, value)
			}
		}
		if _, ok := a.Argument(a.argc); ok {
			t.Fatal("there is one argument more than the descriptors say")
		}
		texts := attachmentTexts(a)
		for key, value := range texts {
			got, ok := a.Lookup(key)
			if !ok && value != "" || ok && string(got) != value {
				// A later entry with that key and without a text hides an earlier one.
				if e, found := a.entry(key); found {
					if _, ok := a.text(e.value); !ok {
						continue
					}
				}
				t.Fatalf("%q = %q %v, want %q", key, got, ok, value)
			}
		}
		out, err := AppendWithAttachment(nil, frame, a, "token", "t😀")
		if err != nil {
			return
		}
		b, err := tryLocate(out)
		if err != nil {
			t.Fatalf("rewritten frame: %v", err)
		}
		if got, ok := b.Lookup("token"); !ok || string(got) != "t😀" {
			t.Fatalf("token = %q %v", got, ok)
		}
		delete(texts, "token")
		after := attachmentTexts(b)
		delete(after, "token")
		if !sameTexts(texts, after) {
			t.Fatalf("%v, want %v", after, texts)
		}
		if grown := len(out) - len(frame); !bytes.Equal(out[HeaderSize+a.end+grown:], frame[HeaderSize+a.end:]) {
			t.Fatal("what is behind the attachments changed")
		}
	})
}
