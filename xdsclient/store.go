package xdsclient

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"encoding/binary"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/meshferry/meshferry/internal/durable"
)

// The file is a journal: what changed is appended, and now and then everything is
// written anew beside it and renamed. Each record has a checksum. After a crash at
// any moment the records up to the first incomplete one are valid: for each
// resource either the old or the new one.
const (
	storeHeader = "meshferry-xds 1\n"
	saveEvery   = time.Second
	saveRatio   = 20 // writing takes at most one part in this of the time
	mostRecord  = 256 << 20
	slack       = 1 << 20 // bytes that the journal may have beside twice what is in use
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// savedResource is one resource in the file; without raw: it is gone.
type savedResource struct {
	url, name, version string
	at                 time.Time
	raw                []byte
}

// store keeps the last good resources in a file. Run's goroutine of Client calls
// its methods; run writes.
type store struct {
	path string
	log  *slog.Logger

	live   map[key]int // bytes of the record in use
	used   int         // sum of live
	size   int         // of the file
	whole  bool        // the file is to be written anew
	next   time.Time   // not before
	busy   bool
	failed bool
	jobs   chan storeJob  // capacity 1
	done   chan storeDone // capacity 1
}

type storeJob struct {
	whole   bool
	records []savedResource
}

type storeDone struct {
	err  error
	took time.Duration
}

func newStore(path string, log *slog.Logger) *store {
	return &store{path: path, log: log, live: map[key]int{}, whole: true, jobs: make(chan storeJob, 1), done: make(chan storeDone, 1)}
}

// load reads the file. One that is damaged is read up to the damage and moved
// aside.
func (s *store) load() ([]savedResource, error) {
	f, err := os.Open(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", s.path, err)
	}
	defer f.Close()
	list, size, err := readStore(bufio.NewReaderSize(f, 1<<16))
	if err != nil {
		aside := s.path + ".damaged"
		if rerr := os.Rename(s.path, aside); rerr != nil {
			return list, fmt.Errorf("load %s: %w; and it could not be moved aside: %w", s.path, err, rerr)
		}
		return list, fmt.Errorf("load %s: %w; moved to %s, %d resources before that are used", s.path, err, aside, len(list))
	}
	for _, r := range list {
		s.account(r)
	}
	// What is behind a record that was cut off could not be read again, so nothing is
	// appended to it.
	info, err := f.Stat()
	s.size, s.whole = size, err != nil || info.Size() != int64(size)
	return list, nil
}

// readStore reads records until the end; the last one of each resource counts. A
// record that is cut off at the end is no error: the machine stopped there.
func readStore(r *bufio.Reader) (list []savedResource, size int, err error) {
	head := make([]byte, len(storeHeader))
	if _, err := io.ReadFull(r, head); err != nil || string(head) != storeHeader {
		return nil, 0, errors.New("no header")
	}
	size = len(head)
	at := map[key]int{}
	defer func() {
		kept := list[:0]
		for _, s := range list {
			if s.raw != nil {
				kept = append(kept, s)
			}
		}
		list = kept
	}()
	for {
		var frame [8]byte
		if _, err := io.ReadFull(r, frame[:]); err != nil {
			return list, size, nil
		}
		n := int(binary.LittleEndian.Uint32(frame[:]))
		if n > mostRecord {
			return list, size, fmt.Errorf("a record of %d bytes at %d", n, size)
		}
		var body bytes.Buffer // grows with what is there, not with what the length says
		if got, _ := io.CopyN(&body, r, int64(n)); int(got) < n {
			return list, size, nil
		}
		if crc32.Checksum(body.Bytes(), castagnoli) != binary.LittleEndian.Uint32(frame[4:]) {
			return list, size, fmt.Errorf("checksum differs at %d", size)
		}
		s, err := parseSaved(body.Bytes())
		if err != nil {
			return list, size, fmt.Errorf("record at %d: %w", size, err)
		}
		size += 8 + n
		k := key{s.url, s.name}
		if i, ok := at[k]; ok {
			list[i] = s
		} else {
			at[k] = len(list)
			list = append(list, s)
		}
	}
}

func appendSaved(b []byte, s savedResource) []byte {
	b = protowire.AppendTag(b, 1, protowire.BytesType)
	b = protowire.AppendString(b, s.url)
	b = protowire.AppendTag(b, 2, protowire.BytesType)
	b = protowire.AppendString(b, s.name)
	b = protowire.AppendTag(b, 3, protowire.BytesType)
	b = protowire.AppendString(b, s.version)
	b = protowire.AppendTag(b, 4, protowire.VarintType)
	b = protowire.AppendVarint(b, uint64(s.at.UnixNano()))
	if s.raw != nil {
		b = protowire.AppendTag(b, 5, protowire.BytesType)
		b = protowire.AppendBytes(b, s.raw)
	}
	return b
}

func parseSaved(b []byte) (s savedResource, err error) {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return s, protowire.ParseError(n)
		}
		b = b[n:]
		switch {
		case typ == protowire.BytesType && num >= 1 && num <= 5 && num != 4:
			v, m := protowire.ConsumeBytes(b)
			if m < 0 {
				return s, protowire.ParseError(m)
			}
			switch num {
			case 1:
				s.url = string(v)
			case 2:
				s.name = string(v)
			case 3:
				s.version = string(v)
			case 5:
				s.raw = bytes.Clone(v)
				if s.raw == nil {
					s.raw = []byte{}
				}
			}
			n = m
		case typ == protowire.VarintType && num == 4:
			v, m := protowire.ConsumeVarint(b)
			if m < 0 {
				return s, protowire.ParseError(m)
			}
			s.at, n = time.Unix(0, int64(v)), m
		default:
			if n = protowire.ConsumeFieldValue(num, typ, b); n < 0 {
				return s, protowire.ParseError(n)
			}
		}
		b = b[n:]
	}
	if s.url == "" || s.name == "" {
		return s, errors.New("it has no name")
	}
	return s, nil
}

func (r savedResource) bytes() int {
	return 8 + len(r.url) + len(r.name) + len(r.version) + len(r.raw) + 24
}

// account notes what a record takes.
func (s *store) account(r savedResource) {
	k := key{r.url, r.name}
	s.used -= s.live[k]
	if r.raw == nil {
		delete(s.live, k)
		return
	}
	s.live[k] = r.bytes()
	s.used += r.bytes()
}

// wait is how long until there is something to do.
func (s *store) wait(now time.Time, dirty bool) time.Duration {
	switch {
	case s.busy:
		return 100 * time.Millisecond
	case dirty:
		return max(0, s.next.Sub(now))
	}
	return time.Hour
}

// collect takes back a finished job.
func (s *store) collect(now time.Time, d storeDone) {
	s.busy, s.next = false, now.Add(max(saveEvery, saveRatio*d.took))
	if d.err != nil {
		s.whole = true // what is in the file is not known
		s.next = now.Add(10 * saveEvery)
		if !s.failed {
			s.log.Warn("the last good xDS resources are not on disk", "err", d.err)
		}
	} else if s.failed {
		s.log.Info("the last good xDS resources are on disk again")
	}
	s.failed = d.err != nil
}

// run writes until jobs is closed.
func (s *store) run() {
	for j := range s.jobs {
		began := time.Now()
		err := s.write(j)
		s.done <- storeDone{err, time.Since(began)}
	}
	close(s.done)
}

func (s *store) write(j storeJob) error {
	if j.whole {
		return durable.Replace(s.path, func(w io.Writer) error {
			if _, err := io.WriteString(w, storeHeader); err != nil {
				return err
			}
			return writeRecords(w, j.records)
		})
	}
	f, err := os.OpenFile(s.path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return fmt.Errorf("save: %w", err)
	}
	err = writeRecords(f, j.records)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("save %s: %w", s.path, err)
	}
	return nil
}

func writeRecords(w io.Writer, list []savedResource) error {
	out := bufio.NewWriterSize(w, 1<<16)
	var body []byte
	for _, r := range list {
		body = appendSaved(body[:0], r)
		var frame [8]byte
		binary.LittleEndian.PutUint32(frame[:], uint32(len(body)))
		binary.LittleEndian.PutUint32(frame[4:], crc32.Checksum(body, castagnoli))
		out.Write(frame[:]) // an error stays for Flush
		out.Write(body)
	}
	return out.Flush()
}

// save hands the writer what changed, if it is time to.
func (c *Client) save() {
	s := c.store
	if s == nil {
		return
	}
	now := time.Now()
	if s.busy {
		select {
		case d := <-s.done:
			s.collect(now, d)
		default:
			return
		}
	}
	if now.Before(s.next) {
		return
	}
	c.mu.Lock()
	j, ok := c.c.job(s)
	c.mu.Unlock()
	if ok {
		s.busy = true
		s.jobs <- j
	}
}

// saveLast writes what is left and ends the writer.
func (c *Client) saveLast() {
	s := c.store
	if s.busy {
		s.collect(time.Now(), <-s.done)
	}
	c.mu.Lock()
	j, ok := c.c.job(s)
	c.mu.Unlock()
	if ok {
		s.jobs <- j
		s.collect(time.Now(), <-s.done)
	}
	close(s.jobs)
}

// job is what is to be written.
func (c *core) job(s *store) (storeJob, bool) {
	if len(c.dirty) == 0 {
		return storeJob{}, false
	}
	var j storeJob
	for _, t := range c.order {
		for k := range c.dirty {
			if k.url == t.url {
				r := t.saved(k.name)
				j.records = append(j.records, r)
				s.account(r)
				s.size += r.bytes()
			}
		}
	}
	clear(c.dirty)
	if !s.whole && s.size <= 2*s.used+slack {
		return j, true
	}
	j = storeJob{whole: true}
	s.live, s.used, s.size = map[key]int{}, 0, len(storeHeader)
	for _, t := range c.order {
		for name, r := range t.resources {
			if r.value != nil {
				j.records = append(j.records, t.saved(name))
			}
		}
	}
	for _, r := range c.saved {
		j.records = append(j.records, r)
	}
	for _, r := range j.records {
		s.account(r)
		s.size += r.bytes()
	}
	s.whole = false
	return j, true
}

func (t *typeState) saved(name string) savedResource {
	out := savedResource{url: t.url, name: name}
	if r := t.resources[name]; r != nil && r.value != nil {
		out.version, out.at, out.raw = r.version, r.at, r.raw
	}
	return out
}
