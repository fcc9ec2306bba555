package sysfstest_test

import (
	"errors"
	"syscall"
	"testing"

	"vfio-hotplug/internal/pci"
	"vfio-hotplug/internal/sysfs"
	"vfio-hotplug/internal/sysfstest"
)

// TestGoneIsWhatTheBusNoLongerLists: one wrong answer does not make a device
// gone, and the right one does.
func TestGoneIsWhatTheBusNoLongerLists(t *testing.T) {
	bay := pci.Address{Bus: 1}
	for _, kind := range []sysfstest.OpKind{sysfstest.OpOpen, sysfstest.OpIdentity} {
		k := sysfstest.New(sysfstest.Options{})
		k.AddBay(sysfstest.Bay{Address: bay})
		k.Plug(bay, sysfstest.Drive{})
		d, err := k.FS().Open(bay)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		wrong := 1
		k.Fault(func(op sysfstest.Op) error {
			if op.Kind == kind && wrong > 0 {
				wrong--
				return syscall.ENODEV
			}
			return nil
		})
		if err := d.Present(); err != nil {
			t.Errorf("%v fails once: %v", kind, err)
		}
		wrong = 100
		if err := d.Present(); err == nil || sysfs.Gone(err) || errors.Is(err, sysfs.ErrReplaced) {
			t.Errorf("%v fails for good: %v, want an error that does not say that it has gone", kind, err)
		}
		k.Unplug(bay)
		if _, err := k.FS().Open(bay); !sysfs.Gone(err) {
			t.Errorf("it has gone: %v", err)
		}
		k.Fault(nil)
		if err := d.Present(); !sysfs.Gone(err) {
			t.Errorf("it has gone: %v", err)
		}
	}
}

// TestASlotThatCannotBeReadIsNoDeviceWithoutOne: a rule may say that what is in
// the slot is to be left alone.
func TestASlotThatCannotBeReadIsNoDeviceWithoutOne(t *testing.T) {
	bay := pci.Address{Bus: 1}
	k := sysfstest.New(sysfstest.Options{})
	k.AddBay(sysfstest.Bay{Address: bay, Slot: "7"})
	k.Plug(bay, sysfstest.Drive{})
	d, err := k.FS().Open(bay)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for _, path := range []string{"bus/pci/slots", "bus/pci/slots/7/address"} {
		for _, errno := range []syscall.Errno{syscall.ENODEV, syscall.ENOENT, syscall.EIO} {
			once := true
			k.Fault(func(op sysfstest.Op) error {
				if op.Path == path && once {
					once = false
					return errno
				}
				return nil
			})
			if facts, err := d.Read(pci.FactSlot); err == nil {
				t.Errorf("%s, %v: slot %q and no error", path, errno, facts.Slot)
			}
		}
	}
}
