package vmtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

// What the machine itself has on bus 0, by its device numbers, and where the
// root ports of the bays begin.
const (
	mailboxDevice  = 2
	rootPortDevice = 3 // of a package guest's NVMe root drive
	firstBay       = 4
)

const qemuProgram = "qemu-system-x86_64"

// A wiring says how the guest's ports are reached.
type wiring struct {
	console, agent, qmp string // character devices, as -chardev describes them behind the id
}

// machine gives QEMU's arguments for a guest.
func (c Config) machine(image, initrd string, w wiring, extra string) ([]string, error) {
	if c.bays() > MaxBays {
		return nil, fmt.Errorf("%d bays are asked for, %d fit", c.bays(), MaxBays)
	}
	args := append(c.accelerator(),
		"-smp", strconv.Itoa(c.processors()), "-m", strconv.Itoa(c.memory()),
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
		"-kernel", image, "-initrd", initrd, "-append", c.cmdline(extra),
		"-chardev", w.console+",id=console", "-device", "isa-serial,chardev=console,index=0",
		"-chardev", w.agent+",id=agent", "-device", "isa-serial,chardev=agent,index=1",
		"-chardev", w.qmp+",id=qmp", "-mon", "chardev=qmp,mode=control",
		"-device", "intel-iommu,caching-mode=on,aw-bits=48",
	)
	if c.Hotplug == Native {
		args = append(args, "-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off")
	}
	args = append(args, mailbox()...)
	for bay := range c.bays() {
		args = append(args, "-device", rootPort(port(bay), firstBay+bay, bay+1))
	}
	return append(args, c.Args...), nil
}

// rootPort describes a PCIe root port with its slot to QEMU.
func rootPort(id string, device, slot int) string {
	return fmt.Sprintf("pcie-root-port,id=%s,bus=pcie.0,addr=%#x,chassis=%d,slot=%d", id, device, slot, slot)
}

// processors is how many a guest has: two, so that what can happen at once does.
// For a whole Debian, which starts thousands of programs, one is enough: with a
// second, QEMU's emulation takes half as much again for each of them.
func (c Config) processors() int {
	if c.System != nil && !KVM(c.Kernel) {
		return 1
	}
	return 2
}

func (c Config) accelerator() []string {
	if KVM(c.Kernel) {
		return slices.Clone(hardware)
	}
	return []string{"-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max"}
}

// cmdline gives the kernel's command line. A kernel that meets a fault of its own
// panics, and so ends QEMU at once: what goes on then proves nothing.
func (c Config) cmdline(extra string) string {
	iommu := "intel_iommu=on"
	if c.NoIOMMU {
		iommu = "intel_iommu=off"
	}
	root := ""
	if c.System != nil {
		root = rootCmdline
	}
	return strings.Join(strings.Fields("console=ttyS0 panic=-1 oops=panic "+c.emulated()+" "+iommu+" "+root+" "+c.Cmdline+" "+extra), " ")
}

// emulated is what the kernel has to know on a processor that QEMU emulates,
// on a machine that has other things to do besides.
func (c Config) emulated() string {
	if KVM(c.Kernel) {
		return ""
	}
	return strings.Join([]string{
		"cryptomgr.notests", // tests of ciphers, half a second
		"no_timer_check",    // or a moment without us is a timer that does not work: a panic
		"tsc=reliable",      // or it is a clock that is not: the slow one is taken then
		"maxcpus=1",         // the agent switches the other on: see wakeProcessors there
		"norandmaps",        // QEMU 7.2 translates a program anew that lies at another address than the last time
	}, " ")
}

func port(bay int) string { return "rp" + strconv.Itoa(bay) }

// A disk is the host's side of a drive.
type disk struct {
	node  string // QEMU's name for it
	image string
	ours  bool // to be removed with the drive
}

func (d disk) blockdev() map[string]any {
	return map[string]any{
		"node-name": d.node, "driver": "raw",
		// What the guest flushes need not outlive this machine's own death.
		"cache": map[string]any{"no-flush": true},
		"file":  map[string]any{"driver": "file", "filename": d.image},
	}
}

// deviceAdd gives the arguments of device_add, which -device takes too.
func (d Device) deviceAdd(id string, bay int, backing *disk) map[string]any {
	args := map[string]any{"driver": d.model(), "id": id, "bus": port(bay)}
	if d.model() == "nvme" {
		args["serial"] = d.Serial
		if d.Serial == "" {
			args["serial"] = fmt.Sprintf("BAY%d", bay)
		}
	}
	if backing != nil {
		args["drive"] = backing.node
	}
	for key, value := range d.Props {
		args[key] = value
	}
	return args
}

// coldPlug gives QEMU's arguments for a device that is there from the start.
func coldPlug(device map[string]any, backing *disk) ([]string, error) {
	text, err := json.Marshal(device)
	if err != nil {
		return nil, err
	}
	args := []string{"-device", string(text)}
	if backing == nil {
		return args, nil
	}
	text, err = json.Marshal(backing.blockdev())
	if err != nil {
		return nil, err
	}
	return append([]string{"-blockdev", string(text)}, args...), nil
}

// blank makes a sparse file.
func blank(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(size), f.Close())
}
