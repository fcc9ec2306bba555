package main

import (
	"context"
	"sync"
	"time"
)

// A journal is a list that only grows, and that one can wait on.
type journal[T any] struct {
	mu      sync.Mutex
	entries []T
	news    chan struct{} // closed at the next change
	closed  bool
}

func (j *journal[T]) add(entry T) { j.change(func() { j.entries = append(j.entries, entry) }) }

// close says that nothing more will come.
func (j *journal[T]) close() { j.change(func() { j.closed = true }) }

func (j *journal[T]) change(do func()) {
	j.mu.Lock()
	defer j.mu.Unlock()
	do()
	if j.news != nil {
		close(j.news)
		j.news = nil
	}
}

// since gives the entries from number n on, or from the end if there are not
// so many; the number of the first of them; and whether more may come: then the
// channel is closed as soon as there are.
func (j *journal[T]) since(n int) (entries []T, first int, news <-chan struct{}, open bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.news == nil {
		j.news = make(chan struct{})
	}
	first = min(n, len(j.entries))
	return j.entries[first:], first, j.news, !j.closed
}

// scan shows the entries from number n on to see, one by one and as they come,
// until it has seen enough, the time is over or nothing more will come. It
// gives the number of the first entry not shown.
func (j *journal[T]) scan(n int, timeout time.Duration, see func(T) (enough bool)) int {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	for {
		entries, first, news, open := j.since(n)
		n = first
		for _, entry := range entries {
			n++
			if see(entry) {
				return n
			}
		}
		if !open {
			return n
		}
		select {
		case <-news:
		case <-ctx.Done():
			return n
		}
	}
}
