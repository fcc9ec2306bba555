package sysfstest

import (
	"encoding/binary"
	"fmt"

	"vfio-hotplug/internal/pci"
)

// Drive is a thing to plug in: an NVMe drive unless IDs say otherwise. Two
// Drives that are equal are still two drives once they are plugged in.
type Drive struct {
	IDs        pci.IDs // zero: an NVMe drive, 144d:a804
	Serial     string  // of the drive, "" for one that tells its address
	Model      string
	DSN        uint64 // PCIe Device Serial Number, 0 for none
	Namespaces []Namespace
	NoMedia    bool // no namespace; else, with none given, one of 1 GiB
	MultiPath  bool // the drive has several controllers: its namespaces hang below nvme-subsystem
	TotalVFs   int  // virtual functions that it can have
	NoINTx     bool // no legacy interrupt: uio_pci_generic refuses it
	Forwards   bool // there is a bus behind it, as behind a PCI bridge, whatever its class
}

// Namespace is a namespace of an NVMe drive: a block device.
type Namespace struct {
	ID         int
	Sectors    uint64   // of 512 bytes
	Partitions []uint64 // their sizes, in sectors
}

// NVMe gives the IDs of an NVMe drive of a vendor and model.
func NVMe(vendor, device pci.ID) pci.IDs {
	return pci.IDs{Vendor: vendor, Device: device, SubVendor: vendor, SubDevice: 0xa801, Class: pci.NVMe}
}

// NIC gives the IDs of a network card that e1000e drives.
func NIC() pci.IDs {
	return pci.IDs{Vendor: 0x8086, Device: 0x10d3, SubVendor: 0x8086, SubDevice: 0xa01f, Class: 0x020000}
}

// Port gives the IDs of a PCIe port.
func Port() pci.IDs { return pci.IDs{Vendor: 0x8086, Device: 0xa340, Class: 0x060400} }

// Bay is a place on the machine, with or without something in it.
type Bay struct {
	Address pci.Address

	// Slot is the name of its slot, "" for none.
	Slot string

	// Above are the bridges above it, outermost first. Those that are not on
	// the machine yet are added with the bay. One that leads into another
	// domain is a VMD controller.
	Above []pci.Address

	// Group is the number of its IOMMU group; 0 is the one that it has from its
	// place, and pci.NoGroup none.
	Group int

	// NoACS: the innermost bridge above does not keep apart what is behind it, so
	// that all of that, and the bridge, is one group.
	NoACS bool

	// NUMANode is its node; pci.NoNode where the firmware does not tell.
	NUMANode int

	// ARI: the device number of what is on its bus is part of a function number.
	ARI bool
}

// drive fills in what the caller of Plug left out.
func (d Drive) withDefaults() Drive {
	if d.IDs == (pci.IDs{}) {
		d.IDs = NVMe(0x144d, 0xa804)
	}
	d.Forwards = d.Forwards || d.IDs.Class>>8 == 0x0604
	if d.IDs.Class != pci.NVMe || d.NoMedia {
		d.Namespaces = nil
	} else if d.Namespaces == nil {
		d.Namespaces = []Namespace{{ID: 1, Sectors: 1 << 21}}
	}
	return d
}

func modalias(i pci.IDs) string {
	return fmt.Sprintf("pci:v%08Xd%08Xsv%08Xsd%08Xbc%02Xsc%02Xi%02X", uint32(i.Vendor), uint32(i.Device),
		uint32(i.SubVendor), uint32(i.SubDevice), uint32(i.Class>>16), uint32(i.Class>>8&0xff), uint32(i.Class&0xff))
}

// config is the drive's PCI Express configuration space, with an Advanced
// Error Reporting capability before that of the serial number.
func (d Drive) config() string {
	const aer, dsn = 0x100, 0x148
	c := make([]byte, 4096)
	word := binary.LittleEndian.PutUint16
	word(c[0x00:], uint16(d.IDs.Vendor))
	word(c[0x02:], uint16(d.IDs.Device))
	binary.LittleEndian.PutUint32(c[0x08:], uint32(d.IDs.Class)<<8)
	if d.Forwards {
		c[0x0e] = 1
	} else {
		word(c[0x2c:], uint16(d.IDs.SubVendor))
		word(c[0x2e:], uint16(d.IDs.SubDevice))
	}
	next := uint32(0)
	if d.DSN != 0 {
		next = dsn
		binary.LittleEndian.PutUint32(c[dsn:], 1<<16|0x0003)
		binary.LittleEndian.PutUint64(c[dsn+4:], d.DSN)
	}
	binary.LittleEndian.PutUint32(c[aer:], next<<20|2<<16|0x0001)
	return string(c)
}
