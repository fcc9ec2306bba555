// Package sysfs reads PCI devices from a rooted /sys and writes single
// attributes of them. It decides nothing.
//
// Reads and writes are plain system calls that block their thread. Some can
// block for long: an attribute guarded by the device lock waits for a running
// probe or removal (KERNEL: drivers/base/dd.c). Never call them from an event
// loop.
package sysfs

import (
	"errors"
	"io/fs"
	"syscall"
)

// Dir is an open directory of sysfs. Names are relative to it, may contain
// slashes and may lead through symbolic links.
//
// A Dir is bound to one kernel object: when a device is removed, every call
// through its Dir answers "gone" (see Gone), even if another device has the
// same path by then. That is what makes a write through it safe.
//
// Errors are *fs.PathError and unwrap to the errno. Methods may be called from
// several goroutines at once.
type Dir interface {
	// Open opens the directory name.
	Open(name string) (Dir, error)
	// Read reads an attribute: at most one page, as the kernel gave it.
	Read(name string) (string, error)
	// Write writes an attribute in one system call. It never creates a file.
	Write(name, value string) error
	// Readlink reads a symbolic link.
	Readlink(name string) (string, error)
	// List gives the names in a directory, in no order.
	List(name string) ([]string, error)
	// Subdirs counts the directories in a directory, and those too that List
	// leaves out because only another network namespace has them.
	Subdirs(name string) (int, error)
	// Identity tells kernel objects apart: it is the same for two Dirs of one
	// object, and never the same for two objects of one path.
	Identity() (uint64, error)
	// Path is where the directory was opened, for messages.
	Path() string
	// Close releases the Dir. Close does not touch the kernel object.
	Close() error
}

// Gone reports whether err says that the device, or what was asked of it, is
// no longer there: an ordinary answer on a machine with hot-plug.
func Gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENODEV) || errors.Is(err, syscall.ENXIO)
}
