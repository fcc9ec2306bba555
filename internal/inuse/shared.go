package inuse

import "sync"

// shared lets those share one answer who ask at about the same time. Nobody gets
// an answer that somebody had begun to find before he asked.
type shared[T any] struct {
	mu        sync.Mutex
	now, next *round[T] // that which goes on, and that of those who have asked since; nil for none
}

// round is one answer, with those who wait for it.
type round[T any] struct {
	found  chan struct{} // closed when answer is there
	answer T
}

// get gives an answer, by find or by that of another who asked meanwhile. It
// must not be changed.
func (s *shared[T]) get(find func() T) T {
	r, before := s.join()
	if before == r { // somebody else sees to it
		<-r.found
		return r.answer
	}
	if before != nil {
		<-before.found
	}
	s.mu.Lock()
	s.now, s.next = r, nil
	s.mu.Unlock()
	r.answer = find()
	s.mu.Lock()
	s.now = nil
	s.mu.Unlock()
	close(r.found)
	return r.answer
}

// join gives the round in which an answer comes for who asks now, and the one
// before it, nil for none. They are the same for whoever only waits.
func (s *shared[T]) join() (r, before *round[T]) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.next != nil {
		return s.next, s.next
	}
	s.next = &round[T]{found: make(chan struct{})}
	return s.next, s.now
}
