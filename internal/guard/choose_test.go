package guard

import (
	"strings"
	"testing"

	"vfio-hotplug/internal/pci"
)

var nvme = pci.Pattern{Vendor: pci.AnyID, Device: pci.AnyID, SubVendor: pci.AnyID, SubDevice: pci.AnyID, Class: 0x010802, ClassMask: 0xffffff}

// machine is a kernel with these drivers registered in this order.
func machine(major, minor int, drivers ...string) Machine {
	m := Machine{Release: Release{major, minor}, Registered: map[string]int{}}
	for i, driver := range drivers {
		m.Registered[driver] = i + 1
	}
	return m
}

func TestChoose(t *testing.T) {
	all := Rules{IDs: []ID{{Pattern: nvme, Driver: "vfio-pci", Exact: true}}}
	some := Rules{IDs: []ID{{Pattern: nvme, Driver: "vfio-pci", Why: "bay 12 is left"}}}
	cards := Rules{IDs: []ID{{Pattern: pci.Pattern{Vendor: 0x8086, Device: pci.AnyID, SubVendor: pci.AnyID, SubDevice: pci.AnyID, Class: 0x020000, ClassMask: 0xff0000}, Driver: "vfio-pci", Exact: true}}}
	none, others := Rules{}, Rules{Others: true}
	async := machine(7, 3, "nvme", "vfio-pci", "pci-stub")
	async.Async = parseAsync("driver_async_probe=vfio-pci")
	vmd := machine(7, 3, "nvme", "vfio-pci", "pci-stub")
	vmd.VMD = true
	builtin := machine(6, 1, "vfio-pci")
	builtin.Registered["nvme"], builtin.Registered[PCIStub] = 0, 0
	allBuiltin := machine(6, 1)
	allBuiltin.Registered["nvme"], allBuiltin.Registered["vfio-pci"], allBuiltin.Registered[PCIStub] = 0, 0, 0
	for _, test := range []struct {
		name    string
		machine Machine
		wish    Mode
		rules   Rules
		mode    Mode
		words   string // in Why
		remedy  string // in Remedy
		fault   string // in the error
	}{
		{"6.1, the right order", machine(6, 1, "pci-stub", "vfio-pci", "nvme"), Auto, all, Claim, "every drive", "", ""},
		{"6.1, some are left", machine(6, 1, "pci-stub", "vfio-pci", "nvme"), Auto, some, Stub, "bay 12 is left", "", ""},
		{"6.1, nvme first", machine(6, 1, "nvme", "vfio-pci", "pci-stub"), Auto, all, Race, "registered after nvme", "softdep nvme_core pre", ""},
		{"6.12, nvme first, some are left", machine(6, 12, "nvme", "vfio-pci", "pci-stub"), Auto, some, Race, "bay 12 is left", "softdep", ""},
		{"6.12, only pci-stub before nvme", machine(6, 12, "pci-stub", "nvme", "vfio-pci"), Auto, all, Stub, "vfio-pci was registered after nvme", "", ""},
		{"6.1, nvme not loaded yet", machine(6, 1, "vfio-pci"), Auto, all, Claim, "", "", ""},
		{"6.1, all built in but vfio-pci", builtin, Auto, all, Stub, "vfio-pci was registered after nvme", "", ""},
		{"6.1, all built in", allBuiltin, Auto, all, Stub, "vfio-pci was registered after nvme", "", ""},
		{"6.1, all built in, claim by name", allBuiltin, Claim, all, Race, "", "a kernel in which it is a module", "guard claim cannot hold here"},
		{"7.3, any order", machine(7, 3, "nvme", "vfio-pci"), Auto, all, Claim, "", "", ""},
		{"7.3, some are left, no pci-stub", machine(7, 3, "nvme", "vfio-pci"), Auto, some, Gate, "pci-stub is not loaded", "", ""},
		{"6.18, some are left, no pci-stub", machine(6, 18, "nvme", "vfio-pci"), Auto, some, Race, "bay 12 is left", "modprobe pci-stub", ""},
		{"7.3, vfio-pci made asynchronous", async, Auto, all, Stub, "asynchronous", "", ""},
		{"6.1, cards by their own driver's rank", machine(6, 1, "nvme", "pci-stub", "vfio-pci", "e1000e"), Auto, cards, Claim, "every drive", "", ""},
		{"6.1, cards whose driver was first", machine(6, 1, "e1000e", "pci-stub", "vfio-pci", "nvme"), Auto, cards, Race, "vfio-pci was registered after e1000e", "softdep e1000e pre", ""},
		{"7.3, cards whose driver was first", machine(7, 3, "e1000e", "pci-stub", "vfio-pci", "nvme"), Auto, cards, Gate, "vfio-pci was registered after e1000e", "", ""},
		{"7.3, cards, the right order", machine(7, 3, "nvme", "pci-stub", "vfio-pci", "e1000e"), Auto, cards, Claim, "every drive", "", ""},
		{"VMD has the same IDs", vmd, Auto, all, Stub, "VMD", "", ""},
		{"nothing to guard", machine(7, 3, "vfio-pci"), Auto, none, Race, "no rule of the policy wants one", "", ""},
		{"nothing to guard, gate by name", machine(7, 3, "vfio-pci"), Gate, none, Race, "no rule of the policy wants one", "", ""},
		{"only rules without an ID", machine(7, 3, "vfio-pci"), Auto, others, Race, "no rule names a class", "add class", ""},
		{"only rules without an ID, claim by name", machine(7, 3, "vfio-pci"), Claim, others, Race, "", "add class", "guard claim cannot hold here: no rule names a class"},
		{"only rules without an ID, stub by name", machine(7, 3, "pci-stub"), Stub, others, Race, "", "add class", "guard stub cannot hold here"},
		{"only rules without an ID, gate by name", machine(7, 3, "vfio-pci"), Gate, others, Gate, `mode = "gate"`, "", ""},
		{"only rules without an ID, gate by name on 6.12", machine(6, 12, "vfio-pci"), Gate, others, Race, "", "6.19", "guard gate cannot hold here"},
		{"off", machine(7, 3, "vfio-pci"), Off, all, Race, `mode = "off"`, "", ""},
		{"gate by name", machine(7, 3, "vfio-pci"), Gate, all, Gate, `mode = "gate"`, "", ""},
		{"gate by name on 6.12", machine(6, 12, "vfio-pci"), Gate, all, Race, "", "6.19", "guard gate cannot hold here"},
		{"claim by name, nvme first", machine(6, 1, "nvme", "vfio-pci"), Claim, all, Race, "", "softdep", "guard claim cannot hold here"},
		{"claim by name, some are left", machine(7, 3, "vfio-pci"), Claim, some, Claim, `mode = "claim"`, "", ""},
		{"stub by name, not loaded", machine(7, 3, "vfio-pci"), Stub, all, Race, "", "modprobe pci-stub", "pci-stub is not loaded"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := Choose(test.machine, test.wish, test.rules)
			if got.Mode != test.mode || !strings.Contains(got.Why, test.words) || got.Why == "" || !strings.Contains(got.Remedy, test.remedy) || test.remedy == "" && got.Remedy != "" {
				t.Errorf("got %+v", got)
			}
			if (err == nil) != (test.fault == "") || err != nil && !strings.Contains(err.Error(), test.fault) {
				t.Errorf("error %v, want %q", err, test.fault)
			}
		})
	}
}
