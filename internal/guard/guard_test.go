package guard_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

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

func (h *house) ids(driver string) int { return len(h.DynamicIDs(driver)) }

func TestArmAndDisarm(t *testing.T) {
	h := build(t)
	h.comesTo("nvme")
	h.must(h.guard().Arm(t.Context(), claim))
	h.comesTo("vfio-pci")
	h.must(h.guard().Arm(t.Context(), claim)) // again, after a restart
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
		h.must(h.guard().Arm(t.Context(), guard.Want{IDs: map[string][]pci.Pattern{"vfio-pci": ours}}))
		if !before {
			add(h.Kernel)
		}
		if n := h.ids("vfio-pci"); n != len(ours)+len(theirs) {
			t.Errorf("%d dynamic IDs, want %d", n, len(ours)+len(theirs))
		}
		// One after the other, narrow and wide ones in turn.
		for n := len(ours) - 1; n >= 0; n-- {
			h.must(h.guard().Arm(t.Context(), guard.Want{IDs: map[string][]pci.Pattern{"vfio-pci": ours[:n]}}))
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
	h.must(h.guard().Arm(t.Context(), claim))
	first := len(h.Writes())
	narrow := guard.Want{IDs: map[string][]pci.Pattern{"vfio-pci": {samsung}}}
	h.must(h.guard().Arm(t.Context(), narrow))
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
	h.must(h.guard().Arm(t.Context(), claim))
	h.must(h.UnloadModule("vfio-pci"))
	h.must(h.LoadModule("vfio-pci"))
	h.must(h.guard().Arm(t.Context(), claim))
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
	h.must(h.guard().Arm(t.Context(), gate))
	h.comesTo("")
	h.must(h.guard().Disarm(t.Context()))
	h.comesTo("nvme")

	// A gate that somebody else has closed is not ours to open.
	h.must(h.Root().Write("bus/pci/drivers_autoprobe", "0"))
	h.must(h.guard().Arm(t.Context(), gate))
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
				h.must(direct.Arm(t.Context(), want))
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
					_ = direct.Arm(context.Background(), want)
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
	err := h.guard().Arm(t.Context(), guard.Want{IDs: map[string][]pci.Pattern{"no-such-driver": {nvme}}})
	if err == nil || !strings.Contains(err.Error(), "no-such-driver: the driver is not loaded") {
		t.Errorf("got %v", err)
	}
	h.must(os.WriteFile(h.file, []byte("{torn"), 0o600))
	if err := h.guard().Arm(t.Context(), claim); err == nil || !strings.Contains(err.Error(), h.file) {
		t.Errorf("got %v, want the file's name", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	h.must(os.Remove(h.file))
	if err := h.guard().Arm(ctx, claim); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want canceled", err)
	}
	h.must(h.guard().Arm(t.Context(), claim))
	if n := h.ids("vfio-pci"); n != 1 {
		t.Errorf("%d dynamic IDs, want 1", n)
	}
}
