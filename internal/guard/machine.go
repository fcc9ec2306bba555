// Package guard makes the kernel hand a new drive over by itself, so that no
// other driver can be faster: by a dynamic ID on the wanted driver (claim) or
// on pci-stub (stub), or by switching the kernel's own matching off (gate). It
// knows which of them this machine allows, arms it, moves it with the policy,
// and takes back exactly what it added.
package guard

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"vfio-hotplug/internal/pci"
	"vfio-hotplug/internal/sysfs"
)

// Release is a kernel's version, as far as a guard depends on it.
type Release struct{ Major, Minor int }

// ParseRelease reads the first two numbers of a release such as
// "6.1.0-50-amd64" (uname(2)).
func ParseRelease(s string) (Release, error) {
	var r Release
	if _, err := fmt.Sscanf(s, "%d.%d", &r.Major, &r.Minor); err != nil {
		return r, fmt.Errorf("%q is not a kernel release", s)
	}
	return r, nil
}

// Least reports whether r is the version major.minor or newer.
func (r Release) Least(major, minor int) bool {
	return r.Major > major || r.Major == major && r.Minor >= minor
}

// Machine is what a choice of guard depends on: a value, read once.
type Machine struct {
	Release Release
	// Registered holds the PCI drivers, with their rank in the order of their
	// registration; those built into the kernel have rank 0.
	Registered map[string]int
	// Async says which drivers the kernel command line takes their priority.
	Async Async
	// VMD says that there are devices behind Intel VMD, whose IDs a guard cannot
	// tell from others.
	VMD bool
}

// ReadMachine reads what a choice depends on. proc is where procfs is.
func ReadMachine(sys sysfs.Dir, proc, release string) (Machine, error) {
	r, err := ParseRelease(release)
	if err != nil {
		return Machine{}, err
	}
	m := Machine{Release: r, Registered: map[string]int{}}
	loaded, err := loadOrder(path.Join(proc, "modules"))
	if err != nil {
		return Machine{}, err
	}
	drivers, err := sys.List("bus/pci/drivers")
	if err != nil {
		return Machine{}, err
	}
	for _, driver := range drivers {
		module, err := sys.Readlink("bus/pci/drivers/" + driver + "/module")
		if err != nil && !sysfs.Gone(err) {
			return Machine{}, err
		}
		m.Registered[driver] = slices.Index(loaded, path.Base(module)) + 1
	}
	if m.Async, err = readAsync(path.Join(proc, "cmdline")); err != nil {
		return Machine{}, err
	}
	m.VMD, err = behindVMD(sys)
	return m, err
}

// loadOrder gives the loaded modules, the oldest first. /proc/modules lists
// the newest first (kernel/module/procfs.c).
func loadOrder(file string) ([]string, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // a kernel without modules
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var names []string
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		name, _, _ := strings.Cut(lines.Text(), " ")
		names = append(names, name)
	}
	slices.Reverse(names)
	return names, lines.Err()
}

func behindVMD(sys sysfs.Dir) (bool, error) {
	names, err := sys.List("bus/pci/devices")
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(names, func(name string) bool {
		domain, _, _ := strings.Cut(name, ":")
		return len(domain) > 4
	}), nil
}

// synchronousFirst: a new device is offered to the synchronous drivers before
// the asynchronous ones, among which nvme is, whatever the order of their
// registration (drivers/base/dd.c).
func (m Machine) synchronousFirst() bool { return m.Release.Least(6, 17) }

// gated: drivers_autoprobe = 0 also holds for a device that is plugged.
func (m Machine) gated() bool { return m.Release.Least(6, 19) }

// anyNVMe is what nvme's own table matches by class.
var anyNVMe = pci.Pattern{Vendor: pci.AnyID, Device: pci.AnyID, SubVendor: pci.AnyID, SubDevice: pci.AnyID, Class: uint32(pci.NVMe), ClassMask: 0xffffff}

// rivals gives the drivers that may match a device with a pattern, besides
// those of a guard, in order of name. Of an NVMe drive it is known; for the
// rest a driver's table cannot be read, so it is every driver that is registered.
func (m Machine) rivals(pattern pci.Pattern) []string {
	if anyNVMe.Covers(pattern) {
		return []string{"nvme"}
	}
	var rivals []string
	for driver := range m.Registered {
		if driver == "nvme" && !anyNVMe.Meets(pattern) {
			continue
		}
		if driver != PCIStub && driver != "uio_pci_generic" && driver != "pcieport" && !strings.HasSuffix(strings.ReplaceAll(driver, "_", "-"), "vfio-pci") {
			rivals = append(rivals, driver)
		}
	}
	slices.Sort(rivals)
	return rivals
}

// first gives the first of the rivals to which a new device that it matches is
// offered before driver, "" for none. Those that are not loaded yet come later.
func (m Machine) first(driver string, rivals []string) string {
	rank := m.Registered[driver]
	i := slices.IndexFunc(rivals, func(rival string) bool {
		other, there := m.Registered[rival]
		switch {
		case !there || rival == driver:
			return false
		case m.synchronousFirst() && (rival == "nvme" || m.Async.Of(rival)):
			return false
		case rank == 0 && other == 0:
			// Both are built in: drivers/pci is linked before the other drivers.
			return driver != PCIStub
		}
		return other < rank
	})
	if i < 0 {
		return ""
	}
	return rivals[i]
}
