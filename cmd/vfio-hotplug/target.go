package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
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

// target reads an address, or the name that nvme gives to a controller or a
// namespace, with or without /dev/ before it.
func (m *machine) target(arg string) (pci.Address, error) {
	name := strings.TrimPrefix(arg, "/dev/")
	parts := nvmeName.FindStringSubmatch(name)
	switch {
	case parts == nil:
		a, err := pci.ParseAddress(arg)
		if err != nil {
			err = fmt.Errorf("%w; nor is it a name such as nvme0 or nvme0n1", err)
		}
		return a, err
	case parts[3] != "":
		drive := strings.TrimSuffix(name, parts[3])
		return pci.Address{}, fmt.Errorf("%s is a partition, and drives are taken whole: name %s", name, drive)
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
