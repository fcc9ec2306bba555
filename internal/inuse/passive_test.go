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
		"looked at":       {func(m *machine) { m.holds(77, "blkid", m.path("dev/nvme0n1")) }, "unused"},
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
