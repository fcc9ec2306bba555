package scenario

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"vfio-hotplug/internal/vmtest"
)

// numbers says how often drives are plugged one by one, and in bursts into all
// bays: a few times by default, in the numbers of a proof with PROOF=1.
func numbers() (single, bursts int) {
	if proof() {
		return 100, 10
	}
	return 3, 1
}

// proof reports whether this run is for a proof.
func proof() bool { return os.Getenv("PROOF") == "1" }

// guardOrder is the order of registration that kernels before 6.17 need.
func guardOrder() []string {
	return []string{"pci-stub", "vfio-pci", "vfio_iommu_type1", "nvme", "e1000e"}
}

// policyFor is a policy with a guard's mode that takes the drives in some bays,
// or in all.
func policyFor(mode string, bays ...int) string {
	text := fmt.Sprintf("[guard]\nmode = %q\n\n[[rule]]\nname = \"bays\"\nmatch = { class = \"nvme\"", mode)
	if len(bays) > 0 {
		var ports []string
		for _, bay := range bays {
			ports = append(ports, strconv.Quote(vmtest.PortAddress(bay)))
		}
		text += ", behind = [" + strings.Join(ports, ", ") + "]"
	}
	return text + " }\n"
}

// half are every second bay from the first on: the even ones.
func half() []int {
	var bays []int
	for bay := 0; bay < vmtest.DefaultBays; bay += 2 {
		bays = append(bays, bay)
	}
	return bays
}

// police says to whom a guard may write, when the policy names the bays wanted,
// or all: also to drives that a stub has caught for nothing, and through a gate
// every new device has to be helped.
func (h *house) police(mode string, wanted []int) {
	var others []int
	for bay := range h.bays() {
		if !slices.Contains(wanted, bay) {
			others = append(others, bay)
		}
	}
	h.named = wanted
	switch {
	case len(wanted) == 0:
	case mode == "stub":
		h.named = nil
	case mode == "gate":
		h.probed = others
	}
}

// TestGuestGuard: while two processes hog the processors, drives are plugged
// one by one and in bursts, and nvme never touches one that the policy names.
// One that it leaves ends with nvme, and never sees vfio-pci but under a claim.
// The daemon knows what it did, and at its end takes the guard back.
func TestGuestGuard(t *testing.T) {
	vmtest.EachKernel(t, func(t *testing.T, k vmtest.Kernel) {
		for _, guard := range []struct {
			mode, becomes string
			wanted        []int
		}{
			{"claim", "claim", nil},
			{"stub", "stub", half()},
			{"gate", "gate", half()},
			{"auto", "claim", nil},
			{"auto", "stub", half()},
		} {
			switch {
			case guard.mode == "gate" && !gateHonoured(k):
				continue // that it is refused before is a unit test of guard.Choose
			case guard.mode != "gate" && guard.mode != "auto" && !proof():
				continue // auto comes to the same guard, below
			}
			name := guard.mode + " for all"
			if guard.wanted != nil {
				name = guard.mode + " for half"
			}
			t.Run(name, func(t *testing.T) {
				h := enter(t, vmtest.Config{Kernel: k, Modules: guardOrder()}, policyFor(guard.mode, guard.wanted...))
				h.police(guard.becomes, guard.wanted)
				h.daemon.WaitLine("guard " + guard.becomes + ":")
				for range 2 {
					h.Start(vmtest.Background{Argv: []string{"sh", "-c", "while :; do :; done"}})
				}
				h.hammer(guard.wanted)
				if missed := h.logged("guard missed"); len(missed) > 0 {
					t.Errorf("%q", missed)
				}
				h.done()
				h.disarmed(0)
			})
		}
	})
}

// disarmed checks that a drive that comes into a bay goes to nvme and nowhere
// else.
func (h *house) disarmed(bay int) {
	h.t.Helper()
	mark := h.Mark()
	h.Plug(bay, vmtest.Device{})
	h.witnessed(mark, bay, "nvme")
}

// hammer plugs and unplugs. It judges by the kernel's own events, as the
// laboratory's witness has them, and the daemon by what it says of each drive.
func (h *house) hammer(wanted []int) {
	h.t.Helper()
	single, bursts := numbers()
	isWanted := func(bay int) bool { return wanted == nil || slices.Contains(wanted, bay) }
	var came, left []time.Duration
	judge := func(mark, bay int) {
		if !isWanted(bay) {
			left = append(left, h.witnessed(mark, bay, "nvme"))
			return
		}
		came = append(came, h.witnessed(mark, bay, "vfio-pci"))
		h.direct(bay)
	}
	begin := h.Mark()
	bays := newTurnover(h)
	for i := range single {
		bay := i % vmtest.DefaultBays
		bays.empty(bay)
		mark := h.Mark()
		h.Plug(bay, vmtest.Device{})
		judge(mark, bay)
		bays.unplug(bay)
	}
	for range bursts {
		bays.emptyAll()
		mark := h.Mark()
		for bay := range vmtest.DefaultBays {
			h.Plug(bay, vmtest.Device{})
		}
		for bay := range vmtest.DefaultBays {
			judge(mark, bay)
		}
		for bay := range vmtest.DefaultBays {
			bays.unplug(bay)
		}
	}
	bays.emptyAll()
	var addresses []string
	for bay := range vmtest.DefaultBays {
		if isWanted(bay) {
			addresses = append(addresses, h.Address(bay))
		}
	}
	events := h.nvmeEvents(begin, addresses)
	if events > 0 {
		h.t.Errorf("%d nvme events for drives that the policy wants", events)
	}
	figure("%s: %d wanted drives, %d nvme events for them, add to vfio-pci %s; %d left drives, add to nvme %s",
		h.t.Name(), len(came), events, spread(came), len(left), spread(left))
}

// nvmeEvents counts what nvme has said of drives since a mark.
func (h *house) nvmeEvents(mark int, addresses []string) int {
	h.t.Helper()
	events := 0
	for _, ev := range h.Uevents(mark, vmtest.Match{Subsystem: "nvme"}) {
		if slices.ContainsFunc(addresses, func(a string) bool { return strings.Contains(ev.Devpath, "/"+a+"/") }) {
			events++
		}
	}
	return events
}

// turnover unplugs drives while the next ones come: an unplug takes a second.
type turnover struct {
	h   *house
	out map[int]<-chan error // under way, by bay
}

func newTurnover(h *house) *turnover { return &turnover{h: h, out: map[int]<-chan error{}} }

// unplug begins to take out what a bay holds, once nvme has settled on it.
func (o *turnover) unplug(bay int) {
	o.h.t.Helper()
	o.h.settleNVMe(bay)
	done := make(chan error, 1)
	o.out[bay] = done
	go func() {
		ctx, cancel := o.h.Step()
		defer cancel()
		done <- o.h.Guest.Unplug(ctx, bay)
	}()
}

// empty waits until a bay is empty.
func (o *turnover) empty(bay int) {
	o.h.t.Helper()
	if done, under := o.out[bay]; under {
		delete(o.out, bay)
		if err := <-done; err != nil {
			o.h.t.Fatal(err)
		}
	}
}

func (o *turnover) emptyAll() {
	o.h.t.Helper()
	for bay := range vmtest.DefaultBays {
		o.empty(bay)
	}
}

// witnessed waits until the witness has seen the driver bound to what was
// plugged into a bay since a mark, and gives the time since its add event. It
// fails if nvme touched a drive for vfio-pci, or the other way round.
func (h *house) witnessed(mark, bay int, driver string) time.Duration {
	h.t.Helper()
	rival := map[string]string{"vfio-pci": "nvme", "nvme": "vfio-pci"}[driver]
	latency, touched := h.came(mark, bay, driver)
	if slices.Contains(touched, rival) {
		h.t.Errorf("bay %d: %s touched a drive for %s: %q", bay, rival, driver, touched)
	}
	return latency
}

// came waits until the witness has seen the driver bound to what was plugged
// into a bay since a mark. It gives the time since its add event, and every
// driver that touched it.
func (h *house) came(mark, bay int, driver string) (time.Duration, []string) {
	h.t.Helper()
	address := h.Address(bay)
	add := h.WaitUevent(mark, vmtest.Match{Action: "add", Subsystem: "pci", Devpath: address})
	bound := h.WaitUevent(mark, vmtest.Match{Action: "bind", Subsystem: "pci", Devpath: address, Env: map[string]string{"DRIVER": driver}})
	var touched []string
	for _, ev := range h.Uevents(mark, vmtest.Match{}) {
		switch {
		case ev.Env["SUBSYSTEM"] == "nvme" && strings.Contains(ev.Devpath, "/"+address+"/"):
			touched = append(touched, "nvme")
		case ev.Env["SUBSYSTEM"] == "pci" && ev.Action == "bind" && path.Base(ev.Devpath) == address:
			touched = append(touched, ev.Env["DRIVER"])
		}
	}
	return bound.Time - add.Time, touched
}

// median gives the middle one of some times, of which there is at least one.
func median(times []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(times))
	return sorted[len(sorted)/2]
}

// spread gives the median and the extremes of some times.
func spread(times []time.Duration) string {
	if len(times) == 0 {
		return "-"
	}
	ms := func(d time.Duration) string { return fmt.Sprintf("%.1f", float64(d)/float64(time.Millisecond)) }
	return fmt.Sprintf("median %s ms (%s to %s)", ms(median(times)), ms(slices.Min(times)), ms(slices.Max(times)))
}

// logged gives the lines of the daemon's log that contain a word.
func (h *house) logged(word string) []string {
	h.t.Helper()
	var found []string
	for _, line := range h.daemon.Output() {
		if strings.Contains(line.Text, word) {
			found = append(found, line.Text)
		}
	}
	return found
}

// TestGuestAdverseOrder: nvme was registered first. Kernels before 6.17 then
// offer it every drive first: the daemon says so and how to mend it, and every
// drive still ends with vfio-pci.
func TestGuestAdverseOrder(t *testing.T) {
	drives := 4
	if proof() {
		drives = vmtest.DefaultBays
	}
	vmtest.EachKernel(t, func(t *testing.T, k vmtest.Kernel) {
		h := enter(t, vmtest.Config{Kernel: k, Modules: modules()}, policyFor("auto"))
		if synchronousFirst(k) {
			h.daemon.WaitLine("guard claim:")
		} else {
			h.daemon.WaitLine("guard race: .*registered after nvme.*softdep nvme_core pre")
		}
		for bay := range drives {
			h.Plug(bay, vmtest.Device{})
		}
		direct := 0
		for bay := range drives {
			if h.taken(bay, "vfio-pci").Outcome == "direct" {
				direct++
			}
		}
		if synchronousFirst(k) && direct < drives {
			t.Errorf("%d of %d drives came direct, want all", direct, drives)
		}
		figure("nvme registered first, on %s: %d of %d drives came direct", k, direct, drives)
		h.done()
	})
}

// TestGuestGuardKilled: the daemon is killed, a wanted drive, one that is left
// and a network card come, and the next daemon finds each where it belongs. A
// stop takes the guard back.
func TestGuestGuardKilled(t *testing.T) {
	const wanted, left, card = 0, 1, 2
	vmtest.EachKernel(t, func(t *testing.T, k vmtest.Kernel) {
		for _, mode := range []string{"claim", "stub", "gate"} {
			if mode == "gate" && !gateHonoured(k) {
				continue
			}
			t.Run(mode, func(t *testing.T) {
				bays := []int{wanted}
				if mode == "claim" {
					bays = nil // it is for all drives or none
				}
				h := enter(t, vmtest.Config{Kernel: k, Modules: guardOrder()}, policyFor(mode, bays...))
				h.police(mode, bays)
				if mode != "gate" {
					h.leaveAlone(card) // no ID catches it
				}
				h.daemon.WaitLine("guard " + mode + ":")
				h.daemon.Signal(syscall.SIGKILL)
				h.daemon.Wait()
				mark := h.Mark()
				h.Plug(wanted, vmtest.Device{})
				h.Plug(card, vmtest.NIC())
				if mode != "claim" {
					h.Plug(left, vmtest.Device{})
				}
				for _, bay := range []int{wanted, card} {
					h.WaitUevent(mark, vmtest.Match{Action: "add", Subsystem: "pci", Devpath: h.Address(bay)})
				}
				h.start()
				h.WaitDriver(wanted, "vfio-pci")
				h.WaitDriver(card, "e1000e")
				if mode != "claim" {
					h.WaitDriver(left, "nvme")
				}
				// Outside systemd the daemon disarms itself at its end.
				h.daemon.WaitLine("guard " + mode + ":")
				h.done()
				if open := h.ReadFile("/sys/bus/pci/drivers_autoprobe"); strings.TrimSpace(open) != "1" {
					t.Errorf("drivers_autoprobe is %q after a stop", open)
				}
				h.disarmed(4)
			})
		}
	})
}

// TestGuestGuardMoves: the guard follows the policy, without a moment in which
// a drive that stays wanted is not guarded, and a reloaded module. It goes with
// the last rule.
func TestGuestGuardMoves(t *testing.T) {
	vmtest.EachKernel(t, func(t *testing.T, k vmtest.Kernel) {
		h := enter(t, vmtest.Config{Kernel: k, Modules: guardOrder()}, policyFor("auto"))
		h.daemon.WaitLine("guard claim:")

		// Drives come while the policy narrows and widens.
		mark := h.Mark()
		for i, bay := range half() {
			policy := policyFor("auto", half()...)
			if i%2 == 1 {
				policy = policyFor("auto")
			}
			h.reload(policy)
			h.Plug(bay, vmtest.Device{})
		}
		for _, bay := range half() {
			h.witnessed(mark, bay, "vfio-pci")
			h.direct(bay)
		}
		bays := newTurnover(h)
		for _, bay := range half() {
			bays.unplug(bay)
		}
		bays.emptyAll()

		h.moved(policyFor("race"), "guard race:") // none of those before says so
		h.moved(policyFor("auto", half()...), "guard stub:")
		mark = h.Mark()
		h.Plug(0, vmtest.Device{})
		h.Plug(1, vmtest.Device{})
		h.witnessed(mark, 0, "vfio-pci")
		h.witnessed(mark, 1, "nvme")
		h.unplug(0)

		// A driver that is reloaded has lost its IDs and its place.
		h.moved(policyFor("auto"), "guard claim:")
		since := h.said()
		h.UnloadModule("vfio_pci")
		h.LoadModule("vfio-pci", "")
		if synchronousFirst(k) {
			h.daemon.Lines(since, "guard claim:")
		} else {
			h.daemon.Lines(since, "guard stub: vfio-pci was registered after nvme")
		}
		mark = h.Mark()
		h.Plug(2, vmtest.Device{})
		h.witnessed(mark, 2, "vfio-pci")

		h.moved("", "guard race:")
		h.leaveAlone(3)
		h.disarmed(3)
		h.done()
	})
}

// reload has the daemon read another policy. It may still be reading the one
// before, and must not find half of a file.
func (h *house) reload(policy string) {
	h.t.Helper()
	const file = "/etc/vfio-hotplug/policy.toml"
	h.CreateFile(file+".new", policy, 0o644)
	h.Do("mv", file+".new", file)
	h.daemon.Signal(syscall.SIGHUP)
}

// moved reloads a policy and waits until the daemon has said what guard it has
// now.
func (h *house) moved(policy, words string) {
	h.t.Helper()
	since := h.said()
	h.reload(policy)
	h.daemon.Lines(since, words)
}

// said gives how many lines the daemon has logged.
func (h *house) said() int {
	h.t.Helper()
	return len(h.daemon.Output())
}

// TestGuestOthersIDs: dynamic IDs that somebody else has added, narrower and
// wider than ours and equal to it, are there as before when the daemon has been
// there, and ours are not.
func TestGuestOthersIDs(t *testing.T) {
	const (
		driver  = "/sys/bus/pci/drivers/vfio-pci/"
		equal   = anyNVMe
		narrow  = "144d ffffffff 144d ffffffff 010802 ffffff"
		foreign = "1234 5678"
	)
	vmtest.EachKernel(t, func(t *testing.T, k vmtest.Kernel) {
		h := boot(t, vmtest.Config{Kernel: k, Modules: guardOrder()}, policyFor("claim"))
		for _, id := range []string{foreign, narrow, equal} {
			h.WriteFile(driver+"new_id", id)
		}
		h.start()
		h.daemon.WaitLine("guard claim:")
		mark := h.Mark()
		h.Plug(0, vmtest.Device{})
		h.witnessed(mark, 0, "vfio-pci")
		h.done()

		// The kernel does not list them: each can be taken away once.
		mark = h.Mark()
		h.Plug(1, vmtest.Device{})
		h.witnessed(mark, 1, "vfio-pci")
		for _, id := range []string{narrow, equal, foreign} {
			h.WriteFile(driver+"remove_id", id)
			ctx, cancel := h.Step()
			if err := h.Guest.WriteFile(ctx, driver+"remove_id", id); !errors.Is(err, syscall.ENODEV) {
				t.Errorf("%s was there twice: %v", id, err)
			}
			cancel()
		}
		h.disarmed(2)
	})
}
