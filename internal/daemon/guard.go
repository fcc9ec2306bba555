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

	"github.com/pilebones/go-udev/netlink"

	"vfio-hotplug/internal/guard"
	"vfio-hotplug/internal/journal"
	"vfio-hotplug/internal/operate"
	"vfio-hotplug/internal/pci"
	"vfio-hotplug/internal/uevent"
	"vfio-hotplug/policy"
)

// Guard is armed in the kernel; *guard.Guard is one. What changes the kernel
// may block for as long as it hangs on any device that it concerns.
type Guard interface {
	Arm(ctx context.Context, want guard.Want, seen []guard.Seat) (ended <-chan struct{}, err error)
	See(context.Context, guard.Seat) error
	State() (guard.State, error)
	Shield(context.Context, []guard.Seat) error
	Unshielded(context.Context, []guard.Seat) error
	Settled(context.Context) error
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
	d.unshieldLeft(ctx)
	load := true
	for {
		d.arm(ctx, load)
		select {
		case <-d.again:
			load = d.loadAgain.Swap(false)
		case <-ctx.Done():
			return
		}
	}
}

// armAgain has the guard judged and armed again; with load, after the drivers
// that it would need have been loaded.
func (d *Daemon) armAgain(load bool) {
	if load {
		d.loadAgain.Store(true)
	}
	select {
	case d.again <- struct{}{}:
	default:
	}
}

// recallGuard takes up the guard that an earlier daemon has left armed.
func (d *Daemon) recallGuard() {
	if d.Guard == nil {
		return
	}
	state, err := d.Guard.State()
	if err != nil {
		d.logGuardFault("recall the guard", err)
		return
	}
	d.guarding.Store(Recall(state, time.Now()))
}

// Recall is what the guard does that is armed, as its record says, since a time.
func Recall(s guard.State, since time.Time) *operate.Guarding {
	return &operate.Guarding{Mode: guardMode(s.Armed), Since: since, Armed: s.Armed, Was: s.Was, Seen: guard.NewSeats(s.Seen)}
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

// see notes that a device has been seen to, for this daemon and the next.
func (d *Daemon) see(ctx context.Context, seat guard.Seat) {
	g := d.guarding.Load()
	if d.Guard == nil || g == nil || g.Seen.Has(seat) {
		return
	}
	g.Seen.Add(seat)
	d.begin(func() {
		if err := d.Guard.See(ctx, seat); err != nil && ctx.Err() == nil {
			d.logGuardFault("note that "+seat.Address.String()+" has been seen to", err)
		}
	})
}

// settled notes that all that an earlier guard has caught has been seen to.
func (d *Daemon) settled(ctx context.Context) {
	if d.Guard == nil {
		return
	}
	if err := d.Guard.Settled(ctx); err != nil {
		d.logGuardFault("settle the guard", err)
	}
}

// chosen is the guard that fits, and whether it is in force.
type chosen struct {
	guard.Choice
	armed bool
}

// arm brings the kernel to the guard that fits the policy and the machine.
func (d *Daemon) arm(ctx context.Context, load bool) {
	p := d.policy.Load()
	rules := guardRules(p)
	mode := guard.Mode(p.GuardMode().String())
	if load {
		d.loadForGuard(ctx, mode, rules.IDs)
	}
	machine, err := d.Machine()
	if err != nil {
		d.logGuardFault("judge the machine for a guard", err)
		return
	}
	choice, fault := ChooseGuard(machine, p)
	d.chosen.Store(&chosen{Choice: choice})
	want := guard.Wanted(choice, rules.IDs)
	before := d.guarding.Load()
	seen, err := d.Operator.Seats(before, d.newcomer)
	if err != nil {
		d.logGuardFault("look who is there before the guard", err)
		return
	}
	now := moved(before, want, choice.Mode, seen)
	// From here on what either guard catches is ours to bring on.
	d.guarding.Store(under(before, now))
	err = d.armShielded(ctx, want, seen)
	if ctx.Err() != nil {
		return
	}
	if err == nil || errors.As(err, new(*guard.HungError)) {
		now.Since = time.Now()
		d.guarding.Store(now)
		d.chosen.Store(&chosen{choice, err == nil})
	}
	d.logGuard(choice, errors.Join(fault, err))
	if guards := all(now.Was, now.Armed); guards.Gate || len(guards.IDs) > 0 {
		d.scan(ctx, nil) // for what came while the guard moved
	}
}

// moved is the guard after it has moved, but for the time.
func moved(before *operate.Guarding, want guard.Want, mode guard.Mode, seen []guard.Seat) *operate.Guarding {
	now := &operate.Guarding{Mode: mode, Armed: want, Seen: guard.NewSeats(seen)}
	if before != nil {
		now.Was = all(before.Was, before.Armed)
	}
	return now
}

// under is a guard under way from one to another: either may act on a device.
func under(before, now *operate.Guarding) *operate.Guarding {
	both := *now
	if before != nil {
		both.Armed = all(before.Armed, now.Armed)
	}
	return &both
}

// all is what two guards catch.
func all(a, b guard.Want) guard.Want {
	sum := guard.Want{IDs: map[string][]pci.Pattern{}, Gate: a.Gate || b.Gate}
	for _, w := range []guard.Want{a, b} {
		for driver, patterns := range w.IDs {
			for _, p := range patterns {
				if !slices.Contains(sum.IDs[driver], p) {
					sum.IDs[driver] = append(sum.IDs[driver], p)
				}
			}
		}
	}
	return sum
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

func (d *Daemon) logGuard(c guard.Choice, err error) {
	attrs := []any{slog.String("guard", string(c.Mode)), slog.String("reason", c.Why), journal.MessageGuard.Attr()}
	if err != nil {
		d.guardSaid = ""
		d.Log.Error("guard: "+oneLine(err), attrs...)
		return
	}
	text := fmt.Sprintf("guard %s: %s", c.Mode, c.Why)
	if c.Remedy != "" {
		text += "; for a stronger one: " + c.Remedy
	}
	// Drivers that are loaded for it have it judged and armed once more.
	level := slog.LevelInfo
	if text == d.guardSaid {
		level = slog.LevelDebug
	}
	d.guardSaid = text
	d.Log.Log(context.Background(), level, text, attrs...)
}

func (d *Daemon) logGuardFault(step string, err error) {
	d.Log.Error(step+": "+oneLine(err), journal.MessageGuard.Attr())
}

// oneLine is an error's text on one line.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// dispatchDriver has the guard armed again when a driver that matters to it
// comes or goes: its dynamic IDs go with it, and the order changes. While the
// gate is closed, one that comes is offered the devices that have none.
func (d *Daemon) dispatchDriver(ctx context.Context, ev *uevent.Event) {
	if d.Guard == nil || path.Dir(ev.KObj) != "/bus/pci/drivers" {
		return
	}
	name := path.Base(ev.KObj)
	g := d.guarding.Load()
	if g.Concerns(name) {
		d.armAgain(ev.Action == netlink.ADD)
	}
	if ev.Action == netlink.ADD && g.Gated() {
		d.offer(ctx, name)
	}
}

// ChooseGuard gives the guard that a daemon would choose on a machine for a
// policy. The error says why one that the policy names cannot hold.
func ChooseGuard(m guard.Machine, p *policy.Policy) (guard.Choice, error) {
	return guard.Choose(m, guard.Mode(p.GuardMode().String()), guardRules(p))
}

// guardRules gives what the policy's rules call for.
func guardRules(p *policy.Policy) guard.Rules {
	guarded := p.Guarded()
	rules := guard.Rules{Others: len(guarded.Unguarded) > 0}
	for _, g := range guarded.Patterns {
		id := guard.ID{Pattern: g.Pattern, Driver: g.Driver, Exact: g.Exact && !g.Auto, Why: g.Why, VMD: g.VMD}
		if g.Auto {
			id.Why = g.Rule.String() + " leaves the choice of the driver to each device"
		}
		rules.IDs = append(rules.IDs, id)
	}
	return rules
}
