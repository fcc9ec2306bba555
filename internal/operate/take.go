package operate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"vfio-hotplug/internal/bind"
	"vfio-hotplug/internal/inuse"
	"vfio-hotplug/internal/ledger"
	"vfio-hotplug/internal/pci"
	"vfio-hotplug/internal/sysfs"
	"vfio-hotplug/policy"
)

// Take judges a device and, if the policy and every check agree, brings it
// under the wanted driver. It returns when that is done, or refused and put
// back, or the device gone.
//
// It waits: for the device to become ready to bind, for another driver to
// finish bringing it up, for an unbind. When ctx ends it returns at once with
// an empty Outcome; the ledger then says what is half done, and a later Take
// of the same device finishes it.
func (o *Operator) Take(ctx context.Context, r Request) Result {
	t := &taking{judge: judge{Operator: o, Request: r}}
	result := t.run(ctx)
	result.Address, result.Group, result.Slot = r.Device.Address(), t.facts.IOMMUGroup, t.facts.Slot
	if t.decision.Rule != nil {
		result.Rule = t.decision.Rule.Name
	}
	return result
}

// taking is one Take.
type taking struct {
	judge
	back     bind.State // what to put back
	changed  bool       // something has been written that would have to be put back
	override string     // driver_override when we came
}

func (t *taking) run(ctx context.Context) Result {
	// The facts that the policy does not need are read when there is time.
	if err := t.decide(t.Policy.Needs()); err != nil {
		return t.failure(ctx, err)
	}
	if t.decision.Verdict != policy.Bind {
		return t.left(t.decision.Reason, "")
	}
	if t.Arrival == Found {
		if c := t.checkReleased(); c.Veto {
			return t.left(c.Text, c.Remedy)
		}
	}
	lock, err := t.lock(ctx)
	if err != nil {
		return t.failure(ctx, err)
	}
	defer lock.Unlock()
	return t.locked(ctx, lock)
}

// locked is the part that only one process does at a time for one device.
func (t *taking) locked(ctx context.Context, lock *ledger.Lock) Result {
	now, err := t.Device.Driver()
	if err != nil {
		return t.failure(ctx, err)
	}
	entry, err := t.entry()
	if err != nil {
		return t.refused(ctx, veto("ledger", "", "%v", err))
	}
	switch {
	case now == t.driver:
		return t.already(ctx, entry)
	case entry != nil && entry.Stage == ledger.Taken && t.Arrival == Found:
		return t.left(fmt.Sprintf("it was bound to %s, and somebody else has since given it to %s", entry.Driver, orNone(now)),
			"vfio-hotplug bind "+t.facts.Address.String())
	}
	if t.override, err = t.Device.Override(); err != nil {
		return t.failure(ctx, err)
	}
	if t.back, err = t.before(now, t.override); err != nil {
		return t.refused(ctx, veto("ledger", "", "%v", err))
	}
	t.changed = entry != nil
	for _, c := range []func() Check{
		func() Check { return t.checkOverride(t.override) },
		t.checkGroup,
		func() Check { return t.checkDriver(ctx, true) },
	} {
		if c := c(); c.Veto {
			return t.refused(ctx, c)
		}
	}
	if now == "" {
		return t.attach(ctx, lock)
	}
	return t.takeFrom(ctx, now, lock)
}

// attach gives a device without a driver to the wanted one. A new device
// cannot be bound before the kernel has set it up: the override then stands,
// and either the kernel attaches the driver itself or a later probe does.
func (t *taking) attach(ctx context.Context, lock *ledger.Lock) Result {
	if err := t.record(ledger.Taking); err != nil {
		return t.refused(ctx, veto("ledger", "", "%v", err))
	}
	var now string
	err := t.patiently("write driver_override", func() (err error) {
		now, err = bind.Offer(t.Device, t.driver)
		return err
	})
	giveUp := time.NewTimer(t.Limit.Attach)
	defer giveUp.Stop()
	for pause := 5 * time.Millisecond; now == ""; pause = min(2*pause, time.Second) {
		if err == nil {
			now, err = bind.Insist(t.Device, t.driver)
		}
		if err == nil {
			continue
		}
		if !notYet(err) {
			return t.undo(ctx, err)
		}
		select {
		case <-t.watch().Wake():
		case <-time.After(pause):
		case <-giveUp.C:
			return t.undo(ctx, fmt.Errorf("the kernel has not let it be bound for %v: %w", t.Limit.Attach, err))
		case <-ctx.Done():
			return t.failure(ctx, ctx.Err())
		}
		now, err = bind.Probe(t.Device)
	}
	if err != nil {
		return t.undo(ctx, err)
	}
	if now == t.driver {
		return t.bound(ctx, "")
	}
	// The race was lost: another driver matched before the override stood.
	t.back.Driver, t.back.New = now, false
	return t.takeFrom(ctx, now, lock)
}

// notYet reports whether a driver cannot match the device so far: it has been
// announced, but the kernel is still setting it up.
func notYet(err error) bool {
	return errors.Is(err, syscall.ENODEV) && !errors.Is(err, bind.ErrGone)
}

// takeFrom takes a device from another driver, if it is not in use.
func (t *taking) takeFrom(ctx context.Context, from string, lock *ledger.Lock) Result {
	if c := t.checkTakeover(from); c.Veto {
		return t.refused(ctx, c)
	}
	hold, c, err := t.holdUnused(ctx, from)
	if err != nil {
		return t.failure(ctx, err)
	}
	if c.Veto {
		return t.refused(ctx, c)
	}
	defer hold.Close()
	if err := t.record(ledger.Taking); err != nil {
		return t.refused(ctx, veto("ledger", "", "%v", err))
	}
	files := append(hold.Files(), lock.File())
	err = t.patiently("unbind from "+from, func() error {
		return bind.Take(ctx, t.Device, t.driver, bind.State{Driver: from, Override: t.back.Override}, files...)
	})
	if err != nil {
		return t.failure(ctx, err)
	}
	return t.bound(ctx, from)
}

// holdUnused looks whether the device is in use and, if not, keeps hold of it
// so that nobody can begin. It waits until its driver has brought it up: before
// that, an empty device and a full one look the same.
func (t *taking) holdUnused(ctx context.Context, from string) (*inuse.Hold, Check, error) {
	const name = "in use"
	how := inuse.How{Blank: t.decision.Takeover == policy.Blank, Exclusive: true}
	giveUp := time.NewTimer(t.Limit.Settle)
	defer giveUp.Stop()
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		facts := t.facts
		facts.Driver = from
		report, hold, err := t.Uses.Look(ctx, t.Device, facts, how)
		var unsettled *inuse.NotSettledError
		switch {
		case errors.As(err, &unsettled):
		case err != nil:
			return nil, Check{}, err
		case report.Veto():
			hold.Close()
			return nil, veto(name, report.Remedy(), "%s", report), nil
		default:
			return hold, pass(name, "%s", report), nil
		}
		select {
		case <-t.watch().Wake():
		case <-time.After(pause):
		case <-giveUp.C:
			return nil, veto(name, "look at the drive: nvme list; dmesg",
				"%s has not brought it up in %v, so it cannot be checked: %v", from, t.Limit.Settle, err), nil
		case <-ctx.Done():
			return nil, Check{}, ctx.Err()
		}
	}
}

// already finishes with a device that has the wanted driver: the kernel may
// have been told before, or an earlier operation was cut short at its end.
func (t *taking) already(ctx context.Context, entry *ledger.Entry) Result {
	if t.Arrival == HotAdd {
		t.back = bind.State{New: true}
		return t.bound(ctx, "")
	}
	if entry != nil && entry.Stage == ledger.Taking {
		t.back = bind.State(entry.Before)
		return t.bound(ctx, entry.Before.Driver)
	}
	result := t.verified(Already)
	if err := t.obeyed(); err != nil {
		return Result{Outcome: Failed, Driver: t.driver, Reason: err.Error()}
	}
	result.Reason = "it is on " + t.driver + " already"
	return result
}

// bound finishes with a device that has just come under the wanted driver.
func (t *taking) bound(ctx context.Context, from string) Result {
	var latency time.Duration
	if t.Arrival == HotAdd {
		latency = time.Since(t.At)
		t.hear(ctx)
		if t.vanished() {
			return t.gone()
		}
	}
	if from == "" {
		from = cmp.Or(t.back.Driver, t.watch().Foreign(t.driver))
	}
	outcome := Direct
	if from != "" {
		outcome = Taken
	}
	result := t.verified(outcome)
	result.From, result.Latency, result.Reason = from, latency, t.decision.Reason
	if err := t.recordOutcome(result); err != nil {
		result.Reason += "; it cannot be given back by release: " + err.Error()
	}
	return result
}

// hear waits until the kernel's events about the device have been heard up to
// the bind, so that "no other driver" is known and not hoped.
func (t *taking) hear(ctx context.Context) {
	giveUp := time.NewTimer(5 * time.Second)
	defer giveUp.Stop()
	for !t.watch().Saw(t.driver) && !t.vanished() {
		select {
		case <-t.watch().Wake():
		case <-giveUp.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// verified is a result about a device that is bound, from what sysfs says now.
func (t *taking) verified(outcome Outcome) Result {
	if facts, err := t.Device.Read(pci.FactGroup | pci.FactSlot); err == nil {
		t.facts = facts
	}
	return Result{Outcome: outcome, Driver: t.driver, Node: t.node(t.Device)}
}

// undo ends an attach that failed: the device goes back.
func (t *taking) undo(ctx context.Context, err error) Result {
	if errors.Is(err, bind.ErrGone) {
		return t.failure(ctx, err)
	}
	back := t.patiently("put back", func() error { return bind.Restore(ctx, t.Device, t.driver, t.back) })
	if back != nil {
		err = &bind.Error{Step: bind.StepBind, Err: err, Back: back}
	}
	return t.failure(ctx, err)
}

// failure names what an error means for the device.
func (t *taking) failure(ctx context.Context, err error) Result {
	if ctx.Err() != nil {
		return Result{Reason: "interrupted: " + err.Error()}
	}
	if errors.Is(err, bind.ErrGone) || t.vanished() {
		return t.gone()
	}
	result := Result{Outcome: Failed, Reason: err.Error(), Remedy: remedy(err)}
	var fault *bind.Error
	if errors.As(err, &fault) && fault.Back != nil {
		result.Driver, _ = t.Device.Driver()
		return result
	}
	return t.asFound(result)
}

// refused is a veto's result. What an earlier, interrupted operation or a lost
// race has left behind is put back.
func (t *taking) refused(ctx context.Context, c Check) Result {
	result := Result{Outcome: Refused, Reason: c.Name + ": " + c.Text, Remedy: c.Remedy}
	if t.changed {
		err := t.patiently("put back", func() error { return bind.Restore(ctx, t.Device, t.driver, t.back) })
		if ctx.Err() != nil {
			return t.failure(ctx, ctx.Err())
		}
		if err != nil {
			result.Outcome, result.Reason = Failed, result.Reason+"; put back: "+err.Error()
			return result
		}
	}
	return t.asFound(result)
}

// asFound closes the ledger on a device that is as it was found.
func (t *taking) asFound(result Result) Result {
	result.Driver, _ = t.Device.Driver()
	if t.changed {
		if err := t.Ledger.Delete(t.Device.Address()); err != nil {
			result.Reason += "; " + err.Error()
		}
	}
	return result
}

func (t *taking) left(reason, remedy string) Result {
	return Result{Outcome: Left, Driver: t.facts.Driver, Reason: reason, Remedy: remedy}
}

func (t *taking) gone() Result {
	result := Result{Outcome: Gone, Reason: "it was unplugged"}
	if t.changed {
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

// record writes down what there was before the first change.
func (t *taking) record(stage ledger.Stage) error {
	err := t.Ledger.Put(t.line(stage))
	t.changed = t.changed || err == nil
	return err
}

func (t *taking) recordOutcome(result Result) error {
	line := t.line(ledger.Taken)
	line.Outcome, line.Latency = string(result.Outcome), result.Latency
	return errors.Join(t.Ledger.Put(line), t.obeyed())
}

// obeyed ends an earlier release, since a hand has now bound the device.
func (t *taking) obeyed() error {
	if t.Arrival != ByHand {
		return nil
	}
	return t.Ledger.Forget(t.Device.Address())
}

func (t *taking) line(stage ledger.Stage) ledger.Entry {
	line := ledger.Entry{
		Address:  t.Device.Address(),
		Identity: t.Device.Identity(),
		Before:   ledger.Before(t.back),
		Driver:   t.driver,
		At:       time.Now(),
		Stage:    stage,
	}
	if t.decision.Rule != nil {
		line.Rule = t.decision.Rule.Name
	}
	return line
}

func orNone(driver string) string {
	if driver == "" {
		return "no driver"
	}
	return driver
}
