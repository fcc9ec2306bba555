package operate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"vfio-hotplug/internal/bind"
	"vfio-hotplug/internal/inuse"
	"vfio-hotplug/internal/iommu"
	"vfio-hotplug/internal/ledger"
	"vfio-hotplug/policy"
)

// Release gives a device back to exactly what it had before we took it. That is
// remembered: the policy does not take this device again until it is plugged
// again, it is bound by hand, or the machine boots.
//
// It refuses a device that a program holds open, since the kernel would wait
// for that program. It touches nothing that we have not taken, and nothing
// that somebody else has changed since.
func (o *Operator) Release(ctx context.Context, r Request) Result {
	t := &taking{judge: judge{Operator: o, Request: r}}
	result := t.told(t.release(ctx))
	result.Release = true
	return result
}

func (t *taking) release(ctx context.Context) Result {
	var err error
	if t.facts, err = readTold(t.Device); err != nil {
		return t.failure(ctx, err)
	}
	if result, stuck := t.leaving(ctx); stuck {
		return result
	}
	if _, err = t.enter(ctx); err != nil {
		return t.failure(ctx, err)
	}
	defer t.leave()
	entry, err := t.entry()
	if err != nil {
		return Result{Outcome: Failed, Driver: t.facts.Driver, Reason: err.Error()}
	}
	if entry != nil && unoffered(*entry) {
		now, err := t.let(ctx, entry.Driver)
		if err != nil {
			return t.failure(ctx, err)
		}
		return Result{Outcome: Released, Driver: now, Reason: "it was kept from drivers at the boot, and has " + orNone(now) + " now"}
	}
	if entry == nil {
		return Result{Outcome: Failed, Driver: t.facts.Driver,
			Reason: "it was not taken by vfio-hotplug, so nothing is known to give back",
			Remedy: t.byHand()}
	}
	return t.giveBack(ctx, *entry)
}

// byHand says how a device that we know nothing of comes back from a vfio driver.
func (t *taking) byHand() string {
	if !policy.IsVFIO(t.facts.Driver) {
		return "vfio-hotplug status"
	}
	const device, driver = "/sys/bus/pci/devices/", "/sys/bus/pci/drivers/"
	a := t.Device.Address().String()
	return "have whoever gave it to " + t.facts.Driver + " take it back (driverctl, libvirt), or, once no program has it open: echo > " + device + a + "/driver_override; echo " +
		a + " > " + driver + t.facts.Driver + "/unbind; echo " + a + " > /sys/bus/pci/drivers_probe"
}

// giveBack puts a device back, as its entry says. The entry is marked first,
// then the release is noted: killed between the two, the next start goes on.
func (t *taking) giveBack(ctx context.Context, entry ledger.Entry) Result {
	was, err := t.Device.Driver()
	if err != nil {
		return t.failure(ctx, err)
	}
	if was == entry.Driver {
		if c := t.checkHolders(); c.Veto {
			return Result{Outcome: Refused, Driver: was, Check: c.Name, Reason: c.Name + ": " + c.Text, Remedy: c.Remedy}
		}
	}
	if ctx.Err() != nil {
		return t.interrupted()
	}
	marked := entry
	marked.Stage, marked.At = ledger.Releasing, time.Now()
	if err := t.Ledger.Put(marked); err != nil {
		return Result{Outcome: Failed, Driver: was, Reason: err.Error()}
	}
	if err := t.Ledger.Release(entry.Address, entry.Identity); err != nil {
		return t.notReleased(entry, err)
	}
	before := bind.State(entry.Before)
	if before.New {
		// By its name: a dynamic ID of the guard's would match again.
		before = bind.State{Driver: t.natural(ctx)}
	}
	err = t.patiently("unbind from "+entry.Driver, func() error {
		return t.restore(ctx, entry.Driver, before)
	})
	if err == nil && entry.Before.New && before.Driver == "" {
		err = t.offer()
	}
	switch {
	case ctx.Err() != nil:
		return t.interrupted()
	case t.vanished():
		t.dirty = true
		return t.gone()
	case err != nil:
		return t.notReleased(entry, err)
	}
	now, _ := t.Device.Driver()
	if err := t.Ledger.Delete(entry.Address); err != nil {
		return Result{Outcome: Failed, Driver: now, Reason: err.Error()}
	}
	return Result{Outcome: Released, Driver: now, From: entry.Driver, Reason: givenBack(entry, was, now)}
}

// notReleased ends a release that the kernel did not do. A device that is
// still with our driver is ours as before; one that has none, or on which the
// override of the way back stands, stays marked, so that the next look at it
// tries again.
func (t *taking) notReleased(entry ledger.Entry, err error) Result {
	now, _ := t.Device.Driver()
	result := Result{Outcome: Failed, Driver: now, Reason: err.Error(), Remedy: remedy(err)}
	if now != entry.Driver {
		return result
	}
	entry.Stage = ledger.Taken
	err = t.patiently("write driver_override", func() error { return t.Device.SetOverride(entry.Driver) })
	if err == nil {
		err = errors.Join(t.Ledger.Put(entry), t.Ledger.Forget(entry.Address))
	}
	if err != nil {
		result.Reason += "; " + oneLine(err)
	}
	return result
}

// givenBack says in words what a release has done.
func givenBack(entry ledger.Entry, was, now string) string {
	switch {
	case was != entry.Driver && was != "":
		return fmt.Sprintf("somebody else had given it to %s already; nothing was changed but our note of it", was)
	case now == "" && entry.Before.New:
		return "no driver wants it; it has none, as when it was plugged"
	}
	return fmt.Sprintf("it has %s, as before", orNone(now))
}

// checkHolders names the programs that hold the device open through a node:
// an unbind would wait for them, for ever and unkillably.
func (t *taking) checkHolders() Check {
	const name = "open"
	nodes, err := iommu.ReadNodes(t.Device.Dir(), t.Dev)
	if err != nil {
		return veto(name, "", "%v", err)
	}
	for _, node := range nodes {
		holders, err := inuse.Holders(t.Proc, node)
		switch {
		case errors.Is(err, fs.ErrNotExist): // it has gone since
		case err != nil:
			return veto(name, "be root", "cannot see who has %s open: %v", node, err)
		case len(holders) > 0:
			return veto(name, "stop that program first", "%s is held open by %s", node, processNames(holders))
		}
	}
	return pass(name, "no program has it open")
}

// remedy is the next thing to do after an error, "" where none is known.
func remedy(err error) string {
	switch {
	case errors.Is(err, ledger.ErrLocked):
		return "vfio-hotplug status, and try again"
	case errors.Is(err, bind.ErrNotLoaded):
		return "load the driver's module: modprobe"
	case errors.Is(err, bind.ErrChanged):
		return "see which other tool binds this device: driverctl list-overrides, udev rules, libvirt"
	case atBind(err):
		return "the driver may say why in the kernel's log: dmesg"
	}
	return ""
}

// atBind reports whether it was the driver that did not want the device.
func atBind(err error) bool {
	fault, ok := errors.AsType[*bind.Error](err)
	return ok && fault.Step == bind.StepBind
}

// oneLine is an error's text on one line.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
