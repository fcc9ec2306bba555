package sysfstest

import (
	"fmt"
	"syscall"
)

// refuseUIO: uio_pci_generic needs an interrupt line.
func refuseUIO(d *device) error {
	if d.drive.NoINTx || d.drive.Forwards {
		return syscall.ENODEV
	}
	return nil
}

func makeUIO(d *device) {
	n := d.k.number("uio", 0)
	name := fmt.Sprintf("uio%d", n)
	uio, remove := d.k.child(d.dir.mkdir("uio"), name, "uio", devnode(name, 242, n))
	uio.file("name", text("uio_pci_generic\n"))
	uio.file("dev", text(fmt.Sprintf("242:%d\n", n)))
	uio.link("device", d.dir)
	d.undo = append(d.undo, func() {
		remove()
		d.dir.remove("uio")
		d.k.freeNumber("uio", n)
	})
}

func makeNet(d *device) {
	n := d.k.number("eth", 0)
	name := fmt.Sprintf("eth%d", n)
	net, remove := d.k.child(d.dir.mkdir("net"), name, "net", map[string]string{"INTERFACE": name})
	net.link("device", d.dir)
	d.undo = append(d.undo, func() {
		remove()
		d.dir.remove("net")
		d.k.freeNumber("eth", n)
	})
}
