package scenario

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"vfio-hotplug/internal/vmtest"
)

// stopsWithin is how long the daemon may take to end, emulated on a busy
// machine. One that the kernel holds does not end at all.
const stopsWithin = 30 * time.Second

// TestGuestHeld: a program holds a drive through vfio. A release refuses and
// names it; while an unplug waits for it, and later an unbind by a stranger, the
// journal, status and explain name it, no command waits, and the daemon ends and
// starts as ever. When the program is over, the unplug is, and the drive that
// waited behind it comes up. What a stranger has bound back stays so.
func TestGuestHeld(t *testing.T) {
	const held, other, late = 0, 1, 2
	vmtest.EachKernel(t, func(t *testing.T, k vmtest.Kernel) {
		holder, err := vmtest.Build("vfio-hotplug/internal/vmtest/holder")
		if err != nil {
			t.Fatal(err)
		}
		h := boot(t, vmtest.Config{Kernel: k, Modules: modules(), Files: map[string]string{"/usr/bin/holder": holder}}, everyNVMe)
		h.startWatched()
		h.Plug(held, vmtest.Device{})
		h.Plug(other, vmtest.Device{})
		h.taken(other, "vfio-pci")
		user, name := h.hold(held)

		address := h.Address(held)
		h.refused(name, "release", address)
		h.refused(name, "release", "--all")
		h.WaitDriver(other, "nvme")

		unplugged := make(chan error, 1)
		go func() { unplugged <- h.Guest.Unplug(t.Context(), held) }() // ends some time after the holder
		h.wantHeld(held, name)
		h.Plug(late, vmtest.Device{})
		h.stopsAtOnce()
		h.startWatched()
		h.wantHeld(held, name)
		h.Do(program, "bind", h.Address(other))
		h.taken(other, "vfio-pci")
		if h.Exists("/sys/bus/pci/devices/" + h.Address(late)) {
			t.Error("a drive came up although an unplug holds the lock of all hot-plug")
		}
		user.Signal(syscall.SIGKILL)
		h.daemon.WaitLine(regexp.QuoteMeta(address) + " is held up no longer")
		h.daemon.WaitLine(regexp.QuoteMeta(address) + " is gone")
		select {
		case err := <-unplugged:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(time.Minute):
			t.Error("the unplug goes on although its holder has gone")
		}
		h.taken(late, "vfio-pci")

		user, name = h.hold(late)
		h.Start(vmtest.Background{Argv: []string{"sh", "-c", `echo "$1" >/sys/bus/pci/drivers/vfio-pci/unbind`, "sh", h.Address(late)}})
		h.wantHeld(late, name)
		h.stopsAtOnce()
		h.startWatched()
		h.wantHeld(late, name)
		user.Signal(syscall.SIGKILL)
		h.daemon.WaitLine(regexp.QuoteMeta(h.Address(late)) + " is held up no longer")

		h.gives(other, "vfio-pci", "nvme")
		h.daemon.WaitLine("left " + regexp.QuoteMeta(h.Address(other)) + " alone: .* somebody else has since given it to (nvme|no driver)")
		h.WaitDriver(other, "nvme")
		h.done()
		if driver := h.Driver(other); driver != "nvme" {
			t.Errorf("what a stranger has bound back is on %q", driver)
		}
	})
}

// startWatched starts the daemon so that it looks often at what older kernels
// do not tell.
func (h *house) startWatched() {
	h.t.Helper()
	h.daemon = h.Start(vmtest.Background{Argv: []string{program, "daemon", "--debug"}, Env: []string{"WATCHDOG_USEC=4000000"}, Notify: true})
	h.daemon.WaitReady()
}

// hold has a program hold the device in a bay through vfio, and gives how it is
// named.
func (h *house) hold(bay int) (holder *vmtest.LabProcess, name string) {
	h.t.Helper()
	d := h.taken(bay, "vfio-pci")
	holder = h.Start(vmtest.Background{Argv: []string{"holder", d.Node, d.Address}})
	holder.WaitLine("^holds ")
	return holder, fmt.Sprintf("holder (process %d)", holder.PID)
}

// wantHeld waits until the daemon has told who holds up the kernel, and checks
// that every command answers and tells it too. Whoever waits for the program sleeps
// where operate looks for it.
func (h *house) wantHeld(bay int, name string) {
	h.t.Helper()
	address := h.Address(bay)
	h.daemon.WaitLine(regexp.QuoteMeta(address) + " is held up: .*" + regexp.QuoteMeta(name))
	if d := h.settled(bay, "stuck"); !strings.Contains(d.Reason, name) {
		h.t.Errorf("status says %q, want %q in it", d.Reason, name)
	}
	if said := h.Do(program, "explain", address); !strings.Contains(said, name) {
		h.t.Errorf("explain says\n%s\nwant %q in it", said, name)
	}
	h.refused(name, "release", address)
	h.refused(name, "bind", address)
	h.WaitFor("a thread that waits in vfio", func(ctx context.Context) (bool, error) { // it looks up every ten seconds
		f, err := h.Guest.Run(ctx, vmtest.Command{Argv: []string{"sh", "-c", "cat /proc/[0-9]*/task/*/wchan | grep -q vfio_unregister_group_dev"}})
		return f.Code == 0, err
	})
}

// stopsAtOnce stops the daemon, whatever the kernel holds.
func (h *house) stopsAtOnce() {
	h.t.Helper()
	began := time.Now()
	f := h.daemon.Stop()
	if took := time.Since(began); f.Code != 0 || took > stopsWithin {
		h.t.Errorf("the daemon ended with %d %s after %v, want at once", f.Code, f.Signal, took)
	}
}
