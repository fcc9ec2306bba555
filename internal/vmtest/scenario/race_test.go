package scenario

import (
	"regexp"
	"strings"
	"testing"

	"vfio-hotplug/internal/vmtest"
)

const racerPackage = "vfio-hotplug/internal/vmtest/racer"

// TestGuestMountRace: somebody mounts a drive whenever he can, in a tight loop,
// while it is plugged and taken from nvme, again and again. Nobody takes it away
// while it is mounted, what is on it stays whole, and in the end it is taken. The
// first time he has mounted it before the daemon comes, so that he is in the race
// also where the daemon is always faster.
func TestGuestMountRace(t *testing.T) {
	const bay, point = 0, "/mnt/race"
	rounds := 3
	if proof() {
		rounds = 100
	}
	vmtest.EachKernel(t, func(t *testing.T, k vmtest.Kernel) {
		racer, err := vmtest.Build(racerPackage)
		if err != nil {
			t.Fatal(err)
		}
		drive := vmtest.Device{Image: blankImage(t)}
		h := boot(t, vmtest.Config{
			Kernel: k, Modules: append(modules(), ext4(t, k)...), Files: map[string]string{"/bin/racer": racer}, Devices: map[int]vmtest.Device{bay: drive},
		}, idleDrives(bay))
		h.WaitDriver(bay, "nvme")
		disk := h.block(bay)
		h.mounted(disk, point)
		sum := h.Do("sha256sum", point+"/data")
		h.Do("umount", point)
		h.Unplug(bay)

		other := h.Start(vmtest.Background{Argv: []string{"/bin/racer", disk, point}})
		seen := 0
		for round := range rounds {
			h.Plug(bay, drive)
			if round == 0 {
				other.WaitLine("^in the race$")
				h.start()
			}
			h.settled(bay, "taken")
			h.Unplug(bay)
			seen += len(h.daemon.Lines(seen, "is gone"))
		}
		if f := other.Stop(); f.Code != 0 {
			t.Errorf("the other one ended with %d %s", f.Code, f.Signal)
		}
		said := text(other)
		tally := regexp.MustCompile(`tried \d+, mounted \d+, taken away \d+`).FindString(said)
		if tally == "" {
			t.Fatalf("the other one says\n%s", said)
		}
		refused := strings.Count(text(h.daemon), "refused to take "+h.Address(bay))
		figure("mount race on %s: %d drives taken, refused %d times on the way; the other one %s", k, rounds, refused, tally)

		h.done()
		h.Plug(bay, drive)
		h.WaitDriver(bay, "nvme")
		h.Do("mount", "-t", "ext4", h.block(bay), point)
		if now := h.Do("sha256sum", point+"/data"); now != sum {
			t.Errorf("contents were\n%s and are\n%s", sum, now)
		}
	})
}

// text gives all that a program has written.
func text(p *vmtest.LabProcess) string {
	var b strings.Builder
	for _, line := range p.Output() {
		b.WriteString(line.Text + "\n")
	}
	return b.String()
}
