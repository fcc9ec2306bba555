package main

import (
	"strconv"

	"vfio-hotplug/internal/iommu"
	"vfio-hotplug/internal/ledger"
	"vfio-hotplug/internal/pci"
	"vfio-hotplug/internal/sysfs"
	"vfio-hotplug/policy"
)

// tellNode says that a node leads only to what we have given to vfio: the node
// of the IOMMU group with that number, or of the single device at that address.
// Of any other, and of one of which that cannot be seen, it says nothing.
//
// It does not wait. The ledger speaks of a device before we bind it; where the
// kernel was faster, the node is announced again once the ledger does.
func (h udevHelper) tellNode(name string) error {
	root, err := sysfs.OpenRoot(h.path("sys"))
	if err != nil {
		return err
	}
	defer root.Close()
	var ours bool
	if number, faulty := strconv.ParseUint(name, 10, 31); faulty == nil {
		ours, err = h.groupIsOurs(root, int(number))
	} else {
		ours, err = h.deviceIsOurs(root, name)
	}
	if err != nil || !ours {
		return err
	}
	return h.properties("NODE", "ours")
}

// groupIsOurs reports whether vfio has devices of a group, and all of these from
// us. Who may open the group's node may open each of them.
func (h udevHelper) groupIsOurs(root sysfs.Dir, number int) (bool, error) {
	group, err := iommu.ReadGroup(root, number)
	if err != nil || group.Unsafe {
		return false, err
	}
	some := false
	for _, m := range group.Members {
		if m.PCI && !m.VFIO && !policy.IsVFIO(m.Driver) || m.Driver == "" {
			continue
		}
		if ours, err := h.deviceIsOurs(root, m.Name); err != nil || !ours {
			return false, err
		}
		some = true
	}
	return some, nil
}

// deviceIsOurs reports whether we have bound a device to the driver that it has,
// or are just doing so.
func (h udevHelper) deviceIsOurs(root sysfs.Dir, name string) (bool, error) {
	address, err := pci.ParseAddress(name)
	if err != nil {
		return false, err
	}
	device, err := sysfs.New(root, nil).Open(address)
	if err != nil {
		return false, err
	}
	defer device.Close()
	driver, err := device.Driver()
	if err != nil {
		return false, err
	}
	entry, found, err := ledger.Look(h.path("run/vfio-hotplug"), address)
	if err != nil || !found || entry.Identity != device.Identity() || entry.Driver != driver {
		return false, err
	}
	return entry.Stage == ledger.Taking || entry.Stage == ledger.Taken, nil
}
