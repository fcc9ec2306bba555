package scenario

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"vfio-hotplug/internal/vmtest"
)

// TestGuestDisturbsNobody: while the daemon watches a drive that it has refused,
// an administrator partitions it and makes file systems on the new partition, in
// the second in which the daemon looks again: none of that may find the drive
// claimed.
func TestGuestDisturbsNobody(t *testing.T) {
	const bay, rounds = 0, 12
	vmtest.EachKernel(t, func(t *testing.T, k vmtest.Kernel) {
		h := boot(t, vmtest.Config{Kernel: k, Modules: append(modules(), ext4(t, k)...), Devices: map[int]vmtest.Device{bay: {}}}, everyNVMe)
		h.WaitDriver(bay, "nvme")
		disk := h.block(bay)
		h.Do("mkfs.ext4", "-q", "-F", disk)
		h.start()
		h.settled(bay, "refused")
		h.leaveAlone(bay)
		good := 0
		for round := range rounds {
			f := h.Run("sh", "-c", `printf 'o\nn\np\n1\n\n\nw\n' | fdisk "$1" >/tmp/fdisk 2>&1 || { cat /tmp/fdisk; exit 1; }
				until [ -b "$1p1" ]; do sleep 0.05; done
				for pause in 0 0.2 0.2 0.1 0.1 0.1 0.1 0.2 0.3; do
					sleep $pause
					mkfs.ext4 -q -F "$1p1" || exit 1
				done`, "sh", disk)
			if f.Code == 0 {
				good++
				continue
			}
			t.Logf("round %d: %s%s", round, f.Stdout, f.Stderr)
		}
		figure("partitioning on %s: %d of %d rounds good beside a daemon that watches the drive", k, good, rounds)
		if good != rounds {
			t.Errorf("%d of %d rounds were good", good, rounds)
		}
		if d := h.settled(bay, "refused"); d.Driver != "nvme" {
			t.Errorf("it is on %q", d.Driver)
		}
		h.done()
	})
}

const (
	openDescriptors = 20_000
	mostOfACore     = 0.01
	// mostEmulated is what that is worth of a processor that QEMU emulates, on which
	// a look takes many times as long.
	mostEmulated = 0.05
)

// TestGuestCostOfOthersMounts: with three mounted drives that a rule wants, twenty
// thousand open descriptors, and somebody who mounts and unmounts twice a second,
// the daemon uses at most a hundredth of a core. It still notices when the drives'
// own mounts go.
func TestGuestCostOfOthersMounts(t *testing.T) {
	const drives, processes = 3, 20
	length := 30 * time.Second
	if proof() {
		length = 2 * time.Minute
	}
	vmtest.EachKernel(t, func(t *testing.T, k vmtest.Kernel) {
		devices := map[int]vmtest.Device{}
		for bay := range drives {
			devices[bay] = vmtest.Device{}
		}
		h := boot(t, vmtest.Config{Kernel: k, Modules: append(modules(), ext4(t, k)...), Devices: devices, MemoryMB: 2048},
			strings.ReplaceAll(everyNVMe, `match = { class = "nvme" }`, `match = { class = "nvme" }`+"\ntakeover = \"idle\""))
		for bay := range drives {
			h.WaitDriver(bay, "nvme")
			h.mounted(h.block(bay), fmt.Sprintf("/mnt/%d", bay))
		}
		for range processes {
			p := h.Start(vmtest.Background{Argv: []string{"sh", "-c", `ulimit -n 4096
				i=10
				while [ $i -lt $(($1 + 10)) ]; do eval "exec $i</dev/null"; i=$((i + 1)); done
				echo ready
				while :; do sleep 1000; done`, "sh", strconv.Itoa(openDescriptors / processes)}})
			p.WaitLine("^ready$")
		}
		h.start()
		for bay := range drives {
			h.settled(bay, "refused")
		}
		quiet := h.cpuDuring(length)
		other := h.Start(vmtest.Background{Argv: []string{"sh", "-c", `mkdir -p /tmp/other
			while :; do
				mount -t tmpfs none /tmp/other && sleep 0.25 && umount /tmp/other && sleep 0.25 || exit 1
			done`}})
		busy := h.cpuDuring(length)
		figure("others' mounts on %s: %v of CPU in %v without, %v with two mounts a second, %d drives and %d descriptors",
			k, quiet, length, busy, drives, openDescriptors)
		share := mostEmulated
		if vmtest.KVM(k) {
			share = mostOfACore
		}
		if most := time.Duration(share * float64(length)); busy-quiet > most {
			t.Errorf("it used %v in %v, and %v in quiet: want no more than %v for other people's mounts", busy, length, quiet, most)
		}
		for bay := range drives {
			h.Do("umount", fmt.Sprintf("/mnt/%d", bay))
		}
		for bay := range drives {
			h.taken(bay, "vfio-pci")
		}
		other.Stop()
		h.done()
	})
}

// cpuDuring gives the time that the daemon and what it has started use of the
// processors meanwhile.
func (h *house) cpuDuring(length time.Duration) time.Duration {
	h.t.Helper()
	const piece = 10 * time.Second // each command has its own time to end
	before := h.cpu()
	for ; length > 0; length -= piece {
		h.Do("sleep", strconv.Itoa(int(piece.Seconds())))
	}
	return h.cpu() - before
}

// cpu gives that time since the daemon's start: utime, stime, cutime and cstime of
// proc_pid_stat(5), in hundredths of a second.
func (h *house) cpu() time.Duration {
	h.t.Helper()
	stat := h.ReadFile(fmt.Sprintf("/proc/%d/stat", h.daemon.PID))
	fields := strings.Fields(stat[strings.LastIndex(stat, ")")+1:])
	if len(fields) < 15 {
		h.t.Fatalf("the daemon's stat is %q", stat)
	}
	var ticks time.Duration
	for _, field := range fields[11:15] { // the third field of the file is the first after the name
		n, err := strconv.Atoi(field)
		if err != nil {
			h.t.Fatalf("the daemon's stat is %q", stat)
		}
		ticks += time.Duration(n)
	}
	return ticks * (time.Second / 100)
}
