package vmtest

import (
	"time"

	"vfio-hotplug/internal/vmtest/kernel"
	"vfio-hotplug/internal/vmtest/system"
)

// Kernel is a kernel that a guest boots.
type Kernel = kernel.Kernel

// System is a Debian that a guest boots from a drive of its own.
type System = system.System

// Hotplug says who does hot-plug in a guest.
type Hotplug int

const (
	// Native is pciehp in the kernel, as on servers.
	Native Hotplug = iota
	// ACPI is acpiphp, on the word of QEMU's firmware tables.
	ACPI
)

func (h Hotplug) String() string {
	if h == ACPI {
		return "acpi"
	}
	return "native"
}

// DefaultBays is how many bays a guest has.
const DefaultBays = 12

// MaxBays is how many root ports fit beside what else is on the root bus.
const MaxBays = 27

// A Config says what guest to start. Its zero value but for Kernel is a guest
// with an IOMMU and twelve empty bays with native hot-plug.
//
// A guest is restored as it was when it had booted with empty bays, where QEMU
// emulates its processor; else it is booted.
//
// With a System it is a package guest: it runs from a copy of it on an NVMe
// drive, which sits in no bay, with the kernel and the initramfs that are
// there. Programs are for the other guests.
type Config struct {
	Kernel   Kernel
	System   *System
	SATARoot bool // the System is on a SATA disk instead: nvme need not be in its initramfs
	Boot     bool // for a test about booting: it is booted, with Devices in their bays
	Hotplug  Hotplug
	NoIOMMU  bool              // the kernel does not use the IOMMU
	Bays     int               // 0 is DefaultBays
	Modules  []string          // loaded in this order, with what they need; "name key=value" gives a parameter
	Devices  map[int]Device    // plugged in before a module is loaded
	Files    map[string]string // copied into the guest, before a module is loaded: path there, path here
	Programs []string          // programs of this machine to have in the guest, with their libraries, such as "mdadm"
	Cmdline  string            // more for the kernel's command line
	Args     []string          // more for QEMU, for a guest that boots
	MemoryMB int               // 0 is 1024
}

// A Device is something to plug into a bay. Its zero value is an NVMe drive,
// blank, 64 MiB.
type Device struct {
	Model  string         // QEMU's name for it; "" is "nvme"
	Serial string         // of a drive; "" makes one up from the bay
	Image  string         // a raw image on this machine; "" is a blank one, forgotten at unplug
	Size   int64          // of a blank image in bytes; 0 is 64 MiB
	Props  map[string]any // more properties for QEMU's device_add
	// Second is function 1 of the same device. Without ACS, as QEMU's are, the
	// functions share an IOMMU group. They come and go together.
	Second *Device
}

// NIC is an Intel network card that is connected to nothing.
func NIC() Device {
	// Without its boot ROM, which is a package of its own.
	return Device{Model: "e1000e", Props: map[string]any{"romfile": ""}}
}

func (d Device) model() string {
	if d.Model == "" {
		return "nvme"
	}
	return d.Model
}

func (d Device) hasDrive() bool { return d.model() == "nvme" || d.Image != "" }

func (d Device) size() int64 {
	if d.Size == 0 {
		return 64 << 20
	}
	return d.Size
}

// cold reports whether Devices are in their bays when the guest boots.
func (c Config) cold() bool { return c.Boot || len(c.Args) > 0 }

// boots reports whether a guest is booted, not restored. QEMU does not save a guest
// that has an emulated NVMe drive. With KVM a kernel boots in the time that a
// restore takes.
func (c Config) boots() bool {
	return c.cold() || c.System != nil && !c.SATARoot || KVM(c.Kernel)
}

// bootDeadline is for a boot, and for what is brought in after it.
func (c Config) bootDeadline() time.Duration {
	if c.System != nil {
		return packageBootDeadline
	}
	return bootDeadline
}

// testWords are on the kernel's command line when no person is there.
func (c Config) testWords() string {
	if c.System != nil {
		return noLogin
	}
	return ""
}

func (c Config) bays() int {
	if c.Bays == 0 {
		return DefaultBays
	}
	return c.Bays
}

func (c Config) memory() int {
	if c.MemoryMB == 0 {
		return 1024
	}
	return c.MemoryMB
}
