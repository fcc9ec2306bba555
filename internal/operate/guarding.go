package operate

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"vfio-hotplug/internal/bind"
	"vfio-hotplug/internal/guard"
	"vfio-hotplug/internal/kmod"
	"vfio-hotplug/internal/pci"
)

// Guarding is what the machine's guard does with new devices. A nil Guarding is
// none.
type Guarding struct {
	Mode guard.Mode
	// Since is when it was armed, zero while that is under way.
	Since time.Time
	// IDs are the dynamic IDs by their driver.
	IDs map[string][]pci.Pattern
}

// catches gives the driver whose dynamic ID matches a device, "" for none.
func (g *Guarding) catches(ids pci.IDs) string {
	if g == nil {
		return ""
	}
	for driver, patterns := range g.IDs {
		if slices.ContainsFunc(patterns, func(p pci.Pattern) bool { return p.Matches(ids) }) {
			return driver
		}
	}
	return ""
}

// held reports whether the guard was armed when a device was plugged.
func (g *Guarding) held(at time.Time) bool {
	return g != nil && g.Mode != guard.Race && !g.Since.IsZero() && at.After(g.Since)
}

// gated reports whether new devices wait for us.
func (g *Guarding) gated() bool { return g != nil && g.Mode == guard.Gate }

// caught gives the driver that a dynamic ID of ours gives this device to, ""
// where the guard has nothing to do with it.
func (t *taking) caught() string {
	if t.Arrival == ByHand {
		return ""
	}
	return t.Guard.catches(t.facts.IDs())
}

// guarded reports whether the guard acts on this device although the policy
// does not want it: then it has to be let through.
func (t *taking) guarded() bool {
	caught := t.caught()
	switch {
	case t.Arrival == HotAdd:
		return caught != "" || t.Guard.gated()
	case caught == guard.PCIStub:
		// A daemon that was killed may have left it there.
		return t.facts.Driver == guard.PCIStub
	}
	return false
}

// letThrough brings a device that the guard keeps from its driver to the one
// that it would have had without us.
func (t *taking) letThrough(ctx context.Context, reason, remedy string) Result {
	caught := t.caught()
	now, err := t.await(ctx, t.Guard.gated())
	if err == nil && now != "" && now == caught {
		natural := t.natural(ctx)
		err = t.patiently("give to "+orNone(natural), func() error { return t.give(ctx, natural, caught) })
		reason += fmt.Sprintf("; the guard had caught it for %s", caught)
	}
	if err != nil {
		return t.failure(ctx, err)
	}
	now, _ = t.Device.Driver()
	return Result{Outcome: Left, Driver: now, Reason: reason, Remedy: remedy}
}

// give moves a device from the driver that caught it to its natural one. Where
// none is known it ends without a driver, as the kernel would have left it.
func (t *taking) give(ctx context.Context, natural, caught string) error {
	if natural == "" {
		return bind.Restore(ctx, t.Device, caught, bind.State{}, t.lock.File())
	}
	return bind.Give(ctx, t.Device, natural, bind.State{Driver: caught}, t.lock.File())
}

// await waits until a new device has a driver, and gives it; "" when it has
// none for a while. With probe it has the kernel match it again and again: the
// gate is closed, and the kernel does not by itself.
func (t *taking) await(ctx context.Context, probe bool) (string, error) {
	giveUp := time.NewTimer(t.Limit.Caught)
	defer giveUp.Stop()
	for pause := 2 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		now, err := t.Device.Driver()
		if err == nil && now == "" && probe {
			now, err = bind.Probe(t.Device)
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
	driver := strings.ReplaceAll(module, "_", "-")
	for _, name := range []string{module, driver} {
		if there, err := j.FS.HasDriver(name); err == nil && there {
			return name
		}
	}
	loading, cancel := context.WithTimeout(ctx, j.Limit.Load)
	defer cancel()
	if err := j.Load(loading, module); err != nil {
		return ""
	}
	if there, err := j.FS.HasDriver(module); err == nil && there {
		return module
	}
	return ""
}

// fromStub takes a device on from pci-stub, where our guard has put it: no
// driver has touched it. Whatever fails, it goes to the driver that it would
// have had.
func (t *taking) fromStub(ctx context.Context) Result {
	if err := t.record(); err != nil {
		return t.refused(ctx, veto("ledger", "", "%v", err))
	}
	if err := bind.Take(ctx, t.Device, t.driver, bind.State{Driver: guard.PCIStub}); err != nil {
		t.ours = guard.PCIStub
		return t.failure(ctx, err)
	}
	return t.bound(ctx, "")
}

// unread reports whether the rule wants the device's own driver to read it
// before it is taken: guard = false, or a policy whose mode is "off".
func (t *taking) unread() bool {
	if t.Arrival == ByHand || t.decision.Rule == nil {
		return false
	}
	return ReadFirst(t.asked, t.decision)
}

// readFirst waits until the device's own driver has it. Where none takes it,
// nobody knows what is on it.
func (t *taking) readFirst(ctx context.Context) Result {
	now, err := t.await(ctx, false)
	switch {
	case err != nil:
		return t.failure(ctx, err)
	case now == "":
		return t.refused(ctx, veto("guard = false", "load its driver, or take guard = false out of the rule",
			"the drive is to be read by its own driver first, and none has taken it"))
	case now == t.driver:
		return t.bound(ctx, "")
	}
	return t.takeFrom(ctx, now)
}
