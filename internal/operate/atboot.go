package operate

import (
	"vfio-hotplug/internal/ledger"
	"vfio-hotplug/internal/pci"
	"vfio-hotplug/policy"
)

// Unoffered is an override that no driver has. The udev rules write it during
// coldplug to a device that has no driver and that the policy wants: it keeps
// other drivers off until the daemon's first scan. It says that the device has
// not been offered to any driver yet, as after a hot-add.
const Unoffered = "vfio-hotplug-unoffered"

// unoffered reports whether an entry speaks of a device that udev's coldplug has
// kept from drivers, and that is being let go of: it was never taken.
func unoffered(e ledger.Entry) bool { return e.Stage == ledger.Letting && e.Driver == Unoffered }

// tooEarlyCheck is the name of tooEarly.
const tooEarlyCheck = "boot"

// tooEarly says why a device that has this driver is not taken before udev
// loads drivers; "" where it may be. Of those that have one nothing can be
// checked then: what a mount, an array or a volume group is about to use still
// looks idle.
func (t *taking) tooEarly(driver string) string {
	switch {
	case t.Arrival != AtBoot || driver == t.driver:
		return ""
	case driver != "":
		return driver + " has it: it is looked at again when the boot has settled"
	}
	return ReadFirst(t.asked, t.decision, &t.facts, t.Uses)
}

// ReadFirst says why at boot a device's own driver is to read it before it is
// taken, though none has it yet; "" where it need not. That is so if its rule
// wants it, and while the machine waits for a drive that may be this one.
func ReadFirst(p *policy.Policy, d policy.Decision, facts *pci.Device, uses Uses) string {
	const first = "its own driver is to read it first"
	switch {
	case readFirst(p, d):
		return first
	case facts.Class>>16 != massStorage:
		return ""
	}
	awaited, err := uses.Awaited()
	switch {
	case err != nil:
		return first + ": what the machine waits for is not known: " + err.Error()
	case awaited != "":
		return first + ": it may be what is not there yet of " + awaited
	}
	return ""
}

// readFirst reports whether a rule wants its devices read by their own driver:
// guard = false, or a policy whose mode is "off".
func readFirst(p *policy.Policy, d policy.Decision) bool {
	return d.Rule != nil && (!d.Rule.Guard || p.GuardMode() == policy.GuardOff)
}

// massStorage is the base class of devices that block devices are on
// (include/linux/pci_ids.h, PCI_BASE_CLASS_STORAGE).
const massStorage = 0x01
