package daemon_test

import (
	"errors"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"vfio-hotplug/internal/operate"
	"vfio-hotplug/internal/sysfstest"
)

// TestAGuardThatMissedIsSaid: whatever becomes of the drive that nvme had first.
func TestAGuardThatMissedIsSaid(t *testing.T) {
	for name, test := range map[string]struct {
		rule    string
		mounted bool
		outcome operate.Outcome
		driver  string
	}{
		"taken":            {"", false, operate.Taken, "vfio-pci"},
		"in use":           {"", true, operate.Refused, "nvme"},
		"takeover = never": {"takeover = \"never\"\n", false, operate.Refused, "nvme"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := guarded(t, sysfstest.Options{Drivers: vfioFirst}, everyNVMe+test.rule)
				if test.mounted {
					h.uses.mount(1, "/srv")
				}
				h.start()
				time.Sleep(time.Second)
				h.wantGuard("claim")
				h.disarmByHand()
				h.plugLate(1)
				time.Sleep(time.Minute)
				if driver := h.Driver(bayAt(1)); driver != test.driver {
					t.Errorf("driver %q, want %q", driver, test.driver)
				}
				if n := len(h.log.lines("outcome=" + string(test.outcome) + " ")); n == 0 {
					t.Errorf("the log has %q, want %s", h.log.lines("outcome="), test.outcome)
				}
				missed := h.log.lines("guard missed")
				if len(missed) != 1 || !strings.Contains(missed[0], "level=ERROR") || !strings.Contains(missed[0], "nvme had 0000:01:00.0 first") {
					t.Errorf("the log has %q", missed)
				}
				h.end()
			})
		})
	}
}

// TestWhatAGuardCaughtIsNotMissed: nvme has a refused drive by our own hand.
func TestWhatAGuardCaughtIsNotMissed(t *testing.T) {
	for _, g := range guards {
		if strings.HasPrefix(g.name, "claim") {
			continue // the kernel itself goes on to nvme when vfio-pci fails
		}
		t.Run(g.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := guarded(t, g.options, g.policy)
				h.start()
				time.Sleep(time.Second)
				h.uses.mount(1, "/srv")
				h.FailProbe("vfio-pci", bayAt(1), errors.ErrUnsupported)
				h.plugLate(1)
				h.plug(4)
				time.Sleep(time.Minute)
				if missed := h.log.lines("guard missed"); len(missed) > 0 {
					t.Errorf("the log has %q", missed)
				}
				h.end()
			})
		})
	}
}

// TestWhatCameBeforeTheGuardIsNotMissed: nvme has it while the guard is armed.
func TestWhatCameBeforeTheGuardIsNotMissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := guarded(t, sysfstest.Options{Drivers: vfioFirst}, everyNVMe)
		var once atomic.Bool
		h.Fault(func(op sysfstest.Op) error {
			if op.Kind == sysfstest.OpWrite && strings.HasSuffix(op.Path, "/new_id") && once.CompareAndSwap(false, true) {
				h.Plug(bayAt(1), sysfstest.Drive{})
				time.Sleep(time.Second) // it is read of before the guard stands
			}
			return nil
		})
		h.start()
		time.Sleep(time.Minute)
		h.wantGuard("claim")
		if len(h.log.lines("outcome=taken driver=vfio-pci from=nvme")) != 1 {
			t.Errorf("the log has %q", h.log.lines("outcome="))
		}
		if missed := h.log.lines("guard missed"); len(missed) > 0 {
			t.Errorf("the log has %q", missed)
		}
		h.end()
	})
}

// disarmByHand takes the guard's IDs away behind its back.
func (h *house) disarmByHand() {
	h.t.Helper()
	for _, driver := range []string{"vfio-pci", "pci-stub"} {
		for range h.DynamicIDs(driver) {
			if err := h.Root().Write(filepath.Join("bus/pci/drivers", driver, "remove_id"), "ffffffff ffffffff"); err != nil {
				h.t.Fatal(err)
			}
		}
	}
}
