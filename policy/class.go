package policy

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"vfio-hotplug/internal/pci"
)

// classMask matches the classes that equal value where mask has ones.
type classMask struct {
	value, mask pci.Class
}

func anyClass(masks []classMask, c pci.Class) bool {
	for _, m := range masks {
		if c&m.mask == m.value {
			return true
		}
	}
	return false
}

// onlyBridges reports whether every device that m matches is a bridge.
func (m classMask) onlyBridges() bool { return m.mask&subclass == subclass && m.value.Bridge() }

// A class has 24 bits: base class, subclass, programming interface.
const (
	baseClass pci.Class = 0xff0000
	subclass  pci.Class = 0xffff00
	wholeCode pci.Class = 0xffffff
)

type namedClass struct {
	name string
	classMask
}

// classNames are the classes that have a name of their own, from the PCI Code
// and ID Assignment Specification.
func classNames() []namedClass {
	return []namedClass{
		{"nvme", classMask{pci.NVMe, wholeCode}},
		{"storage", classMask{0x010000, baseClass}},
		{"raid", classMask{0x010400, subclass}},
		{"sata", classMask{0x010600, subclass}},
		{"sas", classMask{0x010700, subclass}},
		{"nic", classMask{0x020000, baseClass}},
		{"ethernet", classMask{0x020000, subclass}},
		{"infiniband", classMask{0x020700, subclass}},
		{"gpu", classMask{0x030000, baseClass}},
		{"audio", classMask{0x040300, subclass}},
		{"cxl", classMask{0x050200, subclass}},
		{"usb", classMask{0x0c0300, subclass}},
		{"crypto", classMask{0x100000, baseClass}},
		{"accelerator", classMask{0x120000, baseClass}},
	}
}

// parseClass reads a name, or hex digits with an optional mask: "nvme",
// "0x010802", "0108" (any programming interface), "0x010800/0xffff00".
func parseClass(s string) (classMask, error) {
	var names []string
	for _, c := range classNames() {
		if c.name == s {
			return c.classMask, nil
		}
		names = append(names, c.name)
	}
	code, mask, masked := strings.Cut(s, "/")
	if !looksHex(code) {
		if near := nearest(s, names...); near != "" {
			return classMask{}, errors.New("no such class" + didYouMean(near))
		}
		return classMask{}, errors.New("no such class: want hex, such as 0x010802, or one of " + strings.Join(names, ", "))
	}
	m, ok := hexClass(code)
	if !ok {
		return classMask{}, classDigits(code)
	}
	if !masked {
		return m, nil
	}
	return parseMaskedClass(m, mask)
}

func parseMaskedClass(m classMask, mask string) (classMask, error) {
	bits, ok := hexClass(mask)
	switch {
	case !ok || bits.mask != wholeCode || m.mask != wholeCode:
		return classMask{}, errors.New("a class and its mask have six hex digits each, such as 0x010800/0xffff00")
	case bits.value == 0:
		return classMask{}, errors.New("this mask matches every class; leave the key out to match every class")
	case m.value&^bits.value != 0:
		return classMask{}, fmt.Errorf("the class has bits that the mask leaves out; did you mean %s/%s?", m.value&bits.value, bits.value)
	}
	return classMask{value: m.value, mask: bits.value}, nil
}

// hexClass reads two, four or six hex digits: a base class, with a subclass, with
// a programming interface.
func hexClass(s string) (classMask, bool) {
	digits := trimHexPrefix(s)
	n, err := strconv.ParseUint(digits, 16, 24)
	if err != nil || len(digits)%2 != 0 || len(digits) > 6 {
		return classMask{}, false
	}
	missing := 24 - 4*len(digits)
	mask := wholeCode >> missing << missing
	return classMask{value: pci.Class(n) << missing, mask: mask}, true
}

func classDigits(s string) error {
	const want = "a class has two, four or six hex digits, such as 0x010802"
	if len(trimHexPrefix(s)) == 5 {
		return errors.New(want + didYouMean("0x0"+trimHexPrefix(s)))
	}
	return errors.New(want)
}

// looksHex reports whether s is more likely a number than a name.
func looksHex(s string) bool {
	if strings.HasPrefix(s, "0x") || strings.HasPrefix(s, "0X") {
		return true
	}
	return s != "" && s[0] >= '0' && s[0] <= '9'
}

func trimHexPrefix(s string) string {
	if len(s) > 2 && s[0] == '0' && (s[1] == 'x' || s[1] == 'X') {
		return s[2:]
	}
	return s
}
