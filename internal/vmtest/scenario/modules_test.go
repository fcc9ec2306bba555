package scenario

import (
	"slices"
	"strings"
	"testing"

	"vfio-hotplug/internal/vmtest"
)

// TestGuestNVMeIsUnloaded: with the package's order of modules, vfio-pci and
// pci-stub are registered before nvme; when nvme is unloaded, both stay, and so
// does an idle drive that somebody else has given to vfio-pci. The machine boots
// from a SATA disk, so that nothing needs nvme.
func TestGuestNVMeIsUnloaded(t *testing.T) {
	vmtest.EachSystem(t, func(t *testing.T, cfg vmtest.Config) {
		deb, err := buildDeb()
		if err != nil {
			t.Fatal(err)
		}
		const theirs = 0
		cfg.Files, cfg.SATARoot = map[string]string{debInGuest: deb}, true
		h := &house{Lab: vmtest.Boot(t, cfg), t: t}
		if h.Exists("/sys/module/nvme") {
			t.Fatal("nvme is loaded before the package is there")
		}
		h.slowly("dpkg", "--unpack", debInGuest) // which does not set up the daemon
		h.Do("modprobe", "nvme")
		h.wantBefore("nvme", "vfio_pci", "pci_stub")

		h.plugForNVMe(theirs)
		h.settleUdev()
		h.gives(theirs, "nvme", "vfio-pci")
		h.WaitDriver(theirs, "vfio-pci")
		mark := h.Mark()
		h.Do("modprobe", "-r", "nvme")
		if h.Exists("/sys/module/nvme") {
			t.Error("nvme is loaded still")
		}
		for _, module := range []string{"vfio_pci", "pci_stub"} {
			if !h.Exists("/sys/module/" + module) {
				t.Errorf("%s was unloaded with nvme", module)
			}
		}
		if driver := h.Driver(theirs); driver != "vfio-pci" {
			t.Errorf("what somebody else gave to vfio-pci is on %q", driver)
		}
		if events := h.Uevents(mark, vmtest.Match{Action: "unbind", Subsystem: "pci", Devpath: h.Address(theirs)}); len(events) > 0 {
			t.Errorf("it was unbound: %v", events)
		}
	})
}

// gives moves the device in a bay from one driver to another, as other tools do.
func (h *house) gives(bay int, from, to string) {
	h.t.Helper()
	h.sh(`cd /sys/bus/pci && echo "$3" >"devices/$1/driver_override" && echo "$1" >"drivers/$2/unbind" && echo "$1" >drivers_probe`,
		h.Address(bay), from, to)
}

// wantBefore checks that modules were loaded before another one: the kernel lists
// the newest first.
func (h *house) wantBefore(module string, earlier ...string) {
	h.t.Helper()
	var loaded []string
	for line := range strings.Lines(h.ReadFile("/proc/modules")) {
		name, _, _ := strings.Cut(line, " ")
		loaded = append(loaded, name)
	}
	for _, name := range earlier {
		if slices.Index(loaded, name) < slices.Index(loaded, module) {
			h.t.Errorf("%s was not loaded before %s: %q", name, module, loaded)
		}
	}
}
