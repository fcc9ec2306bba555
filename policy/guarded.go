package policy

import (
	"fmt"
	"slices"

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
	all := gathered{at: map[sameIDs]int{}}
	rules := p.list()
	for i := range rules {
		r := &rules[i]
		if !r.wantsGuard() {
			continue
		}
		if why := r.unguarded(); why != "" {
			g.Unguarded = append(g.Unguarded, Unguarded{Rule: r, Why: why})
			continue
		}
		own := r.guardPatterns()
		if !all.hasRoom(r, own) {
			g.Unguarded = append(g.Unguarded, Unguarded{Rule: r, Why: r.tooMany()})
			continue
		}
		for _, pattern := range own {
			all.add(p.guardPattern(i, pattern))
		}
	}
	g.Patterns = widest(all.patterns)
	for i := range g.Patterns {
		g.Patterns[i].Auto = p.mayBeAuto(g.Patterns[i].Pattern)
	}
	return g
}

// gathered are the patterns of several rules. Many rules may be about the same
// IDs, in one slot each: of these it keeps the one of which most is sure.
type gathered struct {
	patterns []GuardPattern
	at       map[sameIDs]int // where in patterns
}

type sameIDs struct {
	driver  string
	pattern pci.Pattern
}

// hasRoom reports whether the patterns of r can be added to the others.
func (all *gathered) hasRoom(r *Rule, patterns []pci.Pattern) bool {
	more := map[pci.Pattern]bool{}
	for _, p := range patterns {
		if _, found := all.at[sameIDs{r.guardDriver(), p}]; !found {
			more[p] = true
		}
	}
	return len(all.at)+len(more) <= maxPatterns
}

// add adds a pattern, or has it take the place of an equal one.
func (all *gathered) add(p GuardPattern) {
	ids := sameIDs{p.Driver, p.Pattern}
	at, found := all.at[ids]
	switch {
	case found && p.sure() <= all.patterns[at].sure():
		return
	case found: // the order is that of the rules
		all.patterns = slices.Delete(all.patterns, at, at+1)
		for other, i := range all.at {
			if i > at {
				all.at[other] = i - 1
			}
		}
	}
	all.at[ids] = len(all.patterns)
	all.patterns = append(all.patterns, p)
}

func (r *Rule) wantsGuard() bool { return r.Action == Bind && r.Guard }

// unguarded says why r alone can have no patterns.
func (r *Rule) unguarded() string {
	switch {
	case len(r.match.idKeys()) == 0:
		return fmt.Sprintf("%s names no class, vendor, device or subsystem, so neither claim nor stub can guard it: add a class, or say guard = false", r)
	case !r.match.fewPatterns(maxPatterns):
		return r.tooMany()
	}
	return ""
}

// tooMany says that no guard has room for the patterns of r beside those of the
// rules before it.
func (r *Rule) tooMany() string {
	return fmt.Sprintf("with %s the combinations of IDs are more than %d, so neither claim nor stub can guard it: name fewer, or say guard = false", r, maxPatterns)
}

// guardPatterns gives the patterns of r, but for those of bridges alone.
func (r *Rule) guardPatterns() []pci.Pattern {
	return slices.DeleteFunc(r.match.patterns(), onlyBridges)
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
