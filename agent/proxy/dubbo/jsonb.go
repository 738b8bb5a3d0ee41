package dubbo

import (
	"encoding/binary"
	"math"
	"strconv"
)

// fastjson2 writes each part of a body as a block: its length in four bytes, then one JSONB value.
// The names of the tags are those of JSONB.Constants.
const (
	jsonbTyped       = 0x92 // a type name in front of a value
	jsonbReference   = 0x93
	jsonbArrayFix    = 0x94 // ..0xa3: 0 to 15 items
	jsonbArray       = 0xa4
	jsonbObjectEnd   = 0xa5
	jsonbObject      = 0xa6
	jsonbNull        = 0xaf
	jsonbASCIIFix    = 0x49 // ..0x78: 0 to 47 characters
	jsonbASCII       = 0x79
	jsonbUTF8        = 0x7a
	jsonbUTF16       = 0x7b
	jsonbUTF16LE     = 0x7c
	jsonbUTF16BE     = 0x7d
	jsonbGB18030     = 0x7e
	jsonbSymbol      = 0x7f
	jsonbBinary      = 0x91
	maxJSONBASCIIFix = 47
)

// jsonbBlock finds the block at b[pos]: its value is b[start:end].
func jsonbBlock(b []byte, pos int) (start, end int, err error) {
	if len(b)-pos < 4 {
		return 0, 0, ErrTruncated
	}
	size := binary.BigEndian.Uint32(b[pos:])
	if start = pos + 4; int64(size) > int64(len(b)-start) {
		return 0, 0, ErrTruncated
	}
	if size == 0 {
		return 0, 0, ErrMalformed
	}
	return start, start + int(size), nil
}

// jsonbText is the string or null in the block at b[pos]: nil for null. It aliases b unless it is UTF-16 or Latin-1.
func jsonbText(b []byte, pos int) (text []byte, end int, err error) {
	start, end, err := jsonbBlock(b, pos)
	if err != nil {
		return nil, 0, err
	}
	if b[start] == jsonbNull {
		return nil, end, nil
	}
	text, ok := jsonbString(b[:end], start)
	if !ok {
		return nil, 0, ErrMalformed
	}
	return text, end, nil
}

// jsonbString decodes the string at b[pos]; false when there is none.
func jsonbString(b []byte, pos int) ([]byte, bool) {
	tag, s, _, err := jsonbChars(b, pos)
	if err != nil {
		return nil, false
	}
	switch tag {
	case jsonbASCII: // in truth ISO-8859-1
		if !isASCII(s) {
			return appendLatin1(make([]byte, 0, 2*len(s)), s), true
		}
	case jsonbUTF16, jsonbUTF16BE:
		return appendUTF16(make([]byte, 0, 2*len(s)), s, binary.BigEndian), true
	case jsonbUTF16LE:
		return appendUTF16(make([]byte, 0, 2*len(s)), s, binary.LittleEndian), true
	case jsonbGB18030:
		return nil, false
	}
	return s, true
}

// jsonbChars finds the characters of the string at b[pos]; tag says how they are written (jsonbASCII for short ones too).
func jsonbChars(b []byte, pos int) (tag byte, s []byte, end int, err error) {
	if pos >= len(b) {
		return 0, nil, pos, ErrTruncated
	}
	tag = b[pos]
	pos++
	var n int
	switch {
	case tag >= jsonbASCIIFix && tag <= jsonbASCIIFix+maxJSONBASCIIFix:
		tag, n = jsonbASCII, int(tag-jsonbASCIIFix)
	case tag >= jsonbASCII && tag <= jsonbGB18030:
		v, size := jsonbInt(b[pos:])
		if size == 0 || v < 0 {
			return 0, nil, pos, ErrMalformed
		}
		pos, n = pos+size, int(v)
	default:
		return 0, nil, pos, ErrMalformed
	}
	if n > len(b)-pos {
		return 0, nil, pos, ErrTruncated
	}
	return tag, b[pos : pos+n], pos + n, nil
}

// jsonbInt reads an int32; size 0 when there is none.
func jsonbInt(b []byte) (v int32, size int) {
	if len(b) == 0 {
		return 0, 0
	}
	tag := b[0]
	switch {
	case tag <= 0x2f || tag >= 0xf0:
		return int32(int8(tag)), 1
	case tag >= 0x30 && tag <= 0x3f && len(b) >= 2:
		return (int32(tag)-0x38)<<8 + int32(b[1]), 2
	case tag >= 0x40 && tag <= 0x47 && len(b) >= 3:
		return (int32(tag)-0x44)<<16 + int32(b[1])<<8 + int32(b[2]), 3
	case tag == 0x48 && len(b) >= 5:
		return int32(binary.BigEndian.Uint32(b[1:])), 5
	}
	return 0, 0
}

// jsonbLong reads an integer of any size; size 0 when there is none.
func jsonbLong(b []byte) (v int64, size int) {
	if v, size := jsonbInt(b); size > 0 {
		return int64(v), size
	}
	if len(b) == 0 {
		return 0, 0
	}
	tag := b[0]
	switch {
	case tag >= 0xd8 && tag <= 0xef:
		return int64(tag) - 0xe0, 1
	case tag >= 0xc8 && tag <= 0xd7 && len(b) >= 2:
		return (int64(tag)-0xd0)<<8 + int64(b[1]), 2
	case tag >= 0xc0 && tag <= 0xc7 && len(b) >= 3:
		return (int64(tag)-0xc4)<<16 + int64(b[1])<<8 + int64(b[2]), 3
	case tag == 0xbd && len(b) >= 2:
		return int64(int8(b[1])), 2
	case tag == 0xbc && len(b) >= 3:
		return int64(int16(binary.BigEndian.Uint16(b[1:]))), 3
	case tag == 0xbf && len(b) >= 5:
		return int64(int32(binary.BigEndian.Uint32(b[1:]))), 5
	case tag == 0xbe && len(b) >= 9:
		return int64(binary.BigEndian.Uint64(b[1:])), 9
	}
	return 0, 0
}

// skipJSONB steps over n values.
func (w *walker) skipJSONB(n int) error {
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
			if tag == jsonbObjectEnd {
				w.pos++
				pending = 0
				continue
			}
		} else {
			pending--
		}
		if size := jsonbFixed[tag]; size > 0 {
			if w.pos += int(size); w.pos > len(w.b) {
				return ErrTruncated
			}
			continue
		}
		var err error
		if pending, err = w.jsonbValue(tag, pending); err != nil {
			return err
		}
	}
}

// jsonbValue steps over a value of no fixed length, or the front of a container, whose tag is at w.pos.
func (w *walker) jsonbValue(tag byte, pending int) (int, error) {
	if tag >= jsonbASCII && tag <= jsonbGB18030 {
		return pending, w.skipJSONBString()
	}
	w.pos++
	switch tag {
	case jsonbObject:
		return w.nest(pending, untilEnd)
	case jsonbArray, jsonbBinary, 0xbb: // big integers are written like a binary
		n, err := w.jsonbLength()
		if err != nil {
			return 0, err
		}
		if tag == jsonbArray {
			return w.nest(pending, n)
		}
		if n > len(w.b)-w.pos {
			return 0, ErrTruncated
		}
		w.pos += n
		return pending, nil
	case jsonbTyped: // no value of its own
		if err := w.skipJSONBType(); err != nil {
			return 0, err
		}
		if pending == untilEnd {
			return w.nest(pending, 1)
		}
		return pending + 1, nil
	case jsonbSymbol:
		return pending, w.skipSymbol()
	case jsonbReference:
		return pending, w.skipJSONBString()
	case 0x90, 0xb4, 0xb6, 0xb8, 0xba: // a character, and numbers written as an integer
		return pending, w.skipJSONBLong()
	case 0xb9: // decimal: scale and unscaled value
		if err := w.skipJSONBLong(); err != nil {
			return 0, err
		}
		return w.nest(pending, 1)
	case 0xa7: // time: three fields, nanoseconds
		return pending, w.skipJSONBTime(3)
	case 0xa8: // date and time
		return pending, w.skipJSONBTime(7)
	case 0xaa: // date, time and the name of a zone
		if err := w.skipJSONBTime(7); err != nil {
			return 0, err
		}
		return pending, w.skipJSONBString()
	case 0xae: // seconds and nanoseconds
		if err := w.skipJSONBLong(); err != nil {
			return 0, err
		}
		return pending, w.skipJSONBLong()
	}
	if tag > jsonbArrayFix && tag < jsonbArray {
		return w.nest(pending, int(tag-jsonbArrayFix))
	}
	return 0, ErrMalformed
}

func (w *walker) skipJSONBString() error {
	_, _, end, err := jsonbChars(w.b, w.pos)
	w.pos = end
	return err
}

func (w *walker) skipJSONBLong() error {
	_, size := jsonbLong(w.b[w.pos:])
	if size == 0 {
		return ErrMalformed
	}
	w.pos += size
	return nil
}

// skipJSONBTime steps over the fields of a time, in so many bytes, and its nanoseconds.
func (w *walker) skipJSONBTime(fields int) error {
	if fields > len(w.b)-w.pos {
		return ErrTruncated
	}
	w.pos += fields
	return w.skipJSONBLong()
}

// jsonbLength reads a number of items or bytes.
func (w *walker) jsonbLength() (int, error) {
	n, size := jsonbInt(w.b[w.pos:])
	if size == 0 || n < 0 {
		return 0, ErrMalformed
	}
	w.pos += size
	return int(n), nil
}

// skipJSONBType steps over a type: a name and the number it gets, or the number of an earlier one.
func (w *walker) skipJSONBType() error {
	if w.pos < len(w.b) && w.b[w.pos] == jsonbSymbol {
		w.pos++
	}
	return w.skipSymbol()
}

// skipSymbol steps over a name and the number it gets, or the number of an earlier one.
func (w *walker) skipSymbol() error {
	if w.pos < len(w.b) && w.b[w.pos] >= jsonbASCIIFix && w.b[w.pos] <= jsonbGB18030 {
		if err := w.skipJSONBString(); err != nil {
			return err
		}
	}
	_, size := jsonbInt(w.b[w.pos:])
	if size == 0 {
		return ErrMalformed
	}
	w.pos += size
	return nil
}

// jsonbScalarText appends the number or boolean at b[pos] as text; false for anything else. The value must be whole.
func jsonbScalarText(dst, b []byte, pos int) ([]byte, bool) {
	b = b[pos:]
	if v, size := jsonbLong(b); size > 0 {
		return strconv.AppendInt(dst, v, 10), true
	}
	switch tag := b[0]; tag {
	case 0xb0:
		return append(dst, "false"...), true
	case 0xb1:
		return append(dst, "true"...), true
	case 0xb2, 0xb3:
		return append(dst, '0'+tag-0xb2), true
	case 0xb4, 0xb6, 0xb8, 0xba:
		v, _ := jsonbLong(b[1:])
		return strconv.AppendInt(dst, v, 10), true
	case 0xb5:
		return strconv.AppendFloat(dst, math.Float64frombits(binary.BigEndian.Uint64(b[1:])), 'f', -1, 64), true
	case 0xb7:
		return strconv.AppendFloat(dst, float64(math.Float32frombits(binary.BigEndian.Uint32(b[1:]))), 'f', -1, 32), true
	}
	return dst, false
}

// appendJSONBInt appends v in its shortest form.
func appendJSONBInt(dst []byte, v int) []byte {
	switch {
	case v >= -16 && v <= 47:
		return append(dst, byte(v))
	case v >= -2048 && v <= 2047:
		return append(dst, byte(0x38+v>>8), byte(v))
	case v >= -262144 && v <= 262143:
		return append(dst, byte(0x44+v>>16), byte(v>>8), byte(v))
	}
	return binary.BigEndian.AppendUint32(append(dst, 0x48), uint32(v))
}

// appendJSONBString appends s without a block's length.
func appendJSONBString(dst []byte, s string) []byte {
	switch {
	case !isASCII(s):
		dst = appendJSONBInt(append(dst, jsonbUTF8), len(s))
	case len(s) <= maxJSONBASCIIFix:
		dst = append(dst, byte(jsonbASCIIFix+len(s)))
	default:
		dst = appendJSONBInt(append(dst, jsonbASCII), len(s))
	}
	return append(dst, s...)
}

// jsonbFixed holds the whole length of values whose tag alone tells it, 0 for the others.
var jsonbFixed = func() (size [256]uint8) {
	fill := func(first, last int, n uint8) {
		for tag := first; tag <= last; tag++ {
			size[tag] = n
		}
	}
	for _, tag := range []byte{jsonbNull, 0xb0, 0xb1, 0xb2, 0xb3, jsonbArrayFix} { // null, booleans, doubles 0 and 1, empty array
		size[tag] = 1
	}
	fill(0x00, 0x2f, 1) // ints
	fill(0xf0, 0xff, 1)
	fill(0x30, 0x3f, 2)
	fill(0x40, 0x47, 3)
	size[0x48] = 5
	fill(0xd8, 0xef, 1) // longs
	fill(0xc8, 0xd7, 2)
	fill(0xc0, 0xc7, 3)
	size[0xbd], size[0xbc], size[0xbf], size[0xbe] = 2, 3, 5, 9
	size[0xa9], size[0xab], size[0xac], size[0xad] = 5, 9, 5, 5 // dates
	size[0xb5], size[0xb7] = 9, 5                               // double, float
	for n := 0; n <= maxJSONBASCIIFix; n++ {
		size[jsonbASCIIFix+n] = uint8(1 + n)
	}
	return size
}()
