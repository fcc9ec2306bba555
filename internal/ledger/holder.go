package ledger

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// holder finds a process that has a lock file open: the one that wrote its
// number into it, else any other, such as a child that inherited the lock of a
// parent that has died. It gives 0 where procfs does not tell.
//
// /proc/locks is no help: it knows only the process that took the lock, and
// nothing once that has ended.
func holder(proc, file string) (pid int, command string) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, ""
	}
	if pid, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
		open, err := hasOpen(proc, pid, file)
		// What may not be looked at lives, so the number in the file holds.
		if open || errors.Is(err, fs.ErrPermission) {
			return pid, comm(proc, pid)
		}
	}
	entries, _ := os.ReadDir(proc)
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if open, _ := hasOpen(proc, pid, file); open {
			return pid, comm(proc, pid)
		}
	}
	return 0, ""
}

// hasOpen compares names, because a stat through /proc can wait for a dead
// file server.
func hasOpen(proc string, pid int, file string) (bool, error) {
	dir := filepath.Join(proc, strconv.Itoa(pid), "fd")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false, err
	}
	for _, entry := range entries {
		if target, err := os.Readlink(filepath.Join(dir, entry.Name())); err == nil && target == file {
			return true, nil
		}
	}
	return false, nil
}

func comm(proc string, pid int) string {
	text, _ := os.ReadFile(filepath.Join(proc, strconv.Itoa(pid), "comm"))
	return strings.TrimSpace(string(text))
}
