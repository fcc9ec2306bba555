package daemon_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"vfio-hotplug/internal/control"
	"vfio-hotplug/internal/inuse"
	"vfio-hotplug/internal/ledger"
	"vfio-hotplug/internal/operate"
	"vfio-hotplug/internal/pci"
	"vfio-hotplug/internal/sysfs"
	"vfio-hotplug/internal/sysfstest"
	"vfio-hotplug/policy"
)

// failing is a Uses whose look errs.
type failing struct{ err error }

func (f failing) Look(context.Context, *sysfs.Device, pci.Device, inuse.How) (inuse.Report, *inuse.Hold, error) {
	return inuse.Report{}, nil, f.err
}

func (f failing) Still(context.Context, inuse.Report) bool { return false }

func (f failing) Awaited() (string, error) { return "", f.err }

func (h *house) entries() []ledger.Entry {
	h.t.Helper()
	all, err := h.operator.Ledger.All()
	if err != nil {
		h.t.Error(err)
	}
	return all
}

func TestALookThatFailsAfterALostRaceLeavesNoOverride(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 1, sysfstest.Options{}, everyNVMe)
		h.start()
		h.operator.Uses = failing{errors.New("find the NVMe controllers: no such file")}
		// the daemon offers in time, but nvme has matched already
		var once atomic.Bool
		h.Fault(func(op sysfstest.Op) error {
			if op.Kind == sysfstest.OpWrite && strings.HasSuffix(op.Path, "driver_override") && once.CompareAndSwap(false, true) {
				h.FinishAdd(bayAt(1))
			}
			return nil
		})
		h.BeginAdd(bayAt(1), sysfstest.Drive{})
		time.Sleep(time.Minute)
		h.Fault(nil)
		if o := h.Override(bayAt(1)); o != "" {
			t.Errorf("override %q left, ledger %d entries", o, len(h.entries()))
		}
		h.end()
	})
}

func TestADriveThatGoesWhileItSettlesDoesNotHoldUpTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 1, sysfstest.Options{}, everyNVMe)
		h.start()
		h.uses.settle(1, false)
		h.plugLate(1)
		time.Sleep(time.Second)
		h.Unplug(bayAt(1))
		time.Sleep(time.Second)
		start := time.Now()
		h.BeginAdd(bayAt(1), sysfstest.Drive{})
		synctest.Wait()
		h.FinishAdd(bayAt(1))
		synctest.Wait()
		time.Sleep(5 * time.Second)
		if d := h.Driver(bayAt(1)); d != "vfio-pci" {
			t.Errorf("after %v the newcomer is on %q; log: %s", time.Since(start), d, h.log.last("pci_address="))
		}
		h.uses.settle(1, true)
		time.Sleep(10 * time.Minute)
		h.end()
	})
}

func (h *house) commandWith(method string, in any) control.Device {
	h.t.Helper()
	parameters, _ := json.Marshal(in)
	reply, err := h.daemon.Handlers(h.running)[method].Handle(h.t.Context(), control.NewCall(method, parameters))
	if err != nil {
		h.t.Fatal(err)
	}
	return reply.(control.DeviceReply).Device
}

func TestARefusedBindByHandKeepsTheLedger(t *testing.T) {
	for _, driver := range []string{"nosuch", "uio_pci_generic"} {
		t.Run(driver, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := build(t, 1, sysfstest.Options{}, everyNVMe)
				h.Plug(bayAt(1), sysfstest.Drive{})
				h.start()
				time.Sleep(time.Second)
				h.want(1, "vfio-pci", operate.Taken)
				if driver == "uio_pci_generic" {
					h.uses.mount(1, "/dev/vfio/1 → qemu")
				}
				d := h.commandWith(control.MethodBind, control.BindRequest{Address: bayAt(1).String(), Driver: driver})
				if len(h.entries()) != 1 {
					t.Errorf("ledger lost the drive that is on %s", h.Driver(bayAt(1)))
				}
				h.uses.unmount(1)
				d = h.command(control.MethodRelease, 1)
				if d.Outcome != "released" {
					t.Errorf("release: %+v", d)
				}
				h.end()
			})
		})
	}
}

func TestBindAfterAFailedReleaseStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 1, sysfstest.Options{}, everyNVMe)
		h.Plug(bayAt(1), sysfstest.Drive{})
		h.start()
		time.Sleep(time.Second)
		h.Fault(func(op sysfstest.Op) error {
			if op.Kind == sysfstest.OpWrite && op.Path == "bus/pci/drivers/vfio-pci/unbind" {
				return syscall.EIO
			}
			return nil
		})
		h.command(control.MethodRelease, 1)
		h.Fault(nil)
		h.command(control.MethodBind, 1)
		h.write(everyNVMe) // a reload
		time.Sleep(time.Second)
		if got := h.Driver(bayAt(1)); got != "vfio-pci" {
			t.Errorf("after bind by hand and a reload: driver %q", got)
		}
		h.end()
	})
}

func (h *house) status() []control.Device { return h.report().Devices }

func (h *house) report() control.StatusReply {
	reply, err := h.daemon.Handlers(h.running)[control.MethodStatus].Handle(h.t.Context(), control.NewCall(control.MethodStatus, nil))
	if err != nil {
		h.t.Fatal(err)
	}
	return reply.(control.StatusReply)
}

// The command line without a daemon releases while a daemon starts.
func TestReleaseWithoutADaemonWhileOneStarts(t *testing.T) {
	for _, point := range []string{"before the mark", "after the mark"} {
		t.Run(point, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := build(t, 1, sysfstest.Options{}, everyNVMe)
				h.Plug(bayAt(1), sysfstest.Drive{})
				h.start()
				time.Sleep(time.Second)
				h.end()
				other := *h.operator // the command's process
				dev, err := other.FS.Open(bayAt(1))
				if err != nil {
					t.Fatal(err)
				}
				defer dev.Close()
				goOn := make(chan struct{})
				var blocked atomic.Bool
				h.Fault(func(op sysfstest.Op) error {
					where := op.Kind == sysfstest.OpWrite && op.Path == "bus/pci/drivers/vfio-pci/unbind"
					if point == "before the mark" {
						where = op.Kind == sysfstest.OpReadlink && op.Path == "driver" && op.Through == dev.Identity()
					}
					if where && blocked.CompareAndSwap(false, true) {
						<-goOn
					}
					return nil
				})
				p, _ := h.parse()
				released := make(chan operate.Result, 1)
				if point == "before the mark" {
					// the lock is taken, nothing else done yet
					lock, err := other.Ledger.Lock(bayAt(1))
					if err != nil {
						t.Fatal(err)
					}
					blocked.Store(true)
					h.start()
					lock.Unlock()
					released <- other.Release(t.Context(), operate.Request{Device: dev, Policy: func() *policy.Policy { return p }, Arrival: operate.ByHand})
				} else {
					go func() {
						released <- other.Release(t.Context(), operate.Request{Device: dev, Policy: func() *policy.Policy { return p }, Arrival: operate.ByHand})
					}()
					synctest.Wait()
					h.start()
					close(goOn)
				}
				if r := <-released; r.Outcome != operate.Released {
					t.Errorf("the command ended with %+v", r)
				}
				time.Sleep(time.Minute)
				if got := h.Driver(bayAt(1)); got != "nvme" {
					t.Errorf("released by hand, and on %q", got)
				}
				h.end()
			})
		})
	}
}

func TestAReloadThatSaysLeaveCountsForADriveThatStillWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 1, sysfstest.Options{}, everyNVMe)
		h.start()
		h.uses.settle(1, false)
		h.plugLate(1)
		time.Sleep(10 * time.Second)
		h.write("[[rule]]\nname = \"stay\"\nmatch = { class = \"nvme\" }\naction = \"leave\"\n")
		time.Sleep(10 * time.Second)
		h.uses.settle(1, true)
		time.Sleep(time.Minute)
		if got := h.Driver(bayAt(1)); got != "nvme" {
			t.Errorf("the policy says leave, driver %q", got)
		}
		h.end()
	})
}

// Kills during a rollback.
func TestKilledDuringARollback(t *testing.T) {
	for n := 1; ; n++ {
		var reached atomic.Bool
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := build(t, 1, sysfstest.Options{}, everyNVMe)
				h.Plug(bayAt(1), sysfstest.Drive{})
				h.FailProbe("vfio-pci", bayAt(1), syscall.EIO)
				first := h.Operations()
				killed := make(chan struct{})
				h.Fault(func(op sysfstest.Op) error {
					if op.N < first+n {
						return nil
					}
					reached.Store(true)
					<-killed
					return syscall.EIO
				})
				h.start()
				time.Sleep(time.Minute)
				h.stop()
				close(killed)
				<-h.ended
				before := fmt.Sprintf("driver %q override %q", h.Driver(bayAt(1)), h.Override(bayAt(1)))
				h.Fault(nil)
				h.start()
				time.Sleep(time.Minute)
				if h.Driver(bayAt(1)) != "nvme" || h.Override(bayAt(1)) != "" || len(h.entries()) != 0 {
					t.Errorf("killed with %s; then driver %q override %q ledger %v", before, h.Driver(bayAt(1)), h.Override(bayAt(1)), h.entries())
				}
				if line := h.log.last("pci_address=" + bayAt(1).String()); !strings.Contains(line, "outcome=failed") {
					t.Errorf("killed with %s; %s", before, line)
				}
				h.end()
			})
		})
		if !reached.Load() || n > 200 {
			return
		}
	}
}

// Nvme does not take it back.
func TestARollbackThatFailsLeavesNoOverride(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 1, sysfstest.Options{}, everyNVMe)
		h.Plug(bayAt(1), sysfstest.Drive{})
		h.FailProbe("vfio-pci", bayAt(1), syscall.EIO)
		h.FailProbe("nvme", bayAt(1), syscall.EIO)
		h.start()
		time.Sleep(time.Minute)
		if o := h.Override(bayAt(1)); o != "" {
			t.Errorf("override %q left", o)
		}
		h.FailProbe("vfio-pci", bayAt(1), nil)
		h.write(everyNVMe)
		time.Sleep(time.Minute)
		if h.Driver(bayAt(1)) != "vfio-pci" {
			t.Errorf("driver %q", h.Driver(bayAt(1)))
		}
		h.end()
	})
}

func TestStatusOfANewcomerIsNotThatOfTheOldDrive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 1, sysfstest.Options{}, everyNVMe)
		h.start()
		h.uses.mount(1, "/srv")
		h.plugLate(1)
		time.Sleep(time.Second)
		h.uses.unmount(1)
		h.Unplug(bayAt(1))
		h.uses.settle(1, false)
		h.plugLate(1)
		time.Sleep(time.Second)
		for _, d := range h.status() {
			if strings.Contains(d.Reason, "/srv") {
				t.Errorf("status of the new drive: %+v", d)
			}
		}
		h.end()
	})
}

func TestACommandWhoseClientLeftIsNotBegunLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 1, sysfstest.Options{}, everyNVMe)
		h.start()
		h.plug(1)
		time.Sleep(time.Second)
		free := make(chan struct{})
		h.Fault(func(op sysfstest.Op) error {
			if op.Kind == sysfstest.OpWrite && op.Path == "bus/pci/drivers/vfio-pci/unbind" {
				<-free
			}
			return nil
		})
		in, _ := json.Marshal(control.ReleaseRequest{Address: bayAt(1).String()})
		for _, m := range []string{control.MethodRelease, control.MethodBind, control.MethodRelease} {
			client, leave := context.WithTimeout(t.Context(), time.Minute)
			if _, err := h.daemon.Handlers(h.running)[m].Handle(client, control.NewCall(m, in)); err == nil || !strings.Contains(err.Error(), "stuck") {
				t.Errorf("%s: %v, want the step that is stuck", m, err)
			}
			leave()
		}
		time.Sleep(time.Hour)
		h.Fault(nil)
		close(free)
		time.Sleep(time.Minute)
		if n := len(h.log.lines("outcome=released")); n != 1 {
			t.Errorf("%d releases were done, and %d binds", n, len(h.log.lines("outcome=taken")))
		}
		h.end()
	})
}

// Killed at any step of a release.
func TestKilledDuringARelease(t *testing.T) {
	for n := 1; ; n++ {
		var reached atomic.Bool
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := build(t, 1, sysfstest.Options{}, everyNVMe)
				h.Plug(bayAt(1), sysfstest.Drive{})
				h.start()
				time.Sleep(time.Second)
				first := h.Operations()
				killed := make(chan struct{})
				h.Fault(func(op sysfstest.Op) error {
					if op.N < first+n {
						return nil
					}
					reached.Store(true)
					<-killed
					return syscall.EIO
				})
				go func() {
					in, _ := json.Marshal(control.ReleaseRequest{Address: bayAt(1).String()})
					h.daemon.Handlers(h.running)[control.MethodRelease].Handle(h.running, control.NewCall("", in))
				}()
				time.Sleep(time.Minute)
				h.stop()
				close(killed)
				<-h.ended
				before := fmt.Sprintf("driver %q override %q", h.Driver(bayAt(1)), h.Override(bayAt(1)))
				h.Fault(nil)
				e := h.entries()
				h.start()
				time.Sleep(time.Minute)
				d, o := h.Driver(bayAt(1)), h.Override(bayAt(1))
				switch {
				case d == "nvme" && o == "" && len(h.entries()) == 0:
				case d == "vfio-pci" && o == "vfio-pci" && len(h.entries()) == 1:
				default:
					t.Errorf("killed with %s ledger %v; then driver %q override %q ledger %v\n%s", before, e, d, o, h.entries(), h.log.last("pci_address="+bayAt(1).String()))
				}
				h.end()
			})
		})
		if !reached.Load() || n > 200 {
			return
		}
	}
}

// A late add event of a drive that a hand released.
func TestALateAddDoesNotOverruleAHand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 1, sysfstest.Options{}, everyNVMe)
		h.start()
		h.events.hold()
		h.Plug(bayAt(1), sysfstest.Drive{})
		h.command(control.MethodBind, 1)
		h.command(control.MethodRelease, 1)
		h.events.release()
		time.Sleep(time.Minute)
		if h.Driver(bayAt(1)) != "nvme" {
			t.Errorf("released by hand, and on %q", h.Driver(bayAt(1)))
		}
		h.end()
	})
}

// Status of a device that somebody else took.
func TestStatusAfterSomebodyElseTookIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 1, sysfstest.Options{Drivers: []string{"pcieport", "nvme", "vfio-pci", "pci-stub"}}, everyNVMe)
		h.start()
		h.plug(1)
		time.Sleep(time.Second)
		h.driverctl(1, "pci-stub")
		time.Sleep(time.Minute)
		for _, d := range h.status() {
			if d.Outcome == "direct" && d.Driver == "pci-stub" {
				t.Errorf("status: %+v", d)
			}
		}
		h.end()
	})
}

// A PF with VFs.
func TestAPFWithVFsIsNotDisturbed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 1, sysfstest.Options{}, "")
		h.Plug(bayAt(1), sysfstest.Drive{TotalVFs: 2})
		if err := h.Root().Write("bus/pci/devices/0000:01:00.0/sriov_numvfs", "2"); err != nil {
			t.Fatal(err)
		}
		h.start()
		h.write("[[rule]]\nname = \"x\"\nmatch = { address = \"0000:01:00.0\" }\n")
		time.Sleep(time.Minute)
		if w := h.written(bayAt(1)); len(w) > 1 {
			t.Errorf("wrote %v; touched %v; present %v", w, h.Touched(bayAt(1)), h.Present())
		}
		h.end()
	})
}

// The ledger after a kill.
func TestTheLedgerAfterAKill(t *testing.T) {
	for n := 1; ; n++ {
		var reached atomic.Bool
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := build(t, 1, sysfstest.Options{}, everyNVMe)
				h.start()
				first := h.Operations()
				killed := make(chan struct{})
				h.Fault(func(op sysfstest.Op) error {
					if op.N < first+n {
						return nil
					}
					reached.Store(true)
					<-killed
					return syscall.EIO
				})
				h.plug(1)
				time.Sleep(time.Minute)
				h.stop()
				close(killed)
				<-h.ended
				h.Fault(nil)
				h.start()
				time.Sleep(time.Minute)
				e := h.entries()
				if h.Driver(bayAt(1)) != "vfio-pci" || len(e) != 1 || e[0].Stage != ledger.Taken {
					t.Errorf("driver %q override %q ledger %+v", h.Driver(bayAt(1)), h.Override(bayAt(1)), e)
				}
				touched := h.Touched(bayAt(1))
				// Stopped between the bind and its event, a daemon does not know.
				unheard := len(h.log.lines("its bind was not heard of")) > 0
				if len(e) == 1 && (e[0].Outcome == "direct") != (len(touched) == 1) && !unheard {
					t.Errorf("outcome %s, touched by %v", e[0].Outcome, touched)
				}
				h.end()
			})
		})
		if !reached.Load() || n > 200 {
			return
		}
	}
}

// A stop between the bind and the word of it: what is bound stays bound, whatever
// is let go with the guard, and nothing is said of it that is not known.
func TestAStopBeforeTheBindIsHeardOf(t *testing.T) {
	for _, g := range guards {
		if g.read {
			continue
		}
		t.Run(g.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := guarded(t, g.options, g.policy)
				h.start()
				time.Sleep(time.Second)
				h.BeginAdd(bayAt(1), sysfstest.Drive{})
				synctest.Wait()
				h.events.hold()
				h.FinishAdd(bayAt(1))
				time.Sleep(time.Second)
				h.end()
				if got := h.Driver(bayAt(1)); got != "vfio-pci" {
					t.Fatalf("stopped, it is on %q", got)
				}
				h.disarm()
				if got := h.Driver(bayAt(1)); got != "vfio-pci" {
					t.Errorf("disarmed, it is on %q", got)
				}
				if e := h.entries(); len(e) != 1 || e[0].Stage != ledger.Taken || e[0].Outcome != string(operate.Taken) {
					t.Errorf("the ledger says %+v", e)
				}
			})
		})
	}
}

// Ledger entries of drives that went while no daemon ran.
func TestEntriesOfDrivesThatWentWhileNoDaemonRan(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 1, sysfstest.Options{}, everyNVMe)
		h.start()
		h.plug(1)
		time.Sleep(time.Second)
		h.end()
		h.Unplug(bayAt(1))
		h.start()
		time.Sleep(time.Minute)
		h.write(everyNVMe)
		time.Sleep(time.Minute)
		if e := h.entries(); len(e) != 0 {
			t.Errorf("ledger: %+v", e)
		}
		h.end()
	})
}

// Ctrl-C of a bind without a daemon.
func TestAnInterruptedCommandSaysWhatIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 1, sysfstest.Options{}, "")
		h.Plug(bayAt(1), sysfstest.Drive{})
		h.start()
		h.end()
		free := make(chan struct{})
		h.Fault(func(op sysfstest.Op) error {
			if op.Kind == sysfstest.OpWrite && op.Path == "bus/pci/drivers/nvme/unbind" {
				<-free
			}
			return nil
		})
		dev, _ := h.FS().Open(bayAt(1))
		defer dev.Close()
		p, _ := h.parse()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		r := h.operator.Take(ctx, operate.Request{Device: dev, Policy: func() *policy.Policy { return p }, Arrival: operate.ByHand})
		close(free)
		time.Sleep(time.Minute)
		if r.Remedy == "" {
			t.Error("no next step, and the drive is left between")
		}
		h.Fault(nil)
		h.start() // a daemon whose policy does not name the drive
		time.Sleep(time.Minute)
		if h.Driver(bayAt(1)) == "" {
			t.Error("the drive is left with no driver")
		}
		h.end()
	})
}

// What explain says and what take does.
func TestExplainAndTakeAgree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 0, sysfstest.Options{Drivers: []string{"pcieport", "nvme", "vfio-pci", "e1000e", "pci-stub"}}, everyNVMe)
		for bay := 1; bay <= 2; bay++ {
			h.AddBay(sysfstest.Bay{Address: bayAt(bay), Above: []pci.Address{{Device: 1}}, Group: 40})
		}
		h.AddBay(sysfstest.Bay{Address: bayAt(3), Above: []pci.Address{{Device: 3}}})
		h.start()
		h.plug(1)
		h.plug(3)
		time.Sleep(10 * time.Second)
		h.Plug(bayAt(2), sysfstest.Drive{IDs: sysfstest.NIC()})
		h.driverctl(3, "")
		for _, bay := range []int{1, 3} {
			dev, _ := h.FS().Open(bayAt(bay))
			p, _ := h.parse()
			j, err := h.operator.Explain(t.Context(), operate.Request{Device: dev, Policy: func() *policy.Policy { return p }})
			if err != nil {
				t.Fatal(err)
			}
			r := h.operator.Take(t.Context(), operate.Request{Device: dev, Policy: func() *policy.Policy { return p }})
			dev.Close()
			if j.Outcome != r.Outcome {
				t.Errorf("bay %d: explain says %s (%s), take %s (%s)", bay, j.Outcome, j.Reason, r.Outcome, r.Reason)
			}
		}
		h.end()
	})
}

// While somebody is at work on a device, explain waits a moment for what comes of
// it, or else says all that it can, and who it is.
func TestExplainWhileSomebodyIsAtWork(t *testing.T) {
	for name, c := range map[string]struct {
		unbound, bound time.Duration // when the one at work takes the driver, and brings another
		want           operate.Outcome
		next           string
	}{
		"ends soon":                   {unbound: time.Second, bound: time.Second, want: operate.Taken, next: "vfio-hotplug bind "},
		"without a driver, ends soon": {bound: time.Second, want: operate.Taken, next: "vfio-hotplug bind "},
		"takes a while":               {unbound: time.Minute, bound: time.Minute, want: operate.Already, next: "vfio-hotplug explain "},
		"without a driver, a while":   {bound: time.Minute, want: operate.Direct, next: "vfio-hotplug explain "},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := build(t, 1, sysfstest.Options{}, everyNVMe)
				h.start()
				h.plug(1)
				time.Sleep(time.Minute)
				h.end()
				j, err := h.explainBeside(t.Context(), func() {
					time.Sleep(c.unbound)
					h.toNobody(1)
					time.Sleep(c.bound - c.unbound)
					h.toNVMe(1)
				})
				if err != nil || j.Outcome != c.want {
					t.Errorf("%+v, error %v; want %s", j, err, c.want)
				}
				locked := slices.ContainsFunc(j.Checks, func(c operate.Check) bool {
					return c.Unread && strings.Contains(c.Text, "locked by process")
				})
				if locked != (c.bound > time.Second) || j.Next != c.next+bayAt(1).String() {
					t.Errorf("checks %+v, next %q, want %q", j.Checks, j.Next, c.next)
				}
				time.Sleep(c.bound)
			})
		})
	}
}

// A person who does not want to wait gets no answer that nobody has found.
func TestExplainIsBrokenOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 1, sysfstest.Options{}, everyNVMe)
		h.start()
		h.plug(1)
		time.Sleep(time.Minute)
		h.end()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		j, err := h.explainBeside(ctx, func() { time.Sleep(time.Minute) })
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%+v, error %v; want that of the context", j, err)
		}
		time.Sleep(time.Minute)
	})
}

// explainBeside explains bay 1 while somebody works on it. It must take less
// than five seconds.
func (h *house) explainBeside(ctx context.Context, work func()) (operate.Judgement, error) {
	h.t.Helper()
	dev, err := h.FS().Open(bayAt(1))
	if err != nil {
		h.t.Fatal(err)
	}
	defer dev.Close()
	lock, err := h.operator.Ledger.Lock(bayAt(1))
	if err != nil {
		h.t.Fatal(err)
	}
	go func() {
		work()
		_ = lock.Unlock()
	}()
	synctest.Wait()
	p, err := h.parse()
	if err != nil {
		h.t.Fatal(err)
	}
	began := time.Now()
	j, err := h.operator.Explain(ctx, operate.Request{Device: dev, Policy: func() *policy.Policy { return p }})
	if took := time.Since(began); took > 5*time.Second {
		h.t.Errorf("it took %v", took)
	}
	return j, err
}

// toNobody takes a drive from vfio-pci, and the ledger forgets it.
func (h *house) toNobody(bay int) {
	h.hand("bus/pci/devices/"+bayAt(bay).String()+"/driver_override", "\n")
	h.hand("bus/pci/drivers/vfio-pci/unbind", bayAt(bay).String())
	if err := h.operator.Ledger.Delete(bayAt(bay)); err != nil {
		h.t.Error(err)
	}
}

// toNVMe offers a drive to nvme.
func (h *house) toNVMe(bay int) { h.hand("bus/pci/drivers_probe", bayAt(bay).String()) }

func (h *house) hand(attribute, value string) {
	if err := h.Root().Write(attribute, value); err != nil {
		h.t.Error(err)
	}
}

// What no rule names any more can be given back.
func TestExplainOfWhatThePolicyNoLongerNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 1, sysfstest.Options{}, everyNVMe)
		h.start()
		h.plug(1)
		time.Sleep(time.Second)
		dev, err := h.FS().Open(bayAt(1))
		if err != nil {
			t.Fatal(err)
		}
		defer dev.Close()
		j, err := h.operator.Explain(t.Context(), operate.Request{Device: dev, Policy: func() *policy.Policy { return nil }})
		if want := "vfio-hotplug release " + bayAt(1).String(); err != nil || j.Next != want {
			t.Errorf("next is %q, error %v; want %q", j.Next, err, want)
		}
		h.end()
	})
}

// The bind event is not heard, nvme had it.
func TestDirectIsKnownAndNotHoped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 1, sysfstest.Options{}, everyNVMe)
		h.start()
		goOn := make(chan struct{})
		var once atomic.Bool
		h.Fault(func(op sysfstest.Op) error {
			if op.Kind == sysfstest.OpRead && strings.HasSuffix(op.Path, "modalias") && once.CompareAndSwap(false, true) {
				<-goOn
			}
			return nil
		})
		h.BeginAdd(bayAt(1), sysfstest.Drive{})
		synctest.Wait()
		h.events.hold()
		h.FinishAdd(bayAt(1)) // nvme has it
		if err := h.Root().Write("bus/pci/drivers/nvme/unbind", "0000:01:00.0"); err != nil {
			t.Fatal(err)
		}
		close(goOn)
		time.Sleep(time.Minute)
		h.events.release()
		time.Sleep(time.Minute)
		if touched := h.Touched(bayAt(1)); len(h.log.lines("outcome=direct")) > 0 {
			t.Errorf("told direct, touched by %v", touched)
		}
		h.end()
	})
}

func TestADriverNameByHandIsChecked(t *testing.T) {
	for _, driver := range []string{"..", ".", "vfio-pci/", "../drivers/vfio-pci", "a\nb", " "} {
		synctest.Test(t, func(t *testing.T) {
			h := build(t, 1, sysfstest.Options{}, "")
			h.Plug(bayAt(1), sysfstest.Drive{})
			h.start()
			in, err := json.Marshal(control.BindRequest{Address: bayAt(1).String(), Driver: driver})
			if err != nil {
				t.Fatal(err)
			}
			_, err = h.daemon.Handlers(h.running)[control.MethodBind].Handle(t.Context(), control.NewCall(control.MethodBind, in))
			if err == nil || !strings.Contains(err.Error(), "not the name of a driver") {
				t.Errorf("%q: %v", driver, err)
			}
			if w := h.written(bayAt(1)); len(w) > 0 {
				t.Errorf("%q: wrote %q", driver, w)
			}
			h.end()
		})
	}
}
