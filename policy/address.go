package policy

import (
	"errors"
	"fmt"
	"strings"

	"vfio-hotplug/internal/pci"
)

// addressGlob is a pattern for the kernel's spelling of an address, or, if it
// has neither * nor ?, an address.
type addressGlob struct {
	pattern string // "" for an exact address
	exact   pci.Address
}

// longestAddress has room for every pci.Address, valid or not.
const longestAddress = len("ffffffff:ff:ff.255")

func anyAddress(globs []addressGlob, a pci.Address) bool {
	var buffer [longestAddress]byte
	var text []byte
	for _, g := range globs {
		if g.pattern == "" {
			if g.exact == a {
				return true
			}
			continue
		}
		if text == nil {
			text = a.Append(buffer[:0])
		}
		if glob(g.pattern, text) {
			return true
		}
	}
	return false
}

// parseAddress reads an address for a message that shows it already.
func parseAddress(s string) (pci.Address, error) {
	a, err := pci.ParseAddress(s)
	if err == nil {
		return a, nil
	}
	if err := otherNameOfDevice(s); err != nil {
		return a, err
	}
	return a, errors.New("not a PCI address: want dddd:bb:dd.f, such as 0000:01:00.0")
}

// otherNameOfDevice says how to come from another name of a device to its address;
// nil where s is none.
func otherNameOfDevice(s string) error {
	if a, ok := pci.ParseNodeName(s); ok {
		return errors.New("this is libvirt's name of it" + didYouMean(a.String()))
	}
	if strings.Contains(s, ":") || !strings.ContainsAny(s, "ghijklmnopqrstuvwxyz") {
		return nil
	}
	return fmt.Errorf("a name comes from the driver that has the device: vfio-hotplug explain %s shows its address", excerpt(s))
}

// parseAddressGlob reads a pattern. Upper case is as good as lower case, and a
// pattern without a domain is about domain 0, as with lspci.
func parseAddressGlob(s string) (addressGlob, error) {
	a, err := parseAddress(s)
	if err == nil {
		return addressGlob{exact: a}, nil
	}
	if otherNameOfDevice(s) != nil {
		return addressGlob{}, err
	}
	if len(s) > 64 {
		return addressGlob{}, errors.New("longer than any address")
	}
	pattern := strings.ToLower(s)
	if i := strings.IndexFunc(pattern, notInGlob); i >= 0 {
		return addressGlob{}, errors.New("an address is made of hex digits, : and ., and the pattern signs * and ?; give several addresses as a list")
	}
	if !strings.ContainsAny(pattern, "*?") {
		return addressGlob{}, err
	}
	for _, p := range []string{pattern, "0000:" + pattern} {
		if matchesSomeAddress(p) {
			return addressGlob{pattern: p}, nil
		}
	}
	return addressGlob{}, errors.New("no address can match this pattern: an address is dddd:bb:dd.f, such as 0000:01:00.0")
}

func notInGlob(r rune) bool { return !strings.ContainsRune("0123456789abcdef:.*?", r) }

// matchesSomeAddress reports whether there is an address that the pattern
// matches. The characters of an address do not depend on one another but for the
// length of the domain: four digits, or up to eight without a leading zero.
func matchesSomeAddress(pattern string) bool {
	const digit, rest = "0123456789abcdef", 4
	tail := []string{":", digit, digit, ":", "01", digit, ".", "01234567"}
	for length := rest; length <= 8; length++ {
		var shape []string
		for i := range length {
			switch {
			case i > 0 || length == rest:
				shape = append(shape, digit)
			case length == 8:
				shape = append(shape, "1234567") // the kernel's domain is an int
			default:
				shape = append(shape, digit[1:])
			}
		}
		if globMeets(pattern, append(shape, tail...)) {
			return true
		}
	}
	return false
}

// globMeets reports whether pattern matches a text whose i-th character is one
// of shape[i].
func globMeets(pattern string, shape []string) bool {
	reached := make([]bool, len(shape)+1) // reached[i]: the pattern so far can match i characters
	reached[0] = true
	for _, c := range []byte(pattern) {
		next := make([]bool, len(shape)+1)
		for i, ok := range reached {
			switch {
			case c == '*':
				next[i] = ok || i > 0 && next[i-1]
			case ok && i < len(shape) && (c == '?' || strings.IndexByte(shape[i], c) >= 0):
				next[i+1] = true
			}
		}
		reached = next
	}
	return reached[len(shape)]
}
