package daemon_test

import (
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"vfio-hotplug/internal/sysfstest"
)

// twoClaims leaves the drives in bays C and D; the second adds an ID that the
// drive in bay D has, and not the one in bay C.
const (
	oneClaim = "[guard]\nmode = \"claim\"\n" + `
[[rule]]
name  = "bay A"
match = { class = "nvme", slot = "A" }
`
	twoClaims = oneClaim + `
[[rule]]
name   = "bay B"
match  = { class = "nvme", vendor = 0x8086, slot = "B" }
driver = "uio_pci_generic"
`
)

// TestArmingsThatOverlapKeepTheirShields: one arming hangs at the drive in bay C
// and has not come to the one in bay D, which another shields too and is done
// with.
func TestArmingsThatOverlapKeepTheirShields(t *testing.T) {
	for name, killed := range map[string]bool{"the kernel comes back": false, "killed first": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := guarded(t, sysfstest.Options{Drivers: []string{"pcieport", "vfio-pci", "uio_pci_generic", "nvme"}}, oneClaim)
				hung := h.Pause(sysfstest.Probing, "nvme", bayAt(3))
				go h.Plug(bayAt(3), sysfstest.Drive{})
				<-hung.Reached()
				h.Plug(bayAt(4), sysfstest.Drive{IDs: sysfstest.NVMe(0x8086, 0x0a54)})
				h.unbind("nvme", 4)
				h.start()
				time.Sleep(time.Minute)
				h.write(twoClaims)
				time.Sleep(time.Minute)
				if n := len(h.DynamicIDs("uio_pci_generic")); n != 1 {
					t.Fatalf("%d IDs on uio_pci_generic: the second arming has not ended", n)
				}
				if killed {
					h.end()
				}
				hung.End()
				time.Sleep(time.Minute)
				if killed {
					h.start()
					time.Sleep(time.Minute)
				}
				h.wantNow("in the end", 4, "", "")
				h.end()
			})
		})
	}
}

// TestAModuleThatIsLoadedAgainCatchesNobody: its IDs went with it, and are added
// anew; a drive that had no driver has none.
func TestAModuleThatIsLoadedAgainCatchesNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := guarded(t, sysfstest.Options{Drivers: vfioFirst}, claimByName)
		h.Plug(bayAt(4), sysfstest.Drive{})
		h.unbind("nvme", 4)
		h.start()
		time.Sleep(time.Second)
		h.wantGuard("claim")
		h.events.hold()
		if err := h.UnloadModule("vfio-pci"); err != nil {
			t.Fatal(err)
		}
		if err := h.LoadModule("vfio-pci"); err != nil {
			t.Fatal(err)
		}
		h.events.release()
		time.Sleep(time.Minute)
		if n := len(h.DynamicIDs("vfio-pci")); n != 1 {
			t.Fatalf("%d IDs on vfio-pci, want 1", n)
		}
		h.wantNow("after the module", 4, "", "")
		if touched := h.Touched(bayAt(4)); len(touched) != 1 {
			t.Errorf("touched by %v", touched)
		}
		h.end()
	})
}

// TestACardThatAHandUnboundStaysSo: also one that was plugged while we listen.
func TestACardThatAHandUnboundStaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := guarded(t, sysfstest.Options{Drivers: vfioFirst}, everyNVMe)
		h.start()
		time.Sleep(time.Second)
		h.BeginAdd(bayAt(2), sysfstest.Drive{IDs: sysfstest.NIC()})
		synctest.Wait()
		h.FinishAdd(bayAt(2))
		time.Sleep(time.Minute)
		h.wantNow("plugged", 2, "e1000e", "")
		h.unbind("e1000e", 2)
		h.write(everyNVMe + "[[rule]]\nname = \"cards\"\nmatch = { class = \"nic\", slot = \"A\" }\n")
		time.Sleep(time.Minute)
		h.wantGuard("stub")
		h.wantNow("after the reload", 2, "", "")
		h.end()
	})
}

// TestADriveThatWasAnnouncedToNobodyGetsItsDriver: its event came before we
// listened, and the kernel has not finished with it when the guard is armed.
func TestADriveThatWasAnnouncedToNobodyGetsItsDriver(t *testing.T) {
	for _, g := range guards {
		if !g.left {
			continue
		}
		t.Run(g.name, func(t *testing.T) {
			for _, at := range []string{"/new_id", "/drivers_autoprobe", ""} {
				synctest.Test(t, func(t *testing.T) {
					h := guarded(t, g.options, g.policy)
					var once atomic.Bool
					h.Fault(func(op sysfstest.Op) error {
						if at != "" && op.Kind == sysfstest.OpWrite && strings.HasSuffix(op.Path, at) && once.CompareAndSwap(false, true) {
							h.FinishAdd(bayAt(4))
						}
						return nil
					})
					h.BeginAdd(bayAt(4), sysfstest.Drive{})
					h.start()
					time.Sleep(5 * time.Second)
					if once.CompareAndSwap(false, true) {
						h.FinishAdd(bayAt(4))
					}
					time.Sleep(time.Minute)
					h.wantNow("in the end, "+at, 4, "nvme", "")
					h.end()
				})
			}
		})
	}
}
