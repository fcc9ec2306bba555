package policy

import (
	"testing"

	"vfio-hotplug/internal/pci"
)

func TestExplainSaysWhatIsMissing(t *testing.T) {
	vf := drive()
	vf.VirtFn, vf.PhysFn = true, pci.Address{Bus: 0x3b}
	bare := pci.Device{NUMANode: pci.NoNode}
	for _, c := range []struct {
		match    string
		device   pci.Device
		key, why string
	}{
		{`class = ["nic", "0x0300"]`, drive(), "class", "class is 0x010802, the rule wants nic or 0x0300"},
		{`vendor = 0x8086`, drive(), "vendor", "vendor is 0x144d, the rule wants 0x8086"},
		{`device = [0x1, 0x2]`, drive(), "device", "device is 0xa804, the rule wants 0x1 or 0x2"},
		{`subsystem_vendor = 0x1`, drive(), "subsystem_vendor", "subsystem_vendor is 0x144e, the rule wants 0x1"},
		{`subsystem_device = 0x1`, drive(), "subsystem_device", "subsystem_device is 0xa801, the rule wants 0x1"},
		{`address = "02:00.*"`, drive(), "address", "address is 0000:01:00.0, the rule wants 02:00.*"},
		{`slot = ["1..4", "9"]`, drive(), "slot", "slot is 7, the rule wants 1..4 or 9"},
		{`slot = "1..4"`, bare, "slot", "slot is none, the rule wants 1..4"},
		{`behind = "00:02.0"`, drive(), "behind", "behind is 0000:00:1c.0, 0000:00:01.1, the rule wants 00:02.0"},
		{`behind = "00:02.0"`, bare, "behind", "behind is none, the rule wants 00:02.0"},
		{`physfn = "01:00.0"`, vf, "physfn", "physfn is 0000:3b:00.0, the rule wants 01:00.0"},
		{`physfn = "01:00.0"`, bare, "physfn", "physfn is none, the rule wants 01:00.0"},
		{`numa_node = 0`, drive(), "numa_node", "numa_node is 1, the rule wants 0"},
		{`numa_node = 0`, bare, "numa_node", "numa_node is none, the rule wants 0"},
		{`dsn = "ff-ff-ff-ff-ff-ff-ff-ff"`, drive(), "dsn", "dsn is 00-11-22-33-44-55-66-77, the rule wants ff-ff-ff-ff-ff-ff-ff-ff"},
		{`dsn = 0x7f11223344556677`, bare, "dsn", "dsn is none, the rule wants 0x7f11223344556677"},
		{`class = "nvme", not = { vendor = 0x144d, slot = ["7", "8"] }`, drive(), "not", "the rule is not for vendor 0x144d and slot 7 or 8"},
		{`slot = "8", vendor = 0x8086`, drive(), "vendor", "vendor is 0x144d, the rule wants 0x8086"}, // the first that fails
	} {
		t.Run(c.match, func(t *testing.T) {
			p := parse(t, "[[rule]]\nname = \"r\"\nmatch = { "+c.match+" }\n")
			got := p.Explain(&c.device)[0]
			if got.Matches || got.Decides || got.Key != c.key || got.Why != c.why {
				t.Errorf("got %+v\nwant %s: %s", got, c.key, c.why)
			}
		})
	}
}

func TestExplainSaysWhichRuleDecides(t *testing.T) {
	const text = `
[[rule]]
name  = "nics"
match = { class = "nic" }
[[rule]]
name   = "first"
match  = { class = "nvme" }
driver = "auto"
[[rule]]
name  = "second"
match = { slot = "7" }
vmd   = true
[[rule]]
name   = "leave"
match  = { vendor = 0x8086 }
action = "leave"
[[rule]]
name   = "leave too"
match  = { vendor = 0x8086 }
action = "leave"
`
	const noNIC = "class is 0x010802, the rule wants nic"
	const noIntel = "vendor is 0x144d, the rule wants 0x8086"
	intel, behindVMD, bridge, endpoint := drive(), drive(), drive(), drive()
	intel.Vendor = 0x8086
	behindVMD.VMD = true
	bridge.Class = 0x060400
	endpoint.Class = 0x068000

	for _, c := range []struct {
		name    string
		device  pci.Device
		decides string
		why     []string
	}{
		{"the first that matches", drive(), "first", []string{
			noNIC,
			"matches: the device goes to auto",
			`matches, but rule "first" (policy.toml:5) stands before it`,
			noIntel,
			noIntel,
		}},
		{"leave", intel, "leave", []string{
			noNIC,
			`matches, but the leave rule "leave" (policy.toml:13) wins`,
			`matches, but the leave rule "leave" (policy.toml:13) wins`,
			"matches: the device is left alone",
			`matches, like rule "leave" (policy.toml:13) before it`,
		}},
		{"behind VMD", behindVMD, "second", []string{
			noNIC,
			"the drive sits behind Intel VMD, the rule does not say vmd = true",
			"matches: the device goes to vfio-pci",
			noIntel,
			noIntel,
		}},
		{"an endpoint of the class of bridges", endpoint, "second", []string{
			"class is 0x068000, the rule wants nic",
			"class is 0x068000, the rule wants nvme",
			"matches: the device goes to vfio-pci",
			noIntel,
			noIntel,
		}},
		{"a bridge", bridge, "second", []string{
			"class is 0x060400, the rule wants nic",
			"class is 0x060400, the rule wants nvme",
			"matches, but a bridge is never bound",
			noIntel,
			noIntel,
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			steps := parse(t, text).Explain(&c.device)
			if len(steps) != len(c.why) {
				t.Fatalf("%d steps, want %d", len(steps), len(c.why))
			}
			for i, s := range steps {
				if s.Why != c.why[i] {
					t.Errorf("step %d: got %q, want %q", i, s.Why, c.why[i])
				}
				if s.Decides != (s.Rule.Name == c.decides) {
					t.Errorf("step %d, %s: decides %v, want it of %q", i, s.Rule, s.Decides, c.decides)
				}
			}
		})
	}
}

func TestWordsOfThePolicyFile(t *testing.T) {
	for got, want := range map[string]string{
		None.String():        "none",
		Leave.String():       "leave",
		Bind.String():        "bind",
		Verdict(9).String():  "Verdict(9)",
		Blank.String():       "blank",
		Never.String():       "never",
		Idle.String():        "idle",
		Takeover(9).String(): "Takeover(9)",
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestParseTakeover(t *testing.T) {
	for _, want := range []Takeover{Blank, Never, Idle} {
		got, err := ParseTakeover(want.String())
		if err != nil || got != want {
			t.Errorf("%s: got %s, %v", want, got, err)
		}
	}
	for _, word := range []string{"", "Blank", "always", "Takeover(9)"} {
		if got, err := ParseTakeover(word); err == nil {
			t.Errorf("%q is accepted as %s", word, got)
		}
	}
}

// TestExplainNamesThePortOfASlot: the slot that the rule wants is that of a port,
// and the drive is below it.
func TestExplainNamesThePortOfASlot(t *testing.T) {
	d := drive()
	d.Slot = ""
	d.PortSlots = []pci.PortSlot{{Port: pci.Address{Device: 0x1c}, Slot: "7"}, {Port: pci.Address{Bus: 2}, Slot: "0-1"}}
	for match, want := range map[string]string{
		`slot = "7"`:    `slot is none, the rule wants 7; that is the slot of 0000:00:1c.0, which the device is behind: say behind = "0000:00:1c.0"`,
		`slot = "1..9"`: `slot is none, the rule wants 1..9; that is the slot of 0000:00:1c.0, which the device is behind: say behind = "0000:00:1c.0"`,
		`slot = "0-1"`:  `slot is none, the rule wants 0-1; that is the slot of 0000:02:00.0, which the device is behind: say behind = "0000:02:00.0"`,
		`slot = "8"`:    `slot is none, the rule wants 8`,
	} {
		step := parse(t, "[[rule]]\nname = \"r\"\nmatch = { "+match+" }\n").Explain(&d)[0]
		if step.Matches || step.Why != want {
			t.Errorf("%s: got %q\nwant %q", match, step.Why, want)
		}
	}
}
