package sysfs

import (
	"io/fs"
	"path"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// pageSize is the most that the kernel gives of an attribute in one read
// (fs/kernfs/file.c).
const pageSize = 4096

// kernelDir is a Dir of a real file system. It holds an O_PATH descriptor and
// reaches everything below it with *at calls, so that a path is resolved from
// the object that was opened and not from the root again.
type kernelDir struct {
	mu   sync.RWMutex // guards fd against Close during a call
	fd   int
	path string
}

// OpenRoot opens the directory where sysfs is mounted: /sys, or a copy of its
// shape in a test.
func OpenRoot(root string) (Dir, error) {
	fd, err := openat(unix.AT_FDCWD, root, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: root, Err: err}
	}
	return &kernelDir{fd: fd, path: root}, nil
}

func (d *kernelDir) Path() string { return d.path }

func (d *kernelDir) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fd < 0 {
		return nil
	}
	err := unix.Close(d.fd)
	d.fd = -1
	return err
}

func (d *kernelDir) Open(name string) (Dir, error) {
	fd, err := d.open(name, unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return nil, d.fault("open", name, err)
	}
	return &kernelDir{fd: fd, path: path.Join(d.path, name)}, nil
}

func (d *kernelDir) Read(name string) (string, error) {
	fd, err := d.open(name, unix.O_RDONLY)
	if err != nil {
		return "", d.fault("open", name, err)
	}
	defer unix.Close(fd)
	var page [pageSize]byte
	n, err := retry(func() (int, error) { return unix.Read(fd, page[:]) })
	if err != nil {
		return "", d.fault("read", name, err)
	}
	return string(page[:n]), nil
}

func (d *kernelDir) Write(name, value string) error {
	fd, err := d.open(name, unix.O_WRONLY)
	if err != nil {
		return d.fault("open", name, err)
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte(value)); err != nil {
		return d.fault("write", name, err)
	}
	return nil
}

func (d *kernelDir) Readlink(name string) (string, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if strings.HasPrefix(name, "/") {
		return "", d.fault("readlink", name, unix.EINVAL)
	}
	var target [pageSize]byte
	n, err := retry(func() (int, error) { return unix.Readlinkat(d.fd, name, target[:]) })
	if err != nil {
		return "", d.fault("readlink", name, err)
	}
	return string(target[:n]), nil
}

func (d *kernelDir) List(name string) ([]string, error) {
	fd, err := d.open(name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, d.fault("open", name, err)
	}
	defer unix.Close(fd)
	var names []string
	var entries [8192]byte
	for {
		n, err := retry(func() (int, error) { return unix.Getdents(fd, entries[:]) })
		if err != nil {
			return nil, d.fault("list", name, err)
		}
		if n == 0 {
			return names, nil
		}
		_, _, names = unix.ParseDirent(entries[:n], -1, names)
	}
}

// Subdirs goes by the count of links, which kernfs keeps for a directory whoever
// asks (fs/kernfs/inode.c, kernfs_refresh_inode).
func (d *kernelDir) Subdirs(name string) (int, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	if strings.HasPrefix(name, "/") {
		return 0, d.fault("stat", name, unix.EINVAL)
	}
	var stat unix.Stat_t
	if err := unix.Fstatat(d.fd, name, &stat, 0); err != nil {
		return 0, d.fault("stat", name, err)
	}
	return int(stat.Nlink) - 2, nil
}

func (d *kernelDir) Identity() (uint64, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	var stat unix.Stat_t
	if err := unix.Fstat(d.fd, &stat); err != nil {
		return 0, d.fault("stat", ".", err)
	}
	return stat.Ino, nil
}

func (d *kernelDir) open(name string, flags int) (int, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return openat(d.fd, name, flags)
}

func (d *kernelDir) fault(op, name string, err error) error {
	return &fs.PathError{Op: op, Path: path.Join(d.path, name), Err: err}
}

func openat(dir int, name string, flags int) (int, error) {
	if strings.HasPrefix(name, "/") && dir != unix.AT_FDCWD {
		return -1, unix.EINVAL
	}
	return retry(func() (int, error) { return unix.Openat(dir, name, flags|unix.O_CLOEXEC, 0) })
}

// retry repeats a call that a signal interrupted. Writes are not repeated: the
// kernel may have acted on the first one.
func retry(call func() (int, error)) (int, error) {
	for {
		n, err := call()
		if err != unix.EINTR {
			return n, err
		}
	}
}
