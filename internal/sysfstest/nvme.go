package sysfstest

import (
	"fmt"
	"strconv"
)

// blockMajor is the major number of NVMe block devices.
const blockMajor = 259

// makeNVMe makes what nvme's probe makes: the controller, and from 6.12 on
// its block devices too.
func makeNVMe(d *device) {
	k := d.k
	n := k.number("nvme", 0)
	name := fmt.Sprintf("nvme%d", n)
	controller, remove := k.child(d.dir.mkdir("nvme"), name, "nvme", devnode(name, 240, n))
	d.undo = append(d.undo, func() {
		remove()
		d.dir.remove("nvme")
		k.freeNumber("nvme", n)
	})
	d.controller, d.instance = controller, n
	controller.link("device", d.dir)
	serial, model := d.drive.Serial, d.drive.Model
	if serial == "" {
		serial = d.address.String()
	}
	if model == "" {
		model = "Model NVMe Drive"
	}
	for name, value := range map[string]string{
		"state":        "live",
		"transport":    "pcie",
		"address":      d.address.String(),
		"serial":       fmt.Sprintf("%-20s", serial),
		"model":        fmt.Sprintf("%-40s", model),
		"firmware_rev": "1.0     ",
		"cntlid":       "0",
		"subsysnqn":    "nqn.2014.08.org.nvmexpress:uuid:" + serial,
		"dev":          fmt.Sprintf("240:%d", n),
	} {
		controller.file(name, text(value+"\n"))
	}
	if k.options.Release.wholeInProbe() {
		d.makeNamespaces(controller, n)
	}
}

// makeNVMeLate makes the block devices of a kernel that finds them after the
// bind event.
func makeNVMeLate(d *device) {
	if !d.k.options.Release.wholeInProbe() {
		d.makeNamespaces(d.controller, d.instance)
	}
}

// makeNamespaces makes the block devices of a controller: below it, or with
// several controllers below its subsystem and a hidden path below it.
func (d *device) makeNamespaces(controller *node, n int) {
	above := controller
	if d.drive.MultiPath {
		subsystem := d.k.root.mkdir(fmt.Sprintf("devices/virtual/nvme-subsystem/nvme-subsys%d", n))
		subsystem.link(controller.name, controller)
		above = subsystem
		d.undo = append(d.undo, func() { subsystem.parent.remove(subsystem.name) })
	}
	for _, ns := range d.drive.Namespaces {
		if d.drive.MultiPath {
			d.makeDisk(controller, fmt.Sprintf("nvme%dc%dn%d", n, n, ns.ID), ns, true)
		}
		d.makeDisk(above, fmt.Sprintf("nvme%dn%d", n, ns.ID), ns, false)
	}
}

func (d *device) makeDisk(above *node, name string, ns Namespace, hidden bool) {
	k := d.k
	disk := d.makeBlock(above, name, "disk", ns.Sectors, hidden)
	disk.link("device", above)
	k.root.mkdir("block").link(name, disk)
	d.undo = append(d.undo, func() { k.root.mkdir("block").remove(name) })
	for attribute, value := range map[string]string{
		"nsid":      strconv.Itoa(ns.ID),
		"removable": "0",
		"hidden":    map[bool]string{true: "1", false: "0"}[hidden],
		"wwid":      "nvme." + d.address.String(),
	} {
		disk.file(attribute, text(value+"\n"))
	}
	disk.mkdir("queue").file("logical_block_size", text("512\n"))
	if hidden {
		return
	}
	start := uint64(2048)
	for i, sectors := range ns.Partitions {
		part := d.makeBlock(disk, fmt.Sprintf("%sp%d", name, i+1), "partition", sectors, false)
		part.file("partition", text(strconv.Itoa(i+1)+"\n"))
		part.file("start", text(strconv.FormatUint(start, 10)+"\n"))
		start += sectors
	}

}

func (d *device) makeBlock(above *node, name, devtype string, sectors uint64, hidden bool) *node {
	k := d.k
	minor := k.number("block", 0)
	env := devnode(name, blockMajor, minor)
	if hidden {
		env = map[string]string{}
	}
	env["DEVTYPE"] = devtype
	block, remove := k.child(above, name, "block", env)
	d.undo = append(d.undo, func() {
		remove()
		k.freeNumber("block", minor)
	})
	block.file("size", text(strconv.FormatUint(sectors, 10)+"\n"))
	block.file("ro", text("0\n"))
	if !hidden {
		block.file("dev", text(fmt.Sprintf("%d:%d\n", blockMajor, minor)))
	}
	block.mkdir("holders")
	block.mkdir("slaves")
	return block
}
