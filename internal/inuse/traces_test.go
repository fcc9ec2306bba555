package inuse

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"

	"vfio-hotplug/internal/pci"
)

// lookAgain looks at the drive, and gives the report and the finder that made it.
func (m *machine) lookAgain(how How) (*Finder, Report) {
	m.t.Helper()
	f, device := m.finder()
	report, hold, err := f.Look(context.Background(), device, pci.Device{Address: drive, Driver: "nvme", Class: pci.NVMe}, how)
	must(m.t, err)
	must(m.t, hold.Close())
	return f, report
}

// What a look has found is known again by its trace, whatever others do; when it
// is no more, the trace has gone.
func TestAUseIsKnownAgainByItsTrace(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(*machine)
		end  func(*machine)
	}{
		{"a mount", func(m *machine) { m.mount("nvme0n1", "/srv") }, func(m *machine) { m.file("proc/1/mountinfo", "") }},
		{"one of two mounts", func(m *machine) {
			m.mount("nvme0n1", "/srv")
			m.mount("nvme0n1", "/data")
		}, func(m *machine) {
			m.file("proc/1/mountinfo", "")
			m.mount("nvme0n1", "/srv")
		}},
		{"a mount, and another at the same place then", func(m *machine) { m.mount("nvme0n1", "/srv") }, func(m *machine) {
			m.file("proc/1/mountinfo", "99 21 8:1 / /srv rw shared:1 master:2 - ext4 /dev/sda1 rw\n")
		}},
		{"swap", func(m *machine) { m.add("proc/swaps", "/dev/nvme0n1p2 partition 1 0 -2\n") },
			func(m *machine) { m.file("proc/swaps", "Filename\n/dev/nvme0n1p22 partition 1 0 -2\n") }},
		{"a volume", func(m *machine) { m.built("dm-0", "vg-data", "nvme0n1p1") }, func(m *machine) { m.remove("sys/class/block/nvme0n1p1/holders/dm-0") }},
		{"a mount of a volume", func(m *machine) {
			m.built("dm-0", "vg-data", "nvme0n1p1")
			m.mount("dm-0", "/srv")
		}, func(m *machine) { m.file("proc/1/mountinfo", "") }},
		{"a loop device", func(m *machine) { m.loop("loop0", "/dev/nvme0n1", "nvme0n1") }, func(m *machine) { m.remove("sys/devices/virtual/block/loop0/loop") }},
		{"btrfs, mounted where nobody sees it", func(m *machine) {
			m.linkTo("fs/btrfs/0123/devices/nvme0n1", home+"/nvme/nvme0/nvme0n1")
		}, func(m *machine) { m.remove("sys/fs/btrfs/0123") }},
		{"an export", func(m *machine) { m.exported("/dev/nvme0n1", "1") }, func(m *machine) { m.exported("/dev/nvme0n1", "0") }},
		{"a program", func(m *machine) { m.holds(123, "tail", m.path("dev/nvme0n1")) }, func(m *machine) { m.remove("proc/123") }},
		{"a program that opens something else then", func(m *machine) { m.holds(123, "tail", m.path("dev/nvme0n1")) }, func(m *machine) {
			m.remove("proc/123")
			m.holds(123, "tail", m.path("dev/null"))
		}},
		{"a claim that nothing shows", func(m *machine) { m.nodes.claimed = m.path("dev/nvme0n1") }, func(m *machine) { m.nodes.claimed = "" }},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := open(t)
			c.make(m)
			f, report := m.lookAgain(forIdle)
			if !report.Veto() {
				t.Fatal("it is not in use")
			}
			m.add("proc/1/mountinfo", "200 21 0:50 / /tmp/other rw - tmpfs tmpfs rw\n")
			m.holds(200, "another", m.path("dev/null"), m.path("dev/zero"))
			m.nodes.asked.Store(0)
			if !f.Still(t.Context(), report) {
				t.Errorf("%s is still there", report)
			}
			if asked := m.nodes.asked.Load(); asked > 1 {
				t.Errorf("%d descriptors were followed to see that", asked)
			}
			c.end(m)
			if f.Still(t.Context(), report) {
				t.Errorf("%s has gone", report)
			}
			if !m.nodes.allClosed() {
				t.Error("it left a node open")
			}
		})
	}
}

func TestWhatLeavesNoTraceIsLookedAtAgain(t *testing.T) {
	for name, make := range map[string]func(*machine){
		"nothing":          func(m *machine) {},
		"a signature":      func(m *machine) { m.carries("nvme0n1", "ID_FS_TYPE=ext4") },
		"a doubt":          func(m *machine) { m.remove("proc/1/mountinfo") },
		"a line of fstab":  func(m *machine) { m.file("etc/fstab", "/dev/nvme0n1 /srv ext4\n") },
		"an unseen export": func(m *machine) { m.exported("/dev/disk/by-id/gone", "1") },
	} {
		m := open(t)
		make(m)
		if f, report := m.lookAgain(forBlank); f.Still(t.Context(), report) {
			t.Errorf("%s: %s is still there", name, report)
		}
	}
}

func TestATraceThatDoesNotAnswerHasGone(t *testing.T) {
	m := open(t)
	m.nodes.claimed = m.path("dev/nvme0n1")
	f, report := m.lookAgain(forIdle)
	synctest.Test(t, func(t *testing.T) {
		m.nodes.block = make(chan struct{})
		if f.Still(t.Context(), report) {
			t.Error("it answered")
		}
		close(m.nodes.block)
	})
}

// The cost of other people's mounts: a drive that is mounted is not looked for
// among the descriptors of all processes, by a sign or by a look.
func TestOthersMountsCostNoLookThroughProcesses(t *testing.T) {
	const descriptors = 2000
	m := open(t)
	m.mount("nvme0n1p1", "/srv")
	for i := range descriptors {
		m.link(fmt.Sprintf("proc/%d/fd/%d", 1000+i%20, i), "/dev/null")
	}
	mounts, err := os.ReadFile(m.path("proc/1/mountinfo"))
	must(t, err)
	f, report := m.lookAgain(forBlank)
	for i := range 240 { // two minutes of one mount and one unmount a second
		table := string(mounts)
		if i%2 == 0 {
			table += "200 21 0:50 / /tmp/other rw - tmpfs tmpfs rw\n"
		}
		m.file("proc/1/mountinfo", table)
		if !f.Still(t.Context(), report) {
			t.Fatal("the drive is mounted")
		}
	}
	m.lookAgain(forBlank)
	if asked := m.nodes.asked.Load(); asked > 0 {
		t.Errorf("%d descriptors were followed", asked)
	}
	m.file("proc/1/mountinfo", "")
	if f.Still(t.Context(), report) {
		t.Error("the drive is no longer mounted")
	}
	m.lookAgain(forBlank)
	if asked := m.nodes.asked.Load(); asked < descriptors {
		t.Errorf("of a drive that nothing else shows to be used, %d descriptors were followed", asked)
	}
}

// Who partitions a drive that is refused, or makes a file system on it, finds it
// free of claims.
func TestARefusedDriveIsNeverClaimed(t *testing.T) {
	for name, make := range map[string]func(*machine){
		"a partition table": func(m *machine) { m.carries("nvme0n1", "ID_PART_TABLE_TYPE=gpt") },
		"a file system":     func(m *machine) { m.carries("nvme0n1", "ID_FS_TYPE=ext4") },
		"what cannot be told": func(m *machine) {
			m.file("dev/nvme0n1", "8 ambivalent\n")
			must(m.t, os.Truncate(m.path("dev/nvme0n1"), diskBytes))
		},
		"what cannot be read":     func(m *machine) { must(m.t, os.Truncate(m.path("dev/nvme0n1"), 0)) },
		"a line of fstab":         func(m *machine) { m.file("etc/fstab", "/dev/nvme0n1p2 /srv ext4\n") },
		"a mount":                 func(m *machine) { m.mount("nvme0n1", "/srv") },
		"a program":               func(m *machine) { m.holds(123, "sfdisk", m.path("dev/nvme0n1")) },
		"a namespace not shown":   func(m *machine) { m.active(7) },
		"a controller that hides": func(m *machine) { m.nodes.faults[m.path("dev/nvme0")] = syscall.EACCES },
		"a visitor":               func(m *machine) { m.holds(123, "(udev-worker)", m.path("dev/nvme0n1")) },
		"a table not to be read":  func(m *machine) { m.remove("proc/1/mountinfo") },
		"a second disk in use": func(m *machine) {
			m.namespace(2, blank)
			m.carries("nvme0n2", "ID_FS_TYPE=ext4")
		},
	} {
		m := open(t)
		make(m)
		report, hold, err := m.look("nvme", pci.NVMe, forBlank)
		if err == nil && !report.Veto() || hold != nil {
			t.Errorf("%s: it is free: %s", name, report)
		}
		if m.nodes.tries > 0 {
			t.Errorf("%s: it was claimed", name)
		}
		if opened := len(m.nodes.opened); opened > 0 && strings.Contains(report.String(), "→") && name != "a line of fstab" {
			t.Errorf("%s: in use, and %d nodes were opened", name, opened)
		}
	}
}
