package operate

import (
	"context"
	"errors"
	"fmt"

	"vfio-hotplug/internal/ledger"
	"vfio-hotplug/internal/pci"
	"vfio-hotplug/internal/sysfs"
)

// Resume finishes a release that was cut short, as the ledger tells. It
// reports whether there was one. (A taking that was cut short needs no more
// than another Take.)
func (o *Operator) Resume(ctx context.Context, r Request) (Result, bool) {
	j := judge{Operator: o, Request: r}
	entry, err := j.entry()
	if err != nil || entry == nil || entry.Stage != ledger.Releasing {
		return Result{}, false
	}
	return o.Release(ctx, r), true
}

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
	result := Result{Address: a, Outcome: Gone, Group: pci.NoGroup, Rule: entry.Rule, From: entry.Driver,
		Reason: fmt.Sprintf("it was unplugged; it was on %s", entry.Driver)}
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
