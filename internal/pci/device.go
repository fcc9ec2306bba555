package pci

import (
	"fmt"
	"strings"
)

// Class is a 24-bit PCI class code: base class, subclass, programming
// interface. NVMe is 0x010802.
type Class uint32

// NVMe is the class of an NVM Express controller (PCI code and ID assignment
// specification, 01h 08h 02h).
const NVMe Class = 0x010802

// String gives six hex digits with a prefix, such as 0x010802.
func (c Class) String() string { return fmt.Sprintf("0x%06x", uint32(c)) }

// ID is a 16-bit vendor or device ID.
type ID uint16

// String gives four hex digits with a prefix, such as 0x144d.
func (id ID) String() string { return fmt.Sprintf("0x%04x", uint16(id)) }

// NoGroup is the IOMMUGroup of a device that is in none.
const NoGroup = -1

// NoNode is the NUMANode of a device whose node the firmware does not tell.
const NoNode = -1

// Device is what sysfs said about a PCI function at one moment: a value to
// decide on, never a handle to act on.
type Device struct {
	Address          Address
	Vendor, DeviceID ID
	SubVendor        ID // 0 on bridges
	SubDevice        ID
	Class            Class
	Forwards         bool   // its config header is of type 1 or 2: there is a bus behind it
	Driver           string // the bound driver, "" for none
	Override         string // driver_override, "" for none
	IOMMUGroup       int    // group number, or NoGroup
	NUMANode         int    // node number, or NoNode
	Slot             string // name below /sys/bus/pci/slots, "" for none
	Upstream         []Address
	PhysFn           Address    // the physical function, if VirtFn
	VirtFn           bool       // it is an SR-IOV virtual function
	DSN              uint64     // PCIe Device Serial Number, 0 for none
	VMD              bool       // it sits behind an Intel VMD controller
	VFs              int        // virtual functions enabled on it
	PortSlots        []PortSlot // of the bridges above it, outermost first

	Unread []Unread // what of it was asked for and could not be read
}

// PortSlot is a slot that a bridge above a device sits in.
type PortSlot struct {
	Port Address
	Slot string
}

// Unknown gives what kept a fact from being read, nil where it is known.
func (d *Device) Unknown(f Facts) *Unread {
	for i := range d.Unread {
		if d.Unread[i].Fact == f {
			return &d.Unread[i]
		}
	}
	return nil
}

// IDs is the part of a Device that a driver's ID table looks at.
type IDs struct {
	Vendor, Device, SubVendor, SubDevice ID
	Class                                Class
}

// IDs gives the part of d that a driver's ID table looks at.
func (d Device) IDs() IDs {
	return IDs{Vendor: d.Vendor, Device: d.DeviceID, SubVendor: d.SubVendor, SubDevice: d.SubDevice, Class: d.Class}
}

// ParseModalias reads the IDs from the modalias attribute of a PCI device, or
// from the MODALIAS of its uevent: "pci:v0000144Dd0000A804sv...sd...bc01sc08i02"
// (drivers/pci/pci-driver.c, pci_uevent). The newline at the end of the attribute
// may be there or not. What it accepts, it reads without allocating.
func ParseModalias(s string) (IDs, error) {
	rest := strings.TrimSuffix(s, "\n")
	names := [...]string{"pci:v", "d", "sv", "sd", "bc", "sc", "i"}
	var values [len(names)]uint32
	for i, name := range names {
		digits := 8
		if i >= 4 {
			digits = 2 // the parts of the class
		}
		value, after, ok := cutHex(rest, name, digits)
		if !ok || value > 0xffff {
			return IDs{}, modaliasError(s)
		}
		values[i], rest = value, after
	}
	if rest != "" {
		return IDs{}, modaliasError(s)
	}
	return IDs{
		Vendor:    ID(values[0]),
		Device:    ID(values[1]),
		SubVendor: ID(values[2]),
		SubDevice: ID(values[3]),
		Class:     Class(values[4]<<16 | values[5]<<8 | values[6]),
	}, nil
}

// cutHex cuts a name and the hex digits after it, at most eight, from the front
// of s.
func cutHex(s, name string, digits int) (value uint32, after string, ok bool) {
	if !strings.HasPrefix(s, name) || len(s) < len(name)+digits {
		return 0, "", false
	}
	s = s[len(name):]
	for _, c := range []byte(s[:digits]) {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		default:
			return 0, "", false
		}
		value = value<<4 | uint32(c)
	}
	return value, s[digits:], true
}

func modaliasError(s string) error {
	return fmt.Errorf("%q is not the modalias of a PCI device", s)
}

// VFIOAlias is the alias that a vfio driver made for the device would match:
// the modalias with the prefix vfio_pci (scripts/mod/file2alias.c,
// do_pci_entry with PCI_ID_F_VFIO_DRIVER_OVERRIDE).
func (ids IDs) VFIOAlias() string {
	return fmt.Sprintf("vfio_pci:v%08Xd%08Xsv%08Xsd%08Xbc%02Xsc%02Xi%02X",
		uint16(ids.Vendor), uint16(ids.Device), uint16(ids.SubVendor), uint16(ids.SubDevice),
		uint8(ids.Class>>16), uint8(ids.Class>>8), uint8(ids.Class))
}
