package policy

import (
	"slices"

	"vfio-hotplug/internal/pci"
)

// The ID part of a match is what a driver's ID table can say too: class, vendor,
// device, subsystem_vendor, subsystem_device. The rest is the place.

// idKeys are the keys of the ID part.
func (m *match) idKeys() []key { return m.keys[:m.numIDKeys()] }

// placeKeys are the other keys.
func (m *match) placeKeys() []key { return m.keys[m.numIDKeys():] }

func (m *match) numIDKeys() int {
	n, _ := slices.BinarySearch(m.keys, keySubDevice+1)
	return n
}

// patterns gives a pattern for every combination of the IDs that m wants. They
// are all that a device must match to match the ID part.
func (m *match) patterns() []pci.Pattern {
	all := []pci.Pattern{pci.Any()}
	for _, k := range m.idKeys() {
		var narrower []pci.Pattern
		for _, p := range all {
			for i := range m.values(k) {
				narrower = append(narrower, m.narrow(p, k, i))
			}
		}
		all = narrower
	}
	return all
}

// fewPatterns reports whether there are at most that many patterns.
func (m *match) fewPatterns(most int) bool {
	n := 1
	for _, k := range m.idKeys() {
		n *= m.values(k)
		if n > most {
			return false // before n overflows
		}
	}
	return n <= most
}

// meets reports whether a device that matches p can match the ID part of m.
func (m *match) meets(p pci.Pattern) bool {
	for _, k := range m.idKeys() {
		if !m.meetsKey(p, k) {
			return false
		}
	}
	return true
}

func (m *match) meetsKey(p pci.Pattern, k key) bool {
	for i := range m.values(k) {
		if m.narrow(pci.Any(), k, i).Meets(p) {
			return true
		}
	}
	return false
}

// values counts the values of a key of the ID part.
func (m *match) values(k key) int {
	if k == keyClass {
		return len(m.class)
	}
	return len(m.ids[k])
}

// narrow gives p with the i-th value of a key of the ID part.
func (m *match) narrow(p pci.Pattern, k key, i int) pci.Pattern {
	switch k {
	case keyClass:
		p.Class, p.ClassMask = uint32(m.class[i].value), uint32(m.class[i].mask)
	case keyVendor:
		p.Vendor = uint32(m.ids[k][i])
	case keyDevice:
		p.Device = uint32(m.ids[k][i])
	case keySubVendor:
		p.SubVendor = uint32(m.ids[k][i])
	case keySubDevice:
		p.SubDevice = uint32(m.ids[k][i])
	}
	return p
}
