package daemon

import (
	"sync"

	"vfio-hotplug/internal/operate"
)

// surveys has those who ask for a survey at the same time share one: each reads
// every device, and anybody may ask. One is under way at a time.
type surveys struct {
	mu        sync.Mutex
	now, next *shared // under way, or over; and not begun yet, nil for none
}

// shared is a survey that several wait for.
type shared struct {
	done  chan struct{} // closed when the rest is there
	lines []operate.Line
	err   error
}

// share gives a survey that began after it was called, so that it shows all
// that was done before. The lines are not to be changed.
func (s *surveys) share(look func() ([]operate.Line, error)) ([]operate.Line, error) {
	s.mu.Lock()
	mine, before := s.next, s.now
	if mine == nil {
		s.next = &shared{done: make(chan struct{})}
		s.mu.Unlock()
		return s.lead(before, look)
	}
	s.mu.Unlock()
	<-mine.done
	return mine.lines, mine.err
}

// lead carries out the next survey, after the one before.
func (s *surveys) lead(before *shared, look func() ([]operate.Line, error)) ([]operate.Line, error) {
	if before != nil {
		<-before.done
	}
	s.mu.Lock()
	mine := s.next
	s.now, s.next = mine, nil // who comes from here on is too late for this one
	s.mu.Unlock()
	defer close(mine.done)
	mine.lines, mine.err = look()
	return mine.lines, mine.err
}
