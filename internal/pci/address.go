// Package pci holds the values that name and describe a PCI function: its
// address, its IDs, its class. It does no I/O.
package pci

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Address is the place of a PCI function: domain, bus, device and function,
// often called BDF. It is comparable, and its zero value is 0000:00:00.0.
//
// A place outlives what is plugged into it: two drives that were in one slot
// one after the other have the same Address.
type Address struct {
	// Domain is the PCI segment group. Behind Intel VMD it starts at 0x10000.
	Domain uint32
	// Bus is the bus number.
	Bus uint8
	// Device is the device number, 0 to 31.
	Device uint8
	// Function is the function number, 0 to 7.
	Function uint8
}

// ParseAddress reads an address as the kernel and lspci write it:
// "0000:01:00.0", "10000:01:00.0" or, in domain 0, "01:00.0".
func ParseAddress(s string) (Address, error) {
	domain, rest := "0", s
	if strings.Count(s, ":") == 2 {
		domain, rest, _ = strings.Cut(s, ":")
		if len(domain) < 4 {
			return Address{}, addressError(s)
		}
	}
	bus, slot, ok1 := strings.Cut(rest, ":")
	device, function, ok2 := strings.Cut(slot, ".")
	if !ok1 || !ok2 || len(bus) != 2 || len(device) != 2 || len(function) != 1 {
		return Address{}, addressError(s)
	}
	d, err1 := hex(domain, math.MaxInt32)
	b, err2 := hex(bus, 0xff)
	v, err3 := hex(device, 0x1f)
	f, err4 := hex(function, 7)
	if err1 != nil || err2 != nil || err3 != nil || err4 != nil {
		return Address{}, addressError(s)
	}
	return Address{Domain: uint32(d), Bus: uint8(b), Device: uint8(v), Function: uint8(f)}, nil
}

// ParseNodeName reads the name that libvirt gives to a device, such as
// pci_0000_01_00_0.
func ParseNodeName(s string) (a Address, ok bool) {
	parts := strings.Split(s, "_")
	if len(parts) != 5 || parts[0] != "pci" {
		return Address{}, false
	}
	a, err := ParseAddress(parts[1] + ":" + parts[2] + ":" + parts[3] + "." + parts[4])
	return a, err == nil
}

// String gives the kernel's spelling, such as 0000:01:00.0.
func (a Address) String() string {
	return fmt.Sprintf("%04x:%02x:%02x.%d", a.Domain, a.Bus, a.Device, a.Function)
}

// Compare orders addresses by domain, bus, device and function.
func (a Address) Compare(b Address) int {
	switch x, y := a.number(), b.number(); {
	case x < y:
		return -1
	case x > y:
		return 1
	}
	return 0
}

// MarshalText writes the spelling of String.
func (a Address) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText reads what ParseAddress reads.
func (a *Address) UnmarshalText(text []byte) error {
	parsed, err := ParseAddress(string(text))
	if err != nil {
		return err
	}
	*a = parsed
	return nil
}

func (a Address) number() uint64 {
	return uint64(a.Domain)<<16 | uint64(a.Bus)<<8 | uint64(a.Device)<<3 | uint64(a.Function)
}

// hex reads lower or upper case digits, without a sign, a prefix or an
// underscore.
func hex(s string, most uint64) (uint64, error) {
	for _, c := range []byte(s) {
		switch {
		case c >= '0' && c <= '9', c >= 'a' && c <= 'f', c >= 'A' && c <= 'F':
		default:
			return 0, strconv.ErrSyntax
		}
	}
	n, err := strconv.ParseUint(s, 16, 32)
	if err != nil {
		return 0, err
	}
	if n > most {
		return 0, strconv.ErrRange
	}
	return n, nil
}

func addressError(s string) error {
	return fmt.Errorf("%q is not a PCI address: want dddd:bb:dd.f, such as 0000:01:00.0", s)
}
