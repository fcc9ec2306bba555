package control

import "sync"

// Bounds of open connections. The socket is open to everybody, so some seats
// are kept for root: nobody can keep an administrator from binding a device.
const (
	maxConns       = 64
	maxConnsOthers = 48
)

// seats counts open connections.
type seats struct {
	mu     sync.Mutex
	all    int
	others int
}

// take gives a seat, unless there is none left for that user.
func (s *seats) take(p Peer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == maxConns || p.UID != 0 && s.others == maxConnsOthers {
		return false
	}
	s.all++
	if p.UID != 0 {
		s.others++
	}
	return true
}

func (s *seats) leave(p Peer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all--
	if p.UID != 0 {
		s.others--
	}
}
