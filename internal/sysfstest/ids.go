package sysfstest

import (
	"fmt"
	"slices"
	"syscall"
)

// newID is new_id_store (drivers/pci/pci-driver.c).
func (d *driver) newID(value string) error {
	m, fields := parseID(value)
	if fields < 2 {
		return syscall.EINVAL
	}
	d.k.mu.Lock()
	// As the kernel does: a device that has the fields for its IDs, 16 bits
	// each, must not be known yet.
	known := d.suits(wideIDs{m.Vendor & 0xffff, m.Device & 0xffff, m.SubVendor & 0xffff, m.SubDevice & 0xffff, m.Class}, "")
	data := len(d.IDs) == 0 || slices.ContainsFunc(d.IDs, func(row Match) bool { return row.Data == m.Data })
	switch {
	case fields != 7 && known:
		d.k.mu.Unlock()
		return syscall.EEXIST
	case !data:
		d.k.mu.Unlock()
		return syscall.EINVAL
	}
	d.dynamic = append(d.dynamic, m)
	d.k.mu.Unlock()
	d.k.driverAttach(d)
	return nil
}

// removeID is remove_id_store: it removes the first ID that fits.
func (d *driver) removeID(value string) error {
	m, fields := parseID(value)
	if fields < 2 {
		return syscall.EINVAL
	}
	d.k.mu.Lock()
	defer d.k.mu.Unlock()
	i := slices.IndexFunc(d.dynamic, func(row Match) bool {
		return row.Vendor == m.Vendor && row.Device == m.Device &&
			(m.SubVendor == Any || row.SubVendor == m.SubVendor) &&
			(m.SubDevice == Any || row.SubDevice == m.SubDevice) &&
			(row.Class^m.Class)&m.Mask == 0
	})
	if i < 0 {
		return syscall.ENODEV
	}
	d.dynamic = slices.Delete(d.dynamic, i, i+1)
	return nil
}

// parseID reads up to seven hexadecimal fields, and says how many there were.
func parseID(value string) (m Match, fields int) {
	m = Match{SubVendor: Any, SubDevice: Any}
	fields, _ = fmt.Sscanf(value, "%x %x %x %x %x %x %x",
		&m.Vendor, &m.Device, &m.SubVendor, &m.SubDevice, &m.Class, &m.Mask, &m.Data)
	return m, fields
}

// DynamicIDs gives the IDs that new_id has added to a driver and remove_id has
// not removed. The real kernel cannot list them.
func (k *Kernel) DynamicIDs(driver string) []Match {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, d := range k.drivers {
		if d.Name == driver {
			return slices.Clone(d.dynamic)
		}
	}
	return nil
}
