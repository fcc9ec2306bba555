package inuse

import (
	"errors"
	"testing"

	"vfio-hotplug/internal/pci"
)

// A look that is passive sees what shows, and opens nothing of the device.
func TestAPassiveLookOpensNothing(t *testing.T) {
	for name, c := range map[string]struct {
		make func(*machine)
		says string
	}{
		"mounted":         {func(m *machine) { m.mount("nvme0n1", "/srv") }, "nvme0n1 → /srv"},
		"built on":        {func(m *machine) { m.built("dm-0", "vg-data", "nvme0n1") }, "nvme0n1 → dm-0 (vg-data)"},
		"opened":          {func(m *machine) { m.holds(77, "tail", m.path("dev/nvme0n1")) }, "nvme0n1 → tail (process 77)"},
		"its controller":  {func(m *machine) { m.holds(77, "nvme", m.path("dev/nvme0")) }, "nvme0 → nvme (process 77)"},
		"only claimed":    {func(m *machine) { m.nodes.claimed = m.path("dev/nvme0n1") }, "unused"},
		"with a content":  {func(*machine) {}, "unused"},
		"without a block": {func(m *machine) { m.active(2) }, "unused"},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			m.namespace(1, "0\nID_FS_TYPE=ext4\n")
			m.nodes.faults[m.path("dev/nvme0")] = errors.New("somebody asked the controller")
			c.make(m)
			report, hold, err := m.look("nvme", pci.NVMe, How{Blank: true, Exclusive: true, Passive: true})
			must(t, err)
			if report.String() != c.says {
				t.Errorf("report %q, want %q", report, c.says)
			}
			if len(m.nodes.opened)+len(hold.Files()) > 0 {
				t.Error("it opened a node")
			}
		})
	}
}

// Who looks at a drive and goes is waited for before the unbind too, and so is
// who might have passed on what it had open.
func TestAPassiveLookWaitsForWhoLooksAtADrive(t *testing.T) {
	for says, visit := range map[string]func(*machine){
		"smartd (process 77) is still looking at nvme0": func(m *machine) { m.holds(77, "smartd", m.path("dev/nvme0")) },
		"process 77, which had nvme0n1 open, has just ended": func(m *machine) {
			m.holds(77, "sh", m.path("dev/nvme0n1"))
			m.remove("proc/77/comm")
		},
	} {
		m := open(t)
		visit(m)
		report, _, err := m.look("nvme", pci.NVMe, How{Passive: true})
		if unsettled, ok := errors.AsType[*NotSettledError](err); !ok || unsettled.Error() != says {
			t.Errorf("error %v, report %q, want that %s", err, report, says)
		}
	}
}
