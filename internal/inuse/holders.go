package inuse

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Process is a process that holds something open.
type Process struct {
	PID     int
	Command string // its name, "" if it could not be read
}

// String names the process, such as "qemu-system-x86 (process 123)".
func (p Process) String() string { return fmt.Sprintf("%s (process %d)", p.Command, p.PID) }

// Holders gives the processes that hold a node open, in order of their
// directories in procfs. The node itself is not opened. With no holder found
// among processes that may be looked into, others there may be: that is an
// error which unwraps to fs.ErrPermission.
//
// A program that got a device from a vfio group and closed the group's node
// since is not seen.
func Holders(proc, node string) ([]Process, error) {
	want, err := os.Stat(node)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(proc)
	if err != nil {
		return nil, err
	}
	var holders []Process
	closed := 0
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		dir := filepath.Join(proc, entry.Name())
		open, err := hasOpen(filepath.Join(dir, "fd"), want)
		switch {
		case open:
			command, _ := os.ReadFile(filepath.Join(dir, "comm"))
			holders = append(holders, Process{pid, strings.TrimSpace(string(command))})
		case errors.Is(err, fs.ErrPermission):
			closed++
		}
	}
	if len(holders) == 0 && closed > 0 {
		return nil, fmt.Errorf("look into %d processes: %w", closed, fs.ErrPermission)
	}
	return holders, nil
}

// hasOpen asks for the file behind a descriptor only where the name fits, since
// to ask can wait for a dead file server. A container may know the node by
// another path, but hardly by another name.
func hasOpen(fds string, want os.FileInfo) (bool, error) {
	entries, err := os.ReadDir(fds)
	if err != nil {
		return false, err
	}
	for _, entry := range entries {
		name := filepath.Join(fds, entry.Name())
		target, err := os.Readlink(name)
		if err != nil || path.Base(target) != want.Name() {
			continue
		}
		if have, err := os.Stat(name); err == nil && sameNode(have, want) {
			return true, nil
		}
	}
	return false, nil
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
