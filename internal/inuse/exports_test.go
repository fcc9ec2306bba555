package inuse

import (
	"strings"
	"syscall"
	"testing"

	"vfio-hotplug/internal/pci"
)

// configure writes attributes of configfs, given as name and content by turns.
func (m *machine) configure(where string, attributes ...string) {
	m.t.Helper()
	for i := 0; i < len(attributes); i += 2 {
		m.file("sys/kernel/config/"+where+"/"+attributes[i], attributes[i+1]+"\n")
	}
}

const subsystem = "nvmet/subsystems/nqn.test"

// exported gives nvmet a namespace.
func (m *machine) exported(path, enable string) {
	m.t.Helper()
	m.configure(subsystem, "attr_allow_any_host", "1")
	m.configure(subsystem+"/passthru", "device_path", "(null)", "enable", "0")
	m.configure(subsystem+"/namespaces/3", "device_path", path, "enable", enable, "device_uuid", "00000000-0000-0000-0000-000000000000")
}

func TestAnExportIsAUse(t *testing.T) {
	for _, c := range []struct {
		name   string
		make   func(*machine)
		says   string
		remedy string
	}{
		{"by nvmet", func(m *machine) {
			m.namespace(1, blank)
			m.exported("/dev/nvme0n1", "1")
		}, "nvme0n1 → nvmet nqn.test namespace 3", "nvmetcli"},
		{"by nvmet, through a link", func(m *machine) {
			m.namespace(1, blank)
			m.link("dev/disk/by-id/nvme-eui.1-part2", m.path("dev/"+m.partition("nvme0n1", 2)))
			m.exported("/dev/disk/by-id/nvme-eui.1-part2", "1")
		}, "nvme0n1p2 → nvmet nqn.test namespace 3", "nvmetcli"},
		{"by nvmet, a volume on it", func(m *machine) {
			m.namespace(1, blank)
			m.built("dm-3", "vg-data", "nvme0n1")
			m.exported("/dev/dm-3", "1")
		}, "nvme0n1 → dm-3 (vg-data) → nvmet nqn.test namespace 3", "nvmetcli"},
		{"by nvmet, as soon as it is switched on", func(m *machine) {
			m.namespace(1, blank)
			m.exported("/dev/nvme0n1", "0")
		}, "nvme0n1 → nvmet nqn.test namespace 3 (off)", "out of date"},
		{"by nvmet, the whole controller", func(m *machine) {
			m.namespace(1, blank)
			m.configure(subsystem+"/passthru", "device_path", "/dev/nvme0", "enable", "1")
		}, "nvme0 → nvmet nqn.test passthru", "nvmetcli"},
		{"by nvmet, under a name that leads nowhere", func(m *machine) {
			m.namespace(1, blank)
			m.exported("/dev/disk/by-id/gone", "1")
		}, "what nvmet nqn.test namespace 3 exports cannot be told: stat MACHINE/dev/disk/by-id/gone: file does not exist", "nvmetcli"},
		{"by nvmet, under a name that cannot be followed", func(m *machine) {
			m.namespace(1, blank)
			m.exported("/srv/disk", "0")
			m.nodes.faults[m.path("srv/disk")] = syscall.EIO
		}, "what nvmet nqn.test namespace 3 exports cannot be told: stat MACHINE/srv/disk: input/output error", "nvmetcli"},
		{"by LIO, by the number that it has open", func(m *machine) {
			m.namespace(1, blank)
			m.configure("target/core/iblock_0", "hba_info", "HBA Index: 1 plugin: iblock version: v5.0")
			m.configure("target/core/iblock_0/disk1", "enable", "1", "udev_path", "/dev/disk/by-id/gone",
				"info", "Status: ACTIVATED  Max Queue Depth: 0  SectorSize: 512  HwMaxSectors: 128\n"+
					"        iBlock device: nvme0n1  UDEV PATH: /dev/disk/by-id/gone  readonly: 0\n        Major: 259 Minor: 1  CLAIMED: IBLOCK")
		}, "nvme0n1 → LIO iblock_0/disk1", "targetcli"},
		{"by LIO, as soon as it is switched on", func(m *machine) {
			m.namespace(1, blank)
			m.configure("target/core/iblock_0/disk1", "enable", "0", "udev_path", "/dev/nvme0n1",
				"info", "Status: DEACTIVATED\n        UDEV PATH: /dev/nvme0n1  readonly: 0\n        Major: 0 Minor: 0")
		}, "nvme0n1 → LIO iblock_0/disk1 (off)", "out of date"},
		{"by LIO, as a file", func(m *machine) {
			m.namespace(1, blank)
			m.configure("target/core/fileio_2/disk1", "enable", "1", "udev_path", "",
				"info", "Status: ACTIVATED\n        TCM FILEIO ID: 0        File: /dev/nvme0n1  Size: 8388608  Mode: O_DSYNC Async: 0")
		}, "nvme0n1 → LIO fileio_2/disk1", "targetcli"},
		{"by LIO, as a file, as soon as it is switched on", func(m *machine) {
			m.namespace(1, blank)
			m.configure("target/core/fileio_2/disk1", "enable", "0",
				"info", "Status: DEACTIVATED\n        TCM FILEIO ID: 0        File: /dev/nvme0n1  Size: 8388608  Mode: O_DSYNC Async: 0")
		}, "nvme0n1 → LIO fileio_2/disk1 (off)", "out of date"},
		{"by LIO, as a SCSI disk", func(m *machine) {
			m.namespace(1, blank)
			m.configure("target/core/pscsi_0/disk1", "enable", "1", "udev_path", "/dev/nvme0n1", "info", "Status: ACTIVATED")
		}, "nvme0n1 → LIO pscsi_0/disk1", "targetcli"},
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

func TestAnExportThatIsNoUse(t *testing.T) {
	for name, make := range map[string]func(*machine){
		"of another drive": func(m *machine) { m.exported("/dev/"+m.other("nvme9n1"), "1") },
		"of a file": func(m *machine) {
			m.file("srv/image", "")
			m.exported("/srv/image", "1")
		},
		"of a drive that was unplugged":               func(m *machine) { m.exported("/dev/nvme7n1", "1") },
		"that was never configured":                   func(m *machine) { m.exported("(null)", "0") },
		"that is off, of what is not there":           func(m *machine) { m.exported("/dev/disk/by-id/gone", "0") },
		"a namespace that is being made":              func(m *machine) { m.mkdir("sys/kernel/config/" + subsystem + "/namespaces/1") },
		"a memory disk of LIO":                        func(m *machine) { m.configure("target/core/rd_mcp_0/disk", "info", "Major: 259 Minor: 1") },
		"a backstore that is on the way in or out":    func(m *machine) { m.mkdir("sys/kernel/config/target/core/iblock_0/disk") },
		"an adapter of LIO without a backstore":       func(m *machine) { m.configure("target/core/iblock_0", "hba_info", "", "hba_mode", "0") },
		"a character device with the drive's numbers": func(m *machine) { m.node("other", "259:1"); m.exported("/dev/other", "1") },
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			m.namespace(1, blank)
			make(m)
			report, hold, err := m.look("nvme", pci.NVMe, forBlank)
			must(t, err)
			defer hold.Close()
			if report.Veto() {
				t.Errorf("report %q", report)
			}
		})
	}
}
