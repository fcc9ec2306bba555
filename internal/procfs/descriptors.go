package procfs

import (
	"bytes"
	"cmp"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// Descriptors has follow look at every open descriptor of a process, by a link
// that leads to what is open: at none of a process that has ended. The error is
// the first that keeps one from being seen, which does not keep others from it; or
// ErrRestless.
//
// A descriptor may be closed before follow gets to it, which is no error. Nor is a
// thread that ends: the others may share its table, which is then read once more by
// one of them.
//
// Threads mostly share one table of descriptors, but clone(2) and unshare(2) can
// give a thread its own: each table is read once.
func (d Dir) Descriptors(pid int, follow func(link string) error) error {
	ended := map[int]bool{}
	for range attempts {
		tables, err := d.tables(pid, ended)
		again := false
		for _, thread := range tables {
			gone, fault := readTable(d.thread(pid, thread), follow)
			if gone {
				ended[thread], again = true, true
			}
			err = cmp.Or(err, fault)
		}
		if !again {
			return err
		}
	}
	return ErrRestless
}

// readTable has follow look at the descriptors of one thread. It is gone if it has
// ended before all were seen.
func readTable(thread string, follow func(link string) error) (gone bool, err error) {
	names, err := names(thread + "/fd")
	err = unlessEnded(err)
	missed := len(names) == 0
	for _, name := range names {
		fault := follow(thread + "/fd/" + name)
		missed = missed || Ended(fault) || errors.Is(fault, fs.ErrPermission)
		err = cmp.Or(err, unlessEnded(fault))
	}
	if missed && !hasTable(thread) {
		return true, nil
	}
	return false, err
}

// hasTable reports whether a thread has descriptors: it gives them up before it
// ends. Then the kernel shows none, and answers ENOENT or EACCES of where they led
// (fs/proc/fd.c; fs/proc/base.c, proc_fd_access_allowed; fs/proc/array.c, task_state).
func hasTable(thread string) bool {
	status, err := os.ReadFile(thread + "/status")
	return !Ended(err) && !bytes.Contains(status, []byte("\nFDSize:\t0\n"))
}

// tables gives one thread of a process for each table of descriptors, but for those
// that are known to have ended.
func (d Dir) tables(pid int, ended map[int]bool) ([]int, error) {
	threads, err := d.threads(pid)
	threads = slices.DeleteFunc(threads, func(thread int) bool { return ended[thread] })
	if len(threads) < 2 {
		return threads, err
	}
	compare := compareTables
	if d.Self() != os.Getpid() { // the kernel would take the numbers for others
		compare = func(int, int) (int, error) { return 0, unix.ENOSYS }
	}
	return distinct(threads, compare), err
}

// threads gives the threads of a process, in order.
func (d Dir) threads(pid int) ([]int, error) {
	task := d.of(pid) + "/task"
	var stat unix.Stat_t
	// Two links, and one for each thread (fs/proc/base.c, proc_task_getattr).
	if err := unix.Stat(task, &stat); err != nil || stat.Nlink == 3 {
		return []int{pid}, unlessEnded(err)
	}
	names, err := names(task)
	return numbers(names), unlessEnded(err)
}

// thread gives the directory of a thread.
func (d Dir) thread(pid, thread int) string {
	if thread == pid {
		return d.of(pid)
	}
	return d.of(pid) + "/task/" + strconv.Itoa(thread)
}

func unlessEnded(err error) error {
	if Ended(err) {
		return nil
	}
	return err
}

// distinct gives one thread for each table of descriptors, and every thread that
// cannot be compared. With compare in the kernel's order few comparisons do, also
// where each thread has a table of its own.
func distinct(threads []int, compare func(a, b int) (int, error)) []int {
	var tables, apart []int
	for _, thread := range threads {
		var fault error
		at, known := slices.BinarySearchFunc(tables, thread, func(a, b int) int {
			order, err := compare(a, b)
			fault = cmp.Or(fault, err)
			return order
		})
		switch {
		case fault != nil:
			apart = append(apart, thread)
		case !known:
			tables = slices.Insert(tables, at, thread)
		}
	}
	return append(tables, apart...)
}

// compareTables orders the descriptor tables of two threads, 0 where they are
// one, as kcmp(2) does. Not every kernel has it.
func compareTables(a, b int) (int, error) {
	const files = 2 // KCMP_FILES, linux/kcmp.h
	order, _, errno := unix.Syscall6(unix.SYS_KCMP, uintptr(a), uintptr(b), files, 0, 0, 0)
	switch {
	case errno != 0:
		return 0, errno
	case order == 2:
		return 1, nil
	}
	return -int(order), nil
}
