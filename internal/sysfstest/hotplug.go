package sysfstest

import (
	"fmt"
	"slices"

	"vfio-hotplug/internal/pci"
)

// AddBay puts a bay on the machine: its slot, and the bridges above it.
func (k *Kernel) AddBay(b Bay) {
	for i, a := range b.Above {
		if k.present(a) {
			continue
		}
		ids := Port()
		if i+1 < len(b.Above) && b.Above[i+1].Domain != a.Domain {
			ids = pci.IDs{Vendor: 0x8086, Device: 0x9a0b, SubVendor: 0x8086, Class: 0x010400}
		}
		k.mu.Lock()
		if _, known := k.bays[a]; !known {
			k.bays[a] = Bay{Address: a, Above: slices.Clone(b.Above[:i]), NUMANode: b.NUMANode}
		}
		k.mu.Unlock()
		k.Plug(a, Drive{IDs: ids})
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.bays[b.Address] = b
	if b.Slot != "" {
		place := b.Address.String()
		k.root.mkdir("bus/pci/slots/"+b.Slot).file("address", text(place[:len(place)-2]+"\n"))
	}
}

func (k *Kernel) present(a pci.Address) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.at(a) != nil
}

// Plug plugs a drive in and returns when every driver that wanted it has
// probed it: BeginAdd and FinishAdd.
func (k *Kernel) Plug(a pci.Address, drive Drive) {
	k.BeginAdd(a, drive)
	k.FinishAdd(a)
}

// BeginAdd takes a hot-add to the moment after its add event: the directory
// is there, driver_override can be written, and nothing can bind yet. It waits
// for a removal that is under way.
func (k *Kernel) BeginAdd(a pci.Address, drive Drive) {
	for {
		k.mu.Lock()
		if len(k.adding) > 0 || k.rescan.try() {
			break
		}
		k.mu.Unlock()
		k.rescan.lock()
		k.rescan.unlock()
	}
	defer k.mu.Unlock()
	if k.at(a) != nil {
		panic(fmt.Sprintf("sysfstest: %s has something plugged in already", a))
	}
	k.adding[k.newDevice(a, drive, nil)] = true
}

// FinishAdd ends the hot-add that BeginAdd began: matching is allowed and the
// drivers are offered the device. It waits for their probes.
func (k *Kernel) FinishAdd(a pci.Address) {
	d := k.mustAt(a)
	k.mu.Lock()
	if !k.adding[d] {
		k.mu.Unlock()
		panic(fmt.Sprintf("sysfstest: %s is not being added", a))
	}
	d.matching = true
	k.mu.Unlock()
	async := k.initialProbe(d)
	k.mu.Lock()
	k.endAdd(d)
	k.mu.Unlock()
	async()
}

// endAdd lets the next removal go on when no add is left.
func (k *Kernel) endAdd(d *device) {
	if !k.adding[d] {
		return
	}
	delete(k.adding, d)
	if len(k.adding) == 0 {
		k.rescan.unlock()
	}
}

// initialProbe offers a new device to the drivers, and gives what is left for
// after the rescan lock: the pass of the asynchronous drivers.
func (k *Kernel) initialProbe(d *device) (async func()) {
	release := k.options.Release
	k.mu.Lock()
	closed := release.gated() && !k.autoprobe
	k.mu.Unlock()
	later := func() {}
	switch {
	case closed:
	case !release.syncFirst():
		_, _ = k.attach(d, anyDriver)
	default:
		if more, _ := k.attach(d, syncDrivers); more {
			later = func() {
				k.pause(Scheduled, "", d)
				_, _ = k.attach(d, asyncDrivers)
			}
		}
	}
	return later
}

// Unplug takes a device and all below it away. It waits for a probe, for the
// driver, for a holder of its vfio node, and for other removals. A device that
// BeginAdd left half added goes at once.
func (k *Kernel) Unplug(a pci.Address) {
	d := k.mustAt(a)
	k.mu.Lock()
	if k.adding[d] && !d.matching {
		k.erase(d)
		k.endAdd(d)
		k.mu.Unlock()
		return
	}
	k.mu.Unlock()
	k.rescan.lock()
	defer k.rescan.unlock()
	k.removeTree(d)
}

// removeTree removes what is below a device before the device.
func (k *Kernel) removeTree(d *device) {
	k.mu.Lock()
	var below []*device
	for _, other := range k.devices {
		if other.physfn == d || slices.Contains(other.bay.Above, d.address) {
			below = append(below, other)
		}
	}
	k.mu.Unlock()
	slices.SortStableFunc(below, func(a, b *device) int { return len(b.bay.Above) - len(a.bay.Above) })
	for _, other := range below {
		k.removeOne(other)
	}
	k.removeOne(d)
}

func (k *Kernel) removeOne(d *device) {
	k.release(d)
	k.pause(Stopped, "", d)
	d.lock.lock()
	k.mu.Lock()
	d.dead = true
	k.mu.Unlock()
	d.lock.unlock()
	k.release(d) // bound again since
	k.mu.Lock()
	defer k.mu.Unlock()
	k.erase(d)
}

// erase takes the directory of a device away.
func (k *Kernel) erase(d *device) {
	i := slices.Index(k.devices, d)
	if i < 0 {
		return
	}
	d.dead = true
	k.devices = slices.Delete(k.devices, i, i+1)
	k.root.mkdir("bus/pci/devices").remove(d.address.String())
	k.leaveGroup(d)
	d.emit("remove", nil)
	d.dir.parent.remove(d.address.String())
}

// Present gives the addresses at which something is plugged in, in the order
// of its plugging.
func (k *Kernel) Present() []pci.Address {
	k.mu.Lock()
	defer k.mu.Unlock()
	var all []pci.Address
	for _, d := range k.devices {
		all = append(all, d.address)
	}
	return all
}

// Added reports whether the kernel has finished adding what is at an address:
// drivers may match it. It stands for an entry below /proc/bus/pci.
func (k *Kernel) Added(a pci.Address) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	d := k.at(a)
	return d != nil && d.matching
}

// Touched gives the drivers whose probe has run on the device that is, or was
// last, at an address: in order, and also those that failed.
func (k *Kernel) Touched(a pci.Address) []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	if d := k.last[a]; d != nil {
		return slices.Clone(d.touched)
	}
	return nil
}

// Driver gives the driver that the device at an address is bound to, "" for
// none: the target of its driver link.
func (k *Kernel) Driver(a pci.Address) string {
	d := k.mustAt(a)
	k.mu.Lock()
	defer k.mu.Unlock()
	if l := d.dir.children["driver"]; l != nil {
		return l.to.name
	}
	return ""
}

// Override gives the driver_override of the device at an address, "" for none.
func (k *Kernel) Override(a pci.Address) string {
	d := k.mustAt(a)
	k.mu.Lock()
	defer k.mu.Unlock()
	return d.override
}
