package scenario

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"vfio-hotplug/internal/vmtest"
	"vfio-hotplug/internal/vmtest/kernel"
)

// anyNVMe is the dynamic ID that catches every NVMe drive.
const anyNVMe = "ffffffff ffffffff ffffffff ffffffff 010802 ffffff"

// udevRule is what people use today: when nvme has the drive, or is about to,
// it is taken away and given to vfio-pci.
const udevRule = `ACTION=="add", SUBSYSTEM=="pci", ATTR{class}=="0x010802", ` +
	`RUN+="/bin/sh -c 'echo vfio-pci > /sys$devpath/driver_override; ` +
	`echo $kernel > /sys$devpath/driver/unbind; echo $kernel > /sys/bus/pci/drivers_probe'"` + "\n"

// way is a way in which a drive comes to its driver.
type way struct {
	name   string
	driver string // that it ends with
	bay    int
	floor  string // the way it is compared with, "" for none
	exact  bool   // no other driver may touch the drive
	begin  func(*house)
	end    func(*house)
}

// kernelAlone is the floor for the drives that are wanted, nvmeAlone that for
// those that are not.
const (
	kernelAlone = "the kernel alone, by a dynamic ID"
	nvmeAlone   = "the kernel alone, nvme"
)

func ways(k vmtest.Kernel) []way {
	nothing := func(*house) {}
	all := []way{
		{kernelAlone, "vfio-pci", 0, "", true,
			func(h *house) { h.WriteFile("/sys/bus/pci/drivers/vfio-pci/new_id", anyNVMe) },
			func(h *house) { h.WriteFile("/sys/bus/pci/drivers/vfio-pci/remove_id", anyNVMe) }},
		{nvmeAlone, "nvme", 1, "", true, nothing, nothing},
		guardedWay("claim", kernelAlone, "vfio-pci"),
		guardedWay("stub", kernelAlone, "vfio-pci", half()...),
		guardedWay("stub, left", nvmeAlone, "nvme", half()...),
		guardedWay("race", kernelAlone, "vfio-pci"),
		{"udev rule with unbind and probe", "vfio-pci", 0, kernelAlone, false,
			func(h *house) { h.daemon = h.startUdev() }, func(h *house) { h.daemon.Stop() }},
	}
	if gateHonoured(k) {
		all = append(all, guardedWay("gate", kernelAlone, "vfio-pci", half()...), guardedWay("gate, left", nvmeAlone, "nvme", half()...))
	}
	return all
}

// guardedWay is the daemon with a guard: with half of the bays in its policy,
// or with all.
func guardedWay(name, floor, driver string, bays ...int) way {
	mode, _, left := strings.Cut(name, ",")
	w := way{name: name, driver: driver, floor: floor, exact: mode != "race"}
	if left {
		w.bay = 1
	}
	w.begin = func(h *house) {
		h.CreateFile("/etc/vfio-hotplug/policy.toml", policyFor(mode, bays...), 0o644)
		h.start()
		h.daemon.WaitLine("guard " + mode + ":")
	}
	w.end = func(h *house) { h.daemon.Stop() }
	return w
}

// TestGuestLatency measures, side by side in one guest and in turns, how long a
// drive takes from its add event to the driver that it is to have: by the kernel
// alone, by every guard, and by a udev rule. In each turn the first drive does
// not count: a daemon runs for months, and an emulated processor is many times
// slower with what it has not run before.
func TestGuestLatency(t *testing.T) {
	turns, drives := 1, 1
	if proof() {
		turns, drives = 6, 5
	}
	vmtest.EachKernel(t, func(t *testing.T, k vmtest.Kernel) {
		rule := filepath.Join(t.TempDir(), "rule")
		if err := os.WriteFile(rule, []byte(udevRule), 0o644); err != nil {
			t.Fatal(err)
		}
		h := boot(t, vmtest.Config{Kernel: k, Modules: guardOrder(), Programs: []string{"udevadm"}, Files: map[string]string{
			udevd: kernel.Program("udevadm"), "/etc/udev/rules.d/90-vfio.rules": rule,
		}}, policyFor("race"))
		times := map[string][]time.Duration{}
		touched := map[string]int{}
		for range turns {
			for _, w := range ways(k) {
				w.begin(h)
				w.measure(h)
				for range drives {
					latency, others := w.measure(h)
					times[w.name] = append(times[w.name], latency)
					touched[w.name] += others
				}
				w.end(h)
			}
		}
		for _, w := range ways(k) {
			line := fmt.Sprintf("latency on %s: %s: %s", k, w.name, spread(times[w.name]))
			if w.floor != "" {
				line += fmt.Sprintf(", %.2f times %s", float64(median(times[w.name]))/float64(median(times[w.floor])), w.floor)
			}
			figure("%s, touched by another driver %d of %d", line, touched[w.name], turns*drives)
		}
	})
}

// measure plugs one drive and takes it out again. It gives the time and how
// many drives another driver has touched, none or one.
func (w way) measure(h *house) (time.Duration, int) {
	h.t.Helper()
	mark := h.Mark()
	h.Plug(w.bay, vmtest.Device{})
	latency, touched := h.came(mark, w.bay, w.driver)
	// A stub lends a drive its name and does nothing to it.
	others := slices.DeleteFunc(touched, func(driver string) bool { return driver == w.driver || driver == "pci-stub" })
	if w.exact && len(others) > 0 {
		h.t.Errorf("%s: %q touched the drive", w.name, others)
	}
	h.unplug(w.bay)
	return latency, min(len(others), 1)
}
