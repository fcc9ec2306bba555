package daemon_test

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"vfio-hotplug/internal/sysfstest"
)

// wantHeldFor checks since when status says that the device in bay 1 is held.
func (h *house) wantHeldFor(when string, least, most time.Duration) {
	h.t.Helper()
	for _, d := range h.status() {
		if d.Address != bayAt(1).String() {
			continue
		}
		text := strings.TrimSuffix(d.Reason[strings.LastIndex(d.Reason, " for ")+len(" for "):], " so far")
		if held, err := time.ParseDuration(text); err != nil || held < least || held > most {
			h.t.Errorf("%s: status says %q, want it held for %v to %v", when, d.Reason, least, most)
		}
		return
	}
	h.t.Errorf("%s: status does not know the device", when)
}

// TestTheHeldTimeCountsFromWhenTheKernelBegan: the kernel announces it from Linux
// 6.6 on; before, it is known from the look that comes next.
func TestTheHeldTimeCountsFromWhenTheKernelBegan(t *testing.T) {
	for _, release := range heldReleases {
		t.Run(release.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := build(t, 1, sysfstest.Options{Release: release}, everyNVMe)
				h.start()
				h.plug(1)
				time.Sleep(time.Second)
				holder := h.openVFIO(1)
				go h.Root().Write("bus/pci/drivers/vfio-pci/unbind", bayAt(1).String())
				time.Sleep(time.Minute)
				least, most := time.Minute, time.Minute
				if release < sysfstest.Linux612 { // lookEvery
					least -= 15 * time.Second
				}
				h.wantHeldFor("after a minute", least, most)
				holder.letGo()
				time.Sleep(20 * time.Second)
				over := h.log.last("is held up no longer")
				if release >= sysfstest.Linux612 && !strings.Contains(over, "goes on after 1m") {
					t.Errorf("the log says %q", over)
				}
				h.end()
			})
		})
	}
}

// TestTheHeldTimeOfOurOwnUnbindOutlivesTheDaemon: the ledger says when it began.
func TestTheHeldTimeOfOurOwnUnbindOutlivesTheDaemon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t, 1, sysfstest.Options{}, everyNVMe)
		h.Plug(bayAt(1), sysfstest.Drive{})
		h.start()
		time.Sleep(time.Second)
		holder := h.releaseOpened()
		time.Sleep(time.Minute)
		h.Fault(nil)
		h.wantHeldFor("the daemon that began it", time.Minute, time.Minute)
		h.end()
		h.start()
		time.Sleep(time.Minute)
		h.wantHeldFor("the next one", 2*time.Minute, 2*time.Minute+time.Second)
		holder.letGo()
		time.Sleep(5 * time.Second)
		if over := h.log.last("is held up no longer"); !strings.Contains(over, "goes on after 2m") {
			t.Errorf("the log says %q", over)
		}
		h.end()
	})
}
