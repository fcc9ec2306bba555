package inuse

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestWhoAsksAtTheSameTimeSharesAnAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s shared[time.Time]
		found := 0
		find := func() time.Time { // one after the other, or the race detector tells
			found++
			begun := time.Now()
			time.Sleep(time.Second)
			return begun
		}
		var work sync.WaitGroup
		for i := range 100 {
			work.Go(func() {
				time.Sleep(time.Duration(i) * 20 * time.Millisecond)
				asked := time.Now()
				if begun := s.get(find); begun.Before(asked) {
					t.Errorf("asked at %v, and the answer was begun at %v", asked, begun)
				}
			})
		}
		work.Wait()
		// Asked in the seconds 0 and 1: at once, and at 1 and 2.
		if found != 3 {
			t.Errorf("found %d times, want 3", found)
		}
	})
}
