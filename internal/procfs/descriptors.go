package procfs

import (
	"cmp"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// Descriptors gives the open descriptors of a process, as paths of links that
// lead to what is open: none of a process that has ended. What could be read is
// there even with an error, which is the first.
//
// Threads mostly share one table of descriptors, but clone(2) and unshare(2) can
// give a thread its own: each table is read once.
func (d Dir) Descriptors(pid int) ([]string, error) {
	tables, err := d.tables(pid)
	var links []string
	for _, table := range tables {
		names, fault := names(table)
		if !Ended(fault) {
			err = cmp.Or(err, fault)
		}
		links = slices.Grow(links, len(names))
		for _, name := range names {
			links = append(links, table+"/"+name)
		}
	}
	return links, err
}

// tables gives the directories of the descriptor tables of a process.
func (d Dir) tables(pid int) ([]string, error) {
	process := d.of(pid)
	threads, err := threads(process)
	if len(threads) < 2 {
		return []string{process + "/fd"}, err
	}
	compare := compareTables
	if d.Self() != os.Getpid() { // the kernel would take the numbers for others
		compare = func(int, int) (int, error) { return 0, unix.ENOSYS }
	}
	var tables []string
	for _, thread := range distinct(threads, compare) {
		tables = append(tables, process+"/task/"+strconv.Itoa(thread)+"/fd")
	}
	return tables, err
}

// threads gives the threads of a process, none where it has only one.
func threads(process string) ([]int, error) {
	task := process + "/task"
	var stat unix.Stat_t
	// Two links, and one for each thread (fs/proc/base.c, proc_task_getattr).
	if err := unix.Stat(task, &stat); err != nil || stat.Nlink == 3 {
		return nil, unlessEnded(err)
	}
	names, err := names(task)
	return numbers(names), unlessEnded(err)
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
