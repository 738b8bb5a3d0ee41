package zookeeper

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// session is what a client must show to go on with a session.
type session struct {
	ID       int64
	Password []byte // 16 bytes
}

// link makes the connections of the library. It reads the session from the
// server's answers, because the library does not tell the password, and puts an
// earlier one into the library's first request, because the library cannot
// resume one. Both messages are fixed in form. Source:
// org.apache.zookeeper.proto.ConnectRequest, ConnectResponse.
type link struct {
	// Immutable after New.
	dialer    func(network, address string, timeout time.Duration) (net.Conn, error)
	begun     func(session) // called before the library learns of a session; may block for a while
	handshake time.Duration // how long a server may take to answer a connect request
	servers   int
	log       *slog.Logger
	quit      chan struct{} // closed by detach
	// expired is set when a server has said that the session is gone: it serves,
	// so there is no reason to pause before the next try.
	expired atomic.Bool

	mu       sync.Mutex
	earlier  *session // guarded by mu; to resume, until the server has answered
	detached bool     // guarded by mu
	tries    int      // guarded by mu; failed ones since the last session
	open     net.Conn // guarded by mu; the newest connection
	err      error    // guarded by mu; why the last try failed

	refused int       // guarded by mu; connect requests in a row that were answered by closing
	since   time.Time // guarded by mu; when the first of them was
	told    bool      // guarded by mu; it was logged
}

// A server that knows less than the client has seen closes the connection, so
// that the client tries another. When all of them do so for this long, the data
// was wiped or restored, and the library would be shut out for ever.
const refusedFor = 3 * time.Second

var errDetached = errors.New("detached")

func newLink(dialer func(string, string, time.Duration) (net.Conn, error), handshake time.Duration, servers int, log *slog.Logger, begun func(session)) *link {
	return &link{dialer: dialer, begun: begun, handshake: handshake, servers: servers, log: log, quit: make(chan struct{})}
}

// resume has the next connection go on with s.
func (l *link) resume(s session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.earlier = &s
}

// detach refuses every further connection and write, so that the library can be
// closed without ending the session: its request to end it is a write.
func (l *link) detach() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.detached {
		return
	}
	l.detached = true
	close(l.quit)
}

// drop closes the connection, whatever it is waiting for.
func (l *link) drop() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open != nil {
		l.open.Close()
	}
}

// lastErr is why the last try to connect failed.
func (l *link) lastErr() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// dial is the library's dialer.
func (l *link) dial(network, address string, timeout time.Duration) (net.Conn, error) {
	l.mu.Lock()
	again := l.tries > 0
	l.tries++
	if l.open != nil {
		l.open.Close() // the library leaves the connection of an expired session open
		l.open = nil
	}
	l.mu.Unlock()
	if again {
		// The library pauses for exactly 1 s: without this, a fleet returns in step.
		select {
		case <-time.After(rand.N(500 * time.Millisecond)):
		case <-l.quit:
		}
	}
	select {
	case <-l.quit:
		return nil, errDetached
	default:
	}
	c, err := l.dialer(network, address, timeout)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.err = err
	if err != nil {
		return nil, err
	}
	l.open = c
	return &linked{Conn: c, link: l, answerBy: time.Now().Add(l.handshake)}, nil
}

// linked is one connection. The library writes and reads its first message on
// one goroutine, and only then starts the two that write and read the rest.
type linked struct {
	net.Conn
	link     *link
	answerBy time.Time
	asked    bool
	answered bool
	answer   []byte
}

// Offsets in a message, its length of 4 bytes included.
const (
	requestZxid      = 4 + 4         // after length, protocol version
	requestSession   = 4 + 4 + 8 + 4 // after length, protocol version, last zxid, time-out
	responseSession  = 4 + 4 + 4     // after length, protocol version, time-out
	passwordBytes    = 16
	requestBytes     = requestSession + 8 + 4 + passwordBytes
	responsePassword = responseSession + 8 + 4
	responseBytes    = responsePassword + passwordBytes
)

func (c *linked) Write(b []byte) (int, error) {
	c.link.mu.Lock()
	detached, earlier := c.link.detached, c.link.earlier
	c.link.mu.Unlock()
	if detached {
		c.Conn.Close()
		return 0, errDetached
	}
	if !c.asked {
		c.asked = true
		b = bytes.Clone(b) // the library's buffer
		if earlier != nil {
			resumeIn(b, *earlier)
		}
		if c.link.wiped() {
			forgetIn(b)
		}
	}
	return c.Conn.Write(b)
}

// wiped tells whether every server refuses what we have seen.
func (l *link) wiped() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.refused < 2*l.servers || time.Since(l.since) < refusedFor {
		return false
	}
	if !l.told {
		l.told = true
		l.log.Warn("ZooKeeper knows less than we have seen of it: wiped, restored or without a majority; asking anew", "refused", l.refused)
	}
	return true
}

func (l *link) refuse() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.refused == 0 {
		l.since = time.Now()
	}
	l.refused++
}

// resumeIn puts s into a connect request that asks for a new session.
func resumeIn(request []byte, s session) {
	if len(request) < requestBytes || binary.BigEndian.Uint64(request[requestSession:]) != 0 {
		return
	}
	binary.BigEndian.PutUint64(request[requestSession:], uint64(s.ID))
	copy(request[requestSession+8+4:requestBytes], s.Password)
}

// forgetIn makes a connect request one of a client that has seen nothing.
func forgetIn(request []byte) {
	if len(request) >= requestBytes {
		clear(request[requestZxid:][:8])
	}
}

// SetReadDeadline holds the library to the time for the handshake. By itself it
// waits several times the session's time-out for a server that is frozen, while
// the others of the ensemble would answer.
func (c *linked) SetReadDeadline(t time.Time) error {
	if !c.answered && (t.IsZero() || t.After(c.answerBy)) {
		t = c.answerBy
	}
	return c.Conn.SetReadDeadline(t)
}

func (c *linked) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if !c.answered && n > 0 {
		c.answer = append(c.answer, b[:n]...)
		if s, ok := answeredSession(c.answer); ok {
			c.answered, c.answer = true, nil
			c.link.settle(s)
		}
	}
	if !c.answered && (errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)) {
		c.link.refuse()
	}
	return n, err
}

// answeredSession is the session in a connect response; its ID is 0 if the
// session that was asked for is gone.
func answeredSession(response []byte) (session, bool) {
	if len(response) < responseBytes {
		return session{}, false
	}
	return session{
		ID:       int64(binary.BigEndian.Uint64(response[responseSession:])),
		Password: append([]byte(nil), response[responsePassword:responseBytes]...),
	}, true
}

func (l *link) settle(s session) {
	l.mu.Lock()
	l.earlier, l.refused, l.told = nil, 0, false
	if s.ID != 0 {
		l.tries = 0
	}
	l.mu.Unlock()
	if s.ID == 0 {
		l.expired.Store(true)
		return
	}
	l.begun(s)
}

// hosts gives the library its servers in turn. Unlike the library's own it leaves
// names to the dialer, so that an address that changes is found, and a name that
// cannot be resolved now is no error for good. Called by one goroutine only.
type hosts struct {
	expired *atomic.Bool // of the link
	servers []string
	next    int
	tried   int       // since the last session
	since   time.Time // of the last session
}

func (h *hosts) Init(servers []string) error {
	h.servers = servers
	return nil
}

func (h *hosts) Len() int { return len(h.servers) }

// Next says to pause before each further round, and after a session that was cut
// at once: two holders of one session throw each other out.
func (h *hosts) Next() (server string, pause bool) {
	server = h.servers[h.next%len(h.servers)]
	h.next++
	pause = h.tried > 0 && h.tried%len(h.servers) == 0 || h.tried == 0 && time.Since(h.since) < time.Second
	h.tried++
	if h.expired.Swap(false) {
		pause = false
	}
	return server, pause
}

func (h *hosts) Connected() { h.tried, h.since = 0, time.Now() }
