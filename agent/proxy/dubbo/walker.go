package dubbo

// maxOpen bounds how deep maps and lists without a length may be nested. Values with a known number of parts
// (objects, arrays, lists) do not count: their parts are added to what is pending.
const maxOpen = 1 << 12

// keepClasses bounds what a walker keeps for the next frame.
const keepClasses = 1 << 10

// untilEnd as the number of pending values: as many as there are before an end mark.
const untilEnd = -1

// walker steps over values without recursion. It is used again for frame after frame to keep its tables' memory.
type walker struct {
	b   []byte
	pos int

	classes []uint32 // hessian2: number of fields of each class definition so far
	open    []int    // pending values of the enclosing containers, untilEnd for those with an end mark

	objects   int // hessian2: lists, maps and objects so far: what 0x51 n counts
	target    int // number of the object to be found, -1 for none
	found     int // its offset
	foundDefs int // class definitions before it
}

// reset prepares the walk of another body.
func (w *walker) reset(b []byte, pos int) {
	if cap(w.classes) > keepClasses {
		w.classes = nil
	}
	w.b, w.pos, w.classes = b, pos, w.classes[:0]
	w.objects, w.target, w.found = 0, -1, -1
}

// nest turns to k values inside the current one (or untilEnd); pending is what is left around them.
func (w *walker) nest(pending, k int) (int, error) {
	if k != untilEnd {
		if max(pending, 0)+k > len(w.b)-w.pos { // each value has at least one byte
			return 0, ErrTruncated
		}
		if pending >= 0 {
			return pending + k, nil
		}
		if k == 0 {
			return pending, nil
		}
	}
	if pending != 0 {
		if len(w.open) == maxOpen {
			return 0, ErrMalformed
		}
		w.open = append(w.open, pending)
	}
	return k, nil
}

// leave goes back to the enclosing container; false when there is none.
func (w *walker) leave() (int, bool) {
	last := len(w.open) - 1
	if last < 0 {
		return 0, false
	}
	pending := w.open[last]
	w.open = w.open[:last]
	return pending, true
}
