package ledger

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"vfio-hotplug/internal/pci"
)

// All gives every entry that can be believed, in order of address. The error
// joins a *FileError for each file that cannot be; the entries are good beside
// it. Such a file is moved below aside/, where no later Put replaces it, unless
// somebody holds its device's lock.
func (l *Ledger) All() ([]Entry, error) { return readAll[Entry](l, devices) }

// Prune drops the entries and releases of devices that are no longer there, or
// that another device has replaced, and gives the entries that it dropped. now
// says what is at an address: its identity, and whether anything is. It is
// asked while the device's lock is held. Devices whose lock somebody else holds
// are left for the next time. The error is of the kind of All's.
func (l *Ledger) Prune(now func(pci.Address) (identity uint64, present bool)) ([]Entry, error) {
	dropped, err1 := prune[Entry](l, devices, now)
	_, err2 := prune[mark](l, released, now)
	return dropped, errors.Join(err1, err2)
}

func prune[R record](l *Ledger, folder string, now func(pci.Address) (uint64, bool)) ([]R, error) {
	all, err := readAll[R](l, folder)
	faults := []error{err}
	var dropped []R
	for _, r := range all {
		a, _ := r.of()
		old, err := dropOld[R](l, folder, a, now)
		if old {
			dropped = append(dropped, r)
		}
		faults = append(faults, err)
	}
	return dropped, errors.Join(faults...)
}

// dropOld removes the file of a device if it speaks of another incarnation
// than the present one. It reads it again under the lock.
func dropOld[R record](l *Ledger, folder string, a pci.Address, now func(pci.Address) (uint64, bool)) (bool, error) {
	lock, err := l.Lock(a)
	if errors.Is(err, ErrLocked) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer lock.Unlock()
	r, found, err := get[R](l, folder, a)
	if err != nil || !found {
		return false, err
	}
	_, written := r.of()
	if identity, present := now(a); present && identity == written {
		return false, nil
	}
	err = l.remove(folder, a)
	return err == nil, err
}

func readAll[R record](l *Ledger, folder string) ([]R, error) {
	addresses, faults := l.list(folder)
	all := make([]R, 0, len(addresses))
	for _, a := range addresses {
		r, found, err := get[R](l, folder, a)
		switch {
		case err != nil:
			faults = append(faults, quarantine[R](l, folder, a, err))
		case found:
			all = append(all, r)
		}
	}
	return all, errors.Join(faults...)
}

// list gives the devices that have a file in a folder, in order, and sets
// aside what is not a device's file.
func (l *Ledger) list(folder string) ([]pci.Address, []error) {
	entries, err := os.ReadDir(filepath.Join(l.dir, folder))
	if l.only && errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, []error{fmt.Errorf("read ledger: %w", err)}
	}
	var addresses []pci.Address
	var faults []error
	for _, entry := range entries {
		name, temp := strings.CutSuffix(entry.Name(), tempSuffix)
		a, err := address(name)
		switch {
		case err != nil:
			faults = append(faults, l.setAside(folder, &FileError{File: filepath.Join(l.dir, folder, entry.Name()), Err: err}))
		case !temp: // a temp is being written, or its writer was killed: the file itself is whole
			addresses = append(addresses, a)
		}
	}
	slices.SortFunc(addresses, pci.Address.Compare)
	return addresses, faults
}
