package dubbo

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"

	hessian "github.com/apache/dubbo-go-hessian2"
)

const (
	testCode = 4
	testText = "meshferry: no route to com.a.Foo:1.0.0, 灰度-😀"
)

func vectorNamed(t *testing.T, file, name string) *vector {
	t.Helper()
	for _, v := range vectors(t) {
		if v.File == file && v.Name == name {
			return v
		}
	}
	t.Fatalf("no vector %s %s", file, name)
	return nil
}

// TestExceptionLikeJava: but for response type, stack, message and code the bytes are those of Java.
func TestExceptionLikeJava(t *testing.T) {
	for _, file := range []string{"res-2.7.23-hessian2", "res-3.3.6-hessian2"} {
		java := vectorNamed(t, file, "res-exception/rpc-forbidden").body()
		own := append([]byte{}, exceptionBody(t, Hessian2, "forbidden 😀")...)
		javaStack, ownStack := bytes.Index(java, []byte("[java.lang.Stack")), bytes.Index(own, []byte("[java.lang.Stack"))
		if java[javaStack-2] != 0x71 || own[ownStack-2] != 0x70 {
			t.Fatalf("%s: one element in Java's stack, none in ours", file)
		}
		if got, want := own[1:ownStack-2], java[1:javaStack-2]; !bytes.Equal(got, want) {
			t.Errorf("%s: up to the stack\n%q, Java\n%q", file, got, want)
		}
		javaEnd := java[bytes.Index(java, []byte("Q\x90\x0cforbidden")):]
		ownEnd := own[bytes.Index(own, []byte("Q\x90\x0cforbidden")):]
		if want := javaEnd[:len(ownEnd)]; !bytes.Equal(ownEnd, want) {
			t.Errorf("%s: behind the stack\n%q, Java\n%q", file, ownEnd, want)
		}
	}
	java := vectorNamed(t, "res-3.3.6-fastjson2", "res-exception/rpc-forbidden").body()
	own := exceptionBody(t, Fastjson2, "forbidden 😀")
	upTo := []byte("stackTrace\x03")
	got, want := own[10:bytes.Index(own, upTo)], java[10:bytes.Index(java, upTo)]
	if !bytes.Equal(got, want) {
		t.Errorf("fastjson2: up to the stack\n%q, Java\n%q", got, want)
	}
}

func exceptionBody(t *testing.T, serialization byte, text string) []byte {
	t.Helper()
	frame, err := AppendException(nil, serialization, 1<<63+5, testCode, text)
	if err != nil {
		t.Fatal(err)
	}
	h, n, complete, err := Frame(frame, DefaultMaxBody)
	if err != nil || !complete || n != len(frame) {
		t.Fatalf("%+v %d %v", h, n, err)
	}
	if want := (Header{Flags: serialization, Status: StatusOK, ID: 1<<63 + 5, BodyLen: uint32(n - HeaderSize)}); h != want {
		t.Errorf("header %+v, want %+v", h, want)
	}
	return frame[HeaderSize:]
}

// TestExceptionReadByGo reads ours and Java's with the codec of dubbo-go, which knows the class or not.
func TestExceptionReadByGo(t *testing.T) {
	decoder := hessian.NewDecoder(exceptionBody(t, Hessian2, testText))
	if kind, err := decoder.Decode(); err != nil || kind != int32(0) {
		t.Fatalf("type %v %v", kind, err)
	}
	own, err := decoder.Decode()
	if err != nil {
		t.Fatal(err)
	}
	if decoder.Buffered() != 0 {
		t.Errorf("%d bytes left", decoder.Buffered())
	}
	thrown, ok := own.(error)
	if !ok || !strings.Contains(thrown.Error(), testText) {
		t.Errorf("%T %v", own, own)
	}
	decoder = hessian.NewDecoder(vectorNamed(t, "res-3.3.6-hessian2", "res-exception/rpc-forbidden").body()[1:])
	java, err := decoder.Decode()
	if err != nil {
		t.Fatal(err)
	}
	if reflect.TypeOf(own) != reflect.TypeOf(java) {
		t.Errorf("ours is a %T, Java's a %T", own, java)
	}
}

func TestExceptionForms(t *testing.T) {
	var a Attachments
	for _, serialization := range []byte{Hessian2, Fastjson2} {
		for _, code := range []int{0, 1, 6, 47, 48, 255, -1, -17, -3000, 70000, 1 << 30} {
			for _, text := range []string{"", testText, strings.Repeat("long ", 20000)} {
				frame, err := AppendException([]byte("before"), serialization, 7, code, text)
				if err != nil {
					t.Fatal(err)
				}
				body := frame[len("before")+HeaderSize:]
				kind, value, ok := responseType(serialization, body)
				if !ok || kind != 0 {
					t.Fatalf("type %d %v", kind, ok)
				}
				// One value and nothing behind it: with a map appended, that is found.
				behind := []byte("HZ")
				if serialization == Fastjson2 {
					behind = []byte("\x00\x00\x00\x02\xa6\xa5")
				}
				if err := a.find(serialization, append(body, behind...), value, 1); err != nil || a.end != len(body)+len(behind) {
					t.Errorf("serialization %d code %d: %v", serialization, code, err)
				}
			}
		}
	}
	for _, serialization := range []byte{0, 3, 4, 6, 7, 16, 22, 31} {
		if out, err := AppendException([]byte("before"), serialization, 7, 1, ""); !errors.Is(err, ErrSerialization) || string(out) != "before" {
			t.Errorf("serialization %d: %q %v", serialization, out, err)
		}
	}
}

func TestAppendError(t *testing.T) {
	for _, text := range []string{"", testText, strings.Repeat("😀", 40000)} {
		frame := AppendError([]byte("before"), 9, text)[len("before"):]
		h, n, complete, err := Frame(frame, DefaultMaxBody)
		if err != nil || !complete || n != len(frame) || h.IsRequest() || h.Status != StatusServerError || h.ID != 9 || h.Serialization() != Hessian2 {
			t.Fatalf("%+v %v", h, err)
		}
		if got, ok := ErrorText(h.Serialization(), frame[HeaderSize:]); !ok || string(got) != text {
			t.Errorf("%.30q %v", got, ok)
		}
		if got, err := hessian.NewDecoder(frame[HeaderSize:]).Decode(); err != nil || got != text {
			t.Errorf("dubbo-go: %.30q %v", got, err)
		}
	}
}

func TestReplyForms(t *testing.T) {
	for _, body := range []string{"", "N", "\x00", "\x96", "\x8f", "I\x00"} {
		if kind, ok := ResponseType(Hessian2, []byte(body)); ok {
			t.Errorf("hessian2 %q: type %d", body, kind)
		}
	}
	for _, body := range []string{"", "\x00\x00\x00\x01", "\x00\x00\x00\x01\xaf", "\x00\x00\x00\x01\x06", "\x00\x00\x00\x02\xbd\xff"} {
		if kind, ok := ResponseType(Fastjson2, []byte(body)); ok {
			t.Errorf("fastjson2 %q: type %d", body, kind)
		}
	}
	if kind, ok := ResponseType(Fastjson2, []byte("\x00\x00\x00\x01\x04")); !ok || kind != 4 {
		t.Errorf("short int: type %d %v", kind, ok)
	}
	if _, ok := ErrorText(Hessian2, []byte("N")); ok {
		t.Error("null is no text")
	}
}

// TestEventsOfOtherSerializations: what is not written here goes out in hessian2, and the header says so.
func TestEventsOfOtherSerializations(t *testing.T) {
	for _, serialization := range []byte{3, 4, 6, 7, 8, 16, 22} {
		for _, frame := range [][]byte{AppendHeartbeat(nil, serialization, 5), AppendHeartbeatReply(nil, serialization, 5), AppendReadonly(nil, serialization)} {
			h, n, complete, err := Frame(frame, DefaultMaxBody)
			if err != nil || !complete || n != len(frame) || h.Serialization() != Hessian2 || !h.IsEvent() || ParseEvent(h, frame[HeaderSize:]) == Unknown {
				t.Errorf("serialization %d: %x %v", serialization, frame, err)
			}
		}
	}
	if got := ParseEvent(Header{Flags: 0xe2}, []byte("\x01X")); got != Unknown {
		t.Errorf("event %d", got)
	}
}
