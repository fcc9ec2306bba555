package sysfstest

import (
	"errors"
	"slices"
	"strings"
	"syscall"

	"vfio-hotplug/internal/pci"
)

// Deferred is for FailProbe: a probe that wants to be tried again later. It is
// the kernel's EPROBE_DEFER, which user space never sees.
const Deferred = syscall.Errno(517)

// Driver is a PCI driver that LoadModule can register.
type Driver struct {
	Name  string
	Async bool    // asks for asynchronous probing, as nvme does
	IDs   []Match // its static IDs
	DMA   bool    // does DMA by itself, so that its device makes a group not viable

	// make creates what the driver makes below its device, before the bind
	// event and after. Called with Kernel.mu held.
	make, late func(*device)
	// refuse is the error of the driver's probe. Called with Kernel.mu held.
	refuse func(*device) error
}

// Match is a row of a driver's ID table. Any as an ID fits every ID.
type Match struct {
	Vendor, Device, SubVendor, SubDevice uint32
	Class, Mask                          uint32
	OverrideOnly                         bool // fits only with driver_override
	Data                                 uint64
}

// Any is PCI_ANY_ID.
const Any = 0xffffffff

// AnyOfClass fits every device of a class.
func AnyOfClass(class pci.Class, mask uint32) Match {
	return Match{Vendor: Any, Device: Any, SubVendor: Any, SubDevice: Any, Class: uint32(class), Mask: mask}
}

func (m Match) fits(i wideIDs) bool {
	return (m.Vendor == Any || m.Vendor == i.vendor) && (m.Device == Any || m.Device == i.device) &&
		(m.SubVendor == Any || m.SubVendor == i.subVendor) && (m.SubDevice == Any || m.SubDevice == i.subDevice) &&
		(m.Class^i.class)&m.Mask == 0
}

// wideIDs are the IDs as the kernel compares them with a Match.
type wideIDs struct{ vendor, device, subVendor, subDevice, class uint32 }

func wide(i pci.IDs) wideIDs {
	return wideIDs{uint32(i.Vendor), uint32(i.Device), uint32(i.SubVendor), uint32(i.SubDevice), uint32(i.Class)}
}

// known are the drivers that the model has modules of.
func known() []Driver {
	class := func(c pci.Class, mask uint32) []Match { return []Match{AnyOfClass(c, mask)} }
	vfioAny := AnyOfClass(0, 0)
	vfioAny.OverrideOnly = true
	return []Driver{
		{Name: "pcieport", IDs: class(0x060400, 0xffffff)},
		{Name: "nvme", Async: true, DMA: true, IDs: class(pci.NVMe, 0xffffff), make: makeNVMe, late: makeNVMeLate},
		{Name: "vfio-pci", IDs: []Match{vfioAny}, make: makeVFIO, refuse: refuseVFIO},
		{Name: "pci-stub"},
		{Name: "uio_pci_generic", DMA: true, make: makeUIO, refuse: refuseUIO},
		{Name: "e1000e", DMA: true, IDs: []Match{{Vendor: 0x8086, Device: 0x10d3, SubVendor: Any, SubDevice: Any}}, make: makeNet},
		{Name: "vmd", DMA: true, IDs: []Match{{Vendor: 0x8086, Device: 0x9a0b, SubVendor: Any, SubDevice: Any}}},
	}
}

// driver is a driver and, while it is registered, its directory.
type driver struct {
	Driver
	k       *Kernel
	dir     *node
	leaving bool // its module is being unloaded: nothing binds to it any more
	dynamic []Match
}

// module is the name of the driver's module.
func (d *driver) module() string { return strings.ReplaceAll(d.Name, "-", "_") }

// matches is pci_match_device (drivers/pci/pci-driver.c) behind
// pci_bus_match.
func (d *driver) matches(dev *device) bool {
	return dev.matching && d.suits(wide(dev.drive.IDs), dev.override)
}

func (d *driver) suits(i wideIDs, override string) bool {
	if override != "" {
		return override == d.Name
	}
	fits := func(m Match) bool { return m.fits(i) && !m.OverrideOnly }
	return slices.ContainsFunc(d.dynamic, fits) || slices.ContainsFunc(d.IDs, fits)
}

// pass says which drivers a device is offered to.
type pass int

const (
	anyDriver pass = iota
	syncDrivers
	asyncDrivers
)

func (p pass) admits(d *driver) bool {
	return p == anyDriver || (p == asyncDrivers) == d.Async
}

// attach offers a device to the drivers in the order of their registration,
// until one takes it (drivers/base/dd.c, __device_attach). A probe that fails
// is no error here; only what goes wrong before the probe is. It reports
// whether an asynchronous driver matched that pass did not admit.
func (k *Kernel) attach(dev *device, pass pass) (more bool, err error) {
	dev.lock.lock()
	defer dev.lock.unlock()
	for _, d := range k.registered() {
		k.mu.Lock()
		free, fits := dev.driver == nil && !dev.dead, d.matches(dev)
		k.mu.Unlock()
		switch {
		case !free:
			return false, nil
		case !fits:
			continue
		case !pass.admits(d):
			more = more || d.Async
			continue
		}
		var failed probeError
		if err := k.probe(d, dev); err == nil || !errors.As(err, &failed) {
			return false, err
		}
	}
	return more, nil
}

func (k *Kernel) registered() []*driver {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.drivers)
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

// probeError is an error of a driver's own probe.
type probeError struct{ error }

func (e probeError) Unwrap() error { return e.error }

// probe is really_probe (drivers/base/dd.c): the device lock is held, and the
// driver matched a moment ago. The driver link is there while the driver
// probes, and goes away again if it fails.
func (k *Kernel) probe(d *driver, dev *device) error {
	k.pause(Matched, d.Name, dev)
	if err := k.beginProbe(d, dev); err != nil {
		return err
	}
	err := k.callProbe(d, dev)
	k.mu.Lock()
	defer k.mu.Unlock()
	if err != nil {
		k.unlink(dev)
		dev.undoAll()
		dev.driver = nil
		return probeError{err}
	}
	dev.emit("bind", map[string]string{"DRIVER": d.Name})
	if d.late != nil {
		d.late(dev)
	}
	return nil
}

func (k *Kernel) beginProbe(d *driver, dev *device) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case dev.dead || d.dir == nil || d.leaving:
		return syscall.ENODEV
	case dev.driver != nil:
		return syscall.EBUSY
	case d.DMA && dev.group != nil && dev.group.holder != nil:
		return syscall.EBUSY // iommu_device_use_default_domain
	}
	dev.driver = d
	dev.dir.link("driver", d.dir)
	d.dir.link(dev.address.String(), dev.dir)
	return nil
}

func (k *Kernel) unlink(dev *device) {
	dev.dir.remove("driver")
	if dev.driver.dir != nil {
		dev.driver.dir.remove(dev.address.String())
	}
}

// callProbe looks the ID up once more, as pci_device_probe does: an override
// that was written since the match makes it fail.
func (k *Kernel) callProbe(d *driver, dev *device) error {
	k.mu.Lock()
	fits := d.matches(dev)
	if fits {
		dev.touched = append(dev.touched, d.Name)
	}
	k.mu.Unlock()
	if !fits {
		return syscall.ENODEV
	}
	k.pause(Probing, d.Name, dev)
	if err := k.makeChildren(d, dev); err != nil {
		return err
	}
	k.pause(Probed, d.Name, dev)
	return nil
}

func (k *Kernel) makeChildren(d *driver, dev *device) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.failures[failure{d.Name, dev.address}]; err != nil {
		return err
	}
	if d.refuse != nil {
		if err := d.refuse(dev); err != nil {
			return err
		}
	}
	if d.make != nil {
		d.make(dev)
	}
	return nil
}

// release takes a device from whatever driver it has. The driver link goes
// first; the driver may take its time after that.
func (k *Kernel) release(dev *device) {
	dev.lock.lock()
	defer dev.lock.unlock()
	k.mu.Lock()
	d := dev.driver
	if d == nil {
		k.mu.Unlock()
		return
	}
	k.unlink(dev)
	k.mu.Unlock()
	k.pause(Releasing, d.Name, dev)
	k.mu.Lock()
	dev.goFirst()
	k.mu.Unlock()
	k.awaitHolder(dev)
	k.mu.Lock()
	defer k.mu.Unlock()
	dev.undoAll()
	dev.driver = nil
	dev.emit("unbind", nil)
}

// goFirst takes away what goes before the driver waits for a holder.
func (d *device) goFirst() {
	for _, undo := range d.before {
		undo()
	}
	d.before = nil
}

func (d *device) undoAll() {
	d.goFirst()
	for _, undo := range slices.Backward(d.undo) {
		undo()
	}
	d.undo = nil
}

// failure names a probe that is to fail.
type failure struct {
	driver string
	at     pci.Address
}

// FailProbe has every probe of a driver at an address fail with an errno, or
// with Deferred. Nil ends it.
func (k *Kernel) FailProbe(driver string, a pci.Address, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.failures[failure{driver, a}] = err
}
