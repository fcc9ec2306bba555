package operate

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"vfio-hotplug/internal/pci"
	"vfio-hotplug/internal/sysfs"
	"vfio-hotplug/policy"
)

// Settle lets every device through to its own driver that a guard has caught
// and nobody has seen to: for a guard that is no more.
func (o *Operator) Settle(ctx context.Context, g *Guarding) error {
	addresses, err := o.FS.Devices()
	if err != nil {
		return err
	}
	quick := *o
	quick.Limit.Caught = time.Second // nothing new is on its way
	faults := make([]error, len(addresses))
	var work sync.WaitGroup
	for i, a := range addresses {
		work.Go(func() { faults[i] = quick.settle(ctx, a, g) })
	}
	work.Wait()
	return errors.Join(faults...)
}

func (o *Operator) settle(ctx context.Context, a pci.Address, g *Guarding) error {
	dev, err := o.FS.Open(a)
	if err != nil {
		return unlessGone(err)
	}
	defer dev.Close()
	if o.checkLeaving(dev).Veto { // whoever caught it has it no more
		return nil
	}
	nothing := func() *policy.Policy { return nil }
	r := o.Take(ctx, Request{Device: dev, Policy: nothing, Arrival: Found, Guard: g})
	if r.Outcome == Left || r.Outcome == Gone {
		return nil
	}
	return fmt.Errorf("let %s through: %s", a, r.Reason)
}

// Match offers a device without a driver to one that has just been registered,
// as the kernel does not while drivers_autoprobe is 0 (drivers/base/bus.c,
// bus_add_driver).
func (o *Operator) Match(ctx context.Context, r Request, driver string) Result {
	t := &taking{judge: judge{Operator: o, Request: r}}
	return t.told(t.match(ctx, driver))
}

func (t *taking) match(ctx context.Context, driver string) Result {
	var err error
	if t.facts, err = readTold(t.Device); err != nil {
		return t.failure(ctx, err)
	}
	if t.facts.Driver != "" {
		return t.left("it has a driver", "")
	}
	if result, stuck := t.leaving(ctx); stuck {
		return result
	}
	if _, err = t.enter(ctx); err != nil {
		return t.failure(ctx, err)
	}
	defer t.leave()
	override, err := t.override()
	if err == nil && override != "" && override != driver {
		return t.left("its driver_override is "+override, "")
	}
	if err == nil {
		err = t.patiently("offer to "+driver, func() error { return unlessGone(unlessUnmatched(t.Device.Bind(driver))) })
	}
	now, _ := t.Device.Driver()
	if err != nil {
		return Result{Outcome: Failed, Driver: now, Reason: fmt.Sprintf("%s, which was loaded just now, refused it: %v", driver, err)}
	}
	return Result{Outcome: Left, Driver: now, Reason: "it was offered to " + driver + ", which was loaded just now"}
}

// unlessUnmatched takes "does not match" for an ordinary answer: ENODEV.
func unlessUnmatched(err error) error {
	if sysfs.Gone(err) {
		return nil
	}
	return err
}
