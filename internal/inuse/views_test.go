package inuse

import (
	"io/fs"
	"path"
	"slices"
	"strings"
	"syscall"
	"testing"

	"vfio-hotplug/internal/pci"
	"vfio-hotplug/internal/sysfs"
)

const usb = pci.Class(0x0c0330)

// partly is a view of sysfs that does not list some of its directories, though
// the kernel counts them.
type partly struct {
	sysfs.Dir
	hidden []string // their names
}

func (d partly) check(op, name string) error {
	for part := range strings.SplitSeq(name, "/") {
		if slices.Contains(d.hidden, part) {
			return &fs.PathError{Op: op, Path: path.Join(d.Path(), name), Err: syscall.ENOENT}
		}
	}
	return nil
}

func (d partly) Open(name string) (sysfs.Dir, error) {
	if err := d.check("open", name); err != nil {
		return nil, err
	}
	below, err := d.Dir.Open(name)
	if err != nil {
		return nil, err
	}
	return partly{below, d.hidden}, nil
}

func (d partly) Read(name string) (string, error) {
	if err := d.check("read", name); err != nil {
		return "", err
	}
	return d.Dir.Read(name)
}

func (d partly) List(name string) ([]string, error) {
	if err := d.check("list", name); err != nil {
		return nil, err
	}
	names, err := d.Dir.List(name)
	return slices.DeleteFunc(names, func(name string) bool { return slices.Contains(d.hidden, name) }), err
}

// lookFrom looks from a view of sysfs that hides some directories. In a sandbox,
// process 1's view does not hide them; else it does too.
func (m *machine) lookFrom(sandbox bool, driver string, class pci.Class, how How, hidden ...string) (Report, *Hold, error) {
	m.t.Helper()
	f, device := m.finderFrom(sandbox, hidden...)
	return f.Look(m.t.Context(), device, pci.Device{Address: drive, Driver: driver, Class: class}, how)
}

func (m *machine) finderFrom(sandbox bool, hidden ...string) (*Finder, *sysfs.Device) {
	m.t.Helper()
	f, _ := m.finder()
	f.sys = partly{f.sys, hidden}
	if sandbox {
		m.mkdir("sandbox/sys")
		for _, name := range []string{"etc", "proc", "run", "usr"} {
			m.link("sandbox/"+name, m.path(name))
		}
		f.root = m.path("sandbox")
	}
	device, err := sysfs.New(f.sys, nil).Open(drive)
	must(m.t, err)
	m.t.Cleanup(func() { device.Close() })
	return f, device
}

// A unit with PrivateNetwork=yes has, from systemd 254 on, a sysfs of its own:
// without the machine's interfaces and without what is mounted on the machine's.
func TestASandboxHidesNoUse(t *testing.T) {
	for _, c := range []struct {
		name   string
		driver string
		class  pci.Class
		make   func(*machine)
		hidden []string
		says   string
		veto   bool
	}{
		{"an interface that is up", "e1000e", nic, func(m *machine) { m.network("net/eth0", "0x1003") }, []string{"eth0"}, "eth0 → up", true},
		{"an interface that is down", "e1000e", nic, func(m *machine) { m.network("net/eth0", "0x1002") }, []string{"eth0"}, "unused", false},
		{"an interface below a USB controller", "xhci_hcd", usb, func(m *machine) { m.network("usb1/1-1/1-1:1.0/net/usb0", "0x1003") },
			[]string{"usb0"}, "usb0 → up", true},
		{"an export by nvmet", "nvme", pci.NVMe, func(m *machine) {
			m.controller("nvme0")
			m.namespace(1, blank)
			m.exported("/dev/nvme0n1", "1")
		}, []string{"config"}, "nvme0n1 → nvmet nqn.test namespace 3", true},
		{"an export by LIO", "nvme", pci.NVMe, func(m *machine) {
			m.controller("nvme0")
			m.namespace(1, blank)
			m.configure("target/core/iblock_0/disk1", "enable", "1", "udev_path", "/dev/nvme0n1", "info", "Major: 259 Minor: 1  CLAIMED: IBLOCK")
		}, []string{"config"}, "nvme0n1 → LIO iblock_0/disk1", true},
		{"an export under a name that only the machine has", "nvme", pci.NVMe, func(m *machine) {
			m.controller("nvme0")
			m.namespace(1, blank)
			m.link("home/link", m.path("dev/nvme0n1"))
			m.exported("/home/link", "1")
		}, []string{"config"}, "nvme0n1 → nvmet nqn.test namespace 3", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := bare(t)
			c.make(m)
			report, hold, err := m.lookFrom(true, c.driver, c.class, forIdle, c.hidden...)
			must(t, err)
			defer hold.Close()
			if got := report.String(); !strings.HasPrefix(got, c.says) || report.Veto() != c.veto {
				t.Errorf("veto %v, report %q; want %v, %q", report.Veto(), got, c.veto, c.says)
			}
		})
	}
}

// What has been seen as process 1 is looked up as process 1.
func TestAUseIsKnownAgainFromASandbox(t *testing.T) {
	m := newMachine(t)
	m.namespace(1, blank)
	m.exported("/dev/nvme0n1", "1")
	f, device := m.finderFrom(true, "config")
	report, _, err := f.Look(t.Context(), device, pci.Device{Address: drive, Driver: "nvme", Class: pci.NVMe}, forIdle)
	must(t, err)
	if !f.Still(t.Context(), report) {
		t.Errorf("%s is still there", report)
	}
	m.exported("/dev/nvme0n1", "0")
	if f.Still(t.Context(), report) {
		t.Errorf("%s has gone", report)
	}
}

// Who may not look at process 1's view does not know what his own leaves out.
func TestAViewThatMayNotBeProcess1sIsADoubt(t *testing.T) {
	m := bare(t)
	m.network("net/eth0", "0x1002")
	m.remove("proc/1/root")
	report, hold, err := m.look("e1000e", nic, forIdle)
	must(t, err)
	const want = "what process 1 sees cannot be told: stat "
	if !report.Veto() || !strings.HasPrefix(report.String(), want) || hold != nil {
		t.Errorf("report %q, want %q", report, want)
	}
	if report.Remedy() != "run as root with CAP_SYS_PTRACE" {
		t.Errorf("remedy %q", report.Remedy())
	}
}

// In a container process 1 is the container's.
func TestTheProcessesOfAContainerAreNotAll(t *testing.T) {
	for name, doubt := range map[string]bool{firstPIDs: false, "pid:[4026532281]": true} {
		m := newMachine(t)
		m.namespace(1, blank)
		m.link("proc/self/ns/pid", name)
		report, hold, err := m.look("nvme", pci.NVMe, forIdle)
		must(t, err)
		defer hold.Close()
		if report.Veto() != doubt || doubt && report.String() != "only the processes of a container can be seen (PID namespace "+name+")" {
			t.Errorf("%s: report %q", name, report)
		}
	}
}

func TestAnInterfaceInAnotherNetworkNamespaceIsADoubt(t *testing.T) {
	for _, c := range []struct {
		name   string
		driver string
		class  pci.Class
		make   func(*machine)
		hidden []string
		says   string
	}{
		{"one of two", "mlx4_core", nic, func(m *machine) {
			m.network("net/enp1s0", "0x1002")
			m.network("net/enp1s0d1", "0x1003")
		}, []string{"enp1s0d1"}, "net has 1 more than shows in this network namespace, and whether that is in use cannot be seen"},
		{"the only one", "e1000e", nic, func(m *machine) { m.network("net/eth0", "0x1003") }, []string{"eth0"},
			"net has 1 more than shows in this network namespace, and whether that is in use cannot be seen"},
		{"both of two", "ice", nic, func(m *machine) {
			m.network("net/a", "0x1003")
			m.network("net/b", "0x1003")
		}, []string{"a", "b"}, "net has 2 more than show in this network namespace, and whether these are in use cannot be seen"},
		{"of no network card", "xhci_hcd", usb, func(m *machine) { m.network("usb1/1-1/1-1:1.0/net/usb0", "0x1003") }, []string{"usb0"},
			"usb1/1-1/1-1:1.0/net has 1 more than shows in this network namespace, and whether that is in use cannot be seen"},
		{"an RDMA device", "mlx5_core", nic, func(m *machine) {
			m.network("net/eth0", "0x1002")
			m.mkdir("sys/" + home + "/infiniband/mlx5_0")
		}, []string{"mlx5_0"}, "infiniband has 1 more than shows in this network namespace, and whether that is in use cannot be seen"},
	} {
		for _, how := range []How{forIdle, forBlank, {Passive: true}} {
			t.Run(c.name, func(t *testing.T) {
				m := bare(t)
				c.make(m)
				report, hold, err := m.lookFrom(false, c.driver, c.class, how, c.hidden...)
				must(t, err)
				if got := report.String(); !strings.HasPrefix(got, c.says) || !report.Veto() || hold != nil {
					t.Errorf("veto %v, report\n%s\nwant\n%s", report.Veto(), got, c.says)
				}
				if !strings.Contains(report.Remedy(), "ip netns") {
					t.Errorf("remedy %q", report.Remedy())
				}
			})
		}
	}
}

// Whatever the class, and whoever else has the device as well: bnx2x's network
// cards have a uio device for the kernel's own use (drivers/net/ethernet/broadcom/cnic.c).
func TestAnInterfaceThatIsUpIsAUseOfAnyDevice(t *testing.T) {
	for _, c := range []struct {
		name   string
		driver string
		class  pci.Class
		make   func(*machine)
	}{
		{"a USB controller", "xhci_hcd", usb, func(m *machine) { m.network("usb1/1-1/1-1:1.0/net/eth7", "0x1003") }},
		{"a radio", "iwlwifi", 0x028000, func(m *machine) { m.network("net/eth7", "0x1003") }},
		{"an InfiniBand adapter", "mlx5_core", 0x020700, func(m *machine) { m.network("net/eth7", "0x1003") }},
		{"an accelerator", "habanalabs", 0x120000, func(m *machine) { m.network("habanalabs.eth.0/net/eth7", "0x1003") }},
		{"a network card with a uio device", "bnx2x", nic, func(m *machine) {
			m.node("uio/uio0", "240:9")
			m.file("dev/uio0", "")
			m.network("net/eth7", "0x1003")
		}},
	} {
		for _, how := range []How{forIdle, forBlank, {Passive: true}} {
			t.Run(c.name, func(t *testing.T) {
				m := bare(t)
				m.file("proc/4711/comm", "other\n")
				c.make(m)
				report, _, err := m.look(c.driver, c.class, how)
				must(t, err)
				if !strings.Contains(report.String(), "eth7 → up") || !report.Veto() {
					t.Errorf("veto %v, report %q", report.Veto(), report)
				}
			})
		}
	}
}

// Programs are looked for when nothing that costs less has shown a use.
func TestAnInterfaceThatIsUpEndsTheLookBeforePrograms(t *testing.T) {
	m := bare(t)
	m.node("uio/uio0", "240:9")
	m.file("dev/uio0", "")
	m.holds(123, "iscsiuio", m.path("dev/uio0"))
	m.network("net/eth7", "0x1003")
	for how, says := range map[How]string{
		forIdle:     "eth7 → up",
		{All: true}: "eth7 → up; " + m.path("dev/uio0") + " → iscsiuio (process 123)",
	} {
		report, _, err := m.look("bnx2x", nic, how)
		must(t, err)
		if report.String() != says || !slices.Contains(report.nodes, m.path("dev/uio0")) {
			t.Errorf("%+v: report %q, want %q; its nodes %q", how, report, says, report.nodes)
		}
	}
}

func TestDevicesTooFarBelowAreADoubt(t *testing.T) {
	m := bare(t)
	m.network("usb1/"+strings.Repeat("1-1/", deepestDevice)+"net/usb0", "0x1003")
	report, _, err := m.look("xhci_hcd", usb, forIdle)
	must(t, err)
	if !report.Veto() || !strings.Contains(report.String(), "is too far below the device to be looked at") {
		t.Errorf("veto %v, report %q", report.Veto(), report)
	}
}

// vfio makes a node for each device that it has. Where none is to be seen, nor
// is who has it open.
func TestADeviceOfUserSpaceWithoutANodeIsADoubt(t *testing.T) {
	for driver, made := range map[string]string{"vfio-pci": "vfio-dev/vfio0", "uio_pci_generic": "uio/uio3"} {
		m := bare(t)
		m.mkdir("sys/" + home + "/" + made)
		m.linkTo(home+"/iommu_group", "kernel/iommu_groups/12")
		m.process(4711, "other", 1)
		report, _, err := m.look(driver, pci.NVMe, forIdle)
		must(t, err)
		if want := "no node of it is in " + m.path("dev") + ", so that who has it open cannot be seen"; report.String() != want || !report.Veto() {
			t.Errorf("%s: veto %v, report\n%s\nwant\n%s", driver, report.Veto(), report, want)
		}
	}
}

func TestATargetWithoutItsDirectoryIsADoubt(t *testing.T) {
	for module, what := range map[string]string{"nvmet": "nvmet", "target_core_mod": "LIO"} {
		for name, make := range map[string]func(*machine){
			"nothing is mounted":        func(*machine) {},
			"something else is mounted": func(m *machine) { m.mkdir("sys/kernel/config/usb_gadget") },
		} {
			t.Run(module+"/"+name, func(t *testing.T) {
				m := newMachine(t)
				m.namespace(1, blank)
				m.mkdir("sys/module/" + module)
				make(m)
				report, hold, err := m.look("nvme", pci.NVMe, forBlank)
				must(t, err)
				want := "what " + what + " exports cannot be seen: it is loaded, and has no directory in /sys/kernel/config"
				if report.String() != want || !report.Veto() || hold != nil {
					t.Errorf("veto %v, report\n%s\nwant\n%s", report.Veto(), report, want)
				}
				if report.Remedy() != "mount -t configfs configfs /sys/kernel/config" {
					t.Errorf("remedy %q", report.Remedy())
				}
			})
		}
	}
}

func TestALoadedTargetThatExportsNothingIsNoDoubt(t *testing.T) {
	m := newMachine(t)
	m.namespace(1, blank)
	for _, dir := range []string{"module/nvmet", "module/target_core_mod", "kernel/config/nvmet/subsystems", "kernel/config/target/core"} {
		m.mkdir("sys/" + dir)
	}
	report, hold, err := m.look("nvme", pci.NVMe, forBlank)
	must(t, err)
	defer hold.Close()
	if report.Veto() {
		t.Errorf("report %q", report)
	}
}
