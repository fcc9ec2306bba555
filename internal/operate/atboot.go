package operate

import "vfio-hotplug/policy"

// Unoffered is an override that no driver has. The udev rules write it during
// coldplug to a device that has no driver and that the policy wants: it keeps
// other drivers off until the daemon's first scan. It says that the device has
// not been offered to any driver yet, as after a hot-add.
const Unoffered = "vfio-hotplug-unoffered"

// tooEarly says why a device that has this driver is not taken before udev
// loads drivers; "" where it may be. Nothing can be checked then: what a mount,
// an array or a volume group is about to use still looks idle.
func (t *taking) tooEarly(driver string) string {
	switch {
	case t.Arrival != AtBoot || driver == t.driver:
		return ""
	case driver != "":
		return driver + " has it: it is looked at again when the boot has settled"
	case t.unread():
		return "its own driver is to read it first"
	}
	return ""
}

// ReadFirst reports whether a device's own driver is to read it before it is
// taken: guard = false in its rule, or a policy whose mode is "off".
func ReadFirst(p *policy.Policy, d policy.Decision) bool {
	return d.Rule != nil && (!d.Rule.Guard || p.GuardMode() == policy.GuardOff)
}
