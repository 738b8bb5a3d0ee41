package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"strings"

	"github.com/agnivade/levenshtein"
)

// decode reads exactly one JSON object into v, which points to a struct. A field
// that v does not have is an error that names the nearest one it has. Errors
// are refusals; those of the reader are passed on.
func decode(r io.Reader, v any) error {
	body, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if len(bytes.TrimSpace(body)) == 0 {
		return refuse("malformed", "", "the body is empty; a JSON object is wanted")
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return decodeError(err, v)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return refuse("malformed", "", "text after the JSON object, at byte %d", d.InputOffset())
	}
	return nil
}

func decodeError(err error, v any) error {
	// encoding/json has no type for this error; its text has been the same since
	// Go 1.10, and the tests hold it.
	if name, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
		return unknownField(strings.Trim(name, `"`), fieldNames(reflect.TypeOf(v)))
	}
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) {
		field := wrong.Field
		if field == "" {
			field = "the body"
		}
		return refuse("malformed", "", "%s: want %s, found %s at byte %d", field, jsonType(wrong.Type), wrong.Value, wrong.Offset)
	}
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return refuse("malformed", "", "bad JSON at byte %d: %v", syntax.Offset, err)
	}
	return refuse("malformed", "", "bad JSON: %v", err)
}

func unknownField(name string, known []string) error {
	if len(name) > 64 {
		name = name[:64] + "…"
	}
	detail := "known fields: " + strings.Join(known, ", ")
	if near := nearest(name, known); near != "" {
		return refuse("unknown-field", detail, "unknown field %q; did you mean %q?", name, near)
	}
	return refuse("unknown-field", detail, "unknown field %q", name)
}

// nearest is the known word with the fewest edits to name, at most half of
// name's length of them; empty when none is near.
func nearest(name string, known []string) string {
	best, least := "", len(name)/2+1
	for _, k := range known {
		if d := levenshtein.ComputeDistance(strings.ToLower(name), strings.ToLower(k)); d < least {
			best, least = k, d
		}
	}
	return best
}

// fieldNames lists the JSON names of a struct, embedded and nested ones
// included, each once.
func fieldNames(t reflect.Type) []string {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct {
		return nil
	}
	var names []string
	seen := map[string]bool{}
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		nested := fieldNames(f.Type)
		if name != "" {
			nested = append([]string{name}, nested...)
		}
		for _, n := range nested {
			if !seen[n] {
				seen[n] = true
				names = append(names, n)
			}
		}
	}
	return names
}

func jsonType(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Slice:
		return "a list"
	case reflect.Struct, reflect.Map:
		return "an object"
	case reflect.Bool:
		return "true or false"
	default:
		return "a number"
	}
}
