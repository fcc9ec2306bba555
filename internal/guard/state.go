package guard

import (
	"context"
	"slices"

	"vfio-hotplug/internal/pci"
)

// Want is a guard to be armed: dynamic IDs by driver, or the closed gate.
type Want struct {
	IDs  map[string][]pci.Pattern
	Gate bool
}

// Wanted gives what a choice comes to for the IDs of a policy.
func Wanted(c Choice, ids []ID) Want {
	w := Want{IDs: map[string][]pci.Pattern{}}
	for _, id := range ids {
		switch c.Mode {
		case Claim:
			w.IDs[id.Driver] = append(w.IDs[id.Driver], id.Pattern)
		case Stub:
			w.IDs[PCIStub] = append(w.IDs[PCIStub], id.Pattern)
		}
	}
	w.Gate = c.Mode == Gate
	return w
}

// State is what is armed, as the record has it and the drivers are loaded.
type State struct {
	Armed Want
	// Was is what was armed before, or was about to be when a daemon was killed,
	// and whose catch may not have been seen to.
	Was Want
	// Seen are the devices that were there when the guard was armed, and those
	// that have been seen to since.
	Seen []Seat
	// Shielded are devices that an arming may have left shielded.
	Shielded []Seat
}

// State reads the record. It waits for nobody.
func (g *Guard) State() (State, error) {
	r, err := g.read()
	s := State{
		Armed:    Want{IDs: map[string][]pci.Pattern{}, Gate: r.Gate},
		Was:      Want{IDs: map[string][]pci.Pattern{}, Gate: r.WasGate},
		Seen:     r.Seen,
		Shielded: r.Shielded,
	}
	for _, a := range r.IDs {
		to := s.Was // it may be armed, and will be taken back; or it went with its driver
		if a.Sure && g.stands(a) {
			to = s.Armed
		}
		to.IDs[a.Driver] = append(to.IDs[a.Driver], a.Pattern)
	}
	for _, p := range r.Was {
		s.Was.IDs[p.Driver] = append(s.Was.IDs[p.Driver], p.Pattern)
	}
	return s, err
}

// stands reports whether the driver is still the one to which an ID was added.
func (g *Guard) stands(a armed) bool {
	instance, err := g.instance(a.Driver)
	return err != nil || instance == a.Instance
}

// Settled forgets what was armed before: all that it caught has been seen to.
func (g *Guard) Settled(ctx context.Context) error {
	return g.change(ctx, func(r *record) { r.Was, r.WasGate = nil, false })
}

// See notes that a device has been seen to: what becomes of it is no longer the
// guard's doing.
func (g *Guard) See(ctx context.Context, seat Seat) error {
	return g.change(ctx, func(r *record) {
		r.Seen = slices.DeleteFunc(r.Seen, func(s Seat) bool { return s.Address == seat.Address })
		r.Seen = append(r.Seen, seat)
	})
}

// Shield notes, before it is done, that an override shields these devices too.
func (g *Guard) Shield(ctx context.Context, seats []Seat) error {
	return g.change(ctx, func(r *record) {
		for _, seat := range seats {
			if !slices.Contains(r.Shielded, seat) {
				r.Shielded = append(r.Shielded, seat)
			}
		}
	})
}

// Unshielded notes that these devices are shielded no more.
func (g *Guard) Unshielded(ctx context.Context, seats []Seat) error {
	return g.change(ctx, func(r *record) {
		r.Shielded = slices.DeleteFunc(r.Shielded, func(s Seat) bool { return slices.Contains(seats, s) })
	})
}

// change changes the record alone.
func (g *Guard) change(ctx context.Context, change func(*record)) error {
	unlock, err := g.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	r, err := g.read()
	if err != nil {
		return err
	}
	change(&r)
	return g.write(r)
}
