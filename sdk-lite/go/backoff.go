package meshferry

import (
	"context"
	"math/rand/v2"
	"time"
)

// backoff is a growing pause with a cap and jitter. The zero value is not usable.
type backoff struct{ first, limit, next time.Duration }

func newBackoff(first, limit time.Duration) *backoff {
	return &backoff{first: first, limit: limit, next: first}
}

// pause is how long to wait now: between half and all of a time that doubles.
func (b *backoff) pause() time.Duration {
	d := b.next
	b.next = min(2*b.next, b.limit)
	return jitter(d)
}

func (b *backoff) reset() { b.next = b.first }

// jitter spreads d over [d/2, d), so that processes on one host do not call in step.
func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d/2+1) }

// sleep waits for d, a value on wake, or the end of ctx; false: ctx ended.
func sleep(ctx context.Context, d time.Duration, wake <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
	case <-wake:
	}
	return true
}
