package inuse

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// nodes is what is asked of device nodes.
type nodes interface {
	// open opens a block device's node for reading; exclusive keeps everybody
	// else from claiming the device, and is EBUSY where somebody has. A node
	// that is not of the wanted device is errStale.
	open(path string, want number, exclusive bool) (*os.File, error)
	// device gives the device of the node that a path leads to in the tree below
	// top; what is no node there is errNoNode.
	device(top, path string) (device, error)
	// backing gives the block device whose node a loop device is backed by, the
	// zero number if it is backed by a regular file.
	backing(path string, want number) (number, error)
	// behind gives the device that a descriptor in procfs leads to, if it is one.
	behind(descriptor string) (device, bool, error)
	// namespaces asks an NVMe controller for its active namespaces, in order.
	namespaces(path string, want number) ([]uint32, error)
}

var (
	errStale  = errors.New("the node is of another device")
	errNoNode = errors.New("not the node of a device")
)

type kernelNodes struct{}

func (kernelNodes) open(path string, want number, exclusive bool) (*os.File, error) {
	flags := unix.O_RDONLY
	if exclusive {
		// Without O_CREAT that is the kernel's own claim (open(2)). Not for
		// writing: closing a writable descriptor wakes udev.
		flags |= unix.O_EXCL
	}
	return openNode(path, flags, unix.S_IFBLK, want)
}

func (kernelNodes) device(top, path string) (device, error) {
	d, ok, err := deviceBelow(top, path)
	switch {
	case err != nil:
		return device{}, &fs.PathError{Op: "stat", Path: path, Err: err}
	case !ok:
		return device{}, &fs.PathError{Op: "stat", Path: path, Err: errNoNode}
	}
	return d, nil
}

func (kernelNodes) behind(descriptor string) (device, bool, error) {
	d, ok, err := deviceAt(descriptor)
	if errors.Is(err, unix.EACCES) && onPrivateFUSE(descriptor) {
		return device{}, false, nil
	}
	if err != nil {
		return device{}, false, &fs.PathError{Op: "stat", Path: descriptor, Err: err}
	}
	return d, ok, nil
}

// deviceBelow is deviceAt for a path, and for the links that it leads through, as
// they are where top is the root.
func deviceBelow(top, path string) (d device, ok bool, err error) {
	root, err := unix.Open(top, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return d, false, err
	}
	defer unix.Close(root)
	fd, err := openBelow(root, path)
	if err != nil {
		return d, false, err
	}
	defer unix.Close(fd)
	return deviceOf(fd, "")
}

// mostLinks is how many links a path may lead through, as in the kernel
// (MAXSYMLINKS).
const mostLinks = 40

// openBelow opens a path as it is where root is the root directory, of which
// neither a link nor ".." leads out. openat2(2) does that in one call, which the
// sandboxes of this service and of systemd-udevd forbid (RestrictSUIDSGID= in
// systemd.exec(5)). The descriptor only stands for the file: it cannot be read.
func openBelow(root int, path string) (int, error) {
	way := []int{root} // the directories from the root to where we are
	back := func(to int) {
		for _, dir := range way[to:] {
			unix.Close(dir)
		}
		way = way[:to]
	}
	defer func() { back(1) }()
	rest := strings.Split(path, "/")
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			back(max(1, len(way)-1))
			continue
		}
		fd, err := unix.Openat(way[len(way)-1], name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return -1, err
		}
		target, err := linkTarget(fd)
		if err == unix.ENOENT { // no link (readlinkat(2) with an empty path)
			way = append(way, fd)
			continue
		}
		unix.Close(fd)
		if err != nil {
			return -1, err
		}
		if links++; links > mostLinks {
			return -1, unix.ELOOP
		}
		if strings.HasPrefix(target, "/") {
			back(1)
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	return unix.FcntlInt(uintptr(way[len(way)-1]), unix.F_DUPFD_CLOEXEC, 0)
}

// linkTarget gives where an open link leads.
func linkTarget(link int) (string, error) {
	target := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(link, "", target)
	if err != nil {
		return "", err
	}
	return string(target[:n]), nil
}

// deviceAt gives the device that a path leads to, if it is one.
func deviceAt(path string) (device, bool, error) { return deviceOf(unix.AT_FDCWD, path) }

// deviceOf does not ask a file server, which may be dead: what kind of file it
// is was known when it was opened, and never changes.
func deviceOf(fd int, path string) (device, bool, error) {
	flags := unix.AT_STATX_DONT_SYNC | unix.AT_NO_AUTOMOUNT
	if path == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	var stat unix.Statx_t
	if err := unix.Statx(fd, path, flags, unix.STATX_TYPE, &stat); err != nil {
		return device{}, false, err
	}
	kind := stat.Mode & unix.S_IFMT
	d := device{character: kind == unix.S_IFCHR, number: number{stat.Rdev_major, stat.Rdev_minor}}
	return d, kind == unix.S_IFCHR || kind == unix.S_IFBLK, nil
}

// backing asks the loop device (drivers/block/loop.c, loop_get_status): its
// attribute has only a path, which may lead elsewhere from here.
func (kernelNodes) backing(path string, want number) (number, error) {
	file, err := openNode(path, unix.O_RDONLY, unix.S_IFBLK, want)
	if err != nil {
		return number{}, err
	}
	defer file.Close()
	status, err := unix.IoctlLoopGetStatus64(int(file.Fd()))
	if err != nil {
		return number{}, &fs.PathError{Op: "ask", Path: path, Err: err}
	}
	return number{unix.Major(status.Rdevice), unix.Minor(status.Rdevice)}, nil
}

// onPrivateFUSE reports whether a file is on a file system that a user made for
// himself alone. It refuses root too, and nodes on it are never devices
// (fs/fuse/dir.c, fuse_allow_current_process; fusermount mounts nodev).
func onPrivateFUSE(file string) bool {
	var stat unix.Statfs_t
	return unix.Statfs(file, &stat) == nil && stat.Type == unix.FUSE_SUPER_MAGIC
}

func (kernelNodes) namespaces(path string, want number) ([]uint32, error) {
	file, err := openNode(path, unix.O_RDONLY, unix.S_IFCHR, want)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return activeNamespaces(func(c *adminCommand) error { return c.submit(file) })
}

// openNode opens a node if it is of the wanted kind and number. It looks
// before it opens, since an open alone can have effects, and after: a node can
// be made anew.
func openNode(path string, flags int, kind uint32, want number) (*os.File, error) {
	check := func(stat unix.Stat_t) error {
		if stat.Mode&unix.S_IFMT != kind || numberOf(stat) != want {
			return &fs.PathError{Op: "open", Path: path, Err: errStale}
		}
		return nil
	}
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	if err := check(stat); err != nil {
		return nil, err
	}
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	file := os.NewFile(uintptr(fd), path)
	if err := unix.Fstat(fd, &stat); err != nil {
		file.Close()
		return nil, &fs.PathError{Op: "stat", Path: path, Err: err}
	}
	if err := check(stat); err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

func numberOf(stat unix.Stat_t) number {
	return number{unix.Major(uint64(stat.Rdev)), unix.Minor(uint64(stat.Rdev))}
}

// Hold keeps disks open exclusively: nobody can mount them, put them into an
// array or claim them otherwise until it is closed. It does not keep a program
// from opening them.
type Hold struct {
	files []*os.File
}

// Files gives the open files, for a process that unbinds the device to inherit
// and so to keep the hold even if this one dies.
func (h *Hold) Files() []*os.File {
	if h == nil {
		return nil
	}
	return h.files[:len(h.files):len(h.files)]
}

// Close ends the hold.
func (h *Hold) Close() error {
	if h == nil {
		return nil
	}
	var err error
	for _, file := range h.files {
		if file != nil {
			err = both(err, file.Close())
		}
	}
	h.files = nil
	return err
}

// claim opens the disks exclusively, and says which of them somebody else has
// claimed.
func (l *look) claim(hold *Hold, disks []disk) (busy []bool, err error) {
	busy = make([]bool, len(disks))
	for i, d := range disks {
		file, err := l.open(d, true)
		hold.files = append(hold.files, file)
		if busy[i] = errors.Is(err, syscall.EBUSY); err != nil && !busy[i] {
			return busy, err
		}
	}
	return busy, nil
}

// open opens a disk for reading. What keeps it from being opened, other than
// its absence and somebody's claim, is a doubt; there is no file then, and no
// error.
func (l *look) open(d disk, exclusive bool) (*os.File, error) {
	l.doing("opening %s", d.name)
	file, err := l.nodes.open(d.node(l.dev), d.number, exclusive)
	switch {
	case err == nil:
		return file, nil
	case errors.Is(err, syscall.EBUSY), errors.Is(err, syscall.ENODEV), errors.Is(err, syscall.ENXIO):
		return nil, fmt.Errorf("open %s: %w", d.name, err)
	case errors.Is(err, fs.ErrNotExist):
		return nil, &NotSettledError{fmt.Sprintf("%s has no node in %s", d.name, l.dev)}
	case errors.Is(err, fs.ErrPermission):
		l.report.doubt("run as root, and let the service open block devices", "%s may not be opened: %v", d.name, err)
	case errors.Is(err, errStale):
		l.report.doubt("udevadm trigger --name-match="+d.name, "%s is not the node of %s (%s)", d.node(l.dev), d.name, d.number)
	default:
		l.report.doubt("look for "+d.name+" in the kernel's log: dmesg", "%s cannot be opened: %v", d.name, err)
	}
	return nil, nil
}
