package inuse

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"vfio-hotplug/internal/pci"
)

// Watcher tells when somebody who used a device may have gone. It never asks:
// the kernel wakes it, by
//   - poll(2) on the mounts of process 1, on swap and on md's arrays;
//   - inotify(7) on the nodes of a device, which are closed, and on the
//     directories in configfs of its exports, where somebody writes, or which
//     somebody removes.
//
// What is built on a device, such as dm and loop, the kernel's uevents tell of:
// they are the caller's to hear. Nothing tells of the end of a mount that only
// another mount namespace has, or of the closing of a node elsewhere than in
// /dev.
//
// Its methods may be called from several goroutines.
type Watcher struct {
	proc string
	// poll is an epoll(7) of the rest. A thread waits in it: one epoll in another,
	// as the runtime's, would swallow what a table tells only once.
	poll, stop, inotify int
	waits               sync.RWMutex // held by Wait, for as long as it needs the descriptors

	mu      sync.Mutex
	closed  bool
	devices map[pci.Address]watched
	tables  map[string]int                 // descriptors of those that are open
	marks   map[int]map[pci.Address]uint32 // what each device wants to hear of an inotify watch
}

// watched is what a device is watched for.
type watched struct {
	tables bool              // what the tables tell
	files  map[string]uint32 // what inotify tells of files
}

// NewWatcher watches on the machine whose proc is below root. While it watches
// no device, nothing wakes it.
func NewWatcher(root string) (*Watcher, error) {
	w := &Watcher{
		proc: filepath.Join(root, "proc"), poll: -1, stop: -1, inotify: -1,
		devices: map[pci.Address]watched{}, tables: map[string]int{}, marks: map[int]map[pci.Address]uint32{},
	}
	if err := w.open(); err != nil {
		w.release()
		return nil, err
	}
	return w, nil
}

func (w *Watcher) open() (err error) {
	if w.poll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("open epoll: %w", err)
	}
	if w.stop, err = unix.Eventfd(0, unix.EFD_CLOEXEC); err != nil {
		return fmt.Errorf("open an eventfd: %w", err)
	}
	if w.inotify, err = unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC); err != nil {
		return fmt.Errorf("open inotify: %w", err)
	}
	return errors.Join(w.listen(w.stop, unix.EPOLLIN), w.listen(w.inotify, unix.EPOLLIN))
}

// listen has Wait hear of a descriptor.
func (w *Watcher) listen(fd int, events uint32) error {
	return os.NewSyscallError("epoll_ctl", unix.EpollCtl(w.poll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)}))
}

func (w *Watcher) release() {
	for _, fd := range []int{w.poll, w.stop, w.inotify} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// Close ends a Wait, and returns when it has ended.
func (w *Watcher) Close() error {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return os.ErrClosed
	}
	w.closed = true
	w.closeTables()
	w.mu.Unlock()
	_, err := unix.Write(w.stop, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // eventfd(2) adds up 64-bit numbers
	w.waits.Lock()
	defer w.waits.Unlock()
	w.release()
	return os.NewSyscallError("write", err)
}

// Watch has Wait tell when a use that a report names may have ended, instead of
// what was watched for the device before. With news something is watched that
// was not: what ended between the report and now is not told, and the caller
// looks once more. The error says what could not be watched; the rest is.
func (w *Watcher) Watch(a pci.Address, r Report) (news bool, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return false, os.ErrClosed
	}
	before := w.devices[a]
	now := watched{tables: r.inTables(), files: r.files()}
	w.devices[a] = now
	w.unmark(a)
	for path, mask := range now.files {
		news = news || mask&^before.files[path] != 0
		err = both(err, w.mark(a, path, mask))
	}
	w.sweep()
	opened, fault := w.openTables()
	return news || opened || now.tables && !before.tables, both(err, fault)
}

// Forget ends the watch of a device.
func (w *Watcher) Forget(a pci.Address) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return
	}
	delete(w.devices, a)
	w.unmark(a)
	w.sweep()
	if !w.needTables() {
		w.closeTables()
	}
}

// Wait waits until users of some devices may have gone, and gives these. After
// Close it gives os.ErrClosed.
func (w *Watcher) Wait() ([]pci.Address, error) {
	w.waits.RLock()
	defer w.waits.RUnlock()
	for {
		if w.isClosed() {
			return nil, os.ErrClosed
		}
		var events [2 + len(tableNames)]unix.EpollEvent
		n, err := unix.EpollWait(w.poll, events[:], -1)
		if err != nil && err != unix.EINTR {
			return nil, os.NewSyscallError("epoll_wait", err)
		}
		ready := make([]int, max(n, 0))
		for i := range ready {
			ready[i] = int(events[i].Fd)
		}
		if devices := w.told(ready); len(devices) > 0 {
			return devices, nil
		}
	}
}

func (w *Watcher) isClosed() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.closed
}

// told gives the devices that descriptors have told of.
func (w *Watcher) told(ready []int) []pci.Address {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil
	}
	var devices []pci.Address
	if slices.Contains(ready, w.inotify) {
		devices = w.heard()
	}
	if w.changed(ready) {
		for a, d := range w.devices {
			if d.tables {
				devices = append(devices, a)
			}
		}
	}
	slices.SortFunc(devices, pci.Address.Compare)
	return slices.Compact(devices)
}
