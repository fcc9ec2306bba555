package inuse

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// trace is where a use shows that a look has found. To look there again costs
// next to nothing, however much else there is on the machine.
type trace interface {
	// still reports whether the use shows there as it did. What cannot be read
	// does not.
	still(f *Finder) bool
}

type (
	mountLine string                    // a line of mountinfo
	swapPath  string                    // the first column of swaps
	link      string                    // a link in sysfs
	value     struct{ path, is string } // an attribute in sysfs
	opened    struct {                  // a link in procfs, and what it leads to
		link   string
		device device
	}
	claim struct { // a block device that somebody has claimed
		node   string
		number number
	}
)

func (line mountLine) still(f *Finder) bool {
	table, err := f.mountTable()
	return err == nil && (strings.HasPrefix(table, string(line)) || strings.Contains(table, "\n"+string(line)))
}

func (path swapPath) still(f *Finder) bool {
	table, err := os.ReadFile(filepath.Join(f.proc, "swaps"))
	return err == nil && strings.Contains(string(table), "\n"+string(path)+" ")
}

func (l link) still(f *Finder) bool {
	_, err := f.sys.Readlink(string(l))
	return err == nil
}

func (v value) still(f *Finder) bool {
	is, err := attribute(f.sys, v.path)
	return err == nil && is == v.is
}

func (o opened) still(f *Finder) bool {
	d, ok, err := f.nodes.behind(o.link)
	return err == nil && ok && d == o.device
}

// An open that fails disturbs nobody. One that succeeds takes the claim for a
// moment in which nobody has it.
func (c claim) still(f *Finder) bool {
	file, err := f.nodes.open(c.node, c.number, true)
	if err == nil {
		file.Close()
	}
	return errors.Is(err, syscall.EBUSY)
}

// Still reports whether the uses that a report names are there still, as far as
// they left a trace, and at least one: then another look would find the device in
// use again. It reads these traces and nothing else. What takes too long is no
// longer there.
func (f *Finder) Still(ctx context.Context, r Report) bool {
	if len(r.traces) == 0 {
		return false
	}
	said := make(chan bool, 1)
	go func() { said <- f.still(r.traces) }()
	patience := time.NewTimer(f.patience)
	defer patience.Stop()
	select {
	case still := <-said:
		return still
	case <-patience.C:
	case <-ctx.Done():
	}
	return false
}

func (f *Finder) still(traces []trace) bool {
	seen, sys, err := f.asProcess1()
	if err != nil {
		return false
	}
	if sys != nil {
		defer sys.Close()
	}
	for _, t := range traces {
		if !t.still(seen) {
			return false
		}
	}
	return true
}

// mountTable reads the mounts of process 1, because a service may see less than
// the machine has.
func (f *Finder) mountTable() (string, error) {
	t := f.mountTables.get(func() readTable {
		text, err := os.ReadFile(filepath.Join(f.proc, "1/mountinfo"))
		return readTable{string(text), err}
	})
	return t.text, t.err
}

type readTable struct {
	text string
	err  error
}
