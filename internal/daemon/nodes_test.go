package daemon_test

import (
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"vfio-hotplug/internal/ledger"
	"vfio-hotplug/internal/sysfstest"
)

// announced collects the nodes that the daemon has announced again, and fails
// for one of which the ledger does not speak at that moment: udev may ask at once.
type announced struct {
	h     *house
	mu    sync.Mutex
	nodes []string
}

func (h *house) announced() *announced {
	a := &announced{h: h}
	h.After(func(op sysfstest.Op, err error) {
		if op.Kind != sysfstest.OpWrite || path.Base(op.Path) != "uevent" {
			return
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		a.nodes = append(a.nodes, strings.TrimRight(path.Base(path.Dir(op.Path)), "0123456789"))
		if e := h.entries(); err != nil || len(e) != 1 || e[0].Driver != "vfio-pci" || e[0].Stage != ledger.Taken {
			h.t.Errorf("%s was announced, %v, while the ledger says %+v", op.Path, err, e)
		}
	})
	return a
}

func (a *announced) want(when string, nodes ...string) {
	a.h.t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	if !slices.Equal(a.nodes, nodes) {
		a.h.t.Errorf("%s: announced again: %q, want %q", when, a.nodes, nodes)
	}
}

// TestANodeOlderThanItsEntryIsAnnouncedAgain: under a claim the kernel gives a
// drive to vfio-pci by itself, and udev may look at the node before the ledger
// says that the drive is ours. It is asked to look again; and not where the entry
// came first.
func TestANodeOlderThanItsEntryIsAnnouncedAgain(t *testing.T) {
	// The group's node, which has a number for its name, and the device's.
	again := []string{"", "vfio"}
	for _, iommufd := range []bool{false, true} {
		options := sysfstest.Options{Drivers: vfioFirst, IOMMUFD: iommufd}
		for name, c := range map[string]struct {
			plug func(*house)
			want []string
		}{
			"the daemon is first":       {func(h *house) { h.plug(1) }, nil},
			"the daemon is late":        {func(h *house) { h.plugLate(1) }, again},
			"the daemon is not at work": {func(h *house) { h.end(); h.Plug(bayAt(1), sysfstest.Drive{}); h.start() }, again},
		} {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					h := guarded(t, options, everyNVMe)
					h.start()
					time.Sleep(time.Second)
					h.wantGuard("claim")
					seen := h.announced()
					c.plug(h)
					time.Sleep(10 * time.Second)
					h.wantNow(name, 1, "vfio-pci", h.Override(bayAt(1)))
					seen.want(name, c.want...)
					h.end()
					h.start() // what is known is not announced by every look
					time.Sleep(10 * time.Second)
					seen.want("after a restart", c.want...)
					h.end()
				})
			})
		}
	}
}

// TestANodeIsAnnouncedOnce where a drive comes by other ways: its entry is older
// than its node.
func TestANodeIsAnnouncedOnce(t *testing.T) {
	for _, g := range guards[2:] {
		t.Run(g.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := guarded(t, g.options, g.policy)
				h.start()
				time.Sleep(time.Second)
				seen := h.announced()
				h.plug(1)
				time.Sleep(time.Minute)
				h.wantNow("plugged", 1, "vfio-pci", h.Override(bayAt(1)))
				seen.want("plugged")
				h.end()
			})
		})
	}
}
