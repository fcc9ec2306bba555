package daemon_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"vfio-hotplug/internal/control"
	"vfio-hotplug/internal/daemon"
	"vfio-hotplug/internal/operate"
	"vfio-hotplug/internal/pci"
	"vfio-hotplug/internal/sysfstest"
	"vfio-hotplug/policy"
)

func TestADriveThatIsPluggedComesDirectly(t *testing.T) {
	for _, release := range []sysfstest.Release{sysfstest.Linux61, sysfstest.Linux612, sysfstest.Linux73} {
		t.Run(release.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := build(t, 1, sysfstest.Options{Release: release}, everyNVMe)
				h.start()
				h.plug(1)
				time.Sleep(time.Second)
				h.want(1, "vfio-pci", operate.Direct)
				if touched := h.Touched(bayAt(1)); !slices.Equal(touched, []string{"vfio-pci"}) {
					t.Errorf("touched by %v", touched)
				}
				h.end()
			})
		})
	}
}

func TestALostRaceIsRepaired(t *testing.T) {
	for _, release := range []sysfstest.Release{sysfstest.Linux61, sysfstest.Linux612, sysfstest.Linux73} {
		t.Run(release.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := build(t, 1, sysfstest.Options{Release: release}, everyNVMe)
				h.start()
				h.plugLate(1)
				time.Sleep(time.Second)
				h.want(1, "vfio-pci", operate.Taken)
				if line := h.log.last("outcome=taken"); !strings.Contains(line, "from=nvme") {
					t.Errorf("%q does not say from whom", line)
				}
				h.end()
			})
		})
	}
}

func TestALostRaceWaitsUntilTheDriveCanBeChecked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 1, sysfstest.Options{}, everyNVMe)
		h.start()
		h.uses.settle(1, false)
		h.plugLate(1)
		time.Sleep(10 * time.Second)
		if driver := h.Driver(bayAt(1)); driver != "nvme" {
			t.Errorf("driver %q before the drive could be checked", driver)
		}
		h.uses.settle(1, true)
		time.Sleep(2 * time.Second)
		h.want(1, "vfio-pci", operate.Taken)
		h.end()
	})
}

func TestADriveThatNeverSettlesIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 1, sysfstest.Options{}, everyNVMe)
		h.start()
		h.uses.settle(1, false)
		h.plugLate(1)
		time.Sleep(h.limits.Settle + time.Minute)
		h.want(1, "nvme", operate.Refused)
		if override := h.Override(bayAt(1)); override != "" {
			t.Errorf("override %q was left behind", override)
		}
		h.end()
	})
}

func TestWhatIsThereAtTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 4, sysfstest.Options{Drivers: []string{"pcieport", "vfio-pci", "e1000e"}}, everyNVMe+`
[[rule]]
name   = "bay D"
match  = { slot = "D" }
action = "leave"
`)
		h.Plug(bayAt(1), sysfstest.Drive{}) // nvme is not loaded: no driver
		if err := h.LoadModule("nvme"); err != nil {
			t.Fatal(err)
		}
		h.UnloadModule("nvme") // the drive in bay 1 has none again
		h.LoadModule("nvme")
		h.Plug(bayAt(2), sysfstest.Drive{})
		h.Plug(bayAt(3), sysfstest.Drive{IDs: sysfstest.NIC()})
		h.Plug(bayAt(4), sysfstest.Drive{})
		h.uses.mount(2, "/srv")
		h.start()
		time.Sleep(time.Second)
		h.want(2, "nvme", operate.Refused)
		h.want(3, "e1000e", operate.Left)
		h.want(4, "nvme", operate.Left)
		for _, bay := range []int{2, 3, 4} {
			if w := h.written(bayAt(bay)); len(w) != 0 {
				t.Errorf("bay %d was written to: %v", bay, w)
			}
		}
		if line := h.log.last("outcome=refused"); !strings.Contains(line, "nvme0n1 → /srv") || !strings.Contains(line, "umount /srv") {
			t.Errorf("%q does not say who uses the drive and what to do", line)
		}
		h.end()
	})
}

func TestReadyComesAfterTheScan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 2, sysfstest.Options{}, everyNVMe)
		h.Plug(bayAt(1), sysfstest.Drive{})
		h.start()
		h.want(1, "vfio-pci", operate.Taken)
		if got := h.ready.lines(""); !slices.Equal(got, []string{"READY=1"}) {
			t.Errorf("told the service manager %q", got)
		}
		h.end()
		if got := h.ready.last(""); got != "STOPPING=1" {
			t.Errorf("the last word to the service manager was %q", got)
		}
	})
}

// TestAHangingUnbindHoldsUpNobody: the kernel does not come back from an
// unbind. Other drives are taken, the stuck one is reported with its step,
// READY is said, a stop takes less than a second, and when the kernel does come
// back the drive is finished.
func TestAHangingUnbindHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 2, sysfstest.Options{}, everyNVMe)
		h.Plug(bayAt(1), sysfstest.Drive{})
		free := make(chan struct{})
		h.Fault(func(op sysfstest.Op) error {
			if op.Kind == sysfstest.OpWrite && op.Path == "bus/pci/drivers/nvme/unbind" {
				<-free
			}
			return nil
		})
		h.start()
		time.Sleep(11 * time.Second)
		if h.ready.last("READY=1") == "" {
			t.Error("a drive that hangs kept the daemon from being ready")
		}
		h.want(1, "nvme", operate.Stuck)
		if line := h.log.last("outcome=stuck"); !strings.Contains(line, "unbind from nvme") {
			t.Errorf("%q does not name the step", line)
		}
		h.plug(2)
		time.Sleep(time.Second)
		h.want(2, "vfio-pci", operate.Direct)

		if took := h.end(); took >= time.Second {
			t.Errorf("a stop took %v", took)
		}
		h.start()
		time.Sleep(11 * time.Second)
		close(free)
		time.Sleep(3 * time.Second)
		h.want(1, "vfio-pci", operate.Taken)
		h.end()
	})
}

func TestAnOverrunIsAScan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 2, sysfstest.Options{}, everyNVMe)
		h.start()
		h.plug(1)
		time.Sleep(time.Second)
		h.events.hold()
		h.Plug(bayAt(2), sysfstest.Drive{})
		h.Unplug(bayAt(1))
		h.events.events.Overrun()
		h.events.release()
		time.Sleep(time.Second)
		if line := h.log.last("outcome=taken"); !strings.Contains(line, bayAt(2).String()) {
			t.Errorf("%q does not tell of bay 2", line)
		}
		if line := h.log.last("pci_address=" + bayAt(1).String()); !strings.Contains(line, "outcome=gone") {
			t.Errorf("the log's last word of bay 1 is %q", line)
		}
		if entries, err := h.operator.Ledger.All(); err != nil || len(entries) != 1 {
			t.Errorf("ledger: %v, %v; want the drive in bay 2 alone", entries, err)
		}
		h.end()
	})
}

func TestReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 3, sysfstest.Options{}, everyNVMe)
		h.start()
		h.plug(1)
		time.Sleep(time.Second)

		h.write("[[rule]]\nnme = 1\n")
		if line := h.log.last("policy not reloaded"); !strings.Contains(line, "policy.toml:2:1") {
			t.Errorf("%q does not name the fault's place", line)
		}
		h.plug(2)
		time.Sleep(time.Second)
		h.want(2, "vfio-pci", operate.Direct)

		// A drive that is no longer named stays where it is, and that is said.
		h.write("")
		time.Sleep(time.Second)
		if driver := h.Driver(bayAt(1)); driver != "vfio-pci" {
			t.Errorf("no longer named: driver %q", driver)
		}
		h.want(1, "vfio-pci", operate.Left)
		h.plug(3)
		time.Sleep(time.Second)
		h.want(3, "nvme", operate.Left)

		// One that is newly named is treated like one found at the start.
		h.write(everyNVMe)
		time.Sleep(time.Second)
		h.want(3, "vfio-pci", operate.Taken)
		h.end()
	})
}

func TestABadPolicyAtTheStartIsAnError(t *testing.T) {
	_, err := daemon.New(daemon.Config{Load: func() (*policy.Policy, error) { return policy.Parse("p.toml", []byte("x = 1")) }})
	var faults policy.Faults
	if !errors.As(err, &faults) {
		t.Errorf("got %v, want the policy's faults", err)
	}
}

func TestWhatSomebodyElseDoesIsNotFought(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 1, sysfstest.Options{Drivers: []string{"pcieport", "nvme", "vfio-pci", "pci-stub"}}, everyNVMe)
		h.start()
		h.plug(1)
		time.Sleep(time.Second)
		h.driverctl(1, "pci-stub")
		time.Sleep(time.Minute)
		if driver := h.Driver(bayAt(1)); driver != "pci-stub" {
			t.Errorf("driver %q, want pci-stub", driver)
		}
		h.end()
		h.start()
		time.Sleep(time.Minute)
		h.want(1, "pci-stub", operate.Left)
		h.end()
	})
}

func TestAHandOutranksThePolicy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 2, sysfstest.Options{}, everyNVMe)
		h.start()
		h.plug(1)
		time.Sleep(time.Second)
		if d := h.command(control.MethodRelease, 1); d.Outcome != "released" {
			t.Errorf("release: %+v", d)
		}
		h.want(1, "nvme", operate.Released)
		if override := h.Override(bayAt(1)); override != "" {
			t.Errorf("override %q was left behind", override)
		}

		h.write(everyNVMe)
		time.Sleep(time.Second)
		h.end()
		h.start()
		time.Sleep(time.Second)
		h.want(1, "nvme", operate.Left)

		if d := h.command(control.MethodBind, 1); d.Outcome != "taken" {
			t.Errorf("bind: %+v", d)
		}
		h.want(1, "vfio-pci", operate.Taken)
		h.end()
		h.start()
		h.want(1, "vfio-pci", operate.Already)

		h.command(control.MethodRelease, 1)
		h.Unplug(bayAt(1))
		h.plug(1)
		time.Sleep(time.Second)
		h.want(1, "vfio-pci", operate.Direct)
		h.end()
	})
}

func TestReleaseOfWhatWasNotTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 1, sysfstest.Options{}, "")
		h.start()
		h.Plug(bayAt(1), sysfstest.Drive{})
		d := h.command(control.MethodRelease, 1)
		if d.Outcome != "failed" || !strings.Contains(d.Reason, "not taken") {
			t.Errorf("release: %+v", d)
		}
		if w := h.written(bayAt(1)); len(w) != 0 {
			t.Errorf("wrote %v", w)
		}
		h.end()
	})
}

// command calls the daemon's handler as its socket does.
func (h *house) command(method string, bay int) control.Device {
	h.t.Helper()
	d, err := h.ask(method, bay)
	if err != nil {
		h.t.Fatal(err)
	}
	return d
}

func (h *house) ask(method string, bay int) (control.Device, error) {
	parameters, err := json.Marshal(control.ReleaseRequest{Address: bayAt(bay).String()})
	if err != nil {
		return control.Device{}, err
	}
	reply, err := h.daemon.Handlers(h.running)[method].Handle(h.t.Context(), control.NewCall(method, parameters))
	if err != nil {
		return control.Device{}, err
	}
	return reply.(control.DeviceReply).Device, nil
}

func TestTheModuleIsLoaded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 2, sysfstest.Options{Drivers: []string{"pcieport", "nvme"}}, everyNVMe)
		h.start()
		h.plug(1)
		time.Sleep(time.Second)
		h.want(1, "vfio-pci", operate.Direct)
		h.end()
	})
}

func TestWhatCannotBe(t *testing.T) {
	for _, test := range []struct {
		name    string
		options sysfstest.Options
		outcome operate.Outcome
		words   string
	}{
		{"no IOMMU", sysfstest.Options{NoIOMMU: true}, operate.Refused, "intel_iommu=on"},
		{"no such module", sysfstest.Options{Drivers: []string{"pcieport", "nvme"}, Missing: []string{"vfio-pci"}}, operate.Refused, "modprobe vfio-pci"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := build(t, 1, test.options, everyNVMe)
				h.start()
				h.plug(1)
				time.Sleep(time.Minute)
				h.want(1, "nvme", test.outcome)
				if line := h.log.last("outcome=" + string(test.outcome)); !strings.Contains(line, test.words) {
					t.Errorf("%q does not say %q", line, test.words)
				}
				if w := h.written(bayAt(1)); len(w) != 0 {
					t.Errorf("wrote %v", w)
				}
				h.end()
			})
		})
	}
}

func TestAProbeThatFailsGivesTheDriveToNVMe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 1, sysfstest.Options{}, everyNVMe)
		h.start()
		h.FailProbe("vfio-pci", bayAt(1), errors.New("the model's probe fails"))
		h.plug(1)
		time.Sleep(time.Minute)
		h.want(1, "nvme", operate.Failed)
		if line := h.log.last("outcome=failed"); !strings.Contains(line, "the kernel's log: dmesg") {
			t.Errorf("%q does not say what to do next", line)
		}
		if override := h.Override(bayAt(1)); override != "" {
			t.Errorf("override %q was left behind", override)
		}
		if entries, err := h.operator.Ledger.All(); err != nil || len(entries) != 0 {
			t.Errorf("ledger: %v, %v; want none", entries, err)
		}
		h.end()
	})
}

func TestADriveThatGoesAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 1, sysfstest.Options{}, everyNVMe)
		h.start()
		for range 20 {
			h.BeginAdd(bayAt(1), sysfstest.Drive{})
			synctest.Wait()
			h.FinishAdd(bayAt(1))
			h.Unplug(bayAt(1))
		}
		h.plug(1)
		time.Sleep(time.Minute)
		h.want(1, "vfio-pci", operate.Direct)
		h.end()
	})
}

// TestAStorm plugs and unplugs in every bay at once, a thousand times in all.
func TestAStorm(t *testing.T) {
	const bays, rounds = 10, 100
	synctest.Test(t, func(t *testing.T) {
		h := build(t, bays, sysfstest.Options{}, everyNVMe)
		h.start()
		var plugging sync.WaitGroup
		for bay := 1; bay <= bays; bay++ {
			plugging.Go(func() {
				for range rounds - 1 {
					h.Plug(bayAt(bay), sysfstest.Drive{})
					h.Unplug(bayAt(bay))
				}
				h.Plug(bayAt(bay), sysfstest.Drive{})
			})
		}
		plugging.Wait()
		time.Sleep(time.Minute)
		for bay := 1; bay <= bays; bay++ {
			if driver := h.Driver(bayAt(bay)); driver != "vfio-pci" {
				t.Errorf("bay %d: driver %q", bay, driver)
			}
		}
		entries, err := h.operator.Ledger.All()
		if err != nil || len(entries) != bays {
			t.Errorf("ledger: %d entries, %v; want %d", len(entries), err, bays)
		}
		h.end()
	})
}

// TestKilledAtAnyTime stops a daemon for good after each of its operations in
// turn, and lets another one finish.
func TestKilledAtAnyTime(t *testing.T) {
	for n := 1; ; n++ {
		var reached atomic.Bool
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := build(t, 1, sysfstest.Options{}, everyNVMe)
				h.Plug(bayAt(1), sysfstest.Drive{})
				first := h.Operations()
				killed := make(chan struct{})
				h.Fault(func(op sysfstest.Op) error {
					if op.N < first+n {
						return nil
					}
					reached.Store(true)
					<-killed // the dead do nothing more
					return syscall.EIO
				})
				h.start()
				time.Sleep(time.Minute)
				h.stop()
				close(killed)
				if err := <-h.ended; err != nil {
					t.Error(err)
				}
				h.Fault(nil)
				h.start()
				time.Sleep(time.Minute)
				if driver := h.Driver(bayAt(1)); driver != "vfio-pci" {
					t.Errorf("driver %q", driver)
				}
				h.end()
			})
		})
		if !reached.Load() || t.Failed() {
			if n < 20 {
				t.Errorf("only %d operations", n)
			}
			return
		}
	}
}

func TestAGroupThatWouldNotBeViableIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 0, sysfstest.Options{Drivers: []string{"pcieport", "nvme", "vfio-pci", "e1000e"}}, everyNVMe)
		for bay := 1; bay <= 2; bay++ {
			h.AddBay(sysfstest.Bay{Address: bayAt(bay), Above: []pci.Address{{Device: 1}}, Group: 40})
		}
		h.start()
		h.Plug(bayAt(2), sysfstest.Drive{IDs: sysfstest.NIC()})
		h.plug(1)
		time.Sleep(time.Minute)
		h.want(1, "nvme", operate.Refused)
		if line := h.log.last("outcome=refused"); !strings.Contains(line, "0000:02:00.0 (e1000e)") {
			t.Errorf("%q does not name who is in the way", line)
		}
		if w := h.written(bayAt(1)); len(w) != 0 {
			t.Errorf("wrote %v", w)
		}
		h.end()
	})
}

func TestAutoIsVFIOWhereNoVariantFits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 1, sysfstest.Options{}, everyNVMe+"driver = \"auto\"\n")
		h.start()
		h.plug(1)
		time.Sleep(time.Second)
		h.want(1, "vfio-pci", operate.Direct)
		h.end()
	})
}

// TestAnUnplugIsToldOfWhatARuleNames: also of a drive that was not taken, once,
// with the last word on it; and of no other.
func TestAnUnplugIsToldOfWhatARuleNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 4, sysfstest.Options{}, `
[[rule]]
name   = "stays"
match  = { slot = "C" }
action = "leave"

[[rule]]
name  = "A and B"
match = { slot = ["A", "B"] }
`)
		for bay := 1; bay <= 4; bay++ {
			h.Plug(bayAt(bay), sysfstest.Drive{})
		}
		h.uses.mount(1, "/srv")
		h.start()
		for bay := 1; bay <= 4; bay++ {
			h.Unplug(bayAt(bay))
		}
		time.Sleep(time.Second)
		for bay, says := range map[int]string{
			1: "the last word on it was refused: in use: nvme0n1 → /srv",
			2: "it was on vfio-pci",
			3: "the last word on it was left: ",
		} {
			lines := h.log.lines("is gone")
			lines = slices.DeleteFunc(lines, func(line string) bool { return !strings.Contains(line, bayAt(bay).String()) })
			if len(lines) != 1 || !strings.Contains(lines[0], says) || !strings.Contains(lines[0], "level=INFO") {
				t.Errorf("bay %d: told %q, want one line with %q", bay, lines, says)
			}
		}
		if line := h.log.last(bayAt(4).String()); strings.Contains(line, "gone") {
			t.Errorf("told of what no rule names: %q", line)
		}
		h.end()
	})
}
