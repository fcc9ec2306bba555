package inuse

import (
	"strings"
	"syscall"
	"testing"

	"vfio-hotplug/internal/pci"
)

// loop makes a loop device that is backed by a block device, or by a file where
// that is "".
func (m *machine) loop(name, path, on string) {
	m.t.Helper()
	m.block("devices/virtual/block/"+name, blank)
	m.file("sys/devices/virtual/block/"+name+"/loop/backing_file", path+"\n")
	if on != "" {
		m.nodes.backings[m.path("dev/"+name)] = m.nodes.numbers[m.path("dev/"+on)]
	}
}

func TestALoopDeviceIsAUse(t *testing.T) {
	for _, c := range []struct {
		name   string
		make   func(*machine)
		says   string
		remedy string
	}{
		{"that is mounted", func(m *machine) {
			m.loop("loop0", "/dev/nvme0n1", m.namespace(1, blank))
			m.mount("loop0", "/srv")
		}, "nvme0n1 → loop0 → /srv", "umount /srv"},
		{"that nobody uses", func(m *machine) {
			m.loop("loop0", "/dev/nvme0n1", m.namespace(1, blank))
		}, "nvme0n1 → loop0", "losetup --detach /dev/loop0"},
		{"on a partition, by a path that leads nowhere from here", func(m *machine) {
			m.namespace(1, blank)
			m.loop("loop3", "/disk (deleted)", m.partition("nvme0n1", 2))
		}, "nvme0n1p2 → loop3", "losetup --detach /dev/loop3"},
		{"with a mounted partition", func(m *machine) {
			m.loop("loop0", "/dev/nvme0n1", m.namespace(1, blank))
			m.mount(m.partition("loop0", 1), "/srv")
		}, "nvme0n1 → loop0 → loop0p1 → /srv", "umount /srv"},
		{"with a volume on it", func(m *machine) {
			m.loop("loop0", "/dev/nvme0n1", m.namespace(1, blank))
			m.built("dm-3", "vg-data", "loop0")
		}, "nvme0n1 → loop0 → dm-3 (vg-data)", "lsblk /dev/nvme0n1"},
		{"on a volume", func(m *machine) {
			m.namespace(1, blank)
			m.built("dm-3", "vg-data", "nvme0n1")
			m.loop("loop0", "/dev/dm-3", "dm-3")
		}, "nvme0n1 → dm-3 (vg-data) → loop0", "losetup --detach /dev/loop0"},
		{"without a node", func(m *machine) {
			m.loop("loop0", "/dev/nvme0n1", m.namespace(1, blank))
			delete(m.nodes.numbers, m.path("dev/loop0"))
		}, "nvme0n1 → loop0", "losetup"},
		{"that may not be asked", func(m *machine) {
			m.namespace(1, blank)
			m.loop("loop0", "/srv/image", "")
			m.nodes.faults[m.path("dev/loop0")] = syscall.EACCES
		}, "what loop devices are backed by cannot be told: ask loop0: ask MACHINE/dev/loop0: permission denied", "be root"},
		{"whose node is another's", func(m *machine) {
			m.namespace(1, blank)
			m.loop("loop0", "/srv/image", "")
			m.nodes.numbers[m.path("dev/loop0")] = number{8, 0}
		}, "what loop devices are backed by cannot be told: ask loop0: open MACHINE/dev/loop0: the node is of another device", "be root"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMachine(t)
			c.make(m)
			report, hold, err := m.look("nvme", pci.NVMe, forIdle)
			must(t, err)
			if got := strings.ReplaceAll(report.String(), m.dir, "MACHINE"); got != c.says || !report.Veto() || hold != nil {
				t.Errorf("veto %v, report\n%s\nwant\n%s", report.Veto(), got, c.says)
			}
			if !strings.Contains(report.Remedy(), c.remedy) {
				t.Errorf("remedy %q, want one with %q", report.Remedy(), c.remedy)
			}
		})
	}
}

func TestALoopDeviceThatIsNoUse(t *testing.T) {
	for name, loop := range map[string]func(*machine){
		"backed by a file":        func(m *machine) { m.loop("loop0", "/dev/nvme0n1", "") },
		"backed by another drive": func(m *machine) { m.loop("loop0", "/dev/nvme9n1", m.other("nvme9n1")) },
		"not set up":              func(m *machine) { m.block("devices/virtual/block/loop0", blank) },
		"given up before it was asked": func(m *machine) {
			m.loop("loop0", "/dev/nvme0n1", "nvme0n1")
			m.nodes.faults[m.path("dev/loop0")] = syscall.ENXIO
		},
		"a file, and without a node": func(m *machine) { m.loop("loop0", "/srv/image", ""); delete(m.nodes.numbers, m.path("dev/loop0")) },
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			m.namespace(1, blank)
			loop(m)
			report, hold, err := m.look("nvme", pci.NVMe, forBlank)
			must(t, err)
			defer hold.Close()
			if report.Veto() {
				t.Errorf("report %q", report)
			}
		})
	}
}

// other makes a disk that is not of the device.
func (m *machine) other(name string) string {
	m.block("devices/virtual/block/"+name, blank)
	return name
}
