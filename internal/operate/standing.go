package operate

import (
	"vfio-hotplug/internal/iommu"
	"vfio-hotplug/internal/pci"
	"vfio-hotplug/policy"
)

// Standing is how a device and its IOMMU group stand to each other.
type Standing struct {
	Driver string // "" for none
	Group  int    // or pci.NoGroup
	// InTheWay names the other devices of the group that keep a program from it,
	// and their drivers; "" where the group is viable, or would be.
	InTheWay string
	// Open says that the device waits for a program: vfio has it.
	Open bool
}

// Standing reads the standing of the device at an address. It waits for
// nothing.
func (o *Operator) Standing(a pci.Address) (Standing, error) {
	dev, err := o.FS.Open(a)
	if err != nil {
		return Standing{}, err
	}
	defer dev.Close()
	facts, err := dev.Read(pci.FactGroup)
	if err != nil {
		return Standing{}, err
	}
	return o.standing(facts)
}

// standing is Standing for a device of which the facts have been read.
func (o *Operator) standing(facts pci.Device) (Standing, error) {
	s := Standing{Driver: facts.Driver, Group: facts.IOMMUGroup}
	if s.Group == pci.NoGroup {
		return s, nil
	}
	group, err := iommu.ReadGroup(o.FS.Root(), s.Group)
	if err != nil {
		return s, err
	}
	s.InTheWay = names(group.InTheWay(facts.Address))
	s.Open = policy.IsVFIO(s.Driver)
	for _, m := range group.Members {
		s.Open = s.Open || m.PCI && m.Address == facts.Address && m.VFIO
	}
	return s, nil
}
