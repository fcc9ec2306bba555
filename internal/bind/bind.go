// Package bind moves one PCI device to a driver and, when that fails, back to
// what it was.
//
// The order is override, unbind, probe: from the first write on, no other
// driver can match the device. Success is read from the driver link, never
// from the result of a write: drivers_probe answers success when nothing was
// bound (drivers/pci/pci-driver.c, drivers/base/bus.c).
package bind

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"vfio-hotplug/internal/sysfs"
)

// Device is what a transaction acts on; *sysfs.Device is one.
//
// Every method may block for as long as the kernel holds the device lock.
// Unbind may block for ever; it returns early when its context ends, and the
// unbind then goes on without us.
type Device interface {
	Present() error
	Driver() (string, error)
	Override() (string, error)
	SetOverride(driver string) error
	Unbind(ctx context.Context, driver string, hold ...*os.File) error
	Probe() error
	Bind(driver string) error
}

// State is the part of a device that a transaction changes.
type State struct {
	Driver   string `json:"driver"`   // bound driver, "" for none
	Override string `json:"override"` // driver_override, "" for none
	// New says that the device was plugged in a moment ago and no driver had
	// been offered it: it is put back by letting the kernel choose.
	New bool `json:"new,omitempty"`
}

// Step names a step of a transaction.
type Step string

// The steps, in their order.
const (
	StepLook     Step = "read the driver"
	StepOverride Step = "write driver_override"
	StepUnbind   Step = "unbind"
	StepProbe    Step = "probe"
	StepBind     Step = "bind"
	StepBack     Step = "put back"
)

// Error says at which step a transaction failed, why, and whether the device
// is as it was found.
type Error struct {
	Step Step
	Err  error
	// Back is nil when the device was put back, or had not been changed.
	Back error
}

func (e *Error) Error() string {
	if e.Back != nil {
		return fmt.Sprintf("%s: %v; put back: %v", e.Step, e.Err, e.Back)
	}
	return fmt.Sprintf("%s: %v", e.Step, e.Err)
}

func (e *Error) Unwrap() []error { return []error{e.Err, e.Back} }

// ErrChanged says that the device is no longer as it was when it was decided
// on: somebody else is at work on it.
var ErrChanged = errors.New("the device was changed by somebody else meanwhile")

// ErrGone says that the device was unplugged, or replaced by another, on the
// way: an ordinary answer, after which nothing is left to do or undo.
var ErrGone = errors.New("the device was unplugged")

// ErrNotLoaded says that no driver of the wanted name is registered.
var ErrNotLoaded = errors.New("the driver is not loaded")

// Offer writes the override and lets the kernel probe, for a device that has
// no driver. It gives the driver that the device has then: the wanted one,
// another that was faster, or "" when the kernel has not yet opened the device
// for matching or when the wanted driver refused it. Offering again is
// harmless.
func Offer(dev Device, driver string) (string, error) {
	if err := dev.SetOverride(driver); err != nil {
		return "", &Error{Step: StepOverride, Err: truth(dev, err)}
	}
	return Probe(dev)
}

// Probe lets the kernel match the device again and gives the driver that the
// device has then.
func Probe(dev Device) (string, error) {
	if err := dev.Probe(); err != nil {
		return "", &Error{Step: StepProbe, Err: truth(dev, err)}
	}
	now, err := look(dev)
	if err != nil {
		return "", &Error{Step: StepLook, Err: err}
	}
	return now, nil
}

// Take moves a device from the state before to a driver. Any failure but the
// device's own disappearance ends in the state before. The files in hold stay
// open until the old driver has let go.
//
// It returns when the device is bound, or put back, or gone. When ctx ends
// during an unbind it returns at once and leaves the override standing: the
// unbind is still under way, and what comes after it is for a later Take.
func Take(ctx context.Context, dev Device, driver string, before State, hold ...*os.File) error {
	step, err := take(ctx, dev, driver, before, hold)
	if err == nil {
		return nil
	}
	fault := &Error{Step: step, Err: truth(dev, err)}
	if underWay := ctx.Err() != nil; !underWay && !errors.Is(fault.Err, ErrGone) {
		fault.Back = Restore(ctx, dev, driver, before, hold...)
	}
	return fault
}

func take(ctx context.Context, dev Device, driver string, before State, hold []*os.File) (Step, error) {
	now, err := look(dev)
	if err != nil {
		return StepLook, err
	}
	if now != before.Driver {
		return StepLook, fmt.Errorf("driver is %s, was %s: %w", name(now), name(before.Driver), ErrChanged)
	}
	if err := dev.SetOverride(driver); err != nil {
		return StepOverride, err
	}
	if now != "" {
		if err := dev.Unbind(ctx, now, hold...); err != nil {
			return StepUnbind, err
		}
	}
	if err := dev.Probe(); err != nil {
		return StepProbe, err
	}
	if now, err = look(dev); err != nil {
		return StepLook, err
	}
	if now == "" {
		if now, err = insist(dev, driver); err != nil {
			return StepBind, err
		}
	}
	if now != driver {
		return StepBind, fmt.Errorf("%s took the device: %w", now, ErrChanged)
	}
	return "", nil
}

// Insist binds a device that a probe left without a driver, to learn why: it
// gives the driver that the device has then, or the error of the driver's own
// probe.
func Insist(dev Device, driver string) (string, error) {
	now, err := insist(dev, driver)
	if err != nil {
		return now, &Error{Step: StepBind, Err: err}
	}
	return now, nil
}

func insist(dev Device, driver string) (string, error) {
	bindErr := dev.Bind(driver)
	now, err := look(dev)
	switch {
	case err != nil || now != "":
		return now, err
	case errors.Is(bindErr, fs.ErrNotExist):
		return "", fmt.Errorf("%s: %w", driver, ErrNotLoaded)
	case bindErr != nil:
		return "", fmt.Errorf("%s refused the device: %w", driver, bindErr)
	}
	return "", fmt.Errorf("%s took the device and let it go again", driver)
}

// look reads the driver of a device that is still there. A missing link alone
// would not tell "no driver" from "no device".
func look(dev Device) (string, error) {
	now, err := dev.Driver()
	if err == nil && now == "" {
		err = dev.Present()
	}
	return now, truth(dev, err)
}

// truth turns an error into ErrGone when the device is no longer there. The
// errno alone does not say: ENODEV also means "not bound to this driver".
func truth(dev Device, err error) error {
	if err == nil {
		return nil
	}
	if present := dev.Present(); sysfs.Gone(present) || errors.Is(present, sysfs.ErrReplaced) {
		return ErrGone
	}
	return err
}

func name(driver string) string {
	if driver == "" {
		return "none"
	}
	return driver
}
