package sysfstest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"vfio-hotplug/internal/pci"
)

// named gives the device whose address was written to an attribute of the
// bus, with or without a newline, or nil.
func (k *Kernel) named(value string) *device {
	k.mu.Lock()
	defer k.mu.Unlock()
	name := strings.TrimSuffix(value, "\n")
	for _, d := range k.devices {
		if d.address.String() == name {
			return d
		}
	}
	return nil
}

// driversProbe is drivers_probe_store (drivers/base/bus.c). That nothing
// matched, or that a probe failed, is success.
func (k *Kernel) driversProbe(value string) error {
	dev := k.named(value)
	if dev == nil {
		return syscall.ENODEV
	}
	k.mu.Lock()
	bound := dev.driver != nil
	k.mu.Unlock()
	if bound {
		return nil
	}
	if err := k.attach(dev, anyDriver); err != nil {
		return syscall.EINVAL
	}
	return nil
}

func (k *Kernel) showAutoprobe() (string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.autoprobe {
		return "1\n", nil
	}
	return "0\n", nil
}

func (k *Kernel) setAutoprobe(value string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.autoprobe = value[0] != '0'
	return nil
}

// bind is bind_store (drivers/base/bus.c).
func (d *driver) bind(value string) error {
	dev := d.k.named(value)
	if dev == nil {
		return syscall.ENODEV
	}
	d.k.mu.Lock()
	fits := d.matches(dev)
	d.k.mu.Unlock()
	if !fits {
		return syscall.ENODEV
	}
	dev.lock.lock()
	defer dev.lock.unlock()
	d.k.mu.Lock()
	busy := dev.driver != nil
	d.k.mu.Unlock()
	if busy {
		return syscall.EBUSY
	}
	err := d.k.probe(d, dev)
	if errors.Is(err, Deferred) {
		return syscall.EAGAIN
	}
	var failed probeError
	if errors.As(err, &failed) {
		return failed.error
	}
	return err
}

// unbind is unbind_store (drivers/base/bus.c).
func (d *driver) unbind(value string) error {
	dev := d.k.named(value)
	if dev == nil {
		return syscall.ENODEV
	}
	d.k.mu.Lock()
	mine := dev.driver == d
	d.k.mu.Unlock()
	if !mine {
		return syscall.ENODEV
	}
	d.k.release(dev)
	return nil
}

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

// driverAttach offers every device to a driver (drivers/base/dd.c,
// driver_attach). It takes the lock of each that matches, bound or not.
func (k *Kernel) driverAttach(d *driver) {
	k.mu.Lock()
	devices := slices.Clone(k.devices)
	k.mu.Unlock()
	for _, dev := range devices {
		k.mu.Lock()
		fits := d.matches(dev)
		k.mu.Unlock()
		if fits {
			k.offer(d, dev)
		}
	}
}

func (k *Kernel) offer(d *driver, dev *device) {
	dev.lock.lock()
	defer dev.lock.unlock()
	_ = k.probe(d, dev) // whoever registers a driver does not hear of it
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

// LoadModule loads the module of a driver, by the name of either: the driver
// is registered, and offered what has no driver. It answers ENOENT for a
// module that is not on the machine, and nothing for one that is loaded.
func (k *Kernel) LoadModule(name string) error {
	d := k.inCatalogue(name)
	if d == nil {
		return fmt.Errorf("module %s: %w", name, syscall.ENOENT)
	}
	k.mu.Lock()
	if d.dir != nil {
		k.mu.Unlock()
		return nil
	}
	k.register(d)
	autoprobe := k.autoprobe
	k.mu.Unlock()
	if autoprobe {
		k.driverAttach(d)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.emit("add", "/bus/pci/drivers/"+d.Name, "drivers", nil)
	return nil
}

func (k *Kernel) inCatalogue(name string) *driver {
	for _, d := range k.catalogue {
		if (d.Name == name || d.module() == name) && !slices.Contains(k.options.Missing, d.Name) {
			return d
		}
	}
	return nil
}

func (k *Kernel) register(d *driver) {
	k.drivers = append(k.drivers, d)
	module := k.root.mkdir("module/" + d.module())
	k.emit("add", "/module/"+d.module(), "module", nil)
	d.dir = k.root.mkdir("bus/pci/drivers/" + d.Name)
	d.dir.link("module", module)
	d.dir.file("bind", attribute{store: d.bind})
	d.dir.file("unbind", attribute{store: d.unbind})
	d.dir.file("new_id", attribute{store: d.newID})
	d.dir.file("remove_id", attribute{store: d.removeID})
}

// UnloadModule takes a driver away: from its devices, then from the bus with
// its dynamic IDs. It answers EBUSY while somebody holds a node of vfio-pci.
func (k *Kernel) UnloadModule(name string) error {
	d := k.inCatalogue(name)
	k.mu.Lock()
	if d == nil || d.dir == nil {
		k.mu.Unlock()
		return fmt.Errorf("module %s is not loaded: %w", name, syscall.ENOENT)
	}
	var bound []*device
	for _, dev := range k.devices {
		if dev.driver != d {
			continue
		}
		if dev.holder != nil {
			k.mu.Unlock()
			return fmt.Errorf("module %s: %w", name, syscall.EBUSY)
		}
		bound = append(bound, dev)
	}
	k.drivers = slices.DeleteFunc(k.drivers, func(other *driver) bool { return other == d })
	k.mu.Unlock()
	for _, dev := range bound {
		k.release(dev)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	d.dir, d.dynamic = nil, nil
	k.root.mkdir("bus/pci/drivers").remove(d.Name)
	k.emit("remove", "/bus/pci/drivers/"+d.Name, "drivers", nil)
	k.root.mkdir("module").remove(d.module())
	k.emit("remove", "/module/"+d.module(), "module", nil)
	return nil
}

// ProcModules is /proc/modules: the newest module first.
func (k *Kernel) ProcModules() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	var lines strings.Builder
	for _, d := range slices.Backward(k.drivers) {
		fmt.Fprintf(&lines, "%s 16384 0 - Live 0x0000000000000000\n", d.module())
	}
	return lines.String()
}

// setVFs is sriov_numvfs_store (drivers/pci/iov.c).
func (d *device) setVFs(value string) error {
	var n int
	if _, err := fmt.Sscanf(value, "%d", &n); err != nil || n < 0 {
		return syscall.EINVAL
	}
	d.k.mu.Lock()
	have, driver := len(d.vfs), d.driver
	d.k.mu.Unlock()
	switch {
	case n > d.drive.TotalVFs:
		return syscall.ERANGE
	case n == have:
		return nil
	case driver == nil:
		return syscall.ENOENT
	case n > 0 && have > 0:
		return syscall.EBUSY
	case n == 0:
		d.removeVFs()
	default:
		d.addVFs(n)
	}
	return nil
}

func (d *device) showVFs() (string, error) {
	d.k.mu.Lock()
	defer d.k.mu.Unlock()
	return fmt.Sprintf("%d\n", len(d.vfs)), nil
}

func (d *device) addVFs(n int) {
	ids := d.drive.IDs
	for i := range n {
		at := d.address
		routing := int(at.Device)<<3 | int(at.Function) + i + 1
		at.Device, at.Function = uint8(routing>>3), uint8(routing&7)
		d.k.addVF(d, i, at, Drive{IDs: ids, NoINTx: true})
	}
}

func (k *Kernel) addVF(pf *device, index int, at pci.Address, drive Drive) {
	k.mu.Lock()
	vf := k.newDevice(at, drive, pf)
	pf.dir.link(fmt.Sprintf("virtfn%d", index), vf.dir)
	pf.vfs = append(pf.vfs, vf)
	vf.matching = true
	k.mu.Unlock()
	k.initialProbe(vf)()
}

func (d *device) removeVFs() {
	d.k.mu.Lock()
	vfs := slices.Clone(d.vfs)
	d.k.mu.Unlock()
	for i, vf := range vfs {
		d.k.removeOne(vf)
		d.k.mu.Lock()
		d.dir.remove(fmt.Sprintf("virtfn%d", i))
		d.k.mu.Unlock()
	}
	d.k.mu.Lock()
	defer d.k.mu.Unlock()
	d.vfs = nil
}
