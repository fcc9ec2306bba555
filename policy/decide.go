package policy

import (
	"fmt"

	"vfio-hotplug/internal/pci"
)

// Verdict is what a policy says about a device, and what a rule says about the
// devices that it matches.
type Verdict uint8

// The verdicts. No rule says None.
const (
	None  Verdict = iota // the policy does not name the device: leave it alone
	Leave                // it is named, and must not be touched
	Bind                 // it belongs to the driver that the rule names
)

// String gives the word that the policy file and the journal use.
func (v Verdict) String() string {
	switch v {
	case None:
		return "none"
	case Leave:
		return "leave"
	case Bind:
		return "bind"
	}
	return fmt.Sprintf("Verdict(%d)", uint8(v))
}

// Decision is the answer of a policy about one device.
type Decision struct {
	Verdict  Verdict
	Rule     *Rule    // the rule that decided, nil for None; not to be changed
	Driver   string   // the rule's driver, for Bind
	Takeover Takeover // the rule's takeover, for Bind
	Group    Grouping // the rule's group, for Bind
	Reason   string   // one line, never empty, the same for the same cause

	// Unread is what kept the policy from an answer: a fact that Rule asks for and
	// that could not be read. The Verdict is Leave then. Nil where the answer is sure.
	Unread *pci.Unread
}

// Decide says what is to be done with d. A rule that says leave wins wherever it
// stands; among the others the first that matches wins; no rule: None. A bridge
// is never bound, and a device behind Intel VMD only by a rule that asks for it.
// Where a rule that could decide asks for what is Unread, the device is left.
//
// It answers for every d, and allocates only where something is Unread.
func (p *Policy) Decide(d *pci.Device) Decision {
	var first, hidden, open *Rule
	rules := p.list()
	for i := range rules {
		r := &rules[i]
		if first != nil && r.Action != Leave {
			continue
		}
		missed, unread := r.match.miss(d)
		switch {
		case unread != nil:
			if open == nil && !r.hides(d) && !d.Bridge() {
				open = r
			}
		case missed != matched:
		case r.Action == Leave:
			return Decision{Verdict: Leave, Rule: r, Reason: r.reason.matches}
		case r.hides(d):
			if hidden == nil {
				hidden = r
			}
		default:
			first = r
		}
	}
	switch {
	case open != nil:
		return open.undecided(d)
	case first == nil && hidden == nil:
		return Decision{Verdict: None, Reason: "no rule matches"}
	case first == nil:
		return Decision{Verdict: None, Reason: hidden.reason.vmd}
	case d.Bridge():
		return Decision{Verdict: Leave, Rule: first, Reason: first.reason.bridge}
	}
	return Decision{
		Verdict:  Bind,
		Rule:     first,
		Driver:   first.Driver,
		Takeover: first.Takeover,
		Group:    first.Group,
		Reason:   first.reason.matches,
	}
}

// undecided is the Decision where r may match d or not.
func (r *Rule) undecided(d *pci.Device) Decision {
	k, unread := r.match.miss(d)
	return Decision{Verdict: Leave, Rule: r, Unread: unread, Reason: r.String() + " may match: its " + k.unreadable(unread)}
}

// unreadable says that what k asks for is not known.
func (k key) unreadable(unread *pci.Unread) string {
	return k.String() + " cannot be read: " + unread.Why
}

// hides reports whether r, which matches d or may, does not count because d sits behind
// Intel VMD. A rule that leaves counts there too.
func (r *Rule) hides(d *pci.Device) bool { return d.VMD && !r.VMD && r.Action != Leave }
