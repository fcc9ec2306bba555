package inuse

import (
	"errors"
	"os"
	"strings"
	"testing"

	"vfio-hotplug/internal/pci"
)

// carries makes blkid find something on a disk.
func (m *machine) carries(name string, properties ...string) {
	m.t.Helper()
	m.file("dev/"+name, "0\n"+strings.Join(properties, "\n")+"\n")
	must(m.t, os.Truncate(m.path("dev/"+name), diskBytes))
}

const (
	uuid = "9652fc43-a7ad-46ed-9625-bf62c0ce1ddc"
	ext  = "ID_FS_TYPE=ext4"
	pv   = "ID_FS_TYPE=LVM2_member"
	raid = "ID_FS_USAGE=raid"
)

// named is a machine whose drive has one namespace with two partitions, the
// second with an ext4.
func named(t *testing.T) *machine {
	t.Helper()
	m := newMachine(t)
	m.namespace(1, blank)
	m.partition("nvme0n1", 1)
	m.carries(m.partition("nvme0n1", 2), ext, "ID_FS_UUID_ENC="+uuid, `ID_FS_LABEL_ENC=my\x20data`,
		"ID_PART_ENTRY_UUID=0badcafe-02", `ID_PART_ENTRY_NAME=Linux\x20filesystem`)
	m.file("proc/cmdline", "BOOT_IMAGE=/vmlinuz root=/dev/vda1 ro quiet\n")
	m.file("etc/fstab", "# a comment\n\nproc /proc proc defaults 0 0\nserver:/a /a nfs defaults\n")
	return m
}

func TestADriveThatSomebodyHasPutDownForUse(t *testing.T) {
	for _, c := range []struct {
		name  string
		fstab string // its fifth line
		crypt string
		boot  string
		make  func(*machine)
		says  string
	}{
		{name: "by its node", fstab: "/dev/nvme0n1p1 /srv xfs noauto",
			says: "nvme0n1p1 → /etc/fstab line 5: /dev/nvme0n1p1 on /srv"},
		{name: "by the whole disk's node, as swap", fstab: "/dev/nvme0n1 none swap sw",
			says: "nvme0n1 → /etc/fstab line 5: /dev/nvme0n1 as swap"},
		{name: "by a link", fstab: "/dev/disk/by-id/nvme-eui.1-part1 /srv xfs",
			make: func(m *machine) { m.link("dev/disk/by-id/nvme-eui.1-part1", m.path("dev/nvme0n1p1")) },
			says: "nvme0n1p1 → /etc/fstab line 5: /dev/disk/by-id/nvme-eui.1-part1 on /srv"},
		{name: "by ID", fstab: "ID=nvme-eui.1-part1 /srv xfs",
			make: func(m *machine) { m.link("dev/disk/by-id/nvme-eui.1-part1", m.path("dev/nvme0n1p1")) },
			says: "nvme0n1p1 → /etc/fstab line 5: ID=nvme-eui.1-part1 on /srv"},
		{name: "by UUID", fstab: "UUID=" + uuid + `	/my\040data	ext4`,
			says: "nvme0n1p2 → /etc/fstab line 5: UUID=" + uuid + " on /my data"},
		{name: "by UUID, in capitals and quotes", fstab: `UUID="` + strings.ToUpper(uuid) + `" /srv ext4`,
			says: `nvme0n1p2 → /etc/fstab line 5: UUID="` + strings.ToUpper(uuid) + `" on /srv`},
		{name: "by the link of its UUID, which is not there", fstab: "/dev/disk/by-uuid/" + uuid + " /srv ext4",
			says: "nvme0n1p2 → /etc/fstab line 5: /dev/disk/by-uuid/" + uuid + " on /srv"},
		{name: "by UUID, which leads to its twin as well", fstab: "UUID=" + uuid + " /srv ext4",
			make: func(m *machine) { m.link("dev/disk/by-uuid/"+uuid, m.path("dev/"+m.other("nvme9n1"))) },
			says: "nvme0n1p2 → /etc/fstab line 5: UUID=" + uuid + " on /srv"},
		{name: "by label", fstab: `LABEL=my\040data /srv ext4`,
			says: `nvme0n1p2 → /etc/fstab line 5: LABEL=my\040data on /srv`},
		{name: "by the link of its label", fstab: `/dev/disk/by-label/my\x20data /srv ext4`,
			says: `nvme0n1p2 → /etc/fstab line 5: /dev/disk/by-label/my\x20data on /srv`},
		{name: "by PARTUUID", fstab: "PARTUUID=0BADCAFE-02 /srv ext4",
			says: "nvme0n1p2 → /etc/fstab line 5: PARTUUID=0BADCAFE-02 on /srv"},
		{name: "by PARTLABEL", fstab: `PARTLABEL=Linux\040filesystem /srv ext4`,
			says: `nvme0n1p2 → /etc/fstab line 5: PARTLABEL=Linux\040filesystem on /srv`},
		{name: "by a head, through its path", fstab: "/dev/nvme5n1 /srv xfs",
			make: func(m *machine) { m.multipath(2) },
			says: "nvme5c0n1 → nvme5n1 → /etc/fstab line 5: /dev/nvme5n1 on /srv"},
		{name: "in crypttab", crypt: "# name device\nsecret UUID=" + uuid + " none luks",
			says: "nvme0n1p2 → /etc/crypttab line 2: UUID=" + uuid + " as secret"},
		{name: "in two places", fstab: "LABEL=data /srv ext4\n/dev/nvme0n1p2 /srv ext4", crypt: "secret /dev/nvme0n1p1",
			says: "nvme0n1p1 → /etc/crypttab line 1: /dev/nvme0n1p1 as secret; nvme0n1p2 → /etc/fstab line 6: /dev/nvme0n1p2 on /srv"},
		{name: "to boot from", boot: "root=UUID=" + uuid,
			says: "nvme0n1p2 → kernel command line: root=UUID=" + uuid},
		{name: "to boot from, by a partition's place", boot: "root=PARTUUID=0badcafe-02/PARTNROFF=1",
			says: "nvme0n1p2 → kernel command line: root=PARTUUID=0badcafe-02/PARTNROFF=1"},
		{name: "to boot from, by number", boot: "root=259:2",
			says: "nvme0n1p1 → kernel command line: root=259:2"},
		{name: "to resume from", boot: "resume=/dev/nvme0n1p1",
			says: "nvme0n1p1 → kernel command line: resume=/dev/nvme0n1p1"},
		{name: "to unlock at boot", boot: "rd.luks.uuid=luks-" + uuid,
			says: "nvme0n1p2 → kernel command line: rd.luks.uuid=luks-" + uuid},
		{name: "to unlock at boot, with a name", boot: "rd.luks.name=" + uuid + "=secret",
			says: "nvme0n1p2 → kernel command line: rd.luks.name=" + uuid + "=secret"},
		{name: "to assemble at boot", boot: "rd.md.uuid=9652fc43:a7ad46ed:9625bf62:c0ce1ddc",
			says: "nvme0n1p2 → kernel command line: rd.md.uuid=9652fc43:a7ad46ed:9625bf62:c0ce1ddc"},
		{name: "to open at boot", boot: "cryptdevice=PARTLABEL=other:x cryptdevice=/dev/nvme0n1p1:secret",
			says: "nvme0n1p1 → kernel command line: cryptdevice=/dev/nvme0n1p1:secret"},
		{name: "in a unit that mounts", make: func(m *machine) {
			m.file("etc/systemd/system/srv.mount", "[Unit]\nDescription=Data\n[Mount]\nWhat=/dev/disk/by-uuid/"+uuid+"\nWhere=/srv\n")
		}, says: "nvme0n1p2 → /etc/systemd/system/srv.mount: /dev/disk/by-uuid/" + uuid + " on /srv"},
		{name: "in a unit that swaps", make: func(m *machine) {
			m.file("usr/lib/systemd/system/dev-nvme0n1p1.swap", "[Swap]\nWhat=/dev/nvme0n1p1\n")
		}, says: "nvme0n1p1 → /usr/lib/systemd/system/dev-nvme0n1p1.swap: /dev/nvme0n1p1 as swap"},
		{name: "in a drop-in of a unit", make: func(m *machine) {
			m.file("etc/systemd/system/srv.mount.d/what.conf", "[Mount]\nWhat=/dev/nvme0n1p1\n")
		}, says: "nvme0n1p1 → /etc/systemd/system/srv.mount.d/what.conf: /dev/nvme0n1p1"},
		{name: "in a unit that cannot be understood", make: func(m *machine) {
			m.file("etc/systemd/system/srv.mount", "[Mount\n")
		}, says: "what is named for use cannot be read: /etc/systemd/system/srv.mount: unable to find end of section"},

		{name: "inside a volume group that is not active", fstab: "/dev/vg/data /srv ext4",
			make: func(m *machine) { m.carries("nvme0n1p1", pv, raid) },
			says: "nvme0n1p1 carries LVM2_member, and may hold what is not there of /etc/fstab line 5: /dev/vg/data on /srv"},
		{name: "inside an array that is not assembled", fstab: "UUID=1234-ABCD /srv vfat",
			make: func(m *machine) { m.carries("nvme0n1", "ID_FS_TYPE=linux_raid_member", raid) },
			says: "nvme0n1 carries linux_raid_member, and may hold what is not there of /etc/fstab line 5: UUID=1234-ABCD on /srv"},
		{name: "inside a container that is not open", crypt: "b /dev/md/b", fstab: "/dev/vda1 /other ext4",
			make: func(m *machine) {
				m.carries("nvme0n1p1", "ID_FS_TYPE=crypto_LUKS", "ID_FS_USAGE=crypto")
				m.other("vda1")
			},
			says: "nvme0n1p1 carries crypto_LUKS, and may hold what is not there of /etc/crypttab line 1: /dev/md/b as b"},
		{name: "inside a volume to boot from", boot: "rd.lvm.lv=vg/root",
			make: func(m *machine) { m.carries("nvme0n1p1", pv, raid) },
			says: "nvme0n1p1 carries LVM2_member, and may hold what is not there of kernel command line: rd.lvm.lv=vg/root"},
		{name: "inside a pool", fstab: "/dev/zvol/tank/data /srv ext4",
			make: func(m *machine) { m.carries("nvme0n1p1", "ID_FS_TYPE=zfs_member", "ID_FS_USAGE=filesystem") },
			says: "nvme0n1p1 carries zfs_member, and may hold what is not there of /etc/fstab line 5: /dev/zvol/tank/data on /srv"},

		{name: "in a table that cannot be read", make: func(m *machine) { m.remove("etc/fstab"); m.mkdir("etc/fstab") },
			says: "what is named for use cannot be read: read MACHINE/etc/fstab: is a directory"},
		{name: "by a UUID, of a disk that cannot be read", fstab: "UUID=" + uuid + " /srv ext4",
			make: func(m *machine) { must(m.t, os.Truncate(m.path("dev/nvme0n1"), 0)) },
			says: "nvme0n1p2 → /etc/fstab line 5: UUID=" + uuid + " on /srv; nvme0n1 cannot be read at byte 0: EOF"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := named(t)
			m.add("etc/fstab", c.fstab+"\n")
			m.file("etc/crypttab", c.crypt+"\n")
			m.file("proc/cmdline", "ro "+c.boot+" quiet\n")
			if c.make != nil {
				c.make(m)
			}
			report, hold, err := m.look("nvme", pci.NVMe, forIdle)
			must(t, err)
			if got := strings.ReplaceAll(report.String(), m.dir, "MACHINE"); got != c.says || !report.Veto() {
				t.Errorf("veto %v, report\n%s\nwant\n%s", report.Veto(), got, c.says)
			}
			if report.Remedy() == "" || hold != nil || !m.nodes.allClosed() {
				t.Errorf("remedy %q, hold %v", report.Remedy(), hold)
			}
		})
	}
}

func TestWhatDoesNotNameADrive(t *testing.T) {
	for name, make := range map[string]func(*machine){
		"another's node": func(m *machine) { m.add("etc/fstab", "/dev/"+m.other("nvme9n1")+" /srv ext4\n") },
		"a unit of something else": func(m *machine) {
			m.file("usr/lib/systemd/system/dev-hugepages.mount", "[Mount]\nWhat=hugetlbfs\nWhere=/dev/hugepages\nType=hugetlbfs\n")
			m.file("etc/systemd/system/a.service", "[Service]\nWhat=/dev/nvme0n1p1\n")
			m.link("etc/systemd/system/masked.mount", "/dev/null")
		},
		"another's UUID":               func(m *machine) { m.add("etc/fstab", "UUID=1234-ABCD /srv vfat\n") },
		"a label that is its UUID":     func(m *machine) { m.add("etc/fstab", "LABEL="+uuid+" /srv ext4\n") },
		"a label in other letters":     func(m *machine) { m.add("etc/fstab", `LABEL=My\040Data /srv ext4`+"\n") },
		"a comment":                    func(m *machine) { m.add("etc/fstab", "#UUID="+uuid+" /srv ext4\n #UUID="+uuid+" /srv ext4\n") },
		"an empty tag":                 func(m *machine) { m.add("etc/fstab", "UUID= /a x\nLABEL=\"\" /a x\nID= /a x\nPARTLABEL= /a x\n") },
		"a file with the UUID's name":  func(m *machine) { m.add("etc/fstab", "/srv/UUID="+uuid+" /srv ext4 loop\n") },
		"a word of another program":    func(m *machine) { m.file("proc/cmdline", "other.root=UUID="+uuid+" root\n") },
		"no tables at all":             func(m *machine) { m.remove("etc"); m.remove("proc/cmdline") },
		"a character device's numbers": func(m *machine) { m.node("other", "259:1"); m.add("etc/fstab", "/dev/other /a x\n") },
		"an LVM member, where all that is named is there": func(m *machine) {
			m.carries("nvme0n1p1", pv, raid)
			m.add("etc/fstab", "/dev/"+m.other("nvme9n1")+" /srv ext4\n")
		},
		"an LVM member, where what is named is mounted": func(m *machine) {
			m.carries("nvme0n1p1", pv, raid)
			m.add("etc/fstab", "UUID=1234-ABCD /boot/efi vfat\n")
			m.mount(m.other("nvme9n1"), "/boot/efi")
		},
		"an LVM member, and a drive for floppy disks that is not there": func(m *machine) {
			m.carries("nvme0n1p1", pv, raid)
			m.add("etc/fstab", "/dev/fd0 /media/floppy auto noauto\n/dev/sr0 /media/cdrom udf noauto\n/dev/shm /a none bind\n")
			m.mkdir("dev/shm")
		},
		"what is in no container": func(m *machine) { m.add("etc/fstab", "/dev/vg/data /srv ext4\n") },
	} {
		t.Run(name, func(t *testing.T) {
			m := named(t)
			make(m)
			report, hold, err := m.look("nvme", pci.NVMe, forIdle)
			must(t, err)
			defer hold.Close()
			if report.Veto() || report.String() != "unused" {
				t.Errorf("report %q", report)
			}
		})
	}
}

func TestADriveInUseIsNotReadForItsName(t *testing.T) {
	m := named(t)
	m.add("etc/fstab", "UUID="+uuid+" /srv ext4\n")
	m.mount("nvme0n1p2", "/srv")
	report, _, err := m.look("nvme", pci.NVMe, forBlank)
	must(t, err)
	if report.String() != "nvme0n1p2 → /srv" {
		t.Errorf("report %q", report)
	}
}

func TestBlankNamesTheNameAndTheSignature(t *testing.T) {
	m := named(t)
	m.carries("nvme0n1", "ID_PART_TABLE_TYPE=gpt")
	m.add("etc/fstab", "UUID="+uuid+" /srv ext4\n")
	report, _, err := m.look("nvme", pci.NVMe, forBlank)
	must(t, err)
	if want := "nvme0n1p2 → /etc/fstab line 5: UUID=" + uuid + " on /srv; nvme0n1 carries a partition table (gpt)"; report.String() != want {
		t.Errorf("report\n%s\nwant\n%s", report, want)
	}
}

func TestUdevsLinksAreWaitedFor(t *testing.T) {
	m := named(t)
	m.add("etc/fstab", "ID=nvme-eui.1-part1 /srv xfs\n")
	m.file("run/udev/data/b259:1", "I:1\n")
	m.file("run/udev/data/b259:3", "I:1\n")
	_, hold, err := m.look("nvme", pci.NVMe, forIdle)
	unsettled, ok := errors.AsType[*NotSettledError](err)
	if !ok || hold != nil || !strings.HasSuffix(unsettled.Error(), "udev has not made its links for nvme0n1p1 yet") {
		t.Errorf("error %v", err)
	}
	m.file("run/udev/data/b259:2", "I:1\n")
	report, hold, err := m.look("nvme", pci.NVMe, forIdle)
	must(t, err)
	defer hold.Close()
	if report.Veto() {
		t.Errorf("report %q", report)
	}
}

// ZFS and the like claim a drive and show nowhere.
func TestAClaimThatNothingShowsSaysWhatIsThere(t *testing.T) {
	m := named(t)
	m.carries("nvme0n1", "ID_PART_TABLE_TYPE=gpt")
	m.carries("nvme0n1p1", "ID_FS_TYPE=zfs_member", "ID_FS_LABEL_ENC=tank")
	m.nodes.claimed = m.path("dev/nvme0n1")
	report, _, err := m.look("nvme", pci.NVMe, forIdle)
	must(t, err)
	const want = `nvme0n1p1 → zfs_member "tank", and claimed, but nothing shows by whom; ` +
		`nvme0n1p2 → ext4 "my data", and claimed, but nothing shows by whom`
	if report.String() != want || report.Remedy() != "see what is built on it: lsblk /dev/nvme0n1p1" {
		t.Errorf("report\n%s\nwant\n%s\nremedy %s", report, want, report.Remedy())
	}
}

// What udev and blkid 2.38 really make of it.
func TestEncodingIsUdevs(t *testing.T) {
	for plain, want := range map[string]string{
		"my dä$ta":         `my\x20dä\x24ta`,
		"a/b\\c":           `a\x2fb\x5cc`,
		"x#+-.:=@_9":       "x#+-.:=@_9",
		"\xff\n":           `\xff\x0a`,
		"Linux filesystem": `Linux\x20filesystem`,
	} {
		if got := encode(plain); got != want {
			t.Errorf("%q is %s, want %s", plain, got, want)
		}
	}
}

func FuzzEncoding(f *testing.F) {
	f.Add("my dä$ta")
	f.Add(`\x2`)
	f.Fuzz(func(t *testing.T, value string) {
		if back := decode(encode(value)); back != value {
			t.Errorf("%q came back as %q", value, back)
		}
		decode(value)
	})
}

func FuzzTables(f *testing.F) {
	f.Add("UUID=1234-ABCD /srv vfat\nsecret /dev/sda1 none luks\nroot=PARTUUID=1/PARTNROFF=1 rd.luks.name=1=a")
	f.Fuzz(func(t *testing.T, text string) {
		for _, table := range tables {
			entries, _ := table.parse(text)
			for _, e := range entries {
				if !strings.HasPrefix(e.node, "/dev/") || e.tag != "" && e.value == "" {
					t.Errorf("%+v", e)
				}
			}
		}
	})
}
