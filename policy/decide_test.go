package policy

import (
	"math"
	"strings"
	"testing"

	"vfio-hotplug/internal/pci"
)

// drive is the device that most tests start from.
func drive() pci.Device {
	return pci.Device{
		Address:    pci.Address{Bus: 0x01},
		Vendor:     0x144d,
		DeviceID:   0xa804,
		SubVendor:  0x144e,
		SubDevice:  0xa801,
		Class:      pci.NVMe,
		IOMMUGroup: pci.NoGroup,
		NUMANode:   1,
		Slot:       "7",
		Upstream:   []pci.Address{{Bus: 0x00, Device: 0x1c}, {Bus: 0x00, Device: 0x01, Function: 1}},
		DSN:        0x0011223344556677,
	}
}

func TestDecideByKey(t *testing.T) {
	vf := drive()
	vf.VirtFn, vf.PhysFn = true, pci.Address{Bus: 0x3b}
	noSlot := drive()
	noSlot.Slot = ""
	slot := func(name string) pci.Device { d := drive(); d.Slot = name; return d }
	at := func(a pci.Address) pci.Device { d := drive(); d.Address = a; return d }
	class := func(c pci.Class) pci.Device { d := drive(); d.Class = c; return d }
	bare := pci.Device{NUMANode: pci.NoNode}

	for _, c := range []struct {
		match  string
		device pci.Device
		want   bool
	}{
		{`class = "nvme"`, drive(), true},
		{`class = "nvme"`, class(0x010803), false}, // NVMe-like, but not the I/O interface
		{`class = "storage"`, drive(), true},
		{`class = "storage"`, class(0x020000), false},
		{`class = "nic"`, class(0x028000), true},
		{`class = "ethernet"`, class(0x020000), true},
		{`class = "ethernet"`, class(0x020700), false},
		{`class = "infiniband"`, class(0x020700), true},
		{`class = "gpu"`, class(0x030200), true},
		{`class = "gpu"`, class(0x040300), false},
		{`class = "audio"`, class(0x040300), true},
		{`class = "raid"`, class(0x010400), true},
		{`class = "sata"`, class(0x010601), true},
		{`class = "sas"`, class(0x010700), true},
		{`class = "cxl"`, class(0x050210), true},
		{`class = "usb"`, class(0x0c0330), true},
		{`class = "crypto"`, class(0x108000), true},
		{`class = "accelerator"`, class(0x120000), true},
		{`class = "0x010802"`, drive(), true},
		{`class = "0X010802"`, drive(), true},
		{`class = "010802"`, drive(), true},
		{`class = 0x010802`, drive(), true},
		{`class = 0x01_08_02`, drive(), true},
		{`class = 0x010802`, class(0x010803), false},
		{`class = "0108"`, class(0x010803), true},
		{`class = 0x0108`, class(0x010803), true}, // the zeros count: not the class 0x000108
		{`class = "0108"`, class(0x010400), false},
		{`class = "01"`, class(0x010400), true},
		{`class = "01"`, class(0x020000), false},
		{`class = "0x010800/0xffff00"`, drive(), true},
		{`class = "0x000002/0x0000ff"`, drive(), true},
		{`class = "0x000002/0x0000ff"`, class(0x010803), false},
		{`class = ["nic", "nvme"]`, drive(), true},
		{`class = ["nic", "gpu"]`, drive(), false},

		{`vendor = 0x144d`, drive(), true},
		{`vendor = 0x144D`, drive(), true},
		{`vendor = [0x8086, 0x144d]`, drive(), true},
		{`vendor = 0x8086`, drive(), false},
		{`vendor = 0x0`, bare, true},
		{`device = 0xa804`, drive(), true},
		{`device = 0x144d`, drive(), false},
		{`subsystem_vendor = 0x144e`, drive(), true},
		{`subsystem_vendor = 0x144d`, drive(), false},
		{`subsystem_device = 0xa801`, drive(), true},
		{`subsystem_device = 0xa804`, drive(), false},

		{`address = "0000:01:00.0"`, drive(), true},
		{`address = "01:00.0"`, drive(), true},
		{`address = "0000:01:00.1"`, drive(), false},
		{`address = "01:00.0"`, at(pci.Address{Domain: 0x10000, Bus: 1}), false},
		{`address = "0000:AB:00.0"`, at(pci.Address{Bus: 0xab}), true},
		{`address = "0000:AB:0?.*"`, at(pci.Address{Bus: 0xab, Device: 0x0f, Function: 7}), true},
		{`address = "0000:01:*"`, drive(), true},
		{`address = "0000:02:*"`, drive(), false},
		{`address = "01:00.*"`, drive(), true},
		{`address = "01:00.*"`, at(pci.Address{Domain: 1, Bus: 1}), false},
		{`address = "*:00.0"`, at(pci.Address{Domain: 0x10000, Bus: 9}), true},
		{`address = "1????:*"`, at(pci.Address{Domain: 0x10002, Bus: 9}), true},
		{`address = "1????:*"`, at(pci.Address{Domain: 0x1000, Bus: 9}), false},
		{`address = "*"`, at(pci.Address{Domain: math.MaxUint32, Bus: 255, Device: 255, Function: 255}), true},
		{`address = ["0000:02:*", "0000:01:00.0"]`, drive(), true},

		{`slot = "7"`, drive(), true},
		{`slot = "07"`, drive(), false}, // a name, not a number
		{`slot = "7"`, slot("7-1"), false},
		{`slot = "1-1"`, slot("1-1"), true},
		{`slot = "7*"`, slot("7-1"), true},
		{`slot = "?-1"`, slot("7-1"), true},
		{`slot = "*"`, drive(), true},
		{`slot = "*"`, noSlot, false}, // to be in a slot is to have a name
		{`slot = "1..24"`, drive(), true},
		{`slot = "7..7"`, drive(), true},
		{`slot = "1..6"`, drive(), false},
		{`slot = "8..24"`, drive(), false},
		{`slot = "1..24"`, slot("007"), true},
		{`slot = "1..24"`, slot("1-1"), false},
		{`slot = "1..24"`, slot("x7"), false},
		{`slot = "0..24"`, noSlot, false},
		{`slot = "0..24"`, slot("99999999999999999999999999"), false},
		{`slot = ["1", "5..9"]`, drive(), true},
		{`slot = "Bay 7"`, slot("Bay 7"), true},

		{`behind = "0000:00:1c.0"`, drive(), true},
		{`behind = "00:01.1"`, drive(), true},
		{`behind = "0000:00:1d.0"`, drive(), false},
		{`behind = ["0000:00:1d.0", "0000:00:01.1"]`, drive(), true},
		{`behind = "0000:00:00.0"`, bare, false},

		{`physfn = "0000:3b:00.0"`, vf, true},
		{`physfn = "3B:00.0"`, vf, true},
		{`physfn = "0000:3b:00.1"`, vf, false},
		{`physfn = "0000:00:00.0"`, drive(), false}, // no VF: PhysFn is the zero address

		{`numa_node = 1`, drive(), true},
		{`numa_node = [0, 1]`, drive(), true},
		{`numa_node = 0`, drive(), false},
		{`numa_node = 0`, bare, false},

		{`dsn = "00-11-22-33-44-55-66-77"`, drive(), true},
		{`dsn = "0x0011223344556677"`, drive(), true},
		{`dsn = "0011223344556677"`, drive(), true},
		{`dsn = 0x0011223344556677`, drive(), true},
		{`dsn = ["ff-ff-ff-ff-ff-ff-ff-ff", "00-11-22-33-44-55-66-77"]`, drive(), true},
		{`dsn = "FF-ff-ff-ff-ff-ff-ff-ff"`, drive(), false},

		{`class = "nvme", not = { vendor = 0x8086 }`, drive(), true},
		{`class = "nvme", not = { vendor = 0x144d }`, drive(), false},
		{`class = "nvme", not = { vendor = 0x144d, slot = "8" }`, drive(), true}, // not all of it
		{`class = "nvme", not = { vendor = 0x144d, slot = "7" }`, drive(), false},
		{`class = "nvme", not = { slot = ["1", "7"] }`, drive(), false},

		{`class = "nvme", slot = "7", vendor = 0x144d`, drive(), true},
		{`class = "nvme", slot = "7", vendor = 0x8086`, drive(), false},
	} {
		t.Run(c.match, func(t *testing.T) {
			p := parse(t, "[[rule]]\nname = \"r\"\nmatch = { "+c.match+" }\n")
			got := p.Decide(&c.device)
			want := Decision{Verdict: None, Reason: "no rule matches"}
			if c.want {
				want = Decision{Verdict: Bind, Rule: got.Rule, Driver: "vfio-pci", Reason: `rule "r" (policy.toml:1) matches`}
			}
			if got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
}

func TestDecideAmongRules(t *testing.T) {
	const (
		anyNVMe = "[[rule]]\nname = \"any\"\nmatch = { class = \"nvme\" }\n"
		bay7    = "[[rule]]\nname = \"bay 7\"\nmatch = { slot = \"7\" }\ndriver = \"uio_pci_generic\"\ntakeover = \"idle\"\n"
		keep    = "[[rule]]\nname = \"keep\"\nmatch = { vendor = 0x144d }\naction = \"leave\"\n"
		keep2   = "[[rule]]\nname = \"keep 2\"\nmatch = { slot = \"7\" }\naction = \"leave\"\n"
		nics    = "[[rule]]\nname = \"nics\"\nmatch = { class = \"nic\" }\n"
		vmd     = "[[rule]]\nname = \"vmd\"\nmatch = { class = \"nvme\" }\nvmd = true\ntakeover = \"never\"\ndriver = \"auto\"\ngroup = \"with\"\n"
	)
	behindVMD := drive()
	behindVMD.VMD = true
	bridge, isa, endpoint, forwards := drive(), drive(), drive(), drive()
	bridge.Class = 0x060400
	isa.Class = 0x060100
	endpoint.Class = 0x068000 // an NVSwitch
	forwards.Class, forwards.Forwards = 0x068000, true

	for _, c := range []struct {
		name   string
		policy string
		device pci.Device
		want   Decision
		rule   string
	}{
		{"no rule at all", "", drive(),
			Decision{Verdict: None, Reason: "no rule matches"}, ""},
		{"no rule matches", nics, drive(),
			Decision{Verdict: None, Reason: "no rule matches"}, ""},
		{"the first match wins", nics + anyNVMe + bay7, drive(),
			Decision{Verdict: Bind, Driver: "vfio-pci", Reason: `rule "any" (policy.toml:4) matches`}, "any"},
		{"and brings its driver and takeover", bay7 + anyNVMe, drive(),
			Decision{Verdict: Bind, Driver: "uio_pci_generic", Takeover: Idle, Reason: `rule "bay 7" (policy.toml:1) matches`}, "bay 7"},
		{"leave wins first", keep + anyNVMe, drive(),
			Decision{Verdict: Leave, Reason: `leave rule "keep" (policy.toml:1) matches`}, "keep"},
		{"leave wins last", anyNVMe + bay7 + keep, drive(),
			Decision{Verdict: Leave, Reason: `leave rule "keep" (policy.toml:9) matches`}, "keep"},
		{"of two that leave the first counts", anyNVMe + keep2 + keep, drive(),
			Decision{Verdict: Leave, Reason: `leave rule "keep 2" (policy.toml:4) matches`}, "keep 2"},
		{"leave alone", keep, drive(),
			Decision{Verdict: Leave, Reason: `leave rule "keep" (policy.toml:1) matches`}, "keep"},

		{"behind VMD no rule counts that does not ask for it", anyNVMe + bay7, behindVMD,
			Decision{Verdict: None, Reason: `rule "any" (policy.toml:1) would match, but the drive sits behind Intel VMD and the rule does not say vmd = true`}, ""},
		{"behind VMD the first that asks for it counts", anyNVMe + vmd, behindVMD,
			Decision{Verdict: Bind, Driver: "auto", Takeover: Never, Group: With, Reason: `rule "vmd" (policy.toml:4) matches`}, "vmd"},
		{"a rule that asks for it counts elsewhere, too", vmd, drive(),
			Decision{Verdict: Bind, Driver: "auto", Takeover: Never, Group: With, Reason: `rule "vmd" (policy.toml:1) matches`}, "vmd"},
		{"behind VMD leave counts", vmd + keep, behindVMD,
			Decision{Verdict: Leave, Reason: `leave rule "keep" (policy.toml:8) matches`}, "keep"},

		{"a bridge is never bound", bay7, bridge,
			Decision{Verdict: Leave, Reason: `rule "bay 7" (policy.toml:1) matches, but a bridge is never bound`}, "bay 7"},
		{"nor is a bridge to an old bus", bay7, isa,
			Decision{Verdict: Leave, Reason: `rule "bay 7" (policy.toml:1) matches, but a bridge is never bound`}, "bay 7"},
		{"nor is what has a bus behind it, whatever its class", bay7, forwards,
			Decision{Verdict: Leave, Reason: `rule "bay 7" (policy.toml:1) matches, but a bridge is never bound`}, "bay 7"},
		{"an endpoint of the class of bridges is bound", bay7, endpoint,
			Decision{Verdict: Bind, Driver: "uio_pci_generic", Takeover: Idle, Reason: `rule "bay 7" (policy.toml:1) matches`}, "bay 7"},
		{"a bridge that a rule leaves", bay7 + keep, bridge,
			Decision{Verdict: Leave, Reason: `leave rule "keep" (policy.toml:6) matches`}, "keep"},
		{"a bridge that no rule names", anyNVMe, bridge,
			Decision{Verdict: None, Reason: "no rule matches"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := parse(t, c.policy)
			got := p.Decide(&c.device)
			if name := ruleName(got.Rule); name != c.rule {
				t.Errorf("the rule %q decides, want %q", name, c.rule)
			}
			got.Rule = nil
			if got != c.want {
				t.Errorf("got  %+v\nwant %+v", got, c.want)
			}
		})
	}
}

func TestDefaults(t *testing.T) {
	p := parse(t, "\n\n[[rule]]\nname = \"r\"\nmatch = { slot = \"7\" }\n")
	r := p.Rules()[0]
	if r.Action != Bind || r.Driver != VFIO || r.Takeover != Blank || r.Group != Alone || !r.Guard || r.VMD || r.File != "policy.toml" || r.Line != 3 {
		t.Errorf("got %+v", r)
	}
}

func TestEverySettingArrives(t *testing.T) {
	p := parse(t, `[[rule]]
name     = "front"
match    = { slot = "7" }
action   = "bind"
driver   = "mlx5-vfio_pci"
takeover = "never"
group    = "with"
guard    = false
vmd      = true
[[rule]]
name   = "rear"
match  = { slot = "8" }
action = "leave"
`)
	rules := p.Rules()
	if r := rules[0]; r.Name != "front" || r.Action != Bind || r.Driver != "mlx5-vfio_pci" || r.Takeover != Never || r.Group != With || r.Guard || !r.VMD || r.Line != 1 {
		t.Errorf("got %+v", r)
	}
	if r := rules[1]; r.Name != "rear" || r.Action != Leave || r.Driver != "" || r.Line != 10 {
		t.Errorf("got %+v", r)
	}
}

// One rule can be written in many ways that TOML holds to be the same.
func TestSpellingsOfOneRule(t *testing.T) {
	for name, text := range map[string]string{
		"inline":         "[[rule]]\nname = \"r\"\nmatch = { class = \"nvme\", not = { slot = \"8\" } }\n",
		"dotted":         "[[rule]]\nmatch.class = \"nvme\"\nmatch.not.slot = \"8\"\nname = \"r\"\n",
		"sub-tables":     "[[rule]]\nname = \"r\"\n[rule.match]\nclass = \"nvme\"\n[rule.match.not]\nslot = \"8\"\n",
		"inside out":     "[[rule]]\nname = \"r\"\n[rule.match.not]\nslot = \"8\"\n[rule.match]\nclass = \"nvme\"\n",
		"in a list":      "rule = [ { name = \"r\", match = { class = \"nvme\", not.slot = \"8\" } } ]\n",
		"quoted keys":    "[[\"rule\"]]\n\"name\" = 'r'\n'match' = { \"class\" = \"nvme\", not = { slot = [\"8\"] } }\n",
		"over the lines": "[[rule]]\nname = \"r\"\nmatch = {\n  class = [ # drives\n    \"nvme\",\n  ],\n  not = { slot = \"8\" },\n}\n",
		"escapes":        "[[rule]]\nname = \"\\u0072\"\nmatch = { class = \"nv\\x6de\", not = { slot = \"\"\"8\"\"\" } }\n",
		"CR LF":          "[[rule]]\r\nname = \"r\"\r\nmatch = { class = \"nvme\", not = { slot = \"8\" } }\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			p := parse(t, text)
			d := drive()
			if got := p.Decide(&d); got.Verdict != Bind || got.Reason != `rule "r" (policy.toml:1) matches` {
				t.Errorf("bay 7: %+v", got)
			}
			d.Slot = "8"
			if got := p.Decide(&d); got.Verdict != None {
				t.Errorf("bay 8: %+v", got)
			}
		})
	}
}

func TestDecideIsTotal(t *testing.T) {
	p := parse(t, hundredRules())
	for _, d := range []pci.Device{
		{},
		{Class: math.MaxUint32, NUMANode: math.MinInt, IOMMUGroup: math.MinInt, DSN: math.MaxUint64, Vendor: math.MaxUint16},
		{Address: pci.Address{Domain: math.MaxUint32, Bus: 255, Device: 255, Function: 255}},
		{Slot: strings.Repeat("9", 100_000), Upstream: make([]pci.Address, 1000)},
		{Slot: "\x00\xff/../*"},
		{VMD: true, VirtFn: true},
	} {
		for name, p := range map[string]*Policy{"policy": p, "zero": {}, "nil": nil} {
			got := p.Decide(&d)
			if got.Reason == "" || strings.Contains(got.Reason, "\n") {
				t.Errorf("%s: want one line, got %q", name, got.Reason)
			}
			if n := len(p.Explain(&d)); n != len(p.Rules()) {
				t.Errorf("%s: %d steps for %d rules", name, n, len(p.Rules()))
			}
		}
	}
}

func TestNilPolicyHasNothing(t *testing.T) {
	var p *Policy
	if p.Rules() != nil || p.Files() != nil || p.Needs() != 0 {
		t.Errorf("rules %v, files %v, needs %v", p.Rules(), p.Files(), p.Needs())
	}
}

func TestNeeds(t *testing.T) {
	for match, want := range map[string]Facts{
		`class = "nvme", vendor = 1, address = "*"`: 0,
		`slot = "7"`:                           Slot,
		`behind = "00:01.0"`:                   Upstream,
		`numa_node = 0`:                        NUMA,
		`dsn = "00-11-22-33-44-55-66-77"`:      DSN,
		`physfn = "00:01.0"`:                   PhysFn,
		`class = "nvme", not = { slot = "7" }`: Slot,
		`slot = "1", numa_node = 1, not = { physfn = "00:01.0", slot = "3" }`: Slot | NUMA | PhysFn,
	} {
		p := parse(t, "[[rule]]\nname = \"r\"\nmatch = { "+strings.Replace(match, "vendor = 1", "vendor = 0x1", 1)+" }\n")
		if got := p.Needs(); got != want {
			t.Errorf("%s: got %b, want %b", match, got, want)
		}
		if !p.Needs().Has(want) || p.Needs().Has(want|1<<7) {
			t.Errorf("%s: Has is wrong about %b", match, want)
		}
	}
}

func TestDecideDoesNotAllocate(t *testing.T) {
	p := parse(t, hundredRules())
	for name, d := range hundredRulesDevices() {
		if n := testing.AllocsPerRun(100, func() { p.Decide(&d) }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkDecide100(b *testing.B) {
	p := parse(b, hundredRules())
	for name, d := range hundredRulesDevices() {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				p.Decide(&d)
			}
		})
	}
}

func ruleName(r *Rule) string {
	if r == nil {
		return ""
	}
	return r.Name
}

// parse reads a policy that must be right.
func parse(t testing.TB, text string) *Policy {
	t.Helper()
	p, err := Parse("policy.toml", []byte(text))
	if err != nil {
		t.Fatalf("%v\nin\n%s", err, text)
	}
	return p
}
