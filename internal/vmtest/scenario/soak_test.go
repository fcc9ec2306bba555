package scenario

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"vfio-hotplug/internal/vmtest"
)

// TestGuestSoak: drives come and go in every bay, of which the policy wants
// every second. No device ends wrong, and the daemon's memory and open files, and
// in large numbers its threads, stay what they were after the first quarter.
func TestGuestSoak(t *testing.T) {
	rounds := 4
	if proof() {
		rounds = 42 // 504 plugs, and as many unplugs
	}
	vmtest.EachKernel(t, func(t *testing.T, k vmtest.Kernel) {
		bays := vmtest.DefaultBays
		if !proof() {
			bays = 4
		}
		h := boot(t, vmtest.Config{Kernel: k, Modules: guardOrder()}, policyFor("race", half()...))
		h.start("GOGC=10") // else some MB of garbage hide a leak, or look like one
		h.named = half()
		wrong := 0
		var first, last usage
		for round := range rounds {
			out := newTurnover(h)
			for bay := range bays {
				h.Plug(bay, vmtest.Device{})
			}
			for bay := range bays {
				if bay%2 == 0 {
					h.taken(bay, "vfio-pci")
				} else {
					h.WaitDriver(bay, "nvme")
				}
				if h.Driver(bay) != map[bool]string{true: "vfio-pci", false: "nvme"}[bay%2 == 0] {
					wrong++
				}
			}
			for bay := range bays {
				out.unplug(bay)
			}
			out.emptyAll()
			h.WaitFor("the ledger to be empty", func(ctx context.Context) (bool, error) {
				entries, err := h.Guest.Glob(ctx, "/run/vfio-hotplug/devices/*")
				return len(entries) == 0, err
			})
			if last = h.usage(); round == rounds/4 {
				first = last
			}
		}
		if wrong > 0 {
			t.Errorf("%d devices ended wrong", wrong)
		}
		h.WaitFor(fmt.Sprintf("the daemon to have %d files open, as after the first quarter", first.files), func(context.Context) (bool, error) {
			last = h.usage()
			return last.files <= first.files, nil // a leak never closes
		})
		// A garbage collector is late by some pages. The more threads are in a call at
		// once, the more there are, each with some memory. A short run may be over
		// before they have been at their most.
		slack, threads := 6<<10, last.threads
		if proof() {
			slack, threads = 2<<10, first.threads+2
		}
		if last.memory > first.memory+slack || last.threads > threads {
			t.Errorf("it grew from %+v to %+v", first, last)
		}
		figure("soak on %s: %d plugs and unplugs, %d devices wrong; from the first quarter to the end %s", k, 2*rounds*bays, wrong, last.since(first))
		h.done()
	})
}

// usage is what the daemon uses of the guest.
type usage struct {
	memory  int // kB of its own, without the program's file
	threads int
	files   int // open
}

func (u usage) since(first usage) string {
	return fmt.Sprintf("%d to %d kB of memory, %d to %d threads, %d to %d open files", first.memory, u.memory, first.threads, u.threads, first.files, u.files)
}

func (h *house) usage() usage {
	h.t.Helper()
	proc := fmt.Sprintf("/proc/%d/", h.daemon.PID)
	u := usage{files: len(h.Glob(proc + "fd/*"))}
	for line := range strings.Lines(h.ReadFile(proc + "status")) {
		key, value, _ := strings.Cut(line, ":")
		to := map[string]*int{"RssAnon": &u.memory, "Threads": &u.threads}[key]
		if to == nil {
			continue
		}
		n, err := strconv.Atoi(strings.Fields(value)[0])
		if err != nil {
			h.t.Fatalf("%sstatus: %q: %v", proc, line, err)
		}
		*to = n
	}
	return u
}
