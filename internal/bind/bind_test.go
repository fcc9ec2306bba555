package bind_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"

	"vfio-hotplug/internal/bind"
	"vfio-hotplug/internal/pci"
	"vfio-hotplug/internal/sysfs"
	"vfio-hotplug/internal/sysfstest"
)

var bay = pci.Address{Bus: 1}

var drive = sysfstest.Drive{IDs: sysfstest.NVMe(0x144d, 0xa804)}

// machine boots a model with one bay.
func machine(o sysfstest.Options) *sysfstest.Kernel {
	k := sysfstest.New(o)
	k.AddBay(sysfstest.Bay{Address: bay, Slot: "1", Above: []pci.Address{{Device: 2}}})
	return k
}

func open(t *testing.T, k *sysfstest.Kernel) *sysfs.Device {
	t.Helper()
	d, err := k.FS().Open(bay)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// openDirect opens the device so that its unbind runs in the caller and dies
// with it.
func openDirect(t *testing.T, k *sysfstest.Kernel) *sysfs.Device {
	t.Helper()
	d, err := sysfs.New(k.Root(), sysfs.Direct(k.Root())).Open(bay)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// state is what a transaction must leave behind.
type state struct{ driver, override string }

func (s state) String() string { return fmt.Sprintf("driver %q, override %q", s.driver, s.override) }

func stateOf(k *sysfstest.Kernel) state { return state{k.Driver(bay), k.Override(bay)} }

func TestTakeFromNVMe(t *testing.T) {
	for _, release := range []sysfstest.Release{sysfstest.Linux61, sysfstest.Linux612, sysfstest.Linux73} {
		t.Run(release.String(), func(t *testing.T) {
			k := machine(sysfstest.Options{Release: release})
			k.Plug(bay, drive)
			if err := bind.Take(t.Context(), open(t, k), "vfio-pci", bind.State{Driver: "nvme"}); err != nil {
				t.Fatal(err)
			}
			if got, want := stateOf(k), (state{"vfio-pci", "vfio-pci"}); got != want {
				t.Errorf("%v, want %v", got, want)
			}
			if got, want := k.Touched(bay), []string{"nvme", "vfio-pci"}; !slices.Equal(got, want) {
				t.Errorf("touched by %v, want %v", got, want)
			}
		})
	}
}

func TestOfferInsideTheWindowStandsUntilTheKernelMatches(t *testing.T) {
	k := machine(sysfstest.Options{})
	k.BeginAdd(bay, drive)
	d := open(t, k)
	now, err := bind.Offer(d, "vfio-pci")
	if err != nil || now != "" {
		t.Fatalf("inside the window: driver %q, %v", now, err)
	}
	if _, err := bind.Insist(d, "vfio-pci"); !errors.Is(err, syscall.ENODEV) || errors.Is(err, bind.ErrGone) {
		t.Fatalf("insisting inside the window: %v, want ENODEV of a device that is there", err)
	}
	k.FinishAdd(bay)
	if got := k.Touched(bay); !slices.Equal(got, []string{"vfio-pci"}) {
		t.Errorf("touched by %v, want vfio-pci alone", got)
	}
}

func TestTakeFailures(t *testing.T) {
	found := state{"nvme", ""}
	for _, test := range []struct {
		name    string
		options sysfstest.Options
		prepare func(*sysfstest.Kernel)
		driver  string
		step    bind.Step
		is      error
		words   string
	}{
		{name: "no IOMMU", options: sysfstest.Options{NoIOMMU: true},
			step: bind.StepBind, is: syscall.EINVAL, words: "vfio-pci refused the device"},
		{name: "driver not loaded", driver: "uio_pci_generic",
			step: bind.StepBind, is: bind.ErrNotLoaded, words: "uio_pci_generic: the driver is not loaded"},
		{name: "its probe fails", prepare: func(k *sysfstest.Kernel) { k.FailProbe("vfio-pci", bay, syscall.EIO) },
			step: bind.StepBind, is: syscall.EIO, words: "vfio-pci refused the device"},
		{name: "a name no kernel takes", driver: strings.Repeat("x", 4095),
			step: bind.StepOverride, is: syscall.EINVAL, words: "driver_override"},
	} {
		t.Run(test.name, func(t *testing.T) {
			k := machine(test.options)
			k.Plug(bay, drive)
			if test.prepare != nil {
				test.prepare(k)
			}
			driver := "vfio-pci"
			if test.driver != "" {
				driver = test.driver
			}
			err := bind.Take(t.Context(), open(t, k), driver, bind.State{Driver: "nvme"})
			var fault *bind.Error
			if !errors.As(err, &fault) || fault.Step != test.step || !errors.Is(err, test.is) || !strings.Contains(err.Error(), test.words) {
				t.Errorf("got %v; want step %q, %v, and %q", err, test.step, test.is, test.words)
			}
			if fault != nil && fault.Back != nil {
				t.Errorf("put back: %v", fault.Back)
			}
			if got := stateOf(k); got != found {
				t.Errorf("left with %v, want %v", got, found)
			}
		})
	}
}

func TestTakeRefusesADeviceThatChanged(t *testing.T) {
	k := machine(sysfstest.Options{})
	k.Plug(bay, drive)
	writes := len(k.Writes())
	err := bind.Take(t.Context(), open(t, k), "vfio-pci", bind.State{Driver: "pci-stub"})
	if !errors.Is(err, bind.ErrChanged) {
		t.Errorf("got %v, want ErrChanged", err)
	}
	if got := k.Writes()[writes:]; len(got) != 0 {
		t.Errorf("wrote %v", got)
	}
}

func TestNothingReachesTheNewcomer(t *testing.T) {
	k := machine(sysfstest.Options{})
	k.Plug(bay, drive)
	d := open(t, k)
	k.Unplug(bay)
	k.Plug(bay, drive)
	err := bind.Take(t.Context(), d, "vfio-pci", bind.State{Driver: "nvme"})
	if !errors.Is(err, bind.ErrGone) {
		t.Errorf("got %v, want ErrGone", err)
	}
	if got, want := stateOf(k), (state{"nvme", ""}); got != want {
		t.Errorf("the newcomer has %v, want %v", got, want)
	}
}

func TestAHangingUnbindIsLeftBehindWhenTheCallerStops(t *testing.T) {
	k := machine(sysfstest.Options{})
	k.Plug(bay, drive)
	d := open(t, k)
	if err := bind.Take(t.Context(), d, "vfio-pci", bind.State{Driver: "nvme"}); err != nil {
		t.Fatal(err)
	}
	holder, err := k.Hold(bay)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- bind.Restore(ctx, d, "vfio-pci", bind.State{Driver: "nvme"}) }()
	stop()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want canceled", err)
	}
	holder.Release()
}

// errnos are what a read or a write of sysfs may answer.
var errnos = []syscall.Errno{syscall.ENODEV, syscall.EBUSY, syscall.EIO, syscall.EINVAL, syscall.ENOENT}

// TestEveryOperationFailsInTurn fails each read and write of a takeover, once,
// with each errno. The device ends bound, or as it was found, or the error
// says that it could not be put back, and then a second Restore does it.
func TestEveryOperationFailsInTurn(t *testing.T) {
	found, taken := bind.State{Driver: "nvme"}, state{"vfio-pci", "vfio-pci"}
	for n := 1; ; n++ {
		reached := false
		for _, errno := range errnos {
			k := machine(sysfstest.Options{})
			k.Plug(bay, drive)
			d := open(t, k)
			first := k.Operations()
			k.Fault(func(op sysfstest.Op) error {
				if op.N != first+n {
					return nil
				}
				reached = true
				return errno
			})
			err := bind.Take(t.Context(), d, "vfio-pci", found)
			k.Fault(nil)
			got := stateOf(k)
			if err == nil && got == taken {
				continue
			}
			var fault *bind.Error
			if !errors.As(err, &fault) {
				t.Errorf("operation %d, %v: %v with %v", n, errno, err, got)
				continue
			}
			if fault.Back != nil || errors.Is(err, bind.ErrGone) {
				// The one fault hit the way back, or hid the device: said so, and
				// mended by the next try.
				if err := bind.Restore(t.Context(), d, "vfio-pci", found); err != nil {
					t.Errorf("operation %d, %v: second way back: %v", n, errno, err)
				}
				got = stateOf(k)
			}
			if want := (state{"nvme", ""}); got != want {
				t.Errorf("operation %d, %v: %v, then %v; want %v", n, errno, err, got, want)
			}
		}
		if !reached {
			t.Logf("%d operations", n-1)
			if n < 8 {
				t.Errorf("only %d operations: the faults hit nothing", n-1)
			}
			return
		}
	}
}

// TestDeathAfterEveryOperation stops a takeover after each operation for good,
// as a kill would, and lets a second one, or a Restore, go on from there.
func TestDeathAfterEveryOperation(t *testing.T) {
	type death struct{}
	for _, resume := range []string{"take", "restore"} {
		t.Run(resume, func(t *testing.T) {
			for n := 1; ; n++ {
				k := machine(sysfstest.Options{})
				k.Plug(bay, drive)
				d := openDirect(t, k)
				first := k.Operations()
				k.After(func(op sysfstest.Op, _ error) {
					if op.N == first+n {
						panic(death{})
					}
				})
				died := dies(func() { _ = bind.Take(t.Context(), d, "vfio-pci", bind.State{Driver: "nvme"}) })
				k.After(nil)
				if !died {
					if n < 8 {
						t.Errorf("only %d operations", n-1)
					}
					return
				}
				again := open(t, k)
				want := state{"nvme", ""}
				var err error
				if resume == "take" {
					want = state{"vfio-pci", "vfio-pci"}
					if k.Driver(bay) != "vfio-pci" {
						err = bind.Take(t.Context(), again, "vfio-pci", bind.State{Driver: k.Driver(bay)})
					}
				} else {
					err = bind.Restore(t.Context(), again, "vfio-pci", bind.State{Driver: "nvme"})
				}
				if got := stateOf(k); err != nil || got != want {
					t.Errorf("killed after operation %d: %v, %v; want %v", n, got, err, want)
				}
			}
		})
	}
}

// dies reports whether run panicked on the way.
func dies(run func()) (died bool) {
	defer func() { died = recover() != nil }()
	run()
	return false
}

func TestRestore(t *testing.T) {
	nvme := bind.State{Driver: "nvme"}
	for _, test := range []struct {
		name   string
		before bind.State
		now    func(*sysfstest.Kernel, *sysfs.Device)
		want   state
	}{
		{"from ours to nvme", nvme, take("vfio-pci"), state{"nvme", ""}},
		{"nothing was done yet", nvme, func(*sysfstest.Kernel, *sysfs.Device) {}, state{"nvme", ""}},
		{"only the override was written", nvme, func(_ *sysfstest.Kernel, d *sysfs.Device) { d.SetOverride("vfio-pci") }, state{"nvme", ""}},
		{"unbound and not yet probed", nvme, func(_ *sysfstest.Kernel, d *sysfs.Device) {
			d.SetOverride("vfio-pci")
			d.Unbind(context.Background(), "nvme")
		}, state{"nvme", ""}},
		{"a new drive goes where the kernel wants it", bind.State{New: true}, take("vfio-pci"), state{"nvme", ""}},
		{"one that was found without a driver has none again", bind.State{}, take("vfio-pci"), state{"", ""}},
		{"somebody's override comes back", bind.State{Driver: "nvme", Override: "nvme"}, take("vfio-pci"), state{"nvme", "nvme"}},
		{"somebody gave it to another driver: not fought", nvme, take("pci-stub"), state{"pci-stub", "pci-stub"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			k := machine(sysfstest.Options{Drivers: []string{"pcieport", "nvme", "vfio-pci", "pci-stub"}})
			k.Plug(bay, drive)
			d := open(t, k)
			test.now(k, d)
			for range 2 { // it is safe to run twice
				if err := bind.Restore(t.Context(), d, "vfio-pci", test.before); err != nil {
					t.Fatal(err)
				}
				if got := stateOf(k); got != test.want {
					t.Fatalf("%v, want %v", got, test.want)
				}
			}
		})
	}
}

func take(driver string) func(*sysfstest.Kernel, *sysfs.Device) {
	return func(_ *sysfstest.Kernel, d *sysfs.Device) {
		_ = bind.Take(context.Background(), d, driver, bind.State{Driver: "nvme"})
	}
}

func TestRestoreAfterAnUnplugIsNoError(t *testing.T) {
	k := machine(sysfstest.Options{})
	k.Plug(bay, drive)
	d := open(t, k)
	k.Unplug(bay)
	if err := bind.Restore(t.Context(), d, "vfio-pci", bind.State{Driver: "nvme"}); err != nil {
		t.Error(err)
	}
}
