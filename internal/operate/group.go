package operate

import (
	"fmt"
	"slices"
	"strings"

	"vfio-hotplug/internal/iommu"
	"vfio-hotplug/internal/pci"
	"vfio-hotplug/policy"
)

// groupCheck is the name of checkGroup.
const groupCheck = "IOMMU group"

// checkGroup: vfio needs an IOMMU group of which no other member does DMA for
// the kernel. Those that may come along do not stand against it: along lists
// them then.
func (j *judge) checkGroup() Check {
	j.along, j.inTheWay = nil, ""
	if !policy.IsVFIO(j.driver) {
		return pass(groupCheck, "not needed by %s", j.driver)
	}
	if j.facts.IOMMUGroup == pci.NoGroup {
		return j.checkNoGroup(groupCheck)
	}
	group, err := iommu.ReadGroup(j.FS.Root(), j.facts.IOMMUGroup)
	if err != nil {
		return veto(groupCheck, "", "%v", err)
	}
	in := group.InTheWay(j.facts.Address)
	if len(in) == 0 {
		return pass(groupCheck, "%d is viable", group.Number)
	}
	j.inTheWay = names(in)
	named, others := j.sortOut(in)
	if j.decision.Group == policy.With && len(others) == 0 {
		for _, m := range named {
			j.along = append(j.along, m.Address)
		}
		return pass(groupCheck, "%d is viable once %s is taken along", group.Number, j.inTheWay)
	}
	return j.notViable(group, others)
}

// notViable is the veto of a group with others in the way than those that the
// policy gives to vfio.
func (j *judge) notViable(group iommu.Group, others []iommu.Member) Check {
	text := fmt.Sprintf("group %d would not be viable, because of %s", group.Number, j.inTheWay)
	facts, err := j.Device.Read(pci.FactUpstream)
	if err != nil {
		return veto(groupCheck, "", "%s", text)
	}
	if shape := group.Shape(facts); shape != "" {
		text += "; " + shape
	}
	const elsewhere = "plug the drive where it has a group of its own"
	remedy := fmt.Sprintf("give %s to vfio too, in rules with group = \"with\", or %s", j.inTheWay, elsewhere)
	switch bridges := bridgesAmong(others); {
	case len(bridges) == 1:
		text += "; " + names(bridges) + " is a bridge, which no program can have"
		remedy = elsewhere
	case len(bridges) > 1:
		text += "; " + names(bridges) + " are bridges, which no program can have"
		remedy = elsewhere
	case group.VMD(facts):
		remedy = "switch VMD off for this slot in the firmware setup, or leave the drive to the kernel"
	case len(others) == 0 && j.decision.Rule != nil:
		remedy = fmt.Sprintf("say group = \"with\" in %s, which takes them together, or %s", j.decision.Rule, elsewhere)
	case j.decision.Group == policy.With:
		remedy = fmt.Sprintf("have a rule give %s to vfio too, or %s", names(others), elsewhere)
	}
	return veto(groupCheck, remedy, "%s", text)
}

func bridgesAmong(members []iommu.Member) []iommu.Member {
	return slices.DeleteFunc(slices.Clone(members), func(m iommu.Member) bool { return !m.Bridge })
}

// sortOut parts those in the way into the ones that the policy gives to vfio and
// that may come along, and the others.
func (j *judge) sortOut(in []iommu.Member) (named, others []iommu.Member) {
	for _, m := range in {
		if m.PCI && !j.inLine(m.Address) && j.givenToVFIO(m.Address) {
			named = append(named, m)
		} else {
			others = append(others, m)
		}
	}
	return named, others
}

// inLine reports whether the device at an address is above this one or below it,
// as a VMD controller is above its drives: to take the upper one from its driver
// would remove the other (drivers/pci/controller/vmd.c, vmd_remove). One that
// cannot be read counts as such.
func (j *judge) inLine(a pci.Address) bool {
	here, err := j.Device.Read(pci.FactUpstream)
	if err != nil || slices.Contains(here.Upstream, a) {
		return true
	}
	dev, err := j.FS.Open(a)
	if err != nil {
		return true
	}
	defer dev.Close()
	there, err := dev.Read(pci.FactUpstream)
	return err != nil || slices.Contains(there.Upstream, j.facts.Address)
}

// givenToVFIO reports whether the policy gives the device at an address to
// vfio. One that cannot be read is not named.
func (j *judge) givenToVFIO(a pci.Address) bool {
	dev, err := j.FS.Open(a)
	if err != nil {
		return false
	}
	defer dev.Close()
	facts, err := j.read(dev, j.asked.Needs())
	if err != nil {
		return false
	}
	d := j.asked.Decide(&facts)
	return d.Verdict == policy.Bind && (d.Driver == policy.Auto || policy.IsVFIO(d.Driver))
}

func (j *judge) checkNoGroup(name string) Check {
	state, err := iommu.ReadState(j.FS.Root())
	switch {
	case err != nil:
		return veto(name, "", "%v", err)
	case state.NoIOMMU:
		return pass(name, "none; vfio is in its no-IOMMU mode, without protection")
	}
	return veto(name, state.Remedy(), "the device is in none, so vfio could not keep it from the rest of memory")
}

// names lists devices with their drivers.
func names(members []iommu.Member) string {
	words := make([]string, len(members))
	for i, m := range members {
		words[i] = m.String()
	}
	return strings.Join(words, ", ")
}
