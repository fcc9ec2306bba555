package scenario

import (
	"context"
	"path"
	"strings"
	"testing"

	"vfio-hotplug/internal/vmtest"
)

// A card with two NVMe functions and no ACS: one IOMMU group.
const (
	firstOnly = "[guard]\nmode = \"race\"\n[[rule]]\nname = \"first function\"\nmatch = { address = \"*.0\", class = \"nvme\" }\n"
	eachAlone = everyNVMe + "takeover = \"idle\"\n"
	together  = eachAlone + "group = \"with\"\n"
)

// TestGuestGroup: a drive of a shared group is refused with the name of the
// other, comes by itself when that lets go, and is told of when it comes back.
// With group = "with" both are taken or none, found and plugged, and what is on
// them stays whole.
func TestGuestGroup(t *testing.T) {
	vmtest.EachKernel(t, func(t *testing.T, k vmtest.Kernel) {
		h := boot(t, vmtest.Config{Kernel: k, Modules: append(modules(), ext4(t, k)...), Devices: map[int]vmtest.Device{
			0: {Second: &vmtest.Device{}},
		}}, firstOnly)
		first := h.Address(0)
		second := strings.TrimSuffix(first, "0") + "1"
		h.others = []string{second}
		h.WaitDriver(0, "nvme")
		disk := h.blockAt(second)
		h.Do("mkfs.ext4", "-q", "-F", disk)
		sum := h.Do("sha256sum", disk)

		// Alone: names, and why.
		h.start()
		h.because(first, second+" (nvme)", "they are functions of one device")
		h.refused(second+" (nvme)", "bind", first)
		if text := string(h.Run(program, "explain", first).Stdout); !strings.Contains(text, "VETO IOMMU group: group ") {
			t.Errorf("explain says %s", text)
		}

		// Whoever waits comes when the other lets go, and is told of when it is
		// back; what is done to the other is not fought over.
		h.hand(second, "nvme/unbind")
		h.taken(0, "vfio-pci")
		h.hand(second, "nvme/bind")
		h.daemon.WaitLine("no program can open " + first + ": .*" + second + ` \(nvme\)`)
		if text := string(h.Do(program, "status")); !strings.Contains(text, first+": no program can open it") {
			t.Errorf("status says %s", text)
		}
		h.hand(second, "nvme/unbind")
		h.daemon.WaitLine("is viable again: a program can open " + first)
		h.Do(program, "release", first)
		h.WaitDriver(0, "nvme")
		h.hand(second, "nvme/bind")
		disk = h.blockAt(second)
		h.blockAt(first)

		// Both named, each for itself.
		h.moved(eachAlone, "policy reloaded")
		h.refused(`say group = "with" in rule "every drive"`, "bind", first)

		// Together, but one is mounted: none.
		h.Do("mkdir", "-p", "/srv")
		h.Do("mount", "-t", "ext4", "-o", "ro", disk, "/srv")
		h.moved(together, "policy reloaded")
		h.because(second, "in use", "/srv")
		h.refused(second+" (nvme) cannot be taken along: in use: ", "bind", first)
		h.refused("/srv", "bind", second)
		h.WaitDriver(0, "nvme")
		h.Do("umount", "/srv")
		if now := h.Do("sha256sum", h.blockAt(second)); strings.Fields(now)[0] != strings.Fields(sum)[0] {
			t.Errorf("contents were %s and are %s", sum, now)
		}

		// Nobody uses it any more: both, and back with what is on them.
		h.Do(program, "bind", first)
		h.taken(0, "vfio-pci")
		h.settledAt(second, "taken")
		h.Do(program, "release", second)
		h.Do(program, "release", first)
		if now := h.Do("sha256sum", h.blockAt(second)); strings.Fields(now)[0] != strings.Fields(sum)[0] {
			t.Errorf("after bind and release: contents were %s and are %s", sum, now)
		}
		h.blockAt(first)

		// Plugged: both, whoever was faster.
		h.unplug(0)
		h.Plug(0, vmtest.Device{Second: &vmtest.Device{}})
		h.taken(0, "vfio-pci")
		if d := h.settledAt(second, "direct", "taken", "already"); d.Driver != "vfio-pci" || d.Barred != "" {
			t.Errorf("the second function came as %+v", d)
		}
		h.done()
	})
}

// blockAt waits until nvme shows the disk of the drive at an address.
func (h *house) blockAt(address string) string {
	h.t.Helper()
	pattern := "/sys/bus/pci/devices/" + address + "/nvme/nvme*/nvme*n*"
	var found []string
	h.WaitFor("a namespace like "+pattern, func(ctx context.Context) (bool, error) {
		var err error
		found, err = h.Guest.Glob(ctx, pattern)
		return len(found) > 0, err
	})
	return "/dev/" + path.Base(found[0])
}

// because waits until status says that a device is refused, with these words.
func (h *house) because(address string, words ...string) {
	h.t.Helper()
	h.WaitFor(address+" to be refused: "+strings.Join(words, ", "), func(ctx context.Context) (bool, error) {
		reply, err := h.status(ctx)
		for _, d := range reply.Devices {
			if d.Address == address && d.Outcome == "refused" {
				return containsAll(d.Reason, words), nil
			}
		}
		return false, err
	})
}

func containsAll(text string, words []string) bool {
	for _, word := range words {
		if !strings.Contains(text, word) {
			return false
		}
	}
	return true
}

// hand writes the address of a device to a driver's bind or unbind, as a person
// does.
func (h *house) hand(address, file string) {
	h.t.Helper()
	h.Do("sh", "-c", "printf %s "+address+" >/sys/bus/pci/drivers/"+file)
}
