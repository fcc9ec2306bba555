package iommu

import (
	"fmt"
	"slices"

	"vfio-hotplug/internal/pci"
)

// Shape says why a device shares its group, as far as sysfs shows; it is ""
// where sysfs does not, or where nothing is shared. facts are of the device,
// with FactUpstream.
//
// The kernel puts a device into the group of the port above it when from there
// up to the root complex somebody does not keep apart what is below (Access
// Control Services; drivers/iommu/iommu.c, pci_device_group). So the outermost
// bridge of the group is the one that does not. Functions of one device without
// ACS are in one group too, and whatever is behind Intel VMD is in that of the
// VMD controller, whose requester ID it has.
func (g Group) Shape(facts pci.Device) string {
	if len(g.Members) < 2 {
		return ""
	}
	if a, ok := vmdAbove(facts); ok && g.has(a) {
		return fmt.Sprintf("the drive sits behind the Intel VMD controller %s, and all behind it is in its group", a)
	}
	if i := slices.IndexFunc(facts.Upstream, g.has); i >= 0 {
		return fmt.Sprintf("bridge %s does not keep apart what is behind it (no ACS), so all of that is in its group", facts.Upstream[i])
	}
	if slices.ContainsFunc(g.Members, func(m Member) bool {
		return m.PCI && m.Address != facts.Address && sameDevice(m.Address, facts.Address)
	}) {
		return "they are functions of one device, which does not keep them apart (no ACS)"
	}
	return ""
}

// VMD reports whether the device sits behind a VMD controller that is in its
// group.
func (g Group) VMD(facts pci.Device) bool {
	a, ok := vmdAbove(facts)
	return ok && g.has(a)
}

// vmdAbove gives the VMD controller above a device: the innermost that is of
// the machine's own domains.
func vmdAbove(facts pci.Device) (pci.Address, bool) {
	if !facts.VMD {
		return pci.Address{}, false
	}
	for _, a := range slices.Backward(facts.Upstream) {
		if a.Domain != facts.Address.Domain {
			return a, true
		}
	}
	return pci.Address{}, false
}

func (g Group) has(a pci.Address) bool {
	return slices.ContainsFunc(g.Members, func(m Member) bool { return m.PCI && m.Address == a })
}

func sameDevice(a, b pci.Address) bool {
	a.Function, b.Function = 0, 0
	return a == b
}
