package daemon_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"vfio-hotplug/internal/control"
	"vfio-hotplug/internal/daemon"
	"vfio-hotplug/internal/guard"
	"vfio-hotplug/internal/pci"
	"vfio-hotplug/internal/sysfstest"
)

// noStub is a machine on which auto comes to the gate for someNVMe.
var noStub = sysfstest.Options{Missing: []string{"pci-stub"}, Drivers: []string{"pcieport", "nvme", "vfio-pci", "e1000e"}}

// readFirst has the drive in bay A read by nvme first.
const readFirst = "[[rule]]\nname = \"read\"\nmatch = { class = \"nvme\", slot = \"A\" }\nguard = false\n" + everyNVMe

const claimByName = someNVMe + "[guard]\nmode = \"claim\"\n"

// guards are machines and policies by the guard that they come to. Bay 1 is
// wanted, bay 4 is left unless the policy is everyNVMe.
var guards = []struct {
	name    string
	options sysfstest.Options
	policy  string
	left    bool // bay 4 is left
	read    bool // bay 1 is read first
}{
	{"claim", sysfstest.Options{Drivers: vfioFirst}, everyNVMe, false, false},
	{"claim by name", sysfstest.Options{Drivers: vfioFirst}, claimByName, true, false},
	{"stub", sysfstest.Options{Drivers: vfioFirst}, someNVMe, true, false},
	{"stub on 6.1", sysfstest.Options{Drivers: vfioFirst, Release: sysfstest.Linux61}, someNVMe, true, false},
	{"gate", noStub, someNVMe, true, false},
	{"stub, read first", sysfstest.Options{Drivers: vfioFirst}, readFirst, false, true},
}

// wantNow checks the driver and the override of what is in a bay.
func (h *house) wantNow(when string, bay int, driver, override string) {
	h.t.Helper()
	if d, o := h.Driver(bayAt(bay)), h.Override(bayAt(bay)); d != driver || o != override {
		h.t.Errorf("%s: bay %d has driver %q, override %q; want %q, %q", when, bay, d, o, driver, override)
	}
}

// releases has the drive in a bay released by hand, which must end with nvme.
func (h *house) releases(when string, bay int) {
	h.t.Helper()
	if d := h.command(control.MethodRelease, bay); d.Outcome != "released" {
		h.t.Errorf("%s: release: %+v", when, d)
	}
	h.wantNow(when+", released", bay, "nvme", "")
}

// hangAt has the kernel hang after a write to an attribute, until free is
// called.
func (h *house) hangAt(suffix string) (free func()) {
	end := make(chan struct{})
	h.After(func(op sysfstest.Op, _ error) {
		if op.Kind == sysfstest.OpWrite && strings.HasSuffix(op.Path, suffix) {
			<-end
		}
	})
	return func() { close(end) }
}

// TestCaughtWhileNobodyLooked: drives come while no daemon runs. The next one
// knows the guard's catch, and gives back what a drive would have had.
func TestCaughtWhileNobodyLooked(t *testing.T) {
	for _, g := range guards {
		t.Run(g.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := guarded(t, g.options, g.policy)
				h.start()
				time.Sleep(time.Second)
				h.end()
				for _, bay := range []int{1, 2, 4} {
					h.Plug(bayAt(bay), sysfstest.Drive{})
				}
				h.FailProbe("vfio-pci", bayAt(2), syscall.EIO)
				if strings.HasPrefix(g.name, "claim") { // it has it already
					h.Unplug(bayAt(2))
					h.Plug(bayAt(2), sysfstest.Drive{})
				}
				h.start()
				time.Sleep(time.Minute)
				h.wantNow("after the start", 1, "vfio-pci", h.Override(bayAt(1)))
				if touched := h.Touched(bayAt(1)); slices.Contains(touched, "nvme") != g.read {
					t.Errorf("bay 1 was touched by %v", touched)
				}
				h.wantNow("refused", 2, "nvme", "")
				if g.left {
					h.wantNow("left", 4, "nvme", "")
				}
				h.releases("after the start", 1)
				h.end()
			})
		})
	}
}

// TestCaughtDuringARestart: the event waited in the socket. The drive comes
// directly, and that is what is told.
func TestCaughtDuringARestart(t *testing.T) {
	for _, g := range guards {
		t.Run(g.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := guarded(t, g.options, g.policy)
				h.start()
				time.Sleep(time.Second)
				h.end()
				h.queued = func() { h.Plug(bayAt(1), sysfstest.Drive{}) }
				h.start()
				time.Sleep(time.Minute)
				want, not := "outcome=direct driver=vfio-pci", "outcome=taken"
				if g.read {
					want, not = "outcome=taken driver=vfio-pci from=nvme", "outcome=refused"
				}
				if wrong := h.log.lines(not); len(wrong) > 0 {
					t.Errorf("the log has %q", wrong)
				}
				if len(h.log.lines(want)) == 0 {
					t.Errorf("nothing in the log says %s", want)
				}
				h.end()
			})
		})
	}
}

// TestKilledAtAnyTimeUnderAGuard freezes the daemon for good at every single
// operation after a plug, or at every n-th (see everyNth), which is a kill as the
// kernel sees it. The next one ends where it would have.
func TestKilledAtAnyTimeUnderAGuard(t *testing.T) {
	for _, g := range guards {
		t.Run(g.name, func(t *testing.T) {
			t.Parallel()
			for _, bay := range []int{1, 4} {
				killed := true
				n := 0
				for n = 1 + firstPlace(); killed && !t.Failed(); n += everyNth {
					synctest.Test(t, func(t *testing.T) {
						h := guarded(t, g.options, g.policy)
						h.start()
						time.Sleep(time.Second)
						killed = h.plugAndKill(bay, n)
						h.start()
						time.Sleep(time.Minute)
						if bay == 4 && g.left {
							h.wantNow("left", bay, "nvme", "")
						} else {
							h.wantNow("wanted", bay, "vfio-pci", h.Override(bayAt(bay)))
							h.releases("wanted", bay)
						}
						h.end()
					})
					if t.Failed() {
						t.Logf("bay %d, killed after operation %d", bay, n)
					}
				}
				if n < 10 {
					t.Errorf("bay %d: only %d operations", bay, n)
				}
			}
		})
	}
}

// plugAndKill plugs a drive, and kills the daemon after the n-th operation from
// then on, if there is one.
func (h *house) plugAndKill(bay, n int) (killed bool) {
	h.t.Helper()
	return h.killDuring(n, func() {
		h.events.hold()
		h.Plug(bayAt(bay), sysfstest.Drive{})
		h.events.release()
	})
}

// killDuring begins something, and freezes the daemon after the n-th operation
// from then on, if there is one; what it holds is let go as the kernel does for
// the dead.
func (h *house) killDuring(n int, begin func()) (killed bool) {
	h.t.Helper()
	dead := make(chan struct{})
	first := h.Operations()
	var on, hit atomic.Bool
	on.Store(true)
	h.Fault(func(op sysfstest.Op) error {
		if on.Load() && op.N > first+n {
			hit.Store(true)
			<-dead
			return os.ErrClosed
		}
		return nil
	})
	begin()
	time.Sleep(20 * time.Second)
	h.stop()
	<-h.ended
	on.Store(false)
	h.Fault(nil)
	locks, err := filepath.Glob(filepath.Join(h.run, "lock", "*"))
	if err != nil {
		h.t.Fatal(err)
	}
	for _, lock := range append(locks, filepath.Join(h.run, "guard.json.lock")) {
		_ = os.Remove(lock)
	}
	h.t.Cleanup(func() { // what was frozen ends, before its directory goes
		close(dead)
		time.Sleep(time.Minute)
	})
	return hit.Load()
}

// TestReadFirstIsRead: a drive that nvme is to read first is never taken from
// pci-stub, however and whenever it came there.
func TestReadFirstIsRead(t *testing.T) {
	for name, plug := range map[string]func(*house){
		"armed": func(h *house) {
			h.start()
			time.Sleep(time.Second)
			h.plugLate(1)
		},
		"while it is armed": func(h *house) {
			free := h.hangAt("/new_id")
			h.start()
			time.Sleep(time.Second)
			h.plugLate(1)
			time.Sleep(time.Minute)
			free()
		},
		"while it is armed, early": func(h *house) {
			free := h.hangAt("/new_id")
			h.start()
			time.Sleep(time.Second)
			h.plug(1)
			time.Sleep(time.Minute)
			free()
		},
		"while nobody looks": func(h *house) {
			h.start()
			time.Sleep(time.Second)
			h.end()
			h.Plug(bayAt(1), sysfstest.Drive{})
			h.start()
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, full := range []bool{false, true} {
				synctest.Test(t, func(t *testing.T) {
					h := guarded(t, sysfstest.Options{Drivers: vfioFirst}, readFirst)
					if full {
						h.uses.mount(1, "/srv")
					}
					plug(h)
					time.Sleep(time.Minute)
					if !slices.Contains(h.Touched(bayAt(1)), "nvme") {
						t.Errorf("touched by %v: nobody has read it", h.Touched(bayAt(1)))
					}
					if full {
						h.wantNow("full", 1, "nvme", "")
					} else {
						h.wantNow("empty", 1, "vfio-pci", "vfio-pci")
					}
					h.end()
				})
			}
		})
	}
}

// TestTheGateLetsEverythingThrough: what no rule names gets its driver, whatever
// becomes of the events.
func TestTheGateLetsEverythingThrough(t *testing.T) {
	nic := sysfstest.Drive{IDs: sysfstest.NIC()}
	for name, come := range map[string]func(*house){
		"events are lost": func(h *house) {
			h.events.hold()
			h.Plug(bayAt(2), nic)
			h.Plug(bayAt(4), sysfstest.Drive{})
			h.events.events.Overrun()
			h.events.release()
		},
		"the kernel is slow": func(h *house) {
			h.BeginAdd(bayAt(2), nic)
			h.BeginAdd(bayAt(4), sysfstest.Drive{})
			time.Sleep(20 * time.Second)
			h.FinishAdd(bayAt(2))
			h.FinishAdd(bayAt(4))
		},
		"its module is loaded again": func(h *house) {
			h.Plug(bayAt(2), nic)
			h.Plug(bayAt(4), sysfstest.Drive{})
			time.Sleep(time.Minute)
			for _, module := range []string{"e1000e", "nvme"} {
				if err := h.UnloadModule(module); err != nil {
					h.t.Fatal(err)
				}
				if err := h.LoadModule(module); err != nil {
					h.t.Fatal(err)
				}
			}
		},
		"another was in its place, without a driver": func(h *house) {
			h.end()
			h.Plug(bayAt(2), sysfstest.Drive{})
			h.Plug(bayAt(4), sysfstest.Drive{})
			h.start()
			time.Sleep(time.Second)
			h.unbind("nvme", 2)
			h.unbind("nvme", 4)
			h.end()
			h.Unplug(bayAt(2))
			h.Unplug(bayAt(4))
			h.Plug(bayAt(2), nic)
			h.Plug(bayAt(4), sysfstest.Drive{})
			h.start()
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := guarded(t, noStub, strings.ReplaceAll(someNVMe, `match = { class = "nvme" }`, `match = { class = "nvme", slot = ["A", "C", "D"] }`))
				h.start()
				time.Sleep(time.Second)
				h.wantGuard("gate")
				come(h)
				time.Sleep(time.Minute)
				h.wantNow("in the end", 2, "e1000e", "")
				h.wantNow("in the end", 4, "nvme", "")
				h.end()
			})
		})
	}
}

// unbind is somebody's hand, not ours.
func (h *house) unbind(driver string, bay int) {
	h.t.Helper()
	if err := h.Root().Write("bus/pci/drivers/"+driver+"/unbind", bayAt(bay).String()); err != nil {
		h.t.Fatal(err)
	}
}

// TestWhatAHandUnboundStaysSo: also behind the gate, after a reload, and after a
// restart.
func TestWhatAHandUnboundStaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := guarded(t, noStub, someNVMe)
		h.start()
		time.Sleep(time.Second)
		h.wantGuard("gate")
		h.Plug(bayAt(4), sysfstest.Drive{})
		time.Sleep(time.Second)
		h.unbind("nvme", 4)
		h.write(someNVMe)
		time.Sleep(time.Minute)
		h.wantNow("after a reload", 4, "", "")
		h.end()
		h.start()
		time.Sleep(time.Minute)
		h.wantNow("after a restart", 4, "", "")
		h.end()
	})
}

// TestAGuardThatMovesForgetsNobody: a drive comes under one guard, and its event
// is read under the next.
func TestAGuardThatMovesForgetsNobody(t *testing.T) {
	for name, policies := range map[string][2]string{
		"from claim to stub": {everyNVMe, someNVMe},
		"from stub to none":  {someNVMe, "[guard]\nmode = \"off\"\n"},
		"from claim to none": {everyNVMe, ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := guarded(t, sysfstest.Options{Drivers: vfioFirst}, policies[0])
				h.start()
				time.Sleep(time.Second)
				h.events.hold()
				h.Plug(bayAt(4), sysfstest.Drive{})
				h.write(policies[1])
				time.Sleep(time.Second)
				h.events.release()
				time.Sleep(time.Minute)
				h.wantNow("left now", 4, "nvme", "")
				h.end()

				// The same while nobody looks.
				h.Unplug(bayAt(4))
				h.mu.Lock()
				h.policy = policies[0]
				h.mu.Unlock()
				h.start()
				time.Sleep(time.Second)
				h.end()
				h.Plug(bayAt(4), sysfstest.Drive{})
				h.mu.Lock()
				h.policy = policies[1]
				h.mu.Unlock()
				h.start()
				time.Sleep(time.Minute)
				h.wantNow("left by the next", 4, "nvme", "")
				h.end()
			})
		})
	}
}

// TestADriveThatComesWhileTheGuardMoves: whichever of the two guards has it.
func TestADriveThatComesWhileTheGuardMoves(t *testing.T) {
	t.Run("the one before, read later", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := guarded(t, sysfstest.Options{Drivers: vfioFirst}, everyNVMe)
			h.start()
			time.Sleep(time.Second)
			h.events.hold()
			var once atomic.Bool
			h.Fault(func(op sysfstest.Op) error {
				if op.Kind == sysfstest.OpWrite && strings.HasSuffix(op.Path, "pci-stub/new_id") && once.CompareAndSwap(false, true) {
					h.Plug(bayAt(4), sysfstest.Drive{})
				}
				return nil
			})
			h.write(someNVMe)
			time.Sleep(time.Second)
			h.wantGuard("stub")
			h.events.release()
			time.Sleep(time.Minute)
			h.wantNow("left now", 4, "nvme", "")
			h.end()
		})
	})
	t.Run("the next, whose arming hangs", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h := guarded(t, sysfstest.Options{Drivers: vfioFirst}, everyNVMe)
			h.start()
			time.Sleep(time.Second)
			free := h.hangAt("pci-stub/new_id")
			h.write(someNVMe)
			time.Sleep(time.Second)
			h.plugLate(4)
			time.Sleep(time.Second)
			h.wantNow("while it is armed", 4, "nvme", "")
			free()
			time.Sleep(time.Minute)
			h.end()
		})
	})
}

// TestWhatIsNotTheGuardsCatchStays: drives that a hand has given to vfio-pci, and
// left no trace on; over a restart too.
func TestWhatIsNotTheGuardsCatchStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := guarded(t, sysfstest.Options{Drivers: vfioFirst}, strings.ReplaceAll(claimByName, `slot = "D"`, `slot = ["D", "E"]`))
		h.AddBay(sysfstest.Bay{Address: bayAt(5), Slot: "E", Above: []pci.Address{{Device: 5}}})
		h.Plug(bayAt(4), sysfstest.Drive{})
		h.give("vfio-pci", 4)
		h.start()
		time.Sleep(time.Second)
		h.wantGuard("claim")
		h.plug(5)
		time.Sleep(time.Minute)
		h.wantNow("let through", 5, "nvme", "")
		h.give("vfio-pci", 5)
		for _, when := range []string{"after a restart", "after another"} {
			h.end()
			h.start()
			time.Sleep(time.Minute)
			h.wantNow(when, 4, "vfio-pci", "")
			h.wantNow(when, 5, "vfio-pci", "")
		}
		h.end()
	})
}

// TestAnOverrideShowsThatAHandWasThere: of a drive that came while nobody looked.
func TestAnOverrideShowsThatAHandWasThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := guarded(t, sysfstest.Options{Drivers: vfioFirst}, claimByName)
		h.start()
		time.Sleep(time.Second)
		h.end()
		h.Plug(bayAt(4), sysfstest.Drive{})
		if err := h.Root().Write("bus/pci/devices/"+bayAt(4).String()+"/driver_override", "vfio-pci\n"); err != nil {
			t.Fatal(err)
		}
		h.start()
		time.Sleep(time.Minute)
		h.wantNow("after the start", 4, "vfio-pci", "vfio-pci")
		h.end()
	})
}

// give is what a hand does: the drive goes from nvme to another driver.
func (h *house) give(driver string, bay int) {
	h.t.Helper()
	h.unbind("nvme", bay)
	device := "bus/pci/devices/" + bayAt(bay).String()
	for _, err := range []error{
		h.Root().Write(device+"/driver_override", driver+"\n"),
		h.Root().Write("bus/pci/drivers_probe", bayAt(bay).String()),
		h.Root().Write(device+"/driver_override", "\n"),
	} {
		if err != nil {
			h.t.Fatal(err)
		}
	}
}

// disarm does what the guard's unit does when the daemon has stopped for good.
func (h *house) disarm() {
	h.t.Helper()
	armed := guard.New(h.Root(), h.Expendable(), filepath.Join(h.run, "guard.json"))
	state, err := armed.State()
	if err != nil {
		h.t.Fatal(err)
	}
	if err := armed.Disarm(h.t.Context()); err != nil {
		h.t.Fatal(err)
	}
	if err := h.operator.Settle(h.t.Context(), daemon.Recall(state, time.Now())); err != nil {
		h.t.Error(err)
	}
}

// TestAStopLetsGoOfTheCatch: what came between the daemon's end and the guard's.
func TestAStopLetsGoOfTheCatch(t *testing.T) {
	for _, g := range guards {
		t.Run(g.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := guarded(t, g.options, g.policy)
				h.start()
				time.Sleep(time.Second)
				h.Plug(bayAt(3), sysfstest.Drive{})
				time.Sleep(time.Minute)
				h.end()
				h.Plug(bayAt(1), sysfstest.Drive{})
				h.Plug(bayAt(2), sysfstest.Drive{IDs: sysfstest.NIC()})
				h.disarm()
				h.wantNow("caught", 1, "nvme", "")
				if g.name == "gate" {
					h.wantNow("waiting", 2, "e1000e", "")
				}
				h.wantNow("taken before", 3, "vfio-pci", h.Override(bayAt(3)))
			})
		})
	}
}

// TestAShieldIsNoTrap: a drive whose adding the kernel has not finished when the
// guard is armed gets its driver.
func TestAShieldIsNoTrap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := guarded(t, sysfstest.Options{Drivers: vfioFirst}, "[guard]\nmode = \"off\"\n")
		h.start()
		time.Sleep(time.Second)
		var once atomic.Bool
		h.Fault(func(op sysfstest.Op) error {
			if op.Kind == sysfstest.OpWrite && strings.HasSuffix(op.Path, "/new_id") && once.CompareAndSwap(false, true) {
				h.FinishAdd(bayAt(4))
			}
			return nil
		})
		h.BeginAdd(bayAt(4), sysfstest.Drive{})
		synctest.Wait()
		h.write(someNVMe)
		time.Sleep(time.Minute)
		h.wantNow("in the end", 4, "nvme", "")
		h.end()
	})
}

// TestTheShieldsNameIsNobodys: an override that a killed arming has left is
// cleared, and never put back.
func TestTheShieldsNameIsNobodys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 4, sysfstest.Options{Drivers: vfioFirst}, "")
		h.Plug(bayAt(4), sysfstest.Drive{})
		h.unbind("nvme", 4)
		if err := h.Root().Write("bus/pci/devices/"+bayAt(4).String()+"/driver_override", "vfio-hotplug-hands-off\n"); err != nil {
			t.Fatal(err)
		}
		h.start()
		h.command(control.MethodBind, 4)
		h.wantNow("bound", 4, "vfio-pci", "vfio-pci")
		h.command(control.MethodRelease, 4)
		h.wantNow("released", 4, "", "")
		h.end()
	})
}

// TestKilledWhileItShields: the next start clears the shields.
func TestKilledWhileItShields(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := guarded(t, sysfstest.Options{Drivers: []string{"pcieport", "vfio-pci", "pci-stub"}}, someNVMe)
		h.Plug(bayAt(4), sysfstest.Drive{})
		free := h.hangAt("/new_id")
		h.start()
		time.Sleep(time.Second)
		h.wantNow("while it is armed", 4, "", "vfio-hotplug-hands-off")
		h.end()
		free()
		h.After(nil)
		h.start()
		time.Sleep(time.Minute)
		h.wantNow("after the next start", 4, "", "")
		h.end()
	})
}

// TestAHungDeviceHoldsUpNoGuard: a device in an unbind that does not end looks
// as if it had no driver, and its lock is held.
func TestAHungDeviceHoldsUpNoGuard(t *testing.T) {
	for _, before := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			h := guarded(t, sysfstest.Options{Release: sysfstest.Linux61, Drivers: vfioFirst}, someNVMe)
			h.Plug(bayAt(4), sysfstest.Drive{})
			hung := h.Pause(sysfstest.Releasing, "nvme", bayAt(4))
			hang := func() {
				go func() { _ = h.Root().Write("bus/pci/drivers/nvme/unbind", bayAt(4).String()) }()
				<-hung.Reached()
			}
			if before {
				hang()
			}
			h.start()
			time.Sleep(11 * time.Second)
			if h.ready.last("READY=1") == "" {
				t.Error("it never got ready")
			}
			if !before {
				hang()
				h.write(everyNVMe)
			}
			time.Sleep(time.Minute)
			h.plugLate(1)
			time.Sleep(time.Minute)
			h.wantNow("guarded", 1, "vfio-pci", h.Override(bayAt(1)))
			if touched := h.Touched(bayAt(1)); slices.Contains(touched, "nvme") {
				t.Errorf("touched by %v", touched)
			}
			if took := h.end(); took >= time.Second {
				t.Errorf("a stop took %v", took)
			}
			hung.End()
			time.Sleep(time.Second)
		})
	}
}

// TestAHungArmingHoldsNobody: a drive that a reload newly names is taken though
// an arming that concerns it has not ended.
func TestAHungArmingHoldsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := guarded(t, sysfstest.Options{Drivers: []string{"pcieport", "vfio-pci", "pci-stub"}, Missing: []string{"nvme"}}, someNVMe)
		h.Plug(bayAt(4), sysfstest.Drive{})
		free := h.hangAt("/new_id")
		h.start()
		time.Sleep(time.Hour)
		h.write(everyNVMe)
		time.Sleep(time.Hour)
		h.wantNow("newly named", 4, "vfio-pci", "vfio-pci")
		free()
		time.Sleep(time.Minute)
		h.wantNow("when the arming has ended", 4, "vfio-pci", "vfio-pci")
		h.end()
	})
}

// TestStubIsFasterThanOurOverride: pci-stub gets the drive just before the
// override stands; no rule about other drivers applies.
func TestStubIsFasterThanOurOverride(t *testing.T) {
	for name, hang := range map[string]bool{"armed": false, "while it is armed": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := guarded(t, sysfstest.Options{Drivers: vfioFirst},
					strings.ReplaceAll(someNVMe, `match = { class = "nvme" }`, "match = { class = \"nvme\" }\ntakeover = \"never\""))
				if hang {
					free := h.hangAt("/new_id")
					defer free()
				}
				h.start()
				time.Sleep(time.Second)
				var once atomic.Bool
				h.Fault(func(op sysfstest.Op) error {
					if op.Kind == sysfstest.OpWrite && strings.HasSuffix(op.Path, "driver_override") && once.CompareAndSwap(false, true) {
						h.FinishAdd(bayAt(1))
					}
					return nil
				})
				h.BeginAdd(bayAt(1), sysfstest.Drive{})
				time.Sleep(time.Minute)
				if len(h.log.lines("outcome=direct driver=vfio-pci")) != 1 {
					t.Errorf("the log has %q", h.log.lines("outcome="))
				}
				h.releases("in the end", 1)
				h.end()
			})
		})
	}
}

// TestASlowAddIsNotGivenUp: the kernel takes long to set a left drive up.
func TestASlowAddIsNotGivenUp(t *testing.T) {
	for _, wait := range []time.Duration{11 * time.Second, 5 * time.Minute} {
		synctest.Test(t, func(t *testing.T) {
			h := guarded(t, sysfstest.Options{Drivers: vfioFirst}, someNVMe)
			h.start()
			time.Sleep(time.Second)
			h.BeginAdd(bayAt(4), sysfstest.Drive{})
			time.Sleep(wait)
			h.FinishAdd(bayAt(4))
			time.Sleep(time.Minute)
			h.wantNow("in the end", 4, "nvme", "")
			h.end()
		})
	}
}

// TestALeftCardOfWhichNoTableTells: its driver is found by offering.
func TestALeftCardOfWhichNoTableTells(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := guarded(t, sysfstest.Options{Drivers: []string{"pcieport", "pci-stub", "vfio-pci", "nvme", "e1000e"}},
			"[[rule]]\nname = \"cards\"\nmatch = { class = \"nic\", slot = \"A\" }\n")
		h.start()
		time.Sleep(time.Second)
		h.wantGuard("stub")
		h.Plug(bayAt(2), sysfstest.Drive{IDs: sysfstest.NIC()})
		time.Sleep(time.Minute)
		h.wantNow("in the end", 2, "e1000e", "")
		h.end()
	})
}

// TestAModuleThatSomebodyTakesAwayStaysAway: the loss is said, not undone.
func TestAModuleThatSomebodyTakesAwayStaysAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := guarded(t, sysfstest.Options{Drivers: []string{"pcieport", "vfio-pci", "nvme"}, Missing: []string{"pci-stub"}, Release: sysfstest.Linux61}, everyNVMe)
		h.start()
		time.Sleep(time.Second)
		h.wantGuard("claim")
		if err := h.UnloadModule("vfio-pci"); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if there, err := h.FS().HasDriver("vfio-pci"); there || err != nil {
			t.Errorf("vfio-pci is registered: %v, %v", there, err)
		}
		if line := h.log.last(" guard="); !strings.Contains(line, "guard=race ") || !strings.Contains(line, "vfio-pci is not loaded") {
			t.Errorf("the log's last word on the guard is %q", line)
		}
		h.end()
	})
}
