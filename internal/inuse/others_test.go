package inuse

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"vfio-hotplug/internal/pci"
)

const (
	nic = pci.Class(0x020000)
	hba = pci.Class(0x010700)
	gpu = pci.Class(0x030000)
)

// bare is a machine whose device is not a drive.
func bare(t *testing.T) *machine {
	m := newMachine(t)
	m.remove("sys/" + home + "/nvme")
	return m
}

func (m *machine) network(where, flags string) {
	m.file("sys/"+home+"/"+where+"/flags", flags+"\n")
	m.linkTo(home+"/"+where+"/subsystem", "class/net")
}

// node makes a character device below the device.
func (m *machine) node(where, number string) {
	m.file("sys/"+home+"/"+where+"/dev", number+"\n")
	node := m.path("dev/" + filepath.Base(where))
	n, err := parseNumber(number)
	must(m.t, err)
	m.nodes.numbers[node], m.nodes.character[node] = n, true
}

func TestOtherDevices(t *testing.T) {
	const disk = home + "/host0/target0:0:0/0:0:0:0/block/sda"
	for _, c := range []struct {
		name   string
		driver string
		class  pci.Class
		make   func(*machine)
		how    How
		veto   bool
		says   string
	}{
		{"a network card that is up", "e1000e", nic, func(m *machine) { m.network("net/eth0", "0x1003") }, forIdle, true, "eth0 → up"},
		{"a network card that is down", "e1000e", nic, func(m *machine) { m.network("net/eth0", "0x1002") }, forIdle, false, "unused"},
		{"a virtio network card that is up", "virtio-pci", nic, func(m *machine) { m.network("virtio1/net/eth0", "0x1003") }, forIdle, true, "eth0 → up"},
		{"a network card whose interface is elsewhere", "e1000e", nic, func(m *machine) {}, forIdle, true,
			"no network interface of it can be seen, though e1000e has it"},
		{"a host adapter with a mounted disk", "mpt3sas", hba, func(m *machine) {
			m.block(disk, blank)
			m.mount("sda", "/srv")
		}, forIdle, true, "sda → /srv"},
		{"a host adapter with an idle disk", "mpt3sas", hba, func(m *machine) { m.block(disk, blank) }, forIdle, false, "unused"},
		{"a host adapter with a hidden disk", "mpt3sas", hba, func(m *machine) {
			m.block(disk, blank)
			m.file("sys/"+disk+"/hidden", "1\n")
		}, forIdle, true, "sda has no block device: its contents cannot be checked"},
		{"a host adapter with an empty drive", "mpt3sas", hba, func(m *machine) {
			m.block(disk, blank)
			m.file("sys/"+disk+"/size", "0\n")
			m.file("sys/"+disk+"/removable", "1\n")
		}, forIdle, false, "unused"},
		{"a host adapter with a disk that is not ready", "mpt3sas", hba, func(m *machine) {
			m.block(disk, blank)
			m.file("sys/"+disk+"/size", "0\n")
			m.file("sys/"+disk+"/removable", "0\n")
		}, forIdle, true, "sda has no size: its contents cannot be checked"},
		{"a host adapter with a blank disk", "mpt3sas", hba, func(m *machine) { m.block(disk, blank) }, forBlank, false, "unused and blank"},
		{"a host adapter that has no disk, or looks for it still", "mpt3sas", hba, func(m *machine) {}, forIdle, true,
			"no disk of it can be seen, though mpt3sas has it"},
		{"the same, with an interface", "mpt3sas", hba, func(m *machine) { m.network("net/eth0", "0x1002") }, forIdle, true,
			"no disk of it can be seen, though mpt3sas has it"},
		{"a drive that a Xen guest has", "pciback", pci.NVMe, func(m *machine) {}, forIdle, true,
			"no disk of it can be seen, though pciback has it"},
		{"the same, to be blank", "pciback", pci.NVMe, func(m *machine) {}, forBlank, true,
			"no disk of it can be seen, though pciback has it"},
		{"a network card with a disk and no interface", "e1000e", nic, func(m *machine) { m.block(disk, blank) }, forIdle, true,
			"no network interface of it can be seen, though e1000e has it"},
		{"a network card that is down, to be blank", "e1000e", nic, func(m *machine) { m.network("net/eth0", "0x1002") }, forBlank, false, "unused"},
		{"a virtio disk that is mounted", "virtio-pci", 0x010000, func(m *machine) {
			m.block(home+"/virtio1/block/vdb", blank)
			m.mount("vdb", "/srv")
		}, forIdle, true, "vdb → /srv"},
		{"drives behind VMD", "vmd", 0x010400, func(m *machine) {
			m.block(home+"/pci10000:e0/10000:e1:00.0/nvme/nvme3/nvme3n1", blank)
			m.mount("nvme3n1", "/srv")
		}, forIdle, true, "nvme3n1 → /srv"},
		{"what no finder knows", "nouveau", gpu, func(m *machine) {}, forIdle, false,
			"no use found; not checked: who uses a device of class 0x030000 on nouveau"},
		{"the same, to be blank", "nouveau", gpu, func(m *machine) {}, forBlank, true,
			"nothing can be checked of a device of class 0x030000 on nouveau"},
		{"a graphics card that a program draws on", "nouveau", gpu, func(m *machine) {
			m.node("drm/card0", "226:0")
			m.holds(123, "Xorg", m.path("dev/card0"))
		}, forIdle, true, "card0 → Xorg (process 123); not checked: who uses a device of class 0x030000 on nouveau"},
		{"a graphics card, with an fstab that cannot be read", "nouveau", gpu, func(m *machine) {
			m.node("drm/card0", "226:0")
			m.mkdir("etc/fstab")
		}, forIdle, false, "no use found; not checked: who uses a device of class 0x030000 on nouveau"},
		{"a host adapter with a disk that fstab names", "mpt3sas", hba, func(m *machine) {
			m.block(disk, blank)
			m.file("etc/fstab", "/dev/sda /srv xfs\n")
		}, forIdle, true, "sda → /etc/fstab line 1: /dev/sda on /srv"},
		{"a disk of a host adapter, by its generic node", "mpt3sas", hba, func(m *machine) {
			m.block(disk, blank)
			m.node("host0/target0:0:0/0:0:0:0/scsi_generic/sg0", "21:0")
			m.holds(123, "sg_dd", m.path("dev/sg0"))
		}, forIdle, true, "sg0 → sg_dd (process 123)"},
		{"a device that waits in pci-stub", "pci-stub", pci.NVMe, func(m *machine) {}, forIdle, false, "no use found; not checked: no driver has read it"},
		{"a device without a driver", "", pci.NVMe, func(m *machine) {}, forIdle, false, "no use found; not checked: no driver has read it"},
		{"on vfio, its group open", "vfio-pci", pci.NVMe, func(m *machine) {
			m.mkdir("sys/" + home + "/vfio-dev/vfio0")
			m.linkTo(home+"/iommu_group", "kernel/iommu_groups/12")
			m.file("dev/vfio/12", "")
			m.holds(123, "qemu", m.path("dev/vfio/12"))
		}, forIdle, true, "MACHINE/dev/vfio/12 → qemu (process 123)"},
		{"on vfio, its own node open", "vfio-pci", pci.NVMe, func(m *machine) {
			m.mkdir("sys/" + home + "/vfio-dev/vfio0")
			m.file("dev/vfio/devices/vfio0", "")
			m.holds(123, "qemu", m.path("dev/vfio/devices/vfio0"))
		}, forIdle, true, "MACHINE/dev/vfio/devices/vfio0 → qemu (process 123)"},
		{"on vfio, nobody there", "vfio-pci", nic, func(m *machine) {
			m.mkdir("sys/" + home + "/vfio-dev/vfio0")
			m.linkTo(home+"/iommu_group", "kernel/iommu_groups/12")
			m.file("dev/vfio/12", "")
			m.holds(123, "qemu", m.path("dev/nothing"))
		}, forIdle, false, "unused"},
		{"a drive on vfio, to be blank", "vfio-pci", pci.NVMe, func(m *machine) {
			m.mkdir("sys/" + home + "/vfio-dev/vfio0")
			m.file("dev/vfio/devices/vfio0", "")
			m.holds(123, "qemu", m.path("dev/nothing"))
		}, forBlank, true,
			"what is on it cannot be read on vfio-pci"},
		{"on uio, open", "uio_pci_generic", pci.NVMe, func(m *machine) {
			m.mkdir("sys/" + home + "/uio/uio3")
			m.file("dev/uio3", "")
			m.holds(123, "spdk_tgt", m.path("dev/uio3"))
		}, forIdle, true, "MACHINE/dev/uio3 → spdk_tgt (process 123)"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := bare(t)
			c.make(m)
			report, hold, err := m.look(c.driver, c.class, c.how)
			must(t, err)
			defer hold.Close()
			if got := strings.ReplaceAll(report.String(), m.dir, "MACHINE"); got != c.says || report.Veto() != c.veto {
				t.Errorf("veto %v, report\n%s\nwant %v\n%s", report.Veto(), got, c.veto, c.says)
			}
			if report.Veto() != (report.Remedy() != "") {
				t.Errorf("remedy %q", report.Remedy())
			}
		})
	}
}

func TestHoldersAreFoundByTheFileAndNotByItsPath(t *testing.T) {
	m := bare(t)
	node := m.path("dev/vfio/12")
	m.file("dev/vfio/12", "")
	m.file("container/dev/vfio/13", "")
	m.mkdir("container/dev")
	must(t, os.Link(node, m.path("container/dev/12")))
	m.holds(30, "inside", m.path("container/dev/12"))
	m.holds(20, "other", m.path("container/dev/vfio/13"))
	m.holds(10, "plain", node)
	m.file("proc/self/comm", "not a process\n")
	holders, err := Holders(m.path("proc"), node)
	must(t, err)
	if got := fmt.Sprint(holders); got != "[plain (process 10) inside (process 30)]" {
		t.Errorf("holders %s", got)
	}
}

func TestHoldersThatMayHideAreAnError(t *testing.T) {
	m := bare(t)
	m.passable()
	m.file("dev/uio0", "")
	m.holds(10, "plain", m.path("dev/uio1"))
	must(t, os.RemoveAll(m.path("proc/10/fd")))
	must(t, os.Symlink(m.path("dev/closed/fd"), m.path("proc/10/fd")))
	must(t, os.MkdirAll(m.path("dev/closed"), 0))
	defer os.Chmod(m.path("dev/closed"), 0o755)
	unprivileged(func() {
		_, err := Holders(m.path("proc"), m.path("dev/uio0"))
		if !errors.Is(err, fs.ErrPermission) || !strings.HasPrefix(err.Error(), "look into 1 process: ") {
			t.Errorf("error %v, want permission denied", err)
		}
	})
	m.file("proc/10/status", "Name:\tplain\nFDSize:\t0\n") // it has ended meanwhile
	unprivileged(func() {
		holders, err := Holders(m.path("proc"), m.path("dev/uio0"))
		if len(holders) > 0 || err != nil {
			t.Errorf("holders %v, error %v", holders, err)
		}
	})
}

// Whatever keeps a process from being looked into, it may be a holder.
func TestWhatCannotBeSeenMayBeAHolder(t *testing.T) {
	for name, c := range map[string]struct {
		make func(*machine)
		says string
	}{
		"a table that cannot be read": {func(m *machine) { m.file("proc/10/fd", "") }, "look into 1 process: readdirent"},
		"a descriptor that cannot be followed": {func(m *machine) { m.file("proc/10/fd/3", "no link") },
			"look into 1 process: readlink"},
		"a file that cannot be asked": {func(m *machine) {
			m.link("proc/10/fd/3", m.path("loop/uio0"))
			m.link("loop/uio0", "uio0")
		}, "look into 1 process: stat"},
		"no process": {func(m *machine) { m.remove("proc") }, "look through the processes: open"},
	} {
		t.Run(name, func(t *testing.T) {
			m := bare(t)
			m.file("dev/uio0", "")
			m.process(10, "plain", 1)
			c.make(m)
			holders, err := Holders(m.path("proc"), m.path("dev/uio0"))
			if err == nil || errors.Is(err, fs.ErrNotExist) || !strings.HasPrefix(err.Error(), c.says) {
				t.Errorf("holders %v, error %v, want %q", holders, err, c.says)
			}
		})
	}
}

func TestANodeThatIsNotThereHasNoHolders(t *testing.T) {
	if _, err := Holders("/proc", filepath.Join(t.TempDir(), "uio0")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v, want not exist", err)
	}
}
