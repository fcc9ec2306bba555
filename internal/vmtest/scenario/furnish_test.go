package scenario

import (
	"fmt"
	"path"
	"regexp"
	"strings"

	"vfio-hotplug/internal/vmtest"
)

// arrayUUID is that of the file system on the array, by which fstab names it.
const arrayUUID = "5ca0c1a4-3d3f-4f0d-9a0e-2b8f5b0a7c11"

// furniture is what a machine has on its drives: each is named by fstab in
// another way. The chain is how a refusal names the use; DISK stands for the
// drive's own node.
var furniture = []struct {
	bays  []int
	make  string // shell; the arguments are the nodes of the drives in bays
	fstab string
	chain string // a regular expression
	point string // "" for swap
}{
	{[]int{volumeBay}, `pvcreate -q -y "$1" && vgcreate -q data "$1" && lvcreate -q -y -n volume -l 100%FREE data && mkfs.ext4 -q /dev/data/volume`,
		"/dev/data/volume /srv/volume ext4 defaults 0 2", `DISK → dm-\d+ \(data-volume\) → /srv/volume`, "/srv/volume"},
	{[]int{arrayBay, mirrorBay}, `mdadm --quiet --create /dev/md/mirror --run --level=1 --raid-devices=2 --assume-clean "$1" "$2" && udevadm settle --timeout=100 && mkfs.ext4 -q -U ` + arrayUUID + ` /dev/md/mirror`,
		"UUID=" + arrayUUID + " /srv/array ext4 defaults 0 2", `DISK → md\d+ → /srv/array`, "/srv/array"},
	{[]int{swapBay}, `mkswap -L pages "$1"`, "LABEL=pages none swap sw 0 0", `DISK → swap`, ""},
	{[]int{labelBay}, `mkfs.ext4 -q -L letters "$1"`, "LABEL=letters /srv/label ext4 defaults 0 2", `DISK → /srv/label`, "/srv/label"},
}

// furnish puts a volume, an array, swap and a file system on drives, as an
// administrator would, and has fstab name them. No rule names the drives yet. It
// gives fstab as it was before.
func (h *house) furnish() string {
	h.t.Helper()
	before := h.ReadFile("/etc/fstab")
	table := before
	for _, f := range furniture {
		for _, bay := range f.bays {
			h.Plug(bay, vmtest.Device{})
		}
	}
	for _, f := range furniture {
		var disks []string
		for _, bay := range f.bays {
			disks = append(disks, h.block(bay))
		}
		h.sh(f.make, disks...)
		table += f.fstab + "\n"
	}
	h.CreateFile("/etc/fstab", table, 0o644)
	h.settleUdev()
	h.Do("systemctl", "daemon-reload")
	for _, f := range furniture {
		if f.point != "" {
			h.sh(`mkdir -p "$1" && mount "$1" && echo "$1" >"$1/name" && sync`, f.point)
		}
	}
	h.Do("swapon", "--all")
	return before
}

// furnished waits until the daemon has refused all that fstab names, each with
// the way to its use, and checks that it is in use: whatever the policy says.
func (h *house) furnished() {
	h.t.Helper()
	h.inUse()
	for _, f := range furniture {
		for _, bay := range f.bays {
			d := h.settled(bay, "refused")
			chain := regexp.MustCompile(strings.ReplaceAll(f.chain, "DISK", path.Base(h.block(bay))) + `$`)
			if d.Driver != "nvme" || !chain.MatchString(d.Reason) {
				h.t.Errorf("bay %d, on %s, was refused because of %q; want nvme and %s", bay, d.Driver, d.Reason, chain)
			}
		}
	}
}

// inUse checks that all that fstab names is mounted and whole, and swapped to.
func (h *house) inUse() {
	h.t.Helper()
	for _, f := range furniture {
		if f.point == "" {
			if swaps := h.ReadFile("/proc/swaps"); !strings.Contains(swaps, h.block(f.bays[0])) {
				h.t.Errorf("no swap is on bay %d:\n%s", f.bays[0], swaps)
			}
			continue
		}
		if name := h.Run("cat", f.point+"/name"); string(name.Stdout) != f.point+"\n" {
			h.t.Errorf("%s is not mounted: %s", f.point, name.Stderr)
		}
	}
}

// bootsSwitchedOff boots with the way out on the kernel's command line, and then
// with a masked service, although the policy names every drive: all drives are
// nvme's, also those that come later, and no part of the package has done
// anything.
func (h *house) bootsSwitchedOff() {
	h.t.Helper()
	h.Reboot("vfio-hotplug=off")
	h.isOff("switched off")
	h.Do("systemctl", "mask", service)
	h.Reboot()
	h.isOff("masked")
	h.Do("systemctl", "unmask", service)
}

// isOff checks that no part of the package has done anything since the boot, and
// none does when a drive is plugged.
func (h *house) isOff(how string) {
	h.t.Helper()
	h.runs("running")
	h.inUse()
	for _, bay := range []int{earlyBay, reloadBay, volumeBay, arrayBay, mirrorBay, swapBay, labelBay} {
		h.WaitDriver(bay, "nvme")
	}
	h.plugForNVMe(stormBay)
	for _, unit := range []string{service, "vfio-hotplug.socket", "vfio-hotplug-guard.service", "vfio-hotplug-early.service"} {
		state := h.Do("systemctl", "show", "--property=ActiveState,ConditionResult,NRestarts", unit)
		if !strings.Contains(state, "ActiveState=inactive\n") || strings.Contains(state, "ConditionResult=yes") {
			h.t.Errorf("%s, %s is\n%s", how, unit, state)
		}
	}
	if said := h.Do("journalctl", "--quiet", "--no-pager", "--boot", "_COMM=vfio-hotplug"); said != "" {
		h.t.Errorf("%s, it says\n%s", how, said)
	}
	if files := h.Glob("/run/vfio-hotplug/*"); len(files) > 0 {
		h.t.Errorf("%s, there is %q", how, files)
	}
	h.untouched()
	h.Unplug(stormBay)
}

// bootsWithFaults boots with a policy that cannot be read: all that fstab names
// comes up, the service says where the fault is, and does not try again until
// somebody has mended it.
func (h *house) bootsWithFaults() {
	h.t.Helper()
	h.CreateFile(localRules, "\n[[rule]]\nnme = \"every drive\"\nmatch = { class = \"nvme\" }\n", 0o644)
	h.Reboot()
	h.runs("degraded") // the service has failed
	h.inUse()
	for _, bay := range []int{earlyBay, reloadBay} {
		h.WaitDriver(bay, "nvme")
	}
	h.plugForNVMe(stormBay)
	state := h.Do("systemctl", "show", "--property=ActiveState,SubState,ExecMainStatus,NRestarts", service)
	for _, want := range []string{"ActiveState=failed", "SubState=failed", "ExecMainStatus=78", "NRestarts=0"} {
		if !strings.Contains(state, want+"\n") {
			h.t.Errorf("with a broken policy the service is\n%s, want %s", state, want)
		}
	}
	place := localRules + ":3:1"
	if said := h.Do("journalctl", "--quiet", "--no-pager", "--boot", "--output=cat", "--unit="+service); !strings.Contains(said, place) {
		h.t.Errorf("with a broken policy it says\n%s, want %s", said, place)
	}
	h.untouched()
	h.Unplug(stormBay)

	h.CreateFile(localRules, everyDrive, 0o644)
	h.Do("systemctl", "start", service)
	h.furnished()
}

// plugForNVMe plugs a drive that nobody but nvme may touch.
func (h *house) plugForNVMe(bay int) {
	h.t.Helper()
	mark := h.Mark()
	h.Plug(bay, vmtest.Device{})
	h.witnessed(mark, bay, "nvme")
	h.waitBlock(bay)
}

// untouched checks that nobody has touched the drives that are in use since the
// boot, and which the policy names, or named.
func (h *house) untouched() {
	h.t.Helper()
	h.rootStays()
	for _, f := range furniture {
		for _, bay := range f.bays {
			for _, action := range []string{"unbind", "remove"} {
				if events := h.Uevents(0, vmtest.Match{Action: action, Subsystem: "pci", Devpath: h.Address(bay)}); len(events) > 0 {
					h.t.Errorf("bay %d, in use: %s", bay, fmt.Sprint(events))
				}
			}
		}
	}
}
