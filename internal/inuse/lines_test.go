package inuse

import (
	"slices"
	"strings"
	"testing"

	"vfio-hotplug/internal/pci"
)

// A name that others than the kernel give can be taken away while the export
// goes on: then nobody can tell what it is of.
func TestAnExportUnderANameThatHasGoneIsADoubt(t *testing.T) {
	const says = "what nvmet nqn.test namespace 3 exports cannot be told: stat MACHINE"
	for node, doubt := range map[string]bool{
		"/dev/fast0":           true, // SYMLINK+="fast0"
		"/dev/cdrom":           true,
		"/dev/nvme-fast":       true,
		"/dev/disk/by-id/gone": true,
		"/dev/mapper/vg-data":  true,
		"/dev/md/data":         true,
		"nvme7n1":              true, // a path from wherever somebody was
		"/dev/nvme7n1":         false,
		"/dev/nvme7n1p12":      false,
		"/dev/nvme7":           false,
		"/dev/sdc":             false,
		"/dev/sdaa3":           false,
		"/dev/dm-3":            false,
		"/dev/md127p1":         false,
		"/dev/md_data":         false,
		"/dev/loop0":           false,
		"/dev/mmcblk0p1":       false,
		"/dev/cciss!c0d0":      true, // no node is called so
		"/dev/../dev/nvme7n1":  false,
		"/dev/disk/../nvme7n1": false,
	} {
		m := newMachine(t)
		m.namespace(1, blank)
		m.exported(node, "1")
		report, hold, err := m.look("nvme", pci.NVMe, forIdle)
		must(t, err)
		got := strings.ReplaceAll(report.String(), m.dir, "MACHINE")
		if report.Veto() != doubt || doubt && !strings.HasPrefix(got, says) {
			t.Errorf("%s: veto %v, report %q", node, report.Veto(), got)
		}
		must(t, hold.Close())
	}
}

func TestABackstoreThatNamesNoDeviceIsADoubt(t *testing.T) {
	for info, veto := range map[string]bool{
		"Status: ACTIVATED\n        another kernel's words":                                                                true,
		"Status: ACTIVATED\n        Major: 259 Minor: ?":                                                                   true,
		"Status: ACTIVATED\n        iBlock device: sdz  UDEV PATH: N/A  readonly: 0\n        Major: 8 Minor: 400  CLAIMED": false,
	} {
		m := newMachine(t)
		m.namespace(1, blank)
		m.configure("target/core/iblock_0/disk1", "enable", "1", "udev_path", "", "info", info)
		report, hold, err := m.look("nvme", pci.NVMe, forIdle)
		must(t, err)
		if report.Veto() != veto || veto && report.String() != "what LIO iblock_0/disk1 exports cannot be told: it names no device" {
			t.Errorf("%q: report %q", info, report)
		}
		must(t, hold.Close())
	}
	m := newMachine(t)
	m.namespace(1, blank)
	m.link("srv/my disk", m.path("dev/nvme0n1"))
	m.configure("target/core/fileio_2/disk1", "enable", "1", "udev_path", "",
		"info", "Status: ACTIVATED\n        TCM FILEIO ID: 0        File: /srv/my disk  Size: 8388608  Mode: O_DSYNC Async: 0")
	report, _, err := m.look("nvme", pci.NVMe, forIdle)
	must(t, err)
	if report.String() != "nvme0n1 → LIO fileio_2/disk1" {
		t.Errorf("a file with a blank in its name: report %q", report)
	}
}

// What cannot be understood may be about the device.
func TestALineThatCannotBeReadIsADoubt(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(*machine)
		says string
	}{
		{"a mount without its end", func(m *machine) { m.add("proc/1/mountinfo", "99 21 259:1 / /srv rw shared:1\n") },
			`what is mounted cannot be read: line 2 of MACHINE/proc/1/mountinfo is "99 21 259:1 / /srv rw shared:1"`},
		{"a mount without a number", func(m *machine) { m.add("proc/1/mountinfo", "99 21 259 / /srv rw - ext4 /dev/nvme0n1 rw\n") },
			`what is mounted cannot be read: line 2 of MACHINE/proc/1/mountinfo is "99 21 259 / /srv rw - ext4 /dev/nvme0n1 rw"`},
		{"a mount of several devices that are not there", func(m *machine) {
			m.add("proc/1/mountinfo", "99 21 0:50 / /srv rw - bcachefs /dev/fast:/dev/slow rw\n")
		}, "what is mounted on /srv cannot be told: stat MACHINE/dev/fast: file does not exist; " +
			"what is mounted on /srv cannot be told: stat MACHINE/dev/slow: file does not exist"},
		{"a swap without its kind", func(m *machine) { m.add("proc/swaps", "/dev/nvme0n1\n") },
			`what is swapped to cannot be read: line 2 of MACHINE/proc/swaps is "/dev/nvme0n1"`},
		{"a swap of another kind", func(m *machine) { m.add("proc/swaps", "/dev/nvme0n1 disk 8 0 -2\n") },
			`what is swapped to cannot be read: line 2 of MACHINE/proc/swaps is "/dev/nvme0n1 disk 8 0 -2"`},
		{"a swap under a name that has gone", func(m *machine) { m.add("proc/swaps", "/dev/mapper/swap partition 8 0 -2\n") },
			"what is swapped to cannot be told: stat MACHINE/dev/mapper/swap: file does not exist"},
		{"a procfs that shows processes only", func(m *machine) { m.remove("proc/swaps"); m.remove("proc/cmdline") },
			"what is swapped to cannot be read: open MACHINE/proc/swaps: no such file or directory"},
		{"half a line of fstab", func(m *machine) { m.add("etc/fstab", "UUID="+uuid+"\n") },
			"what is named for use cannot be read: /etc/fstab line 5 is UUID=" + uuid},
		{"half a line of crypttab", func(m *machine) { m.file("etc/crypttab", "# name device\n\nsecret\n") },
			"what is named for use cannot be read: /etc/crypttab line 3 is secret"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := named(t)
			c.make(m)
			report, hold, err := m.look("nvme", pci.NVMe, forIdle)
			must(t, err)
			if got := strings.ReplaceAll(report.String(), m.dir, "MACHINE"); got != c.says || !report.Veto() || hold != nil {
				t.Errorf("veto %v, report\n%s\nwant\n%s", report.Veto(), got, c.says)
			}
			if report.Remedy() == "" {
				t.Error("no remedy")
			}
		})
	}
}

func TestLinesThatAreNoDoubt(t *testing.T) {
	for name, make := range map[string]func(*machine){
		"a kernel without swap":                        func(m *machine) { m.remove("proc/swaps") },
		"swap to a file":                               func(m *machine) { m.add("proc/swaps", "/srv/my\\040swap file 8 0 -2\n") },
		"swap to a drive that has gone":                func(m *machine) { m.add("proc/swaps", "/dev/nvme7n1 partition 8 0 -2\n") },
		"a file system of FUSE, whatever it is called": func(m *machine) { m.add("proc/1/mountinfo", "99 21 0:50 / /x rw - fuse.x /dev/fast rw\n") },
		"a drive of btrfs that has gone":               func(m *machine) { m.add("proc/1/mountinfo", "99 21 0:50 / /x rw - btrfs /dev/nvme7n1 rw\n") },
		"a mount of nothing":                           func(m *machine) { m.add("proc/1/mountinfo", "99 21 0:50 / /x rw -  tmpfs  rw\n") },
	} {
		t.Run(name, func(t *testing.T) {
			m := named(t)
			make(m)
			report, hold, err := m.look("nvme", pci.NVMe, forIdle)
			must(t, err)
			defer hold.Close()
			if report.Veto() {
				t.Errorf("report %q", report)
			}
		})
	}
}

// A path outside of /dev may be on a dead file server, or on a file system of a user's
// own, for which a look would wait.
func TestTheSourceOfAMountIsFollowedBelowDevOnly(t *testing.T) {
	m := named(t)
	m.add("proc/1/mountinfo", "99 21 0:50 / /a rw - fuse.mergerfs /net/dead:/srv rw\n"+
		"99 21 0:51 / /b rw - 9p /dev/../net/dead rw\n"+
		"99 21 0:52 / /c rw - nfs other:/dev/sda rw\n"+
		"99 21 0:53 / /d rw - fuse /dev/nvme0n1 rw\n")
	report, _, err := m.look("nvme", pci.NVMe, How{Passive: true})
	must(t, err)
	if report.String() != "nvme0n1 → /d" {
		t.Errorf("report %q", report)
	}
	if slices.ContainsFunc(m.nodes.located, func(path string) bool { return !strings.HasPrefix(path, "/dev/nvme0n1") }) {
		t.Errorf("followed: %q", m.nodes.located)
	}
}

// The kernel calls the root /dev/root where no initramfs has mounted it. All drives of a
// btrfs are in sysfs, by whatever name it was mounted.
func TestABtrfsUnderANameThatHasGone(t *testing.T) {
	for says, make := range map[string]func(*machine){
		"unused":                 func(m *machine) { m.linkTo("fs/btrfs/0123/devices/sdz", "class/block/sdz"); m.other("sdz") },
		"nvme0n1p1 → btrfs 0123": func(m *machine) { m.linkTo("fs/btrfs/0123/devices/nvme0n1p1", "class/block/nvme0n1p1") },
		"what is mounted on / cannot be told: stat MACHINE/dev/root: file does not exist": func(*machine) {},
	} {
		m := named(t)
		m.mkdir("sys/fs/btrfs/features")
		m.add("proc/1/mountinfo", "99 21 0:50 / / rw - btrfs /dev/root rw\n")
		make(m)
		report, _, err := m.look("nvme", pci.NVMe, How{Passive: true})
		must(t, err)
		if got := strings.ReplaceAll(report.String(), m.dir, "MACHINE"); got != says {
			t.Errorf("report\n%s\nwant\n%s", got, says)
		}
	}
}

// The swap's node was made anew: procfs then says that it has been deleted.
func TestSwapIsFoundUnderANodeThatWasMadeAnew(t *testing.T) {
	m := named(t)
	m.add("proc/swaps", "/dev/nvme0n1p1\\040(deleted) partition 8 0 -2\n")
	report, _, err := m.look("nvme", pci.NVMe, forIdle)
	must(t, err)
	if report.String() != "nvme0n1p1 → swap" {
		t.Errorf("report %q", report)
	}
}

// bcachefs is named by all its devices.
func TestEachOfSeveralDevicesIsNamed(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(*machine)
		says string
	}{
		{"first in fstab", func(m *machine) { m.add("etc/fstab", "/dev/nvme0n1:/dev/nvme7n1 /srv bcachefs defaults 0 0\n") },
			"nvme0n1 → /etc/fstab line 5: /dev/nvme0n1:/dev/nvme7n1 on /srv"},
		{"last in fstab", func(m *machine) { m.add("etc/fstab", "/dev/sdb1:/dev/sdc1:/dev/nvme0n1p1 /srv bcachefs\n") },
			"nvme0n1p1 → /etc/fstab line 5: /dev/sdb1:/dev/sdc1:/dev/nvme0n1p1 on /srv"},
		{"by links whose names have colons", func(m *machine) {
			m.link("dev/disk/by-path/pci-0000:01:00.0-nvme-1", m.path("dev/nvme0n1"))
			m.add("etc/fstab", "/dev/sdb1:/dev/disk/by-path/pci-0000:01:00.0-nvme-1 /srv bcachefs\n")
		}, "nvme0n1 → /etc/fstab line 5: /dev/sdb1:/dev/disk/by-path/pci-0000:01:00.0-nvme-1 on /srv"},
		{"in a unit", func(m *machine) {
			m.file("etc/systemd/system/srv.mount", "[Mount]\nWhat=/dev/sdb1:/dev/nvme0n1\nWhere=/srv\n")
		}, "nvme0n1 → /etc/systemd/system/srv.mount: /dev/sdb1:/dev/nvme0n1 on /srv"},
		{"to boot from", func(m *machine) { m.file("proc/cmdline", "root=/dev/sdb1:/dev/nvme0n1 rootfstype=bcachefs\n") },
			"nvme0n1 → kernel command line: root=/dev/sdb1:/dev/nvme0n1"},
		{"mounted, by links whose names have colons", func(m *machine) {
			m.link("dev/disk/by-path/pci-0000:01:00.0-nvme-1", m.path("dev/nvme0n1"))
			m.add("proc/1/mountinfo", "99 21 0:50 / /srv rw - bcachefs /dev/sdb1:/dev/disk/by-path/pci-0000:01:00.0-nvme-1 rw\n")
			m.other("sdb1")
		}, "nvme0n1 → /srv"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := named(t)
			c.make(m)
			report, _, err := m.look("nvme", pci.NVMe, forIdle)
			must(t, err)
			if report.String() != c.says {
				t.Errorf("report\n%s\nwant\n%s", report, c.says)
			}
		})
	}
}
