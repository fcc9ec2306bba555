package guard

import (
	"sync"

	"vfio-hotplug/internal/pci"
)

// A Seat is one device, and not another that comes to its address later.
type Seat struct {
	Address  pci.Address `json:"address"`
	Identity uint64      `json:"identity,string"` // sysfs.Device.Identity
}

// Seats is a set of devices. Several goroutines may use it; a nil one is empty.
type Seats struct {
	mu sync.Mutex
	of map[pci.Address]uint64
}

// NewSeats makes a set.
func NewSeats(seats []Seat) *Seats {
	s := &Seats{of: make(map[pci.Address]uint64, len(seats))}
	for _, seat := range seats {
		s.of[seat.Address] = seat.Identity
	}
	return s
}

// Has reports whether a device is in the set.
func (s *Seats) Has(seat Seat) bool {
	if s == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	identity, there := s.of[seat.Address]
	return there && identity == seat.Identity
}

// Add puts a device into the set, in place of an earlier one at its address.
func (s *Seats) Add(seat Seat) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.of[seat.Address] = seat.Identity
}
