package proxy

import "sync/atomic"

// budget keeps retries to a fifth of the requests, after a burst that a small
// service needs too (Envoy's and Linkerd's default is 20 %).
type budget struct{ tokens atomic.Int64 }

const (
	budgetPerRequest = 2
	budgetPerRetry   = 10
	budgetBurst      = 1000
)

func (b *budget) add(requests int64) {
	if b.tokens.Load() < budgetBurst {
		b.tokens.Add(requests * budgetPerRequest)
	}
}

func (b *budget) take() bool {
	if b.tokens.Add(-budgetPerRetry) >= 0 {
		return true
	}
	b.tokens.Add(budgetPerRetry)
	return false
}
