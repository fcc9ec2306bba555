package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"vfio-hotplug/internal/guard"
	"vfio-hotplug/internal/journal"
	"vfio-hotplug/internal/operate"
	"vfio-hotplug/internal/pci"
	"vfio-hotplug/internal/uevent"
	"vfio-hotplug/policy"
)

// Guard is armed in the kernel; *guard.Guard is one. Arm may block for as long
// as the kernel hangs on any device that it concerns.
type Guard interface {
	Arm(context.Context, guard.Want) error
	Armed() (guard.Want, error)
}

// armSlow is when an arming that has not ended is reported.
const armSlow = 10 * time.Second

// keepArmed arms the guard, and again whenever again receives: after a reload
// of the policy, or of a module that the guard depends on. It ends with ctx, and
// may leave behind a write that the kernel does not come back from.
func (d *Daemon) keepArmed(ctx context.Context) {
	if d.Guard == nil {
		return
	}
	for {
		d.arm(ctx)
		select {
		case <-d.again:
		case <-ctx.Done():
			return
		}
	}
}

// armAgain has the guard judged and armed again.
func (d *Daemon) armAgain() {
	select {
	case d.again <- struct{}{}:
	default:
	}
}

// recallGuard takes up the guard that an earlier daemon has left armed, and
// gives it.
func (d *Daemon) recallGuard() guard.Want {
	if d.Guard == nil {
		return guard.Want{}
	}
	armed, err := d.Guard.Armed()
	if err != nil {
		d.Log.Error(err.Error(), journal.MessageGuard.Attr())
		return guard.Want{}
	}
	if g := guarding(armed, guardMode(armed), time.Now()); g.Mode != guard.Race {
		d.guarding.Store(g)
	}
	return armed
}

// unshield clears what keeps drivers from devices that the first scan has not
// taken: an arming that was cut short, or udev's coldplug, has left it.
func (d *Daemon) unshield() {
	if err := d.Operator.Unshield(); err != nil {
		d.Log.Error("clear what an arming or the coldplug has left: "+strings.ReplaceAll(err.Error(), "\n", "; "), journal.MessageGuard.Attr())
	}
}

// unblock has the kernel match what came while a gate was closed and nobody
// was there to do it.
func (d *Daemon) unblock(armed guard.Want) {
	if !armed.Gate {
		return
	}
	if err := d.Operator.Unblock(armed.Idle); err != nil {
		d.Log.Error("match the devices that waited: "+strings.ReplaceAll(err.Error(), "\n", "; "), journal.MessageGuard.Attr())
	}
}

// arm brings the kernel to the guard that fits the policy and the machine.
func (d *Daemon) arm(ctx context.Context) {
	p := d.policy.Load()
	ids := guardIDs(p)
	armed, err := d.Guard.Armed()
	if err != nil {
		d.Log.Error(err.Error(), journal.MessageGuard.Attr())
		return
	}
	mode := guard.Mode(p.GuardMode().String())
	d.loadForGuard(ctx, mode, ids)
	machine, err := d.Machine()
	if err != nil {
		d.Log.Error("judge the machine for a guard: "+err.Error(), journal.MessageGuard.Attr())
		return
	}
	choice, fault := guard.Choose(machine, mode, ids)
	d.chosen.Store(&choice)
	want := guard.Wanted(choice, ids)
	before := d.guarding.Load()
	// From here on what either guard catches is ours to bring on.
	d.guarding.Store(both(before, guarding(want, choice.Mode, time.Time{})))
	err = d.armShielded(ctx, want)
	if ctx.Err() != nil {
		return
	}
	now := guarding(want, choice.Mode, time.Now())
	if err != nil {
		now = both(before, now)
		now.Since = time.Time{}
	}
	d.guarding.Store(now)
	d.logGuard(choice, want, errors.Join(fault, err))
	if choice.Mode != guard.Gate {
		d.unblock(armed)
	}
}

// armShielded arms while devices without a driver are kept from the new IDs.
func (d *Daemon) armShielded(ctx context.Context, want guard.Want) error {
	unshield, err := d.Operator.Shield(slices.Concat(slices.Collect(maps.Values(want.IDs))...))
	if err != nil {
		return err
	}
	start := time.Now()
	slow := time.AfterFunc(armSlow, func() {
		d.Log.Error(fmt.Sprintf("arming the guard has not ended for %v: some device hangs in the kernel; the ID works all the same", time.Since(start).Round(time.Second)),
			journal.MessageStuck.Attr())
	})
	defer slow.Stop()
	err = d.Guard.Arm(ctx, want)
	return errors.Join(err, unshield())
}

// loadForGuard loads the drivers that the guard would need, as far as they can
// be had.
func (d *Daemon) loadForGuard(ctx context.Context, mode guard.Mode, ids []guard.ID) {
	if len(ids) == 0 || mode == guard.Race || mode == guard.Off || mode == guard.Gate {
		return
	}
	drivers := map[string]bool{}
	exact := true
	for _, id := range ids {
		drivers[id.Driver] = true
		exact = exact && id.Exact
	}
	if mode == guard.Stub || mode == guard.Auto && !exact {
		drivers[guard.PCIStub] = true
	}
	for _, driver := range slices.Sorted(maps.Keys(drivers)) {
		if err := d.Operator.LoadDriver(ctx, driver); err != nil {
			d.Log.Warn(err.Error(), journal.MessageGuard.Attr())
		}
	}
}

func (d *Daemon) logGuard(c guard.Choice, want guard.Want, err error) {
	attrs := []any{slog.String("guard", string(c.Mode)), slog.String("reason", c.Why), journal.MessageGuard.Attr()}
	if err != nil {
		d.Log.Error("guard: "+strings.ReplaceAll(err.Error(), "\n", "; "), attrs...)
		return
	}
	text := fmt.Sprintf("guard %s: %s", c.Mode, c.Why)
	if c.Remedy != "" {
		text += "; for a stronger one: " + c.Remedy
	}
	d.Log.Info(text, attrs...)
}

// dispatchDriver has the guard armed again when a driver that matters to it
// comes or goes: its dynamic IDs go with it, and the order changes.
func (d *Daemon) dispatchDriver(ev *uevent.Event) {
	if d.Guard == nil || path.Dir(ev.KObj) != "/bus/pci/drivers" {
		return
	}
	name := path.Base(ev.KObj)
	g := d.guarding.Load()
	_, ours := map[string]bool{"nvme": true, guard.PCIStub: true, policy.VFIO: true}[name]
	if !ours && g != nil {
		_, ours = g.IDs[name]
	}
	if ours {
		d.armAgain()
	}
}

// guardIDs gives what the policy's rules call for.
func guardIDs(p *policy.Policy) []guard.ID {
	var ids []guard.ID
	for _, g := range p.Guarded().Patterns {
		id := guard.ID{Pattern: g.Pattern, Driver: g.Driver, Exact: g.Exact && !g.Auto, Why: g.Why, VMD: g.VMD}
		if g.Auto {
			id.Why = g.Rule.String() + " leaves the choice of the driver to each device"
		}
		ids = append(ids, id)
	}
	return ids
}

func guarding(w guard.Want, mode guard.Mode, since time.Time) *operate.Guarding {
	return &operate.Guarding{Mode: mode, Since: since, IDs: w.IDs}
}

// guardMode tells from what is armed which guard it is.
func guardMode(w guard.Want) guard.Mode {
	switch {
	case w.Gate:
		return guard.Gate
	case len(w.IDs[guard.PCIStub]) > 0:
		return guard.Stub
	case len(w.IDs) > 0:
		return guard.Claim
	}
	return guard.Race
}

// both is a guard under way from one to another: either may act on a device.
func both(a, b *operate.Guarding) *operate.Guarding {
	if a == nil {
		return b
	}
	sum := &operate.Guarding{Mode: b.Mode, IDs: map[string][]pci.Pattern{}}
	if a.Mode == guard.Gate {
		sum.Mode = guard.Gate
	}
	for _, g := range []*operate.Guarding{a, b} {
		for driver, patterns := range g.IDs {
			sum.IDs[driver] = append(sum.IDs[driver], patterns...)
		}
	}
	return sum
}
