package operate

import (
	"context"
	"slices"
	"strings"
	"time"

	"vfio-hotplug/internal/bind"
	"vfio-hotplug/internal/guard"
	"vfio-hotplug/internal/kmod"
	"vfio-hotplug/internal/ledger"
	"vfio-hotplug/internal/pci"
	"vfio-hotplug/policy"
)

// mayBeCaught reports whether the guard has a hand in this device, or may get
// one: it then has to be looked at under the device's lock.
func (t *taking) mayBeCaught() bool {
	return t.Arrival == HotAdd && t.expected() ||
		t.Guard.mayHaveCaught(t.facts, t.Device.Identity(), t.facts.Driver)
}

// expected reports whether the guard keeps this device, which is new, from its
// driver.
func (t *taking) expected() bool {
	return t.Guard.Gated() || len(t.Guard.catchers(t.facts.IDs())) > 0
}

// isCaught reports whether the device has its driver, or none, by the guard's
// doing and nobody has seen to it since; or we have begun to and were cut short.
// It is then as if it had been plugged just now: what it had before is nothing.
// An override, a note in the ledger or a release by hand show that somebody has
// seen to it.
func (t *taking) isCaught(now string) (bool, error) {
	if t.prior != nil {
		return t.prior.Stage == ledger.Taking && t.prior.Before.New && (now == "" || t.caughtBy(now)), nil
	}
	if !t.Guard.mayHaveCaught(t.facts, t.Device.Identity(), now) {
		return false, nil
	}
	released, err := t.Ledger.Released(t.facts.Address, t.Device.Identity())
	if err != nil || released {
		return false, err
	}
	if t.Arrival == HotAdd {
		return true, nil
	}
	override, err := t.override()
	return err == nil && override == "", err
}

// override reads driver_override. The one by which an arming shields a device,
// or udev's coldplug keeps it, is nobody's.
func (t *taking) override() (string, error) {
	var override string
	err := t.patiently("read driver_override", func() (err error) {
		override, err = t.Device.Override()
		return err
	})
	t.unoffered = override == Unoffered
	if override == nobody || override == Unoffered {
		override = ""
	}
	return override, err
}

// takeCaught takes a device that the guard catches: the kernel gives it to the
// wanted driver by itself, or to pci-stub, or lets it wait. The override is
// written only where that did not happen; before Linux 7.0 it would race with
// the kernel's own match.
func (t *taking) takeCaught(ctx context.Context, now string) Result {
	t.remember(now, "")
	if err := t.record(ctx); err != nil {
		return t.unrecorded(ctx, err)
	}
	if t.Arrival == HotAdd && now == "" && len(t.Guard.catchers(t.facts.IDs())) > 0 {
		var err error
		if now, err = t.await(ctx, t.Limit.Caught, false); err != nil {
			return t.failure(ctx, err)
		}
	}
	if t.caughtBy(now) {
		t.ours = now
	}
	t.miss(now)
	if t.unread() {
		return t.readThrough(ctx, now)
	}
	if c, refused := t.check(ctx, ""); refused {
		return t.refused(ctx, c)
	}
	switch {
	case now == t.driver:
		return t.boundAlong(ctx)
	case now == "":
		return t.attach(ctx)
	case t.caughtBy(now):
		return t.fromCatcher(ctx, now)
	}
	return t.takeFrom(ctx, now)
}

// guarded reports whether a guard was to keep the device from other drivers when
// it was plugged.
func (t *taking) guarded() bool {
	return t.Arrival == HotAdd && !t.unread() && t.expected() && t.Guard.held(t.At)
}

// miss notes that a guarded device, which the policy wants, has another driver.
func (t *taking) miss(now string) {
	if now != "" && now != t.driver && !t.caughtBy(now) && t.guarded() {
		t.missed = now
	}
}

// caughtBy reports whether a driver has new devices with these IDs from our
// dynamic IDs.
func (t *taking) caughtBy(driver string) bool {
	return slices.Contains(t.Guard.haveCaught(t.facts.IDs()), driver)
}

// fromCatcher takes a device on from the driver, pci-stub as a rule, to which
// our guard has given it: no other driver has touched it. Whatever fails, it
// goes to the driver that it would have had.
func (t *taking) fromCatcher(ctx context.Context, from string) Result {
	if result, ok := t.bringAlong(ctx); !ok {
		return result
	}
	if err := t.record(ctx); err != nil {
		return t.unrecorded(ctx, err)
	}
	err := t.patiently("take on from "+from, func() error {
		return bind.Take(ctx, t.Device, t.driver, bind.State{Driver: from}, t.lock.File())
	})
	if err != nil {
		t.ours = from
		return t.failure(ctx, err)
	}
	return t.bound(ctx, "")
}

// readThrough lets a device that the guard catches, and that its own driver is
// to read first, through to that driver, and goes on from there.
func (t *taking) readThrough(ctx context.Context, now string) Result {
	now, err := t.through(ctx, now)
	if err != nil {
		return t.failure(ctx, err)
	}
	t.fresh = false
	t.remember(now, "")
	if c, refused := t.check(ctx, ""); refused {
		return t.refused(ctx, c)
	}
	if now == t.driver {
		return t.boundAlong(ctx)
	}
	return t.readFirst(ctx, now)
}

// letThrough brings a device that the guard keeps from its driver to the one
// that it would have had without us, and ends with the result.
func (t *taking) letThrough(ctx context.Context, now string, result Result) Result {
	t.remember(now, "")
	now, err := t.through(ctx, now)
	if err != nil {
		return t.failure(ctx, err)
	}
	if t.dirty { // begun to be taken, when the policy still wanted it
		return t.giveUp(ctx, result)
	}
	result.Driver = now
	return result
}

// through brings a new device that the guard keeps from its own driver to that
// driver, and gives the driver that it has then, "" for none. While that is
// under way the ledger says so.
func (t *taking) through(ctx context.Context, now string) (string, error) {
	if now == "" {
		limit := t.Limit.Caught
		if t.Arrival == HotAdd {
			limit = t.Limit.Attach
		}
		waits := t.Guard.mayHaveCaught(t.facts, t.Device.Identity(), "")
		var err error
		if now, err = t.await(ctx, limit, waits); err != nil {
			return "", err
		}
	}
	if !t.caughtBy(now) {
		return now, nil
	}
	if c := t.checkHolders(); c.Veto { // on a driver for user space, since before we came
		return now, nil
	}
	if err := ctx.Err(); err != nil {
		return now, err
	}
	note := t.line(ledger.Letting)
	note.Driver, note.Before = now, ledger.Before{New: true}
	if err := t.Ledger.Put(note); err != nil {
		return now, err
	}
	return t.let(ctx, now)
}

// let gives a device that caught has to its natural driver, as the ledger says
// that it is to be, and has the ledger forget it. It goes on where an earlier
// one was cut short.
func (t *taking) let(ctx context.Context, caught string) (string, error) {
	natural := t.natural(ctx)
	err := t.patiently("give to "+orNone(natural), func() error {
		return t.restore(ctx, caught, bind.State{Driver: natural})
	})
	if err == nil && natural == "" {
		err = t.offer()
	}
	if err != nil {
		return "", err
	}
	t.dirty = false
	if err := t.Ledger.Delete(t.Device.Address()); err != nil {
		return "", err
	}
	return t.Device.Driver()
}

// await waits until a new device has a driver, and gives it; "" when it has
// none for that long. With probe it has the kernel match it again and again:
// the gate is closed, and the kernel does not by itself.
func (t *taking) await(ctx context.Context, limit time.Duration, probe bool) (string, error) {
	giveUp := time.NewTimer(limit)
	defer giveUp.Stop()
	for pause := 2 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		now, err := t.Device.Driver()
		if err == nil && now == "" && probe {
			now, err = t.probe()
		}
		switch {
		case t.vanished():
			return "", bind.ErrGone
		case now != "" || err != nil:
			return now, err
		}
		select {
		case <-t.watch().Wake():
		case <-time.After(pause):
		case <-giveUp.C:
			return "", nil
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

// natural gives the driver that the kernel's own tables name for the device,
// loaded if need be; "" where none is known.
func (j *judge) natural(ctx context.Context) string {
	module := "nvme" // also where it is built in, and in no table
	if j.facts.Class != pci.NVMe {
		aliases, err := j.Aliases()
		if err != nil {
			return ""
		}
		defer aliases.Close()
		if module, err = kmod.Natural(aliases, j.facts.IDs()); err != nil || module == "" {
			return ""
		}
	}
	if driver := j.registered(module); driver != "" {
		return driver
	}
	loading, cancel := context.WithTimeout(ctx, j.Limit.Load)
	defer cancel()
	if err := j.Load(loading, module); err != nil {
		return ""
	}
	return j.registered(module)
}

// registered gives the name of the PCI driver that a module has registered: the
// one that sysfs tells, or one of the module's own name, as for what is built
// in; "" for none.
func (j *judge) registered(module string) string {
	names, _ := j.FS.Root().List("module/" + module + "/drivers")
	for _, name := range names {
		if driver, ok := strings.CutPrefix(name, "pci:"); ok {
			return driver
		}
	}
	for _, name := range []string{module, strings.ReplaceAll(module, "_", "-")} {
		if there, err := j.FS.HasDriver(name); err == nil && there {
			return name
		}
	}
	return ""
}

// offer offers a device for which no driver is known to every one that is
// registered, but for those that take whatever they are told to: a driver that
// does not match answers ENODEV. That none takes it is no error.
func (t *taking) offer() error {
	drivers, err := t.FS.Root().List("bus/pci/drivers")
	if err != nil {
		return err
	}
	slices.Sort(drivers)
	for _, driver := range drivers {
		if driver == guard.PCIStub || driver == "uio_pci_generic" || policy.IsVFIO(driver) || t.caughtBy(driver) {
			continue
		}
		_ = t.patiently("offer to "+driver, func() error { return t.Device.Bind(driver) })
		if now, err := t.Device.Driver(); err != nil || now != "" {
			return err
		}
	}
	return nil
}

// unread reports whether the rule wants the device's own driver to read it
// before it is taken: guard = false, or a policy whose mode is "off".
func (t *taking) unread() bool {
	if t.Arrival == ByHand || t.decision.Rule == nil {
		return false
	}
	return readFirst(t.asked, t.decision)
}

// readFirst waits until the device's own driver has it. Where none takes it,
// nobody knows what is on it.
func (t *taking) readFirst(ctx context.Context, now string) Result {
	if now == "" {
		var err error
		if now, err = t.await(ctx, t.Limit.Caught, false); err != nil {
			return t.failure(ctx, err)
		}
	}
	switch {
	case now == "" || now == guard.PCIStub:
		return t.refused(ctx, veto("guard = false", "load its driver, or take guard = false out of the rule",
			"the drive is to be read by its own driver first, and none has taken it"))
	case now == t.driver:
		return t.boundAlong(ctx)
	}
	return t.takeFrom(ctx, now)
}

// boundAlong finishes with a device that the kernel itself has given to the
// wanted driver, once those in its way have come along.
func (t *taking) boundAlong(ctx context.Context) Result {
	if result, ok := t.bringAlong(ctx); !ok {
		return result
	}
	return t.bound(ctx, "")
}
