package daemon_test

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"vfio-hotplug/internal/control"
	"vfio-hotplug/internal/inuse"
	"vfio-hotplug/internal/operate"
	"vfio-hotplug/internal/pci"
	"vfio-hotplug/internal/sysfs"
	"vfio-hotplug/internal/sysfstest"
)

// watcher is told by the test that users have gone.
type watcher struct {
	mu      sync.Mutex
	watched map[pci.Address]inuse.Report
	signs   chan []pci.Address
	news    bool // what Watch says of what it did not watch before
	fault   error
}

func newWatcher() *watcher {
	return &watcher{watched: map[pci.Address]inuse.Report{}, signs: make(chan []pci.Address)}
}

func (w *watcher) Watch(a pci.Address, r inuse.Report) (bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, known := w.watched[a]
	w.watched[a] = r
	return w.news && !known, w.fault
}

func (w *watcher) Forget(a pci.Address) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.watched, a)
}

func (w *watcher) Wait() ([]pci.Address, error) {
	devices, open := <-w.signs
	if !open {
		return nil, os.ErrClosed
	}
	return devices, nil
}

func (w *watcher) Close() error {
	close(w.signs)
	return nil
}

// watches reports whether a bay is watched.
func (w *watcher) watches(bay int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, ok := w.watched[bayAt(bay)]
	return ok
}

// sign tells of a bay, and waits until what comes of that at once is done.
func (w *watcher) sign(bay int) {
	w.signs <- []pci.Address{bayAt(bay)}
	synctest.Wait()
}

// inUse makes a machine with drives on nvme, of which that in bay 1 is mounted,
// and starts the daemon.
func inUse(t *testing.T, bays int, policy string, o sysfstest.Options) *house {
	t.Helper()
	h := build(t, bays, o, policy)
	for bay := 1; bay <= bays; bay++ {
		h.Plug(bayAt(bay), sysfstest.Drive{})
	}
	h.uses.mount(1, "/srv")
	h.watcher = newWatcher()
	h.start()
	time.Sleep(time.Second)
	h.want(1, "nvme", operate.Refused)
	return h
}

// A device of which not all uses can be seen says so when it is taken.
func TestWhatWasNotLookedAtIsToldOfADeviceThatIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 1, sysfstest.Options{}, everyNVMe)
		h.Plug(bayAt(1), sysfstest.Drive{})
		h.uses.unchecked = []string{"who uses it in the kernel"}
		h.start()
		h.want(1, "vfio-pci", operate.Taken)
		if line := h.log.last("outcome=taken"); !strings.Contains(line, "not checked: who uses it in the kernel") {
			t.Errorf("%q does not say what was not looked at", line)
		}
		h.end()
	})
}

func TestADriveIsTakenWhenItsLastUserGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := inUse(t, 1, everyNVMe, sysfstest.Options{})
		h.uses.unmount(1)
		h.watcher.sign(1)
		time.Sleep(time.Second)
		h.want(1, "vfio-pci", operate.Taken)
		if line := h.log.last("outcome=taken"); !strings.Contains(line, "refused before: in use: nvme0n1 → /srv") {
			t.Errorf("%q does not say why it is taken now", line)
		}
		if h.watcher.watches(1) {
			t.Error("a drive that was taken is still watched")
		}
		h.end()
	})
}

// While a drive is still in use for the same reason, signs lead to no look and to
// no word. What it was refused for is looked up no more often than every five
// seconds, whatever happens.
func TestAStormOfSignsIsNoStormOfLooks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := inUse(t, 1, everyNVMe, sysfstest.Options{})
		told, begun := len(h.log.lines("refused to take")), h.uses.count(1)
		for range 600 {
			h.watcher.sign(1)
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(10 * time.Second)
		if looks := h.uses.count(1).minus(begun); looks.still < 12 || looks.still > 14 || looks.passive+looks.full > 0 {
			t.Errorf("in a minute it was looked up %d times, and there were %d passive and %d full looks; want 13 and none", looks.still, looks.passive, looks.full)
		}
		for _, line := range h.log.lines("refused to take")[told:] {
			if !strings.Contains(line, "level=DEBUG") {
				t.Errorf("told again: %s", line)
			}
		}
		quiet := h.uses.count(1)
		time.Sleep(time.Hour)
		if looks := h.uses.count(1).minus(quiet); looks != (looked{}) {
			t.Errorf("without a sign: %+v", looks)
		}
		h.end()
	})
}

// A pool that is exported unmounts first, and lets go of its drives some seconds
// after that: nothing tells of it.
func TestAClaimThatLastedLongEndsAfterASign(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := inUse(t, 1, everyNVMe, sysfstest.Options{})
		h.uses.claim(1, true)
		h.uses.unmount(1)
		h.watcher.sign(1)
		time.Sleep(time.Hour)
		h.want(1, "nvme", operate.Refused)
		h.watcher.sign(1)
		time.Sleep(3 * time.Second)
		h.uses.claim(1, false)
		time.Sleep(10 * time.Second)
		h.want(1, "vfio-pci", operate.Taken)
		h.end()
	})
}

// TestAStormOfSignsOfAClaim: each sign alone has no more looks made by the clock.
func TestAStormOfSignsOfAClaim(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := inUse(t, 1, everyNVMe, sysfstest.Options{})
		h.uses.claim(1, true)
		h.uses.unmount(1)
		begun := h.uses.count(1)
		for range 6000 {
			h.watcher.sign(1)
			time.Sleep(100 * time.Millisecond)
		}
		if looks := h.uses.count(1).minus(begun); looks.still > 120 || looks.full > 1 {
			t.Errorf("in ten minutes it was looked up %d times and looked at %d times, want no more than once in five seconds, and once", looks.still, looks.full)
		}
		h.end()
	})
}

func TestASignDuringALookIsNotLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := inUse(t, 1, everyNVMe, sysfstest.Options{})
		h.uses.during(func() {
			h.uses.during(nil)
			h.watcher.sign(1)
		})
		h.watcher.sign(1)
		time.Sleep(time.Second)
		h.uses.unmount(1)
		time.Sleep(10 * time.Second)
		h.want(1, "vfio-pci", operate.Taken)
		h.end()
	})
}

// What ended between the look and the watch is found by a second look.
func TestAUserThatGoesBeforeItIsWatchedIsNotMissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 1, sysfstest.Options{}, everyNVMe)
		h.Plug(bayAt(1), sysfstest.Drive{})
		h.uses.mount(1, "/srv")
		h.watcher = newWatcher()
		h.watcher.news = true
		h.start()
		h.want(1, "nvme", operate.Refused)
		h.uses.unmount(1)
		time.Sleep(time.Second)
		h.want(1, "vfio-pci", operate.Taken)
		h.end()
	})
}

// An umount ends with the claim, which nothing tells of.
func TestAClaimThatOutlastsWhatShowsIsWaitedFor(t *testing.T) {
	for name, c := range map[string]struct {
		after time.Duration
		want  operate.Outcome
	}{
		"for a minute":        {time.Minute, operate.Taken},
		"but not for an hour": {time.Hour, operate.Refused},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := inUse(t, 1, everyNVMe, sysfstest.Options{})
				h.uses.unmount(1)
				h.uses.claim(1, true)
				begun := h.uses.count(1)
				h.watcher.sign(1)
				time.Sleep(c.after)
				if looks := h.uses.count(1).minus(begun); looks.still > 8 || looks.full > 1 {
					t.Errorf("%+v", looks)
				}
				h.uses.claim(1, false)
				time.Sleep(2 * time.Minute)
				driver := map[operate.Outcome]string{operate.Taken: "vfio-pci", operate.Refused: "nvme"}[c.want]
				h.want(1, driver, c.want)
				h.end()
			})
		})
	}
}

func TestWhatIsBuiltOnADriveIsASign(t *testing.T) {
	for _, c := range []struct {
		action, path string
		want         operate.Outcome
	}{
		{"remove", "/devices/virtual/block/dm-0", operate.Taken},
		{"change", "/devices/virtual/block/loop0", operate.Taken},
		{"add", "/devices/virtual/block/loop0", operate.Refused},
		{"change", "/devices/pci0000:00/0000:01:00.0/nvme/nvme0/nvme0n1", operate.Taken},
		{"change", "/devices/pci0000:00/0000:02:00.0/nvme/nvme1/nvme1n1", operate.Refused},
	} {
		t.Run(c.action+" "+c.path, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := inUse(t, 1, everyNVMe, sysfstest.Options{})
				h.uses.mount(1, "dm-0", "/srv")
				h.write(everyNVMe)
				h.uses.unmount(1)
				h.events.inject(sysfstest.Event{Action: c.action, DevPath: c.path, Env: map[string]string{"SUBSYSTEM": "block"}})
				time.Sleep(10 * time.Second)
				driver := map[operate.Outcome]string{operate.Taken: "vfio-pci", operate.Refused: "nvme"}[c.want]
				if got := h.Driver(bayAt(1)); got != driver {
					t.Errorf("driver %q, want %q", got, driver)
				}
				h.end()
			})
		})
	}
}

func TestOnlyADriveThatARuleNamesIsWatched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := inUse(t, 2, "[[rule]]\nname = \"A\"\nmatch = { slot = \"A\" }\n", sysfstest.Options{})
		h.uses.mount(2, "/home")
		if d := h.command(control.MethodBind, 2); d.Outcome != string(operate.Refused) {
			t.Errorf("by hand: %+v", d)
		}
		if !h.watcher.watches(1) || h.watcher.watches(2) {
			t.Error("watched: bay A", h.watcher.watches(1), "bay B", h.watcher.watches(2))
		}
		h.Unplug(bayAt(1))
		synctest.Wait()
		if h.watcher.watches(1) {
			t.Error("a drive that is no more is watched")
		}
		h.end()
	})
}

func TestADriveThatAHandGaveBackStaysWhenItsUserGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 1, sysfstest.Options{}, everyNVMe)
		h.watcher = newWatcher()
		h.start()
		h.plug(1)
		h.command(control.MethodRelease, 1)
		h.uses.mount(1, "/srv")
		h.write(everyNVMe)
		h.uses.unmount(1)
		h.watcher.sign(1)
		time.Sleep(time.Minute)
		if driver := h.Driver(bayAt(1)); driver != "nvme" {
			t.Errorf("driver %q", driver)
		}
		h.end()
	})
}

func TestWhatCannotBeWatchedIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 1, sysfstest.Options{}, everyNVMe)
		h.Plug(bayAt(1), sysfstest.Drive{})
		h.uses.mount(1, "/srv")
		h.watcher = newWatcher()
		h.watcher.fault = fmt.Errorf("watch /dev/nvme0n1: %w", os.ErrPermission)
		h.start()
		if line := h.log.last("level=WARN"); !strings.Contains(line, "watch /dev/nvme0n1: permission denied") || !strings.Contains(line, "vfio-hotplug bind") {
			t.Errorf("%q does not say what is not watched, and what to do", line)
		}
		h.end()
	})
}

// A loop device, an export or a program may begin between the look and the
// unbind, and claims nothing.
func TestAUseThatBeginsAfterTheLookIsSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 1, sysfstest.Options{}, everyNVMe)
		h.start()
		h.uses.during(func() {
			h.uses.during(nil)
			h.uses.mount(1, "loop0")
		})
		h.plugLate(1)
		time.Sleep(time.Second)
		h.want(1, "nvme", operate.Refused)
		if driver := h.Touched(bayAt(1)); len(driver) != 1 {
			t.Errorf("touched by %v", driver)
		}
		h.end()
	})
}

// The unbind follows only a last look that saw all.
func TestADriveIsNotTakenUnlessTheLastLookSaw(t *testing.T) {
	visit := &inuse.NotSettledError{Reason: "blkid (process 9) is still looking at nvme0n1"}
	for name, c := range map[string]struct {
		fault   error
		outcome operate.Outcome
		says    string
	}{
		"for a fault":             {syscall.EIO, operate.Failed, "input/output error"},
		"for another in its bay":  {sysfs.ErrReplaced, operate.Failed, sysfs.ErrReplaced.Error()},
		"for one who looks at it": {visit, operate.Refused, "it could not be checked in 2m30s: " + visit.Reason},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := build(t, 1, sysfstest.Options{}, everyNVMe)
				h.Plug(bayAt(1), sysfstest.Drive{})
				h.uses.blind(1, c.fault)
				h.start()
				time.Sleep(h.limits.Settle + time.Minute)
				h.want(1, "nvme", c.outcome)
				if line := h.log.last("pci_address=" + bayAt(1).String()); !strings.Contains(line, c.says) {
					t.Errorf("%q does not say %q", line, c.says)
				}
				if w := h.written(bayAt(1)); len(w) != 0 {
					t.Errorf("it was written to: %v", w)
				}
				h.end()
			})
		})
	}
}

func TestTheLastLookWaitsForWhoLooksAtADrive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 1, sysfstest.Options{}, everyNVMe)
		h.Plug(bayAt(1), sysfstest.Drive{})
		h.uses.blind(1, &inuse.NotSettledError{Reason: "blkid (process 9) is still looking at nvme0n1"})
		h.start()
		time.Sleep(3 * time.Second)
		if driver := h.Driver(bayAt(1)); driver != "nvme" {
			t.Errorf("driver %q while blkid looks", driver)
		}
		h.uses.blind(1, nil)
		time.Sleep(2 * time.Second)
		h.want(1, "vfio-pci", operate.Taken)
		h.end()
	})
}

// What the policy says when the last look has ended counts.
func TestThePolicyIsAskedAgainAfterTheLastLook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 1, sysfstest.Options{}, everyNVMe)
		h.start()
		h.uses.blind(1, &inuse.NotSettledError{Reason: "blkid (process 9) is still looking at nvme0n1"})
		h.plugLate(1)
		h.write("")
		h.uses.blind(1, nil)
		time.Sleep(2 * time.Second)
		h.want(1, "nvme", operate.Left)
		if w := h.written(bayAt(1)); len(w) != 0 {
			t.Errorf("it was written to: %v", w)
		}
		h.end()
	})
}
