package daemon_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"vfio-hotplug/internal/control"
	"vfio-hotplug/internal/ledger"
	"vfio-hotplug/internal/operate"
	"vfio-hotplug/internal/sysfstest"
	"vfio-hotplug/policy"
)

// opened is a program, this one, that holds the device in a bay through vfio.
type opened struct {
	*sysfstest.Holder
	node *os.File
}

// letGo has it close the device.
func (o opened) letGo() {
	o.node.Close()
	o.Release()
	synctest.Wait()
}

// openVFIO has this process open a device, and its group's node.
func (h *house) openVFIO(bay int) opened {
	h.t.Helper()
	group, err := h.Root().Readlink("bus/pci/devices/" + bayAt(bay).String() + "/iommu_group")
	if err != nil {
		h.t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(h.run, "vfio"), 0o755); err != nil {
		h.t.Fatal(err)
	}
	node, err := os.Create(filepath.Join(h.run, "vfio", filepath.Base(group)))
	if err != nil {
		h.t.Fatal(err)
	}
	holder, err := h.Hold(bayAt(bay))
	if err != nil {
		h.t.Fatal(err)
	}
	return opened{holder, node}
}

// us is how this process is named.
func us() string { return fmt.Sprintf("(process %d)", os.Getpid()) }

// heldReleases are kernels that differ in when they tell that a held device is
// leaving, and in whether driver_override waits for it.
var heldReleases = []sysfstest.Release{sysfstest.Linux61, sysfstest.Linux612, sysfstest.Linux617, sysfstest.Linux73}

// TestAHeldDeviceThatIsUnplugged: the daemon says who holds up the unplug, and
// when it is over; no command about the device waits, nor does a stop or a
// start. A drive that was plugged meanwhile comes up at last.
func TestAHeldDeviceThatIsUnplugged(t *testing.T) {
	for _, release := range heldReleases {
		t.Run(release.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := build(t, 3, sysfstest.Options{Release: release}, everyNVMe)
				h.start()
				h.plug(1)
				h.plug(2)
				time.Sleep(time.Second)
				holder := h.openVFIO(1)
				if d := h.command(control.MethodRelease, 1); d.Outcome != "refused" || !strings.Contains(d.Reason, us()) {
					t.Errorf("release of a held drive: %+v", d)
				}
				go h.Unplug(bayAt(1))
				time.Sleep(20 * time.Second)
				if lines := h.log.told(".0 is held up: "); len(lines) != 1 || !strings.Contains(lines[0], us()) {
					t.Errorf("the log says %q, want one line with %s", lines, us())
				}
				h.wantHeld("the running daemon")
				began := time.Now()
				if err := h.operator.Settle(t.Context(), nil); err != nil || time.Since(began) > time.Second {
					t.Errorf("taking back the guard: %v after %v", err, time.Since(began))
				}
				if took := h.end(); took >= time.Second {
					t.Errorf("a stop took %v", took)
				}
				h.start()
				h.wantHeld("the next daemon")
				if d := h.command(control.MethodRelease, 2); d.Outcome != "released" {
					t.Errorf("release of the other drive: %+v", d)
				}
				go h.Plug(bayAt(3), sysfstest.Drive{})
				time.Sleep(time.Minute)
				holder.letGo()
				time.Sleep(10 * time.Second)
				if h.log.last("is held up no longer") == "" {
					t.Error("nothing tells that it is over")
				}
				if line := h.log.last("pci_address=" + bayAt(1).String()); !strings.Contains(line, "outcome=gone") {
					t.Errorf("the last word on it is %q", line)
				}
				if driver := h.Driver(bayAt(3)); driver != "vfio-pci" {
					t.Errorf("the drive that waited is on %q", driver)
				}
				h.end()
			})
		})
	}
}

// wantHeld checks that every command about bay 1 answers, and names this
// process.
func (h *house) wantHeld(when string) {
	h.t.Helper()
	for _, d := range append(h.status(), h.command(control.MethodRelease, 1), h.command(control.MethodBind, 1)) {
		if d.Address == bayAt(1).String() && (d.Outcome != "stuck" || !strings.Contains(d.Reason, us())) {
			h.t.Errorf("%s: %+v, want stuck, and %s in it", when, d, us())
		}
	}
	dev, err := h.FS().Open(bayAt(1))
	if err != nil {
		h.t.Fatal(err)
	}
	defer dev.Close()
	p, err := h.parse()
	if err != nil {
		h.t.Fatal(err)
	}
	j, err := h.operator.Explain(h.t.Context(), operate.Request{Device: dev, Policy: func() *policy.Policy { return p }})
	if err != nil || j.Outcome != operate.Stuck || !strings.Contains(j.Reason, us()) {
		h.t.Errorf("%s: explain: %s, %s, %v", when, j.Outcome, j.Reason, err)
	}
}

// TestAHeldDeviceThatAStrangerUnbinds: that is told, and not fought when the
// program lets go.
func TestAHeldDeviceThatAStrangerUnbinds(t *testing.T) {
	for _, release := range heldReleases {
		t.Run(release.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := build(t, 1, sysfstest.Options{Release: release}, everyNVMe)
				h.start()
				h.plug(1)
				time.Sleep(time.Second)
				holder := h.openVFIO(1)
				go h.Root().Write("bus/pci/drivers/vfio-pci/unbind", bayAt(1).String())
				time.Sleep(20 * time.Second)
				h.wantHeld("after the unbind")
				before := len(h.written(bayAt(1)))
				holder.letGo()
				time.Sleep(time.Minute)
				h.want(1, "", operate.Left)
				if all := h.written(bayAt(1)); len(all) != before {
					t.Errorf("it was fought: %v", all[before:])
				}
				h.end()
			})
		})
	}
}

// releaseOpened asks for the release of the device in bay 1, which a program opens
// right before the unbind.
func (h *house) releaseOpened() *opened {
	h.t.Helper()
	var holder opened
	var once atomic.Bool
	h.Fault(func(op sysfstest.Op) error {
		if op.Kind == sysfstest.OpWrite && op.Path == "bus/pci/drivers/vfio-pci/unbind" && once.CompareAndSwap(false, true) {
			holder = h.openVFIO(1)
		}
		return nil
	})
	go h.daemon.Handlers(h.running)[control.MethodRelease].Handle(h.t.Context(),
		control.NewCall(control.MethodRelease, []byte(`{"address":"`+bayAt(1).String()+`"}`)))
	return &holder
}

// TestAHolderThatComesBetween: a program opens the device between the check and
// the unbind. The journal names it; when it lets go, the release goes on to its
// end, also for the next daemon.
func TestAHolderThatComesBetween(t *testing.T) {
	for _, restarted := range []bool{false, true} {
		t.Run(fmt.Sprintf("restarted %v", restarted), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := build(t, 1, sysfstest.Options{}, everyNVMe)
				h.Plug(bayAt(1), sysfstest.Drive{})
				h.start()
				time.Sleep(time.Second)
				holder := h.releaseOpened()
				time.Sleep(12 * time.Second)
				h.Fault(nil)
				if line := h.log.last("outcome=stuck"); !strings.Contains(line, "unbind from vfio-pci") || !strings.Contains(line, us()) {
					t.Errorf("%q does not name the step and the holder", line)
				}
				if restarted {
					if took := h.end(); took >= time.Second {
						t.Errorf("a stop took %v", took)
					}
					h.start()
					h.wantHeld("the next daemon")
				}
				holder.letGo()
				time.Sleep(5 * time.Second)
				h.want(1, "nvme", operate.Released)
				h.end()
			})
		})
	}
}

// TestWhatAnotherToolBindsBackIsToldOnce: and not fought, whatever comes.
func TestWhatAnotherToolBindsBackIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 1, sysfstest.Options{}, everyNVMe)
		h.start()
		h.plug(1)
		time.Sleep(time.Second)
		for range 3 {
			for _, driver := range []string{"nvme", "vfio-pci", "nvme"} {
				h.driverctl(1, driver)
			}
		}
		h.want(1, "nvme", operate.Left)
		lines := h.log.told("somebody else has since given it to nvme")
		if len(lines) != 1 || !strings.Contains(lines[0], "level=INFO") {
			t.Errorf("the log says %q, want one line", lines)
		}
		h.end()
	})
}

// driverctl gives the device in a bay to a driver, as the tool of that name does.
func (h *house) driverctl(bay int, driver string) {
	h.t.Helper()
	for _, w := range [][2]string{
		{"bus/pci/devices/" + bayAt(bay).String() + "/driver_override", driver + "\n"},
		{"bus/pci/drivers/" + h.Driver(bayAt(bay)) + "/unbind", bayAt(bay).String()},
		{"bus/pci/drivers_probe", bayAt(bay).String()},
	} {
		if err := h.Root().Write(w[0], w[1]); err != nil {
			h.t.Fatal(err)
		}
	}
	time.Sleep(5 * time.Second)
}

// TestADriveOnWhichNVMeHangs: nothing is begun with a drive of which somebody
// else's unbind does not come to its end, and the daemon ends and starts.
func TestADriveOnWhichNVMeHangs(t *testing.T) {
	for _, release := range heldReleases {
		t.Run(release.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := build(t, 1, sysfstest.Options{Release: release}, everyNVMe)
				h.Plug(bayAt(1), sysfstest.Drive{})
				hangs := h.Pause(sysfstest.Releasing, "nvme", bayAt(1))
				go h.Root().Write("bus/pci/drivers/nvme/unbind", bayAt(1).String())
				<-hangs.Reached()
				h.start()
				time.Sleep(2 * time.Second)
				if line := h.log.last("is held up: "); !strings.Contains(line, "from nvme") {
					t.Errorf("the log says %q", line)
				}
				if took := h.end(); took >= time.Second {
					t.Errorf("a stop took %v", took)
				}
				h.start()
				time.Sleep(2 * time.Second)
				hangs.End()
				time.Sleep(5 * time.Second)
				h.want(1, "vfio-pci", operate.Taken)
				h.end()
			})
		})
	}
}

// TestAHoldThatEndsAsItIsSeen: the kernel's last word on it comes when the look
// that saw it held has not ended yet.
func TestAHoldThatEndsAsItIsSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 1, sysfstest.Options{}, everyNVMe)
		h.Plug(bayAt(1), sysfstest.Drive{})
		hangs := h.Pause(sysfstest.Releasing, "nvme", bayAt(1))
		go h.Root().Write("bus/pci/drivers/nvme/unbind", bayAt(1).String())
		<-hangs.Reached()
		began := time.Now()
		var once atomic.Bool
		h.After(func(op sysfstest.Op, _ error) {
			if op.Kind == sysfstest.OpList && strings.HasSuffix(op.Path, "nvme") && time.Since(began) >= time.Second && once.CompareAndSwap(false, true) {
				hangs.End()
				time.Sleep(time.Millisecond)
			}
		})
		h.start()
		time.Sleep(10 * time.Second)
		if !once.Load() {
			t.Error("it did not end as it was seen")
		}
		h.want(1, "vfio-pci", operate.Taken)
		h.end()
	})
}

// TestAHeldDeviceThatAnotherToolBoundBack: who gave the device to vfio does not
// matter to whoever waits for it.
func TestAHeldDeviceThatAnotherToolBoundBack(t *testing.T) {
	for _, release := range heldReleases {
		t.Run(release.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := build(t, 1, sysfstest.Options{Release: release}, everyNVMe)
				h.start()
				h.plug(1)
				time.Sleep(time.Second)
				h.driverctl(1, "nvme")
				h.want(1, "nvme", operate.Left)
				h.driverctl(1, "vfio-pci")
				holder := h.openVFIO(1)
				go h.Unplug(bayAt(1))
				time.Sleep(20 * time.Second)
				if lines := h.log.told(".0 is held up: "); len(lines) != 1 || !strings.Contains(lines[0], us()) {
					t.Errorf("the log says %q, want one line with %s", lines, us())
				}
				holder.letGo()
				time.Sleep(time.Second)
				if h.log.last("is held up no longer") == "" {
					t.Error("nothing tells that it is over")
				}
				h.end()
			})
		})
	}
}

// TestAnEmptyBayIsNotLookedAt by the clock, whatever was in it.
func TestAnEmptyBayIsNotLookedAt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 1, sysfstest.Options{Release: sysfstest.Linux61}, everyNVMe)
		h.start()
		h.plug(1)
		time.Sleep(time.Minute)
		h.Unplug(bayAt(1))
		synctest.Wait()
		before := h.Operations()
		time.Sleep(time.Hour)
		if looks := h.Operations() - before; looks > 0 {
			t.Errorf("%d operations in an hour", looks)
		}
		h.end()
	})
}

// TestOneOfAGroupIsHeld: whoever waits is told of the one that is held, and not
// of the other.
func TestOneOfAGroupIsHeld(t *testing.T) {
	for _, release := range heldReleases {
		t.Run(release.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := lumped(t, sysfstest.Options{Release: release}, together)
				h.fill()
				h.start()
				time.Sleep(time.Second)
				h.wantBoth("at the start", "vfio-pci")
				holder := h.openVFIO(1)
				go h.Root().Write("bus/pci/drivers/vfio-pci/unbind", bayAt(1).String())
				time.Sleep(20 * time.Second)
				h.wantHeld("with a sibling on vfio")
				if lines := h.log.lines("somebody else"); len(lines) > 0 {
					t.Errorf("the log says %q, and the kernel waits", lines)
				}
				if err := h.Root().Write("bus/pci/drivers/vfio-pci/unbind", bayAt(2).String()); err != nil {
					t.Fatal(err)
				}
				time.Sleep(5 * time.Second)
				h.wantHeld("with a sibling without a driver")
				if d := h.command(control.MethodBind, 2); d.Driver != "vfio-pci" {
					t.Errorf("bind of the sibling: %+v", d)
				}
				holder.letGo()
				time.Sleep(time.Minute)
				h.want(1, "", operate.Left)
				h.end()
			})
		})
	}
}

// TestWhatWasCutShortAndIsOpenStays: a daemon was killed between a bind and its
// note of it, or while it let through what the guard had caught; a program has
// opened the drive since. To put it back would be to take it from that program.
func TestWhatWasCutShortAndIsOpenStays(t *testing.T) {
	for _, stage := range []ledger.Stage{ledger.Taking, ledger.Letting} {
		t.Run(string(stage), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := build(t, 1, sysfstest.Options{}, everyNVMe)
				h.start()
				h.plug(1)
				h.want(1, "vfio-pci", operate.Direct)
				h.end()
				entry := h.entries()[0]
				entry.Stage, entry.Outcome = stage, ""
				if err := h.operator.Ledger.Put(entry); err != nil {
					t.Fatal(err)
				}
				if err := h.Root().Write("bus/pci/devices/"+bayAt(1).String()+"/driver_override", "nvme\n"); err != nil { // the first step back
					t.Fatal(err)
				}
				holder := h.openVFIO(1)
				h.policy = `[guard]`
				before := len(h.written(bayAt(1)))
				h.start()
				time.Sleep(time.Minute)
				h.want(1, "vfio-pci", operate.Left)
				for _, w := range h.written(bayAt(1))[before:] {
					if !strings.HasSuffix(w, "/driver_override=vfio-pci") {
						t.Errorf("wrote %v", w)
					}
				}
				if o := h.Override(bayAt(1)); o != "vfio-pci" {
					t.Errorf("its override is %q", o)
				}
				if e := h.entries(); len(e) != 1 || e[0].Stage != ledger.Taken || e[0].Outcome != string(operate.Taken) {
					t.Errorf("the ledger says %+v", e)
				}
				if said := h.log.last(us()); stage == ledger.Taking && !strings.Contains(said, "level=INFO") {
					t.Errorf("of who has it is said %q", said)
				}
				holder.letGo()
				if err := os.Remove(holder.node.Name()); err != nil { // not every process here may be looked into
					t.Fatal(err)
				}
				h.releases("let go of", 1)
				h.end()
			})
		})
	}
}
