package scenario

import (
	"context"
	"fmt"
	"strings"

	"vfio-hotplug/internal/vmtest"
)

// survivesRestarts restarts the service again and again, by its administrator
// and by a crash, while drives are plugged: not one is lost, and nvme, which the
// guard keeps away all the while, touches none. A daemon that is stopped between
// a bind and its event does not know that, and says "taken" from unknown.
// Stopped, the service stays stopped, whatever is plugged, and so does the guard.
func (h *house) survivesRestarts() {
	h.t.Helper()
	restarts := 4
	if proof() {
		restarts = 50
	}
	bays, direct := newTurnover(h), 0
	for i := range restarts {
		mark := h.Mark()
		done := h.restart(i%2 == 1)
		for bay := stormBay; bay < packageBays; bay++ {
			bays.empty(bay)
			h.Plug(bay, vmtest.Device{})
		}
		if err := <-done; err != nil {
			h.t.Fatal(err)
		}
		for bay := stormBay; bay < packageBays; bay++ {
			h.witnessed(mark, bay, "vfio-pci")
			if h.taken(bay, "vfio-pci").Outcome == "direct" {
				direct++
			}
			bays.unplug(bay)
		}
	}
	for bay := stormBay; bay < packageBays; bay++ {
		bays.empty(bay)
	}
	figure("%s: %d restarts, %d drives plugged meanwhile, all on vfio-pci and none touched by nvme, %d said to be direct",
		h.t.Name(), restarts, restarts*stormBays, direct)
	h.staysStopped()
}

// restart restarts the service, or kills it and has systemd start it again, and
// says when the next daemon is ready.
func (h *house) restart(kill bool) <-chan error {
	h.t.Helper()
	done := make(chan error, 1)
	before := h.Do("systemctl", "show", "--property=MainPID", service)
	go func() {
		ctx, cancel := h.Step()
		defer cancel()
		argv := []string{"systemctl", "restart", service}
		if kill {
			argv = []string{"systemctl", "kill", "--signal=KILL", service}
		}
		if _, err := h.Guest.Run(ctx, vmtest.Command{Argv: argv}); err != nil {
			done <- err
			return
		}
		done <- h.Guest.WaitFor(ctx, "the next daemon", func(ctx context.Context) (bool, error) {
			f, err := h.Guest.Run(ctx, vmtest.Command{Argv: []string{"systemctl", "show", "--property=MainPID,ActiveState", service}})
			now := string(f.Stdout)
			return !strings.HasPrefix(now, before) && strings.Contains(now, "ActiveState=active\n"), err
		})
	}()
	return done
}

// staysStopped stops the service while a drive is plugged, and starts it again.
func (h *house) staysStopped() {
	h.t.Helper()
	const boundBay = stormBay + 1
	mark := h.Mark()
	h.Plug(boundBay, vmtest.Device{})
	h.witnessed(mark, boundBay, "vfio-pci")
	h.Do("systemctl", "stop", service) // whether or not the daemon has heard of the bind
	if driver := h.Driver(boundBay); driver != "vfio-pci" || !h.Exists("/run/vfio-hotplug/devices/"+h.Address(boundBay)+".json") {
		h.t.Errorf("stopped right after a drive came up, it is on %q, or the ledger has forgotten it", driver)
	}
	h.plugForNVMe(stormBay)
	h.settleUdev()
	for _, unit := range []string{service, "vfio-hotplug.socket", "vfio-hotplug-guard.service"} {
		if state := h.Do("systemctl", "show", "--property=ActiveState", unit); state != "ActiveState=inactive\n" {
			h.t.Errorf("stopped, and a drive plugged: %s is %s", unit, state)
		}
	}
	h.Do("systemctl", "start", service)
	if d := h.taken(stormBay, "vfio-pci"); d.Outcome != "taken" {
		h.t.Errorf("the drive that was plugged meanwhile is %s, want taken", d.Outcome)
	}
	h.guard("stub")
	h.Unplug(stormBay)
	h.Unplug(boundBay)
}

// keepsAtBoot has udev meet drives without a driver between the early scan and
// the daemon's start, as at a boot where the scan has not seen them: those that the
// policy wants are kept from nvme until the daemon takes them, or lets go of them
// since it has changed; the other is not. That nvme had them before, nobody in
// this boot knows.
func (h *house) keepsAtBoot() {
	h.t.Helper()
	const coldplug = "/run/vfio-hotplug/coldplug"
	const unwantedBay = stormBay + 1
	h.Do("systemctl", "stop", service)
	h.plugForNVMe(stormBay)
	h.plugForNVMe(unwantedBay)
	h.CreateFile(coldplug, "", 0o644) // by which the early scan has seen nobody
	ask := []string{"udevadm", "trigger", "--action=add", "--settle"}
	for _, bay := range []int{stormBay, unwantedBay, leftBay} {
		h.WriteFile("/sys/bus/pci/drivers/nvme/unbind", h.Address(bay))
		ask = append(ask, "/sys/bus/pci/devices/"+h.Address(bay))
	}
	mark := h.Mark()
	h.Do(ask...)
	override := func(bay int) string { return h.ReadFile("/sys/bus/pci/devices/" + h.Address(bay) + "/driver_override") }
	for bay, want := range map[int]string{stormBay: "vfio-hotplug-unoffered\n", unwantedBay: "vfio-hotplug-unoffered\n", leftBay: "(null)\n"} {
		if got := override(bay); got != want {
			h.t.Errorf("bay %d, met by udev at boot: driver_override is %q, want %q", bay, got, want)
		}
		h.WriteFile("/sys/bus/pci/drivers_probe", h.Address(bay)) // nvme is loaded: whoever may be is matched
	}
	h.WaitDriver(leftBay, "nvme")
	h.CreateFile(localRules, fmt.Sprintf("\n[[rule]]\nname = \"not this one\"\naction = \"leave\"\nmatch = { address = %q }\n%s", h.Address(unwantedBay), bayRules()), 0o644)
	h.Do("systemctl", "start", service)
	if d := h.taken(stormBay, "vfio-pci"); d.Outcome != "direct" {
		h.t.Errorf("what udev kept for the daemon came %s, want direct", d.Outcome)
	}
	h.witnessed(mark, stormBay, "vfio-pci")
	h.WaitFor("the end of the coldplug", func(ctx context.Context) (bool, error) {
		left, err := h.Guest.Glob(ctx, coldplug+"*")
		return len(left) == 0, err
	})
	h.WaitDriver(unwantedBay, "nvme")
	if got := override(unwantedBay); got != "(null)\n" {
		h.t.Errorf("let go of, its driver_override is %q", got)
	}
	if e := "/run/vfio-hotplug/devices/" + h.Address(unwantedBay) + ".json"; h.Exists(e) {
		h.t.Errorf("let go of, the ledger still has it: %s", h.ReadFile(e))
	}
	h.Unplug(stormBay)
	h.unplug(unwantedBay)
	h.rules(bayRules())
	h.guard("stub")
}

// keepsRunningOnFaults configures the package anew, as an upgrade does, while the
// policy has a fault: the daemon that has the last good one goes on.
func (h *house) keepsRunningOnFaults() {
	h.t.Helper()
	rules := h.ReadFile(localRules)
	h.CreateFile(localRules, rules+"typo = 1\n", 0o644)
	before := h.Do("systemctl", "show", "--property=MainPID", service)
	f := h.Run("/var/lib/dpkg/info/vfio-hotplug.postinst", "configure", "0.1")
	if after := h.Do("systemctl", "show", "--property=MainPID", service); f.Code != 0 || after != before {
		h.t.Errorf("configured with a faulty policy: exit code %d, %s, was %s", f.Code, after, before)
	}
	if !strings.Contains(string(f.Stderr), "vfio-hotplug check") {
		h.t.Errorf("configured with a faulty policy, it says %q", f.Stderr)
	}
	h.CreateFile(localRules, rules, 0o644)
}
