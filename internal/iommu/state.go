package iommu

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"vfio-hotplug/internal/sysfs"
)

// State is what a machine has of an IOMMU.
type State struct {
	// Groups counts the IOMMU groups that a real IOMMU is behind.
	Groups int
	// Units are the IOMMUs that drivers have registered, such as dmar0.
	Units []string
	// NoIOMMU says that vfio may bind a device without an IOMMU.
	NoIOMMU bool
	// CanNoIOMMU says that the running vfio knows that mode.
	CanNoIOMMU bool
}

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
	if s.Units, err = list(root, "class/iommu"); err != nil {
		return s, err
	}
	slices.Sort(s.Units)
	mode, err := attribute(root, "module/vfio/parameters/enable_unsafe_noiommu_mode")
	if err != nil && !sysfs.Gone(err) {
		return s, fmt.Errorf("read the IOMMU's state: %w", err)
	}
	s.CanNoIOMMU = err == nil
	s.NoIOMMU = mode == "Y"
	return s, nil
}

// Works reports whether an IOMMU is at work, for any device at all.
func (s State) Works() bool { return s.Groups > 0 }

// Remedy says what to do for a device that is in no group, "" where nothing
// needs doing.
func (s State) Remedy() string {
	switch {
	case s.NoIOMMU:
		return ""
	case s.Works():
		return "the IOMMU does not cover this device: look for its bridge in the firmware's settings, or use driver = \"uio_pci_generic\""
	}
	var b strings.Builder
	if len(s.Units) > 0 {
		fmt.Fprintf(&b, "the IOMMU (%s) has no device", strings.Join(s.Units, ", "))
	} else {
		b.WriteString("no IOMMU is at work")
	}
	b.WriteString(": switch on VT-d (Intel) or AMD-Vi (AMD) in the firmware's settings, boot with intel_iommu=on on Intel and without amd_iommu=off on AMD, or use driver = \"uio_pci_generic\"")
	if s.CanNoIOMMU {
		b.WriteString(", or, without any protection, write Y into /sys/module/vfio/parameters/enable_unsafe_noiommu_mode")
	}
	return b.String()
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
