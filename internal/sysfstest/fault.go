package sysfstest

import (
	"slices"
	"sync"
)

// OpKind is a method of sysfs.Dir.
type OpKind int

// The operations of a sysfs.Dir.
const (
	OpOpen OpKind = iota
	OpRead
	OpWrite
	OpReadlink
	OpList
	OpIdentity
)

func (k OpKind) String() string {
	return [...]string{"open", "read", "write", "readlink", "list", "stat"}[k]
}

// Op is one operation on the model's /sys.
type Op struct {
	Kind    OpKind
	Path    string // below the root, as the caller spelled it
	Value   string // of a write
	Through uint64 // identity of the Dir it came through
	N       int    // 1 for the first operation since the machine was booted
}

// Write is a write that somebody tried. Err is nil while it has not ended.
type Write struct {
	Op
	Ended bool
	Err   error
}

// watch sees every operation.
type watch struct {
	mu     sync.Mutex
	count  int
	before func(Op) error
	after  func(Op, error)
	writes []*Write
}

// Fault has f called before every operation, in the goroutine of the caller.
// An error of f, best an errno, is the answer of the operation, which then
// does nothing. f may block, and may act on the Kernel. Nil ends it.
func (k *Kernel) Fault(f func(Op) error) {
	k.watch.mu.Lock()
	defer k.watch.mu.Unlock()
	k.watch.before = f
}

// After has f called after every operation with its error, before the caller
// gets it. f may block, and may act on the Kernel. Nil ends it.
func (k *Kernel) After(f func(Op, error)) {
	k.watch.mu.Lock()
	defer k.watch.mu.Unlock()
	k.watch.after = f
}

// Operations is how many operations there have been.
func (k *Kernel) Operations() int {
	k.watch.mu.Lock()
	defer k.watch.mu.Unlock()
	return k.watch.count
}

// Writes gives every write that was tried, in order, those included that
// failed, that Fault refused, and that still hang.
func (k *Kernel) Writes() []Write {
	k.watch.mu.Lock()
	defer k.watch.mu.Unlock()
	writes := make([]Write, 0, len(k.watch.writes))
	for _, w := range k.watch.writes {
		writes = append(writes, *w)
	}
	return slices.Clip(writes)
}

// Forget drops the writes that have ended from what Writes gives, for a test
// that makes very many.
func (k *Kernel) Forget() {
	k.watch.mu.Lock()
	defer k.watch.mu.Unlock()
	k.watch.writes = slices.DeleteFunc(k.watch.writes, func(w *Write) bool { return w.Ended })
	k.watch.writes = slices.Clone(k.watch.writes)
}

// around carries out act, with the watchers' say before and after.
func (w *watch) around(op Op, act func() error) error {
	w.mu.Lock()
	w.count++
	op.N = w.count
	var record *Write
	if op.Kind == OpWrite {
		record = &Write{Op: op}
		w.writes = append(w.writes, record)
	}
	before, after := w.before, w.after
	w.mu.Unlock()

	var err error
	if before != nil {
		err = before(op)
	}
	if err == nil {
		err = act()
	}
	if record != nil {
		w.mu.Lock()
		record.Ended, record.Err = true, err
		w.mu.Unlock()
	}
	if after != nil {
		after(op, err)
	}
	return err
}
