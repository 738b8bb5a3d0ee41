package dubbo

import "errors"

var (
	// ErrAttachmentsRef says that the attachments are a reference to a map among the arguments: they can be read, but
	// not changed without changing that argument.
	ErrAttachmentsRef = errors.New("dubbo: the attachments are a reference to an argument")
	// ErrAttachmentsForm says that the value to be replaced has no text: it may be an object, to which others refer.
	ErrAttachmentsForm = errors.New("dubbo: the attachment is neither text nor number")
)

// Attachments is the located map behind a request's arguments. Use one again and again: it keeps memory for class
// definitions. It aliases the body and is valid as long as that is. Not for concurrent use.
type Attachments struct {
	serialization byte
	isRef         bool
	body          []byte
	start, end    int // of the value: a map, null, or a reference
	first, last   int // of the entries; last is the offset of the end mark. Empty for null
	defs          int // class definitions known at first
	walk          walker
	number        [32]byte // text of the latest number
}

// FindAttachments locates the attachments of the request whose front is f: it steps over the arguments, which
// f.ParameterDesc counts, and over the attachments, so that what follows cannot fail.
// What stands behind them in the body is ignored. A map that is a reference to an argument (hessian2) is followed.
func FindAttachments(serialization byte, body []byte, f *Front, a *Attachments) error {
	n, err := argCount(f.ParameterDesc)
	if err != nil {
		return err
	}
	return a.find(serialization, body, f.Args, n)
}

// find locates the map behind the n values at body[pos].
func (a *Attachments) find(serialization byte, body []byte, pos, n int) error {
	a.serialization, a.body, a.isRef, a.defs = serialization, body, false, 0
	a.start, a.end, a.first, a.last = 0, 0, 0, 0
	if pos < 0 || pos > len(body) {
		return ErrTruncated
	}
	switch serialization {
	case Hessian2:
		return a.findHessian(pos, n)
	case Fastjson2:
		return a.findJSONB(pos, n)
	}
	return ErrSerialization
}

func (a *Attachments) findHessian(args, n int) error {
	w := &a.walk
	w.reset(a.body, args)
	if err := w.skipHessian(n); err != nil {
		return err
	}
	a.start, a.defs = w.pos, len(w.classes)
	if err := w.skipHessian(1); err != nil {
		return err
	}
	a.end = w.pos
	switch a.body[a.start] {
	case hessianNull:
		return nil
	case hessianMap, 'M':
		return a.hessianEntries(a.start, a.end)
	case hessianRef:
		a.isRef = true
		target, size := hessianInt(a.body[a.start+1:])
		if size == 0 || target < 0 {
			return ErrMalformed
		}
		return a.follow(args, n, int(target))
	}
	return ErrMalformed
}

// follow finds the map that is the target-th object of the arguments.
func (a *Attachments) follow(args, n, target int) error {
	w := &a.walk
	w.reset(a.body, args)
	w.target = target
	if err := w.skipHessian(n); err != nil {
		return err
	}
	if w.found < 0 || a.body[w.found] != hessianMap && a.body[w.found] != 'M' {
		return ErrMalformed
	}
	a.defs = w.foundDefs
	start := w.found
	w.classes, w.pos = w.classes[:a.defs], start
	if err := w.skipHessian(1); err != nil {
		return err
	}
	return a.hessianEntries(start, w.pos)
}

// hessianEntries sets the range of entries of the map at body[start:end].
func (a *Attachments) hessianEntries(start, end int) error {
	w := &a.walk
	w.pos = start + 1
	if a.body[start] == 'M' {
		if err := w.skipType(); err != nil {
			return err
		}
	}
	a.first, a.last = w.pos, end-1
	return nil
}

func (a *Attachments) findJSONB(pos, n int) error {
	for range n {
		_, end, err := jsonbBlock(a.body, pos)
		if err != nil {
			return err
		}
		pos = end
	}
	start, end, err := jsonbBlock(a.body, pos)
	if err != nil {
		return err
	}
	a.start, a.end = start, end
	w := &a.walk
	w.reset(a.body[:end], start)
	if err := w.skipJSONB(1); err != nil {
		return err
	}
	if w.pos != end {
		return ErrMalformed
	}
	if a.body[start] == jsonbNull {
		return nil
	}
	w.pos = start
	if a.body[start] == jsonbTyped {
		w.pos++
		if err := w.skipJSONBType(); err != nil {
			return err
		}
	}
	if a.body[w.pos] != jsonbObject {
		return ErrMalformed
	}
	a.first, a.last = w.pos+1, end-1
	return nil
}

// Lookup finds the value of key as text: a string as UTF-8, a number or boolean in decimal or as true and false.
// It is false for a missing key and for other values (null, objects). The value aliases the body in the ordinary case;
// the text of a number is valid until the next call. Of several equal keys the last counts, as in a Java map.
func (a *Attachments) Lookup(key string) (value []byte, ok bool) {
	at, _ := a.value(key)
	if at < 0 {
		return nil, false
	}
	return a.text(at)
}

// Range calls f for each entry whose key is a string and whose value has a text, until f says false. Slices as in [Lookup].
func (a *Attachments) Range(f func(key, value []byte) bool) {
	a.walk.classes = a.walk.classes[:a.defs]
	for pos := a.first; pos < a.last; {
		at := a.after(pos)
		key, isText := a.stringAt(pos)
		if isText {
			if value, ok := a.text(at); ok && !f(key, value) {
				return
			}
		}
		pos = a.after(at)
	}
}

// value is the range of the value of key; from is -1 when there is none.
func (a *Attachments) value(key string) (from, to int) {
	from = -1
	ascii := isASCII(key)
	a.walk.classes = a.walk.classes[:a.defs]
	for pos := a.first; pos < a.last; {
		at := a.after(pos)
		isKey := a.isKey(pos, at, key, ascii)
		pos = a.after(at)
		if isKey {
			from, to = at, pos
		}
	}
	return from, to
}

// after is the offset behind the value at body[pos], which find has seen to be valid.
func (a *Attachments) after(pos int) int {
	w := &a.walk
	tag := a.body[pos]
	var err error
	if a.serialization == Hessian2 {
		if tag <= 0x1f { // the ordinary case: a short string
			return skipChars(a.body, pos+1, int(tag))
		}
		w.pos = pos
		err = w.skipHessian(1)
	} else {
		if size := jsonbFixed[tag]; size > 0 {
			return pos + int(size)
		}
		w.pos = pos
		err = w.skipJSONB(1)
	}
	if err != nil {
		return a.last
	}
	return w.pos
}

// isKey says whether body[pos:end] is the string key. An ASCII key is equal to nothing but its own bytes.
func (a *Attachments) isKey(pos, end int, key string, ascii bool) bool {
	if ascii && a.isShort(a.body[pos]) {
		return string(a.body[pos+1:end]) == key
	}
	if tag := a.body[pos]; ascii && a.serialization == Fastjson2 && tag >= jsonbUTF16 && tag <= jsonbUTF16BE {
		if _, s, _, err := jsonbChars(a.body, pos); err != nil || len(s) != 2*len(key) {
			return false // not worth decoding
		}
	}
	s, ok := a.stringAt(pos)
	return ok && string(s) == key
}

// isShort says whether tag is that of a string whose length is in its tag.
func (a *Attachments) isShort(tag byte) bool {
	if a.serialization == Hessian2 {
		return tag <= 0x1f
	}
	return tag >= jsonbASCIIFix && tag <= jsonbASCIIFix+maxJSONBASCIIFix
}

// stringAt is the string at body[pos].
func (a *Attachments) stringAt(pos int) ([]byte, bool) {
	if a.serialization == Hessian2 {
		s, _, err := hessianText(a.body, pos)
		return s, err == nil && s != nil
	}
	if a.body[pos] == jsonbSymbol {
		pos++
	}
	return jsonbString(a.body[:a.last], pos)
}

// text is the value at body[pos] as text.
func (a *Attachments) text(pos int) ([]byte, bool) {
	if s, ok := a.stringAt(pos); ok {
		return s, true
	}
	if a.serialization == Hessian2 {
		return hessianScalarText(a.number[:0], a.body, pos)
	}
	return jsonbScalarText(a.number[:0], a.body[:a.last], pos)
}
