package api

import (
	"sync"
	"time"

	"github.com/gin-gonic/gin"
	"golang.org/x/time/rate"
)

// Limits bounds what callers can take. Zero fields get the default.
type Limits struct {
	Working int     // requests worked on at once; 32
	Held    int     // requests that wait: leases, watches, waits for a registry; 512
	Rate    float64 // requests a second and user; 100
	Burst   int     // of Rate; 400
}

func (l Limits) withDefaults() Limits {
	if l.Working <= 0 {
		l.Working = 32
	}
	if l.Held <= 0 {
		l.Held = 512
	}
	if l.Rate <= 0 {
		l.Rate = 100
	}
	if l.Burst <= 0 {
		l.Burst = 400
	}
	return l
}

// maxBuckets bounds the users told apart; all others share the one of "unknown".
const maxBuckets = 256

// buckets holds one token bucket for each user.
type buckets struct {
	rate  rate.Limit // immutable after New
	burst int

	mu    sync.Mutex
	byUID map[int]*rate.Limiter // guarded by mu
}

func newBuckets(r rate.Limit, burst int) buckets {
	return buckets{rate: r, burst: burst, byUID: map[int]*rate.Limiter{}}
}

// take uses one token of the user's bucket, or tells when the next one comes.
func (b *buckets) take(uid int) (after time.Duration, ok bool) {
	b.mu.Lock()
	l := b.byUID[uid]
	if l == nil && len(b.byUID) >= maxBuckets {
		uid = -1
		l = b.byUID[uid]
	}
	if l == nil {
		l = rate.NewLimiter(b.rate, b.burst)
		b.byUID[uid] = l
	}
	b.mu.Unlock()
	r := l.Reserve()
	if after = r.Delay(); after > 0 {
		r.Cancel()
		return after, false
	}
	return 0, true
}

// slots is a counting semaphore that never blocks.
type slots chan struct{}

func (s slots) take() bool {
	select {
	case s <- struct{}{}:
		return true
	default:
		return false
	}
}

func (s slots) give() { <-s }

// place is what a request holds: a working slot, later perhaps a held one.
type place struct{ slots slots }

const placeKey = "meshferry.place"

// limit gives each request a token of its user and a working slot, or refuses
// it with the time to come back.
func (s *Server) limit(c *gin.Context) {
	uid := peerOf(c.Request).owner().UID
	if after, ok := s.buckets.take(uid); !ok {
		s.fail(c, &refusal{code: "limit", message: "too many requests from this user", after: after})
		return
	}
	if !s.working.take() {
		s.fail(c, &refusal{code: "limit", message: "too many requests at once", after: time.Second})
		return
	}
	p := &place{s.working}
	defer func() { p.slots.give() }()
	c.Set(placeKey, p)
	c.Next()
}

// hold moves a request that is going to wait from the working slots to the held
// ones. It is false, and the request keeps its place, when too many are held.
func (s *Server) hold(c *gin.Context) bool {
	p := c.MustGet(placeKey).(*place)
	if !s.held.take() {
		return false
	}
	p.slots.give()
	p.slots = s.held
	return true
}

func tooManyHeld() error {
	return &refusal{code: "limit", message: "too many leases and watches", after: 5 * time.Second}
}
