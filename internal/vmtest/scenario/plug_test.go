package scenario

import (
	"strings"
	"testing"

	"vfio-hotplug/internal/vmtest"
)

// TestGuestPlug: a drive comes up under vfio-pci, goes, and another comes into
// the same bay. A network card and a drive that no rule names are never written
// to, by udevd neither.
func TestGuestPlug(t *testing.T) {
	const bay, card, stranger = 0, 5, 6
	vmtest.EachKernel(t, func(t *testing.T, k vmtest.Kernel) {
		for _, hotplug := range []vmtest.Hotplug{vmtest.Native, vmtest.ACPI} {
			t.Run(hotplug.String(), func(t *testing.T) {
				config := withUdev(t, vmtest.Config{Kernel: k, Hotplug: hotplug, Modules: append(modules(), "e1000e")})
				h := boot(t, config, policyFor("race", bay))
				h.named = []int{bay}
				h.startUdev()
				h.start()
				h.Plug(card, vmtest.NIC())
				h.Plug(stranger, vmtest.Device{})
				h.Plug(bay, vmtest.Device{Serial: "FIRST"})
				h.taken(bay, "vfio-pci")
				h.WaitDriver(card, "e1000e")
				h.WaitDriver(stranger, "nvme")
				h.leftAlone(card)
				h.leftAlone(stranger)
				h.unplug(bay)
				h.daemon.WaitLine(h.Address(bay) + " is gone")
				h.Plug(bay, vmtest.Device{Serial: "SECOND"})
				h.taken(bay, "vfio-pci")
				h.settleUdev()
				h.done()
			})
		}
	})
}

// TestGuestBurst: every bay is filled at once. The policy leaves the last drive
// alone, and does not name the one before.
func TestGuestBurst(t *testing.T) {
	const last, stranger = vmtest.DefaultBays - 1, vmtest.DefaultBays - 2
	vmtest.EachKernel(t, func(t *testing.T, k vmtest.Kernel) {
		var wanted []int
		for bay := range stranger {
			wanted = append(wanted, bay)
		}
		h := boot(t, withUdev(t, vmtest.Config{Kernel: k, Modules: modules()}), policyFor("race", append(wanted, last)...)+`
[[rule]]
name   = "log drive"
match  = { behind = "`+vmtest.PortAddress(last)+`" }
action = "leave"
`)
		h.named = wanted
		h.startUdev()
		h.start()
		for bay := range vmtest.DefaultBays {
			h.Plug(bay, vmtest.Device{})
		}
		for _, bay := range wanted {
			h.taken(bay, "vfio-pci")
		}
		for _, bay := range []int{stranger, last} {
			h.WaitDriver(bay, "nvme")
			h.leftAlone(bay)
		}
		h.settleUdev()
		h.done()
	})
}

// TestGuestNVMeComesLater: vfio-pci is not loaded, nor is nvme. The daemon has
// vfio-pci loaded and says so; nvme, loaded afterwards, keeps off.
func TestGuestNVMeComesLater(t *testing.T) {
	vmtest.EachKernel(t, func(t *testing.T, k vmtest.Kernel) {
		h := enter(t, vmtest.Config{Kernel: k}, everyNVMe)
		h.Plug(0, vmtest.Device{})
		h.taken(0, "vfio-pci")
		h.LoadModule("nvme", "")
		h.Plug(1, vmtest.Device{})
		h.taken(1, "vfio-pci")
		if driver := h.Driver(0); driver != "vfio-pci" {
			t.Errorf("after nvme was loaded: driver %q", driver)
		}
		h.done()
	})
}

// TestGuestUIO: a rule asks for uio_pci_generic, also without an IOMMU.
func TestGuestUIO(t *testing.T) {
	vmtest.EachKernel(t, func(t *testing.T, k vmtest.Kernel) {
		h := enter(t, vmtest.Config{Kernel: k, NoIOMMU: true, Modules: []string{"nvme", "uio_pci_generic"}}, `
[[rule]]
name   = "for uio"
match  = { class = "nvme" }
driver = "uio_pci_generic"
`)
		h.Plug(0, vmtest.Device{})
		if d := h.taken(0, "uio_pci_generic"); !strings.HasPrefix(d.Node, "/dev/uio") {
			t.Errorf("node %q, want /dev/uioN", d.Node)
		}
		h.done()
	})
}

// TestGuestCannot: where vfio-pci cannot have the drive, the drive ends with
// nvme as if we had not been there, and the reason and the remedy are told.
func TestGuestCannot(t *testing.T) {
	vmtest.EachKernel(t, func(t *testing.T, k vmtest.Kernel) {
		t.Run("no IOMMU", func(t *testing.T) {
			h := enter(t, vmtest.Config{Kernel: k, NoIOMMU: true, Modules: modules()}, everyNVMe)
			h.leaveAlone(0)
			h.Plug(0, vmtest.Device{})
			h.WaitDriver(0, "nvme")
			if d := h.settled(0, "refused"); !strings.Contains(d.Reason, "IOMMU") || !strings.Contains(d.Remedy, "intel_iommu=on") {
				t.Errorf("refused because of %q, remedy %q", d.Reason, d.Remedy)
			}
			h.refused("IOMMU", "bind", h.Address(0))
			h.done()
		})
		t.Run("no vfio-pci", func(t *testing.T) {
			h := boot(t, vmtest.Config{Kernel: k, Modules: []string{"nvme"}}, everyNVMe)
			h.Do("sh", "-c", "rm $(find /lib/modules -name 'vfio-pci.ko*')")
			h.start()
			h.leaveAlone(0)
			h.Plug(0, vmtest.Device{})
			h.WaitDriver(0, "nvme")
			if d := h.settled(0, "refused"); !strings.Contains(d.Reason, "vfio-pci") || !strings.Contains(d.Remedy, "modprobe vfio-pci") {
				t.Errorf("refused because of %q, remedy %q", d.Reason, d.Remedy)
			}
			h.done()
		})
	})
}
