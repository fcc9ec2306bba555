package vmtest

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
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

// TestGuestTraceSeesEveryWriter writes to /sys from the agent, a child and a
// child's child.
func TestGuestTraceSeesEveryWriter(t *testing.T) {
	EachKernel(t, func(t *testing.T, k Kernel) {
		l := Boot(t, Config{Kernel: k})
		began := time.Now()
		l.TraceWrites()
		t.Logf("the trace began after %.1f s", time.Since(began).Seconds())
		port := PortAddress(0)
		device := "/sys/bus/pci/devices/" + port
		l.WriteFile(device+"/driver_override", "one\ntwo\n")
		l.WriteFile(device+"/driver_override", "\n")
		l.Do("sh", "-c", "(echo nobody > "+device+"/driver_override; true); echo > "+device+"/driver_override")
		shell := l.Run("sh", "-c", "echo ffff:00:00.0 > /sys/bus/pci/drivers_probe")
		if shell.Code == 0 {
			t.Errorf("a probe of no device went well")
		}
		override := "devices/pci0000:00/" + port + "/driver_override"
		want := []SysWrite{
			{Command: "agent", Path: override, Data: "one\ntwo\n", Size: 8},
			{Command: "agent", Path: override, Data: "\n", Size: 1},
			{Command: "sh", Path: override, Data: "nobody\n", Size: 7},
			{Command: "sh", Path: override, Data: "\n", Size: 1},
			{Command: "sh", Path: "bus/pci/drivers_probe", Data: "ffff:00:00.0\n", Size: 13},
		}
		got := l.Writes()
		ignore := cmpopts.IgnoreFields(SysWrite{}, "Time", "TID", "PID", "Known")
		if diff := cmp.Diff(want, got, ignore); diff != "" {
			t.Errorf("writes (-want +got):\n%s", diff)
		}
		for _, w := range got {
			if w.PID == 0 || !w.Known {
				t.Errorf("write without a process or its data: %+v", w)
			}
		}
	})
}
