package sysfstest

import (
	"slices"
	"strconv"

	"vfio-hotplug/internal/pci"
)

// group is an IOMMU group.
type group struct {
	number  int
	dir     *node
	devices []*device
	vfio    int     // its devices that are bound to vfio-pci
	holder  *Holder // who has the group node open
	unnode  func()  // takes the group node away
}

// joinGroup puts a new device into the group of its bay.
func (k *Kernel) joinGroup(d *device) {
	n := d.bay.Group
	switch {
	case k.options.NoIOMMU || n == pci.NoGroup:
		return
	case n == 0:
		n = k.placeGroup(d)
	}
	g := k.groups[n]
	if g == nil {
		g = &group{number: n, dir: k.root.mkdir("kernel/iommu_groups/" + strconv.Itoa(n))}
		g.dir.mkdir("devices")
		g.dir.file("type", text("DMA-FQ\n"))
		k.groups[n] = g
	}
	g.devices = append(g.devices, d)
	g.dir.children["devices"].link(d.address.String(), d.dir)
	d.group = g
	d.dir.link("iommu_group", g.dir)
}

// placeGroup gives the group that a device has from its place, as
// pci_device_group (drivers/iommu/iommu.c): that of the bridge above, if that
// has no ACS; that of another function of the same device, which has no ACS
// either; or a new one.
func (k *Kernel) placeGroup(d *device) int {
	same := func(other *device) bool {
		a, b := d.address, other.address
		a.Function, b.Function = 0, 0
		return a == b && d.physfn == nil && other.physfn == nil
	}
	above := d.bay.Above
	for _, other := range k.devices {
		behind := d.bay.NoACS && len(above) > 0 && other.address == above[len(above)-1]
		if other != d && other.group != nil && (behind || same(other)) {
			return other.group.number
		}
	}
	return k.freeGroup()
}

// freeGroup gives the lowest number that no group has and no bay asks for.
func (k *Kernel) freeGroup() int {
	taken := map[int]bool{}
	for _, b := range k.bays {
		taken[b.Group] = true
	}
	n := 1
	for taken[n] || k.groups[n] != nil {
		n++
	}
	return n
}

func (k *Kernel) leaveGroup(d *device) {
	g := d.group
	if g == nil {
		return
	}
	d.dir.remove("iommu_group")
	g.dir.children["devices"].remove(d.address.String())
	g.devices = slices.DeleteFunc(g.devices, func(other *device) bool { return other == d })
	if len(g.devices) == 0 {
		k.root.mkdir("kernel/iommu_groups").remove(strconv.Itoa(g.number))
		delete(k.groups, g.number)
	}
}

// viable: no device of the group is bound to a driver that does DMA by itself.
func (g *group) viable() bool {
	for _, d := range g.devices {
		if d.driver != nil && d.driver.DMA {
			return false
		}
	}
	return true
}
