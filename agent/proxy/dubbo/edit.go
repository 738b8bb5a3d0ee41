package dubbo

import (
	"cmp"
	"encoding/binary"
	"slices"
)

// Edit is a change of one attachment: set to Value, or removed.
type Edit struct {
	Key, Value string
	Remove     bool
}

// span is a part of the body that is replaced by one value, or by nothing.
type span struct {
	from, to int
	value    string
	drop     bool
}

// AppendWithEdits is AppendWithAttachment for several changes. Of several edits of a key the last counts; what is removed goes
// with all its repetitions. An attachment that is removed must have a text, too, or be null: ErrAttachmentsForm.
func AppendWithEdits(dst, frame []byte, a *Attachments, edits []Edit) ([]byte, error) {
	if len(frame) != HeaderSize+len(a.body) {
		return dst, ErrTruncated
	}
	if a.isRef {
		return dst, ErrAttachmentsRef
	}
	var scratch [8]span
	spans := scratch[:0]
	added, size := 0, 0
	for i, e := range edits {
		if overridden(edits[i+1:], e.Key) {
			continue
		}
		found := false
		if !a.isNull {
			var err error
			if spans, found, err = a.spans(spans, e); err != nil {
				return dst, err
			}
		}
		if !found && !e.Remove {
			added++
		}
		size += 2*(len(e.Key)+len(e.Value)) + 16
	}
	slices.SortFunc(spans, func(x, y span) int { return cmp.Compare(x.from, y.from) })

	frameStart := len(dst)
	dst = slices.Grow(dst, len(frame)+size)
	dst = append(dst, frame[:HeaderSize]...)
	at := 0
	upTo := func(pos int) {
		dst = append(dst, a.body[at:pos]...)
		at = pos
	}
	for _, s := range spans {
		upTo(s.from)
		if !s.drop {
			dst = a.appendString(dst, s.value)
		}
		at = s.to
	}
	switch {
	case added == 0:
	case a.isNull:
		upTo(a.start)
		dst = append(dst, a.mark(hessianMap, jsonbObject))
		dst = a.appendNew(dst, edits)
		dst = append(dst, a.mark(hessianEnd, jsonbObjectEnd))
		at = a.end
	default:
		upTo(a.last)
		dst = a.appendNew(dst, edits)
	}
	upTo(len(a.body))
	if a.serialization == Fastjson2 {
		grown := len(dst) - frameStart - len(frame)
		binary.BigEndian.PutUint32(dst[frameStart+HeaderSize+a.start-4:], uint32(a.end-a.start+grown))
	}
	return endFrame(dst, frameStart), nil
}

// overridden tells whether a later edit is of the same key.
func overridden(later []Edit, key string) bool {
	return slices.ContainsFunc(later, func(e Edit) bool { return e.Key == key })
}

// spans adds where an edit changes entries that are there.
func (a *Attachments) spans(spans []span, edit Edit) (_ []span, found bool, err error) {
	ascii := isASCII(edit.Key)
	var last entry
	for e := range a.entries {
		if !a.isKey(e, edit.Key, ascii) {
			continue
		}
		found, last = true, e
		if !edit.Remove {
			continue
		}
		if !a.plain(e.value) || a.serialization == Fastjson2 && a.body[e.key] == jsonbSymbol { // later ones may refer to it
			err = ErrAttachmentsForm
			break
		}
		spans = append(spans, span{from: e.key, to: e.end, drop: true})
	}
	if found && !edit.Remove && err == nil {
		if !a.plain(last.value) {
			return spans, true, ErrAttachmentsForm
		}
		spans = append(spans, span{from: last.value, to: last.end, value: edit.Value})
	}
	return spans, found, err
}

// plain tells whether the value is one that nothing refers to.
func (a *Attachments) plain(pos int) bool {
	_, ok := a.text(pos)
	return ok || a.body[pos] == a.mark(hessianNull, jsonbNull)
}

// appendNew appends the entries that edits add.
func (a *Attachments) appendNew(dst []byte, edits []Edit) []byte {
	for i, e := range edits {
		if e.Remove || overridden(edits[i+1:], e.Key) {
			continue
		}
		if !a.isNull {
			if _, there := a.entry(e.Key); there {
				continue
			}
		}
		dst = a.appendString(a.appendString(dst, e.Key), e.Value)
	}
	return dst
}

// AppendNull appends a response of status 20 whose value is null (DubboCodec.RESPONSE_NULL_VALUE), in the serialization of the
// request: ErrSerialization when that is not written here.
func AppendNull(dst []byte, serialization byte, id uint64) ([]byte, error) {
	start := len(dst)
	switch serialization {
	case Hessian2:
		return endFrame(append(beginFrame(dst, Hessian2, StatusOK, id), 0x92), start), nil
	case Fastjson2:
		return endFrame(append(beginFrame(dst, Fastjson2, StatusOK, id), 0, 0, 0, 2, 0xbd, 2), start), nil
	}
	return dst, ErrSerialization
}
