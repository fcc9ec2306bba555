// Package policy says which PCI devices belong to user space. It reads the
// policy files into a Policy, and a Policy decides on a pci.Device: a pure
// function of the two, without I/O and without a clock.
//
// The files are described in vfio-hotplug-policy(5).
package policy

import (
	"fmt"
	"slices"

	"vfio-hotplug/internal/pci"
)

// Policy is a list of rules. It does not change once it is loaded, so that any
// number of goroutines may ask it. The zero Policy, and a nil one, have no rule
// and leave every device alone.
type Policy struct {
	rules []Rule
	files []string
	guard GuardMode
	needs Facts
}

// Rules gives a copy of the rules, in the order in which they are asked.
func (p *Policy) Rules() []Rule { return slices.Clone(p.list()) }

// Summary counts the rules, such as "3 rules, 2 of them take devices". One of
// which Warnings says that it takes nothing does not count as taking.
func (p *Policy) Summary() string {
	all, take := len(p.list()), 0
	for i, r := range p.list() {
		if r.Action == Bind && p.shadow(i) == nil {
			take++
		}
	}
	switch {
	case all == 0:
		return "no rule, so nothing is taken"
	case all == 1 && take == 1:
		return "1 rule, and it takes devices"
	case all == 1:
		return "1 rule, and it takes nothing"
	case take == 0:
		return fmt.Sprintf("%d rules, and none takes devices", all)
	case take == 1:
		return fmt.Sprintf("%d rules, 1 of them takes devices", all)
	}
	return fmt.Sprintf("%d rules, %d of them take devices", all, take)
}

// Files gives the names of the files that the policy was read from, in order.
// It is empty where there was no policy file at all.
func (p *Policy) Files() []string {
	if p == nil {
		return nil
	}
	return slices.Clone(p.files)
}

// GuardMode gives the mode that the policy asks for: GuardAuto if it names none.
func (p *Policy) GuardMode() GuardMode {
	if p == nil {
		return GuardAuto
	}
	return p.guard
}

// Needs says which facts beyond IDs, class, address and VMD the rules look at.
// Decide ignores the others, so a caller in a hurry need not read them.
func (p *Policy) Needs() Facts {
	if p == nil {
		return 0
	}
	return p.needs
}

func (p *Policy) list() []Rule {
	if p == nil {
		return nil
	}
	return p.rules
}

func newPolicy(rules []Rule, guard GuardMode, files []string) *Policy {
	p := &Policy{rules: rules, guard: guard, files: files}
	for i := range rules {
		p.needs |= rules[i].match.needs()
	}
	return p
}

// Facts is a set of what a rule may look at besides IDs, class and address.
type Facts = pci.Facts

// The facts that rules look at.
const (
	Slot     = pci.FactSlot     // Device.Slot
	Upstream = pci.FactUpstream // Device.Upstream
	NUMA     = pci.FactNUMA     // Device.NUMANode
	DSN      = pci.FactDSN      // Device.DSN
	PhysFn   = pci.FactPhysFn   // Device.PhysFn and Device.VirtFn
)
