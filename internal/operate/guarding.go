package operate

import (
	"maps"
	"slices"
	"time"

	"vfio-hotplug/internal/guard"
	"vfio-hotplug/internal/pci"
	"vfio-hotplug/policy"
)

// Guarding is what the machine's guard does with new devices. A nil Guarding is
// none. But for Seen it does not change once it is handed out.
type Guarding struct {
	Mode guard.Mode
	// Since is when it was armed, zero while that is under way.
	Since time.Time
	// Armed is what is armed, or about to be.
	Armed guard.Want
	// Was is what was armed before: its catch may not have been seen to.
	Was guard.Want
	// Seen are the devices that were there before the guard, and those that have
	// been seen to since.
	Seen *guard.Seats
}

// catchers gives, in order, the drivers to which dynamic IDs of ours give a new
// device with these IDs; there may be two while the guard moves.
func (g *Guarding) catchers(ids pci.IDs) []string {
	if g == nil {
		return nil
	}
	return matching(g.Armed.IDs, ids)
}

// haveCaught gives, in order, the drivers that a device with these IDs may be
// on by our doing.
func (g *Guarding) haveCaught(ids pci.IDs) []string {
	if g == nil {
		return nil
	}
	drivers := append(matching(g.Armed.IDs, ids), matching(g.Was.IDs, ids)...)
	slices.Sort(drivers)
	return slices.Compact(drivers)
}

func matching(of map[string][]pci.Pattern, ids pci.IDs) []string {
	var drivers []string
	for _, driver := range slices.Sorted(maps.Keys(of)) {
		if slices.ContainsFunc(of[driver], func(p pci.Pattern) bool { return p.Matches(ids) }) {
			drivers = append(drivers, driver)
		}
	}
	return drivers
}

// held reports whether the guard was armed when a device was plugged.
func (g *Guarding) held(at time.Time) bool {
	return g != nil && g.Mode != guard.Race && !g.Since.IsZero() && at.After(g.Since)
}

// Gated reports whether new devices wait for us.
func (g *Guarding) Gated() bool { return g != nil && g.Armed.Gate }

// Concerns reports whether the guard depends on a driver: on its dynamic IDs,
// or on the order in which it and others are offered a device.
func (g *Guarding) Concerns(driver string) bool {
	if driver == "nvme" || driver == guard.PCIStub || driver == policy.VFIO {
		return true
	}
	if g == nil {
		return false
	}
	_, armed := g.Armed.IDs[driver]
	_, was := g.Was.IDs[driver]
	return armed || was
}

// mayHaveCaught reports whether a device that has a driver, or "" for none, may
// have it by the guard's doing, as far as the guard knows.
func (g *Guarding) mayHaveCaught(device pci.Device, identity uint64, driver string) bool {
	if g == nil || g.Seen.Has(guard.Seat{Address: device.Address, Identity: identity}) {
		return false
	}
	if driver == "" {
		return g.Armed.Gate || g.Was.Gate
	}
	return slices.Contains(g.haveCaught(device.IDs()), driver)
}
