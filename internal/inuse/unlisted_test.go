package inuse

import (
	"os"
	"slices"
	"strings"
	"testing"

	"vfio-hotplug/internal/pci"
)

const characterDevices = `Character devices:
  1 mem
 10 misc
195 nvidia
236 nvidia-uvm
240 other
509 nvidia-nvswitch

Block devices:
195 nvidia
259 blkext
`

// unlistedNode makes a node that sysfs does not show below the device.
func (m *machine) unlistedNode(name string, major, minor uint32) (node string) {
	m.file("dev/"+name, "")
	node = m.path("dev/" + name)
	m.nodes.numbers[node], m.nodes.character[node] = number{major, minor}, true
	return node
}

// The nodes of some drivers do not show below their devices, or nowhere in sysfs:
// nvidia's. An unbind waits for ever while a program has one open.
func TestADriversNodeThatSysfsDoesNotShowIsFound(t *testing.T) {
	const unchecked = "not checked: who uses a device of class 0x030200 on nvidia"
	for _, c := range []struct {
		name string
		make func(*machine)
		says string
		veto bool
	}{
		{"nobody has one open", func(m *machine) {}, "no use found; " + unchecked, false},
		{"one of it", func(m *machine) { m.holds(4711, "train", m.unlistedNode("nvidia0", 195, 0)) },
			"nvidia0 → train (process 4711); " + unchecked, true},
		{"one of all of the driver's devices", func(m *machine) { m.holds(4711, "train", m.unlistedNode("nvidia-uvm", 236, 0)) },
			"nvidia-uvm → train (process 4711); " + unchecked, true},
		{"two", func(m *machine) {
			m.holds(4711, "train", m.unlistedNode("nvidia0", 195, 0), m.unlistedNode("nvidiactl", 195, 255))
		}, "nvidia0 → train (process 4711); nvidiactl → train (process 4711); " + unchecked, true},
		{"one that sysfs shows, of no device", func(m *machine) {
			m.holds(4711, "train", m.unlistedNode("nvidia0", 195, 0))
			m.linkTo("dev/char/195:0", "devices/virtual/nvidia/nvidia0")
		}, "nvidia0 → train (process 4711); " + unchecked, true},
		{"one that sysfs shows, of another device", func(m *machine) {
			m.holds(4711, "train", m.unlistedNode("nvidia0", 195, 0))
			m.linkTo("dev/char/195:0", "devices/pci0000:00/0000:09:00.0/nvidia/nvidia0")
		}, "no use found; " + unchecked, false},
		{"another driver's", func(m *machine) { m.holds(4711, "other", m.unlistedNode("other", 240, 0)) }, "no use found; " + unchecked, false},
		{"a block device of the same number", func(m *machine) {
			m.nodes.character[m.unlistedNode("disk", 195, 0)] = false
			m.holds(4711, "other", m.path("dev/disk"))
		}, "no use found; " + unchecked, false},
		{"the numbers cannot be read", func(m *machine) {
			m.remove("proc/devices")
			m.mkdir("proc/devices")
		}, "which nodes nvidia has cannot be told: read MACHINE/proc/devices: is a directory; " + unchecked, true},
		{"a procfs that shows processes only", func(m *machine) {
			m.remove("proc/devices")
			m.remove("proc/cmdline")
		}, "which nodes nvidia has cannot be told: open MACHINE/proc/devices: no such file or directory; " + unchecked, true},
	} {
		for _, how := range []How{forIdle, {Passive: true}, {All: true}} {
			m := bare(t)
			m.file("proc/devices", characterDevices)
			c.make(m)
			report, _, err := m.look("nvidia", 0x030200, how)
			must(t, err)
			if got := strings.ReplaceAll(report.String(), m.dir, "MACHINE"); got != c.says || report.Veto() != c.veto {
				t.Errorf("%s, %+v: veto %v, report\n%s\nwant %v\n%s", c.name, how, report.Veto(), got, c.veto, c.says)
			}
		}
	}
}

// The driver's nodes may be named after its module.
func TestTheNodesOfADriversModuleAreItsNodes(t *testing.T) {
	m := bare(t)
	m.file("proc/devices", "Character devices:\n240 big_card-control\n")
	m.linkTo("bus/pci/drivers/bc/module", "module/big_card")
	m.holds(4711, "tool", m.unlistedNode("control", 240, 0))
	report, _, err := m.look("bc", pci.Class(0x120000), forIdle)
	must(t, err)
	if !strings.HasPrefix(report.String(), "control → tool (process 4711)") {
		t.Errorf("report %q", report)
	}
	if !slices.Contains(report.nodes, m.path("dev/control")) {
		t.Errorf("its closing is not watched: %q", report.nodes)
	}
	f, _ := m.finder()
	if !f.Still(t.Context(), report) {
		t.Error("it is not known again")
	}
	must(t, os.RemoveAll(m.path("proc/4711")))
	if f.Still(t.Context(), report) {
		t.Error("the program has gone")
	}
}
