package policy

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
)

// slotPattern is a slot's name, a glob over names, or a range of numbers.
type slotPattern struct {
	glob        string
	isRange     bool
	first, last uint64
}

func (s slotPattern) matches(name string) bool {
	if !s.isRange {
		return name != "" && glob(s.glob, name)
	}
	n, ok := slotNumber(name)
	return ok && s.first <= n && n <= s.last
}

func anySlot(patterns []slotPattern, name string) bool {
	for _, s := range patterns {
		if s.matches(name) {
			return true
		}
	}
	return false
}

// slotNumber reads a name that is a plain decimal number. "1-1", which the
// kernel makes for a second slot 1, is none.
func slotNumber(name string) (uint64, bool) {
	if name == "" {
		return 0, false
	}
	var n uint64
	for _, c := range []byte(name) {
		if c < '0' || c > '9' || n > (1<<63)/10 {
			return 0, false
		}
		n = n*10 + uint64(c-'0')
	}
	return n, true
}

// parseSlot reads a name, a glob or a range.
func parseSlot(s string) (slotPattern, error) {
	from, to, isRange := strings.Cut(s, "..")
	if !isRange {
		return slotPattern{glob: s}, checkSlotName(s)
	}
	first, ok1 := slotNumber(from)
	last, ok2 := slotNumber(to)
	switch {
	case !ok1 || !ok2:
		return slotPattern{}, errors.New("a range of slots goes from one number to another, such as 1..24")
	case first > last:
		return slotPattern{}, fmt.Errorf("the range runs backwards; did you mean %q?", to+".."+from)
	}
	return slotPattern{isRange: true, first: first, last: last}, nil
}

func checkSlotName(s string) error {
	switch {
	case s == "":
		return errors.New("the name of a slot is empty; a device without a slot has no name to match")
	case len(s) > 64:
		return errors.New("no slot has so long a name")
	case strings.TrimSpace(s) != s || strings.ContainsFunc(s, func(r rune) bool { return r == '/' || !unicode.IsPrint(r) }):
		return errors.New("no slot has such a name: see the folders in /sys/bus/pci/slots")
	}
	return nil
}
