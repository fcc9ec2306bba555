package daemon_test

import (
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"vfio-hotplug/internal/ledger"
	"vfio-hotplug/internal/sysfstest"
)

// soakPolicy wants the drives in bays 1 to 4, leaves that in bay 5, gives bay 6
// to uio_pci_generic, and does not name the others.
const soakPolicy = `
[[rule]]
name  = "wanted"
match = { class = "nvme", slot = ["A", "B", "C", "D"] }

[[rule]]
name   = "left"
match  = { slot = "E" }
action = "leave"

[[rule]]
name   = "for uio"
match  = { class = "nvme", slot = "F" }
driver = "uio_pci_generic"
`

// soakDriver is what a bay's drive ends with.
func soakDriver(bay int) string {
	switch {
	case bay <= 4:
		return "vfio-pci"
	case bay == 6:
		return "uio_pci_generic"
	}
	return "nvme"
}

// usage is what a daemon may not use ever more of.
type usage struct {
	goroutines, files int
	heap              uint64
}

func measure(t *testing.T) usage {
	t.Helper()
	synctest.Wait()
	runtime.GC()
	runtime.GC() // what the first one has finalised
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return usage{runtime.NumGoroutine(), len(files), memory.HeapAlloc}
}

// TestTenThousandEvents: drives are plugged and unplugged ten thousand times:
// one by one, again and again while the daemon is at work on them, another in
// the place of one that it is at work on, in storms into every bay at once, and
// while events are lost. No device ends wrong, the ledger has those that are
// bound and no other, and the daemon uses no more of anything than before.
func TestTenThousandEvents(t *testing.T) {
	const events = 10_000
	for name, guard := range map[string]bool{"race": false, "stub": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &soak{house: build(t, soakBays, sysfstest.Options{Drivers: []string{"pcieport", "pci-stub", "vfio-pci", "uio_pci_generic", "nvme"}}, soakPolicy),
					random: rand.New(rand.NewPCG(events, 1))}
				s.guard = guard
				s.start()
				time.Sleep(time.Second)
				var marks []usage
				for quarter := 1; quarter <= 4; quarter++ {
					s.storm()
					for s.events < quarter*events/4 {
						s.something()
					}
					s.check()
					s.log.forget()
					s.Forget()
					marks = append(marks, measure(t))
				}
				s.end()
				t.Logf("%d events: %+v", s.events, marks)
				first, last := marks[0], marks[3]
				if last.goroutines > first.goroutines || last.files > first.files || last.heap > first.heap+first.heap/8 {
					t.Errorf("from the first quarter to the last it grew from %+v to %+v", first, last)
				}
			})
		})
	}
}

const soakBays = 8

// soak plugs and unplugs. Each is an event.
type soak struct {
	*house
	random *rand.Rand
	full   [soakBays + 1]bool // by bay, from 1 on
	events int
}

// toggle plugs a drive into a bay that is empty, and takes out what is in one
// that is not.
func (s *soak) toggle(bay int) {
	if s.full[bay] {
		s.Unplug(bayAt(bay))
	} else {
		s.Plug(bayAt(bay), sysfstest.Drive{})
	}
	s.full[bay] = !s.full[bay]
}

// something is one of the things that happen to a machine.
func (s *soak) something() {
	bay := 1 + s.random.IntN(soakBays)
	flaps := 1 + s.random.IntN(10)
	s.events += flaps
	switch s.random.IntN(4) {
	case 0: // one by one
		for range flaps {
			s.toggle(bay)
			time.Sleep(time.Minute)
		}
	case 1: // while the daemon is at work on it
		for range flaps {
			s.toggle(bay)
			time.Sleep(time.Duration(s.random.IntN(20)) * time.Millisecond)
		}
	case 2: // another in its place, between any two steps
		s.replaceWithin(bay, 1+s.random.IntN(60))
	case 3: // events are lost
		s.events++
		s.daemonHears(false)
		for range flaps + 1 {
			s.toggle(1 + s.random.IntN(soakBays))
		}
		s.house.events.events.Overrun()
		s.daemonHears(true)
	}
}

// daemonHears holds the kernel's events back, and lets them go.
func (s *soak) daemonHears(yes bool) {
	if yes {
		s.house.events.release()
	} else {
		s.house.events.hold()
	}
}

// replaceWithin plugs a drive and puts another in its place at the n-th
// operation of the daemon on it.
func (s *soak) replaceWithin(bay, n int) {
	if s.full[bay] {
		s.toggle(bay)
		s.events++
	}
	var left atomic.Int64
	left.Store(int64(n))
	var whole, done atomic.Bool // the kernel has finished adding it; it was replaced
	s.Fault(func(op sysfstest.Op) error {
		concerns := strings.Contains(op.Path+op.Value, bayAt(bay).String())
		if concerns && left.Add(-1) <= 0 && whole.Load() && done.CompareAndSwap(false, true) {
			s.Unplug(bayAt(bay))
			s.Plug(bayAt(bay), sysfstest.Drive{})
		}
		return nil
	})
	s.toggle(bay)
	whole.Store(true)
	time.Sleep(10 * time.Second)
	s.Fault(nil)
	s.events += 3
}

// storm fills and empties every bay at once, a thousand times in all.
func (s *soak) storm() {
	const each = 1000 / soakBays
	var plugging sync.WaitGroup
	for bay := 1; bay <= soakBays; bay++ {
		plugging.Go(func() {
			for range each {
				s.toggle(bay)
			}
		})
	}
	plugging.Wait()
	s.events += each * soakBays
}

// check looks at every device, and at the ledger.
func (s *soak) check() {
	s.t.Helper()
	time.Sleep(10 * time.Minute)
	entries := s.entries()
	for bay := 1; bay <= soakBays; bay++ {
		if !s.full[bay] {
			continue
		}
		want := soakDriver(bay)
		if driver := s.Driver(bayAt(bay)); driver != want {
			s.t.Errorf("after %d events bay %d is on %q, want %s: %s", s.events, bay, driver, want, s.log.last("pci_address="+bayAt(bay).String()))
		}
		i := slices.IndexFunc(entries, func(e ledger.Entry) bool { return e.Address == bayAt(bay) })
		switch bound := want != "nvme"; {
		case bound != (i >= 0):
			s.t.Errorf("after %d events bay %d is on %s, and that the ledger has it is %v", s.events, bay, want, i >= 0)
		case bound && (entries[i].Stage != ledger.Taken || entries[i].Driver != want):
			s.t.Errorf("after %d events the ledger has %+v", s.events, entries[i])
		}
		entries = slices.DeleteFunc(entries, func(e ledger.Entry) bool { return e.Address == bayAt(bay) })
	}
	if len(entries) > 0 {
		s.t.Errorf("after %d events the ledger has drives that are not there: %+v", s.events, entries)
	}
}
