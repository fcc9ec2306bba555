package inuse

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestWhatTheMachineWaitsFor(t *testing.T) {
	for _, c := range []struct {
		name  string
		fstab string // its fifth line
		crypt string
		boot  string
		make  func(*machine)
		want  string
	}{
		{name: "nothing"},
		{name: "a label", fstab: "LABEL=data /srv ext4 defaults 0 2", want: "/etc/fstab line 5: LABEL=data on /srv"},
		{name: "a label that the boot can do without", fstab: "LABEL=data /srv ext4 ro,nofail,x-systemd.automount"},
		{name: "a label that is mounted by hand", fstab: "LABEL=data /srv ext4 noauto,user"},
		{name: "swap that the boot can do without", fstab: "/dev/vg/swap none swap sw,nofail"},
		{name: "a label, with words that only look so", fstab: "LABEL=data /srv ext4 nofailure,x-noauto", want: "/etc/fstab line 5: LABEL=data on /srv"},
		{name: "a container that the boot can do without", crypt: "secret UUID=1234-ABCD none luks,nofail"},
		{name: "a container that is opened by hand", crypt: "secret UUID=1234-ABCD none noauto"},
		{name: "one of several devices", fstab: "/dev/sdb1:/dev/nvme3n1 /srv bcachefs", want: "/etc/fstab line 5: /dev/sdb1:/dev/nvme3n1 on /srv"},
		{name: "a label that is there", fstab: "LABEL=data /srv ext4",
			make: func(m *machine) { m.link("dev/disk/by-label/data", m.path("dev/"+m.other("sda1"))) }},
		{name: "a label that is mounted", fstab: "LABEL=data /srv ext4",
			make: func(m *machine) { m.file("proc/self/mountinfo", "22 1 8:1 / /srv rw - ext4 /dev/sda1 rw\n") }},
		{name: "a volume", fstab: "/dev/vg/data /srv ext4", want: "/etc/fstab line 5: /dev/vg/data on /srv"},
		{name: "a volume's other name", fstab: "/dev/mapper/vg-swap none swap sw", want: "/etc/fstab line 5: /dev/mapper/vg-swap as swap"},
		{name: "an array", fstab: "/dev/md0 /srv ext4", want: "/etc/fstab line 5: /dev/md0 on /srv"},
		{name: "a drive by its node", fstab: "/dev/nvme3n1 /srv ext4", want: "/etc/fstab line 5: /dev/nvme3n1 on /srv"},
		{name: "a drive by its place", fstab: "/dev/disk/by-path/pci-0000:01:00.0-nvme-1 /srv ext4",
			want: "/etc/fstab line 5: /dev/disk/by-path/pci-0000:01:00.0-nvme-1 on /srv"},
		{name: "a container", crypt: "secret UUID=1234-ABCD none luks", want: "/etc/crypttab line 1: UUID=1234-ABCD as secret"},
		{name: "a place to resume from", boot: "resume=UUID=1234-ABCD", want: "kernel command line: resume=UUID=1234-ABCD"},
		{name: "the root, which is there by another name", boot: "root=PARTUUID=1234-ABCD"},
		{name: "a CD drive", fstab: "/dev/sr0 /media/cdrom0 udf,iso9660 user,noauto"},
		{name: "a CD drive's link", fstab: "/dev/cdrom /media/cdrom0 udf,iso9660 user,noauto"},
		{name: "a USB disk", fstab: "/dev/disk/by-id/usb-Stick-0:0-part1 /media/stick vfat noauto"},
		{name: "a SATA disk", fstab: "/dev/sdb1 /backup ext4 nofail"},
		{name: "a server's directory", fstab: "other:/a /b nfs"},
		{name: "a unit's device", make: func(m *machine) {
			m.file("etc/systemd/system/srv.mount", "[Mount]\nWhat=/dev/vg/data\nWhere=/srv\n")
		}, want: "/etc/systemd/system/srv.mount: /dev/vg/data on /srv"},
		{name: "a list of ZFS pools", make: func(m *machine) { m.file("etc/zfs/zpool.cache", "tank") }, want: "/etc/zfs/zpool.cache: ZFS pools"},
		{name: "an empty list of ZFS pools", make: func(m *machine) { m.file("etc/zfs/zpool.cache", "") }},
		{name: "one of two", fstab: "/dev/sdb1 /backup ext4\nLABEL=data /srv ext4", want: "/etc/fstab line 6: LABEL=data on /srv"},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := named(t)
			m.add("etc/fstab", c.fstab+"\n")
			m.file("etc/crypttab", c.crypt+"\n")
			m.file("proc/cmdline", "ro "+c.boot+" quiet\n")
			if c.make != nil {
				c.make(m)
			}
			finder, _ := m.finder()
			got, err := finder.Awaited()
			if err != nil || got != c.want {
				t.Errorf("got %q, %v; want %q", got, err, c.want)
			}
		})
	}
}

func TestALineThatCannotBeReadIsAwaited(t *testing.T) {
	for place, line := range map[string]string{"etc/fstab": "UUID=" + uuid + "\n", "proc/self/mountinfo": "22 1 8:1 /\n"} {
		m := named(t)
		m.file(place, line)
		finder, _ := m.finder()
		if got, err := finder.Awaited(); err == nil || !strings.Contains(err.Error(), "line 1") {
			t.Errorf("%s: got %q, %v", place, got, err)
		}
	}
}

func TestATableThatCannotBeReadIsNotEmpty(t *testing.T) {
	m := named(t)
	m.remove("etc/fstab")
	m.mkdir("etc/fstab")
	finder, _ := m.finder()
	if got, err := finder.Awaited(); err == nil || !strings.Contains(err.Error(), "is a directory") {
		t.Errorf("got %q, %v", got, err)
	}
}

// The machine's own root is "/", of which no part may be cut off a name.
func TestUnitsOfTheRealRootHaveTheirNames(t *testing.T) {
	for root, want := range map[string]string{"/": "/tmp/x.mount", "/a/": "/tmp/x.mount"} {
		if got := (&Finder{root: root}).fromRoot(filepath.Join(root, "tmp/x.mount")); got != want {
			t.Errorf("below %s: %q, want %q", root, got, want)
		}
	}
}
