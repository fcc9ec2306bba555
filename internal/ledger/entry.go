package ledger

import (
	"errors"
	"fmt"
	"time"

	"vfio-hotplug/internal/pci"
)

// Stage is how far a change has come.
type Stage string

const (
	Taking    Stage = "taking"    // written before the first change
	Taken     Stage = "taken"     // the driver is bound
	Releasing Stage = "releasing" // written before the first step back
	Letting   Stage = "letting"   // written before what the guard's driver has caught is let through to another
)

// Entry is what we did to one device.
type Entry struct {
	Address  pci.Address   `json:"address"`
	Identity uint64        `json:"identity,string"` // of this incarnation of the device (sysfs.Device.Identity)
	Before   Before        `json:"before"`
	Driver   string        `json:"driver"`            // what we bound or are binding
	Rule     string        `json:"rule,omitempty"`    // the rule that named the device, "" by hand
	Outcome  string        `json:"outcome,omitempty"` // "" while under way
	Latency  time.Duration `json:"latency_ns,omitempty"`
	At       time.Time     `json:"at"`
	Stage    Stage         `json:"stage"`
	// With are the others that are taken together with it, all or none; only
	// while that is under way.
	With []pci.Address `json:"with,omitempty"`
}

// Before is what a device had before our first change, and what a release puts
// back.
type Before struct {
	Driver   string `json:"driver"`        // "" for none
	Override string `json:"override"`      // "" for none
	New      bool   `json:"new,omitempty"` // it had just been plugged in, and no driver had been offered it
}

// Put writes an entry in place of the device's last one. It makes four system
// calls and waits for no disk. The caller holds the device's lock.
func (l *Ledger) Put(e Entry) error {
	if err := e.valid(e.Address); err != nil {
		return fmt.Errorf("write ledger entry of %s: %w", e.Address, err)
	}
	return put(l, devices, e)
}

// Get reads the entry of a device, and whether there is one. The caller
// compares the Identity: the entry may speak of an earlier device at the same
// address. An entry that cannot be believed is a *FileError.
func (l *Ledger) Get(a pci.Address) (Entry, bool, error) { return get[Entry](l, devices, a) }

// Delete removes the entry of a device, if there is one. The caller holds the
// device's lock.
func (l *Ledger) Delete(a pci.Address) error { return l.remove(devices, a) }

func (e Entry) of() (pci.Address, uint64) { return e.Address, e.Identity }

func (e Entry) valid(at pci.Address) error {
	switch e.Stage {
	case Taking, Taken, Releasing, Letting:
	default:
		return fmt.Errorf("unknown stage %q", e.Stage)
	}
	switch {
	case e.Address != at:
		return fmt.Errorf("it speaks of %s", e.Address)
	case e.Driver == "":
		return errors.New("it names no driver")
	}
	return nil
}
