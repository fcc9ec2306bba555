package guard

import (
	"errors"
	"fmt"

	"vfio-hotplug/internal/pci"
)

// A mark tells our dynamic IDs from everybody else's, and from one another. It
// is the top byte of the class that we write: the kernel keeps all 32 bits,
// and a device's class has 24, so that what matches does not change
// (drivers/pci/pci.h, pci_match_one_device).
//
// Without it nobody could take back just what is ours: remove_id removes the
// first entry of the same vendor and device whose other fields do not
// contradict what is written, and PCI_ANY_ID contradicts nothing
// (drivers/pci/pci-driver.c, remove_id_store).
type mark uint8

// freeMark gives a mark that no entry has for which remove_id could take this
// one.
func (r record) freeMark(driver string, p pci.Pattern) (mark, error) {
	taken := map[mark]bool{}
	for _, a := range r.IDs {
		if a.Driver == driver && a.Pattern.Vendor == p.Vendor && a.Pattern.Device == p.Device {
			taken[a.Mark] = true
		}
	}
	for m := mark(1); m != 0; m++ {
		if !taken[m] {
			return m, nil
		}
	}
	return 0, errors.New("the rules name too many subsystems of one device: name fewer, or none")
}

// newID gives what is written to new_id. The seventh field, driver_data, keeps
// the kernel from refusing an ID that another entry covers (new_id_store): so
// ours is there whoever takes the other away.
func (a armed) newID() string { return a.fields(a.Pattern.ClassMask) + " 0" }

// removeID gives what is written to remove_id: with every bit of the class to
// be compared, the mark's too, it fits no entry but ours.
func (a armed) removeID() string { return a.fields(0xffffffff) }

func (a armed) fields(classMask uint32) string {
	p := a.Pattern
	return fmt.Sprintf("%08x %08x %08x %08x %08x %06x", p.Vendor, p.Device, p.SubVendor, p.SubDevice, uint32(a.Mark)<<24|p.Class, classMask)
}
