package zookeeper

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/meshferry/meshferry/registry/internal/backend"
)

func TestJournal(t *testing.T) {
	store := &memory{}
	j := &journal{store: store, log: discard}
	password := slices.Repeat([]byte{1}, passwordBytes)
	j.begin(session{1, password})
	if rest := j.hold([]string{"/b", "/a", "/a"}, []string{"shop/r1"}, time.Unix(100, 0)); rest != nil {
		t.Errorf("rest %q", rest)
	}
	if rest := j.hold([]string{"/c", "/a"}, []string{"shop/r2"}, time.Unix(200, 0)); fmt.Sprint(rest) != "[/b]" {
		t.Errorf("rest %q", rest)
	}
	j.begin(session{2, password})

	// The next process knows all of it.
	j = &journal{store: store, log: discard}
	if s, ok := j.load(); !ok || s.ID != 2 || !slices.Equal(s.Password, password) {
		t.Fatalf("%+v, %v", s, ok)
	}
	if !j.recorded(1) || !j.recorded(2) || j.recorded(3) || j.recorded(0) {
		t.Error("recorded sessions are wrong")
	}
	if got := j.unused(time.Unix(200, 0).Add(backend.KeepRevisions)); got != nil {
		t.Errorf("unused %q, too early", got)
	}
	if got := j.unused(time.Unix(201, 0).Add(backend.KeepRevisions)); fmt.Sprint(got) != "[shop/r1]" {
		t.Errorf("unused %q", got)
	}
	j.hold(nil, []string{"shop/r1"}, time.Unix(300, 0)) // used again; now r2 is not
	if got := j.unused(time.Unix(400, 0).Add(backend.KeepRevisions)); fmt.Sprint(got) != "[shop/r2]" {
		t.Errorf("unused %q", got)
	}
	j.dropRevision("shop/r2")
	j.drop([]string{"/b", "/c"})
	if fmt.Sprint(j.doc.Nodes) != "[/a]" || len(j.doc.Revisions) != 1 {
		t.Errorf("%+v", j.doc)
	}
	before := string(store.b)
	store.err = fmt.Errorf("an equal document was saved")
	j.hold([]string{"/a"}, []string{"shop/r1"}, time.Unix(500, 0))
	j.begin(session{2, password})
	if string(store.b) != before {
		t.Error("saved")
	}
	store.err = nil

	for id := range int64(2 * maxEarlier) {
		j.begin(session{100 + id, password})
	}
	if len(j.doc.Earlier) != maxEarlier {
		t.Errorf("%d earlier sessions", len(j.doc.Earlier))
	}
	j.end()
	if _, ok := (&journal{store: store, log: discard}).load(); ok || j.recorded(100) {
		t.Error("an ended session is remembered")
	}
}

func FuzzJournal(f *testing.F) {
	f.Add([]byte(`{"session":1,"password":"AAAAAAAAAAAAAAAAAAAAAA==","nodes":["/a"],"revisions":{"a/r":"2026-01-01T00:00:00Z"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		j := &journal{store: &memory{b: b}, log: discard}
		if s, ok := j.load(); ok && len(s.Password) != passwordBytes {
			t.Errorf("%s: %+v", b, s)
		}
		j.hold([]string{"/x"}, []string{"a/r"}, time.Now())
	})
}
