package e2e

import "testing"

// A call of a thin consumer reaches a thin provider through both agents.
func TestThinToThin(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.agent("a"), w.agent("b")
	p := w.provider(options{agent: a})
	a.published(1)
	c := w.consumer(options{agent: b})
	if l := c.call(100); len(l.failed()) > 0 {
		t.Fatal(l)
	}
	if n := p.stats(); n.total() != 100 {
		t.Errorf("the provider counted %+v", n)
	}
}
