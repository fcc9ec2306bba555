package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"vfio-hotplug/internal/pci"
)

// targets reads every argument before anything is done about one.
func (m *machine) targets(args []string) ([]pci.Address, error) {
	all := make([]pci.Address, len(args))
	for i, arg := range args {
		a, err := m.target(arg)
		if err != nil {
			return nil, usageError{err}
		}
		all[i] = a
	}
	return all, nil
}

var nvmeName = regexp.MustCompile(`^nvme(\d+)(?:n(\d+)(p\d+)?)?$`)

// target reads an address, in the spelling of the kernel or of libvirt, or a name
// that a driver has given: of an NVMe drive, a disk or an interface; or a path
// below /dev or /sys that leads to such a one.
func (m *machine) target(arg string) (pci.Address, error) {
	a, notAddress := pci.ParseAddress(arg)
	if notAddress == nil {
		return a, nil
	}
	if a, ok := pci.ParseNodeName(arg); ok {
		return a, nil
	}
	name := m.nameOf(arg)
	if parts := nvmeName.FindStringSubmatch(name); parts != nil {
		return m.drive(name, parts)
	}
	for _, class := range []string{"block", "net"} {
		if dir, err := m.resolve("sys/class", class, name); err == nil {
			return functionOf(name, dir)
		}
	}
	if dir, err := m.resolve("sys/bus/pci/devices", name); err == nil {
		return functionOf(name, dir)
	}
	return a, fmt.Errorf("%w; nor is it a name that a driver has given: see vfio-hotplug status --all", notAddress)
}

// nameOf gives the name that a path leads to: below /dev by its links, below /sys
// by what they end in. What is no path is a name itself.
func (m *machine) nameOf(arg string) string {
	switch {
	case strings.HasPrefix(arg, "/sys/"):
		if dir, err := m.resolve(arg); err == nil {
			return filepath.Base(dir)
		}
	case strings.HasPrefix(arg, "/dev/"):
		if target, err := os.Readlink(m.path(arg)); err == nil {
			return filepath.Base(target)
		}
		return strings.TrimPrefix(arg, "/dev/")
	}
	return arg
}

// resolve gives what a name in a directory below the root leads to. A name has no
// slash but in what is given first.
func (m *machine) resolve(dir string, names ...string) (string, error) {
	for _, name := range names {
		if strings.Contains(name, "/") || name == "" || name[0] == '.' {
			return "", fs.ErrNotExist
		}
	}
	return filepath.EvalSymlinks(m.path(append([]string{dir}, names...)...))
}

// functionOf finds the PCI function whose device is in dir: below it, or below the
// virtio device that it is.
func functionOf(name, dir string) (pci.Address, error) {
	if _, err := os.Stat(filepath.Join(dir, "partition")); err == nil {
		return pci.Address{}, partition(name, filepath.Base(filepath.Dir(dir)))
	}
	parts := strings.Split(dir, "/")
	for i, part := range slices.Backward(parts) {
		a, err := pci.ParseAddress(part)
		if err != nil {
			continue
		}
		below := parts[i+1:]
		if len(below) == 3 && strings.HasPrefix(below[0], "virtio") {
			below = below[1:]
		}
		if len(below) == 0 || len(below) == 2 { // its class, and its name
			return a, nil
		}
		return a, fmt.Errorf("%s is one of those behind %s, and not that device: name the address if you mean all of them", name, a)
	}
	return pci.Address{}, fmt.Errorf("%s is not a PCI device", name)
}

func partition(name, drive string) error {
	return fmt.Errorf("%s is a partition, and drives are taken whole: name %s", name, drive)
}

// drive finds the PCI function of what nvme has named.
func (m *machine) drive(name string, parts []string) (pci.Address, error) {
	switch {
	case parts[3] != "":
		return pci.Address{}, partition(name, strings.TrimSuffix(name, parts[3]))
	case parts[2] == "":
		return m.controller(name)
	}
	return m.namespace(name, "nvme"+parts[1]+"c*n"+parts[2])
}

// controller finds the PCI function of an NVMe controller, by the directory that
// it has below that of the function.
func (m *machine) controller(name string) (pci.Address, error) {
	dir, err := filepath.EvalSymlinks(m.path("sys/class/nvme", name))
	if err != nil {
		return pci.Address{}, unknownName(name)
	}
	a, err := pci.ParseAddress(filepath.Base(filepath.Dir(filepath.Dir(dir))))
	if err != nil || filepath.Base(filepath.Dir(dir)) != "nvme" {
		return a, fmt.Errorf("%s is not a PCI device", name)
	}
	return a, nil
}

// namespace finds the PCI function of a namespace: of the controller below which
// it is or, where several controllers may show it, of the one that has a path to
// it (drivers/nvme/host/multipath.c, nvme_mpath_set_disk_name).
func (m *machine) namespace(name, path string) (pci.Address, error) {
	dir, err := filepath.EvalSymlinks(m.path("sys/class/block", name))
	if err != nil {
		return pci.Address{}, unknownName(name)
	}
	controllers := []string{filepath.Base(filepath.Dir(dir))}
	if strings.HasPrefix(controllers[0], "nvme-subsys") {
		controllers = nil
		paths, _ := filepath.Glob(m.path("sys/class/nvme/*", path))
		for _, p := range paths {
			controllers = append(controllers, filepath.Base(filepath.Dir(p)))
		}
	}
	switch len(controllers) {
	case 0:
		return pci.Address{}, fmt.Errorf("%s has no controller now", name)
	case 1:
		return m.controller(controllers[0])
	}
	return pci.Address{}, errors.New(name + " is reached through several controllers: name one of " + strings.Join(controllers, ", "))
}

func unknownName(name string) error {
	return fmt.Errorf("no drive is called %s now; one that nvme does not have goes by its address: see vfio-hotplug status --all", name)
}
