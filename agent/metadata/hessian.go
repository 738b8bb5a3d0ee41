package metadata

import (
	"encoding/binary"
	"errors"
	"unicode/utf16"
)

// Answers come from other processes, and the general decoder that exists for Go
// ends the program on some malformed ones. This one reads what a MetadataInfo is
// made of, and its work and memory are bounded by the length of the input.
// Source: Hessian 2.0 Serialization Protocol; hessian-lite for what Dubbo adds.

var (
	errMalformed = errors.New("malformed hessian2")
	errDeep      = errors.New("hessian2 nested too deeply")
)

const maxDepth = 64

// decoder reads values: nil, bool, int64, string, []any, map[string]any. Objects
// are maps by field name, a map's keys are kept if they are strings, and what
// else there is (doubles, dates, binaries) counts as nil.
type decoder struct {
	b       []byte
	classes [][]string // field names
	types   int
	refs    []any
}

func (d *decoder) take(n int) ([]byte, error) {
	if n < 0 || n > len(d.b) {
		return nil, errMalformed
	}
	b := d.b[:n]
	d.b = d.b[n:]
	return b, nil
}

func (d *decoder) value(depth int) (any, error) {
	if depth > maxDepth {
		return nil, errDeep
	}
	if len(d.b) == 0 {
		return nil, errMalformed
	}
	switch t := d.b[0]; {
	case t == 'N':
		d.b = d.b[1:]
		return nil, nil
	case t == 'T' || t == 'F':
		d.b = d.b[1:]
		return t == 'T', nil
	case isString(t):
		return d.text()
	case t >= 0x80 && t <= 0xd7 || t == 'I':
		return d.int()
	case t >= 0xd8, t == 'L', t >= 0x38 && t <= 0x3f, t == 0x59:
		return d.long()
	case t >= 0x5b && t <= 0x5f, t == 'D', t == 0x4a, t == 0x4b:
		size := map[byte]int{0x5b: 1, 0x5c: 1, 0x5d: 2, 0x5e: 3, 0x5f: 5, 'D': 9, 0x4a: 9, 0x4b: 5}[t]
		_, err := d.take(size)
		return nil, err
	case t >= 0x20 && t <= 0x2f, t >= 0x34 && t <= 0x37, t == 'A', t == 'B':
		return nil, d.binary()
	case t == 'C':
		if err := d.class(); err != nil {
			return nil, err
		}
		return d.value(depth + 1)
	case t == 'O' || t >= 0x60 && t <= 0x6f:
		return d.object(depth)
	case t == 'H' || t == 'M':
		return d.dictionary(depth)
	case t == 'U' || t == 'V' || t == 'W' || t == 'X' || t >= 0x70 && t <= 0x7f:
		return d.list(depth)
	case t == 'Q':
		d.b = d.b[1:]
		n, err := d.int()
		if err != nil || n < 0 || int(n) >= len(d.refs) {
			return nil, errMalformed
		}
		return d.refs[n], nil
	}
	return nil, errMalformed
}

func (d *decoder) int() (int64, error) {
	if len(d.b) == 0 {
		return 0, errMalformed
	}
	t := d.b[0]
	size := 0
	switch {
	case t >= 0x80 && t <= 0xbf:
		size = 1
	case t >= 0xc0 && t <= 0xcf:
		size = 2
	case t >= 0xd0 && t <= 0xd7:
		size = 3
	case t == 'I':
		size = 5
	}
	b, err := d.take(size)
	switch {
	case err != nil || size == 0:
		return 0, errMalformed
	case size == 1:
		return int64(t) - 0x90, nil
	case size == 2:
		return (int64(t)-0xc8)<<8 | int64(b[1]), nil
	case size == 3:
		return (int64(t)-0xd4)<<16 | int64(b[1])<<8 | int64(b[2]), nil
	}
	return int64(int32(binary.BigEndian.Uint32(b[1:]))), nil
}

func (d *decoder) long() (int64, error) {
	t := d.b[0]
	size := 1
	switch {
	case t >= 0xf0:
		size = 2
	case t >= 0x38 && t <= 0x3f:
		size = 3
	case t == 0x59:
		size = 5
	case t == 'L':
		size = 9
	}
	b, err := d.take(size)
	switch {
	case err != nil:
		return 0, err
	case size == 1:
		return int64(t) - 0xe0, nil
	case size == 2:
		return (int64(t)-0xf8)<<8 | int64(b[1]), nil
	case size == 3:
		return (int64(t)-0x3c)<<16 | int64(b[1])<<8 | int64(b[2]), nil
	case size == 5:
		return int64(int32(binary.BigEndian.Uint32(b[1:]))), nil
	}
	return int64(binary.BigEndian.Uint64(b[1:])), nil
}

func isString(t byte) bool {
	return t <= 0x1f || t >= 0x30 && t <= 0x33 || t == 'S' || t == 'R'
}

// chunk reads the head of a chunk of text or binary: how long it is, and whether
// it is the last.
func (d *decoder) chunk(short, medium, final byte, shorts int) (n int, last bool, err error) {
	if len(d.b) == 0 {
		return 0, false, errMalformed
	}
	t := d.b[0]
	switch {
	case t >= short && int(t) < int(short)+shorts:
		d.b = d.b[1:]
		return int(t - short), true, nil
	case t >= medium && t <= medium+3:
		b, err := d.take(2)
		if err != nil {
			return 0, false, err
		}
		return int(t-medium)<<8 | int(b[1]), true, nil
	case t == final || t == final-1:
		b, err := d.take(3)
		if err != nil {
			return 0, false, err
		}
		return int(b[1])<<8 | int(b[2]), t == final, nil
	}
	return 0, false, errMalformed
}

// text counts in UTF-16 units; a surrogate pair is two times three bytes (CESU-8).
func (d *decoder) text() (string, error) {
	var units []uint16
	for {
		n, last, err := d.chunk(0x00, 0x30, 'S', 32)
		if err != nil {
			return "", err
		}
		for ; n > 0; n-- {
			if len(d.b) == 0 {
				return "", errMalformed
			}
			switch c := d.b[0]; {
			case c < 0x80:
				units = append(units, uint16(c))
				d.b = d.b[1:]
			case c < 0xe0:
				b, err := d.take(2)
				if err != nil {
					return "", err
				}
				units = append(units, uint16(b[0]&0x1f)<<6|uint16(b[1]&0x3f))
			default:
				b, err := d.take(3)
				if err != nil {
					return "", err
				}
				units = append(units, uint16(b[0]&0x0f)<<12|uint16(b[1]&0x3f)<<6|uint16(b[2]&0x3f))
			}
		}
		if last {
			return string(utf16.Decode(units)), nil
		}
	}
}

func (d *decoder) binary() error {
	for {
		n, last, err := d.chunk(0x20, 0x34, 'B', 16)
		if err != nil {
			return err
		}
		if _, err := d.take(n); err != nil || last {
			return err
		}
	}
}

func (d *decoder) class() error {
	d.b = d.b[1:]
	if _, err := d.text(); err != nil {
		return err
	}
	n, err := d.int()
	if err != nil || n < 0 || int(n) > len(d.b) {
		return errMalformed
	}
	fields := make([]string, n)
	for i := range fields {
		if fields[i], err = d.text(); err != nil {
			return err
		}
	}
	d.classes = append(d.classes, fields)
	return nil
}

func (d *decoder) object(depth int) (any, error) {
	class := int64(d.b[0]) - 0x60
	d.b = d.b[1:]
	if class < 0 {
		var err error
		if class, err = d.int(); err != nil {
			return nil, err
		}
	}
	if class < 0 || int(class) >= len(d.classes) {
		return nil, errMalformed
	}
	m := map[string]any{}
	d.refs = append(d.refs, m)
	for _, name := range d.classes[class] {
		v, err := d.value(depth + 1)
		if err != nil {
			return nil, err
		}
		m[name] = v
	}
	return m, nil
}

// typeName is a name, or the number of one that came before.
func (d *decoder) typeName() error {
	if len(d.b) > 0 && isString(d.b[0]) {
		d.types++
		_, err := d.text()
		return err
	}
	n, err := d.int()
	if err != nil || n < 0 || int(n) >= d.types {
		return errMalformed
	}
	return nil
}

func (d *decoder) dictionary(depth int) (any, error) {
	typed := d.b[0] == 'M'
	d.b = d.b[1:]
	if typed {
		if err := d.typeName(); err != nil {
			return nil, err
		}
	}
	m := map[string]any{}
	d.refs = append(d.refs, m)
	for {
		if len(d.b) > 0 && d.b[0] == 'Z' {
			d.b = d.b[1:]
			return m, nil
		}
		k, err := d.value(depth + 1)
		if err != nil {
			return nil, err
		}
		v, err := d.value(depth + 1)
		if err != nil {
			return nil, err
		}
		if name, ok := k.(string); ok {
			m[name] = v
		}
	}
}

func (d *decoder) list(depth int) (any, error) {
	t := d.b[0]
	d.b = d.b[1:]
	if t == 'U' || t == 'V' || t >= 0x70 && t <= 0x77 {
		if err := d.typeName(); err != nil {
			return nil, err
		}
	}
	n := int64(-1) // until 'Z'
	switch {
	case t >= 0x70 && t <= 0x7f:
		n = int64(t & 7)
	case t == 'V' || t == 'X':
		var err error
		if n, err = d.int(); err != nil || n < 0 {
			return nil, errMalformed
		}
	}
	at := len(d.refs)
	d.refs = append(d.refs, nil)
	list := []any{}
	for ; n != 0; n-- {
		if n < 0 && len(d.b) > 0 && d.b[0] == 'Z' {
			d.b = d.b[1:]
			break
		}
		v, err := d.value(depth + 1)
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	d.refs[at] = list
	return list, nil
}
