package sysfs

import (
	"fmt"
	"slices"
	"strings"

	"vfio-hotplug/internal/pci"
)

// slot gives the name of the slot that the device sits in, "" for none.
func (r *reading) slot() (string, error) {
	at, err := r.place()
	if err != nil {
		return "", err
	}
	name, err := r.fs.Slot(at.address)
	if name != "" || err != nil || at.address.Device == 0 {
		return name, err
	}
	// With ARI a bus has one device, and device numbers are a part of the numbers
	// of its functions (PCI Express base specification, 6.13).
	ari, err := r.attribute(at.dir + "ari_enabled")
	if err != nil || ari == "0" {
		return "", err
	}
	at.address.Device, at.address.Function = 0, 0
	return r.fs.Slot(at.address)
}

// portSlots gives the slots that bridges above the device sit in.
func (d *Device) portSlots() ([]pci.PortSlot, error) {
	bridges, err := d.upstream()
	var all []pci.PortSlot
	for _, a := range bridges {
		name, err := d.fs.Slot(a)
		if err != nil {
			return nil, err
		}
		if name != "" {
			all = append(all, pci.PortSlot{Port: a, Slot: name})
		}
	}
	return all, err
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
