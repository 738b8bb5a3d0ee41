package dubbo

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	hessian "github.com/apache/dubbo-go-hessian2"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// vector is one frame of testdata/frames.json.gz.
type vector struct {
	File          string
	Name          string `json:"name"`
	Group         string `json:"group"`
	Kind          string `json:"kind"`
	Serialization byte   `json:"serialization"`
	ID            uint64 `json:"id"`
	Status        byte   `json:"status"`
	Flags         struct {
		Request, TwoWay, Event bool
	} `json:"flags"`
	Form   string `json:"attachmentsForm"`
	Frame  []byte `json:"base64"`
	Expect struct {
		DubboVersion      *string        `json:"dubboVersion"`
		Path              *string        `json:"path"`
		Version           *string        `json:"version"`
		Method            *string        `json:"method"`
		ParameterDesc     *string        `json:"parameterDesc"`
		ArgCount          int            `json:"argCount"`
		BodyLength        uint32         `json:"bodyLength"`
		ArgsOffset        int            `json:"argsOffset"`
		ArgOffsets        []int          `json:"argOffsets"`
		AttachmentsOffset int            `json:"attachmentsOffset"`
		Attachments       map[string]any `json:"attachments"`
		Type              *byte          `json:"type"`
		ValueOffset       int            `json:"valueOffset"`
		ErrorMessage      *string        `json:"errorMessage"`
		Event             *string        `json:"event"`
	} `json:"expect"`
}

func (v *vector) body() []byte   { return v.Frame[HeaderSize:] }
func (v *vector) readable() bool { return v.Serialization == Hessian2 || v.Serialization == Fastjson2 }
func (v *vector) String() string { return v.File + " " + v.Name }

var loadVectors = sync.OnceValues(func() ([]*vector, error) {
	packed, err := os.Open("testdata/frames.json.gz")
	if err != nil {
		return nil, err
	}
	defer packed.Close()
	plain, err := gzip.NewReader(packed)
	if err != nil {
		return nil, err
	}
	var files map[string][]*vector
	decoder := json.NewDecoder(plain)
	decoder.UseNumber()
	if err := decoder.Decode(&files); err != nil {
		return nil, err
	}
	var all []*vector
	for _, file := range slices.Sorted(maps.Keys(files)) {
		for _, v := range files[file] {
			v.File = strings.TrimSuffix(file, ".json")
			all = append(all, v)
		}
	}
	return all, nil
})

func vectors(t testing.TB) []*vector {
	t.Helper()
	all, err := loadVectors()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestVectorsHeader(t *testing.T) {
	all := vectors(t)
	if len(all) != 1288 {
		t.Fatalf("%d vectors, want 1288", len(all))
	}
	for _, v := range all {
		h, n, complete, err := Frame(v.Frame, DefaultMaxBody)
		if err != nil || !complete || n != len(v.Frame) {
			t.Errorf("%s: n=%d of %d complete=%v err=%v", v, n, len(v.Frame), complete, err)
			continue
		}
		if h.IsRequest() != v.Flags.Request || h.TwoWay() != v.Flags.TwoWay || h.IsEvent() != v.Flags.Event ||
			h.Serialization() != v.Serialization || h.ID != v.ID || h.Status != v.Status || h.BodyLen != v.Expect.BodyLength {
			t.Errorf("%s: header %+v", v, h)
		}
	}
}

func TestVectorsRequests(t *testing.T) {
	var f Front
	var a Attachments // one for all, as a connection does
	count, texts := 0, 0
	for _, v := range vectors(t) {
		if v.Kind != "request" {
			continue
		}
		count++
		err := ParseFront(v.Serialization, v.body(), &f)
		if !v.readable() {
			if !errors.Is(err, ErrSerialization) {
				t.Errorf("%s: ParseFront: %v", v, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: ParseFront: %v", v, err)
			continue
		}
		for _, field := range []struct {
			name string
			got  []byte
			want *string
		}{
			{"dubbo version", f.DubboVersion, v.Expect.DubboVersion},
			{"path", f.Path, v.Expect.Path},
			{"version", f.Version, v.Expect.Version},
			{"method", f.Method, v.Expect.Method},
			{"descriptor", f.ParameterDesc, v.Expect.ParameterDesc},
		} {
			if (field.got == nil) != (field.want == nil) || field.want != nil && string(field.got) != *field.want {
				t.Errorf("%s: %s %q, want %v", v, field.name, field.got, field.want)
			}
		}
		if f.Args != v.Expect.ArgsOffset {
			t.Errorf("%s: arguments at %d, want %d", v, f.Args, v.Expect.ArgsOffset)
		}
		if n, err := argCount(f.ParameterDesc); err != nil || n != v.Expect.ArgCount {
			t.Errorf("%s: %d arguments (%v), want %d", v, n, err, v.Expect.ArgCount)
		}
		checkArgOffsets(t, v)
		if err := FindAttachments(v.Serialization, v.body(), &f, &a); err != nil {
			t.Errorf("%s: FindAttachments: %v", v, err)
			continue
		}
		checkAttachments(t, v, &a)
		texts += checkArguments(t, v, &f, &a)
	}
	if texts != 481 {
		t.Errorf("%d arguments have a text, want 481", texts)
	}
	if count != 1090 {
		t.Errorf("%d requests", count)
	}
}

// checkArgOffsets steps over one argument after the other.
func checkArgOffsets(t *testing.T, v *vector) {
	t.Helper()
	var w walker
	w.reset(v.body(), v.Expect.ArgsOffset)
	for i, want := range v.Expect.ArgOffsets {
		if w.pos != want {
			t.Errorf("%s: argument %d at %d, want %d", v, i, w.pos, want)
			return
		}
		if v.Serialization == Fastjson2 {
			start, end, err := jsonbBlock(w.b, w.pos)
			if err != nil {
				t.Errorf("%s: argument %d: %v", v, i, err)
				return
			}
			var inner walker // the bytes inside say the same as the block's length
			inner.reset(w.b[:end], start)
			if err := inner.skipJSONB(1); err != nil || inner.pos != end {
				t.Errorf("%s: argument %d ends at %d, its block at %d (%v)", v, i, inner.pos, end, err)
			}
			w.pos = end
			continue
		}
		if err := w.skipHessian(1); err != nil {
			t.Errorf("%s: argument %d: %v", v, i, err)
			return
		}
	}
}

func checkAttachments(t *testing.T, v *vector, a *Attachments) {
	t.Helper()
	start := a.start
	if v.Serialization == Fastjson2 {
		start -= 4 // the vectors count from the block's length
	}
	if start != v.Expect.AttachmentsOffset {
		t.Errorf("%s: attachments at %d, want %d", v, start, v.Expect.AttachmentsOffset)
	}
	if a.isRef != (v.Form == "ref") {
		t.Errorf("%s: reference %v, form %s", v, a.isRef, v.Form)
	}
	want := map[string]string{}
	for key, value := range v.Expect.Attachments {
		if text, ok := expectedText(t, value); ok && key != "<null>" {
			want[key] = text
			continue
		}
		if got, ok := a.Lookup(key); ok {
			t.Errorf("%s: %s is %v, found as %q", v, key, value, got)
		}
	}
	for key, text := range want {
		if got, ok := a.Lookup(key); !ok || string(got) != text {
			t.Errorf("%s: %s = %q %v, want %q", v, key, got, ok, text)
		}
	}
	got := map[string]string{}
	a.Range(func(key, value []byte) bool {
		got[string(key)] = string(value)
		return true
	})
	if len(got) != len(want) {
		t.Errorf("%s: %d attachments %v, want %v", v, len(got), got, want)
	}
	for key, text := range want {
		if got[key] != text {
			t.Errorf("%s: %s = %q, want %q", v, key, got[key], text)
		}
	}
	if _, ok := a.Lookup("not there"); ok {
		t.Errorf("%s: found what is not there", v)
	}
}

// expectedText is what Lookup must give for an attachment of a vector.
func expectedText(t *testing.T, value any) (string, bool) {
	t.Helper()
	switch value := value.(type) {
	case string:
		return value, true
	case map[string]any:
		switch value["type"] {
		case "int", "long", "double":
			return value["value"].(json.Number).String(), true
		case "boolean":
			return strconv.FormatBool(value["value"].(bool)), true
		}
	default:
		t.Fatalf("attachment %v", value)
	}
	return "", false
}

func TestVectorsResponses(t *testing.T) {
	var a Attachments
	count := 0
	for _, v := range vectors(t) {
		if v.Kind != "response" {
			continue
		}
		count++
		if v.Status != StatusOK {
			text, ok := ErrorText(v.Serialization, v.body())
			if ok != v.readable() || ok && string(text) != *v.Expect.ErrorMessage {
				t.Errorf("%s: %q %v, want %v", v, text, ok, v.Expect.ErrorMessage)
			}
			continue
		}
		kind, value, ok := responseType(v.Serialization, v.body())
		if ok != v.readable() {
			t.Errorf("%s: readable %v", v, ok)
		}
		if !ok {
			continue
		}
		if kind != *v.Expect.Type {
			t.Errorf("%s: type %d, want %d", v, kind, *v.Expect.Type)
		}
		if v.Expect.ValueOffset != 0 && value != v.Expect.ValueOffset {
			t.Errorf("%s: value at %d, want %d", v, value, v.Expect.ValueOffset)
		}
		values := 1
		if kind == 2 || kind == 5 {
			values = 0
		}
		if kind < 3 {
			continue
		}
		if err := a.find(v.Serialization, v.body(), value, values); err != nil {
			t.Errorf("%s: %v", v, err)
			continue
		}
		checkAttachments(t, v, &a)
	}
	if count != 148 {
		t.Errorf("%d responses", count)
	}
}

func TestVectorsEvents(t *testing.T) {
	for _, v := range vectors(t) {
		h, err := ParseHeader(v.Frame)
		if err != nil {
			t.Fatal(err)
		}
		want := Unknown
		if v.Kind == "event" {
			switch {
			case v.Expect.Event == nil:
				want = Heartbeat
			case *v.Expect.Event == "R":
				want = Readonly
			case *v.Expect.Event == "W":
				want = Writeable
			}
		}
		if got := ParseEvent(h, v.body()); got != want {
			t.Errorf("%s: event %d, want %d", v, got, want)
		}
	}
}

// TestVectorsOwnEvents compares what this package writes with what Java does.
func TestVectorsOwnEvents(t *testing.T) {
	for _, v := range vectors(t) {
		if v.Kind != "event" || !v.readable() {
			continue
		}
		var got []byte
		switch v.Name {
		case "event/heartbeat":
			got = AppendHeartbeat(nil, v.Serialization, v.ID)
		case "event/heartbeat-reply":
			got = AppendHeartbeatReply(nil, v.Serialization, v.ID)
		case "event/readonly":
			got = AppendReadonly(nil, v.Serialization)
			PutID(got, v.ID)
		default:
			continue
		}
		if !bytes.Equal(got, v.Frame) {
			t.Errorf("%s:\n%x, want\n%x", v, got, v.Frame)
		}
	}
}

// TestVectorsTruncated cuts each body everywhere: an error or a shorter, valid body, never a panic.
func TestVectorsTruncated(t *testing.T) {
	var a Attachments
	for _, v := range vectors(t) {
		if v.Kind != "request" || !v.readable() {
			continue
		}
		body := v.body()
		for cut := 0; cut < len(body); cut += 1 + len(body)/200 {
			var f Front
			short := body[:cut:cut]
			if err := ParseFront(v.Serialization, short, &f); err != nil {
				continue
			}
			if err := FindAttachments(v.Serialization, short, &f, &a); err == nil {
				t.Errorf("%s: found attachments in %d of %d bytes", v, cut, len(body))
			}
		}
	}
}

// TestVectorsWithAttachment writes a new and a changed attachment into each frame and reads both back.
func TestVectorsWithAttachment(t *testing.T) {
	var f Front
	var a, b Attachments
	for i, v := range vectors(t) {
		if v.Kind != "request" || !v.readable() {
			continue
		}
		if err := ParseFront(v.Serialization, v.body(), &f); err != nil {
			t.Fatal(err)
		}
		if err := FindAttachments(v.Serialization, v.body(), &f, &a); err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{"token", "group", "path", "键"} {
			value := newValue(i)
			prefix := []byte("before")
			out, err := AppendWithAttachment(prefix, v.Frame, &a, key, value)
			if v.Form == "ref" {
				if !errors.Is(err, ErrAttachmentsRef) || len(out) != len(prefix) {
					t.Errorf("%s: %v", v, err)
				}
				continue
			}
			if err != nil {
				t.Errorf("%s: %v", v, err)
				continue
			}
			frame := out[len(prefix):]
			h, n, complete, err := Frame(frame, DefaultMaxBody)
			if err != nil || !complete || n != len(frame) || h.ID != v.ID {
				t.Errorf("%s: %+v %v", v, h, err)
				continue
			}
			var g Front
			if err := ParseFront(v.Serialization, frame[HeaderSize:], &g); err != nil {
				t.Errorf("%s: %v", v, err)
				continue
			}
			if err := FindAttachments(v.Serialization, frame[HeaderSize:], &g, &b); err != nil {
				t.Errorf("%s: %v", v, err)
				continue
			}
			if got, ok := b.Lookup(key); !ok || string(got) != value {
				t.Errorf("%s: %s = %q %v", v, key, got, ok)
			}
			if !bytes.Equal(frame[HeaderSize:HeaderSize+f.Args], v.body()[:f.Args]) {
				t.Errorf("%s: front changed", v)
			}
			want := attachmentTexts(&a)
			want[key] = value
			if got := attachmentTexts(&b); !sameTexts(got, want) {
				t.Errorf("%s: %v, want %v", v, got, want)
			}
		}
	}
}

// newValue is short, ASCII or not, or now and then of several chunks.
func newValue(i int) string {
	if i%50 == 0 {
		return strings.Repeat("long😀", 9000)
	}
	values := []string{"", "t", "0123456789abcdef0123456789abcdef0123456789abcdef", "灰度-😀", strings.Repeat("x", 0x400)}
	return values[i%len(values)]
}

func attachmentTexts(a *Attachments) map[string]string {
	all := map[string]string{}
	a.Range(func(key, value []byte) bool {
		all[string(key)] = string(value)
		return true
	})
	return all
}

func sameTexts(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for key, value := range a {
		if other, ok := b[key]; !ok || other != value {
			return false
		}
	}
	return true
}

// TestVectorsStream reads all frames from one buffer that grows byte by byte at the seams.
func TestVectorsStream(t *testing.T) {
	var stream []byte
	for _, v := range vectors(t)[:50] {
		stream = append(stream, v.Frame...)
	}
	for _, v := range vectors(t)[:50] {
		for _, have := range []int{0, 1, 2, HeaderSize - 1, HeaderSize, len(v.Frame) - 1} {
			_, n, complete, err := Frame(stream[:have], DefaultMaxBody)
			want := HeaderSize
			if have >= HeaderSize {
				want = len(v.Frame)
			}
			if err != nil || complete || n != want {
				t.Fatalf("%s: %d bytes: n=%d complete=%v err=%v", v, have, n, complete, err)
			}
		}
		_, n, complete, err := Frame(stream, DefaultMaxBody)
		if err != nil || !complete {
			t.Fatalf("%s: %v", v, err)
		}
		stream = stream[n:]
	}
	if len(stream) != 0 {
		t.Errorf("%d bytes left", len(stream))
	}
}

func TestFrameRefuses(t *testing.T) {
	large := []byte{0xda, 0xbb, 0xc2, 0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0}
	binary.BigEndian.PutUint32(large[12:], 101)
	for _, test := range []struct {
		name string
		in   []byte
		want error
	}{
		{"first byte", []byte("G"), ErrMagic},
		{"second byte", []byte{0xda, 0xba}, ErrMagic},
		{"whole header", []byte("GET / HTTP/1.1\r\n\r\n"), ErrMagic},
		{"too large", large, ErrTooLarge},
		{"negative", append(append([]byte{}, large[:12]...), 0xff, 0xff, 0xff, 0xff), ErrTooLarge},
	} {
		h, _, complete, err := Frame(test.in, 100)
		if !errors.Is(err, test.want) || complete {
			t.Errorf("%s: %v", test.name, err)
		}
		if test.want == ErrTooLarge && h.ID != 0x0102030405060708 {
			t.Errorf("%s: the sender cannot be answered: %+v", test.name, h)
		}
	}
	if _, err := ParseHeader(large[:15]); !errors.Is(err, ErrTruncated) {
		t.Errorf("short header: %v", err)
	}
	if _, n, complete, err := Frame(large, 101); err != nil || complete || n != HeaderSize+101 {
		t.Errorf("at the limit: %d %v %v", n, complete, err)
	}
}

// checkArguments compares the text of each argument with what another decoder reads there, and counts those with one.
func checkArguments(t *testing.T, v *vector, f *Front, a *Attachments) (texts int) {
	t.Helper()
	for i := range v.Expect.ArgOffsets {
		got, ok := a.Argument(i)
		if ok {
			texts++
		}
		var want any
		if v.Serialization == Hessian2 {
			want = decodedArgument(v, i)
		} else if pos := v.Expect.ArgOffsets[i] + 4; v.body()[pos] >= jsonbASCIIFix && v.body()[pos] <= jsonbASCIIFix+maxJSONBASCIIFix {
			want = string(v.body()[pos+1 : pos+1+int(v.body()[pos]-jsonbASCIIFix)])
		}
		switch value := want.(type) {
		case string, bool, int32, int64:
			if strings.Contains(v.Name, "lone-") {
				continue // half a surrogate pair is nothing in Go
			}
			if !ok || string(got) != fmt.Sprint(value) {
				t.Errorf("%s: argument %d = %q %v, want %v", v, i, got, ok, value)
			}
		case float64, []byte, []any, map[any]any, time.Time:
			if ok {
				t.Errorf("%s: argument %d = %q, it is %T", v, i, got, value)
			}
		}
	}
	for _, none := range []int{-1, v.Expect.ArgCount, 1 << 30} {
		if got, ok := a.Argument(none); ok {
			t.Errorf("%s: argument %d is %q", v, none, got)
		}
	}
	for key, value := range v.Expect.Attachments { // reading arguments changes nothing
		if text, ok := expectedText(t, value); ok && key != "<null>" {
			if got, ok := a.Lookup(key); !ok || string(got) != text {
				t.Errorf("%s: after the arguments %s = %q %v, want %q", v, key, got, ok, text)
			}
		}
	}
	return texts
}

// decodedArgument is what dubbo-go reads as an argument, nil if it cannot.
func decodedArgument(v *vector, index int) (value any) {
	defer func() {
		if recover() != nil { // maps as keys of maps
			value = nil
		}
	}()
	d := hessian.NewDecoder(v.body()[v.Expect.ArgsOffset:])
	for range index + 1 {
		var err error
		if value, err = d.Decode(); err != nil {
			return nil // classes that the decoder does not know
		}
	}
	return value
}
