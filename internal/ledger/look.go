package ledger

import "vfio-hotplug/internal/pci"

// Look reads the entry of a device from the ledger in a directory, as Get does,
// and makes nothing where there is none.
func Look(dir string, a pci.Address) (Entry, bool, error) {
	return (&Ledger{dir: dir}).Get(a)
}
