package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"vfio-hotplug/internal/guard"
	"vfio-hotplug/internal/inuse"
	"vfio-hotplug/internal/kmod"
	"vfio-hotplug/internal/ledger"
	"vfio-hotplug/internal/operate"
	"vfio-hotplug/internal/pci"
	"vfio-hotplug/internal/sysfs"
	"vfio-hotplug/policy"
)

// machine is where things are on the machine, below one root.
type machine struct{ root string }

func (m *machine) path(parts ...string) string {
	return filepath.Join(append([]string{m.root}, parts...)...)
}

// socket is the daemon's.
func (m *machine) socket() string { return m.path("run/vfio-hotplug/socket") }

// policy reads the policy that is in force by the files.
func (m *machine) policy() (*policy.Policy, error) {
	return policy.Load(policy.Dir(m.path("etc/vfio-hotplug")), policy.Dir(m.path("usr/lib/vfio-hotplug")))
}

// observer opens what it takes to look, and changes nothing, not even in /run.
func (m *machine) observer() (*operate.Operator, error) {
	return m.operatorWith(ledger.Reader(m.path("run/vfio-hotplug"), m.path("proc")))
}

// operator opens what an operation needs, and makes its directories in /run.
func (m *machine) operator() (*operate.Operator, error) {
	book, err := ledger.Open(m.path("run/vfio-hotplug"), m.path("proc"))
	if err != nil {
		return nil, err
	}
	return m.operatorWith(book)
}

func (m *machine) operatorWith(book *ledger.Ledger) (*operate.Operator, error) {
	root, err := sysfs.OpenRoot(m.path("sys"))
	if err != nil {
		return nil, fmt.Errorf("%w: is sysfs mounted?", err)
	}
	return &operate.Operator{
		FS:      sysfs.New(root, sysfs.InProcess(sysfs.Self, m.path("sys"))),
		Ledger:  book,
		Uses:    inuse.New(root, m.root),
		Added:   m.added,
		Load:    m.load,
		Aliases: m.aliases,
		Dev:     m.path("dev"),
		Proc:    m.path("proc"),
		Limit:   operate.DefaultLimits(),
	}, nil
}

// load loads a kernel module; not for a root that is not this machine's.
func (m *machine) load(ctx context.Context, module string) error {
	if m.root != "/" {
		return fmt.Errorf("load module %s: not below %s", module, m.root)
	}
	return kmod.NewLoader().Load(ctx, module)
}

// guard opens the machine's guard, whose record is beside the ledger.
func (m *machine) guard(o *operate.Operator) *guard.Guard {
	return guard.New(o.FS.Root(), sysfs.InProcess(sysfs.Self, m.path("sys")), m.path("run/vfio-hotplug/guard.json"))
}

// release gives the running kernel's release.
func (m *machine) release() (string, error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "", fmt.Errorf("ask the kernel for its release: %w", err)
	}
	return strings.TrimRight(string(name.Release[:]), "\x00"), nil
}

// judge reads what the choice of a guard depends on.
func (m *machine) judge(o *operate.Operator) (guard.Machine, error) {
	release, err := m.release()
	if err != nil {
		return guard.Machine{}, err
	}
	return guard.ReadMachine(o.FS.Root(), m.path("proc"), release)
}

// unannounced reports whether a vfio driver that is being taken away while a
// program holds the device can only be seen by looking. From Linux 6.6 on the
// vfio device goes first, with an event (drivers/vfio/vfio_main.c,
// vfio_unregister_group_dev).
func (m *machine) unannounced() (bool, error) {
	release, err := m.release()
	if err != nil {
		return false, err
	}
	r, err := guard.ParseRelease(release)
	return !r.Least(6, 6), err
}

// aliases opens the modules.alias of the running kernel. From the daemon its
// unit hides the modules, and shows this list alone in /run.
func (m *machine) aliases() (io.ReadCloser, error) {
	release, err := m.release()
	if err != nil {
		return nil, err
	}
	list, err := os.Open(m.path("lib/modules", release, "modules.alias"))
	if err == nil {
		return list, nil
	}
	if shown, other := os.Open(m.path("run/vfio-hotplug/modules.alias")); other == nil {
		return shown, nil
	}
	return nil, err
}

// added reports whether the kernel has finished adding a device. It makes its
// entry in /proc/bus/pci right before drivers may match it (drivers/pci/bus.c,
// pci_bus_add_device); which of the two spellings a bus has depends on the
// architecture (pci_proc_domain). Without such a list, it is not known.
func (m *machine) added(a pci.Address) bool {
	entry := func(parts ...string) bool {
		_, err := os.Stat(m.path(append([]string{"proc/bus/pci"}, parts...)...))
		return err == nil
	}
	bus, function := fmt.Sprintf("%02x", a.Bus), fmt.Sprintf("%02x.%x", a.Device, a.Function)
	return !entry("devices") || entry(bus, function) || entry(fmt.Sprintf("%04x:%s", a.Domain, bus), function)
}
