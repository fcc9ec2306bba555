package kmod

import (
	"io"

	"vfio-hotplug/internal/pci"
)

// GenericVFIO is the module of the driver that can take any PCI function.
const GenericVFIO = "vfio_pci"

// Variant finds the vfio module made for a device, in the text of the running
// kernel's modules.alias: the vfio_pci alias that fits with the fewest
// wildcards, as libvirt chooses (Documentation/driver-api/vfio-pci-device-
// specific-driver-acceptance.rst). It is GenericVFIO where no other fits.
//
// The result is a module's name. Its driver may have another one, which
// /sys/module/MODULE/drivers tells once it is loaded.
func Variant(aliases io.Reader, ids pci.IDs) (string, error) {
	return closest(aliases, "vfio_pci:", ids.VFIOAlias(), GenericVFIO)
}
