package sysfs

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"vfio-hotplug/internal/pci"
)

// ErrReplaced says that another device has taken the address since the handle
// was opened.
var ErrReplaced = errors.New("another device is at this address now")

// FS is the part of sysfs that concerns PCI.
type FS struct {
	root       Dir
	expendable Expendable
}

// New gives the PCI view of a sysfs tree. Writes that can hang for ever go
// through expendable.
func New(root Dir, expendable Expendable) FS { return FS{root: root, expendable: expendable} }

// Root is the tree itself.
func (f FS) Root() Dir { return f.root }

// Devices lists the PCI functions that are present, in order of address.
func (f FS) Devices() ([]pci.Address, error) {
	names, err := f.root.List("bus/pci/devices")
	if err != nil {
		return nil, err
	}
	addresses := make([]pci.Address, 0, len(names))
	for _, name := range names {
		if a, err := pci.ParseAddress(name); err == nil {
			addresses = append(addresses, a)
		}
	}
	slices.SortFunc(addresses, pci.Address.Compare)
	return addresses, nil
}

// HasDriver reports whether a PCI driver of this name is registered.
func (f FS) HasDriver(name string) (bool, error) {
	d, err := f.root.Open("bus/pci/drivers/" + name)
	if Gone(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, d.Close()
}

// Open opens the function that is at an address now. The caller closes it. An
// error is Gone only where the bus lists no device there: much is forgotten, and
// nothing put back, of a device that has gone.
func (f FS) Open(a pci.Address) (*Device, error) {
	d, err := f.open(a)
	if !Gone(err) || !f.listed(a) {
		return d, err
	}
	// It came just now, or the answer was wrong.
	if d, err = f.open(a); Gone(err) {
		return nil, fmt.Errorf("%s is listed, and cannot be opened: %v", a, err)
	}
	return d, err
}

func (f FS) open(a pci.Address) (*Device, error) {
	dir, err := f.root.Open(devicePath(a))
	if err != nil {
		return nil, err
	}
	id, err := dir.Identity()
	if err != nil {
		dir.Close()
		return nil, err
	}
	return &Device{fs: f, dir: dir, address: a, identity: id}, nil
}

// listed reports whether the bus lists a device at an address, or may.
func (f FS) listed(a pci.Address) bool {
	devices, err := f.Devices()
	return err != nil || slices.Contains(devices, a)
}

// Device is a handle on one PCI function, from its plugging to its removal.
// What is at the same address afterwards is another Device.
type Device struct {
	fs       FS
	dir      Dir
	address  pci.Address
	identity uint64
}

// Address is where the device is.
func (d *Device) Address() pci.Address { return d.address }

// Identity tells the device from every other that was or will be at its
// address since the machine was booted.
func (d *Device) Identity() uint64 { return d.identity }

// Dir is the device's directory.
func (d *Device) Dir() Dir { return d.dir }

// Close releases the handle.
func (d *Device) Close() error { return d.dir.Close() }

// Present says whether the address still leads to this device: nil, a Gone
// error, or ErrReplaced.
func (d *Device) Present() error {
	now, err := d.fs.Open(d.address)
	if err != nil {
		return err
	}
	defer now.Close()
	if now.identity != d.identity {
		return fmt.Errorf("%s: %w", d.address, ErrReplaced)
	}
	return nil
}

// Driver gives the name of the bound driver, "" for none. The link is the
// only proof of a bind; reading it takes no lock.
func (d *Device) Driver() (string, error) { return d.link("driver") }

// Override reads driver_override, "" for none. Before Linux 6.12.91 it waits
// for the device lock.
func (d *Device) Override() (string, error) {
	text, err := d.attribute("driver_override")
	if err != nil || text == noOverride {
		return "", err
	}
	return text, nil
}

// Read reads the device: always its IDs, its driver and whether there is a bus
// behind it, and of the rest what is wanted. A fact that the kernel does not offer for this device has its zero
// value (or NoGroup, NoNode); it is not an error. An error is Gone only if the
// device is.
func (d *Device) Read(want pci.Facts) (pci.Device, error) {
	dev, err := d.read(want)
	if Gone(err) {
		if d.Present() == nil {
			err = fmt.Errorf("%v, though the device is there", err)
		}
	}
	return dev, err
}

func (d *Device) read(want pci.Facts) (pci.Device, error) {
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
	for _, fact := range facts {
		if !want.Has(fact.bit) {
			continue
		}
		if err := fact.read(d, &dev); err != nil {
			return dev, err
		}
	}
	// A directory that vanished between two reads answered "no such link".
	return dev, d.Present()
}

// facts says how each fact is read. What every device has and this one does not
// is an error: a rule that says leave must not be passed over for it.
var facts = [...]struct {
	bit  pci.Facts
	read func(*Device, *pci.Device) error
}{
	{pci.FactOverride, func(d *Device, dev *pci.Device) (err error) {
		dev.Override, err = d.Override()
		return err
	}},
	{pci.FactGroup, func(d *Device, dev *pci.Device) error {
		return d.number(&dev.IOMMUGroup, func() (string, error) { return d.link("iommu_group") })
	}},
	{pci.FactNUMA, func(d *Device, dev *pci.Device) error {
		return d.number(&dev.NUMANode, func() (string, error) {
			text, err := d.attribute("numa_node")
			if errors.Is(err, fs.ErrNotExist) { // without CONFIG_NUMA
				return "", nil
			}
			return text, err
		})
	}},
	{pci.FactSlot, func(d *Device, dev *pci.Device) (err error) {
		dev.Slot, err = d.fs.Slot(d.address)
		return err
	}},
	{pci.FactUpstream, func(d *Device, dev *pci.Device) (err error) {
		dev.Upstream, err = d.upstream()
		return err
	}},
	{pci.FactPhysFn, func(d *Device, dev *pci.Device) error {
		name, err := d.link("physfn")
		if err != nil || name == "" {
			return err
		}
		dev.PhysFn, err = pci.ParseAddress(name)
		dev.VirtFn = err == nil
		return err
	}},
	{pci.FactDSN, func(d *Device, dev *pci.Device) error {
		config, err := d.dir.Read("config")
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		dev.DSN = serialNumber(config)
		return err
	}},
	{pci.FactVFs, func(d *Device, dev *pci.Device) error {
		names, err := d.dir.List(".")
		for _, name := range names {
			if strings.HasPrefix(name, "virtfn") {
				dev.VFs++
			}
		}
		return err
	}},
}

// SetOverride writes driver_override, so that only the named driver can bind
// the device; "" clears it. Before Linux 6.12.91 it waits for the device lock.
func (d *Device) SetOverride(driver string) error {
	return d.dir.Write("driver_override", driver+"\n")
}

// noOverride is what driver_override reads when there is none.
const noOverride = "(null)"

// SwapOverride sets driver_override to another name if it is the one that is
// given, "" being none; else the error is ErrOther. It may wait for the device
// lock, but not the caller: it returns when ctx ends. The files in hold stay
// open until the kernel has answered.
func (d *Device) SwapOverride(ctx context.Context, from, to string, hold ...*os.File) error {
	if from == "" {
		from = noOverride
	}
	return d.fs.expendable(ctx, Write{
		Attribute: devicePath(d.address) + "/driver_override",
		Value:     to + "\n",
		Device:    d.address,
		Identity:  d.identity,
		Only:      from,
		Hold:      hold,
	})
}

// Probe lets the kernel match the device against its drivers again. Success
// says nothing: the kernel answers the same when no driver matched, when its
// probe failed, and while the device is not yet open for matching. Read Driver.
func (d *Device) Probe() error {
	return d.control("bus/pci/drivers_probe")
}

// Bind binds the device to one driver and passes on the error of its probe.
func (d *Device) Bind(driver string) error {
	return d.control("bus/pci/drivers/" + driver + "/bind")
}

// control writes the device's address to an attribute of the bus. Such an
// attribute knows addresses only, so the check before it leaves a gap in which
// the device may be replaced; a slot needs far longer than that to come up.
func (d *Device) control(attribute string) error {
	if err := d.Present(); err != nil {
		return err
	}
	return d.fs.root.Write(attribute, d.address.String())
}

func (d *Device) ids() (pci.IDs, error) {
	text, err := d.attribute("modalias")
	if err != nil {
		return pci.IDs{}, err
	}
	return pci.ParseModalias(text)
}

func (d *Device) attribute(name string) (string, error) {
	text, err := d.dir.Read(name)
	return strings.TrimSuffix(text, "\n"), err
}

// link gives the last part of a symbolic link's target, "" where there is no
// such link.
func (d *Device) link(name string) (string, error) {
	target, err := d.dir.Readlink(name)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return path.Base(target), nil
}

// Forwards reports whether the config header of the device in dir is of type 1 or
// 2: only then does it have a secondary bus (drivers/pci/pci-sysfs.c,
// pci_bridge_attrs_are_visible). Reading the number would wake the device.
func Forwards(dir Dir) (bool, error) { return has(dir, "secondary_bus_number") }

// has reports whether there is an attribute or a link of that name. It opens
// nothing.
func has(dir Dir, name string) (bool, error) {
	_, err := dir.Readlink(name)
	switch {
	case err == nil || errors.Is(err, syscall.EINVAL): // not a link
		return true, nil
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	}
	return false, err
}

func (d *Device) number(to *int, read func() (string, error)) error {
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

// upstream gives the bridges above the device, outermost first.
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

// serialNumber finds the Device Serial Number in config space: extended
// capability 0x0003 (PCI Express base specification, 7.9.3). It is 0 where
// config ends at 64 or 256 bytes.
func serialNumber(config string) uint64 {
	const first, capability = 0x100, 0x0003
	for at, seen := first, 0; at >= first && at+12 <= len(config) && seen < 48; seen++ {
		header := binary.LittleEndian.Uint32([]byte(config[at : at+4]))
		if header&0xffff == capability {
			return binary.LittleEndian.Uint64([]byte(config[at+4 : at+12]))
		}
		at = int(header >> 20)
	}
	return 0
}

func devicePath(a pci.Address) string { return "bus/pci/devices/" + a.String() }
