package scenario

import (
	"strings"
	"testing"

	"vfio-hotplug/internal/vmtest"
)

// The bays of TestGuestContents.
const (
	mountedBay = iota
	unmountedBay
	blankBay
)

// TestGuestContents: of three drives that are there before the daemon, one is
// mounted, one has a file system, one is blank. Only the blank one is taken, at
// the start and by hand, and what is on the others stays whole.
func TestGuestContents(t *testing.T) {
	vmtest.EachKernel(t, func(t *testing.T, k vmtest.Kernel) {
		h := boot(t, vmtest.Config{Kernel: k, Modules: append(modules(), ext4(t, k)...), Devices: map[int]vmtest.Device{
			mountedBay: {}, unmountedBay: {}, blankBay: {},
		}}, everyNVMe)
		for _, bay := range []int{mountedBay, unmountedBay, blankBay} {
			h.WaitDriver(bay, "nvme")
		}
		mounted, unmounted := h.block(mountedBay), h.block(unmountedBay)
		h.Do("mkfs.ext4", "-q", "-F", mounted)
		h.Do("mkfs.ext4", "-q", "-F", unmounted)
		h.Do("mkdir", "-p", "/srv")
		h.Do("mount", "-t", "ext4", mounted, "/srv")
		h.Do("sh", "-c", "dd if=/dev/urandom of=/srv/data bs=1M count=8 2>/dev/null; sync")
		sum := h.Do("sha256sum", "/srv/data", unmounted)

		h.start()
		h.taken(blankBay, "vfio-pci")
		h.wantRefusal(mountedBay, "/srv", "in use", "--takeover", "idle")
		h.wantRefusal(unmountedBay, "ext4", "ext4")
		if now := h.Do("sha256sum", "/srv/data", unmounted); now != sum {
			t.Errorf("contents were\n%s and are\n%s", sum, now)
		}
		h.leaveAlone(mountedBay)
		h.leaveAlone(unmountedBay)
		h.checkWrites()

		// A hand may name a laxer takeover for a drive that nobody uses, and give
		// it back whole.
		h.Do(program, "bind", "--takeover", "idle", h.Address(unmountedBay))
		h.taken(unmountedBay, "vfio-pci")
		h.Do(program, "release", h.Address(unmountedBay))
		h.WaitDriver(unmountedBay, "nvme")
		h.waitBlock(unmountedBay)
		if now := h.Do("sha256sum", "/srv/data", h.block(unmountedBay)); strings.Fields(now)[2] != strings.Fields(sum)[2] {
			t.Errorf("after bind and release: contents were\n%s and are\n%s", sum, now)
		}
		h.stays = h.stays[:1]
		h.done()
	})
}

// wantRefusal checks that a drive is refused at the start and by hand, with
// words that say why.
func (h *house) wantRefusal(bay int, atStart, byHand string, flags ...string) {
	h.t.Helper()
	if d := h.settled(bay, "refused"); !strings.Contains(d.Reason, atStart) {
		h.t.Errorf("bay %d was refused because of %q, want %q in it", bay, d.Reason, atStart)
	}
	h.refused(byHand, append([]string{"bind", h.Address(bay)}, flags...)...)
	if driver := h.Driver(bay); driver != "nvme" {
		h.t.Errorf("bay %d: driver %q, want nvme", bay, driver)
	}
}

// TestGuestRelease: what a hand gave back stays back, over a restart, until it
// is plugged again or bound by hand.
func TestGuestRelease(t *testing.T) {
	vmtest.EachKernel(t, func(t *testing.T, k vmtest.Kernel) {
		h := enter(t, vmtest.Config{Kernel: k, Modules: modules()}, everyNVMe)
		for bay := range 3 {
			h.Plug(bay, vmtest.Device{})
			h.taken(bay, "vfio-pci")
		}
		h.Do(program, "release", h.Address(0))
		h.WaitDriver(0, "nvme")
		if f := h.daemon.Stop(); f.Code != 0 {
			t.Errorf("the daemon ended with %d %s", f.Code, f.Signal)
		}
		h.start()
		h.settled(0, "released")
		if driver := h.Driver(0); driver != "nvme" {
			t.Errorf("after a restart: driver %q, want nvme", driver)
		}
		h.waitBlock(0)
		h.Do(program, "bind", h.Address(0))
		h.taken(0, "vfio-pci")

		// Plugged again it belongs to the policy again.
		h.Do(program, "release", h.Address(1))
		h.WaitDriver(1, "nvme")
		h.unplug(1)
		h.Plug(1, vmtest.Device{})
		h.taken(1, "vfio-pci")

		// Without a daemon the commands do it themselves.
		h.daemon.Stop()
		h.Do(program, "release", "--all")
		for bay := range 3 {
			h.WaitDriver(bay, "nvme")
		}
		h.waitBlock(2)
		h.Do(program, "bind", h.Address(2))
		h.WaitDriver(2, "vfio-pci")
		h.checkWrites()
	})
}
