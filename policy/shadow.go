package policy

import (
	"slices"
	"strings"
)

// shadow gives a rule that decides on every device which the i-th rule, which
// binds, would take, or nil. It looks for one rule whose every condition is as
// wide as one of the other's; nil does not say that there is none.
func (p *Policy) shadow(i int) *Rule {
	r := &p.rules[i]
	for j := range p.rules {
		other := &p.rules[j]
		before := other.Action == Bind && j < i && (other.VMD || !r.VMD)
		if (before || other.Action == Leave) && other.match.covers(&r.match) {
			return other
		}
	}
	return nil
}

// covers reports whether m surely matches everything that n matches.
func (m *match) covers(n *match) bool {
	for _, k := range m.keys {
		if !slices.Contains(n.keys, k) || !m.asWide(k, n) {
			return false
		}
	}
	return true
}

// asWide reports whether each value of n's key k is covered by one of m's.
func (m *match) asWide(k key, n *match) bool {
	switch k {
	case keyClass:
		return each(m.class, n.class, classMask.covers)
	case keyVendor, keyDevice, keySubVendor, keySubDevice:
		return each(m.ids[k], n.ids[k], equal)
	case keyAddress:
		return each(m.addr, n.addr, addressGlob.covers)
	case keySlot:
		return each(m.slot, n.slot, slotPattern.covers)
	case keyBehind:
		return each(m.behind, n.behind, equal)
	case keyPhysFn:
		return each(m.physfn, n.physfn, equal)
	case keyNUMA:
		return each(m.numa, n.numa, equal)
	case keyDSN:
		return each(m.dsn, n.dsn, equal)
	case keyNot:
		return n.not.covers(m.not) // n must exclude what m does
	}
	return false
}

func each[V any](wide, narrow []V, covers func(V, V) bool) bool {
	for _, v := range narrow {
		if !slices.ContainsFunc(wide, func(w V) bool { return covers(w, v) }) {
			return false
		}
	}
	return true
}

func equal[V comparable](a, b V) bool { return a == b }

func (m classMask) covers(n classMask) bool {
	return m.mask&n.mask == m.mask && n.value&m.mask == m.value
}

func (a addressGlob) covers(b addressGlob) bool {
	switch {
	case a.pattern == "":
		return a == b
	case b.pattern == "":
		return glob(a.pattern, b.exact.String())
	}
	return globCovers(a.pattern, b.pattern)
}

func (s slotPattern) covers(other slotPattern) bool {
	switch {
	case s.isRange && other.isRange:
		return s.first <= other.first && other.last <= s.last
	case s.isRange:
		return !strings.ContainsAny(other.glob, "*?") && s.matches(other.glob)
	case other.isRange:
		return strings.Trim(s.glob, "*") == "" // any name
	}
	return globCovers(s.glob, other.glob)
}

// globCovers matches one pattern as if it were a text: that the other's * takes
// any part of it, and its ? a character or a ?, holds for all that it stands for.
// A ? must not take a *.
func globCovers(wide, narrow string) bool {
	if strings.Contains(wide, "?") && strings.Contains(narrow, "*") {
		return wide == narrow
	}
	return glob(wide, narrow)
}
