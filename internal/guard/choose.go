package guard

import (
	"fmt"

	"vfio-hotplug/internal/pci"
)

// Mode is a way to keep other drivers from a new device.
type Mode string

// The modes. Auto and Off are wishes; the others are also answers.
const (
	Auto  Mode = "auto"
	Claim Mode = "claim" // a dynamic ID on the wanted driver
	Stub  Mode = "stub"  // a dynamic ID on pci-stub, from where we take it on
	Gate  Mode = "gate"  // drivers_autoprobe = 0, and we probe every new device
	Race  Mode = "race"  // no guard: driver_override at the add event, and repair
	Off   Mode = "off"   // the same, and no guard is looked for
)

// PCIStub is the driver that takes any device and does nothing with it.
const PCIStub = "pci-stub"

// ID is one dynamic ID that a policy calls for.
type ID struct {
	Pattern pci.Pattern
	Driver  string // that the policy wants for what matches
	// Exact says that the policy gives every device that matches to Driver.
	Exact bool
	Why   string // why it is not exact
	// VMD says that Exact holds for devices behind VMD too.
	VMD bool
}

// Rules is what a policy asks of a guard.
type Rules struct {
	IDs []ID
	// Others says that there are rules that want a guard and have no part of
	// which an ID could be made: only a gate guards their devices.
	Others bool
}

// Choice is a guard and the reason for it.
type Choice struct {
	Mode   Mode
	Why    string // one line
	Remedy string // what would allow a stronger guard, "" where there is none
}

// Choose picks the guard for the rules of a policy on a machine: for Auto the
// strongest that is exact, else the one that is wished for. The error says why
// a guard that was asked for by name cannot hold; Race is then the answer.
func Choose(m Machine, wish Mode, r Rules) (Choice, error) {
	switch {
	case wish == Off || wish == Race:
		return Choice{Mode: Race, Why: fmt.Sprintf("the policy says mode = %q", wish)}, nil
	case len(r.IDs) == 0 && !r.Others:
		return Choice{Mode: Race, Why: "no rule of the policy wants one"}, nil
	case wish == Auto && len(r.IDs) == 0:
		return Choice{Mode: Race, Why: noID, Remedy: nameID}, nil
	case wish == Auto:
		return automatic(m, r.IDs), nil
	}
	if why, remedy := m.lacks(wish, r.IDs); why != "" {
		c := Choice{Mode: Race, Why: why, Remedy: remedy}
		return c, fmt.Errorf("guard %s cannot hold here: %s: %s", wish, why, remedy)
	}
	return Choice{Mode: wish, Why: fmt.Sprintf("the policy says mode = %q", wish)}, nil
}

// noID is why IDs cannot guard a policy.
const noID = "no rule names a class, vendor, device or subsystem, of which an ID could be made"

// nameID is what allows it.
const nameID = "add class = \"nvme\", or what fits, to the match of a rule"

func automatic(m Machine, ids []ID) Choice {
	inexact := m.inexact(ids)
	lacksClaim, remedy := m.lacks(Claim, ids)
	if inexact == "" && lacksClaim == "" {
		return Choice{Mode: Claim, Why: "every drive with these IDs is wanted, and the wanted driver comes before nvme"}
	}
	reason := inexact
	if reason == "" {
		reason = lacksClaim
	}
	lacksStub, stubRemedy := m.lacks(Stub, ids)
	if lacksStub == "" {
		return Choice{Mode: Stub, Why: reason + "; pci-stub comes before nvme"}
	}
	if m.gated() {
		return Choice{Mode: Gate, Why: reason + "; " + lacksStub + "; this kernel lets new devices wait"}
	}
	if remedy == "" {
		remedy = stubRemedy
	}
	return Choice{Mode: Race, Why: reason + "; " + lacksStub, Remedy: remedy}
}

// inexact says why a dynamic ID on the wanted driver would also catch devices
// that the policy does not want there, "" if it would not.
func (m Machine) inexact(ids []ID) string {
	for _, id := range ids {
		if !id.Exact {
			return id.Why
		}
		if m.VMD && !id.VMD {
			return "drives behind Intel VMD have the same IDs, and no rule takes them"
		}
	}
	return ""
}

// lacks says what a guard by name would need and this machine does not have,
// and how to get it.
func (m Machine) lacks(mode Mode, ids []ID) (why, remedy string) {
	if mode == Gate {
		if !m.gated() {
			return "this kernel matches new devices whatever drivers_autoprobe says", "Linux 6.19 or newer, or another mode"
		}
		return "", ""
	}
	if len(ids) == 0 {
		return noID, nameID
	}
	for _, id := range ids {
		driver := id.Driver
		if mode == Stub {
			driver = PCIStub
		}
		if why, remedy := m.loses(driver, id.Pattern); why != "" {
			return why, remedy
		}
	}
	return "", ""
}

// loses says why a driver would not get a device with a pattern that another
// driver matches too.
func (m Machine) loses(driver string, pattern pci.Pattern) (why, remedy string) {
	if _, there := m.Registered[driver]; !there {
		return driver + " is not loaded", "modprobe " + driver
	}
	if m.synchronousFirst() && m.Async.Of(driver) {
		return driver + " is made asynchronous by the kernel command line", "take driver_async_probe and async_probe from the kernel command line"
	}
	if rival := m.first(driver, m.rivals(pattern)); rival != "" {
		why := fmt.Sprintf("%s was registered after %s, which so comes first on this kernel", driver, rival)
		if m.Registered[rival] == 0 {
			return why, rival + " is built in, so no order of modules helps: a kernel in which it is a module"
		}
		return why, fmt.Sprintf("have it loaded before %s: \"softdep %s pre: vfio-pci pci-stub\" in /etc/modprobe.d, update-initramfs -u, reboot", rival, loadedWith(rival))
	}
	return "", ""
}

// loadedWith names the module whose softdeps are loaded before a driver. Those of
// nvme itself would be unloaded with it: see packaging/modprobe.d.
func loadedWith(driver string) string {
	if driver == "nvme" {
		return "nvme_core"
	}
	return driver
}
