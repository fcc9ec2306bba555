package ledger

import "vfio-hotplug/internal/pci"

// Addresses gives the devices of which there is an entry, in order, and reads
// none of them: whoever may not can still ask.
func (l *Ledger) Addresses() []pci.Address {
	addresses, _ := l.list(devices)
	return addresses
}

// Look reads the entry of a device from the ledger in a directory, as Get does,
// and makes nothing where there is none.
func Look(dir string, a pci.Address) (Entry, bool, error) {
	return (&Ledger{dir: dir}).Get(a)
}
