package dubbo

import (
	"encoding/binary"
	"math"
	"strconv"
)

// Tags of the hessian 2.0 grammar that are used in more than one place.
const (
	hessianNull = 'N'
	hessianEnd  = 'Z'
	hessianMap  = 'H'
	hessianRef  = 0x51
)

// skipHessian steps over n values.
func (w *walker) skipHessian(n int) error {
	w.open = w.open[:0]
	pending := n
	for {
		if pending == 0 {
			outer, ok := w.leave()
			if !ok {
				return nil
			}
			pending = outer
			continue
		}
		if w.pos >= len(w.b) {
			return ErrTruncated
		}
		tag := w.b[w.pos]
		if pending == untilEnd {
			if tag == hessianEnd {
				w.pos++
				pending = 0
				continue
			}
		} else {
			pending--
		}
		if tag <= 0x1f { // by far the most frequent: a short string
			if w.pos = skipChars(w.b, w.pos+1, int(tag)); w.pos < 0 {
				return ErrTruncated
			}
			continue
		}
		if size := hessianScalar[tag]; size > 0 {
			if w.pos += int(size); w.pos > len(w.b) {
				return ErrTruncated
			}
			continue
		}
		var err error
		if pending, err = w.hessianValue(tag, pending); err != nil {
			return err
		}
	}
}

// hessianValue steps over a string, a binary or the front of a container, whose tag is at w.pos.
func (w *walker) hessianValue(tag byte, pending int) (int, error) {
	switch {
	case tag >= 0x30 && tag <= 0x33, tag == 'R', tag == 'S':
		return pending, w.skipString()
	case tag >= 0x20 && tag <= 0x2f, tag >= 0x34 && tag <= 0x37, tag == 'A', tag == 'B':
		return pending, w.skipBinary()
	}
	start := w.pos
	w.pos++
	switch {
	case tag == hessianRef:
		_, err := w.int()
		return pending, err
	case tag == 'C': // a class definition stands in front of a value and is none
		if err := w.skipClass(); err != nil {
			return 0, err
		}
		if pending == untilEnd {
			// The value that belongs to it must not be taken for the end mark.
			return w.nest(pending, 1)
		}
		return pending + 1, nil
	case tag >= 0x60 && tag <= 0x6f:
		w.object(start)
		return w.fields(pending, int(tag-0x60))
	case tag == 'O':
		w.object(start)
		class, err := w.int()
		if err != nil {
			return 0, err
		}
		return w.fields(pending, class)
	case tag == hessianMap:
		w.object(start)
		return w.nest(pending, untilEnd)
	case tag == 'M', tag == 'U':
		w.object(start)
		if err := w.skipType(); err != nil {
			return 0, err
		}
		return w.nest(pending, untilEnd)
	case tag == 'W':
		w.object(start)
		return w.nest(pending, untilEnd)
	case tag >= 0x70 && tag <= 0x77:
		w.object(start)
		if err := w.skipType(); err != nil {
			return 0, err
		}
		return w.nest(pending, int(tag-0x70))
	case tag >= 0x78 && tag <= 0x7f:
		w.object(start)
		return w.nest(pending, int(tag-0x78))
	case tag == 'V', tag == 'X':
		w.object(start)
		if tag == 'V' {
			if err := w.skipType(); err != nil {
				return 0, err
			}
		}
		n, err := w.int()
		if err != nil {
			return 0, err
		}
		if n < 0 {
			return 0, ErrMalformed
		}
		return w.nest(pending, n)
	}
	return 0, ErrMalformed
}

// object counts a list, map or object that starts at pos.
func (w *walker) object(pos int) {
	if w.objects == w.target {
		w.found, w.foundDefs = pos, len(w.classes)
	}
	w.objects++
}

// fields turns to the fields of an instance of a class that was defined before.
func (w *walker) fields(pending, class int) (int, error) {
	if class < 0 || class >= len(w.classes) {
		return 0, ErrMalformed
	}
	return w.nest(pending, int(w.classes[class]))
}

// skipClass steps over a class definition (behind its tag) and remembers how many fields it has.
func (w *walker) skipClass() error {
	if err := w.skipString(); err != nil {
		return err
	}
	n, err := w.int()
	if err != nil {
		return err
	}
	if n < 0 || n > len(w.b)-w.pos {
		return ErrTruncated
	}
	w.classes = append(w.classes, uint32(n))
	for range n {
		if err := w.skipString(); err != nil {
			return err
		}
	}
	return nil
}

// skipType steps over the type of a map or list: a name, or the number of an earlier one.
func (w *walker) skipType() error {
	if w.pos >= len(w.b) {
		return ErrTruncated
	}
	if isHessianString(w.b[w.pos]) {
		return w.skipString()
	}
	_, err := w.int()
	return err
}

// int reads an int in any of its forms.
func (w *walker) int() (int, error) {
	v, size := hessianInt(w.b[w.pos:])
	if size == 0 {
		if w.pos >= len(w.b) {
			return 0, ErrTruncated
		}
		return 0, ErrMalformed
	}
	w.pos += size
	return int(v), nil
}

// skipString steps over a string at w.pos.
func (w *walker) skipString() error {
	_, _, end, err := hessianString(w.b, w.pos)
	w.pos = end
	return err
}

// skipBinary steps over all chunks of a binary at w.pos.
func (w *walker) skipBinary() error {
	for {
		if w.pos >= len(w.b) {
			return ErrTruncated
		}
		tag, rest := w.b[w.pos], w.b[w.pos+1:]
		size, more := 0, false
		switch {
		case tag >= 0x20 && tag <= 0x2f:
			size = 1 + int(tag-0x20)
		case tag >= 0x34 && tag <= 0x37 && len(rest) >= 1:
			size = 2 + int(tag-0x34)<<8 + int(rest[0])
		case (tag == 'A' || tag == 'B') && len(rest) >= 2:
			size, more = 3+int(binary.BigEndian.Uint16(rest)), tag == 'A'
		default:
			return ErrMalformed
		}
		if w.pos += size; w.pos > len(w.b) {
			return ErrTruncated
		}
		if !more {
			return nil
		}
	}
}

func isHessianString(tag byte) bool {
	return tag <= 0x1f || tag >= 0x30 && tag <= 0x33 || tag == 'R' || tag == 'S'
}

// hessianString finds the string at b[pos]. In the ordinary case whole is true and s are its characters (CESU-8).
// Otherwise s are several chunks with their tags, for appendChunks.
func hessianString(b []byte, pos int) (s []byte, whole bool, end int, err error) {
	start := pos
	for {
		if pos >= len(b) {
			return nil, false, pos, ErrTruncated
		}
		tag, more := b[pos], false
		chars, n := pos+1, int(tag)
		switch {
		case tag <= 0x1f:
		case tag >= 0x30 && tag <= 0x33:
			if len(b)-pos < 2 {
				return nil, false, pos, ErrTruncated
			}
			chars, n = pos+2, int(tag-0x30)<<8+int(b[pos+1])
		case tag == 'S' || tag == 'R':
			if len(b)-pos < 3 {
				return nil, false, pos, ErrTruncated
			}
			chars, n, more = pos+3, int(binary.BigEndian.Uint16(b[pos+1:])), tag == 'R'
		default:
			return nil, false, pos, ErrMalformed
		}
		end = skipChars(b, chars, n)
		if end < 0 {
			return nil, false, pos, ErrTruncated
		}
		if !more {
			if pos == start {
				return b[chars:end], true, end, nil
			}
			return b[start:end], false, end, nil
		}
		pos = end
	}
}

// hessianText is the string or null at b[pos]: nil for null. It aliases b unless the string has several chunks or
// surrogate pairs.
func hessianText(b []byte, pos int) (text []byte, end int, err error) {
	if pos < len(b) && b[pos] == hessianNull {
		return nil, pos + 1, nil
	}
	s, whole, end, err := hessianString(b, pos)
	if err != nil {
		return nil, end, err
	}
	if whole {
		if !hasSurrogates(s) {
			return s, end, nil
		}
		return appendCESU8(make([]byte, 0, len(s)), s), end, nil
	}
	return appendChunks(make([]byte, 0, len(s)), s), end, nil
}

// appendChunks appends the characters of a string of several valid chunks as UTF-8.
func appendChunks(dst, chunks []byte) []byte {
	start := len(dst)
	for pos := 0; pos < len(chunks); {
		tag := chunks[pos]
		chars, n := pos+1, int(tag)
		switch {
		case tag == 'R' || tag == 'S':
			chars, n = pos+3, int(binary.BigEndian.Uint16(chunks[pos+1:]))
		case tag >= 0x30:
			chars, n = pos+2, int(tag-0x30)<<8+int(chunks[pos+1])
		}
		pos = skipChars(chunks, chars, n)
		dst = append(dst, chunks[chars:pos]...)
	}
	// A surrogate pair may be split between two chunks, so it is joined at the end.
	return append(dst[:start], appendCESU8(nil, dst[start:])...)
}

// hessianInt reads an int; size 0 when there is none.
func hessianInt(b []byte) (v int32, size int) {
	if len(b) == 0 {
		return 0, 0
	}
	tag := b[0]
	switch {
	case tag >= 0x80 && tag <= 0xbf:
		return int32(tag) - 0x90, 1
	case tag >= 0xc0 && tag <= 0xcf && len(b) >= 2:
		return (int32(tag)-0xc8)<<8 + int32(b[1]), 2
	case tag >= 0xd0 && tag <= 0xd7 && len(b) >= 3:
		return (int32(tag)-0xd4)<<16 + int32(b[1])<<8 + int32(b[2]), 3
	case tag == 'I' && len(b) >= 5:
		return int32(binary.BigEndian.Uint32(b[1:])), 5
	}
	return 0, 0
}

// hessianScalarText appends the number or boolean at b[pos] as text; false for anything else. The value must be whole.
func hessianScalarText(dst, b []byte, pos int) ([]byte, bool) {
	b = b[pos:]
	if v, size := hessianInt(b); size > 0 {
		return strconv.AppendInt(dst, int64(v), 10), true
	}
	tag := b[0]
	var long int64
	switch {
	case tag == 'T':
		return append(dst, "true"...), true
	case tag == 'F':
		return append(dst, "false"...), true
	case tag == 0x5b, tag == 0x5c:
		return append(dst, '0'+tag-0x5b), true
	case tag == 0x5d:
		return strconv.AppendInt(dst, int64(int8(b[1])), 10), true
	case tag == 0x5e:
		return strconv.AppendInt(dst, int64(int16(binary.BigEndian.Uint16(b[1:]))), 10), true
	case tag == 0x5f: // hessian-lite: a double in thousandths
		return strconv.AppendFloat(dst, float64(int32(binary.BigEndian.Uint32(b[1:])))*0.001, 'f', -1, 64), true
	case tag == 'D':
		return strconv.AppendFloat(dst, math.Float64frombits(binary.BigEndian.Uint64(b[1:])), 'f', -1, 64), true
	case tag >= 0xd8 && tag <= 0xef:
		long = int64(tag) - 0xe0
	case tag >= 0xf0:
		long = (int64(tag)-0xf8)<<8 + int64(b[1])
	case tag >= 0x38 && tag <= 0x3f:
		long = (int64(tag)-0x3c)<<16 + int64(b[1])<<8 + int64(b[2])
	case tag == 0x59:
		long = int64(int32(binary.BigEndian.Uint32(b[1:])))
	case tag == 'L':
		long = int64(binary.BigEndian.Uint64(b[1:]))
	default:
		return dst, false
	}
	return strconv.AppendInt(dst, long, 10), true
}

// hessianScalar holds the whole length of values whose tag alone tells it, 0 for the others.
var hessianScalar = func() (size [256]uint8) {
	fill := func(first, last int, n uint8) {
		for tag := first; tag <= last; tag++ {
			size[tag] = n
		}
	}
	for _, tag := range []byte{'N', 'T', 'F', 0x5b, 0x5c} { // null, booleans, doubles 0 and 1
		size[tag] = 1
	}
	size['I'], size['L'], size['D'] = 5, 9, 9
	size[0x59] = 5                               // long in four bytes
	size[0x4a], size[0x4b] = 9, 5                // dates: milliseconds, minutes
	size[0x5d], size[0x5e], size[0x5f] = 2, 3, 5 // doubles in one, two, four bytes
	fill(0x38, 0x3f, 3)                          // longs
	fill(0x80, 0xbf, 1)                          // ints
	fill(0xc0, 0xcf, 2)
	fill(0xd0, 0xd7, 3)
	fill(0xd8, 0xef, 1) // longs
	fill(0xf0, 0xff, 2)
	return size
}()
