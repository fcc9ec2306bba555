package operate

import (
	"context"
	"strings"
	"time"

	"vfio-hotplug/internal/inuse"
	"vfio-hotplug/internal/iommu"
	"vfio-hotplug/internal/ledger"
	"vfio-hotplug/internal/procfs"
	"vfio-hotplug/internal/sysfs"
	"vfio-hotplug/policy"
)

// leaves is how long the kernel may take to take a driver away from a device
// that is well and that nobody holds.
const leaves = time.Second

// leaving keeps every operation from a device that the kernel is at. The
// kernel has the device's lock: older ones would not come back from the first
// look at driver_override.
func (t *taking) leaving(ctx context.Context) (Result, bool) {
	if t.facts.Driver != "" {
		return Result{}, false
	}
	seen := time.Now()
	giveUp := time.NewTimer(leaves)
	defer giveUp.Stop()
	for pause := 5 * time.Millisecond; ; pause *= 2 {
		c := t.checkLeaving(t.Device)
		if !c.Veto {
			return Result{}, false
		}
		select {
		case <-t.watch().Wake():
		case <-time.After(pause):
		case <-ctx.Done():
			return t.interrupted(), true
		case <-giveUp.C:
			result := Result{Outcome: Stuck, Check: c.Name, Reason: c.Text, Remedy: c.Remedy, Since: seen}
			if leavesNVMe(t.Device) {
				result.From = "nvme"
			}
			if entry, err := t.entry(); err == nil {
				result.Since = Earlier(seen, unbindBegan(entry, result.From))
			}
			return result, true
		}
	}
}

// unbindBegan is when we began to take a device from its driver, if it is our
// doing that the kernel is at that; else zero. from is nvme, or a driver of vfio's.
func unbindBegan(entry *ledger.Entry, from string) time.Time {
	ours := ledger.Releasing
	if from == "nvme" {
		ours = ledger.Taking
	}
	if entry == nil || entry.Stage != ours {
		return time.Time{}
	}
	return entry.At
}

// Earlier gives the earlier of two times, of which a zero one is not known.
func Earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// checkLeaving: nothing can be done with a device from which the kernel is
// taking its driver. The driver link goes first; what vfio and nvme have made
// for the device goes last (drivers/nvme/host/pci.c, nvme_remove).
func (o *Operator) checkLeaving(dev *sysfs.Device) Check {
	const name = "leaving its driver"
	if leavesNVMe(dev) {
		return veto(name, "look for the drive in the kernel's log: dmesg", "the kernel is taking it from nvme, for an unplug or an unbind, and has not come to the end of that")
	}
	if who, remedy := o.awaited(dev); who != "" {
		return veto(name, remedy, "the kernel is taking it from vfio, for an unplug or an unbind, and waits for %s to let go of it; "+
			"while an unplug waits, nothing else can be plugged or unplugged", who)
	}
	return pass(name, "no")
}

// leavesNVMe reports whether nvme is letting go of the device.
func leavesNVMe(dev *sysfs.Device) bool {
	if driver, err := dev.Driver(); err != nil || driver != "" {
		return false
	}
	controllers, err := dev.Dir().List("nvme")
	return err == nil && len(controllers) > 0
}

// awaited names the programs for which the kernel waits to take the device's
// vfio driver away, and says what to do; "" when it is not at that. What nvme has
// not let go of was not vfio's, though others of its group may be.
func (o *Operator) awaited(dev *sysfs.Device) (who, remedy string) {
	if leavesNVMe(dev) {
		return "", ""
	}
	node, leaving, err := iommu.ReadLeaving(o.FS.Root(), dev.Dir(), o.Dev, func() bool { return o.wasVFIO(dev) })
	if err != nil || !leaving {
		return "", ""
	}
	holders, _ := inuse.Holders(o.Proc, node)
	if len(holders) == 0 {
		return "a program that cannot be named", "look for programs with vfio: lsof /dev/vfio/vfio"
	}
	return processNames(holders), "stop that program, or have it close " + node
}

// wasVFIO reports whether vfio had a device before: we gave it to vfio, or the
// kernel is seen waiting for one that vfio had. Where that cannot be seen it may be
// so.
func (o *Operator) wasVFIO(dev *sysfs.Device) bool {
	j := judge{Operator: o, Request: Request{Device: dev}}
	entry, err := j.entry()
	if err == nil && entry != nil && entry.Stage != ledger.Taking && policy.IsVFIO(entry.Driver) {
		return true
	}
	// drivers/vfio/vfio_main.c
	waits, err := procfs.Dir(o.Proc).Sleeps("vfio_unregister_group_dev")
	return waits || err != nil
}

func processNames(holders []procfs.Process) string {
	words := make([]string, len(holders))
	for i, h := range holders {
		words[i] = h.String()
	}
	return strings.Join(words, ", ")
}
