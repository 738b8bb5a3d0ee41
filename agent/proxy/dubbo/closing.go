package dubbo

import "bytes"

const (
	closing = "closing"
	renamed = "stopped" // as long, and nothing to anybody
	// Attachments stand last, and those of a response are few: nobody looks through megabytes of values for them.
	closingWithin = 64 << 10
)

// HideClosing finds the attachment closing=true in a response of status 20, with which a dubbo-go provider that is about to
// stop answers (filter/graceful_shutdown), and gives it another name in place. Its consumers drop the address that the answer
// came from at once and for 30 s; that is right on the provider's own connection only. False: it is not there.
func HideClosing(serialization byte, body []byte) bool {
	if serialization != Hessian2 || len(body) == 0 || !bytes.Contains(body[max(0, len(body)-closingWithin):], []byte("\x07"+closing)) {
		return false
	}
	t, value, ok := responseType(serialization, body)
	if !ok || t < 3 {
		return false // a response without attachments
	}
	values := 1
	if t == 5 { // null with attachments
		values = 0
	}
	var a Attachments
	if a.find(serialization, body, value, values) != nil {
		return false
	}
	e, ok := a.entry(closing)
	if !ok || body[e.key] != byte(len(closing)) {
		return false
	}
	if on, ok := a.text(e.value); !ok || string(on) != "true" {
		return false
	}
	copy(body[e.key+1:e.value], renamed)
	return true
}
