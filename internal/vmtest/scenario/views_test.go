package scenario

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"

	"vfio-hotplug/internal/vmtest"
)

// A view is a device that is used in one way, and what is to be said of it.
type view struct {
	name  string
	card  bool // a network card, not a drive
	begin func(h *house, bay int)
	says  []string // none for a device that is taken; DISK stands for nvme0n1, IFACE for the interface
}

// views are in the bays from 0 on, in this order. The daemon's sandbox has a /home
// and a /tmp of its own.
var views = []view{
	{name: "unused", begin: func(*house, int) {}},
	{name: "mounted in /home", begin: func(h *house, bay int) { h.mounted(h.block(bay), "/home/disk") }, says: []string{"DISK → /home/disk"}},
	{name: "swap", begin: func(h *house, bay int) { h.sh(`mkswap "$1" && swapon "$1"`, h.block(bay)) }, says: []string{"DISK → swap"}},
	{name: "volume", begin: func(h *house, bay int) {
		h.sh(`dmsetup create vg-data --table "0 16384 linear $1 2048"`, h.block(bay))
	}, says: []string{"DISK → dm-", "(vg-data)"}},
	{name: "loop", begin: func(h *house, bay int) { h.sh(`modprobe loop && losetup /dev/loop7 "$1"`, h.block(bay)) }, says: []string{"DISK → loop7"}},
	{name: "opened", begin: func(h *house, bay int) { h.opened(h.block(bay), "") }, says: []string{"DISK → tail (process "}},
	{name: "named in fstab", begin: func(h *house, bay int) {
		h.sh(`mkfs.ext4 -q -F -U "$1" "$2" && echo "UUID=$1 /data ext4 noauto 0 0" >>/etc/fstab`, fstabUUID, h.block(bay))
	}, says: []string{"DISK → /etc/fstab line ", "UUID=" + fstabUUID + " on /data"}},
	{name: "exported by nvmet, through a link in /tmp", begin: func(h *house, bay int) {
		h.sh(`ln -s "$1" /tmp/exported`, h.block(bay))
		h.exportNVMe("1", "/tmp/exported")
	}, says: []string{"DISK → nvmet nqn.test namespace 1"}},
	{name: "exported by LIO", begin: func(h *house, bay int) {
		h.sh(`modprobe target_core_iblock; cd /sys/kernel/config/target && mkdir -p core/iblock_0/disk && cd core/iblock_0/disk &&
			echo "udev_path=$1" >control && echo "$1" >udev_path && echo 1 >enable`, h.block(bay))
	}, says: []string{"DISK → LIO iblock_0/disk"}},
	{name: "card", card: true, begin: func(h *house, bay int) { h.sh(`ip link set "$1" down`, h.iface(bay)) }},
	{name: "card that is up", card: true, begin: func(h *house, bay int) { h.sh(`ip link set "$1" up`, h.iface(bay)) }, says: []string{"IFACE → up"}},
	{name: "card of another network", card: true, begin: func(h *house, bay int) {
		h.sh(`ip netns add other && ip link set "$1" netns other && ip -n other link set "$1" up`, h.iface(bay))
	}, says: []string{"net has 1 more than shows in this network namespace"}},
}

// The bays behind those of views.
var (
	usbBay    = len(views)     // a USB controller with a network card
	secondBay = len(views) + 1 // an unused card, for the service with a network of its own
	lastBay   = len(views) + 2 // an unused drive, while nobody can tell what is exported
	viewBays  = len(views) + 3
)

// TestGuestViews has the installed daemon, and explain in a shell, look at devices
// each of which is used in another way: both say the same. Configfs is mounted
// after the daemon's start. Then the service gets a network of its own, as an
// administrator may give it one, and on Debian 13 with it a sysfs of its own: it
// still sees what process 1 sees.
func TestGuestViews(t *testing.T) {
	vmtest.EachSystem(t, func(t *testing.T, cfg vmtest.Config) {
		if synchronousFirst(cfg.Kernel) && !proof() {
			t.Skip("what a sandbox hides is systemd's affair; PROOF=1 runs the newest kernel too")
		}
		deb, err := buildDeb()
		if err != nil {
			t.Fatal(err)
		}
		cfg.Files, cfg.Bays = map[string]string{debInGuest: deb}, viewBays
		cfg.Args = []string{"-device", fmt.Sprintf("qemu-xhci,id=usb,bus=rp%d", usbBay), "-device", "usb-net,bus=usb.0"}
		h := &house{Lab: vmtest.Boot(t, cfg), t: t}
		h.install() // which plugs a drive into the first bay

		// Nothing of configfs is there when the daemon starts.
		h.Do("systemctl", "stop", "sys-kernel-config.mount")
		if mounts := h.ReadFile("/proc/mounts"); strings.Contains(mounts, " configfs ") {
			t.Fatalf("configfs is mounted still:\n%s", mounts)
		}
		h.Do("systemctl", "restart", service)
		for bay, v := range views[earlyBay+1:] {
			h.Plug(earlyBay+1+bay, v.device())
		}
		h.Do("modprobe", "nvmet")
		h.agree([]int{earlyBay}, map[int][]string{earlyBay: {"what nvmet exports cannot be seen"}})

		h.Do("systemctl", "start", "sys-kernel-config.mount")
		says := map[int][]string{}
		for bay, v := range views {
			what, name := "DISK", "" // asked before the use begins: that may take the interface away
			if v.card {
				what, name = "IFACE", h.iface(bay)
			} else {
				name = path.Base(h.block(bay))
			}
			v.begin(h, bay)
			for _, words := range v.says {
				says[bay] = append(says[bay], strings.ReplaceAll(words, what, name))
			}
		}
		usb := h.iface(usbBay)
		h.Do("ip", "link", "set", usb, "up")
		says[usbBay] = []string{usb + " → up"}
		all := make([]int, usbBay+1)
		for bay := range all {
			all[bay] = bay
		}
		h.settleUdev()
		h.agree(all, says)

		h.CreateFile("/etc/systemd/system/"+service+".d/network.conf", "[Service]\nPrivateNetwork=yes\n", 0o644)
		h.Do("systemctl", "daemon-reload")
		h.Do("systemctl", "restart", service)
		h.Plug(secondBay, vmtest.NIC())
		h.iface(secondBay)
		h.agree(append(all, secondBay), says)

		// What nobody can tell is on nobody's drive, and on everybody's.
		h.sh(`ln -s "$1" /dev/fast0`, h.block(bayOfView("mounted in /home")))
		h.exportNVMe("2", "/dev/fast0")
		h.Do("rm", "/dev/fast0")
		h.Plug(lastBay, vmtest.Device{})
		h.block(lastBay)
		h.agree([]int{lastBay}, map[int][]string{lastBay: {"what nvmet nqn.test namespace 2 exports cannot be told", "/dev/fast0"}})
		h.noErrors()
	})
}

// device is what is plugged for a view.
func (v view) device() vmtest.Device {
	if v.card {
		return vmtest.NIC()
	}
	return vmtest.Device{}
}

func bayOfView(name string) int {
	return slices.IndexFunc(views, func(v view) bool { return v.name == name })
}

// iface waits until the device in a bay has a network interface, and gives it.
func (h *house) iface(bay int) string {
	h.t.Helper()
	var found []string
	h.WaitFor(fmt.Sprintf("bay %d to have a network interface", bay), func(ctx context.Context) (bool, error) {
		var err error
		found = nil
		for _, below := range []string{"", "/usb*/*/*"} {
			names, fault := h.Guest.Glob(ctx, "/sys/bus/pci/devices/"+h.Address(bay)+below+"/net/*")
			found, err = append(found, names...), errors.Join(err, fault)
		}
		return len(found) > 0, err
	})
	h.settleUdev() // it may be given another name
	name := h.Glob(path.Dir(found[0]) + "/*")
	return path.Base(name[0])
}

// exportNVMe gives the kernel's NVMe target a namespace.
func (h *house) exportNVMe(id, path string) {
	h.t.Helper()
	h.sh(`dir=/sys/kernel/config/nvmet/subsystems/nqn.test/namespaces/$1 && mkdir -p "${dir%/*/*}" && mkdir "$dir" &&
		echo "$2" >"$dir/device_path" && echo 1 >"$dir/enable"`, id, path)
}

// agree puts rules for some bays into force. What explain says of each device
// before, under these rules, is what the daemon then does: it refuses those that
// says has words for, for these, and takes the others.
func (h *house) agree(bays []int, says map[int][]string) {
	h.t.Helper()
	const trial = "/srv/trial.toml"
	ports := make([]string, len(bays))
	for i, bay := range bays {
		ports[i] = strconv.Quote(vmtest.PortAddress(bay))
	}
	// Another driver always comes first.
	rules := fmt.Sprintf(`
[guard]
mode = "race"

[[rule]]
name     = "viewed"
match    = { behind = [%s] }
takeover = "idle"
guard    = false
`, strings.Join(ports, ", "))
	h.CreateFile(trial, rules, 0o644)
	said := map[int]explained{}
	for _, bay := range bays {
		said[bay] = h.explain(bay, "--policy", trial)
	}
	h.rules(rules)
	for _, bay := range bays {
		address, words := h.Address(bay), says[bay]
		if len(words) == 0 {
			// Of what was taken under rules before, explain says that it is there already.
			if d := h.settledAt(address, "taken", "already"); d.Outcome != said[bay].Outcome && said[bay].Outcome != "already" {
				h.t.Errorf("bay %d: explain says %+v, and the daemon %s", bay, said[bay], d.Outcome)
			}
			continue
		}
		h.because(address, words...)
		if d := h.settledAt(address, "refused"); d.Outcome != said[bay].Outcome || d.Reason != said[bay].Reason {
			h.t.Errorf("bay %d: explain says %+v, and the daemon %s: %s", bay, said[bay], d.Outcome, d.Reason)
		}
	}
}

// explained is how explain ends.
type explained struct{ Outcome, Reason string }

func (h *house) explain(bay int, flags ...string) (e explained) {
	h.t.Helper()
	argv := append([]string{program, "explain", "--json"}, flags...)
	f := h.Run(append(argv, h.Address(bay))...)
	if err := json.Unmarshal(f.Stdout, &e); err != nil {
		h.t.Fatalf("explain bay %d: %v in %s%s", bay, err, f.Stdout, f.Stderr)
	}
	return e
}
