package dubbo

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	hessian "github.com/apache/dubbo-go-hessian2"
)

// apply is what edits make of the texts of attachments.
func apply(texts map[string]string, edits []Edit) map[string]string {
	after := map[string]string{}
	for k, v := range texts {
		after[k] = v
	}
	for _, e := range edits {
		if delete(after, e.Key); !e.Remove {
			after[e.Key] = e.Value
		}
	}
	return after
}

func TestEdits(t *testing.T) {
	for serialization, forms := range map[byte][]string{
		Hessian2:  {"N", "HZ", "H\x03tag\x02t1\x05group\x01g\x03tag\x02t2Z", "M\x01x\x03tag\x02t1Z", "H\x03tagN\x01n\x91Z"},
		Fastjson2: {"\xaf", "\xa6\xa5", "\xa6\x4ctag\x4bt1\x4egroup\x4ag\x4ctag\x4bt2\xa5", "\xa6\x4ctag\xaf\x4an\x05\xa5"},
	} {
		for _, form := range forms {
			for i, edits := range [][]Edit{
				{},
				{{Key: "tag", Remove: true}},
				{{Key: "tag", Value: "new"}},
				{{Key: "tag", Remove: true}, {Key: "group", Value: "灰😀"}, {Key: "more", Value: ""}},
				{{Key: "more", Value: "1"}, {Key: "more", Value: "2"}, {Key: "tag", Value: "x"}, {Key: "tag", Remove: true}},
				{{Key: "group", Remove: true}, {Key: "none", Remove: true}, {Key: "n", Remove: true}},
				{{Key: "tag", Remove: true}, {Key: "tag", Value: "again"}},
			} {
				frame := endFrame(append(request(serialization, form), "behind"...), 0)
				a := locate(t, frame)
				out, err := AppendWithEdits([]byte("before"), frame, a, edits)
				if err != nil {
					t.Errorf("%d %q %d: %v", serialization, form, i, err)
					continue
				}
				out, ok := bytes.CutPrefix(out, []byte("before"))
				got := attachmentTexts(locate(t, out))
				if want := apply(attachmentTexts(a), edits); !ok || !sameTexts(got, want) {
					t.Errorf("%d %q %d: %v, want %v", serialization, form, i, got, want)
				}
				if !bytes.HasSuffix(out, []byte("behind")) {
					t.Errorf("%d %q %d: lost what is behind", serialization, form, i)
				}
			}
		}
	}
}

func TestEditsRefuse(t *testing.T) {
	for _, test := range []struct {
		name          string
		serialization byte
		form          string
		edit          Edit
	}{
		{"removed object", Hessian2, "H\x01aC\x01c\x91\x01f\x60NZ", Edit{Key: "a", Remove: true}},
		{"overwritten list", Hessian2, "H\x01a\x79\x01aZ", Edit{Key: "a", Value: "b"}},
		{"removed array", Fastjson2, "\xa6\x4aa\x95\x4aa\xa5", Edit{Key: "a", Remove: true}},
		{"removed symbol", Fastjson2, "\xa6\x7f\x4aa\x00\x4av\xa5", Edit{Key: "a", Remove: true}},
	} {
		frame := request(test.serialization, test.form)
		a, err := tryLocate(frame)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if out, err := AppendWithEdits([]byte("x"), frame, a, []Edit{test.edit}); !errors.Is(err, ErrAttachmentsForm) || string(out) != "x" {
			t.Errorf("%s: %q, %v", test.name, out, err)
		}
	}
	frame := request(Hessian2, "HZ")
	if _, err := AppendWithEdits(nil, frame[:20], locate(t, frame), nil); !errors.Is(err, ErrTruncated) {
		t.Error(err)
	}
}

// TestVectorsEdits removes, replaces and adds attachments in every captured request, and reads the rest back; hessian2 also with
// the codec of dubbo-go.
func TestVectorsEdits(t *testing.T) {
	read, decoded := 0, 0
	for i, v := range vectors(t) {
		if v.Kind != "request" || !v.readable() || len(v.Expect.Attachments) == 0 {
			continue
		}
		a, err := tryLocate(v.Frame)
		if err != nil {
			continue
		}
		texts := attachmentTexts(a)
		edits := []Edit{{Key: "path", Remove: true}, {Key: "interface", Value: newValue(i)}, {Key: "x-canary", Value: "1"}, {Key: "gone", Remove: true}}
		out, err := AppendWithEdits(nil, v.Frame, a, edits)
		if err != nil {
			if !errors.Is(err, ErrAttachmentsRef) && !errors.Is(err, ErrAttachmentsForm) {
				t.Errorf("%s: %v", v, err)
			}
			continue
		}
		read++
		want := apply(texts, edits)
		if got := attachmentTexts(locate(t, out)); !sameTexts(got, want) {
			t.Errorf("%s: %v, want %v", v, got, want)
		}
		if v.Serialization != Hessian2 || v.Form != "untyped" {
			continue
		}
		value, err := hessian.NewDecoder(out[HeaderSize+v.Expect.AttachmentsOffset:]).Decode()
		entries, ok := value.(map[any]any)
		if err != nil || !ok {
			continue // objects of the arguments, which this decoder has not seen
		}
		decoded++
		for key, text := range want {
			if got := fmt.Sprint(entries[key]); got != text && text != "" {
				t.Errorf("%s: %s = %s for dubbo-go, want %s", v, key, got, text)
			}
		}
		if _, there := entries["path"]; there {
			t.Errorf("%s: path is still there", v)
		}
	}
	if read < 1000 || decoded < 600 {
		t.Errorf("only %d and %d frames", read, decoded)
	}
}

// TestNull compares with what real servers sent: they write every response type in this form.
func TestNull(t *testing.T) {
	for _, serialization := range []byte{Hessian2, Fastjson2} {
		frame, err := AppendNull(nil, serialization, 7)
		if err != nil {
			t.Fatal(err)
		}
		body := frame[HeaderSize:]
		if kind, ok := ResponseType(serialization, body); !ok || kind != 2 {
			t.Errorf("%d: type %d", serialization, kind)
		}
		captured := 0
		for _, v := range vectors(t) {
			if v.Kind != "response" || v.Serialization != serialization {
				continue
			}
			kind, ok := ResponseType(serialization, v.body())
			if !ok || len(v.body()) < len(body) {
				continue
			}
			captured++
			if want := append(bytes.Clone(body[:len(body)-1]), body[len(body)-1]-2+kind); !bytes.HasPrefix(v.body(), want) {
				t.Fatalf("%s begins with %q, not with %q", v, v.body()[:len(want)], want)
			}
		}
		if captured == 0 {
			t.Errorf("%d: no captured response", serialization)
		}
	}
	if _, err := AppendNull(nil, 3, 1); !errors.Is(err, ErrSerialization) {
		t.Error(err)
	}
}

func FuzzEdits(f *testing.F) {
	for i, v := range vectors(f) {
		if i%20 == 0 && len(v.Frame) < 4096 {
			f.Add(v.Frame, "path", "interface")
		}
	}
	f.Add(request(Fastjson2, "\xa6\x7f\x4aa\x00\xb9\x01\xbb\x01a\xa5"), "a", "b")
	f.Fuzz(func(t *testing.T, frame []byte, remove, set string) {
		if len(frame) < HeaderSize {
			return
		}
		frame = endFrame(bytes.Clone(frame), 0)
		a, err := tryLocate(frame)
		if err != nil {
			return
		}
		edits := []Edit{{Key: remove, Remove: true}, {Key: set, Value: "t😀"}}
		out, err := AppendWithEdits(nil, frame, a, edits)
		if err != nil {
			return
		}
		b, err := tryLocate(out)
		if err != nil {
			t.Fatalf("edited frame: %v", err)
		}
		if remove != set {
			if _, ok := b.entry(remove); ok {
				t.Fatalf("%q is still there", remove)
			}
		}
		if !bytes.HasSuffix(out, frame[HeaderSize+a.end:]) {
			t.Fatal("what is behind the attachments changed")
		}
	})
}
