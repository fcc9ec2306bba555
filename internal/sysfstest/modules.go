package sysfstest

import (
	"fmt"
	"slices"
	"strings"
	"syscall"
)

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
	d.leaving = true
	k.mu.Unlock()
	for _, dev := range bound {
		k.release(dev)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	d.dir, d.dynamic, d.leaving = nil, nil, false
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
