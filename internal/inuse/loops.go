package inuse

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"

	"vfio-hotplug/internal/sysfs"
)

// addLoops notes under each block device the loop devices that are backed by
// its node. The kernel keeps that node open as a program does, without a claim,
// but in no process. One that is backed by a file shows by the mount of the
// file's file system.
func (l *look) addLoops(u users) {
	names, err := list(l.sys, "class/block")
	for _, name := range names {
		if !strings.HasPrefix(name, "loop") {
			continue
		}
		n, fault := l.backing(name)
		err = both(err, fault)
		if n != (number{}) {
			u.loops[n] = append(u.loops[n], name)
		}
	}
	if err != nil {
		l.report.doubt("be root; losetup --list shows them", "what loop devices are backed by cannot be told: %v", err)
	}
}

// backing gives the block device that a loop device is backed by, the zero
// number for none.
func (l *look) backing(name string) (number, error) {
	path, err := attribute(l.sys, "class/block/"+name+"/loop/backing_file")
	if sysfs.Gone(err) { // not set up, or a partition of one
		return number{}, nil
	}
	if err != nil {
		return number{}, err
	}
	want, err := l.blockNumber(name)
	if err == nil {
		l.doing("asking %s for its backing file", name)
		var n number
		n, err = l.nodes.backing(l.dev+"/"+name, want)
		if err == nil {
			return n, nil
		}
	}
	switch {
	case errors.Is(err, syscall.ENXIO), errors.Is(err, syscall.ENODEV): // no longer set up
		return number{}, nil
	case errors.Is(err, fs.ErrNotExist): // no node of it; there is the path still
		n, _ := l.nodeNumber(path)
		return n, nil
	}
	return number{}, fmt.Errorf("ask %s: %w", name, err)
}
