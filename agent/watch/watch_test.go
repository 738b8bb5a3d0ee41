package watch

import (
	"sync"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestZeroValueIsNil(t *testing.T) {
	var v Value[int]
	if got := v.Load(); got != nil {
		t.Fatalf("Load() = %v, want nil", got)
	}
}

func TestWatchMissesNoChange(t *testing.T) {
	const last = 1000
	var v Value[int]
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			seen := 0
			for seen != last {
				cur, changed := v.Watch()
				if cur == nil || *cur == seen {
					<-changed
					continue
				}
				if *cur < seen {
					t.Errorf("went back from %d to %d", seen, *cur)
				}
				seen = *cur
			}
		})
	}
	for i := 1; i <= last; i++ {
		v.Store(&i)
	}
	wg.Wait()
}
