package iommu

import (
	"path/filepath"

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
// From Linux 6.6 on the vfio device goes before the wait. What is left to tell the
// device from the others of its group is that it is enabled for as long as it is
// held (drivers/vfio/pci/vfio_pci_core.c, vfio_pci_core_enable); one without a
// driver is not.
func ReadLeaving(root, device sysfs.Dir, dev string) (node string, leaving bool, err error) {
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
	return node, err == nil && enabled != "0", wrap(err)
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
