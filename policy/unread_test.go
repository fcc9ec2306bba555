package policy

import (
	"strings"
	"testing"

	"vfio-hotplug/internal/pci"
)

// TestWhatCannotBeReadIsNotAbsent: a device is left alone where a rule that could
// decide asks for something that could not be read.
func TestWhatCannotBeReadIsNotAbsent(t *testing.T) {
	const (
		anyNVMe = "[[rule]]\nname = \"any\"\nmatch = { class = \"nvme\" }\n"
		mine    = "[[rule]]\nname = \"mine\"\nmatch = { dsn = \"00-11-22-33-44-55-66-77\" }\naction = \"leave\"\n"
		nicDSN  = "[[rule]]\nname = \"nic\"\nmatch = { dsn = \"00-11-22-33-44-55-66-77\", class = \"nic\" }\naction = \"leave\"\n"
		wanted  = "[[rule]]\nname = \"wanted\"\nmatch = { dsn = \"00-11-22-33-44-55-66-77\" }\ndriver = \"uio_pci_generic\"\n"
		notMine = "[[rule]]\nname = \"not mine\"\nmatch = { class = \"nvme\", not = { dsn = \"00-11-22-33-44-55-66-77\", vendor = 0x144d } }\n"
		others  = "[[rule]]\nname = \"others\"\nmatch = { class = \"nvme\", not = { dsn = \"00-11-22-33-44-55-66-77\", vendor = 0x8086 } }\n"
		vendor  = "[[rule]]\nname = \"vendor\"\nmatch = { vendor = 0x144d }\naction = \"leave\"\n"
	)
	unread := pci.Unread{Fact: pci.FactDSN, Why: "config space ends at 64 bytes"}
	device := drive()
	device.Unread = []pci.Unread{unread}
	port := device
	port.Class = 0x060400
	vmd := device
	vmd.VMD = true

	for _, c := range []struct {
		name   string
		policy string
		device pci.Device
		want   Verdict
		rule   string
		open   bool
	}{
		{"a rule that leaves may match", mine + anyNVMe, device, Leave, "mine", true},
		{"also where it stands last", anyNVMe + mine, device, Leave, "mine", true},
		{"a rule that binds may match", wanted, device, Leave, "wanted", true},
		{"one before that which matches", wanted + anyNVMe, device, Leave, "wanted", true},
		{"one after that which matches", anyNVMe + wanted, device, Bind, "any", false},
		{"another that leaves matches", mine + anyNVMe + vendor, device, Leave, "vendor", false},
		{"another key does not hold", nicDSN + anyNVMe, device, Bind, "any", false},
		{"not of what is not known", notMine, device, Leave, "not mine", true},
		{"not, of which another key does not hold", others, device, Bind, "others", false},
		{"a bridge", mine + anyNVMe, port, None, "", false},
		{"a rule that VMD hides", wanted, vmd, None, "", false},
		{"a rule that leaves, behind VMD", mine, vmd, Leave, "mine", true},
		{"no rule asks for it", anyNVMe, device, Bind, "any", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := parse(t, c.policy)
			got := p.Decide(&c.device)
			if got.Verdict != c.want || ruleName(got.Rule) != c.rule || (got.Unread != nil) != c.open {
				t.Errorf("got %+v of rule %q, want %v of %q, open %v", got, ruleName(got.Rule), c.want, c.rule, c.open)
			}
			if c.open && !strings.HasSuffix(got.Reason, "may match: its dsn cannot be read: config space ends at 64 bytes") {
				t.Errorf("the reason is %q", got.Reason)
			}
			for _, s := range p.Explain(&c.device) {
				if s.Decides != (s.Rule == got.Rule) || s.Decides && s.Unread != c.open || s.Unread && (s.Matches || s.Why == "") {
					t.Errorf("step %+v", s)
				}
			}
		})
	}
}

// TestEveryFactCanBeUnknown: whatever a key looks at, not to know it is not to
// know whether the rule matches.
func TestEveryFactCanBeUnknown(t *testing.T) {
	for key, value := range map[string]string{
		"slot": `"7"`, "behind": `"0000:00:1c.0"`, "numa_node": `1`, "dsn": `"00-11-22-33-44-55-66-77"`, "physfn": `"0000:01:00.0"`,
	} {
		p := parse(t, "[[rule]]\nname = \"keep\"\nmatch = { "+key+" = "+value+" }\naction = \"leave\"\n[[rule]]\nname = \"any\"\nmatch = { class = \"nvme\" }\n")
		device := pci.Device{Class: pci.NVMe, NUMANode: pci.NoNode}
		if d := p.Decide(&device); d.Verdict != Bind {
			t.Errorf("%s: without it the verdict is %v, want bind", key, d.Verdict)
		}
		device.Unread = []pci.Unread{{Fact: p.Needs(), Why: "permission denied"}}
		d := p.Decide(&device)
		if d.Verdict != Leave || d.Unread == nil || !strings.HasSuffix(d.Reason, "may match: its "+key+" cannot be read: permission denied") {
			t.Errorf("%s: not to know it gives %+v, want the device left", key, d)
		}
		step := p.Explain(&device)[0]
		if !step.Unread || step.Key != key || step.Why != key+" cannot be read: permission denied" {
			t.Errorf("%s: the step is %+v", key, step)
		}
	}
}
