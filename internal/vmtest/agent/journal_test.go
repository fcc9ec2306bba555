package main

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestScanShowsEntriesAsTheyCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var j journal[int]
		j.add(1)
		time.AfterFunc(time.Second, func() { j.add(2) })
		time.AfterFunc(2*time.Second, func() { j.add(3); j.add(4) })
		var seen []int
		next := j.scan(0, time.Minute, func(n int) bool { seen = append(seen, n); return n == 3 })
		if diff := cmp.Diff([]int{1, 2, 3}, seen); diff != "" || next != 3 {
			t.Errorf("next %d, want 3; seen (-want +got):\n%s", next, diff)
		}
	})
}

func TestScanEnds(t *testing.T) {
	for name, test := range map[string]struct {
		from  int
		close bool
		took  time.Duration
		next  int
	}{
		"when the time is over":         {from: 0, took: time.Minute, next: 1},
		"when nothing more can come":    {from: 0, close: true, took: time.Second, next: 1},
		"at the end, asked from beyond": {from: 1 << 30, took: time.Minute, next: 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var j journal[int]
				j.add(1)
				if test.close {
					time.AfterFunc(time.Second, j.close)
				}
				began := time.Now()
				next := j.scan(test.from, time.Minute, func(int) bool { return false })
				if took := time.Since(began); took != test.took || next != test.next {
					t.Errorf("ended after %v with %d, want %v and %d", took, next, test.took, test.next)
				}
			})
		})
	}
}
