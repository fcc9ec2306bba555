package policy

import (
	"strings"

	"vfio-hotplug/internal/pci"
)

// inexact says why IDs that match a pattern of the i-th rule are not enough to
// know that the device is bound to the rule's driver, or "" if they are. It may
// see a rule in the way that in truth is not, but never the other way round.
func (p *Policy) inexact(i int, pattern pci.Pattern) string {
	own := &p.rules[i]
	if others := own.match.placeKeys(); len(others) > 0 {
		return own.String() + " goes by " + joinKeys(others) + " too"
	}
	if !rulesOutBridges(pattern) {
		return own.String() + " has no class that rules out bridges, which are never bound"
	}
	for j := range p.rules {
		r := &p.rules[j]
		if why := r.differs(own, j < i); why != "" && r.match.meets(pattern) {
			return r.String() + " " + why
		}
	}
	return ""
}

// differs says what else than own r does with devices that match both, or "".
func (r *Rule) differs(own *Rule, earlier bool) string {
	switch {
	case r.Action == Leave:
		return "leaves some of them"
	case !earlier:
		return ""
	case r.guardDriver() != own.guardDriver():
		return "gives some of them to " + r.Driver
	case !r.Guard:
		return "says guard = false for some of them"
	}
	return ""
}

// rulesOutBridges reports whether no device that matches p can be a bridge. Of a
// class below 06 some devices are, and some are not.
func rulesOutBridges(p pci.Pattern) bool {
	sixes := pci.Any()
	sixes.Class, sixes.ClassMask = 0x060000, uint32(baseClass)
	return !sixes.Meets(p)
}

// onlyBridges reports whether every device that matches p is a bridge.
func onlyBridges(p pci.Pattern) bool {
	return classMask{pci.Class(p.Class), pci.Class(p.ClassMask)}.onlyBridges()
}

func joinKeys(keys []key) string {
	words := make([]string, len(keys))
	for i, k := range keys {
		words[i] = k.String()
	}
	return strings.Join(words, " and ")
}
