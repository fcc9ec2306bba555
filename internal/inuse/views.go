package inuse

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"vfio-hotplug/internal/sysfs"
)

// firstPIDs is the name of the first PID namespace (include/linux/proc_ns.h,
// PROC_PID_INIT_INO).
const firstPIDs = "pid:[4026531836]"

// asProcess1 gives a Finder that sees what process 1 sees. A process may see less
// than the machine has: in another network namespace sysfs lists other interfaces,
// in another mount namespace configfs may not be mounted, and a path may lead
// elsewhere. Its sysfs is to be closed where that is not f's: else it is nil.
func (f *Finder) asProcess1() (seen *Finder, sys sysfs.Dir, err error) {
	top := filepath.Join(f.proc, "1/root")
	same, err := sameSysfs(filepath.Join(f.root, "sys"), filepath.Join(top, "sys"))
	if err == nil && !same {
		sys, err = sysfs.OpenRoot(filepath.Join(top, "sys"))
	}
	if err != nil {
		return nil, nil, err
	}
	as := *f
	as.top = top
	if sys != nil {
		as.sys = sys
	}
	return &as, sys, nil
}

// asProcess1 makes the look see what process 1 sees, and gives what ends that.
func (l *look) asProcess1() (end func(), err error) {
	end = func() {}
	if ours, err := os.Readlink(filepath.Join(l.proc, "self/ns/pid")); err == nil && ours != firstPIDs {
		l.report.doubt("run it outside of the container", "only the processes of a container can be seen (PID namespace %s)", ours)
	}
	seen, root, err := l.Finder.asProcess1()
	if err != nil {
		l.report.doubt("run as root with CAP_SYS_PTRACE", "what process 1 sees cannot be told: %v", err)
		return end, nil
	}
	l.Finder = seen
	if root == nil {
		return end, nil
	}
	end = func() { root.Close() }
	device, err := sysfs.New(root, nil).Open(l.device.Address())
	if err == nil {
		l.dir, end = device.Dir(), func() { device.Close(); root.Close() }
		if device.Identity() != l.device.Identity() {
			err = sysfs.ErrReplaced
		}
	}
	if err != nil {
		return end, fmt.Errorf("find the device where process 1 sees it: %w", err)
	}
	return end, nil
}

// sameSysfs reports whether two mounts of sysfs show the same interfaces, and
// have the same configfs. The view of each network namespace is a file system
// with a number of its own (fs/sysfs/mount.c).
func sameSysfs(ours, theirs string) (bool, error) {
	a, _ := os.Stat(ours)
	b, err := os.Stat(theirs)
	if err != nil || !os.SameFile(a, b) {
		return false, err
	}
	a, fault := os.Stat(filepath.Join(ours, configfs))
	b, err = os.Stat(filepath.Join(theirs, configfs))
	if errors.Is(err, fs.ErrNotExist) {
		return fault != nil, nil
	}
	return err == nil && os.SameFile(a, b), err
}
