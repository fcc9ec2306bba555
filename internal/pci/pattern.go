package pci

import "fmt"

// AnyID in a Pattern matches every ID (PCI_ANY_ID, include/linux/pci.h).
const AnyID = 0xffffffff

// Pattern is what an entry of a driver's ID table matches: the first fields of
// new_id (Documentation/ABI/testing/sysfs-bus-pci). It is comparable. The zero
// value matches nothing that exists.
type Pattern struct {
	Vendor, Device, SubVendor, SubDevice uint32 // an ID, or AnyID
	Class, ClassMask                     uint32 // 24 bits; a mask of 0 matches every class
}

// Any is the pattern that matches every device.
func Any() Pattern {
	return Pattern{Vendor: AnyID, Device: AnyID, SubVendor: AnyID, SubDevice: AnyID}
}

// Matches reports whether a device with these IDs matches, as the kernel's
// pci_match_one_device does (drivers/pci/pci.h).
func (p Pattern) Matches(ids IDs) bool {
	return fits(p.Vendor, ids.Vendor) && fits(p.Device, ids.Device) &&
		fits(p.SubVendor, ids.SubVendor) && fits(p.SubDevice, ids.SubDevice) &&
		(uint32(ids.Class)^p.Class)&p.ClassMask == 0
}

// Covers reports whether every device that q matches is matched by p too.
func (p Pattern) Covers(q Pattern) bool {
	return wider(p.Vendor, q.Vendor) && wider(p.Device, q.Device) &&
		wider(p.SubVendor, q.SubVendor) && wider(p.SubDevice, q.SubDevice) &&
		p.ClassMask&^q.ClassMask == 0 && (p.Class^q.Class)&p.ClassMask == 0
}

// Meets reports whether there can be a device that both match.
func (p Pattern) Meets(q Pattern) bool {
	both := func(a, b uint32) bool { return a == b || a == AnyID || b == AnyID }
	return both(p.Vendor, q.Vendor) && both(p.Device, q.Device) &&
		both(p.SubVendor, q.SubVendor) && both(p.SubDevice, q.SubDevice) &&
		(p.Class^q.Class)&p.ClassMask&q.ClassMask == 0
}

// String gives the six fields as new_id and remove_id take them.
func (p Pattern) String() string {
	return fmt.Sprintf("%08x %08x %08x %08x %06x %06x", p.Vendor, p.Device, p.SubVendor, p.SubDevice, p.Class, p.ClassMask)
}

func fits(want uint32, id ID) bool { return want == AnyID || want == uint32(id) }

func wider(wide, narrow uint32) bool { return wide == AnyID || wide == narrow }
