package inuse

import (
	"errors"
	"regexp"
	"slices"
	"strings"

	"vfio-hotplug/internal/sysfs"
)

// twins gives the disks through which other controllers of the subsystem show
// one namespace. They have them where the kernel does not do multipath itself
// (nvme_core.multipath=N): then each controller has a disk of its own, and a
// mount shows on one of them only.
func (l *look) twins(controller string, id uint32, name string) ([]disk, error) {
	siblings, err := l.siblings(controller)
	var twins []disk
	for _, sibling := range siblings {
		found, fault := l.twin(sibling, id)
		err = both(err, fault)
		for _, d := range found {
			d.by, d.twin = name, true
			twins = append(twins, d)
		}
	}
	return twins, err
}

var controllerName = regexp.MustCompile(`^nvme\d+$`)

// siblings gives the other controllers of a controller's subsystem.
func (l *look) siblings(controller string) ([]string, error) {
	const class = "class/nvme-subsystem"
	subsystems, err := list(l.sys, class)
	for _, subsystem := range subsystems {
		names, fault := list(l.sys, class+"/"+subsystem)
		err = both(err, fault)
		if slices.Contains(names, controller) {
			return slices.DeleteFunc(names, func(name string) bool {
				return name == controller || !controllerName.MatchString(name)
			}), err
		}
	}
	return nil, err
}

// twin gives the disk through which a controller shows a namespace, if it does.
func (l *look) twin(controller string, id uint32) ([]disk, error) {
	dir, err := l.sys.Open("class/nvme/" + controller)
	if sysfs.Gone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := list(dir, ".")
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if !namespaceName.MatchString(name) || strings.Contains(name, "c") {
			continue
		}
		has, d, err := l.namespace(dir, name)
		switch {
		case sysfs.Gone(err), err == nil && has != id, errors.Is(err, errHidden):
		case err != nil:
			return nil, err
		default:
			return []disk{d}, nil
		}
	}
	return nil, nil
}
