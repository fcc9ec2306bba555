package sysfs

import (
	"fmt"
	"slices"
	"strings"

	"vfio-hotplug/internal/pci"
)

// slot gives the name of the slot that the device sits in, "" for none.
func (d *Device) slot() (string, error) {
	at, err := d.place()
	if err != nil {
		return "", err
	}
	name, err := d.fs.Slot(at.address)
	if name != "" || err != nil || at.address.Device == 0 {
		return name, err
	}
	// With ARI a bus has one device, and device numbers are a part of the numbers
	// of its functions (PCI Express base specification, 6.13).
	ari, err := d.attribute(at.dir + "ari_enabled")
	if err != nil || ari == "0" {
		return "", err
	}
	at.address.Device, at.address.Function = 0, 0
	return d.fs.Slot(at.address)
}

// Slot gives the name of the slot that an address sits in, "" for none.
// Where several slots have one address, it is the first in order of name.
func (f FS) Slot(a pci.Address) (string, error) {
	names, err := f.slots()
	if err != nil {
		return "", err
	}
	wide := fmt.Sprintf("%04x:%02x", a.Domain, a.Bus)
	narrow := fmt.Sprintf("%s:%02x", wide, a.Device)
	for _, name := range names {
		place, err := f.root.Read("bus/pci/slots/" + name + "/address")
		if Gone(err) {
			if names, listErr := f.slots(); listErr == nil && !slices.Contains(names, name) {
				continue
			}
		}
		if err != nil {
			return "", err
		}
		if place = strings.TrimSuffix(place, "\n"); place == narrow || place == wide {
			return name, nil
		}
	}
	return "", nil
}

// slots lists the slots, in order; none where there is no such directory, which
// the kernel always makes (drivers/pci/slot.c, pci_slot_init).
func (f FS) slots() ([]string, error) {
	names, err := f.root.List("bus/pci/slots")
	if Gone(err) {
		if bus, listErr := f.root.List("bus/pci"); listErr == nil && !slices.Contains(bus, "slots") {
			return nil, nil
		}
	}
	slices.Sort(names)
	return names, err
}
