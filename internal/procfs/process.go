// Package procfs reads what the kernel tells of processes: what they are called,
// and which descriptors and mappings they have.
package procfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unicode"
)

// Dir is where procfs is, /proc.
type Dir string

// None is no process's number. Not 0: that is the parent of process 1.
const None = -1

// Process is a process.
type Process struct {
	PID     int
	Command string // its name, "" if it could not be read
	Parent  int
}

// String names the process, such as "qemu-system-x86 (process 123)".
func (p Process) String() string { return fmt.Sprintf("%s (process %d)", p.Command, p.PID) }

// Ended reports whether an answer of procfs says that the process, or what was
// asked of it, is no more.
func Ended(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH)
}

// of gives the directory of a process.
func (d Dir) of(pid int) string { return string(d) + "/" + strconv.Itoa(pid) }

// attempts are how often is read again what has changed meanwhile.
const attempts = 10

// ErrRestless says that something has changed at each of many attempts to read it,
// and may have been missed.
var ErrRestless = errors.New("it changes faster than it can be read")

// EachProcess calls visit once for every process, and for those that start
// meanwhile: one can have from its parent what that had open, and gave up before it
// was visited. The error is ErrRestless where new ones come without end.
func (d Dir) EachProcess(visit func(pid int)) error {
	visited := map[int]bool{}
	for range attempts {
		pids, err := d.processes()
		if err != nil {
			return err
		}
		before := len(visited)
		for _, pid := range pids {
			if !visited[pid] {
				visited[pid] = true
				visit(pid)
			}
		}
		if len(visited) == before {
			return nil
		}
	}
	return ErrRestless
}

// processes gives the numbers of all processes, in order.
func (d Dir) processes() ([]int, error) {
	names, err := names(string(d))
	if err != nil {
		return nil, err
	}
	pids := numbers(names)
	if len(pids) == 0 {
		return nil, fmt.Errorf("no process in %s", d)
	}
	return pids, nil
}

// Process reads what a process is called and whose child it is. What could be
// read of it is there even with an error.
func (d Dir) Process(pid int) (Process, error) {
	p := Process{PID: pid}
	command, err := os.ReadFile(d.of(pid) + "/comm")
	if err != nil {
		return p, err
	}
	p.Command = strings.TrimSuffix(string(command), "\n")
	if strings.ContainsFunc(p.Command, unicode.IsControl) { // it may be anything
		p.Command = strconv.Quote(p.Command)
	}
	stat, err := os.ReadFile(d.of(pid) + "/stat")
	if err != nil {
		return p, err
	}
	// "123 (name) S 1 …", and the name may be anything (proc(5)).
	fields := strings.Fields(string(stat[strings.LastIndex(string(stat), ")")+1:]))
	if len(fields) < 2 {
		return p, fmt.Errorf("%s/stat names no parent", d.of(pid))
	}
	p.Parent, err = strconv.Atoi(fields[1])
	return p, err
}

// Self is our own number in this procfs, which may count otherwise than our
// getpid(2) does; None if it does not know us.
func (d Dir) Self() int {
	name, _ := os.Readlink(string(d) + "/self")
	if pid, err := strconv.Atoi(name); err == nil {
		return pid
	}
	return None
}

// names gives the names in a directory of procfs.
func names(dir string) ([]string, error) {
	file, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return file.Readdirnames(-1)
}

// numbers gives those of the names that are numbers, in order.
func numbers(names []string) []int {
	var all []int
	for _, name := range names {
		if n, err := strconv.Atoi(name); err == nil {
			all = append(all, n)
		}
	}
	slices.Sort(all)
	return all
}
