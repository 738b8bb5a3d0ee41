package dubbo

import (
	"bytes"
	"testing"

	hessian "github.com/apache/dubbo-go-hessian2"
)

// response is a body as dubbo-go writes it: the type, a value unless it is null, attachments, and one null more.
func response(t *testing.T, kind int32, values ...any) []byte {
	t.Helper()
	e := hessian.NewEncoder()
	for _, v := range append([]any{kind}, values...) {
		if err := e.Encode(v); err != nil {
			t.Fatal(err)
		}
	}
	return append(e.Buffer(), 'N')
}

func TestHideClosing(t *testing.T) {
	type attachments = map[string]any
	said := attachments{"a": "b", "closing": "true", "n": int32(7)}
	for _, c := range []struct {
		what string
		body []byte
		want bool
	}{
		{"value", response(t, 4, "hello", said), true},
		{"structured value", response(t, 4, map[any]any{"x": []any{"y", int64(1)}}, said), true},
		{"large value", response(t, 4, make([]byte, 1<<20), said), true},
		{"null", response(t, 5, said), true},
		{"exception", response(t, 3, "boom", said), true},
		{"false", response(t, 4, "hello", attachments{"closing": "false"}), false},
		{"another key", response(t, 4, "hello", attachments{"enclosing": "true"}), false},
		{"none", response(t, 4, "hello", attachments{}), false},
		{"in the value", response(t, 4, map[any]any{"closing": "true"}, attachments{"a": "b"}), false},
		{"in a value without attachments", response(t, 1, map[any]any{"closing": "true"}), false},
		{"cut off", response(t, 4, "hello", attachments{"closing": "true"})[:17], false},
		{"empty", nil, false},
	} {
		before := bytes.Clone(c.body)
		if got := HideClosing(Hessian2, c.body); got != c.want {
			t.Errorf("%s: %v, want %v", c.what, got, c.want)
		}
		if c.want {
			before = bytes.Replace(before, []byte("\x07closing"), []byte("\x07stopped"), 1)
		}
		if !bytes.Equal(before, c.body) {
			t.Errorf("%s: became %q", c.what, c.body)
		}
		if HideClosing(Hessian2, c.body) {
			t.Errorf("%s: found twice", c.what)
		}
	}
	if body := response(t, 4, "hello", said); HideClosing(Fastjson2, body) {
		t.Error("found in a serialization that dubbo-go does not write")
	}
}

func FuzzHideClosing(f *testing.F) {
	f.Add([]byte("\x94\x02hiH\x07closing\x04trueZ"))
	f.Add([]byte("\x95H\x07closingTZ"))
	f.Fuzz(func(t *testing.T, body []byte) {
		before := bytes.Clone(body)
		found := HideClosing(Hessian2, body)
		if found == bytes.Equal(before, body) || len(before) != len(body) {
			t.Errorf("found: %v, %q became %q", found, before, body)
		}
	})
}
