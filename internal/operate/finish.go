package operate

import (
	"cmp"
	"context"
	"errors"
	"strings"
	"time"

	"vfio-hotplug/internal/bind"
	"vfio-hotplug/internal/iommu"
	"vfio-hotplug/internal/ledger"
	"vfio-hotplug/internal/sysfs"
)

// already finishes with a device that has the wanted driver: the kernel may
// have been told before, or an earlier operation was cut short at its end.
func (t *taking) already(ctx context.Context) Result {
	switch {
	case t.prior != nil && t.prior.Stage != ledger.Taken:
		t.origin = bind.State(t.prior.Before)
		if len(t.prior.With) > 0 {
			t.remember(t.driver, "")
			if c := t.checkGroup(); c.Veto {
				return t.refused(ctx, c)
			}
			if result, ok := t.bringAlong(ctx); !ok {
				return result
			}
		}
		// A release that was cut short may have pointed it elsewhere.
		err := t.patiently("write driver_override", func() error { return t.Device.SetOverride(t.driver) })
		if err != nil {
			return t.failure(ctx, err)
		}
		return t.bound(ctx, t.prior.Before.Driver)
	case t.prior == nil && t.Arrival == HotAdd:
		t.origin, t.late = bind.State{New: true}, true
		return t.bound(ctx, "")
	}
	result := t.verified(Already)
	result.Reason = "it is on " + t.driver + " already"
	if err := t.obeyed(); err != nil {
		result.Outcome, result.Reason = Failed, err.Error()
	}
	return result
}

// bound finishes with a device that has just come under the wanted driver.
func (t *taking) bound(ctx context.Context, from string) Result {
	var latency time.Duration
	heard := true
	if t.Arrival == HotAdd {
		latency = time.Since(t.At)
		heard = t.hear(ctx)
		if t.vanished() {
			return t.gone()
		}
	}
	foreign, lost := t.watch().Foreign(append(t.Guard.haveCaught(t.facts.IDs()), t.driver)...)
	from = cmp.Or(from, t.origin.Driver, foreign)
	named := from != ""
	switch {
	case named:
	case lost:
		from = "unknown (events were lost)"
	case !heard:
		from = "unknown (its bind was not heard of)"
	}
	outcome := Direct
	if from != "" {
		outcome = Taken
	}
	result := t.verified(outcome)
	result.From, result.Latency = from, latency
	result.Reason = strings.Join(append([]string{t.decision.Reason}, notChecked(t.unchecked)...), "; ")
	if t.guarded() {
		result.Guard = string(t.Guard.Mode)
		if named {
			t.missed = from
		}
	}
	line := t.line(ledger.Taken)
	line.Outcome, line.Latency = string(outcome), latency
	if err := errors.Join(t.Ledger.Put(line), t.obeyed()); err != nil {
		result.Reason += "; it cannot be given back by release: " + err.Error()
	}
	if t.late {
		err := t.patiently("announce the node", func() error { return iommu.Announce(t.FS.Root(), t.Device.Dir()) })
		if err != nil {
			result.Reason += "; udev does not know that it is ours: " + err.Error()
		}
	}
	return result
}

// notChecked says what was not looked at before a device was taken.
func notChecked(what []string) []string {
	words := make([]string, len(what))
	for i, w := range what {
		words[i] = "not checked: " + w
	}
	return words
}

// hear waits until the kernel's events about the device have been heard up to
// the bind, so that "no other driver" is known and not hoped; it reports
// whether they were.
func (t *taking) hear(ctx context.Context) bool {
	giveUp := time.NewTimer(5 * time.Second)
	defer giveUp.Stop()
	for !t.watch().Saw(t.driver) && !t.vanished() {
		select {
		case <-t.watch().Wake():
		case <-giveUp.C:
			return false
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// obeyed ends an earlier release, since a hand has now bound the device.
func (t *taking) obeyed() error {
	if t.Arrival != ByHand {
		return nil
	}
	return t.Ledger.Forget(t.Device.Address())
}

// verified is a result about a device that is bound, from what sysfs says now.
func (t *taking) verified(outcome Outcome) Result {
	if facts, err := readTold(t.Device); err == nil {
		t.facts = facts
	}
	return Result{Outcome: outcome, Driver: t.driver, Node: t.node(t.Device)}
}

// failure names what an error means for the device, and puts back what was
// changed.
func (t *taking) failure(ctx context.Context, err error) Result {
	switch {
	case ctx.Err() != nil:
		return t.interrupted()
	case errors.Is(err, bind.ErrGone) || t.vanished():
		return t.gone()
	}
	var fault *bind.Error
	if errors.As(err, &fault) {
		fault.Back = nil // it is tried once more below, and told then
	}
	return t.giveUp(ctx, Result{Outcome: Failed, Reason: err.Error(), Remedy: remedy(err)})
}

// interrupted is the result of an operation that was told to stop. The ledger
// has what is half done; whoever comes next finishes it.
func (t *taking) interrupted() Result {
	return Result{
		Reason: "interrupted",
		Remedy: "vfio-hotplug bind or release " + t.Device.Address().String() + ", or start the daemon, to finish it",
	}
}

// refused is a veto's result.
func (t *taking) refused(ctx context.Context, c Check) Result {
	if c.Name != groupCheck {
		t.inTheWay = ""
	}
	return t.giveUp(ctx, Result{Outcome: Refused, Check: c.Name, Reason: c.Name + ": " + c.Text, Remedy: c.Remedy})
}

// giveUp ends an operation that does not come to its end: what was changed,
// now or by an earlier operation that was cut short, is put back, and the
// ledger says what it said. Where the kernel does not let it be put back, that
// is told, and the ledger keeps it for the next try.
func (t *taking) giveUp(ctx context.Context, result Result) Result {
	if t.dirty {
		if held := t.opened(t.ours); held.Veto && t.back.Driver != t.ours {
			return t.stays(result, held)
		}
		err := t.putBack(ctx)
		if ctx.Err() != nil {
			return t.interrupted()
		}
		result.Driver, _ = t.Device.Driver()
		if err == nil {
			err = t.forget()
		}
		if err != nil {
			result.Outcome, result.Reason = Failed, result.Reason+"; put back: "+err.Error()
			return result
		}
	}
	result.Driver, _ = t.Device.Driver()
	return result
}

// opened is checkHolders of a device that is on a driver now: nobody can have
// another open through a node that we know.
func (t *taking) opened(driver string) Check {
	if now, err := t.Device.Driver(); err != nil || now != driver {
		return pass("open", "it is not on %s", driver)
	}
	return t.checkHolders()
}

// stays ends an operation that ought to be put back, where a program has opened
// the device meanwhile: it is taken, and a release gives it back.
func (t *taking) stays(result Result, held Check) Result {
	result.Driver, t.dirty = t.ours, false
	result.Reason += "; it stays on " + t.ours + ": " + held.Text
	result.Remedy = cmp.Or(held.Remedy, "see who has it") + ", then vfio-hotplug release " + t.Device.Address().String()
	line := t.line(ledger.Taken)
	line.Driver, line.Outcome = t.ours, string(Taken)
	// The way back may have begun.
	err := t.patiently("write driver_override", func() error { return t.Device.SetOverride(t.ours) })
	if err = errors.Join(err, t.Ledger.Put(line)); err != nil {
		result.Outcome, result.Reason = Failed, result.Reason+"; "+oneLine(err)
	}
	return result
}

// stayed has the ledger say that a device is taken which the guard caught and
// which was to be let through, but a program has opened it since.
func (t *taking) stayed() error {
	// The way to its own driver may have begun.
	err := t.patiently("write driver_override", func() error { return t.Device.SetOverride(t.prior.Driver) })
	if err != nil {
		return err
	}
	t.prior.Stage, t.prior.Outcome = ledger.Taken, string(Taken)
	return t.Ledger.Put(*t.prior)
}

// putBack puts a device back to what it was. A new one that the guard would
// catch again goes to its driver by name.
func (t *taking) putBack(ctx context.Context) error {
	back := t.back
	named := back.New && len(t.Guard.haveCaught(t.facts.IDs())) > 0
	if named {
		back = bind.State{Driver: t.natural(ctx)}
	}
	err := t.patiently("put back", func() error {
		return t.restore(ctx, t.ours, back)
	})
	if err == nil && named && back.Driver == "" {
		err = t.offer()
	}
	return err
}

// restore is bind.Restore, once more where it did not come to its end: a fault
// that passes must not leave a device half way back.
func (t *taking) restore(ctx context.Context, ours string, before bind.State) error {
	err := bind.Restore(ctx, t.Device, ours, before, t.lock.File())
	if err != nil && ctx.Err() == nil {
		err = bind.Restore(ctx, t.Device, ours, before, t.lock.File())
	}
	return err
}

// forget has the ledger say what it said before this operation.
func (t *taking) forget() error {
	t.dirty = false
	if t.prior != nil && t.prior.Stage == ledger.Taken {
		return t.Ledger.Put(*t.prior)
	}
	return t.Ledger.Delete(t.Device.Address())
}

func (t *taking) left(reason, remedy string) Result {
	return Result{Outcome: Left, Driver: t.facts.Driver, Reason: reason, Remedy: remedy}
}

func (t *taking) gone() Result {
	result := Result{Outcome: Gone, Reason: "it was unplugged"}
	if t.dirty {
		if err := t.Ledger.Delete(t.Device.Address()); err != nil {
			result.Reason += "; " + err.Error()
		}
	}
	return result
}

func (t *taking) vanished() bool {
	err := t.Device.Present()
	return sysfs.Gone(err) || errors.Is(err, sysfs.ErrReplaced)
}

func orNone(driver string) string {
	if driver == "" {
		return "no driver"
	}
	return driver
}
