package daemon_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"vfio-hotplug/internal/control"
	"vfio-hotplug/internal/operate"
	"vfio-hotplug/internal/sysfstest"
)

// process makes a procfs with one process, which sleeps in a function of the
// kernel.
func (h *house) process(sleeps string) {
	h.t.Helper()
	h.proc = h.t.TempDir()
	process := filepath.Join(h.proc, "1")
	if err := os.MkdirAll(filepath.Join(process, "fd"), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(process, "wchan"), []byte(sleeps), 0o644); err != nil {
		h.t.Fatal(err)
	}
}

// TestADriveThatWasEnabledByHandIsNotStuck: somebody has unbound it and written to
// its attribute enable, and vfio has another one of its group. A drive that a
// program holds looks the same, but no thread waits for this one.
func TestADriveThatWasEnabledByHandIsNotStuck(t *testing.T) {
	for _, release := range heldReleases {
		t.Run(release.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := lumped(t, sysfstest.Options{Release: release}, everyNVMe)
				h.process("poll_schedule_timeout")
				h.fill()
				h.unbind("nvme", 2)
				h.Set("bus/pci/devices/"+bayAt(2).String()+"/enable", "1\n")
				h.start()
				time.Sleep(time.Minute)
				if lines := h.log.lines("outcome=stuck"); len(lines) > 0 {
					t.Errorf("the log says %q, and nobody waits", lines)
				}
				if d := h.command(control.MethodBind, 2); d.Driver != "vfio-pci" {
					t.Errorf("bind by hand: %+v", d)
				}
				h.end()
			})
		})
	}
}

// TestADriveOfAStrangerForWhichTheKernelWaitsIsStuck: another tool gave a whole
// group to vfio and has unbound one drive of it that a program holds, all before
// the daemon was started.
func TestADriveOfAStrangerForWhichTheKernelWaitsIsStuck(t *testing.T) {
	for _, release := range heldReleases {
		t.Run(release.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := lumped(t, sysfstest.Options{Release: release}, everyNVMe)
				h.process("vfio_unregister_group_dev")
				h.fill()
				for bay := 1; bay <= 2; bay++ {
					h.driverctl(bay, "vfio-pci")
				}
				holder := h.openVFIO(1)
				go h.Root().Write("bus/pci/drivers/vfio-pci/unbind", bayAt(1).String())
				synctest.Wait()
				h.start()
				time.Sleep(time.Minute)
				if line := h.log.last("pci_address=" + bayAt(1).String()); !strings.Contains(line, "outcome="+string(operate.Stuck)) {
					t.Errorf("the last word on it is %q, want it stuck", line)
				}
				holder.letGo()
				h.end()
			})
		})
	}
}
