package pci

// Bridge reports whether the device is part of the machine's own wiring, and so
// never for user space: one that forwards to a bus of its own, or by its class a
// host bridge or one to an old bus. Any other device of base class 06 is an
// endpoint, such as an NVSwitch or a non-transparent bridge: vfio-pci takes it
// (drivers/vfio/pci/vfio_pci_core.c, vfio_pci_core_register_device: the header
// type decides).
func (d *Device) Bridge() bool { return d.Forwards || d.Class.Bridge() }

// Bridge reports whether every device of this class is a bridge: host, ISA, EISA,
// MCA, PCI-to-PCI (include/linux/pci_ids.h). The kernel lets no endpoint have
// class 0604 (drivers/pci/probe.c, pci_setup_device).
func (c Class) Bridge() bool {
	switch c >> 8 {
	case 0x0600, 0x0601, 0x0602, 0x0603, 0x0604:
		return true
	}
	return false
}
