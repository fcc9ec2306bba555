package sysfstest

import (
	"errors"
	"strings"
	"syscall"
)

// named gives the device whose address was written to an attribute of the
// bus, with or without a newline, or nil.
func (k *Kernel) named(value string) *device {
	k.mu.Lock()
	defer k.mu.Unlock()
	name := strings.TrimSuffix(value, "\n")
	for _, d := range k.devices {
		if d.address.String() == name {
			return d
		}
	}
	return nil
}

// driversProbe is drivers_probe_store (drivers/base/bus.c). That nothing
// matched, or that a probe failed, is success.
func (k *Kernel) driversProbe(value string) error {
	dev := k.named(value)
	if dev == nil {
		return syscall.ENODEV
	}
	k.mu.Lock()
	bound := dev.driver != nil
	k.mu.Unlock()
	if bound {
		return nil
	}
	if _, err := k.attach(dev, anyDriver); err != nil {
		return syscall.EINVAL
	}
	return nil
}

func (k *Kernel) showAutoprobe() (string, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.autoprobe {
		return "1\n", nil
	}
	return "0\n", nil
}

func (k *Kernel) setAutoprobe(value string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.autoprobe = value[0] != '0'
	return nil
}

// bind is bind_store (drivers/base/bus.c).
func (d *driver) bind(value string) error {
	dev := d.k.named(value)
	if dev == nil {
		return syscall.ENODEV
	}
	d.k.mu.Lock()
	fits := d.matches(dev)
	d.k.mu.Unlock()
	if !fits {
		return syscall.ENODEV
	}
	dev.lock.lock()
	defer dev.lock.unlock()
	d.k.mu.Lock()
	busy := dev.driver != nil
	d.k.mu.Unlock()
	if busy {
		return syscall.EBUSY
	}
	err := d.k.probe(d, dev)
	if errors.Is(err, Deferred) {
		return syscall.EAGAIN
	}
	var failed probeError
	if errors.As(err, &failed) {
		return failed.error
	}
	return err
}

// unbind is unbind_store (drivers/base/bus.c).
func (d *driver) unbind(value string) error {
	dev := d.k.named(value)
	if dev == nil {
		return syscall.ENODEV
	}
	d.k.mu.Lock()
	mine := dev.driver == d
	d.k.mu.Unlock()
	if !mine {
		return syscall.ENODEV
	}
	d.k.release(dev)
	return nil
}
