package operate

import (
	"errors"
	"fmt"

	"vfio-hotplug/internal/pci"
	"vfio-hotplug/internal/sysfs"
)

// Unplugged forgets what we did to a device that is no longer there, or that
// another has replaced. It reports whether there was anything to forget; an
// entry whose lock somebody holds is kept for the next time.
func (o *Operator) Unplugged(a pci.Address) (Result, bool) {
	entry, found, err := o.Ledger.Get(a)
	if err != nil || !found || o.present(a, entry.Identity) {
		return Result{}, false
	}
	lock, err := o.Ledger.Lock(a)
	if err != nil {
		return Result{}, false
	}
	defer lock.Unlock()
	// A newcomer may have got an entry of its own meanwhile.
	if entry, found, err = o.Ledger.Get(a); err != nil || !found || o.present(a, entry.Identity) {
		return Result{}, false
	}
	result := Result{Address: a, Outcome: Gone, Group: pci.NoGroup, Rule: entry.Rule, From: entry.Driver,
		Reason: fmt.Sprintf("it was unplugged; it was on %s", entry.Driver)}
	if unoffered(entry) {
		result.From, result.Reason = "", "it was unplugged; no driver had been offered it"
	}
	if err := o.Ledger.Delete(a); err != nil {
		result.Reason += "; " + err.Error()
	}
	return result, true
}

// present reports whether the device that the ledger speaks of may still be
// there; only a clear answer says that it is not.
func (o *Operator) present(a pci.Address, identity uint64) bool {
	dev, err := o.FS.Open(a)
	if err != nil {
		return !sysfs.Gone(err) && !errors.Is(err, sysfs.ErrReplaced)
	}
	defer dev.Close()
	return dev.Identity() == identity
}

// Recorded lists the devices that the ledger speaks of. The error names what
// cannot be read of it; the list is good all the same.
func (o *Operator) Recorded() ([]pci.Address, error) {
	entries, err := o.Ledger.All()
	addresses := make([]pci.Address, len(entries))
	for i, e := range entries {
		addresses[i] = e.Address
	}
	return addresses, err
}
