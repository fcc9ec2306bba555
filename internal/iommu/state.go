package iommu

import (
	"fmt"
	"slices"
	"strconv"

	"vfio-hotplug/internal/sysfs"
)

// Remedy says what to do where a device is in no IOMMU group.
const Remedy = "switch on VT-d (Intel) or AMD-Vi (AMD) in the firmware's settings, boot with intel_iommu=on on Intel and without amd_iommu=off on AMD; or say driver = \"uio_pci_generic\""

// State is what a machine has of an IOMMU.
type State struct {
	Groups int      // IOMMU groups that a real IOMMU is behind
	Units  []string // the IOMMUs that drivers have registered, such as dmar0, in order
}

// Works reports whether an IOMMU is at work, for any device at all. Units
// without groups are there but switched off.
func (s State) Works() bool { return s.Groups > 0 }

// ReadState reads the state of a machine. It reads the name of every group.
func ReadState(root sysfs.Dir) (State, error) {
	var s State
	groups, err := list(root, "kernel/iommu_groups")
	if err != nil {
		return s, err
	}
	for _, group := range groups {
		if _, err := strconv.Atoi(group); err != nil {
			continue
		}
		made, err := unsafe(root, "kernel/iommu_groups/"+group+"/name")
		if err != nil {
			return s, fmt.Errorf("read the IOMMU's state: %w", err)
		}
		if !made {
			s.Groups++
		}
	}
	s.Units, err = list(root, "class/iommu")
	slices.Sort(s.Units)
	return s, err
}

// NoIOMMUMode reports whether vfio may bind a device without an IOMMU, and so
// without any protection from it. A kernel built without that mode, such as
// Debian's, has no such parameter.
func NoIOMMUMode(root sysfs.Dir) bool {
	mode, err := attribute(root, "module/vfio/parameters/enable_unsafe_noiommu_mode")
	return err == nil && mode == "Y"
}

func list(root sysfs.Dir, name string) ([]string, error) {
	names, err := root.List(name)
	if sysfs.Gone(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the IOMMU's state: %w", err)
	}
	return names, nil
}
