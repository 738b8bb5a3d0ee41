package dubbo

import "errors"

var (
	// ErrAttachmentsRef says that the attachments are a reference to a map among the arguments: they can be read, but
	// not changed without changing that argument.
	ErrAttachmentsRef = errors.New("dubbo: the attachments are a reference to an argument")
	// ErrAttachmentsForm says that the value to be replaced has no text: it may be an object, to which others refer.
	ErrAttachmentsForm = errors.New("dubbo: the attachment is neither text nor number")
)

// indexed is how many entries are remembered by offset; real calls have 5 to 12.
const indexed = 16

// Attachments is the located map behind a request's arguments. Use one again and again: it keeps memory for class
// definitions. It aliases the body and is valid as long as that is. Not for concurrent use.
type Attachments struct {
	serialization byte
	isNull, isRef bool
	body          []byte
	start, end    int // of the value: a map, null, or a reference
	last          int // offset of the map's end mark
	args, argc    int // offset of the first argument, and how many there are

	index [indexed]entry
	count int // entries in index
	rest  int // offset of the first entry that is not in index, last when there is none
	defs  int // class definitions known at rest

	walk   walker
	number [32]byte // text of the latest number
}

// entry is a key and a value by their offsets.
type entry struct{ key, value, end int }

// FindAttachments locates the attachments of the request whose front is f: it steps over the arguments, which
// f.ParameterDesc counts, and over the attachments, so that what follows cannot fail.
// What stands behind them in the body is ignored. A map that is a reference to an argument (hessian2) is followed.
func FindAttachments(serialization byte, body []byte, f *Front, a *Attachments) error {
	n, err := argCount(f.ParameterDesc)
	if err == nil {
		err = a.find(serialization, body, f.Args, n)
	}
	if err != nil {
		a.clear()
	}
	return err
}

// clear leaves no entries.
func (a *Attachments) clear() {
	a.isNull, a.isRef, a.body, a.start, a.end = true, false, nil, 0, 0
	a.last, a.count, a.rest, a.defs = 0, 0, 0, 0
	a.args, a.argc = 0, 0
}

// find locates the map behind the n values at body[pos].
func (a *Attachments) find(serialization byte, body []byte, pos, n int) error {
	a.clear()
	if pos < 0 || pos > len(body) {
		return ErrTruncated
	}
	a.serialization, a.body, a.args, a.argc = serialization, body, pos, n
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
	if a.start = w.pos; a.start >= len(a.body) {
		return ErrTruncated
	}
	switch a.body[a.start] {
	case hessianNull:
		a.end = a.start + 1
		return nil
	case hessianRef:
		a.isRef = true
		w.pos++
		target, err := w.int()
		if err != nil {
			return err
		}
		a.end = w.pos
		return a.follow(args, n, target)
	}
	err := a.hessianMap()
	a.end = w.pos
	return err
}

// follow finds the map that is the target-th object of the arguments.
func (a *Attachments) follow(args, n, target int) error {
	w := &a.walk
	w.reset(a.body, args)
	w.target = target
	if err := w.skipHessian(n); err != nil {
		return err
	}
	if w.found < 0 {
		return ErrMalformed
	}
	w.pos, w.classes = w.found, w.classes[:w.foundDefs]
	return a.hessianMap()
}

// hessianMap reads the entries of the map at walk.pos.
func (a *Attachments) hessianMap() error {
	w := &a.walk
	tag := a.body[w.pos]
	w.pos++
	switch tag {
	case hessianMap:
	case 'M':
		if err := w.skipType(); err != nil {
			return err
		}
	default:
		return ErrMalformed
	}
	return a.readEntries(hessianEnd)
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
	if a.body[start] == jsonbTyped {
		w.pos++
		if err := w.skipJSONBType(); err != nil {
			return err
		}
	}
	if w.pos >= end {
		return ErrTruncated
	}
	switch a.body[w.pos] {
	case jsonbNull:
		w.pos++
	case jsonbObject:
		w.pos++
		if err := a.readEntries(jsonbObjectEnd); err != nil {
			return err
		}
	default:
		return ErrMalformed
	}
	if w.pos != end {
		return ErrMalformed
	}
	return nil
}

// readEntries steps over the entries at walk.pos and their end mark, and remembers where they are.
func (a *Attachments) readEntries(mark byte) error {
	w := &a.walk
	a.isNull, a.rest = false, -1
	for w.pos < len(w.b) && w.b[w.pos] != mark {
		if a.count == indexed && a.rest < 0 {
			a.rest, a.defs = w.pos, len(w.classes)
		}
		e, err := a.next()
		if err != nil {
			return err
		}
		if a.count < indexed {
			a.index[a.count] = e
			a.count++
		}
	}
	if w.pos >= len(w.b) {
		return ErrTruncated
	}
	a.last = w.pos
	if a.rest < 0 {
		a.rest, a.defs = a.last, len(w.classes)
	}
	w.pos++
	return nil
}

// next steps over the entry at walk.pos.
func (a *Attachments) next() (e entry, err error) {
	w := &a.walk
	e.key = w.pos
	if err = a.skip(); err != nil {
		return e, err
	}
	e.value = w.pos
	err = a.skip()
	e.end = w.pos
	return e, err
}

// skip steps over the value at walk.pos.
func (a *Attachments) skip() error {
	w := &a.walk
	if a.serialization == Fastjson2 {
		return w.skipJSONB(1)
	}
	if w.pos < len(w.b) && w.b[w.pos] <= 0x1f { // the ordinary case
		if w.pos = skipChars(w.b, w.pos+1, int(w.b[w.pos])); w.pos < 0 {
			return ErrTruncated
		}
		return nil
	}
	return w.skipHessian(1)
}

// entries are all entries in the order of the body.
func (a *Attachments) entries(yield func(entry) bool) {
	for _, e := range a.index[:a.count] {
		if !yield(e) {
			return
		}
	}
	w := &a.walk
	w.pos, w.classes = a.rest, w.classes[:a.defs]
	for w.pos < a.last {
		e, err := a.next()
		if err != nil || !yield(e) {
			return
		}
	}
}

// Lookup finds the value of key as text: a string as UTF-8, a number in decimal, a boolean as true or false. It is
// false for a missing key and for other values (null, objects). The value aliases the body in the ordinary case; the
// text of a number is valid until the next call. Of several equal keys the last counts, as in a Java map.
func (a *Attachments) Lookup(key string) (value []byte, ok bool) {
	e, ok := a.entry(key)
	if !ok {
		return nil, false
	}
	return a.text(e.value)
}

// Range calls f for each entry whose key is a string and whose value has a text, until f says false. Slices are as in [Attachments.Lookup].
func (a *Attachments) Range(f func(key, value []byte) bool) {
	for e := range a.entries {
		key, ok := a.stringAt(e.key)
		if !ok {
			continue
		}
		if value, ok := a.text(e.value); ok && !f(key, value) {
			return
		}
	}
}

// entry is the last entry with that key.
func (a *Attachments) entry(key string) (found entry, ok bool) {
	ascii := isASCII(key)
	for e := range a.entries {
		if a.isKey(e, key, ascii) {
			found, ok = e, true
		}
	}
	return found, ok
}

// isKey says whether the key of e is key. An ASCII key is equal to nothing but its own bytes.
func (a *Attachments) isKey(e entry, key string, ascii bool) bool {
	tag := a.body[e.key]
	if ascii {
		if a.isShort(tag) {
			return string(a.body[e.key+1:e.value]) == key
		}
		if a.serialization == Fastjson2 && tag >= jsonbUTF16 && tag <= jsonbUTF16BE {
			if _, s, _, err := jsonbChars(a.body, e.key); err != nil || len(s) != 2*len(key) {
				return false // not worth decoding
			}
		}
	}
	s, ok := a.stringAt(e.key)
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
	return jsonbString(a.body[:a.end], pos)
}

// text is the value at body[pos] as text.
func (a *Attachments) text(pos int) ([]byte, bool) {
	if s, ok := a.stringAt(pos); ok {
		return s, true
	}
	if a.serialization == Hessian2 {
		return hessianScalarText(a.number[:0], a.body, pos)
	}
	return jsonbScalarText(a.number[:0], a.body[:a.end], pos)
}

// Argument is the argument of that index, from 0, as text: a string as UTF-8, an integer in decimal, a boolean as true or
// false. It is false where there is none and for other values (null, floating point, objects). It steps over those before
// it. The text is valid as that of [Attachments.Lookup] is.
func (a *Attachments) Argument(index int) (value []byte, ok bool) {
	if index < 0 || index >= a.argc {
		return nil, false
	}
	if a.serialization == Fastjson2 {
		pos := a.args
		for {
			start, end, err := jsonbBlock(a.body, pos)
			switch {
			case err != nil:
				return nil, false
			case index == 0:
				return a.jsonbArgument(start, end)
			}
			pos = end
			index--
		}
	}
	// The walk was here before: it meets the same definitions again, so that what it knows for entries stays as it is.
	w := &a.walk
	w.pos, w.classes = a.args, w.classes[:0]
	if w.skipHessian(index) != nil {
		return nil, false
	}
	if s, _, err := hessianText(a.body, w.pos); err == nil {
		return s, s != nil
	}
	switch tag := a.body[w.pos]; {
	case tag >= 0x5b && tag <= 0x5f, tag == 'D': // doubles
		return nil, false
	}
	return hessianScalarText(a.number[:0], a.body, w.pos)
}

func (a *Attachments) jsonbArgument(start, end int) ([]byte, bool) {
	b := a.body[:end]
	if s, ok := jsonbString(b, start); ok {
		return s, true
	}
	if _, size := jsonbLong(b[start:]); size == 0 && b[start] != 0xb0 && b[start] != 0xb1 {
		return nil, false
	}
	return jsonbScalarText(a.number[:0], b, start)
}
