package dubbo

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	hessian "github.com/apache/dubbo-go-hessian2"
)

// request is a frame with no arguments and the given attachments value.
func request(serialization byte, attachments string) []byte {
	frame := beginFrame(nil, flagRequest|flagTwoWay|serialization, 0, 1)
	for _, field := range []string{"2.0.2", "com.a.Foo", "1.0.0", "call", ""} {
		if serialization == Fastjson2 {
			frame = append(frame, 0, 0, 0, byte(1+len(field)))
			frame = appendJSONBString(frame, field)
		} else {
			frame = appendHessianString(frame, field)
		}
	}
	if serialization == Fastjson2 {
		frame = append(frame, 0, 0, byte(len(attachments)>>8), byte(len(attachments)))
	}
	return endFrame(append(frame, attachments...), 0)
}

// argued is a frame with arguments, each as written, and one attachment.
func argued(serialization byte, desc string, arguments ...string) []byte {
	frame := beginFrame(nil, flagRequest|flagTwoWay|serialization, 0, 1)
	block := func(value string) {
		if serialization == Fastjson2 {
			frame = append(frame, 0, 0, byte(len(value)>>8), byte(len(value)))
		}
		frame = append(frame, value...)
	}
	for _, field := range []string{"2.0.2", "com.a.Foo", "1.0.0", "call", desc} {
		if serialization == Fastjson2 {
			block(string(appendJSONBString(nil, field)))
		} else {
			block(string(appendHessianString(nil, field)))
		}
	}
	for _, a := range arguments {
		block(a)
	}
	if serialization == Fastjson2 {
		block("\xa6\x4ctag\x4ba1\xa5")
	} else {
		block("H\x03tag\x02a1Z")
	}
	return endFrame(frame, 0)
}

func TestArgumentForms(t *testing.T) {
	const none = "–"
	for _, test := range []struct {
		serialization byte
		value, want   string
	}{
		{Hessian2, "\x02t1", "t1"}, {Hessian2, "\x00", ""}, {Hessian2, "R\x00\x01t\x011", "t1"}, {Hessian2, "\x02\xed\xa0\xbd\xed\xb8\x80", "😀"},
		{Hessian2, "I\xff\xff\xff\xff", "-1"}, {Hessian2, "\x90", "0"}, {Hessian2, "\xcb\xe8", "1000"}, {Hessian2, "\xd4\xff\xff", "65535"},
		{Hessian2, "L\x80\x00\x00\x00\x00\x00\x00\x00", "-9223372036854775808"}, {Hessian2, "\xd8", "-8"}, {Hessian2, "\x3c\x01\x00", "256"},
		{Hessian2, "T", "true"}, {Hessian2, "F", "false"}, {Hessian2, "N", none}, {Hessian2, "\x5b", none}, {Hessian2, "\x5d\x01", none},
		{Hessian2, "\x5f\x00\x00\x05\xdc", none}, {Hessian2, "D\x3f\xf8\x00\x00\x00\x00\x00\x00", none}, {Hessian2, "\x4b\x00\x00\x00\x00", none},
		{Hessian2, "\x21a", none}, {Hessian2, "\x60\x01a", none}, {Hessian2, "C\x01d\x91\x01f\x61\x01a", none}, {Hessian2, "\x79\x01a", none}, {Hessian2, "H\x01aNZ", none}, {Hessian2, "Q\x90", none},
		{Fastjson2, "\x4bt1", "t1"}, {Fastjson2, "\x49", ""}, {Fastjson2, "\x79\x01\xe9", "é"}, {Fastjson2, "\x38\xff", "255"}, {Fastjson2, "\xf0", "-16"},
		{Fastjson2, "\xbe\x7f\xff\xff\xff\xff\xff\xff\xff", "9223372036854775807"}, {Fastjson2, "\xbd\xff", "-1"}, {Fastjson2, "\xb1", "true"}, {Fastjson2, "\xb0", "false"},
		{Fastjson2, "\xaf", none}, {Fastjson2, "\xb3", none}, {Fastjson2, "\xb5\x3f\xf8\x00\x00\x00\x00\x00\x00", none}, {Fastjson2, "\xb8\x07", none},
		{Fastjson2, "\x95\x4aa", none}, {Fastjson2, "\xa6\x4atag\xaf\xa5", none}, {Fastjson2, "\x7e\x01\xff", none},
	} {
		// Behind an object that defines a class, and before one that uses it.
		first, last := "C\x01c\x91\x01f\x60\x01x", "\x60\x01y"
		if test.serialization == Fastjson2 {
			first, last = "\xa6\x4aa\x95\x01\xa5", "\x94"
		}
		a := locate(t, argued(test.serialization, "La/B;Ljava/lang/Object;La/B;", first, test.value, last))
		got, ok := a.Argument(1)
		if text := string(got); ok != (test.want != none) || ok && text != test.want {
			t.Errorf("%d %q: %q %v, want %q", test.serialization, test.value, text, ok, test.want)
		}
		for _, i := range []int{-1, 0, 2, 3} {
			if got, ok := a.Argument(i); ok {
				t.Errorf("%d %q: argument %d is %q", test.serialization, test.value, i, got)
			}
		}
		if got, _ := a.Lookup("tag"); string(got) != "a1" {
			t.Errorf("%d %q: the attachment is %q", test.serialization, test.value, got)
		}
	}
	var a Attachments
	if _, ok := a.Argument(0); ok {
		t.Error("an argument of nothing")
	}
}

// Entries beyond those that are remembered by offset are found after the arguments were read too.
func TestArgumentsAndManyAttachments(t *testing.T) {
	entries := "H"
	for i := range 2 * indexed {
		key := fmt.Sprintf("key%02d", i)
		entries += string(rune(len(key))) + key + "\x60\x01v" // an object of the class that the argument defines
	}
	frame := beginFrame(nil, flagRequest|flagTwoWay|Hessian2, 0, 1)
	for _, field := range []string{"2.0.2", "com.a.Foo", "1.0.0", "call", "La/B;I"} {
		frame = appendHessianString(frame, field)
	}
	frame = append(frame, "C\x01c\x91\x01f\x60\x01x\x97"+entries+"\x04last\x01lZ"...)
	a := locate(t, endFrame(frame, 0))
	for range 2 {
		if got, ok := a.Argument(1); !ok || string(got) != "7" {
			t.Errorf("argument %q %v", got, ok)
		}
		if got, ok := a.Lookup("last"); !ok || string(got) != "l" {
			t.Errorf("the last entry is %q %v", got, ok)
		}
	}
}

func locate(t *testing.T, frame []byte) *Attachments {
	t.Helper()
	a, err := tryLocate(frame)
	if err != nil {
		t.Fatalf("%q: %v", frame, err)
	}
	return a
}

func tryLocate(frame []byte) (*Attachments, error) {
	var f Front
	a := new(Attachments)
	s := frame[2] & maskSerialization
	if err := ParseFront(s, frame[HeaderSize:], &f); err != nil {
		return a, err
	}
	return a, FindAttachments(s, frame[HeaderSize:], &f, a)
}

func TestLookupForms(t *testing.T) {
	for _, test := range []struct {
		name          string
		serialization byte
		value         string
		want          string
		ok            bool
	}{
		{"string", Hessian2, "\x02t1", "t1", true},
		{"chunks", Hessian2, "R\x00\x01t\x011", "t1", true},
		{"surrogates", Hessian2, "\x02\xed\xa0\xbd\xed\xb8\x80", "😀", true},
		{"int", Hessian2, "I\xff\xff\xff\xff", "-1", true},
		{"int 2", Hessian2, "\xcb\xe8", "1000", true},
		{"int 3", Hessian2, "\xd4\xff\xff", "65535", true},
		{"long", Hessian2, "L\x80\x00\x00\x00\x00\x00\x00\x00", "-9223372036854775808", true},
		{"long 1", Hessian2, "\xd8", "-8", true}, {"long 2", Hessian2, "\xf8\x10", "16", true},
		{"long 3", Hessian2, "\x3c\x01\x00", "256", true}, {"long 5", Hessian2, "\x59\x80\x00\x00\x00", "-2147483648", true},
		{"doubles", Hessian2, "D\x3f\xf8\x00\x00\x00\x00\x00\x00", "1.5", true}, {"double byte", Hessian2, "\x5d\xff", "-1", true},
		{"double short", Hessian2, "\x5e\x01\x00", "256", true}, {"double mill", Hessian2, "\x5f\x00\x00\x05\xdc", "1.5", true},
		{"zero", Hessian2, "\x5b", "0", true}, {"one", Hessian2, "\x5c", "1", true}, {"true", Hessian2, "T", "true", true},
		{"null", Hessian2, "N", "", false}, {"date", Hessian2, "\x4b\x00\x00\x00\x00", "", false}, {"binary", Hessian2, "\x21a", "", false},
		{"object", Hessian2, "C\x01c\x91\x01f\x60N", "", false}, {"list", Hessian2, "\x79\x01a", "", false}, {"map", Hessian2, "H\x03tag\x01aZ", "", false},
		{"string", Fastjson2, "\x4bt1", "t1", true},
		{"int", Fastjson2, "\x38\xff", "255", true}, {"int 3", Fastjson2, "\x45\x00\x00", "65536", true}, {"int 5", Fastjson2, "\x48\xff\xff\xff\xff", "-1", true},
		{"long 1", Fastjson2, "\xd8", "-8", true}, {"long 2", Fastjson2, "\xd0\xff", "255", true}, {"long 3", Fastjson2, "\xc5\x00\x00", "65536", true},
		{"long 5", Fastjson2, "\xbf\x80\x00\x00\x00", "-2147483648", true}, {"long 9", Fastjson2, "\xbe\x7f\xff\xff\xff\xff\xff\xff\xff", "9223372036854775807", true},
		{"short", Fastjson2, "\xbc\xff\xff", "-1", true}, {"byte", Fastjson2, "\xbd\xff", "-1", true},
		{"double", Fastjson2, "\xb5\x3f\xf8\x00\x00\x00\x00\x00\x00", "1.5", true}, {"float", Fastjson2, "\xb7\x3f\xc0\x00\x00", "1.5", true},
		{"double of a long", Fastjson2, "\xb4\x07", "7", true}, {"zero", Fastjson2, "\xb2", "0", true}, {"one", Fastjson2, "\xb3", "1", true},
		{"true", Fastjson2, "\xb1", "true", true}, {"false", Fastjson2, "\xb0", "false", true},
		{"null", Fastjson2, "\xaf", "", false}, {"array", Fastjson2, "\x95\x4aa", "", false}, {"object", Fastjson2, "\xa6\x4ctag\x4aa\xa5", "", false},
	} {
		entries := "H\x01aN\x03tag" + test.value + "\x01z\x01zZ"
		if test.serialization == Fastjson2 {
			entries = "\xa6\x4aa\xaf\x4ctag" + test.value + "\x4az\x4az\xa5"
		}
		frame := request(test.serialization, entries)
		a := locate(t, frame)
		got, ok := a.Lookup("tag")
		if ok != test.ok || string(got) != test.want {
			t.Errorf("%d %s: %q %v", test.serialization, test.name, got, ok)
		}
		if z, ok := a.Lookup("z"); !ok || string(z) != "z" {
			t.Errorf("%d %s: behind it %q %v", test.serialization, test.name, z, ok)
		}
		out, err := AppendWithAttachment(nil, frame, a, "tag", "new")
		if test.ok || test.name == "null" {
			if err != nil {
				t.Errorf("%d %s: %v", test.serialization, test.name, err)
				continue
			}
			if got, ok := locate(t, out).Lookup("tag"); !ok || string(got) != "new" {
				t.Errorf("%d %s: rewritten %q %v", test.serialization, test.name, got, ok)
			}
		} else if !errors.Is(err, ErrAttachmentsForm) {
			t.Errorf("%d %s: rewritten: %v", test.serialization, test.name, err)
		}
	}
}

func TestNullAttachments(t *testing.T) {
	for serialization, null := range map[byte]string{Hessian2: "N", Fastjson2: "\xaf"} {
		frame := append(request(serialization, null), "behind"...)
		frame = endFrame(frame, 0)
		a := locate(t, frame)
		if _, ok := a.Lookup("group"); ok {
			t.Error("found in null")
		}
		out, err := AppendWithAttachment(nil, frame, a, "group", "g1")
		if err != nil {
			t.Fatal(err)
		}
		if got, ok := locate(t, out).Lookup("group"); !ok || string(got) != "g1" {
			t.Errorf("%q %v", got, ok)
		}
		if !bytes.HasSuffix(out, []byte("behind")) {
			t.Errorf("%q lost what is behind", out)
		}
	}
}

// TestManyAttachments has more than are remembered, with class definitions among them, and one key twice.
func TestManyAttachments(t *testing.T) {
	for _, serialization := range []byte{Hessian2, Fastjson2} {
		var b []byte
		text := func(s string) {
			if serialization == Hessian2 {
				b = appendHessianString(b, s)
			} else {
				b = appendJSONBString(b, s)
			}
		}
		object, open, end := "C\x01c\x91\x01f", byte(hessianMap), byte(hessianEnd)
		if serialization == Fastjson2 {
			object, open, end = "\x92\x4ac\x00", byte(jsonbObject), byte(jsonbObjectEnd)
		}
		b = append(b, open)
		text("twice")
		text("first")
		for i := range 3 * indexed {
			text(fmt.Sprint("key", i))
			text(fmt.Sprint("value", i))
			text(fmt.Sprint("object", i))
			b = append(b, object...)
			if serialization == Hessian2 {
				b = append(b, 'O', 0x80+0x10+byte(i%0x2f), 'T')
			} else {
				b = append(b, jsonbObject, jsonbObjectEnd)
			}
		}
		text("twice")
		text("last")
		b = append(b, end)

		frame := request(serialization, string(b))
		a := locate(t, frame)
		for range 2 { // again: nothing is used up
			for i := range 3 * indexed {
				if got, ok := a.Lookup(fmt.Sprint("key", i)); !ok || string(got) != fmt.Sprint("value", i) {
					t.Fatalf("%d: key%d = %q %v", serialization, i, got, ok)
				}
			}
		}
		if got, _ := a.Lookup("twice"); string(got) != "last" {
			t.Errorf("%d: %q", serialization, got)
		}
		if n := len(attachmentTexts(a)); n != 3*indexed+1 {
			t.Errorf("%d: %d entries", serialization, n)
		}
		out, err := AppendWithAttachment(nil, frame, a, "twice", "newer")
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := locate(t, out).Lookup("twice"); string(got) != "newer" {
			t.Errorf("%d: %q", serialization, got)
		}
		seen := 0
		a.Range(func(_, _ []byte) bool { seen++; return seen < 3 })
		if seen != 3 {
			t.Errorf("Range went on to %d", seen)
		}
	}
}

func TestFindAttachmentsRefuses(t *testing.T) {
	for _, test := range []struct {
		name          string
		serialization byte
		attachments   string
		want          error
	}{
		{"nothing", Hessian2, "", ErrTruncated}, {"string", Hessian2, "\x01a", ErrMalformed}, {"no end", Hessian2, "H\x01a\x01b", ErrTruncated},
		{"key without value", Hessian2, "H\x01aZ", ErrMalformed}, {"list", Hessian2, "\x78", ErrMalformed},
		{"ref to nothing", Hessian2, "\x51\x90", ErrMalformed}, {"negative ref", Hessian2, "\x51\x80", ErrMalformed}, {"typed, cut", Hessian2, "M", ErrTruncated},
		{"nothing", Fastjson2, "", ErrMalformed}, {"string", Fastjson2, "\x49", ErrMalformed}, {"no end", Fastjson2, "\xa6\x4aa\x4ab", ErrTruncated},
		{"key without value", Fastjson2, "\xa6\x4aa\xa5", ErrMalformed}, {"more than a value", Fastjson2, "\xa6\xa5\xaf", ErrMalformed}, {"typed, cut", Fastjson2, "\x92\x49\x00", ErrTruncated},
	} {
		a, err := tryLocate(request(test.serialization, test.attachments))
		if !errors.Is(err, test.want) {
			t.Errorf("%d %s: %v, want %v", test.serialization, test.name, err, test.want)
		}
		if _, ok := a.Lookup("a"); ok || len(attachmentTexts(a)) != 0 {
			t.Errorf("%d %s: entries after an error", test.serialization, test.name)
		}
	}
	var a Attachments
	if err := FindAttachments(3, nil, &Front{}, &a); !errors.Is(err, ErrSerialization) {
		t.Error(err)
	}
	if err := FindAttachments(Hessian2, nil, &Front{Args: 5}, &a); !errors.Is(err, ErrTruncated) {
		t.Error(err)
	}
	if err := FindAttachments(Hessian2, nil, &Front{ParameterDesc: []byte("?")}, &a); !errors.Is(err, ErrMalformed) {
		t.Error(err)
	}
	frame := request(Hessian2, "HZ")
	if _, err := AppendWithAttachment(nil, frame[:20], locate(t, frame), "a", "b"); !errors.Is(err, ErrTruncated) {
		t.Error(err)
	}
	if f := new(Front); !errors.Is(ParseFront(22, frame[HeaderSize:], f), ErrSerialization) {
		t.Error("serialization 22 was read")
	}
}

// TestRewriteReadByGo reads rewritten attachments with the codec of dubbo-go.
func TestRewriteReadByGo(t *testing.T) {
	count := 0
	for i, v := range vectors(t) {
		if v.Kind != "request" || v.Serialization != Hessian2 || v.Form != "untyped" || len(v.Expect.Attachments) == 0 {
			continue
		}
		want := map[any]any{}
		for key, value := range v.Expect.Attachments {
			if text, ok := value.(string); ok {
				want[key] = text
			}
		}
		if len(want) != len(v.Expect.Attachments) {
			continue // objects, which may belong to the arguments
		}
		count++
		value := newValue(i)
		for _, key := range []string{"token", "path", "灰"} {
			out, err := AppendWithAttachment(nil, v.Frame, locate(t, v.Frame), key, value)
			if err != nil {
				t.Errorf("%s: %v", v, err)
				continue
			}
			decoder := hessian.NewDecoder(out[HeaderSize+v.Expect.AttachmentsOffset:])
			decoded, err := decoder.Decode()
			got, ok := decoded.(map[any]any)
			if err != nil || !ok {
				t.Errorf("%s: %T %v", v, decoded, err)
				continue
			}
			wanted := map[any]any{key: value}
			for k, text := range want {
				if k != key {
					wanted[k] = text
				}
			}
			if fmt.Sprint(got) != fmt.Sprint(wanted) {
				t.Errorf("%s: %v, want %v", v, got, wanted)
			}
		}
	}
	if count < 600 {
		t.Errorf("only %d frames", count)
	}
}
