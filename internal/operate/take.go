package operate

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"vfio-hotplug/internal/bind"
	"vfio-hotplug/internal/guard"
	"vfio-hotplug/internal/inuse"
	"vfio-hotplug/internal/ledger"
	"vfio-hotplug/internal/pci"
	"vfio-hotplug/internal/sysfs"
	"vfio-hotplug/policy"
)

// Take judges a device and, if the policy and every check agree, brings it
// under the wanted driver. It returns when that is done, or refused and put
// back, or the device gone. What an earlier operation on the device left half
// done, as the ledger tells, is finished or put back on the way.
//
// It waits: for the device's lock, for a new device to become ready to bind,
// for another driver to finish bringing it up, for an unbind. After each wait
// the policy is asked again. When ctx ends it returns at once with an empty
// Outcome; the ledger then says what is half done.
func (o *Operator) Take(ctx context.Context, r Request) Result {
	t := &taking{judge: judge{Operator: o, Request: r}}
	return t.told(t.take(ctx))
}

// taking is one operation on one device.
type taking struct {
	judge
	lock  *ledger.Lock
	locks map[pci.Address]*ledger.Lock // lock, and those of the devices in beside
	// beside are devices whose locks are held too, since they may have to come
	// along, and companions those that do; restart says that the operation is to
	// begin again, with the locks of all in beside.
	beside     []pci.Address
	companions []*companion
	restart    bool
	party      []pci.Address // the others of the transaction
	prior      *ledger.Entry // what the ledger said of this device when we came
	// back is what the device is put back to when this operation fails, and
	// ours the driver that its override then names if it is our doing.
	back bind.State
	ours string
	// origin is what a release will put back.
	origin bind.State
	// dirty says that something of ours may stand on the device.
	dirty bool
	// fresh says that no driver has had the device since it was plugged, but
	// for those to which the guard gives it.
	fresh bool
	// unoffered says that udev's coldplug has kept drivers from it.
	unoffered bool
	// missed is the driver that had it although a guard was armed, "" for none.
	missed string
	// inUse is what stood in the way when it was last looked at, nil for nothing.
	inUse *inuse.Report
	// late says that the device had its driver before the ledger said that it is
	// to have it: udev may have been asked about its nodes in between.
	late bool
	// unchecked is what the last look could not look at, and nobody can.
	unchecked []string
}

// told completes a result with what every result tells.
func (t *taking) told(r Result) Result {
	if r.Outcome != Refused {
		t.inTheWay = ""
	}
	if r.Check == "" && r.Reason == t.decision.Reason {
		r.Check = policyCheck
	}
	r.Address, r.Group, r.Slot, r.InTheWay = t.Device.Address(), t.facts.IOMMUGroup, t.facts.Slot, t.inTheWay
	if t.decision.Rule != nil {
		r.Rule = t.decision.Rule.Name
	}
	known := t.facts.IDs() != pci.IDs{} // what could not be read may be the guard's catch
	r.Seen = r.Driver != "" && (r.Outcome.Bound() || known && !t.caughtBy(r.Driver))
	if r.Outcome == Refused {
		r.InUse = t.inUse
	}
	if t.missed != "" {
		r.Missed, r.Guard, r.From = true, string(t.Guard.Mode), t.missed
	}
	return r
}

func (t *taking) take(ctx context.Context) Result {
	// The facts that the policy does not need are read when there is time.
	if err := t.decideWhenKnown(ctx); err != nil {
		return t.failure(ctx, err)
	}
	if result, stuck := t.leaving(ctx); stuck {
		return result
	}
	if result, unwanted := t.unnamed(); unwanted && !t.halfDone() && !t.mayBeCaught() {
		result.Driver = t.facts.Driver
		return result
	}
	for again := false; ; again = true {
		waited, err := t.enter(ctx)
		if err != nil {
			return t.failure(ctx, err)
		}
		if waited || again {
			err = t.decide()
		}
		var result Result
		if err != nil {
			result = t.failure(ctx, err)
		} else {
			result = t.locked(ctx)
		}
		if !t.restart {
			result = t.together(ctx, result)
			t.leave()
			return result
		}
		t.leave()
		*t = taking{judge: judge{Operator: t.Operator, Request: t.Request}, beside: t.beside}
	}
}

// halfDone reports whether an earlier operation was cut short, or may have been.
func (t *taking) halfDone() bool {
	entry, err := t.entry()
	return err != nil || entry != nil && entry.Stage != ledger.Taken
}

// locked is the part that only one process does at a time for one device.
func (t *taking) locked(ctx context.Context) Result {
	var err error
	if t.prior, err = t.entry(); err != nil {
		return t.refused(ctx, veto("ledger", "", "%v", err))
	}
	if t.prior != nil {
		switch {
		case t.prior.Stage == ledger.Releasing && t.Arrival != ByHand:
			return t.giveBack(ctx, *t.prior)
		case t.prior.Stage == ledger.Letting && t.opened(t.prior.Driver).Veto:
			if err := t.stayed(); err != nil {
				return t.failure(ctx, err)
			}
		case t.prior.Stage == ledger.Letting:
			if _, err := t.let(ctx, t.prior.Driver); err != nil {
				return t.failure(ctx, err)
			}
			t.prior = nil
		case t.prior.Stage == ledger.Taking && !t.haveLocked(t.prior.With):
			return t.startOver(t.prior.With)
		}
	}
	now, err := t.Device.Driver()
	if err != nil {
		return t.failure(ctx, err)
	}
	caught, err := t.isCaught(now)
	if err != nil {
		return t.failure(ctx, err)
	}
	t.fresh = caught || t.prior == nil && now == "" && (t.Arrival == HotAdd || t.Arrival == AtBoot)
	if result, unwanted := t.unwanted(); unwanted {
		if caught || t.fresh && t.expected() {
			return t.letThrough(ctx, now, result)
		}
		t.remember(now, "")
		return t.giveUp(ctx, result)
	}
	if reason := t.tooEarly(now); reason != "" {
		early := t.left(reason, "")
		early.Check = tooEarlyCheck
		return early
	}
	if caught || t.fresh && t.expected() && t.Guard.held(t.At) {
		return t.takeCaught(ctx, now)
	}
	if now == t.driver {
		return t.already(ctx)
	}
	if reason, remedy := t.takenAway(t.prior, now); reason != "" && t.Arrival != ByHand {
		return t.left(reason, remedy)
	}
	t.miss(now)
	override, err := t.override()
	if err != nil {
		return t.failure(ctx, err)
	}
	t.fresh = t.fresh || t.unoffered && t.prior == nil && now == ""
	t.remember(now, override)
	if c, refused := t.check(ctx, override); refused {
		return t.refused(ctx, c)
	}
	switch {
	case now == "" && t.unread() && t.expected():
		return t.readThrough(ctx, now)
	case now == "" && t.unread():
		return t.readFirst(ctx, now)
	case now == "":
		return t.attach(ctx)
	case now == guard.PCIStub && t.unread():
		return t.readFirst(ctx, now)
	}
	return t.takeFrom(ctx, now)
}

// decideWhenKnown is decide, after the kernel has told what the policy asks for
// of a device that it is still adding.
func (t *taking) decideWhenKnown(ctx context.Context) error {
	giveUp := time.NewTimer(t.Limit.Attach)
	defer giveUp.Stop()
	for pause := time.Millisecond; ; pause = min(2*pause, time.Second) {
		if err := t.decide(); err != nil || t.decision.Unread == nil || !t.decision.Unread.Soon {
			return err
		}
		select {
		case <-t.watch().Wake():
		case <-time.After(pause):
		case <-giveUp.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// unnamed is the result where the policy does not say that the device is to be
// bound: it leaves the device, or has no answer.
func (t *taking) unnamed() (Result, bool) {
	if r, ok := t.undecided(); ok {
		return r, true
	}
	return Result{Outcome: Left, Reason: t.decision.Reason}, t.decision.Verdict != policy.Bind
}

// unwanted is the result where the device is not to be taken, whatever its state.
func (t *taking) unwanted() (Result, bool) {
	if r, unnamed := t.unnamed(); unnamed {
		return r, true
	}
	if t.Arrival == ByHand {
		return Result{}, false
	}
	c := t.checkReleased()
	return Result{Outcome: Left, Reason: c.Text, Remedy: c.Remedy}, c.Veto
}

// check goes through the checks that do not depend on who has the device.
func (t *taking) check(ctx context.Context, override string) (Check, bool) {
	if c := t.checkOverride(override, t.prior); c.Veto {
		return c, true
	}
	if c := t.checkGroup(); c.Veto {
		return c, true
	}
	c := t.checkDriver(ctx, true)
	return c, c.Veto
}

// remember notes the state to put back. Where an earlier operation was cut
// short, that is what it had noted, and something of it may still stand.
func (t *taking) remember(driver, override string) {
	t.back = bind.State{Driver: driver, Override: override}
	if t.fresh {
		t.back = bind.State{New: true}
	}
	t.ours, t.origin = t.driver, t.back
	if t.prior == nil {
		return
	}
	t.origin = bind.State(t.prior.Before)
	if t.prior.Stage != ledger.Taken {
		t.back, t.ours, t.dirty = t.origin, t.prior.Driver, true
	}
}

// attach gives a device without a driver to the wanted one. A new device
// cannot be bound before the kernel has set it up: the override then stands,
// and either the kernel attaches the driver itself or a later probe does.
func (t *taking) attach(ctx context.Context) Result {
	if result, ok := t.bringAlong(ctx); !ok {
		return result
	}
	if err := t.record(ctx); err != nil {
		return t.unrecorded(ctx, err)
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
			now, err = t.insist()
		}
		if err == nil {
			continue
		}
		if !notYet(err) {
			return t.failure(ctx, err)
		}
		select {
		case <-t.watch().Wake():
		case <-time.After(pause):
		case <-giveUp.C:
			return t.failure(ctx, fmt.Errorf("the kernel has not let it be bound for %v: %w", t.Limit.Attach, err))
		case <-ctx.Done():
			return t.failure(ctx, ctx.Err())
		}
		if result, changed := t.reconsider(ctx); changed {
			return result
		}
		now, err = t.probe()
	}
	switch {
	case err != nil:
		return t.failure(ctx, err)
	case now == t.driver:
		return t.bound(ctx, "")
	case t.caughtBy(now):
		return t.fromCatcher(ctx, now)
	}
	// The race was lost: another driver matched before the override stood.
	t.miss(now)
	return t.takeFrom(ctx, now)
}

// probe is bind.Probe; the kernel waits in it for the device, and for whatever
// driver matches.
func (t *taking) probe() (now string, err error) {
	err = t.patiently("probe", func() error {
		now, err = bind.Probe(t.Device)
		return err
	})
	return now, err
}

// insist is bind.Insist for the wanted driver.
func (t *taking) insist() (now string, err error) {
	err = t.patiently("bind to "+t.driver, func() error {
		now, err = bind.Insist(t.Device, t.driver)
		return err
	})
	return now, err
}

// notYet reports whether a driver cannot match the device so far: it has been
// announced, but the kernel is still setting it up. An override can be written
// from the first on; without one, a probe would be for any driver.
func notYet(err error) bool {
	fault, ok := errors.AsType[*bind.Error](err)
	return ok && fault.Step != bind.StepOverride && errors.Is(err, syscall.ENODEV) && !errors.Is(err, bind.ErrGone)
}

// reconsider asks the policy again, if it has been reloaded meanwhile. A
// device that it now wants elsewhere is put back; the reload itself has it
// looked at again.
func (t *taking) reconsider(ctx context.Context) (Result, bool) {
	if t.Policy() == t.asked {
		return Result{}, false
	}
	driver := t.driver
	if err := t.decide(); err != nil {
		return t.failure(ctx, err), true
	}
	if result, unnamed := t.unnamed(); unnamed {
		return t.giveUp(ctx, result), true
	}
	if t.driver != driver {
		return t.giveUp(ctx, Result{Outcome: Left, Reason: "the policy was reloaded and now says " + t.driver}), true
	}
	return Result{}, false
}

// record writes down what there was, before the first change. Once ctx has ended
// nothing is begun.
func (t *taking) record(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := t.Ledger.Put(t.line(ledger.Taking)); err != nil {
		return err
	}
	t.ours, t.dirty = t.driver, true
	now, err := t.Device.Driver()
	t.late = t.late || err == nil && now == t.driver
	return nil
}

// unrecorded is the result where nothing could be written down.
func (t *taking) unrecorded(ctx context.Context, err error) Result {
	if ctx.Err() != nil {
		return t.interrupted()
	}
	return t.refused(ctx, veto("ledger", "", "%v", err))
}

func (t *taking) line(stage ledger.Stage) ledger.Entry {
	line := ledger.Entry{
		Address:  t.Device.Address(),
		Identity: t.Device.Identity(),
		Before:   ledger.Before(t.origin),
		Driver:   t.driver,
		At:       time.Now(),
		Stage:    stage,
	}
	if stage == ledger.Taking {
		line.With = t.party
	}
	if t.decision.Rule != nil {
		line.Rule = t.decision.Rule.Name
	}
	return line
}

// readTold reads what a result tells beyond what the policy needed: the group, and
// the slot, for which nothing is given up.
func readTold(dev *sysfs.Device) (pci.Device, error) {
	return dev.ReadMost(pci.FactGroup, pci.FactSlot)
}
