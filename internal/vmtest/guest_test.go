package vmtest

import (
	"testing"
)

// TestGuestSeesADriveComeAndGo shows that the laboratory works: nvme takes a
// drive that is plugged in, and the witness sees it.
func TestGuestSeesADriveComeAndGo(t *testing.T) {
	EachKernel(t, func(t *testing.T, k Kernel) {
		for _, hotplug := range []Hotplug{Native, ACPI} {
			t.Run(hotplug.String(), func(t *testing.T) {
				l := Boot(t, Config{Kernel: k, Hotplug: hotplug, Modules: []string{"nvme"}})
				mark := l.Mark()
				l.Plug(3, Device{Serial: "SN1"})
				address := l.Address(3)
				pci := Match{Subsystem: "pci", Devpath: address}
				pci.Action = "add"
				l.WaitUevent(mark, pci)
				pci.Action = "bind"
				bound := l.WaitUevent(mark, pci)
				if got := bound.Env["DRIVER"]; got != "nvme" {
					t.Errorf("bind uevent: DRIVER=%s, want nvme", got)
				}
				if got := l.Driver(3); got != "nvme" {
					t.Errorf("driver of the drive: %q, want nvme", got)
				}
				l.WaitUevent(mark, Match{Action: "add", Subsystem: "block", Devpath: "nvme*n1"})
				l.Unplug(3)
				pci.Action = "remove"
				l.WaitUevent(mark, pci)
			})
		}
	})
}
