package iommu

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"

	"vfio-hotplug/internal/sysfs"
)

// Node is the file that a program opens to drive a device.
type Node struct {
	Path   string // below the /dev that was given
	Exists bool
}

// ReadNode tells which node leads to a device (its directory in sysfs) and
// whether it is there. dev is where the nodes are: /dev. ok is false where no
// driver has given the device to user space.
//
// With vfio it is dev/vfio/N, N being the group, or dev/vfio/noiommu-N without
// an IOMMU; where the kernel makes no group nodes, dev/vfio/devices/vfioM. With
// uio it is dev/uioN.
//
// A node is only looked at: the kernel lets one program open a group at a
// time, so to open it is to take it from the program it is for.
func ReadNode(device sysfs.Dir, dev string) (node Node, ok bool, err error) {
	driver, err := link(device, "driver")
	if err != nil || driver == "" {
		return Node{}, false, wrap(err)
	}
	vfio, err := vfioDevice(device)
	if err != nil {
		return Node{}, false, wrap(err)
	}
	if vfio != "" || driver == "vfio-pci" {
		node, err = vfioNode(device, dev, vfio)
		return node, node.Path != "", wrap(err)
	}
	uio, err := child(device, "uio", "uio")
	if err != nil || uio == "" {
		return Node{}, false, wrap(err)
	}
	node, err = look(filepath.Join(dev, uio))
	return node, true, wrap(err)
}

// ReadNodes gives every node that leads to a device and is there: beside that
// of ReadNode, where the kernel makes both, the one for the single device.
// Whoever holds any of them keeps the driver.
func ReadNodes(device sysfs.Dir, dev string) ([]string, error) {
	node, ok, err := ReadNode(device, dev)
	if err != nil || !ok {
		return nil, err
	}
	vfio, err := vfioDevice(device)
	if err != nil {
		return nil, wrap(err)
	}
	nodes := []Node{node}
	if single := filepath.Join(dev, "vfio", "devices", vfio); vfio != "" && single != node.Path {
		other, err := look(single)
		if err != nil {
			return nil, wrap(err)
		}
		nodes = append(nodes, other)
	}
	var there []string
	for _, n := range nodes {
		if n.Exists {
			there = append(there, n.Path)
		}
	}
	return there, nil
}

// Announce has the kernel announce the nodes of a device that vfio has once
// more, so that udev judges anew who may open them. What is not there is not
// announced, and is no error.
func Announce(root, device sysfs.Dir) error {
	group, err := link(device, "iommu_group")
	if err != nil {
		return wrap(err)
	}
	single, err := vfioDevice(device)
	if err != nil {
		return wrap(err)
	}
	var faults []error
	if group != "" {
		faults = append(faults, root.Write("class/vfio/"+group+"/uevent", "change"))
	}
	if single != "" {
		faults = append(faults, device.Write("vfio-dev/"+single+"/uevent", "change"))
	}
	for _, err := range faults {
		if err != nil && !sysfs.Gone(err) {
			return fmt.Errorf("announce the node: %w", err)
		}
	}
	return nil
}

func vfioNode(device sysfs.Dir, dev, vfio string) (Node, error) {
	group, err := link(device, "iommu_group")
	if err != nil {
		return Node{}, err
	}
	var node Node
	if _, err := strconv.Atoi(group); err == nil {
		made, err := unsafe(device, "iommu_group/name")
		if err != nil {
			return Node{}, err
		}
		if made {
			group = "noiommu-" + group
		}
		if node, err = look(filepath.Join(dev, "vfio", group)); err != nil || node.Exists {
			return node, err
		}
	}
	if vfio == "" {
		return node, nil
	}
	// The attribute is there if the kernel makes nodes for single devices.
	if _, err := attribute(device, "vfio-dev/"+vfio+"/dev"); err != nil {
		if sysfs.Gone(err) {
			err = nil
		}
		return node, err
	}
	single, err := look(filepath.Join(dev, "vfio", "devices", vfio))
	if err != nil || single.Exists || node.Path == "" {
		return single, err
	}
	return node, nil
}

func look(name string) (Node, error) {
	_, err := os.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return Node{Path: name}, nil
	}
	return Node{Path: name, Exists: err == nil}, err
}

// link gives the last part of a symbolic link's target, "" where there is no
// such link.
func link(dir sysfs.Dir, name string) (string, error) {
	target, err := dir.Readlink(name)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return path.Base(target), nil
}

func wrap(err error) error {
	if err != nil {
		return fmt.Errorf("find the node: %w", err)
	}
	return nil
}
