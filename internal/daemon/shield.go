package daemon

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"vfio-hotplug/internal/guard"
	"vfio-hotplug/internal/journal"
	"vfio-hotplug/internal/pci"
)

// shields says for how many armings each device is shielded: an arming from
// which the kernel does not come back goes on beside the next.
type shields struct {
	mu sync.Mutex // held while a shield is put up or taken down
	of map[guard.Seat]int
}

func (s *shields) add(seats []guard.Seat) {
	if s.of == nil {
		s.of = map[guard.Seat]int{}
	}
	for _, seat := range seats {
		s.of[seat]++
	}
}

// drop ends what an arming needs, and gives the devices that no other needs.
func (s *shields) drop(seats []guard.Seat) (free []guard.Seat) {
	for _, seat := range seats {
		if s.of[seat]--; s.of[seat] == 0 {
			delete(s.of, seat)
			free = append(free, seat)
		}
	}
	return free
}

// armShielded arms while devices without a driver, which no rule may name, are
// kept from the new IDs.
func (d *Daemon) armShielded(ctx context.Context, want guard.Want, seen []guard.Seat) error {
	start := time.Now()
	slow := time.AfterFunc(armSlow, func() {
		d.Log.Error(fmt.Sprintf("arming the guard has not ended for %v: some device hangs in the kernel: dmesg", time.Since(start).Round(time.Second)),
			journal.MessageStuck.Attr())
	})
	defer slow.Stop()
	exposed, err := d.Operator.Exposed(d.added(want), d.newcomer)
	if err != nil {
		return err
	}
	if err := d.shield(ctx, exposed); err != nil {
		return err
	}
	ended, err := d.Guard.Arm(ctx, want, seen)
	if len(exposed) > 0 {
		d.begin(func() { d.unshieldAfter(ctx, ended, exposed) })
	}
	return err
}

// added gives the patterns of what is wanted that are not armed yet.
func (d *Daemon) added(want guard.Want) []pci.Pattern {
	armed := map[string][]pci.Pattern{}
	if state, err := d.Guard.State(); err == nil {
		armed = state.Armed.IDs
	}
	var added []pci.Pattern
	for driver, patterns := range want.IDs {
		for _, p := range patterns {
			if !slices.Contains(armed[driver], p) {
				added = append(added, p)
			}
		}
	}
	return added
}

// shield keeps devices from every driver, until unshieldAfter.
func (d *Daemon) shield(ctx context.Context, seats []guard.Seat) error {
	if len(seats) == 0 {
		return nil
	}
	d.shields.mu.Lock()
	defer d.shields.mu.Unlock()
	if err := d.Guard.Shield(ctx, seats); err != nil {
		return err
	}
	d.shields.add(seats)
	if err := d.Operator.Shield(ctx, seats); err != nil {
		d.logGuardFault("shield devices without a driver from the guard", err)
	}
	return nil
}

// unshieldAfter ends the shielding when the kernel has come back from the new
// IDs, but for devices that another arming shields.
func (d *Daemon) unshieldAfter(ctx context.Context, ended <-chan struct{}, seats []guard.Seat) {
	select {
	case <-ended:
	case <-ctx.Done():
		return
	}
	d.shields.mu.Lock()
	defer d.shields.mu.Unlock()
	if err := d.unshield(ctx, d.shields.drop(seats)); err != nil && ctx.Err() == nil {
		d.logGuardFault("let go of the devices that were shielded from the guard", err)
	}
}

// unshieldLeft clears what a daemon that was killed while it armed has left.
func (d *Daemon) unshieldLeft(ctx context.Context) {
	state, err := d.Guard.State()
	if err == nil {
		err = d.unshield(ctx, state.Shielded)
	}
	if err != nil {
		d.logGuardFault("clear what an arming has left", err)
	}
}

// unshield takes shields down, and the note of them.
func (d *Daemon) unshield(ctx context.Context, seats []guard.Seat) error {
	if len(seats) == 0 {
		return nil
	}
	if err := d.Operator.Unshield(ctx, seats); err != nil {
		return err
	}
	return d.Guard.Unshielded(ctx, seats)
}
