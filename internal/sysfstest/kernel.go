// Package sysfstest is a model of the PCI part of the kernel's /sys, for
// tests. It lives in memory and reacts to writes as the kernel does: writing
// driver_override steers the next match, unbind waits for a holder of the
// vfio node, an unplugged device takes its directory with it.
//
// Where the model cannot be exact it is stricter than the kernel, never
// kinder. Contract holds the model and real kernels to the same statements.
package sysfstest

import (
	"fmt"
	"slices"
	"sync"

	"vfio-hotplug/internal/pci"
	"vfio-hotplug/internal/sysfs"
)

// Release is a kernel release whose behaviour the model shows.
type Release int

// The releases between which a behaviour that the model shows has changed.
const (
	Linux61  Release = 601 // driver_override takes the device lock; the first registered driver wins
	Linux612 Release = 612 // as of 6.12.91: driver_override never waits; nvme is whole before its bind event
	Linux617 Release = 617 // driver_override takes the lock; synchronous drivers match before asynchronous ones
	Linux619 Release = 619 // drivers_autoprobe=0 holds for hot-added devices too; serial_number
	Linux73  Release = 703 // driver_override never waits
)

// String is "6.12".
func (r Release) String() string { return fmt.Sprintf("%d.%d", r/100, r%100) }

// overrideLocks: reading or writing driver_override waits for a running probe.
func (r Release) overrideLocks() bool { return r < Linux73 && r != Linux612 }

// wholeInProbe: nvme's block devices are there before its bind event.
func (r Release) wholeInProbe() bool { return r >= Linux612 }

// vfioGoesFirst: an unbind takes the vfio device away before it waits for who
// holds it; that is so since Linux 6.6.
func (r Release) vfioGoesFirst() bool { return r >= Linux612 }

// syncFirst: a hot-added device is offered to the synchronous drivers first.
func (r Release) syncFirst() bool { return r >= Linux617 }

// gated: drivers_autoprobe=0 also holds for hot-added devices.
func (r Release) gated() bool { return r >= Linux619 }

// Options say what kind of machine a Kernel is. The zero value is Linux 7.3
// with an IOMMU, and with pcieport, nvme and vfio-pci registered in this order.
type Options struct {
	Release Release

	// Drivers are registered at boot, in this order. Nil means pcieport, nvme
	// and vfio-pci; an empty slice means none.
	Drivers []string

	// Extra are drivers besides those that the model knows, for LoadModule.
	Extra []Driver

	// Missing names drivers whose module is not on this machine.
	Missing []string

	// NoIOMMU: no device has a group, and vfio-pci refuses every one.
	NoIOMMU bool

	// IOMMUFD: vfio-dev has a character device, as with CONFIG_VFIO_DEVICE_CDEV.
	IOMMUFD bool

	// Unprivileged: the reader lacks CAP_SYS_ADMIN, so that config space ends
	// at 64 bytes.
	Unprivileged bool
}

// Kernel is the model. Its methods may be called from several goroutines at
// once. A method that is given what cannot be, such as a drive for a bay that
// has one, panics: the fault is in the test.
//
// What blocks in the kernel blocks in the model: on channels, so that it works
// in a testing/synctest bubble.
type Kernel struct {
	options Options
	rescan  lock // pci_rescan_remove_lock

	mu        sync.Mutex // guards all below; never held across a wait
	inodes    uint64
	root      *node
	bays      map[pci.Address]Bay
	devices   []*device // in order of their adding
	last      map[pci.Address]*device
	adding    map[*device]bool
	catalogue []*driver
	drivers   []*driver // registered, in this order
	autoprobe bool
	groups    map[int]*group
	numbers   map[string]map[int]bool // instance numbers in use, by kind
	pauses    []*Pause
	failures  map[failure]error
	bus       broadcast
	watch     watch
}

// New boots a machine with no device in it.
func New(o Options) *Kernel {
	if o.Release == 0 {
		o.Release = Linux73
	}
	if o.Drivers == nil {
		o.Drivers = []string{"pcieport", "nvme", "vfio-pci"}
	}
	k := &Kernel{
		options:   o,
		rescan:    newLock(),
		bays:      map[pci.Address]Bay{},
		last:      map[pci.Address]*device{},
		adding:    map[*device]bool{},
		autoprobe: true,
		groups:    map[int]*group{},
		numbers:   map[string]map[int]bool{},
		failures:  map[failure]error{},
	}
	k.root = k.newNode(nil, "", directory)
	k.plant()
	for _, d := range append(known(), o.Extra...) {
		k.catalogue = append(k.catalogue, &driver{Driver: d, k: k})
	}
	for _, name := range o.Drivers {
		if err := k.LoadModule(name); err != nil {
			panic(fmt.Sprintf("sysfstest: driver %s at boot: %v", name, err))
		}
	}
	return k
}

// plant makes what every /sys has.
func (k *Kernel) plant() {
	for _, dir := range []string{
		"block", "bus/pci/devices", "bus/pci/drivers", "bus/pci/slots", "class/block", "class/net", "class/nvme",
		"class/vfio", "class/vfio-dev", "class/uio", "devices/virtual", "kernel/iommu_groups", "module",
	} {
		k.root.mkdir(dir)
	}
	bus := k.root.mkdir("bus/pci")
	bus.file("drivers_probe", attribute{store: k.driversProbe})
	bus.file("drivers_autoprobe", attribute{show: k.showAutoprobe, store: k.setAutoprobe})
}

// Root is /sys.
func (k *Kernel) Root() sysfs.Dir { return &dir{k: k, node: k.root} }

// FS is the PCI view of Root; what can hang goes through Expendable.
func (k *Kernel) FS() sysfs.FS { return sysfs.New(k.Root(), k.Expendable()) }

// Release says which kernel this is.
func (k *Kernel) Release() Release { return k.options.Release }

// number takes the lowest free instance number of a kind, as the kernel's ida
// does.
func (k *Kernel) number(kind string, first int) int {
	used := k.numbers[kind]
	if used == nil {
		used = map[int]bool{}
		k.numbers[kind] = used
	}
	n := first
	for used[n] {
		n++
	}
	used[n] = true
	return n
}

func (k *Kernel) freeNumber(kind string, n int) { delete(k.numbers[kind], n) }

// at gives the device that is at an address, or nil.
func (k *Kernel) at(a pci.Address) *device {
	i := slices.IndexFunc(k.devices, func(d *device) bool { return d.address == a })
	if i < 0 {
		return nil
	}
	return k.devices[i]
}

func (k *Kernel) mustAt(a pci.Address) *device {
	k.mu.Lock()
	defer k.mu.Unlock()
	if d := k.at(a); d != nil {
		return d
	}
	panic(fmt.Sprintf("sysfstest: nothing is plugged in at %s", a))
}

// lock is a kernel mutex: whoever waits for it is stuck until it is free.
type lock chan struct{}

func newLock() lock { return make(lock, 1) }

func (l lock) lock()   { l <- struct{}{} }
func (l lock) unlock() { <-l }

func (l lock) try() bool {
	select {
	case l <- struct{}{}:
		return true
	default:
		return false
	}
}
