package dubbo

import (
	"bytes"
	"errors"
	"strings"
	"testing"
)

// TestSkipHessian has each form of the grammar once, also those that no captured frame has.
func TestSkipHessian(t *testing.T) {
	for _, test := range []struct{ name, in string }{
		{"null", "N"}, {"true", "T"}, {"false", "F"},
		{"int 1", "\x80"}, {"int 2", "\xc0\x00"}, {"int 3", "\xd7\xff\xff"}, {"int 5", "I\x00\x00\x00\x01"},
		{"long 1", "\xd8"}, {"long 2", "\xff\x00"}, {"long 3", "\x38\x00\x00"}, {"long 5", "\x59\x00\x00\x00\x01"}, {"long 9", "L12345678"},
		{"double 0", "\x5b"}, {"double 1", "\x5c"}, {"double byte", "\x5d\x01"}, {"double short", "\x5e\x01\x02"},
		{"double mill", "\x5f\x00\x00\x00\x01"}, {"double", "D12345678"},
		{"date", "\x4a12345678"}, {"date minutes", "\x4b1234"},
		{"string", "\x03abc"}, {"string of no ASCII", "\x02é灰"}, {"four bytes for two units", "\x02😀"},
		{"surrogates", "\x02\xed\xa0\xbd\xed\xb8\x80"}, {"string 2", "\x30\x01a"}, {"string chunk", "S\x00\x01a"},
		{"chunks", "R\x00\x01aR\x00\x00R\x00\x01b\x01c"}, {"chunks with a last one of two bytes", "R\x00\x01a\x33\x00" + strings.Repeat("b", 0x300)},
		{"binary", "\x22ab"}, {"binary 2", "\x34\x01a"}, {"binary chunks", "A\x00\x01aA\x00\x01bB\x00\x01c"},
		{"binary ends short", "A\x00\x01a\x20"}, {"binary ends with two bytes", "A\x00\x01a\x34\x01b"},
		{"map", "H\x01aNZ"}, {"typed map", "M\x01mNNZ"}, {"map, type by number", "M\x90Z"}, {"map in map", "HH\x90NZHNNZZ"},
		{"list with an end", "WN\x01aZ"}, {"typed list with an end", "U\x01lNZ"},
		{"list", "\x58\x92NN"}, {"list of an int", "X\xc8\x01N"}, {"typed list", "V\x01l\x92NN"}, {"typed list by number", "V\x90\x91N"},
		{"short list", "\x7aNN"}, {"empty list", "\x78"}, {"short typed list", "\x72\x01lNN"},
		{"ref", "\x51\x90"}, {"ref of two bytes", "\x51\xc8\x20"},
		{"object", "C\x01c\x92\x01a\x01b\x60NT"}, {"object without fields", "C\x01c\x90\x60"}, {"object by number", "C\x01c\x91\x01aO\x90N"},
		{"class of class", "C\x01c\x91\x01aC\x01d\x90\x60\x61"}, {"class definition in a map", "HC\x01c\x90\x60NZ"},
		{"class definition twice in a list with an end", "WC\x01c\x90C\x01d\x90\x60\x61Z"},
	} {
		var w walker
		w.reset([]byte(test.in+"Z"), 0)
		if err := w.skipHessian(1); err != nil || w.pos != len(test.in) {
			t.Errorf("%s: %d of %d bytes, %v", test.name, w.pos, len(test.in), err)
		}
		for cut := range len(test.in) {
			w.reset([]byte(test.in[:cut]), 0)
			if err := w.skipHessian(1); err == nil {
				t.Errorf("%s: valid with %d bytes", test.name, cut)
			}
		}
	}
}

func TestSkipHessianRefuses(t *testing.T) {
	for _, test := range []struct {
		name, in string
		want     error
	}{
		{"end without a map", "Z", ErrMalformed},
		{"end instead of a value", "H\x01aZ", nil}, // Java refuses it too; nobody gains by it
		{"reserved", "@", ErrMalformed},
		{"envelope", "E", ErrMalformed},
		{"unknown class", "\x60", ErrMalformed},
		{"negative class", "O\x8f", ErrMalformed},
		{"negative length", "X\x8f", ErrMalformed},
		{"huge list", "XI\x7f\xff\xff\xff", ErrTruncated},
		{"huge class", "C\x01cI\x7f\xff\xff\xff", ErrTruncated},
		{"negative class size", "C\x01c\x8f", ErrTruncated},
		{"length is a string", "X\x01a", ErrMalformed},
		{"ref to a string", "\x51\x01a", ErrMalformed},
		{"string chunk before a binary", "R\x00\x01a\x20", ErrMalformed},
		{"binary chunk before a string", "A\x00\x01a\x00", ErrMalformed},
	} {
		var w walker
		w.reset([]byte(test.in), 0)
		if err := w.skipHessian(1); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
	}
}

// TestHostile walks bodies that are made to need much time, memory or stack. It ends, or the test run does not.
func TestHostile(t *testing.T) {
	const size = 4 << 20
	repeat := func(front, unit string) []byte {
		return append([]byte(front), bytes.Repeat([]byte(unit), size/len(unit))...)
	}
	fields := strings.Repeat("\x00", 60000)
	for name, body := range map[string][]byte{
		"maps in maps":           repeat("", "H"),
		"lists in lists":         repeat("", "\x79"),
		"lists with an end":      repeat("", "W"),
		"maps in lists":          repeat("", "\x7aH"),
		"class definitions":      repeat("", "C\x00\x90"),
		"classes in a map":       repeat("H", "C\x00\x90\x60"),
		"wide objects in wide":   repeat("C\x00\xd4\xea\x60"+fields, "\x60"),
		"empty string chunks":    repeat("", "R\x00\x00"),
		"empty binary chunks":    repeat("", "A\x00\x00"),
		"empty lists":            repeat("W", "\x78"),
		"types":                  repeat("", "V\x00\x91"),
		"chunks of surrogates":   repeat("", "R\x00\x01\xed\xa0\xbd"),
		"JSONB objects":          repeat("", "\xa6"),
		"JSONB arrays":           repeat("", "\x95"),
		"JSONB types":            repeat("", "\x92\x49\x00"),
		"JSONB decimals":         repeat("", "\xb9\x00"),
		"JSONB array of objects": repeat("\xa4\x48\x00\x30\x00\x00", "\xa6\xa5"),
	} {
		var w walker
		w.reset(body, 0)
		hessian := w.skipHessian(1)
		w.reset(body, 0)
		jsonb := w.skipJSONB(1)
		t.Logf("%s: %v, %v", name, hessian, jsonb)
		if cap(w.open) > 2*maxOpen {
			t.Errorf("%s: %d open containers", name, cap(w.open))
		}
		w.reset(nil, 0)
		if cap(w.classes) > keepClasses {
			t.Errorf("%s: keeps %d classes", name, cap(w.classes))
		}
	}
}

func TestHessianText(t *testing.T) {
	long := strings.Repeat("0123456789", 10000) + "灰😀" + strings.Repeat("é😀", 30000)
	for _, text := range []string{"", "a", "1234567", "12345678", "123456789", strings.Repeat("x", 31), strings.Repeat("x", 32), strings.Repeat("é", 1023),
		strings.Repeat("灰", 1024), "😀", "a😀b", strings.Repeat("😀", 16), strings.Repeat("a", 0x7fff) + "😀", strings.Repeat("a", 0x8000), strings.Repeat("a", 0x8001), long} {
		b := appendHessianString([]byte("front"), text)
		got, end, err := hessianText(append(b, "behind"...), len("front"))
		if err != nil || end != len(b) || string(got) != text {
			t.Errorf("%.20q (%d bytes): %.20q, %d of %d, %v", text, len(text), got, end, len(b), err)
		}
	}
	// A pair of surrogates that is split between chunks, as Go writes it.
	got, _, err := hessianText([]byte("R\x00\x01\xed\xa0\xbd\x01\xed\xb8\x80"), 0)
	if err != nil || string(got) != "😀" {
		t.Errorf("split pair: %q %v", got, err)
	}
	// One that stands alone stays.
	got, _, err = hessianText([]byte("\x02\xed\xa0\xbda"), 0)
	if err != nil || string(got) != "\xed\xa0\xbda" {
		t.Errorf("single surrogate: %q %v", got, err)
	}
	if got, end, err := hessianText([]byte("N"), 0); got != nil || end != 1 || err != nil {
		t.Errorf("null: %q %d %v", got, end, err)
	}
}

// TestTextAliases: the ordinary case does not copy.
func TestTextAliases(t *testing.T) {
	body := appendHessianString(nil, "com.a.Foo")
	got, _, err := hessianText(body, 0)
	if err != nil || &got[0] != &body[1] {
		t.Errorf("%q is a copy (%v)", got, err)
	}
	body = append([]byte{0, 0, 0, 10}, appendJSONBString(nil, "com.a.Foo")...)
	got, _, err = jsonbText(body, 0)
	if err != nil || &got[0] != &body[5] {
		t.Errorf("%q is a copy (%v)", got, err)
	}
}

func TestJSONBText(t *testing.T) {
	for _, test := range []struct{ in, want string }{
		{"\x49", ""}, {"\x4aa", "a"}, {"\x79\x01a", "a"}, {"\x79\x01\xe9", "é"}, {"\x4a\xe9", "é"}, {"\x7a\x04😀", "😀"},
		{"\x7b\x02\x70\x70", "灰"}, {"\x7c\x04\x3d\xd8\x00\xde", "😀"}, {"\x7d\x04\xd8\x3d\xde\x00", "😀"}, {"\x7c\x02\x3d\xd8", "\ufffd"},
		{"\x79\x38\x30" + strings.Repeat("x", 48), strings.Repeat("x", 48)},
	} {
		got, ok := jsonbString([]byte(test.in), 0)
		if !ok || string(got) != test.want {
			t.Errorf("%q: %q %v, want %q", test.in, got, ok, test.want)
		}
	}
	for _, in := range []string{"", "\x4a", "\x79", "\x79\x02a", "\x79\xf0", "\x7e\x01a", "\xa6", "\x79\x48\x7f\xff\xff\xff"} {
		if got, ok := jsonbString([]byte(in), 0); ok {
			t.Errorf("%q: %q", in, got)
		}
	}
	for _, in := range []string{"", "\x00\x00\x00", "\x00\x00\x00\x00", "\x00\x00\x00\x02\x49", "\xff\xff\xff\xff\x49"} {
		if got, _, err := jsonbText([]byte(in), 0); err == nil {
			t.Errorf("%q: %q", in, got)
		}
	}
}

// TestSkipJSONB has the forms that no captured frame has.
func TestSkipJSONB(t *testing.T) {
	for _, test := range []struct{ name, in string }{
		{"char", "\x90\x01"}, {"binary", "\x91\x02ab"}, {"reference", "\x93\x4a$"}, {"array", "\xa4\x02\xaf\xaf"}, {"short array", "\x96\xaf\xaf"}, {"empty array", "\x94"},
		{"time", "\xa7123\x00"}, {"date and time", "\xa81234567\x00"}, {"date", "\xa91234"}, {"with zone", "\xaa1234567\x00\x4aZ"},
		{"millis", "\xab12345678"}, {"seconds", "\xac1234"}, {"minutes", "\xad1234"}, {"instant", "\xae\xbe12345678\x00"},
		{"double of a long", "\xb4\x01"}, {"float of an int", "\xb6\x01"}, {"decimal of a long", "\xb8\x01"}, {"decimal", "\xb9\x01\xbb\x01a"}, {"big integer", "\xba\x01"},
		{"symbol", "\x7f\x4aa\x00"}, {"symbol by number", "\x7f\x00"}, {"typed", "\x92\x4aa\x00\xa6\xa5"}, {"typed by number", "\x92\x00\x94"}, {"typed by symbol", "\x92\x7f\x00\xaf"},
		{"typed in an object", "\xa6\x4aa\x92\x4ab\x00\xa6\xa5\xa5"}, {"int as a key", "\xa6\x01\xaf\xa5"},
	} {
		var w walker
		w.reset([]byte(test.in), 0)
		if err := w.skipJSONB(1); err != nil || w.pos != len(test.in) {
			t.Errorf("%s: %d of %d bytes, %v", test.name, w.pos, len(test.in), err)
		}
		for cut := range len(test.in) {
			w.reset([]byte(test.in[:cut]), 0)
			if err := w.skipJSONB(1); err == nil {
				t.Errorf("%s: valid with %d bytes", test.name, cut)
			}
		}
	}
	for _, in := range []string{"\xa5", "\xa4\xf0", "\x91\x48\x7f\xff\xff\xff", "\xa4\x48\x7f\xff\xff\xff", "\x93\x01", "\x92\xaf"} {
		var w walker
		w.reset([]byte(in), 0)
		if err := w.skipJSONB(1); err == nil {
			t.Errorf("%q is valid", in)
		}
	}
}

func TestArgCount(t *testing.T) {
	for desc, want := range map[string]int{
		"": 0, "I": 1, "ZBCDFIJS": 8, "Ljava/lang/String;": 1, "[I": 1, "[[Ljava/lang/String;[JLx;": 3, "Ljava/lang/String;[Ljava/lang/String;[Ljava/lang/Object;": 3,
	} {
		if n, err := argCount([]byte(desc)); err != nil || n != want {
			t.Errorf("%s: %d %v, want %d", desc, n, err, want)
		}
	}
	for _, desc := range []string{"L", "Ljava/lang/String", "x", "java.lang.String"} {
		if n, err := argCount([]byte(desc)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %d %v", desc, n, err)
		}
	}
}
