package policy

import (
	"fmt"
	"path"
	"strings"
)

// Takeover says when a device that another driver already holds may be taken
// from it. A device in use is never taken, whatever the rule says.
type Takeover uint8

// The takeovers that a rule can name.
const (
	Blank Takeover = iota // unused, and no signature on it that blkid knows
	Never                 // leave it to the driver that has it
	Idle                  // unused
)

// String gives the word that the policy file uses.
func (t Takeover) String() string {
	switch t {
	case Blank:
		return "blank"
	case Never:
		return "never"
	case Idle:
		return "idle"
	}
	return fmt.Sprintf("Takeover(%d)", uint8(t))
}

// Grouping says what becomes of the other devices of the IOMMU group that a
// device sits in: a program gets the whole group or nothing of it.
type Grouping uint8

// The groupings that a rule can name.
const (
	Alone Grouping = iota // refuse the device while another driver has one of them
	With                  // take along those that the policy also gives to vfio: all or none
)

// String gives the word that the policy file uses.
func (g Grouping) String() string {
	switch g {
	case Alone:
		return "alone"
	case With:
		return "with"
	}
	return fmt.Sprintf("Grouping(%d)", uint8(g))
}

// Names of drivers that mean something to us. A rule may name any other.
const (
	VFIO = "vfio-pci"        // the default
	UIO  = "uio_pci_generic" // user space without an IOMMU
	Auto = "auto"            // vfio-pci, or its best variant for the device
)

// IsVFIO reports whether a driver is vfio-pci or, by its name, a variant of it.
func IsVFIO(driver string) bool {
	driver = strings.ReplaceAll(driver, "_", "-")
	return driver == VFIO || strings.HasSuffix(driver, "-"+VFIO)
}

// Rule is one [[rule]] of a policy file. Rules come from Load and Parse, and
// are not to be changed.
type Rule struct {
	Name     string   // unique in the policy
	Action   Verdict  // Bind or Leave
	Driver   string   // a driver's name, or Auto; "" when Action is Leave
	Takeover Takeover // for a device that another driver holds
	Group    Grouping // for the others of the device's IOMMU group
	Guard    bool     // false: the kernel's own driver reads the device first
	VMD      bool     // it also takes devices behind Intel VMD
	File     string   // the file that the rule stands in
	Line     int      // the line of its [[rule]], from 1

	match  match
	reason reasons
}

// String names the rule and its place, such as
//
//	rule "front bays" (policy.toml:12)
func (r *Rule) String() string {
	return fmt.Sprintf("rule %q (%s:%d)", r.Name, path.Base(r.File), r.Line)
}

// reasons are the words for what a rule can decide. They are made when the
// policy is loaded, so that Decide does not allocate.
type reasons struct {
	matches string
	bridge  string
	vmd     string
}

func newReasons(r *Rule) reasons {
	if r.Action == Leave {
		return reasons{matches: "leave " + r.String() + " matches"}
	}
	return reasons{
		matches: r.String() + " matches",
		bridge:  r.String() + " matches, but a bridge is never bound",
		vmd:     r.String() + " would match, but the drive sits behind Intel VMD and the rule does not say vmd = true",
	}
}
