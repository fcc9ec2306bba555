package sysfstest

import (
	"fmt"
	"strconv"
	"syscall"

	"vfio-hotplug/internal/pci"
)

// refuseVFIO is what the probe of vfio-pci refuses.
func refuseVFIO(d *device) error {
	switch {
	case d.drive.Forwards:
		return syscall.EINVAL
	case d.group == nil:
		return syscall.EINVAL
	case len(d.vfs) > 0:
		return syscall.EBUSY
	}
	return nil
}

// makeVFIO makes the group node, if the device is the first of its group, and
// the vfio device.
func makeVFIO(d *device) {
	k, g := d.k, d.group
	if g.vfio++; g.vfio == 1 {
		number := strconv.Itoa(g.number)
		_, g.unnode = k.child(k.root.mkdir("devices/virtual/vfio"), number, "vfio", devnode("vfio/"+number, 243, g.number))
	}
	d.undo = append(d.undo, func() {
		if g.vfio--; g.vfio == 0 {
			g.unnode()
		}
	})
	n := k.number("vfio-dev", 0)
	name := fmt.Sprintf("vfio%d", n)
	var env map[string]string
	if k.options.IOMMUFD {
		env = devnode("vfio/devices/"+name, 511, n)
	}
	dev, remove := k.child(d.dir.mkdir("vfio-dev"), name, "vfio-dev", env)
	if k.options.IOMMUFD {
		dev.file("dev", text(fmt.Sprintf("511:%d\n", n)))
	}
	dev.link("device", d.dir)
	gone := func() {
		remove()
		d.dir.remove("vfio-dev")
		k.freeNumber("vfio-dev", n)
	}
	if k.options.Release.vfioGoesFirst() {
		d.before = append(d.before, gone)
	} else {
		d.undo = append(d.undo, gone)
	}
}

// devnode is what an event says about a character or block device.
func devnode(name string, major, minor int) map[string]string {
	return map[string]string{"DEVNAME": name, "MAJOR": strconv.Itoa(major), "MINOR": strconv.Itoa(minor)}
}

// Holder is a program that uses a device through vfio.
type Holder struct {
	k      *Kernel
	device *device
	done   chan struct{}
}

// Hold opens the vfio group of the device at an address, and the device. It
// answers ENOENT where there is no node, EBUSY where another Holder has the
// group, and EPERM where the group is not viable.
//
// Until Release, an unbind of the device and its unplugging block.
func (k *Kernel) Hold(a pci.Address) (*Holder, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	d := k.at(a)
	switch {
	case d == nil || d.driver == nil || d.driver.Name != "vfio-pci" || d.dir.children["driver"] == nil:
		return nil, syscall.ENOENT
	case d.group.holder != nil:
		return nil, syscall.EBUSY
	case !d.group.viable():
		return nil, syscall.EPERM
	}
	h := &Holder{k: k, device: d, done: make(chan struct{})}
	d.holder, d.group.holder = h, h
	return h, nil
}

// Release lets go of the device. Call it once.
func (h *Holder) Release() {
	h.k.mu.Lock()
	defer h.k.mu.Unlock()
	h.device.holder, h.device.group.holder = nil, nil
	close(h.done)
}

// awaitHolder waits until nobody holds a device that is being unbound.
func (k *Kernel) awaitHolder(d *device) {
	k.mu.Lock()
	h := d.holder
	k.mu.Unlock()
	if h != nil {
		<-h.done
	}
}
