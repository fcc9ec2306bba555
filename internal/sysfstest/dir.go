package sysfstest

import (
	"io/fs"
	"path"
	"sync/atomic"
	"syscall"

	"vfio-hotplug/internal/sysfs"
)

// pageSize is the most that one read of an attribute gives, and that one
// write takes.
const pageSize = 4096

// dir is a sysfs.Dir of the model.
type dir struct {
	k      *Kernel
	node   *node
	path   string // below the root, as it was opened
	closed atomic.Bool
}

func (d *dir) Path() string { return path.Join("/sys", d.path) }

func (d *dir) Close() error {
	d.closed.Store(true)
	return nil
}

func (d *dir) Open(name string) (opened sysfs.Dir, err error) {
	err = d.do(OpOpen, name, "", func() error {
		n, err := d.find(name, directory)
		if err == nil {
			opened = &dir{k: d.k, node: n, path: path.Join(d.path, name)}
		}
		return err
	})
	return opened, err
}

func (d *dir) Read(name string) (content string, err error) {
	err = d.do(OpRead, name, "", func() error {
		n, err := d.find(name, file)
		if err != nil {
			return err
		}
		if n.show == nil {
			return syscall.EACCES
		}
		content, err = n.show()
		content = content[:min(len(content), pageSize)]
		return err
	})
	return content, err
}

func (d *dir) Write(name, value string) error {
	return d.do(OpWrite, name, value, func() error {
		n, err := d.find(name, file)
		switch {
		case err != nil:
			return err
		case n.store == nil:
			return syscall.EACCES
		case value == "":
			return nil // sysfs does not pass it on (fs/sysfs/file.c, sysfs_kf_write)
		}
		return n.store(value[:min(len(value), pageSize)])
	})
}

func (d *dir) Readlink(name string) (target string, err error) {
	err = d.do(OpReadlink, name, "", func() error {
		d.k.mu.Lock()
		defer d.k.mu.Unlock()
		n, err := d.node.walk(name, false)
		switch {
		case err != nil:
			return err
		case n.kind != link:
			return syscall.EINVAL
		}
		target = n.target()
		return nil
	})
	return target, err
}

func (d *dir) List(name string) (names []string, err error) {
	err = d.do(OpList, name, "", func() error {
		n, err := d.find(name, directory)
		if err != nil {
			return err
		}
		d.k.mu.Lock()
		defer d.k.mu.Unlock()
		for name := range n.children {
			names = append(names, name)
		}
		return nil
	})
	return names, err
}

func (d *dir) Subdirs(name string) (count int, err error) {
	err = d.do(OpList, name, "", func() error {
		n, err := d.find(name, directory)
		if err != nil {
			return err
		}
		d.k.mu.Lock()
		defer d.k.mu.Unlock()
		for _, child := range n.children {
			if child.kind == directory {
				count++
			}
		}
		return nil
	})
	return count, err
}

func (d *dir) Identity() (id uint64, err error) {
	err = d.do(OpIdentity, ".", "", func() error {
		id = d.node.ino
		return nil
	})
	return id, err
}

// find gives what a name leads to, if it is of the wanted kind.
func (d *dir) find(name string, want kind) (*node, error) {
	d.k.mu.Lock()
	defer d.k.mu.Unlock()
	n, err := d.node.walk(name, true)
	switch {
	case err != nil:
		return nil, err
	case want == directory && n.kind != directory:
		return nil, syscall.ENOTDIR
	case want == file && n.kind == directory:
		return nil, syscall.EISDIR
	}
	return n, nil
}

// do carries out one operation and tells the watchers.
func (d *dir) do(kind OpKind, name, value string, act func() error) error {
	full := path.Join(d.path, name)
	if d.closed.Load() {
		return &fs.PathError{Op: kind.String(), Path: path.Join("/sys", full), Err: syscall.EBADF}
	}
	err := d.k.watch.around(Op{Kind: kind, Path: full, Value: value, Through: d.node.ino}, act)
	if err != nil {
		return &fs.PathError{Op: kind.String(), Path: path.Join("/sys", full), Err: err}
	}
	return nil
}
