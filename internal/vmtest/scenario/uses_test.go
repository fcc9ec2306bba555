package scenario

import (
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"vfio-hotplug/internal/vmtest"
)

// idleDrives is a policy that takes every drive that nobody uses, whatever is
// on it. In some bays nvme always comes first.
func idleDrives(read ...int) string {
	ports := make([]string, len(read))
	for i, bay := range read {
		ports[i] = strconv.Quote(vmtest.PortAddress(bay))
	}
	return `
[guard]
mode = "race"

[[rule]]
name     = "read first"
match    = { class = "nvme", behind = [` + strings.Join(ports, ", ") + `] }
takeover = "idle"
guard    = false

[[rule]]
name     = "every drive"
match    = { class = "nvme" }
takeover = "idle"
`
}

// A use is a way to use a drive. begin gives the file of which the contents
// must stay as they are.
type use struct {
	name  string
	begin func(h *house, disk string) (contents string)
	chain string // how a refusal names it; DISK and NUMBER stand for nvme0n1 and 0n1
}

// uses are in the bays from 0 on, in this order.
var uses = []use{
	{"mounted", func(h *house, disk string) string { return h.mounted(disk, "/mnt/disk") }, "DISK → /mnt/disk"},
	{"mounted partition", func(h *house, disk string) string {
		h.sh(`printf 'n\np\n1\n\n\nw\n' | fdisk "$1" >/dev/null`, disk)
		return h.mounted(disk+"p1", "/mnt/partition")
	}, "DISKp1 → /mnt/partition"},
	{"swap", func(h *house, disk string) string {
		h.sh(`mkswap "$1" && swapon "$1"`, disk)
		return disk
	}, "DISK → swap"},
	{"volume", func(h *house, disk string) string {
		h.sh(`dmsetup create vg-data --noudevrules --noudevsync --table "0 16384 linear $1 2048"`, disk)
		return h.mounted("/dev/dm-0", "/mnt/volume")
	}, "DISK → dm-0 (vg-data) → /mnt/volume"},
	{"array", func(h *house, disk string) string {
		// As mdadm does it, for an array without a superblock (Documentation/admin-guide/md.rst).
		h.sh(`echo md_data >/sys/module/md_mod/parameters/new_array && cd /sys/block/md_data/md &&
			echo raid1 >level && echo none >metadata_version && echo 2 >raid_disks && echo 8192 >component_size &&
			cat "/sys/block/${1#/dev/}/dev" >new_dev && echo 0 >"dev-${1#/dev/}/slot" && echo active >array_state`, disk)
		return h.mounted("/dev/md_data", "/mnt/array")
	}, "DISK → md_data → /mnt/array"},
	{"opened", func(h *house, disk string) string { return h.opened(disk, disk) }, "DISK → tail (process "},
	{"opened for commands", func(h *house, disk string) string {
		return h.opened("/dev/ng"+strings.TrimPrefix(disk, "/dev/nvme"), disk)
	}, "ngNUMBER → tail (process "},
	{"loop", func(h *house, disk string) string {
		h.sh(`losetup /dev/loop0 "$1"`, disk)
		return h.mounted("/dev/loop0", "/mnt/loop")
	}, "DISK → loop0 → /mnt/loop"},
	{"exported by nvmet", func(h *house, disk string) string {
		h.sh(`cd /sys/kernel/config/nvmet/subsystems && mkdir -p nqn.test/namespaces/1 && cd nqn.test/namespaces/1 &&
			ln -s "$1" /tmp/exported && echo /tmp/exported >device_path && echo 1 >enable`, disk)
		return disk
	}, "DISK → nvmet nqn.test namespace 1"},
	{"exported by LIO", func(h *house, disk string) string {
		h.sh(`mkdir -p /sys/kernel/config/target/core/iblock_0/disk && cd /sys/kernel/config/target/core/iblock_0/disk &&
			echo "udev_path=$1" >control && echo "$1" >udev_path && echo 1 >enable`, disk)
		return disk
	}, "DISK → LIO iblock_0/disk"},
	{"named in fstab", func(h *house, disk string) string {
		h.sh(`mkfs.ext4 -q -F -U "$1" "$2" && echo "UUID=$1 /data ext4 noauto 0 0" >/etc/fstab`, fstabUUID, disk)
		return disk
	}, "DISK → /etc/fstab line 1: UUID=" + fstabUUID + " on /data"},
}

const fstabUUID = "9652fc43-a7ad-46ed-9625-bf62c0ce1ddc"

// chainOf gives the chain for a drive that begins with a disk.
func (u use) chainOf(disk string) string {
	name := path.Base(disk)
	return strings.NewReplacer("DISK", name, "NUMBER", strings.TrimPrefix(name, "nvme")).Replace(u.chain)
}

// TestGuestUses: of all drives that are there before the daemon, each used in
// another way, only the blank one is taken, at the start and by hand. The log,
// status and explain say by the same chain who uses each, and what is on them
// stays as it is. One drive has two functions, and is mounted. Plugged into
// another bay, the drive that fstab names is refused again once nvme has it. Then
// the uses end, and each drive is taken, by nobody's command, as its last user
// goes.
func TestGuestUses(t *testing.T) {
	vmtest.EachKernel(t, func(t *testing.T, k vmtest.Kernel) {
		named, first, second, free, empty := len(uses)-1, len(uses), len(uses)+1, len(uses)+2, len(uses)+3
		devices := map[int]vmtest.Device{free: {}}
		for bay := range uses {
			devices[bay] = vmtest.Device{Size: 16 << 20}
		}
		devices[named] = vmtest.Device{Image: blankImage(t)}
		config := vmtest.Config{
			Kernel: k, Bays: empty + 1, Devices: devices, Args: sharedNamespace(t, first, second), Programs: []string{"dmsetup"},
			Modules: append(modules(), append(ext4(t, k), "loop", "dm-mod", "raid1", "nvmet", "target_core_iblock")...),
		}
		h := boot(t, config, idleDrives(free, empty))
		for bay := range free + 1 {
			h.WaitDriver(bay, "nvme")
		}
		h.sh(`mount -t configfs none /sys/kernel/config`)
		chains, files := map[int]string{}, []string{}
		for bay, u := range uses {
			disk := h.block(bay)
			files, chains[bay] = append(files, u.begin(h, disk)), u.chainOf(disk)
		}
		head := h.head(first)
		files = append(files, h.mounted("/dev/"+head, "/mnt/shared"))
		for _, bay := range []int{first, second} {
			chains[bay] = h.path(bay) + " → " + head + " → /mnt/shared"
		}
		h.Do("sync")
		sums := h.Do(append([]string{"sha256sum"}, files...)...)

		h.start()
		h.taken(free, "vfio-pci")
		for bay, chain := range chains {
			h.wantRefusal(bay, chain, chain, "--takeover", "idle")
			h.daemon.WaitLine(regexp.QuoteMeta(chain))
			if said := h.Do(program, "explain", "--json", h.Address(bay)); !strings.Contains(said, chain) {
				t.Errorf("bay %d: explain says\n%s\nwant %q in it", bay, said, chain)
			}
			h.leaveAlone(bay)
		}
		if now := h.Do(append([]string{"sha256sum"}, files...)...); now != sums {
			t.Errorf("contents were\n%s and are\n%s", sums, now)
		}
		h.Unplug(free)
		h.daemon.WaitLine(h.Address(free) + " is gone")
		h.Plug(free, devices[free])
		if d := h.settled(free, "taken", "direct"); d.Outcome != "taken" {
			t.Errorf("the blank drive that nvme was to read first came %s", d.Outcome)
		}
		h.Unplug(named)
		h.Plug(empty, devices[named])
		h.settled(empty, "refused")
		chain := uses[named].chainOf(h.block(empty))
		h.wantRefusal(empty, chain, chain, "--takeover", "idle")
		h.checkWrites()
		h.stays = h.stays[:0]
		h.lastUsersGo(first, second)
		h.done()
	})
}

// lastUsersGo ends the uses, and checks that each drive comes as its last user
// has gone. The two functions have one disk.
func (h *house) lastUsersGo(first, second int) {
	h.t.Helper()
	begun := time.Now()
	// Together only what does not tell of each other's drives.
	for _, step := range []struct {
		do   string
		bays []int
	}{
		{"umount /mnt/disk /mnt/partition /mnt/shared", []int{bayOf("mounted"), bayOf("mounted partition"), first, second}},
		{`for fd in /proc/[0-9]*/fd/3; do
			case "$(readlink "$fd")" in /dev/nvme*|/dev/ng*) kill "$(echo "$fd" | cut -d/ -f3)";; esac
		  done
		  echo 0 >/sys/kernel/config/nvmet/subsystems/nqn.test/namespaces/1/enable
		  rmdir /sys/kernel/config/nvmet/subsystems/nqn.test/namespaces/1 /sys/kernel/config/target/core/iblock_0/disk`,
			[]int{bayOf("opened"), bayOf("opened for commands"), bayOf("exported by nvmet"), bayOf("exported by LIO")}},
		{"umount /mnt/volume && dmsetup remove vg-data --noudevrules --noudevsync", []int{bayOf("volume")}},
		{"umount /mnt/array && echo clear >/sys/block/md_data/md/array_state", []int{bayOf("array")}},
		{"umount /mnt/loop && losetup -d /dev/loop0", []int{bayOf("loop")}},
		{`swapoff $(tail -n 1 /proc/swaps | cut -d" " -f1)`, []int{bayOf("swap")}},
	} {
		h.sh(step.do)
		for _, bay := range step.bays {
			h.taken(bay, "vfio-pci")
			h.daemon.WaitLine("took " + regexp.QuoteMeta(h.Address(bay)) + " from nvme for vfio-pci, which was refused before: in use: ")
		}
	}
	h.t.Logf("all came within %.1f s", time.Since(begun).Seconds())
}

// bayOf gives the bay of a use.
func bayOf(name string) int {
	return slices.IndexFunc(uses, func(u use) bool { return u.name == name })
}

// blankImage makes the image of a small blank drive, which outlasts its
// plugging.
func blankImage(t *testing.T) string {
	t.Helper()
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 16<<20); err != nil {
		t.Fatal(err)
	}
	return image
}

// sharedNamespace gives QEMU's arguments for a drive with two functions, in two
// bays, and one namespace.
func sharedNamespace(t *testing.T, bays ...int) []string {
	t.Helper()
	args := []string{"-device", "nvme-subsys,id=shared", "-drive", "if=none,id=shared-disk,format=raw,file=" + blankImage(t)}
	for _, bay := range bays {
		args = append(args, "-device", fmt.Sprintf("nvme,id=shared%d,serial=SHARED,subsys=shared,bus=rp%d", bay, bay))
	}
	return append(args, "-device", fmt.Sprintf("nvme-ns,drive=shared-disk,nsid=1,bus=shared%d", bays[0]))
}

// sh runs a line of shell in the guest, with arguments.
func (h *house) sh(line string, args ...string) {
	h.t.Helper()
	h.Do(append([]string{"sh", "-c", line, "sh"}, args...)...)
}

// mounted makes a file system, mounts it, and gives a file on it.
func (h *house) mounted(node, point string) string {
	h.t.Helper()
	h.sh(`mkfs.ext4 -q -F "$1" && mkdir -p "$2" && mount -t ext4 "$1" "$2" &&
		dd if=/dev/urandom of="$2/data" bs=64k count=16 2>/dev/null`, node, point)
	return point + "/data"
}

// opened has a program hold a node of a disk open.
func (h *house) opened(node, disk string) string {
	h.t.Helper()
	h.startOpener(`exec tail -f /dev/null <"$1" 3<"$1"`, node, "tail")
	return disk
}

// startOpener starts a line of shell that opens its argument and becomes another
// program, and waits until it has.
func (h *house) startOpener(line, node, becomes string) *vmtest.LabProcess {
	h.t.Helper()
	p := h.Start(vmtest.Background{Argv: []string{"sh", "-c", line, "sh", node}})
	name := fmt.Sprintf("/proc/%d/comm", p.PID)
	h.WaitFor(becomes+" to have "+node+" open", func(ctx context.Context) (bool, error) {
		is, err := h.Guest.ReadFile(ctx, name)
		return is == becomes+"\n", err
	})
	return p
}

// path gives the hidden path by which the function in a bay leads to its first
// namespace, once it is there.
func (h *house) path(bay int) string { return path.Base(h.block(bay)) }

// head gives the disk that a path leads to: nvme0n1 for nvme0c1n1.
func (h *house) head(bay int) string {
	return regexp.MustCompile(`c\d+`).ReplaceAllString(h.path(bay), "")
}
