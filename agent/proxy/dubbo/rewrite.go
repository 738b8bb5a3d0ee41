package dubbo

import (
	"encoding/binary"
	"slices"
)

// AppendWithAttachment appends frame to dst with key set to value in its attachments a, which were found in that very
// frame, and its lengths corrected. Everything else keeps its bytes, also what stands behind the attachments. dst must not overlap frame.
// ErrAttachmentsRef and ErrAttachmentsForm say that the form of the attachments forbids it; dst is then returned as it was.
func AppendWithAttachment(dst, frame []byte, a *Attachments, key, value string) ([]byte, error) {
	if len(frame) != HeaderSize+len(a.body) {
		return dst, ErrTruncated
	}
	if a.isRef {
		return dst, ErrAttachmentsRef
	}
	from, to := a.last, a.last
	replaces := false
	if a.isNull {
		from, to = a.start, a.end
	} else if e, ok := a.entry(key); ok {
		if _, ok := a.text(e.value); !ok && a.body[e.value] != a.mark(hessianNull, jsonbNull) {
			return dst, ErrAttachmentsForm
		}
		from, to, replaces = e.value, e.end, true
	}

	frameStart := len(dst)
	dst = slices.Grow(dst, len(frame)+2*(len(key)+len(value))+16)
	dst = append(dst, frame[:HeaderSize+from]...)
	newStart := len(dst)
	if a.isNull {
		dst = append(dst, a.mark(hessianMap, jsonbObject))
	}
	if !replaces {
		dst = a.appendString(dst, key)
	}
	dst = a.appendString(dst, value)
	if a.isNull {
		dst = append(dst, a.mark(hessianEnd, jsonbObjectEnd))
	}
	grown := len(dst) - newStart - (to - from)
	dst = append(dst, frame[HeaderSize+to:]...)
	if a.serialization == Fastjson2 {
		block := dst[frameStart+HeaderSize+a.start-4:]
		binary.BigEndian.PutUint32(block, uint32(a.end-a.start+grown))
	}
	return endFrame(dst, frameStart), nil
}

// mark is the tag for the same thing in both serializations.
func (a *Attachments) mark(hessian, jsonb byte) byte {
	if a.serialization == Hessian2 {
		return hessian
	}
	return jsonb
}

func (a *Attachments) appendString(dst []byte, s string) []byte {
	if a.serialization == Hessian2 {
		return appendHessianString(dst, s)
	}
	return appendJSONBString(dst, s)
}
