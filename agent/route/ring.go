package route

import (
	"cmp"
	"slices"
	"sort"
	"strconv"
)

const (
	minRing   = 1024
	maxRing   = 8 << 20
	maglevLen = 65537
	// mostPoints keeps one cluster's table at a few megabytes.
	mostPoints = 1 << 18
)

// ring is the table of a consistent hash: points in order of their hash, or, for
// maglev, one for each remainder. Equal endpoints give equal tables, in every
// agent.
type ring struct {
	points []point // of a ring
	table  []uint16
}

type point struct {
	hash     uint64
	endpoint uint16
}

// hashBytes is FNV-1a with a finalizer, so that near texts lie far apart.
func hashBytes(b []byte) uint64 {
	h := uint64(14695981039346656037)
	for _, c := range b {
		h = (h ^ uint64(c)) * 1099511628211
	}
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

// newRing gives each endpoint points in proportion to its weight, at least the
// minimum together (ring_hash_lb_config).
func newRing(endpoints []*Endpoint, weights []uint32, size RingSize) *ring {
	least, sum := uint32(0), uint64(0)
	for _, w := range weights {
		if w > 0 && (least == 0 || w < least) {
			least = w
		}
		sum += uint64(w)
	}
	if sum == 0 {
		return nil
	}
	// As Envoy: scaled so that the smallest share is a whole number of points.
	smallest := float64(least) / float64(sum)
	low, high := float64(orElse(size.Min, minRing)), float64(min(orElse(size.Max, maxRing), mostPoints))
	count := max(1, low*smallest)
	if count != float64(int(count)) {
		count = float64(int(count) + 1)
	}
	scale := min(count/smallest, high)
	r := &ring{points: make([]point, 0, int(scale)+len(endpoints))}
	var name []byte
	for i, e := range endpoints {
		if weights[i] == 0 {
			continue
		}
		n := max(1, int(scale*float64(weights[i])/float64(sum)+0.5))
		name = append(append(name[:0], e.Peer.Addr...), '_')
		for k := range n {
			r.points = append(r.points, point{hashBytes(strconv.AppendInt(name, int64(k), 10)), uint16(i)})
		}
	}
	slices.SortFunc(r.points, func(a, b point) int {
		return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.endpoint, b.endpoint))
	})
	return r
}

// newMaglev fills the table as the Maglev paper does (section 3.4), endpoints taking
// turns by weight.
func newMaglev(endpoints []*Endpoint, weights []uint32, size int) *ring {
	size = orElse(size, maglevLen)
	most := uint32(0)
	for _, w := range weights {
		most = max(most, w)
	}
	if most == 0 {
		return nil
	}
	if size < max(3, len(endpoints)) || size > mostPoints || !isPrime(size) {
		size = maglevLen // where the size is no prime some places are never reached
	}
	const free = 1<<16 - 1
	r := &ring{table: make([]uint16, size)}
	for i := range r.table {
		r.table[i] = free
	}
	type builder struct {
		endpoint     uint16
		offset, skip uint64
		weight       float64
		due          float64
	}
	var builders []builder
	for i, e := range endpoints {
		if weights[i] == 0 {
			continue
		}
		h := hashBytes([]byte(e.Peer.Addr))
		g := hashBytes([]byte(e.Peer.Addr + "#"))
		builders = append(builders, builder{uint16(i), h % uint64(size), g%uint64(size-1) + 1, float64(weights[i]) / float64(most), 0})
	}
	for filled := 0; filled < size; {
		for i := range builders {
			b := &builders[i]
			if b.due += b.weight; b.due < 1 {
				continue
			}
			b.due--
			for r.table[b.offset] != free {
				b.offset = (b.offset + b.skip) % uint64(size)
			}
			r.table[b.offset] = b.endpoint
			if filled++; filled == size {
				break
			}
		}
	}
	return r
}

func isPrime(n int) bool {
	for d := 2; d*d <= n; d++ {
		if n%d == 0 {
			return false
		}
	}
	return n > 1
}

// pickRing walks from the key's place to the first endpoint that may be used, nil
// when a walk of some length finds none.
func (c *Cluster) pickRing(b *balance, key uint64, tried []*Endpoint) *Endpoint {
	at, n := 0, len(b.ring.table)
	if n == 0 {
		n = len(b.ring.points)
		at = sort.Search(n, func(i int) bool { return b.ring.points[i].hash >= key })
	} else {
		at = int(key % uint64(n))
	}
	for k := range min(n, 256) {
		i := (at + k) % n
		var e *Endpoint
		if b.ring.table != nil {
			e = c.Endpoints[b.ring.table[i]]
		} else {
			e = c.Endpoints[b.ring.points[i].endpoint]
		}
		if free(e, tried) {
			return e
		}
	}
	return nil
}
