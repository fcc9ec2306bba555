package ledger

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"vfio-hotplug/internal/pci"
)

// FileError says that a file of the ledger cannot be believed.
type FileError struct {
	File  string // where it was
	Aside string // where it was put, "" if it is where it was
	Err   error
}

func (e *FileError) Error() string {
	if e.Aside != "" {
		return fmt.Sprintf("ledger file %s cannot be believed: %v: it is kept as %s", e.File, e.Err, e.Aside)
	}
	return fmt.Sprintf("ledger file %s cannot be believed: %v: read it, then remove it", e.File, e.Err)
}

func (e *FileError) Unwrap() error { return e.Err }

// SetAside is a file that could not be believed, and the device that it was about.
type SetAside struct {
	Address pci.Address
	File    string
}

// Aside lists the entries of devices that were set aside since the boot, and that
// nobody has removed.
func (l *Ledger) Aside() ([]SetAside, error) {
	files, err := filepath.Glob(filepath.Join(l.dir, aside, devices+".*"))
	if err != nil {
		return nil, err
	}
	var all []SetAside
	for _, file := range files {
		name := strings.TrimPrefix(filepath.Base(file), devices+".")
		name, _, _ = strings.Cut(name, ".json")
		if a, err := pci.ParseAddress(name); err == nil {
			all = append(all, SetAside{a, file})
		}
	}
	return all, nil
}

// quarantine sets the file of a device aside if it cannot be believed. It does
// so under the device's lock and after a second look, because the owner may
// have written the file anew since. Where somebody holds the lock, the file
// stays: the fault is only reported.
func quarantine[R record](l *Ledger, folder string, a pci.Address, fault error) error {
	if _, ok := errors.AsType[*FileError](fault); !ok {
		return fault // unreadable now, which says nothing about its content
	}
	lock, err := l.Lock(a)
	if err != nil {
		return fault
	}
	defer lock.Unlock()
	_, _, err = get[R](l, folder, a)
	if bad, ok := errors.AsType[*FileError](err); ok {
		return l.setAside(folder, bad)
	}
	return err
}

// setAside moves a file below aside/, under the first name that is free.
func (l *Ledger) setAside(folder string, bad *FileError) error {
	if l.only {
		return bad
	}
	const most = 100
	for n := range most {
		to := filepath.Join(l.dir, aside, fmt.Sprintf("%s.%s.%d", folder, filepath.Base(bad.File), n))
		err := unix.Renameat2(unix.AT_FDCWD, bad.File, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
		if errors.Is(err, unix.EEXIST) {
			continue
		}
		if err == nil {
			bad.Aside = to
		}
		break
	}
	return bad
}
