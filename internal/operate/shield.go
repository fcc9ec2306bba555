package operate

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"vfio-hotplug/internal/ledger"
	"vfio-hotplug/internal/pci"
	"vfio-hotplug/internal/sysfs"
)

// nobody is an override that no driver has: a device that bears it is matched
// by none.
const nobody = "vfio-hotplug-hands-off"

// Shield keeps devices that have no driver from dynamic IDs with these patterns
// while those are added: the kernel offers a new ID to every device without a
// driver at once (drivers/pci/pci-driver.c, new_id_store). It writes
// driver_override of those that match and bear none, and gives the function
// that clears it again. One that a killed daemon has left is cleared too.
func (o *Operator) Shield(patterns []pci.Pattern) (func() error, error) {
	addresses, err := o.FS.Devices()
	if err != nil {
		return nil, err
	}
	var shielded []*sysfs.Device
	var locks []*ledger.Lock
	unshield := func() error {
		var faults []error
		for i, d := range shielded {
			if err := d.SetOverride(""); err != nil && !sysfs.Gone(err) {
				faults = append(faults, fmt.Errorf("let go of %s: %w", d.Address(), err))
			}
			faults = append(faults, d.Close(), locks[i].Unlock())
		}
		return errors.Join(faults...)
	}
	for _, a := range addresses {
		d, lock, err := o.shield(a, patterns)
		if err != nil {
			return nil, errors.Join(err, unshield())
		}
		if d != nil {
			shielded, locks = append(shielded, d), append(locks, lock)
		}
	}
	return unshield, nil
}

// shield shields one device, and keeps its lock; nil where nothing needs doing.
func (o *Operator) shield(a pci.Address, patterns []pci.Pattern) (*sysfs.Device, *ledger.Lock, error) {
	d, err := o.FS.Open(a)
	if sysfs.Gone(err) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	facts, err := d.Read(pci.NoFacts)
	if err != nil || facts.Driver != "" || !slices.ContainsFunc(patterns, func(p pci.Pattern) bool { return p.Matches(facts.IDs()) }) {
		return nil, nil, errors.Join(d.Close(), unlessGone(err))
	}
	// One that is being worked on bears our override, or is waited for.
	lock, err := o.Ledger.Lock(a)
	if errors.Is(err, ledger.ErrLocked) {
		return nil, nil, d.Close()
	}
	if err != nil {
		return nil, nil, errors.Join(err, d.Close())
	}
	override, err := d.Override()
	if err == nil && override == "" {
		err = d.SetOverride(nobody)
	}
	if err == nil && (override == "" || override == nobody) {
		return d, lock, nil
	}
	return nil, nil, errors.Join(d.Close(), lock.Unlock(), unlessGone(err))
}

// Unshield clears what a daemon that was killed while it armed has left, and
// what udev's coldplug has kept for a policy that no longer wants it.
func (o *Operator) Unshield() error {
	addresses, err := o.FS.Devices()
	if err != nil {
		return err
	}
	var faults []error
	for _, a := range addresses {
		faults = append(faults, o.unshield(a))
	}
	return errors.Join(faults...)
}

func (o *Operator) unshield(a pci.Address) error {
	d, err := o.FS.Open(a)
	if err != nil {
		return unlessGone(err)
	}
	defer d.Close()
	if override, err := shielded(d); err != nil || override == "" {
		return unlessGone(err)
	}
	// One that is being worked on is on its way to where it belongs.
	lock, err := o.Ledger.Lock(a)
	if errors.Is(err, ledger.ErrLocked) {
		return nil
	}
	if err != nil {
		return err
	}
	defer lock.Unlock()
	override, err := shielded(d)
	if err != nil || override == "" {
		return unlessGone(err)
	}
	if err := d.SetOverride(""); err != nil || override != Unoffered {
		return unlessGone(err)
	}
	return unlessGone(d.Probe())
}

// shielded gives the override of ours that keeps every driver from a device, ""
// where there is none.
func shielded(d *sysfs.Device) (string, error) {
	// One with a driver never bore it, and reading it might wait for a probe.
	if driver, err := d.Driver(); err != nil || driver != "" {
		return "", err
	}
	override, err := d.Override()
	if err != nil || override != nobody && override != Unoffered {
		return "", err
	}
	return override, nil
}

func unlessGone(err error) error {
	if sysfs.Gone(err) || errors.Is(err, sysfs.ErrReplaced) {
		return nil
	}
	return err
}

// LoadDriver loads a driver's module, if it is not registered already.
func (o *Operator) LoadDriver(ctx context.Context, driver string) error {
	there, err := o.FS.HasDriver(driver)
	if err != nil || there {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, o.Limit.Load)
	defer cancel()
	return o.Load(ctx, driver)
}

// Unblock has the kernel match the devices that came while the gate was closed:
// those that have no driver and no override, but for those that were idle then.
func (o *Operator) Unblock(idle []pci.Address) error {
	addresses, err := o.FS.Devices()
	if err != nil {
		return err
	}
	var faults []error
	for _, a := range addresses {
		if !slices.Contains(idle, a) {
			faults = append(faults, o.unblock(a))
		}
	}
	return errors.Join(faults...)
}

func (o *Operator) unblock(a pci.Address) error {
	d, err := o.FS.Open(a)
	if err != nil {
		return unlessGone(err)
	}
	defer d.Close()
	driver, err := d.Driver()
	if err != nil || driver != "" {
		return unlessGone(err)
	}
	override, err := d.Override()
	if err != nil || override != "" {
		return unlessGone(err)
	}
	return unlessGone(d.Probe())
}
