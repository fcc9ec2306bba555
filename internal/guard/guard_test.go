package guard_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"vfio-hotplug/internal/guard"
	"vfio-hotplug/internal/pci"
	"vfio-hotplug/internal/sysfs"
	"vfio-hotplug/internal/sysfstest"
)

var (
	bay     = pci.Address{Bus: 1}
	nvme    = pci.Pattern{Vendor: pci.AnyID, Device: pci.AnyID, SubVendor: pci.AnyID, SubDevice: pci.AnyID, Class: 0x010802, ClassMask: 0xffffff}
	samsung = pci.Pattern{Vendor: 0x144d, Device: pci.AnyID, SubVendor: pci.AnyID, SubDevice: pci.AnyID, Class: 0x010802, ClassMask: 0xffffff}
	claim   = guard.Want{IDs: map[string][]pci.Pattern{"vfio-pci": {nvme}}}
)

// house is a model machine with one bay and a guard's record.
type house struct {
	*sysfstest.Kernel
	t    *testing.T
	file string
}

func build(t *testing.T) *house {
	h := &house{t: t, file: filepath.Join(t.TempDir(), "guard.json"),
		Kernel: sysfstest.New(sysfstest.Options{Drivers: []string{"pcieport", "pci-stub", "vfio-pci", "nvme"}})}
	h.AddBay(sysfstest.Bay{Address: bay, Above: []pci.Address{{Device: 1}}})
	return h
}

// guard is a new Guard on the same record, as after a restart.
func (h *house) guard() *guard.Guard { return guard.New(h.Root(), h.Expendable(), h.file) }

func (h *house) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

// comesTo checks which driver a drive that is plugged now gets.
func (h *house) comesTo(driver string) {
	h.t.Helper()
	h.Plug(bay, sysfstest.Drive{})
	if got := h.Driver(bay); got != driver {
		h.t.Errorf("a new drive comes to %q, want %q", got, driver)
	}
	h.Unplug(bay)
}

// arm arms without devices that were there before.
func (h *house) arm(g *guard.Guard, want guard.Want) error {
	ended, err := g.Arm(h.t.Context(), want, []guard.Seat{})
	<-ended
	return err
}

func (h *house) ids(driver string) int { return len(h.DynamicIDs(driver)) }

func TestArmAndDisarm(t *testing.T) {
	h := build(t)
	h.comesTo("nvme")
	h.must(h.arm(h.guard(), claim))
	h.comesTo("vfio-pci")
	h.must(h.arm(h.guard(), claim)) // again, after a restart
	if n := h.ids("vfio-pci"); n != 1 {
		t.Errorf("%d dynamic IDs, want 1", n)
	}
	h.must(h.guard().Disarm(t.Context()))
	h.must(h.guard().Disarm(t.Context()))
	h.comesTo("nvme")
	if n := h.ids("vfio-pci"); n != 0 {
		t.Errorf("%d dynamic IDs are left", n)
	}
}

// TestSomebodyElsesIDsStay: whatever others have added, before or after us,
// which our own IDs cover or are covered by, is there after us; and nothing of
// ours is.
func TestSomebodyElsesIDsStay(t *testing.T) {
	const any = pci.AnyID
	ours := []pci.Pattern{
		nvme, samsung,
		{Vendor: 0x144d, Device: 0xa804, SubVendor: any, SubDevice: any},
		{Vendor: 0x144d, Device: 0xa804, SubVendor: 0x144d, SubDevice: any},
		{Vendor: 0x144d, Device: 0xa804, SubVendor: 0x144d, SubDevice: 0xa801},
		{Vendor: 0x144d, Device: 0xa804, SubVendor: any, SubDevice: any, Class: 0x010802, ClassMask: 0xffffff},
	}
	theirs := []string{ // with all seven fields, so that none is refused
		"8086 0a54 ffffffff ffffffff 0 0 0",
		"ffffffff ffffffff ffffffff ffffffff 010802 ffffff 0",
		"ffffffff ffffffff ffffffff ffffffff 010800 ffff00 0",
		"144d a804 ffffffff ffffffff 0 0 0", "144d a804 144d a801 0 0 0", "144d a804 ffffffff ffffffff 010802 ffffff 0",
		"144d ffffffff ffffffff ffffffff 010802 ffffff 0",
	}
	for _, before := range []bool{true, false} {
		h := build(t)
		add := func(k *sysfstest.Kernel) {
			for _, id := range theirs {
				h.must(k.Root().Write("bus/pci/drivers/vfio-pci/new_id", id))
			}
		}
		if before {
			add(h.Kernel)
		}
		h.must(h.arm(h.guard(), guard.Want{IDs: map[string][]pci.Pattern{"vfio-pci": ours}}))
		if !before {
			add(h.Kernel)
		}
		if n := h.ids("vfio-pci"); n != len(ours)+len(theirs) {
			t.Errorf("%d dynamic IDs, want %d", n, len(ours)+len(theirs))
		}
		// One after the other, narrow and wide ones in turn.
		for n := len(ours) - 1; n >= 0; n-- {
			h.must(h.arm(h.guard(), guard.Want{IDs: map[string][]pci.Pattern{"vfio-pci": ours[:n]}}))
			if got := h.ids("vfio-pci"); got != n+len(theirs) {
				t.Errorf("%d dynamic IDs, want %d", got, n+len(theirs))
			}
		}
		reference := build(t)
		add(reference.Kernel)
		if got, want := h.DynamicIDs("vfio-pci"), reference.DynamicIDs("vfio-pci"); !slices.Equal(got, want) {
			t.Errorf("after us there are %v, want %v", got, want)
		}
	}
}

func TestTheGuardMovesWithoutAGap(t *testing.T) {
	h := build(t)
	h.must(h.arm(h.guard(), claim))
	first := len(h.Writes())
	narrow := guard.Want{IDs: map[string][]pci.Pattern{"vfio-pci": {samsung}}}
	h.must(h.arm(h.guard(), narrow))
	var order []string
	for _, w := range h.Writes()[first:] {
		order = append(order, filepath.Base(w.Path))
	}
	if want := []string{"new_id", "remove_id"}; !slices.Equal(order, want) {
		t.Errorf("wrote %v, want %v", order, want)
	}
	h.comesTo("vfio-pci")
	if n := h.ids("vfio-pci"); n != 1 {
		t.Errorf("%d dynamic IDs, want 1", n)
	}
}

func TestAReloadedModuleIsArmedAgain(t *testing.T) {
	h := build(t)
	h.must(h.arm(h.guard(), claim))
	h.must(h.UnloadModule("vfio-pci"))
	h.must(h.LoadModule("vfio-pci"))
	if s, err := h.guard().State(); err != nil || len(s.Armed.IDs) != 0 || len(s.Was.IDs) != 1 {
		t.Errorf("the state is %+v, %v: its ID went with the module", s, err)
	}
	h.must(h.arm(h.guard(), claim))
	if n := h.ids("vfio-pci"); n != 1 {
		t.Errorf("%d dynamic IDs, want 1", n)
	}
	h.must(h.guard().Disarm(t.Context()))
	if n := h.ids("vfio-pci"); n != 0 {
		t.Errorf("%d dynamic IDs are left", n)
	}
}

func TestTheGate(t *testing.T) {
	h := build(t)
	gate := guard.Want{Gate: true}
	h.must(h.arm(h.guard(), gate))
	h.comesTo("")
	h.must(h.guard().Disarm(t.Context()))
	h.comesTo("nvme")

	// A gate that somebody else has closed is not ours to open.
	h.must(h.Root().Write("bus/pci/drivers_autoprobe", "0"))
	h.must(h.arm(h.guard(), gate))
	h.must(h.guard().Disarm(t.Context()))
	h.comesTo("")
}

// TestKilledAtAnyTime kills an arming, and a disarming, after each operation,
// and lets the next process take everything back.
func TestKilledAtAnyTime(t *testing.T) {
	type death struct{}
	want := guard.Want{IDs: map[string][]pci.Pattern{"vfio-pci": {nvme, samsung}}, Gate: true}
	for _, disarming := range []bool{false, true} {
		for n := 1; ; n++ {
			h := build(t)
			direct := guard.New(h.Root(), sysfs.Direct(h.Root()), h.file)
			if disarming {
				h.must(h.arm(direct, want))
			}
			first := h.Operations()
			h.After(func(op sysfstest.Op, _ error) {
				if op.N == first+n {
					panic(death{})
				}
			})
			died := dies(func() {
				if disarming {
					_ = direct.Disarm(context.Background())
				} else {
					_ = h.arm(direct, want)
				}
			})
			h.After(nil)
			if !died {
				if n < 5 {
					t.Errorf("only %d operations", n)
				}
				break
			}
			h.must(h.guard().Disarm(t.Context()))
			if left := h.DynamicIDs("vfio-pci"); len(left) != 0 {
				t.Errorf("disarming %v, killed after operation %d: %v are left", disarming, n, left)
			}
			h.comesTo("nvme")
		}
	}
}

func dies(run func()) (died bool) {
	defer func() { died = recover() != nil }()
	run()
	return false
}

func TestFaults(t *testing.T) {
	h := build(t)
	err := h.arm(h.guard(), guard.Want{IDs: map[string][]pci.Pattern{"no-such-driver": {nvme}}})
	if err == nil || !strings.Contains(err.Error(), "no-such-driver: the driver is not loaded") {
		t.Errorf("got %v", err)
	}
	h.must(os.WriteFile(h.file, []byte("{torn"), 0o600))
	if err := h.arm(h.guard(), claim); err == nil || !strings.Contains(err.Error(), h.file) {
		t.Errorf("got %v, want the file's name", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	h.must(os.Remove(h.file))
	if _, err := h.guard().Arm(ctx, claim, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want canceled", err)
	}
	h.must(h.arm(h.guard(), claim))
	if n := h.ids("vfio-pci"); n != 1 {
		t.Errorf("%d dynamic IDs, want 1", n)
	}
}

func TestReadMachine(t *testing.T) {
	proc := t.TempDir()
	h := build(t)
	h.must(os.WriteFile(filepath.Join(proc, "modules"), []byte(h.ProcModules()), 0o644))
	h.must(os.WriteFile(filepath.Join(proc, "cmdline"), []byte("quiet vfio-pci.async_probe\n"), 0o644))
	m, err := guard.ReadMachine(h.Root(), proc, "6.12.95+deb12-amd64")
	if err != nil || !m.Async.Of("vfio-pci") || m.Async.Of("nvme") || m.Release != (guard.Release{Major: 6, Minor: 12}) {
		t.Errorf("got %+v, %v", m, err)
	}
	if m.Registered["vfio-pci"] >= m.Registered["nvme"] {
		t.Errorf("the order is %v", m.Registered)
	}
}

// TestKilledBetweenTheRecordAndTheGate: the next arming closes the gate.
func TestKilledBetweenTheRecordAndTheGate(t *testing.T) {
	h := build(t)
	h.Fault(func(op sysfstest.Op) error {
		if op.Kind == sysfstest.OpWrite && strings.HasSuffix(op.Path, "drivers_autoprobe") {
			panic("killed")
		}
		return nil
	})
	if !dies(func() { _ = h.arm(h.guard(), guard.Want{Gate: true}) }) {
		t.Fatal("it was not killed")
	}
	h.Fault(nil)
	h.must(h.arm(h.guard(), guard.Want{Gate: true}))
	h.comesTo("")
	h.must(h.guard().Disarm(t.Context()))
	h.comesTo("nvme")
}

// TestKilledBeforeTheNewID: what was only recorded is not taken from somebody
// who has the same.
func TestKilledBeforeTheNewID(t *testing.T) {
	h := build(t)
	h.must(h.Root().Write("bus/pci/drivers/vfio-pci/new_id", "ffffffff ffffffff ffffffff ffffffff 010802 ffffff"))
	h.Fault(func(op sysfstest.Op) error {
		if op.Kind == sysfstest.OpWrite && strings.HasSuffix(op.Path, "new_id") {
			panic("killed")
		}
		return nil
	})
	direct := guard.New(h.Root(), sysfs.Direct(h.Root()), h.file)
	if !dies(func() { _ = h.arm(direct, claim) }) {
		t.Fatal("it was not killed")
	}
	h.Fault(nil)
	h.must(h.arm(h.guard(), claim))
	if n := h.ids("vfio-pci"); n != 2 {
		t.Errorf("%d IDs, want the other's and ours", n)
	}
	h.must(h.guard().Disarm(t.Context()))
	if n := h.ids("vfio-pci"); n != 1 {
		t.Errorf("%d IDs, want the other's", n)
	}
}

func TestWhatCannotBeAddedTakesNothingAway(t *testing.T) {
	h := build(t)
	h.must(h.arm(h.guard(), claim))
	h.Fault(func(op sysfstest.Op) error {
		if op.Kind == sysfstest.OpWrite && strings.HasSuffix(op.Path, "pci-stub/new_id") {
			return syscall.EPERM
		}
		return nil
	})
	if err := h.arm(h.guard(), guard.Want{IDs: map[string][]pci.Pattern{"pci-stub": {nvme}}}); !errors.Is(err, syscall.EPERM) {
		t.Errorf("got %v, want %v", err, syscall.EPERM)
	}
	if h.ids("vfio-pci") != 1 {
		t.Error("nothing guards")
	}
}

// TestAHungIDIsArmed: the kernel does not come back from new_id for a while;
// the guard goes on, and what comes is guarded.
func TestAHungIDIsArmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t)
		h.must(h.arm(h.guard(), claim))
		free := make(chan struct{})
		h.After(func(op sysfstest.Op, _ error) {
			if op.Kind == sysfstest.OpWrite && strings.HasSuffix(op.Path, "pci-stub/new_id") {
				<-free
			}
		})
		g := h.guard()
		ended, err := g.Arm(t.Context(), guard.Want{IDs: map[string][]pci.Pattern{"pci-stub": {nvme}}}, nil)
		if !errors.As(err, new(*guard.HungError)) {
			t.Errorf("got %v, want a HungError", err)
		}
		if h.ids("vfio-pci") != 0 || h.ids("pci-stub") != 1 {
			t.Errorf("%d IDs on vfio-pci, %d on pci-stub", h.ids("vfio-pci"), h.ids("pci-stub"))
		}
		select {
		case <-ended:
			t.Error("it says that all has ended")
		default:
		}
		h.must(g.Disarm(t.Context()))
		if n := h.ids("pci-stub"); n != 0 {
			t.Errorf("%d IDs are left on pci-stub", n)
		}
		close(free)
		<-ended
	})
}

// TestTheRecordTellsTheCatch: what is armed, what was, and who was there before.
func TestTheRecordTellsTheCatch(t *testing.T) {
	h := build(t)
	before := []guard.Seat{{Address: bay, Identity: 7}}
	_, err := h.guard().Arm(t.Context(), claim, before)
	h.must(err)
	_, err = h.guard().Arm(t.Context(), guard.Want{Gate: true}, nil)
	h.must(err)
	h.must(h.guard().See(t.Context(), guard.Seat{Address: bay, Identity: 8})) // another drive
	check := func(when string, armed, was guard.Want) {
		t.Helper()
		s, err := h.guard().State()
		h.must(err)
		want := guard.State{Armed: armed, Was: was, Seen: []guard.Seat{{Address: bay, Identity: 8}}}
		if diff := cmp.Diff(want, s, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s: %s", when, diff)
		}
	}
	check("after a move", guard.Want{Gate: true}, claim)
	h.must(h.guard().Disarm(t.Context()))
	was := guard.Want{IDs: claim.IDs, Gate: true}
	check("disarmed", guard.Want{}, was)
	h.must(h.guard().Settled(t.Context()))
	check("settled", guard.Want{}, guard.Want{})
}

// TestTheNoteOfShields: armings that overlap add to it, each takes its own.
func TestTheNoteOfShields(t *testing.T) {
	h := build(t)
	a, b := guard.Seat{Address: bay, Identity: 7}, guard.Seat{Address: bay, Identity: 8}
	h.must(h.guard().Shield(t.Context(), []guard.Seat{a}))
	h.must(h.guard().Shield(t.Context(), []guard.Seat{a, b}))
	h.must(h.guard().Unshielded(t.Context(), []guard.Seat{b}))
	if s, err := h.guard().State(); err != nil || !slices.Equal(s.Shielded, []guard.Seat{a}) {
		t.Errorf("shielded are %v, %v; want %v", s.Shielded, err, a)
	}
}

// TestOneAtATime: another process waits until an arming has ended.
func TestOneAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := build(t)
		free := make(chan struct{})
		h.After(func(op sysfstest.Op, _ error) {
			if op.Kind == sysfstest.OpWrite && strings.HasSuffix(op.Path, "new_id") {
				<-free
			}
		})
		armed := make(chan error)
		go func() { armed <- h.arm(h.guard(), claim) }()
		synctest.Wait()
		hurry, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := h.guard().Disarm(hurry); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "another process") {
			t.Errorf("got %v, want that another process is at it", err)
		}
		close(free)
		h.must(<-armed)
		h.must(h.guard().Disarm(t.Context()))
		if n := h.ids("vfio-pci"); n != 0 {
			t.Errorf("%d IDs are left", n)
		}
	})
}

// TestNoNewIDComesAfterItsEnd: one that has not begun when we give it up must
// not come after what takes it back.
func TestNoNewIDComesAfterItsEnd(t *testing.T) {
	h := build(t)
	written := 0
	g := guard.New(h.Root(), func(ctx context.Context, w sysfs.Write) error {
		written++
		if !w.Kill {
			t.Errorf("the write of %s is not killed", w.Attribute)
		}
		return h.Expendable()(ctx, w)
	}, h.file)
	h.must(h.arm(g, claim))
	h.must(g.Disarm(t.Context()))
	if written != 2 {
		t.Errorf("%d writes, want 2", written)
	}
}
