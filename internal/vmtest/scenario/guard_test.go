package scenario

import (
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
	if os.Getenv("PROOF") == "1" {
		return 100, 10
	}
	return 3, 1
}

// guardOrder is the order of registration that kernels before 6.17 need.
func guardOrder() []string {
	return []string{"pci-stub", "vfio-pci", "vfio_iommu_type1", "nvme", "e1000e"}
}

// policyFor is a policy with a guard's mode that takes the drives of all bays,
// or of every second one.
func policyFor(mode string, half bool) string {
	text := fmt.Sprintf("[guard]\nmode = %q\n\n[[rule]]\nname = \"bays\"\nmatch = { class = \"nvme\"", mode)
	if half {
		var ports []string
		for bay := 0; bay < vmtest.DefaultBays; bay += 2 {
			ports = append(ports, strconv.Quote(vmtest.PortAddress(bay)))
		}
		text += ", behind = [" + strings.Join(ports, ", ") + "]"
	}
	return text + " }\n"
}

// TestGuestGuard: while two processes hog the processors, drives are plugged
// one by one and in bursts, and nvme never touches one that the policy names.
// One that it leaves ends with nvme, and never sees vfio-pci but under a claim.
func TestGuestGuard(t *testing.T) {
	vmtest.EachKernel(t, func(t *testing.T, k vmtest.Kernel) {
		for _, guard := range []struct {
			mode, becomes string
			half          bool
		}{
			{"claim", "claim", false},
			{"stub", "stub", true},
			{"gate", "gate", true},
			{"auto", "claim", false},
			{"auto", "stub", true},
		} {
			if guard.mode == "gate" && !gateHonoured(k) {
				continue // that it is refused before is a unit test of guard.Choose
			}
			name := guard.mode + " for all"
			if guard.half {
				name = guard.mode + " for half"
			}
			t.Run(name, func(t *testing.T) {
				h := enter(t, vmtest.Config{Kernel: k, Modules: guardOrder()}, policyFor(guard.mode, guard.half))
				h.daemon.WaitLine("guard " + guard.becomes + ":")
				for range 2 {
					h.Start(vmtest.Background{Argv: []string{"sh", "-c", "while :; do :; done"}})
				}
				h.hammer(guard.becomes, guard.half)
				if missed := h.logged("guard missed"); len(missed) > 0 {
					t.Errorf("%q", missed)
				}
			})
		}
	})
}

// hammer plugs and unplugs, and judges by the kernel's own events, as the
// laboratory's witness has them.
func (h *house) hammer(mode string, half bool) {
	h.t.Helper()
	single, bursts := numbers()
	isLeft := func(bay int) bool { return half && bay%2 == 1 }
	var wanted, left []time.Duration
	judge := func(mark, bay int) {
		if isLeft(bay) {
			left = append(left, h.witnessed(mark, bay, "nvme", mode == "claim"))
		} else {
			wanted = append(wanted, h.witnessed(mark, bay, "vfio-pci", true))
		}
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
			bays.unplug(bay)
		}
	}
	bays.emptyAll()
	var addresses []string
	for bay := range vmtest.DefaultBays {
		if !isLeft(bay) {
			addresses = append(addresses, h.Address(bay))
		}
	}
	events := h.nvmeEvents(begin, addresses)
	if events > 0 {
		h.t.Errorf("%d nvme events for drives that the policy wants", events)
	}
	figure("%s: %d wanted drives, %d nvme events for them, add to vfio-pci %s; %d left drives, add to nvme %s",
		h.t.Name(), len(wanted), events, spread(wanted), len(left), spread(left))
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
// fails if nvme touched a drive for vfio-pci, or, unless it may, the other way
// round.
func (h *house) witnessed(mark, bay int, driver string, mayPass bool) time.Duration {
	h.t.Helper()
	latency, touched := h.came(mark, bay, driver)
	if driver == "vfio-pci" {
		if slices.Contains(touched, "nvme") {
			h.t.Errorf("bay %d: nvme touched a drive for vfio-pci: %q", bay, touched)
		} else {
			count(h.Config().Kernel.String(), "direct")
		}
	}
	if driver == "nvme" && slices.Contains(touched, "vfio-pci") && !mayPass {
		h.t.Errorf("bay %d: vfio-pci touched a drive for nvme: %q", bay, touched)
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
	vmtest.EachKernel(t, func(t *testing.T, k vmtest.Kernel) {
		h := enter(t, vmtest.Config{Kernel: k, Modules: modules()}, policyFor("auto", false))
		if synchronousFirst(k) {
			h.daemon.WaitLine("guard claim:")
		} else {
			h.daemon.WaitLine("guard race: .*registered after nvme.*softdep nvme pre")
		}
		for bay := range 4 {
			h.Plug(bay, vmtest.Device{})
		}
		for bay := range 4 {
			h.taken(bay, "vfio-pci")
		}
		h.done()
	})
}

// TestGuestGuardKilled: the daemon is killed, a wanted drive, one that is left
// and a network card come, and the next daemon finds each where it belongs. A
// stop takes the guard back.
func TestGuestGuardKilled(t *testing.T) {
	vmtest.EachKernel(t, func(t *testing.T, k vmtest.Kernel) {
		for _, mode := range []string{"claim", "stub", "gate"} {
			if mode == "gate" && !gateHonoured(k) {
				continue
			}
			t.Run(mode, func(t *testing.T) {
				h := enter(t, vmtest.Config{Kernel: k, Modules: guardOrder()}, policyFor(mode, mode != "claim"))
				h.daemon.WaitLine("guard " + mode + ":")
				h.daemon.Signal(syscall.SIGKILL)
				h.daemon.Wait()
				mark := h.Mark()
				h.Plug(0, vmtest.Device{})
				h.Plug(2, vmtest.NIC())
				if mode != "claim" {
					h.Plug(1, vmtest.Device{})
				}
				for _, bay := range []int{0, 2} {
					h.WaitUevent(mark, vmtest.Match{Action: "add", Subsystem: "pci", Devpath: h.Address(bay)})
				}
				h.start()
				h.WaitDriver(0, "vfio-pci")
				h.WaitDriver(2, "e1000e")
				if mode != "claim" {
					h.WaitDriver(1, "nvme")
				}
				// Outside systemd the daemon disarms itself at its end.
				h.daemon.WaitLine("guard " + mode + ":")
				h.done()
				if open := h.ReadFile("/sys/bus/pci/drivers_autoprobe"); strings.TrimSpace(open) != "1" {
					t.Errorf("drivers_autoprobe is %q after a stop", open)
				}
				h.Plug(4, vmtest.Device{})
				h.WaitDriver(4, "nvme")
			})
		}
	})
}

// TestGuestGuardMoves: the guard follows a reload and a reloaded module, and
// leaves somebody else's dynamic ID where it was.
func TestGuestGuardMoves(t *testing.T) {
	vmtest.EachKernel(t, func(t *testing.T, k vmtest.Kernel) {
		h := boot(t, vmtest.Config{Kernel: k, Modules: guardOrder()}, policyFor("auto", false))
		h.WriteFile("/sys/bus/pci/drivers/vfio-pci/new_id", "1234 5678")
		h.start()
		h.daemon.WaitLine("guard claim:")
		h.CreateFile("/etc/vfio-hotplug/policy.toml", policyFor("auto", true), 0o644)
		h.daemon.Signal(syscall.SIGHUP)
		h.daemon.WaitLine("guard stub:")
		mark := h.Mark()
		h.Plug(0, vmtest.Device{})
		h.Plug(1, vmtest.Device{})
		h.witnessed(mark, 0, "vfio-pci", false)
		h.witnessed(mark, 1, "nvme", false)
		if h.Run("sh", "-c", "echo 1234 5678 > /sys/bus/pci/drivers/vfio-pci/new_id").Code == 0 {
			t.Error("somebody else's dynamic ID is gone")
		}

		// A driver that is reloaded has lost its IDs and its place.
		h.unplug(0)
		h.CreateFile("/etc/vfio-hotplug/policy.toml", policyFor("auto", false), 0o644)
		h.daemon.Signal(syscall.SIGHUP)
		h.waitLines("guard claim:", 2)
		h.UnloadModule("vfio_pci")
		h.LoadModule("vfio-pci", "")
		if synchronousFirst(k) {
			h.waitLines("guard claim:", 3)
		} else {
			h.daemon.WaitLine("guard stub: vfio-pci was registered after nvme")
		}
		mark = h.Mark()
		h.Plug(2, vmtest.Device{})
		h.witnessed(mark, 2, "vfio-pci", false)
		h.done()
	})
}

// waitLines waits until the daemon has logged a text so often.
func (h *house) waitLines(text string, times int) {
	h.t.Helper()
	since := 0
	for range times {
		since += len(h.daemon.Lines(since, text))
	}
}
