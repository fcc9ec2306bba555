package inuse

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"vfio-hotplug/internal/pci"
	"vfio-hotplug/internal/sysfs"
)

func TestABlankDriveIsFreeAndHeld(t *testing.T) {
	m := newMachine(t)
	m.namespace(1, blank)
	m.namespace(2, blank)
	report, hold, err := m.look("nvme", pci.NVMe, forBlank)
	must(t, err)
	if report.Veto() || report.String() != "unused and blank" || report.Remedy() != "" {
		t.Errorf("report %q, remedy %q", report, report.Remedy())
	}
	if len(hold.Files()) != 2 {
		t.Errorf("%d files held, want 2", len(hold.Files()))
	}
	for _, file := range hold.Files() {
		if _, err := file.Stat(); err != nil || !m.nodes.exclusive[file] {
			t.Errorf("exclusive %v, error %v", m.nodes.exclusive[file], err)
		}
	}
	must(t, hold.Close())
	if !m.nodes.allClosed() {
		t.Error("Close left a file open")
	}
}

func TestADriveWithoutNamespacesIsFree(t *testing.T) {
	report, hold, err := newMachine(t).look("nvme", pci.NVMe, forBlank)
	must(t, err)
	if report.Veto() || len(hold.Files()) != 0 {
		t.Errorf("report %q, %d files", report, len(hold.Files()))
	}
	must(t, hold.Close())
}

func TestALookOfSomebodyCuriousIsNotExclusive(t *testing.T) {
	m := newMachine(t)
	m.namespace(1, blank)
	_, hold, err := m.look("nvme", pci.NVMe, How{Blank: true})
	must(t, err)
	defer hold.Close()
	if m.nodes.tries > 0 {
		t.Error("it claimed the disk")
	}
}

func TestEveryVetoSaysWhy(t *testing.T) {
	for _, c := range []struct {
		name   string
		make   func(*machine)
		how    How
		says   string // the whole report, MACHINE standing for the machine's directory
		remedy string // a part of it
	}{
		{"mounted", func(m *machine) {
			m.mount(m.namespace(1, blank), "/srv")
		}, forIdle, "nvme0n1 → /srv", "umount /srv"},
		{"mounted twice, once with a blank in the name", func(m *machine) {
			m.mount(m.namespace(1, blank), "/srv")
			m.mount("nvme0n1", `/my\040data`)
		}, forIdle, "nvme0n1 → /srv; nvme0n1 → /my data", "umount /srv"},
		{"a mounted partition", func(m *machine) {
			m.partition(m.namespace(1, blank), 1)
			m.mount(m.partition("nvme0n1", 2), "/srv")
		}, forIdle, "nvme0n1p2 → /srv", "umount /srv"},
		{"swap", func(m *machine) {
			m.partition(m.namespace(1, blank), 3)
			m.add("proc/swaps", "/dev/nvme0n1p3                          partition\t1048572\t\t0\t\t-2\n")
		}, forIdle, "nvme0n1p3 → swap", "swapoff /dev/nvme0n1p3"},
		{"swap whose node is not to be seen", func(m *machine) {
			m.namespace(1, blank)
			m.built("dm-1", "vg-swap", "nvme0n1")
			m.remove("dev/dm-1")
			delete(m.nodes.numbers, m.path("dev/dm-1"))
			m.add("proc/swaps", "/dev/dm-1 partition 1 0 -2\n")
		}, forIdle, "nvme0n1 → dm-1 (vg-swap) → swap", "swapoff /dev/dm-1"},
		{"a volume of md and LVM", func(m *machine) {
			m.namespace(1, blank)
			m.built("md0", "", m.partition("nvme0n1", 2))
			m.built("dm-3", "vg-data", "md0")
			m.mount("dm-3", "/srv")
		}, forIdle, "nvme0n1p2 → md0 → dm-3 (vg-data) → /srv", "umount /srv"},
		{"a partition of an array", func(m *machine) {
			m.namespace(1, blank)
			m.built("md0", "", "nvme0n1")
			m.mount(m.partition("md0", 1), "/srv")
		}, forIdle, "nvme0n1 → md0 → md0p1 → /srv", "umount /srv"},
		{"two volumes, one of them idle", func(m *machine) {
			m.namespace(1, blank)
			m.built("dm-0", "vg-a", "nvme0n1")
			m.built("dm-1", "vg-b", "nvme0n1")
			m.mount("dm-1", "/b")
		}, forIdle, "nvme0n1 → dm-0 (vg-a); nvme0n1 → dm-1 (vg-b) → /b", "lsblk /dev/nvme0n1"},
		{"btrfs, named by this device", func(m *machine) {
			m.namespace(1, blank)
			m.add("proc/1/mountinfo", "98 21 0:40 / /pool rw - btrfs /dev/nvme0n1 rw\n")
		}, forIdle, "nvme0n1 → /pool", "umount /pool"},
		{"btrfs, named by its other device", func(m *machine) {
			m.namespace(1, blank)
			m.namespace(2, blank)
			m.add("proc/1/mountinfo", "98 21 0:40 / /pool rw - btrfs /dev/nvme0n2 rw\n")
			m.linkTo("fs/btrfs/0123/devices/nvme0n1", home+"/nvme/nvme0/nvme0n1")
			m.linkTo("fs/btrfs/0123/devices/nvme0n2", home+"/nvme/nvme0/nvme0n2")
			m.mkdir("sys/fs/btrfs/features")
		}, forIdle, "nvme0n1 → /pool; nvme0n2 → /pool", "umount /pool"},
		{"btrfs, mounted where nobody sees it", func(m *machine) {
			m.namespace(1, blank)
			m.linkTo("fs/btrfs/0123/devices/nvme0n1", home+"/nvme/nvme0/nvme0n1")
		}, forIdle, "nvme0n1 → btrfs 0123", "lsblk /dev/nvme0n1"},
		{"bcachefs on two devices", func(m *machine) {
			m.namespace(1, blank)
			m.add("proc/1/mountinfo", "98 21 0:40 / /pool rw - bcachefs /dev/sda:/dev/nvme0n1 rw\n")
		}, forIdle, "nvme0n1 → /pool", "umount /pool"},
		{"claimed, and nothing says by whom", func(m *machine) {
			m.nodes.faults[m.path("dev/"+m.namespace(1, blank))] = syscall.EBUSY
		}, forIdle, "nvme0n1 → claimed, but nothing shows by whom", "lsblk /dev/nvme0n1"},
		{"claimed by what is seen", func(m *machine) {
			m.nodes.faults[m.path("dev/"+m.namespace(1, blank))] = syscall.EBUSY
			m.mount("nvme0n1", "/srv")
		}, forIdle, "nvme0n1 → /srv", "umount /srv"},
		{"only its second namespace is claimed", func(m *machine) {
			m.namespace(1, blank)
			m.nodes.claimed = m.path("dev/" + m.namespace(2, blank))
		}, forIdle, "nvme0n2 → claimed, but nothing shows by whom", "lsblk /dev/nvme0n2"},
		{"mounted before it could be claimed", func(m *machine) {
			m.namespace(1, blank)
			m.nodes.claimed = m.path("dev/nvme0n1")
			m.nodes.onClaim = func() { m.mount("nvme0n1", "/srv") }
		}, forIdle, "nvme0n1 → /srv", "umount /srv"},
		{"exported before it was claimed", func(m *machine) {
			m.namespace(1, blank)
			m.nodes.onClaim = func() { m.exported("/dev/nvme0n1", "1") }
		}, forIdle, "nvme0n1 → nvmet nqn.test namespace 3", "nvmetcli"},
		{"written to before it was claimed", func(m *machine) {
			m.namespace(1, blank)
			m.nodes.onClaim = func() {
				m.file("dev/nvme0n1", "0\nID_FS_TYPE=ext4\n")
				must(m.t, os.Truncate(m.path("dev/nvme0n1"), diskBytes))
			}
		}, forBlank, "nvme0n1 carries ext4", "wipefs --all /dev/nvme0n1"},
		{"a second path of a mounted namespace", func(m *machine) {
			m.multipath(1)
			m.mount("nvme5n1", "/srv")
		}, forIdle, "nvme5c0n1 → nvme5n1 → /srv", "umount /srv"},
		{"a second path of a namespace with a mounted partition", func(m *machine) {
			m.multipath(1)
			m.mount(m.partition("nvme5n1", 2), "/srv")
		}, forIdle, "nvme5c0n1 → nvme5n1p2 → /srv", "umount /srv"},
		{"a second path of a namespace with an idle volume", func(m *machine) {
			m.multipath(1)
			m.built("dm-0", "vg-a", "nvme5n1")
		}, forIdle, "nvme5c0n1 → nvme5n1 → dm-0 (vg-a)", "lsblk /dev/nvme5n1"},
		{"a second path of a namespace that is claimed", func(m *machine) {
			m.multipath(1)
			m.nodes.faults[m.path("dev/nvme5n1")] = syscall.EBUSY
		}, forIdle, "nvme5c0n1 → nvme5n1 → claimed, but nothing shows by whom", "lsblk /dev/nvme5n1"},
		{"mounted through another controller that shows the namespace apart", func(m *machine) {
			m.namespace(1, blank)
			m.mount(m.twin("nvme7", 1), "/srv")
		}, forIdle, "nvme0n1 → nvme7n1 → /srv", "umount /srv"},
		{"claimed through another controller that shows the namespace apart", func(m *machine) {
			m.namespace(1, blank)
			m.nodes.faults[m.path("dev/"+m.twin("nvme7", 1))] = syscall.EBUSY
		}, forIdle, "nvme0n1 → nvme7n1 → claimed, but nothing shows by whom", "lsblk /dev/nvme7n1"},

		{"a file system", func(m *machine) {
			m.namespace(1, "0\nID_FS_TYPE=ext4\nID_FS_LABEL_ENC=my\\x20data\nID_FS_USAGE=filesystem")
		}, forBlank, `nvme0n1 carries ext4 "my data"`, "wipefs --all /dev/nvme0n1"},
		{"a partition table", func(m *machine) {
			m.namespace(1, "0\nID_PART_TABLE_TYPE=gpt\nID_PART_TABLE_UUID=1234")
		}, forBlank, "nvme0n1 carries a partition table (gpt)", "takeover = \"idle\""},
		{"what blkid knows and this program does not", func(m *machine) {
			m.namespace(1, "0\nNEW=thing")
		}, forBlank, "nvme0n1 carries something that blkid knows", "wipefs"},
		{"only the second namespace is not blank", func(m *machine) {
			m.namespace(1, blank)
			m.namespace(2, "0\nID_FS_TYPE=LVM2_member")
		}, forBlank, "nvme0n2 carries LVM2_member", "wipefs --all /dev/nvme0n2"},
		{"several signatures", func(m *machine) {
			m.namespace(1, "8 ambivalent result")
		}, forBlank, "what nvme0n1 carries cannot be told: blkid finds several signatures: wipefs shows them", "blkid -p /dev/nvme0n1"},
		{"blkid could not open it", func(m *machine) {
			m.namespace(1, "2 blkid: error: /proc/self/fd/3: No medium found")
		}, forBlank, "what nvme0n1 carries cannot be told: blkid: blkid: error: /proc/self/fd/3: No medium found (exit status 2)", "blkid"},
		{"another blkid", func(m *machine) {
			m.namespace(1, "1 usage: blkid")
		}, forBlank, "what nvme0n1 carries cannot be told: blkid: usage: blkid (exit status 1)", "blkid"},
		{"unreadable at its end", func(m *machine) {
			m.namespace(1, blank)
			must(m.t, os.Truncate(m.path("dev/nvme0n1"), diskBytes-4096))
		}, forBlank, "nvme0n1 cannot be read at byte 8384512: EOF", "dmesg"},
		{"unreadable at its start", func(m *machine) {
			m.namespace(1, blank)
			must(m.t, os.Truncate(m.path("dev/nvme0n1"), 0))
		}, forBlank, "nvme0n1 cannot be read at byte 0: EOF", "dmesg"},

		{"a namespace without a size", func(m *machine) {
			m.namespace(1, blank)
			m.file("sys/"+home+"/nvme/nvme0/nvme0n1/size", "0\n")
		}, forIdle, "nvme0n1 has no size: its contents cannot be checked", "nvme id-ns /dev/nvme0 --namespace-id=1"},
		{"a namespace that the kernel hides", func(m *machine) {
			m.namespace(1, blank)
			m.namespace(3, blank)
			m.file("sys/"+home+"/nvme/nvme0/nvme0n3/hidden", "1\n")
		}, forIdle, "namespace 3 of nvme0 has no block device: its contents cannot be checked", "--namespace-id=3"},
		{"one is hidden, another not there", func(m *machine) {
			m.namespace(3, blank)
			m.file("sys/"+home+"/nvme/nvme0/nvme0n3/hidden", "1\n")
			m.active(4)
		}, forIdle, "namespace 3 of nvme0 has no block device: its contents cannot be checked", ""},
		{"a head that the kernel hides", func(m *machine) {
			m.multipath(1)
			m.file("sys/devices/virtual/nvme-subsystem/nvme-subsys5/nvme5n1/hidden", "1\n")
		}, forIdle, "namespace 1 of nvme0 has no block device: its contents cannot be checked", ""},
		{"a dead controller", func(m *machine) {
			m.file("sys/"+home+"/nvme/nvme0/state", "dead\n")
		}, forIdle, "nvme0 is dead: its contents cannot be checked", "dmesg"},
		{"a controller that may not be asked", func(m *machine) {
			m.namespace(1, blank)
			m.nodes.faults[m.path("dev/nvme0")] = syscall.EACCES
		}, forIdle, "nvme0 may not be asked for its namespaces: open MACHINE/dev/nvme0: permission denied", "CAP_SYS_ADMIN"},
		{"a controller that does not know the question", func(m *machine) {
			m.namespace(1, blank)
			m.nodes.faults[m.path("dev/nvme0")] = statusError(0x4002)
		}, forIdle, "nvme0 does not tell its namespaces: open MACHINE/dev/nvme0: the controller answered status 0x4002", "dmesg"},
		{"a stale controller node", func(m *machine) {
			m.nodes.numbers[m.path("dev/nvme0")] = number{240, 9}
		}, forIdle, "nvme0 does not tell its namespaces: open MACHINE/dev/nvme0: the node is of another device", ""},
		{"a stale node", func(m *machine) {
			m.nodes.numbers[m.path("dev/"+m.namespace(1, blank))] = number{8, 0}
		}, forIdle, "MACHINE/dev/nvme0n1 is not the node of nvme0n1 (259:1)", "udevadm trigger"},
		{"a node that may not be opened", func(m *machine) {
			m.nodes.faults[m.path("dev/"+m.namespace(1, blank))] = syscall.EPERM
		}, forIdle, "nvme0n1 may not be opened: open MACHINE/dev/nvme0n1: operation not permitted", "as root"},
		{"a node that fails", func(m *machine) {
			m.nodes.faults[m.path("dev/"+m.namespace(1, blank))] = syscall.EIO
		}, forIdle, "nvme0n1 cannot be opened: open MACHINE/dev/nvme0n1: input/output error", "dmesg"},
		{"no table of mounts", func(m *machine) {
			m.namespace(1, blank)
			m.remove("proc/1/mountinfo")
		}, forIdle, "what is mounted cannot be read: open MACHINE/proc/1/mountinfo: no such file or directory", "CAP_SYS_PTRACE"},
		{"no table of swaps", func(m *machine) {
			m.namespace(1, blank)
			m.remove("proc/swaps")
			m.mkdir("proc/swaps")
		}, forIdle, "what is swapped to cannot be read: read MACHINE/proc/swaps: is a directory", "root"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMachine(t)
			c.make(m)
			report, hold, err := m.look("nvme", pci.NVMe, c.how)
			must(t, err)
			if got := strings.ReplaceAll(report.String(), m.dir, "MACHINE"); got != c.says || !report.Veto() {
				t.Errorf("veto %v, report\n%s\nwant\n%s", report.Veto(), got, c.says)
			}
			if !strings.Contains(report.Remedy(), c.remedy) {
				t.Errorf("remedy %q, want one with %q", report.Remedy(), c.remedy)
			}
			if hold != nil || !m.nodes.allClosed() {
				t.Error("a vetoed drive is still held")
			}
		})
	}
}

// multipath gives nvme0 a namespace behind subsystem 5, as its path.
func (m *machine) multipath(id int) {
	path := "nvme5c0n1"
	m.active(uint32(id))
	m.file("sys/"+home+"/nvme/nvme0/"+path+"/nsid", fmt.Sprintln(id))
	m.file("sys/"+home+"/nvme/nvme0/"+path+"/hidden", "1\n")
	m.block("devices/virtual/nvme-subsystem/nvme-subsys5/nvme5n1", blank)
	m.file("sys/devices/virtual/nvme-subsystem/nvme-subsys5/nvme5n1/nsid", fmt.Sprintln(id))
}

// twin gives another controller of nvme0's subsystem a disk of the namespace.
func (m *machine) twin(controller string, id int) (name string) {
	const away = "devices/pci0000:00/0000:02:00.0/nvme/"
	name = fmt.Sprintf("%sn%d", controller, id)
	m.block(away+controller+"/"+name, blank)
	m.file("sys/"+away+controller+"/"+name+"/nsid", fmt.Sprintln(id))
	m.linkTo("class/nvme/"+controller, away+controller)
	m.file("sys/class/nvme-subsystem/nvme-subsys0/subsysnqn", "nqn.test\n")
	for _, of := range []string{home + "/nvme/nvme0", away + controller} {
		m.linkTo("class/nvme-subsystem/nvme-subsys0/"+filepath.Base(of), of)
	}
	return name
}

func TestANamespaceIsHeldThroughEveryControllerThatShowsIt(t *testing.T) {
	m := newMachine(t)
	m.namespace(1, blank)
	m.namespace(2, blank)
	m.twin("nvme7", 1)
	m.twin("nvme7", 3)
	m.twin("nvme8", 2)
	m.linkTo("class/nvme-subsystem/nvme-subsys0/nvme9", "gone")
	report, hold, err := m.look("nvme", pci.NVMe, forBlank)
	must(t, err)
	defer hold.Close()
	var held []string
	for _, file := range hold.Files() {
		held = append(held, filepath.Base(file.Name()))
	}
	if report.Veto() || fmt.Sprint(held) != "[nvme0n1 nvme7n1 nvme0n2 nvme8n2]" {
		t.Errorf("report %q, held %v", report, held)
	}
}

func TestAnotherHoldOfOursIsWaitedFor(t *testing.T) {
	m := newMachine(t)
	m.multipath(1)
	m.link("proc/self", "10")
	m.holds(10, "vfio-hotplug", m.path("dev/nvme5n1"))
	m.nodes.faults[m.path("dev/nvme5n1")] = syscall.EBUSY
	_, _, err := m.look("nvme", pci.NVMe, forBlank)
	unsettled, ok := errors.AsType[*NotSettledError](err)
	if !ok || unsettled.Reason != "another operation of ours holds nvme5n1" {
		t.Errorf("error %v", err)
	}
}

func TestAMultipathNamespaceIsHeldByItsHead(t *testing.T) {
	m := newMachine(t)
	m.multipath(1)
	report, hold, err := m.look("nvme", pci.NVMe, forBlank)
	must(t, err)
	defer hold.Close()
	if report.Veto() || len(hold.Files()) != 1 || hold.Files()[0].Name() != m.path("dev/nvme5n1") {
		t.Errorf("report %q, held %v", report, hold.Files())
	}
}

func TestIdleMayHaveSomethingOnIt(t *testing.T) {
	m := newMachine(t)
	m.namespace(1, "0\nID_FS_TYPE=ext4")
	report, hold, err := m.look("nvme", pci.NVMe, forIdle)
	must(t, err)
	defer hold.Close()
	if report.Veto() || report.String() != "unused" {
		t.Errorf("report %q, want unused", report)
	}
}

func TestAMissingBlkidIsAVeto(t *testing.T) {
	m := newMachine(t)
	m.namespace(1, blank)
	f, device := m.finder()
	f.blkid = m.path("no-such-blkid")
	report, _, err := f.Look(t.Context(), device, pci.Device{Driver: "nvme"}, forBlank)
	must(t, err)
	if !report.Veto() || !strings.Contains(report.String(), "no such file") {
		t.Errorf("report %q", report)
	}
}

func TestADriveThatIsNotYetThereIsNotBlank(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(*machine)
		says string
	}{
		{"no controller", func(m *machine) { m.remove("sys/" + home + "/nvme") }, "nvme has not made its controller yet"},
		{"a controller being reset", func(m *machine) { m.file("sys/"+home+"/nvme/nvme0/state", "resetting\n") }, "nvme0 is resetting"},
		{"a controller being brought up", func(m *machine) { m.file("sys/"+home+"/nvme/nvme0/state", "connecting\n") }, "nvme0 is connecting"},
		{"a controller that began a reset", func(m *machine) { m.nodes.faults[m.path("dev/nvme0")] = syscall.EAGAIN }, "nvme0 is not live"},
		{"no node of the controller", func(m *machine) { m.nodes.faults[m.path("dev/nvme0")] = syscall.ENOENT }, "nvme0 has no node in MACHINE/dev"},
		{"namespaces not scanned", func(m *machine) {
			m.namespace(1, blank)
			m.active(2)
			m.active(7)
		}, "namespace 2, 7 of nvme0 has no block device: its contents cannot be checked"},
		{"a namespace half made", func(m *machine) {
			m.namespace(1, blank)
			m.remove("sys/" + home + "/nvme/nvme0/nvme0n1/dev")
		}, "namespace 1 of nvme0 has no block device: its contents cannot be checked"},
		{"a path whose head is not made", func(m *machine) {
			m.multipath(1)
			m.remove("sys/class/block/nvme5n1")
		}, "namespace 1 of nvme0 has no block device: its contents cannot be checked"},
		{"a head that has become another namespace's", func(m *machine) {
			m.multipath(1)
			m.file("sys/devices/virtual/nvme-subsystem/nvme-subsys5/nvme5n1/nsid", "4\n")
		}, "namespace 1 of nvme0 has no block device: its contents cannot be checked"},
		{"no node of the namespace", func(m *machine) {
			m.remove("dev/" + m.namespace(1, blank))
		}, "nvme0n1 has no node in MACHINE/dev"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newMachine(t)
			c.make(m)
			_, hold, err := m.look("nvme", pci.NVMe, forBlank)
			unsettled, ok := errors.AsType[*NotSettledError](err)
			if !ok {
				t.Fatalf("error %v, want a *NotSettledError", err)
			}
			if got := strings.ReplaceAll(unsettled.Error(), m.dir, "MACHINE"); got != c.says {
				t.Errorf("it says\n%s\nwant\n%s", got, c.says)
			}
			if hold != nil || !m.nodes.allClosed() {
				t.Error("it is still held")
			}
		})
	}
}

func TestADriveThatIsUnpluggedIsGone(t *testing.T) {
	for name, spoil := range map[string]func(*machine){
		"before its controller is asked": func(m *machine) { m.nodes.faults[m.path("dev/nvme0")] = syscall.ENODEV },
		"before it is opened":            func(m *machine) { m.nodes.faults[m.path("dev/nvme0n1")] = syscall.ENXIO },
	} {
		m := newMachine(t)
		m.namespace(1, blank)
		spoil(m)
		if _, _, err := m.look("nvme", pci.NVMe, forBlank); !sysfs.Gone(err) {
			t.Errorf("%s: error %v, want a Gone one", name, err)
		}
	}
}

func TestADriveThatDoesNotAnswerIsAVeto(t *testing.T) {
	m := newMachine(t)
	m.namespace(1, blank)
	f, device := m.finder()
	synctest.Test(t, func(t *testing.T) {
		m.nodes.block = make(chan struct{})
		report, hold, err := f.Look(t.Context(), device, pci.Device{Driver: "nvme"}, forBlank)
		must(t, err)
		if got := report.String(); got != "opening nvme0n1 has not ended in 1m0s" || hold != nil {
			t.Errorf("report %q", got)
		}
		close(m.nodes.block)
		synctest.Wait()
		if !m.nodes.allClosed() {
			t.Error("what was opened in the end is still open")
		}
	})
}

func TestALookEndsWithItsContext(t *testing.T) {
	m := newMachine(t)
	m.namespace(1, blank)
	f, device := m.finder()
	synctest.Test(t, func(t *testing.T) {
		m.nodes.block = make(chan struct{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, hold, err := f.Look(ctx, device, pci.Device{Driver: "nvme"}, forBlank)
		if !errors.Is(err, context.DeadlineExceeded) || hold != nil {
			t.Errorf("error %v", err)
		}
		close(m.nodes.block)
		synctest.Wait()
		if !m.nodes.allClosed() {
			t.Error("what was opened in the end is still open")
		}
	})
}

func TestABlkidThatHangsIsKilled(t *testing.T) {
	m := newMachine(t)
	m.namespace(1, "hang")
	f, device := m.finder()
	f.patience = 100 * time.Millisecond
	report, hold, err := f.Look(t.Context(), device, pci.Device{Driver: "nvme"}, forBlank)
	must(t, err)
	if !report.Veto() || hold != nil {
		t.Errorf("report %q", report)
	}
}

func TestAFaultOfSysfsIsAnError(t *testing.T) {
	m := newMachine(t)
	m.namespace(1, blank)
	m.file("sys/"+home+"/nvme/nvme0/nvme0n1/nsid", "one\n")
	if _, _, err := m.look("nvme", pci.NVMe, forBlank); err == nil {
		t.Error("no error")
	}
}

func TestAReportReadsTheSameInJSON(t *testing.T) {
	m := newMachine(t)
	m.mount(m.namespace(1, blank), "/srv")
	report, _, err := m.look("nvme", pci.NVMe, forBlank)
	must(t, err)
	got, err := json.Marshal(report)
	must(t, err)
	if want := `{"uses":[{"kind":"mount","chain":["nvme0n1","/srv"]}]}`; string(got) != want {
		t.Errorf("JSON %s, want %s", got, want)
	}
}

func TestNoHoldIsAnEmptyHold(t *testing.T) {
	var hold *Hold
	if hold.Files() != nil || hold.Close() != nil {
		t.Error("a nil hold holds something")
	}
}

func TestAppendingToTheFilesOfAHoldLeavesItWhole(t *testing.T) {
	m := newMachine(t)
	m.namespace(1, blank)
	_, hold, err := m.look("nvme", pci.NVMe, forIdle)
	must(t, err)
	defer hold.Close()
	_ = append(hold.Files(), nil)
	if len(hold.Files()) != 1 || hold.Files()[0] == nil {
		t.Error("it changed")
	}
}

func TestOldKernelsHaveNoSwaps(t *testing.T) {
	m := newMachine(t)
	m.namespace(1, blank)
	m.remove("proc/swaps")
	report, hold, err := m.look("nvme", pci.NVMe, forIdle)
	must(t, err)
	defer hold.Close()
	if report.Veto() {
		t.Errorf("report %q", report)
	}
}
