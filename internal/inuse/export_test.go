package inuse

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"vfio-hotplug/internal/sysfs"
)

// NewOnModel gives a Finder for a drive of the model kernel with one namespace.
// The nodes are regular files in root/dev, and to have one open exclusively is
// to have it locked, as ClaimNode does: until every copy of the descriptor is closed.
func NewOnModel(sys sysfs.Dir, root string) *Finder {
	f := New(sys, root)
	f.nodes = lockedNodes{}
	return f
}

// ClaimNode opens a node exclusively. The error is EBUSY where somebody else has.
func ClaimNode(node string) (*os.File, error) {
	file, err := os.Open(node)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		file.Close()
		return nil, fmt.Errorf("claim %s: %w", node, syscall.EBUSY)
	}
	return file, nil
}

type lockedNodes struct{}

func (lockedNodes) open(path string, _ number, exclusive bool) (*os.File, error) {
	if exclusive {
		return ClaimNode(path)
	}
	return os.Open(path)
}

func (lockedNodes) device(_, path string) (device, error) {
	return device{}, &fs.PathError{Op: "stat", Path: path, Err: errNoNode}
}

func (lockedNodes) backing(path string, _ number) (number, error) {
	return number{}, &fs.PathError{Op: "ask", Path: path, Err: errors.New("the model has no loop devices")}
}

func (lockedNodes) behind(string) (device, bool, error)         { return device{}, false, nil }
func (lockedNodes) namespaces(string, number) ([]uint32, error) { return []uint32{1}, nil }
