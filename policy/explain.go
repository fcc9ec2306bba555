package policy

import (
	"fmt"

	"vfio-hotplug/internal/pci"
)

// Step is what one rule says about a device.
type Step struct {
	Rule    *Rule  // not to be changed
	Matches bool   // every key of the rule's match holds, and VMD does not hide the device
	Decides bool   // this is the rule of the Decision
	Unread  bool   // it may match or not: what Key asks for could not be read
	Key     string // the first key that does not hold, "vmd" for VMD, "" if the rule matches
	Why     string // one line, never empty, such as "slot is 7, the rule wants 1..4"
}

// Explain asks every rule in turn, and says which of them made the Decision that
// Decide takes on d.
func (p *Policy) Explain(d *pci.Device) []Step {
	decision := p.Decide(d)
	rules := p.list()
	steps := make([]Step, len(rules))
	for i := range rules {
		steps[i] = rules[i].explain(d, decision)
	}
	return steps
}

func (r *Rule) explain(d *pci.Device, decision Decision) Step {
	step := Step{Rule: r}
	switch k, unread := r.match.miss(d); {
	case unread != nil:
		step.Unread, step.Decides = true, r == decision.Rule
		step.Key, step.Why = k.String(), k.unreadable(unread)
		return step
	case k != matched:
		step.Key, step.Why = k.String(), r.match.whyNot(k, d)
		return step
	}
	if r.hides(d) {
		step.Key, step.Why = "vmd", "the drive sits behind Intel VMD, the rule does not say vmd = true"
		return step
	}
	step.Matches = true
	step.Decides = r == decision.Rule
	step.Why = r.outcome(d, decision)
	return step
}

// outcome says what became of a rule that matches.
func (r *Rule) outcome(d *pci.Device, decision Decision) string {
	switch {
	case r != decision.Rule && decision.Unread != nil:
		return fmt.Sprintf("matches, but %s may match too", decision.Rule)
	case r != decision.Rule && decision.Rule.Action == Leave && r.Action == Leave:
		return fmt.Sprintf("matches, like %s before it", decision.Rule)
	case r != decision.Rule && decision.Rule.Action == Leave:
		return fmt.Sprintf("matches, but the leave %s wins", decision.Rule)
	case r != decision.Rule:
		return fmt.Sprintf("matches, but %s stands before it", decision.Rule)
	case r.Action == Leave:
		return "matches: the device is left alone"
	case d.Bridge():
		return "matches, but a bridge is never bound"
	}
	return "matches: the device goes to " + r.Driver
}
