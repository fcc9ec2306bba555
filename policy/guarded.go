package policy

import (
	"fmt"

	"vfio-hotplug/internal/pci"
)

// maxPatterns is how many patterns the rules may add up to. A guard writes each
// of them, and each write looks at every device of the machine.
const maxPatterns = 1024

// Guarded is what a guard needs to know of the rules.
type Guarded struct {
	Patterns  []GuardPattern // in the order of the rules; no two of one driver cover each other
	Unguarded []Unguarded    // in the order of the rules
}

// GuardPattern is a pattern for devices that a guard is to keep for a driver.
type GuardPattern struct {
	Pattern pci.Pattern
	Driver  string // who gets them; a rule that says Auto counts as VFIO
	Rule    *Rule  // the rule that the pattern comes from, not to be changed
	VMD     bool   // Rule says vmd = true
	Auto    bool   // among them may be some for which a rule says Auto

	// Exact: whatever has such IDs is bound to Driver by a rule without
	// guard = false, wherever it is. If not VMD, this says nothing about devices
	// behind Intel VMD. Why is one line that names the rule in the way, or "".
	Exact bool
	Why   string
}

// Unguarded is a rule for whose devices no pattern can be made.
type Unguarded struct {
	Rule *Rule  // not to be changed
	Why  string // one line that names the rule and the remedy
}

// Guarded gives the patterns of all rules that bind and do not say guard = false.
// A device that Decide binds by such a rule matches one of them, of its driver,
// unless the rule is Unguarded.
func (p *Policy) Guarded() Guarded {
	var g Guarded
	var patterns []GuardPattern
	rules := p.list()
	for i := range rules {
		r := &rules[i]
		if !r.wantsGuard() {
			continue
		}
		if why := r.unguarded(maxPatterns - len(patterns)); why != "" {
			g.Unguarded = append(g.Unguarded, Unguarded{Rule: r, Why: why})
			continue
		}
		for _, pattern := range r.match.patterns() {
			if !bridges().Covers(pattern) {
				patterns = append(patterns, p.guardPattern(i, pattern))
			}
		}
	}
	g.Patterns = widest(patterns)
	return g
}

func (r *Rule) wantsGuard() bool { return r.Action == Bind && r.Guard }

// unguarded says why r, which may add up to that many patterns, can have none.
func (r *Rule) unguarded(most int) string {
	switch {
	case len(r.match.idKeys()) == 0:
		return fmt.Sprintf("%s names no class, vendor, device or subsystem, so neither claim nor stub can guard it: add a class, or say guard = false", r)
	case !r.match.fewPatterns(most):
		return fmt.Sprintf("with %s the combinations of IDs are more than %d, so neither claim nor stub can guard it: name fewer, or say guard = false", r, maxPatterns)
	}
	return ""
}

// guardPattern judges a pattern of the i-th rule.
func (p *Policy) guardPattern(i int, pattern pci.Pattern) GuardPattern {
	r := &p.rules[i]
	why := p.inexact(i, pattern)
	return GuardPattern{
		Pattern: pattern,
		Driver:  r.guardDriver(),
		Rule:    r,
		VMD:     r.VMD,
		Auto:    p.mayBeAuto(pattern),
		Exact:   why == "",
		Why:     why,
	}
}

func (r *Rule) guardDriver() string {
	if r.Driver == Auto {
		return VFIO
	}
	return r.Driver
}

func (p *Policy) mayBeAuto(pattern pci.Pattern) bool {
	for i := range p.rules {
		if r := &p.rules[i]; r.wantsGuard() && r.Driver == Auto && r.match.meets(pattern) {
			return true
		}
	}
	return false
}

// widest drops the patterns that another of the same driver covers. Of equal ones
// it keeps that of which most is sure.
func widest(patterns []GuardPattern) []GuardPattern {
	var kept []GuardPattern
	for i := range patterns {
		if !covered(patterns, i) {
			kept = append(kept, patterns[i])
		}
	}
	return kept
}

func covered(patterns []GuardPattern, i int) bool {
	p := &patterns[i]
	for j := range patterns {
		other := &patterns[j]
		if i == j || other.Driver != p.Driver || !other.Pattern.Covers(p.Pattern) {
			continue
		}
		equal := p.Pattern.Covers(other.Pattern)
		if !equal || other.sure() > p.sure() || other.sure() == p.sure() && j < i {
			return true
		}
	}
	return false
}

// sure is greater the more the policy says about what matches g.
func (g *GuardPattern) sure() int {
	switch {
	case g.Exact && g.VMD:
		return 2
	case g.Exact:
		return 1
	}
	return 0
}
