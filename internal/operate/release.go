package operate

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"vfio-hotplug/internal/bind"
	"vfio-hotplug/internal/inuse"
	"vfio-hotplug/internal/ledger"
	"vfio-hotplug/internal/pci"
)

// Release gives a device back to exactly what it had before we took it. Asked
// for by hand, it is remembered: the policy does not take this device again
// until it is plugged again or bound by hand.
//
// It refuses a device that a program holds open, since the kernel would wait
// for that program. It touches nothing that we have not taken, and nothing
// that somebody else has changed since.
func (o *Operator) Release(ctx context.Context, r Request) Result {
	t := &taking{judge: judge{Operator: o, Request: r}}
	result := t.release(ctx)
	result.Address, result.Group, result.Slot = r.Device.Address(), t.facts.IOMMUGroup, t.facts.Slot
	return result
}

func (t *taking) release(ctx context.Context) Result {
	var err error
	if t.facts, err = t.Device.Read(pci.FactGroup | pci.FactSlot); err != nil {
		return t.failure(ctx, err)
	}
	lock, err := t.lock(ctx)
	if err != nil {
		return t.failure(ctx, err)
	}
	defer lock.Unlock()
	entry, err := t.entry()
	if err != nil {
		return Result{Outcome: Failed, Reason: err.Error()}
	}
	if entry == nil {
		return Result{Outcome: Failed, Driver: t.facts.Driver,
			Reason: "it was not taken by vfio-hotplug, so nothing is known to give back",
			Remedy: "vfio-hotplug status"}
	}
	return t.giveBack(ctx, *entry, lock)
}

// giveBack puts a device back, as its entry says.
func (t *taking) giveBack(ctx context.Context, entry ledger.Entry, lock *ledger.Lock) Result {
	t.driver, t.back, t.changed = entry.Driver, bind.State(entry.Before), true
	if t.facts.Driver == entry.Driver {
		if c := t.checkHolders(); c.Veto {
			return Result{Outcome: Refused, Driver: entry.Driver, Reason: c.Name + ": " + c.Text, Remedy: c.Remedy}
		}
	}
	if t.Arrival == ByHand {
		if err := t.Ledger.Release(entry.Address, entry.Identity); err != nil {
			return Result{Outcome: Failed, Driver: t.facts.Driver, Reason: err.Error()}
		}
	}
	entry.Stage, entry.At = ledger.Releasing, time.Now()
	if err := t.Ledger.Put(entry); err != nil {
		return Result{Outcome: Failed, Driver: t.facts.Driver, Reason: err.Error()}
	}
	err := t.patiently("unbind from "+entry.Driver, func() error {
		return bind.Restore(ctx, t.Device, entry.Driver, t.back, lock.File())
	})
	if ctx.Err() != nil {
		return t.failure(ctx, ctx.Err())
	}
	now, _ := t.Device.Driver()
	if err != nil {
		return Result{Outcome: Failed, Driver: now, Reason: err.Error(), Remedy: remedy(err)}
	}
	if t.vanished() {
		return t.gone()
	}
	return t.asFound(Result{Outcome: Released, From: entry.Driver, Reason: givenBack(entry, t.facts.Driver, now)})
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

// checkHolders names the programs that hold the device open through its node:
// an unbind would wait for them, for ever and unkillably.
func (t *taking) checkHolders() Check {
	const name = "open"
	node := t.node(t.Device)
	if node == "" {
		return pass(name, "it has no node")
	}
	holders, err := inuse.Holders(t.Proc, node)
	if err != nil {
		return veto(name, "be root", "cannot see who has %s open: %v", node, err)
	}
	if len(holders) == 0 {
		return pass(name, "no program has %s open", node)
	}
	words := make([]string, len(holders))
	for i, h := range holders {
		words[i] = fmt.Sprintf("%s (process %d)", h.Command, h.PID)
	}
	return veto(name, "stop that program first", "%s is held open by %s", node, strings.Join(words, ", "))
}

// remedy is the next thing to do after an error, "" where none is known.
func remedy(err error) string {
	switch {
	case errors.Is(err, bind.ErrNotLoaded):
		return "load the driver's module: modprobe"
	case errors.Is(err, bind.ErrChanged):
		return "see which other tool binds this device: driverctl list-overrides, udev rules, libvirt"
	}
	return ""
}
