package scenario

import (
	"context"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"vfio-hotplug/internal/vmtest"
)

// The bays of TestGuestPackage.
const (
	earlyBay    = iota // plugged before any rule names it
	reloadBay          // plugged after a reload
	claimBay           // plugged after the reboot, under a policy for every drive
	stubBay            // plugged after the reboot, under a policy for the bays
	lateBay            // plugged after the package is gone
	leftBay            // in no policy for the bays
	volumeBay          // these five hold what fstab names
	arrayBay           //
	mirrorBay          // the other half of the array
	swapBay            //
	labelBay           //
	stormBay           // the first of stormBays, which are plugged all the while
	stormBays   = 3
	packageBays = stormBay + stormBays
)

const (
	debInGuest   = "/srv/vfio-hotplug.deb"
	newerInGuest = "/srv/vfio-hotplug-newer.deb"
	localRules   = "/etc/vfio-hotplug/policy.d/local.toml"
	service      = "vfio-hotplug.service"
)

const everyDrive = `
[[rule]]
name  = "every drive"
match = { class = "nvme" }
`

// bayRules is a policy for the drives in all bays but leftBay.
func bayRules() string {
	var ports []string
	for bay := range packageBays {
		if bay != leftBay {
			ports = append(ports, fmt.Sprintf("%q", vmtest.PortAddress(bay)))
		}
	}
	return "\n[[rule]]\nname  = \"bays\"\nmatch = { class = \"nvme\", behind = [" + strings.Join(ports, ", ") + "] }\n"
}

// newerVersion is that of the package that another is upgraded to.
const newerVersion = "99.0"

// buildDeb makes the package once for all scenarios, and buildNewer its next
// version.
var (
	buildDeb   = sync.OnceValues(func() (string, error) { return vmtest.BuildDeb() })
	buildNewer = sync.OnceValues(func() (string, error) { return vmtest.BuildDeb("VERSION=" + newerVersion) })
)

// TestGuestPackage lives with the package on a machine that boots from an NVMe
// drive and has volumes, arrays and swap on others: it is installed, rules are
// written, drives are plugged, the machine is rebooted, the service is
// restarted, and the package is removed and purged. Rules name the root drive
// and the others that are in use, too, and nobody ever touches them. In large
// numbers it also boots with a broken policy and with vfio-hotplug=off, and
// upgrades the package while a program has a drive.
func TestGuestPackage(t *testing.T) {
	vmtest.EachSystem(t, func(t *testing.T, cfg vmtest.Config) {
		if synchronousFirst(cfg.Kernel) && !proof() {
			t.Skip("make test has time for each Debian with a kernel of its own age; PROOF=1 runs Debian 12 with the newest")
		}
		deb, err := buildDeb()
		if err != nil {
			t.Fatal(err)
		}
		newer, err := buildNewer()
		if err != nil {
			t.Fatal(err)
		}
		cfg.Files, cfg.Bays = map[string]string{debInGuest: deb, newerInGuest: newer}, packageBays
		h := &house{Lab: vmtest.Boot(t, cfg), t: t}

		h.install()
		h.furnish()
		h.followPolicy()
		h.untouched()
		if proof() {
			h.bootsSwitchedOff()
			h.bootsWithFaults()
		}

		h.Reboot()
		h.runs("running")
		h.furnished()
		h.guardedAfterReboot()
		h.tellsOthers()
		h.servesAConsumer()
		if proof() {
			h.upgradesUnderUse()
		}
		h.survivesRestarts()
		h.keepsAtBoot()
		h.worksInItsSandbox()
		h.keepsRunningOnFaults()
		h.untouched()
		h.noErrors()

		h.leave()
		h.untouched()
	})
}

// TestGuestPackageSATA boots from a SATA disk, with an initramfs that has no
// nvme: at boot the drives have no driver yet. Those that fstab names come up all
// the same, since nvme reads them all first. Where it names none, they come
// directly.
func TestGuestPackageSATA(t *testing.T) {
	vmtest.EachSystem(t, func(t *testing.T, cfg vmtest.Config) {
		if !proof() {
			t.Skip("two boots more, for PROOF=1")
		}
		deb, err := buildDeb()
		if err != nil {
			t.Fatal(err)
		}
		cfg.Files, cfg.Bays, cfg.SATARoot = map[string]string{debInGuest: deb}, packageBays, true
		h := &house{Lab: vmtest.Boot(t, cfg), t: t}
		h.install()
		table := h.furnish()
		h.CreateFile(localRules, everyDrive, 0o644)

		h.Reboot()
		h.runs("running")
		h.furnished()
		if d := h.taken(earlyBay, "vfio-pci"); d.Outcome != "taken" {
			t.Errorf("beside drives that fstab names a blank one came %s, want taken", d.Outcome)
		}

		h.CreateFile("/etc/fstab", table, 0o644)
		h.Reboot()
		h.runs("running")
		for _, bay := range []int{earlyBay, labelBay} {
			h.direct(bay)
		}
		h.noErrors()
	})
}

// runs checks what systemd says of the system after a boot, and that nothing in
// it had to wait for a device that did not come.
func (h *house) runs(state string) {
	h.t.Helper()
	if f := h.Run("systemctl", "is-system-running"); string(f.Stdout) != state+"\n" {
		h.t.Errorf("after the reboot the system is %s%s", f.Stdout, h.Do("systemctl", "--failed", "--no-pager"))
	}
	said := h.Do("journalctl", "--quiet", "--no-pager", "--boot", "--output=cat", "_PID=1")
	for _, line := range regexp.MustCompile(`(?m)^.*(?:Timed out waiting|Dependency failed|Emergency Mode).*$`).FindAllString(said, -1) {
		h.t.Error(line)
	}
	chain := h.Run("systemd-analyze", "--no-pager", "critical-chain")
	h.t.Logf("%s%s", chain.Stdout, chain.Stderr)
}

// slowDeadline is for an installation: two minutes emulated, and many more on a
// machine that has other things to do.
const slowDeadline = 30 * time.Minute

// slowly is Do for what takes an emulated processor minutes.
func (h *house) slowly(argv ...string) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), slowDeadline)
	defer cancel()
	began := time.Now()
	f, err := h.Guest.Run(ctx, vmtest.Command{Argv: argv, Env: []string{"DEBIAN_FRONTEND=noninteractive"}})
	if err != nil || f.Code != 0 {
		h.t.Fatalf("%s: exit code %d, %v: %s%s", strings.Join(argv, " "), f.Code, err, f.Stdout, f.Stderr)
	}
	h.t.Logf("%s: %.0f s", strings.Join(argv, " "), time.Since(began).Seconds())
}

// install installs the package as the README says. It runs, and takes nothing.
func (h *house) install() {
	h.t.Helper()
	// An initramfs of what this machine needs, not of what any might: an
	// emulated processor makes it in a minute instead of four.
	h.CreateFile("/etc/initramfs-tools/conf.d/small", "MODULES=dep\nCOMPRESSLEVEL=1\n", 0o644)
	h.unpackFirst()
	h.slowly("apt-get", "-q", "-y", "install", debInGuest)
	h.knowsItsGroup()
	if state := h.Do("systemctl", "is-active", service); state != "active\n" {
		h.t.Errorf("installed, the service is %s", state)
	}
	if state := h.Do("systemctl", "is-enabled", service); state != "enabled\n" {
		h.t.Errorf("installed, the service is %s", state)
	}
	mark := h.Mark()
	h.Plug(earlyBay, vmtest.Device{})
	h.witnessed(mark, earlyBay, "nvme")
	ctx, cancel := h.Step()
	defer cancel()
	if reply, err := h.status(ctx); err != nil || len(reply.Devices) > 0 {
		h.t.Errorf("the policy of the package names %+v, %v", reply.Devices, err)
	}
}

// followPolicy writes rules and reloads: for the bays, then for every drive,
// the root drive too. On kernels before 6.17 nvme, which has the root drive,
// was there first: before a reboot there is no guard then.
func (h *house) followPolicy() {
	h.t.Helper()
	h.rules(bayRules())
	h.taken(earlyBay, "vfio-pci")
	h.settleUdev()
	h.wantNode(h.groupNode(earlyBay), "vfio")
	claim, stub := "race", "race"
	if synchronousFirst(h.Config().Kernel) {
		claim, stub = "claim", "stub"
	}
	h.guard(stub)
	h.Plug(reloadBay, vmtest.Device{})
	h.taken(reloadBay, "vfio-pci")

	h.rules(everyDrive)
	h.guard(claim)
	h.rootRefused()
	h.refused("in use", "bind", h.RootAddress())
}

// rules writes rules and has the daemon read them.
func (h *house) rules(text string) {
	h.t.Helper()
	h.CreateFile(localRules, text, 0o644)
	h.Do("systemctl", "reload", service)
}

// guard waits until the daemon says which guard is in force.
func (h *house) guard(mode string) {
	h.t.Helper()
	h.WaitFor("guard "+mode, func(ctx context.Context) (bool, error) {
		reply, err := h.status(ctx)
		return reply.Guard != nil && reply.Guard.Mode == mode && !reply.Guard.Pending, err
	})
}

// rootRefused waits until the daemon has refused to take the root drive.
func (h *house) rootRefused() {
	h.t.Helper()
	d := h.settledAt(h.RootAddress(), "refused")
	if d.Driver != "nvme" || !strings.HasSuffix(d.Reason, "→ /") {
		h.t.Errorf("the root drive, on %s, was refused because of %q; want nvme and a chain to /", d.Driver, d.Reason)
	}
}

// guardedAfterReboot: the order of modules that the package brings is in force,
// so that the guard holds, for every drive and for some bays only. What was in
// the bays comes up too.
func (h *house) guardedAfterReboot() {
	h.t.Helper()
	h.guard("claim")
	h.rootRefused()
	for _, bay := range []int{earlyBay, reloadBay} {
		d := h.taken(bay, "vfio-pci")
		h.t.Logf("bay %d, there at boot: %s", bay, d.Outcome)
	}
	h.plugDirect(claimBay)

	h.rules(bayRules())
	h.guard("stub")
	h.plugDirect(stubBay)
	mark := h.Mark()
	h.Plug(leftBay, vmtest.Device{})
	h.witnessed(mark, leftBay, "nvme")
}

// plugDirect plugs a drive that nvme must not touch.
func (h *house) plugDirect(bay int) {
	h.t.Helper()
	mark := h.Mark()
	h.Plug(bay, vmtest.Device{})
	latency := h.witnessed(mark, bay, "vfio-pci")
	h.direct(bay)
	h.t.Logf("bay %d: add to vfio-pci %.1f ms", bay, latency.Seconds()*1000)
}

// leave removes and purges the package: the next drive is nvme's, and nothing
// of ours stays.
func (h *house) leave() {
	h.t.Helper()
	h.slowly("apt-get", "-q", "-y", "remove", "vfio-hotplug")
	if f := h.Run("systemctl", "is-active", service, "vfio-hotplug-guard.service"); f.Code == 0 {
		h.t.Errorf("removed, the service is %s", f.Stdout)
	}
	mark := h.Mark()
	h.Plug(lateBay, vmtest.Device{})
	h.witnessed(mark, lateBay, "nvme")
	if open := h.ReadFile("/sys/bus/pci/drivers_autoprobe"); open != "1\n" {
		h.t.Errorf("removed, drivers_autoprobe is %q", open)
	}
	if !h.Exists("/etc/vfio-hotplug/policy.toml") {
		h.t.Error("removed, not purged, and the policy is gone")
	}

	h.Do("rm", localRules) // is not the package's
	h.slowly("apt-get", "-q", "-y", "purge", "vfio-hotplug")
	for _, name := range []string{
		program, "/etc/vfio-hotplug", "/run/vfio-hotplug",
		"/usr/lib/systemd/system/vfio-hotplug*", "/etc/systemd/system/*/vfio-hotplug*", "/var/lib/systemd/deb-systemd-helper-*/*/vfio-hotplug*",
		"/usr/lib/modprobe.d/vfio-hotplug*", "/usr/lib/modules-load.d/vfio-hotplug*", "/usr/lib/sysusers.d/vfio-hotplug*",
		"/usr/lib/udev/rules.d/*vfio-hotplug*", "/usr/lib/systemd/catalog/vfio-hotplug*", "/usr/share/initramfs-tools/hooks/vfio-hotplug*",
	} {
		if found := h.Glob(name); len(found) > 0 {
			h.t.Errorf("purged, %q is still there", found)
		}
	}
}

// noErrors checks that no part of the package logged an error since the boot, the
// early scan and udev's helper included.
func (h *house) noErrors() {
	h.t.Helper()
	errors := h.Do("journalctl", "--quiet", "--no-pager", "--boot", "--priority=err", "_COMM=vfio-hotplug")
	if errors != "" {
		h.t.Errorf("it logged errors:\n%s", errors)
	}
}

// rootStays checks that since the boot nobody has touched the root drive: no
// event of a driver that came or went, no write but udev's wish to hear of
// everything anew, and one single start of nvme.
func (h *house) rootStays() {
	h.t.Helper()
	root := h.RootAddress()
	link := h.Stat("/sys/bus/pci/devices/" + root + "/driver")
	if path.Base(link.Target) != "nvme" {
		h.t.Errorf("the root drive is on %q", link.Target)
	}
	for _, action := range []string{"bind", "unbind", "remove"} {
		for _, ev := range h.Uevents(0, vmtest.Match{Action: action}) {
			if strings.Contains(ev.Devpath, root) {
				h.t.Errorf("%s %s %v", ev.Action, ev.Devpath, ev.Env)
			}
		}
	}
	writes := h.Writes()
	writes = slices.DeleteFunc(writes, func(w vmtest.SysWrite) bool {
		named := strings.Contains(w.Path, root) || strings.Contains(w.Data, root)
		return !named || path.Base(w.Path) == "uevent" && w.Command == "udevadm"
	})
	for _, w := range writes {
		h.t.Errorf("%s (process %d) wrote %q to %s", w.Command, w.PID, w.Data, w.Path)
	}
	started := regexp.MustCompile(`(?m)^.*nvme nvme\d+: pci function `+regexp.QuoteMeta(root)+`$`).FindAllString(
		h.Do("journalctl", "--quiet", "--no-pager", "--boot", "--output=cat", "_TRANSPORT=kernel"), -1) // the kernel's own log is short
	if len(started) != 1 {
		h.t.Errorf("nvme started the root drive %d times: %q", len(started), started)
	}
}
