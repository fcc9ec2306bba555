// Package iommu reads what the kernel says about IOMMU groups and about the
// nodes through which a program drives a device: which devices share a group,
// which of them would keep a program from using it, and which node to open. It
// decides nothing and opens no node.
package iommu

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"vfio-hotplug/internal/pci"
	"vfio-hotplug/internal/sysfs"
)

// Group is an IOMMU group: the smallest set of devices that the IOMMU can tell
// from all others. A program gets all of it or nothing.
type Group struct {
	Number int
	// Unsafe says that there is no IOMMU behind the group: vfio made it up, in
	// its no-IOMMU mode (drivers/vfio/group.c, vfio_noiommu_group_alloc).
	Unsafe  bool
	Members []Member // in order of name
}

// Member is a device of a group.
type Member struct {
	Name    string      // of the device on its bus
	PCI     bool        // it is a PCI function
	Address pci.Address // if PCI
	Driver  string      // "" for none
	Bridge  bool        // if PCI: no vfio driver takes it
	VFIO    bool        // its driver has handed it to vfio
}

// String names the member and its driver.
func (m Member) String() string {
	if m.Driver == "" {
		return m.Name + " (no driver)"
	}
	return m.Name + " (" + m.Driver + ")"
}

// ReadGroup reads a group. A member that goes away meanwhile is left out; a
// group that is not there is a Gone error.
func ReadGroup(root sysfs.Dir, number int) (Group, error) {
	dir, err := root.Open("kernel/iommu_groups/" + strconv.Itoa(number))
	if err != nil {
		return Group{}, fmt.Errorf("read IOMMU group: %w", err)
	}
	defer dir.Close()
	g := Group{Number: number}
	if g.Unsafe, err = unsafe(dir, "name"); err != nil {
		return Group{}, fmt.Errorf("read IOMMU group: %w", err)
	}
	names, err := dir.List("devices")
	if err != nil {
		return Group{}, fmt.Errorf("read IOMMU group: %w", err)
	}
	for _, name := range names {
		m, err := readMember(dir, name)
		if sysfs.Gone(err) {
			continue
		}
		if err != nil {
			return Group{}, fmt.Errorf("read IOMMU group: %w", err)
		}
		g.Members = append(g.Members, m)
	}
	slices.SortFunc(g.Members, func(a, b Member) int {
		return cmp.Or(a.Address.Compare(b.Address), cmp.Compare(a.Name, b.Name))
	})
	return g, nil
}

// InTheWay gives the members that keep a program from using the group once
// target is bound to a vfio driver: those whose driver does DMA through the
// kernel. The group is viable when there are none.
//
// The kernel counts the drivers that did not say driver_managed_dma
// (drivers/iommu/iommu.c, iommu_device_use_default_domain) and refuses the
// group to a program with EPERM while there are any. Of the PCI drivers in the
// kernel's tree, 6.1 to 6.12, those that say it are pcieport, pci-stub,
// vfio-pci and its variants; not uio_pci_generic and not pci-pf-stub.
func (g Group) InTheWay(target pci.Address) []Member {
	var in []Member
	for _, m := range g.Members {
		if (!m.PCI || m.Address != target) && !m.managesDMA() {
			in = append(in, m)
		}
	}
	return in
}

// managesDMA knows a variant driver by its vfio device, not by its name.
// While the probe of such a driver runs it is still said to be in the way.
func (m Member) managesDMA() bool {
	switch m.Driver {
	case "", "pcieport", "pci-stub", "vfio-pci":
		return true
	}
	return m.VFIO
}

func readMember(group sysfs.Dir, name string) (Member, error) {
	m := Member{Name: name}
	dir, err := group.Open("devices/" + name)
	if err != nil {
		return m, err
	}
	defer dir.Close()
	if m.Driver, err = link(dir, "driver"); err != nil {
		return m, err
	}
	device, err := vfioDevice(dir)
	if err != nil {
		return m, err
	}
	m.VFIO = device != ""
	if m.Address, err = pci.ParseAddress(name); err != nil {
		return m, nil
	}
	m.PCI = true
	class, err := attribute(dir, "class")
	if err != nil {
		return m, err
	}
	n, err := strconv.ParseUint(class, 0, 24)
	if err != nil {
		return m, err
	}
	forwards, err := sysfs.Forwards(dir)
	m.Bridge = (&pci.Device{Class: pci.Class(n), Forwards: forwards}).Bridge()
	return m, err
}

// unsafe reads the name of a group; only vfio's made-up groups have that one.
func unsafe(dir sysfs.Dir, name string) (bool, error) {
	text, err := attribute(dir, name)
	if sysfs.Gone(err) {
		return false, nil
	}
	return text == "vfio-noiommu", err
}

// vfioDevice gives the name of a device's vfio device, such as vfio0, "" for
// none. A bound driver makes it when it hands the device to vfio (Linux 6.1,
// drivers/vfio/vfio_main.c).
func vfioDevice(dir sysfs.Dir) (string, error) { return child(dir, "vfio-dev", "vfio") }

// child gives the name of the first numbered device in a folder, "" for none.
func child(dir sysfs.Dir, folder, prefix string) (string, error) {
	names, err := dir.List(folder)
	if err != nil && !sysfs.Gone(err) {
		return "", err
	}
	slices.Sort(names)
	for _, name := range names {
		if number, ok := strings.CutPrefix(name, prefix); ok {
			if _, err := strconv.ParseUint(number, 10, 32); err == nil {
				return name, nil
			}
		}
	}
	return "", nil
}

func attribute(dir sysfs.Dir, name string) (string, error) {
	text, err := dir.Read(name)
	return strings.TrimSuffix(text, "\n"), err
}
