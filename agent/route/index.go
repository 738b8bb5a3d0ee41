package route

import "hash/maphash"

// index is an immutable map from names. A changed copy costs one shard, not the
// whole. The zero index is empty and cannot be edited.
type index[V any] struct {
	seed   maphash.Seed
	shards *[shards]map[string]V
}

const shards = 256

func newIndex[V any]() index[V] {
	return index[V]{seed: maphash.MakeSeed(), shards: new([shards]map[string]V)}
}

// bytes is the value of a key that stands in a buffer.
func (x index[V]) bytes(key []byte) V {
	if x.shards == nil {
		var none V
		return none
	}
	return x.shards[maphash.Bytes(x.seed, key)%shards][string(key)]
}

// value is the value of a key and whether there is one.
func (x index[V]) value(key string) (V, bool) {
	if x.shards == nil {
		var none V
		return none, false
	}
	v, ok := x.shards[maphash.String(x.seed, key)%shards][key]
	return v, ok
}

// all calls yield for each entry, in no order.
func (x index[V]) all(yield func(string, V) bool) {
	if x.shards == nil {
		return
	}
	for _, shard := range x.shards {
		for k, v := range shard {
			if !yield(k, v) {
				return
			}
		}
	}
}

// edit is a copy of an index that is still being changed.
type edit[V any] struct {
	index[V]
	own [shards]bool // shards copied already
}

func (x index[V]) edit() *edit[V] {
	copied := *x.shards
	return &edit[V]{index: index[V]{seed: x.seed, shards: &copied}}
}

func (e *edit[V]) set(key string, v V) { e.shard(key)[key] = v }

func (e *edit[V]) remove(key string) { delete(e.shard(key), key) }

func (e *edit[V]) shard(key string) map[string]V {
	i := maphash.String(e.seed, key) % shards
	if !e.own[i] {
		e.own[i] = true
		old := e.shards[i]
		e.shards[i] = make(map[string]V, len(old)+1)
		for k, v := range old {
			e.shards[i][k] = v
		}
	}
	return e.shards[i]
}
