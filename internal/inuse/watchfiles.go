package inuse

import (
	"encoding/binary"
	"errors"
	"io/fs"

	"golang.org/x/sys/unix"

	"vfio-hotplug/internal/pci"
)

// files gives what inotify is to tell for a report, by path.
//
// A look that finds no use that shows opens the nodes for reading, and must not
// be woken by its own closing of them. So such a closing counts only while a
// program has a node open: then no look opens one. A writer's closing always
// counts, since it may have wiped what is on the drive.
func (r Report) files() map[string]uint32 {
	closing := uint32(unix.IN_CLOSE_WRITE)
	if r.has(func(u Use) bool { return u.Kind == Open }) {
		closing |= unix.IN_CLOSE_NOWRITE
	}
	files := map[string]uint32{}
	for _, node := range r.nodes {
		files[node] = closing
	}
	for _, dir := range r.exports {
		files[dir] = unix.IN_CLOSE_WRITE | unix.IN_DELETE_SELF
	}
	return files
}

// mark adds to what inotify tells of a file. One that is not there is no error.
func (w *Watcher) mark(a pci.Address, path string, mask uint32) error {
	mark, err := unix.InotifyAddWatch(w.inotify, path, mask|unix.IN_MASK_ADD)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return &fs.PathError{Op: "watch", Path: path, Err: err}
	}
	if w.marks[mark] == nil {
		w.marks[mark] = map[pci.Address]uint32{}
	}
	w.marks[mark][a] |= mask
	return nil
}

// unmark notes that a device wants to hear of no file.
func (w *Watcher) unmark(a pci.Address) {
	for _, wants := range w.marks {
		delete(wants, a)
	}
}

// sweep ends the watches of files that no device wants to hear of.
func (w *Watcher) sweep() {
	for mark, wants := range w.marks {
		if len(wants) == 0 {
			_, _ = unix.InotifyRmWatch(w.inotify, uint32(mark)) // the file may have gone, and the watch with it
			delete(w.marks, mark)
		}
	}
}

// heard reads what inotify has to tell, and gives the devices that it is about.
func (w *Watcher) heard() []pci.Address {
	var devices []pci.Address
	var buffer [4096]byte // no name is longer than 255 bytes
	for {
		n, err := unix.Read(w.inotify, buffer[:])
		if err != nil || n <= 0 {
			return devices
		}
		for rest := buffer[:n]; len(rest) >= unix.SizeofInotifyEvent; {
			// struct inotify_event: wd, mask, cookie, len, name.
			mark, mask := int(int32(binary.NativeEndian.Uint32(rest))), binary.NativeEndian.Uint32(rest[4:])
			name := int(binary.NativeEndian.Uint32(rest[12:]))
			devices = append(devices, w.concerned(mark, mask)...)
			rest = rest[unix.SizeofInotifyEvent+name:]
		}
	}
}

// concerned gives the devices that an event is about.
func (w *Watcher) concerned(mark int, mask uint32) []pci.Address {
	var devices []pci.Address
	if mask&unix.IN_Q_OVERFLOW != 0 {
		for a := range w.devices {
			devices = append(devices, a)
		}
		return devices
	}
	for a, wants := range w.marks[mark] {
		if mask&wants != 0 {
			devices = append(devices, a)
		}
	}
	if mask&unix.IN_IGNORED != 0 { // the file has gone, and the watch with it
		delete(w.marks, mark)
	}
	return devices
}
