package inuse

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"syscall"

	"vfio-hotplug/internal/procfs"
)

// Holders gives the processes that hold a node open. The node itself is not opened; one
// that is not there is fs.ErrNotExist. Where no holder is found and some
// processes cannot be looked into, which may be holders, that is an error; it
// unwraps to fs.ErrPermission if they may not be.
//
// A program that got a device from a vfio group and closed the group's node
// since is not seen, nor one that has the node only mapped.
func Holders(proc, node string) ([]procfs.Process, error) {
	want, err := os.Stat(node)
	if err != nil {
		return nil, err
	}
	dir := procfs.Dir(proc)
	var holders []procfs.Process
	var fault error
	unseen := 0
	err = dir.EachProcess(func(pid int) {
		switch open, err := hasOpen(dir, pid, want); {
		case open:
			p, _ := dir.Process(pid)
			holders = append(holders, p)
		case err != nil:
			fault = cmp.Or(fault, err)
			unseen++
		}
	})
	switch {
	case len(holders) > 0:
		return holders, nil
	case err != nil: // not ErrNotExist, which would say that there is no node
		return nil, fmt.Errorf("look through the processes: %v", err)
	case unseen > 0:
		return nil, fmt.Errorf("look into %s: %w", processCount(unseen), fault)
	}
	return nil, nil
}

func processCount(n int) string {
	if n == 1 {
		return "1 process"
	}
	return fmt.Sprintf("%d processes", n)
}

// hasOpen asks for the file behind a descriptor only where the name fits, since
// to ask can wait for a dead file server. A container may know the node by
// another path, but hardly by another name.
func hasOpen(proc procfs.Dir, pid int, want os.FileInfo) (open bool, err error) {
	err = proc.Descriptors(pid, func(link string) error {
		target, err := os.Readlink(link)
		if err != nil || path.Base(target) != want.Name() {
			return err
		}
		have, err := os.Stat(link)
		if errors.Is(err, fs.ErrPermission) && onPrivateFUSE(link) {
			return nil
		}
		open = open || err == nil && sameNode(have, want)
		return err
	})
	return open, err
}

func sameNode(a, b os.FileInfo) bool {
	if os.SameFile(a, b) {
		return true
	}
	const node = fs.ModeDevice | fs.ModeCharDevice
	x, ok1 := a.Sys().(*syscall.Stat_t)
	y, ok2 := b.Sys().(*syscall.Stat_t)
	return ok1 && ok2 && a.Mode()&node == b.Mode()&node && a.Mode()&fs.ModeDevice != 0 && x.Rdev == y.Rdev
}
