package sysfstest

import (
	"fmt"
	"slices"
	"syscall"

	"vfio-hotplug/internal/pci"
)

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

// addVF is pci_iov_add_virtfn: a VF is announced before sysfs tells of which
// function it is.
func (k *Kernel) addVF(pf *device, index int, at pci.Address, drive Drive) {
	k.mu.Lock()
	vf := k.newDevice(at, drive, pf)
	k.mu.Unlock()
	k.pause(Announced, "", vf)
	k.mu.Lock()
	pf.dir.link(fmt.Sprintf("virtfn%d", index), vf.dir)
	vf.dir.link("physfn", pf.dir)
	vf.emit("change", nil)
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
