package operate

import (
	"time"

	"vfio-hotplug/internal/inuse"
	"vfio-hotplug/internal/pci"
	"vfio-hotplug/policy"
)

// Outcome is the one word for what became of a device.
type Outcome string

// The outcomes.
const (
	Direct   Outcome = "direct"   // bound, and no other driver ever touched it
	Taken    Outcome = "taken"    // bound, after another driver had it first
	Already  Outcome = "already"  // it was bound to the right driver before we came
	Left     Outcome = "left"     // the policy, or a hand, says to leave it alone
	Refused  Outcome = "refused"  // the policy names it, but it is not safe; as it was found
	Failed   Outcome = "failed"   // the kernel did not do it; as it was found, or the reason says what is left
	Gone     Outcome = "gone"     // it was unplugged on the way
	Released Outcome = "released" // given back to what it had before
	// Stuck says that the kernel has not come back from a step, or that it has
	// yet to come back from what somebody else has it do, so that nothing was
	// begun. Another outcome follows if the kernel ever does.
	Stuck Outcome = "stuck"
)

// OnVFIO reports whether the device has a driver of vfio's.
func (r Result) OnVFIO() bool { return policy.IsVFIO(r.Driver) }

// Bound reports whether the device is with the wanted driver now.
func (o Outcome) Bound() bool { return o == Direct || o == Taken || o == Already }

// Result tells what became of one device, and why.
type Result struct {
	Address pci.Address `json:"address"`
	Outcome Outcome     `json:"outcome"`
	Driver  string      `json:"driver,omitempty"` // the driver it has now, "" for none
	From    string      `json:"from,omitempty"`   // the driver that had it, for Taken or Missed
	Rule    string      `json:"rule,omitempty"`   // the rule that named it
	Check   string      `json:"-"`                // the name of the check that it ended at, "" for none
	Reason  string      `json:"reason"`           // one line
	Remedy  string      `json:"remedy,omitempty"` // what to do next, if anything
	Slot    string      `json:"slot,omitempty"`   // the slot it sits in
	Group   int         `json:"iommu_group"`      // its IOMMU group, or pci.NoGroup
	Node    string      `json:"node,omitempty"`   // the node that a program opens
	Along   []Result    `json:"along,omitempty"`  // those of its IOMMU group that were taken with it
	Guard   string      `json:"guard,omitempty"`  // the guard that was armed for it when it was plugged
	Missed  bool        `json:"missed,omitempty"` // another driver touched it although a guard was armed
	Seen    bool        `json:"-"`                // what it has now is not the guard's doing, or no longer
	// InUse is who or what on it stood in the way, for Refused; nil where it was
	// something else.
	InUse *inuse.Report `json:"-"`
	// InTheWay names those for which it was refused, if it was for its IOMMU group.
	InTheWay string        `json:"-"`
	Release  bool          `json:"-"`                    // it was to be given back, not taken
	Since    time.Time     `json:"since,omitzero"`       // when the kernel began with what a Stuck device is stuck in, or that was first seen
	Latency  time.Duration `json:"latency_ns,omitempty"` // from the kernel's event to the usable node, for a hot-add
}
