package operate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"vfio-hotplug/internal/guard"
	"vfio-hotplug/internal/ledger"
	"vfio-hotplug/internal/pci"
	"vfio-hotplug/internal/sysfs"
)

// nobody is an override that no driver has: a device that bears it is matched
// by none.
const nobody = "vfio-hotplug-hands-off"

// shieldWithin is how long a device may take to take the override. One that
// hangs in the kernel does not, and is not waited for.
const shieldWithin = 5 * time.Second

// Exposed lists the devices that a new dynamic ID with these patterns would
// take at once (drivers/pci/pci-driver.c, new_id_store): those without a driver,
// but for newcomers, which the guard is to catch.
func (o *Operator) Exposed(patterns []pci.Pattern, newcomer func(pci.Address) bool) ([]guard.Seat, error) {
	addresses, err := o.FS.Devices()
	if err != nil {
		return nil, err
	}
	var exposed []guard.Seat
	for _, a := range addresses {
		if newcomer(a) {
			continue
		}
		seat, driver, ids, err := o.seat(a)
		if err != nil {
			if err = unlessGone(err); err != nil {
				return nil, err
			}
			continue
		}
		if driver == "" && slices.ContainsFunc(patterns, func(p pci.Pattern) bool { return p.Matches(ids) }) {
			exposed = append(exposed, seat)
		}
	}
	return exposed, nil
}

// Seats lists the devices that are there and are not the guard's catch; those
// that came since the daemon started and that no driver has had yet are neither.
func (o *Operator) Seats(g *Guarding, newcomer func(pci.Address) bool) ([]guard.Seat, error) {
	addresses, err := o.FS.Devices()
	if err != nil {
		return nil, err
	}
	seats := make([]guard.Seat, 0, len(addresses))
	for _, a := range addresses {
		seat, driver, ids, err := o.seat(a)
		if err != nil {
			if err = unlessGone(err); err != nil {
				return nil, err
			}
			continue
		}
		facts := pci.Device{Address: a, Vendor: ids.Vendor, DeviceID: ids.Device, SubVendor: ids.SubVendor, SubDevice: ids.SubDevice, Class: ids.Class}
		if !newcomer(a) && !g.mayHaveCaught(facts, seat.Identity, driver) {
			seats = append(seats, seat)
		}
	}
	return seats, nil
}

func (o *Operator) seat(a pci.Address) (guard.Seat, string, pci.IDs, error) {
	d, err := o.FS.Open(a)
	if err != nil {
		return guard.Seat{}, "", pci.IDs{}, err
	}
	defer d.Close()
	facts, err := d.Read(pci.NoFacts)
	return guard.Seat{Address: a, Identity: d.Identity()}, facts.Driver, facts.IDs(), err
}

// Shield keeps devices from every driver by an override of their own, unless
// they bear one. It waits a few seconds at most; the error names what could not
// be shielded.
func (o *Operator) Shield(ctx context.Context, seats []guard.Seat) error {
	return o.each(ctx, seats, func(ctx context.Context, d *sysfs.Device) error {
		patient, cancel := context.WithTimeout(ctx, readersLeave)
		defer cancel()
		lock, err := o.Ledger.LockWait(patient, d.Address())
		if errors.Is(err, ledger.ErrLocked) {
			return nil // it is being worked on: it bears our override, or waits for it
		}
		if err != nil {
			return err
		}
		err = d.SwapOverride(ctx, "", nobody, lock.File())
		return errors.Join(unlessOther(err), lock.Unlock())
	})
}

// readersLeave is how long Shield waits for those who only read a device.
const readersLeave = 200 * time.Millisecond

// Unshield ends what Shield has begun, also one that was cut short. A device
// that is at work meanwhile is waited for in the background, until ctx ends.
func (o *Operator) Unshield(ctx context.Context, seats []guard.Seat) error {
	return o.each(ctx, seats, func(ctx context.Context, d *sysfs.Device) error {
		lock, err := o.Ledger.LockWait(ctx, d.Address())
		if err != nil {
			return err
		}
		err = d.SwapOverride(ctx, nobody, "", lock.File())
		return errors.Join(unlessOther(err), lock.Unlock())
	})
}

// Free lets devices without a driver go that udev's coldplug has kept from
// drivers and that nobody has taken since: the kernel matches them now. Like
// Unshield it waits for a few seconds, and goes on in the background.
func (o *Operator) Free(ctx context.Context) error {
	seats, err := o.Exposed([]pci.Pattern{pci.Any()}, func(pci.Address) bool { return false })
	if err != nil {
		return err
	}
	return o.each(ctx, seats, func(ctx context.Context, d *sysfs.Device) error {
		lock, err := o.Ledger.LockWait(ctx, d.Address())
		if err != nil {
			return err
		}
		return errors.Join(o.free(ctx, d, lock.File()), lock.Unlock())
	})
}

// free lets go of one device. The ledger says so meanwhile, if it can: whoever
// comes after one that was killed between the two writes finishes it.
func (o *Operator) free(ctx context.Context, d *sysfs.Device, lock *os.File) error {
	if override, err := d.Override(); err != nil || override != Unoffered {
		return err
	}
	unnoted := o.Ledger.Put(ledger.Entry{Address: d.Address(), Identity: d.Identity(), Before: ledger.Before{New: true},
		Driver: Unoffered, At: time.Now(), Stage: ledger.Letting})
	err := d.SwapOverride(ctx, Unoffered, "", lock)
	if err == nil {
		err = d.Probe()
	}
	if err = unlessOther(err); err != nil || unnoted != nil {
		return errors.Join(err, unnoted)
	}
	return o.Ledger.Delete(d.Address())
}

// each does something to devices at the same time and waits for it, for a few
// seconds. A device that has gone is no error.
func (o *Operator) each(ctx context.Context, seats []guard.Seat, do func(context.Context, *sysfs.Device) error) error {
	var mu sync.Mutex
	faults := map[pci.Address]error{}
	for _, seat := range seats {
		faults[seat.Address] = errors.New("it has not answered: dmesg")
	}
	var work sync.WaitGroup
	for _, seat := range seats {
		work.Go(func() {
			err := o.with(seat, func(d *sysfs.Device) error { return do(ctx, d) })
			mu.Lock()
			defer mu.Unlock()
			if delete(faults, seat.Address); err != nil {
				faults[seat.Address] = err
			}
		})
	}
	done := make(chan struct{})
	go func() { work.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(shieldWithin):
	case <-ctx.Done():
	}
	mu.Lock()
	defer mu.Unlock()
	var words []string
	for _, seat := range seats {
		if err := faults[seat.Address]; err != nil {
			words = append(words, fmt.Sprintf("%s: %v", seat.Address, err))
		}
	}
	if len(words) == 0 {
		return nil
	}
	return errors.New(strings.Join(words, "; "))
}

// with does something to a device, if it is still there.
func (o *Operator) with(seat guard.Seat, do func(*sysfs.Device) error) error {
	d, err := o.FS.Open(seat.Address)
	if err != nil {
		return unlessGone(err)
	}
	defer d.Close()
	if d.Identity() != seat.Identity {
		return nil
	}
	return unlessGone(do(d))
}

func unlessGone(err error) error {
	if sysfs.Gone(err) || errors.Is(err, sysfs.ErrReplaced) {
		return nil
	}
	return err
}

func unlessOther(err error) error {
	if errors.Is(err, sysfs.ErrOther) {
		return nil
	}
	return unlessGone(err)
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
