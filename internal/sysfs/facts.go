package sysfs

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"syscall"

	"vfio-hotplug/internal/pci"
)

// ErrSoon says that the kernel is about to tell what was asked for.
var ErrSoon = errors.New("the kernel has not told it yet")

// Read reads the device: always its IDs, its driver and whether there is a bus
// behind it, and of the rest what is wanted. A fact that the kernel does not offer
// for this device has its zero value (or NoGroup, NoNode); it is not an error. What
// may be there and cannot be read is one. An error is Gone only if the device is.
func (d *Device) Read(want pci.Facts) (pci.Device, error) { return d.ReadMost(want, pci.NoFacts) }

// ReadMost is Read, but what of more cannot be read is no error: it is listed as
// Unread.
func (d *Device) ReadMost(want, more pci.Facts) (pci.Device, error) {
	dev, err := d.read(want, more)
	if Gone(err) {
		if d.Present() == nil {
			err = fmt.Errorf("%v, though the device is there", err)
		}
	}
	return dev, err
}

func (d *Device) read(want, more pci.Facts) (pci.Device, error) {
	dev := pci.Device{Address: d.address, IOMMUGroup: pci.NoGroup, NUMANode: pci.NoNode, VMD: d.address.Domain > 0xffff}
	ids, err := d.ids()
	if err != nil {
		return dev, err
	}
	dev.Vendor, dev.DeviceID, dev.SubVendor, dev.SubDevice, dev.Class = ids.Vendor, ids.Device, ids.SubVendor, ids.SubDevice, ids.Class
	if dev.Forwards, err = Forwards(d.dir); err != nil {
		return dev, err
	}
	if dev.Driver, err = d.Driver(); err != nil {
		return dev, err
	}
	r := &reading{Device: d}
	for _, fact := range facts {
		if !(want | more).Has(fact.bit) {
			continue
		}
		switch err := fact.read(r, &dev); {
		case err == nil:
		case want.Has(fact.bit):
			return dev, err
		default:
			dev.Unread = append(dev.Unread, pci.Unread{Fact: fact.bit, Why: err.Error(),
				Denied: errors.Is(err, fs.ErrPermission), Soon: errors.Is(err, ErrSoon)})
		}
	}
	// A directory that vanished between two reads answered "no such link".
	return dev, d.Present()
}

// facts says how each fact is read. What every device has and this one does not
// is an error: a rule that says leave must not be passed over for it.
var facts = [...]struct {
	bit  pci.Facts
	read func(*reading, *pci.Device) error
}{
	{pci.FactOverride, func(d *reading, dev *pci.Device) (err error) {
		dev.Override, err = d.Override()
		return err
	}},
	{pci.FactGroup, func(d *reading, dev *pci.Device) error {
		return number(&dev.IOMMUGroup, func() (string, error) { return d.link("iommu_group") })
	}},
	{pci.FactNUMA, func(d *reading, dev *pci.Device) error {
		at, err := d.place()
		if err != nil {
			return err
		}
		return number(&dev.NUMANode, func() (string, error) {
			text, err := d.attribute(at.dir + "numa_node")
			if errors.Is(err, fs.ErrNotExist) { // without CONFIG_NUMA
				return "", nil
			}
			return text, err
		})
	}},
	{pci.FactSlot, func(d *reading, dev *pci.Device) (err error) {
		dev.Slot, err = d.slot()
		return err
	}},
	{pci.FactUpstream, func(d *reading, dev *pci.Device) (err error) {
		dev.Upstream, err = d.upstream()
		return err
	}},
	{pci.FactPhysFn, func(d *reading, dev *pci.Device) error {
		at, err := d.place()
		if err == nil && at.address != d.address {
			dev.PhysFn, dev.VirtFn = at.address, true
		}
		return err
	}},
	{pci.FactDSN, func(d *reading, dev *pci.Device) error {
		config, err := d.dir.Read("config")
		if err == nil {
			dev.DSN, err = serialNumber(config)
		}
		return err
	}},
	{pci.FactVFs, func(d *reading, dev *pci.Device) error {
		names, err := d.dir.List(".")
		for _, name := range names {
			if strings.HasPrefix(name, "virtfn") {
				dev.VFs++
			}
		}
		return err
	}},
	{pci.FactPorts, func(d *reading, dev *pci.Device) (err error) {
		dev.PortSlots, err = d.portSlots()
		return err
	}},
}

func (d *Device) ids() (pci.IDs, error) {
	text, err := d.attribute("modalias")
	if err != nil {
		return pci.IDs{}, err
	}
	return pci.ParseModalias(text)
}

// reading is one reading of a device.
type reading struct {
	*Device
	at *place // nil until it is asked for
}

// place is where a device sits on the machine: a virtual function where its
// physical function does.
type place struct {
	address pci.Address // of the function that is there
	dir     string      // that function's directory, below the device's, with a slash; "" for the device itself
}

// place gives the device's place. A virtual function is announced before the
// kernel makes the link to its physical function, but has an attribute of its own
// from the first (drivers/pci/iov.c, pci_iov_add_virtfn and
// sriov_vf_attrs_are_visible).
func (r *reading) place() (place, error) {
	if r.at != nil {
		return *r.at, nil
	}
	at := place{address: r.address}
	virtual, err := has(r.dir, "sriov_vf_msix_count")
	if err != nil {
		return at, err
	}
	if virtual {
		physfn, err := r.link("physfn")
		switch {
		case err != nil:
			return at, err
		case physfn == "":
			return at, fmt.Errorf("it is a virtual function, and not known of which device: %w", ErrSoon)
		}
		at.dir = "physfn/"
		if at.address, err = pci.ParseAddress(physfn); err != nil {
			return at, err
		}
	}
	r.at = &at
	return at, nil
}

// upstream gives the bridges above the device, outermost first. Those above a
// virtual function are those above its physical function.
func (d *Device) upstream() ([]pci.Address, error) {
	target, err := d.fs.root.Readlink(devicePath(d.address))
	if err != nil {
		return nil, err
	}
	var bridges []pci.Address
	for part := range strings.SplitSeq(path.Dir(target), "/") {
		if a, err := pci.ParseAddress(part); err == nil {
			bridges = append(bridges, a)
		}
	}
	return bridges, nil
}

// Forwards reports whether the config header of the device in dir is of type 1 or
// 2: only then does it have a secondary bus (drivers/pci/pci-sysfs.c,
// pci_bridge_attrs_are_visible). Reading the number would wake the device.
func Forwards(dir Dir) (bool, error) { return has(dir, "secondary_bus_number") }

// has reports whether there is an attribute of that name, without reading it.
func has(dir Dir, name string) (bool, error) {
	d, err := dir.Open(name)
	switch {
	case err == nil:
		return true, d.Close()
	case errors.Is(err, syscall.ENOTDIR): // an attribute
		return true, nil
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	}
	return false, err
}

func number(to *int, read func() (string, error)) error {
	text, err := read()
	if err != nil || text == "" {
		return err
	}
	n, err := strconv.Atoi(text)
	if err != nil {
		return err
	}
	*to = n
	return nil
}
