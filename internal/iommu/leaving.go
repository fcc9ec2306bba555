package iommu

import (
	"path/filepath"
	"slices"
	"strconv"

	"vfio-hotplug/internal/sysfs"
)

// ReadLeaving reports whether a vfio driver is being taken from a device, by an
// unplug or by an unbind, and gives the node through which programs may hold
// the device open. While they do, it does not come to an end.
//
// The driver link goes first (drivers/base/dd.c, driver_sysfs_remove). Then
// vfio waits for whoever holds the device, with the device lock held and past
// all killing, and takes the group away only after that (drivers/vfio/
// vfio_main.c, vfio_unregister_group_dev). No lock is taken to see this.
//
// From Linux 6.6 on the vfio device goes before the wait. What is left is that the
// device is enabled for as long as it is held (drivers/vfio/pci/vfio_pci_core.c,
// vfio_pci_core_enable). But others enable a device too: a hand, and the kernel a
// bridge. Where vfio has no other device of the group, the group is there because
// of the wait. Where it has one, sysfs does not tell which it is, and was is called,
// which reports whether vfio had the device before.
func ReadLeaving(root, device sysfs.Dir, dev string, was func() bool) (node string, leaving bool, err error) {
	driver, err := link(device, "driver")
	if err != nil || driver != "" {
		return "", false, wrap(err)
	}
	group, err := link(device, "iommu_group")
	if err != nil || group == "" {
		return "", false, wrap(err)
	}
	node, err = groupNode(root, group, dev)
	if err != nil || node == "" {
		return "", false, wrap(err)
	}
	vfio, err := vfioDevice(device)
	if err != nil || vfio != "" {
		return node, err == nil, wrap(err)
	}
	enabled, err := attribute(device, "enable")
	if err != nil || enabled == "0" {
		return node, false, wrap(err)
	}
	others, err := vfioHas(root, group)
	return node, err == nil && (!others || was()), wrap(err)
}

// vfioHas reports whether a device of a group is with vfio.
func vfioHas(root sysfs.Dir, group string) (bool, error) {
	number, err := strconv.Atoi(group)
	if err != nil {
		return false, err
	}
	g, err := ReadGroup(root, number)
	return slices.ContainsFunc(g.Members, func(m Member) bool { return m.VFIO || m.Driver == "vfio-pci" }), err
}

// groupNode gives the node of a group that vfio has, "" for one that it has not.
func groupNode(root sysfs.Dir, group, dev string) (string, error) {
	for _, name := range []string{group, "noiommu-" + group} {
		target, err := link(root, "class/vfio/"+name)
		if err != nil || target != "" {
			return filepath.Join(dev, "vfio", name), err
		}
	}
	return "", nil
}
