#!/bin/bash
# Order only: where the initramfs holds nvme, it also holds what the softdep
# in modprobe.d has registered before it. No policy: it would go stale.

check() {
	return 0
}

depends() {
	return 0
}

installkernel() {
	# Also where the modules are not loaded while the image is made.
	hostonly='' instmods pci-stub vfio-pci vfio_iommu_type1
}

install() {
	inst_simple /usr/lib/modprobe.d/vfio-hotplug.conf
}
