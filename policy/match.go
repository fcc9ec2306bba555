package policy

import (
	"fmt"
	"slices"
	"strings"

	"vfio-hotplug/internal/pci"
)

// key is a key of a rule's match.
type key uint8

// The keys, in the order in which they are looked at: what is cheap and tells
// most apart comes first. The order in the file does not matter.
const (
	matched key = iota // no key: everything holds
	keyClass
	keyVendor
	keyDevice
	keySubVendor
	keySubDevice
	keyAddress
	keySlot
	keyBehind
	keyPhysFn
	keyNUMA
	keyDSN
	keyNot
	numKeys
)

// String gives the name of k in the policy file.
func (k key) String() string {
	return [numKeys]string{
		matched:      "",
		keyClass:     "class",
		keyVendor:    "vendor",
		keyDevice:    "device",
		keySubVendor: "subsystem_vendor",
		keySubDevice: "subsystem_device",
		keyAddress:   "address",
		keySlot:      "slot",
		keyBehind:    "behind",
		keyPhysFn:    "physfn",
		keyNUMA:      "numa_node",
		keyDSN:       "dsn",
		keyNot:       "not",
	}[k]
}

// keyNamed finds a key by its name in the policy file.
func keyNamed(name string) (key, bool) {
	for k := matched + 1; k < numKeys; k++ {
		if k.String() == name {
			return k, true
		}
	}
	return matched, false
}

// match is the compiled match of a rule. All of its keys must hold; a key holds
// if any of its values does.
type match struct {
	keys   []key           // what the rule names, ascending
	wants  [numKeys]string // the values as the file writes them, for Explain
	ids    [keySubDevice + 1][]pci.ID
	class  []classMask
	addr   []addressGlob
	slot   []slotPattern
	behind []pci.Address
	physfn []pci.Address
	numa   []int
	dsn    []uint64
	not    *match
}

// miss gives the first key that does not hold for d, or matched. Where every key
// that is known holds, but not all are known, it gives the first that is not, and
// why. Decide and Explain both stand on it.
func (m *match) miss(d *pci.Device) (key, *pci.Unread) {
	open, why := matched, (*pci.Unread)(nil)
	for _, k := range m.keys {
		switch missed, unread := m.missKey(k, d); {
		case unread == nil && missed != matched:
			return missed, nil
		case why == nil:
			open, why = missed, unread
		}
	}
	return open, why
}

// missKey is miss for one key.
func (m *match) missKey(k key, d *pci.Device) (key, *pci.Unread) {
	if k == keyNot {
		switch missed, unread := m.not.miss(d); {
		case unread != nil:
			return missed, unread
		case missed != matched:
			return matched, nil
		}
		return keyNot, nil
	}
	if unread := d.Unknown(k.fact()); unread != nil {
		return k, unread
	}
	if !m.holds(k, d) {
		return k, nil
	}
	return matched, nil
}

// holds answers for a key that is known, and not for keyNot.
func (m *match) holds(k key, d *pci.Device) bool {
	switch k {
	case keyClass:
		return anyClass(m.class, d.Class)
	case keyVendor:
		return slices.Contains(m.ids[k], d.Vendor)
	case keyDevice:
		return slices.Contains(m.ids[k], d.DeviceID)
	case keySubVendor:
		return slices.Contains(m.ids[k], d.SubVendor)
	case keySubDevice:
		return slices.Contains(m.ids[k], d.SubDevice)
	case keyAddress:
		return anyAddress(m.addr, d.Address)
	case keySlot:
		return anySlot(m.slot, d.Slot)
	case keyBehind:
		return slices.ContainsFunc(d.Upstream, func(a pci.Address) bool { return slices.Contains(m.behind, a) })
	case keyPhysFn:
		return d.VirtFn && slices.Contains(m.physfn, d.PhysFn)
	case keyNUMA:
		return slices.Contains(m.numa, d.NUMANode)
	case keyDSN:
		return d.DSN != 0 && slices.Contains(m.dsn, d.DSN)
	}
	return false
}

// whyNot says why the key k, which does not hold for d, does not.
func (m *match) whyNot(k key, d *pci.Device) string {
	if k == keyNot {
		return "the rule is not for " + m.not.describe()
	}
	why := k.String() + " is " + k.of(d) + ", the rule wants " + m.wants[k]
	if k == keySlot {
		why += m.portOf(d)
	}
	return why
}

// portOf names the bridge above d that sits in a slot that m wants; "" for none.
func (m *match) portOf(d *pci.Device) string {
	for _, p := range d.PortSlots {
		if anySlot(m.slot, p.Slot) {
			return fmt.Sprintf("; that is the slot of %s, which the device is behind: say %s = \"%[1]s\"", p.Port, keyBehind)
		}
	}
	return ""
}

// describe puts a match into words: "vendor 0x8086 and slot 1 or 2".
func (m *match) describe() string {
	parts := make([]string, len(m.keys))
	for i, k := range m.keys {
		parts[i] = k.String() + " " + m.wants[k]
	}
	return strings.Join(parts, " and ")
}

// of tells what d has where the key k looks.
func (k key) of(d *pci.Device) string {
	switch k {
	case keyClass:
		return d.Class.String()
	case keyVendor:
		return d.Vendor.String()
	case keyDevice:
		return d.DeviceID.String()
	case keySubVendor:
		return d.SubVendor.String()
	case keySubDevice:
		return d.SubDevice.String()
	case keyAddress:
		return d.Address.String()
	case keySlot:
		return orNone(d.Slot)
	case keyBehind:
		return orNone(joinAddresses(d.Upstream))
	case keyPhysFn:
		if d.VirtFn {
			return d.PhysFn.String()
		}
	case keyNUMA:
		return numaText(d.NUMANode)
	case keyDSN:
		if d.DSN != 0 {
			return dsnText(d.DSN)
		}
	}
	return "none"
}

// needs gives the facts that m looks at.
func (m *match) needs() Facts {
	var f Facts
	for _, k := range m.keys {
		f |= k.fact()
	}
	if m.not != nil {
		f |= m.not.needs()
	}
	return f
}

// fact gives the fact that the key looks at, 0 for none beyond IDs and address.
func (k key) fact() Facts {
	switch k {
	case keySlot:
		return Slot
	case keyBehind:
		return Upstream
	case keyPhysFn:
		return PhysFn
	case keyNUMA:
		return NUMA
	case keyDSN:
		return DSN
	}
	return 0
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

func joinAddresses(addresses []pci.Address) string {
	words := make([]string, len(addresses))
	for i, a := range addresses {
		words[i] = a.String()
	}
	return strings.Join(words, ", ")
}
