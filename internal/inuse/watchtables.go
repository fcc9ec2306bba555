package inuse

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// tableNames are the tables in procfs that tell poll(2) of a change since it was
// asked last (fs/namespace.c, mounts_poll; mm/swapfile.c, swaps_poll;
// drivers/md/md.c, mdstat_poll). A kernel without swap, or in which md is not
// loaded yet, has not all of them.
var tableNames = [...]string{"1/mountinfo", "swaps", "mdstat"}

// inTables reports whether the end of a use that stands in a report may show in
// a table.
func (r Report) inTables() bool {
	return r.has(func(u Use) bool {
		return u.Kind == Mount || u.Kind == Swap || u.Kind == Holder || u.Kind == Claim
	})
}

func (w *Watcher) needTables() bool {
	for _, d := range w.devices {
		if d.tables {
			return true
		}
	}
	return false
}

// openTables has those tables open that are there, while somebody needs them.
func (w *Watcher) openTables() (opened bool, err error) {
	if !w.needTables() {
		w.closeTables()
		return false, nil
	}
	for _, name := range tableNames {
		if _, open := w.tables[name]; open {
			continue
		}
		switch fault := w.openTable(name); {
		case fault == nil:
			opened = true
		case !errors.Is(fault, fs.ErrNotExist):
			err = both(err, fmt.Errorf("watch %s: %w", filepath.Join(w.proc, name), fault))
		}
	}
	return opened, err
}

func (w *Watcher) openTable(name string) error {
	table, err := unix.Open(filepath.Join(w.proc, name), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := w.listen(table, unix.EPOLLPRI); err != nil {
		unix.Close(table)
		return err
	}
	w.tables[name] = table
	return nil
}

func (w *Watcher) closeTables() {
	for name, table := range w.tables {
		unix.Close(table) // which takes it out of the epoll
		delete(w.tables, name)
	}
}

// changed reports whether any of these descriptors is a table's.
func (w *Watcher) changed(ready []int) bool {
	changed := false
	for _, table := range w.tables {
		if slices.Contains(ready, table) {
			changed = true
			// md would tell of the same change again until it is read (md_seq_show).
			_, _ = unix.Pread(table, make([]byte, 1), 0)
		}
	}
	return changed
}
