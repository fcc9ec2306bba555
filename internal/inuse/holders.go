package inuse

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"syscall"

	"vfio-hotplug/internal/procfs"
)

// Holders gives the processes that hold a node open, in order. The node itself is not opened. With no holder found
// among processes that may be looked into, others there may be: that is an
// error which unwraps to fs.ErrPermission.
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
	closed := 0
	err = dir.EachProcess(func(pid int) {
		open, err := hasOpen(dir, pid, want)
		switch {
		case open:
			p, _ := dir.Process(pid)
			holders = append(holders, p)
		case errors.Is(err, fs.ErrPermission):
			closed++
		}
	})
	if err != nil {
		return nil, err
	}
	if len(holders) == 0 && closed > 0 {
		return nil, fmt.Errorf("look into %s: %w", processCount(closed), fs.ErrPermission)
	}
	return holders, nil
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
		if have, err := os.Stat(link); err == nil && sameNode(have, want) {
			open = true
		}
		return nil
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
