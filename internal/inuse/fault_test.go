package inuse

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"testing"

	"vfio-hotplug/internal/pci"
	"vfio-hotplug/internal/sysfs"
)

// faultyDir fails the n-th call of any of its tree, counted from 1.
type faultyDir struct {
	sysfs.Dir
	calls *int
	fail  int
	err   error
	last  *string
}

func (d faultyDir) step(op, name string) error {
	*d.calls++
	if *d.calls != d.fail {
		return nil
	}
	*d.last = op + " " + d.Path() + "/" + name
	return &fs.PathError{Op: op, Path: name, Err: d.err}
}

func (d faultyDir) Open(name string) (sysfs.Dir, error) {
	if err := d.step("open", name); err != nil {
		return nil, err
	}
	below, err := d.Dir.Open(name)
	if err != nil {
		return nil, err
	}
	d.Dir = below
	return d, nil
}

func (d faultyDir) Read(name string) (string, error) {
	if err := d.step("read", name); err != nil {
		return "", err
	}
	return d.Dir.Read(name)
}

func (d faultyDir) Readlink(name string) (string, error) {
	if err := d.step("readlink", name); err != nil {
		return "", err
	}
	return d.Dir.Readlink(name)
}

func (d faultyDir) List(name string) ([]string, error) {
	if err := d.step("list", name); err != nil {
		return nil, err
	}
	return d.Dir.List(name)
}

func (d faultyDir) Subdirs(name string) (int, error) {
	if err := d.step("count", name); err != nil {
		return 0, err
	}
	return d.Dir.Subdirs(name)
}

func TestNoFaultMakesAUsedDeviceLookFree(t *testing.T) {
	for _, c := range []struct {
		name   string
		driver string
		make   func(*machine)
	}{
		{"a volume", "nvme", func(m *machine) {
			m.namespace(1, blank)
			m.built("md0", "", m.partition("nvme0n1", 2))
			m.built("dm-3", "vg-data", "md0")
			m.mount("dm-3", "/srv")
		}},
		{"a partition of an array", "nvme", func(m *machine) {
			m.namespace(1, blank)
			m.built("md0", "", "nvme0n1")
			m.mount(m.partition("md0", 1), "/srv")
		}},
		{"a volume that nobody uses", "nvme", func(m *machine) {
			m.namespace(1, blank)
			m.built("dm-0", "vg-a", "nvme0n1")
		}},
		{"a path of a mounted namespace", "nvme", func(m *machine) {
			m.multipath(1)
			m.mount("nvme5n1", "/srv")
		}},
		{"btrfs on two devices", "nvme", func(m *machine) {
			m.namespace(1, blank)
			m.add("proc/1/mountinfo", "98 21 0:40 / /pool rw - btrfs /dev/sdz rw\n")
			m.linkTo("fs/btrfs/0123/devices/nvme0n1", home+"/nvme/nvme0/nvme0n1")
		}},
		{"a loop device", "nvme", func(m *machine) {
			m.loop("loop0", "/dev/nvme0n1", m.namespace(1, blank))
			m.mount("loop0", "/srv")
		}},
		{"a loop device that nobody uses", "nvme", func(m *machine) {
			m.loop("loop0", "/dev/nvme0n1", m.namespace(1, blank))
		}},
		{"a namespace that is mounted through another controller", "nvme", func(m *machine) {
			m.namespace(1, blank)
			m.mount(m.twin("nvme7", 1), "/srv")
		}},
		{"a namespace that nvmet exports", "nvme", func(m *machine) {
			m.namespace(1, blank)
			m.exported("/dev/nvme0n1", "1")
		}},
		{"a namespace that LIO exports", "nvme", func(m *machine) {
			m.namespace(1, blank)
			m.configure("target/core/iblock_0/disk1", "enable", "1", "udev_path", "/dev/nvme0n1", "info", "Major: 259 Minor: 1  CLAIMED: IBLOCK")
		}},
		{"a namespace not scanned", "nvme", func(m *machine) { m.namespace(1, blank); m.active(2) }},
		{"a namespace that a program has open", "nvme", func(m *machine) {
			m.holds(123, "postgres", m.path("dev/"+m.namespace(1, blank)))
		}},
		{"a partition that a program has open", "nvme", func(m *machine) {
			m.namespace(1, blank)
			m.holds(123, "postgres", m.path("dev/"+m.partition("nvme0n1", 2)))
		}},
		{"a controller that a program has open", "nvme", func(m *machine) { m.holds(123, "nvme", m.path("dev/nvme0")) }},
		{"a generic node that a program has open", "nvme", func(m *machine) {
			m.namespace(1, blank)
			m.holds(123, "xnvme", m.generic("ng0n1"))
		}},
		{"a generic node of a disk that a program has open", "mpt3sas", func(m *machine) {
			m.remove("sys/" + home + "/nvme")
			m.block(home+"/host0/target0:0:0/0:0:0:0/block/sda", blank)
			m.node("host0/target0:0:0/0:0:0:0/scsi_generic/sg0", "21:0")
			m.holds(123, "sg_dd", m.path("dev/sg0"))
		}},
		{"an adapter without disks", "mpt3sas", func(m *machine) { m.remove("sys/" + home + "/nvme") }},
		{"a network card", "e1000e", func(m *machine) {
			m.remove("sys/" + home + "/nvme")
			m.network("net/eth0", "0x1003")
		}},
		{"a network card with a uio device", "bnx2x", func(m *machine) {
			m.remove("sys/" + home + "/nvme")
			m.node("uio/uio0", "240:9")
			m.network("net/eth0", "0x1003")
		}},
		{"a target without its directory", "nvme", func(m *machine) {
			m.namespace(1, blank)
			m.mkdir("sys/module/nvmet")
		}},
		{"a disk of a host adapter", "mpt3sas", func(m *machine) {
			m.remove("sys/" + home + "/nvme")
			m.block(home+"/host0/target0:0:0/0:0:0:0/block/sda", blank)
			m.mount("sda", "/srv")
		}},
		{"a node of the driver that a program has open", "bc", func(m *machine) {
			m.remove("sys/" + home + "/nvme")
			m.file("proc/devices", "Character devices:\n240 big_card\n")
			m.linkTo("bus/pci/drivers/bc/module", "module/big_card")
			m.linkTo("dev/char/240:0", "devices/virtual/card/card0")
			m.network("net/eth0", "0x1002")
			m.holds(123, "tool", m.unlistedNode("card0", 240, 0))
		}},
		{"memory that the machine has", "cxl_pci", func(m *machine) {
			m.remove("sys/" + home + "/nvme")
			m.network("net/eth0", "0x1002")
			m.cxl("0x1000", "region0")
			m.dax("region0", "kmem")
		}},
		{"memory of a hypervisor", "virtio-pci", func(m *machine) {
			m.remove("sys/" + home + "/nvme")
			m.network("net/eth0", "0x1002")
			m.linkTo(home+"/virtio3/driver", "bus/virtio/drivers/virtio_mem")
		}},
		{"a group that a program has open", "vfio-pci", func(m *machine) {
			m.remove("sys/" + home + "/nvme")
			m.mkdir("sys/" + home + "/vfio-dev/vfio0")
			m.linkTo(home+"/iommu_group", "kernel/iommu_groups/12")
			m.file("dev/vfio/12", "")
			m.holds(123, "qemu", m.path("dev/vfio/12"))
		}},
	} {
		for _, fault := range []error{syscall.EIO, syscall.EACCES, syscall.ENOMEM} {
			t.Run(fmt.Sprintf("%s/%v", c.name, fault), func(t *testing.T) {
				m := newMachine(t)
				c.make(m)
				class := pci.NVMe
				if _, err := os.Stat(m.path("sys/" + home + "/net")); err == nil && c.driver != "e1000e" {
					class = nic // of which the interface that is down says nothing
				}
				f, _ := m.finder()
				root := f.sys
				for n, ended := 1, false; !ended; n++ {
					calls, last := -1, "" // the first opens the device
					faulty := faultyDir{root, &calls, n, fault, &last}
					device, err := sysfs.New(faulty, nil).Open(drive)
					must(t, err)
					f.sys = faulty
					report, hold, err := f.Look(t.Context(), device, pci.Device{Driver: c.driver, Class: class}, forIdle)
					must(t, device.Close())
					if err == nil && !report.Veto() {
						t.Errorf("after a failed %s: %s", last, report)
					}
					if hold != nil || !m.nodes.allClosed() {
						t.Errorf("after a failed %s it is still held", last)
					}
					ended = calls < n
				}
			})
		}
	}
}
