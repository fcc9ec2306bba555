package inuse

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// Process is a process that holds something open.
type Process struct {
	PID     int
	Command string // its name, "" if it could not be read

	parent int
}

// String names the process, such as "qemu-system-x86 (process 123)".
func (p Process) String() string { return fmt.Sprintf("%s (process %d)", p.Command, p.PID) }

// processes gives the numbers of all processes, in order.
func processes(proc string) ([]int, error) {
	entries, err := os.ReadDir(proc)
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, entry := range entries {
		if pid, err := strconv.Atoi(entry.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	if len(pids) == 0 {
		return nil, fmt.Errorf("no process in %s", proc)
	}
	slices.Sort(pids)
	return pids, nil
}

// readProcess reads what a process is called and whose child it is. What could
// be read of it is there even with an error.
func readProcess(proc string, pid int) (Process, error) {
	p := Process{PID: pid}
	dir := filepath.Join(proc, strconv.Itoa(pid))
	command, err := os.ReadFile(filepath.Join(dir, "comm"))
	if err != nil {
		return p, err
	}
	p.Command = printable(strings.TrimSuffix(string(command), "\n"))
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return p, err
	}
	// "123 (name) S 1 …", and the name may be anything (proc(5)).
	fields := strings.Fields(string(stat[strings.LastIndex(string(stat), ")")+1:]))
	if len(fields) < 2 {
		return p, fmt.Errorf("%s/stat names no parent", dir)
	}
	p.parent, err = strconv.Atoi(fields[1])
	return p, err
}

// self is our own number in a procfs, which may count otherwise than our
// getpid(2) does; none if it does not know us.
func self(proc string) int {
	name, _ := os.Readlink(filepath.Join(proc, "self"))
	if pid, err := strconv.Atoi(name); err == nil {
		return pid
	}
	return none
}

// none is no process's number. Not 0: that is the parent of process 1.
const none = -1

// ended reports whether an answer of procfs says that the process, or what was
// asked of it, is no more.
func ended(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH)
}
