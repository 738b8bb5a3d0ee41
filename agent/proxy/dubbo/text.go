package dubbo

import (
	"bytes"
	"encoding/binary"
	"unicode/utf16"
	"unicode/utf8"
)

const highBits = 0x8080808080808080

// skipChars returns the offset behind n UTF-16 units that start at b[pos], or -1 when b ends before. Hessian counts
// units, not bytes: a character has one to three bytes by its first one, a surrogate pair is twice three bytes (CESU-8);
// four bytes, which some encoders write for it, count as two units.
func skipChars(b []byte, pos, n int) int {
	for n > 0 {
		if pos+8 <= len(b) { // eight bytes at a time while they are ASCII
			word := binary.LittleEndian.Uint64(b[pos:])
			if n >= 8 {
				if word&highBits == 0 {
					pos, n = pos+8, n-8
					continue
				}
			} else if word&(highBits>>(64-8*n)) == 0 {
				return pos + n
			}
		} else if pos >= len(b) {
			return -1
		}
		switch c := b[pos]; {
		case c < 0x80:
			pos++
		case c < 0xe0:
			pos += 2
		case c < 0xf0:
			pos += 3
		default:
			pos += 4
			n--
		}
		n--
	}
	if pos > len(b) || n < 0 {
		return -1
	}
	return pos
}

// hasSurrogates says whether CESU-8 text differs from UTF-8: it has a surrogate, 0xed 0xa0..0xbf.
func hasSurrogates(s []byte) bool {
	for {
		i := bytes.IndexByte(s, 0xed)
		if i < 0 || i+1 >= len(s) {
			return false
		}
		if s[i+1] >= 0xa0 {
			return true
		}
		s = s[i+1:]
	}
}

// surrogate reads one at the start of s.
func surrogate(s []byte) (rune, bool) {
	if len(s) < 3 || s[0] != 0xed || s[1] < 0xa0 {
		return 0, false
	}
	return 0xd000 | rune(s[1]&0x3f)<<6 | rune(s[2]&0x3f), true
}

// appendCESU8 appends s as UTF-8: pairs of surrogates become one character. A single one is kept as it is.
func appendCESU8(dst, s []byte) []byte {
	for len(s) > 0 {
		i := bytes.IndexByte(s, 0xed)
		if i < 0 {
			return append(dst, s...)
		}
		dst, s = append(dst, s[:i]...), s[i:]
		if high, ok := surrogate(s); ok {
			if low, ok := surrogate(s[3:]); ok {
				if r := utf16.DecodeRune(high, low); r != utf8.RuneError {
					dst, s = utf8.AppendRune(dst, r), s[6:]
					continue
				}
			}
		}
		dst, s = append(dst, s[0]), s[1:]
	}
	return dst
}

// utf16Len is the number of UTF-16 units of s.
func utf16Len(s string) (n int) {
	for _, r := range s {
		if n++; r > 0xffff {
			n++
		}
	}
	return n
}

// appendUTF16 appends UTF-16 text as UTF-8.
func appendUTF16(dst, s []byte, order binary.ByteOrder) []byte {
	for ; len(s) >= 2; s = s[2:] {
		r := rune(order.Uint16(s))
		if utf16.IsSurrogate(r) && len(s) >= 4 {
			if r = utf16.DecodeRune(r, rune(order.Uint16(s[2:]))); r != utf8.RuneError {
				s = s[2:]
			}
		}
		dst = utf8.AppendRune(dst, r)
	}
	return dst
}

// appendLatin1 appends ISO-8859-1 text as UTF-8.
func appendLatin1(dst, s []byte) []byte {
	for _, c := range s {
		dst = utf8.AppendRune(dst, rune(c))
	}
	return dst
}

// isASCII says whether each byte of s is below 0x80.
func isASCII[T string | []byte](s T) bool {
	var seen byte
	for i := range len(s) {
		seen |= s[i]
	}
	return seen < 0x80
}

// appendHessianString appends s in chunks of at most 0x8000 units, the largest that Java writes.
func appendHessianString(dst []byte, s string) []byte {
	const chunk = 0x8000
	n := utf16Len(s)
	for n > chunk {
		cut, units := 0, 0
		for i, r := range s {
			size := 1
			if r > 0xffff {
				size = 2 // a pair is never split
			}
			if units+size > chunk {
				cut = i
				break
			}
			units += size
		}
		dst = append(dst, 'R', byte(units>>8), byte(units))
		dst = appendToCESU8(dst, s[:cut])
		s, n = s[cut:], n-units
	}
	switch {
	case n <= 0x1f:
		dst = append(dst, byte(n))
	case n <= 0x3ff:
		dst = append(dst, 0x30+byte(n>>8), byte(n))
	default:
		dst = append(dst, 'S', byte(n>>8), byte(n))
	}
	return appendToCESU8(dst, s)
}

// appendToCESU8 appends UTF-8 text with pairs of surrogates in place of four byte characters.
func appendToCESU8(dst []byte, s string) []byte {
	for _, r := range s {
		if r <= 0xffff {
			dst = utf8.AppendRune(dst, r)
			continue
		}
		high, low := utf16.EncodeRune(r)
		for _, u := range [2]rune{high, low} {
			dst = append(dst, 0xe0|byte(u>>12), 0x80|byte(u>>6)&0x3f, 0x80|byte(u)&0x3f)
		}
	}
	return dst
}
